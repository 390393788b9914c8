package e2etrust

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/tools/tool"
)

// workflow is the identity in the bundle's certificate.
const workflow = "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main"

// newWorldOfJS is a world for sigstore-js, which needs Node.
func newWorldOfJS(t *testing.T) *world {
	w := newWorld(t)
	if _, err := exec.LookPath("node"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("must not be skipped under CI: there is no node")
		}
		t.Skip("NOTICE: there is no node (Debian: nodejs)")
	}
	return w
}

// sigstoreJS verifies the bundle with a fresh cache.
func (w *world) sigstoreJS() error { return w.verifyJS(w.TempDir(), workflow) }

// verifyJS has sigstore-js, which keeps a cache, verify the bundle as that of an identity.
func (w *world) verifyJS(cache, identity string) error {
	dir, err := sigstoreJSDir()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(w.Context(), "node", filepath.Join(dir, "verify.mjs"), w.url, w.root, cache, w.bundle, issuer, identity)
	cmd.Env = []string{"HOME=" + cache, "TMPDIR=" + cache, "HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("sigstore-js: %w\n%s", err, out)
	}
	return err
}

// TestRepositoryGoneSigstoreJS: sigstore-js begins at the mirror, while the repository does not
// answer; also when the mirror was started then.
func TestRepositoryGoneSigstoreJS(t *testing.T) {
	w := newWorldOfJS(t)
	w.status("timestamp version 1, expires in")
	w.repo.Down(true)
	w.status("problem   unreachable")
	for i := range 6 {
		if i == 3 {
			w.daemon.Kill()
			w.start()
			w.status("timestamp version 1, expires in")
		}
		if err := w.sigstoreJS(); err != nil {
			t.Fatalf("time %d: %v", i, err)
		}
		other := strings.Replace(workflow, "sigstore/", "somebody-else/", 1)
		if err := w.verifyJS(t.TempDir(), other); err == nil || !strings.Contains(err.Error(), "certificate identity error - expected "+other) {
			t.Fatalf("time %d: another identity: %v", i, err)
		}
	}
}

// TestRepositoryMovesSigstoreJS: sigstore-js follows to a newer root by the mirror alone, whether
// its cache ends at the older root or it begins there.
func TestRepositoryMovesSigstoreJS(t *testing.T) {
	w := newWorldOfJS(t)
	w.status("timestamp version 1, expires in")
	cache := t.TempDir()
	if err := w.verifyJS(cache, workflow); err != nil {
		t.Fatal(err)
	}
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	w.repo.Rotate(t, time.Now().Add(100*24*time.Hour))
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))), time.Now().Add(24*time.Hour))
	w.status("timestamp version 2, expires in")
	w.repo.Down(true)
	for _, cache := range []string{cache, t.TempDir()} {
		if err := w.verifyJS(cache, workflow); err != nil {
			t.Error(err)
		}
		roots := must(filepath.Glob(filepath.Join(cache, "*", "root.json")))
		if len(roots) != 1 || !bytes.Equal(must(os.ReadFile(roots[0])), w.repo.Files()["3.root.json"]) {
			t.Errorf("root 3 is not in the cache, but %q", roots)
		}
	}
}

// TestRepositoryExpiresSigstoreJS: sigstore-js names the expiry of a copy that has died.
func TestRepositoryExpiresSigstoreJS(t *testing.T) {
	w := newWorldOfJS(t)
	w.status("timestamp version 1, expires in")
	w.repo.Publish(t, must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json"))), time.Now().Add(5*time.Second))
	w.status("timestamp version 2,")
	cache := t.TempDir()
	if err := w.verifyJS(cache, workflow); err != nil {
		t.Errorf("while it lives: %v", err)
	}
	w.repo.Down(true)
	w.status("timestamp version 2, EXPIRED")
	for _, cache := range []string{cache, t.TempDir()} {
		if err := w.verifyJS(cache, workflow); err == nil || !strings.Contains(err.Error(), "Final timestamp.json is expired") {
			t.Error(err)
		}
	}
}

// sigstoreJSDir is a folder in .tools with verify.mjs and the packages of package-lock.json. They
// are fetched here, and not by npm, because npm would cost Debian 350 packages where Node is nine.
var sigstoreJSDir = sync.OnceValues(func() (string, error) {
	root, err := tool.Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, ".tools", "sigstorejs")
	script, err := os.ReadFile("sigstorejs/verify.mjs")
	if err != nil {
		return "", err
	}
	lock, err := os.ReadFile("sigstorejs/package-lock.json")
	if err != nil {
		return "", err
	}
	complete := filepath.Join(dir, "package-lock.json") // written when all of it is there
	if old, err := os.ReadFile(complete); err != nil || !bytes.Equal(old, lock) {
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
		if err := installLocked(dir, lock); err != nil {
			return "", err
		}
		if err := os.WriteFile(complete, lock, 0o600); err != nil {
			return "", err
		}
	}
	return dir, os.WriteFile(filepath.Join(dir, "verify.mjs"), script, 0o600)
})

// npmRegistry is what lock files name; a registry that is configured takes its place, as with npm.
const npmRegistry = "https://registry.npmjs.org/"

// installLocked unpacks the packages of a lock file. None of ours has an install script.
func installLocked(dir string, lock []byte) error {
	var list struct {
		Packages map[string]struct {
			Resolved, Integrity string
			Optional            bool
		}
	}
	if err := json.Unmarshal(lock, &list); err != nil {
		return err
	}
	for path, p := range list.Packages {
		if path == "" || p.Optional {
			continue
		}
		url := strings.Replace(p.Resolved, npmRegistry, registry(), 1)
		err := installPackage(filepath.Join(dir, path), url, p.Integrity)
		if err != nil { // once more: among a hundred requests one may fail
			err = installPackage(filepath.Join(dir, path), url, p.Integrity)
		}
		if err != nil {
			return fmt.Errorf("install %s of %s: %w", path, url, err)
		}
	}
	return nil
}

// registry is the npm registry of the environment or of the user's .npmrc.
func registry() string {
	url := cmp.Or(os.Getenv("NPM_CONFIG_REGISTRY"), os.Getenv("npm_config_registry"))
	home, _ := os.UserHomeDir()
	npmrc, _ := os.ReadFile(filepath.Join(home, ".npmrc")) // most users have none
	for line := range strings.Lines(string(npmrc)) {
		if key, value, _ := strings.Cut(line, "="); strings.TrimSpace(key) == "registry" {
			url = cmp.Or(url, strings.TrimSpace(value))
		}
	}
	return strings.TrimSuffix(cmp.Or(url, npmRegistry), "/") + "/"
}

func installPackage(dir, url, integrity string) error {
	client := http.Client{Timeout: time.Minute}
	answer, err := client.Get(url)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", answer.Status)
	}
	packed, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if hash := sha512.Sum512(packed); integrity != "sha512-"+base64.StdEncoding.EncodeToString(hash[:]) {
		return errors.New("it is not what was locked")
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return err
	}
	for files := tar.NewReader(unzipped); ; {
		file, err := files.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if file.Typeflag != tar.TypeReg {
			continue
		}
		_, name, _ := strings.Cut(file.Name, "/") // without the one folder around all
		if !filepath.IsLocal(name) {
			return fmt.Errorf("it has a file %q", file.Name)
		}
		content, err := io.ReadAll(files)
		if err != nil {
			return err
		}
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			return err
		}
	}
}
