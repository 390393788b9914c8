package rekor

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"github.com/sigstore/rekor/pkg/generated/models"

	"github.com/understudy-log/understudy/storage"
)

const (
	maxAnswer = 64 << 20 // bytes of JSON; ten entries of the largest kind are well below
	maxHashes = 64       // of an inclusion proof: no tree is higher
)

// ParseAnswer reads a JSON object {uuid: entry, …} as GET entries answers. Items come in the
// order of their UUIDs. A body that does not hash to its UUID is a *LeafHashError.
func ParseAnswer(data []byte) ([]Item, error) {
	var answer models.LogEntry
	if err := decodeJSON(data, &answer); err != nil {
		return nil, err
	}
	if answer == nil {
		return nil, errors.New("parse entries: null")
	}
	return appendItems(nil, answer)
}

// ParseAnswers reads a JSON list of such objects, as POST entries/retrieve answers. Items
// come in the order of the list.
func ParseAnswers(data []byte) ([]Item, error) {
	var answers []models.LogEntry
	if err := decodeJSON(data, &answers); err != nil {
		return nil, err
	}
	if answers == nil {
		return nil, errors.New("parse entries: null")
	}
	items := make([]Item, 0, len(answers))
	for _, answer := range answers {
		var err error
		if items, err = appendItems(items, answer); err != nil {
			return nil, err
		}
	}
	return items, nil
}

// decodeJSON reads exactly one JSON value. Fields that are not known are passed over, so
// that an upstream may grow.
func decodeJSON(data []byte, value any) error {
	if len(data) > maxAnswer {
		return fmt.Errorf("parse JSON: %d bytes, want at most %d", len(data), maxAnswer)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(value); err != nil {
		return fmt.Errorf("parse JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("parse JSON: bytes after the value")
	}
	return nil
}

func appendItems(items []Item, answer models.LogEntry) ([]Item, error) {
	first := len(items)
	for name, anon := range answer {
		uuid, err := ParseUUID(name)
		if err != nil {
			return nil, err
		}
		entry, err := fromModel(&anon)
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", uuid, err)
		}
		if leaf := storage.LeafHash(entry.Body); leaf != uuid.LeafHash {
			return nil, &LeafHashError{UUID: uuid, Leaf: leaf}
		}
		items = append(items, Item{UUID: uuid, Entry: *entry})
	}
	slices.SortFunc(items[first:], func(a, b Item) int {
		return strings.Compare(a.UUID.String(), b.UUID.String())
	})
	return items, nil
}

func fromModel(anon *models.LogEntryAnon) (*Entry, error) {
	encoded, ok := anon.Body.(string)
	if !ok {
		return nil, errors.New("body is no string")
	}
	body, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, fmt.Errorf("body: %w", err)
	}
	if len(body) == 0 {
		return nil, errors.New("empty body")
	}
	if anon.LogIndex == nil || *anon.LogIndex < 0 {
		return nil, errors.New("logIndex is missing or negative")
	}
	if anon.IntegratedTime == nil || *anon.IntegratedTime < 0 {
		return nil, errors.New("integratedTime is missing or negative")
	}
	if anon.LogID == nil || !isLogID(*anon.LogID) {
		return nil, errors.New("logID is missing or not 64 lower-case hex digits")
	}
	e := &Entry{
		Body:           body,
		IntegratedTime: *anon.IntegratedTime,
		LogID:          *anon.LogID,
		LogIndex:       uint64(*anon.LogIndex),
	}
	if a := anon.Attestation; a != nil && len(a.Data) > 0 {
		e.Attestation = a.Data
	}
	if v := anon.Verification; v != nil {
		if len(v.SignedEntryTimestamp) > 0 {
			e.SET = v.SignedEntryTimestamp
		}
		if e.Proof, err = proofFromModel(v.InclusionProof); err != nil {
			return nil, fmt.Errorf("inclusion proof: %w", err)
		}
	}
	return e, nil
}

func isLogID(s string) bool {
	return len(s) == leafDigits && strings.Trim(s, "0123456789abcdef") == ""
}

// proofFromModel returns nil for a proof without a checkpoint, as the API gave until 2022:
// no signature makes its root worth anything.
func proofFromModel(p *models.InclusionProof) (*Proof, error) {
	if p == nil || p.Checkpoint == nil || *p.Checkpoint == "" {
		return nil, nil
	}
	if p.LogIndex == nil || p.TreeSize == nil || p.RootHash == nil {
		return nil, errors.New("a field is missing")
	}
	proof := &Proof{Checkpoint: []byte(*p.Checkpoint)}
	var err error
	if proof.Index, proof.TreeSize, err = checkPlace(*p.LogIndex, *p.TreeSize, len(p.Hashes)); err != nil {
		return nil, err
	}
	if proof.RootHash, err = parseHash(*p.RootHash); err != nil {
		return nil, err
	}
	proof.Hashes = make([]storage.Hash, len(p.Hashes))
	for i, s := range p.Hashes {
		if proof.Hashes[i], err = parseHash(s); err != nil {
			return nil, err
		}
	}
	return proof, nil
}

func checkPlace(index, size int64, hashes int) (uint64, uint64, error) {
	if index < 0 || size < 1 || index >= size {
		return 0, 0, fmt.Errorf("index %d in a tree of %d", index, size)
	}
	if hashes > maxHashes {
		return 0, 0, fmt.Errorf("%d hashes, want at most %d", hashes, maxHashes)
	}
	return uint64(index), uint64(size), nil
}

// MarshalItem writes {uuid: entry} as the API does.
func MarshalItem(item Item) (json.RawMessage, error) {
	e := &item.Entry
	if e.LogIndex > math.MaxInt64 {
		return nil, fmt.Errorf("entry %s: index %d is beyond int64", item.UUID, e.LogIndex)
	}
	anon := models.LogEntryAnon{
		Body:           e.Body, // encoded as base64
		IntegratedTime: &e.IntegratedTime,
		LogID:          &e.LogID,
		LogIndex:       new(int64(e.LogIndex)),
	}
	if e.Attestation != nil {
		anon.Attestation = &models.LogEntryAnonAttestation{Data: e.Attestation}
	}
	if e.SET != nil || e.Proof != nil {
		anon.Verification = &models.LogEntryAnonVerification{SignedEntryTimestamp: e.SET}
	}
	if p := e.Proof; p != nil {
		if p.TreeSize > math.MaxInt64 || p.Index >= p.TreeSize {
			return nil, fmt.Errorf("entry %s: proof of index %d in a tree of %d", item.UUID, p.Index, p.TreeSize)
		}
		hashes := make([]string, len(p.Hashes)) // never null
		for i, h := range p.Hashes {
			hashes[i] = h.String()
		}
		anon.Verification.InclusionProof = &models.InclusionProof{
			Checkpoint: new(string(p.Checkpoint)),
			Hashes:     hashes,
			LogIndex:   new(int64(p.Index)),
			RootHash:   new(p.RootHash.String()),
			TreeSize:   new(int64(p.TreeSize)),
		}
	}
	// As rekor-server's encoder: no HTML escapes.
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(models.LogEntry{item.UUID.String(): anon}); err != nil {
		return nil, fmt.Errorf("encode entry %s: %w", item.UUID, err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
