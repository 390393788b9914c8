package outage

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// The rings against a list of all that came.
func TestRing(t *testing.T) {
	type event struct {
		slot int64
		bad  bool
	}
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		r := newRing(time.Second, 30)
		var all []event
		now := time.Duration(random.Int64N(int64(time.Hour)))
		for range 500 {
			switch random.IntN(20) {
			case 0:
				now += time.Duration(random.Int64N(int64(time.Minute)))
			case 1:
				now += time.Duration(random.Int64N(int64(24 * time.Hour)))
			default:
				now += time.Duration(random.Int64N(int64(2 * time.Second)))
			}
			bad := random.IntN(3) == 0
			r.add(now, bad)
			all = append(all, event{int64(now / time.Second), bad})
			slots := 1 + random.IntN(35)
			got, gotBad := r.sum(now, slots)
			var want tally
			badSlots := map[int64]bool{}
			for _, e := range all {
				if e.slot > int64(now/time.Second)-int64(min(slots, 30)) {
					want.all++
					if e.bad {
						want.bad++
						badSlots[e.slot] = true
					}
				}
			}
			if got != want || gotBad != len(badSlots) {
				t.Fatalf("seed %d: %+v in %d, want %+v in %d", seed, got, gotBad, want, len(badSlots))
			}
		}
		// A time from before belongs to the newest slot, and breaks nothing.
		before, _ := r.sum(now, 1)
		r.add(now-time.Hour, true)
		if after, _ := r.sum(now, 1); after.all != before.all+1 {
			t.Fatalf("seed %d: %+v, then %+v", seed, before, after)
		}
	}
}

// Both windows of a pair must burn; calm is below half in one of each.
func TestBurning(t *testing.T) {
	s, err := Settings{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what          string
		older, newest int // one bad of so many: in the five hours before, in the last four minutes
		burning, calm bool
	}{
		{"all good", 0, 0, false, true},
		{"a burst after six good hours", 0, 10, false, true},
		{"bad hours, and now it is good", 10, 0, true, false}, // the window of 30 minutes remembers
		{"7 % all the time", 14, 14, true, false},
		{"4 % all the time", 25, 25, true, false},
		{"2 % all the time", 50, 50, false, false},
		{"1 % all the time", 100, 100, false, true},
	} {
		b := newBudget()
		now := time.Duration(0)
		n := 0
		for ; now < 5*time.Hour; now += 2 * time.Second {
			n++
			b.add(now, c.older > 0 && n%c.older == 0)
		}
		for end := now + 4*time.Minute; now < end; now += 2 * time.Second {
			n++
			b.add(now, c.newest > 0 && n%c.newest == 0)
		}
		if burning, calm := b.burning(now, &s); burning != c.burning || calm != c.calm {
			t.Errorf("%s: burning %t, calm %t, want %t and %t; %v", c.what, burning, calm, c.burning, c.calm, b.burn(now, s.SLO))
		}
	}
	few := newBudget()
	for i := range 19 {
		few.add(time.Duration(i)*time.Second, true)
	}
	if burning, _ := few.burning(20*time.Second, &s); burning {
		t.Error("19 observations burn")
	}
	if rate := few.burn(20*time.Second, s.SLO)[window5m]; math.Abs(rate-200) > 1e-6 {
		t.Errorf("all failed: %g", rate)
	}
}
