//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/test/synthetic"
)

// hugeFactor is how many times as many entries the huge log has: ten million in a whole run.
// They are small, made from their index when they are asked for, and nothing of it is on
// disk.
const hugeFactor = 10

// measureWindow starts windows at the end of a huge log, and seeds a copy from another.
func (b *bench) measureWindow(ctx context.Context) error {
	size := hugeFactor * b.upstream.size
	b.say("generating %d small entries", size)
	log := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	for log.Size() < size {
		log.Grow(min(size, log.Size()+1<<20))
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: log, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go server.Serve(listener)
	defer server.Close()
	key := filepath.Join(b.dir, "huge.vkey")
	if err := os.WriteFile(key, []byte(log.Key.Verifier()), 0o644); err != nil {
		return err
	}
	var proven, lag sample
	if err := b.inTurns(ctx, func() error {
		took, behind, err := b.startWindow(ctx, log, "http://"+listener.Addr().String(), key)
		if err != nil {
			return err
		}
		proven.add(took.Seconds())
		lag.add(behind)
		b.say("%-28s %.2f s to the first verified proof; the tail lags by %.2f polls at most", "window", took.Seconds(), behind)
		return nil
	}); err != nil {
		return err
	}
	b.rows = append(b.rows,
		row{what: fmt.Sprintf("from the first start at the end of %s entries to a verified proof", number(float64(size))), ours: proven.String() + " s", goal: "< 5 s"},
		row{what: "longest lag of the tail while history runs, in polls", ours: lag.String(), goal: "< 2"})
	return b.measureSeeding(ctx)
}

// startWindow starts an empty mirror with a window on a log, asks until it proves the last
// entry, and then lets the log grow for a while and watches how far behind the mirror is.
func (b *bench) startWindow(ctx context.Context, log *synthetic.Log, url, key string) (took time.Duration, lag float64, err error) {
	d, err := newDaemonOf(filepath.Join(b.dir, "window"), url, key, "coverage: window, window: 1000000")
	if err != nil {
		return 0, 0, err
	}
	defer os.RemoveAll(d.dir)
	conn, err := grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, 0, err
	}
	defer conn.Close()
	verifier, err := note.NewVerifier(log.Key.Verifier())
	if err != nil {
		return 0, 0, err
	}
	c := client.New(conn, origin, client.NoteVerifier(origin, verifier))
	proves := func(ctx context.Context, index uint64) bool {
		_, err := c.InclusionProof(ctx, client.Index(index), 0)
		return err == nil
	}
	took, err = b.serve(ctx, d, func(ctx context.Context, _ *daemon) bool {
		s := windowStatus(ctx, conn)
		return s != nil && s.GetNextIndex() > s.GetMinimumIndex() && proves(ctx, s.GetNextIndex()-1)
	})
	if err != nil {
		return 0, 0, err
	}
	defer d.end(syscall.SIGKILL)
	// The tail first: all of the window, then history.
	for s := windowStatus(ctx, conn); s.GetNextIndex() < s.GetTreeSize(); s = windowStatus(ctx, conn) {
		if err := pauseFor(ctx, 50*time.Millisecond); err != nil {
			return 0, 0, err
		}
	}
	const poll = time.Second // as newDaemonOf configures
	before := windowStatus(ctx, conn).GetMinimumIndex()
	for range 5 {
		start := time.Now()
		size := log.Size() + 1000
		log.Grow(size)
		for !proves(ctx, size-1) {
			if err := pauseFor(ctx, 5*time.Millisecond); err != nil {
				return 0, 0, err
			}
		}
		lag = max(lag, time.Since(start).Seconds()/poll.Seconds())
	}
	if after := windowStatus(ctx, conn).GetMinimumIndex(); after >= before && before > 0 {
		return 0, 0, fmt.Errorf("history stood still at %d", after)
	}
	return took, lag, nil
}

func pauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

func windowStatus(ctx context.Context, conn *grpc.ClientConn) *understudyv1.Log {
	answer, err := understudyv1.NewLogServiceClient(conn).ListLogs(ctx, &understudyv1.ListLogsRequest{})
	if err != nil || len(answer.GetLogs()) != 1 {
		return nil
	}
	return answer.GetLogs()[0]
}

// measureSeeding measures history from a mirror of the whole log, as the last catch-up left
// it: the window begins at the end, so that all but the last bundle is history.
func (b *bench) measureSeeding(ctx context.Context) error {
	if _, err := b.serve(ctx, b.daemon, servesTiles); err != nil {
		return err
	}
	defer b.daemon.end(syscall.SIGTERM)
	var seeded sample
	if err := b.inTurns(ctx, func() error {
		end := b.upstream.size / 256 * 256
		d, err := newDaemonOf(filepath.Join(b.dir, "seeded"), b.upstream.url, b.upstream.keyFile,
			fmt.Sprintf("coverage: window, minimum_index: %d, sources: [{url: %q}]", end, strings.TrimSuffix(b.daemon.prefix, "/")))
		if err != nil {
			return err
		}
		defer os.RemoveAll(d.dir)
		conn, err := grpc.NewClient(d.grpc, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		defer conn.Close()
		took, err := b.serve(ctx, d, func(ctx context.Context, _ *daemon) bool {
			s := windowStatus(ctx, conn)
			return s.GetNextIndex() == b.upstream.size && s.GetMinimumIndex() == 0
		})
		if err != nil {
			return err
		}
		d.end(syscall.SIGKILL)
		b.addRate(&seeded, "seeding from a mirror", took)
		return nil
	}); err != nil {
		return err
	}
	b.compare("seeding a copy from another understudy", "entries/s", seeded, "our own catch-up from upstream", b.caughtUp, "≥ 1")
	return nil
}
