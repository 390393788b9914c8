package mirror

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// SearchHit is one entry that was found.
type SearchHit struct {
	Origin   string
	Index    uint64 // in its tree
	LeafHash storage.Hash
}

// IndexRange is the range [Start, End) of a log that the search index covers; beside it the
// index has Pinned chosen entries.
type IndexRange struct {
	Origin     string
	Start, End uint64
	Pinned     uint64
}

// SearchResult is what a search found, and what it has seen of the log.
type SearchResult struct {
	UUIDs   []rekor.UUID // of the entries in Hits, and of those that upstream names beside them
	Hits    []SearchHit  // held or pinned here
	Covered []IndexRange
}

// maxHits bounds what one search of one log returns.
const maxHits = 10_000

// Search returns the entries of the log that have any of the search keys, or all of them, in
// the order of their indexes, at most maxHits. See rekor.QueryKeys.
func (m *Mirror) Search(ctx context.Context, keys []string, all bool) ([]SearchHit, IndexRange, error) {
	for range 3 {
		hits, covered, err := m.search(ctx, keys, all)
		if !errors.Is(err, storage.ErrIndexing) {
			return hits, covered, err
		}
	}
	a := m.answer()
	defer a.Close()
	return nil, IndexRange{}, a.refuse(Unavailable, ReasonNotYetMirrored, "the search index of this log is being made anew: try again soon")
}

// search is Search in one view, unless the index was begun anew meanwhile.
func (m *Mirror) search(ctx context.Context, keys []string, all bool) ([]SearchHit, IndexRange, error) {
	a := m.answer()
	defer a.Close()
	covered := IndexRange{Origin: m.cfg.Origin}
	covered.Start, covered.End = a.Indexed()
	if m.shard != nil && a.PinsIndexed() {
		covered.Pinned = m.shard.service.pins.status(m.shard).Count
	}
	indexes, err := a.View.SearchKeys(ctx, keys, all, maxHits)
	switch {
	case ctx.Err() != nil:
		return nil, covered, ctx.Err()
	case errors.Is(err, storage.ErrIndexing):
		return nil, covered, err
	case err != nil:
		return nil, covered, a.damaged(err)
	}
	hits := make([]SearchHit, len(indexes))
	for i := range hits {
		hits[i] = SearchHit{Origin: m.cfg.Origin, Index: indexes[i]}
		if hits[i].LeafHash, err = leafOf(a.View, indexes[i]); err != nil {
			return nil, covered, a.damaged(err)
		}
	}
	return hits, covered, nil
}

// leafOf returns the leaf hash of an entry that is held or pinned.
func leafOf(v *storage.View, index uint64) (storage.Hash, error) {
	if s := v.State(); index >= s.Minimum && index < s.Head.Size {
		return v.LeafHash(index)
	}
	p, _, err := v.Pin(index)
	return storage.LeafHash(p.Entry), err
}

// Search finds the entries of the service that a query names, among what is held and, while
// it is live, in upstream's own search; what upstream names is not verified before it is
// asked for. The error is a *Refusal, or a *rekor.InputError.
func (s *Service) Search(ctx context.Context, client Client, q rekor.Query) (SearchResult, Freshness, error) {
	fresh := s.Freshness()
	keys, all, err := rekor.QueryKeys(q)
	if err != nil {
		return SearchResult{}, fresh, err
	}
	var result SearchResult
	seen := map[rekor.UUID]bool{}
	add := func(uuid rekor.UUID) {
		if !seen[uuid] {
			seen[uuid] = true
			result.UUIDs = append(result.UUIDs, uuid)
		}
	}
	asked := false
	if q.Issuer == "" && len(keys) > 0 && fresh.Source == SourceLive { // Rekor has no search by issuer
		uuids, err := s.searchUpstream(ctx, client, q)
		switch {
		case ctx.Err() != nil:
			return SearchResult{}, fresh, ctx.Err()
		case err != nil:
			s.logger.Debug("upstream's search gave no answer", "error", err)
		default:
			asked = true
		}
		if err := s.learn(uuids, keys, all); err != nil {
			return SearchResult{}, fresh, err
		}
		for _, uuid := range uuids {
			add(uuid)
		}
	}
	for _, sh := range s.known() {
		hits, covered, err := sh.mirror.Search(ctx, keys, all)
		if err != nil {
			return SearchResult{}, fresh, err
		}
		for _, hit := range hits {
			add(rekor.UUID{TreeID: sh.treeID, LeafHash: hit.LeafHash})
		}
		result.Hits, result.Covered = append(result.Hits, hits...), append(result.Covered, covered)
	}
	if !asked && fresh.Source == SourceLive {
		fresh.Source = SourceMirrored
	}
	return result, fresh, nil
}

// learn keeps the search keys under which upstream's search has found pinned entries, where the
// entries do not show them: Rekor also indexes what stood in a proposed entry alone, such as
// the subjects of a DSSE statement. So they are found when upstream is gone.
func (s *Service) learn(uuids []rekor.UUID, keys []string, all bool) error {
	if len(keys) != 1 && !all {
		return nil // by which of them is not known
	}
	for _, uuid := range uuids {
		sh := s.byTree(uuid.TreeID)
		if sh == nil {
			continue
		}
		v := sh.mirror.tree.View()
		p, ok, err := v.PinOf(uuid.LeafHash)
		v.Close()
		if err != nil || !ok {
			continue // what is damaged is found another time
		}
		own := keysOf(&p)
		further := slices.DeleteFunc(slices.Clone(keys), func(key string) bool { return slices.Contains(own, key) })
		if len(further) == 0 {
			continue
		}
		if err := sh.mirror.tree.Hold(p.Index, 0, further...); err != nil && !errors.As(err, new(*storage.DamageError)) {
			return &storageError{err}
		}
	}
	return nil
}

// searchUpstream asks upstream's own search, within the limit of the client.
func (s *Service) searchUpstream(ctx context.Context, client Client, q rekor.Query) ([]rekor.UUID, error) {
	until := time.Now().Add(missPatience)
	wait, ok := s.misses.take(client, 1)
	if !ok {
		return nil, &BudgetError{After: wait}
	}
	if !pause(ctx, wait) {
		return nil, ctx.Err()
	}
	if err := s.misses.admit(ctx, searchCost, until); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	return s.work.search(ctx, q)
}
