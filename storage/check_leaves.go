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

// leafBuckets is into how many parts the leaf index is divided.
const leafBuckets = 4096

// leafBucket returns the part that a hash is in.
func leafBucket(hash []byte) int { return int(binary.BigEndian.Uint16(hash)) / (1 << 16 / leafBuckets) }

// bucketRange returns the rows of a part of the leaf index.
func (id treeID) bucketRange(bucket int) keyRange {
	bound := func(bucket int) []byte {
		return binary.BigEndian.AppendUint16(id.key(keyLeaf, 11), uint16(bucket*(1<<16/leafBuckets)))
	}
	if bucket == leafBuckets-1 {
		_, upper := id.all(keyLeaf)
		return keyRange{bound(bucket), upper}
	}
	return keyRange{bound(bucket), bound(bucket + 1)}
}

// leaves holds the leaf index against the entries, as sets: both are read in their own
// order and compared by fingerprint. Only where those differ are rows looked up one by one.
func (c *checker) leaves(ctx context.Context) error {
	before := len(c.report.Problems)
	var part [leafBuckets]fingerprint
	if err := c.leafRows(ctx, func() { part = [leafBuckets]fingerprint{} }, func(key []byte) error {
		index, _ := lastUint64(key)
		if c.o.Pace != nil && c.state.holds(index) != nil {
			return nil // committed meanwhile
		}
		part[leafBucket(key[9:])].add(c.secret, key)
		return nil
	}, func() {
		for i := range part {
			c.have[i].sum(part[i])
		}
	}); err != nil {
		return err
	}
	if c.want == c.have || slices.ContainsFunc(c.report.Problems[before:], func(p DamageError) bool { return strings.HasPrefix(p.Problem, unreadable) }) {
		return nil // or a file cannot be read, and each of its rows would be met one by one
	}
	// Every row that is missing or wrong is in one of these.
	for bucket := range leafBuckets {
		if c.want[bucket] != c.have[bucket] {
			c.tree.db.damages.add(c.tree.id, DamageError{Place: fmt.Sprintf("leaf index, part %d of %d,", bucket+1, leafBuckets),
				Problem: "differs from the entries", rows: []keyRange{c.tree.id.bucketRange(bucket)}})
		}
	}
	differs := func(hash []byte) bool { b := leafBucket(hash); return c.want[b] != c.have[b] }
	found, unknown := len(c.report.Problems), false
	if err := c.leafRows(ctx, func() {}, func(key []byte) error {
		index, _ := lastUint64(key)
		switch {
		case !differs(key[9:]) || c.o.Pace != nil && c.state.holds(index) != nil:
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
		if !differs(hash[:]) {
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

// leafRows calls yield for the rows of the leaf index, in parts: begin before each, and end
// after it. If rows were swapped meanwhile, which would be seen twice or not at all, it begins
// the part again.
func (c *checker) leafRows(ctx context.Context, begin func(), yield func(key []byte) error, end func()) error {
	lower, upper := c.tree.id.all(keyLeaf)
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
			if len(key) != 25 {
				return c.wrong(rowOf(slices.Clone(key)), "leaf index", "has a key of %d bytes", len(key))
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
