package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// wholeBackup opens a backup and returns its size.
func wholeBackup(t *testing.T, dir string, o Options) uint64 {
	t.Helper()
	db, err := Open(dir, o)
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	defer closeDB(t, db)
	tree := openTree(t, db, "log")
	checkTree(t, tree)
	return tree.State().Head.Size
}

// TestBackupBesideCommits: at each change that a backup makes on the disk another Extend
// begins. Whether it goes through a table or not, the backup is a whole database, of the
// entries held before or of more.
func TestBackupBesideCommits(t *testing.T) {
	for _, manyBytes := range []int{1, 1 << 30} {
		entries := testEntries(4000)
		var (
			tree    *Tree
			armed   atomic.Bool
			running sync.WaitGroup
			lock    sync.Mutex
		)
		disk := vfs.NewMem()
		db := createDB(t, Options{manyBytes: manyBytes, FS: &hookFS{disk, func(o operation, path string) error {
			if armed.Load() && o.changes() && strings.Contains(path, "backup") {
				running.Go(func() {
					lock.Lock()
					defer lock.Unlock()
					held := tree.State().Head.Size
					extend(t, tree, entries[held:min(held+20, uint64(len(entries)))])
				})
				time.Sleep(time.Millisecond) // time for it to get as far as it can
			}
			return nil
		}}})
		tree = createTree(t, db, "log")
		extend(t, tree, entries[:300])
		for i := range 3 {
			before := tree.State().Head.Size
			armed.Store(true)
			dir := fmt.Sprintf("backup %d", i)
			if err := db.Backup(dir); err != nil {
				t.Fatal(err)
			}
			armed.Store(false)
			running.Wait()
			if size := wholeBackup(t, dir, Options{FS: disk}); size < before {
				t.Errorf("backup has %d entries, %d were held", size, before)
			}
			if after := tree.State().Head.Size; after <= before {
				t.Fatalf("nothing was appended meanwhile: %d entries", after)
			}
		}
		leftInIncoming(t, db)
		closeDB(t, db)
	}
}

// TestBackupOfACatchUp takes backups on a real disk while another goroutine appends.
func TestBackupOfACatchUp(t *testing.T) {
	unhurried(t)
	dir := t.TempDir()
	db := must(Create(dir+"/data", Options{manyBytes: 1}))
	tree := createTree(t, db, "log")
	entries := testEntries(20)
	var stop atomic.Bool
	var appending sync.WaitGroup
	appending.Go(func() {
		for !stop.Load() {
			if _, err := tree.Extend(entries, sign("log")); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for i := range 10 {
		before := tree.State().Head.Size
		backup := fmt.Sprintf("%s/backup %d", dir, i)
		if err := db.Backup(backup); err != nil {
			t.Fatal(err)
		}
		if size := wholeBackup(t, backup, Options{}); size < before {
			t.Errorf("backup has %d entries, %d were held", size, before)
		}
	}
	stop.Store(true)
	appending.Wait()
	closeDB(t, db)
}

// TestBackupToAFullDisk: where the backup goes there is no room. That is an error, and no
// more; what was begun is no database.
func TestBackupToAFullDisk(t *testing.T) {
	disk := vfs.NewMem()
	f := &faults{ops: []operation{opWrite, opChange}, path: "elsewhere/", err: syscall.ENOSPC}
	db := createDB(t, Options{FS: &hookFS{disk, f.before}, Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	defer closeDB(t, db)
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(300))
	f.on.Store(true)
	if err := db.Backup("elsewhere/backup"); err == nil || !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		t.Errorf("backup to a full disk: %v", err)
	}
	f.on.Store(false)
	if exists, err := Exists("elsewhere/backup", Options{FS: disk}); exists || err != nil {
		t.Errorf("half a backup is a database: %v", err)
	}
	extend(t, tree, testEntries(10))
	leftInIncoming(t, db)
	if err := db.Backup("elsewhere/again"); err != nil {
		t.Fatal(err)
	}
	if size := wholeBackup(t, "elsewhere/again", Options{FS: disk}); size != 310 {
		t.Errorf("backup has %d entries", size)
	}
}

// TestBackupsAtOnce: of backups asked for at the same time each is whole, and one that fails
// leaves nothing of a database.
func TestBackupsAtOnce(t *testing.T) {
	disk := vfs.NewMem()
	f := &faults{ops: []operation{opSync}, path: incoming + "/backup", err: syscall.EIO}
	db := createDB(t, Options{FS: &hookFS{disk, f.before}, manyBytes: 1})
	defer closeDB(t, db)
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(3000))
	var running sync.WaitGroup
	for i := range 8 {
		running.Go(func() {
			if err := db.Backup(fmt.Sprintf("backup %d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	for i := range 8 {
		if size := wholeBackup(t, fmt.Sprintf("backup %d", i), Options{FS: disk}); size != 3000 {
			t.Errorf("backup %d has %d entries", i, size)
		}
	}
	f.on.Store(true)
	if err := db.Backup("failed"); !errors.Is(err, syscall.EIO) {
		t.Errorf("backup on a failing disk: %v", err)
	}
	f.on.Store(false)
	if _, err := disk.Stat("failed"); err == nil {
		t.Error("something of it is left")
	}
	leftInIncoming(t, db)
}

// TestFailedSweep: a database that cannot be opened is left as it was, and can be opened
// later.
func TestFailedSweep(t *testing.T) {
	f := &faults{ops: []operation{opChange}, path: incoming, err: syscall.EIO}
	o := Options{FS: &hookFS{vfs.NewMem(), f.before}}
	db := createDB(t, o)
	extend(t, createTree(t, db, "log"), testEntries(300))
	closeDB(t, db)
	f.on.Store(true)
	if _, err := Open("data", o); err == nil || !strings.Contains(err.Error(), "clear data/incoming") {
		t.Errorf("open: %v", err)
	}
	f.on.Store(false)
	db = must(Open("data", o))
	checkTree(t, openTree(t, db, "log"))
	closeDB(t, db)
}

// TestDamagedLeftover: damage in a table that a crash left beyond the head is an error of
// this tree, and does not end the process.
func TestDamagedLeftover(t *testing.T) {
	disk := vfs.NewMem()
	o := Options{FS: disk, manyBytes: 1}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	entries := testEntries(9000)
	extend(t, tree, entries[:300])
	before := tables(t, disk)
	ingestOnly(t, tree, entries[600:])
	left := slices.DeleteFunc(tables(t, disk), func(name string) bool { return slices.Contains(before, name) })
	closeDB(t, db)
	if len(left) != 1 {
		t.Fatalf("tables %v were left", left)
	}
	size := len(readAll(t, disk, left[0]))
	for at := 0; at < size; at += 1 + size/8 {
		flipByte(t, disk, left[0], at)
	}
	o.CacheBytes = 1
	o.Fatal = func(err error) { t.Errorf("fatal: %v", err) }
	db = must(Open("data", o))
	defer closeDB(t, db)
	tree = openTree(t, db, "log")
	_, err := tree.Extend(entries[300:310], sign("log"))
	if err == nil {
		_, err = tree.Extend(entries[310:900], sign("log"))
	}
	if err == nil || !strings.Contains(err.Error(), "table of entries that are not part of the tree") {
		t.Errorf("extend: %v; the test tests nothing if it is nil", err)
	}
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil || len(report.Problems) == 0 {
		t.Errorf("check finds %v, %v", report.Problems, err)
	}
}
