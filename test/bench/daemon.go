//go:build linux

package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/understudy-log/understudy/test/process"
)

// daemon is one installation of understudy.
type daemon struct {
	dir, config string
	url         string // without a path
	prefix      string // of the mirrored log, with a slash at its end
	grpc        string // address
	*child             // while it runs
}

// newDaemon writes a configuration for an empty folder: a full copy of the generated log.
func (b *bench) newDaemon(dir string) (*daemon, error) {
	return newDaemonOf(dir, b.upstream.url, b.upstream.keyFile, "coverage: full")
}

// newDaemonOf writes one for a log on loopback; coverage are further keys of the log.
func newDaemonOf(dir, url, keyFile, coverage string) (*daemon, error) {
	return writeDaemon(dir, fmt.Sprintf("source: tiles, url: %q, origin: %s, public_key: %q, %s, poll: 1s, requests_per_second: 100000",
		strings.TrimSuffix(url, "/"), origin, keyFile, coverage))
}

// writeDaemon writes one with the given keys of its only log.
func writeDaemon(dir, log string) (*daemon, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		return nil, err
	}
	hash := sha256.Sum256([]byte(origin))
	d := &daemon{
		dir:    dir,
		config: filepath.Join(dir, "understudy.yaml"),
		url:    "http://" + addrs[0],
		prefix: "http://" + addrs[0] + "/" + hex.EncodeToString(hash[:]) + "/",
		grpc:   addrs[1],
	}
	text := fmt.Sprintf(`data_dir: ./data
listen: {http: %s, grpc: %s, admin: %s}
logs:
  - {name: bench, %s}
`, addrs[0], addrs[1], addrs[2], log)
	return d, os.WriteFile(d.config, []byte(text), 0o600)
}

// serve starts the daemon, and returns how long it took until ready said so.
func (b *bench) serve(ctx context.Context, d *daemon, ready func(context.Context, *daemon) bool) (time.Duration, error) {
	start := time.Now()
	var err error
	if d.child, err = b.start(b.tools.understudy, "serve", "--config", d.config); err != nil {
		return 0, err
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ready(ctx, d) {
		select {
		case <-d.exited:
			return 0, fmt.Errorf("understudy ended:\n%s", d.tail())
		case <-ctx.Done():
			d.end(syscall.SIGKILL)
			return 0, ctx.Err()
		case <-tick.C:
		}
	}
	return time.Since(start), nil
}

// holdsAll tells whether the mirror checkpoint is that of the whole log.
func (b *bench) holdsAll(ctx context.Context, d *daemon) bool {
	lines := strings.Split(d.get(ctx, "checkpoint"), "\n")
	return len(lines) > 3 && lines[1] == fmt.Sprint(b.upstream.size)
}

// servesTiles tells whether the database is open.
func servesTiles(ctx context.Context, d *daemon) bool { return d.get(ctx, "tile/0/000") != "" }

// get returns the body of a good answer, or nothing.
func (d *daemon) get(ctx context.Context, path string) string {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.prefix+path, nil)
	if err != nil {
		return ""
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}
