package e2etrust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/tufrepo"
)

const policyControllerFile = "policy-controller.yaml"

// policyControllerProgram builds test/policycontroller. That takes minutes, unless `make e2e-trust` has
// done it before.
var policyControllerProgram = sync.OnceValues(func() (string, error) {
	dir, err := tool.Root()
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, ".tools", "bin", "policycontroller")
	cmd, err := inPolicyController("build", "-buildvcs=false", "-ldflags=-s -w", "-o", binary, ".") // as in the Makefile
	if err != nil {
		return "", err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build test/policycontroller: %w\n%s", err, out)
	}
	return binary, nil
})

// inPolicyController is the go command in the module test/policycontroller.
func inPolicyController(args ...string) (*exec.Cmd, error) {
	dir, err := tool.Root()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = filepath.Join(dir, "test", "policycontroller")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
	return cmd, nil
}

// policyController has policy-controller, with a fresh cache, take a TrustRoot or what its flags name. It
// returns the Rekor logs that policies would then use, sorted.
func (w *world) policyController(trustRoot []byte, flags ...string) ([]string, error) {
	w.Helper()
	home := w.TempDir()
	cmd := exec.CommandContext(w.Context(), must(policyControllerProgram()), flags...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TUF_ROOT=" + filepath.Join(home, "tuf"), "TMPDIR=" + home, "HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1"}
	cmd.Stdin = bytes.NewReader(trustRoot)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("policycontroller %v: %w\n%s", flags, err, said.Bytes())
	}
	return slices.Sorted(strings.Lines(string(out))), nil
}

// rekorLogs are the Rekor logs of a trusted root as policycontroller prints them, sorted: all, and those
// that it can use in a TrustRoot.
func rekorLogs(t *testing.T, trustedRoot []byte) (all, ofECDSA []string) {
	t.Helper()
	for id, l := range must(root.NewTrustedRootFromJSON(trustedRoot)).RekorLogs() {
		line := fmt.Sprintf("%s %s\n", id, l.BaseURL)
		all = append(all, line)
		if _, ok := l.PublicKey.(*ecdsa.PublicKey); ok {
			ofECDSA = append(ofECDSA, line)
		}
	}
	slices.Sort(all)
	slices.Sort(ofECDSA)
	return all, ofECDSA
}

// trustRootCRD is policy-controller's own definition of a TrustRoot, of the version that
// policyControllerProgram has. That program alone would take keys in another case, which a cluster drops.
var trustRootCRD = sync.OnceValues(func() (*crd, error) {
	cmd, err := inPolicyController("list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/policy-controller")
	if err != nil {
		return nil, err
	}
	dir, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	return readCRD(filepath.Join(strings.TrimSpace(string(dir)), "config/300-trustroot.yaml"))
})

func checkTrustRoot(trustRoot []byte) error {
	definition, err := trustRootCRD()
	if err != nil {
		return err
	}
	var o object
	if err := yaml.Unmarshal(trustRoot, &o); err != nil {
		return err
	}
	return definition.check(o)
}

// mustHave fails unless policy-controller has these logs.
func (w *world) mustHave(want []string, trustRoot []byte, flags ...string) {
	w.Helper()
	if trustRoot != nil {
		if err := checkTrustRoot(trustRoot); err != nil {
			w.Errorf("by its definition it is no TrustRoot: %v", err)
		}
	}
	if got, err := w.policyController(trustRoot, flags...); err != nil {
		w.Error(err)
	} else if len(want) == 0 || !slices.Equal(got, want) {
		w.Errorf("policycontroller %v has the logs %q, want %q", flags, got, want)
	}
}

// mustRefuse fails unless policy-controller refuses, and says why.
func (w *world) mustRefuse(says string, trustRoot []byte, flags ...string) {
	w.Helper()
	if got, err := w.policyController(trustRoot, flags...); err == nil || !strings.Contains(err.Error(), says) {
		w.Errorf("policycontroller %v has the logs %q: %v, want an error with %q", flags, got, err, says)
	}
}

// edited returns a text with one thing in it replaced, which must be there.
func edited(t *testing.T, text []byte, old, replacement string) []byte {
	t.Helper()
	if !bytes.Contains(text, []byte(old)) {
		t.Fatalf("there is no %q in\n%s", old, text)
	}
	return bytes.Replace(text, []byte(old), []byte(replacement), 1)
}

// TestPolicyControllerTakesOwnRepository: beside a repository of our own, with the public one gone,
// policy-controller takes the exported TrustRoot and has the logs that it can use in one; started at our
// repository by flags it has all.
func TestPolicyControllerTakesOwnRepository(t *testing.T) {
	w := newOwnWorld(t)
	w.repo.Down(true)
	w.status("problem   unreachable")
	all, ofECDSA := rekorLogs(t, must(os.ReadFile(filepath.Join(w.export, trust.RootTarget))))
	if len(all) != 2 || len(ofECDSA) != 1 {
		t.Fatalf("it has other logs than the test wants: %q", all)
	}
	exported := must(os.ReadFile(filepath.Join(w.export, policyControllerFile)))
	flags := []string{"-tuf-mirror", w.ownURL, "-tuf-root", filepath.Join(w.export, "root.json")}
	w.mustHave(ofECDSA, exported)
	w.mustHave(all, nil, flags...)

	// The whole trusted root is no good in a TrustRoot: once that is taken, so can be ours.
	w.mustRefuse("is not ecdsa.PublicKey", edited(t, exported, trust.ECDSATarget, trust.RootTarget))
	w.mustRefuse("unknown field", edited(t, exported, "trustedRootTarget:", "trustedRootTargets:"))
	others := base64.StdEncoding.EncodeToString(must(os.ReadFile(w.root)))
	ours := base64.StdEncoding.EncodeToString(must(os.ReadFile(filepath.Join(w.export, "root.json"))))
	w.mustRefuse("not enough signatures", edited(t, exported, ours, others))
	w.mustRefuse("threshold", nil, "-tuf-mirror", w.ownURL, "-tuf-root", w.root)

	// What it could not read otherwise is in the repository as it can.
	w.write(w.file("rsa.json"), rsaCTLog())
	w.understudy("trust", "export", w.file("rsa"), "--signing-config", w.file("public_signing.json"), "--add-trusted-root", w.file("rsa.json"))
	w.sign("--material", w.file("rsa"))
	w.status("targets   version 2, expires in")
	w.mustHave(ofECDSA, exported)

	w.daemon.Kill()
	w.mustRefuse("connection refused", exported)
	w.mustRefuse("connection refused", nil, flags...)
}

// rsaCTLog is a TrustedRoot with nothing but a CT log whose RSA key is encoded as PKCS #1. Sigstore's
// staging has one.
func rsaCTLog() []byte {
	key := must(rsa.GenerateKey(rand.Reader, 2048))
	id := sha256.Sum256(must(x509.MarshalPKIXPublicKey(key.Public())))
	return fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "ctlogs": [{"baseUrl": "https://ctfe.us.test", "hashAlgorithm": "SHA2_256",
		"publicKey": {"rawBytes": %s, "keyDetails": "PKCS1_RSA_PKCS1V5", "validFor": {"start": "2021-03-14T00:00:00Z"}}, "logId": {"keyId": %s}}]}`,
		must(json.Marshal(x509.MarshalPKCS1PublicKey(&key.PublicKey))), must(json.Marshal(id[:])))
}

// TestPolicyControllerTakesKeys: without a repository of our own the exported TrustRoot has plain keys, and
// policy-controller takes them; started at the copy by flags, with the public repository gone, it has all
// logs.
func TestPolicyControllerTakesKeys(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	log := must(rekor.Start(t.Context(), rekor.Config{Binary: must(tool.Path(t.Context(), "rekor-tiles")), Dir: t.TempDir(), Origin: ourLog}))
	t.Cleanup(log.Close)
	material := t.TempDir()
	w.write(filepath.Join(material, "rsa.json"), rsaCTLog())
	w.understudy("trust", "export", material, "--add-trusted-root", log.TrustedRootFile, "--add-trusted-root", filepath.Join(material, "rsa.json"))
	trustedRoot := must(os.ReadFile(filepath.Join(material, trust.RootTarget)))
	all, ofECDSA := rekorLogs(t, trustedRoot)
	if len(all) != 2 || len(ofECDSA) != 1 {
		t.Fatalf("it has other logs than the test wants: %q", all)
	}

	exported := must(os.ReadFile(filepath.Join(material, policyControllerFile)))
	w.mustHave(ofECDSA, exported)
	w.mustRefuse("unknown field", edited(t, exported, "tLogs:", "tLog:"))
	if err := checkTrustRoot(edited(t, exported, "tLogs:", "tlogs:")); err == nil || !strings.Contains(err.Error(), ".spec.sigstoreKeys.tlogs is unknown") {
		t.Errorf("a key in another case: %v", err)
	}
	w.mustRefuse("failed to decode public key", edited(t, exported, "publicKey: ", "publicKey: AAAA"))
	ed25519 := base64.StdEncoding.EncodeToString(must(os.ReadFile(log.PublicKeyFile)))
	w.mustRefuse("is not ecdsa.PublicKey", edited(t, exported, "tLogs:\n", "tLogs:\n    - {baseURL: https://"+ourLog+", hashAlgorithm: sha-256, publicKey: "+ed25519+"}\n"))

	w.repo.Publish(t, trustedRoot, time.Now().Add(24*time.Hour))
	w.status("timestamp version 2, expires in")
	w.repo.Down(true)
	w.status("problem   unreachable")
	w.mustHave(all, nil, "-tuf-mirror", w.url, "-tuf-root", filepath.Join(material, "root.json"))
	other := filepath.Join(t.TempDir(), "root.json")
	w.write(other, tufrepo.New(t, trustedRoot).PublishRoot(t))
	w.mustRefuse("threshold", nil, "-tuf-mirror", w.url, "-tuf-root", other)
}

// TestPolicyControllerNamesExpiry: policy-controller names the expiry of a copy that has died.
func TestPolicyControllerNamesExpiry(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	public := must(os.ReadFile(dataFile(t, "trusted-roots/public-good.json")))
	w.repo.Publish(t, public, time.Now().Add(5*time.Second))
	w.status("timestamp version 2,")
	all, _ := rekorLogs(t, public)
	flags := []string{"-tuf-mirror", w.url, "-tuf-root", w.root}
	w.mustHave(all, nil, flags...)
	w.repo.Down(true)
	w.status("timestamp version 2, EXPIRED")
	w.mustRefuse("expired", nil, flags...)
}

// TestPolicyControllerTakesGenuineRoots: each TrustedRoot that Sigstore has published, exported without any
// TUF repository, gives a TrustRoot that policy-controller takes. A malformed one is not exported.
func TestPolicyControllerTakesGenuineRoots(t *testing.T) {
	skipUnlessAsked(t)
	files := must(filepath.Glob("../../../shared/data/trusted-roots/*/*trusted_root.json"))
	if len(files) == 0 {
		t.Skip("NOTICE: no ../shared/data here")
	}
	config, binary := filepath.Join(t.TempDir(), "understudy.yaml"), must(tool.Understudy(t.Context()))
	(&world{T: t}).write(config, []byte("logs: [{name: log, url: 'http://127.0.0.1:1', origin: log2025-1.rekor.sigstore.dev}]\n"))
	taken := 0
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			w := &world{T: t, config: config, binary: binary, export: t.TempDir()}
			genuine := must(os.ReadFile(file))
			args := []string{"trust", "export", w.export, "--trusted-root", file}
			if _, err := root.NewTrustedRootFromJSON(genuine); err != nil {
				out, err := exec.CommandContext(t.Context(), w.binary, append(args, "--config", w.config)...).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "parse trusted root") {
					t.Errorf("it is malformed, and exported: %v: %s", err, out)
				}
				return
			}
			taken++
			w.understudy(args...)
			exported := must(os.ReadFile(filepath.Join(w.export, policyControllerFile)))
			_, ofECDSA := rekorLogs(t, genuine)
			w.mustHave(ofECDSA, exported)

			// There is no TUF repository, and nothing may send anybody to one.
			for _, name := range []string{"root.json", "kyverno.yaml", "cosign.env"} {
				if _, err := os.Stat(filepath.Join(w.export, name)); err == nil {
					t.Errorf("there is a %s", name)
				}
			}
			if bytes.Contains(exported, []byte("root.json")) || bytes.Contains(exported, []byte("/tuf")) {
				t.Error("the TrustRoot names a TUF repository")
			}
		})
	}
	if taken == 0 {
		t.Error("none was well-formed")
	}
}
