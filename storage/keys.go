package storage

import (
	"encoding/binary"
	"fmt"
)

// The key space. All numbers are big-endian and of fixed width, so that byte order is
// logical order; t is the 8-byte number of a tree.
//
//	m                                   format of the database: formatName + version byte
//	n <origin>                          number of the tree of this origin
//	s <name>                            record of a service; its form is the caller's
//	h t                                 head record: see record.go
//	c t <size 8> <root 32> <text 32>    checkpoint archive: first seen, last seen, raw note;
//	                                    text is the SHA-256 of the note without signatures
//	a t <number 8>                      the same checkpoints in the order in which they came, each
//	                                    with the hash of the row before it; see archive.go
//	w t <size 8> <root 32> <text 32> <key ID 4> <name>   signature line that was added to a checkpoint
//	v t                                 evidence of a split view
//	T t <level 1> <index 8>             hash tile: 1 to 256 hashes; grows in place, because a
//	                                    narrower partial tile is a prefix of a wider one
//	L t <leaf hash, first 8> <index 8>  leaf index, no value; the tile has the whole hash
//	e t <index 8>                       entry: codec byte, then the entry; see codec.go
//	d t <lo 8> <hi 8>                   hash of the leaves [lo, hi), where the tree has no tiles:
//	                                    revealed by consistency proofs; see sparse.go
//	p t <index 8>                       pin: a chosen entry with its proof; see pin.go
//	l t <leaf hash, first 8> <index 8>  leaf index of pins, no value
//	r t <index 8>                       receipt: what the log promised about an entry beside its leaf
//	o t <index 8>                       proposal that an entry of our own log was made of; see beside.go
//	u t <index 8>                       who appended that entry, and when
//	k t <search key 16> <index 8>       search index, no value: the first half of the SHA-256
//	                                    of a key that the entry has; see search.go
//	x t <search key 16> <index 8>       the same for the further keys of a pin, no value
//
// The database of a Newest has instead
//
//	N <origin>                          newest checkpoint: size, root, times, raw note
//	W <origin>, M <origin>              newest one that was cosigned as witness, as mirror
const (
	keyFormat      = 'm'
	keyOrigin      = 'n'
	keyHead        = 'h'
	keyCheckpoint  = 'c'
	keyArchive     = 'a'
	keyCosignature = 'w'
	keyEvidence    = 'v'
	keyTile        = 'T'
	keyLeaf        = 'L'
	keyEntry       = 'e'
	keySpan        = 'd'
	keyPin         = 'p'
	keyPinLeaf     = 'l'
	keyReceipt     = 'r'
	keyProposal    = 'o'
	keyAudit       = 'u'
	keySearch      = 'k'
	keyHint        = 'x'
	keyRecord      = 's'
	keyNewest      = 'N'
	keyWitnessed   = 'W'
	keyMirrored    = 'M'
)

// The database begins with the format name and this version; a different version is
// refused by Open.
const (
	formatName = "understudy"
	// 1 had no packed entries and no windows, 2 no pins and no search index, 3 no rows in the
	// archive.
	formatVersion = 4
)

type treeID uint64

func (id treeID) key(kind byte, size int) []byte {
	k := make([]byte, 0, size)
	k = append(k, kind)
	return binary.BigEndian.AppendUint64(k, uint64(id))
}

func appendUint64(k []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(k, v) }

func (id treeID) head() []byte     { return id.key(keyHead, 9) }
func (id treeID) evidence() []byte { return id.key(keyEvidence, 9) }

func (id treeID) entry(index uint64) []byte {
	return binary.BigEndian.AppendUint64(id.key(keyEntry, 17), index)
}

func (id treeID) tile(level int, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(id.key(keyTile, 18), byte(level)), index)
}

func (id treeID) leaf(hash Hash, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(id.key(keyLeaf, 25), hash[:8]...), index)
}

func (id treeID) span(s span) []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(id.key(keySpan, 25), s.lo), s.hi)
}

func (id treeID) pin(index uint64) []byte {
	return binary.BigEndian.AppendUint64(id.key(keyPin, 17), index)
}

func (id treeID) pinLeaf(hash Hash, index uint64) []byte {
	return binary.BigEndian.AppendUint64(append(id.key(keyPinLeaf, 25), hash[:8]...), index)
}

func (id treeID) receipt(index uint64) []byte {
	return binary.BigEndian.AppendUint64(id.key(keyReceipt, 17), index)
}

// leafRange bounds the rows of all leaves that share the first 8 bytes of hash.
func (id treeID) leafRange(hash Hash) (lower, upper []byte) {
	lower = id.leaf(hash, 0)
	return lower, append(id.leaf(hash, ^uint64(0)), 0)
}

func (id treeID) checkpointsOf(size uint64) []byte {
	return binary.BigEndian.AppendUint64(id.key(keyCheckpoint, 81), size)
}

func (id treeID) checkpoint(head Head, text Hash) []byte {
	k := append(id.checkpointsOf(head.Size), head.Root[:]...)
	return append(k, text[:]...)
}

// all bounds the keys of one kind in this tree.
func (id treeID) all(kind byte) (lower, upper []byte) {
	return id.key(kind, 9), treeID(id+1).key(kind, 9)
}

// lastUint64 reads the big-endian number at the end of a key.
func lastUint64(key []byte) (uint64, error) {
	if len(key) < 8 {
		return 0, fmt.Errorf("key %x is too short", key)
	}
	return binary.BigEndian.Uint64(key[len(key)-8:]), nil
}
