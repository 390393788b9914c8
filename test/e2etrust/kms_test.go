package e2etrust

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestKeysAreInAService: all five keys of our own repository are in a key management service, by
// sigstore's signature library. When it cannot be reached, what was signed is served.
func TestKeysAreInAService(t *testing.T) {
	w := newWorld(t)
	w.binary = filepath.Join(filepath.Dir(w.binary), "understudy-kms") // built with -tags kms by make
	service := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(service, "sigstore-kms-shelf"), "github.com/understudy-log/understudy/test/kms").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	path := os.Getenv("PATH")
	t.Setenv("PATH", service+":"+path)
	t.Setenv("SHELF", t.TempDir())
	w.status("timestamp version 1, expires in")
	w.understudy("trust", "init", w.trust(), "--root-key", "shelf://root", "--targets-key", "shelf://targets", "--snapshot-key", "shelf://snapshot", "--timestamp-key", "shelf://timestamp", "--signing-key", "shelf://signing")
	if keys, err := filepath.Glob(w.trust() + "/keys/*.pem"); err != nil || len(keys) > 0 {
		t.Errorf("keys are in files: %q, %v", keys, err)
	}
	w.export = w.file("material")
	w.understudy("trust", "export", w.export)
	w.understudy("trust", "sign", w.trust(), "--material", w.export, "--key", "shelf://targets")
	w.write(w.config, append(must(os.ReadFile(w.config)), "trust: {repository: trust/repository, snapshot_key: 'shelf://snapshot', timestamp_key: 'shelf://timestamp'}\n"...))
	restart := func() {
		w.daemon.Kill()
		w.start()
	}
	restart()
	own := *w
	own.url, own.root = strings.TrimSuffix(w.url, "/tuf")+"/trust", w.trust()+"/repository/1.root.json"
	w.status("targets   version 1, expires in 364 days")
	if err := own.sigstoreGo(); err != nil {
		t.Error(err)
	}
	w.understudy("trust", "rotate", w.trust(), "timestamp", "--key", "shelf://root", "--new-key", "shelf://timestamp-2")
	w.write(w.config, []byte(strings.Replace(string(must(os.ReadFile(w.config))), "shelf://timestamp", "shelf://timestamp-2", 1)))
	restart()
	w.status("root      version 2, expires in 729 days")
	if err := own.sigstoreGo(); err != nil {
		t.Error(err)
	}
	t.Setenv("PATH", path)
	restart()
	w.status("problem   unsigned: open the key shelf://snapshot: no kms provider found")
	if err := own.sigstoreGo(); err != nil {
		t.Errorf("without the service: %v", err)
	}
}
