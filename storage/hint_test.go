package storage

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// found is what a search finds.
func found(t *testing.T, tree *Tree, key string) (indexes []uint64) {
	t.Helper()
	v := tree.View()
	defer v.Close()
	if err := v.Search(key, func(index uint64) error { indexes = append(indexes, index); return nil }); err != nil {
		t.Fatal(err)
	}
	return indexes
}

// TestPinKeys: a pin is found by its further keys, in order and once, as long as it is there.
func TestPinKeys(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	fs := vfs.NewMem()
	o := Options{FS: fs, SearchKeys: func(entry []byte) []string {
		if string(entry) == string(entries[99]) {
			return []string{"both", "own"}
		}
		return nil
	}}
	db, tree, _ := pinnedTrees(t, o, naive, entries)
	if err := tree.Hold(7, PinWatched, "both", "subject"); err != nil {
		t.Fatal(err)
	}
	if err := tree.Hold(99, 0, "both", "subject"); err != nil { // which has one of them itself
		t.Fatal(err)
	}
	p := naive.pinOf(250, 300, 0, entries[250], "pinned")
	p.Keys = []string{"subject", "subject"}
	if err := tree.Pin(p); err != nil {
		t.Fatal(err)
	}
	want := func(key string, indexes ...uint64) {
		t.Helper()
		if got := found(t, tree, key); !slices.Equal(got, indexes) {
			t.Errorf("%q finds %v, want %v", key, got, indexes)
		}
	}
	for range 2 {
		want("both", 7, 99)
		want("subject", 7, 99, 250)
		want("own", 99)
		want("none")
		checkTree(t, tree)
		db = reopen(t, db, o)
		var err error
		if tree, err = db.OpenTree("pinned"); err != nil {
			t.Fatal(err)
		}
	}
	defer closeDB(t, db)
	for i := range 2 * maxPinKeys { // strangers find no end of them
		if err := tree.Hold(20, 0, fmt.Sprint("key ", i)); err != nil {
			t.Fatal(err)
		}
	}
	want("key 0", 20)
	want(fmt.Sprint("key ", maxPinKeys-1), 20)
	want(fmt.Sprint("key ", maxPinKeys))
	if err := tree.Release(PinRead|PinWatched|PinImported, 7); err != nil {
		t.Fatal(err)
	}
	want("both", 99)
	want("subject", 99, 250)
	checkTree(t, tree)

	const id treeID = 1
	for _, m := range []struct {
		name   string
		key    []byte
		change func([]byte) []byte
		finds  string
	}{
		{"deleted", id.appendHint(nil, searchRowOf("subject", 99)), nil, "pin of entry 99 has no row in the index of further keys of pins"},
		{"of no pin", id.appendHint(nil, searchRowOf("subject", 8)), func([]byte) []byte { return nil }, "index of further keys of pins has a row for entry 8, which is not pinned"},
		{"of another key", id.appendHint(nil, searchRowOf("other", 99)), func([]byte) []byte { return nil }, "index of further keys of pins has a wrong row for entry 99"},
		{"cut", id.appendHint(nil, searchRowOf("subject", 99))[:12], func([]byte) []byte { return nil }, "index of further keys of pins has a key of 12 bytes"},
	} {
		tamper(t, db, m.key, m.change)
		finds(t, tree, m.finds)
		want("other")
	}
}
