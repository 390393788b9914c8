package main

import (
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

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// daemon is what "serve" runs.
type daemon struct {
	config   *Config
	keys     *keyring
	db       *storage.DB
	newest   *storage.Newest
	logger   *slog.Logger
	registry *prometheus.Registry
	logs     []*follower
}

// follower is one configured log.
type follower struct {
	config LogConfig
	mirror *mirror.Mirror // nil if its tree is damaged
	keys   []trust.Key    // none as long as they are not known

	damage *mirror.Problem // why there is no mirror; a mirror knows its problems itself
}

func (f *follower) status() mirror.Status {
	if f.mirror != nil {
		return f.mirror.Status()
	}
	return mirror.Status{
		Name: f.config.Name, Origin: f.config.Origin, OriginHash: mirror.OriginHash(f.config.Origin),
		URL: f.config.URL, Coverage: f.config.Coverage, Problem: f.damage,
	}
}

// newDaemon opens the tree of every configured log.
func newDaemon(c *Config, keys *keyring, db *storage.DB, newest *storage.Newest, logger *slog.Logger) (*daemon, error) {
	d := &daemon{config: c, keys: keys, db: db, newest: newest, logger: logger, registry: prometheus.NewRegistry()}
	d.registerMetrics()
	metrics := mirror.NewMetrics(d.registry)
	held := db.Origins()
	for _, log := range c.Logs {
		f, err := d.newFollower(log, metrics)
		if err != nil {
			return nil, err
		}
		d.logs = append(d.logs, f)
		held = slices.DeleteFunc(held, func(origin string) bool { return origin == log.Origin })
	}
	if len(held) > 0 {
		logger.Warn("the data directory holds logs that are not configured; they are kept, but neither followed nor served", "origins", held)
	}
	return d, nil
}

// newFollower opens or makes the tree of one log. A tree that is damaged stops that
// log, not the daemon.
func (d *daemon) newFollower(log LogConfig, metrics *mirror.Metrics) (*follower, error) {
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
	cfg.Newest, cfg.Logger, cfg.Metrics = d.newest, d.logger, metrics
	if f.mirror, err = mirror.New(cfg); err != nil {
		return nil, err
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

// findKeys looks for the keys of a log, and tells its status when there are none.
func (d *daemon) findKeys(f *follower) {
	var err error
	if f.keys, err = d.keys.keys(f.config.Origin); err == nil {
		return
	}
	f.mirror.Unkeyed(err)
	if d.keys.root != nil {
		d.logger.Error("this log is not followed; what is held stays served", "log", f.config.Name, "error", err)
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
	mirrors := d.mirrors()
	group.Go(func() error {
		h := rest.NewPublic(rest.PublicConfig{Mirrors: mirrors, Logger: d.logger, Registerer: d.registry})
		return rest.Serve(ctx, l.http, h, time.Minute, d.logger)
	})
	group.Go(func() error {
		h := rest.NewAdmin(rest.AdminConfig{Status: d.status, Backup: d.db.Backup, Gatherer: d.registry})
		return rest.Serve(ctx, l.admin, h, 0, d.logger)
	})
	group.Go(func() error {
		return serveGRPC(ctx, l.grpc, rpc.NewServer(mirrors, d.logger, d.registry), 4*time.Second)
	})
	d.logger.Info("serving", "version", version(), "data_dir", d.config.DataDir, "logs", len(d.logs),
		"http", l.http.Addr().String(), "grpc", l.grpc.Addr().String(), "admin", l.admin.Addr().String())
	group.Go(func() error { d.follow(ctx); return nil })
	err := group.Wait()
	d.logger.Info("stopped")
	return err
}

func (d *daemon) mirrors() []*mirror.Mirror {
	var mirrors []*mirror.Mirror
	for _, f := range d.logs {
		if f.mirror != nil {
			mirrors = append(mirrors, f.mirror)
		}
	}
	return mirrors
}

// follow runs every mirror whose key is known, and those whose key has to be fetched
// once it is there. It returns when ctx has ended and all have stopped.
func (d *daemon) follow(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	var waiting []*follower
	for _, f := range d.logs {
		switch {
		case f.mirror == nil:
		case f.keys != nil:
			running.Go(func() { d.runMirror(ctx, f) })
		case d.keys.root == nil:
			waiting = append(waiting, f)
		}
	}
	if len(waiting) == 0 {
		return
	}
	err := d.keys.fetch(ctx, d.config.tufDir(), d.logger, func(err error) {
		for _, f := range waiting {
			f.mirror.Unkeyed(err)
		}
	})
	if err != nil {
		return // ctx ended
	}
	for _, f := range waiting {
		if d.findKeys(f); f.keys != nil {
			running.Go(func() { d.runMirror(ctx, f) })
		}
	}
}

// runMirror follows one log until ctx ends. Damage in its tree stops that log alone;
// a disk that failed ends the daemon by way of storage.Options.Fatal.
func (d *daemon) runMirror(ctx context.Context, f *follower) {
	if err := f.mirror.Run(ctx, f.keys); err != nil {
		d.logger.Error("this log is not followed any more; what can be read stays served: run \"understudy check\"", "log", f.config.Name, "error", err)
	}
}

func (d *daemon) status() rest.Status {
	s := rest.Status{Version: version(), DataDir: d.config.absoluteDataDir(), Running: true, StorageBytes: d.db.DiskUsage()}
	for _, f := range d.logs {
		s.Logs = append(s.Logs, f.status())
	}
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
