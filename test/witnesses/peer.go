package witnesses

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	formatsnote "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// Peer is an installation of somebody else's witness. Its state is in a folder, so that it can
// be killed and started again.
type Peer struct {
	URL   string   // submission prefix
	VKeys []string // its keys, as cosigners

	logFile, binary string
	args            []string
	started         func(context.Context) error // when it listens; nil: nothing to do
	close           func() error                // nil: nothing to do
	process         *process.Process
}

// Start runs the witness and returns once it listens.
func (p *Peer) Start(ctx context.Context) error {
	var err error
	if p.process, err = process.Start(p.logFile, p.binary, p.args...); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = p.process.Until(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", strings.TrimPrefix(p.URL, "http://"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
	if err == nil && p.started != nil {
		err = p.started(ctx)
	}
	return err
}

// Restart kills the witness and starts it again.
func (p *Peer) Restart(ctx context.Context) error {
	p.process.Kill()
	return p.Start(ctx)
}

// Kill ends the witness, if it was started, for good.
func (p *Peer) Kill() {
	if p.process != nil {
		p.process.Kill()
	}
	if p.close != nil {
		p.close() // what it was given to run with
	}
}

// Tail returns the last lines that the witness printed.
func (p *Peer) Tail() string { return p.process.Tail() }

// NewKey makes a cosigner's key of type Ed25519 or MLDSA44. It returns the private key as
// understudy and omniwitness read it from a file, and the verifier key.
func NewKey(kind byte, name string) (skey, vkey string, err error) {
	if kind == MLDSA44 {
		return formatsnote.GenerateMLDSAKey(name)
	}
	skey, vkey, err = note.GenerateKey(rand.Reader, name)
	if err != nil {
		return "", "", err
	}
	vkey, err = formatsnote.VKeyToCosignatureV1(vkey)
	return skey, vkey, err
}

// NewOmniwitness installs transparency-dev's witness in an existing folder, with a key of each
// of the kinds and a database there. It knows the logs, and those that it was built with.
func NewOmniwitness(ctx context.Context, dir string, logs []*Log, kinds ...byte) (*Peer, error) {
	binary, err := tool.Path(ctx, "omniwitness")
	if err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	list := "Logs:\n"
	for _, l := range logs {
		list += fmt.Sprintf("- {Origin: %q, URL: 'http://127.0.0.1:1/', PublicKey: %q}\n", l.Origin, l.VKey)
	}
	logsFile := filepath.Join(dir, "logs.yaml")
	if err := os.WriteFile(logsFile, []byte(list), 0o600); err != nil {
		return nil, err
	}
	p := &Peer{
		URL: "http://" + addrs[0], logFile: filepath.Join(dir, "omniwitness.log"), binary: binary,
		args: []string{"--listen", addrs[0], "--metrics_listen", "", "--db_file", filepath.Join(dir, "omniwitness.db"), "--additional_logs", logsFile},
	}
	for _, kind := range kinds {
		skey, vkey, err := NewKey(kind, "omniwitness.example/w")
		if err != nil {
			return nil, err
		}
		keyFile := filepath.Join(dir, fmt.Sprintf("key%d", kind))
		if err := os.WriteFile(keyFile, []byte(skey), 0o600); err != nil {
			return nil, err
		}
		p.args = append(p.args, "--private_key_path", keyFile)
		p.VKeys = append(p.VKeys, vkey)
	}
	return p, nil
}
