package mirror_test

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

const (
	longestBackoff = 15 * time.Second
	longestRequest = 30 * time.Second
	anything       = synthetic.Checkpoint | synthetic.Tile | synthetic.Bundle | synthetic.Other
)

// watched is a stage whose daemon log and metrics are read.
type watched struct {
	*stage
	registry *prometheus.Registry

	mu     sync.Mutex
	logged bytes.Buffer
}

// Write receives the daemon log.
func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logged.Write(p)
}

func newWatched(t *testing.T) *watched {
	w := &watched{stage: newStage(t, synthetic.Options{})}
	w.config = func(c *mirror.Config) {
		w.registry = prometheus.NewRegistry()
		c.Metrics = mirror.NewMetrics(w.registry)
		c.Logger = slog.New(slog.NewTextHandler(w, nil))
	}
	return w
}

// wantProblem demands the reason in the status, in the daemon log and in the metrics.
func (w *watched) wantProblem(reason string) {
	w.t.Helper()
	if p := w.mirror.Status().Problem; p == nil || p.Reason != reason || p.Text == "" {
		w.t.Errorf("problem in the status is %+v, want %s", p, reason)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.Contains(w.logged.String(), "reason="+reason) {
		w.t.Errorf("the log does not say %s:\n%s", reason, w.logged.String())
	}
	if n := w.metric("understudy_log_problems_total", reason); n < 1 {
		w.t.Errorf("the metric counts %v problems of reason %s", n, reason)
	}
}

// metric returns the value of the series that has a label of the given value.
func (w *watched) metric(name, label string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	check(w.t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if family.GetName() == name && l.GetValue() == label {
					return m.GetCounter().GetValue() + m.GetGauge().GetValue()
				}
			}
		}
	}
	return 0
}

// wantGood demands that whatever is held and served is what the honest log has.
func (w *watched) wantGood() {
	w.t.Helper()
	w.check()
	s := w.mirror.Tree().State()
	for _, head := range []storage.Head{s.Head, s.Pending.Head, s.Mirrored.Head} {
		if head.Size > w.log.Size() || head.Size > 0 && head.Root != storage.Hash(w.log.Root(head.Size)) {
			w.t.Fatalf("root of size %d is not the honest one", head.Size)
		}
	}
	view := w.mirror.Tree().View()
	defer view.Close()
	check(w.t, view.Entries(s.Minimum, s.Head.Size, func(i uint64, entry []byte) error {
		if !bytes.Equal(entry, w.log.Entries(i)) {
			return fmt.Errorf("entry %d is %q", i, entry)
		}
		return nil
	}))
	check(w.t, view.Checkpoints(0, ^uint64(0), func(c storage.Checkpoint) error {
		if c.Size > w.log.Size() || c.Root != storage.Hash(w.log.Root(c.Size)) {
			return fmt.Errorf("a false checkpoint is archived:\n%s", c.Raw)
		}
		return nil
	}))
	for i := s.Minimum; i < s.Head.Size; i += 1 + s.Head.Size/7 {
		w.prove(i, 0)
	}
}

// fault is one row of the list of bad days.
type fault struct {
	name   string
	make   func(*synthetic.Log) synthetic.Fault
	reason string
	// lasts is how long the fault goes on; 0 is long enough for the longest backoff.
	lasts time.Duration
	// heals is how long after its end the mirror may need; 0 is the longest backoff.
	heals time.Duration
	// unread is set where the checkpoint is bad or does not arrive, so that no state at
	// all may change.
	unread bool
	// needsState is set where a mirror that holds nothing has nothing to object to.
	needsState bool
}

// lies are about the checkpoint.
var lies = []fault{
	{name: "wrong signature", make: (*synthetic.Log).WrongSignature, reason: mirror.ProblemSignature},
	{name: "changed key", make: func(l *synthetic.Log) synthetic.Fault { return l.ChangedKey(synthetic.Ed25519(origin, 9)) }, reason: mirror.ProblemSignature},
	{name: "wrong origin", make: func(l *synthetic.Log) synthetic.Fault { return l.WrongOrigin("log.example/other") }, reason: mirror.ProblemOrigin},
	{name: "wrong size", make: func(l *synthetic.Log) synthetic.Fault { return l.WrongSize(7) }, reason: mirror.ProblemRefused},
	{name: "wrong root", make: func(l *synthetic.Log) synthetic.Fault { return l.WrongRoot(0) }, reason: mirror.ProblemTile},
	{name: "rollback", make: func(l *synthetic.Log) synthetic.Fault { return l.Rollback(500) }, reason: mirror.ProblemRollback, needsState: true},
	{name: "rollback to nothing", make: func(l *synthetic.Log) synthetic.Fault { return l.Rollback(0) }, reason: mirror.ProblemRollback, needsState: true},
	{name: "fork's checkpoint, own tiles", make: forksCheckpoint, reason: mirror.ProblemTile},
	{name: "no note", make: func(*synthetic.Log) synthetic.Fault {
		return synthetic.On(synthetic.Checkpoint, synthetic.Body([]byte("<html>ok</html>\n")))
	}, reason: mirror.ProblemMalformed},
}

// forksCheckpoint is signed, but upstream does not show the tree that it signs: that is
// not yet a proof of a fork.
func forksCheckpoint(l *synthetic.Log) synthetic.Fault {
	fork := l.Fork(900, synthetic.Tiny(2))
	fork.Grow(l.Size())
	return synthetic.On(synthetic.Checkpoint, synthetic.Equivocate(fork))
}

// contents are lies about tiles and entries.
var contents = []fault{
	{name: "corrupt bundle", make: func(*synthetic.Log) synthetic.Fault { return synthetic.CorruptBundle(4) }, reason: mirror.ProblemBundle},
	{name: "corrupt bundle held in part", make: func(*synthetic.Log) synthetic.Fault { return synthetic.CorruptBundle(3) }, reason: mirror.ProblemBundle},
	{name: "garbage tile 0", make: func(*synthetic.Log) synthetic.Fault { return synthetic.GarbageTile(0) }, reason: mirror.ProblemTile},
	// A tile that no checkpoint covers directly: believed, it would look like a fork.
	{name: "garbage inner tile", make: func(*synthetic.Log) synthetic.Fault {
		garbage := synthetic.GarbageTile(0)
		return func(q synthetic.Request, a *synthetic.Answer) {
			if q.Width == 256 && q.Index == 3 {
				garbage(q, a)
			}
		}
	}, reason: mirror.ProblemTile, needsState: true},
	{name: "garbage tile 1", make: func(*synthetic.Log) synthetic.Fault { return synthetic.GarbageTile(1) }, reason: mirror.ProblemTile},
}

// transports are what can happen to any answer.
func transports() []fault {
	plain := func(f synthetic.Fault) func(*synthetic.Log) synthetic.Fault {
		return func(*synthetic.Log) synthetic.Fault { return f }
	}
	return []fault{
		{name: "truncated", make: plain(synthetic.Truncate()), reason: mirror.ProblemMalformed},
		{name: "cut off", make: plain(synthetic.CutOff()), reason: mirror.ProblemUnreachable},
		{name: "connection reset", make: plain(synthetic.Reset()), reason: mirror.ProblemUnreachable},
		{name: "oversized", make: plain(synthetic.Oversize(1<<20 + 1)), reason: mirror.ProblemMalformed, lasts: poll + poll/5},
		{name: "endless", make: plain(synthetic.Endless()), reason: mirror.ProblemMalformed, lasts: poll + poll/5},
		{name: "gzip bomb", make: plain(synthetic.Bomb()), reason: mirror.ProblemMalformed, lasts: poll + poll/5},
		{name: "slow drip", make: plain(synthetic.Drip(time.Second)), reason: mirror.ProblemUnreachable, heals: longestRequest + longestBackoff},
		{name: "no answer", make: plain(synthetic.Hang()), reason: mirror.ProblemUnreachable, heals: longestRequest + longestBackoff},
		{name: "500", make: plain(synthetic.Status(500)), reason: mirror.ProblemRefused},
		{name: "404", make: plain(synthetic.Status(404)), reason: mirror.ProblemRefused},
		{name: "429", make: plain(synthetic.Throttle(40 * time.Second)), reason: mirror.ProblemRefused, heals: 40 * time.Second},
		{name: "redirect loop", make: plain(synthetic.RedirectLoop()), reason: mirror.ProblemUnreachable},
		{name: "wrong encoding", make: plain(synthetic.WrongEncoding()), reason: mirror.ProblemMalformed},
		{name: "unknown encoding", make: plain(encoded("br")), reason: mirror.ProblemMalformed},
		{name: "truncated gzip", make: plain(func(q synthetic.Request, a *synthetic.Answer) {
			encoded("gzip")(q, a)
			synthetic.Truncate()(q, a)
		}), reason: mirror.ProblemMalformed},
		{name: "gzip cut off", make: plain(func(q synthetic.Request, a *synthetic.Answer) {
			encoded("gzip")(q, a)
			synthetic.CutOff()(q, a)
		}), reason: mirror.ProblemUnreachable},
	}
}

// encoded packs the body with gzip and gives it a content encoding.
func encoded(as string) synthetic.Fault {
	return func(_ synthetic.Request, a *synthetic.Answer) {
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		w.Write(a.Body)
		w.Close()
		a.Body = packed.Bytes()
		a.Header.Set("Content-Encoding", as)
	}
}

// TestGzip: an upstream that packs its answers is mirrored like any other.
func TestGzip(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.log.Misbehave(encoded("GZIP"))
		w.start()
		w.run()
		defer w.close()
		w.settle(time.Minute)
		w.wantHeld(1000)
	})
}

func faults() []fault {
	var all []fault
	for _, f := range lies {
		f.unread = true
		all = append(all, f)
	}
	all = append(all, contents...)
	for _, part := range []struct {
		name string
		kind synthetic.Kind
	}{{"checkpoint", synthetic.Checkpoint}, {"tiles", synthetic.Tile}, {"bundles", synthetic.Bundle}} {
		for _, f := range transports() {
			inner := f.make
			f.name = part.name + " " + f.name
			f.make = func(l *synthetic.Log) synthetic.Fault { return synthetic.On(part.kind, inner(l)) }
			f.unread = part.kind == synthetic.Checkpoint
			all = append(all, f)
		}
	}
	return all
}

// TestBadDays commits every fault while the log grows. Nothing of it is served or stored
// as good, what was held stays served, the reason is told, and it heals by itself.
func TestBadDays(t *testing.T) {
	for _, held := range []uint64{1000, 0} {
		for _, f := range faults() {
			if held == 0 && f.needsState {
				continue
			}
			t.Run(fmt.Sprintf("%s, %d held", f.name, held), func(t *testing.T) {
				t.Parallel()
				bubble.Run(t, func(t *testing.T) { badDay(t, held, f) })
			})
		}
	}
}

func badDay(t *testing.T, held uint64, f fault) {
	w := newWatched(t)
	w.log.Grow(held)
	w.start()
	before := w.mirror.Tree().State()
	misbehave := func() {
		w.log.Grow(1300)
		w.log.Misbehave(f.make(w.log))
		w.log.Forget()
	}
	if held == 0 { // not even a checkpoint
		misbehave()
		w.run()
	} else {
		w.run()
		w.settle(2 * poll)
		w.wantHeld(held)
		before = w.mirror.Tree().State()
		misbehave()
	}
	defer w.close()
	w.settle(cmp.Or(f.lasts, 2*time.Minute))
	w.wantProblem(f.reason)
	after := w.mirror.Tree().State()
	served := func(s *storage.State) []any { // what stays, though the archive may have grown
		return []any{s.Head, s.Minimum, s.Pending, s.Mirrored, s.Evidence, s.Precedes()}
	}
	if f.unread && !reflect.DeepEqual(served(before), served(after)) {
		t.Errorf("state changed from %+v to %+v", before, after)
	}
	if after.Head.Size < before.Head.Size || after.Head.Size == 1300 || after.Mirrored.Size != before.Mirrored.Size || after.Evidence != nil {
		t.Errorf("%d held and %d mirrored, before %d and %d; evidence: %t", after.Head.Size, after.Mirrored.Size, before.Head.Size, before.Mirrored.Size, after.Evidence != nil)
	}
	w.wantGood()
	if f.unread {
		// What a liar or a broken line says is no news of upstream: it is not live.
		_, _, err := w.mirror.Entry(mirror.Ref{Index: 5000})
		wantRefusal(t, err, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
	}
	// An endless answer costs no more than its limit. There are at most six bundles to
	// ask for in a round, of at most 16 MiB.
	if rounds, sent := len(w.log.Requests(synthetic.Checkpoint)), w.log.Written(); sent > uint64(rounds)*128<<20 {
		t.Errorf("%d MiB were read in %d rounds", sent>>20, rounds)
	}

	w.log.Misbehave()
	w.settle(cmp.Or(f.heals, longestBackoff))
	w.wantHeld(1300)
	w.wantGood()
	st := w.mirror.Status()
	if st.Problem != nil || st.UpstreamState != mirror.UpstreamLive || st.MirrorSize != 1300 {
		t.Errorf("not healed: %+v, problem %+v", st, st.Problem)
	}
}

// A fault that goes on for long is tried again at least every 15 s, and not much more
// often.
func TestBackoffIsBounded(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Misbehave(synthetic.Reset())
		w.start()
		w.run()
		defer w.close()
		w.settle(time.Minute)
		w.log.Forget()
		w.settle(10 * time.Minute)
		requests := w.log.Requests(anything)
		for i := 1; i < len(requests); i++ {
			if gap := requests[i].At.Sub(requests[i-1].At); gap > longestBackoff+time.Second {
				t.Errorf("nothing was tried for %s", gap)
			}
		}
		if n := len(requests); n < 40 || n > 120 {
			t.Errorf("%d requests in ten minutes", n)
		}
	})
}

// TestForks is the one crime that quarantines: two good signatures that no single tree
// can satisfy.
func TestForks(t *testing.T) {
	for _, f := range []struct {
		name string
		// commit makes the log, of which 1000 entries are held, show its second face, and
		// returns the checkpoint that it signs there.
		commit func(*watched) []byte
	}{
		{"larger tree", func(w *watched) []byte { return w.equivocate(800, 1300) }},
		{"larger tree, from the last entry", func(w *watched) []byte { return w.equivocate(999, 1001) }},
		{"same size", func(w *watched) []byte { return w.equivocate(0, 1000) }},
		{"same size, no tree", func(w *watched) []byte {
			raw := synthetic.Note(origin, 1000, [32]byte{1}, nil, w.log.Key)
			w.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body(raw)))
			return raw
		}},
		{"smaller tree", func(w *watched) []byte { return w.equivocate(500, 900) }},
		{"smaller tree, tiles withheld", func(w *watched) []byte {
			fork := w.log.Fork(500, synthetic.Tiny(2))
			fork.Grow(900)
			w.log.Misbehave(synthetic.Status(404), synthetic.On(synthetic.Checkpoint, synthetic.Equivocate(fork)))
			return fork.Checkpoint(900)
		}},
	} {
		t.Run(f.name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := newWatched(t)
				w.log.Grow(1000)
				w.start()
				w.run()
				w.settle(2 * poll)
				w.wantHeld(1000)
				first, second := w.log.Checkpoint(1000), f.commit(w)
				w.settle(2 * poll)
				w.wantQuarantine(first, second)
				w.wantProblem(mirror.ProblemFork)

				// It ends neither by itself nor by a restart, and upstream is left alone.
				w.log.Misbehave()
				w.log.Grow(2000)
				w.log.Forget()
				w.settle(10 * time.Minute)
				w.wantQuarantine(first, second)
				w.stop()
				check(t, w.db.Close())
				w.start()
				w.wantQuarantine(first, second) // before it runs
				w.run()
				w.settle(time.Minute)
				w.wantQuarantine(first, second)
				if n := len(w.log.Requests(anything)); n != 0 {
					t.Errorf("%d requests to a quarantined log", n)
				}
				w.close()
			})
		})
	}
}

// During a long catch-up, a checkpoint between what is held and what is pending is
// judged by the pending tree.
func TestForkDuringCatchUp(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(5000)
		noBundles := synthetic.On(synthetic.Bundle, from(2, synthetic.Status(503)))
		w.log.Misbehave(noBundles)
		w.start()
		w.run()
		w.settle(2 * poll)
		w.wantHeld(512)

		w.log.Misbehave(noBundles, w.log.Rollback(3000))
		w.settle(time.Minute)
		w.wantProblem(mirror.ProblemRollback)
		w.wantGood()

		fork := w.log.Fork(2000, synthetic.Tiny(2))
		fork.Grow(3000)
		w.log.Misbehave(noBundles, synthetic.On(synthetic.Checkpoint, synthetic.Equivocate(fork)))
		w.settle(time.Minute)
		ev := w.mirror.Tree().State().Evidence
		if ev == nil || !bytes.Equal(ev.First, w.log.Checkpoint(5000)) || !bytes.Equal(ev.Second, fork.Checkpoint(3000)) {
			t.Fatalf("evidence %+v", ev)
		}
		w.wantEvidence(ev)
		w.wantGood()
		w.close()
	})
}

// A log that was declared frozen and signs a larger tree contradicts itself.
func TestFrozenLogThatGrows(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWatched(t)
		w.log.Grow(1000)
		w.start()
		w.run()
		w.settle(2 * poll)
		frozen := synthetic.Note(origin, 1000, w.log.Root(1000), []string{"Log frozen — 2026-01-01"}, w.log.Key)
		w.log.Misbehave(synthetic.On(synthetic.Checkpoint, synthetic.Body(frozen)))
		w.settle(3 * poll)
		if st := w.mirror.Status(); st.UpstreamState != mirror.UpstreamFrozen || st.Problem != nil || st.Evidence != nil {
			t.Fatalf("a frozen log is no crime: %+v", st)
		}
		_, _, err := w.mirror.Entry(mirror.Ref{Index: 1000})
		wantRefusal(t, err, mirror.NotFound, mirror.ReasonNotFound)

		w.log.Misbehave()
		w.log.Grow(1300)
		w.settle(2 * poll)
		ev := w.mirror.Tree().State().Evidence
		if ev == nil || !bytes.Equal(ev.First, frozen) || !bytes.Equal(ev.Second, w.log.Checkpoint(1300)) {
			t.Fatalf("evidence %+v", ev)
		}
		w.wantHeld(1000)
		w.wantGood()
		w.close()
	})
}

// equivocate serves a fork, and returns its checkpoint.
func (w *watched) equivocate(at, size uint64) []byte {
	fork := w.log.Fork(at, synthetic.Tiny(2))
	fork.Grow(size)
	w.log.Misbehave(synthetic.Equivocate(fork))
	return fork.Checkpoint(size)
}

// wantQuarantine demands both raw notes as evidence, and the last good state served.
func (w *watched) wantQuarantine(first, second []byte) {
	w.t.Helper()
	synctest.Wait()
	ev := w.mirror.Tree().State().Evidence
	if ev == nil || !bytes.Equal(ev.First, first) || !bytes.Equal(ev.Second, second) || ev.Reason == "" || ev.At.IsZero() {
		w.t.Fatalf("evidence %+v, want\n%s\nand\n%s", ev, first, second)
	}
	w.wantEvidence(ev)
	w.wantHeld(1000)
	w.wantGood()
	st := w.mirror.Status()
	if st.UpstreamState != mirror.UpstreamQuarantined || st.Source == mirror.SourceLive || st.Evidence == nil || st.Problem == nil || st.Problem.Reason != mirror.ProblemFork {
		w.t.Errorf("status %+v, problem %+v", st, st.Problem)
	}
	if w.metric("understudy_log_quarantined", "test") != 1 {
		w.t.Error("the metric does not say that the log is quarantined")
	}
	_, _, err := w.mirror.Entry(mirror.Ref{Index: 1000})
	wantRefusal(w.t, err, mirror.Unavailable, mirror.ReasonQuarantined)
}

// wantEvidence holds the evidence against itself, as an auditor does who has nothing
// but the log's key.
func (w *watched) wantEvidence(ev *storage.Evidence) {
	w.t.Helper()
	key, err := trust.ParseKey([]byte(w.log.Key.Verifier()))
	check(w.t, err)
	small, err := trust.Open(ev.First, origin, []trust.Key{key})
	check(w.t, err)
	large, err := trust.Open(ev.Second, origin, []trust.Key{key})
	check(w.t, err)
	if small.Size > large.Size {
		small, large = large, small
	}
	if small.Size == large.Size {
		if small.Root == large.Root {
			w.t.Error("the evidence is one tree head, twice")
		}
		return
	}
	hashes := make([][]byte, len(ev.Proof))
	for i := range ev.Proof {
		hashes[i] = ev.Proof[i][:]
	}
	if ev.Root == small.Root {
		w.t.Error("the evidence shows no contradiction")
	}
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, small.Size, large.Size, hashes, ev.Root[:], large.Root[:]); err != nil {
		w.t.Errorf("evidence from %d to %d: %v", small.Size, large.Size, err)
	}
}
