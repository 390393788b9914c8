package verdict

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/understudy-log/understudy/mirror/outage"
)

// Metrics counts decisions and what weakens them. A nil *Metrics counts nothing.
type Metrics struct {
	registerer prometheus.Registerer
	decisions  *prometheus.CounterVec
	denied     *prometheus.CounterVec
	seconds    *prometheus.CounterVec
	exceptions *prometheus.CounterVec
}

// NewMetrics registers the metrics; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	return &Metrics{
		registerer: r,
		decisions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_verification_decisions_total",
			Help: "Decisions about artifacts, by what they rest on, and whether all upstreams were live.",
		}, []string{"policy", "decision", "mode", "rests_on", "live"}),
		denied: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_verification_denied_total",
			Help: "Reasons of decisions that denied, or that would have without an exception.",
		}, []string{"policy", "reason"}),
		seconds: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_verification_mode_seconds_total",
			Help: "Time that a policy was in a mode.",
		}, []string{"policy", "mode"}),
		exceptions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_verification_exceptions_total",
			Help: "What became of exceptions.",
		}, []string{"event"}),
	}
}

// begin makes the series that alerts look at, and the collector of what is asked for.
func (m *Metrics) begin(v *Verifier) {
	if m == nil {
		return
	}
	for policy := range v.policies {
		for _, mode := range []string{ModeEnforce, ModeAudit} {
			m.seconds.WithLabelValues(policy, mode)
		}
	}
	for _, event := range []string{"requested", "approved", ExceptionDenied, ExceptionRevoked, ExceptionExpired, ExceptionClosed} {
		m.exceptions.WithLabelValues(event)
	}
	if m.registerer != nil {
		m.registerer.MustRegister(collector{v})
	}
}

// policyLabel bounds the label: requests may name any policy.
func policyLabel(v *Verifier, policy string) string {
	if v.policies[policy] == nil {
		return "unknown"
	}
	return policy
}

func (m *Metrics) decided(v *Verifier, d *Decision) {
	if m == nil {
		return
	}
	decision := denied
	if d.Allow {
		decision = allowed
	}
	policy := policyLabel(v, d.Policy)
	m.decisions.WithLabelValues(policy, decision, d.Mode, cmpOr(string(d.RestsOn), "nothing"), strconv.FormatBool(d.State == outage.Live)).Inc()
	if d.Allow && d.Exception == "" {
		return
	}
	for _, r := range d.Reasons {
		m.denied.WithLabelValues(policy, r.Code).Inc()
	}
}

func (m *Metrics) exception(event string) {
	if m != nil {
		m.exceptions.WithLabelValues(event).Inc()
	}
}

// tick counts the time that has gone by.
func (m *Metrics) tick(v *Verifier, gone time.Duration) {
	if m == nil {
		return
	}
	for policy := range v.policies {
		m.seconds.WithLabelValues(policy, v.mode(policy)).Add(max(gone, 0).Seconds())
	}
}

var (
	exceptionsDesc = prometheus.NewDesc("understudy_verification_exceptions", "Exceptions that are not over.", []string{"state"}, nil)
	endDesc        = prometheus.NewDesc("understudy_verification_exception_end_timestamp_seconds", "When the active exception of a policy ends.", []string{"policy"}, nil)
	rollbacksDesc  = prometheus.NewDesc("understudy_verification_rollback_bundles", "Rollback bundles, by whether they verified offline when that was looked at last.", []string{"state"}, nil)
	keptDesc       = prometheus.NewDesc("understudy_verification_kept_bytes", "Bundles of decisions that are kept.", nil, nil)
)

// collector tells what the verifier knows now.
type collector struct{ v *Verifier }

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{exceptionsDesc, endDesc, rollbacksDesc, keptDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	states := map[string]float64{ExceptionPending: 0, ExceptionActive: 0}
	ends := map[string]time.Time{}
	for _, e := range c.v.current() {
		states[e.State]++
		if e.State == ExceptionActive {
			ends[e.Policy] = c.v.end(&e)
		}
	}
	for state, n := range states {
		gauge(exceptionsDesc, n, state)
	}
	for policy, end := range ends {
		gauge(endDesc, float64(end.UnixMilli())/1000, policy)
	}
	good, bad := 0.0, 0.0
	for _, p := range c.v.rollbacks.list() {
		if p.Good {
			good++
		} else {
			bad++
		}
	}
	gauge(rollbacksDesc, good, "good")
	gauge(rollbacksDesc, bad, "bad")
	gauge(keptDesc, float64(c.v.kept.size()))
}
