package storage

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// A window holds the entries from a minimum index on. Left of them it holds whole every
// tile that reaches into the window: the nodes in front of the minimum index that a proof
// needs are left siblings of the path of the entry there, and each of those lies in the
// same tile as its sibling. So a window differs from a whole tree only in what is missing
// on the left, and it grows to the left down to the first entry.

// maxPrepend is the most entries that Prepend takes: those under one tile of level 1.
const maxPrepend = tileWidth * tileWidth

// TileID names the first Width hashes of a hash tile (https://c2sp.org/tlog-tiles).
type TileID struct {
	Level int
	Index uint64
	Width int
}

// firstTile returns the index of the first tile of a level that a window holds: the one
// with the hash over the entry at its minimum index.
func firstTile(minimum uint64, level int) uint64 {
	return minimum >> (tileHeight * (level + 1))
}

// Lacks returns the tiles that Begin or Prepend must be given for the window to begin at a
// minimum index, the highest level first.
func (s *State) Lacks(minimum uint64) []TileID {
	var tiles []TileID
	for level := tileHeight - 1; level > 0; level-- {
		index, width := firstTile(minimum, level), tileWidth
		if s.Head.Size == 0 {
			width = widthAt(minimum, level, index)
		} else if index == firstTile(s.Minimum, level) {
			width = 0
		}
		if width > 0 {
			tiles = append(tiles, TileID{level, index, width})
		}
	}
	return tiles
}

// PrependLimit returns the lowest minimum index that one Prepend can reach.
func (s *State) PrependLimit() uint64 {
	return (max(s.Minimum, 1) - 1) / maxPrepend * maxPrepend
}

var errWindow = errors.New("no such window")

// Begin makes an empty tree a window that begins at a minimum index, a multiple of 256, and
// ends there: it holds the tree of that size, but none of its entries. tiles are the hashes
// of what [State.Lacks] names, 32 bytes each. They need not be verified: the proof of the
// seal, from that size to the pending checkpoint, holds only for the right ones.
func (t *Tree) Begin(minimum uint64, tiles [][]byte, seal Seal) (_ *State, err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	old := t.State()
	lacks := old.Lacks(minimum)
	switch {
	case old.Evidence != nil:
		return nil, fmt.Errorf("begin %q: %w", t.origin, ErrQuarantined)
	case old.Head.Size != 0:
		return nil, fmt.Errorf("begin %q at %d: the tree has entries: %w", t.origin, minimum, errWindow)
	case minimum == 0 || minimum%tileWidth != 0:
		return nil, fmt.Errorf("begin %q at %d, which is no multiple of %d: %w", t.origin, minimum, tileWidth, errWindow)
	case len(tiles) != len(lacks):
		return nil, fmt.Errorf("begin %q with %d tiles, want %d: %w", t.origin, len(tiles), len(lacks), errWindow)
	}
	b := t.db.pebble.NewBatch()
	defer b.Close()
	border := make(edge, lacks[0].Level+1)
	for i, id := range lacks {
		if len(tiles[i]) != id.Width*HashSize {
			return nil, fmt.Errorf("tile %d/%d has %d bytes, want %d hashes: %w", id.Level, id.Index, len(tiles[i]), id.Width, errWindow)
		}
		border[id.Level] = tiles[i]
		if err := b.Set(t.id.tile(id.Level, id.Index), tiles[i], nil); err != nil {
			return nil, err
		}
	}
	s, err := old.sealed(Head{Size: minimum, Root: border.root()}, seal)
	if err != nil {
		return nil, fmt.Errorf("begin at %d: %w", minimum, err)
	}
	s.Minimum = minimum
	s.search = t.coverage(old, s)
	if err := t.commit(b, s, nil); err != nil {
		return nil, fmt.Errorf("begin %q at %d: %w", t.origin, minimum, err)
	}
	t.edge = border.clone()
	t.publish(s)
	return s, nil
}

// Prepend grows a window to the left by entries, whole bundles that end at its minimum
// index and reach down to [State.PrependLimit] at most. tiles are those that [State.Lacks]
// names for the new minimum index. Everything is verified against hashes that are held:
// each tile must hash to its node in the tile above, each bundle to its node in a tile of
// level 1; otherwise it returns ErrInconsistent, and nothing has changed. Entries, tiles,
// index and minimum index go into one commit, as those of Extend do.
func (t *Tree) Prepend(entries [][]byte, tiles [][]byte) (_ *State, err error) {
	defer t.db.recoverFatal(&err)
	t.write.Lock()
	defer t.write.Unlock()
	old := t.State()
	n := uint64(len(entries))
	switch {
	case old.Evidence != nil:
		return nil, fmt.Errorf("prepend to %q: %w", t.origin, ErrQuarantined)
	case t.db.options.ReadOnly:
		return nil, fmt.Errorf("prepend to %q: %w", t.origin, pebble.ErrReadOnly)
	case t.Broken() != nil:
		return nil, fmt.Errorf("prepend to %q: %w", t.origin, t.Broken())
	case n == 0 || n%tileWidth != 0 || n > old.Minimum-old.PrependLimit():
		return nil, fmt.Errorf("prepend %d entries to %q at %d: %w", n, t.origin, old.Minimum, errWindow)
	}
	minimum := old.Minimum - n
	b := t.db.pebble.NewBatch()
	defer b.Close()
	parent, err := t.prependTiles(b, old.Lacks(minimum), tiles, minimum)
	if err != nil {
		return nil, fmt.Errorf("prepend to %q down to %d: %w", t.origin, minimum, err)
	}
	rows := t.prepare(minimum, entries)
	defer rows.release()
	table := t.startTable(rows)
	defer table.discard()
	if err := t.prependRows(b, rows, parent); err != nil {
		return nil, fmt.Errorf("prepend to %q down to %d: %w", t.origin, minimum, err)
	}
	s := *old
	s.Minimum = minimum
	s.search = t.coverage(old, &s)
	if err := table.ingest(); err != nil {
		return nil, fmt.Errorf("prepend to %q down to %d: %w", t.origin, minimum, err)
	}
	if err := t.commit(b, &s, nil); err != nil {
		return nil, fmt.Errorf("prepend to %q down to %d: %w", t.origin, minimum, err)
	}
	t.publish(&s)
	return &s, nil
}

// prependTiles verifies tiles, puts them into a batch, and returns the hashes of the tile
// of level 1 over the entry at a minimum index.
func (t *Tree) prependTiles(b *pebble.Batch, lacks []TileID, tiles [][]byte, minimum uint64) ([]byte, error) {
	if len(tiles) != len(lacks) {
		return nil, fmt.Errorf("%d tiles, want %d: %w", len(tiles), len(lacks), errWindow)
	}
	var above []byte // the tile over what comes next, if it is new
	for i, id := range lacks {
		if above == nil {
			held, err := t.heldTile(minimum, id.Level+1)
			if err != nil {
				return nil, err
			}
			above = held
		}
		at := int(id.Index%tileWidth) * HashSize
		if len(tiles[i]) != tileWidth*HashSize || foldHashes(tiles[i]) != Hash(above[at:at+HashSize]) {
			return nil, fmt.Errorf("tile %d/%d does not hash to its node: %w", id.Level, id.Index, ErrInconsistent)
		}
		if err := b.Set(t.id.tile(id.Level, id.Index), tiles[i], nil); err != nil {
			return nil, err
		}
		above = tiles[i]
	}
	if above != nil {
		return above, nil
	}
	return t.heldTile(minimum, 1)
}

// heldTile returns the tile of a level over the entry at an index, which is held whole.
func (t *Tree) heldTile(index uint64, level int) ([]byte, error) {
	tile := firstTile(index, level)
	width := int(t.State().Minimum>>(tileHeight*level)-1)%tileWidth + 1 // those left of the window, at least
	return t.db.readTile(t.db.pebble, t.id, level, tile, width)
}

// prependRows puts rows into a batch, with their tiles, once each of these hashes to its
// node in the tile of level 1.
func (t *Tree) prependRows(b *pebble.Batch, rows *entryRows, parent []byte) error {
	tile, index := make([]byte, 0, tileWidth*HashSize), rows.start/tileWidth
	return t.stageRows(b, rows, func(hash Hash) error {
		if tile = append(tile, hash[:]...); len(tile) < tileWidth*HashSize {
			return nil
		}
		at := int(index%tileWidth) * HashSize
		if foldHashes(tile) != Hash(parent[at:at+HashSize]) {
			return fmt.Errorf("the entries %d to %d do not hash to their node: %w", index*tileWidth, (index+1)*tileWidth-1, ErrInconsistent)
		}
		if err := b.Set(t.id.tile(0, index), tile, nil); err != nil {
			return err
		}
		tile, index = tile[:0], index+1
		return nil
	})
}
