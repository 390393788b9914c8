package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

var (
	pinLeafIndex = index{keyPinLeaf, 9 + 8 + 8, "leaf index of pins"}
	hintIndex    = index{keyHint, searchRowLen, "index of further keys of pins"}
)

// walk calls yield for the rows of a table in order, with a pause now and then: what yield
// reads is of the same moment as the row.
func (c *checker) walk(ctx context.Context, kind byte, yield func(key, value []byte) error) error {
	lower, upper := c.tree.id.all(kind)
	for {
		bytes := 0
		var next []byte
		err := c.table(lower, upper, func(key, value []byte) error {
			if bytes >= paceBytes && c.o.Pace != nil {
				next = slices.Clone(key)
				return errPause
			}
			bytes += len(key) + len(value)
			return yield(key, value)
		})
		if err != errPause {
			return err
		}
		lower = next
		if err := c.pace(ctx, bytes); err != nil {
			return err
		}
	}
}

// pins verifies every pin: its proofs, its checkpoint, that it is tied to one that is archived,
// and that its leaf hash leads to it.
func (c *checker) pins(ctx context.Context) error {
	return c.walk(ctx, keyPin, func(key, value []byte) error {
		index, err := lastUint64(key)
		if err != nil || len(key) != 17 {
			return c.problem("pins", "have a key of %d bytes", len(key))
		}
		wrong := func(problem string) error {
			return c.note((&DamageError{Place: pinPlace(index), Problem: problem}).ofPin(key))
		}
		p, err := decodePin(index, value)
		if err != nil {
			return wrong("cannot be used: " + err.Error())
		}
		if err := p.Verify(); err != nil {
			return wrong("does not verify: " + err.Error())
		}
		if c.o.VerifyEntry != nil {
			if err := c.o.VerifyEntry(index, p.Entry, p.Receipt); err != nil {
				return wrong("does not verify: " + err.Error())
			}
		}
		before := len(c.report.Problems)
		err = c.checkpoint("checkpoint of the "+pinPlace(index), p.Checkpoint)
		for i := range c.report.Problems[before:] {
			c.report.Problems[before+i].pin = &index
		}
		if err != nil {
			return err
		}
		if p.Anchor != (Head{}) {
			archived := false
			if err := c.note(c.Checkpoints(p.Anchor.Size, p.Anchor.Size, func(row Checkpoint) error {
				archived = archived || row.Head == p.Anchor
				return nil
			})); err != nil {
				return err
			}
			if !archived {
				return wrong(fmt.Sprintf("is tied to a checkpoint of size %d that is not archived", p.Anchor.Size))
			}
		}
		for _, k := range p.Keys {
			row := c.tree.id.appendHint(nil, searchRowOf(k, index))
			if _, err := get(c.snap, row); errors.Is(err, pebble.ErrNotFound) {
				return wrong("has no row in the " + hintIndex.name)
			} else if err != nil {
				return c.note(c.tree.db.readError(row, hintIndex.name, err))
			}
		}
		leaf := LeafHash(p.Entry)
		if _, err := get(c.snap, c.tree.id.pinLeaf(leaf, index)); errors.Is(err, pebble.ErrNotFound) {
			return wrong("has no row in the " + pinLeafIndex.name)
		} else if err != nil {
			return c.note(c.tree.db.readError(c.tree.id.pinLeaf(leaf, index), pinLeafIndex.name, err))
		}
		return nil
	})
}

// pinLeaves looks for rows in the leaf index of pins that lead to none, or to another entry.
func (c *checker) pinLeaves(ctx context.Context) error {
	return c.pinIndex(ctx, pinLeafIndex, func(p *Pin, key []byte) bool {
		leaf := LeafHash(p.Entry)
		return bytes.Equal(key[9:17], leaf[:8])
	})
}

// hints looks for rows of further keys that lead to no pin, or to one that has no such key.
func (c *checker) hints(ctx context.Context) error {
	return c.pinIndex(ctx, hintIndex, func(p *Pin, key []byte) bool {
		return slices.ContainsFunc(p.Keys, func(k string) bool { return bytes.Equal(key, c.tree.id.appendHint(nil, searchRowOf(k, p.Index))) })
	})
}

// pinIndex looks for rows of an index of pins that lead to none, or to one that they do not fit.
func (c *checker) pinIndex(ctx context.Context, of index, fits func(p *Pin, key []byte) bool) error {
	return c.walk(ctx, of.kind, func(key, _ []byte) error {
		if len(key) != of.size {
			return c.problem(of.name, "has a key of %d bytes", len(key))
		}
		index, _ := lastUint64(key)
		switch p, ok, err := c.Pin(index); {
		case err != nil: // pins names it
			return nil
		case !ok:
			return c.problem(of.name, "has a row for entry %d, which is not pinned", index)
		case !fits(&p, key):
			return c.problem(of.name, "has a wrong row for entry %d", index)
		}
		return nil
	})
}

// beside looks for receipts, audit rows and proposals of what is not held, and for entries that
// have no receipt, or audit row, while there is one of an entry before. Proposals are not kept for
// ever.
func (c *checker) beside(ctx context.Context) error {
	for _, of := range []struct {
		kind  byte
		name  string
		place func(uint64) string
		each  bool
	}{
		{keyReceipt, "receipts", receiptPlace, true},
		{keyAudit, "audit rows", auditPlace, true},
		{keyProposal, "proposals", proposalPlace, false},
	} {
		if err := c.besideOf(ctx, of.kind, of.name, of.place, of.each); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) besideOf(ctx context.Context, kind byte, name string, place func(uint64) string, each bool) error {
	s := c.state
	next, any := s.Head.Size, false
	gap := func(end uint64) error {
		for ; each && any && next < end; next++ {
			if err := c.problem(place(next), "is missing"); err != nil {
				return err
			}
		}
		return nil
	}
	if err := c.walk(ctx, kind, func(key, _ []byte) error {
		index, err := lastUint64(key)
		if err != nil || len(key) != 17 {
			return c.problem(name, "have a key of %d bytes", len(key))
		}
		if s.holds(index) != nil {
			if c.o.Pace != nil {
				return nil // committed meanwhile
			}
			return c.problem(place(index), "is of an entry that is not held")
		}
		if err := gap(index); err != nil {
			return err
		}
		next, any = index+1, true
		return nil
	}); err != nil {
		return err
	}
	return gap(s.Head.Size)
}

// links composes the proof from each checkpoint of the chain to the next, where the tree has
// no tiles for it. So everything is there of which others are composed.
func (c *checker) links(ctx context.Context) error {
	if err := c.walk(ctx, keySpan, func(key, value []byte) error {
		if len(key) != 25 {
			return c.problem("hashes of the checkpoint chain", "have a key of %d bytes", len(key))
		}
		s := span{binary.BigEndian.Uint64(key[9:]), binary.BigEndian.Uint64(key[17:])}
		if len(value) != HashSize || s.lo >= s.hi {
			return c.problem(spanPlace(s), "has %d bytes", len(value))
		}
		if _, perfect := s.perfect(); perfect || s.lo > 0 {
			return nil
		}
		known := false // the root of a checkpoint
		if err := c.note(c.Checkpoints(s.hi, s.hi, func(row Checkpoint) error {
			known = known || row.Root == Hash(value)
			return nil
		})); err != nil || known {
			return err
		}
		return c.problem(spanPlace(s), "is the root of no checkpoint that is archived")
	}); err != nil {
		return err
	}
	var last Head
	return c.walk(ctx, keyCheckpoint, func(key, _ []byte) error {
		head, _, err := parseCheckpointKey(key)
		if err != nil {
			return nil // checkpoints names it
		}
		if head == last || head.Size == 0 || head.Size > c.state.Pending.Size {
			return nil
		}
		root, err := get(c.snap, c.tree.id.span(span{0, head.Size}))
		if err != nil || !bytes.Equal(root, head.Root[:]) {
			return nil // no checkpoint of the chain
		}
		first := last
		last = head
		if first.Size == 0 || first.Size >= c.state.Minimum && head.Size <= c.state.Head.Size {
			return nil
		}
		hashes, err := c.consistencyHashes(first.Size, head.Size)
		if err == nil {
			err = verifyPrecedes(first, head, hashes)
		}
		recalled := false
		if errors.Is(err, ErrNotHeld) {
			if recalled, err = c.recalled(head); err != nil {
				return c.note(err)
			}
			err = ErrNotHeld
		}
		switch {
		case recalled: // the archive says that nothing ties it
			return nil
		case errors.Is(err, ErrNotHeld):
			return c.problem(checkpointPlace(first.Size), "is not tied to that of size %d any more: a hash is missing", head.Size)
		case errors.Is(err, ErrInconsistent):
			return c.problem(checkpointPlace(first.Size), "is not tied to that of size %d any more: a hash is wrong", head.Size)
		}
		return c.note(err)
	})
}
