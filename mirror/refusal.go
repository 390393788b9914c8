package mirror

import "time"

// Values of Freshness.Source.
const (
	SourceLive     = "live"
	SourceMirrored = "mirrored"
	SourceStale    = "stale"
)

// Values of Freshness.UpstreamState.
const (
	UpstreamLive        = "live"
	UpstreamUnreachable = "unreachable"
	UpstreamFrozen      = "frozen"
	UpstreamQuarantined = "quarantined"
)

// Kind is the class of a Refusal; adapters map each to one status code.
type Kind int

// The kinds of refusal.
const (
	// NotFound: the log is known not to have it.
	NotFound Kind = iota + 1
	// Unavailable: not known, or not held now; asking later may help.
	Unavailable
	// Invalid: the request can never be answered.
	Invalid
	// Damaged: what is stored cannot be read or is wrong; an operator must look.
	Damaged
)

// Reasons of a Refusal, also sent as google.rpc.ErrorInfo.reason.
const (
	ReasonUpstreamUnreachable = "UPSTREAM_UNREACHABLE"
	ReasonQuarantined         = "QUARANTINED"
	ReasonBelowMinimumIndex   = "BELOW_MINIMUM_INDEX"
	ReasonNotYetMirrored      = "NOT_YET_MIRRORED"
	ReasonNotFound            = "NOT_FOUND"
	ReasonInvalidRequest      = "INVALID_REQUEST"
	ReasonDamaged             = "STORAGE_DAMAGED"
	ReasonNotPinned           = "NOT_PINNED"       // and upstream cannot be asked
	ReasonBudgetExhausted     = "BUDGET_EXHAUSTED" // of requests to upstream
	ReasonUpstreamRefused     = "UPSTREAM_REFUSED" // what upstream gave does not verify
	ReasonShardsUnknown       = "SHARDS_UNKNOWN"   // not every shard has a checkpoint
)

// Refusal is the answer "no" or "I do not know", with the reason.
type Refusal struct {
	Kind   Kind
	Reason string        // one of the Reason constants
	Text   string        // one sentence for a person
	After  time.Duration // when to ask again; 0 is unknown
	Err    error         // the cause, for the log of the daemon; may be nil

	// Freshness of the log when it refused.
	Freshness Freshness
}

func (r *Refusal) Error() string { return r.Text }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Err }
