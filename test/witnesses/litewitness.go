package witnesses

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// NewLitewitness installs torchwood's witness in an existing folder, with an Ed25519 key, the
// only kind that it has. The key is in an SSH agent in this process, at a socket in the folder,
// whose path must be shorter than about 100 bytes. Kill ends the agent.
func NewLitewitness(ctx context.Context, dir string, logs []*Log) (*Peer, error) {
	binary, err := tool.Path(ctx, "litewitness")
	if err != nil {
		return nil, err
	}
	addLogs, err := tool.Nested(ctx, "litewitnesslogs")
	if err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	const name = "litewitness.example/w"
	vkey, err := ed25519VKey(name, public)
	if err != nil {
		return nil, err
	}
	fingerprint, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "agent.sock")
	closeAgent, err := serveAgent(socket, private)
	if err != nil {
		return nil, err
	}

	database := filepath.Join(dir, "litewitness.db")
	args := []string{database}
	for _, l := range logs {
		args = append(args, l.Origin, l.VKey)
	}
	return &Peer{
		URL: "http://" + addrs[0], VKeys: []string{vkey}, logFile: filepath.Join(dir, "litewitness.log"), binary: binary,
		args: []string{"-name", name, "-db", database, "-ssh-agent", socket, "-listen", addrs[0], "-key", ssh.FingerprintSHA256(fingerprint)},
		started: func(ctx context.Context) error {
			if out, err := exec.CommandContext(ctx, addLogs, args...).CombinedOutput(); err != nil {
				return fmt.Errorf("add logs to litewitness: %w\n%s", err, out)
			}
			return nil
		},
		close: closeAgent,
	}, nil
}

// serveAgent serves an SSH agent with one key at a socket until the returned function is called.
func serveAgent(socket string, key ed25519.PrivateKey) (closeAgent func() error, err error) {
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		return nil, err
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // closed
			}
			go func() {
				defer conn.Close()
				agent.ServeAgent(keyring, conn) // until the witness ends
			}()
		}
	}()
	return func() error {
		err := listener.Close()
		<-done
		os.Remove(socket)
		return err
	}, nil
}
