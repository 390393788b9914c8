package rpc_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// TestStopWaits: when Stop returns, no handler runs any more.
func TestStopWaits(t *testing.T) {
	entered := make(chan struct{})
	var left atomic.Bool
	server := rpc.NewServer(rpc.Config{Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}, grpc.ChainUnaryInterceptor(
		func(ctx context.Context, _ any, _ *grpc.UnaryServerInfo, _ grpc.UnaryHandler) (any, error) {
			close(entered)
			<-ctx.Done()
			time.Sleep(50 * time.Millisecond) // it takes its time to leave
			left.Store(true)
			return nil, ctx.Err()
		}))
	api := understudyv1.NewLogServiceClient(serve(t, server)())
	done := make(chan error)
	go func() {
		_, err := api.ListLogs(t.Context(), &understudyv1.ListLogsRequest{})
		done <- err
	}()
	<-entered
	server.Stop()
	if !left.Load() {
		t.Error("a handler runs after Stop")
	}
	<-done
}

// TestFlood: one client's streams are bounded over all its connections, and it is served
// again once it has closed some.
func TestFlood(t *testing.T) {
	s := newStage(t, 10)
	var conns []*grpc.ClientConn
	for range 5 {
		conns = append(conns, s.dial())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for i := range 1024 {
		stream, err := understudyv1.NewLogServiceClient(conns[i/256]).WatchCheckpoints(ctx, &understudyv1.WatchCheckpointsRequest{Origin: origin})
		check(t, err)
		_, err = stream.Recv()
		check(t, err)
	}
	last := understudyv1.NewLogServiceClient(conns[4])
	_, err := last.ListLogs(t.Context(), &understudyv1.ListLogsRequest{})
	if status.Code(err) != codes.ResourceExhausted || infoOf(err).GetReason() != "TOO_MANY_CALLS" {
		t.Errorf("call 1025: %v", err)
	}
	stream, err := last.WatchCheckpoints(t.Context(), &understudyv1.WatchCheckpointsRequest{Origin: origin})
	check(t, err)
	if _, err := stream.Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("stream 1025: %v", err)
	}
	cancel()
	for err = status.Error(codes.ResourceExhausted, ""); status.Code(err) == codes.ResourceExhausted; {
		_, err = last.ListLogs(t.Context(), &understudyv1.ListLogsRequest{})
	}
	check(t, err)
}
