package mirror

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what the mirrors of one process do. A nil *Metrics counts nothing.
type Metrics struct {
	registerer prometheus.Registerer
	requests   *prometheus.CounterVec
	entries    *prometheus.CounterVec
	problems   *prometheus.CounterVec
	repairs    *prometheus.CounterVec
	missed     *prometheus.CounterVec
}

// NewMetrics registers the metrics of mirrors.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		registerer: r,
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_upstream_requests_total",
			Help: "Requests to upstream, by what was asked for and HTTP status; code 0 is no answer.",
		}, []string{"log", "kind", "code"}),
		entries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_log_entries_total",
			Help: "Entries verified and committed since the process started.",
		}, []string{"log"}),
		problems: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_log_problems_total",
			Help: "Rounds that upstream made fail, by reason.",
		}, []string{"log", "reason"}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_log_repaired_rows_total",
			Help: "Stored rows that were verified and written anew because of damage; most of them were good.",
		}, []string{"log"}),
	}
	m.missed = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_log_misses_total",
		Help: "Entries and proofs of a Rekor v1 service that clients asked for and that were not held, by what became of them.",
	}, []string{"log", "outcome"})
	r.MustRegister(m.requests, m.entries, m.problems, m.repairs, m.missed)
	return m
}

// logMetrics counts for one log.
type logMetrics struct {
	all  *Metrics
	name string
}

func (m *Metrics) log(name string) *logMetrics {
	if m == nil {
		return nil
	}
	return &logMetrics{m, name}
}

func (l *logMetrics) request(kind string, code int) {
	if l != nil {
		l.all.requests.WithLabelValues(l.name, kind, strconv.Itoa(code)).Inc()
	}
}

func (l *logMetrics) copied(entries uint64) {
	if l != nil {
		l.all.entries.WithLabelValues(l.name).Add(float64(entries))
	}
}

func (l *logMetrics) problem(reason string) {
	if l != nil {
		l.all.problems.WithLabelValues(l.name, reason).Inc()
	}
}

// Outcomes of a miss.
const (
	missFetched = "fetched" // verified, and kept if it is an entry
	missAbsent  = "absent"  // upstream said that there is no such thing
	missBudget  = "budget"  // of the client or of the service; it was turned away
	missAway    = "away"    // upstream could not be asked, or did not answer
	missRefused = "refused" // what upstream gave does not verify
)

// missed counts one miss by how it ended.
func (l *logMetrics) missed(err error) {
	if l == nil {
		return
	}
	outcome := missFetched
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		switch {
		case refusal.Kind == NotFound || refusal.Kind == Invalid:
			outcome = missAbsent
		case refusal.Reason == ReasonBudgetExhausted:
			outcome = missBudget
		case refusal.Reason == ReasonUpstreamRefused || refusal.Kind == Damaged:
			outcome = missRefused
		default:
			outcome = missAway
		}
	} else if err != nil {
		return // the client went away
	}
	l.all.missed.WithLabelValues(l.name, outcome).Inc()
}

func (l *logMetrics) repaired(rows uint64) {
	if l != nil {
		l.all.repairs.WithLabelValues(l.name).Add(float64(rows))
	}
}

// watch exports the state of a mirror.
func (m *Metrics) watch(mirror *Mirror) {
	if m == nil {
		return
	}
	m.repairs.WithLabelValues(mirror.cfg.Name)
	for _, problem := range []string{ProblemUnreachable, ProblemSignature, ProblemFork} {
		m.problems.WithLabelValues(mirror.cfg.Name, problem)
	}
	m.registerer.MustRegister(&stateCollector{mirror: mirror, descs: stateDescs(mirror)})
}

// stateCollector reads the gauges of one log when it is scraped.
type stateCollector struct {
	mirror *Mirror
	descs  []stateDesc
}

type stateDesc struct {
	desc  *prometheus.Desc
	value func(Status) float64
}

func stateDescs(m *Mirror) []stateDesc {
	gauge := func(name, help string, value func(Status) float64) stateDesc {
		return stateDesc{prometheus.NewDesc("understudy_log_"+name, help, nil, prometheus.Labels{"log": m.cfg.Name}), value}
	}
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	descs := []stateDesc{
		gauge("upstream_up", "1 while upstream answers with good checkpoints.", func(s Status) float64 { return flag(s.Source == SourceLive) }),
		gauge("quarantined", "1 after upstream signed two irreconcilable checkpoints.", func(s Status) float64 { return flag(s.Evidence != nil) }),
		gauge("frozen", "1 after upstream ended the log.", func(s Status) float64 { return flag(s.UpstreamState == UpstreamFrozen) }),
		gauge("checkpoint_age_seconds", "Time since upstream last vouched for the newest checkpoint.", func(s Status) float64 { return s.CheckpointAge }),
		gauge("tree_size", "Size of the newest verified checkpoint, in entries.", func(s Status) float64 { return float64(s.TreeSize) }),
		gauge("damage", "Stored places that are known to be damaged and are not put back yet.", func(s Status) float64 { return float64(s.DamagedPlaces) }),
	}
	if m.shard != nil {
		descs = append(descs,
			gauge("pins", "Entries that are pinned.", func(s Status) float64 { return float64(s.Pins.Count) }),
			gauge("pins_kept", "Pinned entries that are watched or were imported, and never give way to others.", func(s Status) float64 { return float64(s.Pins.Kept) }),
			gauge("pins_unlinked", "Pinned entries whose checkpoint is not tied to an archived one yet.", func(s Status) float64 { return float64(s.Pins.Unlinked) }),
			gauge("pins_bytes", "Bytes that pinned entries take, before compression.", func(s Status) float64 { return float64(s.Pins.Bytes) }),
			gauge("pins_evicted", "Pinned entries that gave way to others since the process started.", func(s Status) float64 { return float64(s.Pins.Evicted) }),
		)
	}
	if m.shard != nil && m.shard.coverage == CoveragePinned {
		return descs
	}
	return append(descs, // of what is copied
		gauge("minimum_index", "First index held.", func(s Status) float64 { return float64(s.MinimumIndex) }),
		gauge("next_index", "First index not held.", func(s Status) float64 { return float64(s.NextIndex) }),
		gauge("mirror_size", "Size of the newest checkpoint whose every entry is held.", func(s Status) float64 { return float64(s.MirrorSize) }),
	)
}

// Describe implements prometheus.Collector.
func (c *stateCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d.desc
	}
}

// Collect implements prometheus.Collector.
func (c *stateCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.mirror.Status()
	for _, d := range c.descs {
		ch <- prometheus.MustNewConstMetric(d.desc, prometheus.GaugeValue, d.value(s))
	}
}
