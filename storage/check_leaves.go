package storage

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// rowBuckets is into how many parts an index is divided.
const rowBuckets = 4096

// rowBucket returns the part that a hash is in.
func rowBucket(hash []byte) int { return int(binary.BigEndian.Uint16(hash)) / (1 << 16 / rowBuckets) }

// bucketRange returns the rows of a part of an index.
func (id treeID) bucketRange(kind byte, bucket int) keyRange {
	bound := func(bucket int) []byte {
		return binary.BigEndian.AppendUint16(id.key(kind, 11), uint16(bucket*(1<<16/rowBuckets)))
	}
	if bucket == rowBuckets-1 {
		_, upper := id.all(kind)
		return keyRange{bound(bucket), upper}
	}
	return keyRange{bound(bucket), bound(bucket + 1)}
}

// rowSet is the fingerprints of the set of rows of an index, by the first bits of the hash: as
// it should be, and as it is.
type rowSet struct{ want, have [rowBuckets]fingerprint }

// differs says whether the rows are not those that should be there, in the part of a hash.
func (s *rowSet) differs(hash []byte) bool { b := rowBucket(hash); return s.want[b] != s.have[b] }

// An index is a table whose rows have no value: a hash and the index of an entry.
type index struct {
	kind byte
	size int // of a key
	name string
}

var leafIndex = index{keyLeaf, 9 + 8 + 8, "leaf index"}

// compare reads the rows of an index, but for those that are left out, and holds them against
// what should be there, as sets: both are read in their own order and compared by fingerprint.
// It says whether they differ, and where; only there are rows to be looked up one by one.
func (c *checker) compare(ctx context.Context, x index, set *rowSet, leaveOut func(index uint64) bool) (differs bool, err error) {
	before := len(c.report.Problems)
	var part [rowBuckets]fingerprint
	if err := c.indexRows(ctx, x, func() { part = [rowBuckets]fingerprint{} }, func(key []byte) error {
		if index, _ := lastUint64(key); !leaveOut(index) {
			part[rowBucket(key[9:])].add(c.secret, key)
		}
		return nil
	}, func() {
		for i := range part {
			set.have[i].sum(part[i])
		}
	}); err != nil {
		return false, err
	}
	if set.want == set.have || slices.ContainsFunc(c.report.Problems[before:], func(p DamageError) bool { return strings.HasPrefix(p.Problem, unreadable) }) {
		return false, nil // or a file cannot be read, and each of its rows would be met one by one
	}
	return true, nil
}

// suspect notes the parts of an index in which a row is missing or wrong.
func (c *checker) suspect(x index, set *rowSet) {
	for bucket := range rowBuckets {
		if set.want[bucket] != set.have[bucket] {
			c.tree.db.damages.add(c.tree.id, DamageError{Place: fmt.Sprintf("%s, part %d of %d,", x.name, bucket+1, rowBuckets),
				Problem: "differs from the entries", rows: []keyRange{c.tree.id.bucketRange(x.kind, bucket)}})
		}
	}
}

// leaves holds the leaf index against the entries.
func (c *checker) leaves(ctx context.Context) error {
	meanwhile := func(index uint64) bool { return c.o.Pace != nil && c.state.holds(index) != nil } // committed
	if differs, err := c.compare(ctx, leafIndex, &c.leafSet, meanwhile); err != nil || !differs {
		return err
	}
	c.suspect(leafIndex, &c.leafSet)
	found, unknown := len(c.report.Problems), false
	if err := c.indexRows(ctx, leafIndex, func() {}, func(key []byte) error {
		index, _ := lastUint64(key)
		switch {
		case !c.leafSet.differs(key[9:]) || meanwhile(index):
			return nil
		case index >= c.state.Head.Size:
			return c.wrong(rowOf(slices.Clone(key)), "leaf index", "has a row for entry %d, beyond the head", index)
		case index < c.state.Minimum:
			return c.wrong(rowOf(slices.Clone(key)), "leaf index", "has a row for entry %d, below the minimum index", index)
		}
		if hash, err := c.LeafHash(index); err != nil {
			unknown = true
			return c.note(err)
		} else if !bytes.Equal(key, c.tree.id.leaf(hash, index)) {
			return c.wrong(rowOf(slices.Clone(key)), "leaf index", "has a wrong row for entry %d", index)
		}
		return nil
	}, func() {}); err != nil {
		return err
	}
	for index := c.state.Minimum; index < c.state.Head.Size; index++ {
		if index%tileWidth == 0 {
			if err := c.pace(ctx, tileWidth*HashSize); err != nil {
				return err
			}
		}
		hash, err := c.LeafHash(index)
		if err != nil {
			unknown = true
			if err := c.note(err); err != nil {
				return err
			}
			continue
		}
		if !c.leafSet.differs(hash[:]) {
			continue
		}
		if _, err := c.get(c.tree.id.leaf(hash, index), func() string { return fmt.Sprintf("leaf index row of entry %d", index) }); err != nil {
			if err := c.note(err); err != nil {
				return err
			}
		}
	}
	if len(c.report.Problems) == found && !unknown {
		return c.problem("leaf index", "differs from the entries")
	}
	return nil
}

// indexRows calls yield for the rows of an index, in parts: begin before each, and end after
// it. If rows were swapped meanwhile, which would be seen twice or not at all, it begins the
// part again.
func (c *checker) indexRows(ctx context.Context, x index, begin func(), yield func(key []byte) error, end func()) error {
	lower, upper := c.tree.id.all(x.kind)
	for {
		begin()
		bytes, opened := 0, c.swaps
		var next []byte
		err := c.table(lower, upper, func(key, _ []byte) error {
			if bytes >= paceBytes && c.o.Pace != nil {
				next = slices.Clone(key)
				return errPause
			}
			bytes += len(key)
			if len(key) != x.size {
				return c.wrong(rowOf(slices.Clone(key)), x.name, "has a key of %d bytes", len(key))
			}
			return yield(key)
		})
		if err != nil && err != errPause {
			return err
		}
		if c.swaps != opened || c.renew() {
			continue
		}
		end()
		if err == nil {
			return nil
		}
		lower = next
		if err := c.pace(ctx, bytes); err != nil {
			return err
		}
	}
}

// fingerprint is the sum modulo 2^128 of keyed hashes: equal for equal sets, in any
// order.
type fingerprint struct{ hi, lo uint64 }

func (f *fingerprint) sum(other fingerprint) {
	var carry uint64
	f.lo, carry = bits.Add64(f.lo, other.lo, 0)
	f.hi, _ = bits.Add64(f.hi, other.hi, carry)
}

func (f *fingerprint) add(secret [16]byte, row []byte) {
	var b [64]byte
	n := copy(b[:], secret[:])
	n += copy(b[n:], row)
	h := sha256.Sum256(b[:n])
	var carry uint64
	f.lo, carry = bits.Add64(f.lo, binary.BigEndian.Uint64(h[8:]), 0)
	f.hi, _ = bits.Add64(f.hi, binary.BigEndian.Uint64(h[:]), carry)
}
