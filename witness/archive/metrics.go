package archive

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are those of one Archive.
type Metrics struct {
	factory  promauto.Factory
	failures *prometheus.CounterVec
}

// NewMetrics registers the metrics of an Archive; r may be nil.
func NewMetrics(r prometheus.Registerer) *Metrics {
	f := promauto.With(r)
	m := &Metrics{factory: f, failures: f.NewCounterVec(prometheus.CounterOpts{
		Name: "understudy_archive_failures_total",
		Help: "Tries that failed, by what was tried: to make an evidence pack, to get a time-stamp, to store a pack.",
	}, []string{"step"})}
	for _, step := range []string{"build", "timestamp", "store"} {
		m.failures.WithLabelValues(step)
	}
	return m
}

// watch registers what is asked of the archive.
func (m *Metrics) watch(a *Archive) {
	f := m.factory
	gauge := func(name, help string, value func() float64) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
	}
	gauge("understudy_archive_last_pack_age_seconds", "Seconds since the newest evidence pack was made; since the first period began, if there is none.", func() float64 {
		last := a.lastRecord()
		if last.Number == 0 {
			return a.since(a.began()).Seconds()
		}
		return a.since(last.Built).Seconds()
	})
	gauge("understudy_archive_overdue_seconds", "Seconds since an evidence pack became due that is not made yet; 0 if none is.", func() float64 {
		last := a.lastRecord()
		if last.Number == 0 {
			last.To = a.began()
		}
		if next := a.cfg.Schedule.Next(last.To); a.now().After(next) {
			return a.since(next).Seconds()
		}
		return 0
	})
	gauge("understudy_archive_packs", "Evidence packs that were made.", func() float64 { return float64(a.lastRecord().Number) })
	for _, d := range a.cfg.Destinations {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "understudy_archive_waiting_packs", Help: "Evidence packs that are not stored at a destination yet.",
			ConstLabels: prometheus.Labels{"destination": d.Name()},
		}, func() float64 { return float64(a.Status().Waiting[d.Name()]) })
	}
}

func (m *Metrics) failed(step string) { m.failures.WithLabelValues(step).Inc() }
