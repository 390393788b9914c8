package access

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"
)

// member is an identity and what it has in use.
type member struct {
	Identity
	entries *rate.Limiter // nil: without limit
	atOnce  int64         // 0: without limit
	running atomic.Int64
}

func newMember(i Identity) *member {
	if i.EntriesPerSecond == 0 {
		i.EntriesPerSecond = DefaultEntriesPerSecond
	}
	if i.RequestsAtOnce == 0 {
		i.RequestsAtOnce = DefaultRequestsAtOnce
	}
	i.TokenSHA256 = nil // no handler needs it
	burst := max(1, int(min(2*i.EntriesPerSecond, math.MaxInt32)))
	return &member{
		Identity: i,
		entries:  rate.NewLimiter(rate.Limit(i.EntriesPerSecond), burst),
		atOnce:   int64(i.RequestsAtOnce),
	}
}

// enter takes room for one request. Every enter that returns true needs a leave.
func (m *member) enter() bool {
	if m.running.Add(1) > m.atOnce && m.atOnce > 0 {
		m.running.Add(-1)
		return false
	}
	return true
}

func (m *member) leave() { m.running.Add(-1) }

// take takes room for one entry. When there is none, it returns how long to wait for it.
func (m *member) take() (wait time.Duration, ok bool) {
	if m.entries == nil {
		return 0, true
	}
	now := time.Now()
	reservation := m.entries.ReserveN(now, 1)
	if wait = reservation.DelayFrom(now); wait > 0 {
		reservation.CancelAt(now)
		return wait, false
	}
	return 0, true
}

// What strangers may try. A client is an IPv4 address or an IPv6 /64.
const (
	failuresPerSecond = 10
	failuresBurst     = 40
	maxStrangers      = 4096 // remembered, 1 MB in all; who is forgotten has a burst again
)

// strangers counts failed attempts by client. It is asked only after a request failed, so
// a client with good credentials does not suffer from a neighbour behind the same proxy.
type strangers struct {
	mu       sync.Mutex
	failures *simplelru.LRU[netip.Prefix, *rate.Limiter]
}

func newStrangers() *strangers {
	failures, err := simplelru.NewLRU[netip.Prefix, *rate.Limiter](maxStrangers, nil)
	if err != nil {
		panic(err) // the size is a constant
	}
	return &strangers{failures: failures}
}

// fail counts a failure, and reports whether the client is still worth an explanation.
func (s *strangers) fail(remote string) bool {
	client := clientOf(remote)
	s.mu.Lock()
	defer s.mu.Unlock()
	limiter, ok := s.failures.Get(client)
	if !ok {
		limiter = rate.NewLimiter(failuresPerSecond, failuresBurst)
		s.failures.Add(client, limiter)
	}
	return limiter.Allow()
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
