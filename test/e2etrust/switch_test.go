package e2etrust

import (
	"bytes"
	"context"
	"crypto"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/youmark/pkcs8"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// theirLog is the host of the public log, as ourLog is that of ours.
const theirLog = "log.them.test"

// switched is a world with a TUF repository of our own, made with the real program, which a publisher in
// this process serves: its SigningConfig is switched between two real Rekor v2 logs.
type switched struct {
	*world
	*publish.Publisher

	logs map[trust.SigningLogs]*rekor.Log
}

func newSwitched(t *testing.T) *switched {
	skipUnlessAsked(t)
	dir := t.TempDir()
	s := &switched{world: &world{T: t, config: filepath.Join(dir, "understudy.yaml"), binary: must(tool.Understudy(t.Context()))}, logs: map[trust.SigningLogs]*rekor.Log{}}
	hosts := map[string]string{}
	for mode, host := range map[trust.SigningLogs]string{trust.SigningPublic: theirLog, trust.SigningFallback: ourLog} {
		log := must(rekor.Start(t.Context(), rekor.Config{Binary: must(tool.Path(t.Context(), "rekor-tiles")), Dir: t.TempDir(), Origin: host}))
		t.Cleanup(log.Close)
		s.logs[mode], hosts[host] = log, log.WriteURL()
		s.write(s.file(string(mode)+".json"), fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json",
			"rekorTlogUrls": [{"url": "http://%s", "majorApiVersion": 2, "operator": "%[1]s", "validFor": {"start": "2025-01-01T00:00:00Z"}}], "rekorTlogConfig": {"selector": "ANY"}, "tsaConfig": {"selector": "ANY"}}`, host))
	}
	s.proxy = proxyTo(t, hosts)
	server := httptest.NewServer(http.StripPrefix("/trust/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f, ok := s.File(r.URL.EscapedPath()); ok {
			w.Write(f.Data)
			return
		}
		http.NotFound(w, r)
	})))
	t.Cleanup(server.Close)
	s.ownURL = server.URL + "/trust"
	s.write(s.file("passphrase"), []byte("a horse\n"))
	s.write(s.config, []byte(`
trust: {repository: trust/repository, snapshot_key: trust/keys/snapshot.pem, timestamp_key: trust/keys/timestamp.pem, signing_key: trust/keys/signing.pem, passphrase_file: trust/keys/online.passphrase}
logs: [{name: log, url: 'http://127.0.0.1:1', origin: log2025-1.rekor.sigstore.dev}]
`))
	s.understudy("trust", "init", s.trust(), "--passphrase-file", s.file("passphrase"))
	s.export = s.file("material")
	s.understudy("trust", "export", s.export, "--trusted-root", s.logs[trust.SigningPublic].TrustedRootFile, "--add-trusted-root", s.logs[trust.SigningFallback].TrustedRootFile,
		"--signing-config", s.file("public.json"), "--own-signing-config", s.file("fallback.json"), "--url", s.ownURL)
	s.sign("--material", s.export)
	s.root = filepath.Join(s.export, "root.json")

	db := must(storage.Create(s.file("db"), storage.Options{}))
	t.Cleanup(func() { db.Close() })
	s.Publisher = must(publish.New(t.Context(), publish.Config{DB: db, Dir: filepath.Join(s.trust(), "repository"),
		Signers: func(context.Context) (snapshot, timestamp signature.Signer, err error) {
			return s.key("snapshot"), s.key("timestamp"), nil
		},
		Signing: func(context.Context) (signature.Signer, error) { return s.key("signing"), nil },
	}))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Publisher.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	s.serves(trust.SigningPublic)
	return s
}

// key is one of the daemon's keys.
func (s *switched) key(role string) signature.Signer {
	block, _ := pem.Decode(must(os.ReadFile(filepath.Join(s.trust(), "keys", role+".pem"))))
	private, _, err := pkcs8.ParsePrivateKey(block.Bytes, bytes.TrimSpace(must(os.ReadFile(filepath.Join(s.trust(), "keys", "online.passphrase")))))
	if err != nil {
		panic(err)
	}
	return must(signature.LoadSigner(private, crypto.SHA256))
}

// serves waits until a mode is served, which takes seconds at most.
func (s *switched) serves(mode trust.SigningLogs) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 5*time.Second)
	defer cancel()
	if err := process.Until(ctx, func(context.Context) error {
		if m := s.Mode(); m.Served != mode {
			return fmt.Errorf("%+v", m)
		}
		return nil
	}); err != nil {
		s.Fatalf("%s is not served: %v; %+v", mode, err, s.Publisher.Status().Problem)
	}
}

// run runs cosign, which reaches the logs by their names.
func (s *switched) run(home string, args ...string) error {
	cmd := exec.CommandContext(s.Context(), must(tool.Path(s.Context(), "cosign")), args...)
	cmd.Dir = home
	cmd.Env = []string{"HOME=" + home, "TUF_ROOT=" + filepath.Join(home, "tuf"), "TMPDIR=" + home, "COSIGN_PASSWORD=", "HTTP_PROXY=" + s.proxy, "HTTPS_PROXY=http://127.0.0.1:1"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cosign %v: %w\n%s", args, err, out)
	}
	return nil
}

// signsIn has cosign, initialised at our repository, sign and verify, and demands that the entry is in the
// log of a mode.
func (s *switched) signsIn(home string, mode trust.SigningLogs) {
	s.Helper()
	if err := s.run(home, "sign-blob", "--yes", "--key", "cosign.key", "--bundle", string(mode)+".bundle", "cosign.pub"); err != nil {
		s.Error(err)
		return
	}
	b := must(bundle.LoadJSONFromPath(filepath.Join(home, string(mode)+".bundle")))
	entries := b.GetVerificationMaterial().GetTlogEntries()
	if len(entries) != 1 || !strings.HasPrefix(entries[0].GetInclusionProof().GetCheckpoint().GetEnvelope(), s.logs[mode].Origin+"\n") {
		s.Errorf("%s: logged as %v", mode, entries)
	}
	for _, file := range must(filepath.Glob(filepath.Join(home, "*.bundle"))) { // also what was signed in the other mode
		if err := s.run(home, "verify-blob", "--key", "cosign.pub", "--bundle", file, "cosign.pub"); err != nil {
			s.Errorf("%s: %v", mode, err)
		}
	}
}

// sees demands that clients get a SigningConfig with the log of a mode, and no other; each is new or keeps
// the cache that is named after it.
func (s *switched) sees(url, caches string, mode trust.SigningLogs) {
	s.Helper()
	check := func(client string, config []byte, err error) {
		s.Helper()
		if err != nil {
			s.Errorf("%s: %v", client, err)
			return
		}
		var logs []string
		for _, l := range must(root.NewSigningConfigFromJSON(config)).RekorLogURLs() {
			logs = append(logs, l.URL)
		}
		if !slices.Equal(logs, []string{"http://" + s.logs[mode].Origin}) {
			s.Errorf("%s: signers log in %v, want that of %s", client, logs, mode)
		}
	}
	for _, cache := range []string{caches, s.TempDir()} {
		client, err := tuf.New(&tuf.Options{Root: must(os.ReadFile(s.root)), RepositoryBaseURL: url, CachePath: filepath.Join(cache, "go")})
		var config []byte
		if err == nil {
			config, err = client.GetTarget(trust.SigningTarget)
		}
		check("sigstore-go", config, err)
		if _, err := exec.LookPath("node"); err != nil {
			continue
		}
		dir := must(sigstoreJSDir())
		s.write(filepath.Join(dir, "target.mjs"), must(os.ReadFile("sigstorejs/target.mjs")))
		cmd := exec.CommandContext(s.Context(), "node", filepath.Join(dir, "target.mjs"), url, s.root, filepath.Join(cache, "js"), trust.SigningTarget)
		var said bytes.Buffer
		cmd.Stderr = &said
		if config, err = cmd.Output(); err != nil {
			err = fmt.Errorf("%w: %s", err, said.Bytes())
		}
		check("sigstore-js", config, err)
	}
}

// TestOwnFallback: after a switch the next refresh of unmodified clients leads signers to our log alone, and
// back, at our repository and at a copy of it; what was signed in either is verified all the while.
func TestOwnFallback(t *testing.T) {
	s := newSwitched(t)
	home, caches, copied := t.TempDir(), t.TempDir(), t.TempDir()
	for _, args := range [][]string{{"initialize", "--mirror", s.ownURL, "--root", s.root}, {"generate-key-pair"}} {
		if err := s.run(home, args...); err != nil {
			t.Fatal(err)
		}
	}
	addrs := must(process.FreeAddrs(3))
	s.admin = "http://" + addrs[2]
	s.write(s.config, fmt.Appendf(nil, `
listen: {http: %s, grpc: %s, admin: %s}
tuf: {url: %s, root: material/root.json, poll: 200ms}
logs: [{name: log, url: 'http://127.0.0.1:1', origin: log2025-1.rekor.sigstore.dev}]
`, addrs[0], addrs[1], addrs[2], s.ownURL))
	s.start()
	for i, mode := range []trust.SigningLogs{trust.SigningPublic, trust.SigningFallback, trust.SigningPublic} {
		if err := s.Switch(mode); err != nil {
			t.Fatal(err)
		}
		s.serves(mode)
		s.sees(s.ownURL, caches, mode)
		s.signsIn(home, mode)
		s.status(fmt.Sprintf("timestamp version %d, ", s.Seen("timestamp")))
		s.sees("http://"+addrs[0]+"/tuf", copied, mode)
		if i == 1 { // who has never been here, in the outage
			stranger := t.TempDir()
			for _, args := range [][]string{{"initialize", "--mirror", "http://" + addrs[0] + "/tuf", "--root", s.root}, {"generate-key-pair"}} {
				if err := s.run(stranger, args...); err != nil {
					t.Fatal(err)
				}
			}
			s.signsIn(stranger, mode)
		}
	}
	all, _ := rekorLogs(t, must(os.ReadFile(filepath.Join(s.export, "trusted_root.json"))))
	s.mustHave(all, nil, "--tuf-mirror", s.ownURL, "--tuf-root", s.root) // which has another TUF client, and needs no SigningConfig
}
