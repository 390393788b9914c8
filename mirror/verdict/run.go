package verdict

import (
	"context"
	"time"
)

const (
	// expireEvery is how long after its end the row of an exception may come.
	expireEvery = time.Second
	// checkEvery is how often rollback bundles are verified again.
	checkEvery = time.Hour
	// checkAgain is how soon, when there was no trust material.
	checkAgain = time.Minute
)

// Run writes the rows of exceptions that end, and verifies the rollback bundles each hour, until ctx is
// done. Nothing is allowed longer because it does not run. The error is that of the database.
func (v *Verifier) Run(ctx context.Context) error {
	tick := time.NewTicker(expireEvery)
	defer tick.Stop()
	last, check := time.Now(), time.Now()
	for {
		if err := v.expire(); err != nil {
			return err
		}
		now := time.Now()
		v.c.Metrics.tick(v, now.Sub(last))
		if last = now; !now.Before(check) {
			if check = now.Add(checkEvery); v.c.Material() == nil {
				check = now.Add(checkAgain)
			}
			if err := v.checkRollbacks(ctx); err != nil {
				return err
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// mode is the one that a policy is in now, but for whom it never leaves enforce.
func (v *Verifier) mode(policy string) string {
	v.exceptions.mu.RLock()
	defer v.exceptions.mu.RUnlock()
	if v.exceptions.activeLocked(v, policy, v.now()) != nil {
		return ModeAudit
	}
	return ModeEnforce
}
