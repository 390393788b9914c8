package outage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/test/bubble"
)

func isSync(o errorfs.Op) bool {
	return o.Kind == errorfs.OpFileSync || o.Kind == errorfs.OpFileSyncData || o.Kind == errorfs.OpFileSyncTo
}

// While the disk does not sync: nothing is shown or told that is not durable, nobody waits but for whoever asked for
// a change, and probes go on.
func TestDiskHangs(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		var gate atomic.Pointer[chan struct{}]
		fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
			if closed := gate.Load(); closed != nil && isSync(o) {
				<-*closed
			}
			return nil
		}))
		u := &upstream{latency: 3 * time.Millisecond}
		u.set("good")
		s := newStage(t, fs, Config{Components: append(read(u), Component{Name: "tuf"}, Component{Name: "log/read"})}).run()
		time.Sleep(10 * time.Second)
		closed := make(chan struct{})
		gate.Store(&closed)
		u.set("refuse")
		time.Sleep(10 * time.Second)
		var forced, quarantined atomic.Bool
		go func() {
			if err := s.m.Force(Force{Component: "tuf", State: Degraded, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
				t.Error(err)
			}
			forced.Store(true)
		}()
		go func() {
			if err := s.m.Quarantine("log/read", Cause{CodeFork, "two heads"}); err != nil {
				t.Error(err)
			}
			quarantined.Store(true)
		}()
		u.mu.Lock()
		n := u.asked
		u.mu.Unlock()
		time.Sleep(time.Minute)
		for range 1000 {
			s.m.Observe("tuf", Observation{Took: time.Millisecond})
		}
		for range 3 { // the step that follows waits for the one that is under way
			s.m.Observe("tuf", Observation{Took: time.Millisecond, Err: errRefused})
			time.Sleep(time.Second)
		}
		for _, status := range s.m.Status() {
			if status.State != Live || status.Underlying != Live || s.m.State(status.Component) != Live {
				t.Errorf("shown before it was durable: %+v", status)
			}
		}
		if s.m.Overall() != Live || len(s.told()) > 0 || forced.Load() || quarantined.Load() {
			t.Errorf("shown, told or answered before it was durable: %+v", s.m.Status())
		}
		u.mu.Lock()
		if u.asked < n+20 {
			t.Errorf("%d probes in a minute", u.asked-n)
		}
		u.mu.Unlock()
		gate.Store(nil)
		close(closed)
		synctest.Wait()
		if s.m.State(rekorRead) != Fallback || s.m.State("tuf") != Degraded || s.m.Status()[1].Underlying != Fallback || s.m.Overall() != Quarantined || !forced.Load() || !quarantined.Load() {
			t.Errorf("after the disk came back: %+v", s.m.Status())
		}
		s.check()
	})
}

// A disk that fails ends Run, and nothing is shown that is not recorded.
func TestDiskFails(t *testing.T) {
	for _, by := range []string{"a probe", "an operator", "an operator, slowly"} {
		t.Run(by, func(t *testing.T) {
			var broken atomic.Bool
			fs := errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(o errorfs.Op) error {
				if broken.Load() && isSync(o) {
					if strings.HasSuffix(by, "slowly") {
						time.Sleep(100 * time.Millisecond)
					}
					return syscall.EIO
				}
				return nil
			}))
			u := &upstream{}
			u.set("good")
			s := newStage(t, fs, Config{Components: append(read(u), Component{Name: "tuf"}), Settings: Settings{ProbeEvery: 20 * time.Millisecond, Suspicion: 5 * time.Millisecond}})
			ended := make(chan error, 1)
			go func() { ended <- s.m.Run(t.Context()) }()
			time.Sleep(50 * time.Millisecond)
			broken.Store(true)
			force := func() error {
				return s.m.Force(Force{Component: "tuf", State: Fallback, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"})
			}
			if by == "a probe" {
				u.set("refuse")
			} else if err := force(); !errors.Is(err, syscall.EIO) {
				t.Errorf("forced without a disk: %v", err)
			}
			select {
			case err := <-ended:
				if !errors.Is(err, syscall.EIO) {
					t.Errorf("run ended with %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("run goes on without a disk")
			}
			if err := force(); err == nil {
				t.Error("forced without a disk")
			}
			if s.m.Overall() != Live || len(s.told()) > 0 {
				t.Errorf("shown without a disk: %+v", s.m.Status())
			}
		})
	}
}

func TestAdd(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		disk := vfs.NewMem()
		u := &upstream{latency: time.Millisecond}
		u.set("refuse")
		s := newStage(t, disk, Config{}).run()
		time.Sleep(time.Minute)
		if got := s.m.Overall(); got != Live {
			t.Errorf("nothing at all is %s", got)
		}
		if err := s.m.Add(read(u)[0]); err != nil {
			t.Fatal(err)
		}
		s.until(rekorRead, Fallback, 5*time.Second)
		for what, c := range map[string]Component{
			"a second one":   read(u)[0],
			"no name":        {},
			"two lines":      {Name: "a\nb"},
			"a long name":    {Name: strings.Repeat("a", 300)},
			"grows, and how": {Name: "b", GrowsWithin: time.Hour},
		} {
			if err := s.m.Add(c); err == nil {
				t.Errorf("%s was added", what)
			}
		}
		if s.m.State("other") != "" {
			t.Error("an unknown component has a state")
		}
		s.m.Observe("other", Observation{})
		for _, err := range []error{
			s.m.Quarantine("other", Cause{}), s.m.Reconciled("other"), s.m.Release("other", "T", "ann"), s.m.Force(Force{Component: "other", State: Live, Ticket: "T", Until: time.Now().Add(time.Hour)}),
		} {
			if !errors.Is(err, ErrUnknown) {
				t.Errorf("unknown component: %v", err)
			}
		}
		// One that is not configured any more does not count, and has its state when it is again.
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		s.close()
		s = newStage(t, disk, Config{})
		if s.m.Overall() != Live {
			t.Error("a component that there is not counts")
		}
		if err := s.m.Add(read(u)[0]); err != nil || s.m.Overall() != Fallback {
			t.Errorf("%v, %s", err, s.m.Overall())
		}
		if err := s.db.PutRecord(recordName("bad"), []byte(`{"state":"splendid"}`)); err != nil {
			t.Fatal(err)
		}
		if err := s.m.Add(Component{Name: "bad"}); err == nil || !strings.Contains(err.Error(), "restore a backup") {
			t.Errorf("a damaged record: %v", err)
		}
	})
}

// A component that is quarantined is probed as ever, and stays quarantined.
func TestQuarantineIsProbed(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		u := &upstream{latency: time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: read(u), Drill: func(string) string { return "drill-7" }}).run()
		if err := s.m.Quarantine(rekorRead, Cause{CodeFork, "two\nheads " + strings.Repeat("x", 1000)}); err != nil {
			t.Fatal(err)
		}
		for _, mode := range []string{"good", "hang", "good", "refuse", "good"} {
			u.set(mode)
			u.mu.Lock()
			n := u.asked
			u.mu.Unlock()
			time.Sleep(time.Minute)
			if err := s.m.Reconciled(rekorRead); !errors.Is(err, ErrNotRecovering) {
				t.Errorf("reconciled: %v", err)
			}
			u.mu.Lock()
			if s.m.State(rekorRead) != Quarantined || u.asked-n < 29 {
				t.Errorf("%s after %d probes", s.m.State(rekorRead), u.asked-n)
			}
			u.mu.Unlock()
		}
		if c := s.told(); len(c) != 1 || c[0].Drill != "drill-7" || len(c[0].Cause.Text) > 320 || strings.Contains(c[0].Cause.Text, "\n") {
			t.Errorf("told of %+v", c)
		}
	})
}

// All at once, for the race detector; the rows hold together at the end.
func TestConcurrent(t *testing.T) {
	u := &upstream{}
	u.set("good")
	names := []string{rekorRead, "rekor/write", "tuf"}
	settings := Settings{ProbeEvery: 10 * time.Millisecond, ProbeTimeout: 10 * time.Millisecond, Suspicion: 2 * time.Millisecond, Steady: 20 * time.Millisecond, FlapWindow: time.Nanosecond}
	s := newStageQuietly(t, Config{Components: append(read(u), Component{Name: "rekor/write", Reconciles: true}, Component{Name: "tuf", Size: func() uint64 { return 7 }, GrowsWithin: 50 * time.Millisecond}), Settings: settings})
	s.run()
	var all sync.WaitGroup
	end := time.Now().Add(700 * time.Millisecond)
	for i := range 6 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			for time.Now().Before(end) {
				name := names[random.IntN(len(names))]
				switch random.IntN(10) {
				case 0:
					_ = s.m.Force(Force{Component: name, State: []State{Live, Fallback}[random.IntN(2)], Until: time.Now().Add(5 * time.Millisecond), Ticket: "T", By: "ann"})
				case 1:
					_ = s.m.Release(name, "T", "ben")
				case 2:
					_ = s.m.Quarantine(name, Cause{CodeFork, "two heads"})
				case 3:
					_ = s.m.Reconciled(name)
				case 4:
					s.m.Status()
					s.m.Overall()
				case 5:
					u.set([]string{"good", "good", "refuse", "hang"}[random.IntN(4)])
				default:
					var err error
					if random.IntN(2) == 0 {
						err = errRefused
					}
					s.m.Observe(name, Observation{Started: time.Now(), Err: err})
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	all.Wait()
	if err := s.stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.m.settle(); err != nil {
		t.Fatal(err)
	}
	s.check()
	if rows, err := ledger.Check(s.db); err != nil || rows < 10 {
		t.Errorf("%d rows, %v", rows, err)
	}
	var last uint64
	for _, c := range s.told() {
		if c.Seq <= last {
			t.Fatalf("told of row %d after %d", c.Seq, last)
		}
		last = c.Seq
	}
}

// newStageQuietly does not hold State against each change that is told: another one may have come.
func newStageQuietly(t *testing.T, cfg Config) *stage {
	s := newStage(t, vfs.NewMem(), cfg)
	s.m.cfg.Changed = func(c Change) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changes = append(s.changes, c)
	}
	return s
}

func TestMetrics(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		registry := prometheus.NewRegistry()
		u, r := &upstream{latency: 3 * time.Millisecond}, &receiver{}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: append(read(u), Component{Name: "tuf"}), Metrics: NewMetrics(registry), Webhook: r.webhook()}).run()
		expect := func(lines string) {
			t.Helper()
			synctest.Wait()
			var names []string
			for _, line := range strings.Split(strings.TrimSpace(lines), "\n") {
				line = strings.TrimSpace(line)
				i := strings.LastIndex(line, " ")
				name, value := line[:i], line[i+1:]
				if got := metric(t, registry, name); got != value {
					t.Errorf("%s is %s, want %s", name, got, value)
				}
				names = append(names, name)
			}
			if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
				t.Errorf("lint of %v: %v %v", names, problems, err)
			}
		}
		expect(`understudy_outage_state{component=rekor/read,state=live} 1
			understudy_outage_state{component=rekor/read,state=fallback} 0
			understudy_outage_transitions_total{component=rekor/read,to=fallback} 0
			understudy_outage_forced{component=tuf} 0`)
		r.set(func(*http.Request, uint64) (int, error) { return 500, nil })
		time.Sleep(10 * time.Minute)
		u.set("hang")
		s.until(rekorRead, Fallback, 5*time.Second)
		if err := s.m.Force(Force{Component: "tuf", State: Degraded, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Minute)
		expect(`understudy_outage_state{component=rekor/read,state=live} 0
			understudy_outage_state{component=rekor/read,state=fallback} 1
			understudy_outage_state{component=tuf,state=degraded} 1
			understudy_outage_transitions_total{component=rekor/read,to=fallback} 1
			understudy_outage_transitions_total{component=tuf,to=degraded} 1
			understudy_outage_burn_rate{component=rekor/read,window=5m} 200
			understudy_outage_forced{component=tuf} 1
			understudy_outage_ledger_rows 3
			understudy_outage_webhook_pending 3
			understudy_outage_flap_level{component=rekor/read} 0`)
		r.set(nil)
		u.set("good")
		s.until(rekorRead, Recovering, 10*time.Second)
		u.set("refuse")
		s.until(rekorRead, Fallback, 5*time.Second)
		time.Sleep(2 * time.Minute)
		expect(`understudy_outage_transitions_total{component=rekor/read,to=fallback} 2
			understudy_outage_webhook_pending 0
			understudy_outage_flap_level{component=rekor/read} 1`)
		if metric(t, registry, "understudy_outage_webhook_failures_total") == "0" {
			t.Error("no failure of the webhook was counted")
		}
		status := s.m.Status()[0]
		if status.FlapLevel != 1 || status.LastError == "" || status.LastGood.IsZero() || status.LastProbe.IsZero() || status.BurnRates["5m"] < 100 {
			t.Errorf("status %+v", status)
		}
	})
}

// Rows from before there was a webhook do not wait for it.
func TestWebhookIsNew(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		disk, registry, r := vfs.NewMem(), prometheus.NewRegistry(), &receiver{}
		s := newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}})
		changes(t, s, 3)
		s.close()
		newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}, Webhook: r.webhook(), Metrics: NewMetrics(registry)}).run()
		time.Sleep(time.Minute)
		if got := metric(t, registry, "understudy_outage_webhook_pending"); got != "0" || r.tries > 0 {
			t.Errorf("%s rows wait, %d tries", got, r.tries)
		}
	})
}

// metric finds name{label=value,…} and gives its value.
func metric(t *testing.T, registry *prometheus.Registry, name string) string {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			full := f.GetName()
			if len(labels) > 0 {
				full += "{" + strings.Join(labels, ",") + "}"
			}
			if full == name {
				return fmt.Sprint(math.Round(m.GetGauge().GetValue() + m.GetCounter().GetValue()))
			}
		}
	}
	return "missing"
}

// Run waits for what it started, also for a probe that takes its time.
func TestRunWaits(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		var under atomic.Int32
		probe := func(ctx context.Context) error {
			under.Add(1)
			defer under.Add(-1)
			<-ctx.Done()
			time.Sleep(time.Second)
			return ctx.Err()
		}
		s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "tuf", Probe: probe}}}).run()
		time.Sleep(time.Second)
		if err := s.stop(); err != nil || under.Load() != 0 {
			t.Errorf("%v, %d probes go on", err, under.Load())
		}
		if s.m.Status()[0].LastError != "" {
			t.Error("a probe that we ended counts")
		}
	})
}

// A force hides what is seen from those who are told of states, and from nobody who keeps a record.
func TestWorst(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "tuf", Kind: "tuf", Probe: func(context.Context) error { return errRefused }}}}).run()
		s.until("tuf", Fallback, 10*time.Second)
		if err := s.m.Force(Force{Component: "tuf", State: Live, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		if s.m.Overall() != Live || s.m.Worst() != Fallback {
			t.Errorf("forced live: %s, %s", s.m.Overall(), s.m.Worst())
		}
		if err := s.m.Force(Force{Component: "tuf", State: Degraded, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		if s.m.Overall() != Degraded || s.m.Worst() != Fallback {
			t.Errorf("forced degraded: %s, %s", s.m.Overall(), s.m.Worst())
		}
	})
}

// TestDrillsSpendNoBudget: what a drill breaks is in no burn rate, and what is broken after it is.
func TestDrillsSpendNoBudget(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		var drill atomic.Pointer[string]
		none, one := "", "drill-1"
		drill.Store(&one)
		u := &upstream{latency: time.Millisecond}
		s := newStage(t, vfs.NewMem(), Config{Components: read(u), Drill: func(string) string { return *drill.Load() }}).run()
		u.set("refuse")
		s.until(rekorRead, Fallback, 10*time.Second)
		time.Sleep(5 * time.Minute)
		if rates := s.m.Status()[0].BurnRates; rates["5m"] != 0 || rates["6h"] != 0 {
			t.Errorf("a drill has the burn rates %v", rates)
		}
		drill.Store(&none)
		time.Sleep(5 * time.Minute)
		if rates := s.m.Status()[0].BurnRates; rates["5m"] < 100 {
			t.Errorf("an outage has the burn rates %v", rates)
		}
	})
}
