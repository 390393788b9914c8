package storage

import (
	"crypto/sha256"
	"encoding/hex"
)

// HashSize is the length of a Hash in bytes.
const HashSize = sha256.Size

// Hash is a SHA-256 Merkle tree hash (RFC 6962, section 2.1).
type Hash [HashSize]byte

// String returns the hash in lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// Head is a tree size, in entries, and the root hash of that tree.
type Head struct {
	Size uint64
	Root Hash
}

// LeafHash returns the hash of a leaf, H(0x00 || entry).
func LeafHash(entry []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(entry)
	var out Hash
	h.Sum(out[:0])
	return out
}

// NodeHash returns the hash of an inner node, H(0x01 || left || right).
func NodeHash(left, right Hash) Hash {
	var b [1 + 2*HashSize]byte
	b[0] = 1
	copy(b[1:], left[:])
	copy(b[1+HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// emptyRoot is the root of the tree without entries, H("").
func emptyRoot() Hash { return sha256.Sum256(nil) }
