package quorum

import (
	"errors"
	"slices"
	"time"
)

// Status is what is known of a witness.
type Status struct {
	Name     string // in the policy
	URL      string // its submission prefix; "" if it is not asked
	Size     uint64 // of the newest checkpoint that it cosigned for us since the start
	Cosigned time.Time
	Failure  string    // why it did not cosign when it was last asked; "" if it did, or was not asked yet
	Since    time.Time // when it began to fail without a break
}

// Statuses returns what is known of all witnesses, in the order of the policy.
func (c *Collector) Statuses() []Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.statusesLocked()
}

func (c *Collector) statusesLocked() []Status { return slices.Clone(c.statuses) }

// recordLocked remembers what became of a job.
func (c *Collector) recordLocked(e *endpoint, j *job, lines map[int]string, err error) {
	now := time.Now()
	if ahead, ok := errors.AsType[*AheadError](err); ok {
		e.ahead = ahead
	}
	if len(lines) > 0 {
		e.ahead = nil
	}
	e.until = time.Time{}
	if f, ok := errors.AsType[*failure](err); ok && f.after > 0 {
		e.until = now.Add(f.after)
	}
	for i := range e.keys {
		witnessErr := err
		if err == nil && lines[i] == "" {
			witnessErr = fail(resultInvalid, "its answer has no cosignature under its name and key")
		}
		if c.closed && witnessErr != nil {
			continue // we hung up
		}
		c.metrics.answered(c.name, c.policy.witnesses[i], witnessErr)
		s := &c.statuses[i]
		if witnessErr == nil {
			if s.Failure != "" {
				c.logger.Info("witness cosigns again", "log", c.name, "witness", s.Name, "size", j.checkpoint.Size, "failed_for", now.Sub(s.Since))
			}
			s.Size, s.Cosigned, s.Failure, s.Since = j.checkpoint.Size, now, "", time.Time{}
			if c.text == j.text {
				c.collected[i] = lines[i]
			}
			continue
		}
		if s.Failure == "" {
			s.Since = now
			c.logger.Warn("witness does not cosign", "log", c.name, "witness", s.Name, "url", s.URL, "size", j.checkpoint.Size, "error", witnessErr)
		}
		s.Failure = witnessErr.Error()
	}
}
