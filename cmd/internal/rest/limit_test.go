package rest

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
)

func TestClientOf(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.7:1234":         "192.0.2.7/32",
		"[::ffff:192.0.2.7]:99":  "192.0.2.7/32",
		"[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64",
		"[fe80::1%eth0]:80":      "fe80::/64",
	} {
		if got := clientOf(remote).String(); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
	if clientOf("@") != clientOf("pipe") {
		t.Error("clients without an address are not one client")
	}
}

// TestLimitRequests holds that a client at its limit gets 429, that others do not,
// and that answers make room again.
func TestLimitRequests(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	limiter := newLimiter(2)
	h := limitRequests(limiter, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-release
	}))
	ask := func(remote string) int {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code == http.StatusTooManyRequests && w.Header().Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
		return w.Code
	}
	var waiting sync.WaitGroup
	for _, remote := range []string{"192.0.2.1:1", "192.0.2.1:2", "192.0.2.2:1"} {
		waiting.Go(func() {
			if code := ask(remote); code != http.StatusOK {
				t.Errorf("%s: got %d", remote, code)
			}
		})
		<-entered
	}
	if code := ask("192.0.2.1:3"); code != http.StatusTooManyRequests {
		t.Errorf("third request: got %d", code)
	}
	close(release)
	waiting.Wait()
	if len(limiter.inUse) != 0 {
		t.Errorf("clients are remembered: %v", limiter.inUse)
	}
	waiting.Go(func() { ask("192.0.2.1:4") })
	<-entered
	waiting.Wait()
}

// TestLimitConnections holds that a client cannot hold more connections than its
// share, and that closing one makes room.
func TestLimitConnections(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &limitedListener{inner, newLimiter(2)}
	defer l.Close()
	accepted := make(chan net.Conn)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dial()
	first := <-accepted
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil || err == io.ErrNoProgress {
		t.Error("the third connection is not closed")
	}
	first.Close()
	first.Close() // closing twice makes room once
	dial()
	<-accepted
	if _, err := dial().Read(make([]byte, 1)); err == nil {
		t.Error("the third connection is not closed after one made room")
	}
}
