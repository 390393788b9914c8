package storage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// A script is a life of a database, in steps of one durable change at most.
type script struct {
	dir   string
	steps []step
	// tables: entries go into tables of their own, as many do.
	tables bool
	// keys are those of the search index; nil: there is none.
	keys func([]byte) []string
	// long makes it cheaper: of consecutive writes to one file only the first is a moment
	// to crash at, and only after every eighth crash everything is read and life goes on.
	long bool
}

type step struct {
	name string
	do   func(*DB) error
}

// life is what a script left behind after a number of steps: by origin, all that is
// durable about a tree.
type life map[string]string

func lifeOf(db *DB) life {
	l := life{}
	for _, origin := range db.Origins() {
		tree := db.trees[origin]
		l[origin] = fmt.Sprintf("%x", tree.State().records())
		for _, kind := range []byte{keySpan, keyPin, keyPinLeaf, keyReceipt} {
			lower, upper := tree.id.all(kind)
			it := must(db.pebble.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper}))
			for more := it.First(); more; more = it.Next() {
				l[origin] += fmt.Sprintf(" %x=%x", it.Key(), sha256.Sum256(it.Value()))
			}
			if err := it.Close(); err != nil {
				panic(err)
			}
		}
	}
	return l
}

// TestCrashAtEveryWrite plays scripts and takes two copies of the disk before every
// write, sync and change of a directory: one with nothing that was not synced, one with
// half of it. In each the database opens with all that was acknowledged and nothing but
// what was asked for, is sound, and plays the rest of the script.
func TestCrashAtEveryWrite(t *testing.T) {
	unhurried(t)
	t.Run("first tiles", func(t *testing.T) { crashEverywhere(t, vfs.NewCrashableMem(), smallLife()) })
	t.Run("first tiles, in tables", func(t *testing.T) {
		s := smallLife()
		s.tables = true
		crashEverywhere(t, vfs.NewCrashableMem(), s)
	})
	t.Run("window", func(t *testing.T) { crashEverywhere(t, vfs.NewCrashableMem(), windowLife(2*tileWidth, 900)) })
	t.Run("window, in tables", func(t *testing.T) {
		s := windowLife(2*tileWidth, 900)
		s.tables, s.keys = true, testKeys
		crashEverywhere(t, vfs.NewCrashableMem(), s)
	})
	t.Run("window with upper tiles, in tables", func(t *testing.T) {
		s := windowLife(maxPrepend+tileWidth, maxPrepend+300)
		s.tables = true
		crashEverywhere(t, vfs.NewCrashableMem(), s)
	})
	t.Run("pins, and an index that is made later", func(t *testing.T) {
		base, s := pinnedLife(t)
		crashEverywhere(t, base, s)
	})
	t.Run("third level, in tables", func(t *testing.T) {
		base, s := bigLife(t)
		s.tables = true
		crashEverywhere(t, base, s)
	})
	t.Run("third level", func(t *testing.T) {
		base, s := bigLife(t)
		s.keys = testKeys
		crashEverywhere(t, base, s)
	})
}

// smallLife crosses the first tile and does everything that a database can do.
func smallLife() script {
	entries := testEntries(700)
	naive := newNaiveTree(entries)
	pending := func(size uint64) Checkpoint { return note("upstream", naive.head(size), "s") }
	to := func(held, size, signed uint64) step {
		return on("upstream", fmt.Sprintf("extend to %d", size), func(tree *Tree) error {
			return second(tree.Extend(entries[held:size], under(pending(signed), naive.consistency(size, signed))))
		})
	}
	own := func(held, size int) step {
		return on("own", fmt.Sprintf("own log to %d", size), func(tree *Tree) error {
			return second(tree.Extend(entries[held:size], sign("own")))
		})
	}
	evidence := Evidence{First: []byte("one"), Second: []byte("two"), At: start, Reason: "a test", Proof: []Hash{{1}}}
	return script{dir: "a/b/data", steps: []step{
		{"create tree", func(db *DB) error { return second(db.CreateTree("upstream")) }},
		on("upstream", "first checkpoint", func(tree *Tree) error { return second(tree.Advance(pending(300), nil, nil)) }),
		to(0, 100, 300),
		to(100, 257, 300),
		flush,
		{"create second tree", func(db *DB) error { return second(db.CreateTree("own")) }},
		own(0, 3),
		to(257, 300, 300),
		on("upstream", "next checkpoint", func(tree *Tree) error {
			return second(tree.Advance(pending(700), naive.consistency(300, 700), naive.consistency(300, 700)))
		}),
		to(300, 555, 700),
		own(3, 260),
		flush,
		on("upstream", "seen", func(tree *Tree) error { return tree.Seen(start.Add(time.Hour)) }),
		on("upstream", "archive", func(tree *Tree) error { return tree.Archive(pending(400)) }),
		{"back up", func(db *DB) error { return db.Backup("c/d/backup") }},
		on("own", "quarantine", func(tree *Tree) error { return tree.Quarantine(evidence) }),
		to(555, 700, 700),
		flush,
		compact,
	}}
}

// bigLife crosses from two levels of tiles to three, on a disk with the entries before.
func bigLife(t *testing.T) (*vfs.MemFS, script) {
	const held, crossed, signed = 65_500, 65_540, 65_800
	entries := make([][]byte, signed)
	for i := range entries {
		entries[i] = fmt.Appendf(nil, "%d", i)
	}
	naive := newNaiveTree(entries)
	pending := note("upstream", naive.head(signed), "s")
	to := func(held, size uint64) step {
		return on("upstream", fmt.Sprintf("extend to %d", size), func(tree *Tree) error {
			return second(tree.Extend(entries[held:size], under(pending, naive.consistency(size, signed))))
		})
	}
	base := vfs.NewCrashableMem()
	db := createDB(t, Options{FS: base})
	tree := createTree(t, db, "upstream")
	if _, err := tree.Advance(pending, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := to(0, held).do(db); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(flush.do(db), compact.do(db)); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	index := on("upstream", "index", func(tree *Tree) error { return second(tree.IndexSome(context.Background(), 3000)) })
	return base, script{dir: "data", long: true, steps: []step{to(held, crossed), index, to(crossed, signed-1), index, to(signed-1, signed), flush}}
}

// pinnedLife follows a log that is not copied, beside one that is, with receipts. Its disk has
// entries and pins from before there was an index.
func pinnedLife(t *testing.T) (*vfs.MemFS, script) {
	const size = 900
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	pin := func(index, at, anchor uint64) step {
		return on("pinned", fmt.Sprintf("pin %d at %d", index, at), func(tree *Tree) error {
			return tree.Pin(naive.pinOf(index, at, anchor, entries[index], "pinned"))
		})
	}
	release := func(reasons PinReasons, indexes ...uint64) step {
		return on("pinned", fmt.Sprintf("release %d", indexes), func(tree *Tree) error { return tree.Release(reasons, indexes...) })
	}
	advance := func(from, to uint64) step {
		return on("pinned", fmt.Sprintf("advance to %d", to), func(tree *Tree) error {
			return second(tree.Advance(note("pinned", naive.head(to), "s"), naive.consistency(from, to), nil))
		})
	}
	extend := func(held, to uint64) step {
		return on("copied", fmt.Sprintf("extend to %d", to), func(tree *Tree) error {
			return second(tree.Extend(entries[held:to], func(next Head) (Seal, error) {
				return Seal{Checkpoint: note("copied", next, "s"), Receipts: entries[held:to]}, nil
			}))
		})
	}
	index := func(origin string) step {
		return on(origin, "index", func(tree *Tree) error { return second(tree.IndexSome(context.Background(), 130)) })
	}
	base := vfs.NewCrashableMem()
	db := createDB(t, Options{FS: base})
	createTree(t, db, "pinned")
	createTree(t, db, "copied")
	for _, step := range []step{advance(0, 100), pin(3, 100, 0), pin(99, 100, 100), extend(0, 300), flush, compact} {
		if err := step.do(db); err != nil {
			t.Fatal(err)
		}
	}
	closeDB(t, db)
	return base, script{dir: "data", keys: testKeys, steps: []step{
		pin(5, 100, 100), index("pinned"), advance(100, 512), index("copied"), pin(400, 450, 512), extend(300, 420),
		pin(3, 512, 512), release(PinRead, 99), index("copied"), flush, advance(512, 900), release(PinWatched, 5),
		pin(899, 900, 0), index("copied"), {"back up", func(db *DB) error { return db.Backup("c/d/backup") }},
		index("copied"), release(PinRead, 899, 7, 3, 400), flush, compact,
	}}
}

// windowLife begins in the middle of a log and grows to both sides: by two bundles to the
// left, and then by one, which takes it down to the first entry of a small log.
func windowLife(minimum, signed uint64) script {
	entries := testEntries(int(signed))
	naive := newNaiveTree(entries)
	pending := note("upstream", naive.head(signed), "s")
	prepend := func(to uint64) step {
		return on("upstream", fmt.Sprintf("prepend to %d", to), func(tree *Tree) error {
			return naive.prepend(tree, to, entries[to:tree.State().Minimum])
		})
	}
	extend := func(to uint64) step {
		return on("upstream", fmt.Sprintf("extend to %d", to), func(tree *Tree) error {
			held := tree.State().Head.Size
			return second(tree.Extend(entries[held:to], under(pending, naive.consistency(to, signed))))
		})
	}
	return script{dir: "data", long: true, steps: []step{
		{"create tree", func(db *DB) error { return second(db.CreateTree("upstream")) }},
		on("upstream", "checkpoint", func(tree *Tree) error { return second(tree.Advance(pending, nil, nil)) }),
		on("upstream", "begin", func(tree *Tree) error { return naive.begin(tree, minimum) }),
		extend(minimum + 10),
		prepend(minimum - tileWidth),
		extend(signed),
		flush,
		prepend(minimum - 2*tileWidth),
		compact,
	}}
}

func on(origin, name string, do func(*Tree) error) step {
	return step{name, func(db *DB) error {
		tree, err := db.OpenTree(origin)
		if err != nil {
			return err
		}
		return do(tree)
	}}
}

// flush writes the memtable out.
var flush = step{"flush", func(db *DB) error { return db.pebble.Flush() }}

// compact writes every table anew.
var compact = step{"compact", func(db *DB) error {
	return db.pebble.Compact(context.Background(), []byte{0}, []byte{0xff}, false)
}}

// openOrCreate opens the database of a script, creating it if there is none.
func (s script) openOrCreate(files vfs.FS) (*DB, error) {
	o := Options{FS: files, SearchKeys: s.keys, ReceiptKeys: testReceiptKeys}
	if s.tables {
		o.manyBytes = 1
	}
	switch exists, err := Exists(s.dir, o); {
	case err != nil:
		return nil, err
	case exists:
		return Open(s.dir, o)
	}
	if _, err := Open(s.dir, o); !errors.Is(err, ErrNotExist) {
		return nil, fmt.Errorf("open of what does not exist: %w", err)
	}
	return Create(s.dir, o)
}

// play plays the steps from a number on, and reports each that is done.
func (s script) play(db *DB, from int, done func(*DB)) error {
	for _, step := range s.steps[from:] {
		if err := step.do(db); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		done(db)
	}
	return nil
}

func crashEverywhere(t *testing.T, base *vfs.MemFS, s script) {
	// What the disk should hold after each step.
	fresh := func() *vfs.MemFS { return base.CrashClone(vfs.CrashCloneCfg{}) }
	db, err := s.openOrCreate(fresh())
	if err != nil {
		t.Fatal(err)
	}
	lives := []life{lifeOf(db)}
	if err := s.play(db, 0, func(db *DB) { lives = append(lives, lifeOf(db)) }); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)

	var (
		crashes sync.Mutex // one at a time; guards draw, points and last
		draw    = rand.New(rand.NewPCG(7, 7))
		points  int
		last    string       // the file that was written to last, if nothing came between
		acked   atomic.Int64 // steps done; -1 before Create has returned
		disk    = fresh()
	)
	acked.Store(-1)
	crash := func(o operation, path string) {
		crashes.Lock()
		defer crashes.Unlock()
		again := o == opWrite && path == last
		if last = ""; o == opWrite {
			last = path
		}
		if t.Failed() || s.long && again {
			return
		}
		for _, percent := range []int{0, 50} {
			done := int(acked.Load())
			cloning.Lock()
			clone := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: draw})
			cloning.Unlock()
			if err := s.survives(clone, done, lives, !s.long || points%8 == 0); err != nil {
				t.Errorf("crash %d, %d %% of what was not synced survives, %d steps done, before a change of %s: %v", points, percent, done, path, err)
			}
		}
		points++
	}
	db, err = s.openOrCreate(&hookFS{disk, func(o operation, path string) error {
		if o.changes() {
			crash(o, path)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	acked.Store(0)
	if err := s.play(db, 0, func(*DB) { acked.Add(1) }); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	t.Logf("%d crashes", 2*points)
	if points < 5*len(s.steps) {
		t.Errorf("only %d moments to crash at", points)
	}
}

// survives opens what a crash left after some steps, and goes on from there.
func (s script) survives(disk *vfs.MemFS, done int, lives []life, goOn bool) error {
	s.tables = s.tables && done%2 == 0 // also go on the other way
	db, err := s.openOrCreate(disk)
	if err != nil {
		return err
	}
	defer db.Close()
	if left, err := disk.List(disk.PathJoin(s.dir, incoming)); err != nil || len(left) != 0 {
		return fmt.Errorf("half a table is left: %v, %w", left, err)
	}
	found := lifeOf(db)
	// The step that was under way has happened, or it has not.
	next := max(done, 0)
	if done < len(s.steps) && !maps.Equal(found, lives[next]) {
		next++
	}
	if !maps.Equal(found, lives[next]) {
		return fmt.Errorf("state is none of those around step %d: %v", done, found)
	}
	if !goOn {
		return nil
	}
	if err := soundness(db); err != nil {
		return err
	}
	if slices.ContainsFunc(s.steps[:max(done, 0)], func(s step) bool { return s.name == "back up" }) {
		if err := backupSound(disk); err != nil {
			return err
		}
	} else if err := disk.RemoveAll("c"); err != nil { // of half a backup
		return err
	}
	if err := s.play(db, next, func(*DB) {}); err != nil {
		return err
	}
	if end := lifeOf(db); !maps.Equal(end, lives[len(lives)-1]) {
		return fmt.Errorf("going on ends in %v", end)
	}
	return soundness(db)
}

func soundness(db *DB) error {
	for _, origin := range db.Origins() {
		tree, err := db.OpenTree(origin)
		if err != nil {
			return err
		}
		if report, err := tree.Check(context.Background(), CheckOptions{}); err != nil || len(report.Problems) > 0 {
			return fmt.Errorf("check: %v, %w", report.Problems, err)
		}
	}
	return nil
}

func backupSound(disk *vfs.MemFS) error {
	db, err := Open("c/d/backup", Options{FS: disk})
	if err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return errors.Join(soundness(db), db.Close())
}
