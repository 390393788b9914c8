package witnesses

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
)

// answerChecks are about the answer to a good request, and what must be durable before it.
func answerChecks() []Check {
	return []Check{
		{Name: "200", Spec: "If all the checks above pass, the witness MUST update its record of the latest cosigned checkpoint and respond with a \"200 Success\" HTTP status code.",
			run: func(s *session) error { return errors.Join(s.reach(1, 3, 9), s.holds(9)) }},
		{Name: "signature lines", Spec: "The response body MUST be a sequence of one or more [note][] signature lines, each starting with the `—` character (U+2014) and ending with a newline character (U+000A).",
			run: func(s *session) error { // and nothing of the request's own lines is among them
				request := s.log.Request(0, 5)
				request.Checkpoint += strings.Join(strangeLines(s.log, s.log.Text(5)), "")
				_, err := s.accept(request)
				return err
			}},
		{Name: "cosignatures", Spec: "The signatures MUST be [cosignatures][] from the witness key(s) on the checkpoint.", run: func(s *session) error {
			// tlog-cosignature: "followed by the whole note body of the cosigned checkpoint"
			request := s.log.Request(0, 5)
			request.Checkpoint = s.log.Checkpoint(5, "an extension")
			if _, err := s.accept(request); err != nil {
				return err
			}
			request = s.log.Request(5, 8)
			request.Checkpoint = s.log.Checkpoint(8, "— one.that.looks/like a line", "8", "ünïcode")
			_, err := s.accept(request)
			return err
		}},
		{Name: "ML-DSA-44", Spec: "If the cosignature format supports subtrees, the cosignature returned by the witness MUST be for the entire tree in the submitted checkpoint, i.e. start MUST be zero and end MUST be the checkpoint size.",
			needs: needsKey(MLDSA44), run: func(s *session) error { return s.reach(0, 1, 2, 256, 300) }},
		{Name: "Ed25519", Spec: "The signed message MUST be two newline (U+000A) terminated lines (one header line and one timestamp line) followed by the whole note body of the cosigned checkpoint (including the final newline, but not including any signature lines).",
			needs: needsKey(Ed25519), run: func(s *session) error { return s.reach(0, 1, 2, 256, 300) }},
		{Name: "timestamp", Spec: "The cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero.",
			run: func(s *session) error { return s.reach(5, 5, 6) }}, // accept compares it with the clock
		{Name: "equal size", Spec: "If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical.",
			run: func(s *session) error { // then all checks pass
				if err := s.reach(5); err != nil {
					return err
				}
				request := s.log.Request(5, 5)
				request.Checkpoint = s.log.Checkpoint(5, "another extension")
				_, err := s.accept(request)
				return errors.Join(err, s.reachFrom(5, 5, 8))
			}},
		{Name: "keep-alive", Spec: "Clients SHOULD use, and witnesses SHOULD support, HTTP keep-alive HTTP connections to reduce latency and load due to connection establishment.",
			run: func(s *session) error {
				dialled := 0
				s.ctx = httptrace.WithClientTrace(s.ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
					if !info.Reused {
						dialled++
					}
				}})
				err := errors.Join(
					s.reach(3, 5),
					s.refuse("no request"),
					s.refuse(s.log.Fork().Request(5, 5).String(), 422),
					s.holds(5),
					s.reachFrom(5, 8),
				)
				if err == nil && dialled != 1 {
					err = fmt.Errorf("the requests took %d connections", dialled)
				}
				return err
			}},
		{Name: "persistence", Spec: "The witness MUST persist the new checkpoint before responding.",
			needs: func(t *Target) string {
				if t.Restart == nil {
					return "it cannot be started again"
				}
				return ""
			},
			run: func(s *session) error {
				for size := uint64(1); size < 4; size++ {
					if err := s.reachFrom(size-1, size); err != nil {
						return err
					}
					if err := s.target.Restart(s.ctx); err != nil {
						return err
					}
					s.client.CloseIdleConnections()
					if err := s.holds(size); err != nil {
						return err
					}
				}
				return s.refuse(s.log.Fork().Request(3, 8).String(), 422)
			}},
	}
}

// needsKey returns a function that says whether the target lacks a key of a kind.
func needsKey(kind byte) func(*Target) string {
	return func(t *Target) string {
		for _, vkey := range t.VKeys {
			if key, err := parseVKey(vkey); err == nil && key.kind == kind {
				return ""
			}
		}
		return fmt.Sprintf("it has no key of type %#02x", kind)
	}
}

// racers is how many requests are under way at the same time.
const racers = 64

// step is a size that was cosigned after another.
type step struct {
	old, size uint64
	log       *Log
}

// concurrencyChecks are about requests at the same time.
func concurrencyChecks() []Check {
	const atomically = "Note that checking the old size against the latest checkpoint and persisting the new checkpoint must be performed atomically"
	return []Check{
		{Name: "race of proofs", Spec: atomically, run: func(s *session) error {
			if err := s.reach(5); err != nil {
				return err
			}
			won, err := s.race(func(i int) (step, error) { return s.try(step{5, 6 + uint64(i), s.log}) })
			if err == nil && len(won) != 1 {
				err = fmt.Errorf("want 1 that was cosigned, got %d", len(won))
			}
			if err != nil {
				return err
			}
			return s.holds(won[0].size)
		}},
		{Name: "race of first checkpoints", Spec: atomically, run: func(s *session) error {
			fork := s.log.Fork()
			won, err := s.race(func(i int) (step, error) {
				log := s.log
				if i%2 == 1 {
					log = fork
				}
				return s.try(step{0, 1 + uint64(i), log})
			})
			if err == nil && len(won) != 1 {
				err = fmt.Errorf("want 1 that was cosigned, got %d", len(won))
			}
			if err != nil {
				return err
			}
			s.log = won[0].log
			return s.holds(won[0].size)
		}},
		{Name: "race of retries", Spec: atomically, run: func(s *session) error {
			var mu sync.Mutex
			var steps []step
			if _, err := s.race(func(i int) (step, error) {
				old, size := uint64(0), 1+uint64(i)
				for old <= size {
					done, err := s.try(step{old, size, s.log})
					if stale := new(staleError); errors.As(err, stale) {
						old = uint64(*stale)
						continue
					}
					if err == nil && done.size > 0 {
						mu.Lock()
						steps = append(steps, done)
						mu.Unlock()
					}
					return step{}, err
				}
				return step{}, nil // overtaken
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
func (s *session) try(t step) (step, error) {
	request := t.log.Request(t.old, t.size)
	answer, err := s.post(request.String())
	if err != nil {
		return step{}, err
	}
	switch answer.Status {
	case http.StatusOK:
		return t, nil
	case http.StatusConflict:
		var known uint64
		if _, err := fmt.Sscanf(answer.Body, "%d\n", &known); err != nil {
			return step{}, fmt.Errorf("409 with %q", answer.Body)
		}
		if err := conflicting(answer, known); err != nil {
			return step{}, err
		}
		if known == t.old {
			return step{}, fmt.Errorf("409 with the size that was sent, %d", known)
		}
		return step{}, staleError(known)
	}
	return step{}, fmt.Errorf("from %d to %d: got %v", t.old, t.size, answer)
}

// race runs 64 at the same time. It returns the steps that were cosigned; that one comes too
// late is no error.
func (s *session) race(run func(i int) (step, error)) ([]step, error) {
	steps, errs := make([]step, racers), make([]error, racers)
	start := make(chan struct{})
	var running sync.WaitGroup
	for i := range racers {
		running.Go(func() {
			<-start
			if steps[i], errs[i] = run(i); errors.As(errs[i], new(staleError)) {
				errs[i] = nil
			}
		})
	}
	close(start)
	running.Wait()
	var won []step
	for _, step := range steps {
		if step.size > 0 {
			won = append(won, step)
		}
	}
	return won, errors.Join(errs...)
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
