package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// liar gives what is not of the log.
var liar = Elsewhere{
	Tile: func(_ context.Context, id TileID, accept func([]byte) error) error {
		return accept(make([]byte, id.Width*HashSize))
	},
	Bundle: func(_ context.Context, _ uint64, width int, accept func([][]byte) error) error {
		return accept(make([][]byte, width))
	},
	Border: func(_ context.Context, head Head, accept func([][]byte) error) error {
		var tiles [][]byte
		for _, id := range borderOf(head.Size) {
			tiles = append(tiles, make([]byte, id.Width*HashSize))
		}
		return accept(tiles)
	},
}

// both is two places, asked in this order.
func both(a, b Elsewhere) Elsewhere {
	return Elsewhere{
		Tile: func(ctx context.Context, id TileID, accept func([]byte) error) error {
			if a.Tile(ctx, id, accept) == nil {
				return nil
			}
			return b.Tile(ctx, id, accept)
		},
		Bundle: func(ctx context.Context, index uint64, width int, accept func([][]byte) error) error {
			if a.Bundle(ctx, index, width, accept) == nil {
				return nil
			}
			return b.Bundle(ctx, index, width, accept)
		},
		Border: func(ctx context.Context, head Head, accept func([][]byte) error) error {
			if a.Border(ctx, head, accept) == nil {
				return nil
			}
			return b.Border(ctx, head, accept)
		},
	}
}

func repaired(t *testing.T, tree *Tree, from Elsewhere) Repaired {
	t.Helper()
	done, err := tree.Repair(context.Background(), from)
	if err != nil {
		t.Fatalf("repair: %v", err)
	}
	return done
}

// noticed lets Check find what is wrong.
func noticed(t *testing.T, tree *Tree) []DamageError {
	t.Helper()
	if _, err := tree.Check(context.Background(), CheckOptions{}); err != nil {
		t.Fatalf("check: %v", err)
	}
	return tree.Damage()
}

// tableKinds returns the tables that stand in each file of the database, by path.
func tableKinds(t *testing.T, disk vfs.FS) map[string]string {
	t.Helper()
	db, err := Open("data", Options{FS: disk, ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, db)
	levels, err := db.pebble.SSTables()
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]string{}
	for _, level := range levels {
		for _, table := range level {
			first, last := table.Smallest.UserKey, table.Largest.UserKey
			if first[0] != last[0] || len(first) >= 9 && healable(first) && !bytes.Equal(first[:9], last[:9]) {
				t.Errorf("file %v has rows from %x to %x", table.BackingSSTNum, first, last)
			}
			kinds[fmt.Sprintf("data/%v.sst", table.BackingSSTNum)] = string(first[:1])
		}
	}
	return kinds
}

// TestRepairFiles damages every file of a database in every way that a disk knows. What is
// lost of entries, tiles and indexes is put back, to the row; what is lost of the rest is
// named, or the tree does not open. And no file has rows of two tables: Repair relies on it.
func TestRepairFiles(t *testing.T) {
	unhurried(t)
	disk := vfs.NewCrashableMem()
	o := Options{FS: disk, manyBytes: 100_000, CacheBytes: 1, SearchKeys: testKeys, ReceiptKeys: testReceiptKeys}
	db := createDB(t, o)
	entries := testEntries(1500)
	for i := range entries { // so that there are many blocks, of few bytes
		entries[i] = append(entries[i], make([]byte, 200)...)
	}
	naive := newNaiveTree(entries)
	others := slices.Concat(entries[:20], entries[750:770])
	from := map[string]Elsewhere{"log": naive.from(entries), "other": newNaiveTree(others).from(others)}
	other := createTree(t, db, "other")
	tree := createTree(t, db, "log")
	for held := 0; held < len(entries); held += 750 {
		extend(t, tree, entries[held:held+700])
		extend(t, other, entries[held:held+20])
		extend(t, tree, entries[held+700:held+750])
		if err := db.pebble.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	before := dump(t, db)
	closeDB(t, db)
	kinds := tableKinds(t, disk)
	lost, healed := 0, 0
	for name, kind := range kinds {
		size := len(readAll(t, disk, name))
		type way struct {
			what string
			harm func(sick *vfs.MemFS) Options
		}
		ways := []way{
			{"missing", func(sick *vfs.MemFS) Options {
				if err := sick.Remove(name); err != nil {
					t.Fatal(err)
				}
				return Options{FS: sick}
			}},
			{"a half", func(sick *vfs.MemFS) Options {
				half := readAll(t, sick, name)[:size/2]
				f := must(sick.Create(name, vfs.WriteCategoryUnspecified))
				if _, err := f.Write(half); err != nil {
					t.Fatal(err)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				return Options{FS: sick}
			}},
			{"unreadable", func(sick *vfs.MemFS) Options {
				f := &faults{ops: []operation{opRead}, path: name, err: syscall.EIO}
				f.on.Store(true)
				return Options{FS: &hookFS{sick, f.before}}
			}},
		}
		for at := 0; at < size; at += 1 + size/9 {
			ways = append(ways, way{fmt.Sprintf("flipped at %d", at), func(sick *vfs.MemFS) Options {
				flipByte(t, sick, name, at)
				return Options{FS: sick}
			}})
		}
		for _, way := range ways {
			what := fmt.Sprintf("%s (%s) %s", name, kind, way.what)
			sick := disk.CrashClone(vfs.CrashCloneCfg{})
			o := way.harm(sick)
			o.manyBytes, o.CacheBytes, o.SearchKeys = 100_000, 1, testKeys
			o.Fatal = func(err error) { t.Errorf("%s: fatal: %v", what, err) }
			db, err := Open("data", o)
			if err != nil {
				if healable([]byte(kind)) {
					t.Errorf("%s: does not open: %v", what, err)
				}
				continue
			}
			whole := true
			for _, origin := range db.Origins() {
				tree, err := db.OpenTree(origin)
				if err != nil {
					whole = false
					continue
				}
				// A file may hide another, with an older version of the same rows; and a compaction
				// may still meet one that is already out of use.
				left := noticed(t, tree)
				for try := 0; len(left) > 0 && try < 5; try++ {
					repaired(t, tree, both(liar, from[origin]))
					left = noticed(t, tree)
				}
				if len(left) > 0 {
					whole = false
					if healable([]byte(kind)) {
						t.Logf("%s: of %s %v is left", what, origin, left)
					}
				} else {
					checkTree(t, tree)
				}
			}
			switch {
			case whole && !healable([]byte(kind)):
				lost++ // an older version of a row that is in another file
			case whole:
				healed++
				sameDump(t, dump(t, db), before)
				if err := db.pebble.Compact(context.Background(), []byte{0}, []byte{0xff}, false); err != nil {
					t.Errorf("%s: compact after repair: %v", what, err)
				}
			case healable([]byte(kind)):
				t.Errorf("%s: not repaired", what)
			default:
				lost++
			}
			closeDB(t, db)
		}
	}
	t.Logf("%d healed, %d not", healed, lost)
	if healed < 50 || lost < 5 {
		t.Errorf("%d healed, %d not: too few", healed, lost)
	}
}

// TestRepairLocally: without any other place tiles and index are put back, out of the
// entries, and entries that are lost stay named, with the reason; all others are served.
func TestRepairLocally(t *testing.T) {
	entries := testEntries(700)
	naive := newNaiveTree(entries)
	for what, from := range map[string]Elsewhere{"nowhere": {}, "a liar": liar, "a place that is gone": {
		Tile:   func(context.Context, TileID, func([]byte) error) error { return errors.New("gone") },
		Bundle: func(context.Context, uint64, int, func([][]byte) error) error { return errors.New("gone") },
	}} {
		tree := newTestTree(t, "log")
		extend(t, tree, entries)
		before := dump(t, tree.db)
		for _, key := range [][]byte{tree.id.tile(0, 0), tree.id.tile(0, 2), tree.id.tile(1, 0), tree.id.leaf(naive.leaves[5], 5)} {
			tamper(t, tree.db, key, nil)
		}
		tree.db.tiles.Purge()
		noticed(t, tree)
		if done := repaired(t, tree, from); done.FetchedBundles+done.FetchedTiles > 0 || done.Tiles != 3 || done.IndexRows == 0 {
			t.Errorf("%s: repaired %+v", what, done)
		}
		checkTree(t, tree)
		sameDump(t, dump(t, tree.db), before)
		// Now what cannot be had.
		tamper(t, tree.db, tree.id.entry(300), nil)
		tamper(t, tree.db, tree.id.tile(0, 1), nil)
		tamper(t, tree.db, tree.id.entry(600), nil)
		tree.db.tiles.Purge()
		noticed(t, tree)
		if done := repaired(t, tree, from); done.Entries+done.FetchedBundles+done.FetchedTiles > 0 {
			t.Errorf("%s: repaired %+v", what, done)
		}
		left := tree.Damage()
		for _, want := range []string{"entry 300", "tile 0/1", "entry 600"} {
			found := false
			for _, e := range left {
				found = found || e.Place == want && e.Stuck != ""
			}
			if !found {
				t.Errorf("%s: %s is not named in %v", what, want, left)
			}
		}
		v := tree.View()
		for i, entry := range entries {
			got, err := v.Entry(uint64(i))
			if lost := i == 300 || i == 600; lost != (err != nil) || !lost && !bytes.Equal(got, entry) {
				t.Errorf("%s: entry %d is %q, %v", what, i, got, err)
			}
		}
		v.Close()
		repaired(t, tree, naive.from(entries))
		checkTree(t, tree)
		sameDump(t, dump(t, tree.db), before)
		if left := tree.Damage(); len(left) > 0 {
			t.Errorf("%s: %v is damaged after all", what, left)
		}
	}
}

// TestRepairBrokenEdge: the border of a window far from the first entry can only be had
// elsewhere. Without it nothing is answered, and the tree does not grow; with it all is as
// before.
func TestRepairBrokenEdge(t *testing.T) {
	const minimum, size = 1<<24 + 5*maxPrepend + 512, 1<<24 + 5*maxPrepend + 900
	entry := func(i uint64) []byte {
		if i < minimum {
			return []byte("elsewhere")
		}
		return fmt.Appendf(nil, "entry %d", i)
	}
	elsewhere := LeafHash([]byte("elsewhere"))
	naive := &naiveTree{first: minimum, leafElse: &elsewhere, seen: map[span]Hash{}}
	var entries [][]byte
	for i := uint64(minimum); i < size; i++ {
		entries = append(entries, entry(i))
		naive.leaves = append(naive.leaves, LeafHash(entry(i)))
	}
	from := naive.from(nil)
	flip := func(b []byte) []byte { b[7] ^= 1; return b }
	for what, change := range map[string]func([]byte) []byte{"missing": nil, "flipped": flip} {
		for _, levels := range [][]int{{1}, {2}, {3}, {1, 2, 3}} {
			o := Options{FS: vfs.NewMem()}
			db := createDB(t, o)
			tree := createTree(t, db, "log")
			if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := naive.begin(tree, minimum); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Extend(entries[:300], under(tree.State().Pending, naive.consistency(minimum+300, size))); err != nil {
				t.Fatal(err)
			}
			before := dump(t, db)
			for _, level := range levels {
				tamper(t, db, tree.id.tile(level, (minimum+300)>>(tileHeight*(level+1))), change)
			}
			db = reopen(t, db, o)
			tree = openTree(t, db, "log")
			if tree.Broken() == nil {
				t.Fatalf("tiles of levels %v %s: not broken", levels, what)
			}
			v := tree.View()
			for what, err := range map[string]error{
				"entry":     second(v.Entry(minimum)),
				"tile":      second(v.Tile(0, minimum/tileWidth, 256)),
				"inclusion": second(v.InclusionProof(minimum, size)),
				"index":     third(v.Index(LeafHash(entry(minimum)))),
				"extend":    second(tree.Extend(entries[300:], under(tree.State().Pending, nil))),
				"prepend":   naive.prepend(tree, minimum-256, make([][]byte, 256)),
			} {
				if !errors.As(err, new(*DamageError)) {
					t.Errorf("%s of a broken tree: %v", what, err)
				}
			}
			v.Close()
			for _, bad := range []Elsewhere{{}, liar} {
				if repaired(t, tree, bad); tree.Broken() == nil {
					t.Fatalf("tiles of levels %v %s: mended from nothing", levels, what)
				}
			}
			if left := noticed(t, tree); len(left) == 0 {
				t.Errorf("tiles of levels %v %s: check finds nothing", levels, what)
			}
			repaired(t, tree, both(liar, from))
			if err := tree.Broken(); err != nil {
				t.Fatalf("tiles of levels %v %s: %v", levels, what, err)
			}
			checkTree(t, tree)
			sameDump(t, dump(t, db), before)
			if _, err := tree.Extend(entries[300:], under(tree.State().Pending, nil)); err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
			closeDB(t, db)
		}
	}
}

// everything is the range of a table of a tree, as damage.
func everything(tree *Tree, kind byte) DamageError {
	lower, upper := tree.id.all(kind)
	return DamageError{Place: fmt.Sprintf("table %q", kind), Problem: "is to be written anew", rows: []keyRange{{lower, upper}}}
}

// TestRepairInUse writes all tables of a window anew, again and again, while it grows to both
// sides and is read and checked: no reader ever misses a row.
func TestRepairInUse(t *testing.T) {
	const size, minimum = 6000, 3072
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	tree := newTestTree(t, "log")
	if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := naive.begin(tree, minimum); err != nil {
		t.Fatal(err)
	}
	extendTo := func(to uint64) error {
		held := tree.State().Head.Size
		return second(tree.Extend(entries[held:to], under(tree.State().Pending, naive.consistency(to, size))))
	}
	if err := extendTo(minimum + 100); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var reading sync.WaitGroup
	proofs := map[uint64][]Hash{} // the naive tree is not for use by several
	for i := uint64(0); i < size; i += 7 {
		proofs[i] = naive.inclusion(i, size)
	}
	for range 2 {
		reading.Go(func() {
			for ctx.Err() == nil {
				v := tree.View()
				s := v.State()
				for i := s.Minimum; i < s.Head.Size && ctx.Err() == nil; i += 7 {
					entry, err := v.Entry(i)
					at, ok, indexErr := v.Index(LeafHash(entries[i]))
					path, proofErr := v.InclusionProof(i/7*7, size)
					if i/7*7 < s.Minimum {
						path, proofErr = proofs[i/7*7], nil
					}
					first := i / tileWidth * tileWidth
					bundleErr := v.Entries(first, min(first+tileWidth, s.Head.Size), func(uint64, []byte) error { return nil })
					if err != nil || !bytes.Equal(entry, entries[i]) || indexErr != nil || !ok || at != i || bundleErr != nil ||
						proofErr != nil || len(path) != len(proofs[i/7*7]) {
						t.Errorf("entry %d: %v, index %d, %v, %v, bundle %v, proof %v", i, err, at, ok, indexErr, bundleErr, proofErr)
						stop()
					}
				}
				v.Close()
			}
		})
	}
	reading.Go(func() {
		for ctx.Err() == nil {
			report, err := tree.Check(ctx, CheckOptions{Pace: func(context.Context, int) error { return nil }})
			if ctx.Err() == nil && (err != nil || len(report.Problems) > 0) {
				t.Errorf("check in use: %v, %v", report.Problems, err)
				stop()
			}
		}
	})
	reading.Go(func() {
		for ctx.Err() == nil {
			for _, kind := range []byte{keyEntry, keyTile, keyLeaf} {
				tree.db.damages.add(tree.id, everything(tree, kind))
				if _, err := tree.Repair(ctx, Elsewhere{}); err != nil && ctx.Err() == nil {
					t.Errorf("repair in use: %v", err)
					stop()
				}
			}
		}
	})
	swaps := func() uint64 {
		tree.db.swap.RLock()
		defer tree.db.swap.RUnlock()
		return tree.db.swaps
	}
	for at := uint64(minimum); ctx.Err() == nil; at -= tileWidth {
		for before := swaps(); swaps() < before+3 && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
		if at > 0 {
			if err := naive.prepend(tree, at-tileWidth, entries[at-tileWidth:at]); err != nil {
				t.Fatal(err)
			}
		}
		if err := extendTo(min(size, tree.State().Head.Size+241)); err != nil {
			t.Fatal(err)
		}
		if at == tileWidth {
			break
		}
	}
	stop()
	reading.Wait()
	checkTree(t, tree)
	if tree.State().Minimum != 0 || tree.db.swaps < 30 {
		t.Errorf("minimum index is %d after %d swaps: the test tests little", tree.State().Minimum, tree.db.swaps)
	}
}

// TestRepairCrashes plays a repair and crashes before every write: afterwards the tree is
// whole, because the new rows take the place of the old ones in one step.
func TestRepairCrashes(t *testing.T) {
	unhurried(t)
	s := windowLife(2*tileWidth, 900)
	for _, kind := range []byte{keyTile, keyEntry, keyLeaf} {
		s.steps = append(s.steps, on("upstream", fmt.Sprintf("write %q anew", kind), func(tree *Tree) error {
			tree.db.damages.add(tree.id, everything(tree, kind))
			_, err := tree.Repair(context.Background(), Elsewhere{})
			return err
		}))
	}
	s.tables = true
	crashEverywhere(t, vfs.NewCrashableMem(), s)
}

// TestRepairOnAFullDisk: the process ends with the reason, and nothing is lost.
func TestRepairOnAFullDisk(t *testing.T) {
	for _, f := range []*faults{
		{ops: []operation{opChange}, path: incoming, err: syscall.ENOSPC},
		{ops: []operation{opWrite}, path: incoming, err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: incoming, err: syscall.EIO},
		{ops: []operation{opWrite}, path: "MANIFEST", err: syscall.ENOSPC},
		{ops: []operation{opSync}, path: "MANIFEST", err: syscall.EIO},
		{ops: []operation{opWrite, opSync, opChange}, path: "", err: syscall.ENOSPC},
	} {
		for _, kind := range []byte{keyTile, keyEntry, keyLeaf} {
			entries := testEntries(600)
			naive := newNaiveTree(entries)
			disk := vfs.NewCrashableMem()
			cause := make(chan error, 1)
			db := createDB(t, Options{FS: &hookFS{disk, f.before}, Fatal: func(err error) {
				cause <- err
				select {}
			}})
			tree := createTree(t, db, "log")
			extend(t, tree, entries)
			db.damages.add(tree.id, everything(tree, kind))
			done := make(chan error, 1)
			f.on.Store(true)
			go func() { done <- second(tree.Repair(context.Background(), naive.from(entries))) }()
			select {
			case err := <-cause:
				if !errors.Is(err, f.err) {
					t.Errorf("%v, table %q: Fatal got %v", f, kind, err)
				}
			case err := <-done:
				t.Errorf("%v, table %q: ended with %v, and Fatal was not called", f, kind, err)
			}
			f.on.Store(false)
			recovers(t, disk, naive, entries, 600)
		}
	}
}

// TestCheckInUse: a check with pauses finds what one without finds.
func TestCheckInUse(t *testing.T) {
	tree := newTestTree(t, "log")
	entries := testEntries(3000)
	extend(t, tree, entries)
	for i := range 400 { // some of the archive
		extend(t, tree, [][]byte{fmt.Appendf(nil, "more %d", i)})
	}
	paused := 0
	o := CheckOptions{Pace: func(_ context.Context, bytes int) error {
		paused++
		extend(t, tree, [][]byte{fmt.Appendf(nil, "in use %d", paused)})
		return nil
	}}
	report, err := tree.Check(context.Background(), o)
	if err != nil || len(report.Problems) > 0 || report.Entries != 3400 || paused < 14 {
		t.Errorf("check in use: %+v, %v, %d pauses", report, err, paused)
	}
	tamper(t, tree.db, tree.id.entry(2000), nil)
	tamper(t, tree.db, tree.id.leaf(LeafHash(entries[7]), 7), nil)
	report, err = tree.Check(context.Background(), o)
	if err != nil || len(report.Problems) != 2 {
		t.Errorf("check in use: %v, %v", report.Problems, err)
	}
	o.Pace = func(context.Context, int) error { return context.Canceled }
	if _, err := tree.Check(context.Background(), o); !errors.Is(err, context.Canceled) {
		t.Errorf("check goes on when it is told to stop: %v", err)
	}
}

// TestDamageIsBounded: however much is damaged, what is remembered of it is not.
func TestDamageIsBounded(t *testing.T) {
	tree := newTestTree(t, "log")
	for i := range uint64(5000) {
		tree.db.damage(tree.id.entry(2*i), entryPlace(2*i), "is missing")
		tree.db.damage(tree.id.entry(2*i), entryPlace(2*i), "is missing")
	}
	if n := len(tree.Damage()); n != maxDamages {
		t.Errorf("%d are remembered, want %d", n, maxDamages)
	}
	changed := tree.Damaged()
	tree.db.damages.add(tree.id, everything(tree, keyEntry))
	if left := tree.Damage(); len(left) != 1 || !strings.HasPrefix(left[0].Place, "table") {
		t.Errorf("what holds all of it did not take its place: %d", len(left))
	}
	select {
	case <-changed:
	default:
		t.Error("nobody is told of damage")
	}
	tree.db.damages.mended(tree.id, keyRange{tree.id.entry(0), tree.id.entry(100)})
	if left := tree.Damage(); len(left) != 1 || tree.id.indexAt(left[0].rows[1].lower) != 100 {
		t.Errorf("a part was mended, and left is %v", left)
	}
	tree.db.damages.mended(tree.id, everything(tree, keyEntry).rows[0])
	if left := tree.Damage(); len(left) != 0 {
		t.Errorf("all was mended, and left is %v", left)
	}
}

// TestProbe: a range that ends within other damage is made wider, or Pebble would drop what
// it cannot read, and with it the rest of the file.
func TestProbe(t *testing.T) {
	unhurried(t)
	for _, side := range []string{"behind", "before"} {
		for _, there := range []bool{true, false} {
			disk := vfs.NewMem()
			o := Options{FS: disk, manyBytes: 1, CacheBytes: 1}
			db := createDB(t, o)
			entries := testEntries(3000)
			for i := range entries {
				entries[i] = append(entries[i], make([]byte, 200)...)
			}
			naive := newNaiveTree(entries)
			tree := createTree(t, db, "log")
			extend(t, tree, entries)
			before := dump(t, db)
			closeDB(t, db)
			for name, kind := range tableKinds(t, disk) {
				if kind == string(rune(keyEntry)) {
					flipByte(t, disk, name, len(readAll(t, disk, name))*3/4)
				}
			}
			db, err := Open("data", o)
			if err != nil {
				t.Fatal(err)
			}
			tree = openTree(t, db, "log")
			lost := func() (first, end uint64) {
				v := tree.View()
				defer v.Close()
				for i := range uint64(3000) {
					if errors.As(second(v.Entry(i)), new(*DamageError)) {
						if end == 0 {
							first = i
						}
						end = i + 1
					}
				}
				return first, end
			}
			first, end := lost()
			if first < 500 || end == first || end > 2999 {
				t.Fatalf("entries %d to %d are damaged: the test tests nothing", first, end)
			}
			// All that is known is that a row beside the damaged block is missing.
			db.damages.mended(tree.id, everything(tree, keyEntry).rows[0])
			row := end
			if side == "before" {
				row = first - 1
			}
			db.damage(tree.id.entry(row), entryPlace(row), "is missing")
			from := naive.from(entries)
			if asked := 0; !there { // but for the first time
				from.Bundle = func(ctx context.Context, index uint64, width int, accept func([][]byte) error) error {
					if asked++; asked > 1 {
						return errors.New("gone")
					}
					return naive.from(entries).Bundle(ctx, index, width, accept)
				}
			}
			done := repaired(t, tree, from)
			if there {
				if done.Entries != 3000 {
					t.Errorf("%s: repaired %+v, want the whole file", side, done)
				}
				checkTree(t, tree)
				sameDump(t, dump(t, db), before)
			} else if a, b := lost(); a < first || b > end {
				t.Errorf("%s: entries %d to %d are lost, and %d to %d were", side, a, b-1, first, end-1)
			}
			closeDB(t, db)
		}
	}
}

// TestRepairTwoTrees: repairs of several trees, and several repairs of one, are apart.
func TestRepairTwoTrees(t *testing.T) {
	db := createDB(t, Options{FS: vfs.NewMem(), Fatal: func(err error) { t.Errorf("fatal: %v", err) }})
	defer func() { closeDB(t, db) }()
	var trees []*Tree
	for i := range 3 {
		tree := createTree(t, db, fmt.Sprint(i))
		extend(t, tree, append([][]byte{fmt.Append(nil, i)}, testEntries(3000)...))
		trees = append(trees, tree)
	}
	before := dump(t, db)
	for _, kind := range []byte{keyEntry, keyTile, keyLeaf} {
		var running sync.WaitGroup
		for _, tree := range trees {
			db.damages.add(tree.id, everything(tree, kind))
			for range 2 {
				running.Go(func() {
					if _, err := tree.Repair(context.Background(), Elsewhere{}); err != nil {
						t.Errorf("repair: %v", err)
					}
				})
			}
		}
		running.Wait()
		sameDump(t, dump(t, db), before)
	}
}

// TestRenewWithin: rows are swapped while a view reads rows, and reads others in between.
func TestRenewWithin(t *testing.T) {
	entries := testEntries(700)
	entries[600] = entries[5] // so that one hash has two rows
	tree := newTestTree(t, "log")
	extend(t, tree, entries)
	swap := func(rows keyRange) { // and the tiles
		for _, rows := range []keyRange{rows, everything(tree, keyTile).rows[0]} {
			tree.db.damages.add(tree.id, DamageError{Place: "rows", Problem: fmt.Sprintf("%x", rows), rows: []keyRange{rows}})
		}
		repaired(t, tree, Elsewhere{})
	}
	for _, during := range []uint64{0, 50, 150, 250, 1000} {
		v := tree.View()
		if during == 0 { // the rows are swapped before they are read, the tiles are met first
			swap(keyRange{tree.id.entry(100), tree.id.entry(200)})
		}
		n := 0
		if err := v.Entries(0, 700, func(i uint64, entry []byte) error {
			if n++; i == during {
				swap(everything(tree, keyEntry).rows[0])
			}
			if hash, err := v.LeafHash(i); err != nil || hash != LeafHash(entries[i]) || !bytes.Equal(entry, entries[i]) {
				t.Fatalf("entry %d: %q, %v, %v", i, entry, hash, err)
			}
			return nil
		}); err != nil || n != 700 {
			t.Errorf("%d entries, %v", n, err)
		}
		v.Close()
	}
	for _, rows := range []keyRange{everything(tree, keyLeaf).rows[0], rowOf(tree.id.leaf(LeafHash(entries[5]), 5))} {
		v := tree.View()
		swap(rows)
		if index, ok, err := v.Index(LeafHash(entries[5])); err != nil || !ok || index != 5 {
			t.Errorf("index is %d, %v, %v", index, ok, err)
		}
		v.Close()
	}
	if left := tree.Damage(); len(left) > 0 {
		t.Errorf("%v is damaged", left)
	}
}

// TestRepairStuck: what cannot be put back does not make good rows be written again and again.
func TestRepairStuck(t *testing.T) {
	tree := newTestTree(t, "log")
	extend(t, tree, testEntries(700))
	tamper(t, tree.db, tree.id.entry(300), func(b []byte) []byte { b[5] ^= 1; return b })
	for range 3 {
		noticed(t, tree)
		if done := repaired(t, tree, Elsewhere{}); done != (Repaired{Left: 1}) {
			t.Errorf("repaired %+v", done)
		}
	}
	tree.db.damages.add(tree.id, everything(tree, keyEntry))
	long := Elsewhere{Bundle: func(_ context.Context, index uint64, width int, accept func([][]byte) error) error {
		return accept(testEntries(700)[index*tileWidth:]) // more than was asked for
	}}
	if done := repaired(t, tree, long); done.Entries > 0 {
		t.Errorf("repaired %+v", done)
	}
}

// TestRepairLeavesInParts: an index that does not fit into memory at once.
func TestRepairLeavesInParts(t *testing.T) {
	db := createDB(t, Options{FS: vfs.NewMem(), maxLeaves: 130})
	defer func() { closeDB(t, db) }()
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(3000))
	before := dump(t, db)
	for _, rows := range append([]keyRange{everything(tree, keyLeaf).rows[0]}, tree.id.bucketRange(keyLeaf, 0), tree.id.bucketRange(keyLeaf, 77), tree.id.bucketRange(keyLeaf, rowBuckets-1)) {
		db.damages.add(tree.id, DamageError{Place: "rows", Problem: "are to be written anew", rows: []keyRange{rows}})
		if done := repaired(t, tree, Elsewhere{}); done.Left > 0 || len(rows.upper) == 9 && len(rows.lower) == 9 && done.IndexRows != 3000 {
			t.Errorf("repaired %+v", done)
		}
		sameDump(t, dump(t, db), before)
	}
}
