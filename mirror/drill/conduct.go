package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

const stoppedText = "the daemon stopped during the drill"

// drill is one drill under way.
type drill struct {
	expectations

	r       *Runner
	request Request
	began   chan error // gets one value: how the beginning went
	stage   *stage     // of a fork
	arming  *arming
	seq     uint64 // of its first row

	ended chan struct{} // closed when the faults have ended

	mu       sync.Mutex // guards the fields below; never held during I/O
	result   Result
	measures measures
	endedAt  time.Time
	cause    *outage.Cause // why it was aborted; the first reason stands
	over     bool
}

// conduct runs a drill to its end. It returns an error only when the database can no longer be
// written.
func (r *Runner) conduct(ctx context.Context, d *drill) (err error) {
	defer r.release()
	defer func() {
		if d.stage != nil {
			d.stage.close()
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			d.panicked(p)
			select {
			case d.began <- fmt.Errorf("%w: the drill panicked: %v", ErrUnfit, p):
			default:
			}
			if d.seq > 0 {
				err = r.finish(d)
			}
		}
	}()
	// That the daemon stops ends the faults at once, whatever this goroutine is doing.
	defer context.AfterFunc(ctx, func() { d.abort(codeStopped, stoppedText) })()
	working, cancel := context.WithCancel(ctx)
	var hands sync.WaitGroup
	defer func() { // also of a panic: first the faults end, then nobody is waited for in vain
		d.revert()
		cancel()
		hands.Wait()
	}()

	if refused, broken := r.begin(working, d); refused != nil || broken != nil {
		d.began <- errors.Join(refused, broken)
		return broken
	}
	for _, task := range []func(context.Context){d.watchClock, d.askProofs, d.askControl} {
		hands.Go(func() { d.guarded(func() { task(working) }) })
	}
	d.began <- nil
	r.cfg.Logger.Warn("a drill begins: what is told of these components from now on is rehearsed", "drill", d.result.ID, "scenario", d.scenario.Name,
		"components", d.result.Components, "for", d.request.For, "ticket", d.request.Ticket, "by", d.request.By)

	if err := d.watch(ctx); err != nil {
		return err
	}
	if err := r.history.row("reverted", d.now().Result); err != nil {
		return err
	}
	d.settle(ctx)
	if ctx.Err() != nil { // before anything is scored that had no time to happen
		d.abort(codeStopped, stoppedText)
	}
	if err := r.finish(d); err != nil {
		return err
	}
	if d.aborted() != nil {
		// The result stands. But until the components are as they were, the place is taken, and what
		// they do is laid to this drill.
		d.settle(ctx)
	}
	return nil
}

// begin makes what the drill needs, records that it begins, and arms the faults. refused is why it
// does not begin, broken an error of the database.
func (r *Runner) begin(ctx context.Context, d *drill) (refused, broken error) {
	faults, clocks := map[string]fault{}, map[string]time.Duration{}
	for _, p := range d.parts {
		if d.scenario.clock != 0 {
			clocks[p.name] = d.scenario.clock
		}
		if d.scenario.fault == nil {
			continue
		}
		f, err := d.scenario.fault(r, p.name)
		if err != nil {
			return err, nil
		}
		faults[p.name] = f
	}
	if err := d.prepare(ctx, faults); err != nil {
		return err, nil
	}
	seq, err := r.history.start(d.result)
	if err != nil {
		return nil, err
	}
	d.seq = seq
	r.mu.Lock()
	r.active = d
	r.mu.Unlock()
	if !d.arm(faults, clocks) {
		d.abort(codeAborted, "other faults were in force")
		return ErrStopped, r.finish(d)
	}
	r.cfg.Metrics.begins(d.scenario.Name)
	return nil, nil
}

// arm puts the faults in force, unless the drill has ended before that.
func (d *drill) arm(faults map[string]fault, clocks map[string]time.Duration) (ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.endedAt.IsZero() {
		return false
	}
	d.arming, ok = d.r.cfg.Faults.arm(faults, clocks, d.request.For, d.revert)
	return ok
}

// prepare fills in what the result says from the beginning, and makes the log of a fork.
func (d *drill) prepare(ctx context.Context, faults map[string]fault) error {
	r := d.r
	number := r.history.next()
	now := r.cfg.Now().UTC().Round(0)
	d.result = Result{
		ID: fmt.Sprintf("drill-%d", number), Number: number, Scenario: d.scenario.Name, Ticket: d.request.Ticket, By: d.request.By,
		Outcome: outcomeRunning, Started: now, Until: now.Add(d.request.For), Components: []string{}, Failures: []string{},
	}
	t := &d.result.Targets
	t.Detect, t.FallBack, t.Recover, t.Reconcile = (d.targets.Detect + d.slack).Seconds(), (d.targets.FallBack + d.slack).Seconds(), d.recoverWithin(0).Seconds(), d.targets.Reconcile.Seconds()
	d.measures = measures{state: map[string]outage.State{}, left: map[string]time.Duration{}, fell: map[string]time.Duration{}, recovered: map[string]time.Duration{}, causes: map[string]outage.Cause{}, lapses: map[string]int{}}
	for _, p := range d.parts {
		d.result.Components = append(d.result.Components, p.name)
	}
	if r.cfg.FallenBack != nil {
		d.measures.wasOpen = r.cfg.FallenBack()
	}
	if !d.scenario.fork {
		return nil
	}
	var err error
	if d.stage, err = r.newStage(ctx, d.result.ID); err != nil {
		return fmt.Errorf("%w: the log of the drill could not be made: %w", ErrUnfit, err)
	}
	faults[d.stage.component] = d.stage.forked
	d.result.Components = append(d.result.Components, d.stage.component)
	d.measures.fork = &forkSeen{}
	return nil
}

// revert ends the faults. It may be called by anybody, and again.
func (d *drill) revert() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.arming != nil {
		d.r.cfg.Faults.disarm(d.arming)
	}
	if d.endedAt.IsZero() {
		d.endedAt = time.Now()
		d.result.Reverted = d.r.cfg.Now().UTC().Round(0)
		close(d.ended)
	}
}

// abort ends the drill before its time.
func (d *drill) abort(code, text string) {
	d.mu.Lock()
	if d.cause == nil && !d.over {
		d.cause = &outage.Cause{Code: code, Text: text}
	}
	d.mu.Unlock()
	d.revert()
}

func (d *drill) aborted() *outage.Cause {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cause
}

// isOver says whether the result stands.
func (d *drill) isOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// now returns what is known so far.
func (d *drill) now() Active {
	d.mu.Lock()
	defer d.mu.Unlock()
	a := Active{Result: d.result, Settling: !d.endedAt.IsZero()}
	if !d.over {
		d.measures.fill(&a.Result, &d.expectations)
	}
	a.Causes = maps.Clone(a.Causes)
	return a
}

// guarded runs a part of the drill; a panic in it aborts the drill.
func (d *drill) guarded(f func()) {
	defer func() {
		if p := recover(); p != nil {
			d.panicked(p)
		}
	}()
	f()
}

func (d *drill) panicked(p any) {
	d.abort(codePanic, fmt.Sprint("the drill panicked: ", p))
	d.r.cfg.Logger.Error("a drill panicked; its faults have ended", "drill", d.result.ID, "panic", p, "stack", string(debug.Stack()))
}

// finish makes the result, and records it.
func (r *Runner) finish(d *drill) error {
	lapses, err := r.history.lapses(d.seq, d.parts)
	if err != nil {
		return err
	}
	d.mu.Lock()
	m := &d.measures
	m.lapses = lapses
	m.stuck = d.arming != nil && r.cfg.Faults.armed.Load() == d.arming
	m.fill(&d.result, &d.expectations)
	d.result.Ended = r.cfg.Now().UTC().Round(0)
	event := "done"
	switch missed := m.score(&d.expectations); {
	case d.cause != nil: // it had no time to meet them all
		event, d.result.Outcome, d.result.Cause = "aborted", outcomeAborted, d.cause
		d.result.Failures = append([]string{}, m.scoreServed()...)
	case len(missed) > 0:
		d.result.Outcome, d.result.Failures = outcomeFailed, missed
	default:
		d.result.Outcome = outcomePassed
	}
	d.over = true
	res := d.result
	d.mu.Unlock()
	r.cfg.Metrics.ends(&res)
	if err := r.history.keep(event, res); err != nil {
		return err
	}
	r.cfg.Logger.Info("a drill has ended", "drill", res.ID, "scenario", res.Scenario, "outcome", res.Outcome, "failures", res.Failures, "elapsed", res.Ended.Sub(res.Started))
	return nil
}
