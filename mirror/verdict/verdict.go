package verdict

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
)

// RestsOn is what a decision rests on.
type RestsOn string

// What decisions rest on. [Decision.RestsOn] is empty where nothing that verified made it.
const (
	PublicLive RestsOn = "public_live" // the mirror holds the entry too, and its upstream is live
	Mirrored   RestsOn = "mirrored"    // the mirror holds the entry, and its upstream is not live
	Private    RestsOn = "private"     // our private log holds the entry
	OwnProof   RestsOn = "bundle"      // the bundle's own proof: the mirror neither holds nor contradicts the entry
	Pinned     RestsOn = "pinned"      // a rollback bundle
)

// Modes of a decision.
const (
	ModeEnforce = "enforce" // an allow is given only if everything verifies
	ModeAudit   = "audit"   // an exception: what would be denied is allowed, and said to be
)

// Request asks whether an artifact may be used.
type Request struct {
	Bundle []byte // a Sigstore bundle in JSON, at most MaxBundle bytes
	// Algorithm is sha256, sha384 or sha512, and Digest that of the artifact.
	Algorithm string
	Digest    []byte
	Policy    string // its name; "" is DefaultPolicy
	// Identity or PublicKey (a PEM block PUBLIC KEY) say who must have signed; at most one of them.
	Identity  *Identity
	PublicKey []byte
}

// MaxBundle bounds a bundle in bytes.
const MaxBundle = 4 << 20

// Held is what the mirror knows of an entry. If it is neither confirmed nor contradicted it is not
// known.
type Held struct {
	Confirmed    bool // this entry stands at this index in a verified tree
	Contradicted bool // another one does, or a tree of that size has another root
	Live         bool // upstream is live
	Quarantined  bool // the log contradicted itself
	Private      bool // the log is ours
	Text         string
	Freshness    mirror.Freshness
}

// Config is what New needs.
type Config struct {
	DB     *storage.DB
	Ledger *ledger.Ledger
	// Now is a clock that never goes back, such as [ledger.Clock.Now]; nil: one that is made here.
	Now      func() time.Time
	Policies []Policy
	// HighRisk and HighRiskKeys (PEM blocks PUBLIC KEY) never leave enforce.
	HighRisk     []Pattern
	HighRiskKeys [][]byte
	MaxAudit     time.Duration // the longest exception; 0: 24 hours
	// Material returns today's trust material: Sigstore's, with the keys of our private log. Nil: there
	// is none yet.
	Material func() root.TrustedMaterial
	// Held says what the mirror knows of an entry: origin is the one in the bundle's checkpoint, size and
	// root are that checkpoint's, index is in that tree. If size is 0 there is a promise alone (a SET of
	// Rekor v1): origin is the host of the log in the trust material, and index the virtual one. It is
	// asked of entries that did not verify, too: what they contradict is told as well. Nil knows nothing.
	Held  func(ctx context.Context, origin string, index uint64, leafHash storage.Hash, size uint64, root storage.Hash) Held
	State func() outage.State // of all upstreams together; nil: live
	Drill func() string       // id of the drill that runs, or ""; nil: none
	// KeepBytes bounds the bundles that are kept for Again; 0: 1 GiB. Beyond it the oldest goes.
	KeepBytes int64
	Logger    *slog.Logger // nil: nothing is logged
	Metrics   *Metrics
}

// Decision is the answer to a Request.
type Decision struct {
	ID      string   `json:"id"`
	Allow   bool     `json:"allow"`
	Reasons []Reason `json:"reasons"` // at least one
	// RestsOn is what verified evidence the decision rests on, of entry Index of the log Origin; "" if
	// there is none. Origin is empty with a promise alone, too.
	RestsOn RestsOn      `json:"rests_on,omitempty"`
	Origin  string       `json:"origin,omitempty"`
	Index   uint64       `json:"index,omitempty"`
	Mode    string       `json:"mode"`
	Policy  string       `json:"policy"`
	State   outage.State `json:"state"`
	// Exception is the one that allowed what Reasons deny.
	Exception string `json:"exception,omitempty"`
	// Identity and Issuer are what the bundle's certificate says; they are verified if it is allowed
	// and Exception is empty.
	Identity  string           `json:"identity,omitempty"`
	Issuer    string           `json:"issuer,omitempty"`
	Freshness mirror.Freshness `json:"freshness"` // of what RestsOn names; zero if nothing is known
	At        time.Time        `json:"at"`
	Seq       uint64           `json:"seq,omitempty"` // of the row of the ledger; 0: none
}

// ErrNoMaterial says that there is no trust material yet, so that nothing can be decided.
var ErrNoMaterial = errors.New("no trust material yet: nothing can be verified until the TUF repository was read once, or trusted_root names a file")

// Verifier decides. Its methods may be called concurrently.
type Verifier struct {
	c          Config
	now        func() time.Time
	policies   map[string]*policy
	highKeys   []*key
	running    chan struct{} // as many evaluations at once as processors
	exceptions exceptions
	rollbacks  rollbacks
	kept       kept
	logger     *slog.Logger
}

// New makes the verifier of a database, with the exceptions and rollback bundles that are kept in it.
func New(c Config) (*Verifier, error) {
	if c.DB == nil || c.Ledger == nil || c.Material == nil {
		return nil, errors.New("verdict: database, ledger and trust material are needed")
	}
	if c.MaxAudit == 0 {
		c.MaxAudit = 24 * time.Hour
	}
	if c.KeepBytes == 0 {
		c.KeepBytes = 1 << 30
	}
	if c.State == nil {
		c.State = func() outage.State { return outage.Live }
	}
	if c.Drill == nil {
		c.Drill = func() string { return "" }
	}
	if c.Held == nil {
		c.Held = func(context.Context, string, uint64, storage.Hash, uint64, storage.Hash) Held { return Held{} }
	}
	v := &Verifier{c: c, now: c.Now, logger: c.Logger, running: make(chan struct{}, runtime.GOMAXPROCS(0))}
	if v.logger == nil {
		v.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if v.now == nil {
		clock, err := ledger.NewClock(c.DB, nil)
		if err != nil {
			return nil, err
		}
		v.now = clock.Now
	}
	if v.policies, err = parsePolicies(c.Policies); err != nil {
		return nil, err
	}
	for _, p := range c.HighRisk {
		if p.Identity == "" {
			return nil, errors.New("a high-risk identity has no name; * stands for any")
		}
	}
	for _, data := range c.HighRiskKeys {
		k, err := parseKey(data)
		if err != nil {
			return nil, fmt.Errorf("high-risk key: %w", err)
		}
		v.highKeys = append(v.highKeys, k)
	}
	if err := errors.Join(v.exceptions.load(c.DB), v.rollbacks.load(c.DB), v.kept.load(c.DB)); err != nil {
		return nil, err
	}
	v.c.Metrics.begin(v)
	return v, nil
}

// Verify decides. The error says that nothing could be decided: ErrNoMaterial, that of ctx, or that of
// the database; what is wrong with the request is a denial.
func (v *Verifier) Verify(ctx context.Context, r Request) (Decision, error) {
	before := v.c.State()
	d, row, e, err := v.decide(ctx, &r)
	if err != nil {
		return Decision{}, err
	}
	// An upstream that ceases to be live meanwhile makes it a decision of the outage.
	if d.State = v.c.State(); d.State == outage.Live {
		d.State = before
	}
	if err := v.settle(&d, row, e, &r); err != nil {
		return Decision{}, err
	}
	v.c.Metrics.decided(v, &d)
	return d, nil
}

// decision is the body of a row "decision". What it has beyond Decision is what Again needs.
type decision struct {
	ID           string       `json:"id"`
	Policy       string       `json:"policy"`
	Mode         string       `json:"mode"`
	Decision     string       `json:"decision"` // allow or deny
	Reasons      []Reason     `json:"reasons"`
	RestsOn      RestsOn      `json:"rests_on"`
	State        outage.State `json:"state"`
	BundleSHA256 string       `json:"bundle_sha256"`
	Artifact     string       `json:"artifact"` // sha256:HEX
	Identity     string       `json:"identity,omitempty"`
	Issuer       string       `json:"issuer,omitempty"`
	Origin       string       `json:"origin,omitempty"`
	Index        uint64       `json:"index,omitempty"`
	Exception    string       `json:"exception,omitempty"`
	Drill        string       `json:"drill,omitempty"`
	Expected     *Identity    `json:"expected,omitempty"` // of the request
	PublicKey    string       `json:"public_key,omitempty"`

	keep     bool // the bundle
	weakened bool // it is a row also while everything is live
}

// maxDeniedName bounds the bytes of each name in the row of a denial. Its bundle is not kept, so nobody verifies
// it again with them, and whoever is denied chooses how long they are, and how many such rows there are.
const maxDeniedName = 100

// shorten makes the row one of a denial.
func (d *decision) shorten() {
	short := func(name string) string { return oneLine(name, maxDeniedName) }
	d.Identity, d.Issuer, d.Origin = short(d.Identity), short(d.Issuer), short(d.Origin)
	if i := d.Expected; i != nil {
		d.Expected = &Identity{SAN: short(i.SAN), SANRegexp: short(i.SANRegexp), Issuer: short(i.Issuer), IssuerRegexp: short(i.IssuerRegexp)}
	}
	d.Reasons = slices.Clone(d.Reasons)
	for i, r := range d.Reasons {
		d.Reasons[i].Text = oneLine(r.Text, 2*maxDeniedName)
	}
}

const kindDecision = "decision"

const (
	allowed = "allow"
	denied  = "deny"
)

// decide makes the decision and its row, but for what depends on when it is answered.
func (v *Verifier) decide(ctx context.Context, r *Request) (Decision, *decision, *evaluation, error) {
	sum := sha256.Sum256(r.Bundle)
	d := Decision{ID: "d-" + strings.ToLower(rand.Text()[:16]), Mode: ModeEnforce, Policy: oneLine(cmpOr(r.Policy, DefaultPolicy), 100)}
	row := &decision{ID: d.ID, Policy: d.Policy, BundleSHA256: hex.EncodeToString(sum[:]), Artifact: artifactOf(r)}
	pin := v.rollbacks.find(row.BundleSHA256, row.Artifact, d.Policy)
	e, err := v.evaluate(ctx, r)
	if ctx.Err() != nil {
		return d, nil, nil, ctx.Err()
	}
	if err != nil && (pin == nil || !errors.Is(err, ErrNoMaterial)) {
		return d, nil, nil, err
	}
	if err != nil {
		e.add(CodeUnverified, "%v", err)
	}
	d.Reasons, d.RestsOn, d.Origin, d.Index, d.Freshness = e.reasons, e.restsOn, e.origin, e.index, e.freshness
	d.Identity, d.Issuer = e.identity, e.issuer
	if e.asked.identity != nil {
		row.Expected = &e.asked.identity.Identity
	}
	if e.asked.key != nil {
		row.PublicKey = string(e.asked.key.pem)
	}
	row.keep = e.ok
	switch why := pin.fits(e); {
	case pin != nil && why == nil:
		d.Allow, d.RestsOn, d.Origin, d.Index, d.Freshness = true, Pinned, "", 0, mirror.Freshness{}
		d.Identity, d.Issuer = pin.Identity, pin.Issuer
		d.Reasons, row.weakened = pin.reasons(e), !e.ok
	case e.ok:
		d.Allow = true
		d.Reasons = []Reason{because(CodeOK, "everything verifies")}
	}
	return d, row, e, nil
}

// settle applies the exception that holds for the policy, if there is one, and makes the row durable
// where there must be one.
func (v *Verifier) settle(d *Decision, row *decision, e *evaluation, r *Request) error {
	// An exception must not end between the decision that rests on it and its row: whoever ends it
	// waits for the commit.
	v.exceptions.mu.RLock()
	defer v.exceptions.mu.RUnlock()
	d.At = v.now()
	if x := v.exceptions.activeLocked(v, d.Policy, d.At); x != nil {
		v.audit(d, row, e, x)
	}
	if d.State == outage.Live && !row.weakened {
		return nil
	}
	row.State, row.Mode, row.Reasons, row.RestsOn, row.Exception = d.State, d.Mode, d.Reasons, d.RestsOn, d.Exception
	row.Identity, row.Issuer, row.Origin, row.Index = d.Identity, d.Issuer, d.Origin, d.Index
	row.Decision, row.Drill = denied, v.c.Drill()
	if d.Allow {
		row.Decision = allowed
	} else {
		row.shorten()
	}
	entry := ledger.Entry{Kind: kindDecision, Body: row}
	if row.keep || d.Allow {
		entry.Records = v.kept.stage(row.BundleSHA256, r.Bundle, v.c.KeepBytes)
	}
	rows, err := v.c.Ledger.Append(entry)
	if err != nil {
		return fmt.Errorf("record the decision: %w", err)
	}
	v.kept.done(row.BundleSHA256, entry.Records)
	d.Seq = rows[0].Seq
	return nil
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// artifactOf is how rows name an artifact; "" if the request's digest is none.
func artifactOf(r *Request) string {
	if checkDigest(r) != nil {
		return ""
	}
	return r.Algorithm + ":" + hex.EncodeToString(r.Digest)
}

func checkDigest(r *Request) error {
	want, ok := map[string]int{"sha256": 32, "sha384": 48, "sha512": 64}[r.Algorithm]
	if !ok {
		return fmt.Errorf("the algorithm of the artifact's digest is %q: want sha256, sha384 or sha512", oneLine(r.Algorithm, 40))
	}
	if len(r.Digest) != want {
		return fmt.Errorf("the artifact's digest has %d bytes, and %s makes %d", len(r.Digest), r.Algorithm, want)
	}
	return nil
}
