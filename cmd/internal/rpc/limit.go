package rpc

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// What one client may have under way over all its connections. A client is an IPv4
// address or an IPv6 /64. Behind a proxy all clients are one: let the proxy limit them.
const (
	// maxCalls bounds calls, streams included. Beyond it they are refused.
	maxCalls = 1024
	// maxUnread bounds the bytes of batches and of streams of entries. Beyond it they wait.
	maxUnread = 64 << 20
	// proofBytes is what one proof of a batch is charged; in a tree of 2^40 entries it takes
	// 1.4 kB.
	proofBytes = 1600
	// listBytes is what a stream of entries is charged: a page, and what gRPC buffers.
	listBytes = 1 << 20
)

// limiter counts what each client has under way. A call is under way until its handler has
// returned and its answer has left for the network: an answer that the client does not read
// stays in memory. It only remembers clients that have calls.
type limiter struct {
	maxCalls  int
	maxUnread int64

	mu      sync.Mutex
	clients map[netip.Prefix]*usage
}

type usage struct {
	calls  int                 // guarded by limiter.mu
	unread *semaphore.Weighted // bytes
}

func newLimiter(maxCalls int, maxUnread int64) *limiter {
	return &limiter{maxCalls: maxCalls, maxUnread: maxUnread, clients: map[netip.Prefix]*usage{}}
}

// begin counts one more call of a client, or refuses it. It waits until so many bytes of
// answers are free. What it returns needs a done.
func (l *limiter) begin(ctx context.Context, bytes int64) (*call, error) {
	client := clientOf(ctx)
	l.mu.Lock()
	u := l.clients[client]
	if u == nil {
		u = &usage{unread: semaphore.NewWeighted(l.maxUnread)}
		l.clients[client] = u
	}
	if u.calls >= l.maxCalls {
		l.mu.Unlock()
		return nil, statusOf(codes.ResourceExhausted, reasonTooManyCalls,
			fmt.Sprintf("%d calls are under way from your address: wait for answers before you ask again", l.maxCalls), nil)
	}
	u.calls++
	l.mu.Unlock()
	if bytes > 0 { // 0 would wait in line behind those who wait
		if err := u.unread.Acquire(ctx, bytes); err != nil {
			l.leave(client, u)
			return nil, status.FromContextError(err).Err()
		}
	}
	c := &call{leave: sync.OnceFunc(func() {
		u.unread.Release(bytes)
		l.leave(client, u)
	})}
	c.parts.Store(1)
	connectionOf(ctx).add(c)
	return c, nil
}

func (l *limiter) leave(client netip.Prefix, u *usage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if u.calls--; u.calls == 0 {
		delete(l.clients, client)
	}
}

func (l *limiter) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	bytes := int64(0)
	if batch, ok := request.(*understudyv1.BatchGetInclusionProofsRequest); ok {
		bytes = int64(min(len(batch.GetIndexes()), maxBatch)) * proofBytes
	}
	c, err := l.begin(ctx, bytes)
	if err != nil {
		return nil, err
	}
	defer c.done()
	answer, err := handler(ctx, request)
	if err != nil {
		return nil, err
	}
	return c.message(answer), nil
}

func (l *limiter) stream(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	bytes := int64(0)
	if info.FullMethod == understudyv1.LogService_ListEntries_FullMethodName {
		bytes = listBytes
	}
	c, err := l.begin(stream.Context(), bytes)
	if err != nil {
		return err
	}
	defer c.done()
	return handler(service, &limitedStream{stream, c})
}

type limitedStream struct {
	grpc.ServerStream
	call *call
}

func (s *limitedStream) SendMsg(m any) error { return s.ServerStream.SendMsg(s.call.message(m)) }

// clientOf is the client behind a call; the zero prefix stands for all that have no IP
// address.
func clientOf(ctx context.Context) netip.Prefix {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return netip.Prefix{}
	}
	addr, _ := netip.ParseAddrPort(p.Addr.String()) // what is no address becomes the zero one
	ip := addr.Addr()
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}
