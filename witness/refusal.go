package witness

import "fmt"

// Why is the reason of a Refusal.
type Why int

// The reasons, each with a status code of its own in HTTP. Those of the specification come
// first, in its order (https://c2sp.org/tlog-witness).
const (
	UnknownOrigin Why = iota // 404
	Forbidden                // 403: not signed by the log, or the log is quarantined
	Malformed                // 400
	Conflict                 // 409: the old size is not that of what was cosigned last
	Inconsistent             // 422: not proven to extend what was cosigned last
	Unavailable              // 503: it cannot be said now
)

func (w Why) String() string {
	return [...]string{"unknown_origin", "forbidden", "malformed", "conflict", "inconsistent", "unavailable"}[w]
}

// Refusal says why a checkpoint was not cosigned.
type Refusal struct {
	Why  Why
	Text string // a sentence for the one who asked
	Size uint64 // of the checkpoint cosigned last, if Why is Conflict
}

func (r *Refusal) Error() string { return r.Text }

func refuse(why Why, format string, args ...any) *Refusal {
	return &Refusal{Why: why, Text: fmt.Sprintf(format, args...)}
}
