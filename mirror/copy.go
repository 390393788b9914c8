package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/understudy-log/understudy/storage"
)

const (
	parallel     = 16               // requests under way at once
	chunkBundles = 32               // bundles in one commit: each is a file of the database
	chunkBytes   = 20 << 20         // a commit ends early at this many bytes
	chunkTime    = 2 * time.Second  // or after this time
	aheadBundles = 2 * chunkBundles // bundles asked for before they are needed
	aheadBytes   = 64 << 20         // of bundles being read or waiting for their commit
)

// ahead fetches bundles before they are needed, in parallel. It is used by one
// goroutine.
type ahead struct {
	source  *tiles
	flight  *flight
	typical atomic.Int64 // bytes to expect of a bundle
	futures map[bundleID]*future
	running sync.WaitGroup
}

type bundleID struct {
	index uint64
	width int
}

type future struct {
	cancel  context.CancelFunc
	done    chan struct{}
	entries [][]byte
	err     error
	share   share // of the bytes of entries; nothing after an error
}

func newAhead(source *tiles, flight *flight) *ahead {
	return &ahead{source: source, flight: flight, futures: map[bundleID]*future{}}
}

// reset forgets every bundle, and waits until no request is under way.
func (a *ahead) reset() {
	for _, f := range a.futures {
		f.cancel()
	}
	a.running.Wait()
	for id := range a.futures {
		a.forget(id)
	}
}

// forget ends the fetching of a bundle.
func (a *ahead) forget(id bundleID) {
	f := a.futures[id]
	f.cancel()
	<-f.done
	f.share.free()
	delete(a.futures, id)
}

// want starts fetching a bundle unless that is under way.
func (a *ahead) want(ctx context.Context, id bundleID) {
	if a.futures[id] != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &future{cancel: cancel, done: make(chan struct{}), share: share{flight: a.flight, bundle: id.index}}
	a.futures[id] = f
	a.running.Go(func() {
		defer close(f.done)
		if f.entries, f.err = a.fetch(ctx, id, &f.share); f.err != nil {
			f.share.free()
		}
	})
}

// fetch reads a bundle once there is room for one of the size to expect.
func (a *ahead) fetch(ctx context.Context, id bundleID, s *share) ([][]byte, error) {
	expected := int(a.typical.Load())
	if err := a.flight.take(ctx, id.index, 1, expected); err != nil {
		return nil, err
	}
	defer a.flight.give(1, 0)
	s.bytes = expected
	entries, err := a.source.entries(ctx, id.index, id.width, s)
	if err == nil {
		size := 0
		for _, e := range entries {
			size += 2 + len(e)
		}
		a.typical.Store(int64(size + size/8))
	}
	return entries, err
}

// errNotYet says that a bundle has not arrived in time.
var errNotYet = errors.New("not yet")

// take waits for a bundle and forgets it; when enough ticks first, it returns errNotYet.
func (a *ahead) take(ctx context.Context, id bundleID, enough <-chan time.Time) ([][]byte, error) {
	a.flight.need(id.index)
	f := a.futures[id]
	select {
	case <-f.done:
	case <-enough:
		return nil, errNotYet
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	a.forget(id)
	return f.entries, f.err
}

// prune forgets bundles that a tree of the given size, held up to an index, no longer
// asks for: those that were partial when the tree was smaller.
func (a *ahead) prune(held, size uint64) {
	for id := range a.futures {
		if id.index < held/bundleWidth || id != bundleAt(id.index*bundleWidth, size) {
			a.forget(id)
		}
	}
}

// bundleAt returns the bundle that holds an index in a tree of the given size.
func bundleAt(index, size uint64) bundleID {
	b := index / bundleWidth
	return bundleID{b, int(min(size-b*bundleWidth, bundleWidth))}
}

// copyChunk fetches the next entries up to the pending checkpoint of s, and commits
// them. A commit that ends before it carries the proof that it precedes it.
func (m *Mirror) copyChunk(ctx context.Context, s *storage.State) error {
	start := time.Now()
	tree, err := m.pendingTree(ctx, s)
	if err != nil {
		return err
	}
	entries, err := m.fetchChunk(ctx, s)
	if len(entries) == 0 {
		return err // otherwise what arrived before the failure is kept
	}
	next := s.Head.Size + uint64(len(entries))
	precedes, proofErr := storage.ConsistencyProof(next, s.Pending.Size, tree.node)
	if proofErr != nil {
		return proofErr
	}
	_, extendErr := m.tree.Extend(entries, func(storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: s.Pending, Precedes: precedes}, nil
	})
	switch {
	case errors.Is(extendErr, storage.ErrInconsistent) && moved(s, m.tree.State()):
		return err // another one was pushed meanwhile; the entries are asked for again
	case errors.Is(extendErr, storage.ErrQuarantined):
		return extendErr
	case errors.Is(extendErr, storage.ErrInconsistent):
		return m.blame(tree, s.Head.Size, entries, extendErr)
	case extendErr != nil:
		return &storageError{extendErr}
	}
	m.copied(uint64(len(entries)), time.Since(start))
	return err
}

// fetchChunk returns the next entries: whole bundles, except at the end of the tree. On
// an error it also returns the entries of the bundles before the failed one.
func (m *Mirror) fetchChunk(ctx context.Context, s *storage.State) ([][]byte, error) {
	at, size, chunk := s.Head.Size, s.Pending.Size, 0
	m.ahead.prune(at, size)
	for i, bundles := at, 0; i < size && bundles < aheadBundles; bundles++ {
		id := bundleAt(i, size)
		m.ahead.want(ctx, id)
		i = (id.index + 1) * bundleWidth
	}
	var entries [][]byte
	var enough <-chan time.Time // of the time for a chunk that is not empty
	end := time.After(chunkTime)
	for bundles := 0; at < size && bundles < chunkBundles && chunk < chunkBytes; bundles++ {
		id := bundleAt(at, size)
		m.ahead.want(ctx, id)
		bundle, err := m.ahead.take(ctx, id, enough)
		if err == errNotYet {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		enough = end
		for _, entry := range bundle[at%bundleWidth:] {
			entries = append(entries, entry)
			chunk += len(entry)
			at++
		}
	}
	return entries, nil
}

// pendingTree returns the authenticated tree of the pending checkpoint.
func (m *Mirror) pendingTree(ctx context.Context, s *storage.State) (*upstreamTree, error) {
	if m.proof == nil || m.proof.head != s.Pending.Head {
		tree, err := newUpstreamTree(ctx, m.tail.tiles, s.Pending.Head)
		if err != nil {
			return nil, err
		}
		m.proof = tree
	}
	return m.proof.at(ctx, m.tail.tiles), nil
}

// blame finds the bundle that made a chunk fail.
func (m *Mirror) blame(tree *upstreamTree, start uint64, entries [][]byte, cause error) error {
	for at := start; len(entries) > 0; {
		n := min(int(bundleWidth-at%bundleWidth), len(entries))
		if err := m.verifySlice(tree, at, entries[:n]); err != nil {
			return err
		}
		at, entries = at+uint64(n), entries[n:]
	}
	return fmt.Errorf("entries hash to their tiles, but the tree does not precede the checkpoint: %w", cause)
}

// verifySlice holds a part of a bundle against its tile, with the entries that are held
// already in front.
func (m *Mirror) verifySlice(tree *upstreamTree, start uint64, entries [][]byte) error {
	bundle := start / bundleWidth
	var whole [][]byte
	if held := bundle * bundleWidth; held < start {
		v := m.tree.View()
		defer v.Close()
		if err := v.Entries(held, start, func(_ uint64, entry []byte) error {
			whole = append(whole, bytes.Clone(entry))
			return nil
		}); err != nil {
			return &storageError{err}
		}
	}
	return tree.verifyBundle(bundle, append(whole, entries...))
}
