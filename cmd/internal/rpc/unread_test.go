package rpc_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// hugeBatch asks for as many proofs as one may.
func hugeBatch() *understudyv1.BatchGetInclusionProofsRequest {
	in := &understudyv1.BatchGetInclusionProofsRequest{Origin: origin}
	for i := range uint64(10_000) {
		in.Indexes = append(in.Indexes, i%3000)
	}
	return in
}

// unread makes a call without reading its answer.
func unread(t *testing.T, ctx context.Context, conn *grpc.ClientConn, method string, in any) grpc.ClientStream {
	t.Helper()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	check(t, err)
	check(t, stream.SendMsg(in))
	check(t, stream.CloseSend())
	return stream
}

// batch asks for a huge batch, and does not wait forever.
func batch(t *testing.T, conn *grpc.ClientConn, patience time.Duration) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := understudyv1.NewLogServiceClient(conn).BatchGetInclusionProofs(ctx, hugeBatch())
	if err == nil && len(answer.GetProofs()) != 10_000 {
		t.Errorf("%d proofs", len(answer.GetProofs()))
	}
	return err
}

// wantWaiting demands that batches wait, once those under way have filled the share.
func wantWaiting(t *testing.T, conn *grpc.ClientConn) {
	t.Helper()
	for range 20 {
		if err := batch(t, conn, 500*time.Millisecond); status.Code(err) == codes.DeadlineExceeded {
			return
		}
	}
	t.Error("batches are answered, however many are unread")
}

// TestUnreadBatches: a client that does not read the answers to its batches makes its next
// ones wait, and no memory goes beyond its share. Reading, cancelling and hanging up each
// end that.
func TestUnreadBatches(t *testing.T) {
	s := newStage(t, 3000)
	check(t, batch(t, s.conn, 20*time.Second))
	before := heapInUse()
	var streams []grpc.ClientStream
	for range 60 {
		streams = append(streams, unread(t, t.Context(), s.conn, understudyv1.LogService_BatchGetInclusionProofs_FullMethodName, hugeBatch()))
	}
	wantWaiting(t, s.dial())
	if used := heapInUse() - before; used > 64<<20 {
		t.Errorf("%d MiB are in use", used>>20)
	}
	_, err := s.api.ListLogs(t.Context(), &understudyv1.ListLogsRequest{})
	check(t, err)
	var reading sync.WaitGroup
	for _, stream := range streams {
		reading.Go(func() {
			var answer understudyv1.BatchGetInclusionProofsResponse
			if err := stream.RecvMsg(&answer); err != nil || len(answer.GetProofs()) != 10_000 {
				t.Errorf("%d proofs, error %v", len(answer.GetProofs()), err)
			}
		})
	}
	reading.Wait()
	check(t, batch(t, s.dial(), 20*time.Second))

	ctx, cancel := context.WithCancel(t.Context())
	conn := s.dial()
	for range 10 {
		unread(t, ctx, conn, understudyv1.LogService_BatchGetInclusionProofs_FullMethodName, hugeBatch())
	}
	wantWaiting(t, s.conn)
	cancel()
	check(t, batch(t, s.conn, 20*time.Second))

	for range 10 {
		unread(t, t.Context(), conn, understudyv1.LogService_BatchGetInclusionProofs_FullMethodName, hugeBatch())
	}
	wantWaiting(t, s.conn)
	conn.Close() // hanging up
	check(t, batch(t, s.conn, 20*time.Second))
}

// TestUnreadEntries: streams of entries that a client does not read are bounded, too.
func TestUnreadEntries(t *testing.T) {
	s := newStage(t, 6000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := func(ctx context.Context) error {
		stream, err := s.api.ListEntries(ctx, &understudyv1.ListEntriesRequest{Origin: origin})
		check(t, err)
		_, err = stream.Recv()
		return err
	}
	for range 64 {
		check(t, first(ctx))
	}
	short, stop := context.WithTimeout(ctx, 200*time.Millisecond)
	defer stop()
	if err := first(short); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("one more stream: %v", err)
	}
	cancel()
	check(t, first(t.Context()))
}

// heapInUse returns the bytes that are in use.
func heapInUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
