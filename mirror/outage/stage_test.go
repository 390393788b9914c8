package outage

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/storage"
)

// upstream is what a probe asks.
type upstream struct {
	mu      sync.Mutex
	mode    string        // good, refuse, hang, or an error's text
	latency time.Duration // of good
	err     error         // what else a probe meets
	change  chan struct{}
	stuck   bool // requests that hang when it comes back stay so
	deaf    bool // probes that hang do not look at their context

	asked, under, most int // probes: begun, under way now, and at once
	row                int // probes that failed, one after the other, and began when the last success had ended
	lastGood           time.Time
	started            []time.Time
}

func (u *upstream) set(mode string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.mode = mode; u.change != nil {
		close(u.change)
	}
	u.change = make(chan struct{})
}

var errRefused = &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}

func (u *upstream) probe(ctx context.Context) error {
	began := time.Now()
	u.mu.Lock()
	u.asked++
	u.under++
	u.most = max(u.most, u.under)
	u.started = append(u.started, began)
	u.mu.Unlock()
	err := u.answer(ctx)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.under--
	switch {
	case err == nil:
		u.row, u.lastGood = 0, time.Now()
	case !began.Before(u.lastGood):
		u.row++
	}
	return err
}

func (u *upstream) answer(ctx context.Context) error {
	end := time.After(0)
	for first := true; ; first = false {
		u.mu.Lock()
		mode, change, stuck, deaf := u.mode, u.change, u.stuck, u.deaf
		if first {
			end = time.After(u.latency)
		}
		err := u.err
		u.mu.Unlock()
		done := ctx.Done()
		if deaf {
			done = nil
		}
		switch mode {
		case "good":
			if !first && stuck {
				change, end = nil, nil
			}
			select {
			case <-end:
				return nil
			case <-change:
			case <-done:
				return ctx.Err()
			}
		case "hang":
			select {
			case <-change:
			case <-done:
				return ctx.Err()
			}
		case "refuse":
			return errRefused
		case "error":
			return err
		default:
			return errors.New(mode)
		}
	}
}

// stage is a monitor with its database, in a bubble.
type stage struct {
	t       *testing.T
	disk    vfs.FS
	db      *storage.DB
	ledger  *ledger.Ledger
	cfg     Config
	m       *Monitor
	mu      sync.Mutex
	changes []Change
	when    []time.Time
	stop    func() error // of Run
	close   func()       // of db
}

func newStage(t *testing.T, disk vfs.FS, cfg Config) *stage {
	t.Helper()
	s := &stage{t: t, disk: disk, cfg: cfg}
	db, err := storage.Open("db", storage.Options{FS: disk})
	if errors.Is(err, storage.ErrNotExist) {
		db, err = storage.Create("db", storage.Options{FS: disk})
	}
	if err != nil {
		t.Fatal(err)
	}
	s.db = db
	s.close = sync.OnceFunc(func() { db.Close() })
	t.Cleanup(s.close)
	if s.ledger, err = ledger.Open(db, cfg.Now); err != nil {
		t.Fatal(err)
	}
	s.cfg.DB, s.cfg.Ledger = db, s.ledger
	also := cfg.Changed
	s.cfg.Changed = func(c Change) {
		s.mu.Lock()
		s.changes = append(s.changes, c)
		s.when = append(s.when, time.Now())
		s.mu.Unlock()
		// It counts already, and is in the ledger.
		if got := s.m; got != nil && got.State(c.Component) != c.To {
			t.Errorf("told of %s, and it is %s", c.To, got.State(c.Component))
		}
		if rows, _ := s.ledger.Head(); rows < c.Seq || c.Seq == 0 {
			t.Errorf("told of row %d of %d", c.Seq, rows)
		}
		if also != nil {
			also(c)
		}
	}
	if s.m, err = New(s.cfg); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs the monitor until the test or the returned function ends it.
func (s *stage) run() *stage {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	go func() { done <- s.m.Run(ctx) }()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	s.t.Cleanup(func() {
		if err := s.stop(); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	return s
}

// until waits for a state, and says how long that took; at most so long.
func (s *stage) until(component string, state State, most time.Duration) time.Duration {
	s.t.Helper()
	began := time.Now()
	for {
		synctest.Wait()
		changed := s.m.Changes()
		if s.m.State(component) == state {
			return time.Since(began)
		}
		select {
		case <-changed:
		case <-time.After(time.Until(began.Add(most))):
			s.t.Fatalf("%s is not %s after %s but %+v", component, state, most, s.m.Status())
		}
	}
}

// told is what Changed was told.
func (s *stage) told() []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Change(nil), s.changes...)
}

// check holds State and Status against the rows of the ledger.
func (s *stage) check() {
	s.t.Helper()
	if problem := s.differs(s.ledger); problem != "" {
		s.t.Error(problem)
	}
}

// folded is what the rows say of a component.
type folded struct {
	counts, under State
	forced        bool
	cause         Cause
}

func fromRows(l *ledger.Ledger) (map[string]folded, error) {
	all := map[string]folded{}
	err := l.Rows(1, func(row ledger.Row) error {
		switch row.Kind {
		case rowState:
			var c Change
			if err := row.Decode(&c); err != nil {
				return err
			}
			f := all[c.Component]
			if f.counts == "" {
				f.counts, f.under = Live, Live
			}
			if !c.Hidden {
				if c.From != f.counts {
					return fmt.Errorf("row %d goes from %s, and it was %s", row.Seq, c.From, f.counts)
				}
				f.counts, f.cause = c.To, c.Cause
			}
			if !c.Forced {
				f.under = c.To
			}
			all[c.Component] = f
		case rowForce, rowForceEnd:
			var c struct{ Component string }
			if err := row.Decode(&c); err != nil {
				return err
			}
			f := all[c.Component]
			if f.counts == "" {
				f.counts, f.under = Live, Live
			}
			f.forced = row.Kind == rowForce
			all[c.Component] = f
		}
		return nil
	})
	return all, err
}

func (s *stage) differs(l *ledger.Ledger) string {
	rows, err := fromRows(l)
	if err != nil {
		return err.Error()
	}
	for _, status := range s.m.Status() {
		f := rows[status.Component]
		if f.counts == "" {
			f.counts, f.under = Live, Live
		}
		if status.State != f.counts || status.Underlying != f.under || (status.Force != nil) != f.forced || status.Cause != f.cause || s.m.State(status.Component) != f.counts {
			return fmt.Sprintf("by the rows %+v, by the status %+v", f, status)
		}
	}
	return ""
}

const rekorRead = "rekor/read"

func read(u *upstream) []Component {
	return []Component{{Name: rekorRead, Kind: "read", Probe: u.probe, Reconciles: true}}
}
