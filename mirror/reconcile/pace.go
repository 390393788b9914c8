package reconcile

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// pace spreads requests: so many a second, and none before upstream wants any.
type pace struct {
	limiter *rate.Limiter

	mu    sync.Mutex
	until time.Time
}

func newPace(perSecond float64) *pace {
	return &pace{limiter: rate.NewLimiter(rate.Limit(perSecond), 1)}
}

// turn waits until there may be a request.
func (p *pace) turn(ctx context.Context) error {
	for {
		if err := pause(ctx, p.held()); err != nil {
			return err
		}
		if err := p.limiter.Wait(ctx); err != nil {
			if ctx.Err() == nil { // it sees that the deadline comes first
				return context.DeadlineExceeded
			}
			return context.Cause(ctx)
		}
		if p.held() <= 0 { // or those who had a turn before would come all at once after the hold
			return nil
		}
	}
}

// held returns for how long nobody may ask.
func (p *pace) held() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until)
}

// hold lets nobody ask for a while.
func (p *pace) hold(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.until) {
		p.until = until
	}
}

// pause waits, and returns why it was cut short.
func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 && ctx.Err() == nil {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
