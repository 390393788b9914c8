package access

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"testing/synctest"
	"time"
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
}

func ask(h http.Handler, path, remote string, with ...change) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, nil)
	r.RemoteAddr = remote
	for _, c := range with {
		c(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestEntriesPerSecond holds that an identity gets its burst, then its rate, is told how
// long to wait, and that waiting so long is enough; and that it is of appends only.
func TestEntriesPerSecond(t *testing.T) {
	for _, c := range []struct {
		perSecond, rate float64
		burst           int
		retry           string
		wait            time.Duration
	}{
		{0, 50, 100, "1", time.Second},
		{10, 10, 20, "1", time.Second},
		{0.25, 0.25, 1, "4", 4 * time.Second},
		{0.7, 0.7, 1, "2", 2 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			config := testConfig()
			config.Identities[0].EntriesPerSecond = c.perSecond
			config.Identities[1].Roles = []Role{Append}
			control := newControl(t, config)
			h := control.Guard(nil, routes(control))
			got := 0
			for ask(h, "/append/x", "192.0.2.1:1", bearer(pipeToken)).Code == 200 {
				got++
			}
			if got != c.burst {
				t.Errorf("%v/s: a burst of %d, want %d", c.perSecond, got, c.burst)
			}
			w := ask(h, "/append/x", "192.0.2.2:1", verified(withURI("spiffe://example.com/ci")))
			if w.Code != 429 || w.Header().Get("Retry-After") != c.retry {
				t.Errorf("%v/s: got %d, Retry-After %q", c.perSecond, w.Code, w.Header().Get("Retry-After"))
			}
			if w := ask(h, "/read/x", "192.0.2.1:1", bearer(pipeToken)); w.Code != 200 {
				t.Errorf("%v/s: a read takes an entry: %d", c.perSecond, w.Code)
			}
			if w := ask(h, "/append/x", "192.0.2.1:1", bearer(readToken)); w.Code != 200 {
				t.Errorf("%v/s: another identity suffers: %d", c.perSecond, w.Code)
			}
			time.Sleep(c.wait)
			want := max(1, int(c.rate*c.wait.Seconds()))
			for got = 0; ask(h, "/append/x", "192.0.2.1:1", bearer(pipeToken)).Code == 200; {
				got++
			}
			if got != want {
				t.Errorf("%v/s: %d after %v, want %d", c.perSecond, got, c.wait, want)
			}
		})
	}
}

// TestForbiddenTakesNoEntry holds that who may not append cannot use up what a later role
// would give.
func TestForbiddenTakesNoEntry(t *testing.T) {
	control := newControl(t, testConfig())
	h := control.Guard(nil, routes(control))
	for range 500 {
		if w := ask(h, "/append/x", "192.0.2.1:1", bearer(readToken)); w.Code != 403 {
			t.Fatalf("got %d", w.Code)
		}
	}
}

// TestRequestsAtOnce holds that an identity with all its requests under way gets 429, that
// others do not, and that answers make room again.
func TestRequestsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		config := testConfig()
		config.Identities[0].RequestsAtOnce = 2
		control := newControl(t, config)
		release := make(chan struct{})
		h := control.Guard(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
		var running sync.WaitGroup
		start := func(n int, token string) {
			for i := range n {
				running.Go(func() {
					if w := ask(h, "/", fmt.Sprintf("192.0.2.%d:1", i), bearer(token)); w.Code != 200 {
						t.Errorf("got %d", w.Code)
					}
				})
			}
			synctest.Wait()
		}
		full := func(token string) {
			if w := ask(h, "/", "192.0.2.99:1", bearer(token)); w.Code != 429 || w.Header().Get("Retry-After") != "1" {
				t.Errorf("got %d, Retry-After %q", w.Code, w.Header().Get("Retry-After"))
			}
		}
		start(2, pipeToken)
		full(pipeToken)
		full(pipeToken)      // refusals take no room, and give none
		start(64, readToken) // the default
		full(readToken)
		close(release)
		running.Wait()
		for token, n := range map[string]int{pipeToken: 2, readToken: 64} {
			release = make(chan struct{})
			start(n, token)
			full(token)
			close(release)
			running.Wait()
		}
		for _, m := range control.tokens {
			if n := m.running.Load(); n != 0 {
				t.Errorf("%s has %d under way", m.Name, n)
			}
		}
	})
}

// TestPanicMakesRoom holds that a handler that panics gives its room back.
func TestPanicMakesRoom(t *testing.T) {
	config := testConfig()
	config.Identities[0].RequestsAtOnce = 1
	control := newControl(t, config)
	h := control.Guard(nil, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	for range 2 {
		func() {
			defer func() { recover() }()
			if w := ask(h, "/", "192.0.2.1:1", bearer(pipeToken)); w.Code == 429 {
				t.Error("no room after a panic")
			}
		}()
	}
}

// TestOpenHasNoLimits holds that a log without authentication has no limits of an identity.
func TestOpenHasNoLimits(t *testing.T) {
	control := newControl(t, Config{Open: true, Hosts: []string{"example.com"}})
	h := control.Guard(nil, routes(control))
	for range 1000 {
		if w := ask(h, "/append/x", "127.0.0.1:1"); w.Code != 200 {
			t.Fatalf("got %d", w.Code)
		}
	}
}

// TestStrangers holds that failures of one client are limited, that neither other clients
// nor good credentials from the same address suffer, and that memory is bounded.
func TestStrangers(t *testing.T) {
	for _, with := range []change{bearer(strayToken), func(*http.Request) {}} {
		synctest.Test(t, func(t *testing.T) {
			control := newControl(t, testConfig())
			h := control.Guard(nil, routes(control))
			fail := func(remote string) (refused int) {
				for ask(h, "/read/x", remote, with).Code == 401 {
					refused++
				}
				return refused
			}
			if got := fail("192.0.2.1:1"); got != failuresBurst {
				t.Errorf("%d explanations, want %d", got, failuresBurst)
			}
			w := ask(h, "/read/x", "192.0.2.1:2", with)
			if w.Code != 429 || w.Header().Get("Retry-After") != "1" || w.Header().Get("WWW-Authenticate") != "" {
				t.Errorf("got %d %v", w.Code, w.Header())
			}
			if w := ask(h, "/read/x", "192.0.2.1:1", bearer(readToken)); w.Code != 200 {
				t.Errorf("a neighbour suffers: %d", w.Code)
			}
			if w := ask(h, "/read/x", "192.0.2.2:1", with); w.Code != 401 {
				t.Errorf("another client suffers: %d", w.Code)
			}
			time.Sleep(time.Second)
			if got := fail("192.0.2.1:1"); got != failuresPerSecond {
				t.Errorf("%d explanations after a second, want %d", got, failuresPerSecond)
			}
			for i := range 2 * maxStrangers {
				ask(h, "/read/x", fmt.Sprintf("10.0.%d.%d:1", i/256, i%256), with)
			}
			if n := control.strangers.failures.Len(); n != maxStrangers {
				t.Errorf("%d clients are remembered", n)
			}
		})
	}
}
