package drill

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// coverageTime is how long a scenario that has passed counts as covered.
const coverageTime = 90 * 24 * time.Hour

// Metrics tells of drills. A nil *Metrics tells nothing.
type Metrics struct {
	registerer prometheus.Registerer
	runs       *prometheus.CounterVec
	active     *prometheus.GaugeVec
	passed     *prometheus.GaugeVec
	seconds    *prometheus.GaugeVec
	proofs     *prometheus.GaugeVec
	skips      *prometheus.CounterVec
}

// NewMetrics registers the metrics of drills.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		registerer: r,
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_drill_runs_total",
			Help: "Drills that have ended since the process started, by outcome: passed, failed or aborted.",
		}, []string{"scenario", "outcome"}),
		active: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_drill_active",
			Help: "Whether a drill is under way: 1, from its first fault until it is over.",
		}, []string{"scenario"}),
		passed: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_drill_last_passed_timestamp_seconds",
			Help: "When a drill passed last; 0 is never.",
		}, []string{"scenario"}),
		seconds: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_drill_seconds",
			Help: "What the last drill took to detect, fall_back, recover and reconcile. What was not measured is missing.",
		}, []string{"scenario", "what"}),
		proofs: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_drill_proofs",
			Help: "Proofs of held material that were asked for in the last drill, by whether they were served or failed.",
		}, []string{"scenario", "outcome"}),
		skips: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_drill_skipped_total",
			Help: "Scheduled drills that did not begin.",
		}, []string{"scenario"}),
	}
	r.MustRegister(m.runs, m.active, m.passed, m.seconds, m.proofs, m.skips)
	for _, s := range Scenarios() {
		for _, outcome := range []string{outcomePassed, outcomeFailed, outcomeAborted} {
			m.runs.WithLabelValues(s.Name, outcome)
		}
		m.active.WithLabelValues(s.Name)
		m.passed.WithLabelValues(s.Name)
		m.skips.WithLabelValues(s.Name)
	}
	return m
}

// watch tells of what a runner has kept.
func (m *Metrics) watch(r *Runner) {
	if m == nil {
		return
	}
	for _, res := range r.history.filter(func(*Result) bool { return true }) { // oldest first
		if res.Outcome == outcomePassed || res.Outcome == outcomeFailed {
			m.took(&res)
		}
	}
	for scenario, at := range r.history.lastPassed() {
		m.passed.WithLabelValues(scenario).Set(float64(at.Unix()))
	}
	m.registerer.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "understudy_drill_coverage_ratio",
		Help: "Share of the scenarios that have passed within 90 days.",
	}, func() float64 {
		passed, covered, all := r.history.lastPassed(), 0, Scenarios()
		for _, s := range all {
			if at, ok := passed[s.Name]; ok && r.cfg.Now().Sub(at) < coverageTime {
				covered++
			}
		}
		return float64(covered) / float64(len(all))
	}))
}

func (m *Metrics) begins(scenario string) {
	if m != nil {
		m.active.WithLabelValues(scenario).Set(1)
	}
}

func (m *Metrics) ends(res *Result) {
	if m == nil {
		return
	}
	m.active.WithLabelValues(res.Scenario).Set(0)
	m.runs.WithLabelValues(res.Scenario, res.Outcome).Inc()
	if res.Outcome != outcomeAborted {
		m.took(res)
	}
	if res.Outcome == outcomePassed {
		m.passed.WithLabelValues(res.Scenario).Set(float64(res.Ended.Unix()))
	}
}

// took tells the figures of a drill, in the place of those of the one before.
func (m *Metrics) took(res *Result) {
	m.proofs.WithLabelValues(res.Scenario, "served").Set(float64(res.Served))
	m.proofs.WithLabelValues(res.Scenario, "failed").Set(float64(res.Failed))
	for what, measured := range map[string]*float64{"detect": res.Detect, "fall_back": res.FallBack, "recover": res.Recover, "reconcile": res.Reconcile} {
		m.seconds.DeleteLabelValues(res.Scenario, what)
		if measured != nil {
			m.seconds.WithLabelValues(res.Scenario, what).Set(*measured)
		}
	}
}

func (m *Metrics) skipped(scenario string) {
	if m != nil {
		m.skips.WithLabelValues(scenario).Inc()
	}
}
