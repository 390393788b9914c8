package reconcile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

type submitterV2 struct{ *api }

// NewSubmitterV2 returns what submits to a log of Rekor v2: the JSON of a CreateEntryRequest as it was
// kept.
func NewSubmitterV2(c SubmitterConfig) (Submitter, error) {
	a, err := newAPI(c)
	return submitterV2{a}, err
}

// Submit posts a request. The receipt has what was verified: that the log stored what was proposed, the
// inclusion proof and the checkpoint.
func (s submitterV2) Submit(ctx context.Context, proposal []byte) (Receipt, error) {
	p, err := rekor.ProposeV2(proposal)
	if err != nil {
		return Receipt{}, &RefusedError{Text: plain(err.Error(), maxRefusal)}
	}
	leaf := storage.LeafHash(p.Body)
	if s.Find != nil {
		entry, err := s.Find(ctx, leaf)
		if err != nil {
			return Receipt{}, fmt.Errorf("look whether the log has it already: %w", err)
		}
		if entry != nil {
			return s.receipt(entry, nil, p.Body, true)
		}
	}
	got, err := s.send(ctx, http.MethodPost, "/log/entries", proposal)
	if err != nil {
		return Receipt{}, err
	}
	switch got.code {
	case http.StatusOK, http.StatusCreated:
		var entry protorekor.TransparencyLogEntry
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(got.body, &entry); err != nil {
			return Receipt{}, doubt("%w", err)
		}
		return s.receipt(&entry, got.body, p.Body, false)
	case http.StatusConflict:
		entry, err := s.first(ctx, got.header.Get("X-Log-Index"))
		if err != nil {
			return Receipt{}, err
		}
		return s.receipt(entry, nil, p.Body, true)
	}
	return Receipt{}, got.refusal()
}

// first reads the entry at the index that the log names as the one where it has the proposal.
func (s submitterV2) first(ctx context.Context, header string) (*protorekor.TransparencyLogEntry, error) {
	index, err := strconv.ParseUint(header, 10, 63)
	if err != nil {
		return nil, doubt("it has the proposal already, and does not say where (X-Log-Index %q)", plain(header, maxRefusal))
	}
	if s.Fetch == nil {
		return nil, fmt.Errorf("the log has the proposal already, as entry %d, and there is no mirror of it to read that from: mirror the log in full coverage", index)
	}
	entry, err := s.Fetch(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("read the entry %d, which the log has already: %w", index, err)
	}
	return entry, nil
}

// receipt verifies an entry that should have a body.
func (s submitterV2) receipt(entry *protorekor.TransparencyLogEntry, raw, body []byte, duplicate bool) (Receipt, error) {
	p := entry.GetInclusionProof()
	switch {
	case !bytes.Equal(entry.GetCanonicalizedBody(), body):
		return Receipt{}, doubt("it is not about what was proposed")
	case p == nil || len(p.GetRootHash()) != storage.HashSize || p.GetTreeSize() < 1:
		return Receipt{}, doubt("it has no inclusion proof")
	case entry.GetLogIndex() < 0 || p.GetLogIndex() != entry.GetLogIndex():
		return Receipt{}, doubt("it is at index %d, and its proof at %d", entry.GetLogIndex(), p.GetLogIndex())
	}
	claim := inclusion{
		leaf: storage.LeafHash(body), index: uint64(p.GetLogIndex()), size: uint64(p.GetTreeSize()), root: storage.Hash(p.GetRootHash()),
		hashes: p.GetHashes(), checkpoint: []byte(p.GetCheckpoint().GetEnvelope()),
	}
	origin, key, err := claim.verify(s.Keys())
	if err != nil {
		return Receipt{}, err
	}
	if err := namesLog(entry, origin, key); err != nil {
		return Receipt{}, &answerError{err}
	}
	if raw == nil {
		if raw, err = protojson.Marshal(entry); err != nil {
			return Receipt{}, err
		}
	}
	return Receipt{Origin: origin, LogIndex: claim.index, JSON: raw, Extends: true, Duplicate: duplicate}, nil
}

// namesLog says why the log ID of an entry is not that of the key that signed its checkpoint: verifiers
// look for the key by it.
func namesLog(entry *protorekor.TransparencyLogEntry, origin string, key trust.Key) error {
	id, err := key.LogID, error(nil)
	if id == nil && key.Public() != nil {
		id, err = rekor.LogIDV2(origin, key.Public())
	}
	if err == nil && id != nil && !bytes.Equal(id, entry.GetLogId().GetKeyId()) {
		err = errors.New("its log ID is not that of the key that signed the checkpoint")
	}
	return err
}
