package drill

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

const (
	serveEvery   = 500 * time.Millisecond
	serveTime    = 5 * time.Second // for one proof
	controlEvery = 5 * time.Second
	lookEvery    = 100 * time.Millisecond // for what tells nobody that it has changed
	watchEvery   = time.Second
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

// watchClock ends the faults when the wall clock has passed their end, however it came there. (The
// switchboard ends them by the time that has gone by.)
func (d *drill) watchClock(ctx context.Context) {
	every(ctx, watchEvery, func() bool {
		if d.r.cfg.Now().Before(d.result.Until) {
			return true
		}
		if time.Since(d.arming.began) < d.request.For-2*watchEvery {
			d.abort(codeClock, "the clock of this machine has jumped over the end of the drill")
		}
		d.revert()
		return false
	}, d.ended)
}

// askProofs asks this daemon for proofs, at a fixed pace, until ctx ends.
func (d *drill) askProofs(ctx context.Context) {
	every(ctx, serveEvery, func() bool {
		ask, cancel := context.WithTimeout(ctx, serveTime)
		defer cancel()
		stale, err := d.r.cfg.Serve(ask)
		if ctx.Err() != nil {
			return false
		}
		d.served(stale, err)
		if d.stage != nil {
			d.served(0, d.stage.serve())
		}
		return true
	}, nil)
}

func (d *drill) served(stale time.Duration, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	m := &d.measures
	if d.over {
		return
	}
	if err != nil {
		m.failed++
		m.lastFailure = err.Error()
		return
	}
	m.served++
	m.stale = max(m.stale, stale)
}

// askControl asks upstream past the faults. Twice in a row without an answer is an outage.
func (d *drill) askControl(ctx context.Context) {
	bad := map[string]int{}
	every(ctx, controlEvery, func() bool {
		for _, p := range d.parts {
			err := d.r.control(ctx, p.name)
			switch {
			case ctx.Err() != nil:
				return false
			case err == nil:
				bad[p.name] = 0
				continue
			}
			if bad[p.name]++; bad[p.name] >= 2 {
				d.abort(codeOutage, fmt.Sprintf("%s is away in earnest: %v", p.name, err))
			}
		}
		return true
	}, nil)
}

// every calls f at a pace until it returns false, ctx ends or stop is closed.
func every(ctx context.Context, pace time.Duration, f func() bool, stop <-chan struct{}) {
	ticker := time.NewTicker(pace)
	defer ticker.Stop()
	for f() {
		select {
		case <-ctx.Done():
			return
		case <-stop:
			return
		case <-ticker.C:
		}
	}
}

// watch looks on until the faults have ended.
func (d *drill) watch(ctx context.Context) error {
	told := false
	for {
		changes := d.r.cfg.Monitor.Changes()
		d.look(ctx)
		if !told && d.detected() {
			told = true
			if err := d.r.history.row("detected", d.now().Result); err != nil {
				return err
			}
		}
		select {
		case <-d.ended:
			d.look(ctx) // what came at the last moment
			return nil
		case <-changes:
		case <-time.After(lookEvery):
		}
	}
}

// settle looks on until all is as it was, or patience ends.
func (d *drill) settle(ctx context.Context) {
	began := time.Now()
	for {
		changes := d.r.cfg.Monitor.Changes()
		if d.look(ctx) || time.Since(began) >= d.waits() || d.aborted() != nil && !d.isOver() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-changes:
		case <-time.After(lookEvery):
		}
	}
}

// waits is how long settle does.
func (d *drill) waits() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.patience(d.measures.flapLevel)
}

// detected says whether all that is disturbed is known to be.
func (d *drill) detected() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stage != nil {
		return d.measures.fork.noticed != nil
	}
	return len(d.measures.left) == len(d.parts)
}

// look notes how things are. After the end of the faults, it returns whether all is as it was.
func (d *drill) look(ctx context.Context) (settled bool) {
	all := d.r.cfg.Monitor.Status()
	open := d.r.cfg.FallenBack != nil && d.r.cfg.FallenBack()
	d.mu.Lock()
	ended, began := !d.endedAt.IsZero(), d.result.Started
	d.mu.Unlock()
	reconciled := ended && d.reconcile && d.r.cfg.Reconciled(began)
	var astray []outage.Status
	d.mu.Lock()
	m := &d.measures
	m.open, m.reconciled = open, reconciled
	settled = ended && (!open || m.wasOpen || !d.log)
	for _, s := range all {
		if slices.ContainsFunc(d.parts, func(p part) bool { return p.name == s.Component }) {
			settled = d.lookAt(s) && settled
			if s.State == outage.Quarantined {
				astray = append(astray, s)
			}
		} else if s.State != outage.Live {
			astray = append(astray, s)
		}
	}
	if !ended && open && m.opened == nil && !m.wasOpen {
		m.opened = new(time.Since(d.arming.began))
	}
	if m.wasOpen && !ended {
		m.opened, m.closed = new(time.Duration(0)), m.closed || !open
	}
	if len(m.fell) > 0 && d.reconcile {
		settled = settled && reconciled
	}
	if d.stage != nil {
		m.fork.look(d.stage, time.Since(d.arming.began), ended)
	}
	if settled && m.settled == nil && ended {
		m.settled = new(time.Since(d.endedAt))
	}
	d.mu.Unlock()
	for _, s := range astray {
		d.astray(ctx, s)
	}
	return settled
}

// lookAt notes how a component that is disturbed is. d.mu is held.
func (d *drill) lookAt(s outage.Status) (settled bool) {
	m, name := &d.measures, s.Component
	m.state[name], m.flapLevel = s.State, max(m.flapLevel, s.FlapLevel)
	if d.endedAt.IsZero() {
		since := time.Since(d.arming.began)
		if _, ok := m.left[name]; !ok && s.State != outage.Live {
			m.left[name], m.causes[name] = since, s.Cause
		}
		if _, ok := m.fell[name]; !ok && s.State == outage.Fallback {
			m.fell[name], m.causes[name] = since, s.Cause
		}
		return false
	}
	// A budget remembers errors for longer than upstream makes them.
	back := s.State == outage.Live || s.State == outage.Degraded && s.Cause.Code == outage.CodeBurnRate
	if _, ok := m.recovered[name]; !ok && (back || s.State == outage.Recovering) {
		m.recovered[name] = time.Since(d.endedAt)
	} else if s.State == outage.Fallback {
		delete(m.recovered, name)
	}
	return back
}

// astray judges a component that the drill does not disturb, and that is not live, or one that only
// upstream itself can bring into its state.
func (d *drill) astray(ctx context.Context, s outage.Status) {
	if d.aborted() != nil || d.isOver() {
		return
	}
	sibling := slices.ContainsFunc(d.parts, func(p part) bool { return logOf(p.name) == logOf(s.Component) })
	switch {
	case s.State == outage.Quarantined:
		d.abort(codeOutage, fmt.Sprintf("%s is quarantined, and no drill does that: %s", s.Component, s.Cause.Text))
		return
	case s.State != outage.Fallback && !sibling:
		return // somebody else's bad minute
	}
	// Either upstream is away in earnest, or the faults reach further than they should.
	if err := d.r.control(ctx, s.Component); err != nil {
		d.abort(codeOutage, fmt.Sprintf("%s, which the drill does not disturb, is away in earnest: %v", s.Component, err))
		return
	}
	text := fmt.Sprintf("%s was not disturbed, and became %s while its upstream answered", s.Component, s.State)
	d.mu.Lock()
	if !slices.Contains(d.measures.astray, text) {
		d.measures.astray = append(d.measures.astray, text)
	}
	d.mu.Unlock()
	if s.State == outage.Fallback {
		d.revert()
	}
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
