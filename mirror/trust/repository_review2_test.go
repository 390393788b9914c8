package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/test/tufrepo"
)

func newRoleKey() (ed25519.PrivateKey, *metadata.Key, string, signature.Signer) {
	_, p, _ := ed25519.GenerateKey(nil)
	k := must(metadata.KeyFromPublicKey(p.Public()))
	return p, k, must(k.ID()), must(signature.LoadSigner(p, crypto.Hash(0)))
}

// A man in the middle without any key strips signatures from the given root once.
func TestRepositoryGivenStripped(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root1 := server.PublishRoot(t)
	_, kb, _, sb := newRoleKey()
	if err := server.Root.Signed.AddKey(kb, "root"); err != nil {
		t.Fatal(err)
	}
	server.Root.Signed.Version = 2
	server.Root.ClearSignatures()
	must(server.Root.Sign(sb))
	stripped := must(server.Root.ToBytes(false))
	must(server.Root.Sign(server.Signer(t, "root")))
	full := must(server.Root.ToBytes(false))
	server.Put("2.root.json", full)
	if _, err := (repository{server.URL, root1}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Fatal("upstream", err)
	}
	c := copyOf(t, server, full) // operator's own file is complete
	server.Put("2.root.json", stripped)
	c.update()
	server.Put("2.root.json", full) // upstream is good again
	server.Publish(t, targetOf(t, "P-384"), day(7))
	for range 3 {
		c.update()
		c.crash()
	}
	f, _ := c.File("2.root.json")
	_, one := c.File("1.root.json")
	_, err := (repository{c.serve().URL, root1}).fetch(t.Context(), t.TempDir())
	if err != nil {
		t.Errorf("stripped served: %v forever %v; 1.root.json served %v; client at 1: %v", bytes.Equal(f.Data, stripped), f.Forever, one, err)
	}
}

// newest version record damaged, upstream down: the older version is served, with checked of the newer.
func TestRepositoryOldServedAfterDamage(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	c.update()
	old := c.Target(RootTarget)
	server.Publish(t, targetOf(t, "P-384"), day(7))
	c.update()
	if err := c.db.PutRecord(c.versionRecord(2), []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	server.Down(true)
	c.crash()
	_ = c.Update(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	root, err := c.TrustedRoot(ctx)
	if bytes.Equal(c.Target(RootTarget), old) {
		t.Errorf("withdrawn trusted root is served again (TrustedRoot %v, %v), checked %v, roles %v", root != nil, err, c.Status().Checked, c.Status().Roles)
	}
}

// content of the given root damaged: root goes back to it, old timestamp key is taken again.
func TestRepositoryRootRollback(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root1 := server.PublishRoot(t)
	stolen := server.Signer(t, metadata.TIMESTAMP)
	c := copyOf(t, server, root1)
	c.update()
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-384"), day(7))
	c.update()
	f, _ := c.File("1.root.json")
	if err := c.db.PutRecord(c.contentRecord(f.Hash), []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	c.crash()
	ts := metadata.Timestamp(day(1000))
	ts.Signed.Version = 999
	ts.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
	must(ts.Sign(stolen))
	server.Put("timestamp.json", must(ts.ToBytes(false)))
	server.Remove("2.root.json")
	err := c.Update(t.Context())
	if err == nil {
		t.Errorf("root went from 2 to %d, timestamp by the withdrawn key taken: %v", c.Status().Roles[0].Version, c.Status().Roles[1])
	}
}

// content of timestamp damaged: an older timestamp is taken.
func TestRepositoryTimestampRollback(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	c := copyOf(t, server, server.PublishRoot(t))
	old := server.Files()["timestamp.json"]
	tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version = 7 }, metadata.TIMESTAMP)
	c.update()
	f, _ := c.File("timestamp.json")
	if err := c.db.PutRecord(c.contentRecord(f.Hash), []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	c.crash()
	server.Put("timestamp.json", old)
	if err := c.Update(t.Context()); err == nil {
		t.Errorf("timestamp went from 7 to %d", c.Status().Roles[1].Version)
	}
}

type roleOf struct {
	name  string
	key   *metadata.Key
	paths []string
}

func delegationsOf(roles ...roleOf) *metadata.Delegations {
	d := &metadata.Delegations{Keys: map[string]*metadata.Key{}}
	for _, r := range roles {
		id := must(r.key.ID())
		d.Keys[id] = r.key
		d.Roles = append(d.Roles, metadata.DelegatedRole{Name: r.name, KeyIDs: []string{id}, Threshold: 1, Paths: r.paths})
	}
	return d
}

// putRole writes version 1 of a delegated role.
func putRole(t *testing.T, server *tufrepo.Repo, name string, s signature.Signer, d *metadata.Delegations, targets map[string][]byte) {
	t.Helper()
	m := metadata.Targets(day(30))
	m.Signed.Delegations = d
	for n, data := range targets {
		m.Signed.Targets[n] = must(metadata.TargetFile().FromBytes(n, data, "sha256"))
		i := strings.LastIndex(n, "/") + 1
		server.Put("targets/"+n[:i]+hashOf(data)+"."+n[i:], data)
	}
	must(m.Sign(s))
	server.Put("1."+name+".json", must(m.ToBytes(false)))
	tufrepo.Edit(t, server, "1.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) {
		m.Signed.Meta[name+".json"] = metadata.MetaFile(1)
	}, metadata.SNAPSHOT)
}

func topRole(t *testing.T, server *tufrepo.Repo, keep bool, d *metadata.Delegations) {
	t.Helper()
	tufrepo.Edit(t, server, "1.targets.json", func(m *metadata.Metadata[metadata.TargetsType]) {
		m.Signed.Delegations = d
		if !keep {
			delete(m.Signed.Targets, RootTarget)
		}
	}, metadata.TARGETS)
}

// npm (paths npm/*) delegates to C with its own key; A (paths *) delegates to C with another.
func TestRepositoryOtherParent(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	_, kn, _, sn := newRoleKey() // npm's
	_, ka, _, sa := newRoleKey()
	_, kc, _, _ := newRoleKey() // the key that A gives C
	evil := targetOf(t, "P-384")
	topRole(t, server, false, delegationsOf(roleOf{"npm", kn, []string{"npm/*"}}, roleOf{"A", ka, []string{"*"}}))
	putRole(t, server, "npm", sn, delegationsOf(roleOf{"C", kn, []string{"x"}}), nil)
	putRole(t, server, "A", sa, delegationsOf(roleOf{"C", kc, []string{"*"}}), nil)
	putRole(t, server, "C", sn, nil, map[string][]byte{RootTarget: evil}) // by npm's key alone
	client := must(tuf.New(&tuf.Options{Root: root, RepositoryBaseURL: server.URL, CachePath: t.TempDir()}))
	if _, err := client.GetTarget(RootTarget); err == nil {
		t.Fatal("a client takes it")
	} else {
		t.Log("client:", err)
	}
	c := copyOf(t, server, root)
	c.update()
	if bytes.Equal(c.Target(RootTarget), evil) {
		r, err := c.TrustedRoot(t.Context())
		t.Errorf("the copy takes npm's trusted root: %v %v", r != nil, err)
	}
}

// a delegated key freezes the copy.
func TestRepositoryDelegatedFreeze(t *testing.T) {
	for _, how := range []string{"many roles", "long name"} {
		server := tufrepo.New(t, targetOf(t, "P-256"))
		root := server.PublishRoot(t)
		_, kn, _, sn := newRoleKey()
		topRole(t, server, true, delegationsOf(roleOf{"npm", kn, []string{"npm/*"}}))
		if how == "many roles" {
			var all []roleOf
			for i := range 40 {
				all = append(all, roleOf{fmt.Sprint("r", i), kn, []string{"npm/*"}})
			}
			putRole(t, server, "npm", sn, delegationsOf(all...), nil)
		} else {
			putRole(t, server, "npm", sn, nil, map[string][]byte{"npm/" + strings.Repeat("a", 1100000): []byte("x")})
		}
		if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
			t.Fatal(err)
		}
		c := copyOf(t, server, root)
		if err := c.Update(t.Context()); err != nil {
			t.Errorf("%s: the whole copy is refused: %.20s ... %s", how, err, err.Error()[max(0, len(err.Error())-80):])
		}
	}
}

// a delegated role expires while held; nothing else changes.
func TestRepositoryExpiredStays(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	delegate(t, server, 1, "npm", []string{"npm/*"}, map[string][]byte{"npm/k": []byte("k")})
	tufrepo.Edit(t, server, "1.npm.json", func(m *metadata.Metadata[metadata.TargetsType]) { m.Signed.Expires = time.Now().Add(2 * time.Second) }, metadata.TARGETS)
	c := copyOf(t, server, root)
	c.update()
	time.Sleep(2500 * time.Millisecond)
	c.update()
	c.crash()
	c.update()
	if _, err := (repository{server.URL, root}).fetch(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := c.TrustedRoot(ctx); err != nil {
		role, _ := c.Status().Expired(time.Now())
		t.Errorf("%v; expired %v; problem %v", err, role.Name, c.Status().Problem)
	}
}

// one 404 for a delegated role's metadata: history says its targets were withdrawn.
func TestRepositoryTransientIsWithdrawal(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	_, kn, _, sn := newRoleKey()
	topRole(t, server, true, delegationsOf(roleOf{"npm", kn, []string{"npm/*"}}))
	putRole(t, server, "npm", sn, nil, map[string][]byte{"npm/k": []byte("k")})
	c := copyOf(t, server, root)
	c.update()
	// npm version 2, whose file comes late; npm/k is in it as before
	m := metadata.Targets(day(30))
	m.Signed.Version = 2
	m.Signed.Targets["npm/k"] = must(metadata.TargetFile().FromBytes("npm/k", []byte("k"), "sha256"))
	must(m.Sign(sn))
	snap := server.Files()["1.snapshot.json"]
	server.Put("2.snapshot.json", snap)
	tufrepo.Edit(t, server, "2.snapshot.json", func(m *metadata.Metadata[metadata.SnapshotType]) {
		m.Signed.Version = 2
		m.Signed.Meta["npm.json"] = metadata.MetaFile(2)
	}, metadata.SNAPSHOT)
	tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) {
		m.Signed.Version = 2
		m.Signed.Meta["snapshot.json"] = metadata.MetaFile(2)
	}, metadata.TIMESTAMP)
	c.update()
	at := time.Now()
	server.Put("2.npm.json", must(m.ToBytes(false)))
	time.Sleep(2 * time.Millisecond)
	c.update()
	_, _, err := c.AsOf("npm/k", at)
	if errors.Is(err, ErrNoTarget) {
		t.Errorf("as of then: %v; problem %v; history %v", err, c.Status().Problem, len(c.History("npm/k")))
	}
}

// A names C with a wrong key: C is not copied though B, whose clients ask, gives the right one.
func TestRepositorySuppressedByOther(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	_, ka, _, sa := newRoleKey()
	_, kb, _, sb := newRoleKey()
	_, kc, _, sc := newRoleKey()
	topRole(t, server, true, delegationsOf(roleOf{"A", ka, []string{"a/*"}}, roleOf{"B", kb, []string{"b/*"}}))
	putRole(t, server, "A", sa, delegationsOf(roleOf{"C", ka, []string{"a/*"}}), nil)
	putRole(t, server, "B", sb, delegationsOf(roleOf{"C", kc, []string{"b/*"}}), nil)
	putRole(t, server, "C", sc, nil, map[string][]byte{"b/x": []byte("x")})
	get := func(u string) error {
		client := must(tuf.New(&tuf.Options{Root: root, RepositoryBaseURL: u, CachePath: t.TempDir()}))
		_, err := client.GetTarget("b/x")
		return err
	}
	if err := get(server.URL); err != nil {
		t.Fatal(err)
	}
	c := copyOf(t, server, root)
	c.update()
	if err := get(c.serve().URL); err != nil {
		t.Errorf("client of the copy: %v; problem %v", err, c.Status().Problem)
	}
}

// one 502 for one elder root drops the held ones below it; a full rotation of keys keeps them out.
func TestRepositoryHeldElderLost(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root1 := server.PublishRoot(t)
	server.Rotate(t, day(100))
	root2 := server.Files()["2.root.json"]
	oldSigner := server.Signer(t, "root")
	id := must(must(metadata.KeyFromPublicKey(server.Keys["root"].Public())).ID())
	p, k, _, _ := newRoleKey()
	if err := server.Root.Signed.RevokeKey(id, "root"); err != nil {
		t.Fatal(err)
	}
	if err := server.Root.Signed.AddKey(k, "root"); err != nil {
		t.Fatal(err)
	}
	server.Keys["root"] = p
	server.Root.Signed.Version = 3
	server.PublishRoot(t)
	must(server.Root.Sign(oldSigner))
	server.Put("3.root.json", must(server.Root.ToBytes(false)))
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-384"), day(7))
	u := must(url.Parse(server.URL))
	proxy := httputil.NewSingleHostReverseProxy(u)
	fail := true
	mid := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fail && r.URL.Path == "/3.root.json" {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer mid.Close()
	run := func(fails bool) error {
		c := copyOf(t, server, root1)
		// roots 1 and 2 are held, as an earlier time left them
		c.served.Store(&served{version: version{Number: 1, Consistent: true, Names: map[string]string{"root": "2.root.json"}, Files: map[string]string{"1.root.json": hashOf(root1), "2.root.json": hashOf(root2)}, Targets: map[string]string{}},
			files: map[string]File{"1.root.json": {Data: root1, Hash: hashOf(root1), Forever: true}, "2.root.json": {Data: root2, Hash: hashOf(root2), Forever: true}}})
		c.Repository.cfg.Root = server.Files()["4.root.json"]
		c.Repository.url = mid.URL + "/"
		fail = fails
		if err := c.Update(t.Context()); (err != nil) != fails {
			t.Fatal(err)
		}
		fail = false
		c.update()
		c.update()
		_, err := (repository{c.serve().URL, root1}).fetch(t.Context(), t.TempDir())
		return err
	}
	if err := run(false); err != nil {
		t.Fatal("without failure", err)
	}
	if err := run(true); err != nil {
		t.Errorf("after one 502: client at 1 for good: %v", err)
	}
}

// floor after fast-forward recovery.
func TestRepositoryFloorStuck(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	c := copyOf(t, server, root)
	c.update()
	tufrepo.Edit(t, server, "timestamp.json", func(m *metadata.Metadata[metadata.TimestampType]) { m.Signed.Version = 1 << 40 }, metadata.TIMESTAMP)
	c.update()
	if err := c.db.PutRecord(c.versionRecord(2), []byte("rubbish")); err != nil {
		t.Fatal(err)
	}
	c.crash()
	server.Rotate(t, day(100)) // new timestamp key, versions anew
	server.Publish(t, targetOf(t, "P-384"), day(7))
	if err := c.Update(t.Context()); err != nil {
		t.Errorf("stuck until version 2^40: %v", err)
	}
}

// without consistent snapshots a delegated role "1.root" takes the place of 1.root.json.
func TestRepositoryRoleNamedRoot(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Root.Signed.ConsistentSnapshot = false
	root := server.PublishRoot(t)
	delegate(t, server, 1, "1.root", []string{"npm/*"}, nil)
	for _, n := range []string{"targets", "snapshot"} {
		server.Put(n+".json", server.Files()["1."+n+".json"])
	}
	role := server.Files()["1.1.root.json"]
	server.Put("targets/"+RootTarget, targetOf(t, "P-256"))
	server.Put("1.root.json", role)
	c := copyOf(t, server, root)
	err := c.Update(t.Context())
	if f, _ := c.File("1.root.json"); bytes.Equal(f.Data, role) {
		t.Errorf("%v: 1.root.json is a targets role, forever %v", err, f.Forever)
	}
}

// bytes changed without any key are kept for ever as a root.
func TestRepositoryMauledRoot(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	root := server.PublishRoot(t)
	server.Rotate(t, day(100))
	server.Publish(t, targetOf(t, "P-256"), day(7))
	two := server.Files()["2.root.json"]
	c := copyOf(t, server, root)
	for _, mauled := range [][]byte{
		bytes.Replace(two, []byte(`"signed"`), []byte(`"SIGNED"`), 1),
		bytes.Replace(two, []byte(`"signatures"`), []byte(`"SIGNATURES"`), 1),
		bytes.Replace(two, []byte(`"signatures"`), []byte(`"signed":"x","signatures"`), 1),
		append([]byte(`{"signed":{"version":9},`), two[1:]...),
	} {
		server.Put("2.root.json", mauled)
		err := c.Update(t.Context())
		server.Put("2.root.json", two)
		if err == nil {
			c.update()
			c.crash()
			f, _ := c.File("2.root.json")
			t.Errorf("mauled %.40q kept: %v", mauled, bytes.Equal(f.Data, mauled))
			c = copyOf(t, server, root)
		}
	}
}
