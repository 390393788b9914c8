package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// What a log of our own keeps beside an entry, other than its receipt: the proposal that it was
// made of, for a while, and who appended it, for ever. Both go into the commit of the entry, and
// neither into the tree.

func (id treeID) proposal(index uint64) []byte {
	return appendUint64(id.key(keyProposal, 17), index)
}

func (id treeID) audit(index uint64) []byte {
	return appendUint64(id.key(keyAudit, 17), index)
}

func proposalPlace(index uint64) string { return fmt.Sprintf("proposal of entry %d", index) }
func auditPlace(index uint64) string    { return fmt.Sprintf("audit row of entry %d", index) }

// stageBeside puts proposals and audit rows of entries into a batch.
func (t *Tree) stageBeside(b *pebble.Batch, start uint64, n int, seal *Seal) error {
	for _, rows := range []struct {
		what string
		of   [][]byte
		key  func(index uint64) []byte
	}{
		{"proposals", seal.Proposals, t.id.proposal},
		{"audit rows", seal.Audits, t.id.audit},
	} {
		if rows.of == nil {
			continue
		}
		if len(rows.of) != n {
			return fmt.Errorf("%d %s for %d entries", len(rows.of), rows.what, n)
		}
		for i, row := range rows.of {
			if row == nil {
				continue
			}
			if err := b.Set(rows.key(start+uint64(i)), row, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// Proposal returns what was kept of the proposal of an entry; nil if there is none, or no longer.
func (v *View) Proposal(index uint64) ([]byte, error) {
	if err := v.state.holds(index); err != nil {
		return nil, err
	}
	key := v.tree.id.proposal(index)
	raw, err := get(v.snap, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, v.tree.db.readError(key, proposalPlace(index), err)
	}
	return raw, nil
}

// Proposals calls yield for the proposals that are kept of the entries [start, end), in order, up
// to the first error. The slice is valid only during the call.
func (v *View) Proposals(start, end uint64, yield func(index uint64, proposal []byte) error) error {
	return v.beside(v.tree.id.proposal, start, end, "proposals", yield)
}

// Audits is Proposals of the rows that say who appended.
func (v *View) Audits(start, end uint64, yield func(index uint64, row []byte) error) error {
	return v.beside(v.tree.id.audit, start, end, "audit rows", yield)
}

func (v *View) beside(key func(uint64) []byte, start, end uint64, what string, yield func(uint64, []byte) error) error {
	end = min(end, v.state.Head.Size)
	if start >= end {
		return nil
	}
	return v.rows(key(start), key(end), func() ([]byte, string) { return key(start), what }, func(k, value []byte) error {
		index, err := lastUint64(k)
		if err != nil {
			return err
		}
		return yield(index, value)
	})
}

// DropProposals forgets the proposals of the entries before an index. It does not wait for the disk:
// what a crash brings back is dropped again.
func (t *Tree) DropProposals(end uint64) (err error) {
	defer t.db.recoverFatal(&err)
	if err := t.db.Err(); err != nil {
		return err
	}
	t.db.freezing.RLock()
	defer t.db.freezing.RUnlock()
	if err := t.db.pebble.DeleteRange(t.id.proposal(0), t.id.proposal(end), pebble.NoSync); err != nil {
		return fmt.Errorf("drop proposals of %q before %d: %w", t.origin, end, err)
	}
	return nil
}
