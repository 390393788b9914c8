// Package mirror follows upstream transparency logs: it copies them into a
// [storage.Tree], verifies everything, and answers from what is held.
//
// A [Mirror] follows one log. It polls the checkpoint, opens it with the log's keys,
// proves that it extends the newest one held, makes it pending, and copies entries in
// chunks; each chunk is committed together with the proof that the tree so far precedes
// the pending checkpoint, so that a mirror that is hours behind proves what it holds.
// What the package promises (the laws of the design):
//
//   - nothing is stored or served before it was verified down to a signature;
//   - a served tree only grows; two irreconcilable signed checkpoints are kept as
//     evidence and quarantine that log, and nothing else does;
//   - whatever else upstream does is tried again, at most 15 s later (Retry-After
//     excepted), within a budget of requests;
//   - "not found" is said only when it is known; see [Refusal].
//
// An upstream is any C2SP tlog-tiles log (https://c2sp.org/tlog-tiles); a Rekor v2 shard
// is one.
package mirror

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// Defaults of Config.
const (
	DefaultPoll              = 5 * time.Second
	DefaultRequestsPerSecond = 20
	DefaultStaleAfter        = 24 * time.Hour
)

// maxBackoff is the longest wait before upstream is tried again, unless it asked for
// more with Retry-After.
const maxBackoff = 15 * time.Second

// Config says which log to follow, and how.
type Config struct {
	// Name is the operator's name for the log, used in the daemon's log, the status and
	// the metrics.
	Name string
	// Origin is the first line of the log's checkpoints.
	Origin string
	// URL is the prefix of the upstream's tlog-tiles API.
	URL string
	// Copies are the prefixes of other places that have the log, such as other
	// Understudies. History is fetched from them first, and everything while upstream is
	// away. They are not trusted.
	Copies []string
	// Tree is where the log is kept.
	Tree *storage.Tree
	// Newest remembers what was believed, apart from Tree; nil remembers nothing. Whoever signs
	// for an origin must refuse while Behind.
	Newest *storage.Newest

	// MinimumIndex, a multiple of 256, is where a copy that has yet to begin begins; or
	// LastEntries makes it about so many entries before the end of the log. Both 0: at the
	// first entry.
	MinimumIndex, LastEntries uint64
	// HistoryTo is the index, a multiple of 256, down to which a copy that began later then
	// grows backwards; NoHistory: it does not.
	HistoryTo uint64

	Poll              time.Duration // between two polls; 0 is DefaultPoll
	RequestsPerSecond float64       // budget for upstream; 0 is DefaultRequestsPerSecond
	StaleAfter        time.Duration // age at which answers are stale; 0 is DefaultStaleAfter
	Contact           string        // put into the User-Agent, so that upstream can reach the operator
	HTTPClient        *http.Client  // nil is NewClient(nil)
	// Polled is told what became of each look at upstream's checkpoint, and Started when that began. It
	// must return at once; nil: nobody is told.
	Polled  func(started time.Time, err error)
	Logger  *slog.Logger // nil discards
	Metrics *Metrics     // nil counts nothing
}

// Mirror follows one log and answers from its copy. It answers from the moment it is made;
// it follows while Run runs. Its methods may be called concurrently, Run only once.
type Mirror struct {
	cfg    Config
	tree   *storage.Tree
	places []*place // upstream is the first
	shard  *shard   // of a Rekor v1 service; nil for other logs
	logger *slog.Logger

	// Owned by follow.
	keys     []trust.Key
	surveyed bool
	tail     *place // that is read
	ahead    *ahead
	proof    *upstreamTree // of the pending checkpoint; nil until needed
	pulled   atomic.Uint64 // size of the largest checkpoint that upstream served since the start

	pushed atomic.Uint64          // size of the newest checkpoint that was pushed
	bytes  atomic.Pointer[[]byte] // the last good checkpoint of upstream, as upstream served it

	tailBusy atomic.Bool   // the tail is being copied; history waits
	due      chan struct{} // has a token when upstream is to be polled at once

	mu       sync.Mutex // guards the fields below; never held during I/O
	liveness liveness
	problem  *Problem
	progress progress
	frozen   bool
	// lastScrub is when all that is stored had been read again.
	lastScrub *time.Time
	backward  struct {
		problem  *Problem
		progress progress
	}
}

// New returns the mirror of a log. It does no I/O.
func New(cfg Config) (*Mirror, error) {
	m, err := newMirror(cfg)
	if err != nil {
		return nil, err
	}
	if m.places, err = newPlaces(m.cfg, m.answered); err != nil {
		return nil, err
	}
	m.begun()
	return m, nil
}

// newMirror returns a mirror that has no places yet.
func newMirror(cfg Config) (*Mirror, error) {
	if cfg.Tree.Origin() != cfg.Origin {
		return nil, fmt.Errorf("tree of %q given for the log %q", cfg.Tree.Origin(), cfg.Origin)
	}
	if cfg.Poll <= 0 {
		cfg.Poll = DefaultPoll
	}
	if cfg.RequestsPerSecond <= 0 {
		cfg.RequestsPerSecond = DefaultRequestsPerSecond
	}
	if cfg.StaleAfter <= 0 {
		cfg.StaleAfter = DefaultStaleAfter
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Tree.Remember(cfg.Newest)
	return &Mirror{cfg: cfg, tree: cfg.Tree, logger: cfg.Logger.With("log", cfg.Name), due: make(chan struct{}, 1)}, nil
}

// begun ends the making of a mirror.
func (m *Mirror) begun() {
	m.read(m.places[0])
	m.frozen = trust.Frozen(m.tree.State().Pending.Raw)
	m.cfg.Metrics.watch(m)
}

// Origin returns the first line of the log's checkpoints.
func (m *Mirror) Origin() string { return m.cfg.Origin }

// Name returns the operator's name for the log.
func (m *Mirror) Name() string { return m.cfg.Name }

// Tree returns where the log is kept.
func (m *Mirror) Tree() *storage.Tree { return m.tree }

// Run follows the log until ctx ends; then it returns nil. A checkpoint is good if one of
// keys, which are the log's, signed it. It returns an error only when the tree can no
// longer be read or written.
func (m *Mirror) Run(ctx context.Context, keys []trust.Key) error {
	m.keys = keys
	m.keyed()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.follow(ctx) })
	group.Go(func() error { return m.history(ctx) })
	group.Go(func() error { return m.scrub(ctx) })
	group.Go(func() error { return m.mend(ctx) })
	group.Go(func() error { return m.index(ctx) })
	if err := group.Wait(); err != nil {
		return fmt.Errorf("mirror %s: %w", m.cfg.Name, err)
	}
	return nil
}

// follow keeps the end of the copy at the end of the log.
func (m *Mirror) follow(ctx context.Context) error {
	defer func() { m.ahead.reset() }()
	if err := m.recall(); err != nil {
		return err
	}
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = min(500*time.Millisecond, m.cfg.Poll), maxBackoff
	for ctx.Err() == nil {
		if m.tree.State().Evidence != nil {
			<-ctx.Done() // quarantined: the last good state stays served
			return nil
		}
		held := m.tree.State().Head.Size
		err := m.round(ctx)
		if ctx.Err() != nil {
			return nil
		}
		m.note(err)
		if ends(err) {
			return err
		}
		if err == nil || m.tree.State().Head.Size > held {
			wait.Reset()
		}
		next := jitter(m.cfg.Poll)
		if err != nil {
			m.ahead.reset()
			next = max(min(wait.NextBackOff(), maxBackoff), retryAfter(err))
		}
		waitFor(ctx, m.due, next, retryAfter(err))
	}
	return nil
}

// Poll has Run look at upstream's checkpoint now, and not when that is due: upstream is back.
func (m *Mirror) Poll() { ask(m.due) }

func ask(due chan<- struct{}) {
	select {
	case due <- struct{}{}:
	default: // it is asked for already
	}
}

// waitFor waits until a time is over, or it is asked for, but as long as upstream has asked to wait.
func waitFor(ctx context.Context, due <-chan struct{}, d, least time.Duration) {
	if least > 0 && !pause(ctx, least) {
		return
	}
	select {
	case <-ctx.Done():
	case <-due:
	case <-time.After(d - least):
	}
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// round polls once and copies until all of the pending checkpoint is held, polling again
// when that is due. While upstream is away, or went back, what copies have is taken; the error
// is still upstream's.
func (m *Mirror) round(ctx context.Context) error {
	defer m.tailBusy.Store(false)
	for {
		polled := time.Now()
		away := m.poll(ctx)
		if !m.surveyed {
			m.surveyed = true
			if err := m.survey(ctx); err != nil {
				return err
			}
		}
		if away != nil {
			if !gone(away) && !errors.As(away, new(*RollbackError)) {
				return away
			}
			if found, err := m.pollCopies(ctx); err != nil {
				return err
			} else if !found {
				return away
			}
		}
		for left := m.copyTime(away); time.Since(polled) < left; {
			s := m.tree.State()
			if s.Head.Size > 0 && s.Head.Size == s.Pending.Size {
				return away
			}
			done, err := m.copyOn(ctx, s)
			var broken *storageError
			switch {
			case err != nil && away == nil && s.Pending.Size == m.pushed.Load() && s.Pending.Size > m.pulled.Load() && missing(err):
				m.ahead.reset()
				return nil // it was pushed, and is not published yet
			case err != nil && (away == nil || errors.As(err, &broken)):
				return err
			case err != nil:
				m.setAside(m.tail, err)
				return away
			case done:
				return away
			}
		}
	}
}

// copyTime is how long is copied before upstream is polled again.
func (m *Mirror) copyTime(away error) time.Duration {
	if away != nil {
		return maxBackoff
	}
	return m.cfg.Poll
}

// copyOn begins the copy, or copies its next entries; done says that there are none.
func (m *Mirror) copyOn(ctx context.Context, s *storage.State) (done bool, err error) {
	if err := m.begin(ctx, s); err != nil {
		return false, err
	}
	s = m.tree.State()
	if s.Head.Size == s.Pending.Size {
		return true, nil
	}
	m.tailBusy.Store(true)
	return false, m.copyChunk(ctx, s)
}

// read makes a place the one that the tail is read from.
func (m *Mirror) read(p *place) {
	if m.tail == p {
		return
	}
	if m.ahead != nil {
		m.ahead.reset()
	}
	m.tail, m.ahead = p, newAhead(p.tiles, newFlight(parallel, aheadBytes))
}

// storageError marks an error of the tree: trying again will not help.
type storageError struct{ error }

func (e *storageError) Unwrap() error { return e.error }
