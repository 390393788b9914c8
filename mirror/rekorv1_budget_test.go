package mirror_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// hammer lets clients ask for entries of their own, one after another, for a while.
func (s *rekorStage) hammer(clients int, lasts time.Duration, first uint64) (answered, refused int) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	end := time.Now().Add(lasts)
	for i := range clients {
		wg.Go(func() {
			for at := first + uint64(i); time.Now().Before(end); at += uint64(clients) {
				before := time.Now()
				item, _, err := s.service.Entry(s.t.Context(), mirror.Client(fmt.Sprint("client ", i)), byIndex(at))
				if d := time.Since(before); d > 13*time.Second { // ten for the budget, two for a slow answer
					s.t.Errorf("the answer took %v", d)
				}
				mu.Lock()
				var r *mirror.Refusal
				switch {
				case err == nil && s.verify(item, at) == nil:
					answered++
				case errors.As(err, &r) && r.Kind == mirror.Unavailable && r.Reason == mirror.ReasonBudgetExhausted && r.After > 0:
					refused++
				default:
					s.t.Errorf("entry %d: %v", at, err)
				}
				mu.Unlock()
				time.Sleep(50 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return answered, refused
}

// TestRekorBudget: whatever clients do, upstream gets no more requests than the budget, the
// polls go on, the log stays live, and who asks gets what the budget gives.
func TestRekorBudget(t *testing.T) {
	for name, c := range map[string]struct {
		clients int
		grows   bool
		fault   synthetic.Fault // of entries
	}{
		"one":                 {clients: 1},
		"many":                {clients: 120},
		"many, of a busy log": {clients: 120, grows: true},
		"many, of a slow log": {clients: 120, grows: true, fault: slow(nil, 2*time.Second)},
		"few, of a slow log":  {clients: 10, grows: true, fault: slow(nil, 2*time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				const budget, lasts = 8, 30 * time.Second
				s := newRekorStage(t)
				s.log.Active().Grow(40_000, synthetic.Tiny(3))
				s.start().run()
				s.settle(rekorPoll)
				s.log.Forget()
				if c.fault != nil {
					s.log.Misbehave(synthetic.On(anyEntry, c.fault))
				}
				ctx, cancel := context.WithCancel(t.Context())
				var watching sync.WaitGroup
				watching.Go(func() {
					for at := uint64(0); ctx.Err() == nil; at++ {
						if c.grows {
							s.log.Active().Grow(17, synthetic.Tiny(4))
						}
						for i := range 2 {
							f := s.mirrorOf(i).Freshness()
							if f.Source != mirror.SourceLive || f.CheckpointAge > 2*rekorPoll {
								t.Errorf("freshness of shard %d: %+v", i, f)
							}
						}
						time.Sleep(100 * time.Millisecond)
					}
				})
				answered, refused := s.hammer(c.clients, lasts, 37)
				cancel()
				watching.Wait()
				if n := s.log.Busiest(time.Second); n > budget+1 {
					t.Errorf("%d requests within a second", n)
				}
				if n := len(s.log.Requests(synthetic.LogInfo)); n < 2 {
					t.Errorf("%d polls in half a minute", n)
				}
				if c.clients >= 10 {
					if least := budget * 3 / 4 / 2 * 30 * 9 / 10; answered < least {
						t.Errorf("%d entries were answered, want at least %d", answered, least)
					}
				}
				if (refused > 0) != (c.clients >= 100) {
					t.Errorf("%d were refused", refused)
				}
				s.log.Misbehave()
				// What is held is given without a limit.
				s.settle(15 * time.Second)
				before := time.Now()
				for range 2000 {
					s.get(byIndex(37), 37)
				}
				if d := time.Since(before); d > 0 {
					t.Errorf("what is held took %v", d)
				}
				s.get(byIndex(36), 36) // and who comes then is served at once
				if d := time.Since(before); d > time.Second {
					t.Errorf("a miss took %v", d)
				}
				s.close()
			})
		})
	}
}

// TestRekorClientLimit: each client has a limit of its own for what is not held.
func TestRekorClientLimit(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Active().Grow(1000, synthetic.Tiny(3))
		s.config = func(c *mirror.ServiceConfig) { c.RequestsPerSecond, c.MissesPerSecond = 1000, 1 }
		s.start().run()
		s.settle(rekorPoll)
		ask := func(client mirror.Client, first, n uint64) (took time.Duration, err error) {
			before := time.Now()
			var refs []mirror.EntryRef
			for i := range n {
				refs = append(refs, byIndex(first+i))
			}
			_, _, err = s.service.Entries(t.Context(), client, refs)
			return time.Since(before), err
		}
		if took, err := ask("a", 100, 10); err != nil || took > 0 {
			t.Errorf("the burst took %v: %v", took, err)
		}
		if took, err := ask("a", 110, 5); err != nil || took < 4*time.Second || took > 6*time.Second {
			t.Errorf("five more took %v: %v", took, err)
		}
		if took, err := ask("b", 200, 10); err != nil || took > 0 {
			t.Errorf("another client waited %v: %v", took, err)
		}
		if took, err := ask(mirror.Operator, 300, 10); err != nil || took > 0 {
			t.Errorf("the operator waited %v: %v", took, err)
		}
		for i := range uint64(20) {
			if took, err := ask(mirror.Operator, 310+10*i, 10); err != nil || took > time.Second {
				t.Errorf("the operator waited %v: %v", took, err)
			}
		}
		if took, err := ask("a", 100, 10); err != nil || took > 0 {
			t.Errorf("what is held took %v: %v", took, err)
		}
		// Eleven seconds ahead is too long to wait.
		s.settle(time.Minute)
		_, err := ask("a", 600, 10)
		check(t, err)
		go ask("a", 610, 10)
		time.Sleep(time.Millisecond)
		took, err := ask("a", 620, 2)
		wantRefusal(t, err, mirror.Unavailable, mirror.ReasonBudgetExhausted)
		var r *mirror.Refusal
		if errors.As(err, &r); took > 0 || r.After < 10*time.Second || r.After > 13*time.Second {
			t.Errorf("refused after %v, and to be asked again in %v", took, r.After)
		}
		s.settle(r.After)
		if took, err := ask("a", 620, 2); err != nil || took > 2*time.Second {
			t.Errorf("took %v: %v", took, err)
		}
		s.close()
	})
}
