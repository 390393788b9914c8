// Package client asks an Understudy server about one mirrored log and verifies what
// it answers before returning it.
//
// The server is not trusted. What is trusted is the key of the log, by way of the
// [Verifier] given to [New], and the caller's memory: a [Client] remembers the newest
// checkpoint that it verified and refuses a tree that is older than that one or that
// was not proven to be consistent with it (RFC 6962, section 2.1.2). So a server that
// lies, or a log that shows different trees to different people, can withhold answers
// but cannot give a wrong one.
//
// Every hash is SHA-256 as in RFC 6962, every checkpoint a signed note as upstream
// served it (https://c2sp.org/tlog-checkpoint). [Freshness] alone is not signed by
// anybody: it is what the server says of itself.
//
// Errors are a [*RefusedError] when the server answered with a refusal, a
// [*VerificationError] when its answer is not what was asked for or does not verify, a
// [*SplitViewError] when the log signed two trees that cannot both be, [ErrUnsigned],
// or a gRPC status when there was no answer.
package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// maxAnswer bounds the bytes of one received message; the largest batch takes 12 MB.
const maxAnswer = 64 << 20

// Hash is a SHA-256 Merkle tree hash (RFC 6962, section 2.1).
type Hash = [sha256.Size]byte

// Head is a tree of a log: its size, its root, and the checkpoint that the log signed
// for it. Checkpoint is nil where the root was proven in another way.
type Head struct {
	Size       uint64
	Root       Hash
	Checkpoint []byte
}

// SignedHead is a Head with a checkpoint, and the freshness of the answer it came in.
type SignedHead struct {
	Head
	Freshness Freshness
}

// Freshness is what the server says about how current its answer is. Nobody signs it.
type Freshness struct {
	Source        string        // "live", "mirrored" or "stale"
	CheckpointAge time.Duration // since upstream last vouched for the answer's checkpoint
	UpstreamState string        // "live", "unreachable", "frozen", "quarantined" or one yet to come
}

// Client asks about one log. Its methods may be called concurrently.
type Client struct {
	rpc    understudyv1.LogServiceClient
	origin string
	verify Verifier

	mu     sync.Mutex // guards newest; not held during calls
	newest Head       // Checkpoint is nil before the first
}

// New returns a client for the log of an origin on the server at the other end of conn.
func New(conn grpc.ClientConnInterface, origin string, verify Verifier) *Client {
	return &Client{rpc: understudyv1.NewLogServiceClient(conn), origin: origin, verify: verify}
}

// Newest returns the newest checkpoint that the client has verified; its Checkpoint is
// nil before the first. Keep it and give it to Remember after a restart.
func (c *Client) Newest() Head {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newest
}

// Remember makes a checkpoint of an earlier run the newest one, if it verifies and is
// not smaller than the one that the client knows. It asks nobody.
func (c *Client) Remember(checkpoint []byte) error {
	head, err := c.open(checkpoint)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest.Checkpoint == nil || head.Size > c.newest.Size {
		c.newest = head
	}
	return nil
}

// Checkpoint returns the newest checkpoint (size 0), or the one of the given size.
func (c *Client) Checkpoint(ctx context.Context, size uint64) (SignedHead, error) {
	before := c.Newest()
	answer, err := c.rpc.GetCheckpoint(ctx, &understudyv1.GetCheckpointRequest{Origin: c.origin, TreeSize: size}, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return SignedHead{}, refused("get checkpoint", err)
	}
	head, err := c.head(ctx, before, size, answer)
	return SignedHead{head, freshness(answer)}, err
}

// headAnswer is what all answers have that are about one tree.
type headAnswer interface {
	GetOrigin() string
	GetTreeSize() uint64
	GetRootHash() []byte
	GetCheckpoint() []byte
	freshAnswer
}

// head returns the signed tree of an answer. size is what was asked for, before what
// was the newest tree at that time.
func (c *Client) head(ctx context.Context, before Head, size uint64, answer headAnswer) (Head, error) {
	switch {
	case answer.GetOrigin() != c.origin:
		return Head{}, c.wrong("answer is about the log %q", answer.GetOrigin())
	case size != 0 && answer.GetTreeSize() != size:
		return Head{}, c.wrong("answer is for the tree size %d, asked was %d", answer.GetTreeSize(), size)
	case len(answer.GetCheckpoint()) == 0:
		return Head{}, ErrUnsigned
	}
	head, err := c.open(answer.GetCheckpoint())
	if err != nil {
		return Head{}, err
	}
	if head.Size != answer.GetTreeSize() || !bytes.Equal(head.Root[:], answer.GetRootHash()) {
		return Head{}, c.wrong("checkpoint of size %d is not for the tree of the answer, of size %d", head.Size, answer.GetTreeSize())
	}
	if size == 0 && head.Size < before.Size {
		return Head{}, c.wrong("newest tree of size %d is older than one of size %d that was shown before", head.Size, before.Size)
	}
	return head, c.accept(ctx, head)
}

// open verifies a checkpoint's signature.
func (c *Client) open(checkpoint []byte) (Head, error) {
	size, root, err := c.verify(checkpoint)
	if err != nil {
		return Head{}, c.wrong("open checkpoint: %w", err)
	}
	if size == 0 && root != sha256.Sum256(nil) {
		return Head{}, c.wrong("checkpoint of size 0 has the root %x", root)
	}
	return Head{size, root, checkpoint}, nil
}

// accept proves that a signed tree is consistent with the newest one, and remembers it
// if it is newer.
func (c *Client) accept(ctx context.Context, head Head) error {
	for {
		newest := c.Newest()
		var err error
		switch {
		case newest.Checkpoint == nil:
		case head.Size == newest.Size && head.Root != newest.Root:
			err = &SplitViewError{Origin: c.origin, First: newest.Checkpoint, Second: head.Checkpoint}
		case head.Size < newest.Size:
			return c.prove(ctx, head, newest)
		case head.Size == newest.Size:
			return nil
		default:
			err = c.prove(ctx, newest, head)
		}
		if err != nil {
			return err
		}
		if c.replace(newest, head) {
			return nil
		}
	}
}

// replace makes head the newest tree unless another call has replaced old.
func (c *Client) replace(old, head Head) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.newest.Size != old.Size || (c.newest.Checkpoint == nil) != (old.Checkpoint == nil) {
		return false
	}
	c.newest = head
	return true
}

// prove fetches and verifies the proof that first is a prefix of last. Both are
// trusted to be trees of the log; only their order is not.
func (c *Client) prove(ctx context.Context, first, last Head) error {
	switch first.Size {
	case 0:
		return nil // every tree extends the empty one
	case last.Size:
		_, err := c.consistent(first, last, nil)
		return err
	}
	answer, err := c.consistency(ctx, first.Size, last.Size)
	if err != nil {
		return err
	}
	_, err = c.consistent(first, last, answer.GetHashes())
	return err
}

func (c *Client) consistency(ctx context.Context, first, last uint64) (*understudyv1.GetConsistencyProofResponse, error) {
	answer, err := c.rpc.GetConsistencyProof(ctx, &understudyv1.GetConsistencyProofRequest{Origin: c.origin, FirstSize: first, LastSize: last}, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, refused("get consistency proof", err)
	}
	return answer, nil
}

// consistent verifies a consistency proof and returns its hashes.
func (c *Client) consistent(first, last Head, proven [][]byte) ([]Hash, error) {
	hashes, err := toHashes(proven)
	if err == nil {
		err = proof.VerifyConsistency(rfc6962.DefaultHasher, first.Size, last.Size, proven, first.Root[:], last.Root[:])
	}
	if err != nil {
		return nil, c.wrong("tree of size %d is not proven to extend that of size %d: %w", last.Size, first.Size, err)
	}
	return hashes, nil
}

type freshAnswer interface {
	GetFreshness() *understudyv1.Freshness
}

func freshness(answer freshAnswer) Freshness {
	f := answer.GetFreshness()
	return Freshness{f.GetSource(), f.GetCheckpointAge().AsDuration(), f.GetUpstreamState()}
}
