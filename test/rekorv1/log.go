// Package rekorv1 runs a real Rekor v1 service on loopback: MariaDB, Trillian's log server and
// signer, and the unmodified rekor-server with a search index and stored attestations. It
// begins with one shard; each roll-over freezes the active one and adds a shard with a key of
// its own, as operators of Rekor v1 do.
package rekorv1

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// startLimit is how long the service may take until it answers.
const startLimit = 60 * time.Second

// Config says how a Log is run. Both fields must be set.
type Config struct {
	Dir      string // an existing, empty folder for everything that the service keeps
	Hostname string // the name in its origins and signature lines
}

// Log is a running Rekor v1 service.
type Log struct {
	URL             string  // of the API, without a path; the same for ever
	Hostname        string  // origins are "HOSTNAME - TREE ID"
	Shards          []Shard // oldest first; the last is the active one
	TrustedRootFile string  // Sigstore TrustedRoot JSON with the keys of PublicKeyFiles
	Authority       *authority.Authority

	dir          string
	next         Shard  // without a tree yet
	trillianAddr string // of the log server's gRPC
	database     *database
	backend      []*process.Process // MariaDB and Trillian, in the order of their start
	server       *process.Process   // rekor-server; nil before the first start
	metrics      net.Listener       // holds what rekor-server would take on all interfaces
}

// Shard is one tree of the service.
type Shard struct {
	TreeID        uint64 // Trillian's
	PublicKeyFile string // PEM (SPKI), ECDSA P-256

	signerFile string // PEM (PKCS 8)
}

// Origin returns the first line of the shard's checkpoints.
func (l *Log) Origin(s Shard) string { return l.Hostname + " - " + strconv.FormatUint(s.TreeID, 10) }

// Start makes a service with one shard in config.Dir and runs it. Close ends it. An error
// that is ErrNoMariaDB says that this machine cannot run it.
func Start(ctx context.Context, config Config) (*Log, error) {
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		return nil, err
	}
	ca, err := authority.New()
	if err != nil {
		return nil, err
	}
	l := &Log{
		URL:             "http://" + addrs[0],
		Hostname:        config.Hostname,
		TrustedRootFile: filepath.Join(config.Dir, "trusted_root.json"),
		Authority:       ca,
		dir:             config.Dir,
		trillianAddr:    addrs[1],
	}
	if l.database, err = newDatabase(ctx, config.Dir, addrs[2]); err != nil {
		return nil, err
	}
	if l.next, err = l.newKey(); err == nil {
		err = l.startBackend(ctx)
	}
	if err == nil {
		err = l.RollOver(ctx)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// RollOver freezes the active shard, if there is one, and begins another with a new key, which
// was published before: the server is killed and answers at the same URL when RollOver returns.
func (l *Log) RollOver(ctx context.Context) error {
	id, err := l.newTree(ctx)
	if err != nil {
		return err
	}
	l.next.TreeID = id
	l.Shards = append(l.Shards, l.next)
	if l.next, err = l.newKey(); err != nil {
		return err
	}
	if err := l.writeTrustedRoot(); err != nil {
		return err
	}
	if l.server != nil {
		l.server.Kill()
	}
	return l.startServer(ctx)
}

// Restart runs the service again where it was left, with the same URL.
func (l *Log) Restart(ctx context.Context) error {
	l.Kill()
	if err := l.startBackend(ctx); err != nil {
		return err
	}
	return l.startServer(ctx)
}

// Kill takes the whole service away at once, as a dead machine would: SIGKILL for all of it.
func (l *Log) Kill() {
	if l.server != nil {
		l.server.Kill()
	}
	for _, p := range l.backend {
		p.Kill()
	}
	l.backend = nil
}

// Stop halts the whole service with SIGSTOP, as a machine that hangs: connections succeed, and nothing
// answers.
func (l *Log) Stop() error { return l.each((*process.Process).Stop) }

// Continue ends what Stop and StopSigner did.
func (l *Log) Continue() error { return l.each((*process.Process).Continue) }

// StopSigner halts the signer of Trillian alone: what is logged is read on, and writes wait for a tree
// that has them.
func (l *Log) StopSigner() error { return l.backend[2].Stop() }

func (l *Log) each(do func(*process.Process) error) error {
	var errs []error
	for _, p := range append([]*process.Process{l.server}, l.backend...) {
		errs = append(errs, do(p))
	}
	return errors.Join(errs...)
}

// Close ends the service; its files stay.
func (l *Log) Close() {
	l.Kill()
	if l.metrics != nil {
		l.metrics.Close()
	}
}

// startServer runs rekor-server for the shards of now and waits until it answers.
func (l *Log) startServer(ctx context.Context) error {
	binary, err := tool.Path(ctx, "rekor-server")
	if err != nil {
		return err
	}
	attestations := filepath.Join(l.dir, "attestations")
	if err := errors.Join(os.MkdirAll(attestations, 0o700), l.writeSharding()); err != nil {
		return err
	}
	// rekor-server serves its metrics on port 2112 of all interfaces, unless that is taken.
	if l.metrics == nil {
		l.metrics, _ = net.Listen("tcp", "127.0.0.1:2112") // taken: as well
	}
	addr, trillian := mustSplit(l.URL[len("http://"):]), mustSplit(l.trillianAddr)
	active := l.Shards[len(l.Shards)-1]
	l.server, err = process.Start(filepath.Join(l.dir, "rekor.log"), binary, "serve",
		"--rekor_server.address="+addr.host, "--port="+addr.port,
		"--rekor_server.hostname="+l.Hostname,
		"--rekor_server.signer="+active.signerFile,
		"--trillian_log_server.address="+trillian.host, "--trillian_log_server.port="+trillian.port,
		"--trillian_log_server.tlog_id="+strconv.FormatUint(active.TreeID, 10),
		"--trillian_log_server.sharding_config="+l.shardingFile(),
		"--search_index.storage_provider=mysql", "--search_index.mysql.dsn="+l.database.dsn("search"),
		"--enable_attestation_storage", "--attestation_storage_bucket=file://"+attestations+"?no_tmp_dir=true")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return l.server.Until(ctx, func(ctx context.Context) error { return getOK(ctx, l.URL+"/api/v1/log") })
}

func (l *Log) shardingFile() string { return filepath.Join(l.dir, "sharding.yaml") }

// writeSharding lists the inactive shards for rekor-server, oldest first.
func (l *Log) writeSharding() error {
	var text []byte
	for _, s := range l.Shards[:len(l.Shards)-1] {
		text = fmt.Appendf(text, "- treeID: %d\n  signingConfig:\n    signingSchemeOrKeyPath: %q\n", s.TreeID, s.signerFile)
	}
	return os.WriteFile(l.shardingFile(), text, 0o600)
}

// hostPort is an address in its two halves.
type hostPort struct{ host, port string }

// mustSplit splits the address of a listener.
func mustSplit(addr string) hostPort {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	return hostPort{host, port}
}

func getOK(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, response.Status)
	}
	return nil
}
