package rekor

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/understudy-log/understudy/storage"
)

// TransparencyLogEntry returns the message that stands for an entry of Rekor v1 in a
// Sigstore bundle. Kind and version come from the body. SET and proof are as in the item;
// an entry with neither is refused.
func TransparencyLogEntry(item Item) (*protorekor.TransparencyLogEntry, error) {
	e := &item.Entry
	if isV2(e.Body) {
		return nil, errors.New("entry of Rekor v2")
	}
	if e.SET == nil && e.Proof == nil {
		return nil, errors.New("entry with neither timestamp nor proof")
	}
	logID, err := hex.DecodeString(e.LogID)
	if err != nil {
		return nil, fmt.Errorf("log ID: %w", err)
	}
	msg, err := newLogEntry(e.Body, e.LogIndex, logID)
	if err != nil {
		return nil, err
	}
	msg.IntegratedTime = e.IntegratedTime
	if e.SET != nil {
		msg.InclusionPromise = &protorekor.InclusionPromise{SignedEntryTimestamp: e.SET}
	}
	if p := e.Proof; p != nil {
		if msg.InclusionProof, err = inclusionProof(p.Index, p.TreeSize, p.RootHash, p.Hashes, p.Checkpoint); err != nil {
			return nil, err
		}
	}
	return msg, nil
}

// TransparencyLogEntryV2 returns the message that stands for an entry of Rekor v2 in a
// Sigstore bundle: it has a proof and neither integrated time nor SET. The log ID is that of
// the TrustedRoot, raw.
func TransparencyLogEntryV2(body []byte, index, size uint64, root storage.Hash, hashes []storage.Hash, checkpoint, logID []byte) (*protorekor.TransparencyLogEntry, error) {
	if !isV2(body) {
		return nil, errors.New("no entry of Rekor v2")
	}
	msg, err := newLogEntry(body, index, logID)
	if err != nil {
		return nil, err
	}
	msg.InclusionProof, err = inclusionProof(index, size, root, hashes, checkpoint)
	if err != nil {
		return nil, err
	}
	return msg, nil
}

func newLogEntry(body []byte, index uint64, logID []byte) (*protorekor.TransparencyLogEntry, error) {
	var head struct {
		Kind    string `json:"kind"`
		Version string `json:"apiVersion"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return nil, fmt.Errorf("parse body: %w", err)
	}
	if head.Kind == "" || head.Version == "" {
		return nil, errors.New("parse body: no kind or version")
	}
	if index > math.MaxInt64 {
		return nil, fmt.Errorf("index %d is beyond int64", index)
	}
	return &protorekor.TransparencyLogEntry{
		LogIndex:          int64(index),
		LogId:             &common.LogId{KeyId: logID},
		KindVersion:       &protorekor.KindVersion{Kind: head.Kind, Version: head.Version},
		CanonicalizedBody: body,
	}, nil
}

func inclusionProof(index, size uint64, root storage.Hash, hashes []storage.Hash, checkpoint []byte) (*protorekor.InclusionProof, error) {
	if index >= size || size > math.MaxInt64 {
		return nil, fmt.Errorf("proof of index %d in a tree of %d", index, size)
	}
	if len(checkpoint) == 0 {
		return nil, errors.New("proof without its checkpoint")
	}
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	return &protorekor.InclusionProof{
		LogIndex:   int64(index),
		RootHash:   root[:],
		TreeSize:   int64(size),
		Hashes:     raw,
		Checkpoint: &protorekor.Checkpoint{Envelope: string(checkpoint)},
	}, nil
}
