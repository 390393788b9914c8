package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// newChain makes three packs that follow each other and have everything that packs have. The last log
// appears in the second one.
func newChain(t testing.TB) *testWorld {
	w := newTestWorld(t)
	v1, tiles := newTestLog(v1Origin, "logs/rekor", "pinned", 40), newTestLog(tilesOrigin, "logs/tiles", "full", 40)
	w.logs = []*testLog{tiles, v1}
	other := func(h Head) Head { return Head{h.Size, Base64{1}} }

	p := w.pack()
	p.grow(v1, 5, 0, 1)
	p.grow(v1, 8)
	p.row(v1, v1.note(v1.head(8), "extension"), v1.head(8), "same", []Base64{}, 0)
	p.row(v1, v1.note(v1.head(3)), v1.head(3), "precedes", v1.proof(3, 8))
	p.row(v1, v1.note(v1.head(20)), v1.head(20), "unproven", []Base64{})
	p.row(v1, v1.note(v1.head(6)), v1.head(6), "unproven", []Base64{})
	p.row(v1, v1.note(other(v1.head(20))), other(v1.head(20)), "contradicts", []Base64{})
	p.grow(v1, 21)
	p.grow(tiles, 0)
	p.grow(tiles, 9, 1)
	p.row(tiles, tiles.note(tiles.head(0), "again"), tiles.head(0), "precedes", []Base64{})
	p.entry(v1, 2, 21)
	p.entry(v1, 4, 5)
	p.entry(tiles, 0, 1)
	p.answers = []Answer{
		{Wanted{Digest: "sha256:00"}, []Found{{"entries/000001"}, {"entries/000002"}}, "all of it", true},
		{Wanted{Index: "4", Log: v1Origin}, []Found{{"entries/000002"}}, "some of it", false},
		{Wanted{Index: "0-4", Log: "name of logs"}, []Found{{"entries/000002"}, {"entries/000003"}}, "all of it", true},
		{Wanted{Identity: "nobody@example.com"}, []Found{}, "all of it", true},
	}
	p.outages = []Outage{{"", "stopped", at(110), &Time{at(120).Time}, "an update"}, {v1Origin, "unreachable", at(90), nil, "no route"}}
	p.record("state", `{"component":"rekor/read","from":"live","to":"fallback","cause":{"code":"TIMEOUT","text":"no answer"}}`)
	p.record("exception", `{"id":"e1","event":"approved","policy":"images","numbers":[1.5e3,-2,null,true],"until":"2026-03-02T00:00:00Z"}`)
	p.record("state", `{"component":"rekor/read","from":"fallback","to":"recovering"}`)
	p.write("drill-1")
	p.write("reconcile-1")
	p.done()

	late := newTestLog(lateOrigin, "logs/late", "witnessed", 40)
	w.logs = append(w.logs, late)
	p = w.pack()
	p.grow(v1, 22, 0)
	p.grow(late, 1)
	p.grow(late, 2)
	p.entry(tiles, 8, 9)
	p.answers = []Answer{{Wanted{UUID: "1"}, []Found{{"entries/000001"}}, "all of it", true}}
	p.accuse(late)
	p.record("state", `{"component":"rekor/read","from":"recovering","to":"live"}`)
	p.record("drill", `"of another form"`)
	p.write("reconcile-2")
	p.done()

	p = w.pack()
	p.grow(tiles, 30)
	p.accuse(late)
	p.stamp = Time{}
	p.m.Authority = ""
	p.done()
	return w
}

func (w *testWorld) encoded() (packs [][]byte) {
	for _, p := range w.packs {
		packs = append(packs, p.encoded)
	}
	return packs
}

func texts(list []Remark) string {
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintln(&b, r)
	}
	return b.String()
}

func TestVerify(t *testing.T) {
	w := newChain(t)
	r := w.verify(w.encoded()...)
	if !r.Good() || r.FurtherErrors != 0 {
		t.Fatalf("errors: %s", texts(r.Errors))
	}
	want := []string{
		`row 5: that the tree of size 20 is consistent with that of size 8 is not proven`,
		`row 6: that the tree of size 6 is consistent with that of size 20 is not proven`,
		`row 7: the log contradicts itself`,
		`not all was looked through for index "4"`,
		`identity "nobody@example.com" was not found`,
		`nothing was seen of all logs from`,
		`nothing was seen of "` + v1Origin + `"`,
		`quarantine of "later.example": the log contradicted itself`,
		`the pack has no time-stamp: only its maker says`,
		`quarantine of "later.example": the log contradicted itself`,
	}
	for i, text := range want {
		if i >= len(r.Findings) || !strings.Contains(r.Findings[i].String(), text) {
			t.Fatalf("finding %d: want %q in\n%s", i, text, texts(r.Findings))
		}
	}
	if len(r.Findings) != len(want) {
		t.Errorf("findings: %s", texts(r.Findings))
	}
	for i, s := range r.Packs {
		if s.Number != uint64(i+1) || !s.Vouched || s.Bytes != int64(len(w.packs[i].encoded)) || s.Manifest != Hex(w.packs[i].manifest) || (s.Stamped == nil) != (i == 2) {
			t.Errorf("pack %d: %+v", i+1, s)
		}
	}
	first := r.Packs[0]
	if l := first.Ledger; l == nil || l.Rows != (Rows{1, 3}) || l.Kinds["state"] != 2 || l.Kinds["exception"] != 1 {
		t.Errorf("ledger: %+v", l)
	}
	if len(first.Reports) != 2 || first.Reports[1].ID != "reconcile-1" || !first.Reports[0].Verified || !first.Reports[1].Verified || len(first.ReportKeys) != 1 || first.ReportKeys[0] != sha256.Sum256(must(x509.MarshalPKIXPublicKey(w.reporter.Public()))) {
		t.Errorf("reports: %+v, keys %v", first.Reports, first.ReportKeys)
	}
	if first.Entries != 3 || first.Wanted != 4 || first.Outages != 2 || first.Signer != "the authority" || !first.Stamped.Equal(at(202).Truncate(time.Second)) {
		t.Errorf("first: %+v", first)
	}
	if l := first.Logs[1]; l.Origin != v1Origin || l.Checkpoints != 8 || l.Unproven != 3 || l.Cosignatures != 3 || l.CosignaturesVouched != 2 || l.Before != nil || l.After.Size != 21 || l.Quarantined {
		t.Errorf("log: %+v", l)
	}
	if l := r.Packs[1].Logs[0]; l.Origin != lateOrigin || !l.Quarantined {
		t.Errorf("log: %+v", l)
	}
	if _, err := json.Marshal(r); err != nil {
		t.Error(err)
	}
}

// refused holds that packs are refused for one reason, and for no other.
func refused(t *testing.T, r *Report, reason string) {
	t.Helper()
	if len(r.Errors) != 1 || !strings.Contains(r.Errors[0].String(), reason) {
		t.Errorf("want one error with %q, got %d:\n%s", reason, len(r.Errors), texts(r.Errors))
	}
}

func TestChain(t *testing.T) {
	w := newChain(t)
	e := w.encoded()
	for _, c := range []struct {
		packs  [][]byte
		reason string
	}{
		{[][]byte{e[0], e[2]}, "pack 3 was given after pack 1"},
		{[][]byte{e[0], e[0]}, "pack 1 was given after pack 1"},
		{[][]byte{e[1], e[0]}, "pack 1 was given after pack 2"},
		{[][]byte{e[1], e[1], e[2]}, "pack 2 was given after pack 2"},
	} {
		refused(t, w.verify(c.packs...), c.reason)
	}
	for from := range e {
		r := w.verify(e[from:]...)
		said := strings.Contains(texts(r.Findings), fmt.Sprintf("the packs before number %d were not given", from+1))
		if !r.Good() || said != (from > 0) {
			t.Errorf("from pack %d on: %s%s", from+1, texts(r.Errors), texts(r.Findings))
		}
	}
	r := w.verify(e[0], []byte("no pack"), e[2])
	if s := texts(r.Errors); !strings.Contains(s, "pack2.tar: it ends after 7 bytes") || !strings.Contains(s, "pack3.tar: manifest.json: the pack cannot be compared") || len(r.Packs) != 3 {
		t.Error(s)
	}

	// The same packs, made again with one thing that the next pack does not go on with.
	for reason, lie := range map[string]func(p *testPack){
		"names 00":                              func(p *testPack) { p.m.Previous.Hash = Hex{} },
		"the period begins at 2026-03-01T03:21": func(p *testPack) { p.m.Period.From = at(201) },
		"begin with 8, and those of the pack before ended with 8": func(p *testPack) {
			l := p.log(v1Origin)
			l.Rows, p.rows[l.Folder][0].Row = Rows{8, 8}, 8
			name := p.rows[l.Folder][0].Checkpoint
			p.rows[l.Folder][0].Checkpoint = strings.Replace(name, "0009", "0008", 1)
			p.raw[p.rows[l.Folder][0].Checkpoint] = p.raw[name]
			delete(p.raw, name)
		},
		"is not what the pack before ended with": func(p *testPack) { p.log(v1Origin).Before.RowHash = Hex{1} },
		`log "log2030-1.rekor.example": the pack before has it, and it is missing`: func(p *testPack) {
			p.m.Logs = slices.DeleteFunc(p.m.Logs, func(l Log) bool { return l.Origin == tilesOrigin })
			p.answers, p.places = nil, nil
			delete(p.raw, "entries/000001/entry.json")
			delete(p.raw, "entries/000001/proof.txt")
		},
		"rows begin with 2, not with 1": func(p *testPack) {
			l := p.log(lateOrigin)
			l.Before = Place{Hex{1}, &Head{1, w.logs[2].head(1).Root}}
			l.Rows.First = 2
			delete(p.raw, p.rows[l.Folder][0].Checkpoint)
			p.rows[l.Folder] = p.rows[l.Folder][1:]
		},
	} {
		w := newChain(t)
		lie(w.packs[1])
		refused(t, w.verify(w.packs[0].encoded, w.packs[1].encode()), reason)
	}
	w = newChain(t)
	w.packs[1].log(v1Origin).Before.Newest = &Head{8, w.logs[1].head(8).Root}
	row := &w.packs[1].rows["logs/rekor"][0]
	row.Proof = w.logs[1].proof(8, 22)
	refused(t, w.verify(w.packs[0].encoded, w.packs[1].encode()), "is not what the pack before ended with")
}

func TestMakers(t *testing.T) {
	w := newChain(t)
	pack := w.packs[0].encoded
	verify := func(o Options) *Report {
		r, err := Verify(t.Context(), inputs(pack), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	o := w.options()
	o.Makers = nil
	if r := verify(o); !r.Good() || r.Packs[0].Vouched || !strings.Contains(texts(r.Findings), "nobody vouched for the archive key") {
		t.Errorf("nobody vouches: %+v", r)
	}
	other := newTestWorld(t)
	o.Makers = []string{other.vkey}
	refused(t, verify(o), "which is none of those that were given")
	o.Makers = []string{other.vkey, w.vkey}
	if r := verify(o); !r.Good() || !r.Packs[0].Vouched {
		t.Errorf("one of two: %s", texts(r.Errors))
	}
	// A key of a log does not say who made the pack, unless the pack has nothing that it signed.
	o.Makers = []string{tilesOrigin + "+00000000+AQ=="}
	if r := verify(o); !r.Good() || r.Packs[0].Vouched {
		t.Errorf("key of a log: %s", texts(r.Errors))
	}
	o.Makers = []string{lateOrigin + "+00000000+AQ=="}
	refused(t, verify(o), "which is none of those that were given")
	o.Makers = []string{other.vkey, tilesOrigin + "+00000000+AQ=="}
	refused(t, verify(o), "which is none of those that were given")

	// A log can have the name of the archive: its key does not vouch for a pack that another one signed.
	named := newTestWorld(t)
	named.logs = []*testLog{newTestLog(archiveName, "logs/x", "full", 1)}
	p := named.pack()
	p.grow(named.logs[0], 1)
	o = named.options()
	o.Makers = []string{other.vkey}
	r, err := Verify(t.Context(), inputs(p.encode()), o)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, r, "which is none of those that were given")
	o = w.options()

	// Another maker between two of the first is seen.
	w.setMaker()
	w.packs[1].signer, w.packs[1].m.Archive.Key = w.maker, w.vkey
	w.packs[1].encode()
	w.packs[2].m.Previous.Hash = Hex(w.packs[1].manifest)
	w.packs[2].encode()
	o.Makers = nil
	r, err = Verify(t.Context(), inputs(w.encoded()...), o)
	if err != nil || !r.Good() || strings.Count(texts(r.Findings), "the archive key is another one than that of the pack before") != 2 {
		t.Errorf("%v %s", err, texts(r.Findings))
	}
}

func TestTimestamps(t *testing.T) {
	for _, c := range []struct {
		lie       func(p *testPack, o *Options)
		finding   string
		errorText string
	}{
		{func(p *testPack, _ *Options) { p.stamp = Time{} }, `since "https://tsa.example.com" could not be reached`, ""},
		{func(p *testPack, o *Options) { o.Timestamp = nil }, "was not verified: no certificate is trusted", ""},
		{func(p *testPack, o *Options) {
			o.Timestamp = func([]byte, [32]byte) (time.Time, string, error) {
				return time.Time{}, "", fmt.Errorf("chain: %w", ErrNoAuthority)
			}
		}, "was not verified: chain: no certificate is trusted", ""},
		{func(p *testPack, _ *Options) { p.stamp = at(150) }, "before the end of the period", ""},
		{func(p *testPack, _ *Options) { p.token = []byte("token of another") }, "", "the time-stamp does not verify: the token is broken"},
	} {
		w := newChain(t)
		o := w.options()
		c.lie(w.packs[0], &o)
		r, err := Verify(t.Context(), inputs(w.packs[0].encode()), o)
		if err != nil || !strings.Contains(texts(r.Findings), c.finding) || !strings.Contains(texts(r.Errors), c.errorText) || r.Good() != (c.errorText == "") {
			t.Errorf("want %q %q: %v\n%s%s", c.finding, c.errorText, err, texts(r.Findings), texts(r.Errors))
		}
	}
}

// TestNotProven holds that what is allowed to be missing is found.
func TestNotProven(t *testing.T) {
	for finding, change := range map[string]func(p *testPack){
		"before it begins at 2026-03-01T15:00":                    func(p *testPack) { p.m.Period.From = at(900) },
		"from 2026-03-01T01:50:00.123456789Z to 2026-03-01T02:00": func(*testPack) {},
		"manifest.json: the pack was made at 2026-03-01T03:20:00.123456788Z, before the end of the period, 2026-03-01T03:20:00.123456789Z": func(p *testPack) {
			p.m.Built = Time{p.m.Period.To.Add(-1)}
		},
		"rekor/checkpoints.jsonl: 1 row was first seen outside of the period, the first of them row 2 at 2026-03-01T01:39": func(p *testPack) {
			r, _ := rowOf(p, 2)
			r.FirstSeen = at(99)
		},
		"rekor/checkpoints.jsonl: 3 rows were first seen outside of the period, the first of them row 5 at 2026-03-01T03:20:00.123456789Z": func(p *testPack) {
			for n := 5; n < 8; n++ {
				r, _ := rowOf(p, n)
				r.FirstSeen = at(200)
				r.LastSeen = at(205)
			}
		},
	} {
		w := newChain(t)
		change(w.packs[0])
		if r := w.verify(w.packs[0].encode()); !r.Good() || !strings.Contains(texts(r.Findings), finding) {
			t.Errorf("want %q in:\n%s%s", finding, texts(r.Errors), texts(r.Findings))
		}
	}
	// A period has its first moment, and not its last one.
	w := newChain(t)
	r, _ := rowOf(w.packs[0], 2)
	r.FirstSeen = w.packs[0].m.Period.From
	if r := w.verify(w.packs[0].encode()); !r.Good() || strings.Contains(texts(r.Findings), "outside of the period") {
		t.Errorf("%s%s", texts(r.Errors), texts(r.Findings))
	}
	// Evidence does not go away.
	w = newChain(t)
	last := w.packs[2]
	last.log(lateOrigin).Quarantine = nil
	delete(last.raw, "logs/late/evidence/first.txt")
	delete(last.raw, "logs/late/evidence/second.txt")
	if r := w.verify(w.packs[1].encoded, last.encode()); !r.Good() || !strings.Contains(texts(r.Findings), `log "later.example": the pack before has evidence that it contradicted itself ("it forked"), and this one does not`) {
		t.Errorf("%s%s", texts(r.Errors), texts(r.Findings))
	}
	w = newChain(t)
	last = w.packs[2]
	fork := last.log(lateOrigin).Quarantine
	fork.First, fork.Second = fork.Second, fork.First // the same evidence
	if r := w.verify(w.packs[1].encoded, last.encode()); strings.Contains(texts(r.Findings), "is other evidence") {
		t.Errorf("%s", texts(r.Findings))
	}
	// An entry can be large.
	w = newTestWorld(t)
	l := newTestLog(tilesOrigin, "logs/tiles", "full", 1)
	w.logs, l.entries = []*testLog{l}, append(l.entries, make([]byte, 3*maxSmall))
	l.tree.AppendData(l.entries[1])
	p := w.pack()
	p.grow(l, 2)
	p.answers = []Answer{{Wanted{Index: "1"}, []Found{{p.entry(l, 1, 2)}}, "all of it", true}}
	if r := w.verify(p.encode()); !r.Good() {
		t.Error(texts(r.Errors))
	}
	for origin, want := range map[string]bool{v1Origin: true, tilesOrigin: false, "ab123": false, " - 1": true, "a - ": false, "a - -1": false} {
		if _, ok := treeID(origin); ok != want {
			t.Errorf("%q: %t", origin, ok)
		}
	}
}

// TestEveryByteCounts flips bits and cuts.
func TestEveryByteCounts(t *testing.T) {
	w := newChain(t)
	pack := w.packs[0].encoded
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	for range 500 {
		changed := slices.Clone(pack)
		i := random.IntN(len(changed))
		changed[i] ^= 1 << random.IntN(8)
		if r := w.verify(changed); r.Good() {
			t.Errorf("byte %d (seed %d) does not count", i, seed)
		}
	}
	for range 50 {
		i := random.IntN(len(pack))
		if r := w.verify(pack[:i]); r.Good() {
			t.Errorf("cut at byte %d (seed %d)", i, seed)
		}
	}
	refused(t, w.verify(pack[:len(pack)-600]), "it ends after")
	refused(t, w.verify(pack[:len(pack)/2]), "it ends after")
	if r := w.verify(append(slices.Clone(pack), 0)); r.Good() {
		t.Error("a byte behind the end does not count")
	}
}

// TestReadErrors holds that a disk that fails is no pack that is wrong.
func TestReadErrors(t *testing.T) {
	w := newChain(t)
	broken := errors.New("broken disk")
	pack := w.packs[0].encoded
	counting := &failingFile{pack: pack, left: 1 << 30}
	if r, err := Verify(t.Context(), []Input{{"x", counting, int64(len(pack))}}, w.options()); err != nil || !r.Good() {
		t.Fatal(err)
	}
	reads := 1<<30 - counting.left
	for k := range reads {
		f := &failingFile{pack: pack, left: k, err: broken}
		if _, err := Verify(t.Context(), []Input{{"x", f, int64(len(pack))}}, w.options()); !errors.Is(err, broken) {
			t.Errorf("read %d of %d: %v", k, reads, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Verify(ctx, inputs(pack), w.options()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// failingFile fails once, after a number of reads.
type failingFile struct {
	mu   sync.Mutex
	pack []byte
	left int
	err  error
}

func (f *failingFile) ReadAt(p []byte, off int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left--; f.left == -1 {
		return 0, f.err
	}
	return bytes.NewReader(f.pack).ReadAt(p, off)
}
