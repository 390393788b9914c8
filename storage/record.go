package storage

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Checkpoint is a signed tree head as upstream served it.
type Checkpoint struct {
	Head
	// Raw is the signed note; nil means that there is no checkpoint.
	Raw []byte
	// FirstSeen and LastSeen are when a note with this text was first and last served
	// to us. LastSeen is persisted about once a minute.
	FirstSeen, LastSeen time.Time
	// Source says where the note came from first, in one line: an address, or what handed it
	// over. It stands in the archive alone.
	Source string
}

// textHash identifies a checkpoint in the archive: the hash of the note's text,
// which ends before the blank line in front of the signatures
// (https://c2sp.org/signed-note). Signing the same text again changes nothing.
func (c Checkpoint) textHash() Hash {
	text := c.Raw
	if i := bytes.LastIndex(text, []byte("\n\n")); i >= 0 {
		text = text[:i+1]
	}
	return sha256.Sum256(text)
}

// Evidence is the proof that an upstream signed two irreconcilable checkpoints.
type Evidence struct {
	// First and Second are the signed notes as received; Second is the one that was
	// refused.
	First, Second []byte
	// Root is the root that the tree of the larger checkpoint has at the size of the
	// smaller one, and Proof the consistency proof (RFC 6962, section 2.1.2) from Root
	// to the larger checkpoint: the smaller checkpoint says another root. Both are empty
	// for equal sizes, and where the contradiction is not about roots.
	Root  Hash
	Proof []Hash
	At    time.Time
	// Reason is one sentence for a person.
	Reason string
}

// State is what a tree holds at one moment. It is immutable.
type State struct {
	// Head is the tree that is held: the entries [Minimum, Head.Size), and every hash that
	// proves them.
	Head Head
	// Minimum is the index of the first entry held, a multiple of 256: 0, or where the
	// window on the log begins.
	Minimum uint64
	// Pending is the newest verified checkpoint; Head equals or precedes it.
	Pending Checkpoint
	// Mirrored is the newest checkpoint whose every entry is held.
	Mirrored Checkpoint
	// Evidence is set when the log is quarantined: the state never changes again.
	Evidence *Evidence

	// precedes is the consistency proof from Head to Pending, as spans of the tree of
	// Pending; empty when they are equal or Head is empty.
	precedes []Hash

	search   coverage // of the search index
	archived archived
}

// known returns the nodes of the pending tree that the precedes-proof reveals.
func (s *State) known() map[span]Hash {
	if len(s.precedes) == 0 {
		return nil
	}
	known := make(map[span]Hash, len(s.precedes))
	for i, sp := range consistencySpans(s.Head.Size, s.Pending.Size) {
		known[sp] = s.precedes[i]
	}
	return known
}

// Record codec. A record is a version byte and fields of fixed order; variable parts
// are length-prefixed with 4 bytes. Parsing is strict: no trailing bytes.

const (
	recordVersion = 1
	headVersion   = 4 // version 1 had no minimum index, 2 no search index, 3 no rows in the archive
)

type encoder []byte

func (e *encoder) byte(v byte)     { *e = append(*e, v) }
func (e *encoder) uint64(v uint64) { *e = binary.BigEndian.AppendUint64(*e, v) }
func (e *encoder) hash(h Hash)     { *e = append(*e, h[:]...) }
func (e *encoder) head(h Head)     { e.uint64(h.Size); e.hash(h.Root) }
func (e *encoder) time(t time.Time) {
	e.uint64(uint64(t.UnixNano()))
}

func (e *encoder) bytes(b []byte) {
	*e = binary.BigEndian.AppendUint32(*e, uint32(len(b)))
	*e = append(*e, b...)
}

func (e *encoder) hashes(hs []Hash) {
	*e = binary.BigEndian.AppendUint32(*e, uint32(len(hs)))
	for _, h := range hs {
		e.hash(h)
	}
}

var errRecord = errors.New("malformed record")

type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n int) []byte {
	if n < 0 || n > len(d.rest) {
		d.bad = true
		return make([]byte, max(0, min(n, 32)))
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) byte() byte     { return d.take(1)[0] }
func (d *decoder) uint64() uint64 { return binary.BigEndian.Uint64(d.take(8)) }
func (d *decoder) length() int    { return int(binary.BigEndian.Uint32(d.take(4))) }
func (d *decoder) hash() Hash     { return Hash(d.take(HashSize)) }
func (d *decoder) head() Head     { return Head{d.uint64(), d.hash()} }
func (d *decoder) time() time.Time {
	return time.Unix(0, int64(d.uint64()))
}
func (d *decoder) bytes() []byte { return bytes.Clone(d.take(d.length())) }

func (d *decoder) hashes() []Hash {
	n := d.length()
	if n > len(d.rest)/HashSize {
		d.bad = true
		return nil
	}
	var hs []Hash
	for range n {
		hs = append(hs, d.hash())
	}
	return hs
}

func (d *decoder) end() error {
	if d.bad || len(d.rest) != 0 {
		return errRecord
	}
	return nil
}

// checkpointRef names a row of the archive inside the head record.
type checkpointRef struct {
	present bool
	head    Head
	text    Hash
}

func (c Checkpoint) ref() checkpointRef {
	if c.Raw == nil {
		return checkpointRef{}
	}
	return checkpointRef{true, c.Head, c.textHash()}
}

func (e *encoder) ref(r checkpointRef) {
	if !r.present {
		e.byte(0)
		return
	}
	e.byte(1)
	e.head(r.head)
	e.hash(r.text)
}

func (d *decoder) ref() checkpointRef {
	switch d.byte() {
	case 0:
		return checkpointRef{}
	case 1:
		return checkpointRef{true, d.head(), d.hash()}
	}
	d.bad = true
	return checkpointRef{}
}

func encodeState(s *State) []byte {
	var e encoder
	e.byte(headVersion)
	e.head(s.Head)
	e.uint64(s.Minimum)
	e.ref(s.Pending.ref())
	e.ref(s.Mirrored.ref())
	e.hashes(s.precedes)
	e.coverage(s.search)
	e.uint64(s.archived.rows)
	e.hash(s.archived.last)
	e.head(s.archived.newest)
	return e
}

// decodeState returns the state without its checkpoints and evidence, which stand in
// rows of their own.
func decodeState(b []byte) (s State, pending, mirrored checkpointRef, err error) {
	d := decoder{rest: b}
	v := d.byte()
	if v < recordVersion || v > headVersion {
		return s, pending, mirrored, fmt.Errorf("head record has version %d: %w", v, errRecord)
	}
	s.Head = d.head()
	if v > recordVersion {
		s.Minimum = d.uint64()
	}
	pending, mirrored = d.ref(), d.ref()
	s.precedes = d.hashes()
	if v > 2 {
		s.search = d.coverage()
	}
	if v > 3 {
		s.archived = archived{rows: d.uint64(), last: d.hash(), newest: d.head()}
	}
	if err := d.end(); err != nil {
		return s, pending, mirrored, err
	}
	if s.Minimum > s.Head.Size || s.Minimum%tileWidth != 0 {
		return s, pending, mirrored, fmt.Errorf("minimum index %d in a tree of size %d: %w", s.Minimum, s.Head.Size, errRecord)
	}
	if c := s.search; c.present && (c.start < s.Minimum || c.start > s.Head.Size) {
		return s, pending, mirrored, fmt.Errorf("search index from entry %d on, of the entries %d to %d: %w", c.start, s.Minimum, s.Head.Size, errRecord)
	}
	return s, pending, mirrored, nil
}

func encodeCheckpoint(c Checkpoint) []byte {
	var e encoder
	e.byte(recordVersion)
	e.time(c.FirstSeen)
	e.time(c.LastSeen)
	e.bytes(c.Raw)
	return e
}

func decodeCheckpoint(head Head, b []byte) (Checkpoint, error) {
	d := decoder{rest: b}
	if v := d.byte(); v != recordVersion {
		return Checkpoint{}, fmt.Errorf("checkpoint row has version %d: %w", v, errRecord)
	}
	c := Checkpoint{Head: head, FirstSeen: d.time(), LastSeen: d.time(), Raw: d.bytes()}
	return c, d.end()
}

func encodeEvidence(ev *Evidence) []byte {
	var e encoder
	e.byte(recordVersion)
	e.time(ev.At)
	e.bytes(ev.First)
	e.bytes(ev.Second)
	e.hash(ev.Root)
	e.hashes(ev.Proof)
	e.bytes([]byte(ev.Reason))
	return e
}

func decodeEvidence(b []byte) (*Evidence, error) {
	d := decoder{rest: b}
	if v := d.byte(); v != recordVersion {
		return nil, fmt.Errorf("evidence row has version %d: %w", v, errRecord)
	}
	ev := &Evidence{At: d.time(), First: d.bytes(), Second: d.bytes(), Root: d.hash(), Proof: d.hashes()}
	ev.Reason = string(d.bytes())
	return ev, d.end()
}

// Precedes returns the consistency proof from Head to Pending; empty when they are equal
// or Head is empty.
func (s *State) Precedes() []Hash { return slices.Clone(s.precedes) }
