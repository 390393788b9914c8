package archive

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// The packs of these tests are made by what is in this file alone, from docs/evidence.md: nothing
// in it calls what makes packs, or what verifies them.

const (
	v1Origin    = "rekor.example - 1193050959916656506"
	tilesOrigin = "log2030-1.rekor.example"
	lateOrigin  = "later.example"
	archiveName = "archive.example.com/understudy"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// at is a time of the tests.
func at(minutes int) Time {
	return Time{time.Date(2026, 3, 1, 0, minutes, 0, 123456789, time.UTC)}
}

// testLog is a log that signs whatever it is asked to.
type testLog struct {
	origin, folder, coverage string
	public                   any
	sign                     func(text []byte) []byte // of SETs and checkpoints
	id                       [4]byte
	signer                   string
	tree                     *testonly.Tree
	entries                  [][]byte

	rows  uint64 // in all packs so far
	base  *Head
	after Place // of the last pack
}

func newTestLog(origin, folder, coverage string, size int) *testLog {
	l := &testLog{origin: origin, folder: folder, coverage: coverage, signer: origin, tree: testonly.New(rfc6962.DefaultHasher)}
	if host, _, v1 := strings.Cut(origin, " - "); v1 {
		key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		l.public, l.signer = key.Public(), host
		spki := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key.Public())))
		l.id = [4]byte(spki[:])
		l.sign = func(text []byte) []byte {
			digest := sha256.Sum256(text)
			return must(ecdsa.SignASN1(rand.Reader, key, digest[:]))
		}
	} else {
		public, key, err := ed25519.GenerateKey(rand.Reader)
		must(public, err)
		l.public = public
		id := sha256.Sum256(append([]byte(origin+"\n\x01"), public...))
		l.id = [4]byte(id[:])
		l.sign = func(text []byte) []byte { return ed25519.Sign(key, text) }
	}
	for i := range size {
		l.entries = append(l.entries, fmt.Appendf(nil, `{"n":%d,"log":%q}`, i, origin))
		l.tree.AppendData(l.entries[i])
	}
	return l
}

func (l *testLog) head(size uint64) Head { return Head{size, Base64(l.tree.HashAt(size))} }

// note signs a checkpoint; extra are extension lines.
func (l *testLog) note(h Head, extra ...string) []byte {
	text := fmt.Sprintf("%s\n%d\n%s\n", l.origin, h.Size, base64.StdEncoding.EncodeToString(h.Root[:]))
	for _, line := range extra {
		text += line + "\n"
	}
	return []byte(text + "\n" + signatureLine(l.signer, l.id, l.sign([]byte(text))) + "\n" +
		signatureLine("stranger.example", [4]byte{1, 2, 3, 4}, []byte("what nobody verifies")) + "\n")
}

func signatureLine(name string, id [4]byte, signature []byte) string {
	return "— " + name + " " + base64.StdEncoding.EncodeToString(append(id[:], signature...))
}

func textOf(note []byte) []byte { return note[:bytes.LastIndex(note, []byte("\n\n"))+1] }

// proof is the consistency proof between two sizes of the log's tree.
func (l *testLog) proof(a, b uint64) []Base64 {
	a, b = min(a, b), max(a, b)
	if a == 0 || a == b {
		return []Base64{}
	}
	return base64sOf(must(l.tree.ConsistencyProof(a, b)))
}

func base64sOf(hashes [][]byte) []Base64 {
	out := make([]Base64, len(hashes))
	for i, h := range hashes {
		out[i] = Base64(h)
	}
	return out
}

// testCosigner cosigns.
type testCosigner struct {
	note.Signer
	vkey string
}

func newTestCosigner(name string, mldsa bool) testCosigner {
	var skey, vkey string
	var err error
	if mldsa {
		skey, vkey, err = formats.GenerateMLDSAKey(name)
	} else {
		skey, vkey, err = note.GenerateKey(rand.Reader, name)
		vkey = must(formats.VKeyToCosignatureV1(must(vkey, err)))
	}
	must(skey, err)
	return testCosigner{must(formats.NewSignerForCosignatureV1(skey)), vkey}
}

func (c *testCosigner) line(note []byte) string {
	var id [4]byte
	binary.BigEndian.PutUint32(id[:], c.KeyHash())
	return signatureLine(c.Name(), id, must(c.Sign(textOf(note))))
}

// testPack is a pack before it is encoded.
type testPack struct {
	w        *testWorld
	m        Manifest
	rows     map[string][]Row // by folder of the log
	answers  []Answer
	places   map[string]EntryPlace // by folder of the entry
	outages  []Outage
	raw      map[string][]byte // all other files
	stamp    Time              // of the token; zero for none
	token    []byte            // if it is another one
	signer   note.Signer
	text     string         // of the note, if it is another one
	more     string         // behind the note
	linked   bool           // the rows are not linked again
	wanted   map[int]string // other JSON for what is wanted, by answer
	unbound  string         // name of the checkpoint whose row says another row before it
	ledger   []string       // raw rows of the outage ledger
	noLedger bool           // the file of them is missing

	encoded  []byte
	manifest [32]byte
}

// testWorld makes packs that follow each other.
type testWorld struct {
	t         testing.TB
	logs      []*testLog
	cosigners []testCosigner
	maker     note.Signer
	vkey      string
	packs     []*testPack
	ledger    ledgerPlace       // of the last pack
	reporter  *ecdsa.PrivateKey // signs reports
}

func newTestWorld(t testing.TB) *testWorld {
	w := &testWorld{t: t, cosigners: []testCosigner{newTestCosigner("witness.example.com/w1", false), newTestCosigner("witness.example.com/pq", true)},
		reporter: must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	w.setMaker()
	return w
}

func (w *testWorld) setMaker() {
	skey, vkey, err := note.GenerateKey(rand.Reader, archiveName)
	w.vkey = must(vkey, err)
	w.maker = must(note.NewSigner(skey))
}

// pack begins a pack of all logs of the world.
func (w *testWorld) pack() *testPack {
	n := len(w.packs) + 1
	p := &testPack{w: w, rows: map[string][]Row{}, places: map[string]EntryPlace{}, signer: w.maker, stamp: at(n*100 + 102),
		raw: map[string][]byte{reportFile: fmt.Appendf(nil, "# Pack %d\n", n), "trust/trusted_root-001.json": fmt.Appendf(nil, `{"n":%d}`, n)}}
	p.m = Manifest{Format: format, Number: uint64(n), Archive: Identity{archiveName, w.vkey, "one desk"}, Authority: "https://tsa.example.com",
		Period: Period{at(n * 100), at(n*100 + 100), "Europe/Vienna", "0 6 * * 1"}, Built: at(n*100 + 101), Notes: []string{"It rained."}, Logs: []Log{},
		Trust: []Material{{"trust/trusted_root-001.json", "trusted_root.json", at(0), nil}}}
	if n > 1 {
		last := w.packs[n-2]
		p.m.Previous = &Previous{uint64(n - 1), fmt.Sprintf("understudy-evidence-%06d-2026-03-01.tar", n-1), Hex(last.manifest)}
	}
	for _, l := range w.logs {
		p.m.Logs = append(p.m.Logs, Log{Origin: l.origin, Name: "name of " + l.folder, Folder: l.folder, Coverage: l.coverage, Keys: []string{"a key"},
			Cosigners: []string{w.cosigners[0].vkey, w.cosigners[1].vkey}, Rows: Rows{l.rows + 1, l.rows}, Before: l.after, After: l.after})
	}
	slices.SortFunc(p.m.Logs, func(a, b Log) int { return cmp.Compare(a.Origin, b.Origin) })
	p.m.Ledger = &Ledger{Rows{w.ledger.Last + 1, w.ledger.Last}, w.ledger.Hash, w.ledger.Hash}
	return p
}

func (p *testPack) log(origin string) *Log {
	return &p.m.Logs[slices.IndexFunc(p.m.Logs, func(l Log) bool { return l.Origin == origin })]
}

// row adds a row with a note under the relation given, and cosignatures.
func (p *testPack) row(l *testLog, raw []byte, h Head, relation string, proof []Base64, cosigners ...int) {
	l.rows++
	m := p.log(l.origin)
	m.Rows.Last = l.rows
	n := int(p.m.Number)*100 + int(l.rows)
	r := Row{Row: l.rows, FirstSeen: at(n), LastSeen: at(n + 1), Source: "https://" + l.signer, Size: h.Size, Root: h.Root,
		Checkpoint: fmt.Sprintf("%s/checkpoints/%08d-size-%d.txt", l.folder, l.rows, h.Size), Relation: relation, Proof: proof, Cosignatures: []string{}}
	for _, i := range cosigners {
		r.Cosignatures = append(r.Cosignatures, p.w.cosigners[i].line(raw))
	}
	p.raw[r.Checkpoint] = raw
	p.rows[l.folder] = append(p.rows[l.folder], r)
	if relation == "first" || relation == "extends" || relation == "same" || relation == "unproven" && h.Size > l.base.Size {
		l.base = &h
	}
	m.After.Newest = l.base
}

// grow adds a row that extends the log's base.
func (p *testPack) grow(l *testLog, size uint64, cosigners ...int) {
	relation, proof := "first", []Base64{}
	if l.base != nil {
		relation, proof = "extends", l.proof(l.base.Size, size)
	}
	p.row(l, l.note(l.head(size)), l.head(size), relation, proof, cosigners...)
}

// accuse adds evidence that a log forked.
func (p *testPack) accuse(l *testLog) {
	q := &Quarantine{"it forked", at(250), l.folder + "/evidence/first.txt", l.folder + "/evidence/second.txt", &Base64{}, l.proof(12, 30)}
	*q.Root = l.head(12).Root
	p.raw[q.First], p.raw[q.Second] = l.note(l.head(30)), l.note(Head{12, Base64{1}})
	p.log(l.origin).Quarantine = q
}

// entry adds an entry with a proof to the tree of a size, tied to the newest.
func (p *testPack) entry(l *testLog, index, size uint64) (folder string) {
	folder = fmt.Sprintf("entries/%06d", len(p.places)+1)
	newest := *p.log(l.origin).After.Newest
	var b bytes.Buffer
	fmt.Fprintf(&b, "c2sp.org/tlog-proof@v1\nindex %d\n", index)
	for _, h := range must(l.tree.InclusionProof(index, size)) {
		fmt.Fprintln(&b, base64.StdEncoding.EncodeToString(h))
	}
	fmt.Fprintf(&b, "\n%s", l.note(l.head(size)))
	p.raw[folder+"/entry.json"], p.raw[folder+"/proof.txt"] = l.entries[index], b.Bytes()
	place := EntryPlace{Origin: l.origin, Index: index, Tie: l.proof(size, newest.Size), To: newest}
	if l.signer != l.origin {
		virtual, leaf := index+1000, storage.LeafHash(l.entries[index])
		place.VirtualIndex, place.UUID = &virtual, "108e9186e8c5677a"+hex.EncodeToString(leaf[:])
		place.SET = l.set(l.entries[index], virtual)
	}
	p.places[folder] = place
	return folder
}

// set is what Rekor v1 promises.
func (l *testLog) set(body []byte, virtual uint64) *SET {
	id := sha256.Sum256(must(x509.MarshalPKIXPublicKey(l.public)))
	signed := fmt.Sprintf(`{"body":"%s","integratedTime":1772323200,"logID":"%x","logIndex":%d}`, base64.StdEncoding.EncodeToString(body), id, virtual)
	return &SET{1772323200, hex.EncodeToString(id[:]), l.sign([]byte(signed))}
}

func jsonLines[T any](list []T) (out []byte) {
	for _, v := range list {
		out = append(append(out, must(json.Marshal(v))...), '\n')
	}
	return out
}

// files returns all files that the manifest lists.
func (p *testPack) files() map[string][]byte {
	files := maps.Clone(p.raw)
	for i := range p.m.Logs {
		l := &p.m.Logs[i]
		rows := p.rows[l.Folder]
		hash := l.Before.RowHash
		for j := range rows {
			r := &rows[j]
			if !p.linked && r.Checkpoint != p.unbound {
				r.Previous = hash
			}
			note := sha256.Sum256(p.raw[r.Checkpoint])
			hash = sha256.Sum256(fmt.Appendf(nil, "understudy archive row v1\n%s\n%d\n%x\n%d\n%s\n%d\n%s\n%x\n", l.Origin, r.Row, r.Previous[:], r.FirstSeen.UnixNano(), r.Source,
				r.Size, base64.StdEncoding.EncodeToString(r.Root[:]), note))
		}
		if !p.linked {
			l.After.RowHash = hash
		}
		if len(rows) > 0 {
			files[l.Folder+"/checkpoints.jsonl"] = jsonLines(rows)
		}
	}
	for folder, place := range p.places {
		files[folder+"/place.json"] = must(json.Marshal(place))
	}
	if p.answers != nil {
		files[entriesFile] = jsonLines(p.answers)
		for i, other := range p.wanted {
			files[entriesFile] = bytes.Replace(files[entriesFile], must(json.Marshal(p.answers[i].Wanted)), []byte(other), 1)
		}
	}
	files[outagesFile] = jsonLines(p.outages)
	if _, other := files[ledgerFile]; p.m.Ledger != nil && !other && !p.noLedger {
		files[ledgerFile] = nil
		for _, row := range p.ledger {
			files[ledgerFile] = append(append(files[ledgerFile], row...), '\n')
		}
	}
	return files
}

// encode signs and writes the pack, as it is.
func (p *testPack) encode() []byte {
	files := p.files()
	p.m.Files = []File{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		p.m.Files = append(p.m.Files, File{name, int64(len(files[name])), sha256.Sum256(files[name])})
	}
	return p.encodeManifest(must(json.MarshalIndent(p.m, "", " ")), files)
}

// encodeManifest signs a manifest, and writes it with files in the order of their names.
func (p *testPack) encodeManifest(manifest []byte, files map[string][]byte) []byte {
	p.manifest = sha256.Sum256(manifest)
	stamped, token := "none", p.token
	if token == nil && !p.stamp.IsZero() {
		token = fmt.Appendf(nil, "token %x %d", p.manifest, p.stamp.Unix())
	}
	if token != nil {
		stamped = fmt.Sprintf("%x", sha256.Sum256(token))
	}
	text := cmp.Or(p.text, fmt.Sprintf("understudy evidence pack v1\n%d\n%x\n%s\n", p.m.Number, p.manifest, stamped))
	list := []tarFile{{manifestFile, manifest}, {noteFile, append(must(note.Sign(&note.Note{Text: text}, p.signer)), p.more...)}}
	if token != nil {
		list = append(list, tarFile{timestampFile, token})
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		list = append(list, tarFile{name, files[name]})
	}
	p.encoded = writeTar(list, p.m.Period.To.Unix())
	return p.encoded
}

// done ends the pack: the next one follows it.
func (p *testPack) done() *testPack {
	p.encode()
	for _, l := range p.w.logs {
		l.after = p.log(l.origin).After
	}
	if l := p.m.Ledger; l != nil {
		p.w.ledger = ledgerPlace{l.Rows.Last, l.After}
	}
	p.w.packs = append(p.w.packs, p)
	return p
}

// tarFile is a file in a tar.
type tarFile struct {
	name    string
	content []byte
}

// writeTar writes a tar as docs/evidence.md says.
func writeTar(files []tarFile, mtime int64) (out []byte) {
	for _, f := range files {
		h := make([]byte, 512)
		put := func(at int, s string) { copy(h[at:], s) }
		put(0, f.name)
		put(100, "0000644")
		put(108, "0000000")
		put(116, "0000000")
		put(124, fmt.Sprintf("%011o", len(f.content)))
		put(136, fmt.Sprintf("%011o", mtime))
		put(148, "        0")
		put(257, "ustar\x0000")
		sum := 0
		for _, c := range h {
			sum += int(c)
		}
		put(148, fmt.Sprintf("%06o\x00 ", sum))
		out = append(append(out, h...), f.content...)
		for len(out)%512 != 0 {
			out = append(out, 0)
		}
	}
	return append(out, make([]byte, 1024)...)
}

// readTar is the opposite of writeTar, without any check.
func readTar(raw []byte) (files []tarFile) {
	for raw[0] != 0 {
		name, _, _ := strings.Cut(string(raw[:100]), "\x00")
		var size int
		fmt.Sscanf(string(raw[124:135]), "%o", &size)
		files = append(files, tarFile{name, raw[512 : 512+size]})
		raw = raw[512+(size+511)/512*512:]
	}
	return files
}

// options trust the logs, the maker, the cosigners and the time-stamps of the world.
func (w *testWorld) options() Options {
	return Options{Makers: []string{w.vkey}, Cosigners: []string{w.cosigners[0].vkey}, Log: func(origin string) *LogKeys {
		i := slices.IndexFunc(w.logs, func(l *testLog) bool { return l.origin == origin })
		if i < 0 {
			return nil
		}
		public := w.logs[i].public
		key := must(trust.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))})))
		return &LogKeys{
			Checkpoint: func(raw []byte) error {
				_, err := trust.Open(raw, origin, []trust.Key{key})
				return err
			},
			SET: func(e *rekor.Entry) error { return e.VerifySET(public) },
		}
	}, Timestamp: func(response []byte, digest [32]byte) (time.Time, string, error) {
		var seconds int64
		if n, err := fmt.Sscanf(string(response), fmt.Sprintf("token %x %%d", digest), &seconds); n == 1 && err == nil {
			return time.Unix(seconds, 0), "the authority", nil
		}
		return time.Time{}, "", fmt.Errorf("the token is broken")
	}}
}

// verify verifies packs with what the world trusts.
func (w *testWorld) verify(packs ...[]byte) *Report {
	w.t.Helper()
	r, err := Verify(w.t.Context(), inputs(packs...), w.options())
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func inputs(packs ...[]byte) (in []Input) {
	for i, p := range packs {
		in = append(in, Input{fmt.Sprintf("pack%d.tar", i+1), bytes.NewReader(p), int64(len(p))})
	}
	return in
}
