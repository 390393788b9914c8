package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

const (
	rekorHost = "rekor.example"
	rekorPoll = 10 * time.Second
	allKinds  = ^synthetic.Kind(0)
)

// rekorStage is a Rekor v1 service, a mirror of it, and the disk under the mirror. It lives in
// a synctest bubble.
type rekorStage struct {
	t        *testing.T
	log      *synthetic.RekorV1
	disk     *vfs.MemFS
	db       *storage.DB
	service  *mirror.Service
	registry *prometheus.Registry
	keys     []trust.Key
	config   func(*mirror.ServiceConfig)
	synced   func() // is called before the disk syncs a log of the database; may be nil
	stop     func()

	mu     sync.Mutex
	logged bytes.Buffer
}

// Write receives the daemon's log.
func (s *rekorStage) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logged.Write(p)
}

// newRekorStage has an inactive shard of 37 entries and an active one of 21, under two keys.
func newRekorStage(t *testing.T) *rekorStage {
	l := synthetic.NewRekorV1(rekorHost)
	l.Active().Grow(37, synthetic.HashedRekordV1(1))
	l.RollOver(synthetic.RekorKey(rekorHost, 1))
	l.Active().Grow(21, synthetic.HashedRekordV1(2))
	return emptyRekorStage(t, l)
}

func emptyRekorStage(t *testing.T, l *synthetic.RekorV1) *rekorStage {
	s := &rekorStage{t: t, log: l, disk: vfs.NewMem()}
	s.keys = s.keysOf(l.Shards()...)
	return s
}

func (s *rekorStage) keysOf(shards ...*synthetic.Shard) (keys []trust.Key) {
	for _, sh := range shards {
		key, err := trust.ParseKey(sh.PublicKeyPEM())
		check(s.t, err)
		keys = append(keys, key)
	}
	return keys
}

// start opens the disk and makes the service; run lets it follow.
func (s *rekorStage) start() *rekorStage {
	s.t.Helper()
	options := storage.Options{FS: s.disk, CacheBytes: 4 << 20, SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: 1}
	if synced := s.synced; synced != nil {
		options.FS = vfs.WithLogging(s.disk, func(format string, args ...any) {
			if strings.HasPrefix(format, "sync") && strings.HasSuffix(fmt.Sprint(args[0]), ".log") {
				synced()
			}
		})
	}
	held, err := storage.Exists("db", options)
	check(s.t, err)
	if held {
		s.db, err = storage.Open("db", options)
	} else {
		s.db, err = storage.Create("db", options)
	}
	check(s.t, err)
	s.registry = prometheus.NewRegistry()
	client, closeClient := s.log.Client()
	cfg := mirror.ServiceConfig{
		Name: "test", URL: s.log.URL, DB: s.db, Poll: rekorPoll, RequestsPerSecond: 8,
		HTTPClient: client, Logger: slog.New(slog.NewTextHandler(s, nil)), Metrics: mirror.NewMetrics(s.registry),
	}
	if s.config != nil {
		s.config(&cfg)
	}
	s.service, err = mirror.NewService(cfg)
	check(s.t, err)
	s.stop = closeClient
	db := s.db
	s.t.Cleanup(func() { // after a failure; inside the bubble
		if s.db == db {
			s.stop()
			_ = db.Close()
		}
	})
	return s
}

// run follows the service until stop is called.
func (s *rekorStage) run() *rekorStage {
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	service := s.service
	wg.Go(func() {
		if err := service.Run(ctx, s.keys); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	closeClient := s.stop
	s.stop = func() { cancel(); wg.Wait(); closeClient() }
	return s
}

func (s *rekorStage) settle(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// close stops the service and checks what it left on its disk.
func (s *rekorStage) close() {
	s.t.Helper()
	if s.t.Failed() {
		return
	}
	s.stop()
	s.check()
	check(s.t, s.db.Close())
	s.db = nil
}

// reopen restarts the service; it does not run yet.
func (s *rekorStage) reopen() *rekorStage {
	s.t.Helper()
	if s.close(); s.t.Failed() {
		s.t.FailNow()
	}
	return s.start()
}

// check demands of every tree that it holds together, and of every pin and checkpoint that the
// honest log has it. Trees with evidence may have a checkpoint of the other side.
func (s *rekorStage) check() {
	s.t.Helper()
	for _, m := range s.service.Mirrors() {
		sh := s.shardOf(m.Origin())
		key := s.keysOf(sh)
		report, err := m.Tree().Check(s.t.Context(), storage.CheckOptions{Verify: func(raw []byte) error {
			_, err := trust.Open(raw, m.Origin(), key)
			return err
		}})
		check(s.t, err)
		for _, p := range report.Problems {
			s.t.Errorf("check of %s: %v", m.Origin(), &p)
		}
		v := m.Tree().View()
		check(s.t, v.Pins(0, func(p storage.Pin, _ int) error {
			if !bytes.Equal(p.Entry, sh.Body(p.Index)) {
				return fmt.Errorf("pin %d has another body than the log", p.Index)
			}
			if v.State().Evidence == nil && p.Checkpoint.Root != storage.Hash(sh.Root(p.Checkpoint.Size)) {
				return fmt.Errorf("pin %d has a checkpoint of another tree", p.Index)
			}
			return nil
		}))
		check(s.t, v.Checkpoints(0, ^uint64(0), func(c storage.Checkpoint) error {
			if c.Size > sh.Size() || c.Root != storage.Hash(sh.Root(c.Size)) {
				return fmt.Errorf("a false checkpoint is archived:\n%s", c.Raw)
			}
			return nil
		}))
		v.Close()
	}
}

func (s *rekorStage) shardOf(origin string) *synthetic.Shard {
	for _, sh := range s.log.Shards() {
		if sh.Origin() == origin {
			return sh
		}
	}
	s.t.Fatalf("no shard has the origin %q", origin)
	return nil
}

// mirrorOf returns the mirror of a shard.
func (s *rekorStage) mirrorOf(i int) *mirror.Mirror {
	s.t.Helper()
	for _, m := range s.service.Mirrors() {
		if m.Origin() == s.log.Shard(i).Origin() {
			return m
		}
	}
	s.t.Fatalf("shard %d is not known", i)
	return nil
}

// pins counts the pins of a shard by looking into the tree.
func (s *rekorStage) pins(i int) (count int, reasons map[uint64]storage.PinReasons) {
	s.t.Helper()
	reasons = map[uint64]storage.PinReasons{}
	v := s.mirrorOf(i).Tree().View()
	defer v.Close()
	check(s.t, v.Pins(0, func(p storage.Pin, _ int) error {
		reasons[p.Index] = p.Reasons
		return nil
	}))
	return len(reasons), reasons
}

// archived returns the sizes of the archived checkpoints of a shard.
func (s *rekorStage) archived(i int) (sizes []uint64) {
	s.t.Helper()
	v := s.mirrorOf(i).Tree().View()
	defer v.Close()
	check(s.t, v.Checkpoints(0, ^uint64(0), func(c storage.Checkpoint) error {
		sizes = append(sizes, c.Size)
		return nil
	}))
	return sizes
}

func byIndex(i uint64) mirror.EntryRef { return mirror.EntryRef{Index: i} }

func byUUID(t *testing.T, uuid string) mirror.EntryRef {
	t.Helper()
	u, err := rekor.ParseUUID(uuid)
	check(t, err)
	return mirror.EntryRef{UUID: &u}
}

// get asks as one client and demands the entry with a virtual index, with everything that
// upstream signed for it.
func (s *rekorStage) get(ref mirror.EntryRef, index uint64) rekor.Item {
	s.t.Helper()
	item, _, err := s.service.Entry(s.t.Context(), "client", ref)
	if err != nil {
		s.t.Fatalf("entry %v: %v", ref, err)
	}
	s.wantItem(item, index)
	return item
}

func (s *rekorStage) wantItem(item rekor.Item, index uint64) {
	s.t.Helper()
	if err := s.verify(item, index); err != nil {
		s.t.Fatalf("entry %d: %v", index, err)
	}
}

func (s *rekorStage) verify(item rekor.Item, index uint64) error {
	shard := 0
	for shard+1 < len(s.log.Shards()) && index >= s.log.Start(shard+1) {
		shard++
	}
	sh, at := s.log.Shard(shard), index-s.log.Start(shard)
	e := item.Entry
	if item.UUID.String() != sh.UUID(at) || e.LogIndex != index || !bytes.Equal(e.Body, sh.Body(at)) || e.LogID != sh.LogID() {
		return fmt.Errorf("is %v at %d of the log %s, want %s", item.UUID, e.LogIndex, e.LogID, sh.UUID(at))
	}
	key := s.keysOf(sh)
	if err := e.VerifySET(key[0].Public()); err != nil {
		return err
	}
	if e.Proof == nil {
		return errors.New("has no proof")
	}
	c, err := trust.Open(e.Proof.Checkpoint, sh.Origin(), key)
	if err != nil {
		return err
	}
	if c.Size != e.Proof.TreeSize || c.Root != e.Proof.RootHash || e.Proof.Index != at {
		return errors.New("has a proof to another tree than its checkpoint")
	}
	leaf := storage.LeafHash(e.Body)
	return proof.VerifyInclusion(rfc6962.DefaultHasher, at, c.Size, leaf[:], raws(e.Proof.Hashes), c.Root[:])
}

func raws(hashes []storage.Hash) [][]byte {
	raw := make([][]byte, len(hashes))
	for i := range hashes {
		raw[i] = hashes[i][:]
	}
	return raw
}

// refused demands that an entry is refused.
func (s *rekorStage) refused(ref mirror.EntryRef, kind mirror.Kind, reason string) *mirror.Refusal {
	s.t.Helper()
	item, _, err := s.service.Entry(s.t.Context(), "client", ref)
	if err == nil {
		s.t.Fatalf("entry %v is answered: %v", ref, item.UUID)
	}
	wantRefusal(s.t, err, kind, reason)
	var r *mirror.Refusal
	errors.As(err, &r)
	return r
}

// prove demands a consistency proof.
func (s *rekorStage) prove(shard int, first, last uint64) {
	s.t.Helper()
	sh := s.log.Shard(shard)
	hashes, root, err := s.service.Consistency(s.t.Context(), "client", sh.TreeID, first, last)
	if err != nil {
		s.t.Fatalf("consistency of %d and %d: %v", first, last, err)
	}
	a, b := sh.Root(first), sh.Root(last)
	if err := proof.VerifyConsistency(rfc6962.DefaultHasher, first, last, raws(hashes), a[:], b[:]); err != nil {
		s.t.Fatalf("consistency of %d and %d: %v", first, last, err)
	}
	if p := s.mirrorOf(shard).Tree().State().Pending; root != p.Root {
		s.t.Fatalf("root %v is not that of the newest checkpoint", root)
	}
}

func (s *rekorStage) says(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.logged.String(), text)
}

// problems is how often a reason was counted, over all logs of the stage.
func (s *rekorStage) problems(reason string) (n float64) {
	s.t.Helper()
	families, err := s.registry.Gather()
	check(s.t, err)
	for _, family := range families {
		if family.GetName() != "understudy_log_problems_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "reason" && l.GetValue() == reason {
					n += m.GetCounter().GetValue()
				}
			}
		}
	}
	return n
}

// away makes upstream refuse connections, and waits until that is known.
func (s *rekorStage) away() {
	s.log.Refuse(true)
	s.settle(2 * rekorPoll)
}

// back ends it.
func (s *rekorStage) back() {
	s.log.Refuse(false)
	s.settle(2 * longestBackoff)
}
