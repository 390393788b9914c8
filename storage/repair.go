package storage

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	lru "github.com/hashicorp/golang-lru/v2"
)

// What is damaged is written anew. Nothing that goes into it is trusted, neither what is
// stored nor what comes from elsewhere: from the border of the tree, which hashes to the
// root of the head, each tile must hash to its node in the tile above, and each entry to its
// hash in its tile. A tile comes out of what lies below it if that is good, an index row out
// of its tile; only what is lost of both has to come from elsewhere.

// Elsewhere is where lost parts of a tree can be had; a nil function is nowhere. Each asks
// one place after another until accept, which verifies, is satisfied; otherwise it returns
// why none would do.
type Elsewhere struct {
	// Tile fetches the first Width hashes of a tile, 32 bytes each.
	Tile func(ctx context.Context, id TileID, accept func(hashes []byte) error) error
	// Border fetches the partial tiles on the right border of the tree of a head, by level, nil
	// where there is none, all of them from one place.
	Border func(ctx context.Context, head Head, accept func(tiles [][]byte) error) error
	// Bundle fetches the first width entries of an entry bundle.
	Bundle func(ctx context.Context, index uint64, width int, accept func(entries [][]byte) error) error
}

// Repaired counts the rows that Repair wrote anew, of which many were good, and what of that
// came from elsewhere.
type Repaired struct {
	Entries, Tiles, IndexRows    uint64
	FetchedBundles, FetchedTiles uint64
	// Left is how many places could not be put back.
	Left int
}

// Repair writes anew what Damage names, as far as it can be had; what is left stays there,
// with the reason. The tree may be in use: changes wait while rows take the place of others.
// The error is that of ctx, or of the disk.
func (t *Tree) Repair(ctx context.Context, from Elsewhere) (done Repaired, err error) {
	defer t.db.recoverFatal(&err)
	if t.db.options.ReadOnly {
		return done, fmt.Errorf("repair %q: %w", t.origin, pebble.ErrReadOnly)
	}
	t.repairing.Lock()
	defer t.repairing.Unlock()
	r, err := newRepair(t, from)
	if err != nil {
		return done, err
	}
	searches := t.searches.Load()
	if t.Broken() != nil {
		if err := r.mendEdge(ctx); err != nil || t.Broken() != nil {
			r.done.Left = 1
			return r.done, err
		}
	}
	// Repairing may meet more damage, such as tiles that were not read before, and what one
	// range lacked may be put back with another. So it goes on while there is hope, but not
	// for ever on a disk that damages what is written.
	for range 10 {
		known := t.Damage()
		if err := r.rewriteAll(ctx, known); err != nil {
			return r.done, fmt.Errorf("repair %q: %w", t.origin, err)
		}
		now := t.Damage()
		if !slices.ContainsFunc(now, func(e DamageError) bool {
			return len(e.rows) > 0 && (e.Stuck == "" || len(now) < len(known))
		}) {
			break
		}
	}
	if err := r.index(ctx, searches); err != nil {
		return r.done, fmt.Errorf("repair %q: %w", t.origin, err)
	}
	for _, e := range t.Damage() {
		if len(e.rows) > 0 {
			r.done.Left++
		}
	}
	return r.done, nil
}

// index fills the search index if it was begun anew, down to the first entry that cannot be
// had.
func (r *repair) index(ctx context.Context, searches uint64) error {
	if r.t.searches.Load() == searches {
		return nil
	}
	for done := false; !done; {
		var err error
		if done, err = r.t.IndexSome(ctx, 0); absent(err) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

// rewriteAll writes every damaged range anew, as far as it can be had.
func (r *repair) rewriteAll(ctx context.Context, known []DamageError) error {
	for _, table := range []struct {
		kind    byte
		rewrite func(context.Context, keyRange) error
	}{{keyTile, r.rewriteTiles}, {keyEntry, r.rewriteEntries}, {keyLeaf, r.rewriteLeaves}, {keySearch, r.dropSearch}} {
		for _, rows := range damagedRanges(known, r.t.id, table.kind) {
			rows, err := r.rewriteRange(ctx, rows, table.rewrite)
			switch {
			case err == nil:
				r.t.db.damages.mended(r.t.id, rows)
			case ctx.Err() != nil:
				return ctx.Err()
			case r.t.db.Err() != nil:
				return r.t.db.Err()
			default:
				r.t.db.damages.stuck(r.t.id, rows, err.Error())
			}
		}
	}
	return nil
}

// damagedRanges returns the damaged ranges of one table.
func damagedRanges(known []DamageError, id treeID, kind byte) []keyRange {
	lower, upper := id.all(kind)
	var ranges []keyRange
	for _, e := range known {
		for _, r := range e.rows {
			if r = r.clip(keyRange{lower, upper}); !r.empty() {
				ranges = append(ranges, r)
			}
		}
	}
	return mergeRanges(ranges)
}

// repair is one call of Repair.
type repair struct {
	t    *Tree
	from Elsewhere
	done Repaired

	view  *View // of the range at hand
	edge  edge  // of the tree of the view
	tiles *lru.Cache[TileID, []byte]
}

// verifiedTiles is how many tiles are kept while others are verified.
const verifiedTiles = 64

func newRepair(t *Tree, from Elsewhere) (_ *repair, err error) {
	r := &repair{t: t, from: from}
	r.tiles, err = lru.New[TileID, []byte](verifiedTiles)
	return r, err
}

// bind makes the repair one of the tree as it is now; write is held.
func (r *repair) bind() {
	if r.view != nil {
		r.view.Close()
	}
	r.view, r.edge = r.t.View(), r.t.edge
	r.view.broken = nil // it verifies by itself
}

func (r *repair) unbind() {
	r.view.Close()
	r.view = nil
}

// wideError says that a range cannot be cut out: it ends within other damage.
type wideError struct{ rows keyRange }

func (e *wideError) Error() string { return "it ends within other damage" }

// rewriteRange writes one range anew, or a wider one if it ends within other damage, and
// returns the range that it was.
func (r *repair) rewriteRange(ctx context.Context, rows keyRange, rewrite func(context.Context, keyRange) error) (keyRange, error) {
	table := tableOf(rows)
	for {
		err := r.bound(func() error { return rewrite(ctx, rows) })
		wide, ok := errors.AsType[*wideError](err)
		if !ok || len(wide.rows.clip(table).without(rows)) == 0 {
			return rows, err
		}
		rows = mergeRanges([]keyRange{rows, {rows.lower, wide.rows.upper}, {wide.rows.lower, rows.upper}})[0].clip(table)
	}
}

// bound calls do while the repair is one of the tree as it is now, or as do binds it again.
func (r *repair) bound(do func() error) error {
	r.t.write.Lock()
	r.bind()
	r.t.write.Unlock()
	defer r.unbind()
	return do()
}

// locked calls do while the tree cannot change, with the repair bound to it. What has been
// committed since it was bound before is stored, so nothing is fetched.
func (r *repair) locked(do func() error) error {
	r.t.write.Lock()
	defer r.t.write.Unlock()
	r.bind()
	from := r.from
	defer func() { r.from = from }()
	r.from = Elsewhere{}
	return do()
}

// tile returns a tile of the tree, as wide as it is there, verified.
func (r *repair) tile(ctx context.Context, level int, index uint64) ([]byte, error) {
	id := TileID{level, index, widthAt(r.view.state.Head.Size, level, index)}
	if id.Width < tileWidth {
		return r.edge[level], nil
	}
	if raw, ok := r.tiles.Get(id); ok {
		return raw, nil
	}
	parent, err := r.tile(ctx, level+1, index/tileWidth)
	if err != nil {
		return nil, err
	}
	at := int(index%tileWidth) * HashSize
	raw, err := r.anyTile(ctx, id, func(raw []byte) error {
		if len(raw) != tileWidth*HashSize || foldHashes(raw) != Hash(parent[at:at+HashSize]) {
			return fmt.Errorf("%s does not hash to its node: %w", tilePlace(level, index), ErrInconsistent)
		}
		return nil
	})
	if err == nil {
		r.tiles.Add(id, raw)
	}
	return raw, err
}

// anyTile returns the first that is accepted of the tile that is stored, the one that what
// lies below it hashes to, and what is fetched.
func (r *repair) anyTile(ctx context.Context, id TileID, accept func([]byte) error) (tile []byte, err error) {
	for _, local := range []func(TileID) ([]byte, error){r.storedTile, r.hashedTile} {
		raw, err := local(id)
		if err == nil && accept(raw) == nil {
			return raw, nil
		}
		if err != nil && !absent(err) {
			return nil, err
		}
	}
	return r.fetchedTile(ctx, id, accept)
}

// absent says whether an error is about what is not there, and not about a disk.
func absent(err error) bool {
	return errors.As(err, new(*DamageError)) || errors.Is(err, ErrBelowMinimum) || errors.Is(err, ErrNotHeld)
}

func (r *repair) storedTile(id TileID) ([]byte, error) {
	return r.view.readTile(id.Level, id.Index, id.Width)
}

// hashedTile makes a tile from what lies below it.
func (r *repair) hashedTile(id TileID) ([]byte, error) {
	raw := make([]byte, 0, id.Width*HashSize)
	first := id.Index * tileWidth
	if id.Level == 0 {
		err := r.view.Entries(first, first+uint64(id.Width), func(_ uint64, entry []byte) error {
			h := LeafHash(entry)
			raw = append(raw, h[:]...)
			return nil
		})
		return raw, err
	}
	for child := first; child < first+uint64(id.Width); child++ {
		if child < firstTile(r.view.state.Minimum, id.Level-1) {
			return nil, ErrBelowMinimum
		}
		below, err := r.view.readTile(id.Level-1, child, tileWidth)
		if err != nil {
			return nil, err
		}
		h := foldHashes(below)
		raw = append(raw, h[:]...)
	}
	return raw, nil
}

var errNowhere = errors.New("no other place has the log")

// fetchedTile gets a tile from elsewhere.
func (r *repair) fetchedTile(ctx context.Context, id TileID, accept func([]byte) error) (tile []byte, err error) {
	err = errNowhere
	if r.from.Tile != nil {
		err = r.from.Tile(ctx, id, func(raw []byte) error {
			if err := accept(raw); err != nil {
				return err
			}
			tile = raw
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tilePlace(id.Level, id.Index), err)
	}
	r.done.FetchedTiles++
	return tile, nil
}

// bundle returns the entries of a bundle, verified.
func (r *repair) bundle(ctx context.Context, index uint64) (entries [][]byte, err error) {
	tile, err := r.tile(ctx, 0, index)
	if err != nil {
		return nil, err
	}
	first, width := index*tileWidth, len(tile)/HashSize
	fits := func(entries [][]byte) error {
		if len(entries) != width {
			return fmt.Errorf("%d entries, want %d: %w", len(entries), width, ErrInconsistent)
		}
		for i, entry := range entries {
			if LeafHash(entry) != Hash(tile[i*HashSize:(i+1)*HashSize]) {
				return fmt.Errorf("entry %d does not hash to its tile: %w", first+uint64(i), ErrInconsistent)
			}
		}
		return nil
	}
	err = r.view.Entries(first, first+uint64(width), func(_ uint64, entry []byte) error {
		entries = append(entries, bytes.Clone(entry))
		return nil
	})
	if err == nil && fits(entries) == nil {
		return entries, nil
	}
	if err != nil && !absent(err) {
		return nil, err
	}
	err = errNowhere
	if r.from.Bundle != nil {
		err = r.from.Bundle(ctx, index, width, func(got [][]byte) error {
			if err := fits(got); err != nil {
				return err
			}
			entries = got
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("entries %d to %d: %w", first, first+uint64(width)-1, err)
	}
	r.done.FetchedBundles++
	return entries, nil
}

// rewriteEntries writes the entries of a range anew. They never change, so the table is
// made while the tree may grow.
func (r *repair) rewriteEntries(ctx context.Context, rows keyRange) (err error) {
	t, s := r.t, r.view.state
	next := max(t.id.indexAt(rows.lower), s.Minimum)
	end := min(t.id.indexAt(rows.upper), s.Head.Size)
	tables := r.newReplacement()
	defer tables.discard()
	var stored []byte
	for next < end {
		bundle := next / tileWidth
		entries, err := r.bundle(ctx, bundle)
		if err != nil {
			return err
		}
		for ; next < min(end, (bundle+1)*tileWidth); next++ {
			stored = appendStored(stored[:0], entries[next%tileWidth])
			if err := tables.set(t.id.entry(next), stored); err != nil {
				return err
			}
		}
	}
	return r.locked(func() error {
		// What was committed meanwhile is not damaged.
		if t.State().Head.Size > s.Head.Size {
			rows = rows.clip(keyRange{rows.lower, t.id.entry(s.Head.Size)})
		}
		if t.State().Minimum < s.Minimum {
			rows = rows.clip(keyRange{t.id.entry(s.Minimum), rows.upper})
		}
		n, err := tables.swapIn(rows)
		r.done.Entries += n
		return err
	})
}

// rewriteTiles writes the tiles of a range anew. Full ones never change, so their tables, one
// a level, are made while the tree may grow; the others go into tables between them.
func (r *repair) rewriteTiles(ctx context.Context, rows keyRange) error {
	t, before := r.t, r.view.state
	whole := func(id TileID) bool { // when the repair began
		return id.Index >= firstTile(before.Minimum, id.Level) && widthAt(before.Head.Size, id.Level, id.Index) == tileWidth
	}
	tables := r.newReplacement()
	defer tables.discard()
	write := func(wanted func(TileID) bool) error {
		last := TileID{Level: -1}
		return r.eachTile(rows, func(id TileID) error {
			if err := ctx.Err(); err != nil || !wanted(id) {
				return err
			}
			if last.Level != id.Level || last.Index+1 != id.Index {
				if err := tables.next(); err != nil {
					return err
				}
			}
			last = id
			raw, err := r.tile(ctx, id.Level, id.Index)
			if err != nil {
				return err
			}
			return tables.set(t.id.tile(id.Level, id.Index), raw)
		})
	}
	if err := write(whole); err != nil {
		return err
	}
	return r.locked(func() error {
		if err := write(func(id TileID) bool { return !whole(id) }); err != nil {
			return err
		}
		n, err := tables.swapIn(rows)
		r.done.Tiles += n
		return err
	})
}

// eachTile calls yield for the tiles of the tree in a range, in order of key.
func (r *repair) eachTile(rows keyRange, yield func(TileID) error) error {
	s, id := r.view.state, r.t.id
	for level := 0; level < tileHeight; level++ {
		first := firstTile(s.Minimum, level)
		// The first tile whose key is not below a bound: tiles of a level are sorted by index.
		if low := id.tile(level, 0); bytes.Compare(rows.lower, low) > 0 {
			if bytes.HasPrefix(rows.lower, low[:10]) {
				first = max(first, afterPrefix(rows.lower, 10))
			} else if bytes.Compare(rows.lower, id.tile(level, ^uint64(0))) > 0 {
				continue
			}
		}
		for index := first; widthAt(s.Head.Size, level, index) > 0; index++ {
			if bytes.Compare(id.tile(level, index), rows.upper) >= 0 {
				break
			}
			if err := yield(TileID{level, index, widthAt(s.Head.Size, level, index)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// maxLeaves is about how many index rows are sorted in memory at a time, 16 bytes each.
const maxLeaves = 4 << 20

// leafRow is a row of the leaf index.
type leafRow struct{ hash, index uint64 }

// rewriteLeaves writes the leaf index of a range anew, from the tiles. The rows of one range
// are those of leaves all over the tree, so all of it is walked: while the tree may grow if
// they fit into memory, which those of one file do.
func (r *repair) rewriteLeaves(ctx context.Context, rows keyRange) error {
	t, before := r.t, r.view.state
	tables := r.newReplacement()
	defer tables.discard()
	parts := r.leafParts(rows)
	var gathered []leafRow
	if len(parts) == 1 {
		var err error
		if gathered, err = r.gatherLeaves(ctx, gathered, rows, before.Minimum, before.Head.Size); err != nil {
			return err
		}
	}
	return r.locked(func() (err error) {
		now := r.view.state
		for _, part := range parts {
			if len(parts) > 1 {
				gathered, err = r.gatherLeaves(ctx, gathered[:0], part, now.Minimum, now.Head.Size)
			} else if gathered, err = r.gatherLeaves(ctx, gathered, rows, now.Minimum, before.Minimum); err == nil {
				gathered, err = r.gatherLeaves(ctx, gathered, rows, before.Head.Size, now.Head.Size)
			}
			if err != nil {
				return err
			}
			slices.SortFunc(gathered, func(a, b leafRow) int { return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.index, b.index)) })
			if err := tables.next(); err != nil {
				return err
			}
			for _, row := range gathered {
				if err := tables.set(t.id.leafRow(row), nil); err != nil {
					return err
				}
			}
		}
		n, err := tables.swapIn(rows)
		r.done.IndexRows += n
		return err
	})
}

func (id treeID) leafRow(row leafRow) []byte {
	k := binary.BigEndian.AppendUint64(id.key(keyLeaf, 25), row.hash)
	return binary.BigEndian.AppendUint64(k, row.index)
}

// leafParts divides a range into parts of at most about maxLeaves rows: hashes are spread
// evenly.
func (r *repair) leafParts(rows keyRange) []keyRange {
	s := r.view.state
	parts := (s.Head.Size-s.Minimum)/cmp.Or(r.t.db.maxLeaves, maxLeaves) + 1
	var ranges []keyRange
	lower := rows.lower
	for i := uint64(1); i < parts; i++ {
		first, _ := bits.Div64(i, 0, parts)
		bound := binary.BigEndian.AppendUint64(r.t.id.key(keyLeaf, 17), first)
		if part := (keyRange{lower, bound}).clip(rows); !part.empty() {
			ranges = append(ranges, part)
			lower = bound
		}
	}
	if last := (keyRange{lower, rows.upper}); !last.empty() {
		ranges = append(ranges, last)
	}
	return ranges
}

// gatherLeaves appends the index rows in a range of the entries [start, end).
func (r *repair) gatherLeaves(ctx context.Context, gathered []leafRow, rows keyRange, start, end uint64) ([]leafRow, error) {
	key := r.t.id.leafRow(leafRow{})
	for i := start; i < end; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		raw, err := r.tile(ctx, 0, i/tileWidth)
		if err != nil {
			return nil, err
		}
		for stop := min(end, (i/tileWidth+1)*tileWidth); i < stop; i++ {
			at := i % tileWidth * HashSize
			copy(key[9:], raw[at:at+8])
			binary.BigEndian.PutUint64(key[17:], i)
			if bytes.Compare(key, rows.lower) >= 0 && bytes.Compare(key, rows.upper) < 0 {
				gathered = append(gathered, leafRow{binary.BigEndian.Uint64(raw[at:]), i})
			}
		}
	}
	return gathered, nil
}
