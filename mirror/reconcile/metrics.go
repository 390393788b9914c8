package reconcile

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts what is reconciled. A nil *Metrics counts nothing.
type Metrics struct {
	registerer prometheus.Registerer
	duration   prometheus.Histogram
	items      *prometheus.CounterVec
	lastDone   prometheus.Gauge
	runs       *prometheus.CounterVec
}

// NewMetrics registers the metrics of reconciliation.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		registerer: r,
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "understudy_reconcile_duration_seconds",
			Help:    "From the begin of a reconciliation to its end, pauses included.",
			Buckets: []float64{1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600, 1800, 3600, 14400},
		}),
		items: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_reconcile_items_total",
			Help: "Decisions and proposals that were reconciled, by what became of them.",
		}, []string{"kind", "outcome"}),
		lastDone: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "understudy_reconcile_last_done_timestamp_seconds",
			Help: "When a reconciliation was last over; 0 if none was since the process started.",
		}),
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_reconcile_runs_total",
			Help: "Reconciliations that ended (done, quarantined), and times that one paused (failed).",
		}, []string{"outcome"}),
	}
	for _, outcome := range []string{outcomeDone, outcomeQuarantined, "failed"} {
		m.runs.WithLabelValues(outcome)
	}
	r.MustRegister(m.duration, m.items, m.lastDone, m.runs)
	return m
}

// watch has gauges read what a Reconciler knows.
func (m *Metrics) watch(r *Reconciler) {
	if m == nil {
		return
	}
	backlog := func(kind string, f func() float64) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "understudy_reconcile_backlog",
			Help:        "Decisions that are not verified again yet, and private entries that may be submitted and are not.",
			ConstLabels: prometheus.Labels{"kind": kind},
		}, f)
	}
	m.registerer.MustRegister(
		backlog("decisions", func() float64 { return float64(r.decisions.left()) }),
		backlog("proposals", func() float64 { return float64(r.backlogProposals()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "understudy_reconcile_running",
			Help: "1 while a reconciliation runs.",
		}, func() float64 {
			r.mu.Lock()
			defer r.mu.Unlock()
			if r.active != nil {
				return 1
			}
			return 0
		}))
}

func (m *Metrics) decided(same int, others []verifiedAgain) {
	if m == nil {
		return
	}
	m.items.WithLabelValues("decision", string(Same)).Add(float64(same))
	for _, d := range others {
		outcome := NotKept // whatever else there is, it is not known
		if d.Result == Differs {
			outcome = Differs
		}
		m.items.WithLabelValues("decision", string(outcome)).Inc()
	}
}

func (m *Metrics) sent(group []result) {
	if m == nil {
		return
	}
	outcomes := map[string]string{codeRefused: "refused", codeNotKept: "not_kept", codeUnreadable: "unreadable", codeFailed: "failed"}
	for _, one := range group {
		outcome := "submitted"
		if one.unsent != nil {
			outcome = outcomes[one.unsent.Code]
		} else if one.receipt == nil {
			continue // of our own
		}
		m.items.WithLabelValues("proposal", outcome).Inc()
	}
}

func (m *Metrics) over(outcome string) {
	if m != nil {
		m.runs.WithLabelValues(outcome).Inc()
	}
}

func (m *Metrics) finished(at time.Time, took time.Duration) {
	if m != nil {
		m.lastDone.Set(float64(at.Unix()))
		m.duration.Observe(took.Seconds())
	}
}
