package storage

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// archived is what the head record says of the archive.
type archived struct {
	rows   uint64
	last   Hash // of the last row
	newest Head // the largest tree of all rows that contradict none before them
}

// ArchiveRows returns how many rows the archive has, and the hash of the last one.
func (s *State) ArchiveRows() (rows uint64, last Hash) { return s.archived.rows, s.archived.last }

func (id treeID) archiveRow(number uint64) []byte {
	return appendUint64(id.key(keyArchive, 17), number)
}

func (id treeID) cosignatures(head Head, text Hash) []byte {
	k := appendUint64(id.key(keyCosignature, 128), head.Size)
	return append(append(k, head.Root[:]...), text[:]...)
}

// archive writes a checkpoint's row, and if its text is new one at the end of the archive, and
// notes that in s. If the archive has the text, the first raw bytes and the first time stay,
// and c becomes what the row says. proof is the one between the newest checkpoint and c; if it
// is not what is needed, one is made from what is held, now or when the row is read.
func (t *Tree) archive(b *pebble.Batch, s *State, c *Checkpoint, proof []Hash) error {
	key, place := t.id.checkpoint(c.Head, c.textHash()), checkpointPlace(c.Size)
	switch raw, err := t.db.get(key); {
	case err == nil:
		held, err := decodeCheckpoint(c.Head, raw)
		if err != nil {
			return &DamageError{Place: place, Problem: "is malformed"}
		}
		held.LastSeen = later(held.LastSeen, c.LastSeen)
		*c = held
	case !errors.Is(err, pebble.ErrNotFound):
		return t.db.readError(key, place, err)
	default:
		if err := t.append(b, s, *c, proof, RelationFirst); err != nil {
			return err
		}
	}
	return b.Set(key, encodeCheckpoint(*c), nil)
}

// append writes the next row of the archive, under the relation given or, if that is
// RelationFirst, the one that the heads have.
func (t *Tree) append(b *pebble.Batch, s *State, c Checkpoint, proof []Hash, relation Relation) error {
	a := &s.archived
	row := ArchiveRow{Number: a.rows + 1, Previous: a.last, Checkpoint: c, Relation: relation, Base: a.newest, text: c.textHash(), note: sha256.Sum256(c.Raw)}
	row.Checkpoint.Source = oneLine(c.Source)
	if relation == RelationFirst {
		row.Relation = relate(a, c.Head)
	}
	first, last := row.ends()
	if row.proven() && verifyPrecedes(first, last, proof) == nil {
		row.Proof = proof
	}
	a.rows, a.last = row.Number, row.Hash(t.origin)
	if row.Relation != RelationContradicts && c.Size >= a.newest.Size {
		a.newest = c.Head
	}
	return b.Set(t.id.archiveRow(row.Number), encodeArchiveRow(&row), nil)
}

func relate(a *archived, next Head) Relation {
	switch {
	case a.rows == 0:
		return RelationFirst
	case next == a.newest:
		return RelationSame
	case next.Size == a.newest.Size:
		return RelationContradicts
	case next.Size > a.newest.Size:
		return RelationExtends
	}
	return RelationPrecedes
}

// Archive calls yield for the rows from first to last of the archive, in order. Proofs that are
// not stored are made from what is held; where that cannot be done the relation is
// RelationUnproven.
func (v *View) Archive(first, last uint64, yield func(ArchiveRow) error) error {
	next := max(first, 1)
	place := func() ([]byte, string) { return v.tree.id.archiveRow(next), archivePlace(next) }
	for next <= min(last, v.state.archived.rows) {
		opened := v.swaps
		err := v.rows(v.tree.id.archiveRow(next), v.tree.id.archiveRow(min(last, v.state.archived.rows)+1), place, func(key, value []byte) error {
			if number, err := lastUint64(key); err != nil || number != next {
				return errGap
			}
			row, err := v.archiveRow(next, value)
			if err != nil {
				return err
			}
			next++
			return yield(row)
		})
		switch {
		case err != nil && err != errGap:
			return err
		case next <= min(last, v.state.archived.rows) && v.swaps == opened && !v.renew():
			return v.tree.db.damage(v.tree.id.archiveRow(next), archivePlace(next), "is missing")
		}
	}
	return nil
}

func archivePlace(number uint64) string {
	return fmt.Sprintf("row %d of the checkpoint archive", number)
}

// archiveRow decodes a row and adds what stands elsewhere.
func (v *View) archiveRow(number uint64, value []byte) (ArchiveRow, error) {
	bad := func(problem string) error {
		return v.tree.db.damage(v.tree.id.archiveRow(number), archivePlace(number), problem)
	}
	row, err := decodeArchiveRow(number, value)
	if err != nil {
		return row, bad("cannot be used: " + err.Error())
	}
	key := v.tree.id.checkpoint(row.Checkpoint.Head, row.text)
	raw, err := v.get(key, func() string { return checkpointPlace(row.Checkpoint.Size) })
	if err != nil {
		return row, err
	}
	c, err := decodeCheckpoint(row.Checkpoint.Head, raw)
	if err != nil || sha256.Sum256(c.Raw) != row.note {
		return row, bad("names a checkpoint that is another one now")
	}
	row.Checkpoint.Raw, row.Checkpoint.LastSeen = c.Raw, c.LastSeen
	if row.Cosignatures, err = v.cosignatures(row.Checkpoint.Head, row.text); err != nil {
		return row, err
	}
	first, last := row.ends()
	if row.proven() && verifyPrecedes(first, last, row.Proof) != nil {
		if row.Proof, err = v.composed(first, last); err != nil {
			if !errors.Is(err, ErrNotHeld) && !errors.Is(err, ErrInconsistent) && !errors.Is(err, ErrBelowMinimum) {
				return row, err
			}
			row.Relation, row.Proof = RelationUnproven, nil
		}
	}
	return row, nil
}

func (v *View) cosignatures(head Head, text Hash) (lines []string, err error) {
	lower := v.tree.id.cosignatures(head, text)
	upper := append(lower[:len(lower):len(lower)], 0xff)
	err = v.rows(lower, upper, func() ([]byte, string) { return lower, checkpointPlace(head.Size) }, func(_, value []byte) error {
		lines = append(lines, string(value))
		return nil
	})
	return lines, err
}

// Cosigned keeps signature lines that were added to a checkpoint: per name and key ID the last
// one. Each is "— <name> <base64>", without a newline. It does not wait for the disk: a
// cosignature is remembered by [Newest] first.
func (t *Tree) Cosigned(c Checkpoint, lines []string) (err error) {
	defer t.db.recoverFatal(&err)
	if err := t.db.Err(); err != nil {
		return err
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	for _, line := range lines {
		id, ok := signerOf(line)
		if !ok {
			return fmt.Errorf("%.40q is no signature line", line)
		}
		if err := b.Set(append(t.id.cosignatures(c.Head, c.textHash()), id...), []byte(line), nil); err != nil {
			return err
		}
	}
	t.db.freezing.RLock()
	defer t.db.freezing.RUnlock()
	return b.Commit(pebble.NoSync)
}

// adopt gives the checkpoints that an older version archived their rows, in the order in which
// they were first seen.
func (t *Tree) adopt() error {
	v := t.View()
	defer v.Close()
	var held []Checkpoint
	if err := v.Checkpoints(0, ^uint64(0), func(c Checkpoint) error {
		held = append(held, c)
		return nil
	}); err != nil {
		return err
	}
	if len(held) == 0 {
		return nil
	}
	slices.SortStableFunc(held, func(a, b Checkpoint) int {
		return cmp.Or(a.FirstSeen.Compare(b.FirstSeen), cmp.Compare(a.Size, b.Size))
	})
	s := *t.State()
	b := t.db.pebble.NewBatch()
	defer b.Close()
	for _, c := range held {
		if err := t.append(b, &s, c, nil, RelationFirst); err != nil {
			return err
		}
	}
	if err := errors.Join(b.Set(t.id.head(), encodeState(&s), nil), t.db.commit(b)); err != nil {
		return fmt.Errorf("number the archived checkpoints of %q: %w", t.origin, err)
	}
	t.state.Store(&s)
	return nil
}

// record makes a change of the archive alone durable.
func (t *Tree) record(b *pebble.Batch, s *State) error {
	if err := errors.Join(b.Set(t.id.head(), encodeState(s), nil), t.db.commit(b)); err != nil {
		return err
	}
	if s.archived != t.State().archived || s.Pending.ref() != t.State().Pending.ref() {
		t.publish(s)
	}
	return nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// seenInterval is how often the last time that a checkpoint was seen is persisted.
const seenInterval = time.Minute

// Seen records that upstream vouched for the pending checkpoint again. It is persisted
// about once a minute, without waiting for the disk.
func (t *Tree) Seen(at time.Time) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	if err := t.db.Err(); err != nil {
		return err
	}
	old := t.State()
	if old.Pending.Raw == nil || old.Evidence != nil || !at.After(old.Pending.LastSeen) {
		return nil
	}
	s := *old
	s.Pending.LastSeen = at
	if s.Mirrored.ref() == s.Pending.ref() {
		s.Mirrored.LastSeen = at
	}
	if at.Sub(t.saved) >= seenInterval {
		key := t.id.checkpoint(s.Pending.Head, s.Pending.textHash())
		t.db.freezing.RLock()
		err := t.db.pebble.Set(key, encodeCheckpoint(s.Pending), pebble.NoSync)
		t.db.freezing.RUnlock()
		if err != nil {
			return fmt.Errorf("note when the checkpoint of size %d was seen: %w", s.Pending.Size, err)
		}
		t.saved = at
	}
	t.state.Store(&s)
	return nil
}

// Archive keeps a verified checkpoint that does not move the tree: an older one.
func (t *Tree) Archive(c Checkpoint) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	b := t.db.pebble.NewBatch()
	defer b.Close()
	s := *t.State()
	if err := t.archive(b, &s, &c, nil); err != nil {
		return err
	}
	return t.record(b, &s)
}

// Link is Archive of a checkpoint that precedes the pending one, with the proof that it does:
// proofs from it, and to it, can be composed. It returns ErrInconsistent if it does not.
func (t *Tree) Link(c Checkpoint, consistency []Hash) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	s := *t.State()
	if err := verifyPrecedes(c.Head, s.Pending.Head, consistency); err != nil {
		return fmt.Errorf("link size %d: %w", c.Size, err)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(t.archive(b, &s, &c, consistency), t.link(b, c.Head, s.Pending.Head, consistency)); err != nil {
		return err
	}
	return t.record(b, &s)
}

// Recall makes a checkpoint pending that was believed here before, as [Newest] remembers, and
// that the tree has lost: an older database was restored. Nothing proves that it extends the
// pending one, and the archive says so; so it is for trees alone that hold no entries.
func (t *Tree) Recall(c Checkpoint) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	s := *t.State()
	switch {
	case s.Evidence != nil:
		return fmt.Errorf("recall %q: %w", t.origin, ErrQuarantined)
	case s.Head.Size > 0:
		return fmt.Errorf("recall %q: the tree holds entries", t.origin)
	case c.Raw == nil || s.Pending.Raw != nil && c.Size <= s.Pending.Size:
		return fmt.Errorf("recall %q: size %d after %d: %w", t.origin, c.Size, s.Pending.Size, ErrRollback)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	_, err = t.db.get(t.id.checkpoint(c.Head, c.textHash()))
	if errors.Is(err, pebble.ErrNotFound) && s.archived.rows > 0 {
		relation := relate(&s.archived, c.Head)
		if relation == RelationExtends || relation == RelationPrecedes {
			relation = RelationUnproven
		}
		err = t.append(b, &s, c, nil, relation)
		err = errors.Join(err, b.Set(t.id.checkpoint(c.Head, c.textHash()), encodeCheckpoint(c), nil))
	} else { // the first one, or one that RestoreArchive has put back
		err = t.archive(b, &s, &c, nil)
	}
	if err != nil {
		return err
	}
	s.Pending = c
	return t.record(b, &s)
}

// RestoreArchive appends a row that the archive had before an older database was restored, as an
// evidence pack has it. It must be the next one; the tree does not move.
func (t *Tree) RestoreArchive(row ArchiveRow) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	s, c := *t.State(), row.Checkpoint
	if row.Number != s.archived.rows+1 || row.Previous != s.archived.last {
		return fmt.Errorf("restore row %d of the archive of %q: it does not follow row %d that is held", row.Number, t.origin, s.archived.rows)
	}
	key := t.id.checkpoint(c.Head, c.textHash())
	if _, err := t.db.get(key); err == nil {
		return fmt.Errorf("restore row %d of the archive of %q: its checkpoint has another row already", row.Number, t.origin)
	} else if !errors.Is(err, pebble.ErrNotFound) {
		return t.db.readError(key, checkpointPlace(c.Size), err)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	row.Base = s.archived.newest
	first, last := row.ends()
	if row.proven() && verifyPrecedes(first, last, row.Proof) == nil {
		if err := t.link(b, first, last, row.Proof); err != nil {
			return err
		}
	}
	if err := errors.Join(t.append(b, &s, c, row.Proof, row.Relation), b.Set(key, encodeCheckpoint(c), nil)); err != nil {
		return err
	}
	if err := t.record(b, &s); err != nil {
		return err
	}
	return t.Cosigned(c, row.Cosignatures)
}

// Quarantine keeps the evidence and closes the tree for changes. The first evidence
// stays. What was refused is evidence, and not part of the archive.
func (t *Tree) Quarantine(ev Evidence) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	s := *t.State()
	if s.Evidence != nil {
		return nil
	}
	s.Evidence = &ev
	b := t.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(t.id.evidence(), encodeEvidence(&ev), nil), t.db.commit(b)); err != nil {
		return fmt.Errorf("quarantine %q: %w", t.origin, err)
	}
	t.publish(&s)
	return nil
}
