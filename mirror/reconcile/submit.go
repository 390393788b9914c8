package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

const (
	window   = 256 // entries that may be under way or wait for an earlier one
	perRow   = 64  // entries that one row is about, at most
	manyFail = 256 // entries that are tried again the next time; more is no reconciliation

	enoughTries = 8 // of one entry, while others are taken
	stuckPauses = 3 // in a row without anything done, after which what fails is left for the next time
)

// submit submits proposals of the private logs that belong to a run, and sets the next phase: decisions
// again, if some came in meanwhile.
func (r *Reconciler) submit(ctx context.Context, x *run) error {
	more := false
	for i := range r.cfg.Privates {
		p := &r.cfg.Privates[i]
		if p.Submit == nil || r.upstream(p.Upstream) == nil || x.Log != "" && p.Upstream != x.Log {
			continue
		}
		end := p.Size()
		if x.Log == "" {
			end = r.owed(p, r.cfg.Monitor.Status())
		}
		t := r.begun(x, p)
		s := &submission{r: r, x: x, p: p, t: t, end: end, stuck: x.Stuck >= stuckPauses, results: make(chan result, window)}
		if err := s.run(ctx); err != nil {
			return err
		}
		more = more || x.Log != "" && t.Next < p.Size()
	}
	if err := r.follow(); err != nil {
		return err
	}
	more = more || r.cfg.Again != nil && len(r.decisions.some(1, r.mine(x))) > 0
	x.Rounds++
	if x.Phase = phaseExceptions; more && x.Rounds < mostRounds {
		x.Phase = phaseDecisions
	}
	return nil
}

// begun returns what a run has done of a private log so far.
func (r *Reconciler) begun(x *run, p *Private) *proposalCounts {
	for _, t := range x.Proposals {
		if t.Origin == p.Origin {
			return t
		}
	}
	s := r.sentOf(p.Origin)
	t := &proposalCounts{
		Private: p.Name, Origin: p.Origin, Upstream: p.Upstream, First: s.Next, Next: s.Next,
		Again: len(s.Again), Work: slices.Clone(s.Again), List: []taken{}, Unsent: []unsent{},
	}
	x.Proposals = append(x.Proposals, t)
	return t
}

// submission submits the proposals of one private log. Those that are done out of turn wait for the ones
// before them, so that one number says what is recorded.
type submission struct {
	r   *Reconciler
	x   *run
	p   *Private
	t   *proposalCounts
	end uint64 // index

	stuck bool // it paused again and again: what fails is left for the next time

	results chan result
	taken   atomic.Int64 // entries that the log took, or refused
	last    atomic.Int64 // Unix nanoseconds of when it last did, or of the begin
}

// result is what became of one entry.
type result struct {
	at      int // its place in the work
	index   uint64
	receipt *Receipt
	unsent  *unsent
	err     error // the run cannot go on
}

// index is the entry at a place: those from the last time come first.
func (t *proposalCounts) index(at int) uint64 {
	if at < len(t.Work) {
		return t.Work[at]
	}
	return t.First + uint64(at-len(t.Work))
}

func (s *submission) run(ctx context.Context) error {
	total := len(s.t.Work) + int(max(s.end, s.t.First)-s.t.First)
	s.last.Store(time.Now().UnixNano())
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next, under := s.t.Done, 0
	waiting := map[int]result{}
	var failed error
	for {
		for failed == nil && ctx.Err() == nil && under < s.r.cfg.AtOnce && next < total && next < s.t.Done+window {
			at := next
			go func() { s.results <- s.one(inner, at) }()
			next++
			under++
		}
		if under == 0 {
			break
		}
		got := <-s.results
		under--
		if got.err != nil {
			if failed == nil {
				failed = got.err
				cancel(got.err) // what is under way is not worth waiting for: it is answered the next time
			}
			continue
		}
		waiting[got.at] = got
		if err := s.record(waiting, under > 0); err != nil {
			cancel(err)
			for ; under > 0; under-- {
				<-s.results
			}
			return err
		}
	}
	if err := s.record(waiting, false); err != nil {
		return err
	}
	if failed == nil && ctx.Err() != nil {
		failed = context.Cause(ctx)
	}
	return failed
}

// one submits the entry at a place.
func (s *submission) one(ctx context.Context, at int) result {
	index := s.t.index(at)
	out := result{at: at, index: index}
	without := func(code string, status int, text string) result {
		out.unsent = &unsent{index, index, code, status, plain(text, maxRefusal)}
		return out
	}
	if s.p.own(index) {
		return out
	}
	proposal, err := s.p.Proposal(index)
	switch {
	case ctx.Err() != nil:
		out.err = context.Cause(ctx)
		return out
	case err != nil:
		return without(codeUnreadable, 0, err.Error())
	case proposal == nil:
		return without(codeNotKept, 0, "no proposal is kept: it never was, or its time is over")
	}
	taken := s.taken.Load()
	for try := 0; ; try++ {
		receipt, err := s.try(ctx, proposal)
		refused, is := errors.AsType[*RefusedError](err)
		switch {
		case err == nil:
			out.receipt = &receipt
			return out
		case is:
			return without(codeRefused, refused.Status, refused.Text)
		case ctx.Err() != nil:
			out.err = context.Cause(ctx)
			return out
		case as[*storageError](err):
			out.err = err
			return out
		case try+1 >= enoughTries && s.taken.Load() > taken, try > 0 && s.stuck:
			return without(codeFailed, 0, err.Error())
		}
		after := retryAfter(err)
		if idle := time.Since(time.Unix(0, s.last.Load())); idle+after > s.r.giveUp {
			out.err = &pausedError{fmt.Errorf("submit entry %d of the private log %s: %w", index, s.p.Name, err), after}
			return out
		}
		s.r.pace.hold(after)
		if err := pause(ctx, s.r.backoff(try)); err != nil {
			out.err = err
			return out
		}
	}
}

// try submits once, in its turn.
func (s *submission) try(ctx context.Context, proposal []byte) (Receipt, error) {
	if err := s.r.pace.turn(ctx); err != nil {
		return Receipt{}, err
	}
	receipt, err := s.p.Submit.Submit(ctx, proposal)
	if err == nil || as[*RefusedError](err) {
		s.taken.Add(1)
		s.last.Store(time.Now().UnixNano())
	}
	if err == nil && receipt.Duplicate {
		// That was two requests. The receipt is good also if this is cut short.
		_ = s.r.pace.turn(ctx)
	}
	return receipt, err
}

// record records what is done without a gap; while more is under way, only if it is worth a row.
func (s *submission) record(waiting map[int]result, more bool) error {
	for {
		ready := 0
		for ready < perRow {
			if _, ok := waiting[s.t.Done+ready]; !ok {
				break
			}
			ready++
		}
		if ready == 0 || more && ready < perRow && len(s.results) > 0 {
			return nil
		}
		group := make([]result, ready)
		for i := range group {
			group[i] = waiting[s.t.Done+i]
			delete(waiting, s.t.Done+i)
		}
		if err := s.keep(group); err != nil {
			return err
		}
	}
}

// keep records entries with their receipts, beside the private ones.
func (s *submission) keep(group []result) error {
	r, t := s.r, s.t
	state := r.sentOf(t.Origin)
	state.Again = slices.Clone(state.Again)
	if err := t.tooMany(len(state.Again), group); err != nil {
		return err
	}
	records := map[string][]byte{}
	submitted := row{Event: "submitted", Private: t.Private, Origin: t.Origin}
	refused := row{Event: "refused", Private: t.Private, Origin: t.Origin}
	for _, one := range group {
		t.Done++
		t.Total++
		if one.index >= state.Next {
			state.Next = one.index + 1
		} else {
			state.Again = slices.DeleteFunc(state.Again, func(i uint64) bool { return i == one.index })
		}
		if one.receipt != nil {
			put(records, proofName(t.Origin, one.index), one.receipt)
			submitted.Entries = append(submitted.Entries, t.took(one))
			continue
		}
		if one.unsent == nil { // of our own
			t.Total--
			continue
		}
		t.missed(one.unsent)
		if one.unsent.again() {
			state.Again = append(state.Again, one.index)
		}
		refused.Refused = join(refused.Refused, *one.unsent, len(group))
		t.Unsent = join(t.Unsent, *one.unsent, listed)
	}
	t.Next, submitted.Next, refused.Next = state.Next, state.Next, state.Next
	put(records, sentRecord+t.Origin, state)
	var rows []row
	if len(submitted.Entries) > 0 {
		rows = append(rows, submitted)
		s.x.Stuck = 0
	}
	if len(refused.Refused) > 0 {
		rows = append(rows, refused)
	}
	if len(rows) == 0 { // all of our own: there is nothing to say but how far it is
		rows = append(rows, submitted)
	}
	if err := r.keep(s.x, records, rows...); err != nil {
		return err
	}
	r.mu.Lock()
	r.sent[t.Origin] = &state
	r.mu.Unlock()
	r.cfg.Metrics.sent(group)
	r.show(s.x)
	return nil
}

// tooMany says why a run cannot go on: if nearly all fails, that is not because of the entries.
func (t *proposalCounts) tooMany(known int, group []result) error {
	for _, one := range group {
		if one.unsent == nil || !one.unsent.again() {
			continue
		}
		if known++; known > manyFail {
			return &pausedError{cause: fmt.Errorf("more than %d entries of the private log %s cannot be submitted, entry %d because of: %s", manyFail, t.Private, one.index, one.unsent.Text)}
		}
	}
	return nil
}

// again says whether an entry is to be tried again the next time.
func (u *unsent) again() bool { return u.Code == codeUnreadable || u.Code == codeFailed }

// took counts an entry that was submitted.
func (t *proposalCounts) took(one result) taken {
	r := one.receipt
	t.Submitted++
	if r.Duplicate {
		t.Duplicates++
	}
	if !r.Extends {
		t.Late++
	}
	s := taken{one.index, r.LogIndex, r.UUID, r.IntegratedTime, r.Duplicate, r.Extends}
	if len(t.List) < listed {
		t.List = append(t.List, s)
	}
	return s
}

// missed counts one that was not.
func (t *proposalCounts) missed(u *unsent) {
	switch u.Code {
	case codeRefused:
		t.Refused++
	case codeNotKept:
		t.NotKept++
	case codeUnreadable:
		t.Unreadable++
	default:
		t.Failed++
	}
}

// join appends an entry to a list of at most so many, or to the range that ends before it for the same
// reason.
func join(list []unsent, u unsent, most int) []unsent {
	if n := len(list); n > 0 {
		last := &list[n-1]
		if last.Last+1 == u.Index && last.Code == u.Code && last.Status == u.Status && last.Text == u.Text {
			last.Last = u.Last
			return list
		}
		if n >= most {
			return list
		}
	}
	return append(list, u)
}

// closeExceptions closes what weakened verification, unless something else is still away.
func (r *Reconciler) closeExceptions(x *run) error {
	if r.cfg.CloseExceptions == nil {
		x.Phase = phaseReport
		return nil
	}
	x.Exceptions.Kept = ""
	for _, s := range r.cfg.Monitor.Status() {
		switch s.State {
		case outage.Fallback, outage.Recovering, outage.Quarantined:
			if x.Log == "" || !belongs(s.Component, x.Log) {
				x.Exceptions.Kept = fmt.Sprintf("%s is in %s, and they are closed after that", s.Component, s.State)
			}
		}
	}
	body := row{Event: "exceptions", Text: x.Exceptions.Kept}
	if x.Exceptions.Kept == "" {
		n, err := r.cfg.CloseExceptions("the public log was reconciled (" + x.ID + ")")
		if err != nil {
			return fmt.Errorf("close exceptions: %w", err)
		}
		x.Exceptions.Closed += n
		body.Closed = &n
	}
	x.Phase = phaseReport
	return r.keep(x, nil, body)
}
