package mirror

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Client is who asks: what is not held is fetched for each of them within a limit.
type Client string

// Operator asks without a limit of its own.
const Operator Client = ""

const (
	missShare    = 0.75             // of the budget that misses may use; polls need the rest
	missPatience = 10 * time.Second // that a miss waits for its turn
	missClients  = 10_000           // that are remembered

	// Requests that a miss costs.
	entriesCost = 2 // the entries, and the proof that ties them to the pending checkpoint
	searchCost  = 1
	proofCost   = 5             // of each size its root, which may take two proofs, and then the one asked for
	missBurst   = proofCost + 2 // no miss costs more
)

// misses limits what each client may have fetched, and what all of them together may.
type misses struct {
	rate    rate.Limit
	burst   int
	clients *lru.Cache[Client, *rate.Limiter]

	mu    sync.Mutex    // held while something is reserved and perhaps given back: in between, nothing else may be
	share *rate.Limiter // of the budget of requests
}

func newMisses(perSecond, budget float64) *misses {
	clients, err := lru.New[Client, *rate.Limiter](missClients)
	if err != nil {
		panic("mirror: " + err.Error()) // of a size that is not positive
	}
	return &misses{rate: rate.Limit(perSecond), burst: max(retrieveLimit, int(math.Ceil(2*perSecond))), clients: clients,
		share: rate.NewLimiter(rate.Limit(missShare*budget), missBurst)}
}

// take takes n misses from what a client has left. wait is how long it must wait before they
// may be fetched; if that is more than missPatience, nothing was taken.
func (m *misses) take(client Client, n int) (wait time.Duration, ok bool) {
	if client == Operator {
		return 0, true
	}
	limiter, found := m.clients.Get(client)
	if !found {
		limiter = rate.NewLimiter(m.rate, m.burst)
		if other, raced, _ := m.clients.PeekOrAdd(client, limiter); raced {
			limiter = other
		}
	}
	return m.reserve(limiter, n, missPatience)
}

// admit waits until a miss that costs so many requests may send them, unless that is too late.
// Then it returns a *BudgetError.
func (m *misses) admit(ctx context.Context, requests int, until time.Time) error {
	wait, ok := m.reserve(m.share, requests, time.Until(until))
	if !ok {
		return &BudgetError{After: wait}
	}
	if !pause(ctx, wait) {
		return ctx.Err()
	}
	return nil
}

func (m *misses) reserve(limiter *rate.Limiter, n int, patience time.Duration) (wait time.Duration, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := limiter.ReserveN(time.Now(), n)
	if wait = r.Delay(); wait > patience {
		r.Cancel()
		return wait, false
	}
	return wait, true
}

// BudgetError says that a miss would have had to wait too long for its turn.
type BudgetError struct{ After time.Duration }

func (e *BudgetError) Error() string {
	return fmt.Sprintf("the budget of requests to upstream is used up; it is tried again in %s", e.After.Round(time.Second))
}
