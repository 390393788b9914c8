package mirror

import (
	"bytes"
	"context"
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/understudy-log/understudy/storage"
)

const (
	tileHeight = 8
	tileWidth  = 1 << tileHeight
)

// upstreamTree reads nodes of upstream's tree at one checkpoint. Every tile that it uses
// was authenticated: the partial tiles of the right border hash to the signed root, and
// a full tile hashes to its node in the tile above.
type upstreamTree struct {
	ctx    context.Context // of the round; see at
	source *tiles
	head   storage.Head
	edge   map[int][]byte // by level: the partial tile
	full   *lru.Cache[tileID, []byte]
}

type tileID struct {
	level int
	index uint64
}

// verifiedTiles is how many full tiles are kept; a long catch-up needs about two at a
// time.
const verifiedTiles = 64

// newUpstreamTree reads the right border of upstream's tree and authenticates it.
func newUpstreamTree(ctx context.Context, source *tiles, head storage.Head) (*upstreamTree, error) {
	u := &upstreamTree{ctx: ctx, source: source, head: head, edge: map[int][]byte{}}
	var err error
	if u.full, err = lru.New[tileID, []byte](verifiedTiles); err != nil {
		return nil, err
	}
	for level := 0; head.Size>>(tileHeight*level) > 0; level++ {
		width := int(head.Size >> (tileHeight * level) % bundleWidth)
		if width == 0 {
			continue
		}
		index := head.Size >> (tileHeight * (level + 1))
		if u.edge[level], err = source.tile(ctx, level, index, width); err != nil {
			return nil, err
		}
	}
	root, err := storage.RootHash(head.Size, u.node)
	if err != nil {
		return nil, err
	}
	if root != head.Root {
		return nil, &TileError{Problem: fmt.Sprintf("the right border of the tiles does not hash to the signed root of size %d", head.Size)}
	}
	return u, nil
}

// TileError says that upstream's hash tiles contradict what it signed.
type TileError struct{ Problem string }

func (e *TileError) Error() string { return e.Problem }

// at binds the tree to the context of the current round and the place to read.
func (u *upstreamTree) at(ctx context.Context, source *tiles) *upstreamTree {
	u.ctx, u.source = ctx, source
	return u
}

// node is a storage.NodeFunc.
func (u *upstreamTree) node(level int, index uint64) (storage.Hash, error) {
	tileLevel, height := level/tileHeight, level%tileHeight
	offset := int(index % (bundleWidth >> height))
	raw, err := u.tile(tileLevel, index>>(tileHeight-height))
	if err != nil {
		return storage.Hash{}, err
	}
	lo, hi := offset<<height, (offset+1)<<height
	if hi*storage.HashSize > len(raw) {
		return storage.Hash{}, fmt.Errorf("node %d/%d is outside upstream's tree of size %d", level, index, u.head.Size)
	}
	return fold(raw[lo*storage.HashSize : hi*storage.HashSize]), nil
}

// tile returns an authenticated tile.
func (u *upstreamTree) tile(level int, index uint64) ([]byte, error) {
	if u.head.Size>>(tileHeight*(level+1)) == index {
		return u.edge[level], nil
	}
	id := tileID{level, index}
	if raw, ok := u.full.Get(id); ok {
		return raw, nil
	}
	parent, err := u.node((level+1)*tileHeight, index)
	if err != nil {
		return nil, err
	}
	raw, err := u.source.tile(u.ctx, level, index, bundleWidth)
	if err != nil {
		return nil, err
	}
	if fold(raw) != parent {
		return nil, &TileError{Problem: fmt.Sprintf("tile/%d/%s does not hash to its node in the tile above", level, tilePath(index))}
	}
	u.full.Add(id, raw)
	return raw, nil
}

// fold returns the root of the complete subtree over packed hashes.
func fold(raw []byte) storage.Hash {
	if len(raw) == storage.HashSize {
		return storage.Hash(raw)
	}
	half := len(raw) / 2
	return storage.NodeHash(fold(raw[:half]), fold(raw[half:]))
}

// verifyBundle holds entries against the tree: a full bundle against its node, a partial
// one against the leaf hashes of the last tile.
func (u *upstreamTree) verifyBundle(bundle uint64, entries [][]byte) error {
	hashes := make([]byte, 0, len(entries)*storage.HashSize)
	for _, entry := range entries {
		h := storage.LeafHash(entry)
		hashes = append(hashes, h[:]...)
	}
	if len(entries) == bundleWidth {
		want, err := u.node(tileHeight, bundle)
		if err != nil {
			return err
		}
		if fold(hashes) == want {
			return nil
		}
	} else {
		tile, err := u.tile(0, bundle)
		if err != nil {
			return err
		}
		if bytes.HasPrefix(tile, hashes) {
			return nil
		}
	}
	return &BundleError{Bundle: bundle}
}

// BundleError says that a bundle does not hash to its tile.
type BundleError struct{ Bundle uint64 }

func (e *BundleError) Error() string {
	return fmt.Sprintf("tile/entries/%s does not hash to its tile", tilePath(e.Bundle))
}
