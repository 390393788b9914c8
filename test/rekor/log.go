// Package rekor runs a real Rekor v2 log on loopback: the unmodified rekor-tiles
// server with its POSIX storage for writes, and a file server over that storage for
// reads, as operators of Rekor v2 do. Entries are written by rekor-tiles' own client,
// signed under certificates of a small authority that lives for one test.
package rekor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/process"
)

// Identity and Issuer are what every certificate says about its signer.
const (
	Identity = "releaser@understudy.test"
	Issuer   = authority.Issuer
)

// checkpointInterval is the server's if Config has none: short, because a write waits for the
// checkpoint that covers it.
const checkpointInterval = 250 * time.Millisecond

// Config says how a Log is run. Binary, Dir and Origin must be set.
type Config struct {
	Binary string // the rekor-tiles POSIX server
	Dir    string // an existing, empty folder for everything that the log keeps
	Origin string // the host name that the log signs for, without a port

	// CheckpointInterval is how often the server signs a checkpoint; 0 is 250 ms.
	CheckpointInterval time.Duration

	// WitnessPolicy, if set, returns the tlog-policy of witnesses that know the log by its
	// verification key.
	WitnessPolicy func(vkey string) string

	// Intercept, if set, wraps the file server; it sees paths below ReadURL, such
	// as /tile/0/000. It misbehaves for tests.
	Intercept func(http.Handler) http.Handler

	// FileServer, if set, is a program that serves files in place of this process, so that it can be
	// stopped: test/rekor/fileserver. Intercept has no part then.
	FileServer string

	// Twin, if set, is a log whose name, keys and authority this one has, too: another instance with a
	// life of its own. Origin is not used then.
	Twin *Log
	// Storage is a folder with what the log has published before, if that is not the one in Dir.
	Storage string
}

// Log is a running Rekor v2 log.
type Log struct {
	Origin          string
	ReadURL         string // prefix of checkpoint and tile/..., ends in /api/v2
	VKey            string // verification key line, https://c2sp.org/signed-note
	TrustedRootFile string // what upstream publishes: Sigstore TrustedRoot JSON
	PublicKeyFile   string // PEM (SPKI)
	VKeyFile        string

	config    Config
	readAddr  string
	authority *authority.Authority
	key       ed25519.PrivateKey
	storage   string // folder

	writeURL string           // of the server
	grpcAddr string           // of the server
	server   *process.Process // nil before the first start
	files    *http.Server
	reader   *process.Process // in place of files, if Config.FileServer is set
}

// Start creates the log's keys and trusted root in config.Dir and runs it. Close
// ends it.
func Start(ctx context.Context, config Config) (*Log, error) {
	var public ed25519.PublicKey
	var private ed25519.PrivateKey
	var ca *authority.Authority
	var err error
	if twin := config.Twin; twin != nil {
		config.Origin, private, ca = twin.Origin, twin.key, twin.authority
		public = private.Public().(ed25519.PublicKey)
	} else if public, private, err = ed25519.GenerateKey(rand.Reader); err != nil {
		return nil, err
	} else if ca, err = authority.New(); err != nil {
		return nil, err
	}
	if config.Storage == "" {
		config.Storage = filepath.Join(config.Dir, "storage")
	}
	vkey, err := note.NewEd25519VerifierKey(config.Origin, public)
	if err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		return nil, err
	}
	l := &Log{
		Origin:          config.Origin,
		ReadURL:         "http://" + addrs[0] + "/api/v2",
		VKey:            vkey,
		TrustedRootFile: filepath.Join(config.Dir, "trusted_root.json"),
		PublicKeyFile:   filepath.Join(config.Dir, "key.pem"),
		VKeyFile:        filepath.Join(config.Dir, "key.vkey"),
		config:          config,
		readAddr:        addrs[0],
		authority:       ca,
		key:             private,
		storage:         config.Storage,
		writeURL:        "http://" + addrs[1],
		grpcAddr:        addrs[2],
	}
	if err := l.writeFiles(public, private); err != nil {
		return nil, err
	}
	if config.WitnessPolicy != nil {
		if err := os.WriteFile(l.policyFile(), []byte(config.WitnessPolicy(vkey)), 0o600); err != nil {
			return nil, err
		}
	}
	if err := l.Restart(ctx); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Restart runs the log again where it was left, with the same addresses.
func (l *Log) Restart(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := l.serveFiles(ctx); err != nil {
		return err
	}
	addrs, err := process.FreeAddrs(1)
	if err != nil {
		return err
	}
	interval := l.config.CheckpointInterval
	if interval == 0 {
		interval = checkpointInterval
	}
	args := []string{"serve",
		"--hostname=" + l.Origin,
		"--storage-dir=" + l.storage,
		"--signer-filepath=" + l.signerFile(),
		"--checkpoint-interval=" + interval.String(),
		"--http-address=127.0.0.1", "--http-port=" + portOf(strings.TrimPrefix(l.writeURL, "http://")),
		"--grpc-address=127.0.0.1", "--grpc-port=" + portOf(l.grpcAddr),
		"--http-metrics-port=" + portOf(addrs[0])}
	if l.config.WitnessPolicy != nil {
		args = append(args, "--witness-policy-path="+l.policyFile())
	}
	l.server, err = process.Start(filepath.Join(l.config.Dir, "server.log"), l.config.Binary, args...)
	if err != nil {
		return err
	}
	return l.server.Until(ctx, func(ctx context.Context) error { return getOK(ctx, l.writeURL+"/healthz") })
}

// WriteURL is where the server takes entries.
func (l *Log) WriteURL() string { return l.writeURL }

// GRPCAddr is where the server takes entries by gRPC.
func (l *Log) GRPCAddr() string { return l.grpcAddr }

// Kill takes the whole log away at once, as a dead machine would: SIGKILL for the
// server, and no more answers from the file server.
func (l *Log) Kill() {
	if l.server != nil {
		l.server.Kill()
	}
	if l.files != nil {
		l.files.Close()
	}
	if l.reader != nil {
		l.reader.Kill()
	}
}

// Stop halts the log with SIGSTOP, as a machine that hangs: connections succeed, and nothing answers.
// Config.FileServer must be set.
func (l *Log) Stop() error { return errors.Join(l.server.Stop(), l.reader.Stop()) }

// StopWrites halts the server alone: files are read on.
func (l *Log) StopWrites() error { return l.server.Stop() }

// Continue ends what Stop and StopWrites did.
func (l *Log) Continue() error { return errors.Join(l.server.Continue(), l.reader.Continue()) }

// StorageDir is the folder with all that the log has published.
func (l *Log) StorageDir() string { return l.storage }

// Move gives the log another folder with what it has published, which may be empty, for the next
// Restart: as if somebody had restored a backup, or begun again under the same name and key.
func (l *Log) Move(storage string) { l.storage = storage }

// Close ends the log; its files stay.
func (l *Log) Close() { l.Kill() }

// serveFiles makes the storage folder readable at ReadURL.
func (l *Log) serveFiles(ctx context.Context) error {
	if err := os.MkdirAll(l.storage, 0o755); err != nil {
		return err
	}
	if l.config.FileServer != "" {
		var err error
		l.reader, err = process.Start(filepath.Join(l.config.Dir, "files.log"), l.config.FileServer, l.readAddr, "/api/v2", l.storage)
		if err != nil {
			return err
		}
		return l.reader.Until(ctx, func(context.Context) error {
			conn, err := net.Dial("tcp", l.readAddr)
			if err != nil {
				return err
			}
			return conn.Close()
		})
	}
	listener, err := net.Listen("tcp", l.readAddr)
	if err != nil {
		return err
	}
	handler := http.FileServer(http.Dir(l.storage))
	if l.config.Intercept != nil {
		handler = l.config.Intercept(handler)
	}
	l.files = &http.Server{Handler: http.StripPrefix("/api/v2", handler)}
	go l.files.Serve(listener) // ends with Kill
	return nil
}

func (l *Log) signerFile() string { return filepath.Join(l.config.Dir, "signer.pem") }
func (l *Log) policyFile() string { return filepath.Join(l.config.Dir, "witnesses.policy") }

func (l *Log) writeFiles(public ed25519.PublicKey, private ed25519.PrivateKey) error {
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	trustedRoot, err := trustedRootJSON(l.Origin, public, l.authority)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(l.signerFile(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600),
		os.WriteFile(l.PublicKeyFile, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o600),
		os.WriteFile(l.VKeyFile, []byte(l.VKey), 0o600),
		os.WriteFile(l.TrustedRootFile, trustedRoot, 0o600))
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr) // addr is a listener's
	return port
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
