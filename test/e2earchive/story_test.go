package e2earchive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/understudy-log/understudy/test/process"
	tests3 "github.com/understudy-log/understudy/test/s3"
	"github.com/understudy-log/understudy/test/synthetic"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/tsa"
	"github.com/understudy-log/understudy/test/witnesses"
)

// house is a daemon that mirrors a tiles log and a Rekor v1 service, witnesses another log, and
// makes evidence packs, with everything around it.
type house struct {
	*testing.T
	dir, binary              string
	http, grpc, admin        string
	daemon                   *process.Process
	tiles                    *synthetic.Log
	rekor                    *synthetic.RekorV1
	pushed                   *witnesses.Log
	at                       uint64 // size of it that was cosigned last
	tsa                      *tsa.Server
	s3                       *tests3.Server
	archiveKey, cosigner     string // verifier keys
	mirrorKey, trustedRoot   string
	packs                    []string
	tilesServer, rekorServer *httptest.Server
}

func newHouse(t *testing.T) *house {
	witnessesOnly(t)
	binary, err := tool.Understudy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		t.Fatal(err)
	}
	h := &house{T: t, dir: t.TempDir(), binary: binary, http: addrs[0], grpc: addrs[1], admin: addrs[2]}
	h.tiles = synthetic.New(synthetic.Options{Origin: "tiles.test"})
	h.tiles.Grow(300)
	h.rekor = synthetic.NewRekorV1("rekor.test")
	h.rekor.Active().Grow(40, synthetic.HashedRekordV1(1))
	h.pushed = witnesses.NewLog("pushed.test", "pushed.test")
	h.tilesServer, h.rekorServer = httptest.NewServer(h.tiles), httptest.NewServer(h.rekor)
	t.Cleanup(func() { h.tilesServer.Close(); h.rekorServer.Close() })
	h.tsa, h.s3 = tsa.Start(t.Context(), t), tests3.Start(t.Context(), t)
	h.s3.CreateLockedBucket(t.Context(), "evidence")

	h.archiveKey = h.generate("archive.key", "archive.test/a1", "--archive")
	h.cosigner = h.generate("w1.key", "witness.test/w1")
	h.generate("w2.key", "witness.test/w1", "--type", "ml-dsa-44")
	h.mirrorKey = h.generate("m1.key", "mirror.test/m1")
	h.trustedRoot = h.write("trusted_root.json", string(h.rekor.TrustedRootJSON()))
	h.write("rekor.pem", string(h.rekor.Active().PublicKeyPEM()))
	h.write("tsa.pem", string(h.tsa.Chain))
	if err := os.Mkdir(h.path("evidence"), 0o755); err != nil {
		t.Fatal(err)
	}
	h.write("understudy.yaml", fmt.Sprintf(`data_dir: ./data
listen: {http: %s, grpc: %s, admin: %s}
logs:
  - {name: tiles, origin: tiles.test, url: %q, public_key: %q, coverage: full, poll: 200ms, requests_per_second: 200}
  - {name: rekor, source: rekor-v1, url: %q, public_keys: [rekor.pem], poll: 300ms, requests_per_second: 200}
witness:
  keys: [w1.key, w2.key]
  mirror_keys: [m1.key]
  logs: [{public_key: %q}]
archive:
  key: archive.key
  vantage: a test
  schedule: "0 0 * * 1"
  time_zone: Europe/Berlin
  tsa: {url: %q, certificates: tsa.pem}
  entries:
    - {indexes: 3-7, log: tiles}
    - {indexes: 2-4, log: rekor}
    - {digest: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
  destinations:
    - {directory: ./evidence, retention: 1000h}
    - s3: {bucket: evidence, prefix: weekly, endpoint: %q, region: %s, path_style: true, credentials_file: %q, mode: compliance}
      retention: 1000h
`, h.http, h.grpc, h.admin, h.tilesServer.URL, h.tiles.Key.Verifier(), h.rekorServer.URL, h.pushed.VKey, h.tsa.URL, h.s3.Endpoint, tests3.Region, h.s3.CredentialsFile()))
	h.start()
	t.Cleanup(func() { h.daemon.Kill() })
	return h
}

func (h *house) path(name string) string { return filepath.Join(h.dir, name) }

func (h *house) write(name, text string) string {
	h.Helper()
	if err := os.WriteFile(h.path(name), []byte(text), 0o600); err != nil {
		h.Fatal(err)
	}
	return h.path(name)
}

func (h *house) generate(file, name string, more ...string) string {
	h.Helper()
	return strings.TrimSpace(h.run(append([]string{"keys", "generate", "--name", name, "--output", h.path(file)}, more...)...))
}

// run runs a verb that must succeed.
func (h *house) run(args ...string) string {
	h.Helper()
	out, code := h.try(args...)
	if code != 0 {
		h.Fatalf("understudy %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

func (h *house) try(args ...string) (out string, code int) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.binary, args...)
	cmd.Dir = h.dir
	data, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		h.Fatal(err)
	}
	return string(data), cmd.ProcessState.ExitCode()
}

func (h *house) start() {
	h.Helper()
	var err error
	if h.daemon, err = process.Start(h.path("understudy.log"), h.binary, "serve", "--config", h.path("understudy.yaml")); err != nil {
		h.Fatal(err)
	}
	h.until("it answers", func() error { _, err := h.get("http://" + h.admin + "/readyz"); return err })
}

// until waits for something.
func (h *house) until(what string, good func() error) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), time.Minute)
	defer cancel()
	if err := h.daemon.Until(ctx, func(context.Context) error { return good() }); err != nil {
		h.Fatalf("wait until %s: %v", what, err)
	}
}

func (h *house) get(url string) (string, error) {
	answer, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", url, answer.Status, body)
	}
	return string(body), err
}

// push has a checkpoint of the witnessed log cosigned.
func (h *house) push(size uint64) {
	h.Helper()
	body := fmt.Sprintf("old %d\n", h.at)
	if h.at > 0 {
		body += strings.Join(append(h.pushed.Proof(h.at, size), ""), "\n")
	}
	answer, err := http.Post("http://"+h.http+"/witness/add-checkpoint", "text/plain", strings.NewReader(body+"\n"+h.pushed.Checkpoint(size)))
	if err != nil {
		h.Fatal(err)
	}
	defer answer.Body.Close()
	if lines, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK || strings.Count(string(lines), "— witness.test/w1 ") != 2 {
		h.Fatalf("push from %d to %d: %s %s", h.at, size, answer.Status, lines)
	}
	h.at = size
}

// grown waits until everything that the logs have is held.
func (h *house) grown() {
	h.Helper()
	hash := sha256.Sum256([]byte("tiles.test"))
	h.until("the copy is whole and cosigned", func() error {
		checkpoint, err := h.get("http://" + h.http + "/" + hex.EncodeToString(hash[:]) + "/checkpoint")
		if err == nil && (!strings.HasPrefix(checkpoint, fmt.Sprintf("tiles.test\n%d\n", h.tiles.Size())) || !strings.Contains(checkpoint, "\n— mirror.test/m1 ")) {
			err = fmt.Errorf("the checkpoint is %s", checkpoint)
		}
		return err
	})
	h.until("the shards are known", func() error {
		info, err := h.get("http://" + h.http + "/api/v1/log")
		if want := fmt.Sprintf(`%s\n%d\n`, h.rekor.Active().Origin(), h.rekor.Active().Size()); err == nil && !strings.Contains(info, want) {
			err = fmt.Errorf("no %s in %s", want, info)
		}
		return err
	})
}

// export makes a pack now, and brings it.
func (h *house) export() {
	h.Helper()
	out := h.run("archive", "export", "--now", "--output", h.path("for-the-auditor"), "--config", h.path("understudy.yaml"))
	h.packs = append(h.packs, strings.TrimSpace(out))
}

// auditor verifies with both verifiers, offline, with what he was told.
func (h *house) auditor(packs ...string) (goCode int, goOut string, pythonCode int, pythonOut string) {
	h.Helper()
	keys := []string{"--trusted-root", h.trustedRoot, "--key", h.archiveKey, "--key", h.cosigner, "--key", h.tiles.Key.Verifier(), "--key", h.pushed.VKey, "--tsa-certificates", h.path("tsa.pem")}
	goOut, goCode = h.try(append(append([]string{"archive", "verify"}, packs...), keys...)...)
	root, err := tool.Root()
	if err != nil {
		h.Fatal(err)
	}
	cmd := exec.CommandContext(h.Context(), "python3", append(append([]string{filepath.Join(root, "test", "evidence", "verify.py")}, packs...), keys...)...)
	data, err := cmd.CombinedOutput()
	if _, exited := err.(*exec.ExitError); err != nil && !exited {
		h.Fatalf("the second verifier: %v (Debian: python3-cryptography)", err)
	}
	return goCode, goOut, cmd.ProcessState.ExitCode(), string(data)
}

func (h *house) verified() (goOut, pythonOut string) {
	h.Helper()
	goCode, goOut, pythonCode, pythonOut := h.auditor(h.packs...)
	if goCode != 0 || pythonCode != 0 {
		h.Fatalf("understudy archive verify: %d\n%s\nverify.py: %d\n%s", goCode, goOut, pythonCode, pythonOut)
	}
	return goOut, pythonOut
}

// stored waits until all packs are at both destinations.
func (h *house) stored(n int) {
	h.Helper()
	h.until("all packs are stored", func() error {
		list := h.run("archive", "list", "--config", h.path("understudy.yaml"))
		if got := strings.Count(list, "s3://evidence/weekly until "); got != n || strings.Contains(list, "NOT ") {
			return fmt.Errorf("%d packs are stored:\n%s", got, list)
		}
		return nil
	})
}

// TestStory is a quarter in the life of an archive, with the real time-stamping authority, a real S3
// service, and both verifiers.
func TestStory(t *testing.T) {
	h := newHouse(t)
	h.grown()
	h.push(10)
	h.push(25)
	for i := range 6 { // read through
		if _, err := h.get(fmt.Sprintf("http://%s/api/v1/log/entries?logIndex=%d", h.http, i)); err != nil {
			t.Fatal(err)
		}
	}
	h.export()
	h.run("backup", h.path("backup"), "--config", h.path("understudy.yaml"))
	goOut, pythonOut := h.verified()
	for _, want := range []string{"tiles.test", "rekor.test - ", "pushed.test", "8 entries"} {
		if !strings.Contains(goOut, want) {
			t.Errorf("the report does not say %q:\n%s", want, goOut)
		}
	}
	t.Logf("%s\n%s", goOut, pythonOut)
	h.openssl()

	// The shard ends and another begins; everything grows.
	h.rekor.RollOver(nil).Grow(15, synthetic.HashedRekordV1(2))
	h.tiles.Grow(700)
	h.grown()
	h.push(31)
	h.export()
	h.stored(2)

	// The authority and the S3 service are away, and the process is killed: nothing is lost.
	h.tsa.Kill()
	h.s3.Kill()
	h.tiles.Grow(800)
	h.grown()
	h.push(40)
	h.export()
	list := h.run("archive", "list", "--config", h.path("understudy.yaml"))
	if !strings.Contains(list, "NOT s3://evidence/weekly") && strings.Count(list, "s3://evidence/weekly until ") != 2 {
		t.Errorf("while S3 is away:\n%s", list)
	}
	h.daemon.Kill()
	h.s3.Restart(t.Context())
	h.start()
	h.stored(3)
	goOut, _ = h.verified()
	if !strings.Contains(goOut, "time-stamp") {
		t.Errorf("that a time-stamp is missing is not said:\n%s", goOut)
	}

	// What is stored is what was made, and Object Lock refuses the deletion.
	for _, name := range h.packs {
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(h.path("evidence"), filepath.Base(name)))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s in the folder differs: %v", filepath.Base(name), err)
		}
		key := "weekly/" + filepath.Base(name)
		object, err := h.s3.Client().GetObject(t.Context(), &s3.GetObjectInput{Bucket: aws.String("evidence"), Key: &key})
		if err != nil {
			t.Fatal(err)
		}
		got, err = io.ReadAll(object.Body)
		object.Body.Close()
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s in the bucket differs: %v", key, err)
		}
		if _, err := h.s3.Client().DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: aws.String("evidence"), Key: &key, VersionId: object.VersionId, BypassGovernanceRetention: aws.Bool(true)}); err == nil {
			t.Errorf("%s could be deleted", key)
		}
	}
	h.run("archive", "hold", "2", "--config", h.path("understudy.yaml"))
	if list := h.run("archive", "list", "--config", h.path("understudy.yaml")); strings.Count(list, "(legal hold)") != 2 {
		t.Errorf("after a hold:\n%s", list)
	}

	// An older database is restored: the packs take back what it lost, and the chain goes on.
	if _, _, err := h.daemon.Terminate(30 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(h.path("data/db"), h.path("data/db.lost")); err != nil {
		t.Fatal(err)
	}
	h.run("restore", h.path("backup"), "--config", h.path("understudy.yaml"))
	h.start()
	h.grown()
	h.push(44)
	h.tiles.Grow(900)
	h.grown()
	h.export()
	goOut, pythonOut = h.verified()
	t.Logf("%s\n%s", goOut, pythonOut)
	h.daemon.Kill()
	h.run("check", "--config", h.path("understudy.yaml"))

	// A single byte more or less, and both verifiers say so.
	whole, err := os.ReadFile(h.packs[1])
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range []int{100, 700, len(whole) / 3, len(whole) / 2, len(whole) - 1} {
		changed := bytes.Clone(whole)
		changed[at] ^= 1 << (i % 8)
		name := h.write(filepath.Base(h.packs[1]), string(changed))
		goCode, goOut, pythonCode, pythonOut := h.auditor(h.packs[0], name, h.packs[2])
		if goCode != 1 || pythonCode != 1 {
			t.Errorf("byte %d: %d and %d\n%s\n%s", at, goCode, pythonCode, goOut, pythonOut)
		}
	}
	// A pack left out.
	if goCode, goOut, pythonCode, pythonOut := h.auditor(h.packs[0], h.packs[2]); goCode != 1 || pythonCode != 1 {
		t.Errorf("a pack left out: %d and %d\n%s\n%s", goCode, pythonCode, goOut, pythonOut)
	}
}

// openssl verifies the time-stamp of the first pack with somebody else's program.
func (h *house) openssl() {
	h.Helper()
	files := h.path("files")
	if err := os.Mkdir(files, 0o755); err != nil {
		h.Fatal(err)
	}
	for _, command := range [][]string{
		{"tar", "-xf", h.packs[0], "-C", files},
		{"openssl", "ts", "-verify", "-in", filepath.Join(files, "timestamp.tsr"), "-data", filepath.Join(files, "manifest.json"), "-CAfile", h.path("tsa.pem")},
	} {
		if out, err := exec.CommandContext(h.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
			h.Errorf("%v: %v\n%s", command, err, out)
		}
	}
}
