package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"
)

// few is the size up to which everything is tried.
const few = 300

// TestEverySize builds trees in steps of one, in random steps and at once, and holds
// every root, tile, bundle and proof at every size against the naive tree.
func TestEverySize(t *testing.T) {
	unhurried(t)
	entries := testEntries(few)
	naive := newNaiveTree(entries)
	draw := rand.New(rand.NewPCG(1, 2))
	for name, step := range map[string]func() int{
		"one by one":   func() int { return 1 },
		"random steps": func() int { return draw.IntN(40) },
		"at once":      func() int { return few },
	} {
		t.Run(name, func(t *testing.T) {
			tree := newTestTree(t, "log")
			for size := 0; size < few; {
				n := min(step(), few-size)
				s := extend(t, tree, entries[size:size+n])
				size += n
				if s.Head != naive.head(uint64(size)) || s.Mirrored.Head != s.Head || s.Pending.Head != s.Head {
					t.Fatalf("state at size %d is %+v", size, s)
				}
				v := tree.View()
				checkSize(t, v, naive, uint64(size))
				v.Close()
			}
			checkTree(t, tree)
			v := tree.View()
			defer v.Close()
			for size := range uint64(few + 1) {
				checkSize(t, v, naive, size)
			}
			checkContent(t, v, naive, entries)
			checkBeyond(t, v, few)
		})
	}
}

// checkSize holds the root and every proof of one size against the naive tree, and that
// against the two libraries.
func checkSize(t *testing.T, v *View, naive *naiveTree, size uint64) {
	t.Helper()
	root := naive.mth(0, size)
	if got, err := v.Root(size); err != nil || got != root {
		t.Fatalf("root at %d is %v, %v, want %v", size, got, err, root)
	}
	for i := range size {
		want := naive.inclusion(i, size)
		if got, err := v.InclusionProof(i, size); err != nil || !slices.Equal(got, want) {
			t.Fatalf("inclusion of %d in %d: %v, %v, want %v", i, size, got, err, want)
		}
		leaf := naive.leaves[i]
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, leaf[:], packed(want), root[:]); err != nil {
			t.Fatalf("inclusion of %d in %d: %v", i, size, err)
		}
		if err := tlog.CheckRecord(tlogHashes(want), int64(size), tlog.Hash(root), int64(i), tlog.Hash(leaf)); err != nil {
			t.Fatalf("inclusion of %d in %d: %v", i, size, err)
		}
	}
	for first := range size + 1 {
		want := naive.consistency(first, size)
		if got, err := v.ConsistencyProof(first, size); err != nil || !slices.Equal(got, want) {
			t.Fatalf("consistency of %d with %d: %v, %v, want %v", first, size, got, err, want)
		}
		if first == 0 {
			continue // not defined by either library
		}
		old := naive.mth(0, first)
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first, size, packed(want), old[:], root[:]); err != nil {
			t.Fatalf("consistency of %d with %d: %v", first, size, err)
		}
		if err := tlog.CheckTree(tlogHashes(want), int64(size), tlog.Hash(root), int64(first), tlog.Hash(old)); err != nil {
			t.Fatalf("consistency of %d with %d: %v", first, size, err)
		}
	}
}

func tlogHashes(hashes []Hash) []tlog.Hash {
	out := make([]tlog.Hash, len(hashes))
	for i := range hashes {
		out[i] = tlog.Hash(hashes[i])
	}
	return out
}

// checkContent holds entries, leaf hashes, index, tiles and bundles of every width
// against the naive tree.
func checkContent(t *testing.T, v *View, naive *naiveTree, entries [][]byte) {
	t.Helper()
	for i, want := range entries {
		if got, err := v.Entry(uint64(i)); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("entry %d is %q, %v", i, got, err)
		}
		if got, err := v.LeafHash(uint64(i)); err != nil || got != naive.leaves[i] {
			t.Fatalf("leaf hash %d is %v, %v", i, got, err)
		}
		if got, ok, err := v.Index(naive.leaves[i]); err != nil || !ok || got != uint64(i) {
			t.Fatalf("index of entry %d is %d, %v, %v", i, got, ok, err)
		}
	}
	size := uint64(len(entries))
	for level := range tileHeight {
		for index := uint64(0); widthAt(size, level, index) > 0; index++ {
			for width := 1; width <= widthAt(size, level, index); width++ {
				if got, err := v.Tile(level, index, width); err != nil || !bytes.Equal(got, naive.tile(level, index, width)) {
					t.Fatalf("tile %d/%d.p/%d: %x, %v", level, index, width, got, err)
				}
				if level > 0 {
					continue
				}
				var want []byte
				for _, e := range entries[index*tileWidth : index*tileWidth+uint64(width)] {
					want = append(append(want, byte(len(e)>>8), byte(len(e))), e...)
				}
				if got, err := v.Bundle(index, width); err != nil || !bytes.Equal(got, want) {
					t.Fatalf("bundle %d.p/%d: %x, %v", index, width, got, err)
				}
			}
		}
	}
}

// checkBeyond asks for what a tree of this size does not hold.
func checkBeyond(t *testing.T, v *View, size uint64) {
	t.Helper()
	for what, err := range map[string]error{
		"root":                      second(v.Root(size + 1)),
		"inclusion":                 second(v.InclusionProof(size, size)),
		"inclusion at a later size": second(v.InclusionProof(0, size+1)),
		"consistency":               second(v.ConsistencyProof(1, size+1)),
		"consistency with itself":   second(v.ConsistencyProof(size+1, size+1)),
		"consistency from nothing":  second(v.ConsistencyProof(0, size+1)),
		"entry":                     second(v.Entry(size)),
		"last entry":                second(v.Entry(^uint64(0))),
		"leaf hash":                 second(v.LeafHash(size)),
		"entries":                   v.Entries(size, size+1, nil),
		"backward entries":          v.Entries(1, 0, nil),
		"tile":                      second(v.Tile(0, size/tileWidth, int(size%tileWidth)+1)),
		"tile of no width":          second(v.Tile(0, 0, 0)),
		"wide tile":                 second(v.Tile(0, 0, tileWidth+1)),
		"high tile":                 second(v.Tile(tileHeight, 0, 1)),
		"higher tile":               second(v.Tile(1<<40, 0, 1)),
		"low tile":                  second(v.Tile(-1, 0, 1)),
		"last tile":                 second(v.Tile(0, ^uint64(0), tileWidth)),
		"bundle":                    second(v.Bundle(size/tileWidth, int(size%tileWidth)+1)),
		"last bundle":               second(v.Bundle(^uint64(0), tileWidth)),
	} {
		if !errors.Is(err, ErrNotHeld) {
			t.Errorf("%s beyond size %d: %v, want ErrNotHeld", what, size, err)
		}
	}
	for what, err := range map[string]error{
		"inclusion outside the tree": second(v.InclusionProof(0, 0)),
		"backward consistency":       second(v.ConsistencyProof(2, 1)),
	} {
		if err == nil || errors.Is(err, ErrNotHeld) {
			t.Errorf("%s: %v, want a plain error", what, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// TestPendingAhead holds every head H below every pending checkpoint P: what is held is
// proven at P and at every size up to H, and nothing else is, also after reopening.
func TestPendingAhead(t *testing.T) {
	unhurried(t)
	t.Run("every pair", func(t *testing.T) {
		const most = 80
		var heads, sizes []uint64
		for n := uint64(1); n <= most; n++ {
			heads, sizes = append(heads, n), append(sizes, n)
		}
		pendingAhead(t, heads, sizes)
	})
	t.Run("around tiles", func(t *testing.T) {
		pendingAhead(t, []uint64{1, 2, 127, 128, 129, 255, 256, 257, 299}, []uint64{3, 129, 255, 256, 257, 258, few})
	})
}

// pendingAhead grows one tree for each pending size through all smaller heads, side by
// side in one database.
func pendingAhead(t *testing.T, heads, sizes []uint64) {
	o := Options{FS: vfs.NewMem()}
	db := createDB(t, o)
	defer func() { closeDB(t, db) }()
	entries := testEntries(few)
	naive := newNaiveTree(entries)
	name := func(size uint64) string { return fmt.Sprintf("log of %d", size) }
	for _, size := range sizes {
		tree := createTree(t, db, name(size))
		if _, err := tree.Advance(note(tree.Origin(), naive.head(size), "s"), nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	held := uint64(0)
	for _, head := range heads {
		for _, size := range sizes {
			if size < head {
				continue
			}
			tree := openTree(t, db, name(size))
			s, err := tree.Extend(entries[held:head], under(tree.State().Pending, naive.consistency(head, size)))
			if err != nil {
				t.Fatalf("extend to %d below %d: %v", head, size, err)
			}
			if complete := head == size; complete != (s.Mirrored.Raw != nil) {
				t.Fatalf("head %d below %d: mirror checkpoint is %q", head, size, s.Mirrored.Raw)
			}
		}
		held = head
		db = reopen(t, db, o)
		for _, size := range sizes {
			if size >= head {
				checkAhead(t, openTree(t, db, name(size)), naive, head, size)
			}
		}
	}
}

func checkAhead(t *testing.T, tree *Tree, naive *naiveTree, head, pending uint64) {
	t.Helper()
	v := tree.View()
	defer v.Close()
	if s := v.State(); s.Head != naive.head(head) || s.Pending.Head != naive.head(pending) {
		t.Fatalf("state after reopening is %+v", s)
	}
	for _, size := range []uint64{pending, head, head - 1} {
		if root, err := v.Root(size); err != nil || root != naive.mth(0, size) {
			t.Fatalf("head %d, pending %d: root at %d is %v, %v", head, pending, size, root, err)
		}
		for i := range min(size, head) {
			if got, err := v.InclusionProof(i, size); err != nil || !slices.Equal(got, naive.inclusion(i, size)) {
				t.Fatalf("head %d, pending %d: inclusion of %d at %d is %v, %v", head, pending, i, size, got, err)
			}
		}
		for first := range min(size, head) + 1 {
			if got, err := v.ConsistencyProof(first, size); err != nil || !slices.Equal(got, naive.consistency(first, size)) {
				t.Fatalf("head %d, pending %d: consistency of %d with %d is %v, %v", head, pending, first, size, got, err)
			}
		}
	}
	if head < pending {
		if got, err := v.ConsistencyProof(pending, pending); err != nil || len(got) != 0 {
			t.Fatalf("consistency of pending with itself: %v, %v", got, err)
		}
	}
	for size := head + 1; size < pending; size++ {
		for what, err := range map[string]error{
			"root":                          second(v.Root(size)),
			"inclusion":                     second(v.InclusionProof(0, size)),
			"inclusion of a later entry":    second(v.InclusionProof(size, pending)),
			"consistency":                   second(v.ConsistencyProof(1, size)),
			"consistency from nothing":      second(v.ConsistencyProof(0, size)),
			"consistency of a later size":   second(v.ConsistencyProof(size, pending)),
			"consistency of it with itself": second(v.ConsistencyProof(size, size)),
		} {
			if !errors.Is(err, ErrNotHeld) {
				t.Fatalf("head %d, pending %d: %s at %d: %v, want ErrNotHeld", head, pending, what, size, err)
			}
		}
	}
	checkBeyond(t, v, max(head, pending))
}

// TestMangledProof offers every wrong proof to everything that takes one.
func TestMangledProof(t *testing.T) {
	const most = 33
	entries := testEntries(most)
	naive := newNaiveTree(entries)
	for pending := uint64(1); pending <= most; pending++ {
		tree := newTestTree(t, "log")
		first := note("log", naive.head(pending), "s")
		if _, err := tree.Advance(first, nil, nil); err != nil {
			t.Fatal(err)
		}
		before := tree.State()
		refused := func(what string, err error) {
			t.Helper()
			if !errors.Is(err, ErrInconsistent) || tree.State() != before {
				t.Fatalf("pending %d: %s: %v, want ErrInconsistent and no change", pending, what, err)
			}
		}
		for head := uint64(0); head <= pending; head++ {
			for _, wrong := range mangled(naive.consistency(head, pending)) {
				refused(fmt.Sprintf("extend to %d", head), second(tree.Extend(entries[:head], under(first, wrong))))
			}
		}
		held := pending - pending/3
		if _, err := tree.Extend(entries[:held], under(first, naive.consistency(held, pending))); err != nil {
			t.Fatal(err)
		}
		before = tree.State()
		for next := pending; next <= most; next++ {
			c := note("log", naive.head(next), "s")
			consistency, precedes := naive.consistency(pending, next), naive.consistency(held, next)
			for _, wrong := range mangled(consistency) {
				refused(fmt.Sprintf("advance to %d, consistency", next), second(tree.Advance(c, wrong, precedes)))
			}
			for _, wrong := range mangled(precedes) {
				refused(fmt.Sprintf("advance to %d, precedes", next), second(tree.Advance(c, consistency, wrong)))
			}
		}
		checkTree(t, tree)
	}
}
