package private

import (
	"context"
	"errors"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
)

// V2 is a log as one of Rekor v2.
type V2 struct {
	Gate

	log   *log.Log
	logID []byte // full note key ID of the key that a TrustedRoot has
}

// NewV2 returns a log as one of Rekor v2. logID is the full note key ID of its Ed25519 key.
func NewV2(l *log.Log, logID []byte) *V2 { return &V2{log: l, logID: logID} }

// Log returns the log.
func (v *V2) Log() *log.Log { return v.log }

// Append logs an entry and returns it with its proof in a published tree. One that was logged before
// gets the same index; the real server refuses it, and its clients can do nothing with that. The
// error is one of log.Append.
func (v *V2) Append(ctx context.Context, identity string, proposed []byte, p *rekor.Proposal) (*protorekor.TransparencyLogEntry, bool, error) {
	r, err := v.log.Append(ctx, log.Entry{Body: p.Body, Proposed: proposed, Keys: p.Keys, Identity: identity})
	if err != nil {
		return nil, false, err
	}
	entry, err := rekor.TransparencyLogEntryV2(p.Body, r.Index, r.Checkpoint.Size, r.Checkpoint.Root, r.Proof, r.Checkpoint.Raw, v.logID)
	return entry, r.Duplicate, err
}

// Reason is why an entry was not logged, for scripts.
type Reason string

// The reasons of refusals.
const (
	ReasonFull        Reason = "LOG_FULL"
	ReasonTooLarge    Reason = "ENTRY_TOO_LARGE"
	ReasonClock       Reason = "CLOCK_WENT_BACK"
	ReasonBehind      Reason = "DATABASE_BEHIND"
	ReasonSigning     Reason = "CANNOT_SIGN"
	ReasonStopping    Reason = "STOPPING"
	ReasonUnwitnessed Reason = "NOT_YET_WITNESSED"
	ReasonTimeout     Reason = "TIMEOUT"
	ReasonClosed      Reason = "NOT_IN_FALLBACK"
	ReasonFailed      Reason = "FAILED"
)

// ReasonOf is the one table from errors of log.Append, and ErrClosed, to reasons.
func ReasonOf(err error) Reason {
	for _, known := range []struct {
		err    error
		reason Reason
	}{
		{log.ErrFull, ReasonFull}, {log.ErrTooLarge, ReasonTooLarge}, {log.ErrClock, ReasonClock}, {log.ErrBehind, ReasonBehind},
		{log.ErrSigning, ReasonSigning}, {log.ErrStopping, ReasonStopping}, {log.ErrUnwitnessed, ReasonUnwitnessed},
		{context.DeadlineExceeded, ReasonTimeout}, {ErrClosed, ReasonClosed},
	} {
		if errors.Is(err, known.err) {
			return known.reason
		}
	}
	return ReasonFailed
}

// Text is what a client is told. What only the operator can do something about is in the log.
func (r Reason) Text() string {
	switch r {
	case ReasonFull:
		return log.ErrFull.Error()
	case ReasonTooLarge:
		return log.ErrTooLarge.Error()
	case ReasonUnwitnessed:
		return log.ErrUnwitnessed.Error()
	case ReasonStopping:
		return "the log is stopping; try again in a moment"
	case ReasonTimeout:
		return "the log did not answer in time; the entry may be logged, and the same request again gets the same entry"
	case ReasonSigning:
		return "the log's key cannot sign now (" + string(r) + "); nothing was logged"
	case ReasonClosed:
		return ErrClosed.Error() + " (" + string(r) + "); nothing was logged"
	case ReasonClock, ReasonBehind:
		return "the log takes no entries until its operator has looked after it (" + string(r) + "); nothing was logged"
	}
	return "the entry could not be logged; the log's operator finds the reason in its log"
}
