package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/test/bubble"
)

// pinning is a command that pins standard input.
func pinning(t *testing.T) (cmd *cobra.Command, out, progress *bytes.Buffer) {
	cmd, out, progress = newPinCommand(), new(bytes.Buffer), new(bytes.Buffer)
	cmd.SetContext(t.Context())
	cmd.SetIn(strings.NewReader("uuids"))
	cmd.SetOut(out)
	cmd.SetErr(progress)
	return cmd, out, progress
}

// TestPinTakesItsTime: a long list takes hours, with progress; one that stalls ends.
func TestPinTakesItsTime(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		cmd, out, progress := pinning(t)
		n := 0
		slow := func(ctx context.Context, file []byte, count func(int) error, each func(rest.PinResult) error) error {
			if err := count(1000); err != nil || string(file) != "uuids" {
				t.Errorf("%q: %v", file, err)
			}
			for i := range uint64(1000) {
				time.Sleep(time.Minute)
				if err := errors.Join(ctx.Err(), each(rest.PinResult{UUID: "x", Index: i, Linked: true})); err != nil {
					return err
				}
			}
			return nil
		}
		if err := pinFile(cmd, slow, "-", func(rest.PinResult) { n++ }); err != nil || n != 1000 {
			t.Errorf("%d of 1000 are pinned: %v", n, err)
		}
		if got := strings.Count(out.String(), "-: pinned x, entry "); got != 1000 {
			t.Errorf("%d lines", got)
		}
		if got := progress.String(); strings.Count(got, "\n") != 10 || !strings.HasPrefix(got, "-: 100 of 1,000 entries, 10 %\n") {
			t.Errorf("progress is\n%s", got)
		}

		cmd, _, progress = pinning(t)
		stalls := func(ctx context.Context, _ []byte, count func(int) error, each func(rest.PinResult) error) error {
			if err := errors.Join(count(3), each(rest.PinResult{})); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}
		if err := pinFile(cmd, stalls, "-", func(rest.PinResult) {}); err == nil || !strings.HasPrefix(err.Error(), "nothing was heard for 15m0s") {
			t.Errorf("it ended with %v", err)
		}
		if progress.Len() > 0 {
			t.Errorf("progress of three entries is\n%s", progress)
		}
	})
}

// TestPinOverAdmin: the daemon tells of each entry as soon as it is pinned, and an answer that is
// cut off is no answer.
func TestPinOverAdmin(t *testing.T) {
	c := &Config{DataDir: t.TempDir()}
	next := make(chan error)
	daemon := httptest.NewServer(rest.NewAdmin(rest.AdminConfig{
		Status: func() rest.Status { return rest.Status{DataDir: c.absoluteDataDir()} },
		Pin: func(ctx context.Context, file []byte, count func(int) error, each func(rest.PinResult) error) error {
			if string(file) == "bad" {
				return errors.New("no entry in it")
			}
			if err := count(3); err != nil {
				return err
			}
			for i := range uint64(3) {
				if err := <-next; err != nil {
					return err
				}
				if err := each(rest.PinResult{Index: i}); err != nil {
					return err
				}
			}
			return nil
		},
		Gatherer: prometheus.NewRegistry(),
	}))
	defer daemon.Close()
	c.Listen.Admin = daemon.Listener.Addr().String()
	ask := func(file string, fail error) (seen []string, err error) {
		go func() { next <- nil }()
		err = askToPin(t.Context(), c, []byte(file), func(n int) error { seen = append(seen, fmt.Sprint("of ", n)); return nil }, func(r rest.PinResult) error {
			seen = append(seen, fmt.Sprint(r.Index))
			switch {
			case r.Index == 0:
				go func() { next <- nil }() // only when the first is known
			case r.Index == 1:
				go func() { next <- fail }()
			}
			return nil
		})
		return seen, err
	}
	if seen, err := ask("good", nil); err != nil || fmt.Sprint(seen) != "[of 3 0 1 2]" {
		t.Errorf("%v, %v", seen, err)
	}
	seen, err := ask("good", errors.New("disk"))
	if err == nil || !strings.Contains(err.Error(), "broke off after 2 of 3 entries") || fmt.Sprint(seen) != "[of 3 0 1]" {
		t.Errorf("%v, %v", seen, err)
	}
	if err := askToPin(t.Context(), c, []byte("bad"), nil, nil); err == nil || !strings.Contains(err.Error(), "no entry in it") {
		t.Errorf("%v", err)
	}
}
