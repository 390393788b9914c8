package outage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// prober says when a component is probed. Times are by the monotonic clock.
type prober struct {
	due      time.Duration // when the next one starts
	started  time.Duration // when the last one did
	silent   time.Duration // until when upstream asked not to be asked
	underWay []*probe      // not more than Settings.underWay
}

// probe is one that has not returned.
type probe struct {
	started time.Duration
	overdue bool // it has been counted as failed
}

// overdueAfter is how long after its time-out a probe is counted as failed though it has not returned.
const overdueAfter = 50 * time.Millisecond

// jitter is a bit of the time between two probes.
func (s *Settings) jitter() time.Duration {
	return time.Duration(rand.Int64N(int64(s.ProbeEvery/10) + 1))
}

// wait makes probes wait as upstream asked.
func (p *prober) wait(until time.Duration) { p.silent = max(p.silent, until) }

// suspect makes the next probe due soon, because something failed.
func (p *prober) suspect(s *Settings) { p.due = min(p.due, p.started+max(s.Suspicion, s.ProbeEvery/2)) }

// asksSoon says that it is not yet clear that a component is away.
func asksSoon(s State) bool { return s == Live || s == Degraded || s == Recovering }

// watch starts the probes that are due, and takes the steps that time brings.
func (m *Monitor) watch(ctx context.Context) error {
	var probes sync.WaitGroup
	defer probes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-m.wake:
		}
		start, next := m.pass()
		for _, begin := range start {
			probes.Go(func() { begin(ctx) })
		}
		timer.Reset(next)
	}
}

// atLeastEvery is how often the wall clock and the budgets are looked at.
const atLeastEvery = time.Second

// pass looks at all components once. It returns the probes to start, and after what time to look again.
func (m *Monitor) pass() (start []func(context.Context), next time.Duration) {
	m.mu.Lock()
	all := m.all[:len(m.all):len(m.all)]
	m.mu.Unlock()
	sizes, ended := make([]uint64, len(all)), make([]bool, len(all))
	for i, c := range all {
		if c.Size != nil {
			sizes[i] = c.Size()
		}
		ended[i] = c.Ended != nil && c.Ended()
	}
	wall := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.at(wall)
	next = atLeastEvery
	for i, c := range all {
		c.ended = ended[i]
		if sizes[i] != c.size {
			c.size, c.grew = sizes[i], now.mono
		}
		m.weighLocked(c, now)
		m.cfg.Metrics.weighed(c.Name, c.burned.burn(now.mono, m.settings.SLO), c.flapLevel(&m.settings, now))
		if c.Force != nil && c.pending == nil {
			next = min(next, c.forceEnd-now.mono)
		}
		if c.Probe == nil {
			continue
		}
		if p := m.probeLocked(c, now); p != nil {
			start = append(start, func(ctx context.Context) { m.probe(ctx, c, p) })
		}
		next = min(next, c.probes.next(&m.settings, &c.position)-now.mono)
	}
	rows, _ := m.cfg.Ledger.Head()
	m.cfg.Metrics.rows(rows)
	return start, max(next, time.Millisecond)
}

// probeLocked returns the probe to start now, if one is due.
func (m *Monitor) probeLocked(c *component, now instant) *probe {
	s, p := &m.settings, &c.probes
	for _, u := range p.underWay {
		if !u.overdue && now.mono-u.started >= s.ProbeTimeout+overdueAfter {
			u.overdue = true
			m.failedLocked(c, fmt.Errorf("no answer in %s: %w", s.ProbeTimeout, context.DeadlineExceeded), u, now)
		}
	}
	if at, is := p.suspicion(s, &c.position); is && at <= now.mono {
		p.due = min(p.due, now.mono)
	}
	if p.due > now.mono {
		return nil
	}
	if p.silent > now.mono {
		if p.silent-now.mono <= s.ProbeEvery {
			p.due = p.silent // a short while says nothing
			return nil
		}
		// Nothing is sent. It does not answer us all the same; the share of errors and the budget stay out of it.
		p.due, p.started = now.mono+s.ProbeEvery-s.jitter(), now.mono
		text := fmt.Sprintf("upstream asked not to be asked for another %s", (p.silent - now.mono).Round(time.Second))
		m.noteLocked(c, observed{started: now.mono, cause: Cause{CodeRateLimited, text}}, now)
		return nil
	}
	if len(p.underWay) >= s.underWay() {
		return nil // one that returns makes watch look again
	}
	begun := &probe{started: now.mono}
	p.underWay = append(p.underWay, begun)
	p.due, p.started = now.mono+s.ProbeEvery-s.jitter(), now.mono
	return begun
}

// suspicion says when the last probe has been without an answer for too long, if it still is and nothing
// else was answered since.
func (p *prober) suspicion(s *Settings, at *position) (time.Duration, bool) {
	if len(p.underWay) == 0 || len(p.underWay) >= s.underWay() || !asksSoon(at.State) {
		return 0, false
	}
	last := p.underWay[len(p.underWay)-1]
	return last.started + s.Suspicion, last.started == p.started && at.lastGood < last.started
}

// next is when probeLocked has something to do, unless a probe returns before.
func (p *prober) next(s *Settings, at *position) time.Duration {
	next := time.Duration(1<<62 - 1)
	if len(p.underWay) < s.underWay() {
		next = p.due
	}
	for _, u := range p.underWay {
		if !u.overdue {
			next = min(next, u.started+s.ProbeTimeout+overdueAfter)
		}
	}
	if at, is := p.suspicion(s, at); is {
		next = min(next, at)
	}
	return next
}

// probe asks upstream, and tells what came.
func (m *Monitor) probe(ctx context.Context, c *component, p *probe) {
	asking, cancel := context.WithTimeout(ctx, m.settings.ProbeTimeout)
	defer cancel()
	err := c.Probe(asking)
	stopped := ctx.Err() != nil // then it failed because of us
	wall := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.at(wall)
	c.probes.underWay = slices.DeleteFunc(c.probes.underWay, func(u *probe) bool { return u == p })
	switch {
	case p.overdue, stopped:
	case err != nil:
		m.failedLocked(c, err, p, now)
	default:
		c.lastProbe = now.stamp()
		m.cfg.Metrics.probed(c.Name, now.mono-p.started)
		m.observeLocked(c, nil, now.mono-p.started, true, now)
	}
	notify(m.wake)
}

// failedLocked counts a probe that failed.
func (m *Monitor) failedLocked(c *component, err error, p *probe, now instant) {
	c.lastProbe = now.stamp()
	m.cfg.Metrics.probed(c.Name, now.mono-p.started)
	m.observeLocked(c, err, now.mono-p.started, true, now)
	if asksSoon(c.State) {
		c.probes.due = min(c.probes.due, now.mono+m.settings.Suspicion)
	}
}
