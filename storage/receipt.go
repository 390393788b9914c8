package storage

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// stageReceipts puts the receipts of entries into a batch, and the search rows of what only
// they show.
func (t *Tree) stageReceipts(b *pebble.Batch, start uint64, n int, receipts [][]byte) error {
	if receipts == nil {
		return nil
	}
	if len(receipts) != n {
		return fmt.Errorf("%d receipts for %d entries", len(receipts), n)
	}
	var rows []searchRow
	keeps := t.db.keeps(t.State().search)
	for i, r := range receipts {
		index := start + uint64(i)
		if err := b.Set(t.id.receipt(index), r, nil); err != nil {
			return err
		}
		if keeps {
			rows = appendRows(rows, index, t.db.keysOfReceipt(r))
		}
	}
	return t.stageSorted(b, rows)
}

func receiptPlace(index uint64) string { return fmt.Sprintf("receipt of entry %d", index) }

// Receipt returns what was kept about a held entry beside its leaf; nil if nothing was.
func (v *View) Receipt(index uint64) ([]byte, error) {
	if err := v.state.holds(index); err != nil {
		return nil, err
	}
	key := v.tree.id.receipt(index)
	raw, err := get(v.snap, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, v.tree.db.readError(key, receiptPlace(index), err)
	}
	return raw, nil
}

// receipts returns those of the entries [start, end) by index.
func (v *View) receipts(start, end uint64) (map[uint64][]byte, error) {
	receipts, next := map[uint64][]byte{}, start
	err := v.rows(v.tree.id.receipt(start), v.tree.id.receipt(end), func() ([]byte, string) {
		return v.tree.id.receipt(next), receiptPlace(next)
	}, func(key, value []byte) error {
		index, err := lastUint64(key)
		if err == nil {
			receipts[index], next = bytes.Clone(value), index+1
		}
		return err
	})
	return receipts, err
}
