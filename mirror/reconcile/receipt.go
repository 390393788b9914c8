package reconcile

import (
	"context"
	"fmt"
	"time"
)

// Submitter submits proposals to one public log.
type Submitter interface {
	// Submit returns the verified receipt of a proposal, also of one that the log has already: it never
	// logs one twice. A *RefusedError says that the log will never take it. Another error is for now;
	// one with RetryAfter() time.Duration says for how long at least.
	Submit(ctx context.Context, proposal []byte) (Receipt, error)
}

// Receipt is what a public log answered about an entry, verified.
type Receipt struct {
	Origin   string `json:"origin"`         // of the checkpoint in it
	LogIndex uint64 `json:"log_index"`      // as the log counts: over all shards for Rekor v1
	UUID     string `json:"uuid,omitempty"` // Rekor v1's: 80 hex digits
	// IntegratedTime is in Unix seconds; 0 for Rekor v2, which has none.
	IntegratedTime int64 `json:"integrated_time,omitempty"`
	// JSON is the answer as received: {UUID: entry} of Rekor v1, a TransparencyLogEntry of Rekor v2.
	JSON []byte `json:"answer"`
	// Extends says that the entry may be added to the bundle that was made with the private log;
	// otherwise Reason is why that would make it invalid.
	Extends bool   `json:"extends"`
	Reason  string `json:"reason,omitempty"`
	// Duplicate says that the log had it before.
	Duplicate bool `json:"duplicate,omitempty"`
}

// RefusedError says that a log will never take a proposal.
type RefusedError struct {
	Status int    // HTTP; 0: it was not even sent
	Text   string // the log's words
}

func (e *RefusedError) Error() string {
	if e.Status == 0 {
		return "the proposal is none that a log takes: " + e.Text
	}
	return fmt.Sprintf("the log refuses the proposal (%d): %s", e.Status, e.Text)
}

// retryAfter returns for how long an error asks not to be asked again.
func retryAfter(err error) time.Duration {
	for err != nil {
		if e, ok := err.(interface{ RetryAfter() time.Duration }); ok {
			return e.RetryAfter()
		}
		switch e := err.(type) {
		case interface{ Unwrap() error }:
			err = e.Unwrap()
		case interface{ Unwrap() []error }:
			longest := time.Duration(0)
			for _, one := range e.Unwrap() {
				longest = max(longest, retryAfter(one))
			}
			return longest
		default:
			return 0
		}
	}
	return 0
}
