package reconcile

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
)

const (
	listedPauses = 20
	mostRounds   = 5 // through decisions and proposals, as others come in meanwhile
)

// pausedError says that a run cannot go on now.
type pausedError struct {
	cause error
	after time.Duration // what upstream asked for
}

func (e *pausedError) Error() string { return e.cause.Error() }
func (e *pausedError) Unwrap() error { return e.cause }

// findingError says that a log contradicts itself.
type findingError struct {
	finding  finding
	evidence map[string][]byte
}

func (e *findingError) Error() string { return e.finding.Text }

// execute goes on with a run until it is over or pauses. It returns an error of the database alone.
func (r *Reconciler) execute(ctx context.Context, x *run) error {
	defer func() {
		r.mu.Lock()
		r.active, r.progress = nil, nil
		r.mu.Unlock()
	}()
	began := time.Now()
	err := r.guarded(ctx, x)
	for as[*findingError](err) {
		found, _ := errors.AsType[*findingError](err)
		if err = r.quarantine(x, found); err == nil {
			err = r.guarded(ctx, x)
		}
	}
	if storage, ok := errors.AsType[*storageError](err); ok {
		return storage
	}
	if err != nil && ctx.Err() != nil {
		return nil // it goes on after the next start
	}
	if err != nil {
		return r.paused(x, err)
	}
	r.cfg.Logger.Info("reconciliation is over", "id", x.ID, "log", x.Log, "elapsed", time.Since(began))
	return nil
}

// guarded goes through what is left of a run while its log is there. Once it is to be quarantined that
// does not matter any more.
func (r *Reconciler) guarded(ctx context.Context, x *run) error {
	if x.Finding != nil {
		return r.phases(ctx, x)
	}
	inner, cancel := context.WithCancelCause(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.guard(inner, x.Log, cancel)
	}()
	err := r.phases(inner, x)
	cancel(nil)
	<-ended
	return err
}

// guard ends a run when its log goes away, or is quarantined by somebody else.
func (r *Reconciler) guard(ctx context.Context, log string, cancel context.CancelCauseFunc) {
	for ctx.Err() == nil {
		changed := r.cfg.Monitor.Changes()
		if c := stateOf(r.cfg.Monitor.Status(), log); c.away() {
			var why error = &pausedError{cause: errors.New(c.text)}
			if u := r.upstream(log); u != nil && c.quarantined {
				if found := r.forked(ctx, u, nil); found != nil {
					why = found
				}
			}
			cancel(why)
			return
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
}

// paused records that a run cannot go on, and why.
func (r *Reconciler) paused(x *run, err error) error {
	x.Paused++
	x.Stuck++
	p := interruption{r.cfg.Now().UTC(), x.Phase, plain(err.Error(), 2*maxRefusal)}
	if len(x.Pauses) < listedPauses {
		x.Pauses = append(x.Pauses, p)
	}
	wait := min(r.pauses<<min(x.Stuck-1, 10), r.longestPause)
	if paused, ok := errors.AsType[*pausedError](err); ok {
		wait = max(wait, paused.after)
	}
	r.mu.Lock()
	r.until[x.Log] = r.cfg.Now().Add(wait)
	r.mu.Unlock()
	r.cfg.Metrics.over("failed")
	r.cfg.Logger.Warn("reconciliation pauses", "id", x.ID, "log", x.Log, "phase", x.Phase, "again_in", wait, "error", err)
	return r.keep(x, nil, row{Event: "failed", Cause: p.Cause, Phase: x.Phase})
}

// phases goes through what is left of a run.
func (r *Reconciler) phases(ctx context.Context, x *run) error {
	if x.Finding == nil && r.upstream(x.Log) != nil && r.cameBack(x) {
		x.Phase = phaseHead
		if x.Shorter != nil && stateOf(r.cfg.Monitor.Status(), x.Log).since.After(x.Shorter.Since) {
			x.Shorter = nil // it was away in between
		}
	}
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		r.show(x)
		over, err := r.phase(ctx, x)
		if over || err != nil {
			return err
		}
	}
}

// phase goes through one phase, and sets the next.
func (r *Reconciler) phase(ctx context.Context, x *run) (over bool, err error) {
	if x.Finding != nil && x.Phase != phaseAppend {
		// Again after a crash: the row is there, and the monitor may not know.
		if err := r.closeLog(x); err != nil {
			return false, err
		}
		x.Phase = phaseReport
	}
	switch x.Phase {
	case phaseHead:
		return false, r.proveHead(ctx, x)
	case phaseDecisions:
		return false, r.decide(ctx, x)
	case phaseSubmit:
		return false, r.submit(ctx, x)
	case phaseExceptions:
		return false, r.closeExceptions(x)
	case phaseReport:
		return false, r.writeReport(x)
	case phaseAppend:
		if x.Finding == nil && r.cameBack(x) {
			x.Phase = phaseHead
			return false, nil
		}
		return true, r.finish(ctx, x)
	}
	return false, &storageError{fmt.Errorf("the reconciliation %s is in a phase %q, which this version does not know: run the version that began it", x.ID, x.Phase)}
}

// cameBack says whether a component of the log of a run began to recover after its head was proven: what
// came back then may be another tree.
func (r *Reconciler) cameBack(x *run) bool {
	if r.upstream(x.Log) == nil {
		return false
	}
	return stateOf(r.cfg.Monitor.Status(), x.Log).since.After(x.HeadAt)
}

// retry calls f until it succeeds, and gives up after a while: then another log may have its turn.
func (r *Reconciler) retry(ctx context.Context, f func(context.Context) error) error {
	began := time.Now()
	for try := 0; ; try++ {
		err := f(ctx)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case final(err):
			return err
		}
		wait := max(r.backoff(try), retryAfter(err))
		if time.Since(began)+wait > r.giveUp {
			return &pausedError{err, retryAfter(err)}
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
	}
}

// final says whether it is of no use to try again.
func final(err error) bool {
	for _, is := range []bool{
		as[*storageError](err), as[*findingError](err), as[*pausedError](err), as[*mirror.ChangedError](err),
	} {
		if is {
			return true
		}
	}
	return false
}

func as[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// backoff is how long to wait after a failure, with up to 10 % more or less.
func (r *Reconciler) backoff(try int) time.Duration {
	d := min(r.first<<min(try, 20), r.longest)
	return d + time.Duration((rand.Float64()-0.5)*0.2*float64(d))
}

// quarantine records what a log contradicts itself in, before anybody is told.
func (r *Reconciler) quarantine(x *run, found *findingError) error {
	x.Finding, x.Evidence, x.Phase = &found.finding, found.evidence, phaseReport
	body := row{Event: "quarantined", Finding: x.Finding, First: found.evidence["first"], Second: found.evidence["second"]}
	if body.First == nil {
		body.First = found.evidence["answer"]
	}
	if err := r.keep(x, nil, body); err != nil {
		return err
	}
	r.cfg.Logger.Error("a public log came back and contradicts itself; it is quarantined: keep the data directory as evidence and tell the log's operator",
		"log", x.Log, "code", x.Finding.Code, "reason", x.Finding.Text)
	return nil
}

// closeLog has the monitor quarantine the log of a finding. A run about all logs finds it by the origin.
func (r *Reconciler) closeLog(x *run) error {
	log := x.Log
	if log == "" {
		u := r.logOfOrigin(x.Finding.Origin)
		if u == nil {
			return nil
		}
		log = u.Name
	}
	for _, s := range r.cfg.Monitor.Status() {
		if !belongs(s.Component, log) {
			continue
		}
		if err := r.cfg.Monitor.Quarantine(s.Component, outage.Cause{Code: x.Finding.Code, Text: x.Finding.Text}); err != nil {
			return fmt.Errorf("quarantine %s: %w", s.Component, err)
		}
	}
	return nil
}
