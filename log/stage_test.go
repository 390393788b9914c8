package log

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

const testOrigin = "log.test/ours"

// stage is a log in memory that can be stopped, crashed and opened again.
type stage struct {
	t      testing.TB
	disk   *vfs.MemFS
	config Config // but for DB and Newest
	db     *storage.DB
	newest *storage.Newest
	log    *Log
	stop   func() error // ends Run and returns what it does
	ended  func() error // waits for Run to end by itself

	ask  atomic.Pointer[func(errorfs.Op) error] // before every operation of the disk; nil: all succeed
	sick bool                                   // the disk may fail: so may Run and Close
	keys func(entry []byte) []string            // of the search index; nil: there is none
}

func newKey(t testing.TB) (note.Signer, note.Verifier) {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	return signer, verifier
}

func proposalKey(t testing.TB, first byte) *ProposalKey {
	t.Helper()
	secret := make([]byte, ProposalKeySize)
	secret[0] = first
	key, err := NewProposalKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newStage(t testing.TB, change func(*Config)) *stage {
	t.Helper()
	signer, verifier := newKey(t)
	s := &stage{t: t, disk: vfs.NewCrashableMem()}
	s.config = Config{
		Origin: testOrigin, Signers: []note.Signer{signer}, Verifiers: []note.Verifier{verifier}, ProposalKey: proposalKey(t, 0),
		Promise: func(index uint64, at int64, e *Entry) ([]byte, error) {
			return fmt.Appendf(nil, "%d at %d: %s", index, at, e.Body), nil
		},
		BatchWait: time.Millisecond, roundEvery: 1,
	}
	if change != nil {
		change(&s.config)
	}
	t.Cleanup(s.close)
	return s
}

// open opens the database, and the log, which it makes first if create.
func (s *stage) open(create bool) {
	s.t.Helper()
	if err := s.tryOpen(create); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) options() storage.Options {
	return storage.Options{FS: errorfs.Wrap(s.disk, errorfs.InjectorFunc(func(o errorfs.Op) error {
		if ask := s.ask.Load(); ask != nil {
			return (*ask)(o)
		}
		return nil
	})), CacheBytes: 1 << 20, SearchKeys: s.keys}
}

func (s *stage) tryOpen(create bool) error {
	if err := s.openOnly(create); err != nil {
		return err
	}
	s.run()
	return nil
}

// openOnly opens the log and does not run it.
func (s *stage) openOnly(create bool) (err error) {
	o := s.options()
	exists, err := storage.Exists("db", o)
	if err != nil {
		return err
	}
	openDB := storage.Create
	if exists {
		openDB = storage.Open
	}
	if s.db, err = openDB("db", o); err != nil {
		return err
	}
	if s.newest, err = storage.OpenNewest("newest", o); err != nil {
		return err
	}
	c := s.config
	c.DB, c.Newest = s.db, s.newest
	openLog := Open
	if create {
		openLog = Create
	}
	s.log, err = openLog(c)
	return err
}

func (s *stage) run() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	run := s.log.Run
	go func() { ended <- run(ctx) }()
	s.ended = sync.OnceValue(func() error { return <-ended })
	s.stop = func() error {
		cancel()
		return s.ended()
	}
}

// close stops the log cleanly.
func (s *stage) close() {
	s.t.Helper()
	if s.stop != nil {
		if err := s.stop(); err != nil && !s.sick {
			s.t.Errorf("run: %v", err)
		}
		s.stop = nil
	}
	if s.newest != nil {
		if err := s.newest.Close(); err != nil && !s.sick {
			s.t.Error(err)
		}
	}
	if s.db != nil {
		if err := s.db.Close(); err != nil && !s.sick {
			s.t.Error(err)
		}
	}
	s.db, s.newest, s.log = nil, nil, nil
}

// crash leaves what a crash at this moment would: some of what was not synced survives.
func (s *stage) crash(percent int, draw *mathrand.Rand) {
	s.t.Helper()
	s.become(s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: draw}))
}

// become ends everything and goes on with another disk.
func (s *stage) become(disk *vfs.MemFS) {
	s.t.Helper()
	s.close()
	s.disk = disk
	s.sick = false
	s.ask.Store(nil)
}

func (s *stage) fail(ask func(errorfs.Op) error) {
	s.sick = true
	s.ask.Store(&ask)
}

func entryOf(body string) Entry {
	return Entry{Body: []byte(body), Proposed: []byte("proposal of " + body), Identity: "tester"}
}

func (s *stage) append(body string) Receipt {
	s.t.Helper()
	r, err := s.log.Append(context.Background(), entryOf(body))
	if err != nil {
		s.t.Fatal(err)
	}
	s.good(body, r)
	return r
}

// within appends with a time-out.
func (s *stage) within(d time.Duration, body string) (Receipt, error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return s.log.Append(ctx, entryOf(body))
}

// indexOf looks into the tree, also for what is not published.
func (s *stage) indexOf(body string) (index uint64, ok bool, err error) {
	view := s.log.Tree().View()
	defer view.Close()
	return view.Index(storage.LeafHash([]byte(body)))
}

// sound is the oracle.
func (s *stage) sound() {
	s.t.Helper()
	if err := soundness(s.log); err != nil {
		s.t.Error(err)
	}
}

func soundness(l *Log) error {
	report, err := l.Tree().Check(context.Background(), storage.CheckOptions{Verify: l.verify})
	if err != nil || len(report.Problems) > 0 {
		return fmt.Errorf("check: %v %w", report.Problems, err)
	}
	return nil
}

// good verifies all of a receipt.
func (s *stage) good(body string, r Receipt) {
	s.t.Helper()
	if err := s.check(body, r); err != nil {
		s.t.Error(err)
	}
}

func (s *stage) check(body string, r Receipt) error {
	if err := verifyCheckpoint(r.Checkpoint, s.config.Verifiers); err != nil {
		return err
	}
	leaf := storage.LeafHash([]byte(body))
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, r.Index, r.Checkpoint.Size, leaf[:], raw(r.Proof), r.Checkpoint.Root[:]); err != nil {
		return fmt.Errorf("entry %d: %w", r.Index, err)
	}
	if s.config.Promise != nil {
		var index uint64
		var at int64
		if _, err := fmt.Sscanf(string(r.Promise), "%d at %d:", &index, &at); err != nil || index != r.Index || !bytes.HasSuffix(r.Promise, []byte(": "+body)) {
			return fmt.Errorf("entry %d has the promise %q", r.Index, r.Promise)
		}
	}
	return nil
}

// verifyCheckpoint holds the note of a checkpoint against its head.
func verifyCheckpoint(c storage.Checkpoint, verifiers []note.Verifier) error {
	n, err := note.Open(c.Raw, note.VerifierList(verifiers...))
	if err != nil {
		return fmt.Errorf("checkpoint %q: %w", c.Raw, err)
	}
	want := fmt.Sprintf("%s\n%d\n%s\n", testOrigin, c.Size, base64.StdEncoding.EncodeToString(c.Root[:]))
	if n.Text != want {
		return fmt.Errorf("checkpoint %q, want %q", n.Text, want)
	}
	return nil
}

func consistent(a, b storage.Head, hashes []storage.Hash) error {
	return proof.VerifyConsistency(rfc6962.DefaultHasher, a.Size, b.Size, raw(hashes), a.Root[:], b.Root[:])
}

func raw(hashes []storage.Hash) (out [][]byte) {
	for i := range hashes {
		out = append(out, hashes[i][:])
	}
	return out
}

// eventually waits for something that happens on another goroutine.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// witness is one that remembers, as every one does, and fails as it is told.
type witness struct {
	t testing.TB

	mu    sync.Mutex
	do    func(ctx context.Context, c storage.Checkpoint) error // nil: cosign
	head  storage.Head
	asked []storage.Head
}

func (w *witness) will(do func(ctx context.Context, c storage.Checkpoint) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.do = do
}

func (w *witness) times() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// Cosign is what Config.Cosign wants.
func (w *witness) Cosign(ctx context.Context, c storage.Checkpoint, prove func(uint64) ([]storage.Hash, error)) ([]string, error) {
	w.mu.Lock()
	do := w.do
	w.asked = append(w.asked, c.Head)
	w.mu.Unlock()
	if do != nil {
		if err := do(ctx, c); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.Size < w.head.Size {
		w.t.Errorf("a witness is shown size %d after %d", c.Size, w.head.Size)
		return nil, ErrBehind
	}
	hashes, err := prove(w.head.Size)
	if err != nil {
		w.t.Errorf("proof for a witness from %d to %d: %v", w.head.Size, c.Size, err)
		return nil, err
	}
	if w.head.Size > 0 {
		if err := consistent(w.head, c.Head, hashes); err != nil {
			w.t.Errorf("a witness is shown another history: %v", err)
			return nil, err
		}
	}
	w.head = c.Head
	return []string{cosignature}, nil
}

const cosignature = "— witness.test/one AAAAAQAAAAAAAAAA"

var errAsleep = errors.New("the witness does not answer")

// sleep is for will: until the caller gives up.
func sleep(ctx context.Context, _ storage.Checkpoint) error {
	<-ctx.Done()
	return ctx.Err()
}

func refuse(context.Context, storage.Checkpoint) error { return errAsleep }
