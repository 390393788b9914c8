package reconcile

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

// watching takes down what was held of a log when it goes away, until ctx ends: what is proven later
// begins with that.
func (r *Reconciler) watching(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := r.cfg.Monitor.Changes()
		statuses := r.cfg.Monitor.Status()
		for _, u := range r.upstreams() {
			var err error
			switch c := stateOf(statuses, u.Name); {
			case c.away():
				err = r.hold(u)
			case !c.notLive:
				err = r.letGo(u.Name)
			}
			if err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// hold takes down the heads of a log, unless they are since it was live.
func (r *Reconciler) hold(u *Upstream) error {
	r.mu.Lock()
	known := r.held[u.Name] != nil || r.runs[u.Name] != nil
	r.mu.Unlock()
	if known {
		return nil
	}
	h := &held{At: r.cfg.Now(), Heads: headsJSON(u.Heads())}
	records := map[string][]byte{}
	put(records, heldRecord+u.Name, h)
	if err := r.append(records, row{Event: "held", Log: u.Name, Heads: h.Heads}); err != nil {
		return err
	}
	r.mu.Lock()
	r.held[u.Name] = h
	r.mu.Unlock()
	return nil
}

// letGo forgets the heads of a log that was said to be away and is live again without having recovered, as after
// a forced state: what is served from then on is what the next proof has to begin with.
func (r *Reconciler) letGo(log string) error {
	r.mu.Lock()
	held := r.held[log] != nil && r.runs[log] == nil
	r.mu.Unlock()
	if !held {
		return nil
	}
	if err := r.append(map[string][]byte{heldRecord + log: {}}, row{Event: "let_go", Log: log}); err != nil {
		return err
	}
	r.mu.Lock()
	delete(r.held, log)
	r.mu.Unlock()
	return nil
}

// condition is how the components of a log are together.
type condition struct {
	components                    int
	fallback, quarantined         bool
	recovering, degraded, notLive bool
	since                         time.Time // when the last one of those that recover began to
	changed                       time.Time // when the last one changed
	text                          string    // why it is away
}

func (c condition) away() bool { return c.fallback || c.quarantined }

// stateOf returns how a log is; "" is all components, whether of a log or not.
func stateOf(statuses []outage.Status, log string) condition {
	var c condition
	for _, s := range statuses {
		if log != "" && !belongs(s.Component, log) {
			continue
		}
		c.components++
		if s.Since.After(c.changed) {
			c.changed = s.Since
		}
		switch s.State {
		case outage.Fallback:
			c.fallback = true
		case outage.Quarantined:
			c.quarantined = true
		case outage.Recovering:
			c.recovering = true
			if s.Since.After(c.since) {
				c.since = s.Since
			}
		case outage.Degraded:
			c.degraded = true
		}
		c.notLive = c.notLive || s.State != outage.Live
		if s.State == outage.Fallback || s.State == outage.Quarantined {
			c.text = fmt.Sprintf("%s is in %s: %s (%s)", s.Component, s.State, s.Cause.Text, s.Cause.Code)
		}
	}
	return c
}

// due returns the run that is to go on now, which is active then; or after what time to look again, 0 if
// only a change can make one due.
func (r *Reconciler) due() (x *run, wait time.Duration, err error) {
	statuses := r.cfg.Monitor.Status()
	r.mu.Lock()
	ask := r.request
	r.mu.Unlock()
	if ask != nil {
		x, err := r.asked(ask.log, stateOf(statuses, ask.log))
		r.mu.Lock()
		r.request = nil
		r.mu.Unlock()
		ask.answer <- err
		if storage, ok := err.(*storageError); ok {
			return nil, 0, storage
		}
		if x != nil {
			return x, 0, nil
		}
	}
	now := r.cfg.Now()
	soonest := func(at time.Time) {
		if left := max(at.Sub(now), time.Millisecond); wait == 0 || left < wait {
			wait = left
		}
	}
	for _, name := range r.logs() {
		c := stateOf(statuses, name)
		r.mu.Lock()
		paused, until, last := r.runs[name], r.until[name], r.done[name]
		r.mu.Unlock()
		if found := r.takeFound(name); found != nil {
			x, err := r.beginFound(name, paused, found)
			return x, 0, err
		}
		switch {
		case paused != nil && paused.Finding == nil && (c.away() || name == "" && c.notLive):
		case paused != nil && now.Before(until):
			soonest(until)
		case paused != nil:
			return r.activate(paused), 0, nil
		case name == "" || c.away() || !c.recovering:
		case last != nil && last.Outcome == outcomeDone && !last.HeadAt.Before(c.since):
			r.live(name, statuses, last.HeadAt)
		default:
			x, err := r.begin(name, kindRecovery)
			return x, 0, err
		}
	}
	if c := stateOf(statuses, ""); !c.notLive && !r.anyPaused() {
		if !r.leftOver(statuses) {
			return nil, wait, nil
		}
		if at := c.changed.Add(r.settle); now.Before(at) {
			soonest(at)
			return nil, wait, nil
		}
		x, err := r.begin("", kindLeftOver)
		return x, 0, err
	}
	return nil, wait, nil
}

// asked begins what an operator asked for.
func (r *Reconciler) asked(log string, c condition) (*run, error) {
	switch {
	case c.quarantined:
		return nil, fmt.Errorf("%q: %w", log, ErrQuarantined)
	case c.fallback:
		return nil, fmt.Errorf("%q: %w", log, ErrAway)
	}
	r.mu.Lock()
	paused := r.runs[log]
	r.mu.Unlock()
	if paused != nil {
		return r.activate(paused), nil
	}
	return r.begin(log, kindOperator)
}

func (r *Reconciler) anyPaused() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.runs) > 0
}

// leftOver says whether something of before is not reconciled although all is live: decisions, what was
// logged privately before the log was live again, or exceptions that were kept open.
func (r *Reconciler) leftOver(statuses []outage.Status) bool {
	if r.cfg.Again != nil && r.decisions.left() > 0 {
		return true
	}
	r.mu.Lock()
	owed := slices.ContainsFunc(r.logs(), func(name string) bool { return r.done[name] != nil && r.done[name].Exceptions })
	r.mu.Unlock()
	if owed {
		return true
	}
	for i := range r.cfg.Privates {
		p := &r.cfg.Privates[i]
		if r.owed(p, statuses) > r.sentOf(p.Origin).Next {
			return true
		}
	}
	return false
}

// owed returns the end of what was logged privately until the public log was live again, after it was
// reconciled: 0 if that did not end well. What is logged later is in both logs, or was meant for one.
func (r *Reconciler) owed(p *Private, statuses []outage.Status) uint64 {
	r.mu.Lock()
	last, next := r.done[p.Upstream], r.sent[p.Origin].Next
	r.mu.Unlock()
	if p.Submit == nil || r.upstream(p.Upstream) == nil || last != nil && last.Outcome != outcomeDone {
		return 0
	}
	live := stateOf(statuses, p.Upstream).changed
	end := next
	for i, size := next, p.Size(); i < size && i-next < 1<<16; i++ {
		if !p.Standby {
			at, err := p.Time(i)
			if err != nil {
				r.cfg.Logger.Error("the time of a private entry cannot be read", "log", p.Name, "index", i, "error", err)
				break
			}
			if at.After(live) {
				break
			}
		}
		if !p.own(i) {
			end = i + 1
		}
	}
	return end
}

// own says whether an entry is nobody's proposal.
func (p *Private) own(index uint64) bool { return p.Own != nil && p.Own(index) }

func (r *Reconciler) sentOf(origin string) sent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return *r.sent[origin]
}

// begin starts a run, durably.
func (r *Reconciler) begin(log, kind string) (*run, error) {
	now := r.cfg.Now()
	r.mu.Lock()
	n, h := r.count+1, r.held[log]
	r.mu.Unlock()
	x := &run{
		ID: fmt.Sprintf("%s-%d", now.UTC().Format("20060102T150405Z"), n), Log: log, Kind: kind,
		Phase: phaseHead, Started: now.UTC(), HeldAt: now.UTC(),
	}
	for _, s := range r.cfg.Monitor.Status() {
		x.States = append(x.States, stateRow{s.Component, string(s.State), s.Since.UTC(), s.Cause.Code})
	}
	switch u := r.upstream(log); {
	case u == nil:
		x.Phase = phaseDecisions
	case h != nil:
		x.HeldAt, x.Heads = h.At, h.Heads
	default: // it was away and back before anybody looked
		x.Heads = headsJSON(u.Heads())
	}
	records := map[string][]byte{}
	put(records, countRecord, n)
	if err := r.keep(x, records, row{Event: "started", Kind: kind, At: x.Started, States: x.States, Heads: x.Heads}); err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.count = n
	r.runs[log] = x
	r.mu.Unlock()
	r.cfg.Logger.Info("reconciliation begins", "id", x.ID, "log", log, "kind", kind)
	return r.activate(x), nil
}

func (r *Reconciler) activate(x *run) *run {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.active = x
	r.progress = &Running{ID: x.ID, Log: x.Log, Kind: x.Kind, Phase: x.Phase, Started: x.Started}
	return x
}

// live tells the monitor that the components of a log which recover since before a time may be live.
func (r *Reconciler) live(log string, statuses []outage.Status, proven time.Time) {
	for _, s := range statuses {
		if !belongs(s.Component, log) || s.State != outage.Recovering || s.Since.After(proven) {
			continue
		}
		if err := r.cfg.Monitor.Reconciled(s.Component); err != nil {
			r.cfg.Logger.Warn("a reconciled component cannot be called live", "component", s.Component, "error", err)
		}
	}
}
