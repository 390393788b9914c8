package e2earchive

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/tsa"
	"github.com/understudy-log/understudy/witness/archive/stamp"
)

// TestTSA: Sigstore's time-stamp authority stamps a digest, and openssl takes what is kept.
func TestTSA(t *testing.T) {
	if os.Getenv("UNDERSTUDY_E2E_ARCHIVE") == "" {
		t.Skip("NOTICE: needs Sigstore's time-stamp authority, which takes a minute to build: set UNDERSTUDY_E2E_ARCHIVE=1")
	}
	server := tsa.Start(t.Context(), t)
	roots, err := stamp.RootsFromPEM(server.Chain)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := stamp.New(stamp.Config{URL: server.URL, Roots: roots, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	manifest := []byte("a manifest\n")
	digest := sha256.Sum256(manifest)
	before := time.Now().Truncate(time.Second)
	response, at, err := authority.Stamp(t.Context(), digest)
	if err != nil {
		t.Fatal(err)
	}
	if at.Before(before) || at.After(time.Now()) {
		t.Errorf("stamped at %v", at)
	}
	root := server.Chain[bytes.LastIndex(server.Chain, []byte("-----BEGIN")):]
	for name, pem := range map[string][]byte{"chain": server.Chain, "root alone": root} {
		roots, err := stamp.RootsFromPEM(pem)
		if err != nil {
			t.Fatal(err)
		}
		again, signer, err := stamp.Verify(response, digest, roots)
		if err != nil || !again.Equal(at) || !strings.HasPrefix(signer, "CN=") {
			t.Errorf("%s: stamped at %v by %q: %v", name, again, signer, err)
		}
	}
	t.Run("openssl", func(t *testing.T) { opensslTakes(t, response, manifest, root) })
	t.Run("stopped", func(t *testing.T) {
		if err := server.Stop(); err != nil {
			t.Fatal(err)
		}
		tsaUnreachable(t, authority, "no whole answer within 2s")
		if err := server.Continue(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := authority.Stamp(t.Context(), digest); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("killed", func(t *testing.T) {
		server.Kill()
		tsaUnreachable(t, authority, "connection refused")
	})
}

func tsaUnreachable(t *testing.T, authority *stamp.Authority, reason string) {
	t.Helper()
	_, _, err := authority.Stamp(t.Context(), [32]byte{})
	if _, ok := errors.AsType[*stamp.UnreachableError](err); !ok || !strings.Contains(err.Error(), reason) {
		t.Errorf("error %v, want one that says %q", err, reason)
	}
}

// opensslTakes has openssl verify a response under a root, and refuse it for something else.
func opensslTakes(t *testing.T, response, data, root []byte) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("must not be skipped under CI: there is no openssl")
		}
		t.Skip("NOTICE: there is no openssl (Debian: openssl)")
	}
	dir := t.TempDir()
	for name, content := range map[string][]byte{"stamp.tsr": response, "root.pem": root, "data": data, "other": []byte("something else\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := func(name string) error {
		cmd := exec.CommandContext(t.Context(), openssl, "ts", "-verify", "-in", "stamp.tsr", "-CAfile", "root.pem", "-data", name)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("openssl: %w\n%s", err, out)
		}
		return nil
	}
	if err := verify("data"); err != nil {
		t.Error(err)
	}
	if err := verify("other"); err == nil || !strings.Contains(err.Error(), "message imprint mismatch") {
		t.Errorf("of other data: %v", err)
	}
}
