package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// FreshEntry is Entry with a proof to the newest archived checkpoint, where the stored hashes
// give one: those of the proof that the entry came with, and of the proofs that link its
// checkpoint to the newest. Otherwise the proof is the one that it came with.
func (s *Service) FreshEntry(ctx context.Context, client Client, ref EntryRef) (rekor.Item, Freshness, error) {
	item, fresh, err := s.Entry(ctx, client, ref)
	if err != nil {
		return item, fresh, err
	}
	sh := s.byTree(item.UUID.TreeID)
	a := sh.mirror.answer()
	defer a.Close()
	newest := a.state.Pending
	if newest.Size <= item.Entry.Proof.TreeSize {
		return item, fresh, nil
	}
	p, ok, err := a.Pin(item.Entry.LogIndex - sh.start())
	if err != nil || !ok {
		return item, fresh, a.damaged(err)
	}
	hashes, c, err := a.PinProof(&p, newest.Size)
	switch {
	case errors.Is(err, storage.ErrNotHeld):
		return item, fresh, nil
	case err != nil:
		return item, fresh, a.damaged(err)
	}
	fresh.CheckpointAge = max(0, time.Since(c.LastSeen))
	item.Entry.Proof = &rekor.Proof{Index: p.Index, TreeSize: c.Size, RootHash: c.Root, Hashes: hashes, Checkpoint: c.Raw}
	return item, fresh, nil
}
