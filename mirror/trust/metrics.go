package trust

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics tells how the copy of a TUF repository does. A nil *Metrics tells nothing.
type Metrics struct {
	registerer prometheus.Registerer
	failures   *prometheus.CounterVec
}

// NewMetrics registers the metrics of a TUF repository.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{registerer: r, failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_tuf_failures_total",
		Help: "Updates of the copy of the TUF repository that failed, by reason.",
	}, []string{"reason"})}
	r.MustRegister(m.failures)
	return m
}

func (m *Metrics) failed(problem *RepositoryError) {
	if m != nil {
		m.failures.WithLabelValues(problem.Reason).Inc()
	}
}

var (
	expires = prometheus.NewDesc("understudy_tuf_expires_timestamp_seconds", "When the metadata of a role of the TUF repository expires.", []string{"role"}, nil)
	checked = prometheus.NewDesc("understudy_tuf_checked_timestamp_seconds", "When upstream last vouched for the copy of the TUF repository; before it ever did, when the process began.", nil, nil)
)

// follow registers what a repository's state gives.
func (m *Metrics) follow(r *Repository) {
	if m != nil {
		m.registerer.MustRegister(repositoryState{r})
	}
}

type repositoryState struct{ *Repository }

func (repositoryState) Describe(out chan<- *prometheus.Desc) { out <- expires; out <- checked }

func (s repositoryState) Collect(out chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, at time.Time, labels ...string) {
		out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.UnixMilli())/1000, labels...)
	}
	status := s.Status()
	for _, role := range status.Roles {
		gauge(expires, role.Expires, role.Name)
	}
	if status.Checked == nil { // so that its age grows
		status.Checked = &s.began
	}
	gauge(checked, *status.Checked)
}
