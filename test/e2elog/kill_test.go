package e2elog

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
)

// kills is how often TestKill kills the log: UNDERSTUDY_KILLS, or what CI has time for.
func kills(t *testing.T) int {
	t.Helper()
	text := os.Getenv("UNDERSTUDY_KILLS")
	if text == "" {
		if asked == realServers {
			return 1 // it takes seconds to start them
		}
		return 50
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("UNDERSTUDY_KILLS=%q is no number of kills", text)
	}
	return n
}

const (
	killWriters = 8                      // of each generation
	killEntries = 40                     // at most, of each writer between two kills
	killWithin  = 250 * time.Millisecond // of when writers begin
	killKept    = 2000                   // answers of each generation, of all rounds, that are asked for at the end
)

// generation is one of the two APIs as TestKill uses it.
type generation interface {
	// propose makes a request of which there is no other.
	propose() proposal
	// write sends a request. An error says that it was not answered, or that the answer is wrong, which
	// is a *wrongError.
	write(ctx context.Context, p proposal) (receipt, error)
	// advance reads the newest checkpoint, which must be consistent with that of the last call.
	advance(ctx context.Context) error
	// proves checks that the entry of a receipt is at its index, with a proof to the newest checkpoint.
	proves(ctx context.Context, r receipt) error
}

// proposal is the body of a request.
type proposal []byte

// receipt is what is remembered of an answer.
type receipt struct {
	index uint64
	body  []byte // canonical
}

// wrongError is an answer that must not be.
type wrongError struct{ error }

// TestKill: both generations are written to while the log is killed with SIGKILL at any moment, again and
// again. Whatever was answered is at its index afterwards, checkpoints are consistent, and a request whose
// client was cut off gets one index, however often it is sent again.
func TestKill(t *testing.T) {
	skipUnlessAsked(t)
	// Not parallel: a moment is a moment only with a machine of its own.
	s := newStage(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("the seed of the moments is %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	all := map[string]*killed{"v1": {generation: newKilledV1(t, s)}, "v2": {generation: newKilledV2(t, s)}}
	started := time.Now()
	n := kills(t)
	for round := range n {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		writing, stop := context.WithCancel(ctx)
		var writers sync.WaitGroup
		for _, k := range all {
			k.answered, k.cut = nil, nil
			for range killWriters {
				writers.Go(func() { k.writes(t, writing) })
			}
		}
		time.Sleep(time.Duration(random.Int64N(int64(killWithin))))
		s.kill()
		stop()
		writers.Wait()
		if err := s.restart(); err != nil {
			t.Fatalf("round %d: start it again: %v", round, err)
		}
		for name, k := range all {
			if err := k.check(ctx, random); err != nil {
				t.Fatalf("round %d, %s: %v", round, name, err)
			}
		}
		cancel()
	}
	for name, k := range all {
		k.answered = slices.Clone(k.kept) // check goes on to keep some
		if err := k.check(t.Context(), random); err != nil {
			t.Errorf("in the end, %s: %v", name, err)
		}
		t.Logf("%s: %d answered, %d cut off in %d kills, %s each", name, k.total, k.cuts, n, time.Since(started)/time.Duration(n))
		if k.total == 0 {
			t.Errorf("%s: nothing was ever answered", name)
		}
	}
}

// killed is a generation between two kills.
type killed struct {
	generation
	kept        []receipt // of all rounds
	total, cuts int

	mu       sync.Mutex
	answered []receipt
	cut      []proposal // sent and not answered
}

// writes writes until it is cut off.
func (k *killed) writes(t *testing.T, ctx context.Context) {
	for range killEntries {
		p := k.propose()
		r, err := k.write(ctx, p)
		if wrong, ok := err.(wrongError); ok {
			t.Error(wrong)
		}
		k.mu.Lock()
		if err == nil {
			k.answered = append(k.answered, r)
		} else {
			k.cut = append(k.cut, p)
		}
		k.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// check asks the log that was started again for all that it owes.
func (k *killed) check(ctx context.Context, random *rand.Rand) error {
	// Who was cut off sends the same again, twice at once.
	again := make([][2]receipt, len(k.cut))
	if err := parallel(2*len(k.cut), func(i int) (err error) {
		again[i/2][i%2], err = k.write(ctx, k.cut[i/2])
		if asked == realServers { // they answer before they can take entries
			err = process.Until(ctx, func(ctx context.Context) error {
				again[i/2][i%2], err = k.write(ctx, k.cut[i/2])
				return err
			})
		}
		return err
	}); err != nil {
		return fmt.Errorf("sent again: %w", err)
	}
	for _, r := range again {
		if r[0].index != r[1].index {
			return fmt.Errorf("one entry has two indexes, %d and %d", r[0].index, r[1].index)
		}
		k.answered = append(k.answered, r[0])
	}
	k.total += len(k.answered)
	k.cuts += len(k.cut)
	k.cut = nil
	if err := k.advance(ctx); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if err := parallel(len(k.answered), func(i int) error { return k.proves(ctx, k.answered[i]) }); err != nil {
		return err
	}
	seen := map[uint64]bool{}
	for _, r := range k.answered {
		if seen[r.index] {
			return fmt.Errorf("index %d was given twice", r.index)
		}
		seen[r.index] = true
		if len(k.kept) < killKept {
			k.kept = append(k.kept, r)
		} else if i := random.IntN(k.total); i < killKept {
			k.kept[i] = r
		}
	}
	return nil
}

// parallel calls do for each of n, some at a time.
func parallel(n int, do func(i int) error) error {
	var mu sync.Mutex
	var first error
	var workers sync.WaitGroup
	next := make(chan int)
	for range 8 {
		workers.Go(func() {
			for i := range next {
				if err := do(i); err != nil {
					mu.Lock()
					if first == nil {
						first = err
					}
					mu.Unlock()
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	workers.Wait()
	return first
}
