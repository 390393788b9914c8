package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// Consistency returns the consistency proof between two sizes of a shard; treeID 0 is the
// active one. Between archived sizes it is composed of stored proofs; for others upstream is
// asked, within the limit of the client. root is that of the newest archived checkpoint, as
// Rekor answers. The error is a *Refusal, or of ctx.
func (s *Service) Consistency(ctx context.Context, client Client, treeID, first, last uint64) (hashes []storage.Hash, root storage.Hash, err error) {
	sh, err := s.shardOf(ctx, treeID)
	if err != nil {
		return nil, root, err
	}
	if first == 0 || first > last {
		return nil, root, s.refuse(sh, Invalid, ReasonInvalidRequest, 0, "first size %d and last size %d: want 0 < first <= last", first, last)
	}
	hashes, root, err = sh.composed(first, last)
	if !errors.Is(err, storage.ErrNotHeld) {
		return hashes, root, err
	}
	hashes, root, err = s.fetchConsistency(ctx, client, sh, first, last)
	s.cfg.Metrics.log(s.cfg.Name).missed(err)
	return hashes, root, err
}

// fetchConsistency asks upstream for a proof that is not held.
func (s *Service) fetchConsistency(ctx context.Context, client Client, sh *shard, first, last uint64) (hashes []storage.Hash, root storage.Hash, err error) {
	p := sh.mirror.tree.State().Pending
	if !sh.mirror.live() {
		r := s.refuse(sh, Unavailable, ReasonNotPinned, s.cfg.Poll, "no proof between the sizes %d and %d of shard %d is held, and upstream cannot be reached to ask for it; between archived sizes there is one, the newest being %d", first, last, sh.treeID, p.Size)
		if s := sh.mirror.tree.State(); s.Evidence != nil {
			r.Reason = ReasonQuarantined
		}
		return nil, root, r
	}
	until := time.Now().Add(missPatience)
	wait, ok := s.misses.take(client, 1)
	if !ok {
		return nil, root, s.refuse(sh, Unavailable, ReasonBudgetExhausted, wait, "the proof is not held, and this client has had as much fetched as it may for now")
	}
	if !pause(ctx, wait) {
		return nil, root, ctx.Err()
	}
	cost := proofCost
	if last > p.Size {
		cost += 2 // log info, and the proof of the checkpoint in it
	}
	if err := s.misses.admit(ctx, cost, until); err != nil {
		return nil, root, s.unproven(ctx, sh, err)
	}
	flightCtx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	if last > p.Size { // logged since the last poll?
		if err := s.relist(flightCtx); err != nil {
			return nil, root, s.unproven(ctx, sh, err)
		}
		if p = sh.mirror.tree.State().Pending; last > p.Size {
			return nil, root, s.refuse(sh, Invalid, ReasonInvalidRequest, 0, "the tree size requested(%d) was greater than what is currently observable(%d)", last, p.Size)
		}
	}
	hashes, err = sh.fetchProof(flightCtx, p.Head, first, last)
	return hashes, p.Root, s.unproven(ctx, sh, err)
}

// composed returns a consistency proof out of what is held, with the root of the newest
// archived checkpoint. It returns storage.ErrNotHeld, or a *Refusal.
func (sh *shard) composed(first, last uint64) ([]storage.Hash, storage.Hash, error) {
	a := sh.mirror.answer()
	defer a.Close()
	root := a.state.Pending.Root
	if first == last && last <= a.state.Pending.Size {
		return nil, root, nil
	}
	hashes, err := a.LinkedProof(first, last)
	if errors.Is(err, storage.ErrNotHeld) {
		return nil, root, err
	}
	return hashes, root, a.damaged(err)
}

// fetchProof fetches a consistency proof between two sizes, and what authenticates it by a
// signed head.
func (sh *shard) fetchProof(ctx context.Context, head storage.Head, first, last uint64) ([]storage.Hash, error) {
	root, err := sh.rootAt(ctx, head, last)
	if err != nil {
		return nil, err
	}
	part := storage.Head{Size: last, Root: root}
	if root, err = sh.rootAt(ctx, head, first); err != nil {
		return nil, err
	}
	tree := sh.service.work.tree(sh.treeID, part)
	proof, err := tree.consistencyFrom(ctx, first)
	if err != nil {
		return nil, err
	}
	if err := storage.VerifyConsistency(storage.Head{Size: first, Root: root}, part, proof); err != nil {
		return nil, &ProofError{Problem: fmt.Sprintf("consistency of the sizes %d and %d is not proven: %v", first, last, err)}
	}
	return proof, nil
}

// rootAt returns the root at a size of the tree of a signed head. Those of the sizes 1 and 2
// stand in no proof, or not in all: they come out of the first entries.
func (sh *shard) rootAt(ctx context.Context, head storage.Head, size uint64) (storage.Hash, error) {
	tree := sh.service.work.tree(sh.treeID, head)
	if size > 2 {
		return tree.rootAt(ctx, size, storage.Hash{})
	}
	var leaves []storage.Hash
	for index := range size {
		ref := EntryRef{Index: sh.start() + index}
		items, err := sh.service.work.entries(ctx, []EntryRef{ref})
		if err != nil {
			return storage.Hash{}, err
		}
		if len(items) != 1 {
			return storage.Hash{}, &EntryError{Entry: ref.String(), Problem: "is in the signed tree, and upstream does not give it"}
		}
		leaves = append(leaves, items[0].UUID.LeafHash)
	}
	claimed := leaves[0]
	if size == 2 {
		claimed = storage.NodeHash(leaves[0], leaves[1])
	}
	return tree.rootAt(ctx, size, claimed)
}

// unproven makes a Refusal of why a proof could not be had.
func (s *Service) unproven(ctx context.Context, sh *shard, err error) error {
	var (
		budget  *BudgetError
		refusal *Refusal
	)
	switch {
	case err == nil, errors.As(err, &refusal):
		return err
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, storage.ErrQuarantined) || errors.As(err, new(*ForkError)):
		return s.refuse(sh, Unavailable, ReasonQuarantined, 0, "the proof is not held, and upstream is not asked for it: shard %d is quarantined", sh.treeID)
	case errors.As(err, &budget):
		return s.refuse(sh, Unavailable, ReasonBudgetExhausted, budget.After, "the proof is not held, and %v", err)
	case gone(err):
		return s.refuse(sh, Unavailable, ReasonUpstreamUnreachable, max(time.Second, retryAfter(err)), "the proof is not held, and upstream did not give it: %v", err)
	}
	s.cfg.Metrics.log(s.cfg.Name).problem(problemReason(err))
	s.logger.Warn("the proof that upstream gave is refused", "shard", sh.treeID, "reason", problemReason(err), "error", err)
	return s.refuse(sh, Unavailable, ReasonUpstreamRefused, s.cfg.Poll, "the proof is not held, and what upstream gave for it was refused: %v", err)
}
