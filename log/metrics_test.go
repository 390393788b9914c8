package log

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestMetrics: what became of entries, and how the log does.
func TestMetrics(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		w := &witness{t: t}
		s := newStage(t, func(c *Config) {
			c.Cosign, c.Name, c.MaxEntry, c.Metrics = w.Cosign, "ours", 100, NewMetrics(registry)
		})
		s.open(true)
		s.append("0")
		s.append("0")
		s.append("1")
		w.will(refuse)
		if _, err := s.within(3*time.Second, "2"); err == nil {
			t.Error("answered without witnesses")
		}
		if _, err := s.within(time.Second, strings.Repeat("x", 101)); err == nil {
			t.Error("answered what is too large")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.log.Append(ctx, entryOf("3")); err == nil {
			t.Error("answered who gave up")
		}
		synctest.Wait()
		want := `
# HELP understudy_private_log_appends_total Entries that were to be appended to a private log, by what became of them.
# TYPE understudy_private_log_appends_total counter
understudy_private_log_appends_total{log="ours",result="behind"} 0
understudy_private_log_appends_total{log="ours",result="canceled"} 1
understudy_private_log_appends_total{log="ours",result="clock"} 0
understudy_private_log_appends_total{log="ours",result="duplicate"} 1
understudy_private_log_appends_total{log="ours",result="failed"} 0
understudy_private_log_appends_total{log="ours",result="full"} 0
understudy_private_log_appends_total{log="ours",result="logged"} 2
understudy_private_log_appends_total{log="ours",result="signing"} 0
understudy_private_log_appends_total{log="ours",result="stopping"} 0
understudy_private_log_appends_total{log="ours",result="timeout"} 0
understudy_private_log_appends_total{log="ours",result="too_large"} 1
understudy_private_log_appends_total{log="ours",result="unwitnessed"} 1
# HELP understudy_private_log_problem 1 while a private log does not publish as it should.
# TYPE understudy_private_log_problem gauge
understudy_private_log_problem{log="ours"} 1
# HELP understudy_private_log_published_size Entries in the tree of the published checkpoint.
# TYPE understudy_private_log_published_size gauge
understudy_private_log_published_size{log="ours"} 2
# HELP understudy_private_log_waiting_entries Entries that wait to be sequenced.
# TYPE understudy_private_log_waiting_entries gauge
understudy_private_log_waiting_entries{log="ours"} 1
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "understudy_private_log_appends_total", "understudy_private_log_problem", "understudy_private_log_published_size", "understudy_private_log_waiting_entries"); err != nil {
			t.Error(err)
		}
		w.will(nil)
		time.Sleep(5 * time.Second)
		if got := testutil.ToFloat64(s.config.Metrics.problems.WithLabelValues("ours")); got != 0 {
			t.Errorf("problem is %v", got)
		}
		published := s.log.Published().Size
		s.close()
		w.will(refuse)
		s.config.Metrics = NewMetrics(nil)
		s.open(false)
		if got := testutil.ToFloat64(s.config.Metrics.size.WithLabelValues("ours")); got != float64(published) {
			t.Errorf("after a restart %v is published, want %d", got, published)
		}
		s.close()
	})
}
