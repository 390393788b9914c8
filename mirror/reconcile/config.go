package reconcile

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

// Head is a tree head whose signature and consistency were verified.
type Head struct {
	Origin     string
	Size       uint64
	Root       storage.Hash
	Checkpoint []byte    // the signed note
	LastSeen   time.Time // when upstream served it last
}

// Evidence is what quarantined a tree: two signed notes that cannot both be true.
type Evidence struct {
	Origin        string
	Reason        string // one sentence
	First, Second []byte // as received
}

// Upstream is a public log: a component of the monitor is the log's if its name is that of the log, a
// slash and more. All functions may be called at any time, Refresh and Recheck also when upstream is away.
type Upstream struct {
	Name string
	// Heads returns the newest verified heads, one for each origin.
	Heads func() []Head
	// Refresh polls upstream now. The error is what is wrong: a *mirror.ForkError, a
	// *mirror.RollbackError while it shows less than it did, or why it cannot be known.
	Refresh func(ctx context.Context) error
	// Prove returns the consistency proof between two sizes of a tree.
	Prove func(ctx context.Context, origin string, first, last uint64) ([]storage.Hash, error)
	// Evidence returns why trees of the log are quarantined.
	Evidence func() []Evidence
	// Differs returns the first index at which upstream's tree is not the one that is held, if it can be
	// named, with a sentence about it. Nil: it cannot.
	Differs func(ctx context.Context, origin string) (index uint64, text string, ok bool)
	// Recheck asks upstream for an entry that a decision rested on and compares it with what is held. A
	// *mirror.ChangedError says that they differ; another error that it is not known. Nil: upstream cannot be
	// asked for entries.
	Recheck func(ctx context.Context, origin string, index uint64) error
}

// Private is one generation of the private log.
type Private struct {
	Name   string // v1 or v2
	Origin string
	Size   func() uint64 // of what is published
	// Time returns when an entry was logged.
	Time func(index uint64) (time.Time, error)
	// Proposal returns what an entry was made of; nil if that was not kept, or no longer.
	Proposal func(index uint64) ([]byte, error)
	// Upstream is the name of the log that the proposals belong to, and Submit submits to it. Nil: the
	// policy does not allow it, or there is no such log, and the report says so.
	Upstream string
	Submit   Submitter
	// Withheld says that the policy does not allow it: what is logged while that is so is never submitted, also
	// not when the policy is another one. Logged is how much is logged, published or not; nil: that is Size.
	Withheld bool
	Logged   func() uint64
	// Standby says that it takes entries only while it stands in for a public log, perhaps another one: all of them
	// are owed to the public log.
	Standby bool
	// Own says that an entry was made here, as reports are: it is nobody's proposal, and not submitted. Nil: none is.
	Own func(index uint64) bool
}

// Result says what verifying a decision again gave.
type Result string

// The results.
const (
	Same    Result = "same"     // it would be decided alike today
	Differs Result = "differs"  // it would not
	NotKept Result = "not_kept" // what was decided about is not kept, so this is not known
)

// Outcome is a Result with its reason, one sentence.
type Outcome struct {
	Result Result
	Text   string
}

// Place is where a report was appended.
type Place struct {
	Origin string `json:"origin"`
	Index  uint64 `json:"index"`
	UUID   string `json:"uuid,omitempty"`
}

// Monitor is what a Reconciler needs of an *outage.Monitor.
type Monitor interface {
	Status() []outage.Status
	// Reconciled says that a component that is recovering may be live.
	Reconciled(component string) error
	// Quarantine is durable when it returns; saying it twice is no error.
	Quarantine(component string, cause outage.Cause) error
	// Changes returns a channel that is closed at the next change.
	Changes() <-chan struct{}
}

// Defaults of Config.
const (
	defaultPerSecond        = 16 // the public v1 allows 975 a minute
	defaultAtOnce           = 16
	defaultRollbackPatience = time.Minute
)

// Config is what a Reconciler is made from. A database has one Reconciler.
type Config struct {
	DB     *storage.DB
	Ledger *ledger.Ledger
	// Now is the clock, which must not go back (ledger.Clock); nil is time.Now.
	Now     func() time.Time
	Monitor Monitor

	Upstreams []Upstream
	Privates  []Private

	// Again verifies the decision of a row again. An error: it cannot be known now. Nil: no decision is.
	Again func(ctx context.Context, row ledger.Row) (Outcome, error)
	// CloseExceptions closes all exceptions and returns how many that were. Nil: there are none.
	CloseExceptions func(why string) (int, error)
	// Sign returns the signed form of a report's JSON; nil: reports are not signed.
	Sign func(report []byte) ([]byte, error)
	// AppendReport appends what Sign returned to the private log; the same bytes get the same place.
	// Nil: there is no private log.
	AppendReport func(ctx context.Context, signed []byte) (Place, error)

	// Drill returns the drill that affects a component; "" is none. What a drill shows of a log that is in
	// fallback is no finding. Nil: there are no drills.
	Drill func(component string) string

	PerSecond        float64       // submissions a second; 0 is defaultPerSecond
	AtOnce           int           // submissions, and decisions, at a time; 0 is defaultAtOnce
	RollbackPatience time.Duration // how long a log may show less than before; 0 is defaultRollbackPatience

	Logger  *slog.Logger
	Metrics *Metrics
}

func (c *Config) setDefaults() {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.PerSecond <= 0 {
		c.PerSecond = defaultPerSecond
	}
	if c.AtOnce <= 0 {
		c.AtOnce = defaultAtOnce
	}
	if c.RollbackPatience <= 0 {
		c.RollbackPatience = defaultRollbackPatience
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// belongs says whether a component is one of a log. What has more slashes is of another log, whose name begins alike:
// a successor is called after the log that it succeeds.
func belongs(component, log string) bool {
	part, ok := strings.CutPrefix(component, log+"/")
	return ok && !strings.Contains(part, "/")
}
