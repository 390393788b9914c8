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
// answer: a GET without a request body, else a POST of it.
func askDaemon(ctx context.Context, c *Config, path string, request, answer any) error {
	method, body := http.MethodGet, io.Reader(nil)
	if request != nil {
		data, err := json.Marshal(request)
		if err != nil {
			return err
		}
		method, body = http.MethodPost, bytes.NewReader(data)
	}
	r, err := http.NewRequestWithContext(ctx, method, "http://daemon"+path, body)
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", c.Listen.Admin)
		},
	}
	reply, err := (&http.Client{Transport: transport}).Do(r)
	if errors.Is(err, syscall.ECONNREFUSED) {
		return fmt.Errorf("%w on %s", errNoDaemon, c.Listen.Admin)
	}
	if err != nil {
		return fmt.Errorf("ask the daemon on %s: %w", c.Listen.Admin, err)
	}
	defer reply.Body.Close()
	data, err := io.ReadAll(io.LimitReader(reply.Body, 16<<20))
	if err != nil {
		return fmt.Errorf("ask the daemon on %s: %w", c.Listen.Admin, err)
	}
	if reply.StatusCode != http.StatusOK {
		return fmt.Errorf("daemon on %s: %s", c.Listen.Admin, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("what answers on %s is no understudy (%w); check listen.admin in the configuration", c.Listen.Admin, err)
	}
	return nil
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
