package storage

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestTable: many entries become a table in the last level, and not one byte of them is
// in the WAL.
func TestTable(t *testing.T) {
	entries := make([][]byte, 3*pieceEntries+1)
	for i := range entries {
		entries[i] = base64Of(8000 + i)
	}
	db := createDB(t, Options{FS: vfs.NewMem()})
	defer closeDB(t, db)
	tree := createTree(t, db, "log")
	extend(t, tree, entries)
	if m := db.pebble.Metrics(); m.Levels[lastLevel].TablesCount != 1 || m.Levels[lastLevel].TablesSize < 6<<20 {
		t.Errorf("the last level has %d bytes", m.Levels[lastLevel].TablesSize)
	} else if m.WAL.BytesWritten > 1<<20 {
		t.Errorf("%d bytes are in the WAL", m.WAL.BytesWritten)
	}
	leftInIncoming(t, db)
	checkTree(t, tree)
	extend(t, tree, entries[:2]) // few
	extend(t, tree, entries)
	checkTree(t, tree)
}

func leftInIncoming(t *testing.T, db *DB) {
	t.Helper()
	if left, err := db.fs.List(db.fs.PathJoin(db.dir, incoming)); err != nil || len(left) != 0 {
		t.Errorf("in %s are %v, %v", incoming, left, err)
	}
}

// TestTableRefused: of entries that the seal refused nothing is left, and others can take
// their place.
func TestTableRefused(t *testing.T) {
	o := Options{FS: vfs.NewMem(), manyBytes: 1}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(900)
	extend(t, tree, entries[:300])
	refused := errors.New("refused")
	if _, err := tree.Extend(entries[600:], func(Head) (Seal, error) { return Seal{}, refused }); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	if _, err := tree.Extend(entries[600:], func(next Head) (Seal, error) { return Seal{}, nil }); !errors.Is(err, ErrInconsistent) {
		t.Fatal(err)
	}
	leftInIncoming(t, db)
	if _, ok := tree.entryBeyond(); ok {
		t.Error("refused entries are in the database")
	}
	extend(t, tree, entries[300:])
	checkTree(t, tree)
	db = reopen(t, db, o)
	checkTree(t, openTree(t, db, "log"))
	closeDB(t, db)
}

// entryBeyond returns the first entry that stands beyond the head.
func (t *Tree) entryBeyond() (index uint64, ok bool) {
	it := must(t.db.pebble.NewIter(nil))
	defer it.Close()
	_, upper := t.id.all(keyEntry)
	if !it.SeekGE(t.id.entry(t.State().Head.Size)) || string(it.Key()) >= string(upper) {
		return 0, false
	}
	return must(lastUint64(it.Key())), true
}

// ingestOnly does what an Extend does before a crash between table and commit.
func ingestOnly(t *testing.T, tree *Tree, entries [][]byte) {
	t.Helper()
	rows := tree.prepare(tree.State().Head.Size, entries)
	defer rows.release()
	table := tree.startTable(rows)
	defer table.discard()
	if err := table.ingest(); err != nil {
		t.Fatal(err)
	}
}

// TestTableWithoutCommit: a crash after a table was ingested and before its commit. Nobody
// sees its entries, also where what comes next is less, and Check finds all in order.
func TestTableWithoutCommit(t *testing.T) {
	o := Options{FS: vfs.NewMem(), manyBytes: 1}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(900)
	extend(t, tree, entries[:300])
	ingestOnly(t, tree, entries[600:])
	for _, manyBytes := range []int{1, 1 << 30} {
		o.manyBytes = manyBytes
		db = reopen(t, db, o)
		tree = openTree(t, db, "log")
		if index, ok := tree.entryBeyond(); !ok || index != tree.State().Head.Size {
			t.Fatalf("entry %d, %v stands beyond the head: the test tests nothing", index, ok)
		}
		v := tree.View()
		size := v.State().Head.Size
		for what, err := range map[string]error{
			"entry":   second(v.Entry(size)),
			"entries": v.Entries(size-1, size+1, func(uint64, []byte) error { return nil }),
			"bundle":  second(v.Bundle(size/tileWidth, int(size%tileWidth)+1)),
			"leaf":    second(v.LeafHash(size)),
		} {
			if !errors.Is(err, ErrNotHeld) {
				t.Errorf("%s beyond the head: %v", what, err)
			}
		}
		v.Close()
		checkTree(t, tree)
		extend(t, tree, entries[size:size+5])
		checkTree(t, tree)
	}
	extend(t, tree, entries[310:])
	checkTree(t, tree)
	closeDB(t, db)
}

// TestSweep: what a crash left of a table is removed by Open, but not by one for reading.
func TestSweep(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	path := db.fs.PathJoin(db.dir, incoming, "entries-1-300")
	f := must(db.fs.Create(path, vfs.WriteCategoryUnspecified))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	o.ReadOnly = true
	db = reopen(t, db, o)
	if _, err := db.fs.Stat(path); err != nil {
		t.Errorf("opening for reading: %v", err)
	}
	o.ReadOnly = false
	db = reopen(t, db, o)
	leftInIncoming(t, db)
	closeDB(t, db)
}

// TestSecondFatal: once the process is about to end, nothing goes on after another Fatalf,
// and no panic is the last word instead of the reason.
func TestSecondFatal(t *testing.T) {
	reasons := make(chan error, 2)
	db := createDB(t, Options{FS: vfs.NewMem(), Fatal: func(err error) { reasons <- err; select {} }})
	ended := make(chan any, 2)
	for _, reason := range []string{"first", "second"} {
		go func() {
			defer func() { ended <- recover() }()
			pebbleLogger{db}.Fatalf("%s", reason)
		}()
		if reason == "first" {
			if err := <-reasons; !strings.Contains(err.Error(), reason) {
				t.Errorf("reason is %v", err)
			}
		}
	}
	select {
	case r := <-ended:
		t.Errorf("it went on, with %v", r)
	case err := <-reasons:
		t.Errorf("a second reason: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	closeDB(t, db)
}
