package mirror

import (
	"context"
	"sync"
)

// flight bounds the requests for bundles that are under way, and the bytes of bundles that
// are being read or wait for their commit. Bytes are taken before they are allocated.
// Whoever asks for more than there is waits, except for the bundle that is needed next: the
// copy always goes on. So whatever upstream sends, no more than maxBytes and one bundle
// are in use.
type flight struct {
	maxRequests, maxBytes int

	mu              sync.Mutex
	requests, bytes int
	next            uint64        // index of the bundle that is needed next
	changed         chan struct{} // closed when something was given back, or next was set
}

func newFlight(maxRequests, maxBytes int) *flight {
	return &flight{maxRequests: maxRequests, maxBytes: maxBytes, changed: make(chan struct{})}
}

// take waits until so many more requests and bytes are free for a bundle.
func (f *flight) take(ctx context.Context, bundle uint64, requests, bytes int) error {
	for {
		f.mu.Lock()
		fits := f.requests+requests <= f.maxRequests && f.bytes+bytes <= f.maxBytes
		if fits || bundle == f.next {
			f.requests += requests
			f.bytes += bytes
			f.mu.Unlock()
			return nil
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give gives back what was taken.
func (f *flight) give(requests, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests -= requests
	f.bytes -= bytes
	f.wakeLocked()
}

// need says which bundle is needed next.
func (f *flight) need(bundle uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.next = bundle
	f.wakeLocked()
}

func (f *flight) wakeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// share is the part of the bytes that one bundle has. It is used by one goroutine at a time.
// A nil share is unbounded.
type share struct {
	flight *flight
	bundle uint64
	bytes  int
}

// grow makes the share at least so many bytes.
func (s *share) grow(ctx context.Context, bytes int) error {
	if s == nil || bytes <= s.bytes {
		return nil
	}
	if err := s.flight.take(ctx, s.bundle, 0, bytes-s.bytes); err != nil {
		return err
	}
	s.bytes = bytes
	return nil
}

// free gives everything back.
func (s *share) free() {
	s.flight.give(0, s.bytes)
	s.bytes = 0
}
