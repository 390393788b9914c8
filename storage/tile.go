package storage

import (
	"fmt"

	"github.com/cockroachdb/pebble/v2"
)

// Geometry of tiles and bundles (https://c2sp.org/tlog-tiles).
const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
	// maxBundleEntry is the longest entry that the uint16 length prefix of an entry
	// bundle can express.
	maxBundleEntry = 1<<16 - 1
)

// expandedTile is a hash tile with the hashes of its complete inner nodes: node i at
// height h above the tile's own hashes stands at nodeOffset(h)+i.
type expandedTile [2*tileWidth - 1]Hash

type tileKey struct {
	tree  treeID
	level int
	index uint64
	width int
}

func nodeOffset(height int) int { return 2*tileWidth - (2*tileWidth)>>height }

func expand(raw []byte) *expandedTile {
	t, width := new(expandedTile), len(raw)/HashSize
	for i := range width {
		copy(t[i][:], raw[i*HashSize:])
	}
	for h := 1; width>>h > 0; h++ {
		below, at := t[nodeOffset(h-1):], nodeOffset(h)
		for i := range width >> h {
			t[at+i] = NodeHash(below[2*i], below[2*i+1])
		}
	}
	return t
}

// foldHashes returns the root of the complete subtree over n packed hashes, n a power
// of two.
func foldHashes(raw []byte) Hash {
	if len(raw) == HashSize {
		return Hash(raw)
	}
	half := len(raw) / 2
	return NodeHash(foldHashes(raw[:half]), foldHashes(raw[half:]))
}

func tilePlace(level int, index uint64) string { return fmt.Sprintf("tile %d/%d", level, index) }

// readTile returns the first hashes of a stored tile.
func (db *DB) readTile(r pebble.Reader, id treeID, level int, index uint64, width int) ([]byte, error) {
	key := id.tile(level, index)
	raw, err := get(r, key)
	if err != nil {
		return nil, db.readError(key, tilePlace(level, index), err)
	}
	return db.cutTile(id, level, index, width, raw)
}

// cutTile returns the first hashes of what is stored of a tile.
func (db *DB) cutTile(id treeID, level int, index uint64, width int, raw []byte) ([]byte, error) {
	if len(raw)%HashSize != 0 || len(raw) > tileWidth*HashSize || len(raw) < width*HashSize {
		return nil, db.damage(id.tile(level, index), tilePlace(level, index), fmt.Sprintf("has %d bytes, want %d hashes", len(raw), width))
	}
	return raw[: width*HashSize : width*HashSize], nil
}

// widthAt returns the width of the tile (level, index) in a tree of the given size.
func widthAt(size uint64, level int, index uint64) int {
	if level >= tileHeight { // the top of a tree of 2^64 leaves
		return 0
	}
	nodes := size >> (tileHeight * level)
	if nodes>>tileHeight > index {
		return tileWidth
	}
	if nodes>>tileHeight == index {
		return int(nodes % tileWidth)
	}
	return 0
}

// edge is the right border of a tree: for each level the packed hashes of its partial
// tile, which may be empty.
type edge [][]byte

func (e edge) clone() edge {
	out := make(edge, len(e), len(e)+1)
	for i, raw := range e {
		out[i] = append(make([]byte, 0, tileWidth*HashSize), raw...)
	}
	return out
}

// root returns the root of the tree with this border.
func (e edge) root() Hash {
	var rest *Hash // root of everything below and to the right of the level
	for _, raw := range e {
		if len(raw) == 0 {
			continue
		}
		h := sequenceRoot(raw, rest)
		rest = &h
	}
	if rest == nil {
		return emptyRoot()
	}
	return *rest
}

// sequenceRoot returns the root over packed hashes of complete subtrees, followed by
// the root of one smaller subtree if there is one.
func sequenceRoot(raw []byte, rest *Hash) Hash {
	n := len(raw) / HashSize
	if rest != nil {
		n++
	}
	if len(raw) == 0 {
		return *rest
	}
	if n == 1 {
		return Hash(raw)
	}
	_, right := span{0, uint64(n)}.split()
	k := int(right.lo) * HashSize
	return NodeHash(foldHashes(raw[:k]), sequenceRoot(raw[k:], rest))
}

// growth is the set of tiles that an extension touches.
type growth struct {
	size uint64
	edge edge
	put  func(level int, index uint64, raw []byte) error
}

// add appends the hash of a complete subtree at a level; a tile that is full is
// written, and its root goes to the level above.
func (g *growth) add(level int, hash Hash) error {
	for len(g.edge) <= level {
		g.edge = append(g.edge, make([]byte, 0, tileWidth*HashSize))
	}
	g.edge[level] = append(g.edge[level], hash[:]...)
	if level == 0 {
		g.size++
	}
	raw := g.edge[level]
	if len(raw) < tileWidth*HashSize {
		return nil
	}
	if err := g.put(level, (g.size-1)>>(tileHeight*(level+1)), raw); err != nil {
		return err
	}
	root := foldHashes(raw)
	g.edge[level] = raw[:0]
	return g.add(level+1, root)
}

// finish writes the partial tiles.
func (g *growth) finish() error {
	for level, raw := range g.edge {
		if len(raw) == 0 {
			continue
		}
		if err := g.put(level, g.size>>(tileHeight*(level+1)), raw); err != nil {
			return err
		}
	}
	return nil
}
