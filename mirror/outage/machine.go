package outage

import (
	"errors"
	"fmt"
	"time"
)

// instant is now, by two clocks. mono, since the monitor was made, tells how long something lasted: nobody can set
// it. wall is for people, and for what must be known after a restart.
type instant struct {
	wall time.Time
	mono time.Duration
}

// stamp is the wall clock as it is written down.
func (i instant) stamp() time.Time { return i.wall.UTC().Round(0) }

// record is what is kept of a component: all that the machine knows after a restart.
type record struct {
	State     State     `json:"state"`  // the underlying one
	Reason    Cause     `json:"reason"` // of State
	Since     time.Time `json:"since"`  // of what counts
	Cause     Cause     `json:"cause"`  // of what counts
	Left      time.Time `json:"left,omitzero"`
	FlapLevel int       `json:"flap_level,omitempty"`
	Recovered time.Time `json:"recovered,omitzero"` // when State became recovering the last time
	Force     *Force    `json:"force,omitempty"`    // never changed, only replaced
	Forced    time.Time `json:"forced,omitzero"`    // when Force was set
}

// counts is the state that counts.
func (r *record) counts() State {
	if r.Force != nil {
		return r.Force.State
	}
	return r.State
}

// evidence is what came since the program started; times are by the monotonic clock.
type evidence struct {
	good      int // successes in a row
	firstGood time.Duration
	lastGood  time.Duration // of all; before everything if there was none
	bad       int           // failures in a row
	lastBad   time.Duration // that was counted in bad
	why       Cause         // of the last failure
	ratio     tally         // of the last 30 s, since it began to recover
	badFor    int           // in how many different seconds of these
	drill     string        // that disturbed it when it was last heard of; "" is none
	fellIn    string        // the drill of its last fallback

	burning, calm bool // what the error budget says
	stalled       bool // the log has not grown for too long
	grown         bool // it has, since it is in this state

	entered   time.Duration // when State became what it is, or was read
	recovered time.Duration // Recovered
	forceEnd  time.Duration // when Force ends
}

const never = time.Duration(-1 << 62)

// position is all that the machine looks at. It is a value: each step returns the next one.
type position struct {
	record
	evidence
	reconciles bool
}

// entry is a row to be: a *Change, a Force or a forceEnd. Who writes it fills in what the machine does not know.
type entry struct {
	kind string
	body any
}

// Kinds of rows.
const (
	rowState    = "state"
	rowForce    = "force"
	rowForceEnd = "force-end"
)

// forceEnd is the body of a row "force-end".
type forceEnd struct {
	Component string `json:"component"`
	Why       string `json:"why"` // expired, released, quarantined
	Ticket    string `json:"ticket,omitempty"`
	By        string `json:"by,omitempty"`
}

// Why an operator is refused.
var (
	ErrUnknown       = errors.New("no such component; `understudy outage status` lists them")
	ErrNoTicket      = errors.New("no ticket; what an operator does here needs one: give --ticket")
	ErrUntil         = errors.New("a forced state ends")
	ErrState         = errors.New("a state that can be forced is live, degraded or fallback")
	ErrQuarantined   = errors.New("quarantined: its evidence must be looked at; release it with a ticket, then force it")
	ErrNotForced     = errors.New("neither forced nor quarantined; nothing was released")
	ErrNotRecovering = errors.New("not recovering; nothing was changed")
)

// start is where a component stands when its record has been read.
func (s *Settings) start(r record, reconciles bool, now instant) position {
	p := position{record: r, reconciles: reconciles}
	p.lastGood, p.calm, p.entered = never, true, now.mono
	if p.State == "" {
		p.State, p.Since = Live, now.stamp()
	}
	if p.recovered = never; !p.Recovered.IsZero() {
		// A wall clock that went back makes it a recent one: that only lengthens what comes.
		p.recovered = max(now.mono-max(now.wall.Sub(p.Recovered), 0), never)
	}
	if p.Force != nil {
		p.forceEnd = now.mono + min(p.Force.Until.Sub(now.wall), p.Force.Until.Sub(p.Forced))
	}
	return p
}

// observed is an answer, or that there was none.
type observed struct {
	good    bool
	drill   string // that disturbs the component
	started time.Duration
	cause   Cause // unless good
	ratio   tally // with this one
	badFor  int
}

// observe notes an observation.
func (s *Settings) observe(p position, o observed, now instant) position {
	p.ratio, p.badFor, p.drill = o.ratio, o.badFor, o.drill
	switch {
	case o.good:
		if p.good == 0 {
			p.firstGood = now.mono
		}
		p.good, p.bad, p.lastGood = p.good+1, 0, now.mono
	case o.started >= p.lastGood:
		p.good, p.why = 0, o.cause
		// Requests that fail together may have shared a connection.
		if p.bad == 0 || now.mono-p.lastBad >= s.Suspicion/2 {
			p.bad, p.lastBad = p.bad+1, now.mono
		}
	}
	return p
}

// weighed is what time alone changes.
type weighed struct{ burning, calm, stalled, grown bool }

func (s *Settings) weigh(p position, w weighed) position {
	p.burning, p.calm, p.stalled, p.grown = w.burning, w.calm, w.stalled, w.grown
	return p
}

// decide takes the step that is due, if one is. What it looks at are levels, so that a step which could not be
// taken before is taken now.
func (s *Settings) decide(p position, now instant) (position, []entry) {
	var entries []entry
	if p.Force != nil && (!now.wall.Before(p.Force.Until) || now.mono >= p.forceEnd) {
		entries = p.endForce(forceEnd{Why: "expired"}, CodeForceExpired, now)
	}
	if to, cause := s.next(&p, now); to != p.State {
		entries = append(entries, p.move(s, Change{To: to, Cause: cause}, now))
	}
	return p, entries
}

const fewestForRatio, badSecondsForRatio = 10, 3

// next is the state that a component should be in, and why if that is another one.
func (s *Settings) next(p *position, now instant) (State, Cause) {
	switch p.State {
	case Fallback:
		if took := now.mono - p.firstGood; p.good >= s.Successes && took >= s.steady(p.FlapLevel) {
			return Recovering, Cause{CodeAnswersAgain, fmt.Sprintf("%d answers in order in %s", p.good, took.Round(time.Second))}
		}
		return Fallback, Cause{}
	case Quarantined:
		return Quarantined, Cause{}
	}
	switch {
	case p.bad >= s.Failures:
		return Fallback, Cause{p.why.Code, fmt.Sprintf("%d failures in a row: %s", p.bad, p.why.Text)}
	case p.good == 0 && p.ratio.all >= fewestForRatio && 2*p.ratio.bad >= p.ratio.all && p.badFor >= badSecondsForRatio:
		return Fallback, Cause{CodeErrorRatio, fmt.Sprintf("%d of %d answers failed in %s: %s", p.ratio.bad, p.ratio.all, ratioWindow, p.why.Text)}
	case p.State == Live && p.burning:
		return Degraded, Cause{CodeBurnRate, fmt.Sprintf("errors come faster than an objective of %g %% allows: %s", 100*s.SLO, p.why.Text)}
	case p.State == Live && p.stalled:
		return Degraded, Cause{CodeNotGrowing, "the log answers and has not grown for longer than it may"}
	case p.State == Degraded && p.mended(now):
		return Live, Cause{CodeSteady, "errors come at less than half of the rate that counts as degraded, and the log grows if it should"}
	case p.State == Recovering && !p.reconciles && p.good > 0 && now.mono-p.entered >= s.steady(p.FlapLevel):
		return Live, Cause{CodeSteady, fmt.Sprintf("it has answered in order for %s", (now.mono - p.entered).Round(time.Second))}
	}
	return p.State, Cause{}
}

// calmFor is how long a component stays degraded at least: after a restart nothing is known of the budget.
const calmFor = 5 * time.Minute

// mended says whether degraded can end.
func (p *position) mended(now instant) bool {
	if p.Reason.Code == CodeNotGrowing {
		return p.grown && p.calm
	}
	return p.calm && !p.stalled && now.mono-p.entered >= calmFor
}

// move changes the underlying state, to c.To.
func (p *position) move(s *Settings, c Change, now instant) entry {
	switch c.To {
	case Fallback:
		// What one drill rehearsed is no flapping of the next one, or of the upstream.
		if !p.Recovered.IsZero() && now.mono-p.recovered < s.FlapWindow && p.drill == p.fellIn {
			p.FlapLevel++
		} else {
			p.FlapLevel = 0
		}
		p.fellIn = p.drill
	case Recovering:
		p.Recovered, p.recovered = now.stamp(), now.mono
		p.good, p.bad, p.ratio, p.badFor = 0, 0, tally{}, 0
		p.burning, p.calm, p.stalled = false, true, false
	}
	if c.Hidden = p.Force != nil; c.From == "" {
		c.From = p.State
	}
	p.State, p.Reason, p.entered, p.grown = c.To, c.Cause, now.mono, false
	if !c.Hidden {
		p.show(c, now)
	}
	return entry{rowState, &c}
}

// show changes what counts.
func (p *position) show(c Change, now instant) {
	p.Since, p.Cause = now.stamp(), c.Cause
	switch {
	case c.To == Live:
		p.Left = time.Time{}
	case c.From == Live:
		p.Left = now.stamp()
	}
}

// endForce lets the underlying state count again.
func (p *position) endForce(end forceEnd, code string, now instant) []entry {
	from := p.Force.State
	p.Force, p.Forced = nil, time.Time{}
	entries := []entry{{rowForceEnd, &end}}
	if from == p.State {
		return entries
	}
	text := "the forced state has ended"
	if p.State != Live && p.Reason.Text != "" {
		text += "; underneath: " + p.Reason.Text
	}
	c := Change{From: from, To: p.State, Cause: Cause{code, text}, Ticket: end.Ticket, By: end.By}
	p.show(c, now)
	return append(entries, entry{rowState, &c})
}

// force sets a state until a time.
func (s *Settings) force(p position, f Force, now instant) (position, []entry, error) {
	length := f.Until.Sub(now.wall)
	switch {
	case f.Ticket == "":
		return p, nil, ErrNoTicket
	case p.State == Quarantined:
		return p, nil, ErrQuarantined
	case f.State != Live && f.State != Degraded && f.State != Fallback:
		return p, nil, ErrState
	case length <= 0:
		return p, nil, fmt.Errorf("%w: its end must lie ahead; name a later one", ErrUntil)
	case length > s.MaxForce:
		return p, nil, fmt.Errorf("%w after %v at the latest (max_force): ask for less", ErrUntil, s.MaxForce)
	}
	f.Until = f.Until.UTC().Round(0)
	from := p.counts()
	p.Force, p.Forced, p.forceEnd = &f, now.stamp(), now.mono+length
	entries := []entry{{rowForce, &f}}
	if from != f.State {
		text := "set by an operator until " + f.Until.Format(time.RFC3339)
		if f.Reason != "" {
			text += ": " + short(f.Reason)
		}
		c := Change{From: from, To: f.State, Cause: Cause{CodeForced, text}, Forced: true, Ticket: f.Ticket, By: f.By}
		p.show(c, now)
		entries = append(entries, entry{rowState, &c})
	}
	return p, entries, nil
}

// release ends a force, or a quarantine.
func (s *Settings) release(p position, ticket, by string, now instant) (position, []entry, error) {
	switch {
	case ticket == "":
		return p, nil, ErrNoTicket
	case p.Force != nil:
		return p, p.endForce(forceEnd{Why: "released", Ticket: ticket, By: by}, CodeReleased, now), nil
	case p.State == Quarantined:
		c := Change{To: Recovering, Cause: Cause{CodeReleased, "an operator has looked at the evidence"}, Ticket: ticket, By: by}
		return p, []entry{p.move(s, c, now)}, nil
	}
	return p, nil, ErrNotForced
}

// quarantine is final until release. It ends a force: no operator's word of before hides it.
func (s *Settings) quarantine(p position, cause Cause, now instant) (position, []entry) {
	if p.State == Quarantined {
		return p, nil
	}
	var entries []entry
	from := p.counts() // and not what a force hid
	if p.Force != nil {
		p.Force, p.Forced = nil, time.Time{}
		entries = append(entries, entry{rowForceEnd, &forceEnd{Why: "quarantined"}})
	}
	return p, append(entries, p.move(s, Change{From: from, To: Quarantined, Cause: cause}, now))
}

// reconciled ends recovering.
func (s *Settings) reconciled(p position, now instant) (position, []entry, error) {
	if p.State != Recovering {
		return p, nil, ErrNotRecovering
	}
	return p, []entry{p.move(s, Change{To: Live, Cause: Cause{CodeReconciled, "what happened meanwhile is reconciled"}}, now)}, nil
}

// flapLevel is the level that the next fallback would build on.
func (p *position) flapLevel(s *Settings, now instant) int {
	if (p.State == Live || p.State == Degraded) && now.mono-p.recovered >= s.FlapWindow {
		return 0
	}
	return p.FlapLevel
}
