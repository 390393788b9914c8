package storage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

func TestCreateAndOpen(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	if _, err := Open("data", o); !errors.Is(err, ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	if exists, err := Exists("data", o); exists || err != nil {
		t.Errorf("nothing exists: %v, %v", exists, err)
	}
	db := createDB(t, o)
	if exists, err := Exists("data", o); !exists || err != nil {
		t.Errorf("it does not exist: %v, %v", exists, err)
	}
	for what, open := range map[string]func(string, Options) (*DB, error){"create": Create, "open": Open} {
		if _, err := open("data", o); !errors.Is(err, ErrLocked) {
			t.Errorf("%s of what is open: %v", what, err)
		}
	}
	createTree(t, db, "b")
	createTree(t, db, "a")
	if _, err := db.CreateTree("a"); !errors.Is(err, ErrExists) {
		t.Errorf("create tree twice: %v", err)
	}
	if _, err := db.OpenTree("c"); !errors.Is(err, ErrNotExist) {
		t.Errorf("open tree that is none: %v", err)
	}
	closeDB(t, db)
	if _, err := Create("data", o); !errors.Is(err, ErrExists) {
		t.Errorf("create twice: %v", err)
	}
	db, err := Open("data", o)
	if err != nil {
		t.Fatalf("open after a refused create: %v", err)
	}
	defer closeDB(t, db)
	if got := db.Origins(); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("origins are %q", got)
	}
	if db.DiskUsage() == 0 {
		t.Error("it takes no bytes on disk")
	}
	if s := openTree(t, db, "a").State(); s.Head != (Head{Root: emptyRoot()}) || s.Pending.Raw != nil || s.Mirrored.Raw != nil || s.Evidence != nil {
		t.Errorf("new tree is %+v", s)
	}
}

// TestOnDisk is the life of a database on the machine's own file system.
func TestOnDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	db, err := Create(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(300))
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrLocked) {
		t.Errorf("open twice: %v", err)
	}
	backup := filepath.Join(t.TempDir(), "deep", "backup")
	if err := db.Backup(backup); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(backup); !errors.Is(err, ErrExists) {
		t.Errorf("back up over a backup: %v", err)
	}
	extend(t, tree, testEntries(5))
	closeDB(t, db)
	for from, size := range map[string]uint64{dir: 305, backup: 300} {
		db, err := Open(from, Options{})
		if err != nil {
			t.Fatal(err)
		}
		tree := openTree(t, db, "log")
		if got := tree.State().Head.Size; got != size {
			t.Errorf("%s holds %d entries, want %d", from, got, size)
		}
		checkTree(t, tree)
		closeDB(t, db)
	}
	if os.Geteuid() != 0 { // root may do everything
		if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir, Options{}); !errors.Is(err, os.ErrPermission) || errors.Is(err, ErrLocked) {
			t.Errorf("open without permission: %v", err)
		}
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// TestLockIsNotEveryError: a disk that refuses to lock is not another process.
func TestLockIsNotEveryError(t *testing.T) {
	fs := &lockFS{vfs.NewMem(), &os.PathError{Op: "open", Path: "LOCK", Err: syscall.ENOSPC}}
	if _, err := Create("data", Options{FS: fs}); !errors.Is(err, syscall.ENOSPC) || errors.Is(err, ErrLocked) {
		t.Errorf("create on a full disk: %v", err)
	}
}

type lockFS struct {
	vfs.FS
	err error
}

func (l *lockFS) Lock(string) (io.Closer, error) { return nil, l.err }

func TestForeignFormat(t *testing.T) {
	for name, change := range map[string]func(*pebble.DB) error{
		"next version": func(db *pebble.DB) error {
			return db.Set([]byte{keyFormat}, append([]byte(formatName), formatVersion+1), nil)
		},
		"another name":  func(db *pebble.DB) error { return db.Set([]byte{keyFormat}, []byte("overstudy\x01"), nil) },
		"without words": func(db *pebble.DB) error { return db.Set([]byte{keyFormat}, nil, nil) },
		"somebody else's": func(db *pebble.DB) error {
			return errors.Join(db.Delete([]byte{keyFormat}, nil), db.Set([]byte("x"), []byte("y"), nil))
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{FS: vfs.NewMem()}
			db := createDB(t, o)
			if err := change(db.pebble); err != nil {
				t.Fatal(err)
			}
			closeDB(t, db)
			for range 2 { // refused, and left as it is
				_, err := Open("data", o)
				var format *FormatError
				if !errors.As(err, &format) || !strings.Contains(err.Error(), "use the version that wrote it") {
					t.Errorf("open: %v", err)
				}
			}
		})
	}
}

func TestReadOnly(t *testing.T) {
	o := Options{FS: vfs.NewMem(), Fatal: func(err error) { t.Errorf("fatal: %v", err) }}
	db := createDB(t, o)
	extend(t, createTree(t, db, "log"), testEntries(300))
	o.ReadOnly, o.manyBytes = true, 100
	db = reopen(t, db, o)
	defer closeDB(t, db)
	tree := openTree(t, db, "log")
	checkTree(t, tree)
	before := tree.State()
	for what, err := range map[string]error{
		"extend":      second(tree.Extend(testEntries(1), sign("log"))),
		"extend more": second(tree.Extend(testEntries(100), sign("log"))),
		"advance":     second(tree.Advance(before.Pending, nil, nil)),
		"archive":     tree.Archive(note("log", Head{1, Hash{}}, "s")),
		"seen":        tree.Seen(start.AddDate(1, 0, 0)),
		"quarantine":  tree.Quarantine(Evidence{}),
		"create tree": second(db.CreateTree("another")),
	} {
		if !errors.Is(err, pebble.ErrReadOnly) {
			t.Errorf("%s when reading only: %v", what, err)
		}
	}
	if tree.State() != before || !slices.Equal(db.Origins(), []string{"log"}) {
		t.Error("something changed")
	}
}

// TestNeighbours: trees with adjacent numbers, and origins that are prefixes of each
// other, do not see each other.
func TestNeighbours(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	origins := []string{"log", "lo", "log2", "", "l\x00g", "\xff\xff"}
	content := func(i int) [][]byte { return testEntries(300 + 10*i) }
	for i, origin := range origins {
		tree := createTree(t, db, origin)
		if tree.id != treeID(i+1) {
			t.Fatalf("tree %q has the number %d", origin, tree.id)
		}
		if i == 2 { // stays empty
			continue
		}
		extend(t, tree, content(i))
	}
	db = reopen(t, db, o)
	defer func() { closeDB(t, db) }()
	for i, origin := range origins {
		tree := openTree(t, db, origin)
		v := tree.View()
		defer v.Close()
		entries := content(i)
		if i == 2 {
			entries = nil
		}
		if len(entries) > 0 {
			checkBeyond(t, v, uint64(len(entries)))
		}
		if origin != "" && len(entries) > 0 { // formats' parser wants an origin
			checkTree(t, tree)
		}
		naive := newNaiveTree(entries)
		if v.State().Head != naive.head(uint64(len(entries))) {
			t.Errorf("tree %q is %+v", origin, v.State().Head)
		}
		if len(entries) == 0 {
			if _, ok, err := v.Index(LeafHash(content(i)[0])); ok || err != nil {
				t.Errorf("an empty tree has entry 0 of its neighbour: %v", err)
			}
		}
		checkpoints := 0
		if err := v.Checkpoints(0, ^uint64(0), func(c Checkpoint) error {
			checkpoints++
			if !bytes.HasPrefix(c.Raw, []byte(origin+"\n")) {
				t.Errorf("tree %q has the checkpoint %q", origin, c.Raw)
			}
			return nil
		}); err != nil || checkpoints != min(1, len(entries)) {
			t.Errorf("tree %q has %d checkpoints, %v", origin, checkpoints, err)
		}
	}
}

// TestDamagedTreeStopsAlone: what is wrong with one tree does not close the others.
func TestDamagedTreeStopsAlone(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	extend(t, createTree(t, db, "sick"), testEntries(3))
	extend(t, createTree(t, db, "sound"), testEntries(3))
	tamper(t, db, treeID(1).head(), nil)
	db = reopen(t, db, o)
	defer func() { closeDB(t, db) }()
	var damage *DamageError
	if _, err := db.OpenTree("sick"); !errors.As(err, &damage) {
		t.Errorf("sick tree: %v", err)
	}
	checkTree(t, openTree(t, db, "sound"))
	if third := createTree(t, db, "third"); third.id != 3 {
		t.Errorf("new tree has the number %d, want 3", third.id)
	}
	if _, err := db.CreateTree("sick"); !errors.Is(err, ErrExists) {
		t.Errorf("a sick tree is overwritten: %v", err)
	}
}

// TestOlderFormat: what the version before wrote is opened, and from the first opening for
// writing on it is no longer that version's.
func TestOlderFormat(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	extend(t, createTree(t, db, "log"), testEntries(300))
	for older := byte(1); older < formatVersion; older++ {
		if err := db.pebble.Set([]byte{keyFormat}, append([]byte(formatName), older), pebble.Sync); err != nil {
			t.Fatal(err)
		}
		for _, readOnly := range []bool{true, false, true} {
			o.ReadOnly = readOnly
			db = reopen(t, db, o)
			checkTree(t, openTree(t, db, "log"))
		}
		if format, err := db.get([]byte{keyFormat}); err != nil || string(format) != string(formatRecord()) {
			t.Errorf("format is %q, %v", format, err)
		}
		o.ReadOnly = false
		db = reopen(t, db, o)
	}
	closeDB(t, db)
}
