package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// RollbackError says that upstream served an older checkpoint than it did before. It is
// consistent with what is held: an old cache, not a crime.
type RollbackError struct{ Size, Newest uint64 }

func (e *RollbackError) Error() string {
	return fmt.Sprintf("upstream went back to its checkpoint of size %d, after it served size %d", e.Size, e.Newest)
}

// ForkError says that upstream signed two irreconcilable checkpoints. The evidence is in
// the tree's state.
type ForkError struct{ Evidence *storage.Evidence }

func (e *ForkError) Error() string { return "quarantined: " + e.Evidence.Reason }

// poll reads upstream's checkpoint and, if it is a good one, makes it pending.
func (m *Mirror) poll(ctx context.Context) error {
	m.read(m.places[0])
	raw, err := m.tail.checkpoint(ctx)
	if err == nil {
		err = m.accept(ctx, raw)
	}
	if ctx.Err() == nil {
		m.polled(err)
	}
	return err
}

// pollCopies takes the checkpoint of the first copy that has one as new as the pending one,
// or newer. Its age stays what it was: a copy cannot vouch for upstream. The error is not
// about a copy: a fork, or of the tree.
func (m *Mirror) pollCopies(ctx context.Context) (found bool, err error) {
	for _, p := range m.copies() {
		m.read(p)
		raw, err := p.checkpoint(ctx)
		if err == nil {
			err = m.accept(ctx, raw)
		}
		var (
			behind *RollbackError
			fork   *ForkError
			broken *storageError
		)
		switch {
		case ctx.Err() != nil:
			return false, ctx.Err()
		case err == nil:
			m.served(p)
			return true, nil
		case errors.As(err, &fork) || errors.As(err, &broken):
			return false, err
		case !errors.As(err, &behind):
			m.setAside(p, err)
		}
	}
	return false, nil
}

// accept takes a checkpoint that is new to us: it verifies the signature, then that the
// new tree extends the newest one that is held.
func (m *Mirror) accept(ctx context.Context, raw []byte) error {
	c, err := trust.Open(raw, m.cfg.Origin, m.keys)
	if err != nil {
		return err
	}
	now := time.Now()
	next := storage.Checkpoint{Head: storage.Head{Size: c.Size, Root: c.Root}, Raw: c.Raw, FirstSeen: now, LastSeen: now}
	s := m.tree.State()
	if !m.tail.upstream { // which vouched for it we do not know when
		if next.LastSeen = s.Pending.LastSeen; s.Pending.Raw == nil {
			next.LastSeen = time.Unix(0, 0)
		}
	}
	switch {
	case s.Pending.Raw == nil:
		return m.first(ctx, c, next)
	case c.Size < s.Pending.Size:
		return m.older(ctx, s, next)
	case c.Size == s.Pending.Size && next.Root != s.Pending.Root:
		return m.quarantine(s.Pending.Raw, next, storage.Evidence{
			Reason: fmt.Sprintf("two roots are signed for size %d: %v and %v", c.Size, s.Pending.Root, next.Root),
		})
	case c.Size == s.Pending.Size && sameText(raw, s.Pending.Raw) && !m.tail.upstream:
		return nil
	case c.Size == s.Pending.Size && sameText(raw, s.Pending.Raw):
		if err := m.tree.Seen(now); err != nil {
			return &storageError{err}
		}
		return nil
	case c.Size == s.Pending.Size:
		return m.advance(c, next, nil, s.Precedes())
	case m.isFrozen():
		return m.quarantine(s.Pending.Raw, next, storage.Evidence{
			Reason: fmt.Sprintf("the log was declared frozen at size %d and has now signed size %d", s.Pending.Size, c.Size),
		})
	}
	return m.newer(ctx, s, c, next)
}

// first accepts the first checkpoint ever: its tiles must hash to it. A log that signs
// what it cannot show is not believed, or its mistake would make every later, honest
// checkpoint look like a fork.
func (m *Mirror) first(ctx context.Context, c *trust.Checkpoint, next storage.Checkpoint) error {
	tree, err := newUpstreamTree(ctx, m.tail.tiles, next.Head)
	if err != nil {
		return err
	}
	if err := m.advance(c, next, nil, nil); err != nil {
		return err
	}
	m.proof = tree
	return nil
}

// newer proves that a larger checkpoint extends the pending one. Upstream's tiles are
// authenticated by the new checkpoint, so if they give another root for the old size
// than the old checkpoint, that is a fork and no accident.
func (m *Mirror) newer(ctx context.Context, s *storage.State, c *trust.Checkpoint, next storage.Checkpoint) error {
	tree, err := newUpstreamTree(ctx, m.tail.tiles, next.Head)
	if err != nil {
		return err
	}
	if err := m.compare(tree, s.Pending, next, next); err != nil {
		return err
	}
	consistency, err := storage.ConsistencyProof(s.Pending.Size, c.Size, tree.node)
	if err != nil {
		return err
	}
	precedes, err := storage.ConsistencyProof(s.Head.Size, c.Size, tree.node)
	if err != nil {
		return err
	}
	if err := m.advance(c, next, consistency, precedes); err != nil {
		return err
	}
	m.proof = tree
	return nil
}

// compare holds the root of the smaller checkpoint against the authenticated tree of the
// larger one. seen is which of the two has just arrived.
func (m *Mirror) compare(tree *upstreamTree, smaller, larger, seen storage.Checkpoint) error {
	root, err := storage.RootHash(smaller.Size, tree.node)
	if err != nil || root == smaller.Root {
		return err
	}
	proof, err := storage.ConsistencyProof(smaller.Size, larger.Size, tree.node)
	if err != nil {
		return err
	}
	first := smaller
	if bytes.Equal(seen.Raw, smaller.Raw) {
		first = larger
	}
	return m.quarantine(first.Raw, seen, storage.Evidence{
		Root: root, Proof: proof,
		Reason: fmt.Sprintf("the tree signed at size %d has the root %v at size %d, where %v was signed", larger.Size, root, smaller.Size, smaller.Root),
	})
}

// older judges a checkpoint that is smaller than the pending one: a rollback if the two
// trees agree, a fork if they do not.
func (m *Mirror) older(ctx context.Context, s *storage.State, next storage.Checkpoint) error {
	rollback := &RollbackError{Size: next.Size, Newest: s.Pending.Size}
	if next.Size > s.Head.Size || next.Size < s.Minimum {
		tree, err := m.pendingTree(ctx, s)
		if err != nil {
			return fmt.Errorf("%w (and cannot be compared: %w)", rollback, err)
		}
		if err := m.compare(tree, next, s.Pending, next); err != nil {
			return err
		}
	} else if err := m.compareHeld(s, next); err != nil {
		return err
	}
	if !m.tail.upstream {
		return rollback // it lags, as copies do
	}
	if err := m.tree.Archive(next); err != nil {
		return &storageError{err}
	}
	return rollback
}

// compareHeld is compare for a size that is held.
func (m *Mirror) compareHeld(s *storage.State, next storage.Checkpoint) error {
	v := m.tree.View()
	defer v.Close()
	root, err := v.Root(next.Size)
	if err != nil {
		return &storageError{err}
	}
	if root == next.Root {
		return nil
	}
	ev := storage.Evidence{
		Root:   root,
		Reason: fmt.Sprintf("the tree signed at size %d has the root %v at size %d, where %v was signed", s.Pending.Size, root, next.Size, next.Root),
	}
	if next.Size > 0 {
		if ev.Proof, err = v.ConsistencyProof(next.Size, s.Pending.Size); err != nil {
			return &storageError{err}
		}
	}
	return m.quarantine(s.Pending.Raw, next, ev)
}

// advance makes a checkpoint pending.
func (m *Mirror) advance(c *trust.Checkpoint, next storage.Checkpoint, consistency, precedes []storage.Hash) error {
	s, err := m.tree.Advance(next, consistency, precedes)
	switch {
	case errors.Is(err, storage.ErrInconsistent):
		return &TileError{Problem: fmt.Sprintf("consistency with the checkpoint of size %d is not proven: %v", m.tree.State().Pending.Size, err)}
	case err != nil:
		return &storageError{err}
	}
	m.setFrozen(c.Frozen())
	m.logger.Debug("checkpoint accepted", "size", s.Pending.Size)
	return nil
}

// quarantine keeps the evidence of a fork and closes the log.
func (m *Mirror) quarantine(first []byte, second storage.Checkpoint, ev storage.Evidence) error {
	ev.First, ev.Second, ev.At = first, second.Raw, second.FirstSeen
	if err := m.tree.Quarantine(ev); err != nil {
		return &storageError{err}
	}
	m.logger.Error("upstream signed two irreconcilable checkpoints; this log is quarantined and its last good state stays served: keep the data directory as evidence and tell the log's operator",
		"reason", ev.Reason, "first", string(ev.First), "second", string(ev.Second))
	return &ForkError{&ev}
}

// sameText says whether two notes sign the same text; their signatures may differ.
func sameText(a, b []byte) bool {
	return bytes.Equal(noteText(a), noteText(b))
}

func noteText(raw []byte) []byte {
	if i := bytes.LastIndex(raw, []byte("\n\n")); i >= 0 {
		return raw[:i]
	}
	return raw
}
