package outage

import "time"

// Quarantine says that a component contradicts what it said before. Only Release ends that. A component that is
// quarantined stays so, with its first cause. It returns when the row is durable.
func (m *Monitor) Quarantine(name string, cause Cause) error {
	cause.Text = short(cause.Text)
	return m.step(name, func(p position, now instant) (position, []entry, error) {
		next, entries := m.settings.quarantine(p, cause, now)
		return next, entries, nil
	})
}

// Reconciled says that what happened while a component was away is reconciled: recovering becomes live. In any
// other state, perhaps because it fell back again meanwhile, the error is ErrNotRecovering.
func (m *Monitor) Reconciled(name string) error {
	return m.step(name, m.settings.reconciled)
}

// Force makes a state count until a time; the underlying one moves on meanwhile and counts again at the end. It
// replaces a force that there is. The error is ErrUnknown, ErrNoTicket, ErrUntil, ErrState or ErrQuarantined if it is refused.
func (m *Monitor) Force(f Force) error {
	return m.step(f.Component, func(p position, now instant) (position, []entry, error) { return m.settings.force(p, f, now) })
}

// Release ends a force, or a quarantine: that becomes recovering. The error is ErrUnknown, ErrNoTicket
// or ErrNotForced if it is refused.
func (m *Monitor) Release(name, ticket, by string) error {
	return m.step(name, func(p position, now instant) (position, []entry, error) {
		return m.settings.release(p, ticket, by, now)
	})
}

// step takes a step that somebody asked for, and returns when it is durable.
func (m *Monitor) step(name string, take func(position, instant) (position, []entry, error)) error {
	for {
		wall := m.cfg.Now()
		asked, before, err := m.ask(name, take, wall)
		if err != nil || asked == nil {
			return err
		}
		// The error of settle is the error of what is pending, if that was not recorded.
		_ = m.settle()
		<-asked.done
		if !before {
			return asked.err
		}
	}
}

// ask makes a step pending and returns it. If another one is, it returns that one, which must be waited for before.
func (m *Monitor) ask(name string, take func(position, instant) (position, []entry, error), wall time.Time) (asked *pending, before bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.byName[name]
	switch {
	case c == nil:
		return nil, false, ErrUnknown
	case m.broken != nil:
		return nil, false, m.broken
	case c.pending != nil:
		return c.pending, true, nil
	}
	now := m.at(wall)
	next, entries, err := take(c.position, now)
	if err != nil || len(entries) == 0 {
		return nil, false, err
	}
	return m.pendLocked(c, next, entries), false, nil
}
