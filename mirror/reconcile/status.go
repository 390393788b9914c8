package reconcile

import (
	"slices"
	"time"
)

// Running is the reconciliation that runs, or that pauses.
type Running struct {
	ID      string    `json:"id"`
	Log     string    `json:"log"` // "" is all of them
	Kind    string    `json:"kind"`
	Phase   string    `json:"phase"`
	Started time.Time `json:"started"`
	// Decisions and Entries are how many are done.
	Decisions int       `json:"decisions"`
	Entries   int       `json:"entries"`
	Pauses    int       `json:"pauses,omitempty"`
	Cause     string    `json:"cause,omitempty"` // of the last pause that is listed
	Again     time.Time `json:"again,omitzero"`  // not before then
}

// Status is how reconciliation is.
type Status struct {
	Running *Running  `json:"running,omitempty"`
	Paused  []Running `json:"paused,omitempty"`
	// BacklogDecisions are rows "decision" that are not reconciled, BacklogProposals private entries that
	// are to be submitted, or to be tried again. What was logged since the public log is live is not.
	BacklogDecisions int    `json:"backlog_decisions"`
	BacklogProposals uint64 `json:"backlog_proposals"`
	// Last is when each log was last reconciled; LastOutcome how that ended, and LastID which report tells of
	// it. "" is all logs.
	Last        map[string]time.Time `json:"last,omitempty"`
	LastOutcome map[string]string    `json:"last_outcome,omitempty"`
	LastID      map[string]string    `json:"last_id,omitempty"`
	// MedianSeconds is of the last reconciliations since the start, 0 if there were none.
	MedianSeconds float64 `json:"median_seconds,omitempty"`
}

// Status returns how reconciliation is now.
func (r *Reconciler) Status() Status {
	s := Status{BacklogDecisions: r.decisions.left(), BacklogProposals: r.backlogProposals()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.progress != nil {
		running := *r.progress
		s.Running = &running
	}
	for _, name := range r.logs() {
		if f := r.done[name]; f != nil {
			if s.Last == nil {
				s.Last, s.LastOutcome, s.LastID = map[string]time.Time{}, map[string]string{}, map[string]string{}
			}
			s.Last[name], s.LastOutcome[name], s.LastID[name] = f.At, f.Outcome, f.ID
		}
		if x := r.runs[name]; x != nil && x != r.active {
			p := running(x)
			p.Again = r.until[name]
			s.Paused = append(s.Paused, p)
		}
	}
	if took := slices.Sorted(slices.Values(r.took)); len(took) > 0 {
		s.MedianSeconds = took[len(took)/2].Seconds()
	}
	return s
}

func running(x *run) Running {
	p := Running{ID: x.ID, Log: x.Log, Kind: x.Kind, Phase: x.Phase, Started: x.Started, Decisions: x.Decisions.Total, Pauses: x.Paused}
	for _, t := range x.Proposals {
		p.Entries += t.Total
	}
	if n := len(x.Pauses); n > 0 {
		p.Cause = x.Pauses[n-1].Cause
	}
	return p
}

// show has Status tell how far the active run is. It is called by whom the run belongs to.
func (r *Reconciler) show(x *run) {
	p := running(x)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress = &p
}

// backlogProposals counts what is to be submitted. What was logged while the public log is live is owed to
// nobody, and waits for nothing.
func (r *Reconciler) backlogProposals() (n uint64) {
	statuses := r.cfg.Monitor.Status()
	for i := range r.cfg.Privates {
		p := &r.cfg.Privates[i]
		if p.Submit == nil || r.upstream(p.Upstream) == nil {
			continue
		}
		s, end := r.sentOf(p.Origin), p.Size()
		if !stateOf(statuses, p.Upstream).notLive {
			end = r.owed(p, statuses)
		}
		n += end - min(end, s.Next) + uint64(len(s.Again))
		for i := s.Next; i < end && i-s.Next < 1<<10; i++ {
			if p.own(i) {
				n--
			}
		}
	}
	return n
}
