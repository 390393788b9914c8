package rpc

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// slowVerification answers after a while.
type slowVerification struct {
	understudyv1.UnimplementedVerificationServiceServer
	takes time.Duration
}

func (s slowVerification) Verify(ctx context.Context, _ *understudyv1.VerifyRequest) (*understudyv1.VerifyResponse, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(s.takes):
		return &understudyv1.VerifyResponse{}, nil
	}
}

// A client that begins questions and does not send them gets no more than so many, and not for long; who has sent
// his has all the time that the answer takes.
func TestReceive(t *testing.T) {
	const within = 300 * time.Millisecond
	r := newReceiver(within)
	server := grpc.NewServer(grpc.InTapHandle(r.begin), grpc.StatsHandler(connections{}))
	understudyv1.RegisterVerificationServiceServer(server, slowVerification{takes: 2 * within})
	l := bufconn.Listen(1 << 20)
	var serving sync.WaitGroup
	serving.Go(func() { server.Serve(l) })
	defer serving.Wait()
	defer server.Stop()
	conn, err := grpc.NewClient("passthrough:memory", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := understudyv1.NewVerificationServiceClient(conn)
	if _, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{}); err != nil {
		t.Fatalf("a question that is answered late: %v", err)
	}
	var stalled []grpc.ClientStream
	for range maxReceived {
		stream, err := conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, understudyv1.VerificationService_Verify_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		stalled = append(stalled, stream)
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		full := r.clients[clientOf(t.Context())] == maxReceived
		r.mu.Unlock()
		if full {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("what arrives is not counted")
		}
	}
	if _, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one too many: %v", err)
	}
	for _, stream := range stalled {
		if err := stream.RecvMsg(&understudyv1.VerifyResponse{}); err == nil {
			t.Error("what was never sent was answered")
		}
	}
	if _, err := api.Verify(t.Context(), &understudyv1.VerifyRequest{}); err != nil {
		t.Errorf("after they had their time: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.clients) != 0 {
		t.Errorf("%v are still counted", r.clients)
	}
}
