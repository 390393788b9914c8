package drill

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestStop ends the daemon in every phase of a drill, and starts it again.
func TestStop(t *testing.T) {
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Second, 61 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				h := newHouse(t, sound).start()
				id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
				time.Sleep(after)
				h.close()
				h.calm()
				_, err := h.runner.Start(t.Context(), request("refuse"))
				wantRefused(t, err, ErrStopped, "STOPPED")
				h.start()
				defer h.close()
				res := h.wait(id)
				if res.Outcome != outcomeAborted || res.Cause.Code != "STOPPED" || len(h.reports) != 1 {
					t.Errorf("got %+v, %+v; %d reports", res, res.Cause, len(h.reports))
				}
			})
		})
	}
}

// TestCrash takes the power away in every phase.
func TestCrash(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		h := newHouse(t, sound)
		h.disk = vfs.NewCrashableMem()
		h.start()
		id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		crash := func() *vfs.MemFS {
			return h.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 0, RNG: rand.New(rand.NewPCG(1, 1))})
		}
		var disks []*vfs.MemFS
		for _, wait := range []time.Duration{0, 10 * time.Second, 51 * time.Second} {
			time.Sleep(wait)
			disks = append(disks, crash())
		}
		h.wait(id)
		disks = append(disks, crash())
		h.close()
		for i, disk := range disks {
			again := newHouse(t, sound)
			again.disk, again.log = disk, h.log
			again.start()
			again.calm()
			res := again.wait(id)
			switch last := i == len(disks)-1; {
			case last && res.Outcome != outcomePassed:
				t.Errorf("after the end: %+v", res)
			case !last && (res.Outcome != outcomeAborted || res.Cause.Code != "RESTARTED"):
				t.Errorf("crash %d: %+v", i, res)
			case !last && again.events(id)[len(again.events(id))-2] != "aborted":
				t.Errorf("crash %d: events %v", i, again.events(id))
			}
			time.Sleep(time.Minute)
			if next := again.drill(request("write-only")); next.ID != "drill-2" || next.Outcome != outcomePassed {
				t.Errorf("crash %d: then %+v", i, next)
			}
			again.close()
		}
	})
}

func TestClockJumps(t *testing.T) {
	for _, jump := range []time.Duration{time.Hour, -time.Hour, -24 * 365 * time.Hour} {
		t.Run(jump.String(), func(t *testing.T) {
			inHouse(t, nil, func(t *testing.T, h *house) {
				began := time.Now()
				id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
				time.Sleep(30 * time.Second)
				h.skew.Store(int64(jump))
				time.Sleep(2 * time.Second)
				if jump > 0 {
					h.calm()
					if res := h.wait(id); res.Outcome != outcomeAborted || res.Cause.Code != "CLOCK_JUMPED" {
						t.Errorf("got %+v", res)
					}
					return
				}
				if h.faults.inForce() == nil {
					t.Error("it ended when the clock was set back")
				}
				time.Sleep(time.Minute - time.Since(began))
				synctest.Wait()
				h.calm()
				h.wait(id)
			})
		})
	}
}

// TestPanics in each of the functions that a drill asks.
func TestPanics(t *testing.T) {
	for name, c := range map[string]struct {
		scenario string
		config   func(c *Config, boom func())
		code     string // of the result; "": Start fails
		passes   bool
	}{
		"serve": {"refuse", func(c *Config, boom func()) {
			c.Serve = func(context.Context) (time.Duration, error) { boom(); return 0, nil }
		}, codePanic, false},
		"fallen back": {"refuse", func(c *Config, boom func()) { c.FallenBack = func() bool { boom(); return false } }, codePanic, false},
		"reconciled":  {"refuse", func(c *Config, _ func()) { c.Reconciled = func(time.Time) bool { panic("boom") } }, codePanic, false},
		"control": {"refuse", func(c *Config, boom func()) {
			c.Control = func(context.Context, string) error { boom(); return nil }
		}, codeOutage, false},
		"old checkpoint": {"rollback", func(c *Config, _ func()) {
			c.OldCheckpoint = func(string) ([]byte, error) { panic("boom") }
		}, "", false},
		"scratch": {"fork", func(c *Config, _ func()) {
			c.OpenScratch = func() (*storage.DB, func(), error) { panic("boom") }
		}, "", false},
		"append report": {"refuse", func(c *Config, _ func()) {
			c.AppendReport = func(context.Context, []byte) (Place, error) { panic("boom") }
		}, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var began time.Time
			inHouse(t, func(h *house) {
				began = time.Now()
				h.config = func(cfg *Config) {
					c.config(cfg, func() {
						if time.Since(began) > 20*time.Second {
							panic("boom")
						}
					})
				}
			}, func(t *testing.T, h *house) {
				id, err := h.runner.Start(t.Context(), request(c.scenario))
				if c.code == "" && !c.passes {
					wantRefused(t, err, ErrUnfit, "NOT_POSSIBLE")
					if n := len(h.runner.History(0)); n != 0 || h.runner.Active() != nil {
						t.Errorf("%d results", n)
					}
					h.calm()
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(62 * time.Second)
				h.calm()
				res := h.wait(id)
				switch {
				case c.passes && res.Outcome != outcomePassed:
					t.Errorf("got %+v", res)
				case !c.passes && (res.Outcome != outcomeAborted || res.Cause.Code != c.code):
					t.Errorf("got %+v, %+v", res, res.Cause)
				}
			})
		})
	}
}

// TestStuck: a function that does not return holds up the result, and not the end of the faults.
func TestStuck(t *testing.T) {
	release := make(chan struct{})
	bubble.Run(t, func(t *testing.T) {
		release = make(chan struct{})
		h := newHouse(t, sound)
		began := time.Now()
		h.config = func(c *Config) {
			c.FallenBack = func() bool {
				if time.Since(began) > 20*time.Second {
					<-release
				}
				return false
			}
		}
		h.start()
		id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		time.Sleep(time.Minute)
		synctest.Wait()
		h.calm()
		if a := h.runner.Active(); a == nil || a.ID != id || !a.Settling {
			t.Errorf("active: %+v", a)
		}
		close(release)
		if res := h.wait(id); res.Outcome != outcomeFailed {
			t.Errorf("got %+v", res)
		}
		h.close()
	})
	// Nor when something else panics.
	bubble.Run(t, func(t *testing.T) {
		release = make(chan struct{})
		h := newHouse(t, sound)
		began := time.Now()
		h.config = func(c *Config) {
			c.Serve = func(context.Context) (time.Duration, error) {
				if time.Since(began) > 20*time.Second {
					<-release
				}
				return 0, nil
			}
			c.FallenBack = func() bool {
				if time.Since(began) > 30*time.Second {
					panic("boom")
				}
				return false
			}
		}
		h.start()
		id := must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		time.Sleep(25 * time.Second)
		h.calm()
		close(release)
		if res := h.wait(id); res.Outcome != outcomeAborted || res.Cause.Code != "PANIC" {
			t.Errorf("got %+v", res)
		}
		h.close()
	})
	// Nor do they outlive the daemon.
	bubble.Run(t, func(t *testing.T) {
		release = make(chan struct{})
		h := newHouse(t, sound)
		began := time.Now()
		h.config = func(c *Config) {
			c.Serve = func(context.Context) (time.Duration, error) {
				if time.Since(began) > 20*time.Second {
					<-release
				}
				return 0, nil
			}
		}
		h.start()
		must[string](t)(h.runner.Start(t.Context(), request("refuse")))
		time.Sleep(30 * time.Second)
		time.AfterFunc(time.Second, func() { h.calm(); close(release) })
		h.close()
		h.calm()
	})
}

// TestEndedBeforeItBegan: what is aborted before its faults are in force, never has any.
func TestEndedBeforeItBegan(t *testing.T) {
	inHouse(t, nil, func(t *testing.T, h *house) {
		d := &drill{r: h.runner, request: request("refuse"), ended: make(chan struct{})}
		d.abort(codeStopped, stoppedText)
		if d.arm(map[string]fault{"rekor/read": refuse}, nil) {
			t.Error("its faults are in force")
		}
		h.calm()
	})
}
