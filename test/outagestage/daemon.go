package outagestage

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// Daemon is the understudy of a stage.
type Daemon struct {
	Dir        string // its working folder, with everything that it has
	ConfigFile string
	URL        string // of the mirror: Rekor v1's API, /tuf, /trust
	GRPC       string // address
	Private1   string // URL of the private log that speaks Rekor v1, without a path
	Private2   string // the same of Rekor v2

	// RootFile is the first root of our own TUF repository, as clients get it.
	RootFile string

	binary  string
	admin   string // URL
	process *process.Process
	conn    *grpc.ClientConn
	tokens  map[string]string // files by the name of who has one
}

// Who may do what.
const (
	Operator = "olga"  // operate
	Approver = "anton" // approve
	Both     = "berta" // operate and approve
)

const passphrase = "a horse\n"

func (s *Stage) newDaemon(ctx context.Context) (*Daemon, error) {
	binary, err := tool.Understudy(ctx)
	if err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(5)
	if err != nil {
		return nil, err
	}
	dir, err := folder(s.config.Dir, "understudy")
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		Dir: dir, ConfigFile: filepath.Join(dir, "understudy.yaml"), binary: binary,
		URL: "http://" + addrs[0], GRPC: addrs[1], admin: "http://" + addrs[2],
		Private1: "http://localhost:" + portOf(addrs[3]), Private2: "http://localhost:" + portOf(addrs[4]),
		RootFile: filepath.Join(dir, "trust", "repository", "1.root.json"),
		tokens:   map[string]string{},
	}
	config, err := d.keys(ctx, addrs)
	if err != nil {
		return nil, err
	}
	// The keys are there, so the files for our own TUF repository can be made; then all of the rest.
	if err := d.ownRepository(ctx, s.Upstream); err != nil {
		return nil, err
	}
	identities, err := d.identities(ctx)
	if err != nil {
		return nil, err
	}
	config += s.rest(identities)
	if err := os.WriteFile(d.ConfigFile, []byte(config), 0o600); err != nil {
		return nil, err
	}
	return d, d.Start(ctx)
}

// keys makes the keys of the private log, and its trees, and returns that part of the configuration.
func (d *Daemon) keys(ctx context.Context, addrs []string) (config string, err error) {
	config = fmt.Sprintf(`data_dir: ./data
listen: {http: %s, grpc: %s, admin: %s, log_v1: %s, log_v2: %s}
log:
  operator: us.test
  mode: fallback
  passphrase_file: keys/passphrase
  v1: {host: localhost, tree_id: 3141592653589793238, key: keys/log-v1.key, url: %q}
  v2: {origin: localhost, key: keys/log-v2.key, mldsa_key: keys/log-v2-mldsa.key, url: %q}
  checkpoint_interval: 1s
  proposals: {key: keys/proposals.key, retention: 24h}
  access: {without_authentication: on loopback only}
`, addrs[0], addrs[1], addrs[2], addrs[3], addrs[4], d.Private1, d.Private2)
	if _, err := folder(d.Dir, "keys"); err != nil {
		return "", err
	}
	for name, text := range map[string]string{d.ConfigFile: config + "outage: {}\n", filepath.Join(d.Dir, "keys", "passphrase"): passphrase, filepath.Join(d.Dir, "root.passphrase"): "another horse\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	if _, err := d.Command(ctx, "log", "init", "keys", "--passphrase-file", "keys/passphrase", "--v1-host", "localhost", "--v2-origin", "localhost"); err != nil {
		return "", err
	}
	_, err = d.Command(ctx, "log", "create")
	return config, err
}

// ownRepository makes a TUF repository of our own, with the SigningConfigs of good and of bad days.
func (d *Daemon) ownRepository(ctx context.Context, u *Upstream) error {
	for _, args := range [][]string{
		{"trust", "init", "trust", "--passphrase-file", "root.passphrase"},
		{"trust", "export", "material", "--logs", "public", "--trusted-root", u.TrustedRootFile, "--signing-config", u.SigningConfigFile},
		{"trust", "sign", "trust", "--material", "material", "--passphrase-file", "root.passphrase"},
	} {
		if _, err := d.Command(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// identities makes the tokens of operators, and returns what the configuration has of them.
func (d *Daemon) identities(ctx context.Context) (string, error) {
	var all []string
	for _, who := range []struct{ name, roles string }{{Operator, "operate"}, {Approver, "approve"}, {Both, "operate, approve"}} {
		args := []string{"log", "token", who.name}
		for _, role := range strings.Split(who.roles, ", ") {
			args = append(args, "--role", role)
		}
		out, err := d.Command(ctx, args...)
		if err != nil {
			return "", err
		}
		token, _, _ := strings.Cut(out, "\n")
		d.tokens[who.name] = filepath.Join(d.Dir, who.name+".token")
		if err := os.WriteFile(d.tokens[who.name], []byte(token), 0o600); err != nil {
			return "", err
		}
		hash := sha256.Sum256([]byte(token))
		all = append(all, fmt.Sprintf("{name: %s, token_sha256: %q, roles: [%s]}", who.name, hex.EncodeToString(hash[:]), who.roles))
	}
	return "[" + strings.Join(all, ", ") + "]", nil
}

// rest is the part of the configuration that is about the public logs and their outages.
func (s *Stage) rest(identities string) string {
	var keys []string
	for _, file := range s.Rekor1.PublicKeyFiles() {
		keys = append(keys, fmt.Sprintf("%q", file))
	}
	c := s.config
	return fmt.Sprintf(`tuf: {url: %[1]q, root: %[2]q, poll: 1s}
trust: {repository: trust/repository, snapshot_key: trust/keys/snapshot.pem, timestamp_key: trust/keys/timestamp.pem, signing_key: trust/keys/signing.pem, passphrase_file: trust/keys/online.passphrase}
logs:
  - {name: %[3]s, source: rekor-v1, url: %[4]q, public_keys: [%[5]s], coverage: pinned, poll: 1s, requests_per_second: 200}
  - {name: %[6]s, source: tiles, url: %[7]q, write_url: %[8]q, origin: %[9]s, poll: 500ms, requests_per_second: 200}
outage:
  write_probe: %[10]s
  identities: %[11]s
  reconcile: {requests_per_second: %[12]g, patience: %[13]s}
  drills: {targets: {fall_back: %[20]s}}
verification:
  max_audit: %[14]s
  policies:
    - {name: %[15]s, identities: [{identity: %[16]s, issuer: %[17]q}]}
    - {name: %[18]s, identities: [{identity: %[19]s, issuer: %[17]q}]}
  high_risk: [{identity: "*@release.understudy.test"}]
`, s.TUF.URL, s.TUFRootFile, LogV1, s.Rekor1.URL, strings.Join(keys, ", "), LogV2, s.Rekor2.ReadURL, s.Rekor2.WriteURL()+"/api/v2", OriginV2,
		cmp.Or(c.WriteProbe, "entry"), identities, cmp.Or(c.PerSecond, 500), cmp.Or(c.Patience, 3*time.Second), cmp.Or(c.MaxAudit, time.Hour),
		Policy, rekor.Identity, rekor.Issuer, HighRisk, HighRiskIdentity, cmp.Or(c.FallBack, 10*time.Second))
}

// Start runs the daemon and returns once it answers.
func (d *Daemon) Start(ctx context.Context) error {
	var err error
	if d.process, err = process.Start(filepath.Join(d.Dir, "understudy.log"), d.binary, "serve", "--config", d.ConfigFile); err != nil {
		return err
	}
	d.conn, err = grpc.NewClient(d.GRPC,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, MaxDelay: 100 * time.Millisecond, Multiplier: 1.5}}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return d.process.Until(ctx, func(ctx context.Context) error {
		answer, err := get(ctx, d.admin+"/healthz")
		if err == nil {
			answer.Body.Close()
		}
		return err
	})
}

// Kill ends the daemon with SIGKILL.
func (d *Daemon) Kill() {
	if d.process != nil {
		d.process.Kill()
		d.conn.Close()
	}
}

// Terminate ends the daemon with SIGTERM.
func (d *Daemon) Terminate() error {
	d.conn.Close()
	code, _, err := d.process.Terminate(20 * time.Second)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d after SIGTERM\n%s", code, d.process.Tail())
	}
	return err
}

// Tail returns the last lines that the daemon printed.
func (d *Daemon) Tail() string {
	if d.process == nil {
		return ""
	}
	return d.process.Tail()
}

// API returns a client of the running daemon.
func (d *Daemon) API() understudyv1.LogServiceClient { return understudyv1.NewLogServiceClient(d.conn) }

// ExitError is the end of a verb with another code than 0.
type ExitError struct {
	Verb   []string
	Code   int
	Stdout string
	Stderr string
}

func (e *ExitError) Error() string {
	return fmt.Sprintf("understudy %s: exit code %d\n%s%s", strings.Join(e.Verb, " "), e.Code, e.Stdout, e.Stderr)
}

// Command runs a verb in the folder of the daemon and returns what it printed. Another exit code than 0 is an
// *ExitError.
func (d *Daemon) Command(ctx context.Context, verb ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.binary, append(verb, "--config", d.ConfigFile)...)
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = d.Dir, &stdout, &stderr
	err := cmd.Run()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		err = &ExitError{verb, exit.ExitCode(), stdout.String(), stderr.String()}
	}
	return stdout.String(), err
}

// As runs a verb that gives an order, in the name of who has a token.
func (d *Daemon) As(ctx context.Context, who string, verb ...string) (string, error) {
	return d.Command(ctx, append(verb, "--token-file", d.tokens[who])...)
}

// UntilHeld waits until so many entries of a log are held whole.
func (d *Daemon) UntilHeld(ctx context.Context, origin string, size uint64) error {
	return d.process.Until(ctx, func(ctx context.Context) error {
		held, problem, err := d.Held(ctx, origin)
		if err == nil && held < size {
			err = fmt.Errorf("%s: held %d of %d (%s)", origin, held, size, problem)
		}
		return err
	})
}

// Held returns how many entries of a log are held whole, and what is wrong with it.
func (d *Daemon) Held(ctx context.Context, origin string) (size uint64, problem string, err error) {
	answer, err := d.API().ListLogs(ctx, &understudyv1.ListLogsRequest{})
	if err != nil {
		return 0, "", err
	}
	for _, log := range answer.GetLogs() {
		if log.GetOrigin() == origin {
			return log.GetMirrorSize(), log.GetProblem(), nil
		}
	}
	return 0, "", fmt.Errorf("no log has the origin %s", origin)
}

// UntilV1Held waits until entries of Rekor v1 are answered by the mirror.
func (d *Daemon) UntilV1Held(ctx context.Context, entries []rekorv1.Entry) error {
	for _, e := range entries {
		if err := d.process.Until(ctx, func(ctx context.Context) error {
			answer, err := get(ctx, d.URL+"/api/v1/log/entries/"+e.UUID)
			if err == nil {
				answer.Body.Close()
			}
			return err
		}); err != nil {
			return err
		}
	}
	return nil
}

// get is a GET whose answer is good; its body is to be closed.
func get(ctx context.Context, url string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		answer.Body.Close()
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return answer, nil
}

func portOf(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
