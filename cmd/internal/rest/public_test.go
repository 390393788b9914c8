package rest

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

const (
	immutable = "public, max-age=31536000, immutable"
	octets    = "application/octet-stream"
)

// TestHeaders holds every route to its status, content type and caching, for GET and
// HEAD.
func TestHeaders(t *testing.T) {
	u := newUpstream(t)
	u.grow(600)
	h := u.handler()
	for _, test := range []struct {
		path        string
		code        int
		contentType string
		cache       string
		length      int // 0: not looked at
	}{
		{"/", 200, "text/html; charset=utf-8", "no-store", 0},
		{"/logs", 200, "application/json", "no-store", 0},
		{prefix + "/checkpoint", 200, "text/plain; charset=utf-8", "public, max-age=1", len(u.tree.State().Mirrored.Raw)},
		{prefix + "/tile/0/000", 200, octets, immutable, 8192},
		{prefix + "/tile/0/001", 200, octets, immutable, 8192},
		{prefix + "/tile/0/002.p/88", 200, octets, immutable, 88 * 32},
		{prefix + "/tile/0/002.p/1", 200, octets, immutable, 32},
		{prefix + "/tile/0/000.p/255", 200, octets, immutable, 255 * 32},
		{prefix + "/tile/1/000.p/2", 200, octets, immutable, 64},
		{prefix + "/tile/entries/002.p/88", 200, octets, immutable, 0},
		{prefix + "/tile/0/002.p/89", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/0/002", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/0/003", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/1/000.p/3", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/2/000.p/1", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/63/000", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/63/x018/x446/x744/x073/x709/x551/615", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/entries/x018/x446/x744/x073/x709/x551/615", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/entries/x072/x057/x594/x037/x927/935.p/255", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/entries/002.p/89", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/00/000", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/tile/0/%30%30%30", 404, "text/plain; charset=utf-8", "no-store", 0},
		{prefix + "/%63heckpoint", 404, "text/plain; charset=utf-8", "no-store", 0},
		{strings.ToUpper(prefix) + "/checkpoint", 404, "text/plain; charset=utf-8", "no-store", 0},
		{"/" + strings.Repeat("0", 64) + "/checkpoint", 404, "text/plain; charset=utf-8", "no-store", 0},
		{"/" + strings.Repeat("0", 64) + "/tile/0/000", 404, "text/plain; charset=utf-8", "no-store", 0},
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			r := get(h, method, test.path)
			if r.StatusCode != test.code || r.Header.Get("Content-Type") != test.contentType || r.Header.Get("Cache-Control") != test.cache {
				t.Errorf("%s %s: got %d %v", method, test.path, r.StatusCode, r.Header)
			}
			if length := len(body(t, r)); method == http.MethodGet && test.length != 0 && length != test.length {
				t.Errorf("%s: %d bytes, want %d", test.path, length, test.length)
			}
		}
	}
	if r := get(h, http.MethodPost, prefix+"/checkpoint"); r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: got %d", r.StatusCode)
	}
}

// TestContent holds what is served against the entries, at every width of the last
// tile.
func TestContent(t *testing.T) {
	u := newUpstream(t)
	u.grow(256 + 90)
	h := u.handler()
	if got := body(t, get(h, http.MethodGet, prefix+"/checkpoint")); got != string(u.tree.State().Mirrored.Raw) {
		t.Errorf("checkpoint %q", got)
	}
	var tile, bundle []byte
	for i, entry := range u.entries[256:] {
		hash := storage.LeafHash(entry)
		tile = append(tile, hash[:]...)
		bundle = append(binary.BigEndian.AppendUint16(bundle, uint16(len(entry))), entry...)
		suffix := fmt.Sprintf("001.p/%d", i+1)
		if got := body(t, get(h, http.MethodGet, prefix+"/tile/0/"+suffix)); got != string(tile) {
			t.Fatalf("tile %s differs", suffix)
		}
		if got := body(t, get(h, http.MethodGet, prefix+"/tile/entries/"+suffix)); got != string(bundle) {
			t.Fatalf("bundle %s differs", suffix)
		}
	}
}

// TestPending holds that the checkpoint of a copy that is not complete is the mirror
// checkpoint, while tiles and entries are served as far as they are held.
func TestPending(t *testing.T) {
	u := newUpstream(t)
	u.grow(300)
	complete := string(u.tree.State().Mirrored.Raw)
	ahead := newUpstream(t) // the same log, further on
	ahead.signer = u.signer
	ahead.grow(700)
	view := ahead.tree.View()
	defer view.Close()
	consistency, err := view.ConsistencyProof(300, 700)
	if err != nil {
		t.Fatal(err)
	}
	pending := u.sign(view.State().Head)
	if _, err := u.tree.Advance(pending, consistency, consistency); err != nil {
		t.Fatal(err)
	}
	precedes, err := view.ConsistencyProof(512, 700)
	if err != nil {
		t.Fatal(err)
	}
	_, err = u.tree.Extend(ahead.entries[300:512], func(storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: pending, Precedes: precedes}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	h := u.handler()
	if got := body(t, get(h, http.MethodGet, prefix+"/checkpoint")); got != complete {
		t.Errorf("checkpoint %q, want the complete one", got)
	}
	for path, code := range map[string]int{"/tile/entries/001": 200, "/tile/0/001": 200, "/tile/entries/002.p/1": 404, "/tile/0/002.p/1": 404} {
		if r := get(h, http.MethodGet, prefix+path); r.StatusCode != code {
			t.Errorf("%s: got %d, want %d", path, r.StatusCode, code)
		}
	}
}

func TestGzip(t *testing.T) {
	u := newUpstream(t)
	u.grow(256)
	h := u.handler()
	path := prefix + "/tile/entries/000"
	plain := body(t, get(h, http.MethodGet, path))
	for accept, compressed := range map[string]bool{
		"":                            false,
		"gzip":                        true,
		"GZIP":                        true,
		"x-gzip":                      true,
		"br, gzip":                    true,
		"br,gzip;q=0.1":               true,
		"gzip; q=1.0":                 true,
		"gzip;q=0":                    false,
		"gzip; q = 0.000":             false,
		"gzip;q=broken":               false,
		"*":                           true,
		"*;q=0":                       false,
		"*, gzip;q=0":                 false,
		"*;q=0, gzip":                 true,
		"identity":                    false,
		"br, zstd, deflate, gzippy":   false,
		"deflate;q=0.5, gzip;level=9": true,
	} {
		for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} { // the second GET takes a used writer
			r := get(h, method, path, "Accept-Encoding", accept)
			if r.StatusCode != 200 || r.Header.Get("Vary") != "Accept-Encoding" || (r.Header.Get("Content-Encoding") == "gzip") != compressed {
				t.Errorf("%s %q: got %d %v", method, accept, r.StatusCode, r.Header)
			}
			got := body(t, r)
			if method == http.MethodHead {
				if compressed && got != "" {
					t.Errorf("HEAD %q: a body of %d bytes", accept, len(got))
				}
				continue
			}
			if compressed {
				if len(got) > len(plain)/2 {
					t.Errorf("%q: %d bytes of %d", accept, len(got), len(plain))
				}
				z, err := gzip.NewReader(strings.NewReader(got))
				if err != nil {
					t.Fatal(err)
				}
				data, err := io.ReadAll(z)
				if err != nil {
					t.Fatal(err)
				}
				got = string(data)
			}
			if got != plain {
				t.Errorf("%q: content differs", accept)
			}
		}
	}
	// Hash tiles do not compress.
	if r := get(h, http.MethodGet, prefix+"/tile/0/000", "Accept-Encoding", "gzip"); r.Header.Get("Content-Encoding") != "" {
		t.Error("a hash tile is compressed")
	}
}

// TestOversized holds that a bundle that cannot be written is not called missing.
func TestOversized(t *testing.T) {
	u := newUpstream(t)
	u.extend([][]byte{[]byte("small"), bytes.Repeat([]byte("x"), 70_000)})
	h := u.handler()
	if r := get(h, http.MethodGet, prefix+"/tile/entries/000.p/2"); r.StatusCode != http.StatusNotImplemented || !strings.Contains(body(t, r), "entry 1") {
		t.Errorf("got %d", r.StatusCode)
	}
	if r := get(h, http.MethodGet, prefix+"/tile/entries/000.p/1"); r.StatusCode != http.StatusOK {
		t.Errorf("the bundle before it: got %d", r.StatusCode)
	}
}

func TestLists(t *testing.T) {
	u := newUpstream(t)
	u.grow(3)
	h := u.handler()
	var logs []mirror.Status
	if err := json.Unmarshal([]byte(body(t, get(h, http.MethodGet, "/logs"))), &logs); err != nil {
		t.Fatal(err)
	}
	if len(logs) != 1 || logs[0].Origin != origin || "/"+logs[0].OriginHash != prefix || logs[0].MirrorSize != 3 {
		t.Errorf("got %+v", logs)
	}
	if page := body(t, get(h, http.MethodGet, "/")); !strings.Contains(page, origin) || !strings.Contains(page, `href="`+prefix+`/checkpoint"`) {
		t.Errorf("page %s", page)
	}
	none := func() []*mirror.Mirror { return nil }
	empty := NewPublic(PublicConfig{Mirrors: none, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	if got := body(t, get(empty, http.MethodGet, "/logs")); got != "[]\n" {
		t.Errorf("no logs: %q", got)
	}
}

func TestFreshnessHeaders(t *testing.T) {
	u := newUpstream(t)
	u.grow(3)
	r := get(u.handler(), http.MethodGet, prefix+"/checkpoint")
	// Its mirror does not run, so nothing of it is live.
	if r.Header.Get("Understudy-Source") != "mirrored" || r.Header.Get("Understudy-Upstream-State") != "unreachable" || r.Header.Get("Understudy-Checkpoint-Age") != "0" {
		t.Errorf("got %v", r.Header)
	}
}

// slowClient is a client that does not read its answer until it is released.
type slowClient struct {
	*httptest.ResponseRecorder
	writing chan struct{}
	release chan struct{}
}

func (c *slowClient) Write(data []byte) (int, error) {
	c.writing <- struct{}{}
	<-c.release
	return c.ResponseRecorder.Write(data)
}

// TestPublicLimit holds that one client that reads slowly reaches its limit, and that
// the others are still answered.
func TestPublicLimit(t *testing.T) {
	u := newUpstream(t)
	u.grow(3)
	registry := prometheus.NewRegistry()
	h := NewPublic(PublicConfig{Mirrors: u.mirrors, Logger: slog.New(slog.DiscardHandler), Registerer: registry})
	writing, release := make(chan struct{}), make(chan struct{})
	var slow sync.WaitGroup
	for range maxRequests {
		slow.Go(func() {
			r := httptest.NewRequest(http.MethodGet, prefix+"/checkpoint", nil)
			h.ServeHTTP(&slowClient{httptest.NewRecorder(), writing, release}, r)
		})
		<-writing
	}
	if r := get(h, http.MethodGet, prefix+"/checkpoint"); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("the slow client: got %d", r.StatusCode)
	}
	// The refusal is counted, the answers under way are not yet.
	if n, err := testutil.GatherAndCount(registry, "understudy_http_requests_total"); n != len(routes)+1 || err != nil {
		t.Errorf("%d series of requests, want %d (%v)", n, len(routes)+1, err)
	}
	other := httptest.NewRequest(http.MethodGet, prefix+"/checkpoint", nil)
	other.RemoteAddr = "198.51.100.1:1"
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, other); w.Code != http.StatusOK {
		t.Errorf("another client: got %d", w.Code)
	}
	close(release)
	slow.Wait()
}

// TestMetrics holds that labels come from our routes, never from a request.
func TestMetrics(t *testing.T) {
	u := newUpstream(t)
	u.grow(3)
	registry := prometheus.NewRegistry()
	h := NewPublic(PublicConfig{Mirrors: u.mirrors, Logger: slog.New(slog.DiscardHandler), Registerer: registry})
	for _, path := range []string{prefix + "/checkpoint", prefix + "/checkpoint", "/x/checkpoint", "/nowhere", "/a//b", prefix + "/tile/0/000.p/3"} {
		get(h, http.MethodGet, path)
	}
	get(h, "STRANGE", "/logs")
	want := `# HELP understudy_http_requests_total Requests answered on the public HTTP address, by route and status code.
# TYPE understudy_http_requests_total counter
understudy_http_requests_total{code="200",route="/{log}/checkpoint"} 2
understudy_http_requests_total{code="200",route="/{log}/tile/{path...}"} 1
understudy_http_requests_total{code="307",route="none"} 1
understudy_http_requests_total{code="404",route="/{log}/checkpoint"} 1
understudy_http_requests_total{code="404",route="none"} 1
understudy_http_requests_total{code="405",route="none"} 1
understudy_http_requests_total{code="500",route="/logs"} 0
understudy_http_requests_total{code="500",route="/{$}"} 0
understudy_http_requests_total{code="500",route="/{log}/checkpoint"} 0
understudy_http_requests_total{code="500",route="/{log}/tile/{path...}"} 0
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "understudy_http_requests_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "understudy_http_request_duration_seconds"); n != 3 || err != nil {
		t.Errorf("%d routes are timed, want 3 (%v)", n, err)
	}
}

// FuzzPath holds that no path makes the handler panic, and that only canonical paths
// of what is held get an answer.
func FuzzPath(f *testing.F) {
	f.Add("tile/0/000.p/3")
	f.Add("tile/entries/000.p/3")
	f.Add("tile/63/x018/x446/x744/x073/x709/x551/615")
	f.Add("checkpoint")
	u := newUpstream(f)
	u.grow(3)
	h := u.handler()
	f.Fuzz(func(t *testing.T, path string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = prefix + "/" + path
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case http.StatusOK:
			parsed, ok := parseTilePath(strings.TrimPrefix(path, "tile/"))
			if path != "checkpoint" && (!ok || parsed.index != 0 || parsed.level != 0 || parsed.width > 3) {
				t.Errorf("%q is answered", path)
			}
		case http.StatusNotFound, http.StatusMovedPermanently, http.StatusTemporaryRedirect:
		default:
			t.Errorf("%q: got %d", path, w.Code)
		}
	})
}
