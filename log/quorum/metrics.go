package quorum

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of all Collectors of a process.
type Metrics struct {
	asked  *prometheus.CounterVec
	took   *prometheus.HistogramVec
	rounds *prometheus.HistogramVec
}

// NewMetrics registers the metrics of Collectors; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	buckets := []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	return &Metrics{
		asked: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_quorum_cosignatures_total",
			Help: "Times that a witness was asked to cosign a checkpoint of ours, by what became of it.",
		}, []string{"log", "witness", "result"}),
		took: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_quorum_witness_seconds",
			Help:    "How long a witness took to answer, whatever it was.",
			Buckets: buckets,
		}, []string{"log", "witness"}),
		rounds: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_quorum_seconds",
			Help:    "How long it took until a checkpoint of ours had its quorum, or was given up.",
			Buckets: buckets,
		}, []string{"log", "result"}),
	}
}

// watch makes the series of a log be there from the beginning.
func (m *Metrics) watch(name string, p *Policy) {
	for _, w := range p.witnesses {
		for _, result := range []string{resultCosigned, resultUnreachable, resultRefused, resultInvalid, resultAhead, resultUnproven} {
			m.asked.WithLabelValues(name, label(w), result)
		}
	}
	for _, result := range []string{"reached", "short", "ahead"} {
		m.rounds.WithLabelValues(name, result)
	}
}

func (m *Metrics) answered(name string, w witness, err error) {
	m.asked.WithLabelValues(name, label(w), resultOf(err)).Inc()
}

func (m *Metrics) waited(name string, w witness, elapsed time.Duration) {
	m.took.WithLabelValues(name, label(w)).Observe(elapsed.Seconds())
}

func (m *Metrics) round(name, result string, elapsed time.Duration) {
	m.rounds.WithLabelValues(name, result).Observe(elapsed.Seconds())
}

// label returns the name of a witness as Prometheus takes it; in a policy it may be any octets.
func label(w witness) string { return strings.ToValidUTF8(w.name, "\uFFFD") }
