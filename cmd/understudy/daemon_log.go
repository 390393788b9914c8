package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/quorum"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// privateLog is one generation of the private log.
type privateLog struct {
	name, origin string
	url          string
	config       log.Config
	log          *log.Log          // nil if it cannot be opened, for the reason in lost
	collector    *quorum.Collector // nil if no witnesses are wanted
	v1           *private.V1       // of the first generation
	v2           *private.V2       // of the second
	public       crypto.PublicKey  // of the first generation
	logID        []byte            // of the second
	vkeys        []string          // its verifier keys
	keys         []trust.Key       // the same, for who verifies what it signed
	lost         *log.Problem
}

// privateLogs are what a configuration says of the private log, but for the trees. A generation whose
// key management service does not answer is lost, and the others are not.
func (c *Config) privateLogs(ctx context.Context) ([]*privateLog, error) {
	p := c.Private
	if p == nil {
		return nil, nil
	}
	secret, err := openProposalsKey(p.Proposals.Key)
	if err != nil {
		return nil, c.mistake(err.Error(), "log", "proposals", "key")
	}
	key, err := log.NewProposalKey(secret[:])
	if err != nil {
		return nil, err
	}
	var logs []*privateLog
	if v := p.V1; v != nil {
		l := &privateLog{name: "v1", origin: v.origin(), url: v.URL}
		if err := l.openV1(ctx, p); err != nil && !isKMS(v.Key) {
			return nil, c.mistake(fmt.Sprintf("the key of %q: %v", l.origin, err), "log", "v1", "key")
		} else if err != nil {
			l.lost = &log.Problem{Text: err.Error(), Since: time.Now()}
		}
		logs = append(logs, l)
	}
	if v := p.V2; v != nil {
		l := &privateLog{name: "v2", origin: v.Origin, url: v.URL}
		if err := l.openV2(ctx, p); err != nil && !isKMS(v.Key) {
			return nil, c.mistake(fmt.Sprintf("the keys of %q: %v", l.origin, err), "log", "v2", "key")
		} else if err != nil {
			l.lost = &log.Problem{Text: err.Error(), Since: time.Now()}
		}
		logs = append(logs, l)
	}
	for _, l := range logs {
		l.config.Name, l.config.Origin, l.config.ProposalKey = l.name, l.origin, key
		l.config.Interval, l.config.Retention = time.Duration(p.CheckpointInterval), time.Duration(p.Proposals.Retention)
		l.config.WithoutQuorum = p.WitnessPolicy != nil && p.WitnessPolicy.WithoutQuorum == "publish"
	}
	return logs, nil
}

// openV1 opens the key of the first generation.
func (l *privateLog) openV1(ctx context.Context, p *PrivateConfig) error {
	s, err := openV1Signer(ctx, p.V1, passphrases{p.PassphraseFile})
	if err != nil {
		return err
	}
	l.public = s.public
	l.config.Signers, l.config.Verifiers = []note.Signer{s.note}, []note.Verifier{s.verifier}
	vkey, err := s.vkey()
	if err != nil {
		return err
	}
	l.vkeys = []string{vkey}
	if l.keys, err = trustKeys(s.public); err != nil {
		return err
	}
	l.config.Promise, err = private.PromiseV1(s.public, s.signer, s.local == nil)
	return err
}

// openV2 opens the keys of the second generation.
func (l *privateLog) openV2(ctx context.Context, p *PrivateConfig) error {
	s, err := openV2Signer(ctx, p.V2, passphrases{p.PassphraseFile})
	if err != nil {
		return err
	}
	l.logID = s.logID[:]
	l.config.Signers, l.config.Verifiers = s.notes, s.verifiers
	vkey, err := note.NewEd25519VerifierKey(p.V2.Origin, s.public)
	if err != nil {
		return err
	}
	l.vkeys = []string{vkey}
	l.keys, err = trustKeys(s.public)
	return err
}

// trustKeys is a public key as who verifies checkpoints has it.
func trustKeys(public crypto.PublicKey) ([]trust.Key, error) {
	pem, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return nil, err
	}
	key, err := trust.ParseKey(pem)
	return []trust.Key{key}, err
}

// openPrivate opens the private log. A generation that cannot go on where it ended stops alone; what
// the configuration says wrong about it stops the start.
func (d *daemon) openPrivate(ctx context.Context) error {
	logs, err := d.config.privateLogs(ctx)
	if err != nil || len(logs) == 0 {
		return err
	}
	if d.access, err = d.config.access(d); err != nil {
		return err
	}
	metrics, witnesses := log.NewMetrics(d.registry), quorum.NewMetrics(d.registry)
	for _, l := range logs {
		d.private = append(d.private, l)
		if l.lost != nil {
			metrics.Lost(l.name)
			d.logger.Error("this private log is not served until the next start: its key cannot be used", "log", l.name, "origin", l.origin, "error", l.lost.Text)
			continue
		}
		l.config.DB, l.config.Newest, l.config.Logger, l.config.Metrics = d.db, d.newest, d.logger, metrics
		if err := d.askWitnesses(l, witnesses); err != nil {
			return err
		}
		if err := d.openPrivateLog(l); err != nil {
			return err
		}
		switch {
		case l.log == nil:
		case l.name == "v1":
			if l.v1, err = private.NewV1(l.log, uint64(d.config.Private.V1.TreeID), l.public); err != nil {
				return err
			}
			l.v1.Open = d.gate()
		default:
			l.v2 = private.NewV2(l.log, l.logID)
			l.v2.Open = d.gate()
		}
	}
	return nil
}

// openPrivateLog opens the tree of one generation.
func (d *daemon) openPrivateLog(l *privateLog) (err error) {
	l.log, err = log.Open(l.config)
	if _, wrongKey := errors.AsType[*log.KeyError](err); wrongKey {
		return d.config.mistake(err.Error(), "log", l.name)
	}
	switch {
	case err == nil:
	case errors.Is(err, storage.ErrNotExist):
		return d.config.mistake(d.config.notMade(l.origin), "log", l.name)
	case d.db.Err() != nil:
		return err
	default:
		l.log = nil
		l.lost = &log.Problem{Text: err.Error(), Since: time.Now()}
		l.config.Metrics.Lost(l.name)
		d.logger.Error("this private log is not served: it cannot go on where it ended", "log", l.name, "origin", l.origin, "error", err)
	}
	return nil
}

// notMade says that a tree of the private log is not there, and what to do.
func (c *Config) notMade(origin string) string {
	return fmt.Sprintf("there is no log %q in %s yet: \"understudy log create\" makes it, once in its life; if there was one, restore its backup instead", origin, c.DataDir)
}

// askWitnesses gives a log the witnesses of the policy.
func (d *daemon) askWitnesses(l *privateLog, metrics *quorum.Metrics) error {
	w := d.config.Private.WitnessPolicy
	if w == nil || !slices.Contains(w.Logs, l.name) {
		return nil
	}
	wrong := func(err error) error {
		return d.config.mistake(fmt.Sprintf("%s: %v", w.File, err), "log", "witness_policy", "file")
	}
	data, err := os.ReadFile(w.File)
	if err != nil {
		return d.config.mistake(err.Error()+"; correct the path, or put the file there", "log", "witness_policy", "file")
	}
	policy, err := quorum.ParsePolicy(data)
	if err != nil {
		return wrong(err)
	}
	if err := policy.Lists(l.vkeys...); err != nil {
		return wrong(err)
	}
	if l.collector, err = quorum.New(quorum.Config{
		Policy: policy, Name: l.name, Timeout: time.Duration(w.Timeout), Contact: d.config.Contact, Logger: d.logger, Metrics: metrics,
	}); err != nil {
		return wrong(err)
	}
	l.config.Cosign = func(ctx context.Context, c storage.Checkpoint, prove func(uint64) ([]storage.Hash, error)) ([]string, error) {
		lines, err := l.collector.Cosign(ctx, c, prove)
		if ahead, ok := errors.AsType[*quorum.AheadError](err); ok {
			err = fmt.Errorf("%w: %w", log.ErrBehind, ahead)
		}
		return lines, err
	}
	return nil
}

// access is who may use the private log.
func (c *Config) access(d *daemon) (*access.Control, error) {
	a := &c.Private.Access
	cfg := access.Config{Open: a.WithoutAuthentication != "", Hosts: c.Private.hosts(), Logger: d.logger, Registerer: d.registry}
	for i, id := range a.Identities {
		identity := access.Identity{Name: id.Name, Certificate: id.Certificate, EntriesPerSecond: id.EntriesPerSecond, RequestsAtOnce: id.RequestsAtOnce}
		if id.TokenSHA256 != "" {
			sum, err := hex.DecodeString(id.TokenSHA256)
			if err != nil {
				return nil, c.mistake(err.Error(), "log", "access", "identities", i, "token_sha256")
			}
			identity.TokenSHA256 = sum
		}
		for _, role := range id.Roles {
			identity.Roles = append(identity.Roles, access.Role(role))
		}
		cfg.Identities = append(cfg.Identities, identity)
	}
	control, err := access.New(cfg)
	if err != nil {
		return nil, c.mistake(err.Error(), "log", "access")
	}
	return control, nil
}

// runPrivate serves the private log until ctx ends. A log goes on until nobody waits for it any more.
func (d *daemon) runPrivate(ctx context.Context, group *errgroup.Group, l *listeners) error {
	if len(d.private) == 0 {
		return nil
	}
	var secure *tls.Config
	if t := d.config.Private.Access.TLS; t != nil {
		var err error
		if secure, err = d.access.TLS(t.Certificate, t.Key, t.ClientCA); err != nil {
			return d.config.mistake(err.Error(), "log", "access", "tls")
		}
	}
	for _, p := range d.private {
		var h http.Handler
		var at net.Listener
		switch {
		case p.name == "v1" && p.log != nil:
			h = rest.NewLogV1(rest.LogV1Config{Log: p.v1, Access: d.access, Logger: d.logger, Registerer: d.registry})
		case p.log != nil:
			server := rpc.NewRekorV2(p.v2, d.logger)
			h = rest.NewLogV2(rest.LogV2Config{Log: p.v2, Access: d.access, GRPC: server, Logger: d.logger, Registerer: d.registry})
		default:
			h = rest.LostLog(p.name)
		}
		if at = l.logV1; p.name == "v2" {
			at = l.logV2
		}
		group.Go(func() error { return rest.ServeLog(ctx, at, h, secure, d.logger) })
		if p.log == nil {
			continue // that it is not served was said
		}
		group.Go(func() error {
			err := p.log.Run(ctx)
			if p.collector != nil {
				p.collector.Close()
			}
			return err
		})
		d.logger.Info("serving the private log", "log", p.name, "origin", p.origin, "address", at.Addr().String(), "tls", secure != nil)
	}
	return nil
}

// privateOrigin says whether an origin is that of the private log.
func (c *Config) privateOrigin(origin string) bool {
	p := c.Private
	return p != nil && (p.V1 != nil && p.V1.origin() == origin || p.V2 != nil && p.V2.Origin == origin)
}

// privateLog returns a generation of the private log; nil if it is not there, or not served.
func (d *daemon) privateLog(name string) *log.Log {
	for _, p := range d.private {
		if p.name == name {
			return p.log
		}
	}
	return nil
}

// privateStatuses are what there is to know of the private log.
func (d *daemon) privateStatuses() (statuses []rest.PrivateStatus) {
	for _, p := range d.private {
		s := rest.PrivateStatus{Name: p.name, Origin: p.origin, URL: p.url}
		if p.log == nil {
			s = d.config.heldPrivate(d.db, p.origin)
			s.Problem = p.lost
		} else {
			s.Since = sinceOf(p.log.Tree())
			published := p.log.Published()
			s.Size, s.Published, s.Root = p.log.Tree().State().Head.Size, published.Size, hex.EncodeToString(published.Root[:])
			if published.Raw != nil && !published.LastSeen.IsZero() {
				s.PublishedAt = &published.LastSeen
			}
			s.Problem = p.log.Problem()
		}
		if p.collector != nil {
			for _, w := range p.collector.Statuses() {
				s.Witnesses = append(s.Witnesses, rest.WitnessOfLog{Name: w.Name, URL: w.URL, Size: w.Size, Failure: w.Failure})
			}
		}
		statuses = append(statuses, s)
	}
	return statuses
}

// privateKeys are the public keys of the private log by origin, as far as they can be had.
func (c *Config) privateKeys(ctx context.Context) map[string]trust.Key {
	keys := map[string]trust.Key{}
	add := func(origin, ref string) {
		public, err := openPublic(ctx, ref)
		if err != nil {
			return
		}
		if k, err := trustKeys(public); err == nil {
			keys[origin] = k[0]
		}
	}
	if p := c.Private; p != nil && p.V1 != nil {
		add(p.V1.origin(), p.V1.Key)
	}
	if p := c.Private; p != nil && p.V2 != nil {
		add(p.V2.Origin, p.V2.Key)
	}
	return keys
}

// createLogs makes the trees of the private log, each once in its life.
func createLogs(ctx context.Context, c *Config, out io.Writer) (err error) {
	logs, err := c.privateLogs(ctx)
	if err != nil {
		return err
	}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	newest, err := c.openNewest(storage.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, newest.Close()) }()
	any := false
	for _, l := range logs {
		if l.lost != nil {
			return fmt.Errorf("make the log %q: %s", l.origin, l.lost.Text)
		}
		l.config.DB, l.config.Newest = db, newest
		made, err := log.Create(l.config)
		switch {
		case errors.Is(err, storage.ErrExists):
			fmt.Fprintf(out, "%s  %s  is there already, with %d entries\n", l.name, l.origin, sizeOf(db, l.origin))
			continue
		case err != nil:
			return fmt.Errorf("make the log %q: %w", l.origin, err)
		}
		any = true
		fmt.Fprintf(out, "%s  %s  made; its first checkpoint is over %d entries\n", l.name, l.origin, made.Tree().State().Head.Size)
	}
	if !any {
		return errors.New("nothing was made: the log is there already, and is never begun anew under its old name")
	}
	return nil
}

// sinceOf returns when a log was made: when its first checkpoint was signed. Zero: that cannot be read.
func sinceOf(tree *storage.Tree) (since time.Time) {
	view := tree.View()
	defer view.Close()
	_ = view.Archive(1, 1, func(row storage.ArchiveRow) error {
		since = row.Checkpoint.FirstSeen
		return nil
	})
	return since
}

// ownLogs are the generations of the private log as clients know them.
func (c *Config) ownLogs(ctx context.Context) ([]trust.OwnLog, error) {
	p := c.Private
	if p == nil {
		return nil, nil
	}
	status, err := statusOf(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("since when the private log is there: %w", err)
	}
	var generations []ownGeneration
	for _, g := range []ownGeneration{c.ownV1(), c.ownV2()} {
		if g.key == "" {
			continue
		}
		i := slices.IndexFunc(status.Private, func(s rest.PrivateStatus) bool { return s.Origin == g.origin })
		if i < 0 || status.Private[i].Since.IsZero() {
			return nil, errors.New(c.notMade(g.origin))
		}
		g.start = status.Private[i].Since
		generations = append(generations, g)
	}
	return ownLogs(ctx, p.Operator, generations...)
}

func (c *Config) ownV1() ownGeneration {
	if v := c.Private.V1; v != nil {
		return ownGeneration{version: 1, origin: v.origin(), url: v.URL, key: v.Key}
	}
	return ownGeneration{}
}

func (c *Config) ownV2() ownGeneration {
	if v := c.Private.V2; v != nil {
		return ownGeneration{version: 2, origin: v.Origin, url: v.URL, key: v.Key}
	}
	return ownGeneration{}
}

func sizeOf(db *storage.DB, origin string) uint64 {
	tree, err := db.OpenTree(origin)
	if err != nil {
		return 0
	}
	return tree.State().Head.Size
}
