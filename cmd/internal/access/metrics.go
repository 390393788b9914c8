package access

import "github.com/prometheus/client_golang/prometheus"

// What became of a request.
const (
	admitted        = "admitted"
	unauthenticated = "unauthenticated"
	forbidden       = "forbidden"
	limited         = "limited" // too many entries, or failed attempts, in a time
	busy            = "busy"    // too many requests at once
)

type metrics struct {
	requests *prometheus.CounterVec
}

// newMetrics registers the counters of the identities of a configuration.
func newMetrics(r prometheus.Registerer, names []string) *metrics {
	m := &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_log_access_total",
		Help: "Requests to the private log by identity and by what became of them; nobody is all who named none.",
	}, []string{"identity", "outcome"})}
	r.MustRegister(m.requests)
	// An increase is seen only in a series that is there before.
	for _, name := range names {
		for _, outcome := range []string{admitted, forbidden, limited, busy} {
			m.requests.WithLabelValues(name, outcome)
		}
	}
	for _, outcome := range []string{unauthenticated, forbidden, limited} {
		m.requests.WithLabelValues(nobody, outcome)
	}
	return m
}

// count counts a request. identity is one of the configuration, or nobody.
func (m *metrics) count(identity, outcome string) {
	m.requests.WithLabelValues(identity, outcome).Inc()
}
