package drill

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

// Targets are what a drill is held against; zero values are the defaults.
type Targets struct {
	Detect    time.Duration // until every component is known to be away; 5s
	FallBack  time.Duration // until the fallback stands in for all of them; 10s
	Recover   time.Duration // from the end of the faults until that is noticed; 10s
	Reconcile time.Duration // from then until all is as before; 60s
}

func (t Targets) orDefault() Targets {
	for _, v := range []struct {
		target *time.Duration
		value  time.Duration
	}{{&t.Detect, 5 * time.Second}, {&t.FallBack, 10 * time.Second}, {&t.Recover, 10 * time.Second}, {&t.Reconcile, time.Minute}} {
		if *v.target <= 0 {
			*v.target = v.value
		}
	}
	return t
}

// Outcomes of a drill.
const (
	outcomeRunning = "running"
	outcomePassed  = "passed"
	outcomeFailed  = "failed"
	outcomeAborted = "aborted"
)

// Place is where a report stands in the private log.
type Place struct {
	Origin string `json:"origin"`
	Index  uint64 `json:"index"`
	UUID   string `json:"uuid,omitempty"`
}

// Result is what is known of a drill: while it runs, and for good when it has ended. Times are in
// seconds; those that were not measured are missing.
type Result struct {
	ID         string    `json:"id"`
	Scenario   string    `json:"scenario"`
	Components []string  `json:"components"` // that were disturbed
	Ticket     string    `json:"ticket"`
	By         string    `json:"by"`
	Outcome    string    `json:"outcome"` // running, passed, failed or aborted
	Started    time.Time `json:"started"`
	Until      time.Time `json:"until"` // when the faults were to end
	Reverted   time.Time `json:"reverted,omitzero"`
	Ended      time.Time `json:"ended,omitzero"`
	// Failures are the expectations that were missed, a sentence each; none if it passed.
	Failures []string `json:"failures"`
	// Cause is why it was aborted.
	Cause *outage.Cause `json:"cause,omitempty"`
	// Causes are why the components were taken for away, by component.
	Causes map[string]outage.Cause `json:"causes,omitempty"`

	Detect    *float64 `json:"detect_seconds,omitempty"`
	FallBack  *float64 `json:"fall_back_seconds,omitempty"`
	Recover   *float64 `json:"recover_seconds,omitempty"`
	Reconcile *float64 `json:"reconcile_seconds,omitempty"`
	Staleness float64  `json:"max_staleness_seconds"` // of the answers that were served
	Served    uint64   `json:"proofs_served"`
	Failed    uint64   `json:"proofs_failed"`
	Lapses    int      `json:"times_fallen_back"`
	Targets   struct {
		Detect    float64 `json:"detect_seconds"`
		FallBack  float64 `json:"fall_back_seconds"`
		Recover   float64 `json:"recover_seconds"`
		Reconcile float64 `json:"reconcile_seconds"`
	} `json:"targets"`
	// Place is where its report stands in the private log; nil: not there.
	Place *Place `json:"place,omitempty"`

	Number uint64 `json:"number"` // the first drill has 1
}

// measures are what was seen of a drill. Those about time count from when the faults began, but
// recovered and settled: from when they ended.
type measures struct {
	left, fell, recovered map[string]time.Duration // by component
	causes                map[string]outage.Cause
	opened                *time.Duration // when the private log took entries
	settled               *time.Duration
	state                 map[string]outage.State // the last one
	wasOpen, open         bool                    // whether the private log took entries: before, and at the end
	closed                bool                    // whether it did before, and not all the while
	reconciled            bool
	served, failed        uint64
	lastFailure           string
	stale                 time.Duration
	astray                []string // sentences on what was not disturbed and still was not live
	stuck                 bool     // faults were in force after they had been reverted
	lapses                map[string]int
	flapLevel             int // the highest since the faults began
	fork                  *forkSeen
}

// expectations are what a drill must show.
type expectations struct {
	scenario  Scenario
	parts     []part
	targets   Targets
	slack     time.Duration
	log       bool // there is a private log that opens in fallback
	reconcile bool // there is something that reconciles
	steady    time.Duration
}

// maxSteady is the most that hysteresis takes (mirror/outage).
const maxSteady = 5 * time.Minute

// recoverWithin is the time within which it must be seen that the faults have ended. Where a
// component has come and gone, hysteresis has been taught to wait for longer.
func (e *expectations) recoverWithin(flapLevel int) time.Duration {
	longer := e.steady
	for range flapLevel {
		longer = min(2*longer, max(maxSteady, e.steady))
	}
	return e.targets.Recover + longer - e.steady
}

// patience is how long after the faults all may take to be as before, until nobody waits for it.
func (e *expectations) patience(flapLevel int) time.Duration {
	return 2 * (e.recoverWithin(flapLevel) + e.targets.Reconcile)
}

// needsLog says whether the private log must open: the path that takes entries is away.
func (e *expectations) needsLog() bool {
	return e.log && slices.ContainsFunc(e.parts, func(p part) bool { return p.kind == kindWrite })
}

// score holds what was seen against what is expected.
func (m *measures) score(e *expectations) (missed []string) {
	miss := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	detect, fallBack := e.targets.Detect+e.slack, e.targets.FallBack+e.slack
	within, patience := e.recoverWithin(m.flapLevel), e.patience(m.flapLevel)
	for _, p := range e.parts {
		left, noticed := m.left[p.name]
		fell, fallen := m.fell[p.name]
		switch {
		case !noticed:
			miss("%s was never seen to be away, and had to be within %s", p.name, detect)
		case left > detect:
			miss("%s was seen to be away after %s, and had to be within %s", p.name, text(left), detect)
		}
		switch {
		case e.scenario.noticed && !fallen || !noticed:
		case !fallen:
			miss("%s did not fall back, and had to within %s", p.name, fallBack)
		case fell > fallBack:
			miss("%s fell back after %s, and had to within %s", p.name, text(fell), fallBack)
		}
		recovered, ok := m.recovered[p.name]
		switch {
		case !noticed:
		case !ok:
			miss("%s was still %s %s after the faults had ended, and had to be seen back within %s", p.name, m.state[p.name], patience, within)
		case recovered > within:
			miss("%s was seen back %s after the faults had ended, and had to be within %s", p.name, text(recovered), within)
		}
		if n := m.lapses[p.name]; e.scenario.flaps && n > maxFlaps {
			miss("%s fell back %d times, and %d is the most: hysteresis does not hold it", p.name, n, maxFlaps)
		}
	}
	switch {
	case !e.log:
	case m.closed:
		miss("the private log, which was open before, closed while upstream was away")
	case m.opened != nil && !m.wasOpen && !e.needsLog():
		miss("the private log opened, and the path that takes entries was not away")
	}
	if e.needsLog() {
		_, fallen := m.fell[e.writePath()]
		switch {
		case e.scenario.noticed && !fallen:
		case m.opened == nil:
			miss("the private log did not open, and had to within %s", fallBack)
		case *m.opened > fallBack:
			miss("the private log opened after %s, and had to within %s", text(*m.opened), fallBack)
		}
		if m.open && !m.wasOpen {
			miss("the private log was still open %s after the faults had ended", patience)
		}
	}
	switch {
	case len(m.fell) > 0 && e.reconcile && !m.reconciled:
		miss("it was not reconciled within %s after the faults had ended", patience)
	case len(m.recovered) == len(e.parts) && len(e.parts) > 0 && m.settled == nil && (!m.open || m.wasOpen):
		miss("not everything was as before %s after the faults had ended: %s", patience, m.states(e))
	case m.settled != nil && *m.settled-m.slowest(m.recovered) > e.targets.Reconcile:
		miss("all was as before %s after upstream was seen back, and had to be within %s", text(*m.settled-m.slowest(m.recovered)), e.targets.Reconcile)
	}
	if m.served+m.failed == 0 {
		miss("no proof was asked for, so nothing is known of what was served")
	}
	if e.scenario.fork {
		missed = append(missed, m.fork.score(e)...)
	}
	return append(missed, m.scoreServed()...)
}

// scoreServed is the part of score that needs no drill of full length.
func (m *measures) scoreServed() (missed []string) {
	if m.failed > 0 {
		missed = append(missed, fmt.Sprintf("%d of %d proofs of what is held were not served; the last one: %s", m.failed, m.served+m.failed, m.lastFailure))
	}
	missed = append(missed, m.astray...)
	if m.stuck {
		missed = append(missed, "the faults were still in force after they had been reverted: stop the daemon")
	}
	return missed
}

func (e *expectations) writePath() string {
	i := slices.IndexFunc(e.parts, func(p part) bool { return p.kind == kindWrite })
	return e.parts[i].name
}

// slowest is the longest of some times.
func (*measures) slowest(times map[string]time.Duration) (longest time.Duration) {
	for _, d := range times {
		longest = max(longest, d)
	}
	return longest
}

func (m *measures) states(e *expectations) string {
	var states []string
	for _, p := range e.parts {
		states = append(states, fmt.Sprintf("%s is %s", p.name, m.state[p.name]))
	}
	return strings.Join(states, ", ")
}

// fill puts the figures into a result. A time is that of the slowest component, and missing if one
// of them never came so far.
func (m *measures) fill(res *Result, e *expectations) {
	all := func(times map[string]time.Duration) *float64 {
		if len(e.parts) == 0 || len(times) < len(e.parts) {
			return nil
		}
		return seconds(m.slowest(times))
	}
	res.Detect, res.FallBack = all(m.left), all(m.fell)
	if res.FallBack != nil && e.needsLog() {
		if m.opened == nil {
			res.FallBack = nil
		} else {
			res.FallBack = seconds(max(m.slowest(m.fell), *m.opened))
		}
	}
	if len(m.left) > 0 {
		res.Recover = all(m.recovered)
		if m.settled != nil && res.Recover != nil {
			res.Reconcile = seconds(*m.settled - m.slowest(m.recovered))
		}
	}
	if m.fork != nil && m.fork.noticed != nil {
		res.Detect, res.FallBack = seconds(*m.fork.noticed), seconds(*m.fork.noticed)
	}
	res.Targets.Recover = e.recoverWithin(m.flapLevel).Seconds()
	res.Causes, res.Served, res.Failed, res.Staleness = m.causes, m.served, m.failed, m.stale.Seconds()
	res.Lapses = 0
	for _, n := range m.lapses {
		res.Lapses = max(res.Lapses, n)
	}
}

func seconds(d time.Duration) *float64 {
	s := d.Round(time.Millisecond).Seconds()
	return &s
}

// text is a measured time for a sentence.
func text(d time.Duration) string { return d.Round(100 * time.Millisecond).String() }
