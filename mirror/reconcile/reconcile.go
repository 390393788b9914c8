package reconcile

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Errors of Now and Run, to be tested with errors.Is.
var (
	// ErrRunning: there is a reconciliation already, or Run was called twice.
	ErrRunning = errors.New("a reconciliation is running: wait until it is over, see \"understudy reconcile status\"")
	// ErrStopped: Run has not been called, or has returned.
	ErrStopped = errors.New("reconciliation is not running in this process")
	// ErrUnknownLog: no log has that name.
	ErrUnknownLog = errors.New("there is no such log to reconcile with; see \"understudy reconcile status\"")
	// ErrQuarantined: the log contradicted itself.
	ErrQuarantined = errors.New("the log is quarantined: look at the evidence, then see \"understudy outage release --help\"")
	// ErrAway: the log does not answer.
	ErrAway = errors.New("the log does not answer; it is reconciled by itself when it does")
)

// Reconciler reconciles. Its methods may be called concurrently, Run once at a time.
type Reconciler struct {
	cfg  Config
	pace *pace

	timing // of tests

	decisions decisions

	adding sync.Mutex                  // held while there comes another log
	known  atomic.Pointer[[]*Upstream] // never changed, only replaced

	mu       sync.Mutex // guards the fields below; never held during I/O
	looping  bool
	active   *run            // that runs now; its fields belong to Run
	progress *Running        // of active, for Status
	runs     map[string]*run // by log: those that are not over, the active one too
	done     map[string]*finished
	held     map[string]*held
	sent     map[string]*sent // by origin of a private log
	count    uint64
	found    map[string]*findingError // by log: of logs that are away
	until    map[string]time.Time     // by log: when a paused run is tried again
	request  *request
	wake     chan struct{} // has a token when there is a request
	took     []time.Duration
	last     *finished
	lastLog  string
}

// request is a call of Now.
type request struct {
	log    string
	answer chan error
}

// timing has what is shorter in no test, and longer in none: tests run in bubbles.
type timing struct {
	first, longest time.Duration // wait after a failure
	giveUp         time.Duration // for how long nothing may succeed until the run pauses
	pauses         time.Duration // the first pause; doubled each time
	longestPause   time.Duration
	looks          time.Duration // between two looks at a log that is away
	settle         time.Duration // for how long all must be live until what is left over is looked at
}

var usual = timing{first: 250 * time.Millisecond, longest: 15 * time.Second, giveUp: time.Minute, pauses: 10 * time.Second, longestPause: 5 * time.Minute, looks: 5 * time.Second, settle: 5 * time.Second}

// New makes a Reconciler that goes on where the database says that the last one ended.
func New(c Config) (*Reconciler, error) {
	c.setDefaults()
	r := &Reconciler{
		cfg: c, pace: newPace(c.PerSecond), timing: usual,
		runs: map[string]*run{}, done: map[string]*finished{}, held: map[string]*held{}, sent: map[string]*sent{},
		found: map[string]*findingError{}, until: map[string]time.Time{}, wake: make(chan struct{}, 1),
	}
	var upstreams []*Upstream
	for i := range c.Upstreams {
		upstreams = append(upstreams, &c.Upstreams[i])
	}
	r.known.Store(&upstreams)
	for _, name := range r.logs() {
		if err := r.load(name); err != nil {
			return nil, fmt.Errorf("open reconciliation: %w", err)
		}
	}
	for i := range c.Privates {
		if err := r.loadSent(&c.Privates[i]); err != nil {
			return nil, fmt.Errorf("open reconciliation: %w", err)
		}
	}
	if _, err := r.get(countRecord, &r.count); err != nil {
		return nil, fmt.Errorf("open reconciliation: %w", err)
	}
	if err := r.loadDecisions(); err != nil {
		return nil, fmt.Errorf("open reconciliation: %w", err)
	}
	c.Metrics.watch(r)
	return r, nil
}

// load reads what is kept of a log.
func (r *Reconciler) load(name string) error {
	x, f, h := new(run), new(finished), new(held)
	for _, one := range []struct {
		name  string
		value any
		keep  func()
	}{
		{runRecord + name, x, func() { r.runs[name] = x }},
		{doneRecord + name, f, func() { r.done[name] = f }},
		{heldRecord + name, h, func() { r.held[name] = h }},
	} {
		found, err := r.get(one.name, one.value)
		if err != nil {
			return err
		}
		if found {
			r.mu.Lock()
			one.keep()
			r.mu.Unlock()
		}
	}
	return nil
}

// Add adds a log while Run runs, such as one that succeeds another. It goes before the monitor knows of the log, or
// that would recover and nobody would reconcile it.
func (r *Reconciler) Add(u Upstream) error {
	r.adding.Lock()
	defer r.adding.Unlock()
	if r.upstream(u.Name) != nil {
		return fmt.Errorf("reconcile: there are two logs %q; give one another name", u.Name)
	}
	if err := r.load(u.Name); err != nil {
		return err
	}
	all := append(slices.Clone(r.upstreams()), &u)
	r.known.Store(&all)
	r.waken()
	return nil
}

// upstreams are all logs.
func (r *Reconciler) upstreams() []*Upstream { return *r.known.Load() }

// logs returns the names of all logs, "" for all of them together last.
func (r *Reconciler) logs() []string {
	var names []string
	for _, u := range r.upstreams() {
		names = append(names, u.Name)
	}
	return append(names, "")
}

func (r *Reconciler) upstream(name string) *Upstream {
	for _, u := range r.upstreams() {
		if u.Name == name {
			return u
		}
	}
	return nil
}

func (r *Reconciler) private(origin string) *Private {
	i := slices.IndexFunc(r.cfg.Privates, func(p Private) bool { return p.Origin == origin })
	if i < 0 {
		return nil
	}
	return &r.cfg.Privates[i]
}

// Run reconciles whenever it is due, until ctx ends. The error is of the database, in which nothing can
// be recorded any more, or ErrRunning.
func (r *Reconciler) Run(ctx context.Context) error {
	r.mu.Lock()
	if r.looping {
		r.mu.Unlock()
		return ErrRunning
	}
	r.looping = true
	r.mu.Unlock()
	defer r.stopped()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group errgroup.Group
	for _, run := range []func(context.Context) error{r.watching, r.looking, r.loop} {
		group.Go(func() error {
			defer cancel() // the others end with the first
			return run(ctx)
		})
	}
	return group.Wait()
}

func (r *Reconciler) stopped() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.looping = false
	if r.request != nil {
		r.request.answer <- ErrStopped
		r.request = nil
	}
}

func (r *Reconciler) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		changed, rows := r.cfg.Monitor.Changes(), r.cfg.Ledger.Changed()
		if err := r.follow(); err != nil {
			return err
		}
		x, wait, err := r.due()
		if err != nil {
			return err
		}
		if x != nil {
			if err := r.execute(ctx, x); err != nil {
				return err
			}
			continue
		}
		if err := r.rest(ctx, wait, changed, rows); err != nil {
			return err
		}
	}
	return nil
}

// rest waits until something may be due. More decisions make nothing due while something is not live:
// they are only counted.
func (r *Reconciler) rest(ctx context.Context, wait time.Duration, changed, rows <-chan struct{}) error {
	var timer <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timer = t.C
	}
	for {
		select {
		case <-ctx.Done():
		case <-changed:
		case <-timer:
		case <-r.wake:
		case <-rows:
			rows = r.cfg.Ledger.Changed()
			if err := r.follow(); err != nil {
				return err
			}
			if r.decisions.left() == 0 || wait > 0 || stateOf(r.cfg.Monitor.Status(), "").notLive {
				continue
			}
		}
		return nil
	}
}

// Now starts a reconciliation with a log whether one is due or not, or has a paused one go on. It returns
// when it has begun, durably: ErrRunning if one is running, ErrUnknownLog, ErrQuarantined, ErrAway or
// ErrStopped if it cannot.
func (r *Reconciler) Now(ctx context.Context, log string) error {
	if r.upstream(log) == nil {
		return fmt.Errorf("%q: %w", log, ErrUnknownLog)
	}
	ask := &request{log, make(chan error, 1)}
	r.mu.Lock()
	switch {
	case !r.looping:
		r.mu.Unlock()
		return ErrStopped
	case r.active != nil || r.request != nil:
		r.mu.Unlock()
		return ErrRunning
	}
	r.request = ask
	r.mu.Unlock()
	r.waken()
	select {
	case err := <-ask.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waken has Run look again.
func (r *Reconciler) waken() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// loadSent reads how far the proposals of a private log were submitted. What was logged while none was to be, is
// nobody's to publish later: leave to submit is for what is logged from then on.
func (r *Reconciler) loadSent(p *Private) error {
	s := new(sent)
	found, err := r.get(sentRecord+p.Origin, s)
	if err != nil {
		return err
	}
	r.sent[p.Origin] = s
	event := ""
	switch {
	case p.Withheld && !s.Withheld:
		event, s.Withheld = "withheld", true
	case p.Submit != nil && (s.Withheld || !found):
		event, s.Withheld = "submits", false
		s.Next = max(s.Next, p.Size())
		if p.Logged != nil {
			s.Next = max(s.Next, p.Logged())
		}
	default:
		return nil
	}
	records := map[string][]byte{}
	put(records, sentRecord+p.Origin, s)
	return r.append(records, row{Event: event, Private: p.Name, Origin: p.Origin, Next: s.Next})
}

// Proof returns the receipt of an entry of a private log that a public one has; nil if none is kept.
func (r *Reconciler) Proof(origin string, index uint64) (*Receipt, error) {
	var receipt Receipt
	found, err := r.get(proofName(origin, index), &receipt)
	if err != nil || !found {
		return nil, err
	}
	return &receipt, nil
}
