package drill

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

// DefaultMaxDuration is the longest drill, where Config says nothing else.
const DefaultMaxDuration = 30 * time.Minute

// Config is what New needs. The functions are what a drill asks of the rest of the daemon. They obey
// their context, and may be called concurrently. A panic in one aborts the drill.
type Config struct {
	DB     *storage.DB
	Ledger *ledger.Ledger
	Faults *Faults
	// Monitor says how the components are, and when that changes.
	Monitor interface {
		Status() []outage.Status
		Changes() <-chan struct{}
	}
	// Control asks the real upstream of a component, past the faults. An error twice in a row is an
	// outage in earnest.
	Control func(ctx context.Context, component string) error
	// Serve asks this daemon, as a client would, for a proof of something that is held, verifies it,
	// and returns the age of what it rests on.
	Serve func(ctx context.Context) (stale time.Duration, err error)
	// FallenBack says whether the private log stands in for the public one: clients are told of it
	// alone, and it takes entries. Nil: there is none that would.
	FallenBack func() bool
	// Reconciled says whether a reconciliation ended that began after a time. Nil: nothing reconciles.
	Reconciled func(since time.Time) bool
	// OldCheckpoint returns an archived checkpoint of a component's log that is older than its newest,
	// as upstream signed it. Nil: rollback cannot be rehearsed.
	OldCheckpoint func(component string) ([]byte, error)
	// GrowsWithin says how long a component's log may stand still; 0 is for ever. Nil: no log is watched.
	GrowsWithin func(component string) time.Duration
	// Steady is how long a component must answer before it counts as recovering; it is doubled for each
	// flap (outage.Settings). 0 is 4 s.
	Steady time.Duration
	// OpenScratch makes an empty database; what it returns beside it closes it and throws it away. Nil:
	// fork cannot be rehearsed.
	OpenScratch func() (*storage.DB, func(), error)
	// AppendReport appends a report to the private log. It is called again after an error, and may be
	// called again for a report that was appended, if the daemon stopped in between. Nil: there is none.
	AppendReport func(ctx context.Context, report []byte) (Place, error)

	MaxDuration time.Duration // 0 is DefaultMaxDuration
	Targets     Targets
	Schedule    []Scheduled
	Now         func() time.Time // nil is time.Now
	Logger      *slog.Logger     // nil discards
	Metrics     *Metrics         // nil counts nothing
}

// Request is a drill that somebody asks for.
type Request struct {
	Scenario string
	// Component is one component, or a log, which is all its components; "": those of the first log.
	Component string
	For       time.Duration // that the faults last
	Ticket    string
	By        string // who asks
}

// Active is the drill under way.
type Active struct {
	Result

	// Settling: the faults have ended, and what comes after is watched.
	Settling bool `json:"settling"`
}

// Runner runs drills. Its methods may be called concurrently, Run only once.
type Runner struct {
	cfg       Config
	history   *history
	scheduled []*planned
	starts    chan *drill
	stopped   chan struct{} // closed when Run has ended

	mu      sync.Mutex // guards the fields below; never held during I/O
	running bool
	busy    bool   // a drill is under way, or about to be
	active  *drill // nil until its first row is durable

	testingOnlyStage func(*stage)
}

// New returns the runner of a database. A drill that did not end, because the daemon did, is
// aborted: its faults ended with the process.
func New(cfg Config) (*Runner, error) {
	if cfg.Monitor == nil || cfg.Control == nil || cfg.Serve == nil || cfg.Faults == nil {
		return nil, errors.New("drills need a switchboard, a monitor, and something to ask upstream and this daemon with")
	}
	if cfg.MaxDuration <= 0 {
		cfg.MaxDuration = DefaultMaxDuration
	}
	if cfg.Steady <= 0 {
		cfg.Steady = 4 * time.Second
	}
	cfg.Targets = cfg.Targets.orDefault()
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Runner{cfg: cfg, starts: make(chan *drill), stopped: make(chan struct{})}
	var err error
	if r.scheduled, err = r.plan(cfg.Schedule); err != nil {
		return nil, err
	}
	if r.history, err = openHistory(cfg.DB, cfg.Ledger); err != nil {
		return nil, fmt.Errorf("read the results of drills: %w", err)
	}
	for _, res := range r.history.unfinished() {
		res.Outcome, res.Ended = outcomeAborted, cfg.Now().UTC().Round(0)
		res.Cause = &outage.Cause{Code: codeRestarted, Text: "the daemon stopped during the drill; the faults ended with it"}
		if err := r.history.keep("aborted", res); err != nil {
			return nil, fmt.Errorf("end the drill %s: %w", res.ID, err)
		}
	}
	cfg.Metrics.watch(r)
	return r, nil
}

// Run runs the drills that are started and scheduled until ctx ends; then the one under way is
// aborted, and it returns nil. It returns an error only when the database can no longer be written.
func (r *Runner) Run(ctx context.Context) error {
	r.mu.Lock()
	r.running = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.running = false
		r.mu.Unlock()
		close(r.stopped)
	}()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { r.follow(ctx); return nil })
	group.Go(func() error { return r.appendReports(ctx) })
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case d := <-r.starts:
				group.Go(func() error { return r.conduct(ctx, d) })
			}
		}
	})
	return group.Wait()
}

// Start begins a drill and returns its id, once its faults are in force. The errors are those of
// this package, but for one of the database.
func (r *Runner) Start(ctx context.Context, q Request) (id string, err error) {
	d, err := r.admit(q)
	if err != nil {
		return "", err
	}
	if err := r.healthy(ctx, d.parts); err != nil {
		r.release()
		return "", err
	}
	select {
	case r.starts <- d:
	case <-r.stopped:
		r.release()
		return "", ErrStopped
	case <-ctx.Done():
		r.release()
		return "", ctx.Err()
	}
	if err := <-d.began; err != nil {
		return "", err
	}
	return d.result.ID, nil
}

// admit holds a request against the guard-rails that need no I/O, and takes the one place that
// there is.
func (r *Runner) admit(q Request) (*drill, error) {
	scenario, err := findScenario(q.Scenario)
	if err != nil {
		return nil, err
	}
	if strings.TrimSpace(q.Ticket) == "" || strings.TrimSpace(q.By) == "" {
		return nil, ErrNoTicket
	}
	parts, err := scenario.aim(q.Component, r.cfg.Monitor.Status())
	if err != nil {
		return nil, err
	}
	d := &drill{r: r, request: q, began: make(chan error, 1), ended: make(chan struct{})}
	d.expectations = expectations{
		scenario: scenario, parts: parts, targets: r.cfg.Targets, steady: r.cfg.Steady, log: r.cfg.FallenBack != nil,
		reconcile: r.cfg.Reconciled != nil && slices.ContainsFunc(parts, func(p part) bool { return p.kind == kindRead || p.kind == kindWrite }),
	}
	for _, p := range parts {
		if scenario.slack == nil {
			break
		}
		slack, err := scenario.slack(r, p.name)
		if err != nil {
			return nil, err
		}
		d.slack = max(d.slack, slack)
	}
	if scenario.fork && r.cfg.OpenScratch == nil {
		return nil, fmt.Errorf("%w: there is no place for a log of the drill", ErrUnfit)
	}
	least := d.targets.Detect + d.targets.FallBack + d.slack
	switch {
	case q.For > r.cfg.MaxDuration:
		return nil, fmt.Errorf("%w: %s is more than %s, the most that the configuration allows", ErrLength, q.For, r.cfg.MaxDuration)
	case q.For < least:
		return nil, fmt.Errorf("%w: within %s the targets of %s cannot be met; take at least %s", ErrLength, q.For, scenario.Name, least)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case !r.running:
		return nil, ErrStopped
	case r.busy || r.cfg.Faults.inForce() != nil:
		return nil, ErrBusy
	}
	r.busy = true
	return d, nil
}

// release gives the place back.
func (r *Runner) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.busy, r.active = false, nil
}

// healthy refuses while anything is out of order, or about to be found so.
func (r *Runner) healthy(ctx context.Context, parts []part) error {
	for _, s := range r.cfg.Monitor.Status() {
		switch {
		case s.Force != nil:
			return fmt.Errorf("%w: %s is forced to be %s, whatever it is; release it first", ErrOutage, s.Component, s.State)
		case s.State != outage.Live:
			return fmt.Errorf("%w: %s is %s (%s), which a drill would hide; wait until it is live", ErrOutage, s.Component, s.State, s.Cause.Text)
		}
	}
	for _, p := range parts {
		if err := r.control(ctx, p.name); err != nil {
			return fmt.Errorf("%w: %s does not answer in order just now: %w", ErrOutage, p.name, err)
		}
	}
	return nil
}

// controlTime is what the real upstream has for an answer.
const controlTime = 4 * time.Second

func (r *Runner) control(ctx context.Context, component string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, controlTime)
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("asking it panicked: %v", p)
		}
	}()
	return r.cfg.Control(ctx, component)
}

// Abort ends a drill, or whichever there is for "". It returns when the faults have ended.
func (r *Runner) Abort(id, by string) error {
	r.mu.Lock()
	d := r.active
	r.mu.Unlock()
	if d == nil || id != "" && id != d.result.ID || d.isOver() {
		return fmt.Errorf("%w drill %q: it does not run", ErrUnknown, id)
	}
	d.abort(codeAborted, "aborted by "+by)
	return nil
}

// Active returns the drill under way; nil if there is none.
func (r *Runner) Active() *Active {
	r.mu.Lock()
	d := r.active
	r.mu.Unlock()
	if d == nil {
		return nil
	}
	a := d.now()
	return &a
}

// Affects returns the id of the drill that disturbs a component, or whose end it still has to get
// over; "" if there is none. It asks nobody, so a monitor may call it from anywhere.
func (r *Runner) Affects(component string) string {
	r.mu.Lock()
	d := r.active
	r.mu.Unlock()
	if d == nil || !slices.ContainsFunc(d.parts, func(p part) bool { return p.name == component }) {
		return ""
	}
	return d.result.ID
}

// History returns the newest results, the newest first, up to a limit; 0 is all that are kept.
func (r *Runner) History(limit int) []Result { return r.history.newest(limit) }

// Report returns the report of a drill that has ended; "" is the last one.
func (r *Runner) Report(id string) (markdown, json []byte, err error) {
	res, ok := r.history.find(id)
	if a := r.Active(); !ok && a != nil && a.ID == id {
		return nil, nil, fmt.Errorf("the drill %q has no report yet: it goes on until %s", id, a.Until.UTC().Format(time.RFC3339))
	}
	if !ok {
		return nil, nil, fmt.Errorf("%w drill %q: there is no result of it; see `understudy drill list`", ErrUnknown, id)
	}
	return markdownReport(res), jsonReport(res), nil
}
