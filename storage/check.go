package storage

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sort"
	"strings"

	"github.com/transparency-dev/formats/log"
)

// CheckOptions are the settings of Check.
type CheckOptions struct {
	// Verify checks the log's signature on a raw checkpoint; nil skips that.
	Verify func(raw []byte) error
	// Progress is called about once per 65,536 entries; nil is allowed.
	Progress func(done, total uint64)
	// MaxProblems ends the check early; 0 is 100.
	MaxProblems int
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
// wrong with the tree is in the report.
func (t *Tree) Check(ctx context.Context, o CheckOptions) (Report, error) {
	t.write.Lock() // so that the snapshot is of the state, to the row
	v := t.View()
	t.write.Unlock()
	defer v.Close()
	if o.MaxProblems == 0 {
		o.MaxProblems = 100
	}
	c := &checker{View: v, o: o, report: Report{Origin: t.origin, Head: v.state.Head, Minimum: v.state.Minimum, SignaturesChecked: o.Verify != nil}}
	if _, err := rand.Read(c.secret[:]); err != nil {
		return c.report, err
	}
	for _, step := range []func(context.Context) error{c.checkpoints, c.head, c.entries, c.strays, c.leaves} {
		if err := step(ctx); errors.Is(err, errTooMany) {
			break
		} else if err != nil {
			return c.report, fmt.Errorf("check %q: %w", t.origin, err)
		}
	}
	return c.report, nil
}

type checker struct {
	*View
	o      CheckOptions
	report Report
	secret [16]byte
	// Fingerprints of the set of leaf rows: as it should be, and as it is.
	want, have fingerprint
	run        run
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

func (c *checker) problem(place, format string, args ...any) error {
	p := DamageError{place, fmt.Sprintf(format, args...)}
	if slices.Contains(c.report.Problems, p) {
		return nil // met again on another way
	}
	c.report.Problems = append(c.report.Problems, p)
	if len(c.report.Problems) >= c.o.MaxProblems {
		return errTooMany
	}
	return nil
}

// note is problem for an error that may be a *DamageError.
func (c *checker) note(err error) error {
	var damage *DamageError
	if errors.As(err, &damage) {
		return c.problem(damage.Place, "%s", damage.Problem)
	}
	return err
}

func (c *checker) checkpoints(context.Context) error {
	return c.note(c.Checkpoints(0, ^uint64(0), func(row Checkpoint) error {
		c.report.Checkpoints++
		place := fmt.Sprintf("checkpoint of size %d", row.Size)
		return c.checkpoint(place, row)
	}))
}

func (c *checker) checkpoint(place string, row Checkpoint) error {
	var parsed log.Checkpoint
	if _, err := parsed.Unmarshal(row.Raw); err != nil {
		return c.problem(place, "is malformed: %v", err)
	}
	if parsed.Origin != c.tree.origin || parsed.Size != row.Size || !bytes.Equal(parsed.Hash, row.Root[:]) {
		return c.problem(place, "says something else than its row")
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
	border, err := c.tree.db.loadEdge(c.snap, c.tree.id, c.state.Minimum)
	if err != nil {
		return c.note(err)
	}
	g := growth{size: c.state.Minimum, edge: border.clone(), put: c.compareTile}
	for start := g.size; start < size; start = g.size {
		if err := ctx.Err(); err != nil {
			return err
		}
		end := min(start+1<<16, size)
		if err := c.rebuild(&g, start, end); err != nil {
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

// rebuild adds the entries [start, end). A missing entry is reported and replaced by
// its leaf hash, so that what follows is still checked. Entries in a row with the same
// problem, such as those of a damaged block, are one problem.
func (c *checker) rebuild(g *growth, start, end uint64) error {
	for g.size < end {
		err := c.Entries(g.size, end, func(_ uint64, entry []byte) error {
			c.report.Entries++
			return c.addLeaf(g, LeafHash(entry))
		})
		if err == nil {
			return nil
		}
		for last := c.lastOfBlock(g.size, end, err); g.size <= last; {
			if err := c.lost(g.size, err); err != nil {
				return err
			}
			hash, err := c.LeafHash(g.size)
			if err != nil && !errors.As(err, new(*DamageError)) { // compareTile names the tile, once
				return err
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
		c.report.Problems[r.number].Place = fmt.Sprintf("each of the entries %d to %d", r.start, index)
		return nil
	}
	c.run = run{number: len(c.report.Problems), start: index, end: index + 1}
	return c.note(err)
}

func (c *checker) addLeaf(g *growth, hash Hash) error {
	c.want.add(c.secret, c.tree.id.leaf(hash, g.size))
	return g.add(0, hash)
}

func (c *checker) compareTile(level int, index uint64, want []byte) error {
	c.report.Tiles++
	width := len(want) / HashSize
	have, err := c.tree.db.readTile(c.snap, c.tree.id, level, index, width)
	if err != nil {
		return c.note(err)
	}
	if bytes.Equal(have[:len(want)], want) {
		return nil
	}
	for i := range width {
		if !bytes.Equal(have[i*HashSize:(i+1)*HashSize], want[i*HashSize:(i+1)*HashSize]) {
			first := (index*tileWidth + uint64(i)) << (tileHeight * level)
			return c.problem(fmt.Sprintf("tile %d/%d", level, index), "differs from the entries, first at hash %d (entry %d)", i, first)
		}
	}
	return nil
}

// strays looks for tiles and entries beyond the head or below the minimum index. Entries
// right behind the one or right before the other are no problem: a crash left them of an
// Extend or a Prepend (see entryTable).
func (c *checker) strays(context.Context) error {
	size, minimum := c.state.Head.Size, c.state.Minimum
	next := size
	first, last := c.tree.id.all(keyEntry)
	if err := c.table(c.tree.id.entry(size), last, func(key, _ []byte) error {
		index, _ := lastUint64(key)
		if index == next {
			next++
			return nil
		}
		return c.problem(fmt.Sprintf("entry %d", index), "stands beyond the head")
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
			return c.problem("tiles", "have a key of %d bytes", len(key))
		}
		level, index := int(key[9]), binary.BigEndian.Uint64(key[10:])
		if width := widthAt(size, level, index); len(value) > width*HashSize || width == 0 {
			return c.problem(fmt.Sprintf("tile %d/%d", level, index), "stands beyond the head")
		}
		if index < firstTile(minimum, level) {
			return c.problem(fmt.Sprintf("tile %d/%d", level, index), "stands below the minimum index")
		}
		return nil
	})
}

func (c *checker) below(r run) error {
	if r.start == r.end {
		return nil
	}
	return c.problem(fmt.Sprintf("each of the entries %d to %d", r.start, r.end-1), "stands below the minimum index %d", c.state.Minimum)
}

// leaves holds the leaf index against the entries, as sets: both are read in their own
// order and compared by fingerprint. Only if those differ are rows looked up one by one.
func (c *checker) leaves(ctx context.Context) error {
	lower, upper := c.tree.id.all(keyLeaf)
	if err := c.table(lower, upper, func(key, _ []byte) error {
		c.have.add(c.secret, key)
		return nil
	}); err != nil {
		return err
	}
	if c.want == c.have {
		return nil
	}
	found, unknown := len(c.report.Problems), false
	if err := c.table(lower, upper, func(key, _ []byte) error {
		index, _ := lastUint64(key)
		if index >= c.state.Head.Size {
			return c.problem("leaf index", "has a row for entry %d, beyond the head", index)
		}
		if index < c.state.Minimum {
			return c.problem("leaf index", "has a row for entry %d, below the minimum index", index)
		}
		if hash, err := c.LeafHash(index); err != nil {
			unknown = true
			return c.note(err)
		} else if !bytes.Equal(key, c.tree.id.leaf(hash, index)) {
			return c.problem("leaf index", "has a wrong row for entry %d", index)
		}
		return nil
	}); err != nil {
		return err
	}
	for index := c.state.Minimum; index < c.state.Head.Size; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		hash, err := c.LeafHash(index)
		if err != nil {
			unknown = true
			if err := c.note(err); err != nil {
				return err
			}
			continue
		}
		if _, err := get(c.snap, c.tree.id.leaf(hash, index)); err != nil {
			place := fmt.Sprintf("leaf index row of entry %d", index)
			if err := c.note(c.tree.db.readError(place, err)); err != nil {
				return err
			}
		}
	}
	if len(c.report.Problems) == found && !unknown {
		return c.problem("leaf index", "differs from the entries")
	}
	return nil
}

// table calls yield for every row of a table; one that cannot be read is a problem.
func (c *checker) table(lower, upper []byte, yield func(key, value []byte) error) error {
	return c.note(c.rows(lower, upper, func() string { return fmt.Sprintf("table %q", lower[:1]) }, yield))
}

// fingerprint is the sum modulo 2^128 of keyed hashes: equal for equal sets, in any
// order.
type fingerprint struct{ hi, lo uint64 }

func (f *fingerprint) add(secret [16]byte, row []byte) {
	var b [64]byte
	n := copy(b[:], secret[:])
	n += copy(b[n:], row)
	h := sha256.Sum256(b[:n])
	var carry uint64
	f.lo, carry = bits.Add64(f.lo, binary.BigEndian.Uint64(h[8:]), 0)
	f.hi, _ = bits.Add64(f.hi, binary.BigEndian.Uint64(h[:]), carry)
}
