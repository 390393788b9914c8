package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestNewest: what was noted is there after a crash at any moment, of each origin the largest,
// and what is smaller changes nothing.
func TestNewest(t *testing.T) {
	disk := vfs.NewCrashableMem()
	n, err := OpenNewest("newest", Options{FS: disk})
	if err != nil {
		t.Fatal(err)
	}
	if c := n.Of("log"); c.Raw != nil {
		t.Errorf("an empty memory has %+v", c)
	}
	entries := testEntries(40)
	naive := newNaiveTree(entries)
	size := func(origin string, size uint64) Checkpoint { return note(origin, naive.head(size), "s") }
	for i := range uint64(30) {
		for _, origin := range []string{"log", "other"} {
			newest := i + uint64(len(origin))
			for _, at := range []uint64{newest, newest - 1, newest, 1} {
				if err := n.Note(origin, size(origin, at)); err != nil {
					t.Fatal(err)
				}
				if c := n.Of(origin); c.Head != naive.head(newest) || !bytes.Equal(c.Raw, size(origin, newest).Raw) {
					t.Fatalf("newest of %s is %+v, want size %d", origin, c, newest)
				}
			}
			crashed, err := OpenNewest("newest", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
			if err != nil {
				t.Fatal(err)
			}
			if c := crashed.Of(origin); c.Head != naive.head(newest) || !bytes.Equal(c.Raw, size(origin, newest).Raw) || !c.FirstSeen.Equal(start) {
				t.Fatalf("after a crash the newest of %s is %+v, want size %d", origin, c, newest)
			}
			if err := crashed.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	var none *Newest
	if err := none.Note("log", size("log", 3)); err != nil || none.Of("log").Raw != nil {
		t.Errorf("no memory remembers: %v", err)
	}
}

// TestRestore: a backup becomes a database once all of it is there, and is left as it is; and
// only where there is none.
func TestRestore(t *testing.T) {
	disk := vfs.NewCrashableMem()
	o := Options{FS: disk, manyBytes: 1}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(1200)
	extend(t, tree, entries[:1000])
	if err := db.Backup("backup"); err != nil {
		t.Fatal(err)
	}
	before := dump(t, db)
	extend(t, tree, entries[1000:])
	closeDB(t, db)
	if _, err := Restore("data", "backup", o); !errors.Is(err, ErrExists) {
		t.Errorf("restore over a database: %v", err)
	}
	if _, err := Restore("elsewhere", "nothing", o); !errors.Is(err, ErrNotExist) {
		t.Errorf("restore from nothing: %v", err)
	}
	if err := errors.Join(disk.MkdirAll("other", 0o755), disk.MkdirAll("other/thing", 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore("other", "backup", o); !errors.Is(err, ErrExists) {
		t.Errorf("restore over a folder: %v", err)
	}
	whole := disk.CrashClone(vfs.CrashCloneCfg{})
	held, err := Restore("elsewhere", "backup", o)
	if err != nil || len(held) != 1 || held["log"].Head.Size != 1000 {
		t.Fatalf("restored %v, %v", held, err)
	}
	for _, dir := range []string{"elsewhere", "backup"} { // durable, and twice the same
		db, err := Open(dir, Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatal(err)
		}
		checkTree(t, openTree(t, db, "log"))
		sameDump(t, dump(t, db), before)
		closeDB(t, db)
	}
	// A backup of which a file is missing, cut off or damaged where it matters is refused.
	names, err := whole.List("backup")
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for _, name := range names {
		sick := whole.CrashClone(vfs.CrashCloneCfg{})
		if err := sick.Remove("backup/" + name); err != nil {
			t.Fatal(err)
		}
		if _, err := Restore("new", "backup", Options{FS: sick}); err == nil {
			db, err := Open("new", Options{FS: sick})
			if err != nil {
				t.Fatal(err)
			}
			checkTree(t, openTree(t, db, "log")) // it was not needed
			closeDB(t, db)
			continue
		}
		refused++
		if exists, err := Exists("new", Options{FS: sick}); exists || err != nil {
			t.Errorf("without %s: there is a database, %v", name, err)
		}
	}
	if refused < 4 {
		t.Errorf("%d missing files mattered", refused)
	}
	// Wherever it crashes, there is all of the database or none.
	for k, again := 0, true; again; k++ {
		again = false
		count := 0
		sick := whole.CrashClone(vfs.CrashCloneCfg{})
		var crashed *vfs.MemFS
		fs := &hookFS{sick, func(op operation, path string) error {
			if op.changes() {
				if count == k {
					crashed, again = sick.CrashClone(vfs.CrashCloneCfg{}), true
				}
				count++
			}
			return nil
		}}
		if _, err := Restore("new", "backup", Options{FS: fs}); err != nil {
			t.Fatal(err)
		}
		if crashed == nil {
			break
		}
		if exists, err := Exists("new", Options{FS: crashed}); err != nil {
			t.Fatal(err)
		} else if !exists {
			if _, err := Restore("new", "backup", Options{FS: crashed}); err != nil {
				t.Fatalf("after a crash at write %d: %v", k, err)
			}
		}
		db, err := Open("new", Options{FS: crashed})
		if err != nil {
			t.Fatalf("after a crash at write %d: %v", k, err)
		}
		if s := openTree(t, db, "log").State(); s.Head.Size != 1000 {
			t.Fatalf("after a crash at write %d: %d entries", k, s.Head.Size)
		}
		closeDB(t, db)
	}
}
