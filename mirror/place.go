package mirror

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"golang.org/x/time/rate"
)

// A place is where a log can be read: upstream itself, or a copy of it, such as another
// Understudy. A copy is never trusted: whatever comes from it is verified against what
// upstream signed, so at worst it wastes our time.
type place struct {
	*tiles
	url      string
	upstream bool

	// Guarded by Mirror.mu.
	problem  *Problem  // why it is not used; nil while it is good
	until    time.Time // when it is tried again
	failures int       // in a row
}

// longestAside is the longest time that a copy is left alone after a failure.
const longestAside = 5 * time.Minute

// setAside notes that a place failed, and leaves it alone for a while, each time for longer.
func (m *Mirror) setAside(p *place, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	pause := min(longestAside, time.Second<<min(p.failures, 10))
	p.until = now.Add(max(jitter(pause), retryAfter(err)))
	p.failures++
	reason := problemReason(err)
	if p.problem == nil || p.problem.Reason != reason {
		m.logger.Warn("a source is set aside", "source", p.url, "reason", reason, "error", err, "for", pause)
		m.cfg.Metrics.log(m.cfg.Name).problem(reason)
		p.problem = &Problem{Reason: reason, Since: now}
	}
	p.problem.Text = err.Error()
}

// served notes that a place gave what verified.
func (m *Mirror) served(p *place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.problem != nil {
		m.logger.Info("a source is good again", "source", p.url)
	}
	p.problem, p.failures = nil, 0
}

// copies returns the places other than upstream that are not set aside now.
func (m *Mirror) copies() []*place {
	m.mu.Lock()
	defer m.mu.Unlock()
	var good []*place
	for _, p := range m.places {
		if !p.upstream && !time.Now().Before(p.until) {
			good = append(good, p)
		}
	}
	return good
}

// gone says whether an error means that upstream cannot be asked, rather than that it
// answered something wrong.
func gone(err error) bool {
	reason := problemReason(err)
	return reason == ProblemUnreachable || reason == ProblemRefused
}

// missing says whether an error means that upstream can be asked, and does not have something.
func missing(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code == http.StatusNotFound
}

// newPlaces returns upstream and the copies that a configuration names.
func newPlaces(cfg Config, answered func(bool)) ([]*place, error) {
	source, err := newTiles(cfg, cfg.URL, answered)
	if err != nil {
		return nil, err
	}
	places := []*place{{tiles: source, url: cfg.URL, upstream: true}}
	for _, url := range cfg.Copies {
		if url == cfg.URL {
			continue
		}
		source, err := newTiles(cfg, url, func(bool) {})
		if err != nil {
			return nil, err
		}
		places = append(places, &place{tiles: source, url: url})
	}
	return places, nil
}

// within returns the place with a part of its budget of requests.
func (p *place) within(requestsPerSecond float64) *tiles {
	f := *p.fetcher
	f.part, f.quiet = newBudget(requestsPerSecond), true
	return &tiles{&f}
}

func newBudget(requestsPerSecond float64) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(requestsPerSecond), max(1, int(requestsPerSecond/10)))
}

// SourceError names the place, and the range of entries, that an error is about.
type SourceError struct {
	URL        string
	Start, End uint64 // entries [Start, End)
	Err        error
}

func (e *SourceError) Error() string {
	return fmt.Sprintf("%s, entries %d to %d: %v", e.URL, e.Start, e.End-1, e.Err)
}

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }
