package mirror

import (
	"errors"
	"slices"
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
	ProblemKey          = "key"    // the log's key is not known, so nothing can be verified
	ProblemWindow       = "window" // the window lies beyond the log
	ProblemEntry        = "entry"  // an entry, or what the log promised about it, does not verify
	ProblemShard        = "shard"  // the shards of a service are not what they were
)

// ProblemOf returns the reason, one of the Problem constants, for an error of following a log.
func ProblemOf(err error) string { return problemReason(err) }

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
		window    *WindowError
		proof     *ProofError
		entry     *EntryError
		shards    *ShardError
	)
	for _, class := range []struct {
		target any
		reason string
	}{
		{&fork, ProblemFork}, {&store, ProblemStorage}, {&entry, ProblemEntry}, {&rollback, ProblemRollback},
		{&signature, ProblemSignature}, {&origin, ProblemOrigin}, {&malformed, ProblemMalformed},
		{&bundle, ProblemBundle}, {&tile, ProblemTile}, {&format, ProblemMalformed}, {&status, ProblemRefused},
		{&window, ProblemWindow}, {&proof, ProblemInconsistent}, {&shards, ProblemShard},
	} {
		if errors.As(err, class.target) {
			return class.reason
		}
	}
	switch {
	case errors.Is(err, storage.ErrQuarantined):
		return ProblemFork
	case errors.Is(err, storage.ErrInconsistent):
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

// Unreachable tells that upstream does not answer, as somebody else has found out: answers are not
// called live until it does again.
func (m *Mirror) Unreachable() { m.answered(false) }

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

// live says whether upstream can be asked, and its answers kept.
func (m *Mirror) live() bool {
	behind := m.isBehind()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.liveLocked() && !behind && m.tree.State().Evidence == nil
}

func (m *Mirror) liveLocked() bool {
	l := m.liveness
	return l.pollOK && l.requestOK && time.Since(l.last) <= 2*m.cfg.Poll
}

// isFrozen says whether upstream has ended the log, as far as is held, or was held before.
func (m *Mirror) isFrozen() bool {
	known := m.cfg.Newest.Of(m.cfg.Origin)
	ended := trust.Frozen(known.Raw) && m.tree.State().Pending.Size >= known.Size
	m.mu.Lock()
	defer m.mu.Unlock()
	m.frozen = m.frozen || ended
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
	s := m.tree.State()
	p := &m.progress
	p.add(n, elapsed)
	m.logProgress(p, s.Head == s.Pending.Head, s.Pending.Size-s.Head.Size, elapsed,
		"copied entries", "next_index", s.Head.Size, "tree_size", s.Pending.Size)
}

// grew is told of every piece of history.
func (m *Mirror) grew(n uint64, elapsed time.Duration) {
	m.cfg.Metrics.log(m.cfg.Name).copied(n)
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.tree.State()
	p := &m.backward.progress
	p.add(n, elapsed)
	m.logProgress(p, s.Minimum <= m.cfg.HistoryTo, s.Minimum-min(s.Minimum, m.cfg.HistoryTo), elapsed,
		"copied history", "minimum_index", s.Minimum, "down_to", m.cfg.HistoryTo)
}

// logProgress writes a line every ten seconds, and when all is done.
func (m *Mirror) logProgress(p *progress, done bool, remaining uint64, elapsed time.Duration, text string, where ...any) {
	now := time.Now()
	if !done && now.Sub(p.logged) < 10*time.Second {
		return
	}
	rate, left := p.rate(remaining)
	m.logger.Info(text, slices.Concat([]any{"entries", p.entries}, where,
		[]any{"entries_per_second", int(rate), "left", left.Round(time.Second), "elapsed", elapsed.Round(time.Millisecond)})...)
	p.logged, p.entries = now, 0
}

// noteHistory records how the last piece of history went.
func (m *Mirror) noteHistory(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b := &m.backward
	if err == nil {
		if b.problem != nil {
			m.logger.Info("history is copied again", "after", time.Since(b.problem.Since).Round(time.Second))
		}
		b.problem = nil
		return
	}
	p := &Problem{Reason: problemReason(err), Text: err.Error(), Since: time.Now()}
	m.cfg.Metrics.log(m.cfg.Name).problem(p.Reason)
	if b.problem == nil || b.problem.Reason != p.Reason {
		m.logger.Warn("history is not copied for now; the tail is followed, and it is tried again", "reason", p.Reason, "error", p.Text)
	}
	if b.problem != nil {
		p.Since = b.problem.Since
	}
	b.problem = p
}

// add counts entries that took so long.
func (p *progress) add(n uint64, elapsed time.Duration) {
	now := time.Now()
	if len(p.samples) == 0 || now.Sub(p.samples[len(p.samples)-1].at) > rateWindow {
		p.samples = []sample{{at: now.Add(-elapsed)}}
	}
	p.samples = append(p.samples, sample{now, n})
	p.entries += n
}

// rate returns the entries per second of what is under way, and the time that the remaining
// ones will take; 0 when nothing is being copied.
func (p *progress) rate(remaining uint64) (perSecond float64, left time.Duration) {
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
	left = time.Duration(float64(remaining) / perSecond * float64(time.Second))
	return perSecond, left
}

// Status is what an operator wants to know of one log.
type Status struct {
	Name          string  `json:"name"`
	Origin        string  `json:"origin"`
	OriginHash    string  `json:"origin_hash"`
	URL           string  `json:"url"`
	Coverage      string  `json:"coverage"`
	UpstreamState string  `json:"upstream_state"`
	Source        string  `json:"source"`
	CheckpointAge float64 `json:"checkpoint_age_seconds"`
	MinimumIndex  uint64  `json:"minimum_index"`
	NextIndex     uint64  `json:"next_index"`
	TreeSize      uint64  `json:"tree_size"`
	RootHash      string  `json:"root_hash,omitempty"`
	MirrorSize    uint64  `json:"mirror_size"`
	// TreeID, VirtualIndex (of the first entry) and Pins are of a shard of Rekor v1.
	TreeID        string     `json:"tree_id,omitempty"`
	VirtualIndex  *uint64    `json:"virtual_index,omitempty"`
	Pins          *PinStatus `json:"pins,omitempty"`
	HasCheckpoint bool       `json:"has_checkpoint"`
	// Lacks says that less is held than is configured, and will be, and what to do; empty if not.
	Lacks string `json:"lacks,omitempty"`
	// NewestKnownSize is set while the database is older than what was held here before: it was
	// restored from a backup, and has not caught up yet.
	NewestKnownSize  uint64   `json:"newest_known_size,omitempty"`
	EntriesPerSecond float64  `json:"entries_per_second"`
	SecondsLeft      float64  `json:"seconds_left"`
	Problem          *Problem `json:"problem,omitempty"`
	// Damage names stored data that is known to be damaged and is not put back yet: the first
	// ones of DamagedPlaces. What it took is unavailable.
	Damage        []string   `json:"damage,omitempty"`
	DamagedPlaces int        `json:"damaged_places"`
	ScrubbedAt    *time.Time `json:"scrubbed_at,omitempty"` // when all that is stored had last been read again
	Evidence      *Evidence  `json:"evidence,omitempty"`
	// History is set while the window has yet to grow backwards.
	History *History `json:"history,omitempty"`
	// Sources are the places where the log is read; empty if there is only upstream.
	Sources []Source `json:"sources,omitempty"`
}

// History says how the growing backwards of a window goes.
type History struct {
	To               uint64   `json:"to"` // the minimum index that it will have
	EntriesPerSecond float64  `json:"entries_per_second"`
	SecondsLeft      float64  `json:"seconds_left"`
	Problem          *Problem `json:"problem,omitempty"`
}

// Source is a place where the log is read.
type Source struct {
	URL      string     `json:"url"`
	Upstream bool       `json:"upstream"`
	State    string     `json:"state"` // "good" or "set aside"; of upstream the upstream state
	Problem  *Problem   `json:"problem,omitempty"`
	Until    *time.Time `json:"until,omitempty"` // when it is tried again
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
	if m.shard != nil {
		m.shard.describe(&st)
	}
	st.UpstreamState, st.Source, st.CheckpointAge = f.UpstreamState, f.Source, f.CheckpointAge.Seconds()
	m.mu.Lock()
	defer m.mu.Unlock()
	rate, left := m.progress.rate(s.Pending.Size - s.Head.Size)
	st.EntriesPerSecond, st.SecondsLeft = rate, left.Seconds()
	if s.Head.Size == 0 && m.cfg.windowed() {
		st.Coverage = "window"
	}
	if s.Minimum > m.cfg.HistoryTo && m.shard == nil { // whose window does not grow backwards
		rate, left := m.backward.progress.rate(s.Minimum - m.cfg.HistoryTo)
		st.History = &History{To: m.cfg.HistoryTo, EntriesPerSecond: rate, SecondsLeft: left.Seconds(), Problem: clone(m.backward.problem)}
	}
	st.Sources = m.sourcesLocked(st.UpstreamState)
	st.ScrubbedAt = m.lastScrub
	st.Damage, st.DamagedPlaces = damageText(m.tree)
	if known, behind := m.Behind(); behind {
		st.NewestKnownSize = known.Size
	}
	if s.Evidence != nil {
		st.Problem = &Problem{Reason: ProblemFork, Text: "quarantined: " + s.Evidence.Reason, Since: s.Evidence.At}
	} else {
		st.Problem = clone(m.problem)
	}
	return st
}

// damageText names what is damaged.
func damageText(t *storage.Tree) (first []string, places int) {
	if err := t.Broken(); err != nil {
		first, places = append(first, err.Error()), 1
	}
	for _, damage := range t.Damage() {
		if places++; places <= 20 {
			first = append(first, damage.Error())
		}
	}
	return first, places
}

func clone(p *Problem) *Problem {
	if p == nil {
		return nil
	}
	c := *p
	return &c
}

func (m *Mirror) sourcesLocked(upstream string) []Source {
	if len(m.places) == 1 {
		return nil
	}
	var sources []Source
	for _, p := range m.places {
		s := Source{URL: p.url, Upstream: p.upstream, State: "good", Problem: clone(p.problem)}
		if p.upstream {
			s.State, s.Problem = upstream, clone(m.problem)
		} else if p.problem != nil {
			until := p.until
			s.State, s.Until = "set aside", &until
		}
		sources = append(sources, s)
	}
	return sources
}

// Describe returns the part of a log's status that stands in its tree.
func Describe(name, url string, s *storage.State, origin string) Status {
	st := Status{
		Name: name, Origin: origin, OriginHash: OriginHash(origin), URL: url, Coverage: "full",
		MinimumIndex: s.Minimum, NextIndex: s.Head.Size, TreeSize: s.Pending.Size, MirrorSize: s.Mirrored.Size, HasCheckpoint: s.Pending.Raw != nil,
	}
	if s.Minimum > 0 {
		st.Coverage = "window"
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

// IsProblem reports whether an error says that something is wrong with what was given, and not
// that it could not be had.
func IsProblem(err error) bool {
	switch problemReason(err) {
	case ProblemUnreachable, ProblemRefused, ProblemStorage, ProblemKey:
		return false
	}
	return true
}
