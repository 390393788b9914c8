package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
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
	r, err := newRepair(t, from)
	if err != nil {
		return done, err
	}
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
	for _, e := range t.Damage() {
		if len(e.rows) > 0 {
			r.done.Left++
		}
	}
	return r.done, nil
}

// rewriteAll writes every damaged range anew, as far as it can be had.
func (r *repair) rewriteAll(ctx context.Context, known []DamageError) error {
	for _, table := range []struct {
		kind    byte
		rewrite func(context.Context, keyRange) error
	}{{keyTile, r.rewriteTiles}, {keyEntry, r.rewriteEntries}, {keyLeaf, r.rewriteLeaves}} {
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
		r.t.write.Lock()
		r.bind()
		r.t.write.Unlock()
		err := rewrite(ctx, rows)
		r.unbind()
		wide, ok := errors.AsType[*wideError](err)
		if !ok || len(wide.rows.clip(table).without(rows)) == 0 {
			return rows, err
		}
		rows = mergeRanges([]keyRange{rows, {rows.lower, wide.rows.upper}, {wide.rows.lower, rows.upper}})[0].clip(table)
	}
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
		for i, entry := range entries {
			if LeafHash(entry) != Hash(tile[i*HashSize:(i+1)*HashSize]) {
				return fmt.Errorf("entry %d does not hash to its tile: %w", first+uint64(i), ErrInconsistent)
			}
		}
		if len(entries) != width {
			return fmt.Errorf("%d entries, want %d: %w", len(entries), width, ErrInconsistent)
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
func (r *repair) rewriteEntries(ctx context.Context, rows keyRange) error {
	t, s := r.t, r.view.state
	next := max(t.id.indexAt(rows.lower), s.Minimum)
	end := min(t.id.indexAt(rows.upper), s.Head.Size)
	n := uint64(0)
	table, err := t.db.writeRows("entries", func(w *sstable.Writer) error {
		var stored []byte
		for next < end {
			bundle := next / tileWidth
			entries, err := r.bundle(ctx, bundle)
			if err != nil {
				return err
			}
			for ; next < min(end, (bundle+1)*tileWidth); next++ {
				stored = appendStored(stored[:0], entries[next%tileWidth])
				if err := w.Set(t.id.entry(next), stored); err != nil {
					return err
				}
				n++
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	t.write.Lock()
	defer t.write.Unlock()
	// What was committed meanwhile is not damaged.
	if t.State().Head.Size > s.Head.Size {
		rows = rows.clip(keyRange{rows.lower, t.id.entry(s.Head.Size)})
	}
	if t.State().Minimum < s.Minimum {
		rows = rows.clip(keyRange{t.id.entry(s.Minimum), rows.upper})
	}
	err = t.db.swapIn(table, n, rows)
	if err == nil {
		r.done.Entries += n
	}
	return err
}

// rewriteTiles writes the tiles of a range anew. Full ones never change, so they are
// gathered while the tree may grow.
func (r *repair) rewriteTiles(ctx context.Context, rows keyRange) error {
	t := r.t
	gathered := map[TileID][]byte{}
	if err := r.eachTile(rows, func(id TileID) error {
		raw, err := r.tile(ctx, id.Level, id.Index)
		if err == nil && id.Width == tileWidth {
			gathered[id] = raw
		}
		return err
	}); err != nil {
		return err
	}
	t.write.Lock()
	defer t.write.Unlock()
	r.bind()
	from := r.from
	defer func() { r.from = from }()
	r.from = Elsewhere{} // write is held: what has been committed meanwhile is stored
	n := uint64(0)
	table, err := t.db.writeRows("tiles", func(w *sstable.Writer) error {
		return r.eachTile(rows, func(id TileID) (err error) {
			raw, ok := gathered[id]
			if !ok {
				if raw, err = r.tile(ctx, id.Level, id.Index); err != nil {
					return err
				}
			}
			n++
			return w.Set(t.id.tile(id.Level, id.Index), raw)
		})
	})
	if err == nil {
		err = t.db.swapIn(table, n, rows)
	}
	if err == nil {
		r.done.Tiles += n
	}
	return err
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

// maxLeaves is how many index rows are sorted in memory at a time.
const maxLeaves = 4 << 20

// rewriteLeaves writes the leaf index of a range anew, from the tiles. The rows of one range
// are those of leaves all over the tree, so all of it is walked.
func (r *repair) rewriteLeaves(ctx context.Context, rows keyRange) error {
	for _, part := range r.leafParts(rows) {
		if err := r.rewriteLeafPart(ctx, part); err != nil {
			return err
		}
	}
	return nil
}

// leafParts divides a range into parts of at most about maxLeaves rows.
func (r *repair) leafParts(rows keyRange) []keyRange {
	s := r.view.state
	parts := (s.Head.Size-s.Minimum)/maxLeaves + 1
	var ranges []keyRange
	lower := rows.lower
	for i := uint64(1); i < parts; i++ {
		first, _ := bits.Div64(i, 0, parts) // hashes are spread evenly
		bound := binary.BigEndian.AppendUint64(r.t.id.key(keyLeaf, 17), first)
		if part := (keyRange{lower, bound}).clip(rows); !part.empty() {
			ranges = append(ranges, part)
			lower = bound
		}
	}
	return append(ranges, keyRange{lower, rows.upper})
}

func (r *repair) rewriteLeafPart(ctx context.Context, rows keyRange) error {
	t, s := r.t, r.view.state
	var keys [][]byte
	gather := func(start, end uint64) error {
		for i := start; i < end; {
			raw, err := r.tile(ctx, 0, i/tileWidth)
			if err != nil {
				return err
			}
			for stop := min(end, (i/tileWidth+1)*tileWidth); i < stop; i++ {
				at := i % tileWidth * HashSize
				key := t.id.leaf(Hash(raw[at:at+HashSize]), i)
				if bytes.Compare(key, rows.lower) >= 0 && bytes.Compare(key, rows.upper) < 0 {
					keys = append(keys, key)
				}
			}
		}
		return ctx.Err()
	}
	if err := gather(s.Minimum, s.Head.Size); err != nil {
		return err
	}
	t.write.Lock()
	defer t.write.Unlock()
	r.bind()
	from := r.from
	defer func() { r.from = from }()
	r.from = Elsewhere{} // write is held: what has been committed meanwhile is stored
	now := r.view.state
	if err := errors.Join(gather(now.Minimum, s.Minimum), gather(s.Head.Size, now.Head.Size)); err != nil {
		return err
	}
	slices.SortFunc(keys, bytes.Compare)
	table, err := t.db.writeRows("leaves", func(w *sstable.Writer) error {
		for _, key := range keys {
			if err := w.Set(key, nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		err = t.db.swapIn(table, uint64(len(keys)), rows)
	}
	if err == nil {
		r.done.IndexRows += uint64(len(keys))
	}
	return err
}

// writeRows writes a table of rows that are to take the place of others.
func (db *DB) writeRows(name string, write func(*sstable.Writer) error) (path string, err error) {
	path = db.fs.PathJoin(db.incoming(), "repair-"+name)
	w, err := db.newTable(path, false)
	if err != nil {
		db.fail(err)
		return "", err
	}
	err = write(w)
	if closeErr := w.Close(); closeErr != nil {
		db.fail(closeErr)
		return "", closeErr
	}
	if err != nil {
		return "", errors.Join(err, db.fs.Remove(path))
	}
	return path, nil
}

// swapIn puts a table of n rows in the place of whatever stands in a range, in one durable
// step. No change of the tree is under way.
func (db *DB) swapIn(table string, n uint64, rows keyRange) error {
	if err := db.Err(); err != nil {
		return err
	}
	if rows.empty() {
		return db.fs.Remove(table)
	}
	if !healable(rows.lower) || len(rows.without(tableOf(rows))) > 0 {
		panic(fmt.Sprintf("rows from %x to %x of more than one table", rows.lower, rows.upper))
	}
	if err := db.probe(rows); err != nil {
		return errors.Join(err, db.fs.Remove(table))
	}
	db.freezing.RLock()
	defer db.freezing.RUnlock()
	if err := db.pebble.Flush(); err != nil { // or the swap is put off until the next one
		return err
	}
	db.swap.Lock()
	defer db.swap.Unlock()
	db.swaps++
	defer db.tiles.Purge()
	var err error
	span := pebble.KeyRange{Start: rows.lower, End: rows.upper}
	if n == 0 {
		err = errors.Join(db.pebble.Excise(context.Background(), span), db.fs.Remove(table))
	} else {
		_, err = db.pebble.IngestAndExcise(context.Background(), []string{table}, nil, nil, span)
	}
	switch {
	case pebble.IsCorruptionError(err):
		return db.endsIn(err)
	case err != nil:
		db.fail(err)
	}
	return err
}

// endsIn is the error for a range that ends within other damage.
func (db *DB) endsIn(err error) error {
	if info := pebble.ExtractDataCorruptionInfo(err); info != nil {
		return &wideError{fileRange(info)}
	}
	return db.readError(nil, "what stands beside it", err)
}

// probe reads the rows on both sides of a range. Pebble does it as well when it cuts a file
// in two, and if it cannot, it silently drops the rest of that file.
func (db *DB) probe(rows keyRange) error {
	table := tableOf(rows) // no file has rows of two
	it, err := db.pebble.NewIter(&pebble.IterOptions{LowerBound: table.lower, UpperBound: table.upper})
	if err == nil {
		it.SeekLT(rows.lower)
		it.SeekGE(rows.upper)
		err = errors.Join(it.Error(), it.Close())
	}
	if err != nil {
		return db.endsIn(err)
	}
	return nil
}

// mendEdge finds the border of the tree: what is stored of it, or what lies below hashes to,
// or what is fetched. Together it must hash to the root of the head. If that cannot be had,
// the tree is broken.
func (r *repair) mendEdge(ctx context.Context) error {
	t := r.t
	t.write.Lock()
	defer t.write.Unlock()
	r.bind()
	defer r.unbind()
	stored := []func(TileID) ([]byte, error){r.storedTile, r.hashedTile}
	hashed := []func(TileID) ([]byte, error){r.hashedTile, r.storedTile}
	problem := &DamageError{Place: "head", Problem: fmt.Sprintf("has the root %v at size %d, and its tiles do not hash to it", r.view.state.Head.Root, r.view.state.Head.Size)}
	for _, locals := range [][]func(TileID) ([]byte, error){stored, hashed, nil} {
		e, err := r.anyEdge(ctx, locals)
		var damage *DamageError
		switch {
		case err == nil:
			t.edge = e
			t.broken.Store(nil)
			return nil
		case t.db.Err() != nil || ctx.Err() != nil:
			return err
		case errors.As(err, &damage):
			problem = damage
		case locals == nil && r.from.Tile != nil:
			problem.Stuck = err.Error()
		}
	}
	t.broken.Store(problem)
	return nil
}

// anyEdge makes the border of the tree from the first of local sources that has each tile,
// and fetches what none has.
func (r *repair) anyEdge(ctx context.Context, locals []func(TileID) ([]byte, error)) (edge, error) {
	head := r.view.state.Head
	var (
		e       edge
		missing []TileID
		damage  error = errNowhere
	)
	for level := 0; level < tileHeight && head.Size>>(tileHeight*level) > 0; level++ {
		id := TileID{Level: level, Index: head.Size >> (tileHeight * (level + 1))}
		e = append(e, nil)
		if id.Width = widthAt(head.Size, level, id.Index); id.Width == 0 {
			continue
		}
		for _, local := range locals {
			raw, err := local(id)
			if err == nil {
				e[level] = raw
				break
			}
			if !absent(err) {
				return nil, err
			}
			if errors.As(err, new(*DamageError)) {
				damage = err
			}
		}
		if e[level] == nil {
			missing = append(missing, id)
		}
	}
	if len(missing) > 0 && r.from.Tile == nil {
		return nil, damage
	}
	return e, r.fillEdge(ctx, e, missing)
}

// fillEdge fetches the tiles that are missing from a border, one inside the other: only all
// together can be verified.
func (r *repair) fillEdge(ctx context.Context, e edge, missing []TileID) error {
	if len(missing) == 0 {
		if root := e.root(); root != r.view.state.Head.Root {
			return fmt.Errorf("border has the root %v: %w", root, ErrInconsistent)
		}
		return nil
	}
	id := missing[0]
	return r.from.Tile(ctx, id, func(raw []byte) error {
		if len(raw) != id.Width*HashSize {
			return fmt.Errorf("%s has %d bytes: %w", tilePlace(id.Level, id.Index), len(raw), ErrInconsistent)
		}
		e[id.Level] = raw
		return r.fillEdge(ctx, e, missing[1:])
	})
}
