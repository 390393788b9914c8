package storage

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// naiveTree is RFC 6962, section 2.1, word by word, over leaf hashes. It remembers what
// it hashed.
type naiveTree struct {
	leaves []Hash
	seen   map[span]Hash

	// For trees that no memory holds: the leaves are those from index first on, and all
	// others, everywhere, are leafElse.
	first    uint64
	leafElse *Hash
}

func newNaiveTree(entries [][]byte) *naiveTree {
	n := &naiveTree{seen: map[span]Hash{}}
	for _, e := range entries {
		n.leaves = append(n.leaves, LeafHash(e))
	}
	return n
}

// largestPowerBelow returns the largest power of two smaller than n > 1.
func largestPowerBelow(n uint64) uint64 {
	k := uint64(1)
	for 2*k < n {
		k *= 2
	}
	return k
}

// mth is MTH(D[lo:hi]).
func (n *naiveTree) mth(lo, hi uint64) Hash {
	switch hi - lo {
	case 0:
		return emptyRoot()
	case 1:
		if n.elsewhere(lo, hi) {
			return *n.leafElse
		}
		return n.leaves[lo-n.first]
	}
	if n.elsewhere(lo, hi) { // only how many matters; their place is where no tree reaches
		lo, hi = 1<<62, 1<<62+hi-lo
	}
	h, ok := n.seen[span{lo, hi}]
	if !ok {
		k := largestPowerBelow(hi - lo)
		h = NodeHash(n.mth(lo, lo+k), n.mth(lo+k, hi))
		n.seen[span{lo, hi}] = h
	}
	return h
}

func (n *naiveTree) elsewhere(lo, hi uint64) bool {
	return n.leafElse != nil && (hi <= n.first || lo >= n.first+uint64(len(n.leaves)))
}

// path is PATH(m, D[lo:hi]), with m counted from lo.
func (n *naiveTree) path(m, lo, hi uint64) []Hash {
	if hi-lo == 1 {
		return nil
	}
	k := largestPowerBelow(hi - lo)
	if m < k {
		return append(n.path(m, lo, lo+k), n.mth(lo+k, hi))
	}
	return append(n.path(m-k, lo+k, hi), n.mth(lo, lo+k))
}

// subproof is SUBPROOF(m, D[lo:hi], whole).
func (n *naiveTree) subproof(m, lo, hi uint64, whole bool) []Hash {
	if m == hi-lo {
		if whole {
			return nil
		}
		return []Hash{n.mth(lo, hi)}
	}
	k := largestPowerBelow(hi - lo)
	if m <= k {
		return append(n.subproof(m, lo, lo+k, whole), n.mth(lo+k, hi))
	}
	return append(n.subproof(m-k, lo+k, hi, false), n.mth(lo, lo+k))
}

func (n *naiveTree) head(size uint64) Head { return Head{size, n.mth(0, size)} }

func (n *naiveTree) inclusion(i, size uint64) []Hash { return n.path(i, 0, size) }

func (n *naiveTree) consistency(first, last uint64) []Hash {
	if first == 0 || first == last {
		return nil
	}
	return n.subproof(first, 0, last, true)
}

// tile is the hash tile of C2SP tlog-tiles, of the given width.
func (n *naiveTree) tile(level int, index uint64, width int) []byte {
	var b []byte
	for i := range uint64(width) {
		lo, step := index*tileWidth+i, uint64(1)<<(tileHeight*level)
		h := n.mth(lo*step, (lo+1)*step)
		b = append(b, h[:]...)
	}
	return b
}

// failer is what *testing.T, *testing.B and *rapid.T have in common.
type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// from is another place that has the log.
func (n *naiveTree) from(entries [][]byte) Elsewhere {
	return Elsewhere{
		Tile: func(_ context.Context, id TileID, accept func([]byte) error) error {
			return accept(n.tile(id.Level, id.Index, id.Width))
		},
		Bundle: func(_ context.Context, index uint64, width int, accept func([][]byte) error) error {
			return accept(entries[index*tileWidth:][:width])
		},
		Border: func(_ context.Context, head Head, accept func([][]byte) error) error {
			var tiles [][]byte
			for _, id := range borderOf(head.Size) {
				tiles = append(tiles, n.tile(id.Level, id.Index, id.Width))
			}
			return accept(tiles)
		},
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// start is when checkpoints were first seen, in tests.
var start = time.Unix(1_760_000_000, 0)

// note makes a checkpoint in the shape of a signed note. Storage knows no keys, so the
// signature is a name.
func note(origin string, head Head, signature string, extensions ...string) Checkpoint {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, head.Size, base64.StdEncoding.EncodeToString(head.Root[:]))
	for _, line := range extensions {
		text += line + "\n"
	}
	raw := fmt.Sprintf("%s\n— %s %s\n", text, origin, base64.StdEncoding.EncodeToString([]byte(signature)))
	return Checkpoint{Head: head, Raw: []byte(raw), FirstSeen: start, LastSeen: start}
}

// testEntries returns n different entries; every seventh is 64 bytes longer than usual,
// and every fifth has text in base64, which is stored packed.
func testEntries(n int) [][]byte {
	entries := make([][]byte, n)
	for i := range entries {
		entries[i] = fmt.Appendf(nil, "entry %d", i)
		if i%7 == 0 {
			entries[i] = append(entries[i], make([]byte, 64)...)
		}
		if i%5 == 2 {
			entries[i] = base64.StdEncoding.AppendEncode(append(entries[i], ' '), bytes.Repeat(entries[i], 5))
		}
	}
	return entries
}

func createDB(t failer, o Options) *DB {
	t.Helper()
	db, err := Create("data", o)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	return db
}

func closeDB(t failer, db *DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// reopen closes the database and opens it again from the same files.
func reopen(t failer, db *DB, o Options) *DB {
	t.Helper()
	closeDB(t, db)
	db, err := Open("data", o)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return db
}

// newTestTree makes a database in memory with one empty tree.
func newTestTree(t *testing.T, origin string) *Tree {
	t.Helper()
	db := createDB(t, Options{FS: vfs.NewMem()})
	t.Cleanup(func() { closeDB(t, db) })
	return createTree(t, db, origin)
}

func createTree(t failer, db *DB, origin string) *Tree {
	t.Helper()
	tree, err := db.CreateTree(origin)
	if err != nil {
		t.Fatalf("create tree: %v", err)
	}
	return tree
}

func openTree(t failer, db *DB, origin string) *Tree {
	t.Helper()
	tree, err := db.OpenTree(origin)
	if err != nil {
		t.Fatalf("open tree: %v", err)
	}
	return tree
}

// sign is the seal of a log of our own.
func sign(origin string) func(Head) (Seal, error) {
	return func(next Head) (Seal, error) { return Seal{Checkpoint: note(origin, next, "s")}, nil }
}

// under is the seal of a mirror: the pending checkpoint and a proof to it.
func under(c Checkpoint, precedes []Hash) func(Head) (Seal, error) {
	return func(Head) (Seal, error) { return Seal{Checkpoint: c, Precedes: precedes}, nil }
}

// extend appends entries under checkpoints of our own.
func extend(t failer, tree *Tree, entries [][]byte) *State {
	t.Helper()
	s, err := tree.Extend(entries, sign(tree.Origin()))
	if err != nil {
		t.Fatalf("extend: %v", err)
	}
	return s
}

// checkTree is the oracle: nothing is wrong with the tree.
func checkTree(t failer, tree *Tree) {
	t.Helper()
	report, err := tree.Check(context.Background(), CheckOptions{})
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if len(report.Problems) != 0 {
		t.Fatalf("check: %v", report.Problems)
	}
	if s := tree.State(); report.Entries != s.Head.Size-s.Minimum || report.Minimum != s.Minimum {
		t.Fatalf("check read %d entries from %d on, of [%d, %d)", report.Entries, report.Minimum, s.Minimum, s.Head.Size)
	}
}

// mangled returns every way in which a proof is not quite right: a bit flipped in each
// hash, each hash dropped or doubled, a hash more at either end, and the order shifted.
func mangled(proof []Hash) [][]Hash {
	var out [][]Hash
	for i := range proof {
		flipped := slices.Clone(proof)
		flipped[i][i%HashSize] ^= 1 << (i % 8)
		out = append(out, flipped,
			slices.Delete(slices.Clone(proof), i, i+1),
			slices.Insert(slices.Clone(proof), i, proof[i]))
	}
	out = append(out, append(slices.Clone(proof), Hash{}), append([]Hash{{}}, proof...))
	if len(proof) > 1 {
		out = append(out, append(slices.Clone(proof[1:]), proof[0]))
	}
	return out
}

func packed(hashes []Hash) [][]byte {
	out := make([][]byte, len(hashes))
	for i := range hashes {
		out[i] = hashes[i][:]
	}
	return out
}
