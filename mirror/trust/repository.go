package trust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/storage"
)

// RepositoryConfig is what NewRepository needs.
type RepositoryConfig struct {
	DB *storage.DB
	// URL is where the repository's metadata is; targets are below targets/. Empty: the public
	// Sigstore's.
	URL string
	// Root is the root.json to begin with, of any version. Empty: the one of the public Sigstore
	// that sigstore-go carries.
	Root []byte
	// Poll is the time between updates; 0 is an hour.
	Poll time.Duration
	// Contact is somebody to write to, for the User-Agent.
	Contact string
	// HTTPClient sends the requests; nil is a new one.
	HTTPClient *http.Client
	// Now is the clock by which metadata expires, as a drill may shift it; what is kept has the times of
	// this machine. nil is time.Now. Polled is told what became of each update; nil: nobody is.
	Now     func() time.Time
	Polled  func(started time.Time, err error)
	Logger  *slog.Logger
	Metrics *Metrics
	// Label says in metrics which repository it is; empty is "upstream". Name is what it is called
	// elsewhere; empty is its URL.
	Label, Name string
}

// Repository is a verified copy of a TUF repository. It follows upstream as a client does
// (TUF specification, section 5), keeps every version that it has seen, and serves the bytes of
// the newest one that verified as a whole.
type Repository struct {
	cfg     RepositoryConfig
	url     string // ends in a slash
	served  atomic.Pointer[served]
	began   time.Time
	due     chan struct{} // has a token when an update is due at once
	elders  string        // why older roots could not be had, the last time; of update alone
	mu      sync.Mutex
	changed chan struct{} // closed when there is another version; guarded by mu
	state   attempts      // guarded by mu
}

// attempts is what became of updates.
type attempts struct {
	checked time.Time        // when upstream last vouched for what is served; zero: never
	problem *RepositoryError // of the last update; nil if it succeeded
	since   time.Time        // when updates began to fail
}

// NewRepository returns the repository with what is kept of it.
func NewRepository(cfg RepositoryConfig) (*Repository, error) {
	if cfg.URL == "" {
		cfg.URL = tuf.DefaultMirror
	}
	if len(cfg.Root) == 0 {
		cfg.Root = tuf.DefaultRoot()
	}
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("url %q of a TUF repository is not an http or https address", cfg.URL)
	}
	if _, err := metadata.Root().FromBytes(cfg.Root); err != nil {
		return nil, fmt.Errorf("root of the TUF repository %s: %w", cfg.URL, err)
	}
	cfg.Name = cmp.Or(cfg.Name, cfg.URL)
	cfg.Poll, cfg.Label = cmp.Or(cfg.Poll, time.Hour), cmp.Or(cfg.Label, "upstream")
	if cfg.HTTPClient == nil {
		cfg.HTTPClient = &http.Client{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	r := &Repository{cfg: cfg, url: strings.TrimRight(cfg.URL, "/") + "/", began: time.Now(), due: make(chan struct{}, 1), changed: make(chan struct{})}
	kept, checked, err := r.load()
	if err != nil {
		return nil, fmt.Errorf("read the copy of the TUF repository %s: %w", cfg.URL, err)
	}
	r.served.Store(kept)
	r.state.checked = checked
	cfg.Metrics.follow(r)
	return r, nil
}

// updateRetry is the first wait after a failed update; it doubles.
const updateRetry = 10 * time.Second

// Run updates the copy until ctx ends. It returns an error only when the database can no longer
// be written.
func (r *Repository) Run(ctx context.Context) error {
	retry := updateRetry
	for ctx.Err() == nil {
		started := time.Now()
		err := r.Update(ctx)
		if r.cfg.Polled != nil && ctx.Err() == nil {
			r.cfg.Polled(started, err)
		}
		wait := r.cfg.Poll
		if _, upstream := errors.AsType[*RepositoryError](err); err != nil && !upstream && ctx.Err() == nil {
			return err
		}
		if err != nil {
			wait, retry = min(retry, wait), min(2*retry, r.cfg.Poll)
		} else {
			retry = updateRetry
		}
		least := asked(err) // nobody's word that it is back makes us forget that
		select {
		case <-ctx.Done():
		case <-time.After(least):
		}
		select {
		case <-ctx.Done():
		case <-r.due:
		case <-time.After(max(wait/2+rand.N(wait), least) - least):
		}
	}
	return nil
}

// Poll has Run update now, and not when that is due.
func (r *Repository) Poll() {
	select {
	case r.due <- struct{}{}:
	default: // it is asked for already
	}
}

// asked is how long upstream asked to wait.
func asked(err error) time.Duration {
	if problem, ok := errors.AsType[*RepositoryError](err); ok {
		return min(problem.After, time.Hour)
	}
	return 0
}

// Update asks upstream once. What it answers is kept and served if all of it verifies;
// otherwise nothing changes, and the error is a *RepositoryError. Other errors are those of the
// database and of ctx. It is for one caller at a time.
func (r *Repository) Update(ctx context.Context) error {
	now := time.Now()
	next, err := r.update(ctx, now)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = r.commit(next, now)
	}
	if problem, ok := errors.AsType[*RepositoryError](err); ok {
		r.failed(problem, now)
	}
	return err
}

// commit makes a version durable, and then serves it.
func (r *Repository) commit(next *served, now time.Time) error {
	before := r.served.Load()
	renewed := !before.same(next)
	next.history, next.floor = before.history.with(&next.version), floorOf(next.Roles)
	if err := r.keep(next, renewed, now); err != nil {
		return fmt.Errorf("keep the TUF repository %s: %w", r.cfg.Name, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.problem != nil {
		r.cfg.Logger.Info("the TUF repository can be updated again", "repository", r.cfg.Name, "after", now.Sub(r.state.since).Round(time.Second))
	}
	r.state = attempts{checked: now}
	if renewed {
		r.served.Store(next)
		close(r.changed)
		r.changed = make(chan struct{})
		r.cfg.Logger.Info("a new version of the TUF repository is verified and kept", "repository", r.cfg.Name, "roles", next.roles())
	}
	return nil
}

// failed notes why an update failed; it is said once, and again when the reason changes.
func (r *Repository) failed(problem *RepositoryError, now time.Time) {
	r.cfg.Metrics.failed(r, problem)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state.problem == nil {
		r.state.since = now
	}
	if old := r.state.problem; old == nil || old.Reason != problem.Reason || old.File != problem.File {
		r.cfg.Logger.Warn("the copy of the TUF repository cannot be updated; what is held stays served, and it is tried again",
			"repository", r.cfg.Name, "reason", problem.Reason, "error", problem)
	}
	r.state.problem = problem
}

// Seen is the version of a role that was seen last, also if what is kept of it is damaged; 0 is none.
func (r *Repository) Seen(role string) int64 {
	s := r.served.Load()
	version := s.floor[role]
	for _, held := range s.Roles {
		if held.Name == role {
			version = max(version, held.Version)
		}
	}
	return version
}

// Changed is closed when another version is served.
func (r *Repository) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// File is a file of the repository as upstream has it.
type File struct {
	Data []byte
	Hash string // hex SHA-256
	// Forever says that its name has a version or a hash in it: it never changes.
	Forever bool
}

// File returns the file at a path below the repository's URL. Those of earlier versions that
// have a version in their name stay.
func (r *Repository) File(path string) (File, bool) {
	f, ok := r.served.Load().files[path]
	return f, ok
}

// Target returns a target of the newest version by its name; nil if there is none.
func (r *Repository) Target(name string) []byte {
	s := r.served.Load()
	return s.files[s.Targets[name]].Data
}

// CurrentRoot returns the TrustedRoot of the newest version. The error says why clients would
// take none from it.
func (r *Repository) CurrentRoot() (*Root, error) {
	data := r.Target(RootTarget)
	expired, isExpired := r.Status().Expired(time.Now())
	switch {
	case data == nil:
		return nil, fmt.Errorf("the copy of the TUF repository %s has no trusted root yet", r.cfg.Name)
	case isExpired:
		return nil, fmt.Errorf("the %s metadata in the copy of the TUF repository %s expired at %s", expired.Name, r.cfg.Name, expired.Expires.UTC().Format(time.RFC3339))
	}
	return ParseRoot(data)
}

// TrustedRoot is CurrentRoot, and waits until there is one.
func (r *Repository) TrustedRoot(ctx context.Context) (*Root, error) {
	for {
		changed := r.Changed()
		root, err := r.CurrentRoot()
		if err == nil {
			return root, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// RepositoryStatus is what there is to know of a repository.
type RepositoryStatus struct {
	URL string `json:"url"`
	// Checked is when upstream last vouched for what is served; nil: never.
	Checked *time.Time `json:"checked,omitempty"`
	// Seen is when what is served was first seen; nil: there is nothing.
	Seen    *time.Time         `json:"seen,omitempty"`
	Roles   []Role             `json:"roles"` // of the version that is served, in the order of trust
	Problem *RepositoryProblem `json:"problem,omitempty"`
}

// RepositoryProblem is why a repository cannot be updated.
type RepositoryProblem struct {
	Reason string    `json:"reason"`
	Text   string    `json:"text"`
	Since  time.Time `json:"since"`
}

// Role is a role of a TUF repository.
type Role struct {
	Name    string    `json:"name"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"` // clients refuse its metadata from then on
}

// Expired returns the first top-level role that has expired at a time; ok is false if none has.
func (s RepositoryStatus) Expired(at time.Time) (role Role, ok bool) {
	i := slices.IndexFunc(s.Roles, func(role Role) bool { return topLevel(role.Name) && !at.Before(role.Expires) })
	if i < 0 {
		return Role{}, false
	}
	return s.Roles[i], true
}

// Status returns the state of the repository.
func (r *Repository) Status() RepositoryStatus {
	r.mu.Lock()
	state := r.state
	r.mu.Unlock()
	s := r.served.Load()
	status := RepositoryStatus{URL: r.cfg.Name, Roles: s.Roles}
	if !s.Seen.IsZero() {
		status.Seen = &s.Seen
	}
	if !state.checked.IsZero() {
		status.Checked = &state.checked
	}
	if p := state.problem; p != nil {
		status.Problem = &RepositoryProblem{Reason: p.Reason, Text: p.Error(), Since: state.since}
	}
	return status
}

// Why a repository cannot be updated.
const (
	ReasonUnreachable = "unreachable" // no answer, or not one of the repository
	ReasonExpired     = "expired"     // metadata is older than it may be
	ReasonRollback    = "rollback"    // metadata is older than what was seen
	ReasonSignature   = "signature"   // fewer good signatures than the role's threshold
	ReasonRootChain   = "root_chain"  // a root is not the successor of the one before
	ReasonMismatch    = "mismatch"    // length or hash is not what the metadata says
	ReasonTooLong     = "too_long"    // more bytes than anything of its kind may have
	ReasonMissing     = "missing"     // metadata names what is not there
	ReasonMalformed   = "malformed"   // it cannot be read
	ReasonUnsigned    = "unsigned"    // of our own: something has to be signed, or signed otherwise
)

// RepositoryError says why an update of a TUF repository was refused.
type RepositoryError struct {
	Reason string
	File   string // path below the repository's URL
	Err    error
	After  time.Duration // how long upstream asked to wait; 0 if it did not
}

func (e *RepositoryError) Error() string { return fmt.Sprintf("%s: %v", e.File, e.Err) }

// Unwrap returns the cause.
func (e *RepositoryError) Unwrap() error { return e.Err }

// refuse is the error for a file that go-tuf refuses.
func refuse(file string, err error) error {
	reason := ReasonMalformed
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case is(&metadata.ErrExpiredMetadata{}):
		reason = ReasonExpired
	case is(&metadata.ErrUnsignedMetadata{}):
		reason = ReasonSignature
	case is(&metadata.ErrBadVersionNumber{}) && strings.HasSuffix(file, ".root.json"):
		reason = ReasonRootChain
	case is(&metadata.ErrBadVersionNumber{}):
		reason = ReasonRollback
	case is(&metadata.ErrLengthOrHashMismatch{}), is(&metadata.ErrDownloadLengthMismatch{}):
		reason = ReasonMismatch
	case is(&metadata.ErrRepository{}):
		reason = ReasonMissing
	}
	return &RepositoryError{Reason: reason, File: file, Err: err}
}

// errAbsent: upstream answered that there is no such file.
var errAbsent = errors.New("upstream has no such file")

const updateRequestTime = 30 * time.Second // for one request, answer included

// fetch returns a file of upstream, of at most limit bytes.
func (r *Repository) fetch(ctx context.Context, file string, limit int64) (data []byte, err error) {
	fail := func(reason string, err error) ([]byte, error) {
		return nil, &RepositoryError{Reason: reason, File: file, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, updateRequestTime)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url+file, nil)
	if err != nil {
		return fail(ReasonMalformed, err)
	}
	request.Header.Set("User-Agent", userAgent)
	if r.cfg.Contact != "" {
		request.Header.Set("From", r.cfg.Contact)
	}
	answer, err := r.cfg.HTTPClient.Do(request)
	if err != nil {
		return fail(ReasonUnreachable, err)
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return fail(ReasonMissing, errAbsent)
	default:
		after, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return nil, &RepositoryError{Reason: ReasonUnreachable, File: file, Err: fmt.Errorf("upstream answered %s", answer.Status),
			After: time.Duration(max(after, 0)) * time.Second}
	}
	data, err = io.ReadAll(io.LimitReader(answer.Body, limit+1))
	switch {
	case int64(len(data)) > limit:
		return fail(ReasonTooLong, fmt.Errorf("it has more than %d bytes", limit))
	case err != nil:
		return fail(ReasonUnreachable, err)
	}
	return data, nil
}
