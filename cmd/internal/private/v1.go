// Package private lets the private log speak as Rekor: its first generation as a service of one
// shard, which the same adapters serve that serve a mirrored one, and the second. What Rekor says
// beside the leaf, time and signed entry timestamp, is the promise of the log.
package private

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
)

// maxHits bounds what one search returns, as that of a mirror does.
const maxHits = 10_000

// V1 is a log as a Rekor v1 service.
type V1 struct {
	Gate

	log    *log.Log
	treeID uint64
	logID  string
	pem    []byte
}

// PromiseV1 returns what a log of Rekor v1 promises about an entry: the time at which it was logged
// and the signed entry timestamp, with the search keys that only the proposal shows. signer has
// the key of the log; verify says that what it signs is verified: one in a key management service may not
// be the one that it was.
func PromiseV1(public crypto.PublicKey, signer signature.Signer, verify bool) (func(index uint64, at int64, e *log.Entry) ([]byte, error), error) {
	logID, err := rekor.LogID(public)
	if err != nil {
		return nil, err
	}
	return func(index uint64, at int64, e *log.Entry) ([]byte, error) {
		entry := rekor.Entry{Body: e.Body, IntegratedTime: at, LogID: logID, LogIndex: index}
		if err := entry.SignSET(signer); err != nil {
			return nil, err
		}
		if verify {
			if err := entry.VerifySET(public); err != nil {
				return nil, err
			}
		}
		return rekor.EncodeReceipt(&entry, e.Keys), nil
	}, nil
}

// NewV1 returns a log as a Rekor v1 service with one shard. Its promises are those of PromiseV1.
func NewV1(l *log.Log, treeID uint64, public crypto.PublicKey) (*V1, error) {
	logID, err := rekor.LogID(public)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	return &V1{log: l, treeID: treeID, logID: logID, pem: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})}, nil
}

// Log returns the log.
func (v *V1) Log() *log.Log { return v.log }

// Append proposes an entry, as the JSON of POST log/entries, and returns it as logged; duplicate says
// that it was logged before. The error is a *rekor.InputError, or one of log.Append.
func (v *V1) Append(ctx context.Context, identity string, proposed []byte, p *rekor.Proposal) (item rekor.Item, duplicate bool, err error) {
	receipt, err := v.log.Append(ctx, log.Entry{Body: p.Body, Proposed: proposed, Keys: p.Keys, Identity: identity})
	if err != nil {
		return rekor.Item{}, false, err
	}
	item, err = v.item(p.Body, &receipt)
	return item, receipt.Duplicate, err
}

// item puts together what is answered about an entry.
func (v *V1) item(body []byte, r *log.Receipt) (rekor.Item, error) {
	item := rekor.Item{
		UUID: rekor.UUID{TreeID: v.treeID, LeafHash: storage.LeafHash(body)},
		Entry: rekor.Entry{Body: body, LogID: v.logID, LogIndex: r.Index, Proof: &rekor.Proof{
			Index: r.Index, TreeSize: r.Checkpoint.Size, RootHash: r.Checkpoint.Root, Hashes: r.Proof, Checkpoint: alone(r.Checkpoint.Raw),
		}},
	}
	if _, err := rekor.DecodeReceipt(&item.Entry, r.Promise); err != nil {
		return rekor.Item{}, fmt.Errorf("promise about entry %d: %w", r.Index, err)
	}
	return item, nil
}

// alone returns a checkpoint with the log's own line, the first, and no cosignature: Rekor's verifiers
// (rekor v1.5.4, pkg/util SignedNote.Verify) refuse a note at the first line of another key.
func alone(raw []byte) []byte {
	i := bytes.Index(raw, []byte("\n\n"))
	if i < 0 {
		return raw
	}
	first := i + 2
	if n := bytes.IndexByte(raw[first:], '\n'); n >= 0 {
		return raw[:first+n+1]
	}
	return raw
}

// VerifyEntry returns what verifies the promise about an entry, as it is stored: the signed entry
// timestamp, by one of the keys, if the log is one of Rekor v1. One of Rekor v2 promises nothing.
func VerifyEntry(isV1 bool, keys ...crypto.PublicKey) func(index uint64, body, receipt []byte) error {
	if !isV1 || len(keys) == 0 {
		return nil
	}
	return func(index uint64, body, receipt []byte) (err error) {
		for _, key := range keys {
			if err = verifyEntry(key, index, body, receipt); err == nil {
				return nil
			}
		}
		return err
	}
}

// SET returns what is promised in a receipt, for an evidence pack.
func (v *V1) SET(receipt []byte) (*archive.SET, error) {
	var entry rekor.Entry
	if _, err := rekor.DecodeReceipt(&entry, receipt); err != nil {
		return nil, err
	}
	return &archive.SET{IntegratedTime: entry.IntegratedTime, LogID: v.logID, Signature: entry.SET}, nil
}

func verifyEntry(key crypto.PublicKey, index uint64, body, receipt []byte) error {
	logID, err := rekor.LogID(key)
	if err != nil {
		return err
	}
	entry := rekor.Entry{Body: body, LogID: logID, LogIndex: index}
	if _, err := rekor.DecodeReceipt(&entry, receipt); err != nil {
		return err
	}
	return entry.VerifySET(key)
}

// Name returns the name of the log.
func (v *V1) Name() string { return v.log.Name() }

// Shards returns the one shard.
func (v *V1) Shards() ([]mirror.Shard, error) {
	c := v.log.Published()
	if c.Raw == nil {
		return nil, v.unpublished()
	}
	return []mirror.Shard{{TreeID: v.treeID, Active: true, Head: c.Head, Checkpoint: alone(c.Raw)}}, nil
}

// freshness is that of a log of our own: nobody knows better. It is unknown of a checkpoint that was
// published before the log was opened.
func freshness(l *log.Log) mirror.Freshness {
	if l.Published().LastSeen.IsZero() {
		return mirror.Freshness{}
	}
	return mirror.Freshness{Source: mirror.SourceLive, UpstreamState: mirror.UpstreamLive, CheckpointAge: max(0, time.Since(l.Published().LastSeen))}
}

func (v *V1) refuse(kind mirror.Kind, reason, format string, args ...any) error {
	return &mirror.Refusal{Kind: kind, Reason: reason, Text: fmt.Sprintf(format, args...), Freshness: freshness(v.log)}
}

func (v *V1) unpublished() error {
	return &mirror.Refusal{Kind: mirror.Unavailable, Reason: mirror.ReasonNotYetMirrored, After: 5 * time.Second, Text: "the log has not published a checkpoint since it was started, because too few witnesses answer; try again soon"}
}

func (v *V1) notFound(what string) error {
	return v.refuse(mirror.NotFound, mirror.ReasonNotFound, "the log has no entry %s", what)
}

// here returns an error unless a tree ID, 0 for the active shard, is that of the log.
func (v *V1) here(treeID uint64) error {
	if treeID == 0 || treeID == v.treeID {
		return nil
	}
	return v.refuse(mirror.NotFound, mirror.ReasonNotFound, "the log has no tree %d; its only one is %d", treeID, v.treeID)
}

// failed tells an error of storage from that of a request.
func (v *V1) failed(err error) error {
	return &mirror.Refusal{Kind: mirror.Damaged, Reason: mirror.ReasonDamaged, Text: "what is stored cannot be read; the log's operator finds the reason in its log", Err: err, Freshness: freshness(v.log)}
}

// PublicKey returns the key of the log, as PEM.
func (v *V1) PublicKey(_ context.Context, treeID uint64) ([]byte, error) {
	return v.pem, v.here(treeID)
}

// Consistency returns the proof between two sizes of the published tree, and its root hash.
func (v *V1) Consistency(_ context.Context, _ mirror.Client, treeID, first, last uint64) ([]storage.Hash, storage.Hash, error) {
	c := v.log.Published()
	if err := v.here(treeID); err != nil {
		return nil, c.Root, err
	}
	if c.Raw == nil {
		return nil, c.Root, v.unpublished()
	}
	if last > c.Size || first > last {
		return nil, c.Root, v.refuse(mirror.NotFound, mirror.ReasonNotFound, "the log has %d entries; a proof from %d to %d cannot be made", c.Size, first, last)
	}
	view := v.log.Tree().View()
	defer view.Close()
	hashes, err := view.ConsistencyProof(first, last)
	if err != nil {
		return nil, c.Root, v.failed(err)
	}
	return hashes, c.Root, nil
}

// Entry returns one entry.
func (v *V1) Entry(_ context.Context, _ mirror.Client, ref mirror.EntryRef) (rekor.Item, mirror.Freshness, error) {
	item, err := v.entry(ref)
	return item, freshness(v.log), err
}

func (v *V1) entry(ref mirror.EntryRef) (rekor.Item, error) {
	index := ref.Index
	if ref.UUID != nil {
		if v.here(ref.UUID.TreeID) != nil {
			return rekor.Item{}, v.notFound(ref.String())
		}
	}
	// First: what is published while this looks for an entry may have it.
	if v.log.Published().Raw == nil {
		return rekor.Item{}, v.unpublished()
	}
	if ref.UUID != nil {
		found, ok, err := v.log.FindLeaf(ref.UUID.LeafHash)
		if err != nil {
			return rekor.Item{}, v.failed(err)
		}
		if !ok {
			return rekor.Item{}, v.notFound(ref.String())
		}
		index = found
	}
	body, receipt, err := v.log.Find(index)
	if errors.Is(err, storage.ErrNotHeld) {
		return rekor.Item{}, v.notFound(ref.String())
	}
	if err != nil {
		return rekor.Item{}, v.failed(err)
	}
	item, err := v.item(body, &receipt)
	if err != nil {
		return rekor.Item{}, v.failed(err)
	}
	return item, nil
}

// Entries returns those of the entries that the log has, in order.
func (v *V1) Entries(_ context.Context, _ mirror.Client, refs []mirror.EntryRef) ([]rekor.Item, mirror.Freshness, error) {
	var items []rekor.Item
	for _, ref := range refs {
		item, err := v.entry(ref)
		if refusal, ok := errors.AsType[*mirror.Refusal](err); ok && refusal.Kind == mirror.NotFound {
			continue
		}
		if err != nil {
			return nil, freshness(v.log), err
		}
		items = append(items, item)
	}
	return items, freshness(v.log), nil
}

// Search returns the entries that a query names.
func (v *V1) Search(ctx context.Context, _ mirror.Client, q rekor.Query) (mirror.SearchResult, mirror.Freshness, error) {
	fresh := freshness(v.log)
	keys, all, err := rekor.QueryKeys(q)
	if err != nil {
		return mirror.SearchResult{}, fresh, err
	}
	published := v.log.Published()
	if published.Raw == nil {
		return mirror.SearchResult{}, fresh, v.unpublished()
	}
	view := v.log.Tree().View()
	defer view.Close()
	start, end := view.Indexed()
	result := mirror.SearchResult{Covered: []mirror.IndexRange{{Origin: v.log.Origin(), Start: start, End: min(end, published.Size)}}}
	indexes, err := view.SearchKeys(ctx, keys, all, maxHits)
	switch {
	case ctx.Err() != nil:
		return result, fresh, ctx.Err()
	case errors.Is(err, storage.ErrIndexing):
		return result, fresh, v.refuse(mirror.Unavailable, mirror.ReasonNotYetMirrored, "the search index of this log is being made anew: try again soon")
	case err != nil:
		return result, fresh, v.failed(err)
	}
	for _, index := range indexes {
		if index >= published.Size {
			break
		}
		leaf, err := view.LeafHash(index)
		if err != nil {
			return result, fresh, v.failed(err)
		}
		result.UUIDs = append(result.UUIDs, rekor.UUID{TreeID: v.treeID, LeafHash: leaf})
		result.Hits = append(result.Hits, mirror.SearchHit{Origin: v.log.Origin(), Index: index, LeafHash: leaf})
	}
	return result, fresh, nil
}
