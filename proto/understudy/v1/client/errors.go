package client

import (
	"errors"
	"fmt"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ErrUnsigned says that the log is not known to have signed a checkpoint for the tree
// size that was asked for. The root of any tree is proven by [Client.ConsistencyProof]
// to a signed one; methods that end in "At" then answer for it.
var ErrUnsigned = errors.New("no checkpoint of this tree size is held: ask for another one, or 0 for the newest")

// RefusedError is a refusal of the server, with its reason (see docs/api.md).
type RefusedError struct {
	Reason   string            // "UPSTREAM_UNREACHABLE", "NOT_FOUND", ...
	Code     codes.Code        // gRPC status code
	Text     string            // one sentence for a person
	Metadata map[string]string // freshness of the log, among others

	call string
	err  error
}

func (e *RefusedError) Error() string { return e.call + ": " + e.Text + " (" + e.Reason + ")" }

// Unwrap returns the gRPC status error.
func (e *RefusedError) Unwrap() error { return e.err }

// Reason returns the reason of the server's refusal in err, or "" if it has none.
func Reason(err error) string {
	if e, ok := errors.AsType[*RefusedError](err); ok {
		return e.Reason
	}
	return ""
}

// Refused makes the error of a call that was made without a [Client]: a *RefusedError if the
// server gave a reason.
func Refused(call string, err error) error { return refused(call, err) }

// refused makes the error of a call: a *RefusedError if the server gave a reason.
func refused(call string, err error) error {
	s := status.Convert(err)
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "understudy.v1" {
			return &RefusedError{Reason: info.GetReason(), Code: s.Code(), Text: s.Message(), Metadata: info.GetMetadata(), call: call, err: err}
		}
	}
	return fmt.Errorf("%s: %w", call, err)
}

// VerificationError says that an answer is not what was asked for, or that it does not
// verify: it is not to be believed.
type VerificationError struct {
	Origin string
	Err    error // what is wrong
}

func (e *VerificationError) Error() string { return fmt.Sprintf("verify %s: %v", e.Origin, e.Err) }

// Unwrap returns what is wrong.
func (e *VerificationError) Unwrap() error { return e.Err }

func (c *Client) wrong(format string, args ...any) error {
	return &VerificationError{c.origin, fmt.Errorf(format, args...)}
}

// SplitViewError is evidence that a log misbehaves: two checkpoints that it signed, of
// one size with different roots. Keep both.
type SplitViewError struct {
	Origin        string
	First, Second []byte // signed notes
}

func (e *SplitViewError) Error() string {
	return fmt.Sprintf("log %s signed two different trees of one size: keep both checkpoints as evidence", e.Origin)
}
