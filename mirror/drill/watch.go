package drill

import (
	"context"
	"fmt"
	"slices"
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
	// Once the result stands, after an abort, what was disturbed counts alone: the rest may be away in earnest.
	settled = ended && (d.over || !open || m.wasOpen || !d.log)
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
	if len(m.fell) > 0 && d.reconcile && !d.over {
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
