package e2etrust

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// ourLog is the host of a log of our own, which a proxy leads to: verifiers take the name of a
// Rekor v2 log from its address, without a port.
const ourLog = "log.us.test"

// newOwnWorld is a world with a TUF repository of our own beside the copy. A real Rekor v2 server is
// the log of our own, the only one that its SigningConfig lists.
func newOwnWorld(t *testing.T) *world {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	dir := filepath.Dir(w.config)
	log := must(rekor.Start(t.Context(), rekor.Config{Binary: must(tool.Path(t.Context(), "rekor-tiles")), Dir: t.TempDir(), Origin: ourLog}))
	t.Cleanup(log.Close)
	w.proxy = proxyTo(t, map[string]string{ourLog: log.WriteURL()})
	for name, logs := range map[string]string{
		"public_signing.json": `{"url": "https://rekor.sigstore.dev", "majorApiVersion": 1, "operator": "sigstore.dev", "validFor": {"start": "2021-01-12T11:53:27Z"}}`,
		"our_signing.json":    fmt.Sprintf(`{"url": "http://%s", "majorApiVersion": 2, "operator": "us.test", "validFor": {"start": "2025-01-01T00:00:00Z"}}`, ourLog),
	} {
		w.write(filepath.Join(dir, name), fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogUrls": [%s], "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"}}`, logs))
	}
	w.write(filepath.Join(dir, "passphrase"), []byte("a horse\n"))
	w.understudy("trust", "init", w.trust(), "--passphrase-file", w.file("passphrase"))
	w.export = w.file("material")
	w.understudy("trust", "export", w.export, "--signing-config", w.file("public_signing.json"),
		"--logs", "fallback", "--own-signing-config", w.file("our_signing.json"), "--add-trusted-root", log.TrustedRootFile)
	w.sign("--material", w.export)
	w.write(w.config, fmt.Appendf(must(os.ReadFile(w.config)), "trust: {repository: trust/repository, snapshot_key: trust/keys/snapshot.pem, timestamp_key: trust/keys/timestamp.pem, passphrase_file: trust/keys/online.passphrase}\n"))
	w.daemon.Kill()
	w.start()
	w.ownURL = strings.TrimSuffix(w.url, "/tuf") + "/trust"
	w.status("targets   version 1, expires in 364 days")
	w.understudy("trust", "export", w.export, "--signing-config", w.file("public_signing.json"), // now that clients begin at our own
		"--logs", "fallback", "--own-signing-config", w.file("our_signing.json"), "--add-trusted-root", log.TrustedRootFile)
	return w
}

func (w *world) file(name string) string { return filepath.Join(filepath.Dir(w.config), name) }
func (w *world) trust() string           { return w.file("trust") }

func (w *world) sign(more ...string) {
	w.Helper()
	w.understudy(append([]string{"trust", "sign", w.trust(), "--passphrase-file", w.file("passphrase")}, more...)...)
}

// understudy runs a verb, which must succeed.
func (w *world) understudy(args ...string) string {
	w.Helper()
	out, err := exec.CommandContext(w.Context(), w.binary, append(args, "--config", w.config)...).CombinedOutput()
	if err != nil {
		w.Fatalf("understudy %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// sourced runs cosign in a shell that has sourced the exported environment.
func (w *world) sourced(home string, args ...string) error {
	cmd := exec.CommandContext(w.Context(), "sh", append([]string{"-c", `. "$0" && exec "$@"`, filepath.Join(w.export, "cosign.env"), must(tool.Path(w.Context(), "cosign"))}, args...)...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TMPDIR=" + home, "PATH=" + os.Getenv("PATH"), "COSIGN_PASSWORD=", "HTTP_PROXY=" + w.proxy, "HTTPS_PROXY=http://127.0.0.1:1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cosign %v: %w\n%s", args, err, out)
	}
	return nil
}

// signAndVerify has cosign sign a new file into a bundle, by what our own repository says, and
// verify it.
func (w *world) signAndVerify(home string) error {
	w.write(filepath.Join(home, "artifact"), []byte(time.Now().String()))
	if _, err := os.Stat(filepath.Join(home, "cosign.key")); err != nil {
		if err := w.sourced(home, "generate-key-pair"); err != nil {
			return err
		}
	}
	if err := w.sourced(home, "sign-blob", "--yes", "--key", "cosign.key", "--bundle", "artifact.json", "artifact"); err != nil {
		return err
	}
	return w.sourced(home, "verify-blob", "--key", "cosign.pub", "--bundle", "artifact.json", "artifact")
}

// verifyOwn verifies the genuine bundle with every client, each new, at our own repository.
func (w *world) verifyOwn() error {
	w.Helper()
	home := w.TempDir()
	w.write(filepath.Join(home, "artifact"), nil)
	if err := w.sourced(home, "verify-blob-attestation", "--bundle", w.bundle, "--check-claims=false", "--type=https://slsa.dev/provenance/v1",
		"--certificate-identity-regexp", signer, "--certificate-oidc-issuer", issuer, "artifact"); err != nil {
		return err
	}
	own := *w
	own.url, own.root = w.ownURL, filepath.Join(w.export, "root.json")
	if err := own.sigstoreGo(); err != nil {
		return fmt.Errorf("sigstore-go: %w", err)
	}
	if _, err := exec.LookPath("node"); err == nil {
		return own.sigstoreJS()
	}
	return nil
}

// TestOwnRepositoryOutlives: with the public repository gone and its timestamp expired, clients of the
// copy are told so, and those of our own go on: they sign and verify, also with nothing but the root,
// also after a restart.
func TestOwnRepositoryOutlives(t *testing.T) {
	w := newOwnWorld(t)
	kept := t.TempDir()
	if err := w.signAndVerify(kept); err != nil {
		t.Fatal(err)
	}
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))), time.Now().Add(5*time.Second))
	w.status("timestamp version 2,")
	w.repo.Down(true)
	w.status("timestamp version 2, EXPIRED")
	if err := w.initialize(t.TempDir()); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("cosign at the copy: %v", err)
	}
	if err := w.sigstoreGo(); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("sigstore-go at the copy: %v", err)
	}
	for i := range 10 {
		if i == 5 {
			w.daemon.Kill()
			w.start()
			w.status("targets   version 1, expires in 364 days")
		}
		for _, home := range []string{kept, t.TempDir()} {
			if err := w.signAndVerify(home); err != nil {
				t.Fatalf("time %d: %v", i, err)
			}
		}
		if err := w.verifyOwn(); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
	}
}

// TestOwnKeysAreLost: every key of our own repository is replaced as docs/trust.md says, and clients
// follow, those that were there before and new ones.
func TestOwnKeysAreLost(t *testing.T) {
	w := newOwnWorld(t)
	w.repo.Down(true)
	kept := t.TempDir()
	for i, role := range []string{"timestamp", "snapshot", "targets", "root"} {
		w.understudy("trust", "rotate", w.trust(), role, "--passphrase-file", w.file("passphrase"))
		switch role {
		case "targets":
			w.sign()
		case "timestamp", "snapshot":
			w.status("problem   unsigned: the " + role + " key given is not the one that ")
			if err := w.signAndVerify(kept); err != nil {
				t.Fatalf("before the new %s key is there: %v", role, err)
			}
			config := string(must(os.ReadFile(w.config)))
			w.write(w.config, []byte(strings.Replace(config, "keys/"+role+".pem", "keys/"+role+"-2.pem", 1)))
			w.daemon.Kill()
			w.start()
		}
		w.status(fmt.Sprintf("root      version %d, expires in 729 days", i+2))
		for _, home := range []string{kept, t.TempDir()} {
			if err := w.signAndVerify(home); err != nil {
				t.Fatalf("%s: %v", role, err)
			}
		}
		if err := w.verifyOwn(); err != nil {
			t.Fatalf("%s: %v", role, err)
		}
	}
}

// TestOwnTrustMoves: what Sigstore publishes is shown as not signed yet, and once it is exported and
// signed clients have it.
func TestOwnTrustMoves(t *testing.T) {
	w := newOwnWorld(t)
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/scaffolding.json"))), time.Now().Add(24*time.Hour))
	w.status("behind    Sigstore has another TrustedRoot")
	if err := w.verifyOwn(); err != nil {
		t.Error(err)
	}
	w.understudy("trust", "export", w.file("new"))
	out := w.understudy("trust", "sign", w.trust(), "--passphrase-file", w.file("passphrase"), "--material", w.file("new"), "--dry-run")
	for _, says := range []string{"~ trusted_root.json", "+ history/trusted_root/", "- log https://rekor.sigstore.dev"} {
		if !strings.Contains(out, says) {
			t.Errorf("what would be signed: no %q in\n%s", says, out)
		}
	}
	w.sign("--material", w.file("new"))
	w.status("targets   version 2, expires in 364 days")
	if err := w.verifyOwn(); err == nil || strings.Contains(err.Error(), "expired") {
		t.Errorf("under the new trusted root: %v", err)
	}
	if out := w.understudy("status"); strings.Contains(out, "behind") {
		t.Errorf("it is behind still:\n%s", out)
	}
	files := map[string]bool{}
	for _, name := range must(filepath.Glob(w.trust() + "/repository/targets/history/trusted_root/*")) {
		files[string(must(os.ReadFile(name)))] = true
	}
	for _, name := range []string{"public-good", "scaffolding"} {
		if !files[string(must(os.ReadFile(dataFile(t, "trusted-roots/"+name+".json"))))] {
			t.Errorf("%s is not in the history", name)
		}
	}
}
