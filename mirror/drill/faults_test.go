package drill

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

// plain answers every request with a body.
type plain struct {
	body  []byte
	gzip  bool
	asked atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (p *plain) RoundTrip(r *http.Request) (*http.Response, error) {
	p.asked.Add(1)
	unsent(r)
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	resp := withBody(&http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Request: r}, p.body)
	if p.gzip && r.Header.Get("Accept-Encoding") == "gzip" {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		z.Write(p.body)
		z.Close()
		resp = withBody(resp, packed.Bytes())
		resp.Header.Set("Content-Encoding", "gzip")
	}
	return resp, nil
}

func scenarioFault(t *testing.T, name string) fault {
	t.Helper()
	s, err := findScenario(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.fault(nil, "rekor/read")
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// armed arms a fault for rekor/read and returns a client whose requests are for the component that
// is the host of their URL.
func armed(t *testing.T, f fault, base http.RoundTripper, length time.Duration) (*Faults, *arming, *http.Client) {
	t.Helper()
	faults := NewFaults()
	a, ok := faults.arm(map[string]fault{"read": f}, nil, length, func() {})
	if !ok {
		t.Fatal("not armed")
	}
	return faults, a, &http.Client{Transport: faults.Transport(func(r *http.Request) string { return r.URL.Host }, base)}
}

// closing is a body that knows whether it was closed.
type closing struct {
	io.Reader
	closed bool
}

func (c *closing) Close() error { c.closed = true; return nil }

func TestErrors(t *testing.T) {
	for name, check := range map[string]func(error) bool{
		"refuse": func(err error) bool {
			var op *net.OpError
			return errors.As(err, &op) && op.Op == "dial" && errors.Is(err, syscall.ECONNREFUSED)
		},
		"tls-failure": func(err error) bool {
			var unknown x509.UnknownAuthorityError
			var unverified *tls.CertificateVerificationError
			return errors.As(err, &unknown) && errors.As(err, &unverified)
		},
		"dns-failure": func(err error) bool {
			var dns *net.DNSError
			var op *net.OpError
			return errors.As(err, &dns) && dns.IsNotFound && dns.Name == "read" && errors.As(err, &op) && op.Op == "dial"
		},
	} {
		t.Run(name, func(t *testing.T) {
			base := &plain{body: []byte("hello")}
			_, _, client := armed(t, scenarioFault(t, name), base, time.Hour)
			body := &closing{Reader: strings.NewReader("x")}
			_, err := client.Post("http://read/", "text/plain", body)
			if err == nil || !check(err) || !body.closed {
				t.Errorf("got %v (body closed: %t)", err, body.closed)
			}
			if _, err := client.Get("http://write/"); err != nil || base.asked.Load() != 1 {
				t.Errorf("another component: %v, %d requests", err, base.asked.Load())
			}
		})
	}
}

func TestAnswers(t *testing.T) {
	base := &plain{body: []byte("hello")}
	_, _, client := armed(t, scenarioFault(t, "server-errors"), base, time.Hour)
	for i, want := range []int{503, 500, 503, 500} {
		if resp, err := client.Get("http://read/"); err != nil || resp.StatusCode != want {
			t.Errorf("answer %d: %+v, %v", i, resp, err)
		}
	}
	_, _, client = armed(t, scenarioFault(t, "rate-limited"), base, time.Hour)
	if resp, err := client.Get("http://read/"); err != nil || resp.StatusCode != 429 || resp.Header.Get("Retry-After") != "1" {
		t.Errorf("got %+v, %v", resp, err)
	}
	if base.asked.Load() != 0 {
		t.Error("upstream was asked")
	}
}

func TestTruncation(t *testing.T) {
	for _, body := range []string{"", "x", "0123456789"} {
		_, _, client := armed(t, scenarioFault(t, "truncation"), &plain{body: []byte(body)}, time.Hour)
		resp, err := client.Get("http://read/")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(resp.Body)
		if !errors.Is(err, io.ErrUnexpectedEOF) || string(got) != body[:len(body)/2] {
			t.Errorf("of %q came %q, %v", body, got, err)
		}
	}
}

// TestHang: no answer until the context ends, or the fault does; then upstream's.
func TestHang(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		faults, a, client := armed(t, scenarioFault(t, "hang"), &plain{body: []byte("hello")}, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://read/", nil)
		if _, err := client.Do(r); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("got %v after %s", err, time.Since(start))
		}
		time.AfterFunc(7*time.Second, func() { faults.disarm(a) })
		start = time.Now()
		if resp, err := client.Get("http://read/"); err != nil || resp.StatusCode != 200 || time.Since(start) != 7*time.Second {
			t.Errorf("after the end: %v after %s", err, time.Since(start))
		}
	})
}

func TestSlowDrip(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		faults, a, client := armed(t, scenarioFault(t, "slow-drip"), &plain{body: []byte("0123456789")}, time.Hour)
		start := time.Now()
		resp, err := client.Get("http://read/")
		if err != nil || time.Since(start) != 0 {
			t.Fatalf("header: %v after %s", err, time.Since(start))
		}
		buf := make([]byte, 100)
		for i := range 3 {
			n, err := resp.Body.Read(buf)
			if n != 1 || err != nil || time.Since(start) != time.Duration(i+1)*time.Second {
				t.Errorf("%d bytes, %v, after %s", n, err, time.Since(start))
			}
		}
		time.AfterFunc(500*time.Millisecond, func() { faults.disarm(a) })
		if rest, err := io.ReadAll(resp.Body); string(rest) != "3456789" || err != nil || time.Since(start) != 3500*time.Millisecond {
			t.Errorf("the rest: %q, %v, after %s", rest, err, time.Since(start))
		}
		// A body that is closed, or whose request ends, holds nobody up.
		_, _, client = armed(t, scenarioFault(t, "slow-drip"), &plain{body: []byte("0123456789")}, time.Hour)
		ctx, cancel := context.WithCancel(t.Context())
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://read/", nil)
		if resp, err = client.Do(r); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(300*time.Millisecond, cancel)
		if _, err := resp.Body.Read(buf); !errors.Is(err, context.Canceled) {
			t.Errorf("canceled: %v", err)
		}
		if resp, err = client.Get("http://read/"); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(300*time.Millisecond, func() { resp.Body.Close() })
		if _, err := resp.Body.Read(buf); err == nil {
			t.Error("a closed body was read")
		}
	})
}

func TestFlap(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		_, _, client := armed(t, scenarioFault(t, "flapping"), &plain{body: []byte("x")}, time.Hour)
		for i := range 24 {
			_, err := client.Get("http://read/")
			if away := i/3%2 == 0; (err != nil) != away {
				t.Errorf("second %d: %v", i, err)
			}
			time.Sleep(time.Second)
		}
	})
}

func logInfo(active string, inactive ...string) []byte {
	shard := func(note string) string {
		h, _ := headOf([]byte(note))
		_, id, _ := strings.Cut(h.origin, " - ")
		return fmt.Sprintf(`"rootHash":"%x","signedTreeHead":%s,"treeID":%q,"treeSize":%d`, h.root, mustJSON(note), id, h.size)
	}
	var shards []string
	for _, note := range inactive {
		shards = append(shards, "{"+shard(note)+"}")
	}
	return []byte(`{"inactiveShards":[` + strings.Join(shards, ",") + `],` + shard(active) + `,"more":"<kept>"}`)
}

func testNote(origin string, size int, lines string) string {
	return fmt.Sprintf("%s\n%d\nAAAA%03d=\n%s\n— rekor.example xxxx\n", origin, size, size, lines)
}

func TestRewrite(t *testing.T) {
	old, current := testNote("rekor.example - 2", 100, ""), testNote("rekor.example - 2", 200, "")
	other := testNote("rekor.example - 1", 300, "")
	if got := rewriteCheckpoint([]byte(current), []byte(old)); string(got) != old {
		t.Errorf("got %q", got)
	}
	for _, note := range []string{other, "", "x\n1", testNote("rekor.example - 2", 200, "more\n"), testNote("rekor.example - 2", 201, "")} {
		if got := rewriteCheckpoint([]byte(current), []byte(note)); string(got) != current {
			t.Errorf("with %q: %q", note, got)
		}
	}
	for _, c := range []struct{ name, have, want string }{
		{"active", string(logInfo(current, other)), string(logInfo(old, other))},
		{"inactive", string(logInfo(other, current)), string(logInfo(other, old))},
		{"absent", string(logInfo(other)), string(logInfo(other))},
		{"older than that", string(logInfo(testNote("rekor.example - 2", 50, ""))), string(logInfo(testNote("rekor.example - 2", 50, "")))},
		{"no JSON", "<html>", "<html>"}, {"null", "null", "null"}, {"null shard", `{"inactiveShards":[null],"signedTreeHead":7}`, `{"inactiveShards":[null],"signedTreeHead":7}`},
	} {
		got := rewriteLogInfo([]byte(c.have), []byte(old))
		if sortedJSON(t, got) != sortedJSON(t, []byte(c.want)) {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func sortedJSON(t *testing.T, raw []byte) string {
	t.Helper()
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return string(raw)
	}
	return string(mustJSON(v))
}

// TestOldCheckpoints: through the transport, packed or not, and nothing but checkpoints.
func TestOldCheckpoints(t *testing.T) {
	old, current, next := testNote("log.example", 100, ""), testNote("log.example", 200, ""), testNote("log.example", 300, "")
	get := func(client *http.Client, url string) string {
		t.Helper()
		r, _ := http.NewRequest(http.MethodGet, url, nil)
		r.Header.Set("Accept-Encoding", "gzip")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, body, err := whole(resp, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	for _, packed := range []bool{false, true} {
		base := &plain{body: []byte(current), gzip: packed}
		_, _, client := armed(t, rollBack([]byte(old)), base, time.Hour)
		if got := get(client, "http://read/checkpoint"); got != old {
			t.Errorf("packed %t, rollback: %q", packed, got)
		}
		if got := get(client, "http://read/tile/0/000"); got != current {
			t.Errorf("packed %t, rollback of a tile: %q", packed, got)
		}
		_, _, client = armed(t, stale(), base, time.Hour)
		for range 3 {
			if got := get(client, "http://read/checkpoint"); got != current {
				t.Errorf("packed %t, stale: %q", packed, got)
			}
			base.body = []byte(next)
		}
		if got := get(client, "http://read/tile/0/000"); got != next {
			t.Errorf("packed %t, stale tile: %q", packed, got)
		}
		if got := get(client, "http://write/checkpoint"); got != next {
			t.Errorf("packed %t, stale elsewhere: %q", packed, got)
		}
		base.body = logInfo(testNote("log.example - 7", 200, ""))
		_, _, client = armed(t, rollBack([]byte(testNote("log.example - 7", 100, ""))), base, time.Hour)
		if got := get(client, "http://read/api/v1/log"); sortedJSON(t, []byte(got)) != sortedJSON(t, logInfo(testNote("log.example - 7", 100, ""))) {
			t.Errorf("packed %t, rollback of log info: %s", packed, got)
		}
	}
}

// TestEndByItself: the switchboard needs nobody to end a fault.
func TestEndByItself(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		faults, a, client := armed(t, refuse, &plain{body: []byte("hello")}, time.Minute)
		if _, ok := faults.arm(nil, nil, time.Hour, func() {}); ok {
			t.Error("armed twice")
		}
		time.Sleep(time.Minute - time.Millisecond)
		if _, err := client.Get("http://read/"); err == nil {
			t.Error("no fault before its end")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if _, err := client.Get("http://read/"); err != nil || faults.inForce() != nil || faults.armed.Load() != nil {
			t.Errorf("after its end: %v", err)
		}
		select {
		case <-a.gone:
		default:
			t.Error("who hangs, hangs on")
		}
	})
	// And not even its timer.
	faults := NewFaults()
	faults.armed.Store(&arming{faults: map[string]fault{"read": refuse}, began: time.Now().Add(-time.Hour), length: time.Hour, until: time.Now().Add(time.Hour).Round(0)})
	if faults.inForce() != nil {
		t.Error("in force after the time that it was to last, on a wall clock that was set back")
	}
	faults.armed.Store(&arming{faults: map[string]fault{"read": refuse}, began: time.Now(), length: time.Hour, until: time.Now().Add(-time.Second).Round(0)})
	if faults.inForce() != nil {
		t.Error("in force after its end on the wall clock")
	}
}

func TestClock(t *testing.T) {
	faults := NewFaults()
	if faults.Clock("tuf") != 0 {
		t.Error("the clock is ahead without a drill")
	}
	faults.arm(nil, map[string]time.Duration{"tuf": expired}, time.Hour, func() {})
	if faults.Clock("tuf") != expired || faults.Clock("rekor/read") != 0 {
		t.Error("the clock of another component is ahead")
	}
}

// TestIdle: with nothing armed a request is not even looked at.
func TestIdle(t *testing.T) {
	base := &plain{body: []byte("hello")}
	transport := NewFaults().Transport(func(*http.Request) string { panic("looked at") }, base)
	r, _ := http.NewRequest(http.MethodGet, "http://read/", nil)
	if resp, err := transport.RoundTrip(r); err != nil || resp.Request != r {
		t.Errorf("got %v", err)
	}
	direct := testing.AllocsPerRun(100, func() { base.RoundTrip(r) })
	if through := testing.AllocsPerRun(100, func() { transport.RoundTrip(r) }); through > direct {
		t.Errorf("%v allocations, %v without the switchboard", through, direct)
	}
}
