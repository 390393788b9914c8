package mirror

import (
	"context"

	"github.com/understudy-log/understudy/storage"
)

// Rekor v1 has no tiles. Their hashes come out of its entries, for the lowest level, and out
// of its consistency proofs for the others.

// tile returns the hashes of a tile in the tree of a signed head.
func (sh *shard) tile(ctx context.Context, head storage.Head, id storage.TileID) ([]byte, error) {
	var hashes []byte
	first := id.Index * tileWidth
	if id.Level == 0 {
		entries, err := sh.entries(ctx, first, first+uint64(id.Width))
		for _, body := range entries {
			hash := storage.LeafHash(body)
			hashes = append(hashes, hash[:]...)
		}
		return hashes, err
	}
	level := tileHeight * id.Level
	var proof []storage.Hash
	var from uint64
	for index := first; index < first+uint64(id.Width); index++ {
		if index%2 == 0 { // the proof has its sibling too
			var err error
			from = (index+1)<<level - 1
			if proof, err = sh.service.work.consistency(ctx, sh.treeID, from, head.Size); err != nil {
				return nil, err
			}
		}
		hash, err := storage.NodeFromConsistency(level, index, from, head, proof)
		if err != nil {
			return nil, &ProofError{Problem: err.Error()}
		}
		hashes = append(hashes, hash[:]...)
	}
	return hashes, nil
}

// entries returns the bodies of the entries [first, end).
func (sh *shard) entries(ctx context.Context, first, end uint64) ([][]byte, error) {
	var bodies [][]byte
	for first < end {
		items, err := sh.fetchRange(ctx, first, end)
		if err != nil {
			return nil, err
		}
		for i := range items {
			bodies = append(bodies, items[i].Entry.Body)
		}
		first += uint64(len(items))
	}
	return bodies, nil
}

// elsewhere is where lost parts of a copy can be had.
func (sh *shard) elsewhere() storage.Elsewhere {
	return storage.Elsewhere{
		Tile: func(ctx context.Context, id storage.TileID, accept func([]byte) error) error {
			hashes, err := sh.tile(ctx, sh.mirror.tree.State().Pending.Head, id)
			if err != nil {
				return err
			}
			return accept(hashes)
		},
		Border: func(ctx context.Context, head storage.Head, accept func([][]byte) error) error {
			var tiles [][]byte
			for level := 0; head.Size>>(tileHeight*level) > 0; level++ {
				nodes := head.Size >> (tileHeight * level)
				var hashes []byte
				if width := int(nodes % tileWidth); width > 0 {
					var err error
					if hashes, err = sh.tile(ctx, head, storage.TileID{Level: level, Index: nodes / tileWidth, Width: width}); err != nil {
						return err
					}
				}
				tiles = append(tiles, hashes)
			}
			return accept(tiles)
		},
		Bundle: func(ctx context.Context, index uint64, width int, accept func([][]byte) error) error {
			first := index * bundleWidth
			entries, err := sh.entries(ctx, first, first+uint64(width))
			if err != nil {
				return err
			}
			return accept(entries)
		},
	}
}
