package outage

import (
	"slices"
	"time"
)

// State is the state of one component of an upstream, or of all together.
type State string

// The states.
const (
	Live        State = "live"        // it answers in order
	Degraded    State = "degraded"    // it answers, and too often not in order
	Fallback    State = "fallback"    // it does not answer: what is held stands in for it
	Recovering  State = "recovering"  // it answers again, and what happened meanwhile is being reconciled
	Quarantined State = "quarantined" // it contradicts what it said before: an operator must look
)

// states are all of them, the best first.
func states() []State { return []State{Live, Degraded, Recovering, Fallback, Quarantined} }

// badness orders states; -1 is none.
func (s State) badness() int { return slices.Index(states(), s) }

// Cause is why a component is in its state.
type Cause struct {
	Code string `json:"code"` // one of the Code constants: scripts branch on it
	Text string `json:"text"` // one sentence for a person
}

// Codes of a Cause.
const (
	CodeNotReachable = "NOT_REACHABLE"
	CodeTimeout      = "TIMEOUT"
	CodeHTTPError    = "HTTP_ERROR"
	CodeRateLimited  = "RATE_LIMITED"
	CodeTLS          = "TLS"
	CodeDNS          = "DNS"
	CodeMalformed    = "MALFORMED"
	CodeRollback     = "ROLLBACK"
	CodeSignature    = "SIGNATURE"
	CodeNotGrowing   = "NOT_GROWING"
	CodeExpired      = "EXPIRED"
	CodeBurnRate     = "BURN_RATE"
	CodeErrorRatio   = "ERROR_RATIO"
	CodeFork         = "FORK"
	CodeLostTail     = "LOST_TAIL"
	CodeChangedEntry = "CHANGED_ENTRY"
	CodeAnswersAgain = "ANSWERS_AGAIN"
	CodeReconciled   = "RECONCILED"
	CodeSteady       = "STEADY"
	CodeForced       = "FORCED"
	CodeReleased     = "RELEASED"
	CodeForceExpired = "FORCE_EXPIRED"
)

// Status is the state of one component.
type Status struct {
	Component string `json:"component"`
	Kind      string `json:"kind"` // read, write, tuf or service
	// State is what counts; Underlying is the one that there would be without Force.
	State      State     `json:"state"`
	Underlying State     `json:"underlying"`
	Since      time.Time `json:"since"` // of State
	Cause      Cause     `json:"cause"` // of the last change of State; empty if there was none yet
	Force      *Force    `json:"force,omitempty"`
	// Left is when it was live the last time; zero while it is.
	Left time.Time `json:"left,omitzero"`
	// BurnRates are how many times faster than the objective allows errors came, by window: 5m, 30m, 1h, 6h.
	BurnRates map[string]float64 `json:"burn_rates,omitempty"`
	// LastGood is when it last answered in order; LastError is why it did not, the last time. Both are
	// of this run of the program, as is LastProbe, when a probe was last answered or given up.
	LastGood  time.Time `json:"last_good,omitzero"`
	LastError string    `json:"last_error,omitempty"`
	LastProbe time.Time `json:"last_probe,omitzero"`
	FlapLevel int       `json:"flap_level,omitempty"` // how often it fell back again soon after it had recovered
}

// Force is a state that an operator has set, until a time: live, degraded or fallback.
type Force struct {
	Component string    `json:"component"`
	State     State     `json:"state"`
	Until     time.Time `json:"until"`
	Ticket    string    `json:"ticket"`
	By        string    `json:"by"`
	Reason    string    `json:"reason,omitempty"`
}

// Change is a change of state, as the rows "state" of the ledger have it. The state that counts is the To
// of a component's last row without Hidden; the underlying one that of its last row without Forced.
type Change struct {
	Component string    `json:"component"`
	From      State     `json:"from"`
	To        State     `json:"to"`
	Cause     Cause     `json:"cause"`
	Forced    bool      `json:"forced,omitempty"` // an operator has set To, for a time
	Hidden    bool      `json:"hidden,omitempty"` // a forced state hides this one: what counts did not change
	Ticket    string    `json:"ticket,omitempty"`
	By        string    `json:"by,omitempty"`
	Drill     string    `json:"drill,omitempty"` // the drill that it belongs to
	At        time.Time `json:"-"`               // of the row
	Seq       uint64    `json:"-"`               // of the row
}
