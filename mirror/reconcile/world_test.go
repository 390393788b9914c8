package reconcile

import (
	"bytes"
	"context"
	"crypto/sha256"
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
		return &ChangedError{Held: "aa", Theirs: "bb", Answer: []byte("theirs")}
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

// monitor is an outage.Monitor that a test moves.
type monitor struct {
	mu       sync.Mutex
	statuses []outage.Status
	changes  chan struct{}
}

func newMonitor(components ...string) *monitor {
	m := &monitor{changes: make(chan struct{})}
	for _, c := range components {
		m.statuses = append(m.statuses, outage.Status{Component: c, State: outage.Live, Since: time.Now()})
	}
	return m
}

func (m *monitor) Status() []outage.Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]outage.Status(nil), m.statuses...)
}

func (m *monitor) Changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changes
}

func (m *monitor) set(state outage.State, components ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.statuses {
		s := &m.statuses[i]
		for _, c := range components {
			if s.Component == c && s.State != state && s.State != outage.Quarantined {
				s.State, s.Since, s.Cause = state, time.Now(), outage.Cause{Code: "TEST", Text: "a test"}
			}
		}
	}
	close(m.changes)
	m.changes = make(chan struct{})
}

// release is an operator's.
func (m *monitor) release(components ...string) {
	m.mu.Lock()
	for i := range m.statuses {
		if m.statuses[i].State == outage.Quarantined {
			m.statuses[i].State, m.statuses[i].Since = outage.Recovering, time.Now()
		}
	}
	m.mu.Unlock()
	m.set(outage.Recovering, components...)
}

func (m *monitor) state(component string) outage.State {
	for _, s := range m.Status() {
		if s.Component == component {
			return s.State
		}
	}
	return ""
}

// mortal is the monitor as a life sees it.
type mortal struct {
	*monitor
	l *life
}

func (m *mortal) Reconciled(component string) error {
	return m.l.effect(func() error {
		if m.state(component) != outage.Recovering {
			return errors.New("it is not recovering")
		}
		m.set(outage.Live, component)
		return nil
	})
}

func (m *mortal) Quarantine(component string, c outage.Cause) error {
	return m.l.effect(func() error {
		m.set(outage.Quarantined, component)
		m.mu.Lock()
		defer m.mu.Unlock()
		for i := range m.statuses {
			if m.statuses[i].Component == component {
				m.statuses[i].Cause = c
			}
		}
		return nil
	})
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

// rows returns all rows of an event.
func (w *world) rows(event string) []row {
	w.t.Helper()
	var out []row
	if err := w.life.ledger.Rows(1, func(r ledger.Row) error {
		var body row
		if r.Kind != "reconcile" {
			return nil
		}
		if err := r.Decode(&body); err != nil {
			return err
		}
		if body.Event == event {
			out = append(out, body)
		}
		return nil
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

// documents returns all reports.
func (w *world) documents() []*Document {
	w.t.Helper()
	reports, err := w.life.r.Reports(time.Time{}, time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	var out []*Document
	for _, p := range reports {
		d := new(Document)
		if err := json.Unmarshal(p.JSON, d); err != nil {
			w.t.Fatal(err)
		}
		if len(p.Markdown) == 0 || p.Place == nil {
			w.t.Errorf("report %s has the place %v and %d bytes for people: %s", p.ID, p.Place, len(p.Markdown), p.Problem)
		}
		out = append(out, d)
	}
	return out
}

// sound holds that nothing was lost and nothing done twice, once all is live.
func (w *world) sound() {
	w.t.Helper()
	if _, err := ledger.Check(w.life.db); err != nil {
		w.t.Error(err)
	}
	w.decisions = 0 // but for those that a crash was faster than
	if err := w.life.ledger.Rows(1, func(r ledger.Row) error {
		if r.Kind == "decision" {
			w.decisions++
		}
		return nil
	}); err != nil {
		w.t.Error(err)
	}
	kept, unkept, bad := 0, 0, 0
	for i, p := range w.private {
		receipt, err := w.life.r.Proof(privateOrigin, uint64(i))
		if err != nil {
			w.t.Fatal(err)
		}
		switch {
		case p == nil:
			unkept++
		case bytes.HasPrefix(p, []byte("bad")):
			bad++
		default:
			kept++
			if w.count[string(p)] != 1 || receipt == nil || receipt.LogIndex != w.at[string(p)] {
				w.t.Errorf("entry %d is %d times in the public log, at %d; its proof is %+v", i, w.count[string(p)], w.at[string(p)], receipt)
			}
		}
	}
	looked, submitted, refused, notKept, decisions := 0, 0, 0, 0, 0
	for _, d := range w.documents() {
		decisions += d.Decisions.Total
		if t := d.Decisions; t.Total != t.Same+t.Differs+t.NotKept {
			w.t.Errorf("decisions do not add up: %+v", t)
		}
		for _, p := range d.Proposals {
			if p.Total != p.Submitted+p.Refused+p.NotKept+p.Unreadable+p.Failed || p.Total != int(p.Next-p.First)+p.Again {
				w.t.Errorf("proposals do not add up: %+v", p)
			}
			looked += p.Total - p.Again
			submitted, refused, notKept = submitted+p.Submitted, refused+p.Refused, notKept+p.NotKept
		}
	}
	if looked != len(w.private) || submitted != kept || refused != bad || notKept != unkept {
		w.t.Errorf("of %d entries, %d kept, %d bad, %d not kept, the reports have looked at %d, submitted %d, refused %d, not kept %d", len(w.private), kept, bad, unkept, looked, submitted, refused, notKept)
	}
	recorded := 0
	for _, r := range w.rows("decisions") {
		recorded += r.Reconcile
	}
	if decisions != w.decisions || recorded != w.decisions {
		w.t.Errorf("of %d decisions %d stand in reports and %d in rows", w.decisions, decisions, recorded)
	}
}

// rootOf and consistency are RFC 6962, sections 2.1 and 2.1.2, as they stand there.
func rootOf(d []storage.Hash) storage.Hash {
	switch len(d) {
	case 0:
		return sha256.Sum256(nil)
	case 1:
		return d[0]
	}
	k := split(len(d))
	return storage.NodeHash(rootOf(d[:k]), rootOf(d[k:]))
}

func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func consistency(d []storage.Hash, m uint64) []storage.Hash { return subproof(int(m), d, true) }

func subproof(m int, d []storage.Hash, whole bool) []storage.Hash {
	if m == len(d) {
		if whole {
			return nil
		}
		return []storage.Hash{rootOf(d)}
	}
	if k := split(len(d)); m <= k {
		return append(subproof(m, d[:k], whole), rootOf(d[k:]))
	} else {
		return append(subproof(m-k, d[k:], false), rootOf(d[:k]))
	}
}
