package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/transparency-dev/formats/log"
)

// CheckOptions are the settings of Check.
type CheckOptions struct {
	// Verify checks the log's signature on a raw checkpoint; nil skips that.
	Verify func(raw []byte) error
	// VerifyEntry checks what the log promised about an entry, held or pinned, in its receipt. It
	// is called concurrently; nil skips that.
	VerifyEntry func(index uint64, entry, receipt []byte) error
	// Progress is called about once per 65,536 entries; nil is allowed.
	Progress func(done, total uint64)
	// MaxProblems ends the check early; 0 is 100.
	MaxProblems int
	// Pace is told about how many bytes were read, and waits as long as it likes: for a check
	// of a tree in use. It leaves out what would hold up changes: rows that belong to nothing.
	Pace func(ctx context.Context, bytes int) error
}

// Report is what Check found.
type Report struct {
	Origin      string
	Head        Head
	Minimum     uint64 // index of the first entry held
	Entries     uint64 // entries read and hashed
	Tiles       uint64
	Checkpoints uint64
	// SignaturesChecked is false if there was no Verify.
	SignaturesChecked bool
	// Problems names each thing that is wrong; empty means that all is well.
	Problems []DamageError
}

var errTooMany = errors.New("too many problems")

// Check reads the whole tree and holds everything against everything: entries against
// tiles, tiles against the root, the leaf index against the entries, the head against
// the signed checkpoint that it equals or precedes, and the archive against itself. It
// costs O(n) reads in key order and little memory. The error is about reading; what is
// wrong with the tree is in the report, and then in Damage.
func (t *Tree) Check(ctx context.Context, o CheckOptions) (Report, error) {
	began := t.db.damages.now()
	t.write.Lock() // so that the snapshot is of the state, to the row
	v, edge := t.View(), t.edge
	t.write.Unlock()
	v.broken = nil
	defer v.Close()
	if o.MaxProblems == 0 {
		o.MaxProblems = 100
	}
	c := &checker{View: v, edge: edge, o: o, report: Report{Origin: t.origin, Head: v.state.Head, Minimum: v.state.Minimum, SignaturesChecked: o.Verify != nil}}
	if _, err := rand.Read(c.secret[:]); err != nil {
		return c.report, err
	}
	noted := func() {
		for _, p := range c.report.Problems {
			t.db.damages.add(t.id, p)
		}
	}
	defer noted()
	for _, step := range []func(context.Context) error{c.head, c.checkpoints, c.archive, c.entries, c.promises, c.strays, c.leaves, c.searches, c.links, c.pins, c.pinLeaves, c.hints, c.beside} {
		if err := step(ctx); errors.Is(err, errTooMany) {
			return c.report, nil
		} else if err != nil {
			return c.report, fmt.Errorf("check %q: %w", t.origin, err)
		}
	}
	noted()
	t.db.damages.forget(t.id, began)
	return c.report, nil
}

// pace lets a check of a tree in use wait, and then go on with a new snapshot: an old one
// keeps everything that was written over.
func (c *checker) pace(ctx context.Context, bytes int) error {
	if c.o.Pace == nil {
		return ctx.Err()
	}
	if err := c.o.Pace(ctx, bytes); err != nil {
		return err
	}
	c.snap.Close()
	c.snapshot()
	return nil
}

type checker struct {
	*View
	edge      edge // of the tree; nil if it is broken
	o         CheckOptions
	report    Report
	secret    [16]byte
	leafSet   rowSet
	searching searching
	run       run
	read      int    // bytes of entries
	leafTile  []byte // the tile of level 0 at hand; nil if it cannot be read
}

// run is entries [start, end) that share one problem, the one of that number.
type run struct {
	number     int
	start, end uint64
}

// records are the rows of a state, but for its checkpoints.
func (s *State) records() []byte {
	b := encodeState(s)
	if s.Evidence != nil {
		b = append(b, encodeEvidence(s.Evidence)...)
	}
	return b
}

// problem notes what is wrong with something that cannot be had again.
func (c *checker) problem(place, format string, args ...any) error {
	return c.note(&DamageError{Place: place, Problem: fmt.Sprintf(format, args...)})
}

// wrong notes what is wrong with rows that Repair writes anew.
func (c *checker) wrong(rows keyRange, place, format string, args ...any) error {
	return c.note(&DamageError{Place: place, Problem: fmt.Sprintf(format, args...), rows: []keyRange{rows}})
}

func (c *checker) add(p DamageError) error {
	if slices.ContainsFunc(c.report.Problems, func(k DamageError) bool { return k.Place == p.Place && k.Problem == p.Problem }) {
		return nil // met again on another way
	}
	c.report.Problems = append(c.report.Problems, p)
	if len(c.report.Problems) >= c.o.MaxProblems {
		return errTooMany
	}
	return nil
}

// note adds an error that may be a *DamageError to the problems.
func (c *checker) note(err error) error {
	var damage *DamageError
	if errors.As(err, &damage) {
		return c.add(*damage)
	}
	return err
}

func (c *checker) checkpoints(ctx context.Context) error {
	for first := uint64(0); ; {
		bytes := 0
		err := c.Checkpoints(first, ^uint64(0), func(row Checkpoint) error {
			if bytes >= paceBytes && row.Size > first {
				first = row.Size
				return errPause
			}
			bytes += len(row.Raw)
			c.report.Checkpoints++
			return c.checkpoint(checkpointPlace(row.Size), row)
		})
		if err != errPause {
			return c.note(err)
		}
		if err := c.pace(ctx, bytes); err != nil {
			return err
		}
	}
}

// paceBytes is about how many bytes are read between two pauses.
const paceBytes = 64 << 10

var errPause = errors.New("pause")

func (c *checker) checkpoint(place string, row Checkpoint) error {
	if problem := c.tree.misstated(row); problem != "" {
		return c.problem(place, "%s", problem)
	}
	if c.o.Verify != nil {
		if err := c.o.Verify(row.Raw); err != nil {
			return c.problem(place, "does not verify: %v", err)
		}
	}
	// A root that differs from ours is no damage: it may be the evidence of a fork.
	if c.state.Evidence == nil && row.Size <= c.state.Head.Size {
		root, err := c.Root(row.Size)
		if errors.Is(err, ErrBelowMinimum) {
			return nil
		}
		if err != nil {
			return c.note(err)
		}
		if root != row.Root {
			return c.problem(place, "has the root %v, the entries give %v", row.Root, root)
		}
	}
	return nil
}

// misstated returns what is wrong with the form of a checkpoint; "" is nothing.
func (t *Tree) misstated(row Checkpoint) string {
	var parsed log.Checkpoint
	if _, err := parsed.Unmarshal(row.Raw); err != nil {
		return "is malformed: " + err.Error()
	}
	if parsed.Origin != t.origin || parsed.Size != row.Size || !bytes.Equal(parsed.Hash, row.Root[:]) {
		return "says something else than its row"
	}
	return ""
}

func (c *checker) head(context.Context) error {
	stored, err := c.tree.db.loadState(c.snap, c.tree.id)
	if err == nil && !bytes.Equal(stored.records(), c.state.records()) {
		err = &DamageError{Place: "head record", Problem: "differs from the state in memory"}
	}
	if err := c.note(err); err != nil {
		return err
	}
	if err := c.note(c.state.verify()); err != nil {
		return err
	}
	for name, held := range map[string]Checkpoint{"pending checkpoint": c.state.Pending, "mirror checkpoint": c.state.Mirrored} {
		if held.Raw == nil {
			continue
		}
		if err := c.checkpoint(name, held); err != nil {
			return err
		}
	}
	if m := c.state.Mirrored; m.Size > c.state.Head.Size {
		return c.problem("mirror checkpoint", "of size %d is beyond the %d entries held", m.Size, c.state.Head.Size)
	}
	return nil
}

// entries rebuilds the tree from the entries and holds every tile against it.
func (c *checker) entries(ctx context.Context) error {
	size := c.state.Head.Size
	if err := c.border(); err != nil {
		return err
	}
	var left edge // of the tree that ends where the window begins
	for _, id := range borderOf(c.state.Minimum) {
		raw := []byte(nil)
		if id.Width > 0 {
			var err error
			if raw, err = c.readTile(id.Level, id.Index, id.Width); err != nil {
				return c.note(err)
			}
		}
		left = append(left, raw)
	}
	defer c.searching.wait()
	g := growth{size: c.state.Minimum, edge: left.clone(), put: c.compareTile}
	for start := g.size; start < size; start = g.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(start+1<<16, size)
		if c.o.Pace != nil {
			end = min(start+tileWidth, size)
		}
		read := c.read
		if err := c.rebuild(&g, start, end); err != nil {
			return err
		}
		if err := c.pace(ctx, c.read-read); err != nil {
			return err
		}
		if c.o.Progress != nil {
			c.o.Progress(g.size-c.state.Minimum, size-c.state.Minimum)
		}
	}
	if err := g.finish(); err != nil {
		return err
	}
	if root := g.edge.root(); root != c.state.Head.Root {
		return c.problem("head", "has the root %v, the entries give %v", c.state.Head.Root, root)
	}
	return nil
}

// sound says whether a tile hashes to its node in the tile above, or, on the right border, is
// what was verified when the tree was opened.
func (c *checker) sound(level int, index uint64, raw []byte) bool {
	if len(raw) < tileWidth*HashSize {
		return c.edge != nil && bytes.Equal(raw, c.edge[level])
	}
	at := int(index % tileWidth)
	above, err := c.readTile(level+1, index/tileWidth, at+1)
	return err == nil && foldHashes(raw) == Hash(above[at*HashSize:])
}

// border verifies the tiles that reach from before the window into it, which cannot be
// rebuilt: a full one by its node in the tile above, those of the right border of the tree
// by what was verified when it was opened.
func (c *checker) border() error {
	if c.edge == nil {
		return c.note(c.tree.Broken())
	}
	size, minimum := c.state.Head.Size, c.state.Minimum
	for level := 0; minimum>>(tileHeight*level) > 0; level++ {
		index := firstTile(minimum, level)
		if widthAt(minimum, level, index) == 0 {
			continue
		}
		raw, err := c.readTile(level, index, widthAt(size, level, index))
		if err != nil {
			err = c.note(err)
		} else if !c.sound(level, index, raw) {
			err = c.wrong(rowOf(c.tree.id.tile(level, index)), tilePlace(level, index), "does not hash to its node")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// rebuild adds the entries [start, end). A missing entry is reported and replaced by
// its leaf hash, so that what follows is still checked. Entries in a row with the same
// problem, such as those of a damaged block, are one problem.
func (c *checker) rebuild(g *growth, start, end uint64) error {
	for g.size < end {
		err := c.Entries(g.size, end, func(index uint64, entry []byte) error {
			c.report.Entries++
			c.read += len(entry)
			if index%tileWidth == 0 || index == start {
				c.loadLeafTile(index / tileWidth)
			}
			if err := c.searching.entry(c, index, entry); err != nil {
				return err
			}
			return c.addLeaf(g, LeafHash(entry))
		})
		if err == nil {
			return nil
		}
		for last := c.lastOfBlock(g.size, end, err); g.size <= last; {
			if err := c.lost(g.size, err); err != nil {
				return err
			}
			if g.size%tileWidth == 0 || g.size == start {
				c.loadLeafTile(g.size / tileWidth)
			}
			var hash Hash // compareTile names the tile, if it is missing as well
			if i := g.size % tileWidth * HashSize; uint64(len(c.leafTile)) >= i+HashSize {
				hash = Hash(c.leafTile[i : i+HashSize])
			}
			if err := c.addLeaf(g, hash); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastOfBlock returns the last entry before end that cannot be had for the same reason as
// an entry whose block cannot be read: all between them are in that block. Each try costs
// Pebble long, because it looks for the bit that was flipped.
func (c *checker) lastOfBlock(index, end uint64, err error) uint64 {
	if !strings.HasPrefix(problemOf(err), unreadable) {
		return index
	}
	same := func(i uint64) bool {
		_, other := c.Entry(i)
		return problemOf(other) == problemOf(err)
	}
	last, step := index, uint64(1)
	for last+step < end && same(last+step) {
		last += step
		step *= 2
	}
	n := sort.Search(int(min(step, end-last)), func(i int) bool { return i > 0 && !same(last+uint64(i)) })
	return last + uint64(n) - 1
}

// problemOf returns what a *DamageError says; nothing if err is none.
func problemOf(err error) string {
	var damage *DamageError
	if !errors.As(err, &damage) {
		return ""
	}
	return damage.Problem
}

// lost notes that an entry cannot be had.
func (c *checker) lost(index uint64, err error) error {
	r := &c.run
	if r.start < r.end && r.end == index && r.number < len(c.report.Problems) && c.report.Problems[r.number].Problem == problemOf(err) {
		r.end++
		p := &c.report.Problems[r.number]
		p.Place = fmt.Sprintf("each of the entries %d to %d", r.start, index)
		p.rows = mergeRanges(append(p.rows, keyRange{c.tree.id.entry(r.start), rowOf(c.tree.id.entry(index)).upper}))
		return nil
	}
	c.run = run{number: len(c.report.Problems), start: index, end: index + 1}
	return c.note(err)
}

// loadLeafTile reads the tile over the next entries.
func (c *checker) loadLeafTile(index uint64) {
	c.leafTile, _ = c.readTile(0, index, widthAt(c.state.Head.Size, 0, index)) // compareTile names what is wrong
}

func (c *checker) addLeaf(g *growth, hash Hash) error {
	want := hash
	if i := g.size % tileWidth * HashSize; uint64(len(c.leafTile)) >= i+HashSize {
		want = Hash(c.leafTile[i : i+HashSize]) // the index is held against the tiles, as these are against the entries
	}
	c.leafSet.want[rowBucket(want[:])].add(c.secret, c.tree.id.leaf(want, g.size))
	return g.add(0, hash)
}

func (c *checker) compareTile(level int, index uint64, want []byte) error {
	c.report.Tiles++
	width := len(want) / HashSize
	have := c.leafTile
	if level > 0 || have == nil {
		var err error
		if have, err = c.readTile(level, index, width); err != nil {
			return c.note(err)
		}
	}
	if bytes.Equal(have, want) {
		return nil
	}
	for i := range width {
		if !bytes.Equal(have[i*HashSize:(i+1)*HashSize], want[i*HashSize:(i+1)*HashSize]) {
			first := (index*tileWidth + uint64(i)) << (tileHeight * level)
			// What lies below may be wrong, or the tile itself.
			var rows []keyRange
			if level == 0 {
				rows = append(rows, keyRange{c.tree.id.entry(first), c.tree.id.entry(index*tileWidth + uint64(width))})
			}
			if !c.sound(level, index, have) {
				rows = append(rows, rowOf(c.tree.id.tile(level, index)))
			}
			return c.note(&DamageError{Place: tilePlace(level, index), Problem: fmt.Sprintf("differs from the entries, first at hash %d (entry %d)", i, first), rows: rows})
		}
	}
	return nil
}

// strays looks for tiles and entries beyond the head or below the minimum index. Entries
// right behind the one or right before the other are no problem: a crash left them of an
// Extend or a Prepend (see entryTable).
func (c *checker) strays(context.Context) error {
	if c.o.Pace != nil {
		return nil // the tree has grown meanwhile
	}
	size, minimum := c.state.Head.Size, c.state.Minimum
	next := size
	first, last := c.tree.id.all(keyEntry)
	if err := c.table(c.tree.id.entry(size), last, func(key, _ []byte) error {
		index, _ := lastUint64(key)
		if index == next {
			next++
			return nil
		}
		return c.wrong(rowOf(slices.Clone(key)), entryPlace(index), "stands beyond the head")
	}); err != nil {
		return err
	}
	var below run
	if err := c.table(first, c.tree.id.entry(minimum), func(key, _ []byte) error {
		index, _ := lastUint64(key)
		if index == below.end {
			below.end++
			return nil
		}
		gap := below
		below = run{start: index, end: index + 1}
		return c.below(gap)
	}); err != nil {
		return err
	}
	if below.end != minimum {
		if err := c.below(below); err != nil {
			return err
		}
	}
	lower, upper := c.tree.id.all(keyTile)
	return c.table(lower, upper, func(key, value []byte) error {
		if len(key) != 18 {
			return c.wrong(rowOf(slices.Clone(key)), "tiles", "have a key of %d bytes", len(key))
		}
		level, index := int(key[9]), binary.BigEndian.Uint64(key[10:])
		if width := widthAt(size, level, index); len(value) > width*HashSize || width == 0 {
			return c.wrong(rowOf(slices.Clone(key)), tilePlace(level, index), "stands beyond the head")
		}
		if index < firstTile(minimum, level) {
			return c.wrong(rowOf(slices.Clone(key)), tilePlace(level, index), "stands below the minimum index")
		}
		return nil
	})
}

func (c *checker) below(r run) error {
	if r.start == r.end {
		return nil
	}
	rows := keyRange{c.tree.id.entry(r.start), c.tree.id.entry(r.end)}
	return c.wrong(rows, fmt.Sprintf("each of the entries %d to %d", r.start, r.end-1), "stands below the minimum index %d", c.state.Minimum)
}

// table calls yield for every row of a table; one that cannot be read is a problem.
func (c *checker) table(lower, upper []byte, yield func(key, value []byte) error) error {
	place := func() ([]byte, string) { return nil, fmt.Sprintf("table %q", lower[:1]) }
	return c.note(c.rows(lower, upper, place, yield))
}
