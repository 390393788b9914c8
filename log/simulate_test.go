package log

import (
	"context"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestSimulation plays lives that are drawn at random against a model. What is drawn follows from the
// seed: LOG_SEED=n plays one alone, LOG_SEEDS=n so many.
func TestSimulation(t *testing.T) {
	first, n := uint64(1), uint64(16)
	if testing.Short() {
		n = 4
	}
	if v, err := strconv.ParseUint(os.Getenv("LOG_SEED"), 10, 64); err == nil {
		first, n = v, 1
	} else if v, err := strconv.ParseUint(os.Getenv("LOG_SEEDS"), 10, 64); err == nil {
		first, n = uint64(time.Now().UnixNano()), v
	}
	for seed := first; seed < first+n; seed++ {
		t.Run(fmt.Sprint("LOG_SEED=", seed), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) { newSimulation(t, seed).play(100) })
		})
	}
}

// simulation is a log, its clients, its witness and what all of them may rely on. All that is drawn
// is drawn by play, in one goroutine.
type simulation struct {
	*stage
	*model
	draw    *mathrand.Rand
	clock   clock
	key     *signs
	promise func(index uint64, at int64, e *Entry) ([]byte, error)

	bodies  int            // were tried
	latest  int64          // what the clock said
	clients sync.WaitGroup // of this life
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	m := &simulation{model: newModel(t), draw: mathrand.New(mathrand.NewPCG(seed, 0))}
	m.stage = newStage(t, func(c *Config) {
		m.key = counting(c)
		m.promise = c.Promise
		c.Promise = func(index uint64, at int64, e *Entry) ([]byte, error) {
			if m.is(noPromise) {
				return nil, errors.New("no promise")
			}
			return m.promise(index, at, e)
		}
		c.now = m.clock.now
	})
	m.verifiers = m.config.Verifiers
	m.clock.at.Store(1_800_000_000)
	return m
}

func (m *simulation) play(steps int) {
	m.configure()
	m.begin(true)
	for range steps {
		m.step()
		if m.crashed() {
			m.end()
			m.begin(false)
		}
		if m.t.Failed() {
			break
		}
	}
	m.epilogue()
}

// configure draws a configuration for the next life.
func (m *simulation) configure() {
	c := &m.config
	c.Cosign, c.WithoutQuorum = m.cosign, m.draw.IntN(3) == 0
	if m.draw.IntN(5) == 0 {
		c.Cosign = nil
	}
	c.PoolEntries = []int{5, 100}[m.draw.IntN(2)]
	c.BatchEntries = []int{1, 3, 256}[m.draw.IntN(3)]
	c.BatchWait = []time.Duration{1, time.Millisecond, 25 * time.Millisecond}[m.draw.IntN(3)]
}

// begin opens the log and begins a life.
func (m *simulation) begin(create bool) {
	m.t.Helper()
	m.model.begin()
	err := m.openOnly(create)
	if err != nil && create {
		m.t.Fatal(err)
	}
	if err != nil {
		m.t.Fatalf("open after %d published: %v", m.last().Size, err)
	}
	if err := m.standsBy(m.stage); err != nil {
		m.t.Error(err)
	}
	m.run()
	l, ends := m.log, m.ends
	m.clients.Go(func() { m.watch(l, ends) })
}

// end ends a life: all clients are answered, and nobody is left. What is on the disk then is where the
// next one begins.
func (m *simulation) end() {
	m.t.Helper()
	if m.stop != nil {
		if err := m.stop(); err != nil {
			m.t.Errorf("run: %v", err)
		}
	}
	m.model.end()
	m.clients.Wait() // in a bubble whoever is left is a deadlock, which ends the test
	m.ask.Store(nil)
	if disk := m.takeLeft(); disk != nil {
		m.become(disk)
	} else {
		m.sound()
		m.stage.close()
	}
	m.configure()
}

func (m *simulation) step() {
	switch m.draw.IntN(26) {
	case 0, 1, 2, 3:
		m.client(m.fresh(), m.patience())
	case 4, 5:
		for range m.draw.IntN(30) {
			m.client(m.fresh(), m.patience())
		}
	case 6, 7, 8: // of the past, and more than once
		if m.bodies > 0 {
			body := body(m.draw.IntN(m.bodies))
			for range 1 + m.draw.IntN(4) {
				m.client(body, m.patience())
			}
		}
	case 9: // at once, and new
		body := m.fresh()
		for range 1 + m.draw.IntN(4) {
			m.client(body, m.patience())
		}
	case 10, 11, 12:
		time.Sleep(time.Duration(m.draw.Int64N(int64(time.Second))))
	case 13:
		time.Sleep(time.Duration(m.draw.Int64N(int64(20 * time.Second))))
	case 14, 15:
		m.set([]fault{well, well, well, well, refuses, sleeps, slow, noPromise, noKey, wrongKey}[m.draw.IntN(10)], m.key)
	case 16:
		m.clock.jump(time.Duration(m.draw.IntN(240)-120) * time.Second)
		m.latest = max(m.latest, m.clock.at.Load())
	case 17: // far, and often back to what it was
		m.clock.jump(time.Duration(m.draw.IntN(240)-120) * time.Minute)
		m.latest = max(m.latest, m.clock.at.Load())
	case 24, 25:
		m.clock.at.Store(max(m.latest, m.clock.at.Load()))
	case 18:
		m.end()
		m.begin(false)
	case 19, 20, 21:
		m.crashAfter(m.draw.IntN(25), 50*m.draw.IntN(2))
		for range m.draw.IntN(5) {
			m.client(m.fresh(), m.patience())
			time.Sleep(time.Duration(m.draw.Int64N(int64(10 * time.Millisecond))))
		}
	case 22:
		m.probe()
	case 23:
		if m.draw.IntN(4) == 0 {
			m.behind()
		}
	}
}

func body(i int) string { return fmt.Sprint("body ", i) }

func (m *simulation) fresh() string {
	m.bodies++
	return body(m.bodies - 1)
}

// patience draws for how long a client waits; 0 is for ever.
func (m *simulation) patience() time.Duration {
	return []time.Duration{0, 1, time.Millisecond, 30 * time.Millisecond, 5 * time.Second}[m.draw.IntN(5)]
}

// client appends on a goroutine of its own.
func (m *simulation) client(body string, patience time.Duration) {
	l := m.log
	m.clients.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		if patience > 0 {
			ctx, cancel = context.WithTimeout(ctx, patience)
		}
		defer cancel()
		r, err := l.Append(ctx, entryOf(body))
		if err == nil {
			err = m.check(body, r)
		}
		m.answer(body, r, err)
	})
}

// crashAfter arms a crash before the k-th change of the disk from now.
func (m *simulation) crashAfter(k, percent int) {
	disk, seed := m.disk, m.draw.Uint64()
	crash := func(o errorfs.Op) error {
		if o.Kind.ReadOrWrite() == errorfs.OpIsWrite {
			m.crashNow(&k, func() *vfs.MemFS {
				return disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: mathrand.New(mathrand.NewPCG(seed, 1))})
			})
		}
		return nil
	}
	m.ask.Store(&crash)
}

// probe looks at what a crash at this moment would leave: all that is published is in it.
func (m *simulation) probe() {
	m.t.Helper()
	probe := &stage{t: m.t, config: m.config}
	var err error
	now := m.frozen(func() { probe.disk = m.disk.CrashClone(vfs.CrashCloneCfg{}) })
	if now == nil {
		return // there was a crash already
	}
	probe.config.Cosign = nil
	if err = probe.openOnly(false); err == nil {
		err = now.standsBy(probe)
	}
	if err != nil {
		m.t.Errorf("a crash now, after %d were published: %v", now.last().Size, err)
	}
	probe.close()
}

// behind has the witness say that it knows a larger tree: nothing is published or answered until an
// operator has looked into it.
func (m *simulation) behind() {
	m.t.Helper()
	if m.config.Cosign == nil {
		return
	}
	m.set(ahead, m.key)
	time.Sleep(time.Minute)
	before := m.log.Published()
	m.client(m.fresh(), 0)
	time.Sleep(time.Minute)
	if m.crashed() {
		return
	}
	if err := m.log.stoppedBy(); !errors.Is(err, ErrBehind) || m.log.Published().Head != before.Head {
		m.t.Errorf("a witness is ahead, and %d after %d is published: %v", m.log.Published().Size, before.Size, err)
	}
	m.end()
	m.set(well, m.key)
	m.begin(false)
}

// epilogue lets all be well again, and asks for everything.
func (m *simulation) epilogue() {
	m.t.Helper()
	m.end()
	m.set(well, m.key)
	m.config.PoolEntries = 1 << 20
	m.config.Cosign, m.config.WithoutQuorum = m.cosign, false
	m.clock.jump(1000 * time.Hour)
	m.begin(false)
	for i := range m.bodies {
		m.client(body(i), 0)
	}
	synctest.Wait()
	time.Sleep(time.Minute)
	m.complete(m.log, m.bodies)
	m.end()
}
