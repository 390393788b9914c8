package outage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// Component is one thing of an upstream that can fail alone.
type Component struct {
	// Name is "rekor/read", "tuf", …; the part before the slash is the log's name.
	Name string
	Kind string // read, write, tuf or service
	// Probe asks the upstream for little, and returns nil if it answers in order. It returns soon when ctx ends. With
	// a nil Probe there is only what Observe is told.
	Probe func(ctx context.Context) error
	// Size is the verified size of the log, from memory. With GrowsWithin, a log whose size stays the same for
	// so long is degraded; it is not watched if zero.
	Size        func() uint64
	GrowsWithin time.Duration
	// Ended says that the log was ended by its owners: it is not to grow any more. Nil: it never is.
	Ended func() bool
	// Reconciles says that recovering ends by Monitor.Reconciled, and not after a while by itself.
	Reconciles bool
}

// Observation is what one request to an upstream met.
type Observation struct {
	Started time.Time // by time.Now; only looked at without Took
	Took    time.Duration
	// Err is nil if it was answered in order. CodeOf gives its code; its method RetryAfter() time.Duration makes probes
	// wait. That a caller gave up, context.Canceled, says nothing of the upstream and is not counted.
	Err   error
	Probe bool // of a probe, whose answer may also be too slow
}

// Webhook is told of rows of the ledger, each at least once and in order.
type Webhook struct {
	URL string
	// Secret, if any, is the key of the header Understudy-Signature: sha256=HEX, an HMAC over the body.
	Secret []byte
	Client *http.Client // nil is a client of its own; redirects are not followed
}

// Config makes a Monitor.
type Config struct {
	DB         *storage.DB
	Ledger     *ledger.Ledger // of DB
	Settings   Settings
	Components []Component
	// Now is the wall clock; nil is time.Now. One that never goes back, as ledger.Clock makes it, is best.
	Now     func() time.Time
	Webhook *Webhook // nil: nobody is told
	// Drill names the drill that affects a component now, or is nil or "".
	Drill func(component string) string
	// Changed is told of each change of what counts, in order, once its row is durable and State says so. It must
	// return soon, and must not call what changes a state: the next change waits for it.
	Changed func(Change)
	Logger  *slog.Logger // nil: nothing is logged
	Metrics *Metrics     // nil: nothing is counted
}

// Monitor keeps the states of all components. Its methods may be called concurrently.
type Monitor struct {
	cfg      Config
	settings Settings
	hook     *hook // nil without a webhook
	elapsed  func() time.Duration
	wake     chan struct{} // something is due for watch
	unsaved  chan struct{} // something is pending for write

	mu       sync.Mutex // guards the fields below; never held during I/O, or while a function of Config or Component runs
	byName   map[string]*component
	all      []*component // in the order in which they were added
	changed  chan struct{}
	settling bool  // somebody commits what is pending
	broken   error // set once: nothing can be recorded any more
}

// component is a Component and how it is. Its fields are guarded by Monitor.mu, but for those that are never changed.
type component struct {
	Component
	position
	pending *pending // the step that is being recorded; no other one is taken meanwhile

	burned *budget // all that came, for people
	since  *budget // what came since it began to recover, for the machine
	recent ring    // of since, the last 30 s, for the breaker

	probes    prober
	size      uint64 // of the log
	ended     bool   // the log is
	grew      time.Duration
	lastGood  time.Time
	lastError string
	lastProbe time.Time
}

// pending is a step that counts as soon as it is durable.
type pending struct {
	record  record
	entries []entry
	done    chan struct{} // closed when it is, or cannot be
	err     error
}

const ratioWindow = 30 * time.Second

// New makes a Monitor with what is recorded of its components: those it does not know are live. A row
// comes only of what changed since, such as a force that has expired.
func New(cfg Config) (*Monitor, error) {
	settings, err := cfg.Settings.withDefaults()
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	start := time.Now()
	m := &Monitor{
		cfg: cfg, settings: settings,
		elapsed: func() time.Duration { return time.Since(start) },
		wake:    make(chan struct{}, 1), unsaved: make(chan struct{}, 1),
		byName: map[string]*component{}, changed: make(chan struct{}),
	}
	if cfg.Webhook != nil {
		if m.hook, err = newHook(cfg); err != nil {
			return nil, err
		}
	}
	for _, c := range cfg.Components {
		if err := m.Add(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Add adds a component, such as a log that succeeds another one, with what is recorded of it.
func (m *Monitor) Add(c Component) error {
	if c.Name == "" || len(c.Name) > 200 || strings.ContainsFunc(c.Name, unicode.IsControl) {
		return fmt.Errorf("outage: a component cannot be called %q; give it a short name", c.Name)
	}
	if c.GrowsWithin > 0 && c.Size == nil {
		return fmt.Errorf("outage: component %s is to grow and has no Size; give it one", c.Name)
	}
	kept, err := load(m.cfg.DB, c.Name)
	if err != nil {
		return err
	}
	var size uint64
	if c.Size != nil {
		size = c.Size()
	}
	wall := m.cfg.Now()
	m.mu.Lock()
	if m.byName[c.Name] != nil {
		m.mu.Unlock()
		return fmt.Errorf("outage: there are two components %q; give one another name", c.Name)
	}
	now := m.at(wall)
	added := &component{
		Component: c, position: m.settings.start(kept, c.Reconciles, now), size: size, grew: now.mono,
		burned: newBudget(), since: newBudget(), recent: newRing(time.Second, int(ratioWindow/time.Second)),
		probes: prober{due: now.mono + m.settings.jitter()},
	}
	m.byName[c.Name] = added
	m.all = append(m.all, added)
	m.cfg.Metrics.show(added.Name, &added.position, added.flapLevel(&m.settings, now))
	m.decideLocked(added, now) // a force may have expired
	m.mu.Unlock()
	notify(m.wake)
	return m.settle()
}

// at is now, when the wall clock has been read. The caller holds mu, so that mono does not go back.
func (m *Monitor) at(wall time.Time) instant { return instant{wall, m.elapsed()} }

// notify fills a channel of one place.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run probes, keeps times and tells the webhook, until ctx ends. It returns an error only if the
// database is broken, and is called once.
func (m *Monitor) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.watch(ctx) })
	g.Go(func() error { return m.write(ctx) })
	if m.hook != nil {
		g.Go(func() error { return m.hook.run(ctx) })
	}
	return g.Wait()
}

// write records what watch and Observe decided.
func (m *Monitor) write(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.unsaved:
		}
		if err := m.settle(); err != nil {
			return err
		}
	}
}

// Observe tells of a request to a component's upstream. It does no I/O. A component that is not known is ignored.
func (m *Monitor) Observe(name string, o Observation) {
	if errors.Is(o.Err, context.Canceled) {
		return
	}
	took := o.Took
	if took <= 0 && !o.Started.IsZero() {
		took = max(time.Since(o.Started), 0)
	}
	wall := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.byName[name]
	if c == nil {
		return
	}
	m.observeLocked(c, o.Err, took, o.Probe, m.at(wall))
	if c.bad > 0 && asksSoon(c.State) {
		c.probes.suspect(&m.settings)
		notify(m.wake)
	}
}

// observeLocked counts an observation, and takes the step that follows from it.
func (m *Monitor) observeLocked(c *component, err error, took time.Duration, probe bool, now instant) {
	// A log answers who writes when a checkpoint has the entry, which takes seconds.
	slow := probe && err == nil && took > m.settings.Slow && c.Kind != "write"
	drill := ""
	if m.cfg.Drill != nil {
		drill = m.cfg.Drill(c.Name)
	}
	if drill == "" { // what is rehearsed is no error of the upstream's, which has a budget for its own
		c.burned.add(now.mono, err != nil || slow)
		c.since.add(now.mono, err != nil || slow)
	}
	c.recent.add(now.mono, err != nil)
	m.cfg.Metrics.observed(c.Name, err == nil && !slow)
	c.probes.wait(now.mono + retryAfter(err))
	o := observed{good: err == nil, drill: drill, started: now.mono - took}
	if err == nil {
		c.lastGood = now.stamp()
	} else {
		o.cause = causeOf(err)
		c.lastError = o.cause.Text
	}
	m.noteLocked(c, o, now)
}

func (m *Monitor) noteLocked(c *component, o observed, now instant) {
	o.ratio, o.badFor = c.recent.sum(now.mono, len(c.recent.slots))
	c.position = m.settings.observe(c.position, o, now)
	m.decideLocked(c, now)
}

// weighLocked looks at what time alone changes.
func (m *Monitor) weighLocked(c *component, now instant) {
	var w weighed
	w.burning, w.calm = c.since.burning(now.mono, &m.settings)
	// A log is not blamed for what it did not do while it was away.
	w.stalled = c.GrowsWithin > 0 && !c.ended && now.mono-max(c.grew, c.recovered) >= c.GrowsWithin
	w.grown = c.grew > c.entered || c.ended
	c.position = m.settings.weigh(c.position, w)
	m.decideLocked(c, now)
}

// decideLocked takes the step that is due, unless one is under way.
func (m *Monitor) decideLocked(c *component, now instant) {
	if c.pending != nil || m.broken != nil {
		return
	}
	if next, entries := m.settings.decide(c.position, now); len(entries) > 0 {
		m.pendLocked(c, next, entries)
	}
}

// pendLocked makes a step pending. What comes from now on is already evidence for the state that follows.
func (m *Monitor) pendLocked(c *component, next position, entries []entry) *pending {
	if next.State == Recovering && c.State != Recovering {
		c.since = newBudget()
		c.recent = newRing(time.Second, len(c.recent.slots))
	}
	c.pending = &pending{record: next.record, entries: entries, done: make(chan struct{})}
	c.evidence = next.evidence
	notify(m.unsaved)
	return c.pending
}

// State is the state of a component that counts; "" if it is not known.
func (m *Monitor) State(name string) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.byName[name]; c != nil {
		return c.counts()
	}
	return ""
}

// Overall is the worst state of all components that counts.
func (m *Monitor) Overall() State { return m.worst((*component).counts) }

// Worst is the worst state of all components, also of what a force hides.
func (m *Monitor) Worst() State {
	return m.worst(func(c *component) State {
		if seen, counts := c.State, c.counts(); seen.badness() > counts.badness() {
			return seen
		}
		return c.counts()
	})
}

func (m *Monitor) worst(of func(*component) State) State {
	m.mu.Lock()
	defer m.mu.Unlock()
	worst := Live
	for _, c := range m.all {
		if s := of(c); s.badness() > worst.badness() {
			worst = s
		}
	}
	return worst
}

// Status is the state of each component, in the order in which they were added.
func (m *Monitor) Status() []Status {
	wall := m.cfg.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.at(wall)
	status := make([]Status, len(m.all))
	for i, c := range m.all {
		status[i] = Status{
			Component: c.Name, Kind: c.Kind, State: c.counts(), Underlying: c.State, Since: c.Since, Cause: c.Cause, Left: c.Left,
			LastGood: c.lastGood, LastError: c.lastError, LastProbe: c.lastProbe,
			FlapLevel: c.flapLevel(&m.settings, now), BurnRates: map[string]float64{},
		}
		if c.Force != nil {
			force := *c.Force
			status[i].Force = &force
		}
		for w, rate := range c.burned.burn(now.mono, m.settings.SLO) {
			status[i].BurnRates[windowNames()[w]] = rate
		}
	}
	return status
}

// Changes returns a channel that is closed at the next change of any state, also a hidden one, or force.
func (m *Monitor) Changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}
