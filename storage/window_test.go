package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// tilesOf returns the tiles that a tree lacks for a minimum index.
func (n *naiveTree) tilesOf(s *State, minimum uint64) [][]byte {
	var tiles [][]byte
	for _, id := range s.Lacks(minimum) {
		tiles = append(tiles, n.tile(id.Level, id.Index, id.Width))
	}
	return tiles
}

func (n *naiveTree) begin(tree *Tree, minimum uint64) error {
	s := tree.State()
	return second(tree.Begin(minimum, n.tilesOf(s, minimum), Seal{Checkpoint: s.Pending, Precedes: n.consistency(minimum, s.Pending.Size)}))
}

func (n *naiveTree) prepend(tree *Tree, minimum uint64, entries [][]byte) error {
	return second(tree.Prepend(entries, n.tilesOf(tree.State(), minimum)))
}

// checkWindow holds what a window answers against a naive tree: at each size all of which
// it holds the root, and for some indexes entry and proofs.
func checkWindow(t *testing.T, tree *Tree, naive *naiveTree, sizes, indexes []uint64, entry func(uint64) []byte) {
	t.Helper()
	v := tree.View()
	defer v.Close()
	minimum, held := v.State().Minimum, v.State().Head.Size
	for _, size := range sizes {
		root, err := v.Root(size)
		switch {
		case size > 0 && size < minimum && size != v.State().Pending.Size:
			if !errors.Is(err, ErrBelowMinimum) {
				t.Fatalf("root at %d: %v", size, err)
			}
			continue
		case err != nil || root != naive.mth(0, size):
			t.Fatalf("root at %d is %v, %v", size, root, err)
		}
		for _, first := range sizes {
			if first > size || first > held {
				continue
			}
			got, err := v.ConsistencyProof(first, size)
			switch {
			case first > 0 && first < minimum:
				if !errors.Is(err, ErrBelowMinimum) {
					t.Fatalf("consistency of %d with %d: %v", first, size, err)
				}
			case err != nil || !slices.Equal(got, naive.consistency(first, size)):
				t.Fatalf("consistency of %d with %d: %v, %v", first, size, got, err)
			}
		}
		for _, i := range indexes {
			if i >= size {
				continue
			}
			got, err := v.InclusionProof(i, size)
			switch {
			case i < minimum:
				if !errors.Is(err, ErrBelowMinimum) {
					t.Fatalf("inclusion of %d in %d: %v", i, size, err)
				}
			case i >= held:
				if !errors.Is(err, ErrNotHeld) {
					t.Fatalf("inclusion of %d in %d: %v", i, size, err)
				}
			case err != nil || !slices.Equal(got, naive.inclusion(i, size)):
				t.Fatalf("inclusion of %d in %d: %v, %v", i, size, got, err)
			}
		}
	}
	for _, i := range indexes {
		got, err := v.Entry(i)
		hash, hashErr := v.LeafHash(i)
		_, bundleErr := v.Bundle(i/tileWidth, int(i%tileWidth)+1)
		_, tileErr := v.Tile(0, i/tileWidth, int(i%tileWidth)+1)
		switch {
		case i < minimum:
			for _, err := range []error{err, hashErr, bundleErr, tileErr, v.Entries(i, held, nil)} {
				if !errors.Is(err, ErrBelowMinimum) {
					t.Fatalf("entry %d: %v", i, err)
				}
			}
			if at, ok, err := v.Index(LeafHash(entry(i))); err != nil || ok && at < minimum {
				t.Fatalf("index of entry %d is %d, %v, %v", i, at, ok, err)
			}
		case i >= held:
			if !errors.Is(err, ErrNotHeld) {
				t.Fatalf("entry %d: %v", i, err)
			}
		case err != nil || !bytes.Equal(got, entry(i)) || hashErr != nil || hash != LeafHash(entry(i)) || bundleErr != nil || tileErr != nil:
			t.Fatalf("entry %d is %q, %v, %v, %v, %v", i, got, err, hashErr, bundleErr, tileErr)
		}
	}
	// Every tile that reaches into the window is held whole; none before it is.
	for level := range tileHeight {
		last := held >> (tileHeight * (level + 1))
		for index := last - min(last, 2); index <= last; index++ {
			width := widthAt(held, level, index)
			if width == 0 {
				continue
			}
			raw, err := v.Tile(level, index, width)
			before := level < tileHeight-1 && (index+1)<<(tileHeight*(level+1)) <= minimum
			switch {
			case before:
				if !errors.Is(err, ErrBelowMinimum) {
					t.Fatalf("tile %d/%d: %v", level, index, err)
				}
			case err != nil || !bytes.Equal(raw, naive.tile(level, index, width)):
				t.Fatalf("tile %d/%d of width %d: %v", level, index, width, err)
			}
		}
	}
}

func upTo(n uint64) []uint64 {
	all := make([]uint64, n+1)
	for i := range all {
		all[i] = uint64(i)
	}
	return all
}

// dump returns every row of a database.
func dump(t failer, db *DB) map[string]string {
	t.Helper()
	rows := map[string]string{}
	it, err := db.pebble.NewIter(nil)
	if err != nil {
		t.Fatalf("iterate: %v", err)
	}
	for more := it.First(); more; more = it.Next() {
		rows[string(it.Key())] = string(it.Value())
	}
	if err := it.Close(); err != nil {
		t.Fatalf("iterate: %v", err)
	}
	return rows
}

// TestWindowOfEverySize: for every window on a small tree all that it answers is what the
// whole tree answers; once it has grown to the left down to the first entry, it has the
// rows of a tree that was grown from there, to the byte.
func TestWindowOfEverySize(t *testing.T) {
	unhurried(t)
	const most = 770
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	entry := func(i uint64) []byte { return entries[i] }
	indexes := append(upTo(most - 1)[250:], 0, 1, 100)
	for minimum := uint64(tileWidth); minimum <= most; minimum += tileWidth {
		for size := minimum; size <= most; size++ {
			if size > 515 && size%13 != 0 && size%tileWidth > 1 {
				continue
			}
			tree := newTestTree(t, "log")
			if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := naive.begin(tree, minimum); err != nil {
				t.Fatalf("window from %d in a tree of %d: %v", minimum, size, err)
			}
			checkTree(t, tree)
			held := minimum + (size-minimum)/2
			for _, next := range []uint64{held, size} {
				before := tree.State().Head.Size
				if _, err := tree.Extend(entries[before:next], under(tree.State().Pending, naive.consistency(next, size))); err != nil {
					t.Fatalf("window from %d, extend from %d to %d of %d: %v", minimum, before, next, size, err)
				}
				sizes := append(upTo(next)[max(next, 3)-3:], size, 0, 1, 255, 256, 257, minimum, minimum+1, min(minimum+100, size))
				sizes = slices.DeleteFunc(sizes, func(s uint64) bool { return s > next && s != size })
				checkWindow(t, tree, naive, sizes, indexes[:len(indexes)-int(most-size)-3], entry)
			}
			for at := minimum; at > 0; at -= tileWidth {
				if err := naive.prepend(tree, at-tileWidth, entries[at-tileWidth:at]); err != nil {
					t.Fatalf("window from %d in a tree of %d, prepend to %d: %v", minimum, size, at, err)
				}
				checkTree(t, tree)
			}
			whole := newTestTree(t, "log")
			if _, err := whole.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if _, err := whole.Extend(entries[:size], under(whole.State().Pending, nil)); err != nil {
				t.Fatal(err)
			}
			sameRows(t, tree.db, whole.db)
		}
	}
}

func sameRows(t *testing.T, a, b *DB) {
	t.Helper()
	sameDump(t, dump(t, a), dump(t, b))
}

func sameDump(t *testing.T, left, right map[string]string) {
	t.Helper()
	for key, value := range left {
		if other, ok := right[key]; !ok || other != value {
			t.Fatalf("row %x differs: %d bytes, and %d (%v)", key, len(value), len(other), ok)
		}
	}
	if len(left) != len(right) {
		t.Fatalf("%d rows, and %d", len(left), len(right))
	}
}

// TestWindowOnHugeLogs: windows on trees of up to 2^40 entries, around powers of two and
// anywhere, held against a naive tree in which all entries far from the window are equal.
func TestWindowOnHugeLogs(t *testing.T) {
	unhurried(t)
	const around = 3 * tileWidth
	draw := rand.New(rand.NewPCG(3, 4))
	var minima []uint64
	for bits := 9; bits <= 40; bits++ {
		power := uint64(1) << bits
		minima = append(minima, power, power-tileWidth, power+tileWidth, draw.Uint64N(power)/tileWidth*tileWidth)
	}
	for _, minimum := range minima {
		if minimum == 0 {
			continue
		}
		first := minimum - min(minimum, around)
		entry := func(i uint64) []byte {
			if i < first || i >= minimum+around {
				return []byte("elsewhere")
			}
			return fmt.Appendf(nil, "entry %d", i)
		}
		elsewhere := LeafHash([]byte("elsewhere"))
		naive := &naiveTree{first: first, leafElse: &elsewhere, seen: map[span]Hash{}}
		entries := func(lo, hi uint64) (out [][]byte) {
			for i := lo; i < hi; i++ {
				out = append(out, entry(i))
			}
			return out
		}
		for _, e := range entries(first, minimum+around) {
			naive.leaves = append(naive.leaves, LeafHash(e))
		}
		size := minimum + draw.Uint64N(1<<draw.IntN(40))
		if draw.IntN(4) == 0 {
			size = minimum + draw.Uint64N(600)
		}
		held := min(size, minimum+draw.Uint64N(600))
		tree := newTestTree(t, "log")
		if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := naive.begin(tree, minimum); err != nil {
			t.Fatalf("window from %d in a tree of %d: %v", minimum, size, err)
		}
		if _, err := tree.Extend(entries(minimum, held), under(tree.State().Pending, naive.consistency(held, size))); err != nil {
			t.Fatalf("window from %d, extend to %d of %d: %v", minimum, held, size, err)
		}
		for range 4 {
			indexes := []uint64{held - 1, held - min(held, 100), minimum, minimum - 1, minimum - min(minimum, 200), minimum - min(minimum, 300), minimum - min(minimum, 600), 0}
			indexes = slices.DeleteFunc(indexes, func(i uint64) bool { return i >= size })
			sizes := []uint64{size, held, minimum, minimum - min(minimum, 255), minimum - min(minimum, 257), min(held, minimum+100)}
			checkWindow(t, tree, naive, sizes, indexes, entry)
			checkTree(t, tree)
			at := tree.State().Minimum
			next := max(at-min(at, tileWidth), tree.State().PrependLimit())
			if at == 0 {
				break
			}
			if err := naive.prepend(tree, next, entries(next, at)); err != nil {
				t.Fatalf("window from %d in a tree of %d, prepend from %d to %d: %v", minimum, size, at, next, err)
			}
		}
	}
}

// TestWindowInLargePieces grows a window by pieces of up to 65,536 entries, across the
// border of a tile of level 1, with tables of entries.
func TestWindowInLargePieces(t *testing.T) {
	unhurried(t)
	const size = 2*maxPrepend + 700
	entries := make([][]byte, size)
	for i := range entries {
		entries[i] = fmt.Appendf(nil, "%d", i)
	}
	naive := newNaiveTree(entries)
	for _, manyBytes := range []int{0, 1} {
		o := Options{FS: vfs.NewMem(), manyBytes: manyBytes}
		db := createDB(t, o)
		tree := createTree(t, db, "log")
		if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
			t.Fatal(err)
		}
		const minimum = 2*maxPrepend + 256
		if err := naive.begin(tree, minimum); err != nil {
			t.Fatal(err)
		}
		for _, reach := range []uint64{2 * maxPrepend, maxPrepend, 0} {
			s := tree.State()
			if s.PrependLimit() != reach {
				t.Fatalf("limit is %d, want %d", s.PrependLimit(), reach)
			}
			if reach > 0 {
				below := reach - tileWidth
				if err := naive.prepend(tree, below, entries[below:s.Minimum]); !errors.Is(err, errWindow) {
					t.Fatalf("prepend across a tile of level 1: %v", err)
				}
			}
			if err := naive.prepend(tree, reach, entries[reach:s.Minimum]); err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
			db = reopen(t, db, o)
			tree = openTree(t, db, "log")
			if tree.State().Minimum != reach {
				t.Fatalf("minimum index is %d, want %d", tree.State().Minimum, reach)
			}
		}
		if _, err := tree.Extend(entries[minimum:], under(tree.State().Pending, nil)); err != nil {
			t.Fatal(err)
		}
		checkTree(t, tree)
		closeDB(t, db)
	}
}

// TestWindowRefuses: what does not fit is refused, and changes nothing.
func TestWindowRefuses(t *testing.T) {
	unhurried(t)
	const size, minimum = maxPrepend + 600, maxPrepend + 256
	entries := make([][]byte, size)
	for i := range entries {
		entries[i] = fmt.Appendf(nil, "%d", i)
	}
	naive := newNaiveTree(entries)
	tree := newTestTree(t, "log")
	pending := note("log", naive.head(size), "s")
	proof := naive.consistency(minimum, size)
	refused := func(what string, want error, do func() (*State, error)) {
		t.Helper()
		before := dump(t, tree.db)
		if _, err := do(); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		after := dump(t, tree.db)
		for key, value := range after {
			if before[key] != value {
				t.Errorf("%s changed row %x", what, key)
			}
		}
	}
	begin := func(minimum uint64, tiles [][]byte, proof []Hash) func() (*State, error) {
		return func() (*State, error) { return tree.Begin(minimum, tiles, Seal{Checkpoint: pending, Precedes: proof}) }
	}
	good := naive.tilesOf(&State{}, minimum)
	refused("a window without a checkpoint", ErrInconsistent, begin(minimum, good, proof))
	if _, err := tree.Advance(pending, nil, nil); err != nil {
		t.Fatal(err)
	}
	refused("a window from 0", errWindow, begin(0, nil, nil))
	refused("a window from 300", errWindow, begin(300, naive.tilesOf(&State{}, 300), naive.consistency(300, size)))
	refused("a window beyond the tree", ErrInconsistent, begin(2*maxPrepend, [][]byte{make([]byte, 2*HashSize)}, nil))
	refused("a window with a tile less", errWindow, begin(minimum, good[1:], proof))
	refused("a window with a short tile", errWindow, begin(minimum, [][]byte{good[0], good[1][1:]}, proof))
	for i := range good {
		bent := slices.Clone(good)
		bent[i] = bytes.Clone(bent[i])
		bent[i][len(bent[i])-1] ^= 1
		refused("a window with a bent tile", ErrInconsistent, begin(minimum, bent, proof))
	}
	for _, bent := range mangled(proof) {
		refused("a window with a bent proof", ErrInconsistent, begin(minimum, good, bent))
	}
	if _, err := begin(minimum, good, proof)(); err != nil {
		t.Fatal(err)
	}
	refused("a second window", errWindow, begin(minimum, good, proof))

	prepend := func(entries, tiles [][]byte) func() (*State, error) {
		return func() (*State, error) { return tree.Prepend(entries, tiles) }
	}
	refused("nothing", errWindow, prepend(nil, nil))
	refused("half a bundle", errWindow, prepend(entries[minimum-100:minimum], nil))
	forged := slices.Clone(entries[minimum-256 : minimum])
	forged[255] = []byte("forged")
	refused("a forged entry", ErrInconsistent, prepend(forged, nil))
	swapped := slices.Clone(entries[minimum-256 : minimum])
	swapped[0], swapped[1] = swapped[1], swapped[0]
	refused("swapped entries", ErrInconsistent, prepend(swapped, nil))
	refused("other entries", ErrInconsistent, prepend(entries[:256], nil))
	refused("a tile too many", errWindow, prepend(entries[minimum-256:minimum], good[:1]))
	if _, err := prepend(entries[minimum-256:minimum], nil)(); err != nil {
		t.Fatal(err)
	}
	below := entries[maxPrepend-512 : maxPrepend]
	tiles := naive.tilesOf(tree.State(), maxPrepend-512)
	if len(tiles) != 1 {
		t.Fatalf("%d tiles are lacking", len(tiles))
	}
	refused("no tile", errWindow, prepend(below, nil))
	for at := range tiles[0] {
		if at%777 != 0 {
			continue
		}
		bent := bytes.Clone(tiles[0])
		bent[at] ^= 1
		refused("a bent tile", ErrInconsistent, prepend(below, [][]byte{bent}))
	}
	refused("a short tile", ErrInconsistent, prepend(below, [][]byte{tiles[0][:255*HashSize]}))
	if _, err := prepend(below, tiles)(); err != nil {
		t.Fatal(err)
	}
	checkTree(t, tree)
	if err := tree.Quarantine(Evidence{Reason: "a test", At: start}); err != nil {
		t.Fatal(err)
	}
	refused("a quarantined log", ErrQuarantined, prepend(entries[maxPrepend-768:maxPrepend-512], nil))
}

// TestCheckNamesInWindows: what is wrong with a window is named.
func TestCheckNamesInWindows(t *testing.T) {
	const size, minimum = 1000, 512
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	id := treeID(1)
	row := func(b ...byte) func([]byte) []byte { return func([]byte) []byte { return b } }
	for _, m := range []struct {
		name   string
		key    []byte
		change func([]byte) []byte
		finds  string // "" if it is no problem
	}{
		{"what a crash left below", id.entry(minimum - 1), row(0, 1), ""},
		{"a stray entry below", id.entry(minimum - 2), row(0, 1), "each of the entries 510 to 510 stands below the minimum index 512"},
		{"the first entry", id.entry(0), row(0, 1), "each of the entries 0 to 0 stands below"},
		{"a stray tile", id.tile(0, 1), row(make([]byte, 32)...), "tile 0/1 stands below the minimum index"},
		{"a stray index row", id.leaf(naive.leaves[3], 3), row(), "leaf index has a row for entry 3, below the minimum index"},
		{"the first entry held is missing", id.entry(minimum), nil, "entry 512 is missing"},
		{"the tile over the border", id.tile(1, 0), func(b []byte) []byte { b[0] ^= 1; return b }, "head has the root"},
		{"the tile over the border is missing", id.tile(1, 0), nil, "tile 1/0 is missing"},
		{"another minimum index", id.head(), func(b []byte) []byte { b[1+8+32+6] = 1; return b }, "head record differs"},
	} {
		t.Run(m.name, func(t *testing.T) {
			tree := newTestTree(t, "log")
			if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := naive.begin(tree, minimum); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Extend(entries[minimum:size], under(tree.State().Pending, nil)); err != nil {
				t.Fatal(err)
			}
			checkTree(t, tree)
			tamper(t, tree.db, m.key, m.change)
			if m.finds == "" {
				checkTree(t, tree)
				return
			}
			finds(t, tree, m.finds)
		})
	}
}

// TestHeadRecordOfVersion1: what an earlier build wrote is a tree from the first entry on.
func TestHeadRecordOfVersion1(t *testing.T) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	tree := createTree(t, db, "log")
	extend(t, tree, testEntries(300))
	tamper(t, db, tree.id.head(), func(b []byte) []byte {
		b[0] = recordVersion
		return slices.Delete(b, 1+8+HashSize, 1+8+HashSize+8)[:len(b)-8-1-archivedSize]
	})
	db = reopen(t, db, o)
	defer closeDB(t, db)
	tree = openTree(t, db, "log")
	if tree.State().Head.Size != 300 || tree.State().Minimum != 0 {
		t.Fatalf("state is %+v", tree.State())
	}
	extend(t, tree, testEntries(10))
	checkTree(t, tree)
	if raw, err := db.get(tree.id.head()); errors.Is(err, pebble.ErrNotFound) || raw[0] != headVersion {
		t.Fatalf("head record begins with %d, %v", raw[0], err)
	}
}

// TestFailedPrepend lets the disk refuse what the growing of a window to the left needs. The
// cause reaches Fatal, which ends the process; and opening what is on the disk then recovers:
// the window is as it was, or has grown, and nothing in between.
func TestFailedPrepend(t *testing.T) {
	const size, minimum = 1500, 1024
	entries := testEntries(size)
	naive := newNaiveTree(entries)
	for _, manyBytes := range []int{0, 1} {
		for _, f := range []*faults{
			{ops: []operation{opWrite}, path: ".log", err: syscall.ENOSPC},
			{ops: []operation{opSync}, path: ".log", err: syscall.EIO},
			{ops: []operation{opWrite}, path: incoming, err: syscall.ENOSPC},
			{ops: []operation{opSync}, path: incoming, err: syscall.EIO},
			{ops: []operation{opChange}, path: incoming, err: syscall.ENOSPC},
			{ops: []operation{opSync}, path: "MANIFEST", err: syscall.EIO},
			{ops: []operation{opWrite, opSync, opChange}, path: "", err: syscall.ENOSPC},
		} {
			if manyBytes == 0 && f.path == incoming {
				continue // few entries need no table
			}
			disk := vfs.NewCrashableMem()
			cause := make(chan error, 1)
			db := createDB(t, Options{FS: &hookFS{disk, f.before}, manyBytes: manyBytes, Fatal: func(err error) {
				cause <- err
				select {}
			}})
			tree := createTree(t, db, "log")
			if _, err := tree.Advance(note("log", naive.head(size), "s"), nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := naive.begin(tree, minimum); err != nil {
				t.Fatal(err)
			}
			if _, err := tree.Extend(entries[minimum:], under(tree.State().Pending, nil)); err != nil {
				t.Fatal(err)
			}
			f.on.Store(true)
			done := make(chan error, 1)
			go func() {
				err := naive.prepend(tree, minimum-512, entries[minimum-512:minimum])
				if err == nil {
					err = db.pebble.Flush()
				}
				done <- err
			}()
			select {
			case err := <-cause:
				if !errors.Is(err, f.err) {
					t.Errorf("%v: Fatal got %v", f, err)
				}
			case err := <-done:
				t.Errorf("%v: ended with %v, and Fatal was not called", f, err)
			}
			f.on.Store(false)
			db, err := Open("data", Options{FS: disk.CrashClone(vfs.CrashCloneCfg{}), manyBytes: manyBytes})
			if err != nil {
				t.Fatalf("%v: %v", f, err)
			}
			tree = openTree(t, db, "log")
			if s := tree.State(); s.Head.Size != size || s.Minimum != minimum && s.Minimum != minimum-512 {
				t.Errorf("%v: recovered [%d, %d)", f, s.Minimum, s.Head.Size)
			}
			checkTree(t, tree)
			for at := tree.State().Minimum; at > 0; at -= 256 {
				if err := naive.prepend(tree, at-256, entries[at-256:at]); err != nil {
					t.Fatalf("%v: it does not go on: %v", f, err)
				}
			}
			checkTree(t, tree)
			closeDB(t, db)
		}
	}
}
