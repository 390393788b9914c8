// Package daemon runs the real understudy binary for tests: with a configuration of
// one log, on loopback, to be killed and started again as often as it takes.
package daemon

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/verifier"
)

// Config says what a Daemon mirrors. All fields but Origin and Coverage must be set.
type Config struct {
	Binary      string // understudy
	Dir         string // an existing folder for configuration, data and output
	URL, Origin string // of the log; no origin: of a Rekor v1 service
	TrustedRoot string // file

	Poll              time.Duration
	RequestsPerSecond int

	// Coverage is the keys of the log that say how much is held, in YAML's flow style;
	// empty is "coverage: full".
	Coverage string
}

// Daemon is one installation of understudy: a configuration and a data folder, with
// or without a process that serves them.
type Daemon struct {
	ConfigFile string

	config            Config
	http, grpc, admin string // addresses

	process *process.Process
	conn    *grpc.ClientConn
}

// New writes the configuration. Start runs it.
func New(config Config) (*Daemon, error) {
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		ConfigFile: filepath.Join(config.Dir, "understudy.yaml"),
		config:     config,
		http:       addrs[0], grpc: addrs[1], admin: addrs[2],
	}
	return d, d.Cover(config.Coverage)
}

// Cover writes the configuration anew, with another Config.Coverage, for the next Start.
func (d *Daemon) Cover(coverage string) error {
	config := d.config
	if coverage == "" {
		coverage = "coverage: full"
	}
	source := "rekor-v1"
	if config.Origin != "" {
		source = fmt.Sprintf("tiles, origin: %q", config.Origin)
	}
	text := fmt.Sprintf(`data_dir: ./data
listen: {http: %s, grpc: %s, admin: %s}
trusted_root: %q
logs:
  - {name: rekor, source: %s, url: %q, poll: %s, requests_per_second: %d, %s}
`, d.http, d.grpc, d.admin, config.TrustedRoot, source, config.URL, config.Poll, config.RequestsPerSecond, coverage)
	return os.WriteFile(d.ConfigFile, []byte(text), 0o600)
}

// Start runs `understudy serve` and returns once it answers: its upstream may be dead.
func (d *Daemon) Start(ctx context.Context) error {
	var err error
	d.process, err = process.Start(filepath.Join(d.config.Dir, "understudy.log"), d.config.Binary, "serve", "--config", d.ConfigFile)
	if err != nil {
		return err
	}
	// A connection of its own for each process, so that no answer and no backoff of the
	// one before is left; and an answer that is not there yet is waited for.
	d.conn, err = grpc.NewClient(d.grpc,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 20 * time.Millisecond, MaxDelay: 100 * time.Millisecond, Multiplier: 1.5}}))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return d.process.Until(ctx, func(ctx context.Context) error { return d.admits(ctx, "/healthz") })
}

// Ready returns an error unless /readyz answers 200 now.
func (d *Daemon) Ready(ctx context.Context) error { return d.admits(ctx, "/readyz") }

// Kill ends the process with SIGKILL, if there is one.
func (d *Daemon) Kill() {
	if d.process != nil {
		d.process.Kill()
		d.conn.Close()
	}
}

// Terminate ends the process with SIGTERM and returns its exit code and the time that
// it took.
func (d *Daemon) Terminate() (code int, took time.Duration, err error) {
	d.conn.Close()
	return d.process.Terminate(30 * time.Second)
}

// Tail returns the last lines that the daemon printed.
func (d *Daemon) Tail() string { return d.process.Tail() }

// Command runs another verb on the configuration. An exit code other than 0 is an
// *exec.ExitError with what was printed.
func (d *Daemon) Command(ctx context.Context, verb ...string) (string, error) {
	cmd := exec.CommandContext(ctx, d.config.Binary, append(verb, "--config", d.ConfigFile)...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return string(out), fmt.Errorf("understudy %v: %w\n%s%s", verb, err, out, exit.Stderr)
	}
	return string(out), err
}

// URL returns the address for everybody, without a path.
func (d *Daemon) URL() string { return "http://" + d.http }

// Prefix returns the address of the mirrored log's tiles.
func (d *Daemon) Prefix() string {
	hash := sha256.Sum256([]byte(d.config.Origin))
	return d.URL() + "/" + hex.EncodeToString(hash[:])
}

// Conn returns the connection to the running daemon.
func (d *Daemon) Conn() *grpc.ClientConn { return d.conn }

// API returns a client of the running daemon.
func (d *Daemon) API() understudyv1.LogServiceClient {
	return understudyv1.NewLogServiceClient(d.conn)
}

// Log returns what the daemon says about its log.
func (d *Daemon) Log(ctx context.Context) (*understudyv1.Log, error) {
	answer, err := d.API().ListLogs(ctx, &understudyv1.ListLogsRequest{})
	if err != nil {
		return nil, err
	}
	if n := len(answer.GetLogs()); n != 1 {
		return nil, fmt.Errorf("want 1 log, have %d", n)
	}
	return answer.GetLogs()[0], nil
}

// Until waits until the daemon says about its log what good wants.
func (d *Daemon) Until(ctx context.Context, what string, good func(*understudyv1.Log) bool) error {
	return d.process.Until(ctx, func(ctx context.Context) error {
		log, err := d.Log(ctx)
		if err != nil {
			return err
		}
		if !good(log) {
			return fmt.Errorf("not %s: held %d of %d, mirror checkpoint %d, %q, problem %q", what,
				log.GetNextIndex(), log.GetTreeSize(), log.GetMirrorSize(), log.GetFreshness().GetSource(), log.GetProblem())
		}
		return nil
	})
}

// Proof asks for an entry and its inclusion proof, in the tree of the newest signed
// checkpoint.
func (d *Daemon) Proof(ctx context.Context, index uint64) (verifier.Proof, error) {
	entry, err := d.API().GetEntry(ctx, &understudyv1.GetEntryRequest{
		Origin: d.config.Origin,
		Entry:  &understudyv1.GetEntryRequest_Index{Index: index},
	})
	if err != nil {
		return verifier.Proof{}, err
	}
	proof, err := d.API().GetInclusionProof(ctx, &understudyv1.GetInclusionProofRequest{
		Origin: d.config.Origin,
		Entry:  &understudyv1.GetInclusionProofRequest_Index{Index: index},
	})
	return verifier.Proof{
		Index:      index,
		TreeSize:   proof.GetTreeSize(),
		RootHash:   proof.GetRootHash(),
		Hashes:     proof.GetHashes(),
		Checkpoint: proof.GetCheckpoint(),
		Body:       entry.GetBody(),
	}, err
}

func (d *Daemon) admits(ctx context.Context, path string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.admin+path, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", path, response.Status)
	}
	return nil
}
