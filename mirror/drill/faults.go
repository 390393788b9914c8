package drill

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Faults is the switchboard between the daemon's clients and their upstreams. Only a [Runner]
// throws its switches. With none thrown, it costs a request one atomic load. It is safe for
// concurrent use.
type Faults struct {
	armed atomic.Pointer[arming]

	testingOnlyStuck bool // nothing is reverted
}

// NewFaults returns a switchboard with no switch thrown.
func NewFaults() *Faults { return new(Faults) }

// A fault answers a request in the place of base, which would send it.
type fault func(a *arming, r *http.Request, base http.RoundTripper) (*http.Response, error)

// arming is a set of switches that are thrown together, until an end that it knows itself.
type arming struct {
	faults map[string]fault         // by component
	clocks map[string]time.Duration // by component

	began  time.Time // with its monotonic reading
	length time.Duration
	until  time.Time // on the wall clock alone
	stuck  bool      // in tests: it does not end

	once sync.Once
	gone chan struct{} // closed at its end: who is held up goes on
}

// over says whether its end has passed: on the wall clock, which may have jumped, or by the time
// that has gone by, which a clock that was set back does not change.
func (a *arming) over() bool {
	return !a.stuck && (time.Since(a.began) >= a.length || !time.Now().Round(0).Before(a.until))
}

// arm throws switches for a time; ok is false if others are thrown. ended is called once, after
// they are back.
func (f *Faults) arm(faults map[string]fault, clocks map[string]time.Duration, length time.Duration, ended func()) (a *arming, ok bool) {
	now := time.Now()
	a = &arming{
		faults: faults, clocks: clocks, began: now, length: length, until: now.Round(0).Add(length),
		stuck: f.testingOnlyStuck, gone: make(chan struct{}),
	}
	if !f.armed.CompareAndSwap(nil, a) {
		return nil, false
	}
	// A timer of the runtime: it fires whatever becomes of the goroutine that runs the drill.
	time.AfterFunc(length, func() { f.disarm(a); ended() })
	return a, true
}

// disarm puts switches back. It may be called again.
func (f *Faults) disarm(a *arming) {
	if a.stuck {
		return
	}
	f.armed.CompareAndSwap(a, nil)
	a.once.Do(func() { close(a.gone) })
}

// inForce returns what is armed and not over; nil if nothing is.
func (f *Faults) inForce() *arming {
	a := f.armed.Load()
	if a == nil || a.over() {
		return nil
	}
	return a
}

// Transport returns base with the switchboard in front of it. component names what a request is
// for, as "rekor/read", "rekor/write" or "tuf"; "" is no part of any drill.
func (f *Faults) Transport(component func(*http.Request) string, base http.RoundTripper) http.RoundTripper {
	return &transport{faults: f, component: component, base: base}
}

// Clock returns how far the clock of a component's client is to be ahead.
func (f *Faults) Clock(component string) time.Duration {
	if a := f.inForce(); a != nil {
		return a.clocks[component]
	}
	return 0
}

type transport struct {
	faults    *Faults
	component func(*http.Request) string
	base      http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if a := t.faults.inForce(); a != nil {
		if fault := a.faults[t.component(r)]; fault != nil {
			return fault(a, r, t.base)
		}
	}
	return t.base.RoundTrip(r)
}

// CloseIdleConnections is for http.Client.
func (t *transport) CloseIdleConnections() {
	if c, ok := t.base.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}
