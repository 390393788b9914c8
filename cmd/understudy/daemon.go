package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness"
	"github.com/understudy-log/understudy/witness/archive"
)

// daemon is what "serve" runs.
type daemon struct {
	config   *Config
	keys     *keyring
	db       *storage.DB
	newest   *storage.Newest
	logger   *slog.Logger
	registry *prometheus.Registry
	metrics  *mirror.Metrics
	tuf      *trust.Repository  // the copy of the TUF repository; nil if none is configured
	own      *publish.Publisher // the TUF repository of our own; nil if none is configured

	tufMetrics *trust.Metrics

	witness     *witness.Witness // nil if nothing is cosigned
	witnessOnly map[string]witnessedLog

	archive *archive.Archive // nil if no evidence packs are made

	desk        *desk  // where outages are dealt with; nil if none are looked for
	deskLost    string // why there is none, though the configuration has one
	grpcAddress string // of our own gRPC API, once it is served

	private []*privateLog   // the generations of the private log; none if there is no such log
	access  *access.Control // who may use it

	logsMu sync.RWMutex
	logs   []*follower // guarded by logsMu once the daemon runs: successors are added

	known sync.Map // keys ([]trust.Key) of logs by origin, once they are known
}

// follower is one configured log.
type follower struct {
	config  LogConfig
	mirror  *mirror.Mirror  // nil if its tree is damaged, or it is a service
	service *mirror.Service // nil if a tree of it is damaged, or it is a single log
	keys    []trust.Key     // none as long as they are not known

	damage *mirror.Problem // why there is no mirror; a mirror knows its problems itself
}

// followed says whether there is something that follows it: its tree is not damaged.
func (f *follower) followed() bool { return f.mirror != nil || f.service != nil }

func (f *follower) statuses() []mirror.Status {
	switch {
	case f.mirror != nil:
		return []mirror.Status{f.mirror.Status()}
	case f.service != nil:
		return f.service.Statuses()
	}
	s := mirror.Status{Name: f.config.Name, Origin: f.config.Origin, URL: f.config.URL, Coverage: f.config.Coverage, Problem: f.damage}
	if s.Origin != "" {
		s.OriginHash = mirror.OriginHash(s.Origin)
	}
	return []mirror.Status{s}
}

// mirrors are those of the log, or of the shards that are known now.
func (f *follower) mirrors() []*mirror.Mirror {
	switch {
	case f.mirror != nil:
		return []*mirror.Mirror{f.mirror}
	case f.service != nil:
		return f.service.Mirrors()
	}
	return nil
}

// unkeyed tells the status why nothing can be verified.
func (f *follower) unkeyed(err error) {
	if f.service != nil {
		f.service.Unkeyed(err)
		return
	}
	f.mirror.Unkeyed(err)
}

// newDaemon opens the tree of every configured log.
func newDaemon(ctx context.Context, c *Config, keys *keyring, db *storage.DB, newest *storage.Newest, logger *slog.Logger) (*daemon, error) {
	d := &daemon{config: c, keys: keys, db: db, newest: newest, logger: logger, registry: prometheus.NewRegistry(), witnessOnly: map[string]witnessedLog{}}
	d.tufMetrics = trust.NewMetrics(d.registry)
	d.registerMetrics()
	if err := d.beginOutage(); err != nil {
		return nil, err
	}
	if err := errors.Join(d.openTUF(), d.openTrust(ctx)); err != nil {
		return nil, err
	}
	d.metrics = mirror.NewMetrics(d.registry)
	for i, log := range c.Logs {
		var f *follower
		var err error
		if log.isService() {
			f, err = d.newServiceFollower(i)
		} else {
			f, err = d.newFollower(log)
		}
		if err != nil {
			return nil, err
		}
		d.logs = append(d.logs, f)
	}
	if err := errors.Join(d.openSuccessors(), d.openWitness()); err != nil {
		return nil, err
	}
	if err := d.openPrivate(ctx); err != nil {
		return nil, err
	}
	if err := errors.Join(d.openOutage(), d.endFallback()); err != nil {
		return nil, err
	}
	if err := d.openArchive(ctx); err != nil {
		return nil, err
	}
	if err := d.addWitnessed(); err != nil {
		return nil, err
	}
	held := slices.DeleteFunc(db.Origins(), func(origin string) bool {
		_, witnessed := d.witnessOnly[origin]
		return witnessed || c.privateOrigin(origin) || slices.ContainsFunc(d.logs, func(f *follower) bool {
			return origin == f.config.Origin || f.config.isService() && (f.service == nil || slices.ContainsFunc(f.mirrors(), func(m *mirror.Mirror) bool { return m.Origin() == origin }))
		})
	})
	if len(held) > 0 {
		logger.Warn("the data directory holds logs that are not configured; they are kept, but neither followed, served nor witnessed", "origins", held)
	}
	return d, nil
}

// newFollower opens or makes the tree of one log. A tree that is damaged stops that
// log, not the daemon.
func (d *daemon) newFollower(log LogConfig) (*follower, error) {
	f := &follower{config: log}
	tree, err := d.db.OpenTree(log.Origin)
	if errors.Is(err, storage.ErrNotExist) {
		if tree, err = d.db.CreateTree(log.Origin); err != nil {
			return nil, d.config.explainDatabase(err)
		}
	}
	if err != nil {
		d.logger.Error("this log is not served: its stored tree is damaged; run \"understudy check\" and restore a backup", "log", log.Name, "error", err)
		f.damage = &mirror.Problem{Reason: mirror.ProblemStorage, Text: err.Error(), Since: time.Now()}
		return f, nil
	}
	cfg := d.config.mirror(log, tree)
	cfg.Newest, cfg.Logger, cfg.Metrics = d.newest, d.logger, d.metrics
	if d.desk != nil {
		cfg.HTTPClient, cfg.Polled = d.desk.reading(log), d.desk.pollsOf(log)
	}
	if f.mirror, err = mirror.New(cfg); err != nil {
		return nil, err
	}
	d.findKeys(f)
	return f, nil
}

// newServiceFollower opens the trees of a Rekor v1 service. One that is damaged stops the
// service, not the daemon.
func (d *daemon) newServiceFollower(i int) (*follower, error) {
	f := &follower{config: d.config.Logs[i]}
	cfg, err := d.config.service(i, d.db)
	if err != nil {
		return nil, err
	}
	cfg.Newest, cfg.Logger, cfg.Metrics = d.newest, d.logger, d.metrics
	if d.desk != nil {
		cfg.HTTPClient, cfg.Polled = d.desk.reading(f.config), d.desk.pollsOf(f.config)
	}
	if f.service, err = mirror.NewService(cfg); err != nil {
		f.service = nil
		d.logger.Error("this service is not served: what is stored of it cannot be used; run \"understudy check\" and restore a backup", "log", f.config.Name, "error", err)
		f.damage = &mirror.Problem{Reason: mirror.ProblemStorage, Text: err.Error(), Since: time.Now()}
		return f, nil
	}
	d.findKeys(f)
	return f, nil
}

// mirror is what a log's mirror is made from.
func (c *Config) mirror(log LogConfig, tree *storage.Tree) mirror.Config {
	return mirror.Config{
		Name: log.Name, Origin: log.Origin, URL: log.URL, Copies: log.copies(), Tree: tree,
		MinimumIndex: log.minimumIndex(), LastEntries: log.Window, HistoryTo: log.historyTo(),
		Poll: time.Duration(log.Poll), RequestsPerSecond: log.RequestsPerSecond, StaleAfter: time.Duration(log.StaleAfter),
		Contact: c.Contact,
	}
}

func (d *daemon) registerMetrics() {
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "understudy_build_info",
		Help:        "Always 1; the labels say what runs.",
		ConstLabels: prometheus.Labels{"version": version(), "go_version": runtime.Version()},
	})
	build.Set(1)
	d.registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "understudy_storage_bytes",
			Help: "Bytes that the database takes on disk.",
		}, func() float64 { return float64(d.db.DiskUsage()) }),
	)
}

// run serves and follows until ctx ends or something breaks.
func (d *daemon) run(ctx context.Context, l *listeners) error {
	group, ctx := errgroup.WithContext(ctx)
	d.grpcAddress = l.grpc.Addr().String()
	group.Go(func() error {
		h := rest.NewPublic(rest.PublicConfig{Mirrors: d.mirrors, Rekor: d.service(), RekorLost: d.service() == nil && slices.ContainsFunc(d.config.Logs, func(l LogConfig) bool { return l.isService() }), TUF: d.tuf, Trust: d.own, Witness: d.witness, Logger: d.logger, Registerer: d.registry})
		return rest.Serve(ctx, l.http, h, time.Minute, d.logger)
	})
	group.Go(func() error {
		h := rest.NewAdmin(rest.AdminConfig{Status: d.status, Backup: d.db.Backup, Pin: d.pin, Archive: d.archive, Private: d.privateLog, Outage: d.desk.admin(), OutageLost: d.deskLost, Gatherer: d.registry, Logger: d.logger})
		return rest.Serve(ctx, l.admin, h, 0, d.logger)
	})
	group.Go(func() error {
		return serveGRPC(ctx, l.grpc, rpc.NewServer(rpc.Config{Mirrors: d.mirrors, Services: d.services(), Keys: d.logKeys, TUF: d.tuf, Archive: d.archive, Tree: d.tree, Verifier: d.desk.verifies(), Logger: d.logger, Registerer: d.registry}), 4*time.Second)
	})
	d.logger.Info("serving", "version", version(), "data_dir", d.config.DataDir, "logs", len(d.logs),
		"http", l.http.Addr().String(), "grpc", l.grpc.Addr().String(), "admin", l.admin.Addr().String())
	if err := d.runPrivate(ctx, group, l); err != nil {
		group.Go(func() error { return err }) // it ends what was begun
	}
	group.Go(func() error { d.follow(ctx); return nil })
	d.desk.run(ctx, group)
	if d.tuf != nil {
		group.Go(func() error { return d.tuf.Run(ctx) })
	}
	if d.own != nil {
		group.Go(func() error { return d.own.Run(ctx) })
	}
	if d.archive != nil {
		group.Go(func() error { return d.archive.Run(ctx) })
	}
	if d.witness != nil {
		group.Go(func() error { return d.witness.Run(ctx) })
	}
	err := group.Wait()
	d.logger.Info("stopped")
	return err
}

// followers are those of the configured logs and of their successors.
func (d *daemon) followers() []*follower {
	d.logsMu.RLock()
	defer d.logsMu.RUnlock()
	return slices.Clip(d.logs)
}

func (d *daemon) add(f *follower) {
	d.logsMu.Lock()
	defer d.logsMu.Unlock()
	d.logs = append(d.logs, f)
}

func (d *daemon) mirrors() []*mirror.Mirror {
	var mirrors []*mirror.Mirror
	for _, f := range d.followers() {
		mirrors = append(mirrors, f.mirrors()...)
	}
	return mirrors
}

// logKeys returns the keys of a log, as far as they are known now.
func (d *daemon) logKeys(origin string) []trust.Key {
	keys, _ := d.known.Load(origin)
	known, _ := keys.([]trust.Key)
	return known
}

// services are those of Rekor v1.
func (d *daemon) services() []*mirror.Service {
	if s := d.service(); s != nil {
		return []*mirror.Service{s}
	}
	return nil
}

// service is the Rekor v1 service that is served; nil if there is none.
func (d *daemon) service() *mirror.Service {
	for _, f := range d.followers() {
		if f.service != nil {
			return f.service
		}
	}
	return nil
}

// follow runs every mirror whose key is known, those whose key has to be fetched once it is
// there, and each under other keys when the trust material changes. It returns when ctx has ended
// and all have stopped.
func (d *daemon) follow(ctx context.Context) {
	runs := map[*follower]*running{}
	defer func() {
		for _, r := range runs {
			<-r.done
		}
	}()
	start := func(f *follower) {
		if keys := f.keys; keys != nil && runs[f] == nil {
			runs[f] = startRunning(ctx, func(ctx context.Context) { d.runMirror(ctx, f, keys) })
		}
	}
	var waiting []*follower
	for _, f := range d.followers() {
		if start(f); f.keys == nil && d.keys.root == nil && f.followed() {
			waiting = append(waiting, f)
		}
	}
	if len(waiting) > 0 {
		if err := d.keys.fetch(ctx, d.config.tufDir(), d.logger, func(err error) {
			for _, f := range waiting {
				f.unkeyed(err)
			}
		}); err != nil {
			return // ctx ended
		}
		for _, f := range waiting {
			d.findKeys(f)
			start(f)
		}
	}
	for d.trustMoves() && d.newTrust(ctx) {
		for _, f := range d.followers() {
			if !f.followed() {
				continue
			}
			found := d.keysOf(f)
			if found.err == nil && slices.EqualFunc(f.keys, found.keys, func(a, b trust.Key) bool { return bytes.Equal(a.SPKI(), b.SPKI()) }) {
				continue
			}
			if runs[f] != nil && (f.service == nil || found.err != nil) {
				runs[f].stop()
				delete(runs, f)
			}
			if d.setKeys(f, found); runs[f] != nil {
				f.service.Trust(f.keys)
			}
			start(f)
		}
		for _, f := range d.succeed(d.keys.root) {
			start(f)
			d.desk.add(f)
		}
	}
}

// running is something that runs until it is stopped.
type running struct {
	cancel context.CancelFunc
	done   chan struct{}
}

func startRunning(ctx context.Context, run func(context.Context)) *running {
	ctx, cancel := context.WithCancel(ctx)
	r := &running{cancel, make(chan struct{})}
	go func() {
		defer close(r.done)
		defer cancel()
		run(ctx)
	}()
	return r
}

// stop ends it, and waits for its end.
func (r *running) stop() {
	r.cancel()
	<-r.done
}

// runMirror follows one log until ctx ends. Damage in its tree stops that log alone;
// a disk that failed ends the daemon by way of storage.Options.Fatal.
func (d *daemon) runMirror(ctx context.Context, f *follower, keys []trust.Key) {
	var run func(context.Context, []trust.Key) error
	if f.service != nil {
		run = f.service.Run
	} else {
		run = f.mirror.Run
	}
	if err := run(ctx, keys); err != nil {
		d.logger.Error("this log is not followed any more; what can be read stays served: run \"understudy check\"", "log", f.config.Name, "error", err)
	}
}

func (d *daemon) status() rest.Status {
	s := rest.Status{Version: version(), DataDir: d.config.absoluteDataDir(), Running: true, StorageBytes: d.db.DiskUsage()}
	for _, f := range d.followers() {
		s.Logs = append(s.Logs, f.statuses()...)
	}
	if d.tuf != nil {
		status := d.tuf.Status()
		s.TUF = &status
	}
	if d.own != nil {
		s.Trust = &rest.TrustStatus{RepositoryStatus: d.own.Status(), Behind: d.behind()}
	}
	if d.witness != nil {
		status := d.witness.Status()
		s.Witness = &status
	}
	if d.archive != nil {
		status := d.archive.Status()
		s.Archive = &status
	}
	s.Private = d.privateStatuses()
	return s
}

// serveGRPC answers calls on l until ctx ends; then it takes no new ones, waits
// stopTime for those under way, and cuts off the rest: streams need not end. It
// returns nil once no handler runs any more.
func serveGRPC(ctx context.Context, l net.Listener, server *grpc.Server, stopTime time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(l) }()
	select {
	case err := <-failed:
		server.Stop()
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	cut := time.AfterFunc(stopTime, server.Stop)
	defer cut.Stop()
	server.GracefulStop()
	if err := <-failed; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
		return fmt.Errorf("serve gRPC on %s: %w", l.Addr(), err)
	}
	return nil
}
