package reconcile

import (
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// inclusion is the claim that a leaf stands at an index of a signed tree.
type inclusion struct {
	leaf       storage.Hash
	index      uint64
	size       uint64
	root       storage.Hash
	hashes     [][]byte
	checkpoint []byte
}

// verify verifies the checkpoint by keys, then the proof by the checkpoint. It returns the origin, and
// the key that signed.
func (c *inclusion) verify(keys []trust.Key) (string, trust.Key, error) {
	origin, err := trust.Origin(c.checkpoint)
	if err != nil {
		return "", trust.Key{}, doubt("%w", err)
	}
	head, key, err := trust.Signer(c.checkpoint, origin, keys)
	if err != nil {
		return "", trust.Key{}, doubt("%w", err)
	}
	if head.Size != c.size || head.Root != c.root {
		return "", trust.Key{}, doubt("its proof is for a tree of %d, its checkpoint for another of %d", c.size, head.Size)
	}
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, c.index, c.size, c.leaf[:], c.hashes, c.root[:]); err != nil {
		return "", trust.Key{}, doubt("inclusion proof: %w", err)
	}
	return origin, key, nil
}
