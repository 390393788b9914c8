package rekor

import (
	"encoding/hex"
	"fmt"
	"strconv"

	"github.com/understudy-log/understudy/storage"
)

// Entry is one entry of a Rekor v1 log with what its API gives beside the body. Only Body is
// in the Merkle tree.
type Entry struct {
	Body           []byte // canonical; the leaf is H(0x00 || Body)
	IntegratedTime int64  // Unix seconds; signed by SET
	LogID          string // 64 lower-case hex digits: SHA-256 of the key's SPKI; signed by SET
	LogIndex       uint64 // the virtual index: across all shards; signed by SET
	SET            []byte // signed entry timestamp; nil when the API gave none
	Attestation    []byte // stored attestation; nil when the API offered none
	Proof          *Proof // nil when the API gave none, or one without its checkpoint
}

// Proof is the inclusion proof of an entry in one tree (RFC 6962, section 2.1.1).
type Proof struct {
	Index      uint64 // in the shard's tree
	TreeSize   uint64
	RootHash   storage.Hash
	Hashes     []storage.Hash
	Checkpoint []byte // the signed note for TreeSize, as received
}

// UUID names an entry: TreeID is the Trillian tree ID of the shard, 0 when the UUID was
// given with its 64 digits of leaf hash alone.
type UUID struct {
	TreeID   uint64
	LeafHash storage.Hash
}

// Item is an entry with its name.
type Item struct {
	UUID  UUID
	Entry Entry
}

const (
	treeDigits = 16
	leafDigits = 64
)

// String returns 16 + 64 lower-case hex digits, or 64 if TreeID is 0.
func (u UUID) String() string {
	if u.TreeID == 0 {
		return u.LeafHash.String()
	}
	return fmt.Sprintf("%016x%s", u.TreeID, u.LeafHash)
}

// ParseUUID reads 80 or 64 hex digits, upper case too, as Rekor's API takes them. A tree ID
// of 0, or beyond 63 bits, is refused: no shard has one.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	switch len(s) {
	case treeDigits + leafDigits:
		id, err := strconv.ParseUint(s[:treeDigits], 16, 63)
		if err != nil || id == 0 || s[0] == '+' {
			return UUID{}, fmt.Errorf("UUID %q: no tree ID", s)
		}
		u.TreeID = id
	case leafDigits:
	default:
		return UUID{}, fmt.Errorf("UUID of %d characters, want 64 or 80 hex digits", len(s))
	}
	hash, err := parseHash(s[len(s)-leafDigits:])
	if err != nil {
		return UUID{}, fmt.Errorf("UUID %q: %w", s, err)
	}
	u.LeafHash = hash
	return u, nil
}

func parseHash(s string) (storage.Hash, error) {
	var h storage.Hash
	if len(s) != 2*len(h) {
		return h, fmt.Errorf("hash of %d characters, want %d hex digits", len(s), 2*len(h))
	}
	if _, err := hex.Decode(h[:], []byte(s)); err != nil {
		return h, fmt.Errorf("hash %q: %w", s, err)
	}
	return h, nil
}
