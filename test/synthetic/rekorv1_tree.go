package synthetic

import (
	"fmt"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// tree is a Merkle tree that keeps the hash of every perfect subtree, 64 bytes an entry,
// so that a root or a proof at any size takes O(log n).
type tree struct {
	levels [][][32]byte // levels[l][i] is the root of the entries [i<<l, (i+1)<<l)
}

func (t *tree) size() uint64 {
	if len(t.levels) == 0 {
		return 0
	}
	return uint64(len(t.levels[0]))
}

func (t *tree) append(leaf [32]byte) {
	for level := 0; ; level++ {
		if level == len(t.levels) {
			t.levels = append(t.levels, nil)
		}
		t.levels[level] = append(t.levels[level], leaf)
		row := t.levels[level]
		if len(row)%2 == 1 {
			return
		}
		leaf = [32]byte(rfc6962.DefaultHasher.HashChildren(row[len(row)-2][:], row[len(row)-1][:]))
	}
}

// prefix returns a copy of the tree as it was at a size.
func (t *tree) prefix(size uint64) tree {
	var p tree
	for level, row := range t.levels {
		if size>>level == 0 {
			break
		}
		p.levels = append(p.levels, slices.Clone(row[:size>>level]))
	}
	return p
}

func (t *tree) root(size uint64) [32]byte {
	if size == 0 {
		return [32]byte(rfc6962.DefaultHasher.EmptyRoot())
	}
	hashes := t.hashes(compact.RangeNodes(0, size, nil))
	root := hashes[len(hashes)-1]
	for i := len(hashes) - 2; i >= 0; i-- {
		root = rfc6962.DefaultHasher.HashChildren(hashes[i], root)
	}
	return [32]byte(root)
}

func (t *tree) inclusion(index, size uint64) [][]byte {
	return t.proof(proof.Inclusion(index, size))
}

func (t *tree) consistency(first, second uint64) [][]byte {
	return t.proof(proof.Consistency(first, second))
}

func (t *tree) proof(nodes proof.Nodes, err error) [][]byte {
	if err != nil {
		panic(fmt.Sprintf("synthetic: proof in a tree of size %d: %v", t.size(), err))
	}
	hashes, err := nodes.Rehash(t.hashes(nodes.IDs), rfc6962.DefaultHasher.HashChildren)
	if err != nil {
		panic(fmt.Sprintf("synthetic: proof in a tree of size %d: %v", t.size(), err))
	}
	return hashes
}

func (t *tree) hashes(ids []compact.NodeID) [][]byte {
	hashes := make([][]byte, len(ids))
	for i, id := range ids {
		hashes[i] = slices.Clone(t.levels[id.Level][id.Index][:])
	}
	return hashes
}
