package witness

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/understudy-log/understudy/storage"
)

// Metrics are those of one Witness.
type Metrics struct {
	factory      promauto.Factory
	requests     *prometheus.CounterVec
	cosignatures *prometheus.CounterVec
	contradicted prometheus.Counter
}

// NewMetrics registers the metrics of a Witness; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	m := &Metrics{
		factory: f,
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_witness_requests_total",
			Help: "Requests to add a checkpoint, by what became of them.",
		}, []string{"result"}),
		cosignatures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_cosigned_checkpoints_total",
			Help: "Checkpoints that were cosigned, again counted again, by the cosigner.",
		}, []string{"cosigner"}),
		contradicted: f.NewCounter(prometheus.CounterOpts{
			Name: "understudy_witness_evidence_total",
			Help: "Checkpoints that were pushed here and contradict what their log signed before.",
		}),
	}
	for why := UnknownOrigin; why <= Unavailable; why++ {
		m.requests.WithLabelValues(why.String())
	}
	m.requests.WithLabelValues("cosigned")
	return m
}

// watch registers what is asked of the witness.
func (m *Metrics) watch(w *Witness) {
	m.factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "understudy_witness_logs",
		Help: "Logs whose checkpoints are cosigned.",
	}, func() float64 { return float64(w.Status().Logs) })
	m.factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "understudy_witness_quarantined_logs",
		Help: "Logs that get no cosignature, because they signed two irreconcilable checkpoints.",
	}, func() float64 { return float64(len(w.Status().Quarantined)) })
}

func (m *Metrics) answered(err error) {
	result := "cosigned"
	if refusal, ok := errors.AsType[*Refusal](err); ok {
		result = refusal.Why.String()
	} else if err != nil {
		result = "failed"
	}
	m.requests.WithLabelValues(result).Inc()
}

func (m *Metrics) cosigned(by storage.Cosigner) {
	name := "witness"
	if by == storage.CosignerMirror {
		name = "mirror"
	}
	m.cosignatures.WithLabelValues(name).Inc()
}

func (m *Metrics) evidence() { m.contradicted.Inc() }
