package rest

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// TestServeStops holds that a request under way gets its answer when the server
// stops, that one that does not end is cut off, and that no handler runs afterwards.
func TestServeStops(t *testing.T) {
	for _, endless := range []bool{false, true} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running atomic.Int32
		entered := make(chan struct{})
		h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			running.Add(1)
			defer running.Add(-1)
			close(entered)
			<-ctx.Done()
			if endless {
				<-r.Context().Done() // what a handler sees when its connection is closed
			}
			io.WriteString(w, "answer")
		})
		done := make(chan error, 1)
		go func() { done <- Serve(ctx, l, h, time.Minute, slog.New(slog.DiscardHandler)) }()
		answer := make(chan string, 1)
		go func() {
			r, err := http.Get("http://" + l.Addr().String())
			if err != nil {
				answer <- ""
				return
			}
			defer r.Body.Close()
			data, _ := io.ReadAll(r.Body)
			answer <- string(data)
		}()
		<-entered
		stop()
		if err := <-done; err != nil {
			t.Errorf("endless %v: %v", endless, err)
		}
		if n := running.Load(); n != 0 {
			t.Errorf("endless %v: %d handlers still run", endless, n)
		}
		if got := <-answer; (got == "answer") == endless {
			t.Errorf("endless %v: got %q", endless, got)
		}
	}
}
