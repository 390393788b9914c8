package client

import (
	"context"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// Ref names one entry: the result of Index or LeafHash.
type Ref struct {
	index uint64
	hash  *Hash
}

// Index names an entry by its index, from 0.
func Index(index uint64) Ref { return Ref{index: index} }

// LeafHash names an entry by its leaf hash, SHA-256(0x00 || entry).
func LeafHash(hash Hash) Ref { return Ref{hash: &hash} }

// InclusionProof is a verified proof that an entry is in a tree (RFC 6962, section
// 2.1.1).
type InclusionProof struct {
	Index     uint64
	LeafHash  Hash
	Hashes    []Hash // from the leaf's sibling to the root's child
	Head      Head
	Freshness Freshness
}

// InclusionProof proves an entry in the tree of a signed checkpoint: the newest one
// that covers it (size 0), or that of the given size. It returns ErrUnsigned if the
// server holds no checkpoint of that size.
func (c *Client) InclusionProof(ctx context.Context, ref Ref, size uint64) (InclusionProof, error) {
	before := c.Newest()
	answer, err := c.inclusion(ctx, ref, size)
	if err != nil {
		return InclusionProof{}, err
	}
	head, err := c.head(ctx, before, size, answer)
	if err != nil {
		return InclusionProof{}, err
	}
	return c.included(ref, head, answer, freshness(answer))
}

// InclusionProofAt proves an entry in a tree that the caller trusts, signed or not.
func (c *Client) InclusionProofAt(ctx context.Context, ref Ref, trusted Head) (InclusionProof, error) {
	answer, err := c.inclusion(ctx, ref, trusted.Size)
	if err != nil {
		return InclusionProof{}, err
	}
	if err := c.sameTree(trusted, answer); err != nil {
		return InclusionProof{}, err
	}
	return c.included(ref, trusted, answer, freshness(answer))
}

func (c *Client) inclusion(ctx context.Context, ref Ref, size uint64) (*understudyv1.GetInclusionProofResponse, error) {
	in := &understudyv1.GetInclusionProofRequest{Origin: c.origin, TreeSize: size}
	if ref.hash != nil {
		in.Entry = &understudyv1.GetInclusionProofRequest_LeafHash{LeafHash: ref.hash[:]}
	} else {
		in.Entry = &understudyv1.GetInclusionProofRequest_Index{Index: ref.index}
	}
	answer, err := c.rpc.GetInclusionProof(ctx, in, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, refused("get inclusion proof", err)
	}
	return answer, nil
}

// sameTree checks that an answer is about a tree that the caller trusts.
func (c *Client) sameTree(trusted Head, answer headAnswer) error {
	switch {
	case answer.GetOrigin() != c.origin:
		return c.wrong("answer is about the log %q", answer.GetOrigin())
	case answer.GetTreeSize() != trusted.Size || string(answer.GetRootHash()) != string(trusted.Root[:]):
		return c.wrong("answer is for a tree of size %d and root %x, asked was %d and %x", answer.GetTreeSize(), answer.GetRootHash(), trusted.Size, trusted.Root)
	}
	return nil
}

// proofMessage is one inclusion proof, alone or of a batch.
type proofMessage interface {
	GetIndex() uint64
	GetLeafHash() []byte
	GetHashes() [][]byte
}

// included verifies that a proof is for the entry that was asked for, and that it leads
// to the root of head.
func (c *Client) included(ref Ref, head Head, answer proofMessage, f Freshness) (InclusionProof, error) {
	leaf, err := toHash(answer.GetLeafHash())
	if err != nil {
		return InclusionProof{}, c.wrong("leaf hash: %w", err)
	}
	hashes, err := toHashes(answer.GetHashes())
	switch {
	case err != nil:
		return InclusionProof{}, c.wrong("inclusion proof: %w", err)
	case ref.hash == nil && answer.GetIndex() != ref.index:
		return InclusionProof{}, c.wrong("proof is for the entry %d, asked was %d", answer.GetIndex(), ref.index)
	case ref.hash != nil && leaf != *ref.hash:
		return InclusionProof{}, c.wrong("proof is for the leaf hash %x, asked was %x", leaf, *ref.hash)
	}
	err = proof.VerifyInclusion(rfc6962.DefaultHasher, answer.GetIndex(), head.Size, leaf[:], answer.GetHashes(), head.Root[:])
	if err != nil {
		return InclusionProof{}, c.wrong("entry %d is not proven to be in the tree of size %d: %w", answer.GetIndex(), head.Size, err)
	}
	return InclusionProof{answer.GetIndex(), leaf, hashes, head, f}, nil
}

// InclusionProofs proves up to 10,000 entries in one tree, in the order asked, and
// otherwise like InclusionProof.
func (c *Client) InclusionProofs(ctx context.Context, indexes []uint64, size uint64) ([]InclusionProof, error) {
	before := c.Newest()
	answer, err := c.batch(ctx, indexes, size)
	if err != nil {
		return nil, err
	}
	head, err := c.head(ctx, before, size, answer)
	if err != nil {
		return nil, err
	}
	return c.allIncluded(indexes, head, answer)
}

// InclusionProofsAt proves up to 10,000 entries in a tree that the caller trusts, signed
// or not, in the order asked.
func (c *Client) InclusionProofsAt(ctx context.Context, indexes []uint64, trusted Head) ([]InclusionProof, error) {
	answer, err := c.batch(ctx, indexes, trusted.Size)
	if err != nil {
		return nil, err
	}
	if err := c.sameTree(trusted, answer); err != nil {
		return nil, err
	}
	return c.allIncluded(indexes, trusted, answer)
}

func (c *Client) batch(ctx context.Context, indexes []uint64, size uint64) (*understudyv1.BatchGetInclusionProofsResponse, error) {
	in := &understudyv1.BatchGetInclusionProofsRequest{Origin: c.origin, Indexes: indexes, TreeSize: size}
	answer, err := c.rpc.BatchGetInclusionProofs(ctx, in, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, refused("get inclusion proofs", err)
	}
	return answer, nil
}

func (c *Client) allIncluded(indexes []uint64, head Head, answer *understudyv1.BatchGetInclusionProofsResponse) ([]InclusionProof, error) {
	if got := len(answer.GetProofs()); got != len(indexes) {
		return nil, c.wrong("answer has %d proofs, asked were %d", got, len(indexes))
	}
	f := freshness(answer)
	out := make([]InclusionProof, len(indexes))
	for i, p := range answer.GetProofs() {
		var err error
		if out[i], err = c.included(Index(indexes[i]), head, p, f); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ConsistencyProof is a verified proof that the tree First is a prefix of the tree Last
// (RFC 6962, section 2.1.2). It proves the root of First even where that has no
// checkpoint.
type ConsistencyProof struct {
	First, Last Head
	Hashes      []Hash
	Freshness   Freshness
}

// ConsistencyProof proves that the tree of size first, at least 1, is a prefix of that
// of a signed checkpoint: the newest one (last 0), or that of size last. It returns
// ErrUnsigned if the server holds no checkpoint of size last.
func (c *Client) ConsistencyProof(ctx context.Context, first, last uint64) (ConsistencyProof, error) {
	before := c.Newest()
	answer, err := c.consistency(ctx, first, last)
	if err != nil {
		return ConsistencyProof{}, err
	}
	head, err := c.head(ctx, before, last, answer)
	if err != nil {
		return ConsistencyProof{}, err
	}
	return c.extended(first, head, answer)
}

// ConsistencyProofAt proves that the tree of size first, at least 1, is a prefix of one
// that the caller trusts, signed or not.
func (c *Client) ConsistencyProofAt(ctx context.Context, first uint64, trusted Head) (ConsistencyProof, error) {
	answer, err := c.consistency(ctx, first, trusted.Size)
	if err != nil {
		return ConsistencyProof{}, err
	}
	if err := c.sameTree(trusted, answer); err != nil {
		return ConsistencyProof{}, err
	}
	return c.extended(first, trusted, answer)
}

// extended verifies a consistency proof that ends in a trusted tree.
func (c *Client) extended(size uint64, last Head, answer *understudyv1.GetConsistencyProofResponse) (ConsistencyProof, error) {
	if answer.GetFirstSize() != size || answer.GetLastSize() != last.Size || size == 0 {
		return ConsistencyProof{}, c.wrong("proof is for the sizes %d and %d, asked were %d and %d", answer.GetFirstSize(), answer.GetLastSize(), size, last.Size)
	}
	root, err := toHash(answer.GetFirstRootHash())
	if err != nil {
		return ConsistencyProof{}, c.wrong("first root: %w", err)
	}
	first := Head{Size: size, Root: root}
	hashes, err := c.consistent(first, last, answer.GetHashes())
	if err != nil {
		return ConsistencyProof{}, err
	}
	if raw := answer.GetFirstCheckpoint(); len(raw) > 0 {
		signed, err := c.open(raw)
		if err != nil {
			return ConsistencyProof{}, err
		}
		if signed.Size != first.Size || signed.Root != first.Root {
			return ConsistencyProof{}, c.wrong("first checkpoint is not for the tree of size %d", size)
		}
		first = signed
	}
	return ConsistencyProof{first, last, hashes, freshness(answer)}, nil
}
