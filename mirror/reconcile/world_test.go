package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

const (
	logName       = "rekor"
	publicOrigin  = "rekor.test"
	privateOrigin = "private.test"
)

// errCrash is what everything returns to a process that is dead.
var errCrash = errors.New("the process is dead")

// errGone is what a public log returns that is away.
var errGone = errors.New("connection refused")

// world is all that outlives a Reconciler: the public log, the private one, the monitor, the disk.
type world struct {
	t tb

	mu      sync.Mutex // guards all below
	public  [][]byte   // entries of the public log
	at      map[string]uint64
	count   map[string]int
	shown   int // how many entries the public log shows; -1 is all
	fork    bool
	away    bool
	held    storage.Head // what the mirror has verified
	changed map[uint64]bool
	submit  func(proposal []byte) error // before a proposal takes effect; nil: all are taken
	after   func(proposal []byte) error // after it

	private   [][]byte // proposals; nil: not kept
	logged    []time.Time
	reports   [][]byte
	exception int // that are open
	decisions int
	again     map[uint64]int // by row: how often it was verified again
	outcome   func(seq uint64) Outcome

	monitor *monitor
	disk    *vfs.MemFS
	life    *life
	patch   func(*Config) // of each life

	effects int             // that happened or were to
	crashAt map[string]bool // "7 before" and the like: an effect at which to crash
	writes  int
	crashOn int // write of the disk at which to crash; 0 is none
}

// tb is a *testing.T or a *rapid.T.
type tb interface {
	Helper()
	Cleanup(func())
	Error(args ...any)
	Errorf(format string, args ...any)
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// life is one process.
type life struct {
	w       *world
	dead    atomic.Bool
	db      *storage.DB
	ledger  *ledger.Ledger
	r       *Reconciler
	cancel  context.CancelFunc
	ended   chan error
	stopped bool
	clone   *vfs.MemFS // what the disk is after the crash
}

func newWorld(t tb) *world {
	w := &world{
		t: t, at: map[string]uint64{}, count: map[string]int{}, shown: -1, changed: map[uint64]bool{}, again: map[uint64]int{},
		crashAt: map[string]bool{}, disk: vfs.NewCrashableMem(),
	}
	w.monitor = newMonitor("rekor/read", "rekor/write", "tuf")
	for i := range 10 {
		w.public = append(w.public, fmt.Append(nil, "public ", i))
	}
	w.held = w.headOf(len(w.public))
	t.Cleanup(func() {
		if w.life != nil {
			w.life.stop()
		}
	})
	return w
}

// log logs a proposal privately; nil is one that is not kept.
func (w *world) log(proposals ...[]byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range proposals {
		w.private = append(w.private, p)
		w.logged = append(w.logged, time.Now().Truncate(time.Second))
	}
}

// submitted returns how many proposals the public log has, times how often it has one, and open how many
// exceptions there are.
func (w *world) submitted() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.count)
}

func (w *world) times(proposal string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.count[proposal]
}

func (w *world) open() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.exception
}

func (w *world) headOf(size int) storage.Head {
	return storage.Head{Size: uint64(size), Root: rootOf(leaves(w.public[:size], w.fork))}
}

// leaves are leaf hashes; of a fork the sixth is another.
func leaves(entries [][]byte, fork bool) []storage.Hash {
	out := make([]storage.Hash, len(entries))
	for i, e := range entries {
		out[i] = storage.LeafHash(e)
		if fork && i == 5 {
			out[i] = storage.LeafHash([]byte("another"))
		}
	}
	return out
}

// effect is called around everything that is done outside; do does it.
func (l *life) effect(do func() error) error {
	w := l.w
	if l.dead.Load() {
		return errCrash
	}
	w.mu.Lock()
	w.effects++
	before, after := w.crashAt[fmt.Sprint(w.effects, " before")], w.crashAt[fmt.Sprint(w.effects, " after")]
	w.mu.Unlock()
	if before {
		l.crash()
		return errCrash
	}
	err := do()
	if after {
		l.crash()
		return errCrash
	}
	return err
}

// crash ends a life at once: what it does from now on is never seen.
func (l *life) crash() {
	if l.dead.Swap(true) {
		return
	}
	l.clone = l.w.disk.CrashClone(vfs.CrashCloneCfg{})
	l.cancel()
}

// injected crashes at a write of the disk.
func (l *life) injected(o errorfs.Op) error {
	if o.Kind.ReadOrWrite() == errorfs.OpIsRead || o.Kind == errorfs.OpFileClose || o.Kind == errorfs.OpLock || o.Kind == errorfs.OpFilePreallocate {
		return nil
	}
	l.w.mu.Lock()
	l.w.writes++
	now := l.w.writes == l.w.crashOn
	l.w.mu.Unlock()
	if now && l.cancel != nil {
		l.crash()
	}
	return nil
}

// start begins a life.
func (w *world) start() *life {
	w.t.Helper()
	l := &life{w: w, ended: make(chan error, 1)}
	fs := errorfs.Wrap(w.disk, errorfs.InjectorFunc(l.injected))
	db, err := storage.Open("db", storage.Options{FS: fs, CacheBytes: 1 << 20})
	if errors.Is(err, storage.ErrNotExist) {
		db, err = storage.Create("db", storage.Options{FS: fs, CacheBytes: 1 << 20})
	}
	if err != nil {
		w.t.Fatal(err)
	}
	l.db = db
	if l.ledger, err = ledger.Open(db, nil); err != nil {
		w.t.Fatal(err)
	}
	c := w.config(l)
	if w.patch != nil {
		w.patch(&c)
	}
	if l.r, err = New(c); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l.cancel = cancel
	go func() { l.ended <- l.r.Run(ctx) }()
	w.life = l
	return l
}

// stop ends a life in order.
func (l *life) stop() {
	if l.stopped {
		return
	}
	l.stopped = true
	l.cancel()
	if err := <-l.ended; err != nil && !l.dead.Load() {
		l.w.t.Errorf("run: %v", err)
	}
	if err := l.db.Close(); err != nil && !l.dead.Load() {
		l.w.t.Error(err)
	}
	if l.dead.Load() {
		l.w.disk = l.clone
	}
}

func (w *world) config(l *life) Config {
	return Config{
		DB: l.db, Ledger: l.ledger, Monitor: &mortal{w.monitor, l},
		Upstreams: []Upstream{{
			Name:     logName,
			Heads:    w.heads,
			Refresh:  func(context.Context) error { return l.effect(w.refresh) },
			Prove:    w.prove,
			Evidence: w.evidence,
			Differs:  w.differs,
			Recheck:  func(_ context.Context, _ string, index uint64) error { return w.recheck(index) },
		}},
		Privates: []Private{{
			Name: "v1", Origin: privateOrigin, Upstream: logName, Submit: submitter{l},
			Size: func() uint64 {
				w.mu.Lock()
				defer w.mu.Unlock()
				return uint64(len(w.private))
			},
			Time: func(index uint64) (time.Time, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				return w.logged[index], nil
			},
			Proposal: func(index uint64) ([]byte, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				p := w.private[index]
				if bytes.HasPrefix(p, []byte("unreadable")) {
					return nil, errors.New("another key")
				}
				return p, nil
			},
		}},
		Again: func(_ context.Context, row ledger.Row) (Outcome, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.again[row.Seq]++
			if w.outcome != nil {
				return w.outcome(row.Seq), nil
			}
			return Outcome{Same, ""}, nil
		},
		CloseExceptions: func(string) (n int, err error) {
			return n, l.effect(func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				n, w.exception = w.exception, 0
				return nil
			})
		},
		Sign: func(report []byte) ([]byte, error) {
			return append(bytes.Clone(report), "\nsigned"...), l.effect(func() error { return nil })
		},
		AppendReport: func(_ context.Context, signed []byte) (p Place, err error) {
			return p, l.effect(func() error {
				w.mu.Lock()
				defer w.mu.Unlock()
				for i, known := range w.reports {
					if bytes.Equal(known, signed) {
						p = Place{"reports", uint64(i), ""}
						return nil
					}
				}
				w.reports = append(w.reports, bytes.Clone(signed))
				p = Place{"reports", uint64(len(w.reports) - 1), ""}
				return nil
			})
		},
		PerSecond: 1000,
	}
}

func (w *world) heads() []Head {
	w.mu.Lock()
	defer w.mu.Unlock()
	return []Head{{Origin: publicOrigin, Size: w.held.Size, Root: w.held.Root, Checkpoint: fmt.Append(nil, "checkpoint ", w.held.Size)}}
}

// refresh is what a mirror does.
func (w *world) refresh() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	size := len(w.public)
	if w.shown >= 0 {
		size = w.shown
	}
	switch head := w.headOf(size); {
	case w.away:
		return errGone
	case w.fork:
		return &mirror.ForkError{Evidence: &storage.Evidence{Reason: "two roots", First: []byte("one"), Second: []byte("two")}}
	case head.Size < w.held.Size:
		return &mirror.RollbackError{Size: head.Size, Newest: w.held.Size}
	default:
		w.held = head
		return nil
	}
}

func (w *world) evidence() []Evidence {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.fork || w.away {
		return nil
	}
	return []Evidence{{publicOrigin, "two roots", []byte("one"), []byte("two")}}
}

func (w *world) differs(context.Context, string) (uint64, string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return 5, "another entry", w.fork
}

func (w *world) recheck(index uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.away:
		return errGone
	case w.changed[index]:
		return &mirror.ChangedError{Origin: publicOrigin, Index: index, Held: storage.Hash{0xaa}, Theirs: storage.LeafHash([]byte("theirs")), Body: []byte("theirs")}
	}
	return nil
}

func (w *world) prove(_ context.Context, _ string, first, last uint64) ([]storage.Hash, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return consistency(leaves(w.public[:last], w.fork), first), nil
}

// decide appends rows "decision" about entries of the public log.
func (w *world) decide(indexes ...uint64) {
	w.t.Helper()
	for _, index := range indexes {
		w.decisions++
		body := map[string]any{"id": fmt.Sprint("d", w.decisions), "origin": publicOrigin, "index": index, "rests_on": "mirrored"}
		if _, err := w.life.ledger.Append(ledger.Entry{Kind: "decision", Body: body}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// submitter is the public log as a Submitter.
type submitter struct{ l *life }

func (s submitter) Submit(ctx context.Context, proposal []byte) (r Receipt, err error) {
	w := s.l.w
	w.mu.Lock()
	fail, after, away := w.submit, w.after, w.away
	w.mu.Unlock()
	if away {
		return r, errGone
	}
	if fail != nil {
		if err := fail(proposal); err != nil {
			return r, err
		}
	}
	if bytes.HasPrefix(proposal, []byte("bad")) {
		return r, &RefusedError{400, "no good"}
	}
	err = s.l.effect(func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		at, known := w.at[string(proposal)]
		if !known {
			at = uint64(len(w.public))
			w.at[string(proposal)] = at
			w.public = append(w.public, bytes.Clone(proposal))
			w.count[string(proposal)]++
		}
		r = Receipt{Origin: publicOrigin, LogIndex: at, JSON: []byte("{}"), Extends: true, Duplicate: known}
		return nil
	})
	if err == nil && after != nil {
		err = after(proposal)
	}
	return r, err
}

// outage takes the public log away, and back.
func (w *world) outage(away bool) {
	w.mu.Lock()
	w.away = away
	w.mu.Unlock()
	state := outage.Recovering
	if away {
		state = outage.Fallback
	}
	w.monitor.set(state, "rekor/read", "rekor/write")
}

// await waits for a condition, in the time of a bubble. A life that crashed is followed by another.
func (w *world) await(what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(4 * time.Hour); ; time.Sleep(time.Second) {
		synctest.Wait()
		if w.life.dead.Load() {
			w.life.stop()
			w.start()
			continue
		}
		if is() {
			return
		}
		if time.Now().After(end) {
			status, _ := json.Marshal(w.life.r.Status())
			w.t.Fatalf("never: %s; %s; %+v", what, status, w.monitor.Status())
		}
	}
}

func (w *world) awaitLive() {
	w.t.Helper()
	w.await("live", func() bool {
		s := w.life.r.Status()
		for _, c := range w.monitor.Status() {
			if c.State != outage.Live {
				return false
			}
		}
		return s.Running == nil && len(s.Paused) == 0 && s.BacklogDecisions == 0
	})
}
