package rpc_test

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

const (
	v1Host     = "rekor.example"
	v2Origin   = "log2026-1.rekor.example"
	endedSize  = 37 // entries of the first shard, all held
	activeSize = 21 // and of the second one, which has pins only
	v2Size     = 300
)

// rekorStage is a Rekor v1 service of two shards and a log of Rekor v2, real mirrors of both
// in memory, and a connection to their server.
type rekorStage struct {
	*stage  // its log and mirror are those of v2
	v1      *synthetic.RekorV1
	service *mirror.Service
	keys    []trust.Key // of v2
	stop    func()
}

func newRekorStage(t *testing.T) *rekorStage {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() { wantGoroutines(t, before) }) // runs last
	s := &rekorStage{stage: &stage{t: t}, v1: synthetic.NewRekorV1(v1Host)}
	s.log = synthetic.New(synthetic.Options{Origin: v2Origin, Entries: synthetic.HashedRekord(3)})
	s.log.Grow(v2Size)
	s.v1.Active().Grow(endedSize, synthetic.HashedRekordV1(1))
	s.v1.RollOver(synthetic.RekorKey(v1Host, 1))
	s.v1.Active().Grow(activeSize, synthetic.HashedRekordV1(2))
	check(t, s.v1.IndexAll(0))
	check(t, s.v1.IndexAll(1))

	var err error
	s.db, err = storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20, SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: rekor.SearchVersion})
	check(t, err)
	t.Cleanup(func() { check(t, s.db.Close()) })
	tree, err := s.db.CreateTree(v2Origin)
	check(t, err)
	v2Web, closeV2 := synthetic.InMemory(s.log)
	s.mirror, err = mirror.New(mirror.Config{
		Name: "v2", Origin: v2Origin, URL: "http://" + v2Origin, Tree: tree, Poll: time.Second, RequestsPerSecond: 1e6, HTTPClient: v2Web,
	})
	check(t, err)
	v1Web, closeV1 := s.v1.Client()
	s.service, err = mirror.NewService(mirror.ServiceConfig{
		Name: "rekor", URL: s.v1.URL, DB: s.db, Poll: time.Second, RequestsPerSecond: 1e6, HTTPClient: v1Web,
		Shards: map[uint64]mirror.Coverage{s.v1.Shard(0).TreeID: mirror.CoverageFull},
	})
	check(t, err)
	key, err := trust.ParseKey(s.log.Key.PEM())
	check(t, err)
	s.keys = []trust.Key{key}

	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.mirror.Run(ctx, s.keys); err != nil {
			t.Errorf("run v2: %v", err)
		}
	})
	running.Go(func() {
		if err := s.service.Run(ctx, s.v1Keys()); err != nil {
			t.Errorf("run v1: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		closeV1()
		closeV2()
	})
	t.Cleanup(s.stop)
	s.until("all is copied", func() bool {
		shards, err := s.service.Shards()
		return err == nil && len(shards) == 2 && shards[0].Mirror.Tree().State().Head.Size == endedSize &&
			shards[1].Head.Size == activeSize && tree.State().Head.Size == v2Size
	})
	s.serve(func(string) []trust.Key { return s.keys })
	return s
}

func (s *rekorStage) v1Keys() []trust.Key {
	var keys []trust.Key
	for _, sh := range s.v1.Shards() {
		key, err := trust.ParseKey(sh.PublicKeyPEM())
		check(s.t, err)
		keys = append(keys, key)
	}
	return keys
}

// serve serves with the given keys.
func (s *rekorStage) serve(keys func(string) []trust.Key) {
	s.t.Helper()
	s.dial = serve(s.t, rpc.NewServer(rpc.Config{
		Mirrors:  func() []*mirror.Mirror { return append(s.service.Mirrors(), s.mirror) },
		Services: []*mirror.Service{s.service}, Keys: keys,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}))
	s.conn = s.dial()
	s.api = understudyv1.NewLogServiceClient(s.conn)
}

// outage makes upstream go away, and waits until that is noticed.
func (s *rekorStage) outage() {
	s.t.Helper()
	s.v1.Refuse(true)
	s.until("the outage is noticed", func() bool { return s.service.Freshness().Source != mirror.SourceLive })
}

func (s *rekorStage) until(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s; %+v", what, s.service.Statuses())
		}
	}
}

// digestV1 is the digest of the artifact of an entry.
func digestV1(seed, index uint64) []byte {
	d := sha256.Sum256(synthetic.ArtifactV1(seed, index))
	return d[:]
}
