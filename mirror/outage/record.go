package outage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

func recordName(component string) string { return "outage " + component }

// load reads what is kept of a component.
func load(db *storage.DB, component string) (r record, err error) {
	raw, err := db.Record(recordName(component))
	if err != nil || raw == nil {
		return record{}, err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	err = d.Decode(&r)
	if err == nil && (r.State.badness() < 0 || r.Force != nil && r.Force.State.badness() < 0) {
		err = errors.New("no such state")
	}
	if err != nil {
		return record{}, fmt.Errorf("record of the state of %s: %w; it is damaged or of a newer version: run that, or restore a backup", component, err)
	}
	return r, nil
}

// settle records what is pending until nothing is. One caller does at a time; it takes what the others have.
func (m *Monitor) settle() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.settling {
		return m.broken
	}
	m.settling = true
	defer func() { m.settling = false }()
	for m.broken == nil {
		var steps []*component
		for _, c := range m.all {
			if c.pending != nil {
				steps = append(steps, c)
			}
		}
		if len(steps) == 0 {
			return nil
		}
		for _, c := range steps {
			m.recordLocked(c)
		}
	}
	for _, c := range m.all {
		if w := c.pending; w != nil {
			c.pending, w.err = nil, m.broken
			close(w.done)
		}
	}
	notify(m.unsaved) // Run must end, too
	return m.broken
}

// recordLocked makes the step of a component durable, then lets it count. It gives up mu meanwhile.
func (m *Monitor) recordLocked(c *component) {
	w := c.pending
	m.mu.Unlock()
	rows, err := m.append(c.Name, w)
	wall := m.cfg.Now()
	m.mu.Lock()
	if err != nil {
		m.broken = fmt.Errorf("record the state of %s: %w", c.Name, err)
		return
	}
	now := m.at(wall)
	c.record, c.pending = w.record, nil
	close(m.changed)
	m.changed = make(chan struct{})
	m.cfg.Metrics.show(c.Name, &c.position, c.flapLevel(&m.settings, now))
	m.mu.Unlock()
	for i, e := range w.entries {
		m.tell(e, rows[i])
	}
	close(w.done)
	notify(m.wake) // what came meanwhile is decided now
	m.mu.Lock()
}

// append writes the rows of a step, and the record in the same commit.
func (m *Monitor) append(component string, w *pending) ([]ledger.Row, error) {
	raw, err := json.Marshal(w.record)
	if err != nil {
		return nil, err
	}
	entries := make([]ledger.Entry, len(w.entries))
	for i, e := range w.entries {
		switch body := e.body.(type) {
		case *Change:
			body.Component = component
			if m.cfg.Drill != nil {
				body.Drill = m.cfg.Drill(component)
			}
		case *forceEnd:
			body.Component = component
		}
		entries[i] = ledger.Entry{Kind: e.kind, Body: e.body}
	}
	entries[len(entries)-1].Records = map[string][]byte{recordName(component): raw}
	return m.cfg.Ledger.Append(entries...)
}

// tell tells of a row that is durable.
func (m *Monitor) tell(e entry, row ledger.Row) {
	c, isChange := e.body.(*Change)
	if !isChange {
		m.cfg.Logger.Info("outage: recorded what an operator set", "kind", e.kind, "row", row.Seq)
		return
	}
	c.At, c.Seq = row.At, row.Seq
	tell := m.cfg.Logger.Info
	if c.To.badness() > c.From.badness() {
		tell = m.cfg.Logger.Warn
	}
	tell("outage: state changed", "component", c.Component, "from", c.From, "to", c.To,
		"code", c.Cause.Code, "cause", c.Cause.Text, "forced", c.Forced, "hidden", c.Hidden, "drill", c.Drill, "row", row.Seq)
	if c.Hidden {
		return
	}
	m.cfg.Metrics.changed(c.Component, c.To)
	if m.cfg.Changed != nil {
		m.cfg.Changed(*c)
	}
}
