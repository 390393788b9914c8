package outage

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// kept is what must outlive a restart.
type kept struct {
	Component  string
	State      State
	Underlying State
	Since      time.Time
	Cause      Cause
	Force      *Force
	Left       time.Time
	FlapLevel  int
}

func keptOf(m *Monitor) (all []kept) {
	for _, s := range m.Status() {
		k := kept{s.Component, s.State, s.Underlying, s.Since, s.Cause, s.Force, s.Left, s.FlapLevel}
		if s.Cause == (Cause{}) {
			k.Since = time.Time{} // it never changed: since the program started
		}
		all = append(all, k)
	}
	return all
}

// A crash after every row: what is read then is what the rows say, and what was shown at that moment.
func TestRestartAfterEveryRow(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		mem := vfs.NewCrashableMem()
		u := &upstream{latency: 3 * time.Millisecond}
		u.set("good")
		components := append(read(u), Component{Name: "fulcio", Kind: "service"}, Component{Name: "rekor/write", Kind: "write", Reconciles: true})
		crashes := 0
		var s *stage
		crash := func(Change) {
			crashes++
			for _, unsynced := range []int{0, 50} {
				clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsynced, RNG: rand.New(rand.NewPCG(uint64(crashes), 0))})
				after := newStage(t, clone, Config{Components: components})
				if problem := after.differs(after.ledger); problem != "" {
					t.Errorf("row %d: %s", crashes, problem)
				}
				rows, _ := s.ledger.Head()
				if restarted, _ := after.ledger.Head(); restarted != rows {
					t.Errorf("%d rows after a restart, %d before", restarted, rows)
				}
				if before, now := keptOf(s.m), keptOf(after.m); !reflect.DeepEqual(before, now) {
					t.Errorf("before %+v, after a restart %+v", before, now)
				}
				after.close()
			}
		}
		s = newStage(t, mem, Config{Components: components, Changed: crash}).run()
		force := func(state State, d time.Duration) {
			t.Helper()
			if err := s.m.Force(Force{Component: rekorRead, State: state, Until: time.Now().Add(d), Ticket: "T-1", By: "ann", Reason: "a test"}); err != nil {
				t.Fatal(err)
			}
			crash(Change{}) // also where what counts did not change
		}
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		u.set("hang")
		s.until(rekorRead, Fallback, 5*time.Second)
		u.set("good")
		s.until(rekorRead, Recovering, 10*time.Second)
		u.set("refuse")
		s.until(rekorRead, Fallback, 5*time.Second)
		force(Live, time.Hour)
		u.set("good")
		time.Sleep(time.Minute) // recovers underneath
		crash(Change{})
		force(Degraded, 2*time.Hour)
		force(Degraded, time.Minute)
		s.until(rekorRead, Recovering, 2*time.Minute)
		must(s.m.Reconciled(rekorRead))
		force(Fallback, time.Hour)
		must(s.m.Quarantine(rekorRead, Cause{CodeFork, "two heads of size 7"}))
		must(s.m.Quarantine("rekor/write", Cause{CodeLostTail, "[7, 9)"}))
		must(s.m.Release(rekorRead, "T-2", "ben"))
		must(s.m.Reconciled(rekorRead))
		for range 3 {
			s.m.Observe("fulcio", Observation{Took: time.Millisecond, Err: errRefused})
			time.Sleep(time.Second)
		}
		for range 6 {
			s.m.Observe("fulcio", Observation{Took: time.Millisecond})
			time.Sleep(2 * time.Second)
		}
		s.until("fulcio", Live, time.Second)
		synctest.Wait()
		s.check()
		if crashes < 18 {
			t.Errorf("%d crashes only", crashes)
		}
	})
}

// A restart in mid-outage keeps the state, and asks for all successes again.
func TestRestartInFallback(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		disk := vfs.NewMem()
		u := &upstream{latency: 3 * time.Millisecond}
		u.set("refuse")
		s := newStage(t, disk, Config{Components: read(u)}).run()
		s.until(rekorRead, Fallback, 5*time.Second)
		since := s.m.Status()[0].Since
		u.set("good")
		time.Sleep(4 * time.Second) // two or three successes, and not long enough
		if err := s.stop(); err != nil {
			t.Fatal(err)
		}
		s.close()
		began := time.Now()
		s = newStage(t, disk, Config{Components: read(u)}).run()
		if got := s.m.Status()[0]; got.State != Fallback || !got.Since.Equal(since) || got.Cause.Code != CodeNotReachable {
			t.Fatalf("after a restart %+v", got)
		}
		s.until(rekorRead, Recovering, 10*time.Second)
		if took := time.Since(began); took < 4*time.Second {
			t.Errorf("recovering %s after a restart", took)
		}
		if len(s.told()) != 1 {
			t.Errorf("told of %+v", s.told())
		}
	})
}

// A force that expired while nothing ran ends at the start, with a row.
func TestForceExpiresAcrossRestart(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		disk := vfs.NewMem()
		s := newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}})
		if err := s.m.Force(Force{Component: "tuf", State: Fallback, Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		s.close()
		time.Sleep(59 * time.Minute)
		s = newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}})
		if s.m.State("tuf") != Fallback || s.m.Overall() != Fallback {
			t.Fatal("a force did not outlive a restart")
		}
		s.close()
		time.Sleep(time.Minute)
		s = newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}})
		if got := s.m.Status()[0]; got.State != Live || got.Force != nil || got.Cause.Code != CodeForceExpired {
			t.Fatalf("after the end %+v", got)
		}
		s.check()
	})
}

// Whatever comes in whatever order: what is read after a restart is what was in memory.
func TestRestartProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		disk := vfs.NewMem()
		mono, wall := time.Hour, epoch
		var m *Monitor
		var db *storage.DB
		var l *ledger.Ledger
		names := []string{"a/read", "a/write", "tuf"}
		open := func() {
			var err error
			if db, err = storage.Open("db", storage.Options{FS: disk}); err != nil {
				if db, err = storage.Create("db", storage.Options{FS: disk}); err != nil {
					t.Fatal(err)
				}
			}
			now := func() time.Time { return wall }
			if l, err = ledger.Open(db, now); err != nil {
				t.Fatal(err)
			}
			if m, err = New(Config{DB: db, Ledger: l, Now: now}); err != nil {
				t.Fatal(err)
			}
			m.elapsed = func() time.Duration { return mono }
			for i, name := range names {
				if err := m.Add(Component{Name: name, Reconciles: i < 2}); err != nil {
					t.Fatal(err)
				}
			}
		}
		open()
		defer func() { db.Close() }()
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			name := rapid.SampledFrom(names).Draw(t, "component")
			switch what := rapid.SampledFrom([]string{"good", "good", "good", "bad", "bad", "bad", "wait", "long", "jump", "force", "release", "quarantine", "reconciled"}).Draw(t, "what"); what {
			case "good":
				m.Observe(name, Observation{Took: time.Millisecond})
				mono, wall = mono+2*time.Second, wall.Add(2*time.Second)
			case "bad":
				m.Observe(name, Observation{Took: time.Millisecond, Err: errRefused})
				mono, wall = mono+time.Second, wall.Add(time.Second)
			case "wait", "long":
				d := time.Duration(rapid.IntRange(1, 10).Draw(t, "seconds")) * time.Second
				if what == "long" {
					d *= 600
				}
				mono, wall = mono+d, wall.Add(d)
			case "jump":
				wall = wall.Add(time.Duration(rapid.IntRange(-100, 100).Draw(t, "hours")) * time.Hour)
			case "force":
				_ = m.Force(Force{
					Component: name, State: rapid.SampledFrom([]State{Live, Degraded, Fallback, Recovering}).Draw(t, "state"), Ticket: "T", By: "ann",
					Until: wall.Add(time.Duration(rapid.IntRange(-1, 30).Draw(t, "until")) * time.Hour),
				})
			case "release":
				_ = m.Release(name, "T", "ben")
			case "quarantine":
				if rapid.IntRange(0, 3).Draw(t, "really") == 0 {
					_ = m.Quarantine(name, Cause{CodeFork, "two heads"})
				}
			case "reconciled":
				_ = m.Reconciled(name)
			}
			m.pass()
			if err := m.settle(); err != nil {
				t.Fatal(err)
			}
			s := &stage{m: m}
			if problem := s.differs(l); problem != "" {
				t.Fatal(problem)
			}
		}
		before, memory := keptOf(m), records(m)
		db.Close()
		open()
		if after := keptOf(m); !same(before, after) {
			t.Fatalf("before %+v, after a restart %+v", before, after)
		}
		if again := records(m); again != memory {
			t.Fatalf("records before %s, after %s", memory, again)
		}
	})
}

// same compares, but for the shown level of flaps, whose age only the wall clock knows after a restart.
func same(before, after []kept) bool {
	for i := range before {
		before[i].FlapLevel, after[i].FlapLevel = 0, 0
	}
	return reflect.DeepEqual(before, after)
}

func records(m *Monitor) string {
	all := ""
	for _, c := range m.all {
		r := c.record
		if r.Cause == (Cause{}) {
			r.Since = time.Time{}
		}
		raw, _ := json.Marshal(r)
		all += fmt.Sprintf("%s: %s\n", c.Name, raw)
	}
	return all
}
