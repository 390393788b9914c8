package rpc_test

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

const origin = "log.example/rpc-test"

// stage is an upstream, a real mirror of it in memory, and a connection to the server
// of that mirror.
type stage struct {
	t      *testing.T
	log    *synthetic.Log
	db     *storage.DB
	mirror *mirror.Mirror
	dial   func() *grpc.ClientConn // makes one more connection to the server
	conn   *grpc.ClientConn
	api    understudyv1.LogServiceClient

	stopMirror func()
}

// newStage mirrors a log that has the given sizes, one after the other. The mirror polls
// once a minute: it is live until unplug.
func newStage(t *testing.T, sizes ...uint64) *stage {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() { wantGoroutines(t, before) }) // runs last
	s := &stage{t: t, log: synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})}
	var err error
	s.db, err = storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20})
	check(t, err)
	t.Cleanup(func() {
		if s.db != nil {
			check(t, s.db.Close())
		}
	})
	tree, err := s.db.CreateTree(origin)
	check(t, err)
	for _, size := range sizes {
		s.log.Grow(size)
		s.plug(tree)
		s.waitFor(func(held *storage.State) bool { return held.Head.Size == size })
		if size != sizes[len(sizes)-1] {
			s.unplug()
		}
	}
	if len(sizes) == 0 {
		s.mirror = s.newMirror(tree, http.DefaultClient)
	}
	t.Cleanup(func() { s.unplug() })
	s.serve()
	return s
}

// only is what NewServer asks for, of one mirror.
func only(m *mirror.Mirror) func() []*mirror.Mirror {
	return func() []*mirror.Mirror { return []*mirror.Mirror{m} }
}

// serve serves the mirror of now.
func (s *stage) serve() {
	s.t.Helper()
	s.dial = serve(s.t, rpc.NewServer(rpc.Config{Mirrors: only(s.mirror), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}))
	s.conn = s.dial()
	s.api = understudyv1.NewLogServiceClient(s.conn)
}

func (s *stage) newMirror(tree *storage.Tree, web *http.Client) *mirror.Mirror {
	m, err := mirror.New(mirror.Config{
		Name: "test", Origin: origin, URL: "http://upstream.example", Tree: tree, Poll: time.Minute, RequestsPerSecond: 1e6, HTTPClient: web,
	})
	check(s.t, err)
	return m
}

// plug makes the mirror and lets it follow until unplug.
func (s *stage) plug(tree *storage.Tree) {
	s.t.Helper()
	web, closeWeb := synthetic.InMemory(s.log)
	s.mirror = s.newMirror(tree, web)
	key, err := trust.ParseKey([]byte(s.log.Key.Verifier()))
	check(s.t, err)
	ctx, cancel := context.WithCancel(s.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.mirror.Run(ctx, []trust.Key{key}); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	s.stopMirror = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		closeWeb()
	})
}

func (s *stage) unplug() {
	if s.stopMirror != nil {
		s.stopMirror()
	}
}

// again serves the same tree by a mirror that has not heard of its upstream yet.
func (s *stage) again() {
	s.t.Helper()
	s.unplug()
	s.mirror = s.newMirror(s.mirror.Tree(), http.DefaultClient)
	s.serve()
}

// waitFor waits for a state of the mirror's tree.
func (s *stage) waitFor(ok func(*storage.State) bool) {
	s.t.Helper()
	timeout := time.After(30 * time.Second)
	for {
		changed := s.mirror.Tree().Changed()
		if ok(s.mirror.Tree().State()) {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			s.t.Fatalf("mirror does not get there: %+v", s.mirror.Status())
		}
	}
}

// client returns a client that verifies.
func (s *stage) client() *client.Client {
	v, err := note.NewVerifier(s.log.Key.Verifier())
	check(s.t, err)
	return client.New(s.conn, origin, client.NoteVerifier(origin, v))
}

// serve runs a server in memory until the test ends, and returns what connects to it.
func serve(t *testing.T, server *grpc.Server) (dial func() *grpc.ClientConn) {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return func() *grpc.ClientConn {
		conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }),
			grpc.WithInitialWindowSize(1<<16), // what a client takes of a stream that it does not read
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
		check(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

// wantGoroutines waits until no more goroutines run than before.
func wantGoroutines(t *testing.T, before int) {
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	stacks := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, stacks[:runtime.Stack(stacks, true)])
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
