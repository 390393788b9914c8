package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// A probe is good exactly when a poll would be, takes nothing, and does not wait for the budget.
func TestProbe(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{})
		s.config = func(c *mirror.Config) { c.RequestsPerSecond = 0.01; c.Poll = time.Hour }
		s.start()
		s.log.Grow(10)
		keys := []trust.Key{s.key}
		probe := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			return s.mirror.Probe(ctx, keys)
		}
		for range 5 {
			began := time.Now()
			check(t, probe())
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %s", took)
			}
		}
		if state := s.mirror.Tree().State(); state.Pending.Raw != nil {
			t.Error("a probe has taken a checkpoint")
		}
		s.log.Misbehave(synthetic.Hang())
		if err := probe(); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("no answer: %v", err)
		}
		s.log.Misbehave(synthetic.Status(502))
		if err := probe(); mirror.ProblemOf(err) != mirror.ProblemRefused {
			t.Errorf("a status: %v", err)
		}
		s.log.Misbehave(synthetic.On(synthetic.Checkpoint, func(_ synthetic.Request, a *synthetic.Answer) { a.Body = []byte("<html>") }))
		if err := probe(); mirror.ProblemOf(err) != mirror.ProblemMalformed {
			t.Errorf("a page: %v", err)
		}
		other := synthetic.New(synthetic.Options{Origin: origin, Key: synthetic.Ed25519(origin, 7), Entries: synthetic.Tiny(1)})
		other.Grow(20)
		s.log.Misbehave(synthetic.On(synthetic.Checkpoint, func(_ synthetic.Request, a *synthetic.Answer) { a.Body = other.Checkpoint(20) }))
		if err := probe(); mirror.ProblemOf(err) != mirror.ProblemSignature {
			t.Errorf("another key: %v", err)
		}
		s.log.Misbehave()
		check(t, probe())
		s.stop()
		check(t, s.db.Close())
		s.db = nil
	})
}

// What upstream has served once it must not go behind.
func TestProbeRollback(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).start().run()
		defer s.close()
		s.log.Grow(300)
		s.settle(2 * poll)
		s.wantHeld(300)
		older := s.log.Checkpoint(200)
		s.log.Misbehave(synthetic.On(synthetic.Checkpoint, func(_ synthetic.Request, a *synthetic.Answer) { a.Body = older }))
		if err := s.mirror.Probe(t.Context(), []trust.Key{s.key}); mirror.ProblemOf(err) != mirror.ProblemRollback {
			t.Errorf("an older checkpoint: %v", err)
		}
		s.log.Misbehave()
		check(t, s.mirror.Probe(t.Context(), []trust.Key{s.key}))
	})
}

func TestServiceProbeAndRecheck(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		defer s.close()
		s.settle(2 * rekorPoll)
		check(t, s.service.Probe(t.Context()))
		origin := s.mirrorOf(1).Origin()
		s.get(byIndex(40), 40)
		check(t, s.service.Recheck(t.Context(), origin, 3))
		if _, ok := errors.AsType[*mirror.Refusal](s.service.Recheck(t.Context(), origin, 4)); !ok {
			t.Error("what is not held was compared")
		}
		log := s.log
		back := log.Rollback(1, 10)
		log.Misbehave(synthetic.AnsweredBy(back))
		if err := s.service.Probe(t.Context()); mirror.ProblemOf(err) != mirror.ProblemRollback {
			t.Errorf("an older checkpoint: %v", err)
		}
		log.Misbehave(synthetic.AnsweredBy(log.Fork(1, 2)))
		changed, ok := errors.AsType[*mirror.ChangedError](s.service.Recheck(t.Context(), origin, 3))
		if !ok || changed.Index != 3 || changed.Body == nil || changed.Origin != origin {
			t.Errorf("another entry: %v", changed)
		}
		log.Misbehave(synthetic.AnsweredBy(log.Rollback(1, 2)))
		if changed, ok := errors.AsType[*mirror.ChangedError](s.service.Recheck(t.Context(), origin, 3)); !ok || changed.Body != nil {
			t.Errorf("no entry: %v", fmt.Sprint(changed))
		}
		log.Misbehave()
		check(t, s.service.Recheck(t.Context(), origin, 3))
	})
}
