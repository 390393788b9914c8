package reconcile

import (
	"context"
	"errors"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
)

const lookTime = 10 * time.Second // of one look

// looking looks at logs that are away, until ctx ends. One that answers with less than it had, or with
// another history, does not recover, since its answers are not good: it would stay in fallback, and nobody
// would be told by index what is wrong.
func (r *Reconciler) looking(ctx context.Context) error {
	less := map[string]*shorter{} // forgotten at a restart: then a log has its patience once more
	for ctx.Err() == nil {
		changed, away := r.cfg.Monitor.Changes(), false
		statuses := r.cfg.Monitor.Status()
		for _, u := range r.upstreams() {
			c := stateOf(statuses, u.Name)
			if !c.away() || r.drilled(statuses, u.Name) {
				delete(less, u.Name)
				continue
			}
			away = true
			if found := r.look(ctx, u, c, less); found != nil {
				r.mu.Lock()
				r.found[u.Name] = found
				r.mu.Unlock()
				r.waken()
			}
		}
		var timer <-chan time.Time
		if away {
			timer = time.After(r.looks)
			changed = nil // all that matters is seen at the next look
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		}
	}
	return nil
}

func (r *Reconciler) drilled(statuses []outage.Status, log string) bool {
	for _, s := range statuses {
		if r.cfg.Drill != nil && belongs(s.Component, log) && r.cfg.Drill(s.Component) != "" {
			return true
		}
	}
	return false
}

// look looks at one log that is away, and returns what quarantines it.
func (r *Reconciler) look(ctx context.Context, u *Upstream, c condition, less map[string]*shorter) *findingError {
	r.mu.Lock()
	last, x := r.done[u.Name], r.runs[u.Name]
	told := c.quarantined && last != nil && last.Outcome == outcomeQuarantined || x != nil && r.active == x || r.found[u.Name] != nil
	h := r.held[u.Name]
	r.mu.Unlock()
	if told {
		return nil
	}
	if c.quarantined { // by the mirror, or an operator
		return r.forked(ctx, u, nil)
	}
	asked, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	err := u.Refresh(asked)
	if ctx.Err() != nil {
		return nil
	}
	if found := r.forked(ctx, u, err); found != nil {
		return found
	}
	back, is := errors.AsType[*mirror.RollbackError](err)
	switch {
	case err == nil:
		delete(less, u.Name)
	case is && less[u.Name] == nil:
		less[u.Name] = &shorter{Since: r.cfg.Now(), Size: back.Size, Newest: back.Newest}
	case is && !r.cfg.Now().Before(less[u.Name].Since.Add(r.cfg.RollbackPatience)):
		var known []headJSON
		if h != nil {
			known = h.Heads
		}
		since := less[u.Name].Since
		delete(less, u.Name)
		return lostTail(u, known, shorter{Size: back.Size, Newest: back.Newest}, since)
	}
	return nil
}

func (r *Reconciler) takeFound(log string) *findingError {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := r.found[log]
	delete(r.found, log)
	return found
}

// beginFound has a run quarantine a log, and report that: the one that pauses, or another.
func (r *Reconciler) beginFound(log string, x *run, found *findingError) (*run, error) {
	if x == nil {
		var err error
		if x, err = r.begin(log, kindRecovery); err != nil {
			return nil, err
		}
	}
	r.activate(x)
	if x.Finding == nil {
		if err := r.quarantine(x, found); err != nil {
			return nil, err
		}
	}
	return x, nil
}
