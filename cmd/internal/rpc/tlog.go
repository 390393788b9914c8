package rpc

import (
	"context"
	"fmt"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// GetTransparencyLogEntry implements understudyv1.LogServiceServer.
func (s *service) GetTransparencyLogEntry(ctx context.Context, in *understudyv1.GetTransparencyLogEntryRequest) (*understudyv1.GetTransparencyLogEntryResponse, error) {
	f, r, err := s.findEntry(in.GetOrigin(), in.GetUuid(), in.GetEntry())
	if err != nil {
		return nil, err
	}
	if f.service == nil {
		return s.bundledV2(f, r)
	}
	item, fresh, err := s.item(ctx, f, r)
	if err != nil {
		return nil, err
	}
	entry, err := rekor.TransparencyLogEntry(item)
	if err != nil {
		return nil, s.refuse(f, fmt.Errorf("make a bundle's entry of %s: %w", item.UUID, err))
	}
	origin, index := itemOrigin(f.service, &item)
	return s.bundled(f, entry, &understudyv1.GetTransparencyLogEntryResponse{
		Origin: origin, Index: index, LeafHash: item.UUID.LeafHash[:], Freshness: freshness(fresh), Uuid: item.UUID.String(),
	})
}

// bundledV2 answers out of a log that is held, with a proof to its newest checkpoint.
func (s *service) bundledV2(f found, r ref) (*understudyv1.GetTransparencyLogEntryResponse, error) {
	proof, head, fresh, err := f.log.InclusionProof(mirror.Ref{Index: r.index, LeafHash: r.hash}, 0)
	if err != nil {
		return nil, s.refuse(f, err)
	}
	e, _, err := f.log.Entry(mirror.Ref{Index: proof.Index})
	if err != nil {
		return nil, s.refuse(f, err)
	}
	logID, err := s.logID(f, head)
	if err != nil {
		return nil, err
	}
	entry, err := rekor.TransparencyLogEntryV2(e.Body, e.Index, head.Size, head.Root, proof.Hashes, head.Checkpoint, logID)
	if err != nil {
		return nil, s.invalid(f, "entry %d cannot stand in a bundle: %v", e.Index, err)
	}
	return s.bundled(f, entry, &understudyv1.GetTransparencyLogEntryResponse{
		Origin: f.log.Origin(), Index: e.Index, LeafHash: e.LeafHash[:], Freshness: freshness(fresh),
	})
}

func (s *service) bundled(f found, entry *protorekor.TransparencyLogEntry, out *understudyv1.GetTransparencyLogEntryResponse) (*understudyv1.GetTransparencyLogEntryResponse, error) {
	var err error
	if out.TransparencyLogEntry, err = proto.Marshal(entry); err != nil {
		return nil, s.refuse(f, err)
	}
	return out, nil
}

// logID returns the log ID of the key that signed a checkpoint of a Rekor v2 log: that of
// the TrustedRoot, or what it would be there, the whole of the hash whose first bytes are
// the key ID of notes. It is not known of a verifier key.
func (s *service) logID(f found, head mirror.TreeHead) ([]byte, error) {
	var keys []trust.Key
	if s.keys != nil {
		keys = s.keys(f.log.Origin())
	}
	if _, key, err := trust.Signer(head.Checkpoint, f.log.Origin(), keys); err == nil {
		if key.LogID != nil {
			return key.LogID, nil
		}
		if key.Public() != nil {
			if _, logID, err := rekornote.KeyHash(f.log.Origin(), key.Public()); err == nil {
				return logID, nil
			}
		}
	}
	return nil, statusOf(codes.FailedPrecondition, reasonLogIDUnknown,
		"the log ID, by which bundles name the log, is not known: the server's operator has to give the log's key by a trusted_root, or in PEM", metadataOf(f.log.Origin(), f.freshness()))
}

// leafUUID is the UUID of an entry; "" unless the log is a shard.
func (f found) leafUUID(m *mirror.Mirror, leaf storage.Hash) string {
	if f.service == nil || m == nil {
		return ""
	}
	return rekor.UUID{TreeID: treeIDOf(m), LeafHash: leaf}.String()
}
