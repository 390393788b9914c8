package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// follow makes the checkpoints of these sizes pending, one after the other.
func (n *naiveTree) follow(t failer, tree *Tree, sizes ...uint64) {
	t.Helper()
	for _, size := range sizes {
		last := tree.State().Pending.Size
		if _, err := tree.Advance(note(tree.Origin(), n.head(size), "s"), n.consistency(last, size), nil); err != nil {
			t.Fatalf("advance from %d to %d: %v", last, size, err)
		}
	}
}

// verifies lets the library verify a consistency proof.
func verifies(first, last Head, hashes []Hash) error {
	return proof.VerifyConsistency(rfc6962.DefaultHasher, first.Size, last.Size, packed(hashes), first.Root[:], last.Root[:])
}

// hugeTree is a naive tree of up to 2^41 entries, all but some around a place equal.
func hugeTree(first uint64, n int) *naiveTree {
	elsewhere := LeafHash([]byte("elsewhere"))
	naive := &naiveTree{first: first, leafElse: &elsewhere, seen: map[span]Hash{}}
	for i := range uint64(n) {
		naive.leaves = append(naive.leaves, LeafHash(hugeEntry(first+i)))
	}
	return naive
}

func hugeEntry(i uint64) []byte { return fmt.Appendf(nil, "entry %d", i) }

// chain returns n random sizes in order, many of them around powers of two.
func chain(draw *rand.Rand, n int, most uint64) []uint64 {
	var sizes []uint64
	for range n {
		size := 1 + draw.Uint64N(most)
		if bits := draw.IntN(41); draw.IntN(3) == 0 && 1<<bits < most {
			size = 1<<bits - 1 + draw.Uint64N(3)
		}
		if size > 0 {
			sizes = append(sizes, size)
		}
	}
	slices.Sort(sizes)
	return slices.Compact(sizes)
}

// TestComposition: from a to c by way of b, for every a and c up to 256, the hashes of the two
// proofs give the third, and nothing else is asked for.
func TestComposition(t *testing.T) {
	unhurried(t)
	const most = 256
	naive := newNaiveTree(testEntries(most))
	tree := newTestTree(t, "log")
	v := tree.View()
	defer v.Close()
	draw := rand.New(rand.NewPCG(1, 2))
	reads := 0
	for a := uint64(1); a <= most; a++ {
		for c := a + 2; c <= most; c++ {
			between := []uint64{a + 1, c - 1, a + (c-a)/2, a + 1 + draw.Uint64N(c-a-1)}
			if p := largestPowerBelow(c); p > a {
				between = append(between, p)
			}
			for _, b := range between {
				r := sparse{view: v, known: revealed(naive.head(a), naive.head(b), naive.consistency(a, b))}
				maps.Copy(r.known, revealed(naive.head(b), naive.head(c), naive.consistency(b, c)))
				got, err := r.hashes(consistencySpans(a, c))
				if err != nil || !slices.Equal(got, naive.consistency(a, c)) {
					t.Fatalf("from %d by way of %d to %d: %v", a, b, c, err)
				}
				reads = max(reads, r.reads)
			}
		}
	}
	t.Logf("at most %d reads", reads)
}

// TestChains follows logs of up to 2^40 entries: between any two checkpoints of the chain
// there is a proof, the right one, and it is made with few reads.
func TestChains(t *testing.T) {
	unhurried(t)
	draw := rand.New(rand.NewPCG(5, 6))
	most, pairs := 0, 0
	for try := range 60 {
		naive := newNaiveTree(testEntries(256))
		sizes := chain(draw, 2+draw.IntN(12), 256)
		switch try % 3 {
		case 1:
			naive = hugeTree(draw.Uint64N(1<<40), 300)
			sizes = chain(draw, 2+draw.IntN(40), 1<<40)
		case 2: // a dense one, around a power of two
			start := uint64(1)<<(8+draw.IntN(32)) - 40
			naive = hugeTree(start, 80)
			sizes = nil
			for i := range uint64(80) {
				sizes = append(sizes, start+i)
			}
		}
		tree := newTestTree(t, "log")
		var later []uint64 // linked once they are old
		for i := len(sizes) - 2; i >= 0 && try%2 == 0; i-- {
			if draw.IntN(3) == 0 {
				later = append(later, sizes[i])
			}
		}
		naive.follow(t, tree, slices.DeleteFunc(slices.Clone(sizes), func(s uint64) bool { return slices.Contains(later, s) })...)
		for _, size := range later {
			if err := tree.Link(note("log", naive.head(size), "s"), naive.consistency(size, tree.State().Pending.Size)); err != nil {
				t.Fatal(err)
			}
		}
		v := tree.View()
		for i, a := range sizes {
			if c, err := v.Linked(a); err != nil || c.Head != naive.head(a) {
				t.Fatalf("checkpoint of size %d in %v: %+v, %v", a, sizes, c.Head, err)
			}
			for _, c := range sizes[i:] {
				if try%3 == 2 && draw.IntN(4) > 0 {
					continue
				}
				got, err := v.LinkedProof(a, c)
				if err != nil || !slices.Equal(got, naive.consistency(a, c)) {
					t.Fatalf("from %d to %d in %v: %v, %v", a, c, sizes, got, err)
				}
				if err := verifies(naive.head(a), naive.head(c), got); err != nil {
					t.Fatalf("from %d to %d: %v", a, c, err)
				}
				r := sparse{view: v}
				if _, err := r.hashes(consistencySpans(a, c)); err != nil {
					t.Fatal(err)
				}
				most = max(most, r.reads)
				pairs++
			}
			for _, other := range []uint64{a + 1, a - 1} {
				if _, err := v.LinkedProof(a, other); other > a && !slices.Contains(sizes, other) && !errors.Is(err, ErrNotHeld) {
					t.Fatalf("from %d to %d, for which there is no checkpoint: %v", a, other, err)
				}
				if _, err := v.Linked(other); !slices.Contains(sizes, other) && !errors.Is(err, ErrNotHeld) {
					t.Fatalf("checkpoint of size %d: %v", other, err)
				}
			}
		}
		checkTree(t, tree)
		v.Close()
	}
	t.Logf("%d pairs, at most %d reads", pairs, most)
	if most > maxSparseReads/2 {
		t.Errorf("a proof took %d reads", most)
	}
}

// TestLinkedProofRefusals: what is no pair of sizes is refused, and a hash that is damaged, or
// missing, is no proof.
func TestLinkedProofRefusals(t *testing.T) {
	naive := newNaiveTree(testEntries(200))
	tree := newTestTree(t, "log")
	naive.follow(t, tree, 50, 100, 150, 200)
	v := tree.View()
	for _, pair := range [][2]uint64{{0, 50}, {100, 50}} {
		if _, err := v.LinkedProof(pair[0], pair[1]); err == nil {
			t.Errorf("a proof from %d to %d", pair[0], pair[1])
		}
	}
	v.Close()
	for key, value := range dump(t, tree.db) {
		if key[0] != keySpan {
			continue
		}
		for what, change := range map[string]func([]byte) []byte{
			"flipped": func(b []byte) []byte { b[3] ^= 1; return b },
			"shorter": func(b []byte) []byte { return b[1:] },
			"missing": nil,
		} {
			tamper(t, tree.db, []byte(key), change)
			tree.db.links.Purge()
			v := tree.View()
			for _, pair := range [][2]uint64{{50, 100}, {50, 200}, {100, 150}, {150, 200}, {100, 200}} {
				got, err := v.LinkedProof(pair[0], pair[1])
				var damage *DamageError
				if err == nil && !slices.Equal(got, naive.consistency(pair[0], pair[1])) {
					t.Errorf("with row %x %s: a wrong proof from %d to %d", key, what, pair[0], pair[1])
				}
				if err != nil && !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrInconsistent) && !errors.As(err, &damage) {
					t.Errorf("with row %x %s: %v", key, what, err)
				}
			}
			v.Close()
			if err := tree.db.pebble.Set([]byte(key), []byte(value), pebble.Sync); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestForksAreNotLinked: evidence of a fork stands in the archive, and is never what a size
// is proven to.
func TestForksAreNotLinked(t *testing.T) {
	entries := testEntries(300)
	naive := newNaiveTree(entries)
	entries[7] = []byte("another")
	fork := newNaiveTree(entries)
	tree := newTestTree(t, "log")
	naive.follow(t, tree, 100, 128, 200)
	for _, size := range []uint64{100, 128, 150, 200, 250} {
		c := note("log", fork.head(size), "s")
		c.FirstSeen = start.Add(-1) // as if it had come first
		if err := tree.Archive(c); err != nil {
			t.Fatal(err)
		}
	}
	naive.follow(t, tree, 300)
	look := func(when string) {
		t.Helper()
		tree.db.links.Purge()
		v := tree.View()
		defer v.Close()
		for _, size := range []uint64{100, 128, 200, 300} {
			if c, err := v.Linked(size); err != nil || c.Head != naive.head(size) {
				t.Errorf("%s: checkpoint of size %d is %+v, %v", when, size, c.Head, err)
			}
			if got, err := v.LinkedProof(size, 300); err != nil || !slices.Equal(got, naive.consistency(size, 300)) {
				t.Errorf("%s: from %d: %v", when, size, err)
			}
		}
		for _, size := range []uint64{150, 250} {
			if c, err := v.Linked(size); !errors.Is(err, ErrNotHeld) {
				t.Errorf("%s: checkpoint of size %d is %+v, %v", when, size, c.Head, err)
			}
		}
	}
	look("followed")
	if _, err := tree.Advance(note("log", fork.head(300), "s"), nil, nil); !errors.Is(err, ErrFork) {
		t.Errorf("a fork of the pending checkpoint: %v", err)
	}
	if err := tree.Archive(note("log", fork.head(300), "s")); err != nil {
		t.Fatal(err)
	}
	if err := tree.Quarantine(Evidence{At: start, Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	look("quarantined")
	p := fork.pinOf(7, 150, 200, entries[7], "log")
	if err := tree.Pin(p); !errors.Is(err, ErrQuarantined) {
		t.Errorf("pin in quarantine: %v", err)
	}
}

// TestRefusedLinks: a proof of the chain that is not quite right is refused, and no hash of it
// is kept.
func TestRefusedLinks(t *testing.T) {
	naive := newNaiveTree(testEntries(300))
	tree := newTestTree(t, "log")
	naive.follow(t, tree, 100)
	before := dump(t, tree.db)
	for _, size := range []uint64{101, 128, 300} {
		c := note("log", naive.head(size), "s")
		for _, wrong := range mangled(naive.consistency(100, size)) {
			if _, err := tree.Advance(c, wrong, nil); !errors.Is(err, ErrInconsistent) {
				t.Errorf("mangled proof to %d: %v", size, err)
			}
		}
		c = note("log", Head{size, Hash{1}}, "s")
		if _, err := tree.Advance(c, naive.consistency(100, size), nil); !errors.Is(err, ErrInconsistent) {
			t.Errorf("another root at %d: %v", size, err)
		}
	}
	sameDump(t, dump(t, tree.db), before)
}

// TestRootFromConsistency: a proof to a known root gives the root at the other end, and none
// if anything about it is wrong.
func TestRootFromConsistency(t *testing.T) {
	unhurried(t)
	const most = 256
	naive := newNaiveTree(testEntries(most))
	for last := uint64(2); last <= most; last++ {
		for size := uint64(1); size < last; size++ {
			for _, first := range []uint64{size - 1, size, size + 1, size + 9} {
				if first == 0 || first >= last {
					continue
				}
				got, err := RootFromConsistency(size, first, naive.head(last), naive.consistency(first, last))
				power := size&(size-1) == 0
				switch {
				case first == size && !power && err != nil, first == size-1 && size > 2 && power && err != nil, first == size+1 && size > 1 && power && err != nil:
					t.Fatalf("root at %d by the proof from %d to %d: %v", size, first, last, err)
				case err == nil && got != naive.mth(0, size):
					t.Fatalf("root at %d by the proof from %d to %d is wrong", size, first, last)
				}
			}
			if size%16 > 1 || last%5 > 0 && last != size+1 {
				continue
			}
			head := naive.head(last)
			for _, wrong := range mangled(naive.consistency(size, last)) {
				if got, err := RootFromConsistency(size, size, head, wrong); err == nil || !errors.Is(err, ErrInconsistent) || got != (Hash{}) {
					t.Fatalf("mangled proof from %d to %d: %v, %v", size, last, got, err)
				}
			}
			head.Root[31] ^= 1
			if _, err := RootFromConsistency(size, size, head, naive.consistency(size, last)); !errors.Is(err, ErrInconsistent) {
				t.Fatalf("another root at %d: %v", last, err)
			}
		}
	}
	for _, c := range [][3]uint64{{5, 0, 9}, {0, 5, 9}, {5, 9, 9}, {9, 9, 9}, {10, 9, 9}, {4, 4, 9}} {
		if _, err := RootFromConsistency(c[0], c[1], Head{Size: c[2]}, nil); !errors.Is(err, ErrInconsistent) {
			t.Errorf("root at %d by a proof from %d to %d: %v", c[0], c[1], c[2], err)
		}
	}
}

// TestBoundedReads: a span of which nothing is known costs few reads, and what looks as if it
// were known costs no more than the bound.
func TestBoundedReads(t *testing.T) {
	tree := newTestTree(t, "log")
	b := tree.db.pebble.NewBatch()
	defer b.Close()
	for i := uint64(0); i < 2*maxSparseReads; i++ { // every leaf but one
		if i != maxSparseReads {
			if err := b.Set(tree.id.span(span{i, i + 1}), bytes.Repeat([]byte{1}, HashSize), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := tree.db.commit(b); err != nil {
		t.Fatal(err)
	}
	v := tree.View()
	defer v.Close()
	for _, s := range []span{{0, 1 << 13}, {0, 1 << 62}, {1 << 62, 1 << 63}, {1<<62 - 1, 1<<63 - 1}} {
		r := sparse{view: v}
		if _, err := r.hash(s); !errors.Is(err, ErrNotHeld) || r.reads > maxSparseReads+1 {
			t.Errorf("span %v: %d reads, %v", s, r.reads, err)
		}
	}
}

// TestKeepLinks: a tree with entries keeps the hashes of the chain only if it is told to.
func TestKeepLinks(t *testing.T) {
	entries := testEntries(400)
	naive := newNaiveTree(entries)
	for _, keep := range []bool{false, true} {
		tree := newTestTree(t, "log")
		naive.follow(t, tree, 200)
		if keep {
			tree.KeepLinks()
		}
		if _, err := tree.Extend(entries[:100], under(tree.State().Pending, naive.consistency(100, 200))); err != nil {
			t.Fatal(err)
		}
		for _, size := range []uint64{300, 400} {
			last := tree.State().Pending.Size
			if _, err := tree.Advance(note("log", naive.head(size), "s"), naive.consistency(last, size), naive.consistency(100, size)); err != nil {
				t.Fatal(err)
			}
		}
		checkTree(t, tree)
		v := tree.View()
		for _, pair := range [][2]uint64{{200, 300}, {200, 400}, {300, 400}} {
			got, err := v.LinkedProof(pair[0], pair[1])
			if keep && (err != nil || !slices.Equal(got, naive.consistency(pair[0], pair[1]))) || !keep && !errors.Is(err, ErrNotHeld) {
				t.Errorf("links kept: %v; from %d to %d: %v", keep, pair[0], pair[1], err)
			}
		}
		if got, err := v.LinkedProof(50, 80); err != nil || !slices.Equal(got, naive.consistency(50, 80)) {
			t.Errorf("from 50 to 80, of which there are tiles: %v", err)
		}
		v.Close()
	}
}

// TestRefusedOlderLinks: an older checkpoint is linked with the right proof, or nothing of it
// is kept.
func TestRefusedOlderLinks(t *testing.T) {
	naive := newNaiveTree(testEntries(300))
	tree := newTestTree(t, "log")
	naive.follow(t, tree, 100, 300)
	before := dump(t, tree.db)
	for _, size := range []uint64{50, 64, 150, 299} {
		for _, wrong := range mangled(naive.consistency(size, 300)) {
			if err := tree.Link(note("log", naive.head(size), "s"), wrong); !errors.Is(err, ErrInconsistent) {
				t.Errorf("mangled proof from %d: %v", size, err)
			}
		}
		if err := tree.Link(note("log", Head{size, Hash{1}}, "s"), naive.consistency(size, 300)); !errors.Is(err, ErrInconsistent) {
			t.Errorf("another root at %d: %v", size, err)
		}
	}
	sameDump(t, dump(t, tree.db), before)
}

// TestNodeFromConsistency: a proof gives the subtrees that it reveals, the right ones, and none
// if anything about it is wrong.
func TestNodeFromConsistency(t *testing.T) {
	const most = 130
	naive := newNaiveTree(testEntries(most))
	given := 0
	for last := uint64(2); last <= most; last += 3 {
		for first := uint64(1); first < last; first++ {
			proof := naive.consistency(first, last)
			for level := range 7 {
				for index := range last >> level {
					lo, hi := index<<level, (index+1)<<level
					got, err := NodeFromConsistency(level, index, first, naive.head(last), proof)
					if err != nil && (!errors.Is(err, ErrInconsistent) || level > 0 && first+1 == hi && first&(first-1) != 0) {
						t.Fatalf("node %d/%d by the proof from %d to %d: %v", level, index, first, last, err)
					}
					if err == nil && got != naive.mth(lo, hi) {
						t.Fatalf("node %d/%d by the proof from %d to %d is wrong", level, index, first, last)
					}
					if err == nil {
						given++
					}
				}
			}
			if first%9 > 0 {
				continue
			}
			for _, wrong := range mangled(proof) {
				if _, err := NodeFromConsistency(0, first, first, naive.head(last), wrong); !errors.Is(err, ErrInconsistent) {
					t.Fatalf("mangled proof from %d to %d: %v", first, last, err)
				}
			}
		}
	}
	t.Logf("%d nodes", given)
}
