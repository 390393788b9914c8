package mirror

import (
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// ErrBehind: the database is older than what was believed here before, and has not caught up.
var ErrBehind = errors.New("the database is older than the newest checkpoint that was held here; it catches up first")

// Offer makes a checkpoint pending that was pushed to us, and not read from upstream: its
// signature is verified, and consistency is the proof from the pending checkpoint to it. It
// returns storage.ErrRollback, ErrFork, ErrInconsistent or ErrQuarantined, or ErrBehind; then
// nothing has changed. It says nothing about when upstream vouched for the log.
func (m *Mirror) Offer(next storage.Checkpoint, consistency []storage.Hash) error {
	if m.isBehind() || m.Unread() {
		return ErrBehind
	}
	if m.shard != nil {
		if after := m.shard.next(); after != nil && next.Size > after.start()-m.shard.start() {
			return fmt.Errorf("the shard ended with %d entries: %w", after.start()-m.shard.start(), storage.ErrInconsistent)
		}
	}
	next.Source = sourcePushed
	for {
		held := m.tree.State()
		err := m.offer(next, consistency)
		now := m.tree.State()
		if errors.Is(err, storage.ErrInconsistent) && now.Head != held.Head && !moved(held, now) {
			continue // entries were copied meanwhile: the proof that those held before precede it is not that of the new ones
		}
		return err
	}
}

// offer is Offer by what is held at this moment.
func (m *Mirror) offer(next storage.Checkpoint, consistency []storage.Hash) error {
	v := m.tree.View()
	defer v.Close()
	pending := v.State().Pending
	if next.LastSeen = pending.LastSeen; pending.Raw == nil {
		next.LastSeen = time.Unix(0, 0) // as with copies: who pushes it vouches for nothing
	}
	if pending.Raw != nil && pending.Head == next.Head && trust.Frozen(pending.Raw) && !trust.Frozen(next.Raw) {
		return m.tree.Archive(next) // a note from before the end takes nothing back
	}
	if err := storage.VerifyConsistency(pending.Head, next.Head, consistency); err != nil {
		return err
	}
	precedes, err := v.PrecedesVia(consistency, next.Head)
	if err != nil {
		return fmt.Errorf("prove that what is held precedes size %d: %w", next.Size, err)
	}
	before := m.pushed.Swap(next.Size) // first: a poll may see what is pending at once
	if _, err := m.tree.Advance(next, consistency, precedes); err != nil {
		m.pushed.CompareAndSwap(next.Size, before)
		return err
	}
	m.setFrozen(trust.Frozen(next.Raw))
	m.logger.Debug("checkpoint accepted that was pushed", "size", next.Size)
	return nil
}

// Unread says that nothing may be pushed yet: the first checkpoint of a shard is read from its
// service, which shows that it can prove it, and where the shard begins.
func (m *Mirror) Unread() bool {
	return m.shard != nil && m.tree.State().Pending.Raw == nil
}

// sourcePushed is what the archive says of where a checkpoint came from that was pushed.
const sourcePushed = "add-checkpoint"

// recallPushed finds out whether what is pending was pushed before the start. What cannot be read
// is named by others who read it; then upstream seems to go back until it publishes.
func (m *Mirror) recallPushed(pending storage.Checkpoint) {
	v := m.tree.View()
	defer v.Close()
	rows, _ := v.State().ArchiveRows()
	_ = v.Archive(rows, rows, func(row storage.ArchiveRow) error {
		if row.Checkpoint.Source == sourcePushed && row.Checkpoint.Head == pending.Head {
			m.pushed.CompareAndSwap(0, pending.Size)
		}
		return nil
	})
}

// AsServed returns a checkpoint as upstream serves it now, if it does. What is stored is what came
// first: if that was pushed, it has the signatures of the log alone.
func (m *Mirror) AsServed(c storage.Checkpoint) []byte {
	if raw := m.bytes.Load(); raw != nil && c.Raw != nil && sameText(*raw, c.Raw) {
		return *raw
	}
	return c.Raw
}

// ShardKeys returns the key of a shard of a Rekor v1 service, as long as it is one of the
// service's; none for other logs.
func (m *Mirror) ShardKeys() []trust.Key {
	if m.shard == nil || !m.shard.trusted() {
		return nil
	}
	return []trust.Key{m.shard.key}
}

// Shard returns the tree ID of a shard of a Rekor v1 service, and the virtual index of its first
// entry; zeros for other logs.
func (m *Mirror) Shard() (treeID, start uint64) {
	if m.shard == nil {
		return 0, 0
	}
	return m.shard.treeID, m.shard.start()
}

// Promise reads what a shard promised about an entry (its signed entry timestamp) out of its
// receipt; signature is nil if it promised nothing.
func (m *Mirror) Promise(receipt []byte) (integratedTime int64, logID string, signature []byte, err error) {
	if m.shard == nil {
		return 0, "", nil, nil
	}
	var e rekor.Entry
	if err := decodeReceipt(&e, receipt); err != nil {
		return 0, "", nil, err
	}
	return e.IntegratedTime, m.shard.logID, e.SET, nil
}
