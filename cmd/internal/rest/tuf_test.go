package rest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/mirror/trust"
)

// fakeTUF are files by path.
type fakeTUF map[string]trust.File

func (f fakeTUF) File(path string) (trust.File, bool) {
	file, ok := f[path]
	return file, ok
}

// TestTUF: the bytes as they are, how long they may be kept, and nothing again that a client has.
func TestTUF(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/tuf/{path...}", serveTUF("/tuf/", fakeTUF{
		"timestamp.json":                 {Data: []byte(`{"timestamp"}`), Hash: "aa"},
		"3.root.json":                    {Data: []byte(`{"root"}`), Hash: "bb", Forever: true},
		"targets/cc.trusted_root.json":   {Data: []byte(`{}`), Hash: "cc", Forever: true},
		"targets/npm/dd.keys%20old.json": {Data: []byte(`{"keys"}`), Hash: "dd", Forever: true},
		"1.a%2Fb@c.json":                 {Data: []byte("{}"), Hash: "ff", Forever: true},
		"targets/ee.cert.pem":            {Data: []byte("-----"), Hash: "ee", Forever: true},
	}))
	const forever = "public, max-age=31536000, immutable"
	for _, test := range []struct {
		method, path, condition string
		code                    int
		etag, cache, body       string
	}{
		{"GET", "/tuf/timestamp.json", "", 200, `"aa"`, "no-cache", `{"timestamp"}`},
		{"GET", "/tuf/timestamp.json", `"bb"`, 200, `"aa"`, "no-cache", `{"timestamp"}`},
		{"GET", "/tuf/timestamp.json", `"bb", W/"aa"`, 304, `"aa"`, "no-cache", ""},
		{"GET", "/tuf/timestamp.json", `*`, 304, `"aa"`, "no-cache", ""},
		{"HEAD", "/tuf/3.root.json", "", 200, `"bb"`, forever, ""},
		{"GET", "/tuf/3.root.json", "", 200, `"bb"`, forever, `{"root"}`},
		{"GET", "/tuf/4.root.json", "", 404, "", "no-store", ""},
		{"GET", "/tuf/", "", 404, "", "no-store", ""},
		{"GET", "/tuf/1.a%2Fb%40c.json", "", 200, `"ff"`, forever, "{}"},
		{"GET", "/tuf/1.a%2fb@c.json", "", 200, `"ff"`, forever, "{}"},
		{"GET", "/tuf/targets/cc.trusted_root.json", "", 200, `"cc"`, forever, `{}`},
		{"GET", "/tuf/targets/npm/dd.keys%20old.json", "", 200, `"dd"`, forever, `{"keys"}`},
		{"GET", "/tuf/targets/ee.cert.pem", "", 200, `"ee"`, forever, "-----"},
		{"POST", "/tuf/timestamp.json", "", 405, "", "", ""},
	} {
		r := httptest.NewRequest(test.method, test.path, nil)
		r.Header.Set("If-None-Match", test.condition)
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		h := w.Header()
		if w.Code != test.code || h.Get("ETag") != test.etag || h.Get("Cache-Control") != test.cache {
			t.Errorf("%s %s: %d, %v", test.method, test.path, w.Code, h)
		}
		if test.code < 400 && test.method == "GET" && w.Body.String() != test.body {
			t.Errorf("%s %s: %q", test.method, test.path, w.Body)
		}
		if test.code == 404 && !strings.Contains(w.Body.String(), "no such file") {
			t.Errorf("%s: %q", test.path, w.Body)
		}
	}
}

// BenchmarkTUF asks over loopback, with 64 clients: for the timestamp, as every client does, and
// again with its tag.
func BenchmarkTUF(b *testing.B) {
	mux := http.NewServeMux()
	mux.HandleFunc("/tuf/{path...}", serveTUF("/tuf/", fakeTUF{"timestamp.json": {Data: make([]byte, 800), Hash: "aa"}}))
	h := countRequests(prometheus.NewRegistry(), []string{"/tuf/{path...}"}, limitRequests(newLimiter(maxRequests), mux))
	server := httptest.NewServer(h)
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
	defer client.CloseIdleConnections()
	for name, tag := range map[string]string{"whole": "", "unchanged": `"aa"`} {
		b.Run(name, func(b *testing.B) {
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r, _ := http.NewRequest(http.MethodGet, server.URL+"/tuf/timestamp.json", nil)
					r.Header.Set("If-None-Match", tag)
					answer, err := client.Do(r)
					if err != nil {
						b.Error(err)
						return
					}
					io.Copy(io.Discard, answer.Body)
					answer.Body.Close()
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}
