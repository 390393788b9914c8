package storage

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// DamageError says that something stored is missing or wrong.
type DamageError struct {
	Place   string // what is damaged: "entry 7", "tile 0/3"
	Problem string // what is wrong with it
}

func (e *DamageError) Error() string { return e.Place + " " + e.Problem }

// OversizedEntryError says that a bundle cannot be expressed, because an entry in it
// is longer than 65,535 bytes. The entry itself can be read and proven.
type OversizedEntryError struct{ Index uint64 }

func (e *OversizedEntryError) Error() string {
	return fmt.Sprintf("entry %d is longer than the %d bytes that an entry bundle can hold", e.Index, maxBundleEntry)
}

// View reads a tree as it was at one moment: any entry, and proofs at any size that is
// held. Close it soon; it keeps old data alive. It must not be used concurrently.
type View struct {
	tree  *Tree
	state *State
	snap  *pebble.Snapshot
	known map[span]Hash
}

// View returns a view of the tree as it is now.
func (t *Tree) View() *View {
	// The state is read first: what it describes is in every later snapshot.
	s := t.State()
	return &View{tree: t, state: s, snap: t.db.pebble.NewSnapshot()}
}

// Close releases the view.
func (v *View) Close() { v.snap.Close() }

// State returns what the tree held when the view was made.
func (v *View) State() *State { return v.state }

// Entry returns the entry at an index, or ErrNotHeld or ErrBelowMinimum.
func (v *View) Entry(index uint64) ([]byte, error) {
	if err := v.state.holds(index); err != nil {
		return nil, err
	}
	raw, err := get(v.snap, v.tree.id.entry(index))
	if err != nil {
		return nil, v.tree.db.readError(fmt.Sprintf("entry %d", index), err)
	}
	return decodeEntry(nil, index, raw)
}

// decodeEntry appends an entry that is stored.
func decodeEntry(dst []byte, index uint64, stored []byte) ([]byte, error) {
	entry, err := appendEntry(dst, stored)
	if err != nil {
		return nil, &DamageError{Place: fmt.Sprintf("entry %d", index), Problem: "cannot be used: " + err.Error()}
	}
	return entry, nil
}

// unreadable begins the problem of what stands in a damaged file.
const unreadable = "cannot be read: "

// readError names what could not be read. A row that must be there and is not is
// damage; a disk that does not read ends the process.
func (db *DB) readError(place string, err error) error {
	switch {
	case errors.Is(err, pebble.ErrNotFound):
		return &DamageError{Place: place, Problem: "is missing"}
	case pebble.IsCorruptionError(err):
		if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
			err = fmt.Errorf("%s: %w", info.Path, info.Details)
		}
		return &DamageError{Place: place, Problem: unreadable + err.Error()}
	}
	err = fmt.Errorf("read %s: %w", place, err)
	db.fail(err)
	return err
}

// rows calls yield for the rows in [lower, upper), in order of key, up to the first
// error. Key and value are valid only during the call. place names the row that is read.
func (v *View) rows(lower, upper []byte, place func() string, yield func(key, value []byte) error) (err error) {
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return v.tree.db.readError(place(), err)
	}
	defer func() { // Close returns the error of reading, if there was one
		if closeErr := it.Close(); closeErr != nil && err == nil {
			err = v.tree.db.readError(place(), closeErr)
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
	if start > end || end > v.state.Head.Size {
		return ErrNotHeld
	}
	if start == end {
		return nil
	}
	if err := v.state.holds(start); err != nil {
		return err
	}
	next, entry := start, []byte(nil)
	place := func() string { return fmt.Sprintf("entry %d", next) }
	err := v.rows(v.tree.id.entry(start), v.tree.id.entry(end), place, func(key, value []byte) error {
		if index, err := lastUint64(key); err != nil || index != next {
			return &DamageError{Place: place(), Problem: "is missing"}
		}
		var err error
		if entry, err = decodeEntry(entry[:0], next, value); err != nil {
			return err
		}
		if err := yield(next, entry); err != nil {
			return err
		}
		next++
		return nil
	})
	if err == nil && next != end {
		err = &DamageError{Place: place(), Problem: "is missing"}
	}
	return err
}

// Bundle returns the entry bundle (https://c2sp.org/tlog-tiles) of an index, with
// width entries: 256, or fewer for a partial bundle. It returns ErrNotHeld,
// ErrBelowMinimum or an *OversizedEntryError.
func (v *View) Bundle(index uint64, width int) ([]byte, error) {
	if err := v.holdsTile(0, index, width); err != nil {
		return nil, err
	}
	start := index * tileWidth
	bundle := make([]byte, 0, 2048*width)
	err := v.Entries(start, start+uint64(width), func(i uint64, entry []byte) error {
		if len(entry) > maxBundleEntry {
			return &OversizedEntryError{i}
		}
		bundle = appendBundleEntry(bundle, entry)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return bundle, nil
}

// Tile returns width hashes of a hash tile (https://c2sp.org/tlog-tiles), 32 bytes
// each, or ErrNotHeld or ErrBelowMinimum. Of tiles that begin before the window those are
// held whole that reach into it.
func (v *View) Tile(level int, index uint64, width int) ([]byte, error) {
	if err := v.holdsTile(level, index, width); err != nil {
		return nil, err
	}
	raw, err := v.tree.db.readTile(v.snap, v.tree.id, level, index, width)
	if err != nil {
		return nil, err
	}
	return raw[:width*HashSize], nil
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
	if t, ok := v.tree.db.tiles.Get(key); ok {
		return t, nil
	}
	raw, err := v.tree.db.readTile(v.snap, v.tree.id, level, index, key.width)
	if err != nil {
		return nil, err
	}
	t := expand(raw[:key.width*HashSize])
	v.tree.db.tiles.Add(key, t)
	return t, nil
}

// LeafHash returns the leaf hash of the entry at an index, or ErrNotHeld or ErrBelowMinimum.
func (v *View) LeafHash(index uint64) (Hash, error) { return v.node(0, index) }

// Index returns the lowest index of an entry held with this leaf hash.
func (v *View) Index(leaf Hash) (index uint64, ok bool, err error) {
	lower, upper := v.tree.id.leafRange(leaf)
	it, err := v.snap.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return 0, false, v.tree.db.readError("leaf index", err)
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for more := it.First(); more; more = it.Next() {
		index, err := lastUint64(it.Key())
		if err != nil {
			return 0, false, err
		}
		if index >= v.state.Head.Size {
			break // committed after the view was made
		}
		if index < v.state.Minimum {
			continue // likewise
		}
		if held, err := v.LeafHash(index); err != nil {
			return 0, false, err
		} else if held == leaf {
			return index, true, nil
		}
	}
	if err := it.Error(); err != nil {
		return 0, false, v.tree.db.readError("leaf index", err)
	}
	return 0, false, nil
}

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
	return v.rows(v.tree.id.checkpointsOf(first), upper, func() string { return "checkpoint archive" }, func(key, value []byte) error {
		head, text, err := parseCheckpointKey(key)
		if err != nil {
			return err
		}
		c, err := decodeCheckpoint(head, value)
		if err != nil || c.textHash() != text {
			return &DamageError{Place: fmt.Sprintf("checkpoint of size %d", head.Size), Problem: "is malformed"}
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
