package trust

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/test/tufrepo"
)

// wantMalformed demands that an update is refused as malformed, and not by a panic.
func wantMalformed(t *testing.T, c *copied) {
	t.Helper()
	err := c.Update(t.Context())
	if refused, ok := errors.AsType[*RepositoryError](err); !ok || refused.Reason != ReasonMalformed && refused.Reason != ReasonMissing {
		t.Errorf("update: %v", err)
	}
}

// forged elder root by somebody without any key.
func TestRepositoryForgedElder(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	for range 3 {
		server.Rotate(t, day(100))
	}
	server.Publish(t, targetOf(t, "P-256"), day(7))
	genuine := server.Files()
	c := copyOf(t, server, genuine["3.root.json"])
	// attacker: only public data + own key
	_, evil, _ := ed25519.GenerateKey(nil)
	ek := must(metadata.KeyFromPublicKey(evil.Public()))
	g := must(metadata.Root().FromBytes(genuine["3.root.json"]))
	f := metadata.Root(day(1000))
	f.Signed.Version = 2
	for _, id := range g.Signed.Roles["root"].KeyIDs {
		f.Signed.Keys[id] = g.Signed.Keys[id]
		f.Signed.Roles["root"].KeyIDs = append(f.Signed.Roles["root"].KeyIDs, id)
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := f.Signed.AddKey(ek, role); err != nil {
			t.Fatal(err)
		}
	}
	must(f.Sign(must(signature.LoadSigner(evil, crypto.Hash(0)))))
	forged := must(f.ToBytes(false))
	server.Put("2.root.json", forged)
	c.update()
	if got, _ := c.File("2.root.json"); bytes.Equal(got.Data, forged) {
		t.Errorf("a forged 2.root.json is served, forever=%v", got.Forever)
	}
	server.Put("2.root.json", genuine["2.root.json"])
	c.crash()
	c.update()
	if got, _ := c.File("2.root.json"); bytes.Equal(got.Data, forged) {
		t.Error("upstream good again, restart: still forged")
	}
	ours := c.serve()
	if _, err := (repository{ours.URL, genuine["1.root.json"]}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Errorf("client at root 1 is broken for ever: %v", err)
	}
}

func TestRepositoryElderNull(t *testing.T) {
	for name, patch := range map[string]string{
		"null role": `{"signed":{"_type":"root","spec_version":"1.0.31","version":2,"expires":"2030-01-01T00:00:00Z","consistent_snapshot":true,"keys":{},"roles":{"root":null}},"signatures":[]}`,
		"null key":  `{"signed":{"_type":"root","spec_version":"1.0.31","version":2,"expires":"2030-01-01T00:00:00Z","consistent_snapshot":true,"keys":{"aa":null},"roles":{"root":{"keyids":["aa"],"threshold":1}}},"signatures":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			server := tufrepo.New(t, targetOf(t, "P-256"))
			server.Rotate(t, day(100))
			server.Rotate(t, day(100))
			server.Publish(t, targetOf(t, "P-256"), day(7))
			c := copyOf(t, server, server.Files()["3.root.json"])
			server.Put("2.root.json", []byte(patch))
			c.update()
			if _, ok := c.File("2.root.json"); ok {
				t.Error("it is served")
			}
		})
	}
}

func TestRepositorySignedNulls(t *testing.T) {
	t.Run("timestamp without snapshot", func(t *testing.T) {
		for _, held := range []bool{false, true} {
			server := tufrepo.New(t, targetOf(t, "P-256"))
			c := copyOf(t, server, server.PublishRoot(t))
			if held {
				c.update()
			}
			server.Publish(t, targetOf(t, "P-384"), day(7))
			tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { delete(m.Signed.Meta, "snapshot.json") }, metadata.TIMESTAMP)
			wantMalformed(t, c)
			server.Publish(t, targetOf(t, "P-384"), day(7))
			tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Meta["snapshot.json"] = nil }, metadata.TIMESTAMP)
			wantMalformed(t, c)
		}
	})
	t.Run("snapshot null", func(t *testing.T) {
		for _, held := range []bool{false, true} {
			server := tufrepo.New(t, targetOf(t, "P-256"))
			c := copyOf(t, server, server.PublishRoot(t))
			if held {
				c.update()
			}
			server.Publish(t, targetOf(t, "P-384"), day(7))
			tufrepo.Edit(t, server, "2.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) { m.Signed.Meta["targets.json"] = nil }, metadata.SNAPSHOT)
			wantMalformed(t, c)
		}
	})
	t.Run("target null", func(t *testing.T) {
		server := tufrepo.New(t, targetOf(t, "P-256"))
		c := copyOf(t, server, server.PublishRoot(t))
		tufrepo.Edit(t, server, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Targets["x"] = nil }, metadata.TARGETS)
		wantMalformed(t, c)
	})
}

// same snapshot version with other bytes; timestamp names the new hash.
func TestRepositorySnapshotOfOtherBytes(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	pin := func(v int64) {
		snap := server.Files()["1.snapshot.json"]
		tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
			m.Signed.Version = v
			m.Signed.Meta["snapshot.json"] = &metadata.MetaFiles{Version: 1, Length: int64(len(snap)), Hashes: metadata.Hashes{"sha256": must(hex.DecodeString(hashOf(snap)))}}
		}, metadata.TIMESTAMP)
	}
	pin(1)
	c := copyOf(t, server, root)
	c.update()
	tufrepo.Edit(t, server, "1.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) { m.Signed.Expires = day(5) }, metadata.SNAPSHOT)
	pin(2)
	if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Fatalf("upstream itself: %v", err)
	}
	c.update()
	ours := c.serve()
	if _, err := (repository{ours.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Errorf("a fresh client of the copy refuses it: %v; status problem %v", err, c.Status().Problem)
	}
}

func delegate(t *testing.T, server *tufrepo.Repo, version int64, role string, paths []string, targets map[string][]byte) {
	t.Helper()
	d := metadata.Targets(day(30))
	for n, data := range targets {
		d.Signed.Targets[n] = must(metadata.TargetFile().FromBytes(n, data, "sha256"))
		dir, base := "", n
		if i := strings.LastIndex(n, "/"); i >= 0 {
			dir, base = n[:i+1], n[i+1:]
		}
		server.Put("targets/"+dir+hashOf(data)+"."+base, data)
	}
	tufrepo.Sign(t, server, "1."+role+".json", d, metadata.TARGETS)
	tufrepo.Edit(t, server, tufrepo.MetadataFile(version, "targets"), func(m *metadata.Metadata[metadata.TargetsType]) {
		key := must(metadata.KeyFromPublicKey(server.Keys[metadata.TARGETS].Public()))
		if m.Signed.Delegations == nil {
			m.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{must(key.ID()): key}}
		}
		m.Signed.Delegations.Roles = append(m.Signed.Delegations.Roles, metadata.DelegatedRole{Name: role, KeyIDs: []string{must(key.ID())}, Threshold: 1, Paths: paths})
	}, metadata.TARGETS)
	tufrepo.Edit(t, server, tufrepo.MetadataFile(version, "snapshot"), func(m *metadata.Metadata[metadata.SnapshotType]) {
		m.Signed.Meta[role+".json"] = metadata.MetaFile(1)
	}, metadata.SNAPSHOT)
}

// npm's role names trusted_root.json, outside its paths; top level withdrew it.
func TestRepositoryDelegatedOutsidePaths(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	evil := targetOf(t, "P-384")
	delegate(t, server, 1, "npm", []string{"npm/*"}, map[string][]byte{RootTarget: evil})
	tufrepo.Edit(t, server, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) { delete(m.Signed.Targets, RootTarget) }, metadata.TARGETS)
	if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err == nil {
		t.Fatal("a client takes it")
	}
	c := copyOf(t, server, root)
	c.update()
	if bytes.Equal(c.Target(RootTarget), evil) {
		_, content, err := c.AsOf(RootTarget, time.Now())
		r, terr := c.TrustedRoot(t.Context())
		t.Errorf("Target, AsOf (%v, %v) and TrustedRoot (%v, %v) are the delegated role's, outside its paths", bytes.Equal(content, evil), err, r != nil, terr)
	}
}

// malformed root by way of a delegated role first.
func TestRepositoryMalformedByDelegation(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	delegate(t, server, 1, "npm", []string{"*"}, map[string][]byte{RootTarget: []byte("{}")})
	c.update()
	server.Publish(t, []byte("{}"), day(7))
	tufrepo.Edit(t, server, "2.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) { m.Signed.Meta["npm.json"] = metadata.MetaFile(1) }, metadata.SNAPSHOT)
	err := c.Update(t.Context())
	if string(c.Target(RootTarget)) == "{}" {
		t.Errorf("malformed trusted root accepted: %v", err)
	}
}

func TestRepositoryMalformedEmpty(t *testing.T) {
	server := tufrepo.New(t, []byte{})
	c := copyOf(t, server, server.PublishRoot(t))
	if err := c.Update(t.Context()); err == nil {
		t.Error("an empty trusted root is accepted")
	}
}

// an expired delegated role blocks everything, while clients of upstream are fine.
func TestRepositoryExpiredDelegation(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	delegate(t, server, 1, "npm", []string{"npm/*"}, map[string][]byte{"npm/k": []byte("k")})
	tufrepo.Edit(t, server, "1.npm.json", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Expires = day(-1) }, metadata.TARGETS)
	if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	c := copyOf(t, server, root)
	if err := c.Update(t.Context()); err != nil {
		t.Errorf("copy refuses what client takes: %v", err)
	}
}

// a record of history in the middle is damaged.
func TestRepositoryHistoryDamage(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	a, b, cc := targetOf(t, "P-256"), targetOf(t, "P-384"), targetOf(t, "P-521")
	c.update()
	time.Sleep(2 * time.Millisecond)
	server.Publish(t, b, day(7))
	c.update()
	at := time.Now()
	time.Sleep(2 * time.Millisecond)
	server.Publish(t, cc, day(7))
	c.update()
	if err := c.db.PutRecord(c.versionRecord(2), []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	c.crash()
	_, content, err := c.AsOf(RootTarget, at)
	if err == nil && !bytes.Equal(content, b) {
		t.Errorf("as of a time when P-384 was in force, without an error: the P-256 one (%v)", bytes.Equal(content, a))
	}
}

// damage of the newest version record / timestamp content: rollback accepted.
func TestRepositoryRollbackAfterDamage(t *testing.T) {
	for _, which := range []string{"version", "timestamp"} {
		server := tufrepo.New(t, targetOf(t, "P-256"))
		c := copyOf(t, server, server.PublishRoot(t))
		c.update()
		old := server.Files()
		server.Publish(t, targetOf(t, "P-384"), day(7))
		c.update()
		name := c.versionRecord(2)
		if which == "timestamp" {
			f, _ := c.File("timestamp.json")
			name = c.contentRecord(f.Hash)
		}
		if err := c.db.PutRecord(name, []byte("rubbish")); err != nil {
			t.Fatal(err)
		}
		server.Restore(old)
		c.crash()
		err := c.Update(t.Context())
		if err == nil {
			t.Errorf("%s: rolled back to version 1 after damage", which)
		}
	}
}

// operator replaces the root: the kept one of another chain wins.
func TestRepositoryRootReplaced(t *testing.T) {
	evil := tufrepo.New(t, targetOf(t, "P-256"))
	for range 3 {
		evil.Rotate(t, day(100))
	}
	evil.Publish(t, targetOf(t, "P-256"), day(7))
	good := tufrepo.New(t, targetOf(t, "P-384"))
	goodRoot := good.PublishRoot(t)
	c := copyOf(t, evil, evil.Files()["1.root.json"])
	c.update()
	c.cfg.Root = goodRoot
	c.begin()
	err := c.Update(t.Context())
	if err == nil {
		t.Error("the operator's root is ignored: the old chain is still followed and served")
	}
	for name := range evil.Files() {
		evil.Remove(name)
	}
	for name, data := range good.Files() {
		evil.Put(name, data)
	}
	c.update()
	for version := int64(1); version <= 4; version++ {
		if f, ok := c.File(rootFile(version)); ok != (version == 1) || ok && !bytes.Equal(f.Data, goodRoot) {
			t.Errorf("root %d is served: %v", version, ok)
		}
	}
}

// config root of another chain, newer: the kept roots of the old chain are served below it.
func TestRepositoryMixedChains(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-256"), day(7))
	c := copyOf(t, server, server.Files()["1.root.json"])
	c.update()
	two, _ := c.File("2.root.json")
	other := tufrepo.New(t, targetOf(t, "P-384"))
	other.Rotate(t, day(100))
	other.Rotate(t, day(100))
	other.Publish(t, targetOf(t, "P-384"), day(7))
	c.cfg.Root = other.Files()["3.root.json"]
	for name := range server.Files() {
		server.Remove(name)
	}
	for name, data := range other.Files() {
		server.Put(name, data)
	}
	c.begin()
	c.update()
	f2, _ := c.File("2.root.json")
	if bytes.Equal(f2.Data, two.Data) {
		t.Error("2.root.json of the old chain beside 3.root.json of the new")
	}
}

// elder root briefly missing: never asked again until restart.
func TestRepositoryElderMissingOnce(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-256"), day(7))
	files := server.Files()
	c := copyOf(t, server, files["2.root.json"])
	server.Remove("1.root.json")
	c.update()
	server.Put("1.root.json", files["1.root.json"])
	c.update()
	if _, ok := c.File("1.root.json"); !ok {
		t.Error("1.root.json is never asked for again")
	}
}

// newer anchor than what is kept: hostile elder makes a gap that breaks clients served before
func TestRepositoryGapBelowNewRoot(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Publish(t, targetOf(t, "P-256"), day(7))
	root1 := server.PublishRoot(t)
	c := copyOf(t, server, root1)
	c.update()
	server.Rotate(t, day(100))
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-256"), day(7))
	c.cfg.Root = server.Files()["3.root.json"]
	two := server.Files()["2.root.json"]
	server.Remove("2.root.json")
	c.begin()
	err := c.Update(t.Context())
	server.Put("2.root.json", two)
	err2 := c.Update(t.Context())
	ours := c.serve()
	if _, cerr := (repository{ours.URL, root1}).fetch(t.Context(), t.TempDir()); cerr != nil {
		t.Errorf("updates %v, %v; client at root 1: %v", err, err2, cerr)
	}
}

// targets -> A -> A1 and targets -> B; A1 and B name the same path: a client takes A1's.
func TestRepositoryOrderOfDelegations(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	delegate(t, server, 1, "A1", []string{"*"}, map[string][]byte{"x": []byte("A1")})
	delegate(t, server, 1, "A", []string{"*"}, nil)
	delegate(t, server, 1, "B", []string{"*"}, map[string][]byte{"x": []byte("B")})
	tufrepo.Edit(t, server, "1.A.json", func(m *metadata.Metadata[metadata.TargetsType]) {
		key := must(metadata.KeyFromPublicKey(server.Keys[metadata.TARGETS].Public()))
		m.Signed.Delegations = &metadata.Delegations{Keys: map[string]*metadata.Key{must(key.ID()): key},
			Roles: []metadata.DelegatedRole{{Name: "A1", KeyIDs: []string{must(key.ID())}, Threshold: 1, Paths: []string{"*"}}}}
	}, metadata.TARGETS)
	tufrepo.Edit(t, server, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
		m.Signed.Delegations.Roles = m.Signed.Delegations.Roles[1:] // A, B
	}, metadata.TARGETS)
	client := must(tuf.New(&tuf.Options{Root: root, RepositoryBaseURL: server.URL, CachePath: t.TempDir()}))
	want := must(client.GetTarget("x"))
	c := copyOf(t, server, root)
	c.update()
	if got := c.Target("x"); !bytes.Equal(got, want) {
		t.Errorf("a client gets %q, the copy says %q", want, got)
	}
}

// without consistent snapshots, two roles name one path: the copy is stuck, a client is not.
func TestRepositorySamePathNotConsistent(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Root.Signed.ConsistentSnapshot = false
	root := server.PublishRoot(t)
	delegate(t, server, 1, "npm", []string{"npm/*"}, map[string][]byte{RootTarget: []byte("other")})
	for _, n := range []string{"targets", "snapshot", "npm"} {
		server.Put(n+".json", server.Files()["1."+n+".json"])
	}
	server.Put("targets/"+RootTarget, targetOf(t, "P-256"))
	if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	c := copyOf(t, server, root)
	if err := c.Update(t.Context()); err != nil {
		t.Error(err)
	}
}

// kept root N is served from the configured file, not as upstream has it.
func TestRepositoryRootInUpstreamsBytes(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	raw := server.PublishRoot(t)
	pretty := must(must(metadata.Root().FromBytes(raw)).ToBytes(true))
	c := copyOf(t, server, pretty)
	c.update()
	if f, _ := c.File("1.root.json"); !bytes.Equal(f.Data, raw) {
		t.Error("1.root.json is the operator's file, not upstream's bytes")
	}
}

// A delegated role with the name of a top-level one would take its place among what is kept.
func TestRepositoryReservedNames(t *testing.T) {
	for _, name := range []string{metadata.ROOT, metadata.TIMESTAMP} { // files of the others have the same names
		server := tufrepo.New(t, targetOf(t, "P-256"))
		c := copyOf(t, server, server.PublishRoot(t))
		delegate(t, server, 1, name, []string{"npm/*"}, nil)
		err := c.Update(t.Context())
		if refused, ok := errors.AsType[*RepositoryError](err); !ok || refused.Reason != ReasonMalformed {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestForever(t *testing.T) {
	hash := hashOf(nil)
	for _, c := range []struct {
		file                  string
		consistent, otherwise bool
	}{
		{"5.root.json", true, true},
		{"5.snapshot.json", true, false},
		{"5.foo.json", true, false}, // without consistent snapshots it is that of the role "5.foo"
		{"timestamp.json", false, false},
		{"snapshot.json", false, false},
		{"5.json", false, false},
		{"targets/" + hash + ".trusted_root.json", true, false},
		{"targets/npm/" + hash + ".keys.json", true, false},
		{"targets/trusted_root.json", false, false},
		{"targets/abcd.json", false, false},
	} {
		if got, other := forever(c.file, true), forever(c.file, false); got != c.consistent || other != c.otherwise {
			t.Errorf("%s: %v, %v", c.file, got, other)
		}
	}
}
