package mirror

import (
	"crypto/sha256"
	"errors"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// offering is a mirror that never runs, and its log.
func offering(t *testing.T, change func(*Config)) (*Mirror, *synthetic.Log) {
	t.Helper()
	log := synthetic.New(synthetic.Options{Origin: "log.example/offer", Entries: synthetic.Tiny(1)})
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	tree, err := db.CreateTree(log.Origin)
	if err != nil {
		t.Fatal(err)
	}
	client, stop := synthetic.InMemory(log)
	t.Cleanup(stop)
	cfg := Config{Name: "test", Origin: log.Origin, URL: "http://upstream.example", Tree: tree, RequestsPerSecond: 1e6, HTTPClient: client}
	if change != nil {
		change(&cfg)
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	key, err := trust.ParseKey([]byte(log.Key.Verifier()))
	if err != nil {
		t.Fatal(err)
	}
	m.keys = []trust.Key{key}
	return m, log
}

func offered(log *synthetic.Log, size uint64, extensions ...string) storage.Checkpoint {
	return storage.Checkpoint{
		Head: storage.Head{Size: size, Root: log.Root(size)}, Raw: synthetic.Note(log.Origin, size, log.Root(size), extensions, log.Key),
		FirstSeen: time.Now(), LastSeen: time.Now(), Source: "add-checkpoint",
	}
}

// TestEndPushedWhileJudging: a checkpoint of a log that is read while its end is pushed was signed
// before that, and is no evidence.
func TestEndPushedWhileJudging(t *testing.T) {
	m, log := offering(t, nil)
	log.Grow(3)
	if err := m.Offer(offered(log, 1), nil); err != nil {
		t.Fatal(err)
	}
	before := m.tree.State()
	proof := []storage.Hash{storage.LeafHash(log.Entries(1)), storage.LeafHash(log.Entries(2))}
	if err := m.Offer(offered(log, 3, "Log frozen — 2026-01-01"), proof); err != nil {
		t.Fatal(err)
	}
	c, err := trust.Open(log.Checkpoint(2), log.Origin, m.keys)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.judge(t.Context(), c, before); err != errMoved {
		t.Errorf("judged by what was held before: %v", err)
	}
	if ev := m.tree.State().Evidence; ev != nil {
		t.Errorf("an honest log is quarantined: %s", ev.Reason)
	}
}

// TestQuarantinedBeforeItBegan: what was pushed may close a log at any moment; its mirror goes on
// to look after what is stored.
func TestQuarantinedBeforeItBegan(t *testing.T) {
	m, log := offering(t, func(c *Config) { c.MinimumIndex = 256 })
	log.Grow(300)
	if err := m.Offer(offered(log, 300), nil); err != nil {
		t.Fatal(err)
	}
	s := m.tree.State()
	if err := m.tree.Quarantine(storage.Evidence{Reason: "test", First: s.Pending.Raw, Second: log.Checkpoint(300), Root: sha256.Sum256(nil)}); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(t.Context(), s); !errors.Is(err, storage.ErrQuarantined) || ends(err) {
		t.Errorf("the window: %v, ends %t", err, ends(err))
	}
	if err := m.copyChunk(t.Context(), s); !errors.Is(err, storage.ErrQuarantined) || ends(err) {
		t.Errorf("the copy: %v, ends %t", err, ends(err))
	}
}

// TestPushedBeforeTheWindowBegan: a window begins also if a checkpoint is pushed just then.
func TestPushedBeforeTheWindowBegan(t *testing.T) {
	m, log := offering(t, func(c *Config) { c.MinimumIndex = 256 })
	log.Grow(300)
	if err := m.Offer(offered(log, 300), nil); err != nil {
		t.Fatal(err)
	}
	s := m.tree.State()
	if err := m.Offer(offered(log, 300, "signed again"), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.begin(t.Context(), s); err != nil {
		t.Errorf("the window: %v", err)
	}
	s = m.tree.State()
	if err := m.Offer(offered(log, 300, "and again"), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.copyChunk(t.Context(), s); err != nil {
		t.Errorf("the copy: %v", err)
	}
	if err := m.copyChunk(t.Context(), m.tree.State()); err != nil || m.tree.State().Head.Size != 300 {
		t.Errorf("holds %d: %v", m.tree.State().Head.Size, err)
	}
}

// TestShardIsReadFirst: the first checkpoint of a shard is not one that was pushed, which nobody
// has shown to be of a tree, and after which the shard's first index could not be corrected.
func TestShardIsReadFirst(t *testing.T) {
	m, log := offering(t, nil)
	log.Grow(3)
	m.shard = &shard{}
	if err := m.Offer(offered(log, 3), nil); err != ErrBehind || m.tree.State().Pending.Raw != nil {
		t.Errorf("offer: %v", err)
	}
}
