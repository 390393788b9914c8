package storage

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// archiveOf reads the whole archive and holds it against itself, by other means than check.
func archiveOf(t *testing.T, tree *Tree) []ArchiveRow {
	t.Helper()
	v := tree.View()
	defer v.Close()
	var rows []ArchiveRow
	if err := v.Archive(1, ^uint64(0), func(r ArchiveRow) error {
		rows = append(rows, r)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var last Hash
	for i, r := range rows {
		note := sha256.Sum256(r.Checkpoint.Raw)
		want := strings.Join([]string{"understudy archive row v1", tree.Origin(), fmt.Sprint(i + 1), fmt.Sprintf("%x", last[:]),
			fmt.Sprint(r.Checkpoint.FirstSeen.UnixNano()), r.Checkpoint.Source, fmt.Sprint(r.Checkpoint.Size),
			base64.StdEncoding.EncodeToString(r.Checkpoint.Root[:]), fmt.Sprintf("%x", note[:]), ""}, "\n")
		if r.Number != uint64(i+1) || r.Previous != last || r.Hash(tree.Origin()) != sha256.Sum256([]byte(want)) {
			t.Fatalf("row %d is %+v", i+1, r)
		}
		last = r.Hash(tree.Origin())
		a, b := r.Base, r.Checkpoint.Head
		if r.Relation == RelationPrecedes {
			a, b = b, a
		}
		if r.Relation == RelationExtends || r.Relation == RelationPrecedes {
			var raw [][]byte
			for _, h := range r.Proof {
				raw = append(raw, h[:])
			}
			if a.Size > 0 {
				if err := proof.VerifyConsistency(rfc6962.DefaultHasher, a.Size, b.Size, raw, a.Root[:], b.Root[:]); err != nil {
					t.Errorf("row %d: %v", i+1, err)
				}
			}
		}
	}
	if n, hash := tree.State().ArchiveRows(); n != uint64(len(rows)) || hash != last {
		t.Errorf("head says %d rows, the last %v; there are %d, %v", n, hash, len(rows), last)
	}
	return rows
}

func relations(rows []ArchiveRow) string {
	var all []string
	for _, r := range rows {
		all = append(all, fmt.Sprintf("%s %d", r.Relation, r.Checkpoint.Size))
	}
	return strings.Join(all, ", ")
}

// TestArchiveRows: every distinct checkpoint has one row, whatever way it came, in the order of
// their coming, with a proof that ties it to the newest one so far.
func TestArchiveRows(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	entries := testEntries(1000)
	naive := newNaiveTree(entries)
	at := func(size uint64, extensions ...string) Checkpoint {
		c := note("log", naive.head(size), "s", extensions...)
		c.Source = "https://log.example.com\nnew line"
		return c
	}
	tree := createTree(t, db, "log")
	steps := []struct {
		what string
		do   func() error
		want string // what it adds
	}{
		{"the empty tree", func() error { return second(tree.Advance(at(0), nil, nil)) }, "first 0"},
		{"the first real one", func() error { return second(tree.Advance(at(300), nil, nil)) }, "extends 300"},
		{"entries", func() error {
			return second(tree.Extend(entries[:200], func(Head) (Seal, error) {
				return Seal{Checkpoint: tree.State().Pending, Precedes: naive.consistency(200, 300)}, nil
			}))
		}, ""},
		{"a larger one", func() error {
			return second(tree.Advance(at(700), naive.consistency(300, 700), naive.consistency(200, 700)))
		}, "extends 700"},
		{"an older one that is held", func() error { return tree.Archive(at(100)) }, "precedes 100"},
		{"the same again", func() error { return tree.Archive(at(100)) }, ""},
		{"an older one with its proof", func() error { return tree.Link(at(500), naive.consistency(500, 700)) }, "precedes 500"},
		{"vouched for again", func() error { return tree.Seen(start.Add(time.Hour)) }, ""},
		{"another text", func() error { return second(tree.Advance(at(700, "Log frozen"), nil, naive.consistency(200, 700))) }, "same 700"},
		{"a fork", func() error { return tree.Quarantine(Evidence{At: start, Reason: "a test"}) }, ""},
		{"another root, by hand", func() error { return tree.Archive(note("log", Head{700, Hash{9}}, "s")) }, "contradicts 700"},
	}
	var want []string
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.what, err)
		}
		if s.want != "" {
			want = append(want, s.want)
		}
		for range 2 {
			if got := relations(archiveOf(t, tree)); got != strings.Join(want, ", ") {
				t.Fatalf("after %s: %s, want %s", s.what, got, strings.Join(want, ", "))
			}
			checkTree(t, tree)
			db = reopen(t, db, o)
			tree = openTree(t, db, "log")
		}
	}
	if rows := archiveOf(t, tree); rows[1].Checkpoint.Source != "https://log.example.com?new line" {
		t.Errorf("source is %q", rows[1].Checkpoint.Source)
	}

	// A log of our own makes its proofs from tiles.
	own := createTree(t, db, "own")
	extend(t, own, entries[:10])
	extend(t, own, entries[10:300])
	extend(t, own, entries[300:301])
	if got := relations(archiveOf(t, own)); got != "first 10, extends 300, extends 301" {
		t.Errorf("rows of a log of our own: %s", got)
	}
}

// TestArchiveShows: a row that is removed, changed, or exchanged is named.
func TestArchiveShows(t *testing.T) {
	naive := newNaiveTree(testEntries(100))
	for row := uint64(1); row <= 5; row++ {
		for name, change := range map[string]func(tree *Tree, b []byte) []byte{
			"removed": nil,
			"another time": func(_ *Tree, b []byte) []byte { // first seen
				b[1+HashSize+8+3*HashSize+7]++
				return b
			},
			"another source": func(_ *Tree, b []byte) []byte {
				b[1+HashSize+8+3*HashSize+8+4]++
				return b
			},
			"another base":     func(_ *Tree, b []byte) []byte { return b }, // below
			"another note":     func(_ *Tree, b []byte) []byte { b[1+HashSize+8+2*HashSize]++; return b },
			"another row":      func(tree *Tree, b []byte) []byte { return must(tree.db.get(tree.id.archiveRow(row%5 + 1))) },
			"another previous": func(_ *Tree, b []byte) []byte { b[1]++; return b },
		} {
			t.Run(fmt.Sprintf("row %d %s", row, name), func(t *testing.T) {
				tree := newTestTree(t, "log")
				for i := uint64(1); i <= 5; i++ {
					c := note("log", naive.head(i*10), "s")
					c.Source = "upstream"
					var consistency []Hash
					if i > 1 {
						consistency = naive.consistency(i*10-10, i*10)
					}
					if _, err := tree.Advance(c, consistency, nil); err != nil {
						t.Fatal(err)
					}
				}
				checkTree(t, tree)
				if name == "another base" { // a row without a proof has its base at another place
					if r := archiveOf(t, tree)[row-1]; len(r.Proof) > 0 {
						change = func(_ *Tree, b []byte) []byte { b[len(b)-4-len(r.Proof)*HashSize-1]++; return b }
					} else {
						change = func(_ *Tree, b []byte) []byte { b[len(b)-4-1]++; return b }
					}
				}
				var apply func([]byte) []byte
				if change != nil {
					apply = func(b []byte) []byte { return change(tree, b) }
				}
				tamper(t, tree.db, tree.id.archiveRow(row), apply)
				report, err := tree.Check(context.Background(), CheckOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Problems) == 0 || !strings.Contains(fmt.Sprint(report.Problems), "archive") {
					t.Errorf("check says %v", report.Problems)
				}
			})
		}
	}
}

// TestArchiveAdopted: what an older version archived gets its rows when it is opened.
func TestArchiveAdopted(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	naive := newNaiveTree(testEntries(100))
	tree := createTree(t, db, "log")
	for i := uint64(1); i <= 4; i++ {
		c := note("log", naive.head(i*20), "s")
		c.FirstSeen = start.Add(time.Duration(i) * time.Second)
		var consistency []Hash
		if i > 1 {
			consistency = naive.consistency(i*20-20, i*20)
		}
		if _, err := tree.Advance(c, consistency, nil); err != nil {
			t.Fatal(err)
		}
	}
	late := note("log", naive.head(30), "s")
	late.FirstSeen = start.Add(time.Minute)
	if err := tree.Link(late, naive.consistency(30, 80)); err != nil {
		t.Fatal(err)
	}
	for row := uint64(1); row <= 5; row++ {
		tamper(t, db, tree.id.archiveRow(row), nil)
	}
	tamper(t, db, tree.id.head(), func(b []byte) []byte {
		b[0] = 3
		return b[:len(b)-archivedSize]
	})
	o.ReadOnly = true
	db = reopen(t, db, o)
	if rows, _ := openTree(t, db, "log").State().ArchiveRows(); rows != 0 {
		t.Errorf("read only: %d rows", rows)
	}
	o.ReadOnly = false
	db = reopen(t, db, o)
	tree = openTree(t, db, "log")
	if got := relations(archiveOf(t, tree)); got != "first 20, extends 40, extends 60, extends 80, precedes 30" {
		t.Errorf("rows: %s", got)
	}
	checkTree(t, tree)
	if _, err := tree.Advance(note("log", naive.head(90), "s"), naive.consistency(80, 90), nil); err != nil {
		t.Fatal(err)
	}
	db = reopen(t, db, o)
	tree = openTree(t, db, "log")
	if rows := archiveOf(t, tree); len(rows) != 6 {
		t.Errorf("%d rows", len(rows))
	}
	checkTree(t, tree)
}

// TestRecall: a tree without entries takes back what is remembered elsewhere, and says that
// nothing proves it; one with entries does not.
func TestRecall(t *testing.T) {
	tree := newTestTree(t, "log")
	naive := newNaiveTree(testEntries(100))
	at := func(size uint64) Checkpoint { return note("log", naive.head(size), "s") }
	if _, err := tree.Advance(at(10), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Advance(at(20), naive.consistency(10, 20), nil); err != nil {
		t.Fatal(err)
	}
	if err := tree.Recall(at(50)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []uint64{50, 49} {
		if err := tree.Recall(at(size)); !errors.Is(err, ErrRollback) {
			t.Errorf("recall size %d: %v", size, err)
		}
	}
	if _, err := tree.Advance(at(60), naive.consistency(50, 60), nil); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	if got := relations(archiveOf(t, tree)); got != "first 10, extends 20, unproven 50, extends 60" {
		t.Errorf("rows: %s", got)
	}
	own := createTree(t, tree.db, "own")
	extend(t, own, testEntries(5))
	if err := own.Recall(note("own", naive.head(50), "s")); err == nil {
		t.Error("a tree with entries recalled a checkpoint")
	}
	fresh := createTree(t, tree.db, "fresh")
	if err := fresh.Recall(note("fresh", naive.head(50), "s")); err != nil {
		t.Fatal(err)
	}
	if got := relations(archiveOf(t, fresh)); got != "first 50" {
		t.Errorf("rows: %s", got)
	}
	checkTree(t, fresh)
}

// TestCosignatures: of each key the last line is kept, and what is no line is refused.
func TestCosignatures(t *testing.T) {
	tree := newTestTree(t, "log")
	naive := newNaiveTree(testEntries(100))
	c := note("log", naive.head(10), "s")
	if _, err := tree.Advance(c, nil, nil); err != nil {
		t.Fatal(err)
	}
	line := func(name, signature string) string {
		return "— " + name + " " + base64.StdEncoding.EncodeToString([]byte(signature))
	}
	for _, lines := range [][]string{{line("w1", "1234 first"), line("w1", "1235 other key")}, {line("w2", "1234 x"), line("w1", "1234 second")}} {
		if err := tree.Cosigned(c, lines); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{line("w1", "1234 second"), line("w2", "1234 x"), line("w1", "1235 other key")}
	if rows := archiveOf(t, tree); !slices.Equal(rows[0].Cosignatures, want) {
		t.Errorf("cosignatures are %q, want %q", rows[0].Cosignatures, want)
	}
	for _, bad := range []string{"", "x", "— w1", "— w1 !", "— w1 MTIz", line("w1", "1234 x") + "\n", "- w1 MTIzNDU2"} {
		if err := tree.Cosigned(c, []string{bad}); err == nil {
			t.Errorf("%q was kept", bad)
		}
	}
	checkTree(t, tree)
}

// TestPrecedesVia composes, for every head, pending checkpoint and next checkpoint up to a size,
// the proof that Advance needs out of the one that somebody who knows only the pending one has.
func TestPrecedesVia(t *testing.T) {
	const most = 36
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	for held := uint64(0); held <= most; held++ {
		for pending := max(held, 1); pending <= most; pending++ {
			tree := newTestTree(t, "log")
			if _, err := tree.Advance(note("log", naive.head(pending), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if held > 0 {
				if _, err := tree.Extend(entries[:held], func(Head) (Seal, error) {
					return Seal{Checkpoint: tree.State().Pending, Precedes: naive.consistency(held, pending)}, nil
				}); err != nil {
					t.Fatal(err)
				}
			}
			v := tree.View()
			for next := pending; next <= most; next++ {
				got, err := v.PrecedesVia(naive.consistency(pending, next), naive.head(next))
				if err != nil || !slices.Equal(got, naive.consistency(held, next)) {
					t.Fatalf("from %d by way of %d to %d: %v, %v", held, pending, next, got, err)
				}
			}
			v.Close()
		}
	}
}

// TestNoteCosigned: a cosigner is kept from going back, each for itself, also after a crash.
func TestNoteCosigned(t *testing.T) {
	disk := vfs.NewCrashableMem()
	n, err := OpenNewest("newest", Options{FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	at := func(size uint64, root byte) Checkpoint { return note("log", Head{size, Hash{root}}, "s") }
	for _, step := range []struct {
		by   Cosigner
		c    Checkpoint
		want error
	}{
		{CosignerWitness, at(10, 1), nil}, {CosignerMirror, at(5, 1), nil}, {CosignerWitness, at(9, 1), ErrRollback}, {CosignerWitness, at(10, 2), ErrFork},
		{CosignerWitness, at(10, 1), nil}, {CosignerMirror, at(6, 1), nil}, {CosignerMirror, at(5, 1), ErrRollback}, {CosignerWitness, at(11, 1), nil},
	} {
		before := n.Cosigned(step.by, "log")
		err := n.NoteCosigned(step.by, "log", step.c)
		if !errors.Is(err, step.want) || (step.want == nil) != (err == nil) {
			t.Fatalf("%c size %d: %v, want %v", step.by, step.c.Size, err, step.want)
		}
		want := step.c
		if err != nil {
			want = before
		}
		crashed, err := OpenNewest("newest", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range []*Newest{n, crashed} {
			if got := m.Cosigned(step.by, "log"); got.ref() != want.ref() {
				t.Errorf("cosigned is %v, want %v", got.Head, want.Head)
			}
		}
		if n.Of("log").Raw != nil || n.Cosigned(step.by, "other").Raw != nil {
			t.Error("one memory is another's")
		}
		if err := crashed.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreArchive: rows of a pack are put back behind those that are held, tied to them, and
// nothing else is.
func TestRestoreArchive(t *testing.T) {
	naive := newNaiveTree(testEntries(100))
	make := func(t *testing.T, sizes ...uint64) *Tree {
		tree := newTestTree(t, "log")
		for i, size := range sizes {
			var consistency []Hash
			if i > 0 {
				consistency = naive.consistency(sizes[i-1], size)
			}
			if _, err := tree.Advance(note("log", naive.head(size), "s"), consistency, nil); err != nil {
				t.Fatal(err)
			}
		}
		return tree
	}
	rows := archiveOf(t, make(t, 10, 20, 35, 60))
	tree := make(t, 10, 20)
	for i := range rows {
		rows[i].Base = Head{} // a pack does not say it
	}
	if err := tree.RestoreArchive(rows[3]); err == nil {
		t.Error("a row was left out")
	}
	if err := tree.RestoreArchive(rows[1]); err == nil {
		t.Error("a row was put back twice")
	}
	for _, row := range rows[2:] {
		if err := tree.RestoreArchive(row); err != nil {
			t.Fatal(err)
		}
	}
	if got := relations(archiveOf(t, tree)); got != "first 10, extends 20, extends 35, extends 60" || tree.State().Pending.Size != 20 {
		t.Errorf("%s, pending %d", got, tree.State().Pending.Size)
	}
	checkTree(t, tree)
	if err := tree.Recall(note("log", naive.head(60), "s")); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	v := tree.View()
	defer v.Close()
	if proof, err := v.LinkedProof(10, 60); err != nil || !slices.Equal(proof, naive.consistency(10, 60)) {
		t.Errorf("proof across what was put back: %v, %v", proof, err)
	}
	if n, _ := tree.State().ArchiveRows(); n != 4 {
		t.Errorf("%d rows", n)
	}
}
