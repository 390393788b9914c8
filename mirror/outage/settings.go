package outage

import (
	"errors"
	"time"
)

// Settings are how a Monitor judges. A zero value stands for the default.
type Settings struct {
	// ProbeEvery is the time from the start of a probe to that of the next, less a jitter of up to a tenth; 2 s.
	ProbeEvery time.Duration
	// ProbeTimeout is when a probe without an answer has failed; 2 s.
	ProbeTimeout time.Duration
	// Suspicion is how long after a probe that is not answered, or that failed, the next is due; 500 ms.
	// Failures that end within half of it count as one: they may be of one connection.
	Suspicion time.Duration
	// Failures in a row make a component fall back, 2. One that began before the last success is none of them.
	Failures int
	// Successes in a row, 3, over at least Steady, 4 s, end a fallback. Steady is doubled each time that the
	// component falls back within FlapWindow, 10 minutes, of its last recovery, up to 5 minutes.
	Successes  int
	Steady     time.Duration
	FlapWindow time.Duration
	// SLO is the share of answers in order that is the objective; 0.995.
	SLO float64
	// Slow is how long a probe may take and be good for the error budget; 1 s.
	Slow time.Duration
	// FastBurn makes a component degraded when errors come that many times faster than SLO allows over both 5
	// minutes and an hour, 14.4; SlowBurn does so over 30 minutes and 6 hours, 6.
	FastBurn, SlowBurn float64
	// MaxForce is the longest that a state can be forced for; 24 hours.
	MaxForce time.Duration
}

const (
	maxSteady     = 5 * time.Minute
	maxRetryAfter = time.Hour // more is taken for a mistake
)

func (s Settings) withDefaults() (Settings, error) {
	for _, d := range []struct {
		value    *time.Duration
		standard time.Duration
	}{
		{&s.ProbeEvery, 2 * time.Second}, {&s.ProbeTimeout, 2 * time.Second}, {&s.Suspicion, 500 * time.Millisecond},
		{&s.Steady, 4 * time.Second}, {&s.FlapWindow, 10 * time.Minute}, {&s.Slow, time.Second}, {&s.MaxForce, 24 * time.Hour},
	} {
		if *d.value < 0 {
			return s, errors.New("outage: a setting is a negative time; leave it out for the default")
		}
		if *d.value == 0 {
			*d.value = d.standard
		}
	}
	for _, n := range []struct {
		value    *int
		standard int
	}{{&s.Failures, 2}, {&s.Successes, 3}} {
		if *n.value < 0 {
			return s, errors.New("outage: failures and successes are at least 1; leave them out for the default")
		}
		if *n.value == 0 {
			*n.value = n.standard
		}
	}
	for _, f := range []struct {
		value    *float64
		standard float64
	}{{&s.SLO, 0.995}, {&s.FastBurn, 14.4}, {&s.SlowBurn, 6}} {
		if *f.value == 0 {
			*f.value = f.standard
		}
	}
	if !(s.SLO > 0 && s.SLO < 1) || !(s.FastBurn > 0) || !(s.SlowBurn > 0) {
		return s, errors.New("outage: the objective lies between 0 and 1, a burn rate above 0; leave them out for the defaults")
	}
	return s, nil
}

// steady is how long successes must go on at a flap level.
func (s *Settings) steady(level int) time.Duration {
	d := s.Steady
	for range level {
		if d *= 2; d >= maxSteady {
			return max(maxSteady, s.Steady)
		}
	}
	return d
}

// underWay is how many probes of one component there can be at once: those that make it fall back, and one
// that began too early to count.
func (s *Settings) underWay() int { return s.Failures + 1 }
