package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// Entries are verified and yielded in runs of this many, or bytes.
const (
	runEntries = 1024
	runBytes   = 4 << 20
)

// Entry is one entry, proven to be in the log.
type Entry struct {
	Index     uint64
	LeafHash  Hash
	Body      []byte
	Freshness Freshness
}

// Entry returns one entry, proven to be in the tree of the newest checkpoint. It makes
// two calls.
func (c *Client) Entry(ctx context.Context, ref Ref) (Entry, error) {
	in := &understudyv1.GetEntryRequest{Origin: c.origin}
	if ref.hash != nil {
		in.Entry = &understudyv1.GetEntryRequest_LeafHash{LeafHash: ref.hash[:]}
	} else {
		in.Entry = &understudyv1.GetEntryRequest_Index{Index: ref.index}
	}
	answer, err := c.rpc.GetEntry(ctx, in, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return Entry{}, refused("get entry", err)
	}
	if answer.GetOrigin() != c.origin {
		return Entry{}, c.wrong("answer is about the log %q", answer.GetOrigin())
	}
	e, err := c.entry(answer)
	if err != nil {
		return Entry{}, err
	}
	if ref.hash == nil && e.Index != ref.index {
		return Entry{}, c.wrong("answer is the entry %d, asked was %d", e.Index, ref.index)
	}
	if ref.hash != nil && e.LeafHash != *ref.hash {
		return Entry{}, c.wrong("answer is the entry of the leaf hash %x, asked was %x", e.LeafHash, *ref.hash)
	}
	proof, err := c.InclusionProof(ctx, Index(e.Index), 0)
	if err != nil {
		return Entry{}, err
	}
	if proof.LeafHash != e.LeafHash {
		return Entry{}, c.wrong("entry %d has the leaf hash %x, proven is %x", e.Index, e.LeafHash, proof.LeafHash)
	}
	return e, nil
}

// entryMessage is an entry, alone or of a list.
type entryMessage interface {
	GetIndex() uint64
	GetLeafHash() []byte
	GetBody() []byte
	freshAnswer
}

// entry checks that a body has its leaf hash.
func (c *Client) entry(answer entryMessage) (Entry, error) {
	e := Entry{answer.GetIndex(), Hash(rfc6962.DefaultHasher.HashLeaf(answer.GetBody())), answer.GetBody(), freshness(answer)}
	if !bytes.Equal(e.LeafHash[:], answer.GetLeafHash()) {
		return Entry{}, c.wrong("entry %d hashes to %x, not to its leaf hash %x", e.Index, e.LeafHash, answer.GetLeafHash())
	}
	return e, nil
}

// Entries yields the entries from start on, in order, at most limit of them (0: up to
// the last one that the server held when it was asked). It ends early, without an
// error, where the server holds no more.
//
// Entries are verified in runs of up to 1,024: each is proven to be at its index in a
// signed tree before the first of them is yielded. A stream that breaks is taken up
// again where it broke, for up to a minute without progress. After an error the iterator
// ends; ask again from the last index yielded plus one.
func (c *Client) Entries(ctx context.Context, start, limit uint64) iter.Seq2[Entry, error] {
	return func(yield func(Entry, error) bool) {
		l := &listing{Client: c, start: start, next: start, limit: limit}
		for {
			run, err := l.read(ctx)
			for _, e := range run {
				if !yield(e, nil) {
					l.close()
					return
				}
			}
			if err != nil {
				l.close()
				if err != io.EOF {
					yield(Entry{}, err)
				}
				return
			}
		}
	}
}

// listing is one call of Entries.
type listing struct {
	*Client
	start, limit uint64
	next         uint64         // index that the server has to send next
	tree         *compact.Range // of all entries before next
	stream       grpc.ServerStreamingClient[understudyv1.ListEntriesResponse]
	cancel       context.CancelFunc
}

func (l *listing) close() {
	if l.stream != nil {
		l.cancel()
		l.stream = nil
	}
}

// read returns the next run of entries, verified, and io.EOF after the last.
func (l *listing) read(ctx context.Context) ([]Entry, error) {
	var run []Entry
	size, done := 0, false
	for !done && len(run) < runEntries && size < runBytes {
		e, err := retry(ctx, func() (Entry, error) { return l.receive(ctx) })
		if done = err == io.EOF; done {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := l.append(ctx, e); err != nil {
			return nil, err
		}
		run = append(run, e)
		size += len(e.Body)
	}
	if len(run) > 0 {
		if _, err := retry(ctx, func() (struct{}, error) { return struct{}{}, l.check(ctx) }); err != nil {
			return nil, err
		}
	}
	if done {
		return run, io.EOF
	}
	return run, nil
}

// receive returns the next entry of the stream, which it opens if there is none.
func (l *listing) receive(ctx context.Context) (Entry, error) {
	received := l.next - l.start
	if l.limit > 0 && received == l.limit {
		return Entry{}, io.EOF
	}
	opened := l.stream == nil
	if opened {
		in := &understudyv1.ListEntriesRequest{Origin: l.origin, Index: l.next}
		if l.limit > 0 {
			in.Limit = l.limit - received
		}
		streamContext, cancel := context.WithCancel(ctx)
		stream, err := l.rpc.ListEntries(streamContext, in, grpc.MaxCallRecvMsgSize(maxAnswer))
		if err != nil {
			cancel()
			return Entry{}, refused("list entries", err)
		}
		l.stream, l.cancel = stream, cancel
	}
	answer, err := l.stream.Recv()
	switch {
	case err == io.EOF:
		return Entry{}, io.EOF
	case err != nil:
		l.close()
		err = refused("list entries", err)
		if opened && received > 0 && holdsNoMore(err) {
			return Entry{}, io.EOF // the stream broke after its last entry
		}
		return Entry{}, err
	}
	e, err := l.entry(answer)
	if err == nil && e.Index != l.next {
		err = l.wrong("entry %d was sent where %d comes next", e.Index, l.next)
	}
	return e, err
}

// holdsNoMore tells whether a refusal to go on says that nothing more is held.
func holdsNoMore(err error) bool {
	e, ok := errors.AsType[*RefusedError](err)
	return ok && (e.Code == codes.NotFound || e.Code == codes.Unavailable)
}

// append makes the tree grow by an entry. The first time it fetches what is left of
// the entry; if that is wrong, check finds out.
func (l *listing) append(ctx context.Context, e Entry) error {
	if l.tree == nil {
		left, err := retry(ctx, func() ([][]byte, error) { return l.left(ctx, e.Index) })
		if err != nil {
			return err
		}
		ranges := compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}
		if l.tree, err = ranges.NewRange(0, e.Index, left); err != nil {
			return l.wrong("tree of the first %d entries: %w", e.Index, err)
		}
	}
	l.next++
	return l.tree.Append(e.LeafHash[:], nil)
}

// left returns the roots of the perfect trees that make up the first index entries,
// largest first: they are the left siblings on the path of the entry at index.
func (l *listing) left(ctx context.Context, index uint64) ([][]byte, error) {
	if index == 0 {
		return nil, nil
	}
	p, err := l.InclusionProof(ctx, Index(index), 0)
	if err != nil {
		return nil, err
	}
	var left [][]byte
	level := 0
	for _, hash := range p.Hashes {
		// Where the node has no sibling in the tree it is moved up, by as many levels.
		for index>>level&1 == 0 && index>>level == (p.Head.Size-1)>>level {
			level++
		}
		if index>>level&1 == 1 {
			left = append(left, hash[:])
		}
		level++
	}
	slices.Reverse(left)
	return left, nil
}

// check proves that the tree of all entries received so far is that of the log.
func (l *listing) check(ctx context.Context) error {
	root, err := l.tree.GetRootHash(nil)
	if err != nil {
		return fmt.Errorf("root of %d entries: %w", l.next, err)
	}
	received := Head{Size: l.next, Root: Hash(root)}
	if newest := l.Newest(); newest.Checkpoint != nil && newest.Size >= received.Size {
		return l.prove(ctx, received, newest)
	}
	head, err := l.Checkpoint(ctx, 0)
	if err != nil {
		return err
	}
	return l.prove(ctx, received, head.Head)
}
