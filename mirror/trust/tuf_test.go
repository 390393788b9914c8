package trust

import (
	"context"
	"crypto"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/tufrepo"
)

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
	server := tufrepo.New(t, targetOf(t, "P-256"))
	repo := repository{server.URL, server.PublishRoot(t)}

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
	server.Requests()
	if _, err := repo.fetch(ended, cache); err != nil {
		t.Errorf("with a context that has ended: %v", err)
	}
	if n := server.Requests(); n != 0 {
		t.Errorf("with a context that has ended: asked %d times", n)
	}
	server.Down(true)
	check("repository down", "P-256")
	server.Down(false)
	server.Publish(t, targetOf(t, "P-384"), time.Now().Add(time.Hour))
	check("next target", "P-384")

	// The root that we carry no longer signs what the repository serves.
	server.Rotate(t, time.Now().Add(24*time.Hour))
	server.Publish(t, targetOf(t, "P-521"), time.Now().Add(time.Hour))
	check("new root", "P-521")
	for range 2 {
		server.Down(true)
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
	server := tufrepo.New(t, targetOf(t, "P-256"))
	server.Root.Signed.Expires = time.Now().Add(-time.Hour)
	repo := repository{server.URL, server.PublishRoot(t)}
	server.Rotate(t, time.Now().Add(24*time.Hour))
	server.Publish(t, targetOf(t, "P-256"), time.Now().Add(time.Hour))
	for _, down := range []bool{false, true, true, false} {
		server.Down(down)
		if _, err := repo.fetch(ctx, cache); err != nil {
			t.Errorf("down=%v: %v", down, err)
		}
	}
	// A release that carries a still newer root wins over what is kept.
	server.Rotate(t, time.Now().Add(24*time.Hour))
	newer := server.PublishRoot(t)
	if got := (repository{server.URL, newer}).anchor(cache); string(got) != string(newer) {
		t.Error("the older root in the cache was preferred")
	}
}

func TestFetchRootRefuses(t *testing.T) {
	server := tufrepo.New(t, targetOf(t, "P-256"))
	ours := server.PublishRoot(t)
	stranger := tufrepo.New(t, targetOf(t, "P-384"))
	if _, err := (repository{stranger.URL, ours}).fetch(t.Context(), t.TempDir()); err == nil {
		t.Error("fetched from a repository that our root did not sign")
	}
	cache := t.TempDir()
	server.Publish(t, targetOf(t, "P-256"), time.Now().Add(-time.Second))
	if _, err := (repository{server.URL, ours}).fetch(t.Context(), cache); err == nil {
		t.Error("took an expired timestamp")
	}
	server.Down(true)
	server.Requests()
	if _, err := (repository{server.URL, ours}).fetch(t.Context(), cache); err == nil {
		t.Error("took an expired timestamp out of the cache")
	}
	if n := server.Requests(); n != 1 {
		t.Errorf("an expired timestamp in the cache: asked %d times", n)
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
	_, err := repository{server.URL, tufrepo.New(t, nil).PublishRoot(t)}.fetch(ctx, t.TempDir())
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
