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
	// Lifetime is how long a timestamp is good; 0 is a week. It is signed anew when a seventh of
	// that is over. A snapshot is good for four times as long, and signed anew after half of it.
	Lifetime time.Duration
	Logger   *slog.Logger
	Metrics  *trust.Metrics
}

// Publisher serves a Folder as a repository, with snapshots and timestamps that it signs.
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

	mu      sync.Mutex
	problem *trust.RepositoryProblem // why the newest in the folder is not served; guarded by mu
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

// New returns the publisher of a folder with what it has published before.
func New(cfg Config) (*Publisher, error) {
	cfg.Lifetime = cmp.Or(cfg.Lifetime, 7*24*time.Hour)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{cfg: cfg, folder: &Folder{cfg.Dir}}
	kept, err := cfg.DB.Record(firstRecord)
	if err != nil && !errors.As(err, new(*storage.DamageError)) {
		return nil, err
	}
	first, err := p.folder.read(rootFile(1))
	if err == nil {
		_, err = trustedmetadata.New(first)
	}
	switch {
	case err != nil && kept != nil:
		first = kept
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("the TUF repository: %w; \"understudy trust init\" makes one", err)
	case err != nil:
		return nil, fmt.Errorf("the TUF repository in %s: %s: %w; \"understudy trust sign\" adds a signature that is lacking", cfg.Dir, rootFile(1), err)
	}
	// Another first root is another repository: nothing of one is ever served to clients of another.
	sum := sha256.Sum256(signedPart(first))
	if p.Repository, err = trust.NewRepository(trust.RepositoryConfig{
		DB: cfg.DB, URL: "http://own.invalid/" + hex.EncodeToString(sum[:8]), Root: first,
		HTTPClient: &http.Client{Transport: &p.draft}, Logger: cfg.Logger, Metrics: cfg.Metrics, Label: "own", Name: cfg.Dir,
	}); err != nil {
		return nil, err
	}
	if bytes.Equal(kept, first) {
		return p, nil
	}
	return p, cfg.DB.PutRecord(firstRecord, first)
}

// signedPart is what of a root is the same whoever has signed it.
func signedPart(root []byte) []byte {
	m, err := metadata.Root().FromBytes(root)
	if err != nil {
		return nil
	}
	m.ClearSignatures()
	data, err := m.ToBytes(false)
	if err != nil {
		return nil
	}
	return data
}

const (
	lookEvery  = 5 * time.Second // at the folder; much less with a lifetime that is short
	checkEvery = time.Hour       // of what is served, by the rules for clients
)

// Run publishes until ctx ends. It returns an error only when the database can no longer be
// written.
func (p *Publisher) Run(ctx context.Context) error {
	for {
		err := p.Publish(ctx)
		if _, refused := errors.AsType[*trust.RepositoryError](err); err != nil && !refused && ctx.Err() == nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(lookEvery, p.cfg.Lifetime/20)):
		}
	}
}

// Publish looks at the folder, signs what has to be signed, and serves it. What cannot be
// published is told by Status and the log; the error is that of trust.Repository.Update.
func (p *Publisher) Publish(ctx context.Context) error {
	next, problem := p.next(ctx, time.Now())
	p.tell(problem)
	if next == nil {
		return nil
	}
	current, ok := p.File("timestamp.json")
	if ok && bytes.Equal(current.Data, next["timestamp.json"]) && p.holdsRoots(next) && time.Since(p.updated) < checkEvery {
		return nil
	}
	p.draft = next
	if err := p.Update(ctx); err != nil {
		return err
	}
	p.updated = time.Now()
	return nil
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
	p.mu.Lock()
	defer p.mu.Unlock()
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
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.problem != nil {
		problem := *p.problem
		s.Problem = &problem
	}
	return s
}

// HasTarget says whether some target that is served has this content.
func (p *Publisher) HasTarget(content []byte) bool {
	for _, name := range p.Names() {
		if bytes.Equal(p.Target(name), content) {
			return true
		}
	}
	return false
}

// next returns the newest version that can be served; nil if none can. The error is why it is not
// what is newest in the folder. To serve what is older goes on then, with timestamps that are signed
// anew: clients must not die of a mistake in the folder.
func (p *Publisher) next(ctx context.Context, now time.Time) (draft, error) {
	if p.signers == nil {
		snapshot, timestamp, err := p.cfg.Signers(ctx)
		if err != nil {
			return nil, err
		}
		p.signers = map[string]signature.Signer{metadata.SNAPSHOT: snapshot, metadata.TIMESTAMP: timestamp}
	}
	roots, problem := p.roots()
	versions, err := p.folder.versions(metadata.TARGETS)
	if err != nil {
		problem = errors.Join(problem, err)
	}
	served := p.served()
	held := served[metadata.TARGETS]
	var published error // what is wrong with the targets that are held; no matter once there are newer ones
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
	for last := len(roots); last >= max(1, int(served[metadata.ROOT])); last-- {
		for _, version := range versions {
			d, err := p.assemble(roots[:last], version, now)
			switch {
			case err == nil && version == held:
				return d, errors.Join(problem, published)
			case err == nil:
				return d, problem
			}
			if problem == nil {
				problem = err
			}
		}
	}
	if problem == nil {
		problem = fmt.Errorf("%s has no targets: \"understudy trust sign\" makes them", p.cfg.Dir)
	}
	return nil, problem
}

// served is the version of each role that is served.
func (p *Publisher) served() map[string]int64 {
	versions := map[string]int64{}
	for _, role := range p.Repository.Status().Roles {
		versions[role.Name] = role.Version
	}
	return versions
}

// roots returns the chain of roots from the first one, as far as each is signed by its own keys
// and those of the one before. The error is why it ends before the last file.
func (p *Publisher) roots() (chain [][]byte, problem error) {
	var trusted *trustedmetadata.TrustedMetadata
	for version := int64(1); ; version++ {
		file := rootFile(version)
		data, err := p.published(file)
		if errors.Is(err, fs.ErrNotExist) {
			if newest, _ := p.folder.versions(metadata.ROOT); len(newest) > 0 && newest[0] > version {
				return chain, fmt.Errorf("%s has %s, but not %s", p.cfg.Dir, rootFile(newest[0]), file)
			}
			return chain, nil
		}
		if err == nil && trusted == nil {
			trusted, err = trustedmetadata.New(data)
		} else if err == nil {
			_, err = trusted.UpdateRoot(data)
		}
		if err != nil {
			return chain, fmt.Errorf("%s: %w; \"understudy trust sign\" adds a signature that is lacking", file, err)
		}
		chain = append(chain, data)
	}
}

// published is a file that never changes: what is served, else that of the folder.
func (p *Publisher) published(file string) ([]byte, error) {
	if f, ok := p.File(file); ok {
		return f.Data, nil
	}
	return p.folder.read(file)
}

// assemble returns a version of the repository, with snapshot and timestamp.
func (p *Publisher) assemble(roots [][]byte, version int64, now time.Time) (draft, error) {
	d := draft{}
	for i, root := range roots {
		d[rootFile(int64(i+1))] = root
	}
	root, err := metadata.Root().FromBytes(roots[len(roots)-1])
	if err != nil {
		return nil, err
	}
	if root.Signed.IsExpired(now) {
		return nil, fmt.Errorf("%s expired at %s: \"understudy trust rotate root\" makes one that does not", rootFile(root.Signed.Version), root.Signed.Expires.Format(time.RFC3339))
	}
	if err := p.assembleTargets(d, root, version, now); err != nil {
		return nil, err
	}
	if err := p.assembleSnapshot(d, root, version, now); err != nil {
		return nil, err
	}
	return d, nil
}

// assembleTargets adds targets, and what they name.
func (p *Publisher) assembleTargets(d draft, root *metadata.Metadata[metadata.RootType], version int64, now time.Time) error {
	file := targetsFile(version)
	data, err := p.published(file)
	if err != nil {
		return err
	}
	targets, err := metadata.Targets().FromBytes(data)
	if err == nil {
		err = root.VerifyDelegate(metadata.TARGETS, targets)
	}
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w; \"understudy trust sign\" with the targets key of %s makes the next one", file, err, rootFile(root.Signed.Version))
	case targets.Signed.Version != version:
		return fmt.Errorf("%s has version %d", file, targets.Signed.Version)
	case targets.Signed.IsExpired(now):
		return fmt.Errorf("%s expired at %s: \"understudy trust sign\" makes the next one", file, targets.Signed.Expires.Format(time.RFC3339))
	}
	d[file] = data
	for name, meta := range targets.Signed.Targets {
		file := trust.TargetFile(name, meta.Hashes["sha256"])
		if f, ok := p.File(file); ok && meta.VerifyLengthHashes(f.Data) == nil {
			d[file] = f.Data
		} else if d[file], err = p.folder.target(name, meta); err != nil {
			return err
		}
		if name == trust.RootTarget {
			if _, err := trust.ParseRoot(d[file]); err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
		}
	}
	return nil
}

// assembleSnapshot adds a snapshot and a timestamp: those that are served, or others if these name
// something else, or have been good for long enough.
func (p *Publisher) assembleSnapshot(d draft, root *metadata.Metadata[metadata.RootType], targets int64, now time.Time) error {
	for role, signer := range p.signers {
		if err := isKeyOf(root, role, signer); err != nil {
			return err
		}
	}
	life := 4 * p.cfg.Lifetime
	served := p.served()
	file := fmt.Sprintf("%d.snapshot.json", served[metadata.SNAPSHOT])
	named := metaOf(targets, d[targetsFile(targets)])
	if f, ok := p.File(file); ok {
		if s, err := metadata.Snapshot().FromBytes(f.Data); err == nil && root.VerifyDelegate(metadata.SNAPSHOT, s) == nil &&
			same(s.Signed.Meta["targets.json"], named) && s.Signed.Expires.Sub(now) > life/2 {
			d[file] = f.Data
		}
	}
	version := served[metadata.SNAPSHOT]
	if d[file] == nil {
		s := metadata.Snapshot(expiry(now, life))
		version = nextVersion(version, now)
		s.Signed.Version, s.Signed.Meta = version, map[string]*metadata.MetaFiles{"targets.json": named}
		file = fmt.Sprintf("%d.snapshot.json", version)
		var err error
		if d[file], err = signed(s, p.signers[metadata.SNAPSHOT]); err != nil {
			return fmt.Errorf("sign the snapshot: %w", err)
		}
	}
	named = metaOf(version, d[file])
	if f, ok := p.File("timestamp.json"); ok {
		if t, err := metadata.Timestamp().FromBytes(f.Data); err == nil && root.VerifyDelegate(metadata.TIMESTAMP, t) == nil &&
			same(t.Signed.Meta["snapshot.json"], named) && t.Signed.Expires.Sub(now) > p.cfg.Lifetime/7*6 {
			d["timestamp.json"] = f.Data
			return nil
		}
	}
	t := metadata.Timestamp(expiry(now, p.cfg.Lifetime))
	t.Signed.Version, t.Signed.Meta = nextVersion(served[metadata.TIMESTAMP], now), map[string]*metadata.MetaFiles{"snapshot.json": named}
	var err error
	if d["timestamp.json"], err = signed(t, p.signers[metadata.TIMESTAMP]); err != nil {
		return fmt.Errorf("sign the timestamp: %w", err)
	}
	return nil
}

// nextVersion is the number of what is signed now: the time in seconds. So an older database that
// is restored does not sign with numbers that clients have seen.
func nextVersion(served int64, now time.Time) int64 { return max(served+1, now.Unix()) }

func expiry(now time.Time, life time.Duration) time.Time {
	return now.Add(life).UTC().Truncate(time.Second)
}

// metaOf describes a file of metadata.
func metaOf(version int64, data []byte) *metadata.MetaFiles {
	m, sum := metadata.MetaFile(version), sha256.Sum256(data)
	m.Length, m.Hashes = int64(len(data)), metadata.Hashes{"sha256": sum[:]}
	return m
}

func same(a, b *metadata.MetaFiles) bool {
	return a != nil && a.Version == b.Version && a.Length == b.Length && bytes.Equal(a.Hashes["sha256"], b.Hashes["sha256"])
}

func signed[T metadata.Roles](m *metadata.Metadata[T], signer signature.Signer) ([]byte, error) {
	if _, err := m.Sign(signer); err != nil {
		return nil, err
	}
	return m.ToBytes(false)
}

// isKeyOf refuses a signer that a root does not name for a role.
func isKeyOf(root *metadata.Metadata[metadata.RootType], role string, signer signature.Signer) error {
	id, err := keyID(signer)
	if err != nil {
		return err
	}
	for _, has := range root.Signed.Roles[role].KeyIDs {
		if has == id {
			return nil
		}
	}
	return fmt.Errorf("the %s key given is not the one that %s names for it: bring the key that it was rotated to", role, rootFile(root.Signed.Version))
}
