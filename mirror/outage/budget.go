package outage

import "time"

// tally counts observations.
type tally struct{ bad, all uint32 }

// ring counts by slots of time, as many as it has; what is older is forgotten.
type ring struct {
	width time.Duration
	slots []tally
	last  int64 // number of the newest slot, counted from the start of the clock
}

func newRing(width time.Duration, slots int) ring {
	return ring{width: width, slots: make([]tally, slots)}
}

// turn makes the slot of now the newest. A time before the newest slot belongs to that one.
func (r *ring) turn(now time.Duration) *tally {
	n := int64(len(r.slots))
	to := max(int64(now/r.width), r.last)
	for i := max(r.last, to-n) + 1; i <= to; i++ {
		r.slots[i%n] = tally{}
	}
	r.last = to
	return &r.slots[to%n]
}

func (r *ring) add(now time.Duration, bad bool) {
	t := r.turn(now)
	t.all++
	if bad {
		t.bad++
	}
}

// sum adds up the newest slots, and says in how many of them something was bad.
func (r *ring) sum(now time.Duration, slots int) (sum tally, badSlots int) {
	r.turn(now)
	n := int64(len(r.slots))
	for i := range min(int64(slots), n, r.last+1) {
		t := r.slots[(r.last-i)%n]
		sum.bad += t.bad
		sum.all += t.all
		if t.bad > 0 {
			badSlots++
		}
	}
	return sum, badSlots
}

// Windows of burn rates.
const (
	window5m = iota
	window30m
	window1h
	window6h
	windows
)

// windowNames are the windows as labels.
func windowNames() [windows]string { return [windows]string{"5m", "30m", "1h", "6h"} }

// budget counts what came in six hours: by the second for the window of five minutes, by the minute for the
// others. It takes 5 KB, however much comes.
type budget struct{ seconds, minutes ring }

func newBudget() *budget {
	return &budget{seconds: newRing(time.Second, 300), minutes: newRing(time.Minute, 360)}
}

func (b *budget) add(now time.Duration, bad bool) {
	b.seconds.add(now, bad)
	b.minutes.add(now, bad)
}

func (b *budget) tallies(now time.Duration) (t [windows]tally) {
	t[window5m], _ = b.seconds.sum(now, 300)
	t[window30m], _ = b.minutes.sum(now, 30)
	t[window1h], _ = b.minutes.sum(now, 60)
	t[window6h], _ = b.minutes.sum(now, 360)
	return t
}

// burn says how many times faster than an objective allows errors came.
func (b *budget) burn(now time.Duration, slo float64) (rates [windows]float64) {
	for i, t := range b.tallies(now) {
		rates[i] = t.burn(slo)
	}
	return rates
}

func (t tally) burn(slo float64) float64 {
	if t.all == 0 {
		return 0
	}
	return float64(t.bad) / float64(t.all) / (1 - slo)
}

// Fewer than this in the shorter window of a pair say nothing of a rate.
const (
	fewestObservations = 20
	fewestBad          = 3
)

// burning says whether errors come too fast in both windows of a pair, and whether they come at less than
// half of that in one window of each pair.
func (b *budget) burning(now time.Duration, s *Settings) (burning, calm bool) {
	t := b.tallies(now)
	calm = true
	for _, pair := range []struct {
		short, long int
		limit       float64
	}{{window5m, window1h, s.FastBurn}, {window30m, window6h, s.SlowBurn}} {
		short := t[pair.short]
		rate := min(short.burn(s.SLO), t[pair.long].burn(s.SLO))
		if rate >= pair.limit && short.all >= fewestObservations && short.bad >= fewestBad {
			burning = true
		}
		if rate >= pair.limit/2 && short.bad >= fewestBad {
			calm = false
		}
	}
	return burning, calm
}
