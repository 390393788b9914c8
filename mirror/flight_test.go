package mirror

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"
)

// TestAheadIsBounded: bundles of the greatest size, asked for far ahead and taken slowly, do
// not pile up in memory, over either version of HTTP and whether or not their size is told.
func TestAheadIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("moves gigabytes")
	}
	const bundles = 24
	entry := make([]byte, 2+1<<16-1)
	binary.BigEndian.PutUint16(entry, 1<<16-1)
	for _, test := range []struct {
		name        string
		http2, told bool
	}{{"HTTP/1.1", false, true}, {"HTTP/1.1, size not told", false, false}, {"HTTP/2", true, true}} {
		t.Run(test.name, func(t *testing.T) {
			var sent atomic.Int64
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if test.told {
					w.Header().Set("Content-Length", strconv.Itoa(maxBundle))
				}
				if (r.ProtoMajor == 2) != test.http2 {
					t.Errorf("served over %s", r.Proto)
				}
				for range bundleWidth {
					n, _ := w.Write(entry)
					sent.Add(int64(n))
				}
			}))
			server.EnableHTTP2 = test.http2
			server.StartTLS()
			defer server.Close()
			transport := newTransport()
			transport.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
			defer transport.CloseIdleConnections()
			source, err := newTiles(Config{RequestsPerSecond: 1e6, HTTPClient: &http.Client{Transport: transport}}, server.URL, func(bool) {})
			if err != nil {
				t.Fatal(err)
			}
			a := newAhead(source, newFlight(parallel, aheadBytes))
			defer a.reset()
			before := heap()
			for i := range uint64(bundles) {
				a.want(t.Context(), bundleID{i, bundleWidth})
			}
			for i := range uint64(bundles) {
				if i < 2 { // let whatever can arrive arrive
					for last := int64(-1); last != sent.Load(); time.Sleep(200 * time.Millisecond) {
						last = sent.Load()
					}
					if used := heap() - before; used > (aheadBytes+maxBundle)*5/4+parallel<<20 {
						t.Errorf("%d MiB are in use before bundle %d is taken", used>>20, i)
					}
				}
				entries, err := a.take(t.Context(), bundleID{i, bundleWidth}, nil)
				if err != nil || len(entries) != bundleWidth || len(entries[0]) != 1<<16-1 {
					t.Fatalf("bundle %d: %d entries, %v", i, len(entries), err)
				}
			}
			if f := a.flight; f.requests != 0 || f.bytes != 0 {
				t.Errorf("%d requests and %d bytes are not given back", f.requests, f.bytes)
			}
		})
	}
}

// heap returns the bytes that are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestFlightNeverStalls: bundles that fill the flight and are not needed yet do not keep the
// one that is needed next from growing, and what is forgotten or fails is given back.
func TestFlightNeverStalls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	f := newFlight(2, 100)
	for bundle := uint64(1); bundle <= 2; bundle++ {
		if err := f.take(ctx, bundle, 1, 50); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.take(ctx, 0, 1, 500); err != nil { // needed next
		t.Fatal(err)
	}
	waits := make(chan error)
	for bundle := uint64(1); bundle <= 2; bundle++ {
		go func() { waits <- f.take(ctx, bundle, 0, 50) }()
	}
	select {
	case err := <-waits:
		t.Fatalf("more was taken than there is: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	f.give(1, 500)
	f.need(1)
	if err := <-waits; err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-waits; err != context.Canceled {
		t.Fatalf("bundle 2 does not wait: %v", err)
	}
	f.give(2, 150)
	if f.requests != 0 || f.bytes != 0 {
		t.Errorf("%d requests and %d bytes are left", f.requests, f.bytes)
	}
}
