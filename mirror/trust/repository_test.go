package trust

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/tufrepo"
)

// copied is a copy of a TUF repository whose process can be ended.
type copied struct {
	*Repository

	t    *testing.T
	disk *vfs.MemFS
	db   *storage.DB
	cfg  RepositoryConfig
}

func copyOf(t *testing.T, server *tufrepo.Repo, root []byte) *copied {
	t.Helper()
	c := &copied{t: t, disk: vfs.NewCrashableMem(), cfg: RepositoryConfig{URL: server.URL, Root: root}}
	c.db = must(storage.Create("db", storage.Options{FS: c.disk}))
	c.begin()
	t.Cleanup(func() { c.db.Close() })
	return c
}

func (c *copied) begin() {
	c.t.Helper()
	c.cfg.DB = c.db
	var err error
	if c.Repository, err = NewRepository(c.cfg); err != nil {
		c.t.Fatal(err)
	}
}

// crash goes on after a crash: with what was synced.
func (c *copied) crash() {
	c.t.Helper()
	after := c.disk.CrashClone(vfs.CrashCloneCfg{})
	if err := c.db.Close(); err != nil {
		c.t.Fatal(err)
	}
	c.disk = after
	c.db = must(storage.Open("db", storage.Options{FS: c.disk}))
	c.begin()
}

func (c *copied) update() {
	c.t.Helper()
	if err := c.Update(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

// refuses demands that an update is refused for a reason, and changes nothing.
func (c *copied) refuses(reason, file string) {
	c.t.Helper()
	served, records := c.served.Load(), c.records()
	err := c.Update(c.t.Context())
	refused, ok := errors.AsType[*RepositoryError](err)
	if !ok || refused.Reason != reason || refused.File != file {
		c.t.Errorf("update: %v, want the reason %q of %s", err, reason, file)
	}
	if c.served.Load() != served {
		c.t.Error("what is served has changed")
	}
	if now := c.records(); !maps.EqualFunc(now, records, bytes.Equal) {
		c.t.Errorf("stored %d records, had %d", len(now), len(records))
	}
	if p := c.Status().Problem; p == nil || p.Reason != reason || p.Since.IsZero() || !strings.Contains(p.Text, file) {
		c.t.Errorf("status says %+v", p)
	}
}

func (c *copied) records() map[string][]byte {
	c.t.Helper()
	all := map[string][]byte{}
	if err := c.db.Records("tuf ", func(name string, record []byte) error {
		all[name] = bytes.Clone(record)
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
	return all
}

// has demands that every file of the repository is served as it is there.
func (c *copied) has(server *tufrepo.Repo) {
	c.t.Helper()
	for name, want := range server.Files() {
		if f, ok := c.File(name); !ok || !bytes.Equal(f.Data, want) || f.Hash != hashOf(want) {
			c.t.Errorf("%s is served: %v, %q", name, ok, f.Data)
		}
	}
	if f, ok := c.File("99.root.json"); ok {
		c.t.Errorf("what is not there is served: %q", f.Data)
	}
}

// serve serves the copy as the REST handler does.
func (c *copied) serve() *httptest.Server {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f, ok := c.File(strings.TrimPrefix(r.URL.Path, "/"))
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Write(f.Data)
	}))
	c.t.Cleanup(server.Close)
	return server
}

func day(n int) time.Time { return time.Now().Add(time.Duration(n) * 24 * time.Hour) }

// TestRepository: each version is copied to the byte, is there after a crash, and serves clients
// when upstream is gone. Nothing is asked for that is there already.
func TestRepository(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	first := server.PublishRoot(t)
	c := copyOf(t, server, first)
	if s := c.Status(); s.Checked != nil || s.Seen != nil || len(s.Roles) != 0 || s.Problem != nil || c.Target(RootTarget) != nil {
		t.Errorf("before the first update: %+v", s)
	}
	for i, kind := range []string{"P-256", "P-384", "P-521"} {
		if i == 2 {
			server.Rotate(t, day(100))
			server.Rotate(t, day(100))
		}
		if i > 0 {
			server.Publish(t, targetOf(t, kind), day(7))
		}
		changed := c.Changed()
		c.update()
		select {
		case <-changed:
		default:
			t.Error("nobody is told of a new version")
		}
		server.Requests()
		for range 2 {
			c.has(server)
			if r, err := ParseRoot(c.Target(RootTarget)); err != nil || opens(t, r) != kind {
				t.Errorf("trusted root: %v", err)
			}
			s := c.Status()
			if s.Checked == nil || time.Since(*s.Checked) > time.Minute || s.Seen == nil || s.Problem != nil {
				t.Errorf("status %+v", s)
			}
			var names []string
			for _, role := range s.Roles {
				names = append(names, role.Name)
				if want := server.Version; role.Name != metadata.ROOT && role.Version != want {
					t.Errorf("%s has version %d, want %d", role.Name, role.Version, want)
				}
			}
			if !slices.Equal(names, []string{"root", "timestamp", "snapshot", "targets"}) {
				t.Errorf("roles %q", names)
			}
			c.crash()
		}
		before := len(c.records())
		c.update()
		if n := server.Requests(); n != 2 || len(c.records()) != before {
			t.Errorf("%d requests where nothing is new, want one for the next root and one for the timestamp; %d records, had %d", n, len(c.records()), before)
		}
	}
	// Clients that begin at any root, with upstream gone.
	server.Down(true)
	c.refuses(ReasonUnreachable, "4.root.json")
	ours := c.serve()
	for version := int64(1); version <= 3; version++ {
		client := repository{ours.URL, server.Files()[rootFile(version)]}
		r, err := client.fetch(t.Context(), t.TempDir())
		if err != nil || opens(t, r) != "P-521" {
			t.Errorf("a client that begins at root %d: %v", version, err)
		}
	}
	if expired, ok := c.Status().Expired(time.Now()); ok {
		t.Errorf("%+v has expired", expired)
	}
	if expired, ok := c.Status().Expired(day(8)); !ok || expired.Name != metadata.TIMESTAMP {
		t.Errorf("after a week %+v has expired", expired)
	}
}

// TestCurrentRoot: the trusted root is there as long as clients would take it, and then the error
// says what has expired.
func TestCurrentRoot(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	wants := func(problem string) {
		t.Helper()
		root, err := c.CurrentRoot()
		if problem == "" && (err != nil || opens(t, root) != "P-256") || problem != "" && (err == nil || !strings.Contains(err.Error(), problem)) {
			t.Errorf("%v, want %q", err, problem)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, waited := c.TrustedRoot(ended); (waited == nil) != (err == nil) {
			t.Errorf("with a context that has ended: %v, not %v", waited, err)
		}
	}
	wants("has no trusted root yet")
	c.update()
	wants("")
	server.Publish(t, targetOf(t, "P-256"), time.Now().Add(300*time.Millisecond))
	c.update()
	wants("")
	time.Sleep(400 * time.Millisecond)
	wants("the timestamp metadata in the copy of the TUF repository " + server.URL + " expired at")
}

// TestRepositoryElderRoots: a copy that begins at a late root has the earlier ones, too, if they
// are vouched for.
func TestRepositoryElderRoots(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	for range 4 {
		server.Rotate(t, day(100))
	}
	server.Remove("1.snapshot.json")
	server.Remove("1.targets.json")
	server.Publish(t, targetOf(t, "P-256"), day(7))
	files := server.Files()
	c := copyOf(t, server, files["4.root.json"])
	c.update()
	c.has(server)

	stranger := tufrepo.New(t, targetOf(t, "P-256"))
	stranger.Rotate(t, day(100))
	server.Put("2.root.json", stranger.Files()["2.root.json"])
	c = copyOf(t, server, files["4.root.json"])
	c.update()
	for version := int64(1); version <= 5; version++ {
		if f, ok := c.File(rootFile(version)); ok != (version >= 3) || ok && !bytes.Equal(f.Data, files[rootFile(version)]) {
			t.Errorf("root %d is served: %v", version, ok)
		}
	}
	server.Requests()
	c.update()
	if n := server.Requests(); n != 3 {
		t.Errorf("%d requests, want one for the next root, one for the timestamp, and one for an older root", n)
	}
}

// TestRepositoryDelegations: files of delegated roles are copied; npm's keys are such.
func TestRepositoryDelegations(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	const role, name = "registry.npmjs.org", "registry.npmjs.org/keys.json"
	keys := []byte(`{"keys":[]}`)
	delegated := metadata.Targets(day(30))
	delegated.Signed.Targets[name] = must(metadata.TargetFile().FromBytes(name, keys, "sha256", "sha512"))
	tufrepo.Sign(t, server, "1."+role+".json", delegated, metadata.TARGETS)
	file := delegated.Signed.Targets[name]
	server.Put(fmt.Sprintf("targets/registry.npmjs.org/%s.keys.json", file.Hashes["sha256"]), keys)
	server.Put(fmt.Sprintf("targets/registry.npmjs.org/%s.keys.json", file.Hashes["sha512"]), keys)
	tufrepo.Edit(t, server, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
		key := must(metadata.KeyFromPublicKey(server.Keys[metadata.TARGETS].Public()))
		m.Signed.Delegations = &metadata.Delegations{
			Keys:  map[string]*metadata.Key{must(key.ID()): key},
			Roles: []metadata.DelegatedRole{{Name: role, KeyIDs: []string{must(key.ID())}, Threshold: 1, Terminating: true, Paths: []string{"registry.npmjs.org/*"}}},
		}
	}, metadata.TARGETS)
	tufrepo.Edit(t, server, "1.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) {
		m.Signed.Meta[role+".json"] = metadata.MetaFile(1)
	}, metadata.SNAPSHOT)
	c := copyOf(t, server, root)
	c.update()
	c.has(server)
	if string(c.Target(name)) != string(keys) || c.Status().Roles[4].Name != role {
		t.Errorf("keys are %q, roles %v", c.Target(name), c.Status().Roles)
	}
	server.Put(fmt.Sprintf("targets/registry.npmjs.org/%s.keys.json", file.Hashes["sha256"]), []byte("{}"))
	c = copyOf(t, server, root)
	c.update() // npm's trouble is not everybody's
	if _, ok := c.File("1." + role + ".json"); ok || c.Target(name) != nil || c.Target(RootTarget) == nil {
		t.Errorf("keys that do not verify: %v, %q", ok, c.Target(name))
	}
}

// TestRepositoryBadDays: what no client may take is refused with TUF's reason, whether there is a
// good version before or not; that one stays served, also after a crash, and it heals by itself.
func TestRepositoryBadDays(t *testing.T) {
	type m = metadata.Metadata[metadata.TimestampType]
	next := func(t *testing.T, s *tufrepo.Repo) { s.Publish(t, targetOf(t, "P-384"), day(7)) }
	target := "targets/" + hashOf(targetOf(t, "P-384")) + "." + RootTarget
	for _, bad := range []struct {
		name, reason, file string
		fresh              bool // also where nothing is held yet
		do                 func(t *testing.T, s *tufrepo.Repo)
	}{
		{"away", ReasonUnreachable, "2.root.json", true, func(_ *testing.T, s *tufrepo.Repo) { s.Down(true) }},
		{"expired timestamp", ReasonExpired, "timestamp.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Publish(t, targetOf(t, "P-384"), time.Now().Add(-time.Second))
		}},
		{"expired snapshot", ReasonExpired, "3.snapshot.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			tufrepo.Edit(t, s, "3.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) { m.Signed.Expires = day(-1) }, metadata.SNAPSHOT)
		}},
		{"expired targets", ReasonExpired, "3.targets.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			tufrepo.Edit(t, s, "3.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Expires = day(-1) }, metadata.TARGETS)
		}},
		{"expired root", ReasonExpired, "timestamp.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Rotate(t, day(-1))
			next(t, s)
		}},
		{"timestamp rolled back", ReasonRollback, "timestamp.json", false, func(t *testing.T, s *tufrepo.Repo) {
			tufrepo.Edit(t, s, "timestamp.json", func(m *m) { m.Signed.Version = 1 }, metadata.TIMESTAMP)
		}},
		{"snapshot rolled back", ReasonRollback, "timestamp.json", false, func(t *testing.T, s *tufrepo.Repo) {
			tufrepo.Edit(t, s, "timestamp.json", func(m *m) {
				m.Signed.Version = 9
				m.Signed.Meta["snapshot.json"] = metadata.MetaFile(1)
			}, metadata.TIMESTAMP)
		}},
		{"targets rolled back", ReasonRollback, "3.snapshot.json", false, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			tufrepo.Edit(t, s, "3.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) {
				m.Signed.Meta["targets.json"] = metadata.MetaFile(1)
			}, metadata.SNAPSHOT)
		}},
		{"mixed up", ReasonRollback, "3.snapshot.json", true, func(t *testing.T, s *tufrepo.Repo) {
			one := s.Files()["2.snapshot.json"]
			next(t, s)
			s.Put("3.snapshot.json", one)
		}},
		{"not signed", ReasonSignature, "timestamp.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			tufrepo.Edit(t, s, "timestamp.json", func(*m) {})
		}},
		{"signed by another role", ReasonSignature, "3.snapshot.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			tufrepo.Edit(t, s, "3.snapshot.json", func(*metadata.Metadata[metadata.SnapshotType]) {}, metadata.TARGETS)
		}},
		{"root signed by itself alone", ReasonSignature, "2.root.json", true, func(t *testing.T, s *tufrepo.Repo) {
			stranger := tufrepo.New(t, targetOf(t, "P-384"))
			stranger.Rotate(t, day(100))
			s.Put("2.root.json", stranger.Files()["2.root.json"])
		}},
		{"gap in the chain of roots", ReasonRootChain, "2.root.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Rotate(t, day(100))
			s.Rotate(t, day(100))
			s.Put("2.root.json", s.Files()["3.root.json"])
		}},
		{"endless timestamp", ReasonTooLong, "timestamp.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Put("timestamp.json", bytes.Repeat([]byte(" "), maxTimestamp+1))
		}},
		{"endless root", ReasonTooLong, "2.root.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Put("2.root.json", bytes.Repeat([]byte(" "), maxRoot+1))
		}},
		{"malformed timestamp", ReasonMalformed, "timestamp.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Put("timestamp.json", []byte("<html>"))
		}},
		{"malformed root", ReasonMalformed, "2.root.json", true, func(t *testing.T, s *tufrepo.Repo) {
			s.Put("2.root.json", []byte(`{"signed":`))
		}},
		{"malformed targets", ReasonMalformed, "3.targets.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			s.Put("3.targets.json", nil)
		}},
		{"snapshot is missing", ReasonMissing, "3.snapshot.json", true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			s.Remove("3.snapshot.json")
		}},
		{"target is missing", ReasonMissing, target, true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			s.Remove(target)
		}},
		{"target with another hash", ReasonMismatch, target, true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			data := bytes.Clone(s.Files()[target])
			data[len(data)/2] ^= 1
			s.Put(target, data)
		}},
		{"target too short", ReasonMismatch, target, true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			s.Put(target, s.Files()[target][1:])
		}},
		{"target too long", ReasonTooLong, target, true, func(t *testing.T, s *tufrepo.Repo) {
			next(t, s)
			s.Put(target, append(bytes.Clone(s.Files()[target]), ' '))
		}},
	} {
		t.Run(bad.name, func(t *testing.T) {
			for _, held := range []bool{true, false} {
				if !held && !bad.fresh {
					continue
				}
				server := tufrepo.New(t, targetOf(t, "P-256"))
				server.Publish(t, targetOf(t, "P-256"), day(7))
				server.Remove("1.snapshot.json")
				server.Remove("1.targets.json")
				c := copyOf(t, server, server.PublishRoot(t))
				good := server.Files()
				if held {
					c.update()
				}
				bad.do(t, server)
				c.refuses(bad.reason, bad.file)
				c.crash()
				c.refuses(bad.reason, bad.file)
				if held {
					for name, want := range good {
						if f, ok := c.File(name); !ok || !bytes.Equal(f.Data, want) {
							t.Errorf("%s is no longer served as it was", name)
						}
					}
				} else if _, ok := c.File("timestamp.json"); ok {
					t.Error("a timestamp is served that was refused")
				}
				server.Down(false)
				server.Restore(good)
				server.Rotate(t, day(100))
				server.Publish(t, targetOf(t, "P-521"), day(7))
				c.update()
				if r, err := ParseRoot(c.Target(RootTarget)); err != nil || opens(t, r) != "P-521" || c.Status().Problem != nil {
					t.Errorf("it does not heal: %v, %+v", err, c.Status())
				}
			}
		})
	}
}

// TestRepositoryCrash: at whatever write of an update a machine stops, the old version is served
// after it, or the new one, and all of it.
func TestRepositoryCrash(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	disk := vfs.NewCrashableMem()
	var clones []*vfs.MemFS
	watched := vfs.WithLogging(disk, func(string, ...any) { clones = append(clones, disk.CrashClone(vfs.CrashCloneCfg{})) })
	db := must(storage.Create("db", storage.Options{FS: watched}))
	defer db.Close()
	r := must(NewRepository(RepositoryConfig{DB: db, URL: server.URL, Root: root}))
	if err := r.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := server.Files()
	clones = nil
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-384"), day(7))
	if err := r.Update(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := server.Files()
	clones = append(clones, disk.CrashClone(vfs.CrashCloneCfg{}))
	seen := map[string]int{}
	for _, clone := range clones {
		db := must(storage.Open("db", storage.Options{FS: clone}))
		r := must(NewRepository(RepositoryConfig{DB: db, URL: server.URL, Root: root}))
		want, which := before, "old"
		if f, _ := r.File("timestamp.json"); bytes.Equal(f.Data, after["timestamp.json"]) {
			want, which = after, "new"
		}
		seen[which]++
		for name, data := range want {
			if f, _ := r.File(name); !bytes.Equal(f.Data, data) {
				t.Errorf("%s of the %s version is not served", name, which)
			}
		}
		if _, ok := r.File("2.root.json"); ok != (which == "new") {
			t.Errorf("a root of the new version beside the %s timestamp", which)
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if seen["old"] == 0 || seen["new"] == 0 {
		t.Errorf("after crashes: %v", seen)
	}
}

// TestRepositoryMalformedRoots: a trusted root that no verifier can read is refused, however well
// it is signed. Two such were published.
func TestRepositoryMalformedRoots(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	c.update()
	targets := map[string][]byte{"rubbish": []byte("{}")}
	for _, name := range must(filepath.Glob("../../../shared/data/trusted-roots/*/*trusted_root.json")) {
		data := must(os.ReadFile(name))
		if _, err := ParseRoot(data); err != nil {
			targets[name] = data
		}
	}
	t.Logf("%d malformed trusted roots", len(targets))
	for _, target := range targets {
		server.Publish(t, target, day(7))
		c.refuses(ReasonMalformed, "targets/"+hashOf(target)+"."+RootTarget)
	}
}

// TestRepositoryDamage: what is damaged in the copy is had again.
func TestRepositoryDamage(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	c.update()
	for name := range c.records() {
		if err := c.db.PutRecord(name, []byte("rubbish")); err != nil {
			t.Fatal(err)
		}
		c.crash()
		c.update()
		c.has(server)
		c.crash()
		c.has(server)
	}
}

// TestRepositoryRun updates by itself, tries again after a failure, and ends with its context.
func TestRepositoryRun(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	registry := prometheus.NewPedanticRegistry()
	c.cfg.Metrics, c.cfg.Poll = NewMetrics(registry), 10*time.Millisecond
	c.begin()
	server.Down(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	for c.Status().Problem == nil {
		time.Sleep(time.Millisecond)
	}
	server.Down(false)
	<-c.Changed()
	for c.Status().Problem != nil {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(registry, "understudy_tuf_expires_timestamp_seconds", "understudy_tuf_checked_timestamp_seconds", "understudy_tuf_failures_total"); n != 6 {
		t.Errorf("%d metrics", n)
	}
}

// TestRepositoryConfig refuses what cannot be followed.
func TestRepositoryConfig(t *testing.T) {
	db := must(storage.Create("db", storage.Options{FS: vfs.NewMem()}))
	defer db.Close()
	for _, cfg := range []RepositoryConfig{{URL: "ftp://example.com"}, {URL: "%"}, {Root: []byte("{}")}, {Root: []byte("rubbish")}} {
		cfg.DB = db
		if _, err := NewRepository(cfg); err == nil {
			t.Errorf("%+v is accepted", cfg)
		}
	}
	if r, err := NewRepository(RepositoryConfig{DB: db}); err != nil || r.url != "https://tuf-repo-cdn.sigstore.dev/" {
		t.Errorf("the public Sigstore: %v", err)
	}
}

// TestFilesAreBounded: what accumulates over the years is given up once it is too much, but for the
// roots: clients may begin at any of them. The next version has all that is its own.
func TestFilesAreBounded(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	c.update()
	server.Rotate(t, time.Now().Add(time.Hour))
	server.Publish(t, targetOf(t, "P-256"), time.Now().Add(time.Hour))
	c.update()
	all := c.served.Load()
	size := 0
	for _, file := range all.files {
		size += len(file.Data)
	}
	names := func(most int) []string { return slices.Sorted(maps.Keys(all.successor(time.Now(), most).files)) }
	if got := names(size); !slices.Contains(got, "1.snapshot.json") || !slices.Contains(got, "2.targets.json") {
		t.Errorf("kept are %q", got)
	}
	if got := names(size - 1); !slices.Equal(got, []string{"1.root.json", "2.root.json"}) {
		t.Errorf("of too much there stay %q", got)
	}
	c.served.Store(&served{version: all.version, files: all.successor(time.Now(), 0).files, history: all.history, floor: all.floor})
	server.Publish(t, targetOf(t, "P-256"), time.Now().Add(time.Hour))
	c.update()
	for _, name := range []string{"timestamp.json", "3.snapshot.json", "3.targets.json", "1.root.json"} {
		if f, ok := c.File(name); !ok || !bytes.Equal(f.Data, server.Files()[name]) {
			t.Errorf("%s is not served", name)
		}
	}
	if _, ok := c.File("1.snapshot.json"); ok || c.Target(tufrepo.TrustedRoot) == nil {
		t.Error("the next version has another one's files, or lacks its own")
	}
}
