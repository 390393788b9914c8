package storage

import (
	"cmp"
	"context"
	"errors"
	"slices"
)

// SearchKeys returns the indexes of the entries that the view holds or pins and that have any of the
// keys, or all of them, in order, at most max. Its errors are those of Search, and of ctx.
func (v *View) SearchKeys(ctx context.Context, keys []string, all bool, max int) ([]uint64, error) {
	keys = slices.Compact(slices.Sorted(slices.Values(keys)))
	scans := make([]scan, len(keys))
	for i, key := range keys {
		scans[i].key = key
		err := v.Search(key, func(index uint64) error {
			if len(scans[i].indexes) == max {
				scans[i].cut = true
				return errFull
			}
			scans[i].indexes = append(scans[i].indexes, index)
			return ctx.Err()
		})
		if err != nil && !errors.Is(err, errFull) {
			return nil, err
		}
	}
	indexes, err := union(scans), error(nil)
	if all {
		indexes, err = intersection(v, scans)
	}
	return indexes[:min(len(indexes), max)], err
}

var errFull = errors.New("full")

// scan is the entries that have one key, in order, up to the most that are wanted; cut says that there are more.
type scan struct {
	key     string
	indexes []uint64
	cut     bool
}

// union returns the entries of all scans, in order.
func union(scans []scan) (indexes []uint64) {
	for _, s := range scans {
		indexes = append(indexes, s.indexes...)
	}
	slices.Sort(indexes)
	return slices.Compact(indexes)
}

// intersection returns the entries that have the keys of all scans, in order. It begins with a
// scan that is complete, if there is one: then none is missed, however common the other keys.
func intersection(v *View, scans []scan) (indexes []uint64, err error) {
	slices.SortFunc(scans, func(x, y scan) int { return cmp.Compare(len(x.indexes), len(y.indexes)) })
	for i, s := range scans {
		if i == 0 {
			indexes = s.indexes
			continue
		}
		kept := indexes[:0:0]
		for _, index := range indexes {
			_, has := slices.BinarySearch(s.indexes, index)
			if !has && s.cut {
				if has, err = v.HasKey(index, s.key); err != nil {
					return nil, err
				}
			}
			if has {
				kept = append(kept, index)
			}
		}
		indexes = kept
	}
	return indexes, nil
}
