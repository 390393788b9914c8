package publish

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// Config is what New needs.
type Config struct {
	DB *storage.DB
	// Dir is the Folder with what was signed offline. It is looked at again and again.
	Dir string
	// Signers returns who signs for the two roles, until ctx ends. It is asked until it succeeds: what
	// was signed is served meanwhile.
	Signers func(ctx context.Context) (snapshot, timestamp signature.Signer, err error)
	// Signing returns who signs for the role signing, as Signers does; nil: nobody does here, and Switch
	// is refused.
	Signing func(ctx context.Context) (signature.Signer, error)
	// Lifetime is how long a timestamp is good; 0 is a week. It is signed anew when a seventh of
	// that is over. A snapshot, and the metadata of the role signing, is good for four times as long, and
	// signed anew after half of it.
	Lifetime time.Duration
	Logger   *slog.Logger
	Metrics  *trust.Metrics
}

// Publisher serves a Folder as a repository, with snapshots and timestamps that it signs, and with one of
// the SigningConfigs that the folder approves.
//
// It is a trust.Repository that follows ourselves: what was signed is taken by the rules for
// clients, as a whole, and is durable before it is served. So nothing is served that a client would
// refuse, nothing goes back, and every version is kept.
type Publisher struct {
	*trust.Repository

	cfg     Config
	folder  *Folder
	signers map[string]signature.Signer // by role; nil until Signers has succeeded; of publish alone
	draft   draft                       // what the repository follows; of publish alone
	updated time.Time                   // when it last followed
	refused map[string]refusal          // pairs of root and targets that it did not take, by their hash
	reload  bool                        // the signers are asked for again: a key is not the one that the folder names

	signing  signature.Signer // nil until Config.Signing has succeeded; of publish alone
	reopen   bool             // it is asked for again; of publish alone
	unsigned error            // why the SigningConfig that is wanted could not be signed, the last time; of publish alone
	// anew is true until a draft is served. Nobody here can know whether this database is an older one that
	// was restored, in which a switch has left no trace: so what a switch signs is signed anew at the start,
	// with numbers that clients have not seen. Of publish alone.
	anew bool
	switching

	told    sync.Mutex
	problem *trust.RepositoryProblem // why the newest in the folder is not served; guarded by told
}

// draft is what the next version would be: files by path.
type draft map[string][]byte

// RoundTrip answers a request with a file of the draft.
func (d *draft) RoundTrip(r *http.Request) (*http.Response, error) {
	_, file, _ := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	answer := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Request: r, Body: http.NoBody}
	data, ok := (*d)[file]
	if !ok {
		answer.StatusCode, answer.Status = http.StatusNotFound, "404 Not Found"
		return answer, nil
	}
	answer.Body = io.NopCloser(bytes.NewReader(data))
	return answer, nil
}

// firstRecord keeps the first root of the repository that was served last: it is served again when
// the folder is gone.
const firstRecord = "tuf of our own"

// New returns the publisher of a folder with what it has published before. If the folder has another
// repository than that, it takes its place if all of it is there, the keys of Signers, too.
func New(ctx context.Context, cfg Config) (*Publisher, error) {
	cfg.Lifetime = cmp.Or(cfg.Lifetime, 7*24*time.Hour)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{cfg: cfg, folder: &Folder{dir: cfg.Dir}, refused: map[string]refusal{}, anew: true}
	kept, err := cfg.DB.Record(firstRecord)
	if err != nil && !errors.As(err, new(*storage.DamageError)) {
		return nil, err
	}
	first, err := p.folder.read(rootFile(1))
	if err == nil {
		err = safely(func() error {
			if _, err := readRoot(first, 1); err != nil {
				return err
			}
			_, err := trustedmetadata.New(first)
			return err
		})
		if kept != nil && (err != nil || !bytes.Equal(SignedPart(first), SignedPart(kept)) && !p.complete(ctx)) {
			first, err = kept, nil // what is served is not given up for what cannot be
		}
	}
	switch {
	case err != nil && kept != nil:
		first = kept
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the TUF repository: %w; \"understudy trust init\" makes one", err)
	case errors.Is(err, &metadata.ErrUnsignedMetadata{}):
		return nil, fmt.Errorf("the TUF repository in %s: %s: %w; \"understudy trust sign --root\" adds a signature that is lacking", cfg.Dir, rootFile(1), err)
	case err != nil:
		return nil, fmt.Errorf("the TUF repository in %s: %s: %w", cfg.Dir, rootFile(1), err)
	}
	// Another first root is another repository: nothing of one is ever served to clients of another.
	sum := sha256.Sum256(SignedPart(first))
	if p.Repository, err = trust.NewRepository(trust.RepositoryConfig{
		DB: cfg.DB, URL: "http://own.invalid/" + hex.EncodeToString(sum[:8]), Root: first,
		HTTPClient: &http.Client{Transport: &p.draft}, Logger: cfg.Logger, Metrics: cfg.Metrics, Label: "own", Name: cfg.Dir,
	}); err != nil {
		return nil, err
	}
	if err := p.loadMode(); err != nil {
		return nil, err
	}
	if bytes.Equal(kept, first) {
		return p, nil
	}
	return p, cfg.DB.PutRecord(firstRecord, first)
}

// complete says whether the folder can be published as a whole, with the keys that are here.
func (p *Publisher) complete(ctx context.Context) bool {
	if !p.folder.complete() {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	return safely(func() error {
		root, _, err := p.folder.newestRoot()
		if err != nil {
			return err
		}
		snapshot, timestamp, err := p.cfg.Signers(ctx)
		if err != nil {
			return err
		}
		return errors.Join(isKeyOf(root, metadata.SNAPSHOT, snapshot), isKeyOf(root, metadata.TIMESTAMP, timestamp), p.canSwitch(ctx))
	}) == nil
}

// SignedPart is what of a root is the same whoever has signed it; nil if it is no root.
func SignedPart(root []byte) (data []byte) {
	_ = safely(func() error {
		m, err := metadata.Root().FromBytes(root)
		if err == nil {
			m.ClearSignatures()
			data, err = m.ToBytes(false)
		}
		return err
	})
	return data
}

// safely makes an error of a panic: go-tuf does not expect null everywhere.
func safely(f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it cannot be read: %v", p)
		}
	}()
	return f()
}

const (
	lookEvery  = 5 * time.Second // at the folder; much less with a lifetime that is short
	checkEvery = time.Hour       // of what is served, by the rules for clients
)

// Run publishes until ctx ends. It returns an error only when the database can no longer be
// written. Who signs, or the disk with the folder, may not answer: that is told, and when ctx ends it
// is not waited for.
func (p *Publisher) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		done := make(chan error, 1)
		go func() { done <- p.Publish(ctx) }()
		if err, ok := p.await(ctx, done); !ok {
			return nil
		} else if _, refused := errors.AsType[*trust.RepositoryError](err); err != nil && !refused && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-p.wake:
		case <-time.After(min(lookEvery, p.cfg.Lifetime/20)):
		}
	}
	return nil
}

// await waits for a look at the folder, and says when it takes too long; ok is false if ctx has ended
// and it does not end.
func (p *Publisher) await(ctx context.Context, done <-chan error) (err error, ok bool) {
	began := time.Now()
	for {
		select {
		case err := <-done:
			return err, true
		case <-time.After(answerTime):
			p.tell(fmt.Errorf("the folder %s, or a key, does not answer since %s", p.cfg.Dir, began.UTC().Format(time.RFC3339)))
		case <-ctx.Done():
			select {
			case err := <-done:
				return err, true
			case <-time.After(stopTime):
				return nil, false
			}
		}
	}
}

const (
	answerTime = 2 * time.Minute // after which a look takes too long
	stopTime   = 3 * time.Second // that one has to end
)

// Publish looks at the folder, signs what has to be signed, and serves it. What cannot be
// published is told by Status and the log; the error is that of trust.Repository.Update, of what was
// to be served last. It is for one caller at a time.
func (p *Publisher) Publish(ctx context.Context) error {
	problem := safely(func() error { return p.prepare(ctx) })
	if problem != nil {
		p.tell(problem)
		return nil
	}
	roots, problem := p.roots()
	versions, held, published, err := p.versions()
	problem = errors.Join(problem, err)
	served := p.served()
	least := max(1, int(served[metadata.ROOT]))
	if held == 0 { // clients may have seen more than is here: only the newest is taken then
		if problem != nil && !errors.Is(problem, &metadata.ErrUnsignedMetadata{}) || len(versions) == 0 {
			least = len(roots) + 1 // but a root that lacks signatures no client has seen
		} else {
			least, versions = max(1, len(roots)), versions[:1]
		}
	}
	p.reload = false
	var failed error
	for last := len(roots); last >= least; last-- {
		for _, version := range versions {
			pair := p.pair(roots[last-1], version)
			var d draft
			err := p.refused[pair].recent(p.shortly())
			if err == nil {
				err = safely(func() (err error) { d, err = p.assemble(roots[:last], version, time.Now()); return err })
			}
			if err == nil && ctx.Err() != nil {
				return ctx.Err() // it took long, and Run has not waited
			}
			if err == nil {
				failed = p.serve(ctx, d, pair)
				if _, refused := errors.AsType[*trust.RepositoryError](failed); failed == nil || !refused || ctx.Err() != nil {
					if version == held {
						problem = errors.Join(problem, published)
					}
					p.anew = p.anew && (failed != nil || p.unsigned != nil)
					problem = errors.Join(problem, p.unsigned, p.clock(d, time.Now()))
					p.noteServed()
					p.tell(problem)
					return failed
				}
				err = failed
			}
			p.reload = p.reload || errors.As(err, new(*wrongKeyError)) // the right one may be in its place the next time
			if problem == nil {
				problem = err
			}
		}
	}
	if problem == nil {
		problem = fmt.Errorf("%s has no targets: \"understudy trust sign\" makes them", p.cfg.Dir)
	}
	p.tell(problem)
	return failed
}

// refusal is why a pair of root and targets was not taken, though each is good.
type refusal struct {
	at  time.Time
	err error
}

// recent is the refusal as long as it holds: nothing is signed for the pair then.
func (r refusal) recent(within time.Duration) error {
	if time.Since(r.at) < within {
		return r.err
	}
	return nil
}

// shortly is a small part of how long a timestamp is good: an hour of a week.
func (p *Publisher) shortly() time.Duration { return p.cfg.Lifetime / 168 }

// pair names a pair of root and targets.
func (p *Publisher) pair(root []byte, targets int64) string {
	data, _ := p.published(targetsFile(targets)) // without it there is nothing to refuse
	a, b := sha256.Sum256(root), sha256.Sum256(data)
	return hex.EncodeToString(a[:]) + hex.EncodeToString(b[:])
}

// serve serves a draft, unless it is served already.
func (p *Publisher) serve(ctx context.Context, d draft, pair string) error {
	current, ok := p.File("timestamp.json")
	if ok && bytes.Equal(current.Data, d["timestamp.json"]) && p.holdsRoots(d) && time.Since(p.updated) < checkEvery {
		return nil
	}
	p.draft = d
	err := p.Update(ctx)
	if _, refused := errors.AsType[*trust.RepositoryError](err); refused && ctx.Err() == nil {
		p.refused[pair] = refusal{time.Now(), err}
	}
	if err == nil {
		p.updated = time.Now()
	}
	return err
}

// clock says that a timestamp is good for longer than any is signed for: the clock is behind, or it was
// ahead when that was signed. Nobody here can know which. It is kept: what is signed by a clock that is
// behind may be dead for clients, and what was signed by one that was ahead is only good for too long.
func (p *Publisher) clock(d draft, now time.Time) error {
	t, err := metadata.Timestamp().FromBytes(d["timestamp.json"])
	if err == nil && t.Signed.Expires.Sub(now) > p.cfg.Lifetime {
		err = fmt.Errorf("the timestamp is good until %s, longer than any is: this machine's clock is behind, or was ahead; if it was ahead, \"understudy trust rotate DIR timestamp\" ends it", t.Signed.Expires.Format(time.RFC3339))
	}
	return err
}

// prepare gets who signs.
func (p *Publisher) prepare(ctx context.Context) error {
	p.prepareSigning(ctx)
	if p.signers != nil && !p.reload {
		return nil
	}
	snapshot, timestamp, err := p.cfg.Signers(ctx)
	if err != nil && p.signers != nil {
		return nil // those at hand go on
	}
	if err == nil {
		p.signers = map[string]signature.Signer{metadata.SNAPSHOT: snapshot, metadata.TIMESTAMP: timestamp}
	}
	return err
}

// versions returns which targets come into question, the newest first, and which are published.
// published is what is wrong with these, which is no matter once there are newer ones.
func (p *Publisher) versions() (versions []int64, held int64, published, err error) {
	versions, err = p.folder.versions(metadata.TARGETS)
	held = p.served()[metadata.TARGETS]
	if len(versions) > 0 && versions[0] < held {
		published = fmt.Errorf("the newest targets in %s are version %d, and %d was published: bring the newer ones back", p.cfg.Dir, versions[0], held)
	}
	if f, ok := p.File(targetsFile(held)); ok {
		if other, err := p.folder.read(targetsFile(held)); err == nil && !bytes.Equal(other, f.Data) {
			published = fmt.Errorf("%s is another one than was published, and is not taken: a version is signed once, the next one with \"understudy trust sign\"", targetsFile(held))
		}
	}
	versions = slices.DeleteFunc(versions, func(version int64) bool { return version <= held })
	if held > 0 {
		versions = append(versions, held)
	}
	return versions, held, published, err
}

// holdsRoots says whether every root of a draft is served.
func (p *Publisher) holdsRoots(d draft) bool {
	for version := int64(1); d[rootFile(version)] != nil; version++ {
		if _, ok := p.File(rootFile(version)); !ok {
			return false
		}
	}
	return true
}

// tell notes why the newest that the folder has is not served: once in the log.
func (p *Publisher) tell(problem error) {
	p.told.Lock()
	defer p.told.Unlock()
	switch {
	case problem == nil:
		if p.problem != nil {
			p.cfg.Logger.Info("the newest in the folder of our own TUF repository is served again", "folder", p.cfg.Dir)
		}
		p.problem = nil
	case p.problem == nil || p.problem.Text != problem.Error():
		p.cfg.Logger.Error("our own TUF repository is not served as its folder has it; the last good version stays served", "folder", p.cfg.Dir, "error", problem)
		since := time.Now()
		if p.problem != nil {
			since = p.problem.Since
		}
		p.problem = &trust.RepositoryProblem{Reason: trust.ReasonUnsigned, Text: problem.Error(), Since: since}
	}
}

// Status returns the state of the repository.
func (p *Publisher) Status() trust.RepositoryStatus {
	s := p.Repository.Status()
	p.told.Lock()
	defer p.told.Unlock()
	if p.problem != nil {
		problem := *p.problem
		s.Problem = &problem
	}
	return s
}

// UpToDate says whether the TrustedRoot that is served has all that Sigstore's newest has, and nothing
// that Sigstore has withdrawn; true if none is served.
func (p *Publisher) UpToDate(newest []byte) bool {
	ours := p.Target(trust.RootTarget)
	if ours == nil {
		return true
	}
	var history [][]byte
	for _, name := range p.Names() {
		if data := p.Target(name); data != nil && strings.HasPrefix(name, "history/trusted_root/") {
			history = append(history, data)
		}
	}
	return trust.UpToDate(ours, newest, history)
}

// served is the version of each role that was served last, also if that is damaged.
func (p *Publisher) served() map[string]int64 {
	versions := map[string]int64{}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		versions[role] = p.Seen(role)
	}
	return versions
}

// roots returns the chain of roots. The error is what is wrong with the folder's.
func (p *Publisher) roots() (roots [][]byte, problem error) {
	roots, problem = chain(p.published)
	for i, data := range roots {
		file := rootFile(int64(i + 1))
		if other, err := p.folder.read(file); err == nil && !bytes.Equal(SignedPart(other), SignedPart(data)) {
			problem = errors.Join(problem, fmt.Errorf("%s is another one than was published, and is not taken: bring the folder that has the one that was", file))
		}
	}
	if newest, _ := p.folder.versions(metadata.ROOT); problem == nil && len(newest) > 0 && newest[0] > int64(len(roots)) {
		problem = fmt.Errorf("%s has %s, but not %s", p.cfg.Dir, rootFile(newest[0]), rootFile(int64(len(roots)+1)))
	}
	return roots, problem
}

// published is a file that never changes: what is served, else that of the folder.
func (p *Publisher) published(file string) ([]byte, error) {
	if f, ok := p.File(file); ok {
		return f.Data, nil
	}
	return p.folder.read(file)
}
