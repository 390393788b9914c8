package synthetic

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/transparency-dev/merkle/rfc6962"
)

// RekorKey makes an ECDSA P-256 key of a Rekor v1 shard, as ECDSA does, except that its
// signatures are randomised like those of the real server: no two are equal.
func RekorKey(host string, seed uint64) *Key {
	k := ECDSA(host, seed)
	scalar := keySeed(host, seed)
	scalar[0] = scalar[0]&0x7f | 1
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	if err != nil {
		panic(fmt.Sprintf("synthetic: scalar is no P-256 key: %v", err))
	}
	k.sign = func(msg []byte) ([]byte, error) {
		digest := sha256.Sum256(msg)
		return private.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	return k
}

// Shard is one tree of a Rekor v1 service. Its methods may be called while it serves.
type Shard struct {
	TreeID uint64
	Key    *Key // signs checkpoints and SETs

	*history
	frozen []byte // the checkpoint of an inactive shard, signed once; guarded by RekorV1.mu
}

// history is what a shard logged. Shards that differ in their key only share it.
type history struct {
	mu      sync.RWMutex
	tree    tree
	entries []v1Entry
	places  map[[32]byte]uint64 // the index of each leaf hash
}

type v1Entry struct {
	body        []byte
	integrated  int64 // Unix seconds
	attestation []byte
}

// Origin is the first line of the shard's checkpoints.
func (sh *Shard) Origin() string { return fmt.Sprintf("%s - %d", sh.Key.Name(), sh.TreeID) }

// PublicKeyPEM returns the shard's public key as a PEM block "PUBLIC KEY".
func (sh *Shard) PublicKeyPEM() []byte { return sh.Key.PEM() }

// LogID is the lower-case hex SHA-256 of the key's SubjectPublicKeyInfo.
func (sh *Shard) LogID() string {
	h := sha256.Sum256(mustSPKI(sh.Key.public))
	return hex.EncodeToString(h[:])
}

// Add logs bodies, integrated now, and returns the index of the last one. As in
// Trillian, a body that the shard already holds is not logged again.
func (h *history) Add(bodies ...[]byte) (index uint64) {
	leaves := make([][32]byte, len(bodies))
	inParallel(uint64(len(bodies)), func(i uint64) {
		leaves[i] = [32]byte(rfc6962.DefaultHasher.HashLeaf(bodies[i]))
	})
	now := time.Now().Unix()
	h.mu.Lock()
	defer h.mu.Unlock()
	for i, body := range bodies {
		index = h.addLocked(v1Entry{body: body, integrated: now}, leaves[i])
	}
	return index
}

func (h *history) addLocked(e v1Entry, leaf [32]byte) uint64 {
	if index, ok := h.places[leaf]; ok {
		return index
	}
	index := uint64(len(h.entries))
	h.places[leaf] = index
	h.entries = append(h.entries, e)
	h.tree.append(leaf)
	return index
}

// Grow logs n more entries: those of the given indexes, from the shard's size on.
func (h *history) Grow(n uint64, entries Entries) {
	start := h.Size()
	bodies := make([][]byte, n)
	inParallel(n, func(i uint64) { bodies[i] = entries(start + i) })
	h.Add(bodies...)
}

// Attest stores an attestation, which is served with the entry.
func (h *history) Attest(index uint64, attestation []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.entries[index].attestation = attestation
}

// Size is the number of entries.
func (h *history) Size() uint64 {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tree.size()
}

// Root returns the root hash of the first size entries.
func (h *history) Root(size uint64) [32]byte {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tree.root(size)
}

// Body returns an entry as it was logged.
func (h *history) Body(index uint64) []byte {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.entries[index].body
}

// LeafHash returns the Merkle leaf hash of an entry.
func (h *history) LeafHash(index uint64) [32]byte {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tree.levels[0][index]
}

// Find returns the index of a leaf hash.
func (h *history) Find(leaf [32]byte) (index uint64, ok bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	index, ok = h.places[leaf]
	return index, ok
}

// Inclusion returns the inclusion proof of an entry in the first size entries.
func (h *history) Inclusion(index, size uint64) [][]byte {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tree.inclusion(index, size)
}

// Consistency returns the consistency proof between two sizes, the first at least 1.
func (h *history) Consistency(first, second uint64) [][]byte {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.tree.consistency(first, second)
}

// UUID returns the name of an entry: 16 hex digits of tree ID and 64 of leaf hash.
func (sh *Shard) UUID(index uint64) string {
	return fmt.Sprintf("%016x%x", sh.TreeID, sh.LeafHash(index))
}

// Checkpoint signs the checkpoint of the first size entries.
func (sh *Shard) Checkpoint(size uint64) []byte {
	return Note(sh.Origin(), size, sh.Root(size), nil, sh.Key)
}

// prefix returns the history as it was at a size.
func (h *history) prefix(size uint64) *history {
	h.mu.RLock()
	defer h.mu.RUnlock()
	p := &history{tree: h.tree.prefix(size), entries: slices.Clone(h.entries[:size]), places: map[[32]byte]uint64{}}
	for i := range size {
		p.places[p.tree.levels[0][i]] = i
	}
	return p
}

// fork returns a history of the same size that has other entries from index at on.
func (h *history) fork(at uint64) *history {
	f, size := h.prefix(at), h.Size()
	f.Grow(size-at, HashedRekordV1(binary.BigEndian.Uint64(hashOf("the other side of the fork"))))
	h.mu.RLock()
	defer h.mu.RUnlock()
	for i := at; i < size; i++ {
		f.entries[i].integrated = h.entries[i].integrated
	}
	return f
}

// answer is an entry as the API gives it, proven in the tree as it is now. The SET and,
// unless the shard is inactive, the checkpoint are signed anew each time.
func (sh *Shard) answer(index, start uint64, frozen []byte) (uuid string, e models.LogEntryAnon) {
	sh.mu.RLock()
	logged, size := sh.entries[index], sh.tree.size()
	sh.mu.RUnlock()
	checkpoint := frozen
	if checkpoint == nil {
		checkpoint = sh.Checkpoint(size)
	}
	e = models.LogEntryAnon{
		Body:           logged.body,
		IntegratedTime: &logged.integrated,
		LogID:          new(sh.LogID()),
		LogIndex:       new(int64(start + index)),
		Verification: &models.LogEntryAnonVerification{InclusionProof: &models.InclusionProof{
			Checkpoint: new(string(checkpoint)),
			Hashes:     hexes(sh.Inclusion(index, size)),
			LogIndex:   new(int64(index)),
			RootHash:   new(rootHex(sh.Root(size))),
			TreeSize:   new(int64(size)),
		}},
	}
	if logged.attestation != nil {
		e.Attestation = &models.LogEntryAnonAttestation{Data: logged.attestation}
	}
	sh.sign(&e, logged.body)
	return sh.UUID(index), e
}

// sign puts the SET into an entry: a signature over the canonical JSON (RFC 8785) of
// four of its fields.
func (sh *Shard) sign(e *models.LogEntryAnon, body []byte) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"body":"%s","integratedTime":%d,"logID":"%s","logIndex":%d}`,
		base64.StdEncoding.EncodeToString(body), *e.IntegratedTime, *e.LogID, *e.LogIndex)
	set, err := sh.Key.Sign(b.Bytes())
	if err != nil {
		panic(fmt.Sprintf("synthetic: sign SET: %v", err))
	}
	e.Verification.SignedEntryTimestamp = set
}

func rootHex(root [32]byte) string { return hex.EncodeToString(root[:]) }

func hexes(hashes [][]byte) []string {
	s := make([]string, len(hashes)) // never null in JSON
	for i, h := range hashes {
		s[i] = hex.EncodeToString(h)
	}
	return s
}
