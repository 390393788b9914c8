package mirror

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
)

// importPatience is how long a list of imports waits for an upstream that has answered before.
const importPatience = 5 * time.Minute

// ImportAll is Import of many, in their order; it calls done for each. What has to be had from
// upstream is asked for ten at a time, and if upstream goes away meanwhile, a while is waited
// for it. The error is that of ctx, or of done, which ends it.
func (s *Service) ImportAll(ctx context.Context, imports []rekor.Import, done func(Imported, error) error) error {
	var from retrieval
	for some := range slices.Chunk(imports, retrieveLimit) {
		from.ask(ctx, s, some)
		for _, imp := range some {
			imported, err := s.importOne(ctx, imp, &from)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := done(imported, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// retrieval is what upstream answered about imports.
type retrieval struct {
	about    map[string]bool
	items    []rekor.Item
	err      error
	answered time.Time // when upstream last gave an answer; zero before
}

// ask asks for what imports lack and is not held, in one request.
func (r *retrieval) ask(ctx context.Context, s *Service, imports []rekor.Import) {
	r.about, r.items, r.err = nil, nil, nil
	asked := map[string]bool{}
	var refs []EntryRef
	for _, imp := range imports {
		ref, lacks := lacking(imp)
		if !lacks || imp.Skipped != nil || asked[ref.String()] {
			continue
		}
		if item, _, err := s.held(ref); err == nil && item != nil {
			continue
		}
		asked[ref.String()] = true
		refs = append(refs, ref)
	}
	if len(refs) == 0 {
		return
	}
	if !r.live(ctx, s) {
		return // each import says so
	}
	r.items, r.err = r.retrieve(ctx, s, refs)
	r.live(ctx, s)
	if r.err == nil || passes(r.err) { // otherwise one of them may spoil the answer: each is asked for alone
		r.about = asked
	}
}

// entries returns what upstream answered about an entry.
func (r *retrieval) entries(ctx context.Context, s *Service, ref EntryRef) ([]rekor.Item, error) {
	if r.about[ref.String()] {
		return r.items, r.err
	}
	return r.retrieve(ctx, s, []EntryRef{ref})
}

// retrieve asks, and asks again while that may help.
func (r *retrieval) retrieve(ctx context.Context, s *Service, refs []EntryRef) ([]rekor.Item, error) {
	for {
		items, err := s.work.entries(ctx, refs)
		if err == nil {
			r.answered = time.Now()
			return items, nil
		}
		wait := max(watchRetry, retryAfter(err))
		if !passes(err) || !r.patient(wait) || !pause(ctx, wait) {
			return nil, err
		}
	}
}

// live waits until upstream can be asked, and says whether it can.
func (r *retrieval) live(ctx context.Context, s *Service) bool {
	for !s.anyLive() && r.patient(watchSoon) && pause(ctx, watchSoon) {
	}
	return s.anyLive()
}

// patient says whether to wait so long for upstream.
func (r *retrieval) patient(wait time.Duration) bool {
	return !r.answered.IsZero() && time.Since(r.answered)+wait <= importPatience
}

// passes says whether an error is about upstream's state, and not about what it was asked.
func passes(err error) bool {
	if status, ok := errors.AsType[*StatusError](err); ok {
		return status.Code == http.StatusTooManyRequests || status.Code >= http.StatusInternalServerError
	}
	return problemReason(err) == ProblemUnreachable
}
