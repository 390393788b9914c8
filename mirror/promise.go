package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// EntryError says that an entry, or what the log promised about it, does not verify.
type EntryError struct {
	Entry   string // UUID or virtual index
	Problem string
	Err     error // the cause; may be nil
}

func (e *EntryError) Error() string {
	text := fmt.Sprintf("entry %s %s", e.Entry, e.Problem)
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error { return e.Err }

// promised verifies what the log promised about an entry: that it is the one with that name,
// in this shard, at that virtual index, at that time. It returns the index in the shard's tree.
func (sh *shard) promised(item *rekor.Item) (uint64, error) {
	e := &item.Entry
	fail := func(err error, format string, args ...any) (uint64, error) {
		return 0, &EntryError{Entry: item.UUID.String(), Problem: fmt.Sprintf(format, args...), Err: err}
	}
	switch next := sh.next(); {
	case item.UUID.TreeID != 0 && item.UUID.TreeID != sh.treeID:
		return fail(nil, "is not of the shard %d", sh.treeID)
	case storage.LeafHash(e.Body) != item.UUID.LeafHash:
		return fail(nil, "has a body with another hash")
	case e.LogIndex < sh.start():
		return fail(nil, "has the virtual index %d; the shard begins at %d", e.LogIndex, sh.start())
	case next != nil && e.LogIndex >= next.start():
		return fail(nil, "has the virtual index %d; the next shard begins at %d", e.LogIndex, next.start())
	case e.LogID != sh.logID:
		return fail(nil, "has the log ID %s, and the key of the shard %s", e.LogID, sh.logID)
	case len(e.SET) == 0:
		return fail(nil, "came without a signed entry timestamp")
	}
	if err := e.VerifySET(sh.key.Public()); err != nil {
		return fail(err, "has a bad signed entry timestamp")
	}
	if e.Attestation != nil {
		switch of, _ := strings.CutPrefix(rekor.AttestationHash(e.Body), "sha256:"); {
		case of == "": // nothing proves it
			e.Attestation = nil
		case of != hexSum(e.Attestation):
			return fail(nil, "came with an attestation that is not the one that was signed")
		}
	}
	index := e.LogIndex - sh.start()
	if e.Proof != nil && e.Proof.Index != index {
		return fail(nil, "has the virtual index %d, and its proof says %d + %d", e.LogIndex, sh.start(), e.Proof.Index)
	}
	return index, nil
}

// VerifyEntry verifies what a shard promised about an entry, as it is stored, for a check. Other
// logs promise nothing.
func (m *Mirror) VerifyEntry(index uint64, entry, receipt []byte) error {
	if m.shard == nil {
		return nil
	}
	item, err := m.shard.item(index, entry, receipt)
	if err == nil {
		_, err = m.shard.promised(item)
	}
	return err
}

// proven verifies an entry with its proof, down to the signatures, and returns it as a pin
// that is not anchored yet.
func (sh *shard) proven(item *rekor.Item) (*storage.Pin, error) {
	index, err := sh.promised(item)
	if err != nil {
		return nil, err
	}
	proof := item.Entry.Proof
	if proof == nil {
		return nil, &EntryError{Entry: item.UUID.String(), Problem: "came without an inclusion proof"}
	}
	c, err := trust.Open(proof.Checkpoint, sh.origin, []trust.Key{sh.key})
	if err == nil && !sh.trusted() {
		err = &trust.SignatureError{Origin: sh.origin}
	}
	if err == nil && (c.Size != proof.TreeSize || c.Root != proof.RootHash) {
		err = errors.New("it is for another tree than the proof")
	}
	if err != nil {
		return nil, &EntryError{Entry: item.UUID.String(), Problem: "has a proof with a bad checkpoint", Err: err}
	}
	now := time.Now()
	p := &storage.Pin{
		Index: index, Entry: item.Entry.Body, Receipt: rekor.EncodeReceipt(&item.Entry, nil), Proof: proof.Hashes, At: now,
		Keys:       rekor.StatementKeys(item.Entry.Attestation),
		Checkpoint: storage.Checkpoint{Head: storage.Head{Size: c.Size, Root: c.Root}, Raw: c.Raw, FirstSeen: now, LastSeen: now},
	}
	if err := p.Verify(); err != nil {
		return nil, &EntryError{Entry: item.UUID.String(), Problem: "has a bad inclusion proof", Err: err}
	}
	return p, nil
}

// decodeReceipt puts a receipt into an entry. One with search keys is none of a mirror: nothing
// that its log promised proves them.
func decodeReceipt(e *rekor.Entry, receipt []byte) error {
	keys, err := rekor.DecodeReceipt(e, receipt)
	if err == nil && len(keys) > 0 {
		err = errors.New("receipt has search keys, which no log promises")
	}
	return err
}

// keysOf returns all search keys of a pin.
func keysOf(p *storage.Pin) []string {
	return slices.Concat(rekor.SearchKeys(p.Entry), p.Keys)
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
