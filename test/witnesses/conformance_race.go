package witnesses

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// racers is how many requests are under way at the same time.
const racers = 64

// step is a size to cosign after another.
type step struct {
	old, size uint64
	log       *Log
	body      string // of the request, made beforehand
}

func newStep(old, size uint64, log *Log) step {
	return step{old, size, log, log.Request(old, size).String()}
}

// concurrencyChecks are about requests at the same time.
func concurrencyChecks() []Check {
	const atomically = "Note that checking the old size against the latest checkpoint and persisting the new checkpoint must be performed atomically"
	return []Check{
		{Name: "race of proofs", Spec: atomically, run: func(s *session) error {
			if err := s.reach(5); err != nil {
				return err
			}
			size := uint64(5)
			for range 8 {
				steps := make([]step, racers)
				for i := range steps {
					steps[i] = newStep(size, size+1+uint64(i), s.log)
				}
				won, err := s.winner(steps)
				if err != nil {
					return err
				}
				size = won.size
			}
			return nil
		}},
		{Name: "race of first checkpoints", Spec: atomically, run: func(s *session) error {
			fork := s.log.Fork()
			steps := make([]step, racers)
			for i := range steps {
				log := s.log
				if i%2 == 1 {
					log = fork
				}
				steps[i] = newStep(0, 1+uint64(i), log)
			}
			// There is but one first time, so all should be connected before.
			if err := race(func(int) error { return s.refuse("no request") }); err != nil {
				return err
			}
			_, err := s.winner(steps)
			return err
		}},
		{Name: "race of retries", Spec: atomically, run: func(s *session) error {
			var mu sync.Mutex
			var steps []step
			if err := race(func(i int) error {
				old, size := uint64(0), 1+uint64(i)
				for old <= size { // or else it was overtaken
					next := newStep(old, size, s.log)
					err := s.try(next)
					if stale := new(staleError); errors.As(err, stale) {
						old = uint64(*stale)
						continue
					}
					if err == nil {
						mu.Lock()
						steps = append(steps, next)
						mu.Unlock()
					}
					return err
				}
				return nil
			}); err != nil {
				return err
			}
			if err := isPath(steps); err != nil {
				return err
			}
			return s.holds(racers)
		}},
	}
}

// staleError is the size of a 409.
type staleError uint64

func (e staleError) Error() string { return fmt.Sprintf("409 with size %d", uint64(e)) }

// try submits a step. A 409 is a staleError.
func (s *session) try(t step) error {
	answer, err := s.post(t.body)
	if err != nil {
		return err
	}
	switch answer.Status {
	case http.StatusOK:
		return nil
	case http.StatusConflict:
		var known uint64
		if _, err := fmt.Sscanf(answer.Body, "%d\n", &known); err != nil {
			return fmt.Errorf("409 with %q", answer.Body)
		}
		if err := conflicting(answer, known); err != nil {
			return err
		}
		if known == t.old {
			return fmt.Errorf("409 with the size that was sent, %d", known)
		}
		return staleError(known)
	}
	return fmt.Errorf("from %d to %d: got %v", t.old, t.size, answer)
}

// winner submits steps from the same size at the same time, of which the witness must cosign
// exactly one, and returns that.
func (s *session) winner(steps []step) (step, error) {
	var mu sync.Mutex
	var won []step
	if err := race(func(i int) error {
		err := s.try(steps[i])
		if errors.As(err, new(staleError)) {
			return nil
		}
		if err == nil {
			mu.Lock()
			won = append(won, steps[i])
			mu.Unlock()
		}
		return err
	}); err != nil {
		return step{}, err
	}
	if len(won) != 1 {
		return step{}, fmt.Errorf("%d checkpoints were cosigned after size %d", len(won), steps[0].old)
	}
	s.log = won[0].log
	return won[0], s.holds(won[0].size)
}

// race calls run for all racers at the same time.
func race(run func(i int) error) error {
	errs := make([]error, racers)
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range racers {
		running.Go(func() {
			<-start
			errs[i] = run(i)
		})
	}
	close(start)
	running.Wait()
	return errors.Join(errs...)
}

// isPath returns an error unless each step began where another one ended, from 0 to the
// number of racers, so that no size was left twice.
func isPath(steps []step) error {
	next := map[uint64]uint64{}
	for _, step := range steps {
		if size, twice := next[step.old]; twice {
			return fmt.Errorf("cosigned from %d both to %d and to %d", step.old, size, step.size)
		}
		next[step.old] = step.size
	}
	at, n := uint64(0), 0
	for ; at < racers; n++ {
		size, ok := next[at]
		if !ok || size <= at {
			return fmt.Errorf("cosigned size %d, and then no larger one", at)
		}
		at = size
	}
	if n != len(steps) {
		return fmt.Errorf("%d of the cosigned sizes are on no path from 0 to %d", len(steps)-n, at)
	}
	return nil
}
