package rpc

import (
	"cmp"
	"context"
	"errors"

	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// Of a shard with chosen entries only there are no tiles. Its entries come with proofs, and
// its checkpoints are linked: what a mirror of it cannot answer, its service may.

// unanswered says whether the service of a shard may know what its mirror refused.
func (f found) unanswered(err error) bool {
	refusal, ok := errors.AsType[*mirror.Refusal](err)
	return ok && f.service != nil && f.log != nil && refusal.Kind == mirror.Unavailable
}

// linked returns the archived checkpoint of a size, 0 being the newest; ok is false if none
// is tied to the newest one.
func (f found) linked(size uint64) (c storage.Checkpoint, ok bool, err error) {
	v := f.log.Tree().View()
	defer v.Close()
	if p := v.State().Pending; size == 0 && p.Raw != nil {
		return p, true, nil
	}
	c, err = v.Linked(size)
	switch {
	case errors.Is(err, storage.ErrNotHeld):
		return c, false, nil
	case err != nil:
		err = &mirror.Refusal{Kind: mirror.Damaged, Reason: mirror.ReasonDamaged, Text: "stored checkpoints of this log are damaged: ask upstream, or another server", Err: err, Freshness: f.freshness()}
	}
	return c, err == nil, err
}

// notCopied says of a shard that is not copied what its mirror takes for not copied yet.
func (f found) notCopied(err error) error {
	refusal, ok := errors.AsType[*mirror.Refusal](err)
	if !ok || refusal.Reason != mirror.ReasonNotYetMirrored || f.service == nil || f.log == nil || f.log.Status().Coverage != string(mirror.CoveragePinned) {
		return err
	}
	r := *refusal
	r.Reason, r.Text = mirror.ReasonNotPinned, "of this shard chosen entries and the archived checkpoints are held, and this is none of them"
	return &r
}

// pinnedCheckpoint answers GetCheckpoint from the archive; refused is why else it is not.
func (s *service) pinnedCheckpoint(f found, in *understudyv1.GetCheckpointRequest, refused error) (*understudyv1.GetCheckpointResponse, error) {
	c, ok, err := f.linked(in.GetTreeSize())
	if err != nil || !ok {
		return nil, s.refuse(f, cmp.Or(err, refused))
	}
	return &understudyv1.GetCheckpointResponse{
		Origin: f.log.Origin(), TreeSize: c.Size, RootHash: c.Root[:], Checkpoint: c.Raw, Freshness: freshness(f.freshness()),
	}, nil
}

// pinnedInclusion answers GetInclusionProof with the proof that an entry comes with; refused
// is why else it is not.
func (s *service) pinnedInclusion(ctx context.Context, f found, in *understudyv1.GetInclusionProofRequest, r mirror.Ref, refused error) (*understudyv1.GetInclusionProofResponse, error) {
	item, fresh, err := s.item(ctx, f, ref{index: r.Index, hash: r.LeafHash})
	if err != nil {
		return nil, err
	}
	p := item.Entry.Proof
	if p == nil || in.GetTreeSize() != 0 && in.GetTreeSize() != p.TreeSize {
		return nil, s.refuse(f, refused)
	}
	return &understudyv1.GetInclusionProofResponse{
		Origin: f.log.Origin(), Index: p.Index, LeafHash: item.UUID.LeafHash[:],
		TreeSize: p.TreeSize, RootHash: p.RootHash[:], Hashes: appendHashes(nil, p.Hashes), Checkpoint: p.Checkpoint,
		Freshness: freshness(fresh),
	}, nil
}

// pinnedConsistency answers GetConsistencyProof between archived checkpoints; refused is why
// else it is not.
func (s *service) pinnedConsistency(ctx context.Context, f found, in *understudyv1.GetConsistencyProofRequest, refused error) (*understudyv1.GetConsistencyProofResponse, error) {
	first, ok, err := f.linked(in.GetFirstSize())
	last, found, errLast := f.linked(in.GetLastSize())
	if err = cmp.Or(err, errLast); err != nil || !ok || !found || first.Size > last.Size {
		return nil, s.refuse(f, cmp.Or(err, refused))
	}
	hashes, _, err := f.service.Consistency(ctx, mirror.Client(clientOf(ctx).String()), treeIDOf(f.log), first.Size, last.Size)
	if err != nil {
		return nil, s.refuse(f, err)
	}
	return &understudyv1.GetConsistencyProofResponse{
		Origin:    f.log.Origin(),
		FirstSize: first.Size, FirstRootHash: first.Root[:], FirstCheckpoint: first.Raw,
		LastSize: last.Size, TreeSize: last.Size, RootHash: last.Root[:], Checkpoint: last.Raw,
		Hashes: appendHashes(nil, hashes), Freshness: freshness(f.freshness()),
	}, nil
}
