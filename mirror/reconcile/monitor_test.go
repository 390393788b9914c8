package reconcile

import (
	"errors"
	"sync"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

// monitor is an outage.Monitor that a test moves.
type monitor struct {
	mu       sync.Mutex
	statuses []outage.Status
	changes  chan struct{}
}

func newMonitor(components ...string) *monitor {
	m := &monitor{changes: make(chan struct{})}
	for _, c := range components {
		m.statuses = append(m.statuses, outage.Status{Component: c, State: outage.Live, Since: time.Now()})
	}
	return m
}

func (m *monitor) Status() []outage.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]outage.Status(nil), m.statuses...)
}

func (m *monitor) Changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

func (m *monitor) set(state outage.State, components ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.statuses {
		s := &m.statuses[i]
		for _, c := range components {
			if s.Component == c && s.State != state && s.State != outage.Quarantined {
				s.State, s.Since, s.Cause = state, time.Now(), outage.Cause{Code: "TEST", Text: "a test"}
			}
		}
	}
	close(m.changes)
	m.changes = make(chan struct{})
}

// release is an operator's.
func (m *monitor) release(components ...string) {
	m.mu.Lock()
	for i := range m.statuses {
		if m.statuses[i].State == outage.Quarantined {
			m.statuses[i].State, m.statuses[i].Since = outage.Recovering, time.Now()
		}
	}
	m.mu.Unlock()
	m.set(outage.Recovering, components...)
}

func (m *monitor) state(component string) outage.State {
	for _, s := range m.Status() {
		if s.Component == component {
			return s.State
		}
	}
	return ""
}

// mortal is the monitor as a life sees it.
type mortal struct {
	*monitor
	l *life
}

func (m *mortal) Reconciled(component string) error {
	return m.l.effect(func() error {
		if m.state(component) != outage.Recovering {
			return errors.New("it is not recovering")
		}
		m.set(outage.Live, component)
		return nil
	})
}

func (m *mortal) Quarantine(component string, c outage.Cause) error {
	return m.l.effect(func() error {
		m.set(outage.Quarantined, component)
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range m.statuses {
			if m.statuses[i].Component == component {
				m.statuses[i].Cause = c
			}
		}
		return nil
	})
}
