package stamp

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/digitorus/timestamp"
)

// maxAfter bounds what Retry-After may ask for, in seconds.
const maxAfter = 24 * 60 * 60

// UnreachableError says that the authority did not answer, not in time, or that it cannot answer
// now. It is worth another try.
type UnreachableError struct {
	Err   error
	After time.Duration // how long it asks to be left alone; 0 if it did not say
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("the authority cannot be reached: %v: another try later may succeed", e.Err)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// InvalidError says that something was received that is not a valid time stamp of the digest.
// Another try would not help; somebody should see the Reason, which ends with what to do.
type InvalidError struct {
	Reason string
	// Untrusted says that everything about the response is right but for its signer, who chains to
	// none of the roots: for somebody with others it may be good.
	Untrusted bool
}

func (e *InvalidError) Error() string { return "not a valid time stamp: " + e.Reason }

func invalid(format string, args ...any) error {
	return &InvalidError{Reason: fmt.Sprintf(format, args...)}
}

// malformed says that what stands in for a field is not what must stand there.
func malformed(field string) error {
	return invalid("it is no canonical RFC 3161 response (%s): it was damaged, or it comes from something else than a time-stamp authority", field)
}

// refusedError is a response without a time stamp. Who asked may try again, or not; to [Verify] it
// is an [*InvalidError].
type refusedError struct {
	status  timestamp.Status
	text    []string
	failure timestamp.FailureInfo
}

const maxText = 200 // bytes of what the authority wrote that are shown

func (e *refusedError) Error() string {
	said := e.status.String()
	if e.failure != timestamp.UnknownFailureInfo {
		said += ", " + e.failure.String()
	}
	if text := strings.Join(e.text, " "); text != "" {
		for len(text) > maxText {
			_, size := utf8.DecodeLastRuneInString(text)
			text = text[:len(text)-size]
		}
		said += fmt.Sprintf(" (%q)", text)
	}
	return "the authority gave none: " + said
}

// asInvalid is a refusal as an [*InvalidError].
func (e *refusedError) asInvalid() error { return invalid("%v: ask its operator what it accepts", e) }

// passing says whether the authority would have answered, but cannot at the moment.
func (e *refusedError) passing() bool {
	return e.status == timestamp.Waiting || e.failure == timestamp.TimeNotAvailable || e.failure == timestamp.SystemFailure
}
