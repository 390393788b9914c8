package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// OversizedEntryError says that a bundle cannot be expressed, because an entry in it
// is longer than 65,535 bytes. The entry itself can be read and proven.
type OversizedEntryError struct{ Index uint64 }

func (e *OversizedEntryError) Error() string {
	return fmt.Sprintf("entry %d is longer than the %d bytes that an entry bundle can hold", e.Index, maxBundleEntry)
}

// View reads a tree as it was at one moment: any entry, and proofs at any size that is
// held. Close it soon; it keeps old data alive. It must not be used concurrently.
type View struct {
	tree     *Tree
	state    *State
	snap     *pebble.Snapshot
	swaps    uint64 // DB.swaps when snap was made
	known    map[span]Hash
	searches uint64 // Tree.searches when state was read
	// broken is set if the border of the tree is: no answer is made from it then.
	broken error
}

// View returns a view of the tree as it is now.
func (t *Tree) View() *View {
	// The state is read first: what it describes is in every later snapshot.
	v := &View{tree: t, searches: t.searches.Load()}
	v.state, v.broken = t.State(), t.Broken()
	v.snapshot()
	return v
}

// Close releases the view.
func (v *View) Close() { v.snap.Close() }

func (v *View) snapshot() {
	v.tree.db.swap.RLock()
	defer v.tree.db.swap.RUnlock()
	v.snap, v.swaps = v.tree.db.pebble.NewSnapshot(), v.tree.db.swaps
}

// renew takes a new snapshot if rows were written anew since the last one, which has
// neither the old ones nor the new ones of them. It says whether there was reason to.
func (v *View) renew() bool {
	v.tree.db.swap.RLock()
	swaps := v.tree.db.swaps
	v.tree.db.swap.RUnlock()
	if swaps == v.swaps {
		return false
	}
	v.snap.Close()
	v.snapshot()
	return true
}

// get reads one row.
func (v *View) get(key []byte, place func() string) ([]byte, error) {
	if v.broken != nil {
		return nil, v.broken
	}
	for {
		raw, err := get(v.snap, key)
		if err == nil {
			return raw, nil
		}
		if !v.renew() {
			return nil, v.tree.db.readError(key, place(), err)
		}
	}
}

// State returns what the tree held when the view was made.
func (v *View) State() *State { return v.state }

// Entry returns the entry at an index, or ErrNotHeld or ErrBelowMinimum.
func (v *View) Entry(index uint64) ([]byte, error) {
	if err := v.state.holds(index); err != nil {
		return nil, err
	}
	raw, err := v.get(v.tree.id.entry(index), func() string { return entryPlace(index) })
	if err != nil {
		return nil, err
	}
	return v.decodeEntry(nil, index, raw)
}

func entryPlace(index uint64) string { return fmt.Sprintf("entry %d", index) }

// decodeEntry appends an entry that is stored.
func (v *View) decodeEntry(dst []byte, index uint64, stored []byte) ([]byte, error) {
	entry, err := appendEntry(dst, stored)
	if err != nil {
		return nil, v.tree.db.damage(v.tree.id.entry(index), entryPlace(index), "cannot be used: "+err.Error())
	}
	return entry, nil
}

// Misfit is the error for an entry that was read and does not have its leaf hash.
func (v *View) Misfit(index uint64) error {
	const problem = "does not hash to its tile"
	bundle := index / tileWidth
	v.tree.db.damage(v.tree.id.tile(0, bundle), tilePlace(0, bundle), problem)
	return v.tree.db.damage(v.tree.id.entry(index), entryPlace(index), problem)
}

// rows calls yield for the rows in [lower, upper), in order of key, up to the first
// error. Key and value are valid only during the call. next returns key and name of the row
// that is read.
func (v *View) rows(lower, upper []byte, next func() ([]byte, string), yield func(key, value []byte) error) (err error) {
	if v.broken != nil {
		return v.broken
	}
	failed := func(err error) error {
		key, place := next()
		return v.tree.db.readError(key, place, err)
	}
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return failed(err)
	}
	defer func() { // Close returns the error of reading, if there was one
		if closeErr := it.Close(); closeErr != nil && err == nil {
			err = failed(closeErr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		if err := yield(it.Key(), it.Value()); err != nil {
			return err
		}
	}
	return nil
}

// Entries calls yield for the entries [start, end) in order. The slice is valid only
// during the call. It returns ErrNotHeld or ErrBelowMinimum unless all of them are held,
// and stops at the first error of yield.
func (v *View) Entries(start, end uint64, yield func(index uint64, entry []byte) error) error {
	var entry []byte
	return v.stored(start, end, func(index uint64, stored []byte) (err error) {
		if entry, err = v.decodeEntry(entry[:0], index, stored); err != nil {
			return err
		}
		return yield(index, entry)
	})
}

// stored is Entries with entries as they are stored.
func (v *View) stored(start, end uint64, yield func(index uint64, stored []byte) error) error {
	if start > end || end > v.state.Head.Size {
		return ErrNotHeld
	}
	if start == end {
		return nil
	}
	if err := v.state.holds(start); err != nil {
		return err
	}
	next := start
	row := func() ([]byte, string) { return v.tree.id.entry(next), entryPlace(next) }
	for next < end {
		opened := v.swaps // yield may renew the view
		err := v.rows(v.tree.id.entry(next), v.tree.id.entry(end), row, func(key, value []byte) error {
			if index, err := lastUint64(key); err != nil || index != next {
				return errGap
			}
			if err := yield(next, value); err != nil {
				return err
			}
			next++
			return nil
		})
		switch {
		case err != nil && err != errGap:
			return err
		case next < end && v.swaps == opened && !v.renew():
			return v.tree.db.damage(v.tree.id.entry(next), entryPlace(next), "is missing")
		}
	}
	return nil
}

var errGap = errors.New("a row is missing")

// Bundle returns the entry bundle (https://c2sp.org/tlog-tiles) of an index, with
// width entries: 256, or fewer for a partial bundle. It returns ErrNotHeld,
// ErrBelowMinimum or an *OversizedEntryError.
func (v *View) Bundle(index uint64, width int) ([]byte, error) {
	return v.AppendBundle(nil, index, width)
}

// AppendBundle appends what Bundle returns.
func (v *View) AppendBundle(bundle []byte, index uint64, width int) ([]byte, error) {
	if err := v.holdsTile(0, index, width); err != nil {
		return bundle, err
	}
	start := index * tileWidth
	err := v.stored(start, start+uint64(width), func(i uint64, stored []byte) error {
		n, err := storedLen(stored)
		if err == nil && n > maxBundleEntry {
			return &OversizedEntryError{i}
		}
		// SPEC: tlog-tiles, Log entries: "Entry bundles are sequences of big-endian uint16
		// length-prefixed log entries."
		bundle = binary.BigEndian.AppendUint16(bundle, uint16(n))
		bundle, err = v.decodeEntry(bundle, i, stored)
		return err
	})
	return bundle, err
}

// Tile returns width hashes of a hash tile (https://c2sp.org/tlog-tiles), 32 bytes
// each, or ErrNotHeld or ErrBelowMinimum. Of tiles that begin before the window those are
// held whole that reach into it.
func (v *View) Tile(level int, index uint64, width int) ([]byte, error) {
	if err := v.holdsTile(level, index, width); err != nil {
		return nil, err
	}
	return v.readTile(level, index, width)
}

// readTile returns the first hashes of a tile that is held.
func (v *View) readTile(level int, index uint64, width int) ([]byte, error) {
	raw, err := v.get(v.tree.id.tile(level, index), func() string { return tilePlace(level, index) })
	if err != nil {
		return nil, err
	}
	return v.tree.db.cutTile(v.tree.id, level, index, width, raw)
}

// holds says whether an entry is held: nil, ErrNotHeld or ErrBelowMinimum.
func (s *State) holds(index uint64) error {
	switch {
	case index >= s.Head.Size:
		return ErrNotHeld
	case index < s.Minimum:
		return ErrBelowMinimum
	}
	return nil
}

func (v *View) holdsTile(level int, index uint64, width int) error {
	switch {
	case level < 0 || width <= 0 || width > widthAt(v.state.Head.Size, level, index):
		return ErrNotHeld
	case index < firstTile(v.state.Minimum, level):
		return ErrBelowMinimum
	}
	return nil
}

// node returns the hash of a complete subtree, or ErrNotHeld or ErrBelowMinimum.
func (v *View) node(level int, index uint64) (Hash, error) {
	size := v.state.Head.Size
	if level >= 64 || index >= size>>level {
		return Hash{}, ErrNotHeld
	}
	tileLevel, height := level/tileHeight, level%tileHeight
	if index>>(tileHeight-height) < firstTile(v.state.Minimum, tileLevel) {
		return Hash{}, ErrBelowMinimum
	}
	t, err := v.expandedTile(tileLevel, index>>(tileHeight-height))
	if err != nil {
		return Hash{}, err
	}
	return t[nodeOffset(height)+int(index)&(tileWidth>>height-1)], nil
}

// expandedTile returns a tile as wide as it is in the tree of the view. One of that width
// never changes, so it is cached for all views.
func (v *View) expandedTile(level int, index uint64) (*expandedTile, error) {
	key := tileKey{v.tree.id, level, index, widthAt(v.state.Head.Size, level, index)}
	if t, ok := v.tree.db.tiles.Get(key); ok && v.broken == nil {
		return t, nil
	}
	raw, err := v.readTile(level, index, key.width)
	if err != nil {
		return nil, err
	}
	t := expand(raw)
	v.tree.db.swap.RLock()
	defer v.tree.db.swap.RUnlock()
	if v.swaps == v.tree.db.swaps { // or it may be what was swapped out
		v.tree.db.tiles.Add(key, t)
	}
	return t, nil
}

// LeafHash returns the leaf hash of the entry at an index, or ErrNotHeld or ErrBelowMinimum.
func (v *View) LeafHash(index uint64) (Hash, error) { return v.node(0, index) }

// Index returns the lowest index of an entry held with this leaf hash.
func (v *View) Index(leaf Hash) (index uint64, ok bool, err error) {
	lower, upper := v.tree.id.leafRange(leaf)
	row := func() ([]byte, string) { return lower, "leaf index" }
	for {
		opened := v.swaps // reading tiles may renew the view
		index, ok = 0, false
		err := v.rows(lower, upper, row, func(key, _ []byte) error {
			at, err := lastUint64(key)
			if err != nil || v.state.holds(at) != nil { // committed after the view was made
				return err
			}
			held, err := v.LeafHash(at)
			if err == nil && held == leaf {
				index, ok, err = at, true, errFound
			}
			return err
		})
		if err != nil && err != errFound {
			return 0, false, err
		}
		if v.swaps == opened && !v.renew() {
			return index, ok, nil
		}
	}
}

var errFound = errors.New("found")

// covers returns the proof nodes that reach beyond the held tree, if size needs them.
func (v *View) covers(size uint64) (map[span]Hash, error) {
	if size <= v.state.Head.Size {
		return nil, nil
	}
	if size != v.state.Pending.Size || v.state.Head.Size == 0 {
		return nil, ErrNotHeld
	}
	if v.known == nil {
		v.known = v.state.known()
	}
	return v.known, nil
}

// Root returns the root of the tree of a size: any size that is held, or that of the
// pending checkpoint. It returns ErrNotHeld or ErrBelowMinimum for others.
func (v *View) Root(size uint64) (Hash, error) {
	switch {
	case size == v.state.Head.Size:
		return v.state.Head.Root, nil
	case v.state.Pending.Raw != nil && size == v.state.Pending.Size:
		return v.state.Pending.Root, nil
	case size > v.state.Head.Size:
		return Hash{}, ErrNotHeld
	case 0 < size && size < v.state.Minimum:
		return Hash{}, ErrBelowMinimum
	}
	return RootHash(size, v.node)
}

// InclusionProof returns the audit path of a held entry in the tree of a size (RFC
// 6962, section 2.1.1): any size that is held, or that of the pending checkpoint. It
// returns ErrNotHeld or ErrBelowMinimum for others.
func (v *View) InclusionProof(index, size uint64) ([]Hash, error) {
	if err := v.state.holds(index); err != nil {
		return nil, err
	}
	if index >= size {
		return nil, fmt.Errorf("index %d is outside a tree of size %d", index, size)
	}
	known, err := v.covers(size)
	if err != nil {
		return nil, err
	}
	return spanHashes(inclusionSpans(index, size), known, v.node)
}

// ConsistencyProof returns the proof that the tree of size first is a prefix of the
// tree of size last (RFC 6962, section 2.1.2). last is a size that is held or that of
// the pending checkpoint, first is a size that is held or last. It returns ErrNotHeld or
// ErrBelowMinimum for others.
func (v *View) ConsistencyProof(first, last uint64) ([]Hash, error) {
	if first > last {
		return nil, fmt.Errorf("first size %d is greater than last size %d", first, last)
	}
	if first == last || first == 0 {
		_, err := v.Root(last)
		return nil, err
	}
	known, err := v.covers(last)
	if err != nil {
		return nil, err
	}
	if first > v.state.Head.Size {
		return nil, ErrNotHeld
	}
	if first < v.state.Minimum {
		return nil, ErrBelowMinimum
	}
	return spanHashes(consistencySpans(first, last), known, v.node)
}

// Checkpoint returns the archived checkpoint for the tree of a size; ok is false if
// there is none. Of several, it is the pending one or the one seen first.
func (v *View) Checkpoint(size uint64) (c Checkpoint, ok bool, err error) {
	if p := v.state.Pending; p.Raw != nil && p.Size == size {
		return p, true, nil
	}
	root, err := v.Root(size)
	if errors.Is(err, ErrNotHeld) || errors.Is(err, ErrBelowMinimum) {
		return Checkpoint{}, false, nil
	}
	if err != nil {
		return Checkpoint{}, false, err
	}
	err = v.Checkpoints(size, size, func(row Checkpoint) error {
		if row.Root == root && (!ok || row.FirstSeen.Before(c.FirstSeen)) {
			c, ok = row, true
		}
		return nil
	})
	return c, ok, err
}

// Checkpoints calls yield for every archived checkpoint with first <= size <= last, in
// order of size.
func (v *View) Checkpoints(first, last uint64, yield func(Checkpoint) error) error {
	_, upper := v.tree.id.all(keyCheckpoint)
	if last != ^uint64(0) {
		upper = v.tree.id.checkpointsOf(last + 1)
	}
	lower := v.tree.id.checkpointsOf(first)
	return v.rows(lower, upper, func() ([]byte, string) { return lower, "checkpoint archive" }, func(key, value []byte) error {
		head, text, err := parseCheckpointKey(key)
		if err != nil {
			return err
		}
		c, err := decodeCheckpoint(head, value)
		if err != nil || c.textHash() != text {
			return &DamageError{Place: checkpointPlace(head.Size), Problem: "is malformed"}
		}
		return yield(c)
	})
}

func parseCheckpointKey(key []byte) (head Head, text Hash, err error) {
	if len(key) != 9+8+2*HashSize {
		return head, text, &DamageError{Place: "checkpoint archive", Problem: fmt.Sprintf("has a key of %d bytes", len(key))}
	}
	head = Head{binary.BigEndian.Uint64(key[9:]), Hash(key[17 : 17+HashSize])}
	return head, Hash(key[17+HashSize:]), nil
}
