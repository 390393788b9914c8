package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// testKeys are an entry's length, one of seven groups, its first bytes, and what all have: out
// of order, and one twice.
func testKeys(entry []byte) []string {
	sum := 0
	for _, b := range entry {
		sum += int(b)
	}
	group := fmt.Sprintf("group %d", sum%7)
	return []string{group, "all", fmt.Sprintf("length %d", len(entry)), group, string(entry[:min(len(entry), 12)])}
}

// otherKeys are those of another version.
func otherKeys(entry []byte) []string {
	return append(testKeys(entry)[2:3], "other", fmt.Sprintf("other length %d", len(entry)))
}

// checkSearch holds what is found against a walk through all entries and pins.
func checkSearch(t failer, v *View, keys func([]byte) []string) {
	t.Helper()
	s := v.State()
	start, end := v.Indexed()
	if start != end && (start < s.Minimum || end != s.Head.Size) {
		t.Fatalf("index covers [%d, %d) of [%d, %d)", start, end, s.Minimum, s.Head.Size)
	}
	must, may := map[string][]uint64{}, map[string][]uint64{}
	add := func(index uint64, entry []byte, covered bool) {
		of := keys(entry)
		slices.Sort(of)
		for _, key := range slices.Compact(of) {
			if may[key] = append(may[key], index); covered {
				must[key] = append(must[key], index)
			}
		}
	}
	if err := v.Entries(s.Minimum, s.Head.Size, func(index uint64, entry []byte) error {
		add(index, entry, start <= index && index < end)
		return nil
	}); err != nil {
		t.Fatalf("entries: %v", err)
	}
	if err := v.Pins(0, func(p Pin, _ int) error {
		if s.holds(p.Index) != nil {
			add(p.Index, p.Entry, p.Index < s.search.pins)
		}
		return nil
	}); err != nil {
		t.Fatalf("pins: %v", err)
	}
	may["nothing has this"] = nil
	for key := range may {
		var found []uint64
		if err := v.Search(key, func(index uint64) error { found = append(found, index); return nil }); err != nil {
			t.Fatalf("search %q: %v", key, err)
		}
		all, sure := may[key], must[key]
		slices.Sort(all)
		slices.Sort(sure)
		if !slices.IsSorted(found) || len(slices.Compact(slices.Clone(found))) != len(found) {
			t.Fatalf("search %q is not in order: %v", key, found)
		}
		for _, i := range sure {
			if !slices.Contains(found, i) {
				t.Fatalf("search %q in [%d, %d) with the index from %d on does not find %d", key, s.Minimum, s.Head.Size, start, i)
			}
		}
		for _, i := range found {
			if _, ok := slices.BinarySearch(all, i); !ok {
				t.Fatalf("search %q finds %d, which does not have it", key, i)
			}
		}
	}
}

func checkSearchNow(t failer, tree *Tree, keys func([]byte) []string) {
	t.Helper()
	checkTree(t, tree)
	v := tree.View()
	defer v.Close()
	checkSearch(t, v, keys)
}

// indexed runs IndexSome to its end, with a check after each step.
func indexed(t failer, tree *Tree, most int, keys func([]byte) []string) {
	t.Helper()
	for done := false; !done; {
		before := tree.State().search
		var err error
		if done, err = tree.IndexSome(context.Background(), most); err != nil {
			t.Fatalf("index: %v", err)
		}
		after := tree.State().search
		if !done && before == after {
			t.Fatalf("index stands still at %+v", after)
		}
		if moved := before.start - after.start; moved > uint64(most) {
			t.Fatalf("index grew by %d entries, not %d", moved, most)
		}
		checkSearchNow(t, tree, keys)
	}
	if c := tree.State().search; c.start != tree.State().Minimum || c.pins != allPins {
		t.Fatalf("index is done with %+v", c)
	}
}

// TestSearch: in a window that grows to both sides, every key gives the entries that have it,
// at once, and a view what it had when it was made.
func TestSearch(t *testing.T) {
	const size = 1300
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	for _, manyBytes := range []int{0, 1} {
		db := createDB(t, Options{FS: vfs.NewMem(), manyBytes: manyBytes, SearchKeys: testKeys})
		defer closeDB(t, db)
		tree := createTree(t, db, "log")
		checkSearchNow(t, tree, testKeys)
		if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := naive.begin(tree, 768); err != nil {
			t.Fatal(err)
		}
		var views []*View
		look := func() {
			checkSearchNow(t, tree, testKeys)
			views = append(views, tree.View())
		}
		look()
		for _, next := range []uint64{800, 801, 1200} {
			if _, err := tree.Extend(entries[tree.State().Head.Size:next], under(tree.State().Pending, naive.consistency(next, size))); err != nil {
				t.Fatal(err)
			}
			look()
		}
		for _, next := range []uint64{512, 0} {
			if err := naive.prepend(tree, next, entries[next:tree.State().Minimum]); err != nil {
				t.Fatal(err)
			}
			look()
		}
		for _, v := range views {
			checkSearch(t, v, testKeys)
			if start, end := v.Indexed(); start != v.State().Minimum || end != v.State().Head.Size {
				t.Errorf("index covers [%d, %d)", start, end)
			}
			v.Close()
		}
		if done, err := tree.IndexSome(context.Background(), 1); !done || err != nil {
			t.Errorf("there is something to index: %v, %v", done, err)
		}
		v := tree.View()
		defer v.Close()
		enough, n := errors.New("enough"), 0
		if err := v.Search("all", func(uint64) error {
			if n++; n == 3 {
				return enough
			}
			return nil
		}); err != enough || n != 3 {
			t.Errorf("search goes on after an error: %d, %v", n, err)
		}
	}
}

// TestSearchLater: a database without an index, or with that of another version, gets one, the
// newest entries first; one that was changed without keys begins it anew.
func TestSearchLater(t *testing.T) {
	const held, size = 900, 1300
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	tree := createTree(t, db, "log")
	pinned := createTree(t, db, "pinned")
	with := func(keys func([]byte) []string, version uint32) {
		o.SearchKeys, o.SearchVersion = keys, version
		db = reopen(t, db, o)
		tree, pinned = openTree(t, db, "log"), openTree(t, db, "pinned")
	}
	pin := func(i uint64) {
		t.Helper()
		if err := pinned.Pin(naive.pinOf(i, size, 0, entries[i], "pinned")); err != nil {
			t.Fatal(err)
		}
	}
	coverage := func(start, end uint64) {
		t.Helper()
		v := tree.View()
		defer v.Close()
		if s, e := v.Indexed(); s != start || e != end {
			t.Fatalf("index covers [%d, %d), want [%d, %d)", s, e, start, end)
		}
	}
	extend(t, tree, entries[:held])
	for i := uint64(0); i < 60; i += 3 {
		pin(i)
	}
	coverage(0, 0)
	if done, err := tree.IndexSome(context.Background(), 10); !done || err != nil {
		t.Fatalf("without keys there is something to index: %v, %v", done, err)
	}
	with(testKeys, 1)
	coverage(held, held)
	checkSearchNow(t, tree, testKeys)
	extend(t, tree, entries[held:1000])
	coverage(held, 1000)
	for i := uint64(1); i < 100; i += 10 {
		pin(i)
	}
	checkSearchNow(t, pinned, testKeys)
	for range 2 {
		if _, err := tree.IndexSome(context.Background(), 100); err != nil { // the first says that there are no pins
			t.Fatal(err)
		}
		if _, err := pinned.IndexSome(context.Background(), 7); err != nil {
			t.Fatal(err)
		}
		checkSearchNow(t, pinned, testKeys)
	}
	coverage(800, 1000)
	if err := pinned.Release(PinRead, 3); err != nil {
		t.Fatal(err)
	}
	with(testKeys, 1) // goes on where it was
	coverage(800, 1000)
	checkSearchNow(t, tree, testKeys)
	indexed(t, tree, 130, testKeys)
	indexed(t, pinned, 4, testKeys)
	coverage(0, 1000)
	full := dump(t, db)

	with(otherKeys, 2)
	coverage(1000, 1000)
	checkSearchNow(t, tree, otherKeys)
	for key := range dump(t, db) {
		if key[0] == keySearch {
			t.Fatalf("a row of another version is left: %x", key)
		}
	}
	indexed(t, tree, 300, otherKeys)
	with(testKeys, 1)
	indexed(t, tree, 1000, testKeys)
	indexed(t, pinned, 1000, testKeys)
	sameDump(t, dump(t, db), full)

	with(nil, 0) // to look, or to do what adds nothing, is no harm
	coverage(0, 0)
	checkTree(t, tree)
	if err := tree.Archive(note("log", naive.head(77), "s")); err != nil {
		t.Fatal(err)
	}
	with(testKeys, 1)
	coverage(0, 1000)
	with(nil, 0)
	extend(t, tree, entries[1000:1100])
	if err := pinned.Release(PinRead, 0); err != nil {
		t.Fatal(err)
	}
	checkTree(t, pinned)
	with(testKeys, 1)
	coverage(1100, 1100)
	indexed(t, tree, 500, testKeys)
	indexed(t, pinned, 500, testKeys)

	o.ReadOnly = true
	with(testKeys, 1)
	coverage(0, 1100)
	checkSearchNow(t, tree, testKeys)
	with(otherKeys, 2)
	coverage(0, 0)
	checkTree(t, tree)
	o.ReadOnly = false
}

// TestSearchOfPins: pins are found as long as they are pinned; what becomes held stays found
// when the pin is released.
func TestSearchOfPins(t *testing.T) {
	const size = 700
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	db := createDB(t, Options{FS: vfs.NewMem(), SearchKeys: testKeys})
	defer closeDB(t, db)
	tree := createTree(t, db, "log")
	for _, i := range []uint64{5, 600, 17, 699, 300} {
		if err := tree.Pin(naive.pinOf(i, size, 0, entries[i], "log")); err != nil {
			t.Fatal(err)
		}
		checkSearchNow(t, tree, testKeys)
	}
	if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Extend(entries[:400], under(tree.State().Pending, naive.consistency(400, size))); err != nil {
		t.Fatal(err)
	}
	checkSearchNow(t, tree, testKeys)
	for _, i := range []uint64{600, 5, 699, 300} {
		if err := tree.Release(PinRead, i); err != nil {
			t.Fatal(err)
		}
		checkSearchNow(t, tree, testKeys)
	}
}

// TestSearchCheck: Check names a row too many or too few, and Repair puts the index right.
func TestSearchCheck(t *testing.T) {
	const held, size = 700, 800
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	var id treeID = 1
	row := func(key string, index uint64) []byte { return id.appendSearch(nil, searchRowOf(key, index)) }
	keys := func(i int) []string { return testKeys(entries[i]) }
	something := func([]byte) []byte { return nil }
	for _, m := range []struct {
		name   string
		key    []byte
		change func([]byte) []byte
		finds  string
	}{
		{"row deleted", row("all", 300), nil, "search index row of entry 300 is missing"},
		{"last row of a key deleted", row(string(entries[7][:12]), 7), nil, "search index row of entry 7 is missing"},
		{"row of a pin deleted", row("all", 750), nil, "search index row of entry 750 is missing"},
		{"row of another key", row("nobody", 7), something, "search index has a wrong row for entry 7"},
		{"row of another entry", row(keys(7)[0], 8), something, "search index has a wrong row for entry 8"},
		{"row of another pin", row("nobody", 750), something, "search index has a wrong row for entry 750"},
		{"row beyond the head", row("all", 701), something, "search index has a row for entry 701"},
		{"row far beyond the head", row("all", 1<<60), something, "search index has a row for entry 1152921504606846976"},
		{"row with half a key", row("all", 7)[:20], something, "search index has a key of 20 bytes"},
	} {
		t.Run(m.name, func(t *testing.T) {
			db := createDB(t, Options{FS: vfs.NewMem(), SearchKeys: testKeys})
			defer closeDB(t, db)
			tree := createTree(t, db, "log")
			if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Extend(entries[:held], under(tree.State().Pending, naive.consistency(held, size))); err != nil {
				t.Fatal(err)
			}
			if err := tree.Pin(naive.pinOf(750, size, 0, entries[750], "log")); err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
			before := dump(t, db)
			tamper(t, db, m.key, m.change)
			finds(t, tree, m.finds)
			v := tree.View()
			if !strings.Contains(m.name, "deleted") { // nothing wrong is found
				checkSearch(t, v, testKeys)
			}
			repaired(t, tree, Elsewhere{})
			if err := v.Search("all", func(uint64) error { return nil }); !errors.Is(err, ErrIndexing) {
				t.Errorf("a view of an index that was given up: %v", err)
			}
			v.Close()
			checkSearchNow(t, tree, testKeys)
			if left := tree.Damage(); len(left) > 0 {
				t.Errorf("left is %v", left)
			}
			sameDump(t, dump(t, db), before)
		})
	}
}

// TestSearchOfLostEntry: of an entry that is lost the index says so, instead of that there is
// none; Check does not blame the index for it, and what lies below is not covered.
func TestSearchOfLostEntry(t *testing.T) {
	entries := testEntries(700)
	naive := newNaiveTree(entries)
	o := Options{FS: vfs.NewMem(), SearchKeys: testKeys}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	tree := createTree(t, db, "log")
	extend(t, tree, entries)
	lost := bytes.Clone(entries[300])
	tamper(t, db, tree.id.entry(300), nil)
	v := tree.View()
	var damage *DamageError
	if err := v.Search(testKeys(lost)[4], func(uint64) error { return nil }); !errors.As(err, &damage) {
		t.Errorf("search of what is lost: %v", err)
	}
	v.Close()
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range report.Problems {
		if strings.Contains(p.Place, "index") {
			t.Errorf("the index is blamed: %v", p)
		}
	}
	o.SearchVersion++
	db = reopen(t, db, o)
	tree = openTree(t, db, "log")
	for try := 0; ; try++ {
		if done, err := tree.IndexSome(context.Background(), 64); errors.As(err, &damage) {
			break
		} else if err != nil || done || try > 20 {
			t.Fatalf("index over what is lost: %v, %v", done, err)
		}
	}
	if s := tree.State().search.start; s <= 300 || s > 300+64 {
		t.Errorf("index goes down to %d", s)
	}
	noticed(t, tree)
	repaired(t, tree, naive.from(entries))
	indexed(t, tree, 64, testKeys)
}

// TestSearchBegunAnewMeanwhile: what IndexSome has prepared when the index is begun anew is no
// part of it.
func TestSearchBegunAnewMeanwhile(t *testing.T) {
	entries := testEntries(900)
	var tree *Tree
	armed := false
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	extend(t, createTree(t, db, "log"), entries)
	o.SearchKeys = func(entry []byte) []string {
		if armed {
			armed = false
			r := must(newRepair(tree, Elsewhere{}))
			lower, upper := tree.id.all(keySearch)
			if err := r.bound(func() error { return r.dropSearch(context.Background(), keyRange{lower, upper}) }); err != nil {
				t.Error(err)
			}
		}
		return testKeys(entry)
	}
	db = reopen(t, db, o)
	defer closeDB(t, db)
	tree = openTree(t, db, "log")
	for range 3 {
		if _, err := tree.IndexSome(context.Background(), 200); err != nil {
			t.Fatal(err)
		}
	}
	armed = true
	if done, err := tree.IndexSome(context.Background(), 200); done || err != nil || armed {
		t.Fatalf("%v, %v", done, err)
	}
	checkSearchNow(t, tree, testKeys)
	indexed(t, tree, 300, testKeys)
}
