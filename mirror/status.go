package mirror

import (
	"errors"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// Problem is why a log is not being followed at the moment.
type Problem struct {
	Reason string    `json:"reason"` // one of the Problem constants
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
}

// Reasons of a Problem, also the label of the metric.
const (
	ProblemUnreachable  = "unreachable"
	ProblemRefused      = "refused" // an HTTP status other than 200
	ProblemSignature    = "signature"
	ProblemOrigin       = "origin"
	ProblemMalformed    = "malformed"
	ProblemTile         = "tile"
	ProblemBundle       = "bundle"
	ProblemInconsistent = "inconsistent"
	ProblemRollback     = "rollback"
	ProblemFork         = "fork"
	ProblemStorage      = "storage"
	ProblemKey          = "key" // the log's key is not known, so nothing can be verified
)

func problemReason(err error) string {
	var (
		fork      *ForkError
		store     *storageError
		rollback  *RollbackError
		signature *trust.SignatureError
		origin    *trust.OriginError
		malformed *trust.MalformedError
		format    *FormatError
		tile      *TileError
		bundle    *BundleError
		status    *StatusError
	)
	for _, class := range []struct {
		target any
		reason string
	}{
		{&fork, ProblemFork}, {&store, ProblemStorage}, {&rollback, ProblemRollback},
		{&signature, ProblemSignature}, {&origin, ProblemOrigin}, {&malformed, ProblemMalformed},
		{&bundle, ProblemBundle}, {&tile, ProblemTile}, {&format, ProblemMalformed}, {&status, ProblemRefused},
	} {
		if errors.As(err, class.target) {
			return class.reason
		}
	}
	if errors.Is(err, storage.ErrInconsistent) {
		return ProblemInconsistent
	}
	return ProblemUnreachable
}

// liveness is what is known of upstream: the outcomes of the last poll and of the last
// request.
type liveness struct {
	pollOK, requestOK bool
	last              time.Time // of the newest good poll or request
}

// answered is told of every request whether upstream gave an orderly answer.
func (m *Mirror) answered(ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.liveness.requestOK = ok
	if ok {
		m.liveness.last = time.Now()
	}
}

// polled is told the outcome of every poll: a checkpoint that does not verify is a
// failure.
func (m *Mirror) polled(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.liveness.pollOK = err == nil
	if err == nil {
		m.liveness.last = time.Now()
	}
}

func (m *Mirror) liveLocked() bool {
	l := m.liveness
	return l.pollOK && l.requestOK && time.Since(l.last) <= 2*m.cfg.Poll
}

func (m *Mirror) isFrozen() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.frozen
}

func (m *Mirror) setFrozen(frozen bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = m.frozen || frozen
}

// note records the outcome of a round: in the log when it changes, in the status, and in
// the metrics.
func (m *Mirror) note(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		if m.problem != nil {
			m.logger.Info("upstream is followed again", "after", time.Since(m.problem.Since).Round(time.Second))
			m.problem = nil
		}
		return
	}
	p := &Problem{Reason: problemReason(err), Text: err.Error(), Since: time.Now()}
	m.cfg.Metrics.log(m.cfg.Name).problem(p.Reason)
	switch {
	case m.problem != nil && m.problem.Reason == p.Reason:
		p.Since = m.problem.Since
	case m.problem != nil:
		p.Since = m.problem.Since
		fallthrough
	default:
		m.logger.Warn("upstream is not followed; what is held stays served, and it is tried again", "reason", p.Reason, "error", p.Text)
	}
	m.problem = p
}

// Unkeyed tells the status why Run cannot be called: the log's key is not known. Run ends
// that problem.
func (m *Mirror) Unkeyed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	since := time.Now()
	if m.problem != nil {
		since = m.problem.Since
	}
	m.problem = &Problem{Reason: ProblemKey, Text: err.Error(), Since: since}
}

func (m *Mirror) keyed() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.problem != nil && m.problem.Reason == ProblemKey {
		m.problem = nil
	}
}

// progress measures a catch-up.
type progress struct {
	samples []sample // the last commits, oldest first
	logged  time.Time
	entries uint64 // committed since the last log line
}

type sample struct {
	at      time.Time
	entries uint64
}

// rateWindow is the time over which the rate of a catch-up is measured.
const rateWindow = 15 * time.Second

// copied is told of every committed chunk.
func (m *Mirror) copied(n uint64, elapsed time.Duration) {
	m.cfg.Metrics.log(m.cfg.Name).copied(n)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	p := &m.progress
	if len(p.samples) == 0 || now.Sub(p.samples[len(p.samples)-1].at) > rateWindow {
		p.samples = []sample{{at: now.Add(-elapsed)}}
	}
	p.samples = append(p.samples, sample{now, n})
	p.entries += n
	s := m.tree.State()
	done := s.Head == s.Pending.Head
	if !done && now.Sub(p.logged) < 10*time.Second {
		return
	}
	rate, left := m.rateLocked(s)
	m.logger.Info("copied entries", "entries", p.entries, "next_index", s.Head.Size, "tree_size", s.Pending.Size,
		"entries_per_second", int(rate), "left", left.Round(time.Second), "elapsed", elapsed.Round(time.Millisecond))
	p.logged, p.entries = now, 0
}

// rateLocked returns the entries per second of the catch-up under way, and the time that
// the rest will take; 0 when nothing is being copied.
func (m *Mirror) rateLocked(s *storage.State) (perSecond float64, left time.Duration) {
	p := &m.progress
	now := time.Now()
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
	if len(p.samples) < 2 || now.Sub(p.samples[len(p.samples)-1].at) > rateWindow {
		return 0, 0
	}
	n := uint64(0)
	for _, x := range p.samples[1:] {
		n += x.entries
	}
	span := max(p.samples[len(p.samples)-1].at.Sub(p.samples[0].at), time.Millisecond)
	perSecond = float64(n) / span.Seconds()
	left = time.Duration(float64(s.Pending.Size-s.Head.Size) / perSecond * float64(time.Second))
	return perSecond, left
}

// Status is what an operator wants to know of one log.
type Status struct {
	Name             string    `json:"name"`
	Origin           string    `json:"origin"`
	OriginHash       string    `json:"origin_hash"`
	URL              string    `json:"url"`
	Coverage         string    `json:"coverage"`
	UpstreamState    string    `json:"upstream_state"`
	Source           string    `json:"source"`
	CheckpointAge    float64   `json:"checkpoint_age_seconds"`
	MinimumIndex     uint64    `json:"minimum_index"`
	NextIndex        uint64    `json:"next_index"`
	TreeSize         uint64    `json:"tree_size"`
	RootHash         string    `json:"root_hash,omitempty"`
	MirrorSize       uint64    `json:"mirror_size"`
	HasCheckpoint    bool      `json:"has_checkpoint"`
	EntriesPerSecond float64   `json:"entries_per_second"`
	SecondsLeft      float64   `json:"seconds_left"`
	Problem          *Problem  `json:"problem,omitempty"`
	Evidence         *Evidence `json:"evidence,omitempty"`
}

// Evidence is storage.Evidence for a person.
type Evidence struct {
	At     time.Time `json:"at"`
	Reason string    `json:"reason"`
	First  string    `json:"first"`
	Second string    `json:"second"`
}

// Status returns the state of the log.
func (m *Mirror) Status() Status {
	s := m.tree.State()
	f := m.freshness(s, nil)
	st := Describe(m.cfg.Name, m.cfg.URL, s, m.cfg.Origin)
	st.UpstreamState, st.Source, st.CheckpointAge = f.UpstreamState, f.Source, f.CheckpointAge.Seconds()
	m.mu.Lock()
	defer m.mu.Unlock()
	rate, left := m.rateLocked(s)
	st.EntriesPerSecond, st.SecondsLeft = rate, left.Seconds()
	if s.Evidence != nil {
		st.Problem = &Problem{Reason: ProblemFork, Text: "quarantined: " + s.Evidence.Reason, Since: s.Evidence.At}
	} else if m.problem != nil {
		p := *m.problem
		st.Problem = &p
	}
	return st
}

// Describe returns the part of a log's status that stands in its tree.
func Describe(name, url string, s *storage.State, origin string) Status {
	st := Status{
		Name: name, Origin: origin, OriginHash: OriginHash(origin), URL: url, Coverage: "full",
		NextIndex: s.Head.Size, TreeSize: s.Pending.Size, MirrorSize: s.Mirrored.Size, HasCheckpoint: s.Pending.Raw != nil,
	}
	if st.HasCheckpoint {
		st.RootHash = s.Pending.Root.String()
		st.CheckpointAge = max(0, time.Since(s.Pending.LastSeen).Seconds())
	}
	if ev := s.Evidence; ev != nil {
		st.Evidence = &Evidence{At: ev.At, Reason: ev.Reason, First: string(ev.First), Second: string(ev.Second)}
	}
	return st
}
