package storage

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"
	"time"
)

// The law of every record: what is accepted re-encodes to the same bytes.

func FuzzState(f *testing.F) {
	entries := testEntries(10)
	naive := newNaiveTree(entries)
	pending := note("log", naive.head(10), "s")
	for _, s := range []*State{
		{Head: naive.head(0)},
		{Head: naive.head(0), Pending: pending},
		{Head: naive.head(7), Pending: pending, Mirrored: note("log", naive.head(3), "s"), precedes: naive.consistency(7, 10)},
		{Head: naive.head(10), Pending: pending, Mirrored: pending},
		{Head: Head{Size: 700}, Minimum: 512, Pending: pending},
		{Head: Head{Size: 700}, Minimum: 512, Pending: pending, search: coverage{true, 7, 600, allPins}},
	} {
		raw := encodeState(s)
		seed(f, raw)
		older := raw[: len(raw)-archivedSize : len(raw)-archivedSize]
		seed(f, append([]byte{3}, older[1:]...))
		if s.search.present {
			continue
		}
		older = older[:len(older)-1]
		seed(f, append([]byte{2}, older[1:]...))
		seed(f, append([]byte{recordVersion}, slices.Delete(slices.Clone(older[1:]), 8+HashSize, 8+HashSize+8)...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, pending, mirrored, err := decodeState(b)
		if err != nil {
			return
		}
		var e encoder
		e.byte(b[0])
		e.head(s.Head)
		if b[0] > recordVersion {
			e.uint64(s.Minimum)
		}
		e.ref(pending)
		e.ref(mirrored)
		e.hashes(s.precedes)
		if b[0] > 2 {
			e.coverage(s.search)
		}
		if b[0] > 3 {
			e.uint64(s.archived.rows)
			e.hash(s.archived.last)
			e.head(s.archived.newest)
		}
		if !bytes.Equal(e, b) {
			t.Errorf("%x re-encodes to %x", b, e)
		}
	})
}

// archivedSize is what the archive takes at the end of a head record.
const archivedSize = 8 + HashSize + 8 + HashSize

func FuzzArchiveRow(f *testing.F) {
	row := ArchiveRow{Number: 3, Previous: Hash{1}, Checkpoint: note("log", Head{3, Hash{1}}, "s"), Relation: RelationExtends, Base: Head{2, Hash{4}}, Proof: []Hash{{5}}}
	row.Checkpoint.Source = "https://log.example.com"
	seed(f, encodeArchiveRow(&row))
	f.Fuzz(func(t *testing.T, b []byte) {
		row, err := decodeArchiveRow(3, b)
		if err != nil {
			return
		}
		if again := encodeArchiveRow(&row); !bytes.Equal(again, b) {
			t.Errorf("%x re-encodes to %x", b, again)
		}
	})
}

func FuzzCheckpoint(f *testing.F) {
	c := note("log", Head{3, Hash{1}}, "s")
	seed(f, encodeCheckpoint(c))
	c.FirstSeen, c.LastSeen, c.Raw = time.Unix(0, -1), time.Unix(1<<32, 1), nil
	seed(f, encodeCheckpoint(c))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := decodeCheckpoint(Head{}, b)
		if err != nil {
			return
		}
		if again := encodeCheckpoint(c); !bytes.Equal(again, b) {
			t.Errorf("%x re-encodes to %x", b, again)
		}
	})
}

func FuzzEvidence(f *testing.F) {
	seed(f, encodeEvidence(&Evidence{At: start}))
	seed(f, encodeEvidence(&Evidence{At: start, First: []byte("one"), Second: []byte("two"), Root: Hash{1}, Proof: []Hash{{2}, {3}}, Reason: "why"}))
	f.Fuzz(func(t *testing.T, b []byte) {
		ev, err := decodeEvidence(b)
		if err != nil {
			return
		}
		if again := encodeEvidence(ev); !bytes.Equal(again, b) {
			t.Errorf("%x re-encodes to %x", b, again)
		}
	})
}

// seed adds a record and what almost is one: every prefix, a byte more, bytes changed,
// and a length that is not there.
func seed(f *testing.F, record []byte) {
	f.Add(record)
	for n := range record {
		f.Add(record[:n])
		changed := bytes.Clone(record)
		changed[n] ^= 0xff
		f.Add(changed)
	}
	f.Add(append(bytes.Clone(record), 0))
}

// TestRecordsAreStrict: no record is good with a byte more or less, or of another
// version.
func TestRecordsAreStrict(t *testing.T) {
	s := &State{Head: Head{3, Hash{1}}, Pending: note("log", Head{9, Hash{2}}, "s"), precedes: []Hash{{4}}}
	for name, c := range map[string]struct {
		good   []byte
		decode func([]byte) error
	}{
		"state":      {encodeState(s), func(b []byte) error { _, _, _, err := decodeState(b); return err }},
		"checkpoint": {encodeCheckpoint(s.Pending), func(b []byte) error { return second(decodeCheckpoint(Head{}, b)) }},
		"evidence":   {encodeEvidence(&Evidence{At: start, Proof: []Hash{{1}}, Reason: "r"}), func(b []byte) error { return second(decodeEvidence(b)) }},
	} {
		if err := c.decode(c.good); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for n := range c.good {
			if c.decode(c.good[:n]) == nil {
				t.Errorf("%s of %d bytes is good with %d", name, len(c.good), n)
			}
		}
		if c.decode(append(bytes.Clone(c.good), 0)) == nil {
			t.Errorf("%s is good with a byte more", name)
		}
		c.good[0]++
		if c.decode(c.good) == nil {
			t.Errorf("%s of another version is good", name)
		}
	}
}

// TestTextHash: the identity of a checkpoint is its text, to the newline before the
// blank line.
func TestTextHash(t *testing.T) {
	for raw, text := range map[string]string{
		"log\n3\nroot=\n\n— log sig\n":          "log\n3\nroot=\n",
		"log\n3\nroot=\n\n— log sig\n— w sig\n": "log\n3\nroot=\n",
		"log\n3\nroot=\nmore\n\n— log sig\n":    "log\n3\nroot=\nmore\n",
		"log\n\n\n\n— log sig\n":                "log\n\n\n",
		"no note":                               "no note",
	} {
		if got := (Checkpoint{Raw: []byte(raw)}).textHash(); got != Hash(sha256.Sum256([]byte(text))) {
			t.Errorf("identity of %q is not its text %q", raw, text)
		}
	}
}
