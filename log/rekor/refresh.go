package rekor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/formats/log"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/storage"
)

// ErrMismatch says that a log entry is not the one that a bundle or signature needs.
var ErrMismatch = errors.New("log entry is of another signature")

// RefreshBundle returns a Sigstore bundle (v0.1 to v0.3, JSON) whose log entries have the
// inclusion proofs, and the timestamps where there are any, that find returns: for the log's
// ID as the bundle has it and the entry's index, the virtual one for Rekor v1. Everything
// around the entries stays byte for byte.
//
// A found entry must be the bundle's: same log, index, kind, time and body, or else the
// error is ErrMismatch. Its proof must lead from the body to the root in its checkpoint; the
// checkpoint's signature and the timestamp are for the bundle's verifier. An error of find
// ends it.
func RefreshBundle(ctx context.Context, bundle []byte, find func(ctx context.Context, logID []byte, index uint64) (*protorekor.TransparencyLogEntry, error)) ([]byte, error) {
	if len(bundle) > maxAnswer {
		return nil, fmt.Errorf("bundle of %d bytes, want at most %d", len(bundle), maxAnswer)
	}
	var msg protobundle.Bundle
	if err := protojson.Unmarshal(bundle, &msg); err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	if !slices.Contains(mediaTypes, msg.MediaType) {
		return nil, fmt.Errorf("parse bundle: media type %q is not known", msg.MediaType)
	}
	entries := msg.GetVerificationMaterial().GetTlogEntries()
	spans, err := entrySpans(bundle)
	if err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	if len(entries) == 0 || len(spans) != len(entries) {
		return nil, errors.New("bundle has no log entry")
	}
	var out []byte
	end := 0
	for i, entry := range entries {
		if entry.GetLogIndex() < 0 {
			return nil, fmt.Errorf("log entry %d: negative index", i)
		}
		found, err := find(ctx, entry.GetLogId().GetKeyId(), uint64(entry.LogIndex))
		if err != nil {
			return nil, fmt.Errorf("find log entry %d: %w", i, err)
		}
		if err := refreshEntry(entry, found); err != nil {
			return nil, fmt.Errorf("log entry %d: %w", i, err)
		}
		data, err := marshalMessage(entry)
		if err != nil {
			return nil, err
		}
		out = append(append(out, bundle[end:spans[i].start]...), data...)
		end = spans[i].end
	}
	out = append(out, bundle[end:]...)
	// Spliced as text: what came out must be what was meant.
	var again protobundle.Bundle
	if err := protojson.Unmarshal(out, &again); err != nil || !proto.Equal(&msg, &again) {
		return nil, fmt.Errorf("write bundle: it reads back as another (%v)", err)
	}
	return out, nil
}

// mediaTypes are all spellings of the versions that there are.
var mediaTypes = []string{
	"application/vnd.dev.sigstore.bundle+json;version=0.1",
	"application/vnd.dev.sigstore.bundle+json;version=0.2",
	"application/vnd.dev.sigstore.bundle+json;version=0.3",
	"application/vnd.dev.sigstore.bundle.v0.1+json",
	"application/vnd.dev.sigstore.bundle.v0.2+json",
	mediaTypeV3,
}

const mediaTypeV3 = "application/vnd.dev.sigstore.bundle.v0.3+json"

// refreshEntry moves into entry what found has newly.
func refreshEntry(entry, found *protorekor.TransparencyLogEntry) error {
	switch {
	case len(entry.GetCanonicalizedBody()) == 0:
		return errors.New("no canonicalized body to compare")
	case !bytes.Equal(entry.CanonicalizedBody, found.GetCanonicalizedBody()):
		return fmt.Errorf("%w: another body", ErrMismatch)
	case !bytes.Equal(entry.GetLogId().GetKeyId(), found.GetLogId().GetKeyId()) || entry.LogIndex != found.LogIndex:
		return fmt.Errorf("%w: another log or index", ErrMismatch)
	case !proto.Equal(entry.KindVersion, found.KindVersion):
		return fmt.Errorf("%w: another kind or version", ErrMismatch)
	}
	promise := found.GetInclusionPromise()
	promised := len(promise.GetSignedEntryTimestamp()) > 0
	if entry.IntegratedTime != found.IntegratedTime && (promised || found.IntegratedTime != 0) {
		return fmt.Errorf("%w: another time", ErrMismatch)
	}
	if err := checkInclusion(found); err != nil {
		return err
	}
	entry.InclusionProof = found.InclusionProof
	if promised {
		entry.InclusionPromise = promise
	}
	return nil
}

// checkInclusion follows the proof from the body to the checkpoint.
func checkInclusion(entry *protorekor.TransparencyLogEntry) error {
	msg := entry.GetInclusionProof()
	p, err := proofFromMessage(msg)
	if err != nil {
		return fmt.Errorf("inclusion proof: %w", err)
	}
	if p == nil {
		return errors.New("inclusion proof with a checkpoint is missing")
	}
	if isV2(entry.CanonicalizedBody) && msg.LogIndex != entry.LogIndex {
		return fmt.Errorf("inclusion proof is for index %d, the entry is at %d", msg.LogIndex, entry.LogIndex)
	}
	leaf := storage.LeafHash(entry.CanonicalizedBody)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, p.Index, p.TreeSize, leaf[:], msg.Hashes, msg.RootHash); err != nil {
		return fmt.Errorf("inclusion proof: %w", err)
	}
	var c log.Checkpoint
	if _, err := c.Unmarshal(p.Checkpoint); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if c.Size != p.TreeSize || !bytes.Equal(c.Hash, msg.RootHash) {
		return fmt.Errorf("inclusion proof is for size %d, its checkpoint for another tree (size %d)", p.TreeSize, c.Size)
	}
	return nil
}

// marshalMessage writes a message as JSON without the spaces that protojson puts in at
// random.
func marshalMessage(msg proto.Message) ([]byte, error) {
	data, err := protojson.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", msg.ProtoReflect().Descriptor().Name(), err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// span is a range of bytes.
type span struct{ start, end int }

// entrySpans returns where in a bundle its log entries stand. protojson has read the bundle
// before: no field is there twice.
func entrySpans(bundle []byte) ([]span, error) {
	d := json.NewDecoder(bytes.NewReader(bundle))
	for _, names := range [][]string{
		{"verificationMaterial", "verification_material"},
		{"tlogEntries", "tlog_entries"},
	} {
		if ok, err := enterField(d, names); err != nil || !ok {
			return nil, err
		}
	}
	var spans []span
	if t, err := d.Token(); err != nil || t != json.Delim('[') {
		return nil, err // null is an empty list
	}
	for d.More() {
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		end := int(d.InputOffset())
		spans = append(spans, span{end - len(value), end})
	}
	return spans, nil
}

// enterField reads an object up to the value of the first field with one of the names.
func enterField(d *json.Decoder, names []string) (bool, error) {
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return false, err
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return false, err
		}
		if name, ok := t.(string); ok && slices.Contains(names, name) {
			return true, nil
		}
		var skipped json.RawMessage
		if err := d.Decode(&skipped); err != nil {
			return false, err
		}
	}
	return false, nil
}
