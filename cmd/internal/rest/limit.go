package rest

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
)

// What one client may have open at a time. A client is an IPv4 address or an IPv6
// /64. Behind a proxy all clients are one: let the proxy limit them.
const (
	maxConnections = 4096
	maxRequests    = 512
)

// limiter counts what each client has in use. It only remembers clients that have
// something in use.
type limiter struct {
	max int

	mu    sync.Mutex
	inUse map[netip.Prefix]int
}

func newLimiter(max int) *limiter {
	return &limiter{max: max, inUse: map[netip.Prefix]int{}}
}

// enter takes one unit for a client unless it has max in use. Every enter that
// returns true needs a leave.
func (l *limiter) enter(client netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inUse[client] >= l.max {
		return false
	}
	l.inUse[client]++
	return true
}

func (l *limiter) leave(client netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.inUse[client]--; l.inUse[client] == 0 {
		delete(l.inUse, client)
	}
}

// clientOf is the client behind a remote address.
func clientOf(remote string) netip.Prefix {
	addr, _ := netip.ParseAddrPort(remote) // the zero address stands for all others
	ip := addr.Addr().Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}

// limitRequests answers 429 to a client that has too many requests in flight.
func limitRequests(l *limiter, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client := clientOf(r.RemoteAddr)
		if !l.enter(client) {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at once from your address; wait for answers before you ask again", http.StatusTooManyRequests)
			return
		}
		defer l.leave(client)
		next.ServeHTTP(w, r)
	})
}

// LimitConnections wraps a listener so that no client can hold more than 4,096 of
// its connections, and with them the file descriptors that storage needs. Those
// beyond are closed at once.
func LimitConnections(l net.Listener) net.Listener {
	return &limitedListener{l, newLimiter(maxConnections)}
}

type limitedListener struct {
	net.Listener
	limiter *limiter
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := clientOf(conn.RemoteAddr().String())
		if l.limiter.enter(client) {
			return &limitedConn{Conn: conn, leave: sync.OnceFunc(func() { l.limiter.leave(client) })}, nil
		}
		conn.Close()
	}
}

type limitedConn struct {
	net.Conn
	leave func()
}

func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
