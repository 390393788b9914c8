package reconcile

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

const refreshTime = time.Minute

const listedProofs = 8 // of a run: it is written with each row

// proveHead polls upstream until it shows at least what was held, and proves that that is a prefix.
func (r *Reconciler) proveHead(ctx context.Context, x *run) error {
	u := r.upstream(x.Log)
	if u == nil {
		x.Phase = phaseDecisions
		return nil
	}
	var at time.Time
	for {
		less, err := r.refresh(ctx, x, u, &at)
		if err != nil {
			return err
		}
		if less == nil {
			break
		}
		if err := r.patient(ctx, x, u, *less); err != nil {
			return err
		}
	}
	var proofs []prefixProof
	err := r.retry(ctx, func(ctx context.Context) (err error) {
		proofs, err = r.prove(ctx, x, u)
		return err
	})
	if err != nil {
		return err
	}
	x.HeadAt = at
	x.Heads = nil
	for _, h := range u.Heads() {
		x.Heads = append(x.Heads, headsJSON([]Head{h})...)
	}
	// What was proven is what the next proof begins with, and not what came in since.
	for i := range x.Heads {
		for _, p := range proofs {
			if p.Origin == x.Heads[i].Origin {
				x.Heads[i] = p.Last
			}
		}
	}
	x.Proven += len(proofs)
	x.Proofs = append(x.Proofs, proofs...)
	x.Proofs = x.Proofs[max(0, len(x.Proofs)-listedProofs):]
	x.Shorter, x.Stuck, x.Phase = nil, 0, phaseDecisions
	return r.keep(x, nil, row{Event: "head", Heads: x.Heads, Proofs: proofs})
}

// refresh polls upstream until it is known what it shows, and since when: less than what was held, if it
// returns that. A contradiction is a *findingError.
func (r *Reconciler) refresh(ctx context.Context, x *run, u *Upstream, at *time.Time) (less *shorter, _ error) {
	err := r.retry(ctx, func(ctx context.Context) error {
		less = nil
		asked := r.cfg.Now()
		// Nobody may be polling: its keys were withdrawn, or its tree is damaged. Other logs wait for their turn.
		limited, cancel := context.WithTimeout(ctx, refreshTime)
		err := u.Refresh(limited)
		if cancel(); ctx.Err() == nil && limited.Err() != nil && err != nil {
			err = fmt.Errorf("the log was not looked at within %s; see \"understudy status\" for why: %w", refreshTime, err)
		}
		// Evidence counts whatever the error is: it may be of something else.
		if found := r.forked(ctx, u, err); found != nil {
			return found
		}
		if back, ok := errors.AsType[*mirror.RollbackError](err); ok {
			less = &shorter{Size: back.Size, Newest: back.Newest}
			return nil
		}
		if err != nil {
			return err
		}
		*at = asked
		less, err = r.compare(ctx, x, u)
		return err
	})
	return less, err
}

// compare holds the heads of now against those that were held.
func (r *Reconciler) compare(ctx context.Context, x *run, u *Upstream) (*shorter, error) {
	now := map[string]Head{}
	for _, h := range u.Heads() {
		now[h.Origin] = h
	}
	for _, first := range x.Heads {
		last, ok := now[first.Origin]
		switch {
		case !ok:
			return nil, fmt.Errorf("of %q a tree of %d entries was held, and now none is known: if the log was removed from the configuration, bring it back", first.Origin, first.Size)
		case last.Size < first.Size:
			return &shorter{Origin: first.Origin, Size: last.Size, Newest: first.Size}, nil
		case last.Size == first.Size && last.Root.String() != first.Root:
			e := Evidence{Origin: first.Origin, First: first.Checkpoint, Second: last.Checkpoint}
			e.Reason = fmt.Sprintf("two roots are signed for size %d of %q: %s was held, and upstream now has %s", first.Size, first.Origin, first.Root, last.Root)
			return nil, fork(ctx, u, e)
		}
	}
	return nil, nil
}

// prove fetches and verifies the proofs that the heads held are prefixes of those of now.
func (r *Reconciler) prove(ctx context.Context, x *run, u *Upstream) ([]prefixProof, error) {
	now := map[string]Head{}
	for _, h := range u.Heads() {
		now[h.Origin] = h
	}
	var proofs []prefixProof
	for _, first := range x.Heads {
		last := now[first.Origin]
		head, err := first.head()
		if err != nil {
			return nil, &storageError{err}
		}
		var hashes []storage.Hash
		if first.Size > 0 && first.Size < last.Size {
			if hashes, err = u.Prove(ctx, first.Origin, first.Size, last.Size); err != nil {
				return nil, fmt.Errorf("prove that the tree of %d entries of %q precedes that of %d: %w", first.Size, first.Origin, last.Size, err)
			}
		}
		if err := storage.VerifyConsistency(head, storage.Head{Size: last.Size, Root: last.Root}, hashes); err != nil {
			// The proof may be what is wrong. Where the trees differ is what names a fork.
			e := Evidence{Origin: first.Origin, First: first.Checkpoint, Second: last.Checkpoint}
			e.Reason = fmt.Sprintf("the tree of %d entries that was held of %q is no prefix of that of %d", first.Size, first.Origin, last.Size)
			if found := fork(ctx, u, e); found.finding.Named {
				return nil, found
			}
			return nil, fmt.Errorf("the tree of %d entries of %q is not proven to precede that of %d: %w", first.Size, first.Origin, last.Size, err)
		}
		p := prefixProof{Origin: first.Origin, First: first, Last: headsJSON([]Head{last})[0], Hashes: []string{}}
		for _, h := range hashes {
			p.Hashes = append(p.Hashes, h.String())
		}
		proofs = append(proofs, p)
	}
	return proofs, nil
}

// forked returns the fork that upstream is known to have made; nil if none is.
func (r *Reconciler) forked(ctx context.Context, u *Upstream, err error) *findingError {
	var all []Evidence
	if u.Evidence != nil {
		all = u.Evidence()
	}
	if fork, ok := errors.AsType[*mirror.ForkError](err); ok && len(all) == 0 {
		all = []Evidence{{Reason: fork.Error()}}
		if e := fork.Evidence; e != nil {
			all[0] = Evidence{Reason: e.Reason, First: e.First, Second: e.Second}
		}
		if heads := u.Heads(); len(heads) == 1 {
			all[0].Origin = heads[0].Origin
		}
	}
	if len(all) == 0 {
		return nil
	}
	return fork(ctx, u, all[0])
}

// fork makes a finding of evidence, and names where the trees differ, if that is known.
func fork(ctx context.Context, u *Upstream, e Evidence) *findingError {
	found := &findingError{
		finding:  finding{Code: outage.CodeFork, Origin: e.Origin, Text: plain(e.Reason, 2*maxRefusal)},
		evidence: map[string][]byte{"first": e.First, "second": e.Second},
	}
	if u.Differs == nil || e.Origin == "" {
		return found
	}
	if index, text, ok := u.Differs(ctx, e.Origin); ok {
		f := &found.finding
		f.Named, f.First = true, index
		f.Text = plain(fmt.Sprintf("%s; the trees differ from index %d on: %s", f.Text, index, text), 4*maxRefusal)
	}
	return found
}

// patient waits a moment for a log that shows less than it did: an old cache is no crime. If it stays so,
// what is missing is a lost tail.
func (r *Reconciler) patient(ctx context.Context, x *run, u *Upstream, less shorter) error {
	now := r.cfg.Now()
	if x.Shorter == nil {
		less.Since = now.UTC()
		x.Shorter = &less
		if err := r.keep(x, nil, row{Event: "head", Shorter: x.Shorter, Text: "upstream shows less than it did; it has a while to mend that"}); err != nil {
			return err
		}
		r.cfg.Logger.Warn("upstream came back with less than it had", "log", x.Log, "size", less.Size, "newest", less.Newest, "patience", r.cfg.RollbackPatience)
	}
	left := x.Shorter.Since.Add(r.cfg.RollbackPatience).Sub(now)
	if left <= 0 {
		return lostTail(u, x.Heads, less, x.Shorter.Since)
	}
	return pause(ctx, min(left, r.longest/5))
}

// lostTail makes a finding of a log that stays shorter than it was.
func lostTail(u *Upstream, known []headJSON, less shorter, since time.Time) *findingError {
	origin, evidence := less.Origin, map[string][]byte{}
	for _, h := range append(headsJSON(u.Heads()), known...) {
		if h.Size == less.Newest && (origin == "" || origin == h.Origin) && evidence["first"] == nil {
			origin, evidence["first"] = h.Origin, h.Checkpoint
		}
	}
	return &findingError{
		finding: finding{
			Code: outage.CodeLostTail, Origin: origin, Named: true, First: less.Size, Next: less.Newest,
			Text: fmt.Sprintf("%q had %d entries and shows %d since %s: the entries [%d, %d) are missing", origin, less.Newest, less.Size, since.UTC().Format(time.RFC3339), less.Size, less.Newest),
		},
		evidence: evidence,
	}
}
