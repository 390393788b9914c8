package reconcile

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
)

// batch is how many decisions one row is about, at most.
const batch = 256

// decisions are the rows "decision" of the ledger that are not reconciled.
type decisions struct {
	mu      sync.Mutex
	pending []decision // in their order
	scanned uint64     // last row that was looked at
}

// decision is what is needed of a row before it is read.
type decision struct {
	seq    uint64
	origin string
}

// decisionRow is what is read of the body of such a row.
type decisionRow struct {
	ID     string  `json:"id"`
	Origin string  `json:"origin"`
	Index  *uint64 `json:"index"`
}

func (d *decisions) left() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.pending)
}

// some returns the first decisions that a function is true of.
func (d *decisions) some(most int, want func(decision) bool) []decision {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []decision
	for _, one := range d.pending {
		if len(out) < most && want(one) {
			out = append(out, one)
		}
	}
	return out
}

// over drops decisions, which are sorted, and returns up to which row all are reconciled then.
func (d *decisions) over(seqs []uint64) (upTo uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pending = slices.DeleteFunc(d.pending, func(one decision) bool {
		_, found := slices.BinarySearch(seqs, one.seq)
		return found
	})
	return d.upToLocked()
}

// upTo is what over would return.
func (d *decisions) upTo(seqs []uint64) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, one := range d.pending {
		if _, found := slices.BinarySearch(seqs, one.seq); !found {
			return one.seq - 1
		}
	}
	return d.scanned
}

func (d *decisions) upToLocked() uint64 {
	if len(d.pending) > 0 {
		return d.pending[0].seq - 1
	}
	return d.scanned
}

func (r *Reconciler) backlogDecisions() int { return r.decisions.left() }

// loadDecisions finds what is not reconciled.
func (r *Reconciler) loadDecisions() error {
	var upTo uint64
	if _, err := r.get(decidedUpTo, &upTo); err != nil {
		return err
	}
	known := map[uint64]bool{}
	err := r.cfg.DB.RecordsFrom(decidedRecord, decidedName(upTo), func(name string, _ []byte) error {
		seq, err := strconv.ParseUint(strings.TrimPrefix(name, decidedRecord), 10, 64)
		known[seq] = true
		return err
	})
	if err != nil {
		return err
	}
	r.decisions.scanned = upTo
	if err := r.follow(); err != nil {
		return err
	}
	r.decisions.mu.Lock()
	defer r.decisions.mu.Unlock()
	r.decisions.pending = slices.DeleteFunc(r.decisions.pending, func(d decision) bool { return known[d.seq] })
	return nil
}

// follow looks at the rows that are new.
func (r *Reconciler) follow() error {
	d := &r.decisions
	d.mu.Lock()
	from := d.scanned + 1
	d.mu.Unlock()
	var fresh []decision
	last := from - 1
	err := r.cfg.Ledger.Rows(from, func(row ledger.Row) error {
		last = row.Seq
		if row.Kind != "decision" {
			return nil
		}
		var body decisionRow
		_ = row.Decode(&body) // one that is damaged is verified again as one of no log: that says so
		fresh = append(fresh, decision{row.Seq, body.Origin})
		return nil
	})
	if err != nil {
		return &storageError{err}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.scanned+1 == from { // and nobody else was faster
		d.scanned, d.pending = last, append(d.pending, fresh...)
	}
	return nil
}

// logOfOrigin returns the public log of an origin; nil if it is of none.
func (r *Reconciler) logOfOrigin(origin string) *Upstream {
	for _, u := range r.upstreams() {
		if slices.ContainsFunc(u.Heads(), func(h Head) bool { return h.Origin == origin }) {
			return u
		}
	}
	return nil
}

// mine returns which decisions a run is about: those that rest on its log, and on none.
func (r *Reconciler) mine(x *run) func(decision) bool {
	logs := map[string]string{}
	for _, u := range r.upstreams() {
		for _, h := range u.Heads() {
			logs[h.Origin] = u.Name
		}
	}
	return func(d decision) bool {
		log, public := logs[d.origin]
		return x.Log == "" || !public || log == x.Log
	}
}

// again is what verifying decisions gave that is not recorded yet.
type again struct {
	mu      sync.Mutex // guards the fields below
	known   map[uint64]verifiedAgain
	changed map[uint64]*mirror.ChangedError // upstream gives another entry than these rest on
}

// decide verifies decisions again, in batches, until none is left.
func (r *Reconciler) decide(ctx context.Context, x *run) error {
	a := &again{known: map[uint64]verifiedAgain{}, changed: map[uint64]*mirror.ChangedError{}}
	for r.cfg.Again != nil {
		if err := r.follow(); err != nil {
			return err
		}
		mine := r.mine(x)
		some := r.decisions.some(batch, func(d decision) bool { return a.changed[d.seq] == nil && mine(d) })
		if len(some) == 0 {
			break
		}
		if err := r.retry(ctx, func(ctx context.Context) error { return r.verifyAgain(ctx, some, a) }); err != nil {
			return err
		}
		// Those stay unreconciled: nobody should think otherwise while upstream gives another entry.
		some = slices.DeleteFunc(some, func(d decision) bool { return a.changed[d.seq] != nil })
		if len(some) == 0 {
			continue
		}
		if err := r.decided(x, some, a.known); err != nil {
			return err
		}
	}
	if len(a.changed) > 0 {
		return changedEntries(x, a.changed)
	}
	x.Phase = phaseSubmit
	return nil
}

// verifyAgain verifies decisions that are not known yet. What is known when it fails stays known.
func (r *Reconciler) verifyAgain(ctx context.Context, some []decision, a *again) error {
	var group errgroup.Group
	group.SetLimit(r.cfg.AtOnce)
	for _, one := range some {
		a.mu.Lock()
		_, ok := a.known[one.seq]
		ok = ok || a.changed[one.seq] != nil
		a.mu.Unlock()
		if ok {
			continue
		}
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			d, err := r.verifyOne(ctx, one)
			a.mu.Lock()
			defer a.mu.Unlock()
			if changed, ok := errors.AsType[*mirror.ChangedError](err); ok {
				a.changed[one.seq] = changed
				return nil
			}
			if err == nil {
				a.known[one.seq] = d
			}
			return err
		})
	}
	return group.Wait()
}

// verifyOne verifies one decision again, and asks upstream for the entry that it rests on.
func (r *Reconciler) verifyOne(ctx context.Context, one decision) (verifiedAgain, error) {
	d := verifiedAgain{Seq: one.seq, Origin: one.origin, Unasked: true}
	at, found := ledger.Row{}, errors.New("found")
	err := r.cfg.Ledger.Rows(one.seq, func(row ledger.Row) error {
		at = row
		return found
	})
	if err != nil && err != found {
		return d, &storageError{err}
	}
	var body decisionRow
	if err := at.Decode(&body); err != nil {
		d.Result, d.Text = NotKept, "the row cannot be read"
		return d, nil
	}
	d.ID = body.ID
	if u := r.logOfOrigin(one.origin); u != nil && u.Recheck != nil && body.Index != nil {
		d.Index, d.Unasked = *body.Index, false
		if err := u.Recheck(ctx, one.origin, *body.Index); err != nil {
			return d, err
		}
	}
	outcome, err := r.cfg.Again(ctx, at)
	d.Result, d.Text = outcome.Result, plain(outcome.Text, maxRefusal)
	return d, err
}

// decided records what verifying a batch gave.
func (r *Reconciler) decided(x *run, some []decision, known map[uint64]verifiedAgain) error {
	seqs := make([]uint64, len(some))
	body := row{Event: "decisions", Reconcile: len(some), Upto: some[len(some)-1].seq}
	records := map[string][]byte{}
	t := &x.Decisions
	for i, one := range some {
		d := known[one.seq]
		seqs[i] = one.seq
		put(records, decidedName(one.seq), struct {
			Run string `json:"run"`
			verifiedAgain
		}{x.ID, d})
		t.Total++
		switch d.Result {
		case Same:
			t.Same++
			body.Same++
		case Differs:
			t.Differs++
		default:
			t.NotKept++
		}
		if !d.Unasked {
			t.Asked++
		}
		if d.Result != Same {
			body.Decisions = append(body.Decisions, d)
			if len(t.List) < listed {
				t.List = append(t.List, d)
			}
		}
		delete(known, one.seq)
	}
	put(records, decidedUpTo, r.decisions.upTo(seqs))
	x.Stuck = 0
	if err := r.keep(x, records, body); err != nil {
		return err
	}
	r.decisions.over(seqs)
	r.cfg.Metrics.decided(body.Same, body.Decisions)
	r.show(x)
	return nil
}

// changedEntries makes a finding of entries that upstream gives otherwise; the one with the lowest index
// is named, and the decisions that rest on any are listed.
func changedEntries(x *run, changed map[uint64]*mirror.ChangedError) error {
	var lowest *mirror.ChangedError
	indexes := map[uint64]bool{}
	for _, seq := range slices.Sorted(maps.Keys(changed)) {
		e := changed[seq]
		indexes[e.Index] = true
		if lowest == nil || e.Index < lowest.Index {
			lowest = e
		}
		if len(x.Decisions.List) < listed {
			x.Decisions.List = append(x.Decisions.List, verifiedAgain{Seq: seq, Result: Differs, Text: e.Error(), Origin: e.Origin, Index: e.Index, Changed: true})
		}
	}
	x.Decisions.Changed = len(changed)
	text := lowest.Error()
	if n := len(indexes) - 1; n > 0 {
		text += fmt.Sprintf("; %d more entries that decisions rest on are others, too", n)
	}
	found := &findingError{
		finding: finding{
			Code: outage.CodeChangedEntry, Origin: lowest.Origin, Named: true, First: lowest.Index, Next: lowest.Index + 1,
			Held: lowest.Held.String(), Text: text,
		},
	}
	if lowest.Body != nil { // else upstream gives none
		found.finding.Found, found.evidence = lowest.Theirs.String(), map[string][]byte{"answer": lowest.Body}
	}
	return found
}
