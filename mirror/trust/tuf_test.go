package trust

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// tufRepo is a TUF repository of one target on loopback.
type tufRepo struct {
	*httptest.Server
	keys    map[string]ed25519.PrivateKey // by role
	root    *metadata.Metadata[metadata.RootType]
	version int64 // of everything but root

	mu    sync.Mutex
	files map[string][]byte
	down  bool
	asked int
}

func newTUFRepo(t *testing.T, target []byte) *tufRepo {
	t.Helper()
	r := &tufRepo{keys: map[string]ed25519.PrivateKey{}, files: map[string][]byte{}}
	r.root = metadata.Root(time.Now().Add(24 * time.Hour))
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		r.addKey(t, role)
	}
	r.publishRoot(t)
	r.publish(t, target, time.Now().Add(time.Hour))
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.asked++
		data, ok := r.files[strings.TrimPrefix(req.URL.Path, "/")]
		switch {
		case r.down:
			http.Error(w, "down", http.StatusBadGateway)
		case !ok:
			http.NotFound(w, req)
		default:
			w.Write(data)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *tufRepo) addKey(t *testing.T, role string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.keys[role] = private
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.root.Signed.AddKey(key, role); err != nil {
		t.Fatal(err)
	}
}

func (r *tufRepo) signer(t *testing.T, role string) signature.Signer {
	t.Helper()
	return must(signature.LoadSigner(r.keys[role], crypto.Hash(0)))
}

func (r *tufRepo) put(t *testing.T, name string, data []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[name] = data
}

func (r *tufRepo) publishRoot(t *testing.T) []byte {
	t.Helper()
	r.root.ClearSignatures()
	if _, err := r.root.Sign(r.signer(t, metadata.ROOT)); err != nil {
		t.Fatal(err)
	}
	data, err := r.root.ToBytes(false)
	r.put(t, fmt.Sprintf("%d.root.json", r.root.Signed.Version), data, err)
	return data
}

// rotate publishes a next root that has a new key for the timestamp role.
func (r *tufRepo) rotate(t *testing.T, expires time.Time) {
	t.Helper()
	old := r.keys[metadata.TIMESTAMP]
	key, err := metadata.KeyFromPublicKey(old.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.root.Signed.RevokeKey(must(key.ID()), metadata.TIMESTAMP); err != nil {
		t.Fatal(err)
	}
	r.addKey(t, metadata.TIMESTAMP)
	r.root.Signed.Version++
	r.root.Signed.Expires = expires
	r.publishRoot(t)
}

// publish publishes target; the timestamp of it expires at the given time.
func (r *tufRepo) publish(t *testing.T, target []byte, expires time.Time) {
	t.Helper()
	r.version++
	far := time.Now().Add(24 * time.Hour)

	targets := metadata.Targets(far)
	file, err := metadata.TargetFile().FromBytes(rootTarget, target, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	targets.Signed.Targets[rootTarget] = file
	targets.Signed.Version = r.version
	snapshot := metadata.Snapshot(far)
	snapshot.Signed.Version = r.version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.version)
	timestamp := metadata.Timestamp(expires)
	timestamp.Signed.Version = r.version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(r.version)

	r.put(t, fmt.Sprintf("targets/%s.%s", file.Hashes["sha256"], rootTarget), target, nil)
	_, err = targets.Sign(r.signer(t, metadata.TARGETS))
	r.put(t, fmt.Sprintf("%d.targets.json", r.version), must(targets.ToBytes(false)), err)
	_, err = snapshot.Sign(r.signer(t, metadata.SNAPSHOT))
	r.put(t, fmt.Sprintf("%d.snapshot.json", r.version), must(snapshot.ToBytes(false)), err)
	_, err = timestamp.Sign(r.signer(t, metadata.TIMESTAMP))
	r.put(t, "timestamp.json", must(timestamp.ToBytes(false)), err)
}

// set changes what the server does.
func (r *tufRepo) set(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

func targetOf(t *testing.T, kind string) []byte {
	return trustedRoot(t, map[string]crypto.PublicKey{"https://" + v2Origin: signingKeys()[kind].Public()})
}

// opens says which kind of key the root holds for v2Origin.
func opens(t *testing.T, r *Root) string {
	t.Helper()
	for _, kind := range kinds() {
		if _, err := r.Open(signV2(v2Origin, signingKeys()[kind], textOf(v2Origin))); err == nil {
			return kind
		}
	}
	return ""
}

func TestFetchRoot(t *testing.T) {
	ctx, cache := t.Context(), t.TempDir()
	server := newTUFRepo(t, targetOf(t, "P-256"))
	repo := repository{server.URL, server.publishRoot(t)}

	check := func(step, want string) {
		t.Helper()
		r, err := repo.fetch(ctx, cache)
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if got := opens(t, r); got != want {
			t.Errorf("%s: root holds the key %q, want %q", step, got, want)
		}
	}
	check("first", "P-256")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	server.asked = 0
	if _, err := repo.fetch(ended, cache); err != nil || server.asked != 0 {
		t.Errorf("with a context that has ended: %v, asked %d times", err, server.asked)
	}
	server.set(true)
	check("repository down", "P-256")
	server.set(false)
	server.publish(t, targetOf(t, "P-384"), time.Now().Add(time.Hour))
	check("next target", "P-384")

	// The root that we carry no longer signs what the repository serves.
	server.rotate(t, time.Now().Add(24*time.Hour))
	server.publish(t, targetOf(t, "P-521"), time.Now().Add(time.Hour))
	check("new root", "P-521")
	for range 2 {
		server.set(true)
		check("new root, repository down", "P-521")
	}
	repo.url = strings.Replace(repo.url, "127.0.0.1", "127.0.0.2", 1)
	if _, err := repo.fetch(ctx, cache); err == nil || !strings.Contains(err.Error(), "trusted root file") {
		t.Errorf("another repository answered from this one's cache: %v", err)
	}
}

// The root that a release carries expires; the newer one that was fetched counts.
func TestFetchRootBuiltInExpired(t *testing.T) {
	ctx, cache := t.Context(), t.TempDir()
	server := newTUFRepo(t, targetOf(t, "P-256"))
	server.root.Signed.Expires = time.Now().Add(-time.Hour)
	repo := repository{server.URL, server.publishRoot(t)}
	server.rotate(t, time.Now().Add(24*time.Hour))
	server.publish(t, targetOf(t, "P-256"), time.Now().Add(time.Hour))
	for _, down := range []bool{false, true, true, false} {
		server.set(down)
		if _, err := repo.fetch(ctx, cache); err != nil {
			t.Errorf("down=%v: %v", down, err)
		}
	}
	// A release that carries a still newer root wins over what is kept.
	server.rotate(t, time.Now().Add(24*time.Hour))
	newer := server.publishRoot(t)
	if got := (repository{server.URL, newer}).anchor(cache); string(got) != string(newer) {
		t.Error("the older root in the cache was preferred")
	}
}

func TestFetchRootRefuses(t *testing.T) {
	server := newTUFRepo(t, targetOf(t, "P-256"))
	ours := server.publishRoot(t)
	stranger := newTUFRepo(t, targetOf(t, "P-384"))
	if _, err := (repository{stranger.URL, ours}).fetch(t.Context(), t.TempDir()); err == nil {
		t.Error("fetched from a repository that our root did not sign")
	}
	cache := t.TempDir()
	server.publish(t, targetOf(t, "P-256"), time.Now().Add(-time.Second))
	if _, err := (repository{server.URL, ours}).fetch(t.Context(), cache); err == nil {
		t.Error("took an expired timestamp")
	}
	server.set(true)
	server.asked = 0
	if _, err := (repository{server.URL, ours}).fetch(t.Context(), cache); err == nil || server.asked != 1 {
		t.Errorf("an expired timestamp in the cache: %v, asked %d times", err, server.asked)
	}
}

func TestFetchRootEndsWithContext(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		cancel()
		select {
		case <-hang:
		case <-req.Context().Done():
		}
	}))
	defer server.Close()
	_, err := repository{server.URL, newTUFRepo(t, nil).publishRoot(t)}.fetch(ctx, t.TempDir())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
