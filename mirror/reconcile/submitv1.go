package reconcile

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

const entriesV1 = "/api/v1/log/entries"

type submitterV1 struct{ *api }

// NewSubmitterV1 returns what submits to a log of Rekor v1: the JSON of a proposed entry as it was kept.
func NewSubmitterV1(c SubmitterConfig) (Submitter, error) {
	a, err := newAPI(c)
	return submitterV1{a}, err
}

// Submit posts a proposed entry. The receipt has what was verified: that the log stored what was proposed
// and nothing else, its signed entry timestamp, the inclusion proof and the checkpoint.
func (s submitterV1) Submit(ctx context.Context, proposal []byte) (Receipt, error) {
	body, err := rekor.Canonicalize(ctx, proposal)
	if err != nil {
		return Receipt{}, &RefusedError{Text: plain(err.Error(), maxRefusal)}
	}
	leaf := storage.LeafHash(body)
	got, err := s.send(ctx, http.MethodPost, entriesV1, proposal)
	if err != nil {
		return Receipt{}, err
	}
	duplicate := got.code == http.StatusConflict
	switch {
	case duplicate:
		if got, err = s.first(ctx, got, leaf); err != nil {
			return Receipt{}, err
		}
	case got.code != http.StatusCreated:
		return Receipt{}, got.refusal()
	}
	r, err := s.verify(got.body, leaf)
	if err != nil {
		return Receipt{}, err
	}
	r.Duplicate = duplicate
	r.Extends, r.Reason = extendsV1(proposal, r.IntegratedTime)
	return r, nil
}

// first reads the entry that the log names as the one it has already.
func (s submitterV1) first(ctx context.Context, conflict *answer, leaf storage.Hash) (*answer, error) {
	uuid, err := s.located(conflict.header.Get("Location"))
	if err != nil {
		return nil, err
	}
	if uuid.LeafHash != leaf {
		return nil, doubt("it says that it has the proposal as entry %s, which is another one", uuid)
	}
	got, err := s.send(ctx, http.MethodGet, entriesV1+"/"+uuid.String(), nil)
	if err != nil {
		return nil, err
	}
	if got.code == http.StatusOK {
		return got, nil
	}
	// What is wrong with the question is not wrong with the proposal.
	err = got.refusal()
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		err = &statusError{code: refused.Status, text: refused.Text}
	}
	return nil, fmt.Errorf("read the entry that the log has already: %w", err)
}

// located reads the Location of a conflict. Only the UUID is taken from it, and only if it names an entry
// of the same server: a log does not choose where we go.
func (s submitterV1) located(location string) (rekor.UUID, error) {
	u, err := url.Parse(location)
	if err != nil || location == "" {
		return rekor.UUID{}, doubt("it has the proposal already, and does not say where (Location %q)", plain(location, maxRefusal))
	}
	name, found := strings.CutPrefix(strings.TrimPrefix(u.Path, s.url.Path), entriesV1+"/")
	if !found || u.Host != "" && u.Host != s.url.Host {
		return rekor.UUID{}, doubt("it has the proposal already, at another place than its entries (Location %q)", plain(location, maxRefusal))
	}
	uuid, err := rekor.ParseUUID(name)
	if err != nil {
		return rekor.UUID{}, doubt("it has the proposal already: %w", err)
	}
	return uuid, nil
}

// verify verifies all that is in an answer about the entry of a leaf.
func (s submitterV1) verify(raw []byte, leaf storage.Hash) (Receipt, error) {
	items, err := rekor.ParseAnswer(raw)
	if err != nil {
		return Receipt{}, &answerError{err}
	}
	if len(items) != 1 || items[0].UUID.LeafHash != leaf {
		return Receipt{}, doubt("it is not about what was proposed")
	}
	uuid, e := items[0].UUID, &items[0].Entry
	if e.Proof == nil {
		return Receipt{}, doubt("it has no inclusion proof")
	}
	keys := s.Keys()
	if err := verifySET(e, keys); err != nil {
		return Receipt{}, &answerError{err}
	}
	claim := inclusion{leaf: leaf, index: e.Proof.Index, size: e.Proof.TreeSize, root: e.Proof.RootHash, checkpoint: e.Proof.Checkpoint}
	for _, h := range e.Proof.Hashes {
		claim.hashes = append(claim.hashes, h[:])
	}
	origin, _, err := claim.verify(keys)
	if err != nil {
		return Receipt{}, err
	}
	if uuid.TreeID != 0 && !strings.HasSuffix(origin, fmt.Sprintf(" - %d", uuid.TreeID)) {
		return Receipt{}, doubt("the entry is of tree %d, and its checkpoint of %q", uuid.TreeID, origin)
	}
	return Receipt{Origin: origin, LogIndex: e.LogIndex, UUID: uuid.String(), IntegratedTime: e.IntegratedTime, JSON: raw}, nil
}

// verifySET verifies a signed entry timestamp by the key that the entry names.
func verifySET(e *rekor.Entry, keys []trust.Key) error {
	for _, k := range keys {
		if k.Public() == nil {
			continue
		}
		err := e.VerifySET(k.Public())
		if _, other := errors.AsType[*rekor.LogIDError](err); !other {
			return err
		}
	}
	return fmt.Errorf("no key is known for the log ID %s", e.LogID)
}
