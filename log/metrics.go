package log

import (
	"context"
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/understudy-log/understudy/storage"
)

// Metrics are those of all private logs of a process. A nil *Metrics tells nothing.
type Metrics struct {
	factory   promauto.Factory
	appends   *prometheus.CounterVec
	batches   *prometheus.HistogramVec
	commits   *prometheus.HistogramVec
	cosigning *prometheus.HistogramVec
	size      *prometheus.GaugeVec
	at        *prometheus.GaugeVec
	problems  *prometheus.GaugeVec
}

// NewMetrics registers the metrics; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	return &Metrics{
		factory: f,
		appends: f.NewCounterVec(prometheus.CounterOpts{
			Name: "understudy_private_log_appends_total",
			Help: "Entries that were to be appended to a private log, by what became of them.",
		}, []string{"log", "result"}),
		batches: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_private_log_batch_entries",
			Help:    "New entries that were sequenced at once.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}, []string{"log"}),
		commits: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_private_log_sequence_seconds",
			Help:    "Time from taking a batch to its durable commit.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"log"}),
		cosigning: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "understudy_private_log_publish_seconds",
			Help:    "Time to publish a checkpoint, with the answers of witnesses.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}, []string{"log"}),
		size: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_private_log_published_size",
			Help: "Entries in the tree of the published checkpoint.",
		}, []string{"log"}),
		at: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_private_log_published_timestamp_seconds",
			Help: "When a checkpoint was published last.",
		}, []string{"log"}),
		problems: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "understudy_private_log_problem",
			Help: "1 while a private log does not publish as it should.",
		}, []string{"log"}),
	}
}

// results are what can become of an entry, in the order in which errors are tried.
var results = []struct {
	err  error
	name string
}{
	{ErrFull, "full"}, {ErrTooLarge, "too_large"}, {ErrClock, "clock"}, {ErrBehind, "behind"}, {ErrSigning, "signing"},
	{ErrStopping, "stopping"}, {ErrUnwitnessed, "unwitnessed"}, {context.Canceled, "canceled"}, {context.DeadlineExceeded, "timeout"},
}

// watch registers what is asked of a log.
func (m *Metrics) watch(l *Log) {
	if m == nil {
		return
	}
	for _, r := range results {
		m.appends.WithLabelValues(l.cfg.Name, r.name)
	}
	for _, name := range []string{"logged", "duplicate", "failed"} {
		m.appends.WithLabelValues(l.cfg.Name, name)
	}
	m.problems.WithLabelValues(l.cfg.Name)
	m.size.WithLabelValues(l.cfg.Name).Set(float64(l.Published().Size)) // by an earlier run
	m.factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "understudy_private_log_waiting_entries",
		Help:        "Entries that wait to be sequenced.",
		ConstLabels: prometheus.Labels{"log": l.cfg.Name},
	}, func() float64 { return float64(l.pool.size()) })
}

// Lost tells that a log cannot be opened, and so publishes nothing.
func (m *Metrics) Lost(name string) { m.problem(name, true) }

func (m *Metrics) appended(name string, r Receipt, err error) {
	if m == nil {
		return
	}
	result := "failed"
	switch {
	case err == nil && r.Duplicate:
		result = "duplicate"
	case err == nil:
		result = "logged"
	default:
		for _, known := range results {
			if errors.Is(err, known.err) {
				result = known.name
				break
			}
		}
	}
	m.appends.WithLabelValues(name, result).Inc()
}

func (m *Metrics) sequenced(name string, fresh int, took time.Duration) {
	if m == nil || fresh == 0 {
		return
	}
	m.batches.WithLabelValues(name).Observe(float64(fresh))
	m.commits.WithLabelValues(name).Observe(took.Seconds())
}

func (m *Metrics) published(name string, c storage.Checkpoint, took time.Duration) {
	if m == nil {
		return
	}
	m.cosigning.WithLabelValues(name).Observe(took.Seconds())
	m.size.WithLabelValues(name).Set(float64(c.Size))
	m.at.WithLabelValues(name).Set(float64(time.Now().Unix()))
}

func (m *Metrics) problem(name string, is bool) {
	if m == nil {
		return
	}
	value := 0.0
	if is {
		value = 1
	}
	m.problems.WithLabelValues(name).Set(value)
}
