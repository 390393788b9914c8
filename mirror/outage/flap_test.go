package outage

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/test/bubble"
)

// However an upstream flaps: it changes its state a bounded number of times an hour, and it is never live
// when more than Failures probes in a row have failed.
func TestFlapping(t *testing.T) {
	ups := []float64{0.3, 1, 2.1, 4.5, 13, 95, 330, 650}
	downs := []float64{0.3, 1.1, 2.6, 5, 30}
	if testing.Short() {
		ups, downs = []float64{2.1, 13, 330, 650}, []float64{1.1, 5}
	}
	// Each fallback within FlapWindow of the last recovery doubles Steady, seven times to its most; a cycle is three
	// changes (live, fallback, recovering), and then takes five minutes, the slowest one ten. Beside that there is degraded.
	const most = 40
	worst := 0
	for _, mode := range []string{"refuse", "hang"} {
		for i, up := range ups {
			for j, down := range downs {
				reconciles := (i+j)%2 == 0
				what := fmt.Sprintf("%s, reconciles %t, up %gs, down %gs", mode, reconciles, up, down)
				bubble.Run(t, func(t *testing.T) {
					changes := flap(t, what, mode, reconciles, up, down)
					if worst = max(worst, changes); changes > most {
						t.Errorf("%s: %d changes in an hour, want %d at most", what, changes, most)
					}
				})
			}
		}
	}
	t.Logf("%d changes at most in an hour", worst)
}

func flap(t *testing.T, what, mode string, reconciles bool, up, down float64) int {
	u := &upstream{latency: 3 * time.Millisecond}
	u.set("good")
	var s *stage
	failures := 0
	probe := func(ctx context.Context) error {
		u.mu.Lock()
		row := u.row
		u.mu.Unlock()
		if row > failures && s.m.State(rekorRead) == Live {
			t.Errorf("%s: live after %d failures in a row", what, row)
		}
		return u.probe(ctx)
	}
	s = newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: rekorRead, Probe: probe, Reconciles: reconciles}}})
	failures = s.m.settings.Failures
	s.run()
	end := time.Now().Add(time.Hour)
	if reconciles {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for {
				changed := s.m.Changes()
				if s.m.State(rekorRead) == Recovering {
					_ = s.m.Reconciled(rekorRead)
				}
				select {
				case <-ctx.Done():
					return
				case <-changed:
				}
			}
		}()
	}
	for time.Now().Before(end) {
		time.Sleep(time.Duration(up * float64(time.Second)))
		u.set(mode)
		time.Sleep(time.Duration(down * float64(time.Second)))
		u.set("good")
	}
	synctest.Wait()
	s.check()
	// And it comes back when it stays well: out of fallback, and then by itself.
	time.Sleep(2*maxSteady + time.Minute)
	if got := s.m.State(rekorRead); got != Live && got != Degraded {
		t.Errorf("%s: %s after it had been well for eleven minutes", what, got)
	}
	n := 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.changes {
		if s.when[i].Before(end) {
			n++
		}
	}
	return n
}
