package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/understudy-log/understudy/cmd/internal/rest"
)

// errNoDaemon is returned when nothing listens on the admin address.
var errNoDaemon = errors.New("no daemon answers")

// askDaemon sends a request to the admin listener of the daemon of c and decodes its
// answer.
func askDaemon(ctx context.Context, c *Config, path string, request, answer any) error {
	return askDaemonAs(ctx, c, "", path, request, answer)
}

// askDaemonAs is askDaemon with a token, which names who asks; empty: nobody.
func askDaemonAs(ctx context.Context, c *Config, token, path string, request, answer any) error {
	reply, err := callDaemonAs(ctx, c, token, path, request)
	if err != nil {
		return err
	}
	defer reply.Close()
	data, err := io.ReadAll(io.LimitReader(reply, maxDaemonAnswer))
	if err != nil {
		return fmt.Errorf("ask the daemon on %s: %w", c.Listen.Admin, err)
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return strangeAnswer(c, err)
	}
	return nil
}

const maxDaemonAnswer = 16 << 20

func strangeAnswer(c *Config, err error) error {
	return fmt.Errorf("what answers on %s is no understudy (%w); check listen.admin in the configuration", c.Listen.Admin, err)
}

// callDaemon sends a request to the admin listener of the daemon of c and returns its answer,
// if that is good: to a GET without a request body, else to a POST of it.
func callDaemon(ctx context.Context, c *Config, path string, request any) (io.ReadCloser, error) {
	return callDaemonAs(ctx, c, "", path, request)
}

func callDaemonAs(ctx context.Context, c *Config, token, path string, request any) (io.ReadCloser, error) {
	method, body := http.MethodGet, io.Reader(nil)
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return nil, err
		}
		method, body = http.MethodPost, bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://"+rest.OwnName+path, body)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", "application/json")
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", c.Listen.Admin)
		},
	}
	reply, err := (&http.Client{Transport: transport}).Do(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return nil, fmt.Errorf("%w on %s", errNoDaemon, c.Listen.Admin)
	}
	if err != nil {
		return nil, fmt.Errorf("ask the daemon on %s: %w", c.Listen.Admin, err)
	}
	if reply.StatusCode != http.StatusOK {
		defer reply.Body.Close()
		data, err := io.ReadAll(io.LimitReader(reply.Body, maxDaemonAnswer))
		if err != nil {
			return nil, fmt.Errorf("ask the daemon on %s: %w", c.Listen.Admin, err)
		}
		return nil, fmt.Errorf("daemon on %s: %s", c.Listen.Admin, strings.TrimSpace(string(data)))
	}
	return reply.Body, nil
}

// daemonStatus asks the daemon of c how it is.
func daemonStatus(ctx context.Context, c *Config) (rest.Status, error) {
	var s rest.Status
	err := askDaemon(ctx, c, "/status", nil, &s)
	return s, err
}

// isTerminal reports whether w can redraw.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
