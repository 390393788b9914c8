package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

const (
	origin = "log.example/mirror-test"
	poll   = 5 * time.Second
)

// stage is an upstream, a mirror of it, and the disk under the mirror. It lives in a
// synctest bubble.
type stage struct {
	t       *testing.T
	log     *synthetic.Log
	disk    *vfs.MemFS
	between vfs.FS // disk, unless something is in between
	db      *storage.DB
	mirror  *mirror.Mirror
	key     trust.Key
	stop    func()
	config  func(*mirror.Config)

	mu     sync.Mutex              // guards copies
	copies map[string]http.Handler // by host
}

// host lets a handler answer for a host, or upstream for a nil one.
func (s *stage) host(name string, h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.copies == nil {
		s.copies = map[string]http.Handler{}
	}
	s.copies[name] = h
}

// ServeHTTP is the network of the stage: upstream, and copies of it on hosts of their own.
func (s *stage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	h := s.copies[r.Host]
	s.mu.Unlock()
	if h != nil {
		h.ServeHTTP(w, r)
		return
	}
	s.log.ServeHTTP(w, r)
}

func newStage(t *testing.T, o synthetic.Options) *stage {
	o.Origin = origin
	if o.Entries == nil {
		o.Entries = synthetic.Tiny(1)
	}
	return &stage{t: t, log: synthetic.New(o), disk: vfs.NewMem()}
}

// start opens the disk and makes the mirror; run lets it follow.
func (s *stage) start() *stage {
	s.t.Helper()
	options := storage.Options{FS: s.disk, CacheBytes: 4 << 20}
	if s.between != nil {
		options.FS = s.between
	}
	held, err := storage.Exists("db", options)
	check(s.t, err)
	var tree *storage.Tree
	if held {
		s.db, err = storage.Open("db", options)
		check(s.t, err)
		tree, err = s.db.OpenTree(origin)
	} else {
		s.db, err = storage.Create("db", options)
		check(s.t, err)
		tree, err = s.db.CreateTree(origin)
	}
	check(s.t, err)
	s.key, err = trust.ParseKey([]byte(s.log.Key.Verifier()))
	check(s.t, err)
	client, closeClient := synthetic.InMemory(s)
	cfg := mirror.Config{
		Name: "test", Origin: origin, URL: "http://upstream.example", Tree: tree,
		Poll: poll, RequestsPerSecond: 1e6, HTTPClient: client,
	}
	if s.config != nil {
		s.config(&cfg)
	}
	s.mirror, err = mirror.New(cfg)
	check(s.t, err)
	s.stop = closeClient
	db := s.db
	s.t.Cleanup(func() { // after a failure; inside the bubble
		if s.db == db {
			s.stop()
			_ = db.Close()
		}
	})
	return s
}

// run follows the log until stop is called.
func (s *stage) run() *stage {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.mirror.Run(ctx, []trust.Key{s.key}); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	closeClient := s.stop
	s.stop = func() { cancel(); wg.Wait(); closeClient() }
	return s
}

// settle lets d of fake time pass, and then whatever is under way finish.
func (s *stage) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// close stops the mirror and checks what it left on its disk.
func (s *stage) close() {
	s.t.Helper()
	if s.t.Failed() {
		return
	}
	s.stop()
	s.check()
	check(s.t, s.db.Close())
	s.db = nil
}

func (s *stage) check() {
	s.t.Helper()
	tree := s.mirror.Tree()
	report, err := tree.Check(s.t.Context(), storage.CheckOptions{Verify: func(raw []byte) error {
		_, err := trust.Open(raw, origin, []trust.Key{s.key})
		return err
	}})
	check(s.t, err)
	for _, p := range report.Problems {
		s.t.Errorf("check: %v", &p)
	}
}

func (s *stage) wantHeld(size uint64) {
	s.t.Helper()
	state := s.mirror.Tree().State()
	if state.Head.Size != size || state.Head.Root != storage.Hash(s.log.Root(size)) {
		s.t.Fatalf("holds %d entries, want %d; problem: %+v", state.Head.Size, size, s.mirror.Status().Problem)
	}
}

func (s *stage) prove(index, size uint64) {
	s.t.Helper()
	p, head, _, err := s.mirror.InclusionProof(mirror.Ref{Index: index}, size)
	check(s.t, err)
	if want := storage.LeafHash(s.log.Entries(index)); p.LeafHash != want {
		s.t.Fatalf("entry %d has the leaf hash %v, want %v", index, p.LeafHash, want)
	}
	hashes := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		hashes[i] = p.Hashes[i][:]
	}
	root := s.log.Root(head.Size)
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.Size, p.LeafHash[:], hashes, root[:]); err != nil {
		s.t.Fatalf("inclusion of %d in %d: %v", index, head.Size, err)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantRefusal(t *testing.T, err error, kind mirror.Kind, reason string) {
	t.Helper()
	var r *mirror.Refusal
	if !errors.As(err, &r) || r.Kind != kind || r.Reason != reason {
		t.Fatalf("got %v (%+v), want a refusal of kind %d with %s", err, r, kind, reason)
	}
}

func TestFollow(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		defer s.close()
		for _, size := range []uint64{0, 1, 255, 256, 257, 300, 5000, 5001, 70000} {
			s.log.Grow(size)
			s.settle(2 * poll)
			s.wantHeld(size)
			for i := uint64(0); i < size; i += 1 + size/50 {
				s.prove(i, 0)
			}
		}
		if f := s.mirror.Freshness(); f.Source != mirror.SourceLive || f.UpstreamState != mirror.UpstreamLive || f.CheckpointAge > 2*poll {
			t.Errorf("freshness %+v", f)
		}
	})
}

func TestResumeFetchesNothingTwice(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		s.log.Grow(10 * 4096)
		// Bundles from 100 on are missing: what comes before is committed and served.
		s.log.Misbehave(synthetic.On(synthetic.Bundle, from(100, synthetic.Status(503))))
		s.settle(time.Minute)
		s.wantHeld(100 * 256)
		state := s.mirror.Tree().State()
		if state.Pending.Size != 10*4096 || state.Mirrored.Size != 0 {
			t.Fatalf("pending %d, mirrored %d", state.Pending.Size, state.Mirrored.Size)
		}
		s.prove(7, 0) // to the signed checkpoint that is far ahead
		s.prove(100*256-1, 0)
		if p := s.mirror.Status().Problem; p == nil || p.Reason != mirror.ProblemRefused {
			t.Errorf("problem %+v", p)
		}
		s.close()

		s.log.Misbehave()
		s.log.Forget()
		s.start()
		s.prove(7, 0) // before upstream was asked anything
		if n := len(s.log.Requests(^synthetic.Kind(0))); n != 0 {
			t.Fatalf("%d requests before Run", n)
		}
		s.run()
		s.settle(2 * poll)
		s.wantHeld(10 * 4096)
		seen := map[string]bool{}
		for _, r := range s.log.Requests(synthetic.Bundle) {
			if seen[r.Path] {
				t.Errorf("%s was fetched twice", r.Path)
			}
			seen[r.Path] = true
		}
		if len(seen) != 60 {
			t.Errorf("%d bundles were fetched after the restart, want 60", len(seen))
		}
		s.close()
	})
}

// TestSlowBundle: what comes before a bundle that does not arrive is held and proven soon,
// and not only when that is given up.
func TestSlowBundle(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		s.log.Misbehave(synthetic.On(synthetic.Bundle, from(10, synthetic.Hang())))
		s.log.Grow(5000)
		s.settle(2 * poll)
		s.wantHeld(10 * 256)
		s.prove(10*256-1, 0)
		s.log.Misbehave()
		s.settle(time.Minute)
		s.wantHeld(5000)
		s.close()
	})
}

// from limits a fault to bundles from an index on.
func from(bundle int, f synthetic.Fault) synthetic.Fault {
	return func(q synthetic.Request, a *synthetic.Answer) {
		var n int
		if _, err := fmt.Sscanf(q.Path, "/tile/entries/%03d", &n); err == nil && n >= bundle {
			f(q, a)
		}
	}
}

// TestNotFoundIsKnown is law 5: "I do not know" is not "no".
func TestNotFoundIsKnown(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start()
		absent := storage.LeafHash([]byte("absent"))
		ask := func(kind mirror.Kind, reason string) {
			t.Helper()
			_, _, err := s.mirror.Entry(mirror.Ref{Index: 5000})
			wantRefusal(t, err, kind, reason)
			_, _, err = s.mirror.Entry(mirror.Ref{LeafHash: &absent})
			wantRefusal(t, err, kind, reason)
			_, _, _, err = s.mirror.InclusionProof(mirror.Ref{Index: 5000}, 0)
			wantRefusal(t, err, kind, reason)
			_, _, err = s.mirror.Checkpoint(5001)
			wantRefusal(t, err, kind, reason)
		}
		ask(mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		s.run()
		s.log.Grow(1000)
		s.settle(2 * poll)
		ask(mirror.NotFound, mirror.ReasonNotFound)

		// The first failure ends it.
		s.log.Misbehave(synthetic.Reset())
		s.settle(poll + poll/5)
		ask(mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		if f := s.mirror.Freshness(); f.Source != mirror.SourceMirrored || f.UpstreamState != mirror.UpstreamUnreachable {
			t.Errorf("freshness %+v", f)
		}
		s.settle(mirror.DefaultStaleAfter)
		if f := s.mirror.Freshness(); f.Source != mirror.SourceStale || f.CheckpointAge < mirror.DefaultStaleAfter {
			t.Errorf("freshness %+v", f)
		}
		s.prove(999, 0)
		s.log.Misbehave()
		s.settle(20 * time.Second)
		ask(mirror.NotFound, mirror.ReasonNotFound)

		// Known to exist, not held: never "not found".
		s.log.Grow(6000)
		s.log.Misbehave(synthetic.On(synthetic.Bundle, synthetic.Hang()))
		s.settle(poll + poll/5)
		ask(mirror.Unavailable, mirror.ReasonNotYetMirrored)
		s.close()

		// After a restart nothing is live until upstream has answered.
		s.start()
		ask(mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		s.close()
	})
}

func TestHangingPollIsNotLive(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		defer s.close()
		s.log.Grow(10)
		s.settle(2 * poll)
		s.log.Misbehave(synthetic.Hang())
		s.settle(2*poll + poll/4)
		if f := s.mirror.Freshness(); f.Source == mirror.SourceLive {
			t.Errorf("live after two polls without an answer: %+v", f)
		}
	})
}

func TestRetryAfterIsObeyed(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		defer s.close()
		s.log.Grow(10)
		s.log.Misbehave(synthetic.Throttle(120 * time.Second))
		s.settle(2 * poll)
		s.log.Misbehave()
		s.log.Forget()
		s.settle(80 * time.Second)
		if n := len(s.log.Requests(^synthetic.Kind(0))); n != 0 {
			t.Errorf("%d requests while told to wait", n)
		}
		s.settle(time.Minute)
		s.wantHeld(10)
	})
}

// Poll brings the next look forward, and every look is told of; but nobody who asked to wait is asked.
func TestPoll(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		var mu sync.Mutex
		var told []error
		s.config = func(c *mirror.Config) {
			c.Poll = time.Hour
			c.Polled = func(started time.Time, err error) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, err)
			}
		}
		s.start().run()
		defer s.close()
		s.log.Grow(10)
		s.settle(2 * time.Hour)
		s.wantHeld(10)
		s.log.Grow(20)
		s.mirror.Poll()
		s.settle(time.Second)
		s.wantHeld(20)
		mu.Lock()
		n := len(told)
		mu.Unlock()
		s.log.Misbehave(synthetic.Throttle(120 * time.Second))
		s.mirror.Poll()
		s.settle(time.Second)
		mu.Lock()
		if len(told) != n+1 || told[n] == nil || mirror.ProblemOf(told[n]) != mirror.ProblemRefused {
			t.Errorf("told of %v", told[n:])
		}
		mu.Unlock()
		s.log.Misbehave()
		s.log.Forget()
		s.mirror.Poll()
		s.settle(110 * time.Second)
		if n := len(s.log.Requests(^synthetic.Kind(0))); n != 0 {
			t.Errorf("%d requests while told to wait", n)
		}
		s.settle(20 * time.Second)
		if n := len(s.log.Requests(^synthetic.Kind(0))); n == 0 {
			t.Error("no request when the wait was over")
		}
		if s.mirror.Freshness().Source != mirror.SourceLive {
			t.Fatal("not live")
		}
		s.mirror.Unreachable()
		if s.mirror.Freshness().Source == mirror.SourceLive {
			t.Error("live, and told that it is not")
		}
	})
}

func TestRequestBudget(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.config = func(c *mirror.Config) { c.RequestsPerSecond = 20 }
		s.start().run()
		defer s.close()
		s.log.Grow(256 * 1000)
		s.settle(2 * poll)
		s.log.Forget()
		s.settle(10 * time.Second)
		if n := len(s.log.Requests(^synthetic.Kind(0))); n > 205 || n < 150 {
			t.Errorf("%d requests in 10 s, want 200 at most, and most of them", n)
		}
		st := s.mirror.Status()
		if st.EntriesPerSecond < 3000 || st.SecondsLeft < 10 || st.SecondsLeft > 100 {
			t.Errorf("progress %+v", st)
		}
	})
}

func TestCheckpointsAreKeptDuringCatchUp(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.config = func(c *mirror.Config) { c.RequestsPerSecond = 20 }
		s.start().run()
		defer s.close()
		s.log.Grow(256 * 5000)
		s.settle(30 * time.Second)
		s.log.Grow(256*5000 + 77)
		s.settle(30 * time.Second)
		state := s.mirror.Tree().State()
		if state.Pending.Size != 256*5000+77 || state.Head.Size == 0 || state.Head.Size > 256*2000 {
			t.Fatalf("pending %d, held %d", state.Pending.Size, state.Head.Size)
		}
		s.prove(0, 0)
		s.prove(state.Head.Size-1, 0)
		if f := s.mirror.Freshness(); f.Source != mirror.SourceLive {
			t.Errorf("freshness %+v", f)
		}
	})
}

func TestWatchCheckpoints(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		defer s.close()
		var sizes []uint64
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.mirror.WatchCheckpoints(ctx, func(h mirror.TreeHead, _ mirror.Freshness) error {
				sizes = append(sizes, h.Size)
				return nil
			})
		})
		for _, n := range []uint64{5, 5, 9, 1000} {
			s.log.Grow(n)
			s.settle(3 * poll)
		}
		cancel()
		wg.Wait()
		if want := fmt.Sprint([]uint64{5, 9, 1000}); fmt.Sprint(sizes) != want && fmt.Sprint(sizes) != "[0 5 9 1000]" {
			t.Errorf("watched %v, want %v", sizes, want)
		}
	})
}

// TestUnkeyed: a log without a key says so, until it is followed; a quarantine matters more.
func TestUnkeyed(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.log.Grow(1000)
		s.start()
		s.mirror.Unkeyed(errors.New("no key"))
		since := time.Now()
		time.Sleep(time.Minute)
		s.mirror.Unkeyed(errors.New("still no key"))
		if p := s.mirror.Status().Problem; p == nil || p.Reason != mirror.ProblemKey || p.Text != "still no key" || !p.Since.Equal(since) {
			t.Errorf("without a key: %+v", p)
		}
		s.log.Misbehave(synthetic.On(synthetic.Bundle, synthetic.Hang()))
		s.run()
		s.settle(time.Second)
		if p := s.mirror.Status().Problem; p != nil {
			t.Errorf("in the first round: %+v", p)
		}
		s.log.Misbehave()
		s.settle(2 * time.Minute)
		s.wantHeld(1000)
		fork := s.log.Fork(900, synthetic.Tiny(2))
		fork.Grow(1000)
		s.log.Misbehave(synthetic.Equivocate(fork))
		s.settle(2 * poll)
		s.mirror.Unkeyed(errors.New("no key"))
		if p := s.mirror.Status().Problem; p == nil || p.Reason != mirror.ProblemFork {
			t.Errorf("quarantined: %+v", p)
		}
		s.close()
	})
}
