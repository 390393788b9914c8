package quorum

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// ErrClosed is returned by Collector.Cosign after Close.
var ErrClosed = errors.New("the collector of cosignatures is closed")

// ShortError says that the quorum was not reached.
type ShortError struct {
	Have      []string // names of the witnesses that cosigned, in the order of the policy
	Want      string   // the quorum in words
	Witnesses []Status // of all witnesses; Failure is why one that is not in Have did not cosign
}

// Error returns one sentence, with the reason of each witness.
func (e *ShortError) Error() string {
	cosigned := map[string]bool{}
	for _, name := range e.Have {
		cosigned[name] = true
	}
	var reasons []string
	for _, s := range e.Witnesses {
		if !cosigned[s.Name] {
			reasons = append(reasons, s.Name+": "+s.Failure)
		}
	}
	return fmt.Sprintf("too few witnesses cosigned: want %s, have %s (%s)", e.Want, list(e.Have), strings.Join(reasons, "; "))
}

// AheadError says that a witness has cosigned a larger tree of this log than it was shown now:
// the database is older than what was published, and nothing may be signed with it.
type AheadError struct {
	Witness string // the name in the policy
	Size    uint64 // what it has cosigned
	Ours    uint64 // what it was shown
}

func (e *AheadError) Error() string {
	return fmt.Sprintf("the witness %s has cosigned %d entries of this log, and this database has %d: it is old; restore the newest one before anything is signed", e.Witness, e.Size, e.Ours)
}

// failure is why a witness did not cosign.
type failure struct {
	result string
	reason string
	after  time.Duration // how long it does not want to be asked again
}

func (f *failure) Error() string { return f.reason }

func fail(result, format string, args ...any) *failure {
	return &failure{result: result, reason: fmt.Sprintf(format, args...)}
}

// What became of asking a witness.
const (
	resultCosigned    = "cosigned"
	resultUnreachable = "unreachable" // no whole answer, or one that says to come again
	resultRefused     = "refused"     // an orderly answer, and no cosignature
	resultInvalid     = "invalid"     // an answer that is wrong
	resultAhead       = "ahead"       // AheadError
	resultUnproven    = "unproven"    // we had no proof for it
)

func resultOf(err error) string {
	if err == nil {
		return resultCosigned
	}
	if _, ok := errors.AsType[*AheadError](err); ok {
		return resultAhead
	}
	if f, ok := errors.AsType[*failure](err); ok {
		return f.result
	}
	return resultInvalid
}
