package outage

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of a Monitor. A nil *Metrics tells nothing.
type Metrics struct {
	state        *prometheus.GaugeVec
	transitions  *prometheus.CounterVec
	burnRate     *prometheus.GaugeVec
	probe        *prometheus.HistogramVec
	observations *prometheus.CounterVec
	forced       *prometheus.GaugeVec
	flapLevel    *prometheus.GaugeVec
	ledgerRows   prometheus.Gauge
	hookPending  prometheus.Gauge
	hookFailures prometheus.Counter
}

// NewMetrics registers the metrics; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	return &Metrics{
		state: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_outage_state",
			Help: "1 for the state that counts of a component of an upstream, 0 for the others.",
		}, []string{"component", "state"}),
		transitions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_outage_transitions_total",
			Help: "Changes of the state that counts, by the new one.",
		}, []string{"component", "to"}),
		burnRate: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_outage_burn_rate",
			Help: "How many times faster than the objective allows errors came, by window.",
		}, []string{"component", "window"}),
		probe: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_outage_probe_duration_seconds",
			Help:    "Time until a probe was answered, or failed.",
			Buckets: []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 1.5, 2, 5, 10},
		}, []string{"component"}),
		observations: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_outage_observations_total",
			Help: "Requests to an upstream, of probes and of real traffic, by what the error budget takes them for.",
		}, []string{"component", "outcome"}),
		forced: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_outage_forced",
			Help: "1 while an operator has set the state of a component.",
		}, []string{"component"}),
		flapLevel: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_outage_flap_level",
			Help: "How often a component fell back again soon after it had recovered.",
		}, []string{"component"}),
		ledgerRows: f.NewGauge(prometheus.GaugeOpts{
			Name: "understudy_outage_ledger_rows",
			Help: "Rows of the ledger.",
		}),
		hookPending: f.NewGauge(prometheus.GaugeOpts{
			Name: "understudy_outage_webhook_pending",
			Help: "Rows of the ledger that the webhook is to be told of.",
		}),
		hookFailures: f.NewCounter(prometheus.CounterOpts{
			Name: "understudy_outage_webhook_failures_total",
			Help: "Times that the webhook's receiver did not take a row.",
		}),
	}
}

// show tells how a component is now.
func (m *Metrics) show(component string, p *position, level int) {
	if m == nil {
		return
	}
	for _, s := range states() {
		m.state.WithLabelValues(component, string(s)).Set(number(s == p.counts()))
		m.transitions.WithLabelValues(component, string(s)) // 0 from the start
	}
	m.forced.WithLabelValues(component).Set(number(p.Force != nil))
	m.flapLevel.WithLabelValues(component).Set(float64(level))
}

func (m *Metrics) changed(component string, to State) {
	if m != nil {
		m.transitions.WithLabelValues(component, string(to)).Inc()
	}
}

func (m *Metrics) observed(component string, good bool) {
	if m == nil {
		return
	}
	outcome := "bad"
	if good {
		outcome = "good"
	}
	m.observations.WithLabelValues(component, outcome).Inc()
}

func (m *Metrics) weighed(component string, rates [windows]float64, level int) {
	if m == nil {
		return
	}
	for w, rate := range rates {
		m.burnRate.WithLabelValues(component, windowNames()[w]).Set(rate)
	}
	m.flapLevel.WithLabelValues(component).Set(float64(level))
}

func (m *Metrics) probed(component string, took time.Duration) {
	if m != nil {
		m.probe.WithLabelValues(component).Observe(took.Seconds())
	}
}

func (m *Metrics) rows(n uint64) {
	if m != nil {
		m.ledgerRows.Set(float64(n))
	}
}

func (m *Metrics) waiting(n int) {
	if m != nil {
		m.hookPending.Set(float64(n))
	}
}

func (m *Metrics) hookFailed() {
	if m != nil {
		m.hookFailures.Inc()
	}
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}
