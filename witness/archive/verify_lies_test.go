package archive

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

// lie is a pack that its maker hashed and signed correctly, and that is wrong in one thing. The
// verifier must name that, and nothing else: so the check that finds it is the only one that does.
type lie struct {
	name, reason string
	pack         int // of newChain, from 1
	tell         func(p *testPack)
}

// rowOf returns row n of the v1 log in the first pack, and its log.
func rowOf(p *testPack, n int) (*Row, *testLog) {
	return &p.rows["logs/rekor"][n-1], p.w.logs[1]
}

// resign signs the checkpoint of a row again.
func (p *testPack) resign(l *testLog, r *Row, raw []byte) {
	p.raw[r.Checkpoint] = raw
	for i := range r.Cosignatures {
		r.Cosignatures[i] = p.w.cosigners[i].line(raw)
	}
}

// place changes place.json of an entry.
func (p *testPack) place(n int, change func(e *EntryPlace)) {
	folder := fmt.Sprintf("entries/%06d", n)
	e := p.places[folder]
	change(&e)
	p.places[folder] = e
}

// wantedIn changes what is wanted in an answer to other JSON.
func (p *testPack) wantedIn(i int, other string) { p.wanted = map[int]string{i: other} }

// moveEntry gives an entry another folder.
func (p *testPack) moveEntry(n int, to string) {
	from := fmt.Sprintf("entries/%06d", n)
	for _, name := range []string{"/entry.json", "/proof.txt"} {
		p.raw[to+name] = p.raw[from+name]
		delete(p.raw, from+name)
	}
	p.places[to] = p.places[from]
	delete(p.places, from)
	for i := range p.answers {
		for j := range p.answers[i].Found {
			if p.answers[i].Found[j].Folder == from {
				p.answers[i].Found[j].Folder = to
			}
		}
	}
}

// replace changes text in a file.
func (p *testPack) replace(name, old, new string) {
	if !strings.Contains(string(p.raw[name]), old) {
		panic(name + " does not have " + old)
	}
	p.raw[name] = []byte(strings.Replace(string(p.raw[name]), old, new, 1))
}

func otherKey(name string) string {
	_, vkey, err := note.GenerateKey(zeros{}, name)
	return must(vkey, err)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

var manifestLies = []lie{
	{"number 0", "the first pack has the number 1, not 0", 1, func(p *testPack) { p.m.Number = 0 }},
	{"a pack before the first", "it is the first pack, and names one before it", 1, func(p *testPack) { p.m.Previous = &Previous{} }},
	{"no pack before the second", "is pack 2, and names none before it", 2, func(p *testPack) { p.m.Previous = nil }},
	{"another name of the pack before", `names "understudy-evidence-000002-x" as the one before it, and that of pack 1 begins with understudy-evidence-000001`, 2, func(p *testPack) { p.m.Previous.Name = "understudy-evidence-000002-x" }},
	{"a short number in the name of the pack before", `names "understudy-evidence-1-x" as`, 2, func(p *testPack) { p.m.Previous.Name = "understudy-evidence-1-x" }},
	{"a longer number in the name of the pack before", `names "understudy-evidence-0000010" as`, 2, func(p *testPack) { p.m.Previous.Name = "understudy-evidence-0000010" }},
	{"a name of two lines of the pack before", "as the one before it", 2, func(p *testPack) { p.m.Previous.Name += "\n" }},
	{"the shortest name of the pack before", "", 2, func(p *testPack) { p.m.Previous.Name = "understudy-evidence-000001" }},
	{"an archive with a control character", "the name of the archive has control characters", 1, func(p *testPack) {
		skey, vkey, err := note.GenerateKey(nil, "a\x01")
		p.m.Archive.Name, p.m.Archive.Key = "a\x01", must(vkey, err)
		p.signer = must(note.NewSigner(skey))
	}},
	{"a vantage of two lines", "the vantage has control characters", 1, func(p *testPack) { p.m.Archive.Vantage = "here\nthere" }},
	{"another pack before the second", "names pack 7 as the one before it", 2, func(p *testPack) { p.m.Previous.Number = 7 }},
	{"another name of the archive", `is called "Sigstore", and its key "archive.example.com/understudy"`, 1, func(p *testPack) { p.m.Archive.Name = "Sigstore" }},
	{"another archive key", "does not verify", 1, func(p *testPack) {
		p.m.Archive.Key = otherKey(archiveName)
		_, id, _ := cutKey(p.m.Archive.Key)
		p.signer = &renamed{p.signer, archiveName, must(hex.DecodeString(id))}
	}},
	{"archive key of type 4", "cannot be used: it is no verifier key of type 1", 1, func(p *testPack) { p.m.Archive.Key = p.w.cosigners[0].vkey; p.m.Archive.Name = "" }},
	{"archive key with an upper case ID", "cannot be used: it is no verifier key in the one form", 1, func(p *testPack) {
		name, id, encoded := cutKey(p.w.vkey)
		for strings.ToUpper(id) == id {
			p.w.setMaker()
			name, id, encoded = cutKey(p.w.vkey)
		}
		p.m.Archive.Key = name + "+" + strings.ToUpper(id) + "+" + encoded
		p.signer = p.w.maker
	}},
	{"note about another number", "what is signed is not the manifest", 1, func(p *testPack) { p.text = "understudy evidence pack v1\n2\n" + strings.Repeat("0", 64) + "\nnone\n" }},
	{"note with two signatures", "does not have exactly one signature", 1, func(p *testPack) { p.more = signatureLine("x", [4]byte{}, []byte("y")) + "\n" }},
	{"note with something behind it", "does not have exactly one signature", 1, func(p *testPack) { p.more = "\n" }},
	{"note with a name and no key", "does not have exactly one signature", 1, func(p *testPack) { p.signer = &renamed{p.signer, "x", nil} }},
	{"a log without rows that is not trusted", "", 1, func(p *testPack) {
		p.m.Logs = append(p.m.Logs[:1:1], Log{Origin: "other.example", Folder: "logs/o", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}, p.m.Logs[1])
	}},
	{"a log with rows that is not trusted", `log "later.example": no key is trusted for it`, 2, func(p *testPack) {
		p.log(lateOrigin).Quarantine = nil
		delete(p.raw, "logs/late/evidence/first.txt")
		delete(p.raw, "logs/late/evidence/second.txt")
		p.w.logs = p.w.logs[:2]
	}},
	{"a log with evidence that is not trusted", `log "later.example": no key is trusted for it`, 3, func(p *testPack) { p.w.logs = p.w.logs[:2] }},
	{"a log with an entry that is not trusted", `log "log2030-1.rekor.example": no key is trusted for it`, 2, func(p *testPack) { p.w.logs = p.w.logs[1:] }},
	{"first rows that are not the first", `log "log2030-1.rekor.example": the rows begin with 2, and this is the first pack`, 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		l.Before, l.Rows.First = Place{Hex{1}, &Head{0, emptyRoot}}, 2
		delete(p.raw, p.rows[l.Folder][0].Checkpoint)
		p.rows[l.Folder] = p.rows[l.Folder][1:]
	}},
	{"a name of two lines", "the name has control characters", 1, func(p *testPack) { p.log(tilesOrigin).Name = "name of logs/a\nb" }},
	{"a clock that was set back", "", 1, func(p *testPack) { p.m.Period.From = at(900) }},
	{"an origin of two lines", "this cannot be an origin", 1, func(p *testPack) {
		p.w.logs = append(p.w.logs, newTestLog("a\nb", "logs/x", "full", 0))
		p.m.Logs = append([]Log{{Origin: "a\nb", Folder: "logs/x", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}}, p.m.Logs...)
	}},
	{"no origin", "this cannot be an origin", 1, func(p *testPack) {
		p.w.logs = append(p.w.logs, newTestLog("", "logs/x", "full", 0))
		p.m.Logs = append([]Log{{Origin: "", Folder: "logs/x", Coverage: "full", Keys: []string{}, Cosigners: []string{}, Rows: Rows{1, 0}}}, p.m.Logs...)
	}},
	{"logs out of order", "logs[1]: ", 1, func(p *testPack) { p.m.Logs[0], p.m.Logs[1] = p.m.Logs[1], p.m.Logs[0] }},
	{"one folder of two logs", `logs[2]: the folder "logs/tiles" is that of`, 3, func(p *testPack) {
		p.files()
		p.linked, p.log(v1Origin).Folder = true, "logs/tiles"
	}},
	{"folder elsewhere", "is not logs/ and one more part", 3, func(p *testPack) { p.log(v1Origin).Folder = "entries/x" }},
	{"folder too deep", "is not logs/ and one more part", 3, func(p *testPack) { p.log(v1Origin).Folder = "logs/x/y" }},
	{"another coverage", `there is no coverage "all"`, 1, func(p *testPack) { p.m.Logs[0].Coverage = "all" }},
	{"rows that run backwards", "there cannot be rows from 9 to 7", 3, func(p *testPack) { p.log(v1Origin).Rows = Rows{9, 7} }},
	{"rows from 0 on", "there cannot be rows from 0 to 9", 3, func(p *testPack) { p.log(v1Origin).Rows = Rows{0, 9} }},
	{"hash of row 0", "before.row_hash cannot be that of row 0", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		l.Before.RowHash = Hex{1}
	}},
	{"a head before row 1", "before.newest cannot be that of row 0", 1, func(p *testPack) { p.log(v1Origin).Before.Newest = &Head{1, Base64{}} }},
	{"an empty tree before", "before.newest is an empty tree with another root", 2, func(p *testPack) {
		p.log(v1Origin).Before.Newest = &Head{}
		p.rows["logs/rekor"][0].Proof = []Base64{}
	}},
	{"no report", "the pack has no REPORT.md", 1, func(p *testPack) { delete(p.raw, reportFile) }},
	{"a file about nothing", "zzz.txt: nothing in the pack is about this file", 1, func(p *testPack) { p.raw["zzz.txt"] = nil }},
	{"trust material of another kind", `trust[0]: there is no kind "root.json"`, 1, func(p *testPack) { p.m.Trust[0].Kind = "root.json" }},
	{"trust material that ends early", "trust[0]: it ends at", 1, func(p *testPack) { p.m.Trust[0].To = &Time{at(-1).Time} }},
	{"trust material that is missing", `trust[1]: the file "trust/x" is not in the pack`, 1, func(p *testPack) {
		p.m.Trust = append(p.m.Trust, Material{"trust/x", "trusted_root.json", at(0), nil})
	}},
	{"trust material that is an entry", `"entries/000001/x.json" does not begin with trust/`, 1, func(p *testPack) {
		p.m.Trust = append(p.m.Trust, Material{"entries/000001/x.json", "trusted_root.json", at(0), nil})
		p.raw["entries/000001/x.json"] = nil
	}},
	{"rows that are trust material", `"logs/rekor/checkpoints.jsonl" does not begin with trust/`, 3, func(p *testPack) {
		p.m.Trust = append(p.m.Trust, Material{"logs/rekor/checkpoints.jsonl", "trusted_root.json", at(0), nil})
		p.raw["logs/rekor/checkpoints.jsonl"] = nil
	}},
	{"trust material of one moment", "", 1, func(p *testPack) { p.m.Trust[0].To = &p.m.Trust[0].From }},
	{"two cosigners with one ID", "two cosigner keys have the name and the key ID", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, l.Cosigners[1]) }},
	{"cosigner of type 1", "it is no verifier key of type 4 or 6", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, otherKey("x")) }},
	{"cosigner that is no key", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x") }},
	{"cosigner that is no base64", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x+00000000+BA") }},
	{"cosigner with a short key", "cannot be used", 1, func(p *testPack) { l := p.log(tilesOrigin); l.Cosigners = append(l.Cosigners, "x+00000000+BAAA") }},
	{"two cosigners of one name", "", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		l.Cosigners = append(l.Cosigners, newTestCosigner("witness.example.com/w1", true).vkey, newTestCosigner("witness.example.com/w1", false).vkey)
	}},
	{"cosigner with another ID", "its key ID is", 1, func(p *testPack) {
		l := p.log(tilesOrigin)
		name, _, encoded := cutKey(l.Cosigners[0])
		l.Cosigners = append(l.Cosigners, name+"+00000000+"+encoded)
	}},
	{"an outage of a stranger", `the pack does not have the log "x"`, 1, func(p *testPack) { p.outages[0].Origin = "x" }},
	{"another kind of outage", `there is no outage that is "strike"`, 1, func(p *testPack) { p.outages[0].What = "strike" }},
	{"an outage that runs backwards", "it ends at", 1, func(p *testPack) { p.outages[0].To = &Time{at(105).Time} }},
	{"an outage of one moment", "", 1, func(p *testPack) { p.outages[0].To = &p.outages[0].From }},
	{"an outage before", "it is not in the period", 1, func(p *testPack) { p.outages[0].From, p.outages[0].To = at(1), &Time{at(99).Time} }},
	{"an outage after", "it is not in the period", 1, func(p *testPack) { p.outages[0].From, p.outages[0].To = at(201), nil }},
}

// renamed signs under another name and ID.
type renamed struct {
	note.Signer
	name string
	id   []byte
}

func (r *renamed) Name() string { return strings.SplitN(r.name, " ", 2)[0] }

func (r *renamed) KeyHash() uint32 {
	if r.id == nil {
		return r.Signer.KeyHash()
	}
	return uint32(r.id[0])<<24 | uint32(r.id[1])<<16 | uint32(r.id[2])<<8 | uint32(r.id[3])
}

func TestLies(t *testing.T) {
	var lies []lie
	for _, list := range [][]lie{manifestLies, rowLies, quarantineLies(), entryLies, ledgerLies, reportLies} {
		lies = append(lies, list...)
	}
	for _, l := range lies {
		t.Run(l.name, func(t *testing.T) {
			w := newChain(t)
			p := w.packs[l.pack-1]
			l.tell(p)
			o := w.options()
			o.Makers = nil
			r, err := Verify(t.Context(), inputs(p.encode()), o)
			if err != nil {
				t.Fatal(err)
			}
			if l.reason == "" {
				if !r.Good() {
					t.Errorf("errors: %s", texts(r.Errors))
				}
				return
			}
			refused(t, r, l.reason)
		})
	}
}
