package rpc

import (
	"context"
	"fmt"
	"net/netip"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
)

// maxCalls is how many calls one client may have under way over all its connections,
// streams included. A client is an IPv4 address or an IPv6 /64. Behind a proxy all
// clients are one: let the proxy limit them.
const maxCalls = 1024

// limiter counts the calls that each client has under way. It only remembers clients
// that have some.
type limiter struct {
	max int

	mu    sync.Mutex
	inUse map[netip.Prefix]int
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, inUse: map[netip.Prefix]int{}}
}

// enter counts one more call of a client, or refuses it. Every enter that returns nil
// needs a leave.
func (l *limiter) enter(client netip.Prefix) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inUse[client] >= l.max {
		return statusOf(codes.ResourceExhausted, reasonTooManyCalls,
			fmt.Sprintf("%d calls are under way from your address: wait for answers before you ask again", l.max), nil)
	}
	l.inUse[client]++
	return nil
}

func (l *limiter) leave(client netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inUse[client]--; l.inUse[client] == 0 {
		delete(l.inUse, client)
	}
}

func (l *limiter) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	client := clientOf(ctx)
	if err := l.enter(client); err != nil {
		return nil, err
	}
	defer l.leave(client)
	return handler(ctx, request)
}

func (l *limiter) stream(service any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	client := clientOf(stream.Context())
	if err := l.enter(client); err != nil {
		return err
	}
	defer l.leave(client)
	return handler(service, stream)
}

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
