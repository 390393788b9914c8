package storage

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

// Errors of Advance and Extend, to be tested with errors.Is. Nothing has changed when
// they are returned.
var (
	// ErrRollback: the checkpoint is of an older, smaller tree.
	ErrRollback = errors.New("checkpoint is smaller than the newest one held")
	// ErrInconsistent: the proof does not tie the new tree to the old one. It is no
	// evidence: the proof may be what is wrong.
	ErrInconsistent = errors.New("consistency is not proven")
	// ErrFork: the checkpoint has the size of one that is held, and another root.
	ErrFork = errors.New("another root for the same size is signed")
	// ErrQuarantined: upstream signed irreconcilable checkpoints; the tree is closed
	// for changes.
	ErrQuarantined = errors.New("log is quarantined")
	// ErrNotHeld: the entries or hashes asked for are beyond what is held.
	ErrNotHeld = errors.New("not held")
	// ErrBelowMinimum: what is asked for lies before the window on the log.
	ErrBelowMinimum = errors.New("below the minimum index")
)

// A Seal is what ties the next head to a signed checkpoint.
type Seal struct {
	// Checkpoint is signed, and its signature verified. It is the pending one, or, for a
	// log of our own, a new one for exactly the next head.
	Checkpoint Checkpoint
	// Precedes is the consistency proof from the next head to Checkpoint; empty if they
	// are equal.
	Precedes []Hash
	// Receipts are what the log promised about each entry beside its leaf, in the order of the
	// entries: Rekor v1's signed entry timestamps. None: no receipts are kept.
	Receipts [][]byte
	// Proposals are what the entries were made of, and Audits say who appended them, in the same
	// order: a log of our own keeps both beside its entries; see View.Proposal and View.Audits.
	// None: none are kept; a nil proposal is not kept.
	Proposals, Audits [][]byte
}

// verifyPrecedes proves that the tree of head equals that of next or is its prefix. An
// empty tree precedes every tree.
func verifyPrecedes(head, next Head, hashes []Hash) error {
	switch {
	case head.Size > next.Size:
		return fmt.Errorf("size %d is greater than %d: %w", head.Size, next.Size, ErrInconsistent)
	case head.Size == next.Size && head.Root != next.Root:
		return fmt.Errorf("root at size %d is %v, want %v: %w", head.Size, head.Root, next.Root, ErrInconsistent)
	case head.Size == next.Size || head.Size == 0:
		if len(hashes) != 0 {
			return fmt.Errorf("proof from size %d to %d must be empty: %w", head.Size, next.Size, ErrInconsistent)
		}
		return nil
	}
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	err := proof.VerifyConsistency(rfc6962.DefaultHasher, head.Size, next.Size, raw, head.Root[:], next.Root[:])
	if err != nil {
		return fmt.Errorf("from size %d to %d: %w: %w", head.Size, next.Size, ErrInconsistent, err)
	}
	return nil
}

// Extend appends entries and returns the new state once it is durable. It computes the
// next head and calls seal with it; seal does no I/O, returns the checkpoint that next
// equals or precedes, and refuses by returning an error. Entries, tiles, index, proof
// and head go into one synced batch: all of it is there after a crash, or nothing. Many
// entries are made durable before that batch, as rows that are no part of the tree yet.
//
// Extend verifies the proof of the seal, never a signature. The entries are not kept.
func (t *Tree) Extend(entries [][]byte, seal func(next Head) (Seal, error)) (_ *State, err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	old := t.State()
	switch {
	case old.Evidence != nil:
		return nil, fmt.Errorf("extend %q: %w", t.origin, ErrQuarantined)
	case t.db.options.ReadOnly:
		return nil, fmt.Errorf("extend %q: %w", t.origin, pebble.ErrReadOnly)
	case t.Broken() != nil:
		return nil, fmt.Errorf("extend %q: %w", t.origin, t.Broken())
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	rows := t.prepare(old.Head.Size, entries)
	defer rows.release()
	table := t.startTable(rows)
	defer table.discard()
	edge, err := t.stage(b, rows)
	if err != nil {
		return nil, fmt.Errorf("extend %q: %w", t.origin, err)
	}
	next := Head{Size: old.Head.Size + uint64(len(entries)), Root: edge.root()}
	sealed, err := seal(next)
	if err != nil {
		return nil, fmt.Errorf("seal size %d: %w", next.Size, err)
	}
	s, err := old.sealed(next, sealed)
	if err != nil {
		return nil, fmt.Errorf("seal size %d: %w", next.Size, err)
	}
	s.search = t.coverage(old, s)
	if err := t.stageReceipts(b, old.Head.Size, len(entries), sealed.Receipts); err != nil {
		return nil, fmt.Errorf("seal size %d: %w", next.Size, err)
	}
	if err := t.stageBeside(b, old.Head.Size, len(entries), &sealed); err != nil {
		return nil, fmt.Errorf("seal size %d: %w", next.Size, err)
	}
	if err := table.ingest(); err != nil {
		return nil, fmt.Errorf("extend %q to size %d: %w", t.origin, next.Size, err)
	}
	if err := t.commit(b, s, nil); err != nil {
		return nil, fmt.Errorf("extend %q to size %d: %w", t.origin, next.Size, err)
	}
	t.edge = edge
	t.publish(s)
	return s, nil
}

// sealed returns the state after growing to next under a seal.
func (s *State) sealed(next Head, seal Seal) (*State, error) {
	c := seal.Checkpoint
	if c.Raw == nil {
		return nil, fmt.Errorf("no checkpoint: %w", ErrInconsistent)
	}
	if c.ref() != s.Pending.ref() {
		// A new checkpoint is consistent with the pending one only because the tree that it
		// signs was grown from the pending one by our own hand.
		if s.Pending.Raw != nil && s.Head != s.Pending.Head {
			return nil, fmt.Errorf("a new checkpoint while the pending one is incomplete: %w", ErrInconsistent)
		}
		if c.Head != next {
			return nil, fmt.Errorf("checkpoint is not for the next head: %w", ErrInconsistent)
		}
	}
	if err := verifyPrecedes(next, c.Head, seal.Precedes); err != nil {
		return nil, err
	}
	n := &State{Head: next, Minimum: s.Minimum, Pending: c, Mirrored: s.Mirrored, precedes: seal.Precedes}
	n.settle()
	return n, nil
}

// settle makes the pending checkpoint the mirror checkpoint once all of it is held.
func (s *State) settle() {
	if s.Head == s.Pending.Head && s.Pending.Raw != nil {
		s.Mirrored = s.Pending
	}
}

// stage puts rows into a batch, and the tiles that they change, and returns the tree's new
// border.
func (t *Tree) stage(b *pebble.Batch, rows *entryRows) (edge, error) {
	g := growth{size: rows.start, edge: t.edge.clone(), put: func(level int, index uint64, raw []byte) error {
		return b.Set(t.id.tile(level, index), raw, nil)
	}}
	if err := t.stageRows(b, rows, func(hash Hash) error { return g.add(0, hash) }); err != nil {
		return nil, err
	}
	return g.edge, g.finish()
}

// stageRows puts rows and their leaf index into a batch, and calls yield for each in order.
// Entries that go into a table are left out.
func (t *Tree) stageRows(b *pebble.Batch, rows *entryRows, yield func(Hash) error) error {
	err := rows.each(func(index uint64, hash Hash, stored []byte) error {
		if !rows.many() {
			if err := b.Set(t.id.entry(index), stored, nil); err != nil {
				return err
			}
		}
		return yield(hash)
	})
	if err != nil {
		return err
	}
	return errors.Join(t.stageLeaves(b, rows), t.stageSearch(b, rows))
}

// stageLeaves puts the leaf index of rows into a batch, sorted: the memtable takes neighbours
// faster than keys in random order.
func (t *Tree) stageLeaves(b *pebble.Batch, rows *entryRows) error {
	order := make([]int, len(rows.hashes))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, j int) int {
		return cmp.Or(bytes.Compare(rows.hashes[i][:8], rows.hashes[j][:8]), cmp.Compare(i, j))
	})
	for _, i := range order {
		if err := b.Set(t.id.leaf(rows.hashes[i], rows.start+uint64(i)), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// Advance makes c the pending checkpoint once it is durable. The caller has verified
// its signature. consistency is the proof from the pending checkpoint to c, and
// precedes the one from Head to c (empty where the first size is 0 or equal).
//
// It is the only way, beside a seal, by which an origin moves: forward, whoever brought the
// checkpoint. What Remember named knows of c before the tree does. It returns
// ErrRollback, ErrFork, ErrInconsistent or ErrQuarantined when it refuses.
func (t *Tree) Advance(c Checkpoint, consistency, precedes []Hash) (_ *State, err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	old := t.State()
	switch {
	case old.Evidence != nil:
		return nil, fmt.Errorf("advance %q: %w", t.origin, ErrQuarantined)
	case c.Raw == nil:
		return nil, fmt.Errorf("advance %q: no checkpoint: %w", t.origin, ErrInconsistent)
	case old.Pending.Raw == nil:
		if len(consistency)+len(precedes) != 0 {
			return nil, fmt.Errorf("first checkpoint with a proof: %w", ErrInconsistent)
		}
		if c.Size == 0 && c.Root != emptyRoot() {
			return nil, fmt.Errorf("checkpoint of size 0 has the root %v: %w", c.Root, ErrInconsistent)
		}
	case c.Size < old.Pending.Size:
		return nil, fmt.Errorf("size %d after %d: %w", c.Size, old.Pending.Size, ErrRollback)
	case c.Size == old.Pending.Size && c.Root != old.Pending.Root:
		return nil, fmt.Errorf("size %d: %w", c.Size, ErrFork)
	default:
		if err := verifyPrecedes(old.Pending.Head, c.Head, consistency); err != nil {
			return nil, err
		}
		if err := verifyPrecedes(old.Head, c.Head, precedes); err != nil {
			return nil, err
		}
	}
	s := &State{Head: old.Head, Minimum: old.Minimum, Pending: c, Mirrored: old.Mirrored, precedes: precedes, search: old.search}
	s.settle()
	b := t.db.pebble.NewBatch()
	defer b.Close()
	if old.Head.Size == 0 || t.links.Load() { // no tiles have these hashes
		if err := t.link(b, old.Pending.Head, c.Head, consistency); err != nil {
			return nil, err
		}
	}
	if err := t.newest.Note(t.origin, c); err != nil {
		return nil, err
	}
	if err := t.commit(b, s, consistency); err != nil {
		if known := t.newest.Of(t.origin); known.Size == c.Size && known.Raw != nil {
			t.behind.Store(&known)
		}
		return nil, fmt.Errorf("advance %q to size %d: %w", t.origin, c.Size, err)
	}
	t.publish(s)
	return s, nil
}

// commit is the one place that makes a state durable. consistency is the proof from the
// pending checkpoint so far to the one of s, if there is one.
func (t *Tree) commit(b *pebble.Batch, s *State, consistency []Hash) error {
	old := t.State()
	if s.archived = old.archived; old.Pending.ref() == s.Pending.ref() { // what Seen noted is newer than the row
		s.Pending.LastSeen = later(s.Pending.LastSeen, old.Pending.LastSeen)
	}
	if err := t.archive(b, s, &s.Pending, consistency); err != nil {
		return err
	}
	if s.Mirrored.Raw != nil && s.Mirrored.ref() == s.Pending.ref() {
		s.Mirrored = s.Pending
	}
	if err := b.Set(t.id.head(), encodeState(s), nil); err != nil {
		return err
	}
	t.saved = s.Pending.LastSeen
	return t.db.commit(b)
}

// PrecedesVia returns the consistency proof from what is held to a checkpoint that follows the
// pending one, given the proof from that one to it: the two proofs and the tiles have all that it
// consists of. It is what Advance wants beside consistency.
func (v *View) PrecedesVia(consistency []Hash, next Head) ([]Hash, error) {
	held, pending := v.state.Head, v.state.Pending.Head
	switch {
	case held.Size == 0:
		return nil, nil
	case held == pending:
		return consistency, nil
	case pending.Size == next.Size:
		return v.state.Precedes(), nil
	}
	spans := consistencySpans(pending.Size, next.Size)
	if len(spans) != len(consistency) {
		return nil, fmt.Errorf("from size %d to %d: %w", pending.Size, next.Size, ErrInconsistent)
	}
	known := knownSpans(v.state.known(), spans, consistency)
	return spanHashes(consistencySpans(held.Size, next.Size), known, v.node)
}
