package rpc

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/tap"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

const (
	// receiveTime is how long the first message of a call may take to arrive: what has arrived of it stays in
	// memory, so that it is bounded by what a client can send in that time.
	receiveTime = 15 * time.Second
	// maxReceived is how many questions with bundles may arrive at a time from one client. They are large.
	maxReceived = 64
)

// receiver bounds calls whose first message has yet to arrive. Interceptors, and with them limiter, see a call only
// when it has.
type receiver struct {
	within time.Duration

	mu      sync.Mutex
	clients map[netip.Prefix]int // questions that arrive; those that are none are not there
}

func newReceiver(within time.Duration) *receiver {
	return &receiver{within: within, clients: map[netip.Prefix]int{}}
}

type arrivedKey struct{}

// begin is told of a call when its headers are there (grpc.InTapHandle).
func (r *receiver) begin(ctx context.Context, info *tap.Info) (context.Context, error) {
	leave := func() {}
	if info.FullMethodName == understudyv1.VerificationService_Verify_FullMethodName {
		client := clientOf(ctx)
		r.mu.Lock()
		if r.clients[client] >= maxReceived {
			r.mu.Unlock()
			return nil, statusOf(codes.ResourceExhausted, reasonTooManyCalls, fmt.Sprintf("%d questions are arriving from your address: send them one after the other", maxReceived), nil)
		}
		r.clients[client]++
		r.mu.Unlock()
		leave = func() { r.leave(client) }
	}
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(r.within, cancel)
	arrived := sync.OnceFunc(func() {
		timer.Stop()
		leave()
	})
	context.AfterFunc(ctx, arrived) // the stream has ended
	return context.WithValue(ctx, arrivedKey{}, arrived), nil
}

func (r *receiver) leave(client netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.clients[client]--; r.clients[client] == 0 {
		delete(r.clients, client)
	}
}

// arrived is told of what happens to calls (stats.Handler.HandleRPC).
func arrived(ctx context.Context, s stats.RPCStats) {
	if _, ok := s.(*stats.InPayload); ok {
		if end, ok := ctx.Value(arrivedKey{}).(func()); ok {
			end()
		}
	}
}
