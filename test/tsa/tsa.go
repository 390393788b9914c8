// Package tsa runs Sigstore's time-stamp authority, the unmodified timestamp-server with a key and
// certificates that it makes in memory, on loopback.
package tsa

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// metricsAddr is where the server serves metrics, whatever it is told: a second one on a machine ends
// at once.
const metricsAddr = ":2112"

// Server is a running time-stamp authority. The test that started it ends it.
type Server struct {
	URL   string // takes time-stamp requests
	Chain []byte // PEM: the certificates of signer, intermediate and root

	server *process.Process
}

// Start runs a server with a fresh key. It waits for another one on this machine to end.
func Start(ctx context.Context, tb testing.TB) *Server {
	tb.Helper()
	s, err := New(ctx, filepath.Join(tb.TempDir(), "server.log"))
	if err != nil {
		tb.Fatalf("start a time-stamp authority: %v", err)
	}
	tb.Cleanup(s.Kill)
	return s
}

// New runs a server as Start does, for more than one test: the caller has to Kill it.
func New(ctx context.Context, logFile string) (*Server, error) {
	binary, err := tool.Path(ctx, "timestamp-server")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := process.Until(ctx, func(context.Context) error {
		listener, err := net.Listen("tcp", metricsAddr)
		if err != nil {
			return err
		}
		return listener.Close()
	}); err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(1)
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addrs[0])
	if err != nil {
		return nil, err
	}
	s := &Server{URL: "http://" + addrs[0] + "/api/v1/timestamp"}
	s.server, err = process.Start(logFile, binary, "serve",
		"--host="+host, "--port="+port,
		"--timestamp-signer=memory",
		"--disable-ntp-monitoring", // it would ask servers in the internet
		"--include-chain-in-response")
	if err != nil {
		return nil, err
	}
	if err := s.server.Until(ctx, func(ctx context.Context) error {
		s.Chain, err = get(ctx, s.URL+"/certchain")
		return err
	}); err != nil {
		s.Kill()
		return nil, err
	}
	return s, nil
}

func get(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	body, err := io.ReadAll(answer.Body)
	if err == nil && len(body) == 0 {
		err = errors.New("no certificates")
	}
	return body, err
}

// Stop halts the server with SIGSTOP: connections to it succeed, and nothing answers.
func (s *Server) Stop() error { return s.server.Signal(syscall.SIGSTOP) }

// Continue ends what Stop did.
func (s *Server) Continue() error { return s.server.Signal(syscall.SIGCONT) }

// Kill ends the server. It may be called more than once.
func (s *Server) Kill() { s.server.Kill() }
