package private

import "errors"

// ErrClosed: the log is there for outages, and there is none.
var ErrClosed = errors.New("this log takes entries only while the public log cannot: use the public log; this one opens by itself when the public log's write path is away")

// Gate says whether a log takes entries of clients. It is asked before each request, and what is under way
// then ends as it began. Reading, and what the daemon logs itself, needs no gate.
type Gate struct {
	// Open is set before the log is served; nil: it is always open.
	Open func() bool
}

// Admit returns ErrClosed unless a client may append now.
func (g *Gate) Admit() error {
	if g.Open == nil || g.Open() {
		return nil
	}
	return ErrClosed
}
