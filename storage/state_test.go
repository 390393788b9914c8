package storage

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestDuplicates: of equal entries, and of leaves with equal first bytes, Index gives
// the lowest that is really meant, and none that the view does not hold.
func TestDuplicates(t *testing.T) {
	tree := newTestTree(t, "log")
	x, y, z := []byte("x"), []byte("y"), []byte("z")
	extend(t, tree, [][]byte{y, x, x, y})
	v := tree.View()
	defer v.Close()
	extend(t, tree, [][]byte{x, z})
	hash, late := LeafHash(x), LeafHash([]byte("late"))
	for _, row := range [][]byte{
		tree.id.leaf(hash, 0), tree.id.leaf(hash, 3), // as a leaf with the same first bytes has
		tree.id.leaf(late, 9), // as of a commit between the state and the snapshot of a view
	} {
		if err := tree.db.pebble.Set(row, nil, pebble.Sync); err != nil {
			t.Fatal(err)
		}
	}
	look := func(v *View, leaf Hash, want uint64, held bool) {
		t.Helper()
		if got, ok, err := v.Index(leaf); err != nil || ok != held || got != want {
			t.Errorf("index of %v is %d, %v, %v, want %d, %v", leaf, got, ok, err, want, held)
		}
	}
	now := tree.View()
	defer now.Close()
	cousin := hash
	cousin[31] ^= 1
	for _, view := range []*View{v, now} {
		look(view, hash, 1, true)
		look(view, LeafHash(y), 0, true)
		look(view, cousin, 0, false)
		look(view, Hash{}, 0, false)
		look(view, late, 0, false)
	}
	look(v, LeafHash(z), 0, false)
	look(now, LeafHash(z), 5, true)
}

// TestOversizedEntry: what no bundle can hold is kept and proven.
func TestOversizedEntry(t *testing.T) {
	tree := newTestTree(t, "log")
	longest, tooLong := bytes.Repeat([]byte{1}, 1<<16-1), bytes.Repeat([]byte{2}, 1<<16)
	entries := testEntries(600)
	entries[3], entries[300] = longest, tooLong
	extend(t, tree, entries)
	checkTree(t, tree)
	v := tree.View()
	defer v.Close()
	if got, err := v.Entry(300); err != nil || !bytes.Equal(got, tooLong) {
		t.Errorf("entry of %d bytes, %v", len(got), err)
	}
	if got, err := v.InclusionProof(300, 600); err != nil || !slices.Equal(got, newNaiveTree(entries).inclusion(300, 600)) {
		t.Errorf("proof: %v", err)
	}
	if b, err := v.Bundle(0, 256); err != nil || !bytes.Contains(b, append([]byte{0xff, 0xff}, longest...)) {
		t.Errorf("bundle with the longest entry: %v", err)
	}
	var oversized *OversizedEntryError
	if _, err := v.Bundle(1, 256); !errors.As(err, &oversized) || oversized.Index != 300 {
		t.Errorf("bundle with a longer one: %v", err)
	}
	if _, err := v.Bundle(1, 300-256); err != nil {
		t.Errorf("part of the bundle before it: %v", err)
	}
}

// TestEmptyLog mirrors a log that signed size 0 first.
func TestEmptyLog(t *testing.T) {
	tree := newTestTree(t, "log")
	entries := testEntries(5)
	naive := newNaiveTree(entries)
	if _, err := tree.Advance(note("log", Head{0, Hash{1}}, "s"), nil, nil); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a wrong root of the empty tree: %v", err)
	}
	s, err := tree.Advance(note("log", naive.head(0), "s"), nil, nil)
	if err != nil || s.Mirrored.Raw == nil {
		t.Fatalf("%+v, %v", s, err)
	}
	checkTree(t, tree)
	if _, err := tree.Advance(note("log", naive.head(5), "s"), []Hash{{}}, nil); !errors.Is(err, ErrInconsistent) {
		t.Errorf("a proof from size 0: %v", err)
	}
	five := note("log", naive.head(5), "s")
	if s, err = tree.Advance(five, nil, nil); err != nil || s.Mirrored.Size != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	v := tree.View()
	defer v.Close()
	for size, held := range []bool{true, false, false, false, false, true} {
		if _, err := v.Root(uint64(size)); (err == nil) != held {
			t.Errorf("root at %d: %v", size, err)
		}
		if _, err := v.ConsistencyProof(0, uint64(size)); (err == nil) != held {
			t.Errorf("consistency of 0 with %d: %v", size, err)
		}
	}
	if _, err := tree.Extend(entries, under(five, nil)); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
}

// TestRefusals: what Extend and Advance refuse changes nothing.
func TestRefusals(t *testing.T) {
	entries := testEntries(20)
	naive := newNaiveTree(entries)
	ten := note("log", naive.head(10), "s")
	proof := naive.consistency
	busy := errors.New("busy")
	wrong := func(size uint64) Checkpoint { return note("log", Head{size, Hash{1}}, "s") }
	for _, c := range []struct {
		name string
		held int // of ten; -1: no checkpoint yet
		do   func(*Tree) (*State, error)
		want error
	}{
		{"entries without a checkpoint", -1, func(tree *Tree) (*State, error) {
			return tree.Extend(entries, under(Checkpoint{Head: naive.head(20)}, nil))
		}, ErrInconsistent},
		{"no entries and no checkpoint", -1, func(tree *Tree) (*State, error) { return tree.Extend(nil, under(Checkpoint{}, nil)) }, ErrInconsistent},
		{"no checkpoint", 4, func(tree *Tree) (*State, error) { return tree.Advance(Checkpoint{Head: naive.head(20)}, nil, nil) }, ErrInconsistent},
		{"no first checkpoint", -1, func(tree *Tree) (*State, error) { return tree.Advance(Checkpoint{Head: naive.head(20)}, nil, nil) }, ErrInconsistent},
		{"first checkpoint with a proof", -1, func(tree *Tree) (*State, error) { return tree.Advance(ten, []Hash{{}}, nil) }, ErrInconsistent},
		{"first checkpoint beyond the entries", -1, func(tree *Tree) (*State, error) { return tree.Extend(entries[:4], under(ten, proof(4, 10))) }, ErrInconsistent},
		{"wrong entries", 4, func(tree *Tree) (*State, error) { return tree.Extend(entries[5:8], under(ten, proof(7, 10))) }, ErrInconsistent},
		{"wrong last entry", 4, func(tree *Tree) (*State, error) {
			return tree.Extend(append(slices.Clone(entries[4:9]), entries[0]), under(ten, nil))
		}, ErrInconsistent},
		{"too many entries", 4, func(tree *Tree) (*State, error) { return tree.Extend(entries[4:11], under(ten, nil)) }, ErrInconsistent},
		{"new checkpoint before the pending one is complete", 4, func(tree *Tree) (*State, error) { return tree.Extend(entries[4:12], sign("log")) }, ErrInconsistent},
		{"new checkpoint for another size", 10, func(tree *Tree) (*State, error) {
			return tree.Extend(entries[10:12], under(note("log", naive.head(13), "s"), proof(12, 13)))
		}, ErrInconsistent},
		{"new checkpoint for another root", 10, func(tree *Tree) (*State, error) { return tree.Extend(entries[10:12], under(wrong(12), nil)) }, ErrInconsistent},
		{"old checkpoint for new entries", 10, func(tree *Tree) (*State, error) { return tree.Extend(entries[10:12], under(ten, nil)) }, ErrInconsistent},
		{"seal that refuses", 10, func(tree *Tree) (*State, error) {
			return tree.Extend(entries[10:12], func(Head) (Seal, error) { return Seal{}, busy })
		}, busy},
		{"smaller checkpoint", 4, func(tree *Tree) (*State, error) { return tree.Advance(note("log", naive.head(9), "s"), nil, nil) }, ErrRollback},
		{"smaller checkpoint with a proof", 10, func(tree *Tree) (*State, error) {
			return tree.Advance(note("log", naive.head(9), "s"), proof(9, 10), nil)
		}, ErrRollback},
		{"empty checkpoint", 4, func(tree *Tree) (*State, error) { return tree.Advance(note("log", naive.head(0), "s"), nil, nil) }, ErrRollback},
		{"other root of the same size", 4, func(tree *Tree) (*State, error) { return tree.Advance(wrong(10), nil, proof(4, 10)) }, ErrFork},
		{"other root of the same size when complete", 10, func(tree *Tree) (*State, error) { return tree.Advance(wrong(10), nil, nil) }, ErrFork},
		{"larger checkpoint of another tree", 4, func(tree *Tree) (*State, error) { return tree.Advance(wrong(20), proof(10, 20), proof(4, 20)) }, ErrInconsistent},
		{"larger checkpoint without a proof", 10, func(tree *Tree) (*State, error) { return tree.Advance(note("log", naive.head(20), "s"), nil, nil) }, ErrInconsistent},
		{"same checkpoint without its precedes-proof", 4, func(tree *Tree) (*State, error) { return tree.Advance(ten, nil, nil) }, ErrInconsistent},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := Options{FS: vfs.NewMem()}
			db := createDB(t, o)
			tree := createTree(t, db, "log")
			if c.held >= 0 {
				if _, err := tree.Advance(ten, nil, nil); err != nil {
					t.Fatal(err)
				}
			}
			if c.held > 0 {
				if _, err := tree.Extend(entries[:c.held], under(ten, proof(uint64(c.held), 10))); err != nil {
					t.Fatal(err)
				}
			}
			before, changed := tree.State(), tree.Changed()
			if s, err := c.do(tree); s != nil || !errors.Is(err, c.want) {
				t.Errorf("%+v, %v, want %v", s, err, c.want)
			}
			select {
			case <-changed:
				t.Error("changed")
			default:
			}
			if tree.State() != before {
				t.Errorf("state changed to %+v", tree.State())
			}
			checkTree(t, tree)
			db = reopen(t, db, o)
			defer func() { closeDB(t, db) }()
			if s := openTree(t, db, "log").State(); !bytes.Equal(s.records(), before.records()) {
				t.Errorf("state on disk changed to %+v", s)
			}
		})
	}
}

// TestQuarantine: the first evidence is kept, to the byte and over restarts, and closes
// the tree for changes, but not for reading.
func TestQuarantine(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(10)
	naive := newNaiveTree(entries)
	ten := note("log", naive.head(10), "s")
	if _, err := tree.Advance(ten, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Extend(entries[:4], under(ten, naive.consistency(4, 10))); err != nil {
		t.Fatal(err)
	}
	ev := Evidence{First: ten.Raw, Second: note("log", Head{10, Hash{1}}, "s").Raw, Root: Hash{2}, Proof: []Hash{{3}, {4}}, At: start, Reason: "two roots"}
	changed := tree.Changed()
	if err := tree.Quarantine(ev); err != nil {
		t.Fatal(err)
	}
	<-changed
	for range 2 {
		checkTree(t, tree)
		s := tree.State()
		if s.Evidence == nil || !reflect.DeepEqual(*s.Evidence, ev) {
			t.Errorf("evidence is %+v, want %+v", s.Evidence, ev)
		}
		if err := tree.Quarantine(Evidence{Reason: "later"}); err != nil {
			t.Errorf("second evidence: %v", err)
		}
		if err := tree.Seen(start.Add(time.Hour)); err != nil {
			t.Errorf("seen: %v", err)
		}
		for what, err := range map[string]error{
			"extend":  second(tree.Extend(entries[4:], under(ten, nil))),
			"advance": second(tree.Advance(ten, nil, naive.consistency(4, 10))),
		} {
			if !errors.Is(err, ErrQuarantined) {
				t.Errorf("%s: %v, want ErrQuarantined", what, err)
			}
		}
		if tree.State() != s {
			t.Error("state of a quarantined tree changed")
		}
		if err := tree.Archive(note("log", Head{10, Hash{1}}, "s")); err != nil {
			t.Errorf("archive: %v", err)
		}
		v := tree.View()
		checkAhead(t, tree, naive, 4, 10)
		if c, ok, err := v.Checkpoint(10); !ok || err != nil || c.Root != ten.Root {
			t.Errorf("checkpoint of size 10 is %+v, %v, %v", c, ok, err)
		}
		v.Close()
		db = reopen(t, db, o)
		tree = openTree(t, db, "log")
	}
	closeDB(t, db)
}

// TestArchive: the archive keeps one row for each text, its first bytes, and when it was
// first and last seen.
func TestArchive(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(20)
	naive := newNaiveTree(entries)
	at := func(minutes int) time.Time { return start.Add(time.Duration(minutes) * time.Minute) }
	seen := func(c Checkpoint, minutes int) Checkpoint {
		c.FirstSeen, c.LastSeen = at(minutes), at(minutes)
		return c
	}
	size := func(n uint64, signature string, extensions ...string) Checkpoint {
		return note("log", naive.head(n), signature, extensions...)
	}
	archive := func() (rows []string) {
		t.Helper()
		v := tree.View()
		defer v.Close()
		if err := v.Checkpoints(0, ^uint64(0), func(c Checkpoint) error {
			rows = append(rows, fmt.Sprintf("%d %s %v-%v", c.Size, c.Raw[len(c.Raw)-5:len(c.Raw)-1], c.FirstSeen.Sub(start).Minutes(), c.LastSeen.Sub(start).Minutes()))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	for minute, c := range []struct {
		do      func(minute int) error
		pending string // signature of the pending checkpoint
		rows    []string
	}{
		{func(m int) error { return second(tree.Advance(seen(size(10, "aaa"), m), nil, nil)) }, "aaa", []string{"10 YWFh 0-0"}},
		// Signed again: the first bytes stay.
		{func(m int) error { return second(tree.Advance(seen(size(10, "bbb"), m), nil, nil)) }, "aaa", []string{"10 YWFh 0-1"}},
		{func(m int) error { return second(tree.Extend(entries[:10], under(seen(size(10, "ccc"), m), nil))) }, "aaa", []string{"10 YWFh 0-2"}},
		// Another text of the same tree is another row, and becomes pending.
		{func(m int) error { return second(tree.Advance(seen(size(10, "ddd", "Log frozen"), m), nil, nil)) }, "ddd", []string{"10 YWFh 0-2", "10 ZGRk 3-3"}},
		// An older one that was never seen, and one that was.
		{func(m int) error { return tree.Archive(seen(size(5, "eee"), m)) }, "ddd", []string{"5 ZWVl 4-4", "10 YWFh 0-2", "10 ZGRk 3-3"}},
		{func(m int) error { return tree.Archive(seen(size(10, "fff"), m)) }, "ddd", []string{"5 ZWVl 4-4", "10 YWFh 0-5", "10 ZGRk 3-3"}},
		{func(m int) error { return tree.Archive(seen(size(5, "ggg"), 1)) }, "ddd", []string{"5 ZWVl 4-4", "10 YWFh 0-5", "10 ZGRk 3-3"}},
	} {
		if err := c.do(minute); err != nil {
			t.Fatalf("minute %d: %v", minute, err)
		}
		checkTree(t, tree)
		db = reopen(t, db, o)
		tree = openTree(t, db, "log")
		checkTree(t, tree)
		got := archive()
		slices.Sort(got)
		slices.Sort(c.rows)
		if !slices.Equal(got, c.rows) {
			t.Errorf("minute %d: archive is %q, want %q", minute, got, c.rows)
		}
		if s := tree.State(); !bytes.Equal(s.Pending.Raw, size(10, c.pending, map[bool][]string{true: {"Log frozen"}}[c.pending == "ddd"]...).Raw) {
			t.Errorf("minute %d: pending is %q", minute, s.Pending.Raw)
		}
	}
	if s := tree.State(); !bytes.Equal(s.Mirrored.Raw, s.Pending.Raw) {
		t.Errorf("mirror checkpoint is %q, want the frozen one", s.Mirrored.Raw)
	}
	v := tree.View()
	for n, want := range map[uint64]string{5: "eee", 10: "ddd"} {
		if c, ok, err := v.Checkpoint(n); err != nil || !ok || !bytes.Contains(c.Raw, size(n, want).Raw[len(size(n, want).Raw)-5:]) {
			t.Errorf("checkpoint of size %d is %q, %v, %v", n, c.Raw, ok, err)
		}
	}
	for _, n := range []uint64{0, 4, 6, 11, ^uint64(0)} {
		if c, ok, err := v.Checkpoint(n); ok || err != nil {
			t.Errorf("checkpoint of size %d is %q, %v", n, c.Raw, err)
		}
	}
	v.Close()
	closeDB(t, db)
}

// TestCheckpointOfSize: of the checkpoints of a size it is the pending one, or the first
// seen of those that sign the tree that is held.
func TestCheckpointOfSize(t *testing.T) {
	tree := newTestTree(t, "log")
	entries := testEntries(20)
	naive := newNaiveTree(entries)
	for _, n := range [][2]int{{0, 5}, {5, 10}, {10, 20}} {
		extend(t, tree, entries[n[0]:n[1]])
	}
	archive := func(head Head, minutes int, extensions ...string) []byte {
		t.Helper()
		c := note("log", head, "s", extensions...)
		c.FirstSeen = start.Add(time.Duration(minutes) * time.Minute)
		if err := tree.Archive(c); err != nil {
			t.Fatal(err)
		}
		return c.Raw
	}
	want := map[uint64][]byte{}
	for i, size := range []uint64{5, 10} { // rows of one size stand in the order of their texts' hashes
		for j := range 8 {
			c := archive(naive.head(size), []int{1, -10 + j, -20, -10 - j}[(j+i)%4], fmt.Sprint("extension ", i, j))
			if (j+i)%4 == 2 && want[size] == nil {
				want[size] = c
			}
		}
		archive(Head{size, Hash{byte(i)}}, -100)
	}
	archive(naive.head(20), -100, "older than pending")
	want[20] = tree.State().Pending.Raw
	v := tree.View()
	defer v.Close()
	for size, raw := range want {
		c, ok, err := v.Checkpoint(size)
		if err != nil || !ok || c.Root != naive.mth(0, size) || size == 20 && !bytes.Equal(c.Raw, raw) {
			t.Errorf("checkpoint of size %d is %q, %v, %v", size, c.Raw, ok, err)
		}
		if size < 20 && !c.FirstSeen.Equal(start.Add(-20*time.Minute)) {
			t.Errorf("checkpoint of size %d was first seen %v", size, c.FirstSeen)
		}
	}
}

// TestSeen: when a checkpoint was last seen never goes back, and what is persisted of it
// is about a minute old at most.
func TestSeen(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(20)
	naive := newNaiveTree(entries)
	if err := tree.Seen(start); err != nil {
		t.Errorf("seen before there is anything: %v", err)
	}
	pending := note("log", naive.head(20), "s")
	if _, err := tree.Advance(pending, nil, nil); err != nil {
		t.Fatal(err)
	}
	last := func(seconds int, what string) {
		t.Helper()
		if got := tree.State().Pending.LastSeen.Sub(start).Seconds(); got != float64(seconds) {
			t.Errorf("%s: last seen %v s after the start, want %d", what, got, seconds)
		}
	}
	look := func(seconds int) {
		t.Helper()
		if err := tree.Seen(start.Add(time.Duration(seconds) * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() {
		t.Helper()
		db = reopen(t, db, o)
		tree = openTree(t, db, "log")
	}
	look(30)
	last(30, "seen")
	restart()
	last(0, "after a restart, within a minute")
	look(90)
	look(50)
	last(90, "seen earlier")
	restart()
	last(90, "after a restart, later")
	look(95)
	look(100) // not persisted
	if _, err := tree.Extend(entries[:7], under(pending, naive.consistency(7, 20))); err != nil {
		t.Fatal(err)
	}
	last(100, "extended under an older copy of the checkpoint")
	if _, err := tree.Advance(pending, nil, naive.consistency(7, 20)); err != nil {
		t.Fatal(err)
	}
	last(100, "advanced to an older copy of the checkpoint")
	if _, err := tree.Extend(entries[7:], under(pending, nil)); err != nil {
		t.Fatal(err)
	}
	look(110)
	if s := tree.State(); !s.Mirrored.LastSeen.Equal(s.Pending.LastSeen) {
		t.Errorf("mirror checkpoint was seen %v, pending %v", s.Mirrored.LastSeen, s.Pending.LastSeen)
	}
	restart()
	last(100, "after a restart, persisted by the commit")
	checkTree(t, tree)
	closeDB(t, db)
}
