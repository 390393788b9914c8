package e2elog

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/test/process"
)

// settings say how an understudy differs from one with both generations, open to loopback.
type settings struct {
	without int    // a generation that it has not
	access  string // YAML in flow style; empty: without authentication
	https   bool   // what access says

	// policy returns a tlog-policy of witnesses that know the log; nil: no witnesses.
	policy func(d *daemon) string
	// withoutQuorum is the key of that name; needed with a policy.
	withoutQuorum string

	// more returns further sections of the configuration, once the keys and the trees are made.
	more func(d *daemon) string
	// kms has the keys, in place of files; nil: none.
	kms *keyService
}

// daemon is an installation of understudy with a private log and nothing else.
type daemon struct {
	*testing.T
	binary         string // understudy, or what runs it
	dir, config    string
	v1, v2         string // addresses; empty: it has no such generation
	v1URL, v2URL   string
	v1Host, v2Host string
	http, admin    string
	scheme         string

	process *process.Process
}

// passphrase is of all encrypted keys.
const passphrase = "a horse\n"

// treeID is of the v1 log.
const treeID = "3141592653589793238"

// newUnderstudy makes a log as docs say, and runs it.
func newUnderstudy(t *testing.T, s settings) *daemon {
	t.Helper()
	addrs := must(process.FreeAddrs(5))
	d := &daemon{T: t, binary: understudy(), dir: t.TempDir(), http: addrs[0], admin: addrs[2], scheme: "http"}
	if s.https {
		d.scheme = "https"
	}
	d.config = filepath.Join(d.dir, "understudy.yaml")
	var config bytes.Buffer
	fmt.Fprintf(&config, "data_dir: ./data\nlisten:\n  http: %s\n  grpc: %s\n  admin: %s\n", addrs[0], addrs[1], addrs[2])
	generations := ""
	keyV1, keysV2, passphraseFile := "keys/log-v1.key", "keys/log-v2.key, mldsa_key: keys/log-v2-mldsa.key", "  passphrase_file: keys/passphrase\n"
	if s.kms != nil {
		d.binary, keyV1, keysV2, passphraseFile = s.kms.binary, "'shelf://v1'", "'shelf://v2-ed25519'", ""
	}
	if s.without != 1 {
		d.v1, d.v1Host = addrs[3], names.name("v1", addrs[3])
		d.v1URL = d.scheme + "://" + d.v1Host
		fmt.Fprintf(&config, "  log_v1: %s\n", d.v1)
		generations += fmt.Sprintf("  v1: {host: %s, tree_id: %s, key: %s, url: '%s'}\n", d.v1Host, treeID, keyV1, d.v1URL)
	}
	if s.without != 2 {
		d.v2, d.v2Host = addrs[4], names.name("v2", addrs[4])
		d.v2URL = d.scheme + "://" + d.v2Host
		fmt.Fprintf(&config, "  log_v2: %s\n", d.v2)
		generations += fmt.Sprintf("  v2: {origin: %s, key: %s, url: '%s'}\n", d.v2Host, keysV2, d.v2URL)
	}
	if s.access == "" {
		s.access = "{without_authentication: on loopback only}"
	}
	fmt.Fprintf(&config, `log:
  operator: us.test
%s%s  checkpoint_interval: 1s
  proposals: {key: keys/proposals.key, retention: 24h}
  access: %s
`, passphraseFile, generations, s.access)
	save(t, d.config, config.Bytes())
	if err := os.Mkdir(filepath.Join(d.dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	save(t, filepath.Join(d.dir, "keys", "passphrase"), []byte(passphrase))
	if s.kms != nil {
		save(t, filepath.Join(d.dir, "keys", "proposals.key"), bytes.Repeat([]byte("0f"), 32))
	} else {
		init := []string{"log", "init", "keys", "--passphrase-file", "keys/passphrase"}
		if s.without != 1 {
			init = append(init, "--v1-host", d.v1Host)
		}
		if s.without != 2 {
			init = append(init, "--v2-origin", d.v2Host)
		}
		d.command(init...) // the keys that the configuration names
	}
	d.command("log", "create") // the trees
	if s.policy != nil {       // witnesses are told the keys before the log is run
		save(t, filepath.Join(d.dir, "witnesses.policy"), []byte(s.policy(d)))
		fmt.Fprintf(&config, "  witness_policy: {file: witnesses.policy, timeout: 2s, without_quorum: %s}\n", s.withoutQuorum)
	}
	if s.more != nil {
		config.WriteString(s.more(d))
	}
	save(t, d.config, config.Bytes())
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	return d
}

// command runs a verb, which must succeed.
func (d *daemon) command(args ...string) string {
	d.Helper()
	out, err := d.try(append(args, "--config", d.config)...)
	if err != nil {
		d.Fatal(err)
	}
	return out
}

// try runs a verb, without the configuration.
func (d *daemon) try(args ...string) (string, error) {
	cmd := exec.CommandContext(d.Context(), d.binary, args...)
	cmd.Dir = d.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("understudy %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}

// vkeyV2 is the verifier key of the v2 log.
func (d *daemon) vkeyV2() string {
	return must(note.NewEd25519VerifierKey(d.v2Host, d.stage().log(d.T, 2).PublicKey.(ed25519.PublicKey)))
}

// start runs the daemon and returns once it answers.
func (d *daemon) start() (err error) {
	if d.process, err = process.Start(filepath.Join(d.dir, "understudy.log"), d.binary, "serve", "--config", d.config); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(d.Context(), 20*time.Second)
	defer cancel()
	return d.process.Until(ctx, func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.admin+"/healthz", nil)
		if err != nil {
			return err
		}
		answer, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("healthz: %s", answer.Status)
		}
		return nil
	})
}

func (d *daemon) kill() { d.process.Kill() }

// stage returns what users of the log are told.
func (d *daemon) stage() *stage {
	d.Helper()
	dir := filepath.Join(d.dir, "material")
	d.command("log", "material", dir)
	return &stage{
		v1: d.v1URL, v2: d.v2URL, v2Reads: d.v2URL + "/api/v2", v2GRPC: d.v2,
		trustedRoot:   filepath.Join(dir, "trusted_root.json"),
		signingConfig: filepath.Join(dir, "signing_config.json"),
		kill:          d.kill, restart: d.start,
	}
}

// saysNothingOf checks that secrets stand in no output of the daemon.
func (d *daemon) saysNothingOf(secrets ...string) {
	d.Helper()
	log := string(must(os.ReadFile(filepath.Join(d.dir, "understudy.log"))))
	for _, secret := range append(secrets, strings.TrimSpace(passphrase)) {
		if strings.Contains(log, secret) {
			d.Errorf("the daemon's output has the secret %q", secret)
		}
	}
}
