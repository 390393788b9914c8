package reconcile

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/test/bubble"
)

func TestMetrics(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		registry := prometheus.NewPedanticRegistry()
		w.patch = func(c *Config) { c.Metrics = NewMetrics(registry) }
		w.played()
		w.awaitLive()
		want := `
# HELP understudy_reconcile_backlog Decisions that are not verified again yet, and private entries that may be submitted and are not.
# TYPE understudy_reconcile_backlog gauge
understudy_reconcile_backlog{kind="decisions"} 0
understudy_reconcile_backlog{kind="proposals"} 0
# HELP understudy_reconcile_items_total Decisions and proposals that were reconciled, by what became of them.
# TYPE understudy_reconcile_items_total counter
understudy_reconcile_items_total{kind="decision",outcome="same"} 3
understudy_reconcile_items_total{kind="proposal",outcome="not_kept"} 1
understudy_reconcile_items_total{kind="proposal",outcome="refused"} 1
understudy_reconcile_items_total{kind="proposal",outcome="submitted"} 3
# HELP understudy_reconcile_running 1 while a reconciliation runs.
# TYPE understudy_reconcile_running gauge
understudy_reconcile_running 0
# HELP understudy_reconcile_runs_total Reconciliations that ended (done, quarantined), and times that one paused (failed).
# TYPE understudy_reconcile_runs_total counter
understudy_reconcile_runs_total{outcome="done"} 1
understudy_reconcile_runs_total{outcome="failed"} 0
understudy_reconcile_runs_total{outcome="quarantined"} 0
`
		if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "understudy_reconcile_backlog", "understudy_reconcile_items_total", "understudy_reconcile_running", "understudy_reconcile_runs_total"); err != nil {
			t.Error(err)
		}
		if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
			t.Error(problems, err)
		}
	})
}

// TestNotAppended: a report that the private log does not take is kept, says why, and holds up nothing.
func TestNotAppended(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		w.patch = func(c *Config) {
			c.AppendReport = func(context.Context, []byte) (Place, error) { return Place{}, errors.New("too few witnesses") }
		}
		w.played()
		w.awaitLive()
		reports, err := w.life.r.Reports(time.Time{}, time.Now())
		if err != nil || len(reports) != 1 || reports[0].Place != nil || reports[0].Problem != "too few witnesses" {
			t.Errorf("%+v %v", reports, err)
		}
		if rows := w.rows("done"); len(rows) != 1 || rows[0].Text != "too few witnesses" {
			t.Errorf("%+v", rows)
		}
	})
}
