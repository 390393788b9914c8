package drill

import "errors"

// Why a drill does not begin. Code gives each a word for scripts.
var (
	ErrBusy     = errors.New("a drill is running: wait for its end, or abort it with `understudy drill abort`")
	ErrLength   = errors.New("not a length for a drill")
	ErrNoTicket = errors.New("a drill needs a ticket, and somebody who runs it: give --ticket")
	ErrOutage   = errors.New("no drill while something is out of order")
	ErrUnknown  = errors.New("unknown")
	ErrUnfit    = errors.New("not possible here")
	ErrStopped  = errors.New("the daemon is stopping")
)

// Code returns the code of an error of this package, which never changes; "" if it has none.
func Code(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{ErrBusy, "DRILL_RUNNING"}, {ErrLength, "DRILL_LENGTH"}, {ErrNoTicket, "NO_TICKET"}, {ErrOutage, codeOutage},
		{ErrUnknown, "UNKNOWN"}, {ErrUnfit, "NOT_POSSIBLE"}, {ErrStopped, codeStopped},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return ""
}

// Why a drill that had begun was aborted: codes of Result.Cause.
const (
	codeOutage    = "REAL_OUTAGE"
	codeAborted   = "ABORTED" // by an operator
	codeStopped   = "STOPPED" // the daemon was
	codeRestarted = "RESTARTED"
	codePanic     = "PANIC"
	codeClock     = "CLOCK_JUMPED"
)
