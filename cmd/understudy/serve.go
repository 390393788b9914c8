package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/storage"
)

// memoryLimit is where the garbage collector begins to work harder, so that the
// process stays under 512 MiB. Without cgo, Pebble's cache is counted in it.
const memoryLimit = 400 << 20

// stopTime is how long a clean stop may take.
const stopTime = 9 * time.Second

func newServeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Follow the configured logs and serve what is held",
		Long: `Serve follows the configured logs, verifies and stores everything, and serves
tiles over HTTP and entries and proofs over gRPC. It listens at once, also when
every upstream is dead, and goes on serving what it holds.

Without a configuration file it mirrors the public Rekor v2 shard into
./understudy-data and listens on loopback only.

It logs to standard error. SIGTERM or SIGINT stops it cleanly; a second one at
once, which loses nothing either.

Exit codes: 0 stopped by a signal; 2 it could not start, or the disk failed.`,
		Example: `  understudy serve
  understudy serve --config /etc/understudy/understudy.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := configOf(cmd)
			if err != nil {
				return err
			}
			var level slog.Level
			if err := level.UnmarshalText([]byte(c.LogLevel)); err != nil {
				return err
			}
			if os.Getenv("GOMEMLIMIT") == "" {
				debug.SetMemoryLimit(memoryLimit)
			}
			logger := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return serve(cmd.Context(), c, logger)
		},
	}
}

// serve runs the daemon until a signal ends it.
func serve(ctx context.Context, c *Config, logger *slog.Logger) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once

	listeners, err := listen(c)
	if err != nil {
		return err
	}
	defer listeners.close()

	fatal := make(chan error)
	done, closing := make(chan error, 1), make(chan struct{})
	go func() {
		done <- runDaemon(ctx, c, listeners, logger, closing, func(err error) {
			fatal <- err
			select {} // storage must not go on; the process ends now
		})
	}()
	err = awaitStop(ctx, done, closing, fatal, logger)
	if failed, ok := errors.AsType[*diskError](err); ok {
		return c.explainFatal(failed.error)
	}
	return err
}

// diskError is what storage reported as fatal.
type diskError struct{ error }

// awaitStop waits until the daemon is done, or for stopTime after ctx has ended.
func awaitStop(ctx context.Context, done <-chan error, closing <-chan struct{}, fatal <-chan error, logger *slog.Logger) error {
	select {
	case err := <-done:
		return err
	case err := <-fatal:
		return &diskError{err}
	case <-ctx.Done():
	}
	logger.Info("stopping")
	select {
	case err := <-done:
		return err
	case err := <-fatal:
		return &diskError{err}
	case <-time.After(stopTime):
	}
	select {
	case <-closing:
		// Closing waits for a compaction that is under way. It is crash-safe to cut off:
		// everything acknowledged was synced, and the next start goes on with it.
		logger.Info("stopped while the database was being tidied up; that goes on at the next start")
		return nil
	default:
		return fmt.Errorf("not everything stopped within %v; what was acknowledged is on disk", stopTime)
	}
}

func (c *Config) explainFatal(err error) error {
	return fmt.Errorf("the disk of %s failed: %w; nothing that was acknowledged is lost: look after the disk and its free space, then start again", c.DataDir, err)
}

// listeners are the sockets of the daemon.
type listeners struct {
	http, grpc, admin net.Listener
	logV1, logV2      net.Listener // of the private log; nil where there is no such generation
}

// listen opens the sockets, so that a mistake in an address shows before anything
// else happens.
func listen(c *Config) (_ *listeners, err error) {
	l := &listeners{}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	for _, socket := range []struct {
		key, address string
		listener     *net.Listener
	}{
		{"http", c.Listen.HTTP, &l.http}, {"grpc", c.Listen.GRPC, &l.grpc}, {"admin", c.Listen.Admin, &l.admin},
		{"log_v1", c.Listen.LogV1, &l.logV1}, {"log_v2", c.Listen.LogV2, &l.logV2},
	} {
		if socket.address == "" {
			continue
		}
		*socket.listener, err = net.Listen("tcp", socket.address)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, fmt.Errorf("listen for %s on %s: another program has that port; stop it, or change listen.%s in the configuration", socket.key, socket.address, socket.key)
		}
		if err != nil {
			return nil, fmt.Errorf("listen for %s: %w; change listen.%s in the configuration", socket.key, err, socket.key)
		}
	}
	for _, public := range []*net.Listener{&l.http, &l.grpc, &l.logV1, &l.logV2} {
		if *public != nil {
			*public = rest.LimitConnections(*public)
		}
	}
	return l, nil
}

func (l *listeners) close() {
	for _, listener := range []net.Listener{l.http, l.grpc, l.admin, l.logV1, l.logV2} {
		if listener != nil {
			listener.Close()
		}
	}
}

// runDaemon opens the database and serves until ctx ends; when it returns, nothing
// runs any more and the database is closed. It closes closing when only that is left.
func runDaemon(ctx context.Context, c *Config, l *listeners, logger *slog.Logger, closing chan<- struct{}, fatal func(error)) error {
	keys, err := newKeyring(c)
	if err != nil {
		return err
	}
	db, err := c.openOrCreate(storage.Options{Logger: logger, Fatal: fatal})
	if err != nil {
		return err
	}
	newest, err := c.openNewest(storage.Options{Logger: logger, Fatal: fatal})
	if err != nil {
		return errors.Join(err, db.Close())
	}
	d, err := newDaemon(ctx, c, keys, db, newest, logger)
	if err == nil {
		err = d.run(ctx, l)
	}
	close(closing)
	return errors.Join(err, newest.Close(), db.Close())
}
