package drill

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestScore takes a drill in which all went well, and lets one thing after the other go wrong.
func TestScore(t *testing.T) {
	const read, write = "rekor/read", "rekor/write"
	took := func(d time.Duration) map[string]time.Duration {
		return map[string]time.Duration{read: d, write: d / 2}
	}
	good := func() (*measures, *expectations) {
		return &measures{
				left: took(4 * time.Second), fell: took(5 * time.Second), recovered: took(6 * time.Second),
				opened: new(6 * time.Second), settled: new(20 * time.Second), reconciled: true, served: 100,
				state:  map[string]outage.State{read: outage.Live, write: outage.Live},
				lapses: map[string]int{read: 1, write: 1},
				fork:   &forkSeen{noticed: new(time.Second), evidence: true, kept: true, reverted: true},
			}, &expectations{
				parts:   []part{{read, kindRead}, {write, kindWrite}},
				targets: Targets{}.orDefault(), log: true, reconcile: true, steady: 4 * time.Second,
			}
	}
	m, e := good()
	if missed := m.score(e); len(missed) != 0 {
		t.Fatalf("all went well, and missed was %q", missed)
	}
	for _, c := range []struct {
		name  string
		wrong func(m *measures, e *expectations)
		want  string
	}{
		{"one is not noticed", func(m *measures, _ *expectations) { delete(m.left, write); delete(m.fell, write) }, "rekor/write was never seen to be away, and had to be within 5s"},
		{"noticed late", func(m *measures, _ *expectations) { m.left[read] = 5100 * time.Millisecond }, "rekor/read was seen to be away after 5.1s, and had to be within 5s"},
		{"no fallback", func(m *measures, _ *expectations) { delete(m.fell, read) }, "rekor/read did not fall back, and had to within 10s"},
		{"late fallback", func(m *measures, _ *expectations) { m.fell[read] = 11 * time.Second }, "rekor/read fell back after 11s, and had to within 10s"},
		{"closed log", func(m *measures, _ *expectations) { m.opened = nil }, "the private log did not open, and had to within 10s"},
		{"log opens late", func(m *measures, _ *expectations) { m.opened = new(12 * time.Second) }, "the private log opened after 12s, and had to within 10s"},
		{"log stays open", func(m *measures, _ *expectations) { m.open, m.settled = true, nil }, "the private log was still open 2m20s after"},
		{"log opens without need", func(_ *measures, e *expectations) { e.parts = e.parts[:1] }, "the private log opened, and the path that takes entries was not away"},
		{"log closes", func(m *measures, _ *expectations) { m.wasOpen, m.closed = true, true }, "the private log, which was open before, closed"},
		{"not seen back", func(m *measures, _ *expectations) {
			delete(m.recovered, read)
			m.state[read], m.settled = outage.Fallback, nil
		}, "rekor/read was still fallback 2m20s after the faults had ended, and had to be seen back within 10s"},
		{"seen back late", func(m *measures, _ *expectations) { m.recovered[read] = 13 * time.Second }, "rekor/read was seen back 13s after"},
		{"not reconciled", func(m *measures, _ *expectations) { m.reconciled, m.settled = false, nil }, "it was not reconciled within 2m20s"},
		{"stays degraded", func(m *measures, e *expectations) {
			e.reconcile, m.settled, m.state[read] = false, nil, outage.Degraded
		}, "not everything was as before 2m20s after the faults had ended: rekor/read is degraded, rekor/write is live"},
		{"settled late", func(m *measures, _ *expectations) { m.settled = new(70 * time.Second) }, "all was as before 1m4s after upstream was seen back, and had to be within 1m0s"},
		{"a proof is not served", func(m *measures, _ *expectations) { m.failed, m.lastFailure = 1, "no route" }, "1 of 101 proofs of what is held were not served; the last one: no route"},
		{"no proof was asked for", func(m *measures, _ *expectations) { m.served = 0 }, "no proof was asked for"},
		{"stuck", func(m *measures, _ *expectations) { m.stuck = true }, "the faults were still in force"},
		{"astray", func(m *measures, _ *expectations) { m.astray = []string{"fulcio was not disturbed"} }, "fulcio was not disturbed"},
		{"flaps", func(m *measures, e *expectations) { e.scenario.flaps, m.lapses[read] = true, 4 }, "rekor/read fell back 4 times, and 3 is the most"},
		{"fork not noticed", func(m *measures, e *expectations) { e.scenario.fork, m.fork.noticed = true, nil }, "the fork of the drill's log was not noticed"},
		{"fork noticed late", func(m *measures, e *expectations) { e.scenario.fork, m.fork.noticed = true, new(6*time.Second) }, "was noticed after 6s"},
		{"no evidence", func(m *measures, e *expectations) { e.scenario.fork, m.fork.evidence = true, false }, "not both kept as evidence"},
		{"head moved", func(m *measures, e *expectations) { e.scenario.fork, m.fork.kept = true, false }, "held has changed"},
		{"still forked", func(m *measures, e *expectations) { e.scenario.fork, m.fork.reverted = true, false }, "still shows its fork"},
	} {
		m, e := good()
		c.wrong(m, e)
		missed := m.score(e)
		if len(missed) != 1 || !strings.HasPrefix(missed[0], c.want) && !strings.Contains(missed[0], c.want) {
			t.Errorf("%s: missed %q, want one: %q", c.name, missed, c.want)
		}
	}
	for _, c := range []struct {
		name  string
		fine  func(m *measures, e *expectations)
		level int
	}{
		{"degraded is enough", func(m *measures, e *expectations) { e.scenario.noticed, m.fell, m.opened = true, nil, nil }, 0},
		{"slack", func(m *measures, e *expectations) {
			e.slack, m.left[read], m.fell[read] = time.Minute, time.Minute, time.Minute
		}, 0},
		{"hysteresis", func(m *measures, _ *expectations) { m.flapLevel, m.recovered[read] = 2, 21*time.Second }, 2},
	} {
		m, e := good()
		c.fine(m, e)
		if missed := m.score(e); len(missed) != 0 {
			t.Errorf("%s: missed %q", c.name, missed)
		}
	}
	if _, e := good(); e.recoverWithin(50) != e.targets.Recover+maxSteady-e.steady {
		t.Errorf("after many flaps: %s", e.recoverWithin(50))
	}
}

// TestRing: results are kept up to a bound, and the numbers go on.
func TestRing(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		hist := h.runner.history
		passed := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
		for i := range uint64(maxKept + 7) {
			res := Result{ID: fmt.Sprintf("drill-%d", i+1), Number: i + 1, Scenario: "refuse", Outcome: outcomeFailed, Place: &Place{}, Ended: passed}
			if i == 3 { // whose result is forgotten
				res.Outcome = outcomePassed
			}
			if err := hist.keep("done", res); err != nil {
				t.Fatal(err)
			}
		}
		again := must[*history](t)(openHistory(h.db, h.ledger))
		for _, hist := range []*history{hist, again} {
			all := hist.newest(0)
			if len(all) != maxKept || all[0].Number != maxKept+7 || all[maxKept-1].Number != 8 || hist.next() != maxKept+8 {
				t.Errorf("%d results, from %d to %d; next %d", len(all), all[0].Number, all[len(all)-1].Number, hist.next())
			}
			if want := map[string]time.Time{"refuse": passed}; !maps.Equal(hist.lastPassed(), want) {
				t.Errorf("passed %v", hist.lastPassed())
			}
			if _, ok := hist.find("drill-7"); ok {
				t.Error("a result beyond the bound is found")
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		h := newHouse(t, sound)
		var registry *prometheus.Registry
		h.config = func(c *Config) {
			registry = prometheus.NewRegistry()
			c.Metrics = NewMetrics(registry)
		}
		value := func(name string, labels ...string) float64 {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				for _, m := range family.GetMetric() {
					var have []string
					for _, l := range m.GetLabel() {
						have = append(have, l.GetValue())
					}
					if slices.Sort(have); family.GetName() == name && slices.Equal(have, slices.Sorted(slices.Values(labels))) {
						return m.GetGauge().GetValue() + m.GetCounter().GetValue()
					}
				}
			}
			return -1
		}
		want := func(want float64, name string, labels ...string) {
			t.Helper()
			if got := value(name, labels...); got != want {
				t.Errorf("%s%v is %v, want %v", name, labels, got, want)
			}
		}
		h.start()
		want(0, "understudy_drill_runs_total", "refuse", "passed")
		want(0, "understudy_drill_last_passed_timestamp_seconds", "refuse")
		want(0, "understudy_drill_coverage_ratio")
		id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		want(1, "understudy_drill_active", "refuse")
		want(0, "understudy_drill_active", "hang")
		res := h.wait(id)
		want(0, "understudy_drill_active", "refuse")
		want(1, "understudy_drill_runs_total", "refuse", "passed")
		h.close()
		h.start()
		defer h.close()
		want(0, "understudy_drill_runs_total", "refuse", "passed")
		want(float64(res.Ended.Unix()), "understudy_drill_last_passed_timestamp_seconds", "refuse")
		want(1.0/16, "understudy_drill_coverage_ratio")
		want(*res.Detect, "understudy_drill_seconds", "refuse", "detect")
		want(*res.FallBack, "understudy_drill_seconds", "refuse", "fall_back")
		want(*res.Recover, "understudy_drill_seconds", "refuse", "recover")
		want(*res.Reconcile, "understudy_drill_seconds", "refuse", "reconcile")
		want(float64(res.Served), "understudy_drill_proofs", "refuse", "served")
		want(0, "understudy_drill_proofs", "refuse", "failed")
		if id = must[string](t)(h.runner.Start(t.Context(), request("cdn-gone"))); h.runner.Abort(id, "bob") != nil {
			t.Error("not aborted")
		}
		h.wait(id)
		want(1, "understudy_drill_runs_total", "cdn-gone", "aborted")
		h.skew.Store(int64(91 * 24 * time.Hour))
		want(0, "understudy_drill_coverage_ratio")
	})
}
