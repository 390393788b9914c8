package storage

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// sparseTree is a tree of any size, in which all leaves are equal but a few.
type sparseTree struct {
	special map[uint64]Hash
	seen    map[[2]uint64]Hash // complete subtrees with special leaves, by level and index
	plain   [64]Hash           // complete subtrees without, by level
}

func newSparseTree(special ...uint64) *sparseTree {
	s := &sparseTree{special: map[uint64]Hash{}, seen: map[[2]uint64]Hash{}}
	for _, i := range special {
		s.special[i] = LeafHash([]byte{byte(i), byte(i >> 8), byte(i >> 16), byte(i >> 24), byte(i >> 32)})
	}
	for level := range s.plain {
		if level > 0 {
			s.plain[level] = NodeHash(s.plain[level-1], s.plain[level-1])
		}
	}
	return s
}

func (s *sparseTree) node(level int, index uint64) (Hash, error) {
	plain := true
	for i := range s.special {
		plain = plain && i>>level != index
	}
	if plain {
		return s.plain[level], nil
	}
	if level == 0 {
		return s.special[index], nil
	}
	key := [2]uint64{uint64(level), index}
	if h, ok := s.seen[key]; ok {
		return h, nil
	}
	left, _ := s.node(level-1, 2*index)
	right, _ := s.node(level-1, 2*index+1)
	s.seen[key] = NodeHash(left, right)
	return s.seen[key], nil
}

// TestLargeSizes makes proofs in trees of up to 2^63 leaves and lets the library verify
// them.
func TestLargeSizes(t *testing.T) {
	draw := rand.New(rand.NewPCG(3, 4))
	sizes := []uint64{1, 2, 3}
	for bit := 2; bit < 63; bit += 3 {
		sizes = append(sizes, 1<<bit-1, 1<<bit, 1<<bit+1, 1<<bit+draw.Uint64N(1<<bit))
	}
	slices.Sort(sizes)
	sizes = slices.Compact(sizes)
	tree := newSparseTree(append(slices.Clone(sizes), 0)...)
	root := func(size uint64) Hash {
		t.Helper()
		h, err := RootHash(size, tree.node)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	for n, size := range sizes {
		want := root(size)
		for _, i := range []uint64{0, 1, size / 2, sizes[n/2], size - 1, draw.Uint64N(size)} {
			if i >= size {
				continue
			}
			path, err := InclusionProof(i, size, tree.node)
			if err != nil {
				t.Fatal(err)
			}
			leaf, _ := tree.node(0, i)
			if err := proof.VerifyInclusion(rfc6962.DefaultHasher, i, size, leaf[:], packed(path), want[:]); err != nil {
				t.Errorf("inclusion of %d at %d: %v", i, size, err)
			}
		}
		for _, first := range append(sizes[:n+1:n+1], draw.Uint64N(size)+1) {
			hashes, err := ConsistencyProof(first, size, tree.node)
			if err != nil {
				t.Fatal(err)
			}
			old := root(first)
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first, size, packed(hashes), old[:], want[:]); err != nil {
				t.Errorf("consistency of %d with %d: %v", first, size, err)
			}
		}
	}
	for what, err := range map[string]error{
		"inclusion outside":    second(InclusionProof(5, 5, tree.node)),
		"backward consistency": second(ConsistencyProof(6, 5, tree.node)),
	} {
		if err == nil {
			t.Errorf("%s is no error", what)
		}
	}
}

// FuzzProofs holds roots and proofs of small trees against the naive tree, and of large
// ones against the library's verifier.
func FuzzProofs(f *testing.F) {
	f.Add(uint64(3), uint64(7), uint64(1))
	f.Add(uint64(256), uint64(257), uint64(255))
	f.Add(uint64(1<<40), uint64(1<<40+1), uint64(1<<39))
	f.Add(uint64(65_536), uint64(16_777_217), uint64(65_535))
	naive := newNaiveTree(testEntries(few))
	held := func(level int, index uint64) (Hash, error) { return naive.mth(index<<level, (index+1)<<level), nil }
	f.Fuzz(func(t *testing.T, first, size, index uint64) {
		size = size>>1 + 1
		first, index = first%size+1, index%size
		node := newSparseTree(first-1, index, size-1).node
		if size <= few {
			node = held
			if path, err := InclusionProof(index, size, node); err != nil || !slices.Equal(path, naive.inclusion(index, size)) {
				t.Errorf("inclusion of %d at %d: %v, %v", index, size, path, err)
			}
			if proof, err := ConsistencyProof(first, size, node); err != nil || !slices.Equal(proof, naive.consistency(first, size)) {
				t.Errorf("consistency of %d with %d: %v, %v", first, size, proof, err)
			}
		}
		root, old, leaf := must(RootHash(size, node)), must(RootHash(first, node)), must(node(0, index))
		path, hashes := must(InclusionProof(index, size, node)), must(ConsistencyProof(first, size, node))
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, leaf[:], packed(path), root[:]); err != nil {
			t.Errorf("inclusion of %d at %d: %v", index, size, err)
		}
		if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first, size, packed(hashes), old[:], root[:]); err != nil {
			t.Errorf("consistency of %d with %d: %v", first, size, err)
		}
	})
}
