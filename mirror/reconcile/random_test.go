package reconcile

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/test/bubble"
)

// TestRandomDays: whatever fails, and however often, each entry is in the public log exactly once in the
// end, each decision is reconciled, and the reports add up.
func TestRandomDays(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		var failed []string
		bubble.Run(t, func(*testing.T) { failed = record(func(t tb) { newRandomDay(t, p).play() }) })
		for _, text := range failed {
			rt.Error(text)
		}
	})
}

// recorder is a tb that rapid does not see: it and bubbles do not go together.
type recorder struct {
	failed   []string
	cleanups []func()
}

type stopped struct{}

func record(f func(tb)) []string {
	r := &recorder{}
	func() {
		defer func() {
			if v := recover(); v != nil && v != (stopped{}) {
				panic(v)
			}
		}()
		f(r)
	}()
	for _, f := range r.cleanups {
		f()
	}
	return r.failed
}

func (r *recorder) Helper()                           {}
func (r *recorder) Cleanup(f func())                  { r.cleanups = append(r.cleanups, f) }
func (r *recorder) Error(args ...any)                 { r.failed = append(r.failed, fmt.Sprintln(args...)) }
func (r *recorder) Fatal(args ...any)                 { r.Error(args...); panic(stopped{}) }
func (r *recorder) Errorf(format string, args ...any) { r.Error(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

// plan is what is drawn of a day.
type plan struct {
	seed     uint64
	failing  float64 // share of submissions that fail before or after they take effect
	troubles int
	entries  [][]byte
	rate     float64
	atOnce   int
	crashes  []string
}

func drawPlan(t *rapid.T) *plan {
	p := &plan{
		seed:     rapid.Uint64().Draw(t, "seed"),
		failing:  rapid.Float64Range(0, 0.3).Draw(t, "failing"),
		troubles: rapid.IntRange(0, 12).Draw(t, "troubles"),
		rate:     rapid.Float64Range(1, 100).Draw(t, "per second"),
		atOnce:   rapid.IntRange(1, 20).Draw(t, "at once"),
	}
	for i := range rapid.IntRange(0, 60).Draw(t, "entries") {
		entry := fmt.Append(nil, "entry ", i)
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			entry = nil
		case 1:
			entry = fmt.Append(nil, "bad ", i)
		}
		p.entries = append(p.entries, entry)
	}
	for range rapid.IntRange(0, 5).Draw(t, "crashes") {
		at := rapid.IntRange(1, 120).Draw(t, "crash at effect")
		p.crashes = append(p.crashes, fmt.Sprint(at, " ", rapid.SampledFrom([]string{"before", "after"}).Draw(t, "when")))
	}
	return p
}

type randomDay struct {
	*world
	*plan
	draw *rand.Rand // guarded by world.mu
}

func newRandomDay(t tb, p *plan) *randomDay {
	d := &randomDay{newWorld(t), p, rand.New(rand.NewPCG(p.seed, 0))}
	d.patch = func(c *Config) { c.PerSecond, c.AtOnce = p.rate, p.atOnce }
	d.submit = func([]byte) error { return d.fails() }
	d.after = d.submit
	for _, at := range p.crashes {
		d.crashAt[at] = true
	}
	return d
}

// fails says whether a submission fails now.
func (d *randomDay) fails() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draw.Float64() >= d.failing/2 {
		return nil
	}
	if d.draw.IntN(4) == 0 {
		return &statusError{code: 429, after: time.Duration(d.draw.IntN(20)) * time.Second}
	}
	return errors.New("the connection was reset")
}

func (d *randomDay) play() {
	d.start()
	d.log(d.entries...)
	time.Sleep(time.Second)
	d.outage(true)
	time.Sleep(10 * time.Second)
	d.revive()
	d.decide(1, 2, 3, 4)
	d.outage(false)
	for n := range d.troubles {
		time.Sleep(time.Duration(d.upTo(20_000)) * time.Millisecond)
		d.revive()
		switch d.upTo(5) {
		case 0, 1:
			d.outage(true)
			time.Sleep(time.Duration(d.upTo(60)) * time.Second)
			d.revive()
			d.outage(false)
		case 2: // so short that it may not be seen
			d.monitor.set(outage.Fallback, "rekor/read")
			d.outage(false)
		case 3: // reopened
			d.life.stop()
			d.start()
		case 4:
			d.decide(uint64(d.upTo(10)))
			if d.monitor.state("rekor/write") != outage.Live {
				d.log(fmt.Append(nil, "more ", n))
			}
		}
	}
	d.awaitLive()
	d.await("all is submitted", func() bool {
		s := d.life.r.Status()
		return s.Running == nil && len(s.Paused) == 0 && s.BacklogProposals == 0
	})
	d.sound()
	d.life.stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for p, n := range d.count {
		if n != 1 || bytes.HasPrefix([]byte(p), []byte("bad")) {
			d.t.Errorf("%q is %d times in the public log", p, n)
		}
	}
}

func (d *randomDay) upTo(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.draw.IntN(n)
}

// revive begins another life after a crash.
func (d *randomDay) revive() {
	if d.life.dead.Load() {
		d.life.stop()
		d.start()
	}
}
