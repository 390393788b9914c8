package trust

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics tells how TUF repositories do. A nil *Metrics tells nothing.
type Metrics struct {
	failures *prometheus.CounterVec

	mu           sync.Mutex
	repositories []*Repository // guarded by mu
}

// NewMetrics registers the metrics of TUF repositories.
func NewMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{failures: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_tuf_failures_total",
		Help: "Updates of a TUF repository that failed, by reason. The repository is upstream (the copy) or own.",
	}, []string{"repository", "reason"})}
	r.MustRegister(m.failures, m)
	return m
}

func (m *Metrics) failed(r *Repository, problem *RepositoryError) {
	if m != nil {
		m.failures.WithLabelValues(r.cfg.Label, problem.Reason).Inc()
	}
}

var (
	expires = prometheus.NewDesc("understudy_tuf_expires_timestamp_seconds", "When the metadata of a role of a TUF repository expires.", []string{"repository", "role"}, nil)
	checked = prometheus.NewDesc("understudy_tuf_checked_timestamp_seconds", "When what is served of a TUF repository was last found to be its newest; before it ever was, when the process began.", []string{"repository"}, nil)
)

// follow tells of a repository from now on.
func (m *Metrics) follow(r *Repository) {
	if m != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.repositories = append(m.repositories, r)
	}
}

// Describe names the metrics that Collect gives.
func (*Metrics) Describe(out chan<- *prometheus.Desc) { out <- expires; out <- checked }

// Collect tells the times of every repository.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.repositories {
		gauge := func(desc *prometheus.Desc, at time.Time, labels ...string) {
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(at.UnixMilli())/1000, append([]string{r.cfg.Label}, labels...)...)
		}
		status := r.Status()
		for _, role := range status.Roles {
			gauge(expires, role.Expires, role.Name)
		}
		if status.Checked == nil { // so that its age grows
			status.Checked = &r.began
		}
		gauge(checked, *status.Checked)
	}
}
