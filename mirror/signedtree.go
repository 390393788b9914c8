package mirror

import (
	"context"

	"github.com/understudy-log/understudy/storage"
)

// signedTree is the tree of a signed head as upstream shows it. What it returns was verified
// against the root of that head.
type signedTree interface {
	// rootAt returns the root at a size up to the head's. claimed is what somebody signed for
	// it: where that is right, no more needs to be read.
	rootAt(ctx context.Context, size uint64, claimed storage.Hash) (storage.Hash, error)
	// consistencyFrom returns the consistency proof from a size to the head; it is empty from
	// 0 and from the head itself.
	consistencyFrom(ctx context.Context, size uint64) ([]storage.Hash, error)
}

// treeOf returns the tree of a signed head, from the place that the tail is read from.
func (m *Mirror) treeOf(ctx context.Context, head storage.Head) (signedTree, error) {
	if m.shard != nil {
		return m.shard.treeOf(head), nil
	}
	if m.proof != nil && m.proof.head == head {
		return m.proof.at(ctx, m.tail.tiles), nil
	}
	return newUpstreamTree(ctx, m.tail.tiles, head)
}

func (u *upstreamTree) rootAt(ctx context.Context, size uint64, _ storage.Hash) (storage.Hash, error) {
	u.ctx = ctx
	return storage.RootHash(size, u.node)
}

func (u *upstreamTree) consistencyFrom(ctx context.Context, size uint64) ([]storage.Hash, error) {
	u.ctx = ctx
	return storage.ConsistencyProof(size, u.head.Size, u.node)
}
