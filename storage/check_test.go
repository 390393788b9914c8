package storage

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCheckNames changes one row at a time behind the tree's back. Check names each, on
// the open database, and after opening it again unless that is refused with a reason. Repair
// puts back entries, tiles and index, to the row, and nothing else.
func TestCheckNames(t *testing.T) {
	entries := testEntries(700)
	naive := newNaiveTree(entries)
	const held, signed = 600, 700
	pending := note("log", naive.head(signed), "s")
	other := note("log", naive.head(500), "s")
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[(at+len(b))%len(b)] ^= 1; return b }
	}
	cut := func(n int) func([]byte) []byte { return func(b []byte) []byte { return b[:len(b)-n] } }
	id := treeID(1)
	row := func(c Checkpoint) []byte { return id.checkpoint(c.Head, c.textHash()) }
	mended := map[string]bool{ // by Open: the border of the tree
		"partial tile flipped": true, "partial tile shorter": true, "partial tile deleted": true, "upper tile flipped": true, "upper tile deleted": true,
	}
	for _, m := range []struct {
		name   string
		key    []byte
		change func([]byte) []byte // nil deletes; it gets nil if there is no row
		finds  string              // what Check says, its beginning
		opens  string              // what OpenTree says after a restart, if not nothing
	}{
		{"entry flipped", id.entry(300), flip(5), "tile 0/1", ""},
		{"entry shorter", id.entry(300), cut(1), "tile 0/1", ""},
		{"entry emptied", id.entry(300), cut(10), "entry 300", ""},
		{"entry's codec", id.entry(300), flip(0), "entry 300", ""},
		{"entry deleted", id.entry(300), nil, "entry 300", ""},
		{"first entry deleted", id.entry(0), nil, "entry 0", ""},
		{"last entry deleted", id.entry(held - 1), nil, "entry 599", ""},
		{"entry beyond the head", id.entry(held + 1), func([]byte) []byte { return []byte{0, 1} }, "entry 601", ""},
		{"entry far beyond the head", id.entry(1 << 60), func([]byte) []byte { return []byte{0, 1} }, "entry 1152921504606846976", ""},
		{"full tile flipped", id.tile(0, 1), flip(100 * HashSize), "tile 0/1", ""},
		{"full tile shorter", id.tile(0, 1), cut(HashSize), "tile 0/1", ""},
		{"full tile deleted", id.tile(0, 1), nil, "tile 0/1", ""},
		{"tile longer", id.tile(0, 1), func(b []byte) []byte { return append(b, make([]byte, HashSize)...) }, "tile 0/1", ""},
		{"partial tile flipped", id.tile(0, 2), flip(0), "tile 0/2", ""},
		{"partial tile shorter", id.tile(0, 2), cut(1), "tile 0/2", ""},
		{"partial tile deleted", id.tile(0, 2), nil, "tile 0/2", ""},
		{"partial tile wider", id.tile(0, 2), func(b []byte) []byte { return append(b, make([]byte, HashSize)...) }, "tile 0/2", ""},
		{"upper tile flipped", id.tile(1, 0), flip(40), "tile 1/0", ""},
		{"upper tile deleted", id.tile(1, 0), nil, "tile 1/0", ""},
		{"tile beyond the head", id.tile(0, 3), func([]byte) []byte { return make([]byte, HashSize) }, "tile 0/3", ""},
		{"empty tile beyond the head", id.tile(0, 3), func([]byte) []byte { return []byte{} }, "tile 0/3", ""},
		{"tile above the root", id.tile(2, 0), func([]byte) []byte { return make([]byte, HashSize) }, "tile 2/0", ""},
		{"tile of no level", id.tile(200, 0), func([]byte) []byte { return make([]byte, HashSize) }, "tile 200/0", ""},
		{"tile with half a key", id.tile(0, 1)[:12], func([]byte) []byte { return nil }, "tiles", ""},
		{"leaf row deleted", id.leaf(naive.leaves[7], 7), nil, "leaf index row of entry 7 is missing", ""},
		{"leaf row of another entry", id.leaf(naive.leaves[7], 8), func([]byte) []byte { return nil }, "leaf index has a wrong row for entry 8", ""},
		{"leaf row of no entry", id.leaf(Hash{1}, 7), func([]byte) []byte { return nil }, "leaf index has a wrong row for entry 7", ""},
		{"leaf row beyond the head", id.leaf(naive.leaves[7], 650), func([]byte) []byte { return nil }, "leaf index has a row for entry 650, beyond the head", ""},
		{"leaf row with half a key", id.leaf(naive.leaves[7], 7)[:12], func([]byte) []byte { return nil }, "leaf index", ""},
		{"head record deleted", id.head(), nil, "head record", "head record is missing"},
		{"head record emptied", id.head(), func([]byte) []byte { return []byte{} }, "head record", "head record"},
		{"head record of another version", id.head(), flip(0), "head record", "malformed"},
		{"size", id.head(), flip(8), "head record", "does not precede"},
		{"root", id.head(), flip(20), "head record", "does not precede"},
		{"reference to pending", id.head(), flip(50), "checkpoint of size", "checkpoint of size"},
		{"minimum index", id.head(), flip(41), "head record", "minimum index"},
		{"precedes-proof flipped", id.head(), flip(-2 - archivedSize), "head record", "does not precede"},
		{"precedes-proof shorter", id.head(), cut(HashSize), "head record", "malformed"},
		{"pending checkpoint deleted", row(pending), nil, "checkpoint of size 700", "checkpoint of size 700 is missing"},
		{"pending checkpoint's root", row(pending), flip(-60), "checkpoint of size 700", "checkpoint of size 700"},
		{"mirror checkpoint deleted", row(note("log", naive.head(held-100), "s")), nil, "checkpoint of size 500", "checkpoint of size 500"},
		{"archived checkpoint shorter", row(other), cut(1), "checkpoint of size 500", "checkpoint of size 500"},
		{"checkpoint in a foreign row", id.checkpoint(naive.head(400), other.textHash()), func([]byte) []byte { return encodeCheckpoint(other) }, "checkpoint of size 400", ""},
		{"checkpoint of a foreign size", id.checkpoint(Head{650, pending.Root}, pending.textHash()), func([]byte) []byte { return encodeCheckpoint(pending) }, "checkpoint of size 650", ""},
		{"checkpoint with a foreign root", id.checkpoint(Head{700, Hash{1}}, pending.textHash()), func([]byte) []byte { return encodeCheckpoint(pending) }, "checkpoint of size 700", ""},
		{"checkpoint under a foreign text", id.checkpoint(other.Head, Hash{1}), func([]byte) []byte { return encodeCheckpoint(other) }, "checkpoint of size 500", ""},
		{"checkpoint with another root", row(note("log", Head{400, Hash{1}}, "s")), func([]byte) []byte { return encodeCheckpoint(note("log", Head{400, Hash{1}}, "s")) }, "checkpoint of size 400", ""},
		{"checkpoint of another log", row(note("elsewhere", naive.head(400), "s")), func([]byte) []byte { return encodeCheckpoint(note("elsewhere", naive.head(400), "s")) }, "checkpoint of size 400", ""},
		{"checkpoint that is none", id.checkpoint(naive.head(400), Checkpoint{Raw: []byte("x")}.textHash()), func([]byte) []byte { return encodeCheckpoint(Checkpoint{Raw: []byte("x")}) }, "checkpoint of size 400", ""},
		{"checkpoint with half a key", row(other)[:30], func([]byte) []byte { return nil }, "checkpoint archive", ""},
		{"evidence", id.evidence(), func([]byte) []byte { return encodeEvidence(&Evidence{At: start}) }, "head record", ""},
		{"evidence that is none", id.evidence(), func([]byte) []byte { return []byte("x") }, "evidence", "evidence"},
	} {
		t.Run(m.name, func(t *testing.T) {
			o := Options{FS: vfs.NewMem()}
			db := createDB(t, o)
			tree := createTree(t, db, "log")
			if id != tree.id {
				t.Fatalf("tree has the number %d", tree.id)
			}
			for _, do := range []func() (*State, error){
				func() (*State, error) { return tree.Advance(other, nil, nil) },
				func() (*State, error) { return tree.Extend(entries[:500], under(other, nil)) },
				func() (*State, error) {
					return tree.Advance(pending, naive.consistency(500, signed), naive.consistency(500, signed))
				},
				func() (*State, error) {
					return tree.Extend(entries[500:held], under(pending, naive.consistency(held, signed)))
				},
			} {
				if _, err := do(); err != nil {
					t.Fatal(err)
				}
			}
			checkTree(t, tree)
			before := dump(t, db)
			tamper(t, db, m.key, m.change)
			finds(t, tree, m.finds)
			closeDB(t, db)
			db, err := Open("data", o)
			if err != nil {
				t.Fatal(err)
			}
			defer closeDB(t, db)
			tree, err = db.OpenTree("log")
			switch {
			case m.opens != "":
				if err == nil || !strings.Contains(err.Error(), m.opens) {
					t.Errorf("tree opens with %v, want %q", err, m.opens)
				}
			case err != nil:
				t.Errorf("tree does not open: %v", err)
			case m.name == "evidence":
				// Well-formed, so the log is quarantined now.
			case mended[m.name]:
				checkTree(t, tree)
				sameDump(t, dump(t, db), before)
			default:
				finds(t, tree, m.finds)
				if _, err := tree.Repair(context.Background(), naive.from(entries)); err != nil {
					t.Fatalf("repair: %v", err)
				}
				if healable(m.key) {
					checkTree(t, tree)
					sameDump(t, dump(t, db), before)
					if left := tree.Damage(); len(left) > 0 {
						t.Errorf("after repair %v is damaged", left)
					}
				} else {
					finds(t, tree, m.finds)
					if left := tree.Damage(); len(left) == 0 {
						t.Error("after repair nothing is damaged")
					}
				}
			}
		})
	}
}

// TestCheckDoubtsTheState: Check would also see it if the state had been committed
// wrong, in memory and on disk alike.
func TestCheckDoubtsTheState(t *testing.T) {
	entries := testEntries(10)
	naive := newNaiveTree(entries)
	ten := note("log", naive.head(10), "s")
	forged := note("log", Head{7, Hash{1}}, "s")
	for problem, s := range map[string]*State{
		"head does not precede the pending checkpoint": {Head: naive.head(7), Pending: ten, precedes: naive.consistency(6, 10)},
		"head has entries but no checkpoint":           {Head: naive.head(7)},
		"head has the root 01":                         {Head: forged.Head, Pending: forged, Mirrored: forged},
		"mirror checkpoint of size 10 is beyond":       {Head: naive.head(7), Pending: ten, Mirrored: ten, precedes: naive.consistency(7, 10)},
	} {
		tree := newTestTree(t, "log")
		for _, c := range []Checkpoint{ten, forged} {
			if err := tree.Archive(c); err != nil {
				t.Fatal(err)
			}
		}
		extend(t, tree, entries[:7])
		checkTreeOtherThan(t, tree, "checkpoint of size 7") // the forged one
		tree.state.Store(s)
		tamper(t, tree.db, tree.id.head(), func([]byte) []byte { return encodeState(s) })
		finds(t, tree, problem)
	}
}

// checkTreeOtherThan wants Check to find problems at one place only.
func checkTreeOtherThan(t *testing.T, tree *Tree, place string) {
	t.Helper()
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil || slices.ContainsFunc(report.Problems, func(p DamageError) bool { return p.Place != place }) {
		t.Fatalf("check: %v, %v", report.Problems, err)
	}
}

// TestCheckOptions holds what the caller of Check can ask for.
// TestCheckNamesEachOnce: one problem hides no other.
func TestCheckNamesEachOnce(t *testing.T) {
	tree := newTestTree(t, "log")
	extend(t, tree, testEntries(700))
	tamper(t, tree.db, tree.id.head(), nil)
	tamper(t, tree.db, tree.id.entry(0), nil)
	tamper(t, tree.db, tree.id.tile(0, 1), nil)
	for i := uint64(256); i < 512; i++ {
		tamper(t, tree.db, tree.id.entry(i), nil)
	}
	tree.db.tiles.Purge()
	tamper(t, tree.db, tree.id.leaf(LeafHash(testEntries(700)[600]), 600), nil)
	for _, problem := range []string{"head record is missing", "entry 0 is missing", "each of the entries 256 to 511 is missing", "tile 0/1 is missing", "leaf index row of entry 600 is missing"} {
		finds(t, tree, problem)
	}
	if report, err := tree.Check(context.Background(), CheckOptions{MaxProblems: 10_000}); err != nil || len(report.Problems) > 300 {
		t.Errorf("%d problems, %v: some twice", len(report.Problems), err)
	}
}

func TestCheckOptions(t *testing.T) {
	tree := newTestTree(t, "log")
	for _, n := range []int{3, 2} {
		extend(t, tree, testEntries(n))
	}
	ctx, cancel := context.WithCancel(context.Background())
	report, err := tree.Check(ctx, CheckOptions{Verify: func(raw []byte) error {
		if bytes.Equal(raw, tree.State().Pending.Raw) {
			return errors.New("forged")
		}
		return nil
	}})
	if err != nil || !report.SignaturesChecked || len(report.Problems) != 3 || report.Checkpoints != 2 {
		t.Errorf("a forged checkpoint of two: %+v, %v; want it named in the archive, as pending and as mirror checkpoint", report, err)
	}
	for _, i := range []uint64{0, 2, 4} {
		tamper(t, tree.db, tree.id.entry(i), nil)
	}
	if report, err = tree.Check(ctx, CheckOptions{MaxProblems: 2}); err != nil || len(report.Problems) != 2 || report.SignaturesChecked {
		t.Errorf("two problems at most: %+v, %v", report, err)
	}
	if report, err = tree.Check(ctx, CheckOptions{}); err != nil || len(report.Problems) != 3 || report.Entries != 2 {
		t.Errorf("three entries are missing: %+v, %v", report, err)
	}
	tamper(t, tree.db, tree.id.entry(1), func([]byte) []byte { return nil })
	tamper(t, tree.db, tree.id.entry(3), nil)
	want := []DamageError{
		{Place: "entry 0", Problem: "is missing"},
		{Place: "entry 1", Problem: "cannot be used: " + errStored.Error()},
		{Place: "each of the entries 2 to 4", Problem: "is missing"},
	}
	if report, err = tree.Check(ctx, CheckOptions{}); err != nil || !slices.EqualFunc(report.Problems, want, func(a, b DamageError) bool { return a.Error() == b.Error() }) || report.Entries != 0 {
		t.Errorf("five entries cannot be had: %+v, %v, want %v", report, err, want)
	}
	cancel()
	if _, err = tree.Check(ctx, CheckOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("check goes on when it is cancelled: %v", err)
	}
	big := newTestTree(t, "big")
	entries := make([][]byte, 1<<16+5)
	extend(t, big, entries)
	var seen []uint64
	if _, err := big.Check(context.Background(), CheckOptions{Progress: func(done, total uint64) { seen = append(seen, done, total) }}); err != nil {
		t.Fatal(err)
	}
	if want := []uint64{1 << 16, 1<<16 + 5, 1<<16 + 5, 1<<16 + 5}; !slices.Equal(seen, want) {
		t.Errorf("progress was %v, want %v", seen, want)
	}
}

// tamper changes one row.
func tamper(t *testing.T, db *DB, key []byte, change func([]byte) []byte) {
	t.Helper()
	old, err := db.get(key)
	if err != nil && !errors.Is(err, pebble.ErrNotFound) {
		t.Fatal(err)
	}
	if change == nil {
		if err != nil {
			t.Fatalf("nothing to delete at %x", key)
		}
		if err := db.pebble.Delete(key, pebble.Sync); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := db.pebble.Set(key, change(bytes.Clone(old)), pebble.Sync); err != nil {
		t.Fatal(err)
	}
}

// finds wants Check to say something that begins so.
func finds(t *testing.T, tree *Tree, problem string) {
	t.Helper()
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if !slices.ContainsFunc(report.Problems, func(p DamageError) bool { return strings.HasPrefix(p.Error(), problem) }) {
		t.Errorf("check found %v, not %q", report.Problems, problem)
	}
}
