package drill

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// inHouse runs f in a bubble with a house that is sound.
func inHouse(t *testing.T, config func(*house), f func(t *testing.T, h *house)) {
	t.Helper()
	bubble.Run(t, func(t *testing.T) {
		h := newHouse(t, sound)
		if config != nil {
			config(h)
		}
		h.start()
		defer h.close()
		f(t, h)
	})
}

func wantRefused(t *testing.T, err, want error, code string) {
	t.Helper()
	if !errors.Is(err, want) || Code(err) != code {
		t.Errorf("got %v (%s), want %v (%s)", err, Code(err), want, code)
	}
}

// calm demands that no fault is in force: requests of the daemon reach upstream.
func (h *house) calm() {
	h.t.Helper()
	if h.faults.inForce() != nil || h.faults.armed.Load() != nil {
		h.t.Error("faults are in force")
	}
	if d := h.faults.Clock("tuf"); d != 0 {
		h.t.Errorf("the TUF client's clock is %s ahead", d)
	}
}

func TestGuardRails(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		for _, c := range []struct {
			change func(*Request)
			err    error
			code   string
		}{
			{func(q *Request) { q.Scenario = "no-such" }, ErrUnknown, "UNKNOWN"},
			{func(q *Request) { q.Component = "other" }, ErrUnknown, "UNKNOWN"},
			{func(q *Request) { q.Component = "rekor/rea" }, ErrUnknown, "UNKNOWN"},
			{func(q *Request) { q.Scenario, q.Component = "write-only", "rekor/read" }, ErrUnknown, "UNKNOWN"},
			{func(q *Request) { q.Scenario, q.Component = "fork", "rekor" }, ErrUnknown, "UNKNOWN"},
			{func(q *Request) { q.Ticket = " " }, ErrNoTicket, "NO_TICKET"},
			{func(q *Request) { q.By = "" }, ErrNoTicket, "NO_TICKET"},
			{func(q *Request) { q.For = DefaultMaxDuration + 1 }, ErrLength, "DRILL_LENGTH"},
			{func(q *Request) { q.For = 0 }, ErrLength, "DRILL_LENGTH"},
			{func(q *Request) { q.For = -time.Minute }, ErrLength, "DRILL_LENGTH"},
			{func(q *Request) { q.For = 14 * time.Second }, ErrLength, "DRILL_LENGTH"},
			{func(q *Request) { q.Scenario, q.For = "stale-checkpoint", 44*time.Second }, ErrLength, "DRILL_LENGTH"},
		} {
			q := request("refuse")
			c.change(&q)
			_, err := h.runner.Start(t.Context(), q)
			wantRefused(t, err, c.err, c.code)
		}
		if rows, _ := h.ledger.Head(); rows != 0 {
			t.Errorf("%d rows of what was refused", rows)
		}
		wantRefused(t, h.runner.Abort("", "ann"), ErrUnknown, "UNKNOWN")
		_, _, err := h.runner.Report("")
		wantRefused(t, err, ErrUnknown, "UNKNOWN")

		// One at a time, until all is as before.
		q := request("refuse")
		q.Component, q.For = "rekor/read", 15*time.Second
		id := must[string](t)(h.runner.Start(t.Context(), q))
		for range 16 {
			_, err := h.runner.Start(t.Context(), request("cdn-gone"))
			wantRefused(t, err, ErrBusy, "DRILL_RUNNING")
			time.Sleep(time.Second)
		}
		if a := h.runner.Active(); a == nil || !a.Settling || a.ID != id || a.Outcome != outcomeRunning || a.Served == 0 {
			t.Errorf("active: %+v", a)
		}
		if h.runner.Affects("rekor/read") != id || h.runner.Affects("rekor/write") != "" {
			t.Error("it affects other components than it should")
		}
		if res := h.wait(id); res.Outcome != outcomePassed || !slices.Equal(res.Components, []string{"rekor/read"}) {
			t.Errorf("got %+v", res)
		}
		if h.runner.Affects("rekor/read") != "" {
			t.Error("it affects a component after its end")
		}
		if got, want := h.events(id), []string{"started", "detected", "reverted", "done", "logged"}; !slices.Equal(got, want) {
			t.Errorf("events %v, want %v", got, want)
		}
		// The changes of state say whose they are.
		n := 0
		err = h.ledger.Rows(1, func(r ledger.Row) error {
			var c outage.Change
			if r.Kind != "state" {
				return nil
			}
			n++
			if err := r.Decode(&c); err != nil || c.Drill != id || c.Component != "rekor/read" {
				t.Errorf("row %s of no drill: %v", r.Raw(), err)
			}
			return nil
		})
		if err != nil || n != 3 {
			t.Errorf("%d changes of state, %v", n, err)
		}
	})
}

// TestAtOnce starts many at the same instant.
func TestAtOnce(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		errs := make([]error, 20)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() { _, errs[i] = h.runner.Start(t.Context(), request("refuse")) })
		}
		wg.Wait()
		started := 0
		for _, err := range errs {
			if err == nil {
				started++
			} else {
				wantRefused(t, err, ErrBusy, "DRILL_RUNNING")
			}
		}
		if started != 1 {
			t.Errorf("%d of %d began", started, len(errs))
		}
		h.wait("drill-1")
		if n := len(h.runner.History(0)); n != 1 {
			t.Errorf("%d results", n)
		}
	})
}

func TestOutageBefore(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		// It has just begun: nobody but the control knows.
		h.down.Store("rekor/write", true)
		_, err := h.runner.Start(t.Context(), request("write-only"))
		wantRefused(t, err, ErrOutage, "REAL_OUTAGE")
		h.down.Clear()
		time.Sleep(time.Minute)
		h.down.Store("fulcio", true)
		time.Sleep(time.Minute)
		_, err = h.runner.Start(t.Context(), request("write-only"))
		wantRefused(t, err, ErrOutage, "REAL_OUTAGE")
		h.down.Clear()
		time.Sleep(6 * time.Second) // recovering
		_, err = h.runner.Start(t.Context(), request("write-only"))
		wantRefused(t, err, ErrOutage, "REAL_OUTAGE")
		time.Sleep(time.Minute)
		err = h.monitor.Force(outage.Force{Component: "tuf", State: outage.Live, Until: time.Now().Add(time.Hour), Ticket: "OPS-2", By: "bob"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.runner.Start(t.Context(), request("write-only"))
		wantRefused(t, err, ErrOutage, "REAL_OUTAGE")
		if err := h.monitor.Release("tuf", "OPS-2", "bob"); err != nil {
			t.Fatal(err)
		}
		if res := h.drill(request("write-only")); res.Outcome != outcomePassed {
			t.Errorf("got %+v", res)
		}
	})
}

func TestOutageDuring(t *testing.T) {
	for name, c := range map[string]struct {
		scenario, down string
		within         time.Duration
	}{
		"what is drilled":         {"refuse", "rekor/write", 11 * time.Second},
		"another component":       {"read-only", "rekor/write", 4 * time.Second},
		"another upstream":        {"read-only", "fulcio", 4 * time.Second},
		"while a fork is drilled": {"fork", "rekor/read", 4 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inHouse(t, nil, func(t *testing.T, h *house) {
				q := request(c.scenario)
				q.For = 10 * time.Minute
				id := must[string](t)(h.runner.Start(t.Context(), q))
				time.Sleep(20 * time.Second)
				h.down.Store(c.down, true)
				time.Sleep(c.within)
				synctest.Wait()
				h.calm()
				time.Sleep(5 * time.Second)
				h.down.Clear()
				res := h.wait(id)
				if res.Outcome != outcomeAborted || res.Cause == nil || res.Cause.Code != "REAL_OUTAGE" || !strings.Contains(res.Cause.Text, c.down) || len(res.Failures) != 0 {
					t.Errorf("got %+v, %+v", res, res.Cause)
				}
				if got := h.events(id); !slices.Contains(got, "aborted") || slices.Contains(got, "done") {
					t.Errorf("events %v", got)
				}
			})
		})
	}
}

// TestOneBadAnswer of the control is no outage.
func TestOneBadAnswer(t *testing.T) {
	asked := 0
	inHouse(t, func(h *house) {
		h.config = func(c *Config) {
			control := c.Control
			c.Control = func(ctx context.Context, component string) error {
				if asked++; asked%2 == 0 {
					return errors.New("a bad moment")
				}
				return control(ctx, component)
			}
		}
	}, func(t *testing.T, h *house) {
		q := request("write-only")
		if res := h.drill(q); res.Outcome != outcomePassed || asked < 10 {
			t.Errorf("got %+v", res)
		}
	})
}

// TestLeak: faults that reach a component which they should not are a failure, and end.
func TestLeak(t *testing.T) {
	for _, leak := range []string{"rekor/write", "fulcio"} {
		t.Run(leak, func(t *testing.T) {
			inHouse(t, func(h *house) { h.leaks.Store(leak, "rekor/read") }, func(t *testing.T, h *house) {
				id := must[string](t)(h.runner.Start(t.Context(), request("read-only")))
				time.Sleep(10 * time.Second)
				h.calm()
				res := h.wait(id)
				if res.Outcome != outcomeFailed || !slices.ContainsFunc(res.Failures, func(f string) bool { return strings.Contains(f, leak+" was not disturbed") }) {
					t.Errorf("got %+v", res)
				}
			})
		})
	}
}

// TestBadMinutes: what is degraded is the drill's doing only in the same log.
func TestBadMinutes(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		d := &drill{r: h.runner, ended: make(chan struct{}), expectations: expectations{parts: []part{{"rekor/read", kindRead}}}}
		d.astray(t.Context(), outage.Status{Component: "fulcio", State: outage.Degraded})
		if len(d.measures.astray) != 0 || d.aborted() != nil {
			t.Errorf("another upstream's bad minute: %v", d.measures.astray)
		}
		for range 2 {
			d.astray(t.Context(), outage.Status{Component: "rekor/write", State: outage.Degraded})
		}
		if want := []string{"rekor/write was not disturbed, and became degraded while its upstream answered"}; !slices.Equal(d.measures.astray, want) || d.aborted() != nil {
			t.Errorf("got %v, %v", d.measures.astray, d.aborted())
		}
		h.down.Store("rekor/write", true)
		if d.astray(t.Context(), outage.Status{Component: "rekor/write", State: outage.Degraded}); d.aborted() == nil || d.aborted().Code != codeOutage {
			t.Errorf("got %v", d.aborted())
		}
	})
}

// TestScratch: a log of the drill that cannot be made leaves nothing behind.
func TestScratch(t *testing.T) {
	inHouse(t, func(h *house) {
		h.config = func(c *Config) {
			c.OpenScratch = func() (*storage.DB, func(), error) {
				db, clean, err := h.openScratch()
				if err == nil {
					_, err = db.CreateTree(forkDomain + "/drill-1")
				}
				return db, clean, err
			}
		}
	}, func(t *testing.T, h *house) { // whose end looks for databases that are left
		_, err := h.runner.Start(t.Context(), request("fork"))
		wantRefused(t, err, ErrUnfit, "NOT_POSSIBLE")
		h.calm()
	})
}

func TestQuarantineDuring(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		time.Sleep(10 * time.Second)
		if err := h.monitor.Quarantine("rekor/read", outage.Cause{Code: outage.CodeFork, Text: "two roots"}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		time.Sleep(time.Second)
		h.calm()
		if res := h.wait(id); res.Outcome != outcomeAborted || res.Cause.Code != "REAL_OUTAGE" {
			t.Errorf("got %+v", res)
		}
	})
}

func TestAbort(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		id := must[string](t)(h.runner.Start(t.Context(), request("hang")))
		time.Sleep(10 * time.Second)
		wantRefused(t, h.runner.Abort("drill-7", "bob"), ErrUnknown, "UNKNOWN")
		if err := h.runner.Abort(id, "bob"); err != nil {
			t.Fatal(err)
		}
		h.calm()
		time.Sleep(time.Second)
		if h.runner.Affects("rekor/read") != id {
			t.Error("what the component does on its way back is laid to nobody")
		}
		res := h.wait(id)
		if res.Outcome != outcomeAborted || res.Cause.Code != "ABORTED" || !strings.Contains(res.Cause.Text, "bob") || len(res.Failures) != 0 {
			t.Errorf("got %+v", res)
		}
		if s := h.monitor.Overall(); s != outage.Live {
			t.Errorf("its place was free while the state was %s", s)
		}
		wantRefused(t, h.runner.Abort(id, "bob"), ErrUnknown, "UNKNOWN")
		err := h.ledger.Rows(1, func(r ledger.Row) error {
			var body row
			if r.Kind != "drill" {
				return nil
			}
			if err := r.Decode(&body); err != nil {
				return err
			}
			if body.Event == "aborted" && (body.Outcome != outcomeAborted || body.Cause == nil || body.Cause.Code != "ABORTED" || body.Result == nil || body.Result.Served != res.Served) {
				t.Errorf("row %s", r.Raw())
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestReports: once each, again after a failure, across restarts; and what they say.
func TestReports(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		h := newHouse(t, sound)
		closed := true
		h.config = func(c *Config) {
			appendReport := c.AppendReport
			c.AppendReport = func(ctx context.Context, report []byte) (Place, error) {
				if closed {
					return Place{}, errors.New("the private log is closed")
				}
				return appendReport(ctx, report)
			}
		}
		h.start()
		q := request("refuse")
		q.Ticket, q.Component = "OPS-1 | <b>`x`\n# no", "rekor/read"
		first := h.drill(q)
		if first.Outcome != outcomePassed || first.Place != nil {
			t.Errorf("got %+v", first)
		}
		second := h.drill(request("cdn-gone"))
		h.close()
		closed = false
		h.start()
		third := h.drill(request("write-only"))
		h.close()
		h.start()
		defer h.close()
		if len(h.reports) != 3 {
			t.Fatalf("%d reports were appended", len(h.reports))
		}
		for i, id := range []string{first.ID, second.ID, third.ID} {
			md, raw, err := h.runner.Report(id)
			if err != nil || !bytes.Equal(raw, h.reports[i]) {
				t.Errorf("report %s is not what was appended: %v\n%s\n%s", id, err, raw, h.reports[i])
			}
			var res Result
			if err := json.Unmarshal(raw, &res); err != nil || res.ID != id || res.Place != nil || *res.Detect <= 0 || res.Served < 100 {
				t.Errorf("report %s: %v\n%s", id, err, raw)
			}
			if !strings.Contains(string(md), fmt.Sprintf("| report logged | index %d of private.example |", i)) {
				t.Errorf("report %s does not say where it is logged:\n%s", id, md)
			}
			if got, want := h.events(id), []string{"started", "detected", "reverted", "done", "logged"}; !slices.Equal(got, want) {
				t.Errorf("events %v, want %v", got, want)
			}
		}
		md, _, _ := h.runner.Report(first.ID)
		if want := `| ticket | OPS-1 \| &lt;b>'x' # no |`; !strings.Contains(string(md), want) {
			t.Errorf("no %s in\n%s", want, md)
		}
		if h := h.runner.History(2); len(h) != 2 || h[0].ID != third.ID || h[1].ID != second.ID {
			t.Errorf("history %+v", h)
		}
	})
}

// TestFlapLevel: one drill after another teaches hysteresis to wait, which is no failure.
func TestFlapLevel(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		for i := range 5 {
			if res := h.drill(request("refuse")); res.Outcome != outcomePassed {
				t.Errorf("drill %d: %+v", i, res)
			}
		}
	})
}

// TestSpareHouse: without what is optional, what needs it is refused, and the rest works.
func TestSpareHouse(t *testing.T) {
	inHouse(t, func(h *house) {
		h.config = func(c *Config) {
			c.FallenBack, c.Reconciled, c.OldCheckpoint, c.GrowsWithin, c.OpenScratch, c.AppendReport = nil, nil, nil, nil, nil, nil
		}
	}, func(t *testing.T, h *house) {
		for _, scenario := range []string{"stale-checkpoint", "rollback", "fork"} {
			_, err := h.runner.Start(t.Context(), request(scenario))
			wantRefused(t, err, ErrUnfit, "NOT_POSSIBLE")
		}
		if res := h.drill(request("refuse")); res.Outcome != outcomePassed || res.FallBack == nil {
			t.Errorf("got %+v", res)
		}
	})
	if _, err := New(Config{}); err == nil {
		t.Error("a runner that can see nothing")
	}
}

// TestService drills what is no log.
func TestService(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		q := request("hang")
		q.Component = "fulcio"
		if res := h.drill(q); res.Outcome != outcomePassed || !slices.Equal(res.Components, []string{"fulcio"}) || res.Lapses != 1 {
			t.Errorf("got %+v", res)
		}
	})
}

// TestNothingForged: a client behind the switchboard never gets a checkpoint that the log did not sign.
func TestNothingForged(t *testing.T) {
	if testing.Short() {
		t.Skip("one drill after the other, of each scenario")
	}
	inHouse(t, nil, func(t *testing.T, h *house) {
		client := &http.Client{Transport: h.faults.Transport(componentOf, h)}
		for _, s := range Scenarios() {
			if s.fork {
				continue
			}
			id := must[string](t)(h.runner.Start(t.Context(), request(s.Name)))
			for range 20 {
				time.Sleep(time.Second)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://rekor.example/checkpoint", nil)
				if resp, err := client.Do(r); err == nil {
					if _, raw, err := whole(resp, nil); err == nil && resp.StatusCode == http.StatusOK {
						head, ok := headOf(raw)
						if !ok || !bytes.Equal(raw, h.log.Checkpoint(head.size)) {
							t.Errorf("%s: a checkpoint that was never signed: %q", s.Name, raw)
						}
					}
				}
				cancel()
			}
			h.wait(id)
		}
	})
}
