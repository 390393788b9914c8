// Package tufrepo makes TUF repositories in the role of Sigstore's, with go-tuf, and serves them
// on loopback. They do wrong on demand.
package tufrepo

import (
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TrustedRoot is the target that Sigstore's clients ask for.
const TrustedRoot = "trusted_root.json"

// Repo is a TUF repository with one key for each role and consistent snapshots.
type Repo struct {
	*httptest.Server
	Keys    map[string]ed25519.PrivateKey // by role
	Root    *metadata.Metadata[metadata.RootType]
	Version int64 // of everything but root

	mu    sync.Mutex
	files map[string][]byte
	roots map[string][]byte // that were published
	down  bool
	asked int
}

// New returns a repository with one target, a trusted root.
func New(t testing.TB, target []byte) *Repo {
	t.Helper()
	r := &Repo{Keys: map[string]ed25519.PrivateKey{}, files: map[string][]byte{}, roots: map[string][]byte{}}
	r.Root = metadata.Root(time.Now().Add(24 * time.Hour))
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		r.addKey(t, role)
	}
	r.PublishRoot(t)
	r.Publish(t, target, time.Now().Add(time.Hour))
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
			w.Header().Set("Content-Length", strconv.Itoa(len(data))) // as a file server does
			w.Write(data)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *Repo) addKey(t testing.TB, role string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Keys[role] = private
	key, err := metadata.KeyFromPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Root.Signed.AddKey(key, role); err != nil {
		t.Fatal(err)
	}
}

// Signer signs for a role.
func (r *Repo) Signer(t testing.TB, role string) signature.Signer {
	t.Helper()
	s, err := signature.LoadSigner(r.Keys[role], crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Put writes a file.
func (r *Repo) Put(name string, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files[name] = data
}

// Remove takes a file away.
func (r *Repo) Remove(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.files, name)
}

// Files returns all files.
func (r *Repo) Files() map[string][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.files)
}

// Restore puts back files, beside all roots that were published.
func (r *Repo) Restore(files map[string][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.files = maps.Clone(files)
	maps.Copy(r.files, r.roots)
}

// Requests returns how many requests came since it was last called.
func (r *Repo) Requests() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.asked
	r.asked = 0
	return n
}

// Down makes the server fail, or work again.
func (r *Repo) Down(down bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = down
}

// MetadataFile is the name of a version of a role's metadata.
func MetadataFile(version int64, role string) string { return fmt.Sprintf("%d.%s.json", version, role) }

type signed interface {
	Sign(signature.Signer) (*metadata.Signature, error)
	ToBytes(pretty bool) ([]byte, error)
}

func (r *Repo) sign(t testing.TB, file string, m signed, roles ...string) []byte {
	t.Helper()
	for _, role := range roles {
		if _, err := m.Sign(r.Signer(t, role)); err != nil {
			t.Fatal(err)
		}
	}
	data, err := m.ToBytes(false)
	if err != nil {
		t.Fatal(err)
	}
	r.Put(file, data)
	return data
}

// PublishRoot signs the root anew, writes it, and returns it.
func (r *Repo) PublishRoot(t testing.TB) []byte {
	t.Helper()
	r.Root.ClearSignatures()
	file := MetadataFile(r.Root.Signed.Version, metadata.ROOT)
	data := r.sign(t, file, r.Root, metadata.ROOT)
	r.roots[file] = data
	return data
}

// Rotate publishes a next root that has a new key for the timestamp role.
func (r *Repo) Rotate(t testing.TB, expires time.Time) {
	t.Helper()
	key, err := metadata.KeyFromPublicKey(r.Keys[metadata.TIMESTAMP].Public())
	if err != nil {
		t.Fatal(err)
	}
	id, err := key.ID()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Root.Signed.RevokeKey(id, metadata.TIMESTAMP); err != nil {
		t.Fatal(err)
	}
	r.addKey(t, metadata.TIMESTAMP)
	r.Root.Signed.Version++
	r.Root.Signed.Expires = expires
	r.PublishRoot(t)
}

// Publish publishes a trusted root; the timestamp of it expires at the given time.
func (r *Repo) Publish(t testing.TB, target []byte, expires time.Time) {
	t.Helper()
	r.Version++
	far := time.Now().Add(24 * time.Hour)

	targets := metadata.Targets(far)
	file, err := metadata.TargetFile().FromBytes(TrustedRoot, target, "sha256")
	if err != nil {
		t.Fatal(err)
	}
	targets.Signed.Targets[TrustedRoot] = file
	targets.Signed.Version = r.Version
	snapshot := metadata.Snapshot(far)
	snapshot.Signed.Version = r.Version
	snapshot.Signed.Meta["targets.json"] = metadata.MetaFile(r.Version)
	timestamp := metadata.Timestamp(expires)
	timestamp.Signed.Version = r.Version
	timestamp.Signed.Meta["snapshot.json"] = metadata.MetaFile(r.Version)

	r.Put(fmt.Sprintf("targets/%s.%s", file.Hashes["sha256"], TrustedRoot), target)
	r.sign(t, MetadataFile(r.Version, metadata.TARGETS), targets, metadata.TARGETS)
	r.sign(t, MetadataFile(r.Version, metadata.SNAPSHOT), snapshot, metadata.SNAPSHOT)
	r.sign(t, "timestamp.json", timestamp, metadata.TIMESTAMP)
}

// Sign signs metadata with the keys of roles, and writes it.
func Sign[T metadata.Roles](t testing.TB, r *Repo, file string, m *metadata.Metadata[T], roles ...string) {
	t.Helper()
	m.ClearSignatures()
	r.sign(t, file, m, roles...)
}

// Edit changes what is signed in a file, and signs it anew with the keys of roles.
func Edit[T metadata.Roles](t testing.TB, r *Repo, file string, change func(*metadata.Metadata[T]), roles ...string) {
	t.Helper()
	m := new(metadata.Metadata[T])
	if err := json.Unmarshal(r.Files()[file], m); err != nil {
		t.Fatal(err)
	}
	change(m)
	Sign(t, r, file, m, roles...)
}
