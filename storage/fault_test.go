package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// faults makes operations of a file system fail from a moment on.
type faults struct {
	on   atomic.Bool
	ops  []operation
	path string // part of the names of the files concerned
	err  error
}

func (f *faults) String() string { return fmt.Sprintf("%v of %s on %v", f.err, f.path, f.ops) }

func (f *faults) before(o operation, path string) error {
	if f.on.Load() && slices.Contains(f.ops, o) && strings.Contains(path, f.path) {
		return f.err
	}
	return nil
}

// TestFailedWrite lets the disk refuse what a commit or a flush needs. The cause reaches
// Fatal, which ends the process; nothing is acknowledged; and opening what is on the
// disk then recovers.
func TestFailedWrite(t *testing.T) {
	ordinary := []*faults{
		{ops: []operation{opWrite}, path: ".log", err: syscall.ENOSPC},
		{ops: []operation{opWrite}, path: ".log", err: syscall.EIO},
		{ops: []operation{opSync}, path: ".log", err: syscall.EIO},
		{ops: []operation{opChange}, path: ".log", err: syscall.ENOSPC},
		{ops: []operation{opWrite}, path: ".sst", err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: ".sst", err: syscall.EIO},
		{ops: []operation{opChange}, path: ".sst", err: syscall.ENOSPC},
		{ops: []operation{opWrite}, path: "MANIFEST", err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: "MANIFEST", err: syscall.EIO},
		{ops: []operation{opWrite, opSync, opChange}, path: "", err: syscall.ENOSPC},
	}
	ofTables := append([]*faults{
		{ops: []operation{opChange}, path: incoming, err: syscall.ENOSPC},
		{ops: []operation{opWrite}, path: incoming, err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: incoming, err: syscall.EIO},
	}, ordinary...)
	for _, f := range ordinary {
		t.Run(f.String(), func(t *testing.T) { failedWrite(t, f, 0) })
	}
	for _, f := range ofTables {
		t.Run("in tables, "+f.String(), func(t *testing.T) { failedWrite(t, f, 1) })
	}
}

func failedWrite(t *testing.T, f *faults, manyBytes int) {
	entries := testEntries(600)
	naive := newNaiveTree(entries)
	disk := vfs.NewCrashableMem()
	cause := make(chan error, 1)
	db := createDB(t, Options{FS: &hookFS{disk, f.before}, manyBytes: manyBytes, Fatal: func(err error) {
		cause <- err
		select {} // as os.Exit: nothing comes after it on this goroutine
	}})
	tree := createTree(t, db, "log")
	extend(t, tree, entries[:300])
	acked := tree.State()
	f.on.Store(true)
	defer f.on.Store(false)
	done := make(chan error, 1)
	go func() {
		s, err := tree.Extend(entries[300:], sign("log"))
		if err == nil {
			acked = s
			err = db.pebble.Flush()
		}
		done <- err
	}()
	select {
	case err := <-cause:
		if !errors.Is(err, f.err) {
			t.Fatalf("Fatal got %v, want %v", err, f.err)
		}
	case err := <-done:
		t.Fatalf("ended with %v, and Fatal was not called", err)
	}
	if !errors.Is(db.Err(), f.err) {
		t.Errorf("Err is %v", db.Err())
	}
	if f.path == ".log" && f.ops[0] != opChange && tree.State().Head.Size != 300 {
		t.Errorf("head is at %d, and the disk has not taken it", tree.State().Head.Size)
	}
	if f.path == ".log" && f.ops[0] != opChange {
		if err := second(tree.View().Root(301)); !errors.Is(err, ErrNotHeld) {
			t.Errorf("what was not acknowledged is served: %v", err)
		}
	}
	recovers(t, disk, naive, entries, acked.Head.Size)
}

// recovers opens what is on the disk, with all that was not synced gone.
func recovers(t *testing.T, disk *vfs.MemFS, naive *naiveTree, entries [][]byte, acked uint64) {
	t.Helper()
	db, err := Open("data", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	tree := openTree(t, db, "log")
	s := tree.State()
	if s.Head.Size < acked || s.Head != naive.head(s.Head.Size) {
		t.Fatalf("head after recovery is %+v, acknowledged were %d", s.Head, acked)
	}
	checkTree(t, tree)
	extend(t, tree, entries[s.Head.Size:])
	checkTree(t, tree)
}

// TestFailedCommitIsAnError: where Fatal returns, Extend and all others return the
// error, and nothing changes any more.
func TestFailedCommitIsAnError(t *testing.T) {
	f := &faults{ops: []operation{opSync}, path: ".log", err: syscall.EIO}
	db, err := Create("data", Options{FS: &hookFS{vfs.NewMem(), f.before}})
	if err != nil {
		t.Fatal(err)
	}
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(3))
	before := tree.State()
	f.on.Store(true)
	if _, err := tree.Extend(testEntries(3), sign("log")); !errors.Is(err, syscall.EIO) {
		t.Errorf("extend: %v", err)
	}
	f.on.Store(false)
	for what, err := range map[string]error{
		"extend":      second(tree.Extend(testEntries(3), sign("log"))),
		"advance":     second(tree.Advance(before.Pending, nil, nil)),
		"archive":     tree.Archive(before.Pending),
		"seen":        tree.Seen(start.AddDate(1, 0, 0)),
		"quarantine":  tree.Quarantine(Evidence{}),
		"create tree": second(db.CreateTree("another")),
	} {
		if !errors.Is(err, syscall.EIO) {
			t.Errorf("%s after a failed sync: %v, want the cause", what, err)
		}
	}
	if tree.State() != before {
		t.Error("state changed")
	}
}

// TestFailedRead lets the disk refuse to read tables: sectors are lost. What is asked for is
// named as damaged, the process lives, and when the disk reads again, so does the tree.
func TestFailedRead(t *testing.T) {
	f := &faults{ops: []operation{opRead}, path: ".sst", err: syscall.EIO}
	disk := vfs.NewMem()
	entries := testEntries(600)
	db := createDB(t, Options{FS: disk})
	extend(t, createTree(t, db, "log"), entries)
	if err := db.pebble.Flush(); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	fatal := func(err error) { t.Errorf("fatal: %v", err) }
	for what, read := range map[string]func(*View) error{
		"entry":     func(v *View) error { return second(v.Entry(3)) },
		"bundle":    func(v *View) error { return second(v.Bundle(1, 256)) },
		"tile":      func(v *View) error { return second(v.Tile(0, 0, 256)) },
		"inclusion": func(v *View) error { return second(v.InclusionProof(3, 600)) },
		"index":     func(v *View) error { return third(v.Index(LeafHash(entries[3]))) },
		"archive":   func(v *View) error { return third(v.Checkpoint(599)) },
		"check": func(v *View) error {
			report, err := v.tree.Check(context.Background(), CheckOptions{})
			if err == nil && len(report.Problems) > 0 {
				return &report.Problems[0]
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			db, err := Open("data", Options{FS: &hookFS{disk, f.before}, CacheBytes: 1, Fatal: fatal})
			if err != nil {
				t.Fatal(err)
			}
			defer closeDB(t, db)
			tree := openTree(t, db, "log")
			v := tree.View()
			defer v.Close()
			f.on.Store(true)
			err = read(v)
			f.on.Store(false)
			if !errors.As(err, new(*DamageError)) || !strings.Contains(err.Error(), syscall.EIO.Error()) {
				t.Errorf("error is %v, want damage with the reason of the disk", err)
			}
			if len(tree.Damage()) == 0 {
				t.Error("the damage is not known")
			}
			if err := read(v); err != nil {
				t.Errorf("the disk reads again: %v", err)
			}
		})
	}
	t.Run("open", func(t *testing.T) {
		failed := 0
		for k := range 100 { // only the k-th read fails
			var reads atomic.Int64 // Pebble reads in the background, too
			db, err := Open("data", Options{CacheBytes: 1, Fatal: fatal, FS: &hookFS{disk, func(o operation, path string) error {
				if o == opRead && strings.Contains(path, ".sst") {
					if reads.Add(1) == int64(k+1) {
						return syscall.EIO
					}
				}
				return nil
			}}})
			if err == nil {
				var tree *Tree
				if tree, err = db.OpenTree("log"); err == nil {
					var report Report
					if report, err = tree.Check(context.Background(), CheckOptions{}); err == nil && len(report.Problems) > 0 {
						err = &report.Problems[0]
					}
				}
				closeDB(t, db)
			}
			if err == nil {
				continue
			}
			failed++
			if !strings.Contains(err.Error(), syscall.EIO.Error()) {
				t.Errorf("read %d fails: %v", k, err)
			}
		}
		if failed < 3 {
			t.Errorf("%d reads mattered: too few", failed)
		}
	})
}

func third[A, B any](_ A, _ B, err error) error { return err }

// TestDamagedBlock flips bits all over the tables, one at a time. What is served is
// right or an error, Check names what cannot be read, and the process lives.
func TestDamagedBlock(t *testing.T) {
	unhurried(t)
	disk := vfs.NewCrashableMem()
	entries := testEntries(1100)
	for i := range entries { // so that there are many blocks, of few bytes
		entries[i] = append(entries[i], make([]byte, 200)...)
	}
	naive := newNaiveTree(entries)
	db := createDB(t, Options{FS: disk})
	extend(t, createTree(t, db, "log"), entries)
	if err := db.pebble.Flush(); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	var damaged, unopened int
	for _, name := range tables(t, disk) {
		size := len(readAll(t, disk, name))
		for at := 0; at < size; at += 1 + size/16 {
			sick := disk.CrashClone(vfs.CrashCloneCfg{})
			flipByte(t, sick, name, at)
			switch opens, wrong := servesDamage(t, fmt.Sprintf("byte %d of %s", at, name), sick, naive, entries); {
			case !opens:
				unopened++
			case wrong:
				damaged++
			}
		}
	}
	t.Logf("%d flips damaged what is served, %d what is needed to open", damaged, unopened)
	if damaged < 6 {
		t.Errorf("%d flips damaged what is served, %d what is needed to open: too few", damaged, unopened)
	}
}

// TestCheckNamesADamagedBlock: the entries that Check names are those of the block, no more
// and no less. (A block has many; Pebble looks long for the bit that was flipped each time.)
func TestCheckNamesADamagedBlock(t *testing.T) {
	unhurried(t)
	disk := vfs.NewMem()
	o := Options{FS: disk, manyBytes: 1, CacheBytes: 1}
	db := createDB(t, o)
	before := tables(t, disk)
	extend(t, createTree(t, db, "log"), testEntries(9000))
	closeDB(t, db)
	name := slices.DeleteFunc(tables(t, disk), func(name string) bool { return slices.Contains(before, name) })[0]
	flipByte(t, disk, name, len(readAll(t, disk, name))/2)
	db = must(Open("data", o))
	defer closeDB(t, db)
	tree := openTree(t, db, "log")
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil || len(report.Problems) != 1 {
		t.Fatalf("check: %v, %v", report.Problems, err)
	}
	var first, last uint64
	if _, err := fmt.Sscanf(report.Problems[0].Place, "each of the entries %d to %d", &first, &last); err != nil || last-first < 50 {
		t.Fatalf("check: %v, %v", report.Problems, err)
	}
	v := tree.View()
	defer v.Close()
	for index, held := range map[uint64]bool{first - 1: true, first: false, (first + last) / 2: false, last: false, last + 1: true} {
		if _, err := v.Entry(index); (err == nil) != held {
			t.Errorf("entry %d of %d to %d: %v", index, first, last, err)
		}
	}
}

// servesDamage opens a damaged disk, if that is possible, and reads everything.
func servesDamage(t *testing.T, what string, disk *vfs.MemFS, naive *naiveTree, entries [][]byte) (opens, wrong bool) {
	ctx, reported := context.WithCancel(context.Background())
	defer reported()
	db, err := Open("data", Options{
		FS:     disk,
		Logger: slog.New(alarm(reported)),
		Fatal:  func(err error) { t.Errorf("%s: fatal: %v", what, err) },
	})
	if err != nil {
		return false, false
	}
	defer closeDB(t, db)
	tree, err := db.OpenTree("log")
	if err != nil {
		return false, false
	}
	v := tree.View()
	defer v.Close()
	judge := func(right bool, err error) bool {
		var damage *DamageError
		if err != nil && !errors.As(err, &damage) || err == nil && !right {
			t.Errorf("%s: wrong data, or a wrong error: %v", what, err)
		}
		wrong = wrong || err != nil
		return err == nil
	}
	// Pebble looks long for the bit that was flipped, so each loop ends at the first.
	every := func(good func(i uint64) bool) {
		for i := uint64(0); i < uint64(len(entries)) && good(i); i++ {
		}
	}
	every(func(i uint64) bool {
		entry, err := v.Entry(i)
		return judge(slices.Equal(entry, entries[i]), err)
	})
	every(func(i uint64) bool {
		path, err := v.InclusionProof(i, uint64(len(entries)))
		return judge(slices.Equal(path, naive.inclusion(i, uint64(len(entries)))), err)
	})
	every(func(i uint64) bool {
		index, ok, err := v.Index(naive.leaves[i])
		return judge(ok && index == i, err)
	})
	// Pebble stumbles over it when it rewrites tables, says so, and tries again and again;
	// that does not end the process.
	extend(t, tree, [][]byte{[]byte("one more")})
	if err := db.pebble.Flush(); err != nil {
		t.Errorf("%s: flush: %v", what, err)
	}
	if err := db.pebble.Compact(ctx, []byte{0}, []byte{0xff}, false); err == nil && wrong {
		t.Errorf("%s: compacted", what)
	}
	extend(t, tree, [][]byte{[]byte("and another")})
	report, err := tree.Check(context.Background(), CheckOptions{MaxProblems: 1})
	if err != nil || wrong && len(report.Problems) == 0 {
		t.Errorf("%s: check finds %v, %v", what, report.Problems, err)
	}
	return true, wrong
}

// alarm is a log handler that is called for errors.
type alarm func()

func (alarm) Enabled(context.Context, slog.Level) bool { return true }
func (a alarm) WithAttrs([]slog.Attr) slog.Handler     { return a }
func (a alarm) WithGroup(string) slog.Handler          { return a }

func (a alarm) Handle(_ context.Context, r slog.Record) error {
	if r.Level >= slog.LevelError {
		a()
	}
	return nil
}

func tables(t *testing.T, disk vfs.FS) (names []string) {
	t.Helper()
	all, err := disk.List("data")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if strings.HasSuffix(name, ".sst") {
			names = append(names, "data/"+name)
		}
	}
	return names
}

func readAll(t *testing.T, disk vfs.FS, name string) []byte {
	t.Helper()
	f, err := disk.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, info.Size())
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func flipByte(t *testing.T, disk vfs.FS, name string, at int) {
	t.Helper()
	b := readAll(t, disk, name)
	f, err := disk.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{b[at] ^ 0x10}, int64(at)); err != nil {
		t.Fatal(err)
	}
}
