// Package e2etrust has unmodified clients of Sigstore take their trust material from
// understudy, with the TUF repository gone. A repository made with go-tuf stands for Sigstore's;
// what it distributes is the genuine TrustedRoot, and what clients verify a genuine bundle.
package e2etrust

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/tufrepo"
)

const (
	issuer = "https://token.actions.githubusercontent.com"
	signer = "^https://github.com/sigstore/sigstore-js/"
)

// world is a repository, and an understudy that mirrors it.
type world struct {
	*testing.T
	repo   *tufrepo.Repo
	root   string // file with the root to begin with
	bundle string // file
	url    string // of the mirror's repository
	admin  string
	config string
	daemon *process.Process
	binary string

	// Of a repository of our own, if there is one.
	ownURL string
	export string // folder that was exported
	proxy  string // URL of a proxy that leads to the log of our own
}

// skipUnlessAsked skips a test that needs what `make e2e-trust` builds.
func skipUnlessAsked(t *testing.T) {
	t.Helper()
	if os.Getenv("UNDERSTUDY_E2E_TRUST") == "" {
		t.Skip("NOTICE: needs clients that take minutes to build: make e2e-trust")
	}
}

func newWorld(t *testing.T) *world {
	skipUnlessAsked(t)
	dir := t.TempDir()
	w := &world{T: t, root: filepath.Join(dir, "root.json"), bundle: filepath.Join(dir, "bundle.json"), config: filepath.Join(dir, "understudy.yaml")}
	w.repo = tufrepo.New(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))))
	w.write(w.root, w.repo.PublishRoot(t))
	w.write(w.bundle, must(os.ReadFile(dataFile(t, "bundles/sigstore.js@2.0.0-provenance.sigstore.json"))))
	addrs := must(process.FreeAddrs(3))
	w.url, w.admin = "http://"+addrs[0]+"/tuf", "http://"+addrs[2]
	w.write(w.config, fmt.Appendf(nil, `
listen: {http: %s, grpc: %s, admin: %s}
tuf: {url: %s, root: root.json, poll: 200ms}
logs: [{name: log, url: 'http://127.0.0.1:1', origin: log2025-1.rekor.sigstore.dev}]
`, addrs[0], addrs[1], addrs[2], w.repo.URL))
	w.binary = must(tool.Understudy(t.Context()))
	w.start()
	return w
}

// dataFile is a file of sigstore-go's own test data, which is genuine.
func dataFile(t *testing.T, name string) string {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/sigstore-go").Output()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(strings.TrimSpace(string(out)), "pkg/testing/data", name)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func (w *world) write(file string, content []byte) {
	w.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		w.Fatal(err)
	}
}

func (w *world) start() {
	w.Helper()
	w.daemon = must(process.Start(w.config+".log", w.binary, "serve", "--config", w.config))
	w.Cleanup(w.daemon.Kill)
	// "status" reads the data of a daemon that does not run yet, and must not be in its way.
	if err := w.daemon.Until(w.Context(), func(context.Context) error {
		answer, err := http.Get(w.admin + "/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	}); err != nil {
		w.Fatal(err)
	}
}

// status waits until `understudy status` says something.
func (w *world) status(says string) {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.Context(), 20*time.Second)
	defer cancel()
	out := []byte{}
	if err := w.daemon.Until(ctx, func(ctx context.Context) (err error) {
		out, err = exec.CommandContext(ctx, w.binary, "status", "--config", w.config).CombinedOutput()
		if err == nil && !strings.Contains(string(out), says) {
			err = fmt.Errorf("status does not say %q", says)
		}
		return err
	}); err != nil {
		w.Fatalf("%v:\n%s\n%s", err, out, w.daemon.Tail())
	}
}

// cosign runs cosign as somebody who has never run it, or who keeps a home.
func (w *world) cosign(home string, args ...string) (string, error) {
	cmd := exec.CommandContext(w.Context(), must(tool.Path(w.Context(), "cosign")), args...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TUF_ROOT=" + filepath.Join(home, "tuf"), "TMPDIR=" + home, "HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("cosign %v: %w\n%s", args, err, out)
	}
	return string(out), err
}

func (w *world) initialize(home string) error {
	_, err := w.cosign(home, "initialize", "--mirror", w.url, "--root", w.root)
	return err
}

// verifyBlob has cosign verify the bundle as that of a signer.
func (w *world) verifyBlob(home, signer string) error {
	artifact := filepath.Join(home, "artifact")
	w.write(artifact, nil)
	_, err := w.cosign(home, "verify-blob-attestation", "--bundle", w.bundle, "--check-claims=false", "--type=https://slsa.dev/provenance/v1",
		"--certificate-identity-regexp", signer, "--certificate-oidc-issuer", issuer, artifact)
	return err
}

// sigstoreGo verifies the bundle with a fresh cache.
func (w *world) sigstoreGo() error {
	client, err := tuf.New(&tuf.Options{Root: must(os.ReadFile(w.root)), RepositoryBaseURL: w.url, CachePath: w.TempDir()})
	if err != nil {
		return err
	}
	material, err := root.GetTrustedRoot(client)
	if err != nil {
		return err
	}
	verifier, err := verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithObserverTimestamps(1), verify.WithSignedCertificateTimestamps(1))
	if err != nil {
		return err
	}
	b, err := bundle.LoadJSONFromPath(w.bundle)
	if err != nil {
		return err
	}
	who, err := verify.NewShortCertificateIdentity(issuer, "", "", signer)
	if err != nil {
		return err
	}
	_, err = verifier.Verify(b, verify.NewPolicy(verify.WithoutArtifactUnsafe(), verify.WithCertificateIdentity(who)))
	return err
}

// TestRepositoryGone: cosign and sigstore-go begin at the mirror, with nothing of their own but
// the root, while the repository does not answer; also when the mirror was started then.
func TestRepositoryGone(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	w.repo.Down(true)
	w.status("problem   unreachable")
	for i := range 20 {
		if i == 10 {
			w.daemon.Kill()
			w.start()
			w.status("timestamp version 1, expires in")
		}
		home := t.TempDir()
		if err := w.initialize(home); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
		if err := w.verifyBlob(home, signer); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
		if err := w.verifyBlob(home, "^https://github.com/somebody-else/"); err == nil || !strings.Contains(err.Error(), "no matching CertificateIdentity") {
			t.Fatalf("time %d: another signer: %v", i, err)
		}
		if err := w.sigstoreGo(); err != nil {
			t.Fatalf("time %d: sigstore-go: %v", i, err)
		}
	}
}

// TestRepositoryMoves: clients that were initialised at an older root follow to a newer one, by
// the mirror alone.
func TestRepositoryMoves(t *testing.T) {
	w := newWorld(t)
	w.status("root      version 1,")
	home := t.TempDir()
	if err := w.initialize(home); err != nil {
		t.Fatal(err)
	}
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))), time.Now().Add(24*time.Hour))
	w.status("root      version 3,")
	w.repo.Down(true)
	if err := w.verifyBlob(home, signer); err != nil {
		t.Error(err)
	}
	if err := w.sigstoreGo(); err != nil {
		t.Errorf("sigstore-go: %v", err)
	}
}

// TestRepositoryExpires: a copy of metadata dies with it, and clients say so. That is the limit
// of a copy to the byte.
func TestRepositoryExpires(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))), time.Now().Add(5*time.Second))
	w.status("timestamp version 2,")
	if err := w.sigstoreGo(); err != nil {
		t.Errorf("while it lives: %v", err)
	}
	w.repo.Down(true)
	w.status("timestamp version 2, EXPIRED")
	if err := w.sigstoreGo(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("sigstore-go: %v", err)
	}
	if err := w.initialize(t.TempDir()); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("cosign: %v", err)
	}
}

// TestVerifyAsOf: understudy itself verifies a bundle under the trust material of a time, also
// when the daemon has stopped and the material of today no longer has what it takes.
func TestVerifyAsOf(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	then := time.Now()
	time.Sleep(1100 * time.Millisecond)
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/scaffolding.json"))), time.Now().Add(24*time.Hour))
	w.status("timestamp version 2, expires in")
	verify := func(more ...string) (string, int) {
		cmd := exec.CommandContext(t.Context(), w.binary, append([]string{"verify", w.bundle, "--config", w.config, "--artifact-digest", subjectOf(t, w.bundle),
			"--certificate-identity-regexp", signer, "--certificate-oidc-issuer", issuer}, more...)...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return string(out), cmd.ProcessState.ExitCode()
	}
	for _, running := range []bool{true, false} {
		if !running {
			w.daemon.Kill()
		}
		for _, test := range []struct {
			code int
			says string
			args []string
		}{
			{0, "", []string{"--as-of", then.UTC().Format(time.RFC3339Nano)}},
			{1, "", nil},
			{1, "", []string{"--as-of", time.Now().UTC().Format(time.RFC3339Nano)}},
			{2, "what it was before is not known here", []string{"--as-of", "2020-01-01"}},
			{2, "exclude each other", []string{"--as-of", "2020-01-01", "--trusted-root", w.root}},
		} {
			if out, code := verify(test.args...); code != test.code || !strings.Contains(out, test.says) {
				t.Errorf("daemon %v, %q: exit code %d, want %d: %s", running, test.args, code, test.code, out)
			}
		}
	}
}

// subjectOf is the digest of what a bundle attests to.
func subjectOf(t *testing.T, file string) string {
	t.Helper()
	b := must(bundle.LoadJSONFromPath(file))
	envelope := must(b.Envelope())
	statement := must(envelope.Statement())
	return "sha512:" + statement.GetSubject()[0].GetDigest()["sha512"]
}
