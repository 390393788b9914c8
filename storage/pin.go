package storage

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// A Pin is one chosen entry of a tree that is not copied, with everything that proves it. It
// stands in one row, so it goes as it came: as a whole.
type Pin struct {
	Index uint64
	Entry []byte
	// Receipt is what the log promised beside the leaf; its form is the caller's.
	Receipt []byte
	// Proof is the inclusion proof (RFC 6962, section 2.1.1) in the tree of Checkpoint, both
	// as received.
	Proof      []Hash
	Checkpoint Checkpoint
	// Anchor is the archived checkpoint to which Link ties Checkpoint: the consistency proof
	// from the smaller of the two to the larger. It is the zero Head as long as there is none.
	Anchor Head
	Link   []Hash
	// Keys are search keys that Options.SearchKeys does not find in the entry. What they mean is
	// the caller's to know.
	Keys []string
	// Reasons are why the pin is kept.
	Reasons PinReasons
	At      time.Time // when it was pinned
}

// PinReasons is a set of reasons to keep a pin.
type PinReasons byte

// The reasons. A pin that was only read may be given up for others.
const (
	PinRead PinReasons = 1 << iota
	PinWatched
	PinImported
)

// ErrUnanchored: what a pin is tied to is not archived.
var ErrUnanchored = errors.New("no such checkpoint is archived")

const pinVersion = 1

func encodePin(p *Pin) []byte {
	var e encoder
	e.byte(pinVersion)
	e.byte(byte(p.Reasons))
	e.time(p.At)
	e.bytes(p.Receipt)
	e.head(p.Checkpoint.Head)
	e.time(p.Checkpoint.FirstSeen)
	e.bytes(p.Checkpoint.Raw)
	e.hashes(p.Proof)
	e.head(p.Anchor)
	e.hashes(p.Link)
	e.uint64(uint64(len(p.Keys)))
	for _, key := range p.Keys {
		e.bytes([]byte(key))
	}
	return appendStored(e, p.Entry)
}

func decodePin(index uint64, b []byte) (Pin, error) {
	d := decoder{rest: b}
	if v := d.byte(); v != pinVersion {
		return Pin{}, fmt.Errorf("pin has version %d: %w", v, errRecord)
	}
	p := Pin{Index: index, Reasons: PinReasons(d.byte()), At: d.time(), Receipt: d.bytes()}
	p.Checkpoint.Head = d.head()
	p.Checkpoint.FirstSeen = d.time()
	p.Checkpoint.LastSeen = p.Checkpoint.FirstSeen
	p.Checkpoint.Raw = d.bytes()
	p.Proof, p.Anchor, p.Link = d.hashes(), d.head(), d.hashes()
	for n := d.uint64(); n > 0 && !d.bad; n-- {
		p.Keys = append(p.Keys, string(d.bytes()))
	}
	if d.bad {
		return Pin{}, errRecord
	}
	var err error
	p.Entry, err = appendEntry(nil, d.rest)
	return p, err
}

// spans returns the hashes that the pin's own proofs reveal.
func (p *Pin) spans() map[span]Hash {
	known := knownSpans(nil, inclusionSpans(p.Index, p.Checkpoint.Size), p.Proof)
	known[span{p.Index, p.Index + 1}] = LeafHash(p.Entry)
	if first, last := p.linked(); len(p.Link) > 0 {
		knownSpans(known, consistencySpans(first.Size, last.Size), p.Link)
	}
	return known
}

// linked returns what Link is between.
func (p *Pin) linked() (first, last Head) {
	if p.Anchor.Size < p.Checkpoint.Size {
		return p.Anchor, p.Checkpoint.Head
	}
	return p.Checkpoint.Head, p.Anchor
}

// Verify verifies the proofs of the pin, but no signature.
func (p *Pin) Verify() error {
	if p.Index >= p.Checkpoint.Size {
		return fmt.Errorf("index %d is outside a tree of size %d: %w", p.Index, p.Checkpoint.Size, ErrInconsistent)
	}
	if want := len(inclusionSpans(p.Index, p.Checkpoint.Size)); len(p.Proof) != want {
		return fmt.Errorf("inclusion proof of index %d in size %d has %d hashes, want %d: %w", p.Index, p.Checkpoint.Size, len(p.Proof), want, ErrInconsistent)
	}
	root := LeafHash(p.Entry)
	for i, s := range inclusionSpans(p.Index, p.Checkpoint.Size) {
		if s.lo > p.Index {
			root = NodeHash(root, p.Proof[i])
		} else {
			root = NodeHash(p.Proof[i], root)
		}
	}
	if root != p.Checkpoint.Root {
		return fmt.Errorf("entry %d is not in the tree of size %d and root %v: %w", p.Index, p.Checkpoint.Size, p.Checkpoint.Root, ErrInconsistent)
	}
	if p.Anchor == (Head{}) {
		if len(p.Link) > 0 {
			return fmt.Errorf("a link to nothing: %w", ErrInconsistent)
		}
		return nil
	}
	first, last := p.linked()
	return verifyPrecedes(first, last, p.Link)
}

// Pin keeps a chosen entry, durably, with its leaf index and search keys. The caller has
// verified the signature of p.Checkpoint; Pin verifies the proofs. It returns ErrInconsistent,
// ErrUnanchored, ErrQuarantined, or ErrFork if another entry is pinned at that index. Of an
// entry that is pinned already the first proof stays, with what it is missing, and all reasons;
// a damaged pin is written anew.
func (t *Tree) Pin(p Pin) (err error) {
	defer t.db.recoverFatal(&err)
	if err := p.Verify(); err != nil {
		return fmt.Errorf("pin entry %d: %w", p.Index, err)
	}
	p.Keys = p.Keys[:min(len(p.Keys), maxPinKeys)]
	t.write.Lock()
	defer t.write.Unlock()
	switch s := t.State(); {
	case s.Evidence != nil:
		return fmt.Errorf("pin entry %d: %w", p.Index, ErrQuarantined)
	case t.db.options.ReadOnly:
		return fmt.Errorf("pin entry %d: %w", p.Index, pebble.ErrReadOnly)
	}
	if p.Anchor != (Head{}) {
		archived, err := t.archived(p.Anchor)
		if err == nil && !archived {
			err = ErrUnanchored
		}
		if err != nil {
			return fmt.Errorf("pin entry %d to size %d: %w", p.Index, p.Anchor.Size, err)
		}
	}
	held, ok, err := t.pinAt(p.Index)
	damaged := errors.As(err, new(*DamageError))
	switch {
	case damaged: // it is put back
	case err != nil:
		return err
	case ok && !bytes.Equal(held.Entry, p.Entry):
		return fmt.Errorf("another entry is pinned at index %d: %w", p.Index, ErrFork)
	case ok:
		p = held.with(p)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	hash := LeafHash(p.Entry)
	if err := errors.Join(
		b.Set(t.id.pin(p.Index), encodePin(&p), nil),
		b.Set(t.id.pinLeaf(hash, p.Index), nil, nil),
		t.stagePin(b, &p, true), t.stageHints(b, &p, true),
	); err != nil {
		return err
	}
	if err := t.commitPins(b); err != nil {
		return fmt.Errorf("pin entry %d: %w", p.Index, err)
	}
	if damaged {
		t.db.damages.replaced(t.id, p.Index)
	}
	return nil
}

// maxPinKeys bounds the further keys of a pin.
const maxPinKeys = 64

// with returns the pin with what only the newer one has.
func (p Pin) with(newer Pin) Pin {
	p.Reasons |= newer.Reasons
	p.Keys = slices.Clone(p.Keys)
	for _, key := range newer.Keys {
		if !slices.Contains(p.Keys, key) && len(p.Keys) < maxPinKeys {
			p.Keys = append(p.Keys, key)
		}
	}
	if p.Anchor == (Head{}) && newer.Anchor != (Head{}) {
		p.Checkpoint, p.Proof, p.Anchor, p.Link = newer.Checkpoint, newer.Proof, newer.Anchor, newer.Link
	}
	if len(p.Receipt) == 0 {
		p.Receipt = newer.Receipt
	}
	return p
}

// Release takes reasons from pins, all in one commit, and removes those that have none left, or
// are damaged. Of those that are damaged, search rows may be left, which Check finds and Repair
// removes. An index that is not pinned is passed over.
func (t *Tree) Release(reasons PinReasons, indexes ...uint64) error {
	return t.regard(indexes, func(had PinReasons) PinReasons { return had &^ reasons })
}

// Unwatch is Release of PinWatched, of pins that are from now on as if they were only read.
func (t *Tree) Unwatch(indexes ...uint64) error {
	return t.regard(indexes, func(had PinReasons) PinReasons { return had&^PinWatched | PinRead })
}

// regard gives pins other reasons.
func (t *Tree) regard(indexes []uint64, change func(PinReasons) PinReasons) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	v := t.unbrokenView()
	defer v.Close()
	b := t.db.pebble.NewBatch()
	defer b.Close()
	damaged := map[uint64]bool{}
	for _, index := range indexes {
		p, ok, err := v.Pin(index)
		if errors.As(err, new(*DamageError)) || err == nil && ok && t.misstated(p.Checkpoint) != "" {
			damaged[index] = true
			err = b.Delete(t.id.pin(index), nil)
		} else if err != nil {
			return err
		} else if !ok {
			continue
		} else if reasons := change(p.Reasons); reasons == p.Reasons {
			continue
		} else if p.Reasons = reasons; reasons != 0 {
			err = b.Set(t.id.pin(index), encodePin(&p), nil)
		} else {
			err = errors.Join(
				b.Delete(t.id.pin(index), nil),
				b.Delete(t.id.pinLeaf(LeafHash(p.Entry), index), nil),
				t.stagePin(b, &p, false), t.stageHints(b, &p, false),
			)
		}
		if err != nil {
			return fmt.Errorf("release entry %d: %w", index, err)
		}
	}
	if b.Empty() {
		return nil
	}
	if len(damaged) > 0 {
		err = t.stageNoLeaves(b, v, damaged)
	}
	if err == nil {
		err = t.commitPins(b)
	}
	if err != nil {
		return fmt.Errorf("release %d entries: %w", len(indexes), err)
	}
	for index := range damaged {
		t.db.damages.replaced(t.id, index)
	}
	return nil
}

// stageNoLeaves takes the rows of pins that cannot be read out of their indexes.
func (t *Tree) stageNoLeaves(b *pebble.Batch, v *View, gone map[uint64]bool) error {
	for _, of := range []index{pinLeafIndex, hintIndex} {
		lower, upper := t.id.all(of.kind)
		if err := v.rows(lower, upper, func() ([]byte, string) { return lower, of.name }, func(key, _ []byte) error {
			if at, err := lastUint64(key); err != nil || !gone[at] {
				return err
			}
			return b.Delete(key, nil)
		}); err != nil {
			return err
		}
	}
	return nil
}

// Hold adds reasons and further search keys to a pin.
func (t *Tree) Hold(index uint64, reasons PinReasons, keys ...string) (err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	p, ok, err := t.pinAt(index)
	if err != nil || !ok {
		return err
	}
	more := p.with(Pin{Reasons: reasons, Keys: keys})
	if more.Reasons == p.Reasons && len(more.Keys) == len(p.Keys) {
		return nil
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	if err := errors.Join(b.Set(t.id.pin(index), encodePin(&more), nil), t.stageHints(b, &more, true), t.db.commit(b)); err != nil {
		return fmt.Errorf("hold entry %d: %w", index, err)
	}
	return nil
}

func (t *Tree) pinAt(index uint64) (p Pin, ok bool, err error) {
	v := View{tree: t, state: t.State()}
	v.snapshot()
	defer v.Close()
	return v.Pin(index)
}

// archived says whether there is a checkpoint for a head.
func (t *Tree) archived(head Head) (ok bool, err error) {
	v := View{tree: t, state: t.State()}
	v.snapshot()
	defer v.Close()
	err = v.Checkpoints(head.Size, head.Size, func(c Checkpoint) error {
		ok = ok || c.Head == head
		return nil
	})
	return ok, err
}

// Pin returns the pin of an index, verified as it was when it was pinned; ok is false if there
// is none.
func (v *View) Pin(index uint64) (p Pin, ok bool, err error) {
	key := v.tree.id.pin(index)
	raw, err := get(v.snap, key)
	if errors.Is(err, pebble.ErrNotFound) {
		return Pin{}, false, nil
	}
	if err != nil {
		return Pin{}, false, v.tree.db.readError(key, pinPlace(index), err)
	}
	if p, err = decodePin(index, raw); err != nil {
		return Pin{}, false, v.tree.db.damage(key, pinPlace(index), "cannot be used: "+err.Error())
	}
	if err := p.Verify(); err != nil {
		return Pin{}, false, v.tree.db.damage(key, pinPlace(index), "does not verify: "+err.Error())
	}
	return p, true, nil
}

func pinPlace(index uint64) string { return fmt.Sprintf("pin of entry %d", index) }

// PinOf returns the pin with the lowest index of an entry with this leaf hash.
func (v *View) PinOf(leaf Hash) (p Pin, ok bool, err error) {
	lower := v.tree.id.pinLeaf(leaf, 0)
	upper := append(v.tree.id.pinLeaf(leaf, ^uint64(0)), 0)
	err = v.rows(lower, upper, func() ([]byte, string) { return lower, pinLeafIndex.name }, func(key, _ []byte) error {
		index, err := lastUint64(key)
		if err != nil {
			return err
		}
		found, held, err := v.Pin(index)
		if err == nil && held && LeafHash(found.Entry) == leaf {
			p, ok, err = found, true, errFound
		}
		return err
	})
	if err == errFound {
		err = nil
	}
	return p, ok, err
}

// Pins calls yield for the pins from an index on, in order, with the bytes that each takes, not
// verified. At one that cannot be read it ends with a *DamageError, and may be called again behind it.
func (v *View) Pins(from uint64, yield func(p Pin, bytes int) error) error {
	_, upper := v.tree.id.all(keyPin)
	lower := v.tree.id.pin(from)
	return v.rows(lower, upper, func() ([]byte, string) { return lower, "pins" }, func(key, value []byte) error {
		index, err := lastUint64(key)
		if err != nil {
			return err
		}
		p, err := decodePin(index, value)
		if err != nil {
			return v.tree.db.damage(bytes.Clone(key), pinPlace(index), "cannot be used: "+err.Error())
		}
		return yield(p, len(key)+len(value))
	})
}

// EachPin calls yield for every pin that can be read, in order, and returns the indexes of those
// that cannot; none of them if it is not known which pins there are.
func (v *View) EachPin(yield func(Pin)) (damaged []uint64, err error) {
	next := uint64(0) // after the last one that was read
	if err = v.Pins(0, func(p Pin, _ int) error {
		next = p.Index + 1
		yield(p)
		return nil
	}); !absent(err) {
		return nil, err
	}
	// A walk ends at what cannot be read, and does not say which pin it is. So each of the others is
	// read alone.
	indexes, err := v.PinIndexes()
	if absent(err) {
		return nil, nil
	}
	for _, index := range indexes {
		if err != nil {
			return damaged, err
		}
		if index < next {
			continue
		}
		var p Pin
		var ok bool
		if p, ok, err = v.Pin(index); absent(err) {
			damaged, err = append(damaged, index), nil
		} else if ok {
			yield(p)
		}
	}
	return damaged, err
}

// PinProof returns the inclusion proof of a pin in the tree of a size: that of its own
// checkpoint, or one for which Linked returns a checkpoint, which is returned too. It returns
// ErrNotHeld if the stored hashes do not reveal it.
func (v *View) PinProof(p *Pin, size uint64) ([]Hash, Checkpoint, error) {
	if size == p.Checkpoint.Size {
		return p.Proof, p.Checkpoint, nil
	}
	if p.Index >= size {
		return nil, Checkpoint{}, fmt.Errorf("index %d is outside a tree of size %d", p.Index, size)
	}
	c, err := v.Linked(size)
	if err != nil {
		return nil, c, err
	}
	r := sparse{view: v, known: p.spans()}
	hashes, err := r.hashes(inclusionSpans(p.Index, size))
	if err != nil {
		return nil, c, err
	}
	at := Pin{Index: p.Index, Entry: p.Entry, Proof: hashes, Checkpoint: c}
	if err := at.Verify(); err != nil {
		return nil, c, fmt.Errorf("%w: %w", ErrNotHeld, err)
	}
	return hashes, c, nil
}
