package outage

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// script drives the machine alone, step by step, under a clock of its own.
type script struct {
	t     *testing.T
	s     Settings
	p     position
	now   instant
	all   []entry
	steps string
}

var epoch = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func newScript(t *testing.T, reconciles bool) *script {
	t.Helper()
	s, err := Settings{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	c := &script{t: t, s: s, now: instant{epoch, time.Hour}}
	c.p = s.start(record{}, reconciles, c.now)
	return c
}

// in puts the machine into a state, from long ago.
func (c *script) in(state State) *script {
	c.p = c.s.start(record{State: state, Since: epoch.Add(-time.Hour)}, c.p.reconciles, c.now)
	return c
}

func (c *script) took(p position, entries []entry) {
	c.p = p
	c.all = append(c.all, entries...)
}

// play reads a line: "g" a success, "f" a failure that just began, "o" one that began 2 s ago, "s1.5" a pause in seconds,
// with the decisions that time brings, "q" quarantine, "r" reconciled, "rel" release, "F:live" a force for an hour.
func (c *script) play(line string) *script {
	c.t.Helper()
	for _, word := range strings.Fields(line) {
		var err error
		var entries []entry
		p := c.p
		switch {
		case word == "g":
			p = c.s.observe(p, observed{good: true, started: c.now.mono, ratio: p.ratio, badFor: p.badFor}, c.now)
		case word == "f", word == "o":
			o := observed{started: c.now.mono, cause: Cause{CodeTimeout, "no answer"}, ratio: p.ratio, badFor: p.badFor}
			if word == "o" {
				o.started -= 2 * time.Second
			}
			p = c.s.observe(p, o, c.now)
		case word == "q":
			p, entries = c.s.quarantine(p, Cause{CodeFork, "two heads"}, c.now)
		case word == "r":
			p, entries, err = c.s.reconciled(p, c.now)
		case word == "rel":
			p, entries, err = c.s.release(p, "T-1", "ann", c.now)
		case strings.HasPrefix(word, "F:"):
			p, entries, err = c.s.force(p, Force{State: State(word[2:]), Until: c.now.wall.Add(time.Hour), Ticket: "T-1", By: "ann"}, c.now)
		case word[0] == 's':
			d, parsed := time.ParseDuration(word[1:] + "s")
			if parsed != nil {
				c.t.Fatal(parsed)
			}
			c.now.mono += d
			c.now.wall = c.now.wall.Add(d)
		default:
			c.t.Fatalf("no such word: %s", word)
		}
		if err != nil {
			c.steps += " " + word + "!"
			continue
		}
		c.took(p, entries)
		for range 3 {
			c.took(c.s.decide(c.p, c.now))
		}
		c.steps += " " + word + "=" + string(c.p.counts())
	}
	return c
}

func (c *script) codes() string {
	var codes []string
	for _, e := range c.all {
		switch body := e.body.(type) {
		case *Change:
			code := body.Cause.Code
			if body.Hidden {
				code = "(" + code + ")"
			}
			codes = append(codes, code)
		case *forceEnd:
			codes = append(codes, "end:"+body.Why)
		case *Force:
			codes = append(codes, "force:"+string(body.State))
		}
	}
	return strings.Join(codes, " ")
}

func TestMachine(t *testing.T) {
	for _, c := range []struct {
		what   string
		from   State
		self   bool // recovers by itself
		play   string
		to     State
		rows   string
		hidden State // the underlying state, if it is another one
	}{
		{what: "one failure is none", from: Live, play: "f s1 g s1 f s1", to: Live},
		{what: "two in a row", from: Live, play: "g s1 f s1 f", to: Fallback, rows: "TIMEOUT"},
		{what: "from degraded", from: Degraded, play: "f s.5 f", to: Fallback, rows: "TIMEOUT"},
		{what: "at the same moment they are one", from: Live, play: "f f f f s.2 f", to: Live},
		{what: "a bit later they are two", from: Live, play: "f s.25 f", to: Fallback, rows: "TIMEOUT"},
		{what: "one that began before the last success is none", from: Live, play: "g s1 o s.5 o s.4 o", to: Live},
		{what: "and the next one is", from: Live, play: "g s1 o s.5 o s1 o s.5 o", to: Fallback, rows: "TIMEOUT"},
		{what: "three successes that come too soon", from: Fallback, play: "g s1 g s1 g g g s1", to: Fallback},
		{what: "long enough and too few", from: Fallback, play: "g s2 g s4", to: Fallback},
		{what: "three successes in four seconds", from: Fallback, play: "g s2 g s2 g", to: Recovering, rows: "ANSWERS_AGAIN"},
		{what: "the time alone passes", from: Fallback, play: "g s1 g s1 g s2", to: Recovering, rows: "ANSWERS_AGAIN"},
		{what: "a failure in between", from: Fallback, play: "g s2 g s1 f s1 g s2 g s1.9", to: Fallback},
		{what: "a failure of long ago in between", from: Fallback, play: "g s1 o g s1 g s2", to: Recovering, rows: "ANSWERS_AGAIN"},
		{what: "recovering waits for reconciliation", from: Recovering, play: "g s600 g s600 g", to: Recovering},
		{what: "reconciled", from: Recovering, play: "g r", to: Live, rows: "RECONCILED"},
		{what: "reconciled, where it is not recovering", from: Fallback, play: "r", to: Fallback},
		{what: "by itself", from: Recovering, self: true, play: "g s2 g s2", to: Live, rows: "STEADY"},
		{what: "by itself, and not without an answer", from: Recovering, self: true, play: "s20", to: Recovering},
		{what: "by itself, and not after a failure", from: Recovering, self: true, play: "g s3 f s1", to: Recovering},
		{what: "away again", from: Recovering, play: "f s1 f", to: Fallback, rows: "TIMEOUT"},
		{what: "quarantine", from: Live, play: "q s1 g s2 g s2 g s2 f s1 f r", to: Quarantined, rows: "FORK"},
		{what: "quarantine twice", from: Fallback, play: "q s1 q", to: Quarantined, rows: "FORK"},
		{what: "quarantine is not forced away", from: Live, play: "q F:live F:fallback", to: Quarantined, rows: "FORK"},
		{what: "quarantine is released", from: Quarantined, play: "rel", to: Recovering, rows: "RELEASED"},
		{what: "after a release all counts anew", from: Quarantined, self: true, play: "g s1 f s1 f s1 f rel s1 f", to: Recovering, rows: "RELEASED"},
		{what: "nothing to release", from: Live, play: "rel", to: Live},
		{what: "forced, and time is up", from: Live, play: "F:fallback s3599.9", to: Fallback, rows: "force:fallback FORCED", hidden: Live},
		{what: "forced until", from: Live, play: "F:fallback s3600", to: Live, rows: "force:fallback FORCED end:expired FORCE_EXPIRED"},
		{what: "forced to what it is", from: Live, play: "F:live s3600", to: Live, rows: "force:live end:expired"},
		{what: "forced, and the machine goes on", from: Live, play: "F:live s1 f s1 f", to: Live, rows: "force:live (TIMEOUT)", hidden: Fallback},
		{what: "and then shows", from: Live, play: "F:live s1 f s1 f s3598", to: Fallback, rows: "force:live (TIMEOUT) end:expired FORCE_EXPIRED"},
		{what: "and comes back meanwhile", from: Live, play: "F:fallback f s1 f s1 g s2 g s2 g r rel", to: Live, rows: "force:fallback FORCED (TIMEOUT) (ANSWERS_AGAIN) (RECONCILED) end:released RELEASED"},
		{what: "forced twice", from: Live, play: "F:fallback s1800 F:degraded s1800 s1799", to: Degraded, rows: "force:fallback FORCED force:degraded FORCED", hidden: Live},
		{what: "forced to what an operator cannot", from: Live, play: "F:quarantined F:recovering F:nonsense", to: Live},
		{what: "quarantine ends a force", from: Live, play: "F:live q", to: Quarantined, rows: "force:live end:quarantined FORK"},
		{what: "quarantine ends another force", from: Live, play: "F:fallback q s4000", to: Quarantined, rows: "force:fallback FORCED end:quarantined FORK"},
		{what: "expiry and a step at once", from: Live, play: "F:fallback f s3600 f", to: Fallback, rows: "force:fallback FORCED end:expired FORCE_EXPIRED TIMEOUT"},
	} {
		t.Run(c.what, func(t *testing.T) {
			s := newScript(t, !c.self).in(c.from).play(c.play)
			if s.p.counts() != c.to || s.codes() != c.rows {
				t.Errorf("%s: %s with rows %q, want %s with %q", s.steps, s.p.counts(), s.codes(), c.to, c.rows)
			}
			if under := s.p.State; under != c.to && c.hidden != under {
				t.Errorf("%s: underneath it is %s, want %s", s.steps, under, c.hidden)
			}
			fold(t, c.from, s)
		})
	}
}

// fold reads the rows, which must say what the machine knows.
func fold(t *testing.T, from State, s *script) {
	t.Helper()
	counts, under := from, from
	for _, e := range s.all {
		if c, is := e.body.(*Change); is {
			if !c.Hidden {
				if c.From != counts {
					t.Errorf("a row goes from %s, which it is not: %s", c.From, counts)
				}
				counts = c.To
			}
			if !c.Forced {
				under = c.To
			}
			if c.Cause.Code == "" || c.Cause.Text == "" {
				t.Errorf("a row without a cause: %+v", c)
			}
		}
	}
	if counts != s.p.counts() || under != s.p.State {
		t.Errorf("by the rows it is %s, underneath %s; by the machine %s, underneath %s", counts, under, s.p.counts(), s.p.State)
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		what  string
		from  State
		force Force
		err   error
	}{
		{"no ticket", Live, Force{State: Fallback, Until: epoch.Add(time.Hour)}, ErrNoTicket},
		{"the past", Live, Force{State: Fallback, Until: epoch.Add(-time.Second), Ticket: "T"}, ErrUntil},
		{"now", Live, Force{State: Fallback, Until: epoch, Ticket: "T"}, ErrUntil},
		{"no end", Live, Force{State: Fallback, Ticket: "T"}, ErrUntil},
		{"too long", Live, Force{State: Fallback, Until: epoch.Add(24*time.Hour + 1), Ticket: "T"}, ErrUntil},
		{"as long as may be", Live, Force{State: Fallback, Until: epoch.Add(24 * time.Hour), Ticket: "T"}, nil},
		{"quarantined", Quarantined, Force{State: Live, Until: epoch.Add(time.Hour), Ticket: "T"}, ErrQuarantined},
	} {
		s := newScript(t, true).in(c.from)
		if _, entries, err := s.s.force(s.p, c.force, s.now); !errors.Is(err, c.err) || (err == nil) != (len(entries) > 0) {
			t.Errorf("%s: %v with %d rows, want %v", c.what, err, len(entries), c.err)
		}
	}
	for _, from := range []State{Quarantined, Live} {
		s := newScript(t, true).in(from)
		if _, _, err := s.s.release(s.p, "", "ann", s.now); !errors.Is(err, ErrNoTicket) {
			t.Errorf("released from %s without a ticket: %v", from, err)
		}
	}
}

// Half-dead: every other answer is an error.
func TestErrorRatio(t *testing.T) {
	for _, c := range []struct {
		ratio  tally
		badFor int
		to     State
	}{
		{tally{5, 10}, 3, Fallback},
		{tally{4, 9}, 3, Live},     // too few
		{tally{9, 9}, 3, Live},     // too few
		{tally{49, 100}, 20, Live}, // less than half
		{tally{90, 100}, 2, Live},  // within a moment
		{tally{50, 100}, 3, Fallback},
	} {
		s := newScript(t, true)
		s.p.ratio, s.p.badFor = c.ratio, c.badFor
		if s.play("s1"); s.p.State != c.to {
			t.Errorf("%+v in %d seconds: %s, want %s", c.ratio, c.badFor, s.p.State, c.to)
		}
		s = newScript(t, true)
		s.p.ratio, s.p.badFor = c.ratio, c.badFor
		if s.play("g s1"); s.p.State != Live {
			t.Errorf("%+v in %d seconds: %s by a success", c.ratio, c.badFor, s.p.State)
		}
	}
}

func TestWeighing(t *testing.T) {
	for _, c := range []struct {
		from   State
		reason string
		w      weighed
		wait   string
		to     State
		code   string
	}{
		{Live, "", weighed{burning: true}, "s1", Degraded, CodeBurnRate},
		{Live, "", weighed{calm: true, stalled: true}, "s1", Degraded, CodeNotGrowing},
		{Live, "", weighed{}, "s1", Live, ""},
		{Degraded, CodeBurnRate, weighed{}, "s900", Degraded, ""}, // neither too much nor half of it
		{Degraded, CodeBurnRate, weighed{calm: true}, "s299", Degraded, ""},
		{Degraded, CodeBurnRate, weighed{calm: true}, "s300", Live, CodeSteady},
		{Degraded, CodeBurnRate, weighed{calm: true, stalled: true}, "s900", Degraded, ""},
		{Degraded, CodeNotGrowing, weighed{calm: true}, "s900", Degraded, ""},
		{Degraded, CodeNotGrowing, weighed{calm: true, grown: true}, "s1", Live, CodeSteady},
		{Recovering, "", weighed{burning: true, stalled: true}, "s1", Recovering, ""},
		{Fallback, "", weighed{calm: true, grown: true}, "s900", Fallback, ""},
		{Quarantined, "", weighed{calm: true, grown: true}, "s900", Quarantined, ""},
	} {
		s := newScript(t, true).in(c.from)
		s.p.Reason.Code = c.reason
		s.p = s.s.weigh(s.p, c.w)
		s.play(c.wait)
		if s.p.State != c.to || s.codes() != c.code {
			t.Errorf("%s, %+v: %s by %q, want %s by %q", c.from, c.w, s.p.State, s.codes(), c.to, c.code)
		}
	}
}

// Who falls back again soon must answer twice as long, up to five minutes; who stays well starts anew.
func TestFlapLevel(t *testing.T) {
	s := newScript(t, true).in(Fallback)
	want := 4 * time.Second
	for level := range 12 {
		if got := s.p.FlapLevel; got != level {
			t.Fatalf("level %d, want %d", got, level)
		}
		s.play("g g g")
		began := s.now.mono
		for s.p.State == Fallback && s.now.mono-began < time.Hour {
			s.play("g s1")
		}
		if took := s.now.mono - began; took != want {
			t.Fatalf("level %d: recovering after %s, want %s", level, took, want)
		}
		if want = min(2*want, maxSteady); level%2 == 0 {
			s.play("r s30") // from live it counts just so
		}
		s.play("f s1 f")
	}
	s.play("g g g s300 r s599")
	if got := s.p.flapLevel(&s.s, s.now); got != 12 {
		t.Fatalf("shown level %d", got)
	}
	if s.play("s1"); s.p.flapLevel(&s.s, s.now) != 0 {
		t.Fatal("a level of long ago is shown")
	}
	if s.play("f s1 f"); s.p.State != Fallback || s.p.FlapLevel != 0 {
		t.Fatalf("%s at level %d", s.p.State, s.p.FlapLevel)
	}
}

// Left is when it stopped to be live, whatever states follow.
func TestLeft(t *testing.T) {
	s := newScript(t, true).play("g s1 f s1 f")
	left := s.now.wall
	s.play("g s2 g s2 g s1 f s1 f s5 q s1 rel s1")
	if !s.p.Left.Equal(left) {
		t.Fatalf("left at %s, want %s", s.p.Left, left)
	}
	if s.play("g r"); !s.p.Left.IsZero() || s.p.counts() != Live {
		t.Fatalf("live, and left at %s", s.p.Left)
	}
	s.play("s1 F:fallback s1 q")
	if want := s.now.wall.Add(-time.Second); !s.p.Left.Equal(want) {
		t.Fatalf("forced at %s, left at %s", want, s.p.Left)
	}
}

// A wall clock that is set neither prolongs a force nor moves a state.
func TestClockOfMachine(t *testing.T) {
	for _, jump := range []time.Duration{-20 * 365 * 24 * time.Hour, -48 * time.Hour, -time.Minute, time.Minute, 48 * time.Hour, 20 * 365 * 24 * time.Hour} {
		for _, from := range []State{Live, Degraded, Fallback, Recovering, Quarantined} {
			s := newScript(t, true).in(from)
			s.p.calm = from != Degraded
			s.play("g s1")
			s.now.wall = s.now.wall.Add(jump)
			if s.play("s1 g s1"); s.p.counts() != from || len(s.all) > 0 {
				t.Errorf("%s, %s: %s", from, jump, s.codes())
			}
		}
		s := newScript(t, true).play("F:fallback s1800")
		s.now.wall = s.now.wall.Add(jump)
		s.play("s1")
		if forced := s.p.Force != nil; forced != (jump < time.Hour/2) {
			t.Errorf("%s: forced %t", jump, forced)
		}
		if s.play("s1799"); s.p.Force != nil || s.p.counts() != Live {
			t.Errorf("%s: a force was prolonged", jump)
		}
		// And across a restart, at which nothing but the record is known.
		s = newScript(t, true).play("F:fallback s1800")
		s.now.wall = s.now.wall.Add(jump)
		s.p = s.s.start(s.p.record, true, s.now)
		if s.play("s3600"); s.p.Force != nil {
			t.Errorf("%s: a force was prolonged by more than its length after a restart", jump)
		}
	}
}

func TestSettings(t *testing.T) {
	for i, bad := range []Settings{
		{SLO: 1}, {SLO: -0.5}, {SLO: 99.5}, {ProbeEvery: -1}, {Failures: -1}, {FastBurn: -1}, {MaxForce: -time.Hour},
	} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("settings %d were taken", i)
		}
	}
	s, err := Settings{Steady: 10 * time.Minute}.withDefaults()
	if err != nil || s.steady(0) != 10*time.Minute || s.steady(3) != 10*time.Minute {
		t.Errorf("%v: %s, %s", err, s.steady(0), s.steady(3))
	}
	if fmt.Sprint(s.Failures, s.Successes, s.ProbeEvery, s.SLO) != "2 3 2s 0.995" {
		t.Errorf("defaults: %+v", s)
	}
}

// TestDrillsAreNoFlaps: a component that falls back in one drill after the other, or soon after one, does not flap; one
// that comes and goes within a drill, or without one, does.
func TestDrillsAreNoFlaps(t *testing.T) {
	s, err := Settings{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		drills []string // of each fallback
		want   []int    // flap level after it
	}{
		{[]string{"", "", ""}, []int{0, 1, 2}},
		{[]string{"a", "b", "c"}, []int{0, 0, 0}},
		{[]string{"a", "a", "a"}, []int{0, 1, 2}},
		{[]string{"a", "a", "", ""}, []int{0, 1, 0, 1}},
		{[]string{"", "a", ""}, []int{0, 0, 0}},
	} {
		p := s.start(record{State: Live}, true, instant{wall: time.Unix(1e9, 0)})
		for i, drill := range c.drills {
			now := instant{wall: time.Unix(1e9+int64(i)*60, 0), mono: time.Duration(i+1) * time.Minute}
			p = s.observe(p, observed{drill: drill, started: now.mono}, now)
			p.move(&s, Change{To: Fallback}, now)
			if p.FlapLevel != c.want[i] {
				t.Errorf("%q: level %d after fallback %d, want %d", c.drills, p.FlapLevel, i, c.want[i])
			}
			p.move(&s, Change{To: Recovering}, now)
			p.move(&s, Change{To: Live}, now)
		}
	}
}
