package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/logstage"
)

// generations are both, for tests of what they have in common.
var generations = []struct {
	name    string
	number  int
	path    string
	propose func(artifact string) []byte
	make    func(testing.TB, func(*logstage.Stage)) (*logstage.Stage, http.Handler)
}{
	{"v1", 1, pathV1, logstage.Hashedrekord, newLogV1},
	{"v2", 2, pathV2, logstage.RequestV2JSON, newLogV2},
}

// TestLogCannot: whatever keeps a log from logging is told with a status, a reason and when to try
// again, and nothing of what only its operator may know.
func TestLogCannot(t *testing.T) {
	for _, g := range generations {
		for _, c := range []struct {
			name   string
			change func(*logstage.Stage)
			before func(s *logstage.Stage, h http.Handler)
			status int
			reason string
			again  string
		}{
			{"signing", nil, func(s *logstage.Stage, _ http.Handler) { s.Sick.Store(true) }, 503, "CANNOT_SIGN", ""},
			{"too large", func(s *logstage.Stage) { s.Config.MaxEntry = 100 }, nil, 413, "ENTRY_TOO_LARGE", ""},
			{"too large for the pool", func(s *logstage.Stage) { s.Config.PoolBytes = 100 }, nil, 413, "ENTRY_TOO_LARGE", ""},
			{"full", func(s *logstage.Stage) { s.Config.PoolEntries, s.Config.BatchWait = 1, 500*time.Millisecond }, func(s *logstage.Stage, h http.Handler) {
				go s.Log.Append(context.Background(), log.Entry{Body: []byte("first")})
				time.Sleep(100 * time.Millisecond)
			}, 429, "LOG_FULL", "1"},
			{"stopping", nil, func(s *logstage.Stage, _ http.Handler) { s.Stop() }, 503, "STOPPING", "1"},
			{"behind", func(s *logstage.Stage) {
				s.Config.Cosign = func(context.Context, storage.Checkpoint, func(uint64) ([]storage.Hash, error)) ([]string, error) {
					return nil, fmt.Errorf("%w: secret-name-of-the-witness", log.ErrBehind)
				}
			}, nil, 503, "DATABASE_BEHIND", ""},
		} {
			t.Run(g.name+" "+c.name, func(t *testing.T) {
				s, h := g.make(t, c.change)
				if c.before != nil {
					c.before(s, h)
				}
				w := propose(h, g.path, g.propose("a"))
				wantRefused(t, c.name, w, c.status, "")
				if got := w.Header().Get("Retry-After"); got != c.again {
					t.Errorf("Retry-After %q, want %q", got, c.again)
				}
				if g.number == 1 && !strings.Contains(w.Body.String(), `"reason":"`+c.reason+`"`) || g.number == 2 && w.Header().Get("Understudy-Reason") != c.reason {
					t.Errorf("reason: %s %v", w.Body, w.Header())
				}
				if strings.Contains(w.Body.String(), "secret") {
					t.Errorf("tells too much: %s", w.Body)
				}
			})
		}
	}
}

// TestLogPatience: who waits for witnesses or for a clock gets the reason before its client gives up.
func TestLogPatience(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			proposed := g.propose("a") // no signing in the bubble
			ahead, _ := g.make(t, nil)
			if _, err := ahead.Log.Append(t.Context(), log.Entry{Body: []byte("first")}); err != nil {
				t.Fatal(err)
			}
			ahead.Close()
			bubble.Run(t, func(t *testing.T) {
				s, h := g.make(t, func(s *logstage.Stage) {
					s.Witnessed()
					s.Asleep.Store(true)
				})
				time.Sleep(time.Second) // the witnesses have been asked
				began := time.Now()
				w := propose(h, g.path, proposed)
				wantRefused(t, "unwitnessed", w, http.StatusServiceUnavailable, "too few witnesses")
				if took := time.Since(began); took < 20*time.Second || took > 29*time.Second {
					t.Errorf("it took %v", took)
				}
				if strings.Contains(w.Body.String(), "secret") || w.Header().Get("Retry-After") == "" {
					t.Errorf("%v %s", w.Header(), w.Body)
				}
				s.Asleep.Store(false)
				s.Close()
			})
			bubble.Run(t, func(t *testing.T) { // in 2000: the clock went back by years
				s := logstage.Reopen(t, ahead)
				h := logHandler(t, s, g.number, prometheus.NewRegistry(), io.Discard, nil)
				w := propose(h, g.path, proposed)
				wantRefused(t, "clock", w, http.StatusServiceUnavailable, "CLOCK_WENT_BACK")
				s.Close()
			})
		})
	}
}

// TestLogRoles: a role is what it says and no more, on every path.
func TestLogRoles(t *testing.T) {
	for _, g := range generations {
		s, h := g.make(t, nil)
		if w := ask(h, as("append", "POST", g.path, bytes.NewReader(g.propose("a")))); w.Code != http.StatusCreated {
			t.Errorf("append: %d %s", w.Code, w.Body)
		}
		reads := []string{"GET /api/v1/log", "GET /api/v1/log/publicKey", "GET " + pathV1 + "?logIndex=0", "POST " + pathV1 + "/retrieve", "POST /api/v1/index/retrieve", "GET /api/v1/log/proof?lastSize=1"}
		if g.number == 2 {
			reads = []string{"GET /api/v2/checkpoint", "GET /api/v2/tile/0/000.p/1", "GET /api/v2/tile/entries/000.p/1"}
		}
		for _, name := range []string{"", "append", "read", "operate", "approve"} {
			status := func(role string) int {
				switch name {
				case "":
					return 401
				case role:
					return 200
				}
				return 403
			}
			answer := func(method, path string, want int) {
				t.Helper()
				var in io.Reader
				if method == http.MethodPost {
					in = strings.NewReader(`{}`)
				}
				w := ask(h, as(name, method, path, in))
				if w.Code != want && !(want == 200 && slices.Contains([]int{400, 422}, w.Code)) {
					t.Errorf("%s: %q %s %s: %d, want %d", g.name, name, method, path, w.Code, want)
				}
				if w.Code == 401 || w.Code == 403 {
					wantRefused(t, path, w, w.Code, "")
				}
			}
			for _, read := range reads {
				method, path, _ := strings.Cut(read, " ")
				answer(method, path, status("read"))
				if method == "GET" {
					answer("HEAD", path, status("read"))
				}
			}
			answer("GET", auditPath, status("operate"))
			answer("GET", auditPath+"?start=0&end=1", status("operate"))
			answer("POST", g.path, status("append"))
			if g.number == 1 { // a slash at the end changes nothing
				answer("POST", g.path+"/", status("append"))
				answer("POST", "/api/v1/log%2fentries", status("append"))
				answer("GET", "/api/v1/log/", status("read"))
			}
		}
		s.Sound()
	}
}

// TestLogHealth: health is for everybody, and is nothing but that.
func TestLogHealth(t *testing.T) {
	for _, c := range []struct {
		make         func(testing.TB, func(*logstage.Stage)) (*logstage.Stage, http.Handler)
		path, answer string
	}{{newLogV1, "/ping", "."}, {newLogV2, "/healthz", `{"status":"SERVING"}`}} {
		_, h := c.make(t, nil)
		for _, name := range []string{"", "approve", "nobody"} {
			w := ask(h, as(name, "GET", c.path, nil))
			wantAnswer(t, c.path, w, http.StatusOK, c.answer)
		}
		for _, r := range []*http.Request{as("", "POST", c.path, strings.NewReader("x")), as("", "GET", c.path+"/", nil), as("", "GET", "/"+c.path, nil), as("", "GET", "/%"+fmt.Sprintf("%x", c.path[1])+c.path[2:], nil)} {
			wantRefused(t, r.Method+" "+r.URL.String(), ask(h, r), http.StatusUnauthorized, "")
		}
	}
	for _, generation := range []string{"v1", "v2"} {
		w := ask(LostLog(generation), as("", "GET", "/healthz", nil))
		wantRefused(t, generation, w, http.StatusServiceUnavailable, "its operator")
		if strings.Contains(w.Body.String(), `"details":[]`) != (generation == "v2") || w.Header().Get("Retry-After") != "" { // to wait does not help
			t.Errorf("%s: %s", generation, w.Body)
		}
	}
	if w := ask(LostLog("v2"), as("", "POST", "/dev.sigstore.rekor.v2.Rekor/CreateEntry", nil, "Content-Type: application/grpc")); w.Code != http.StatusOK || w.Header().Get("Grpc-Status") != "14" {
		t.Errorf("gRPC: %d %v", w.Code, w.Header())
	}
}

// TestLogToken: a token in the path leads to the log, and is shown nowhere.
func TestLogToken(t *testing.T) {
	for _, g := range generations {
		s := logstage.New(t, g.number, func(s *logstage.Stage) {
			if g.number == 1 {
				promised(s)
			}
		})
		registry := prometheus.NewRegistry()
		var logged lockedBuffer
		h := logHandler(t, s, g.number, registry, &logged, nil)
		token := tokenOf("all")
		var shown strings.Builder
		for _, r := range []*http.Request{
			as("", "POST", "/token/"+token+g.path, bytes.NewReader(g.propose("a"))),
			as("", "POST", "/token/"+token+g.path, strings.NewReader("junk")),
			as("", "GET", "/token/"+token+"/nothing/"+token, nil),
			as("", "GET", "/token/"+token+"//api//v1/log", nil),
			as("", "GET", "/token/"+token+auditPath, nil),
			as("", "GET", "/token/"+token+"?x="+token, nil),
			as("", "GET", "/token/"+tokenOf("stranger")+"/x", nil),
		} {
			w := ask(h, r)
			fmt.Fprintln(&shown, w.Code, w.Header(), w.Body)
		}
		if s.Log.Tree().State().Head.Size != 1 {
			t.Errorf("%s: not logged: %s", g.name, &shown)
		}
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if _, err := expfmt.MetricFamilyToText(&shown, f); err != nil {
				t.Fatal(err)
			}
		}
		if text := shown.String() + logged.String(); strings.Contains(text, "us_") || strings.Contains(text, token[3:20]) {
			t.Errorf("%s: a token is shown: %s", g.name, text)
		}
	}
}

// TestLogBrowser: no page of another site reads or writes a private log.
func TestLogBrowser(t *testing.T) {
	for _, g := range generations {
		s := logstage.New(t, g.number, func(s *logstage.Stage) {
			if g.number == 1 {
				promised(s)
			}
		})
		h := logHandler(t, s, g.number, prometheus.NewRegistry(), io.Discard, nil)
		for _, r := range []*http.Request{
			as("all", "GET", "/api/v1/log", nil), as("all", "GET", "/api/v2/checkpoint", nil), as("all", "OPTIONS", g.path, nil, "Access-Control-Request-Method: POST"),
			as("all", "POST", g.path, bytes.NewReader(g.propose("a"))), as("", "GET", "/healthz", nil), as("", "GET", "/ping", nil),
		} {
			r.Header.Set("Origin", "https://evil.example")
			w := ask(h, r)
			for name := range w.Header() {
				if strings.HasPrefix(name, "Access-Control-") {
					t.Errorf("%s: %s %s: %s", g.name, r.Method, r.URL, name)
				}
			}
			if r.Method == http.MethodPost {
				wantRefused(t, "POST", w, http.StatusForbidden, "another site")
			}
		}
	}
}

// lockedBuffer is a buffer for several writers.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// serveLog serves a handler as the daemon does and returns its address.
func serveLog(t testing.TB, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- ServeLog(ctx, l, h, nil, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestLogFlood: an identity gets as much at once as it may, and all else is told to wait, so that
// others still get answers.
func TestLogFlood(t *testing.T) {
	for _, g := range generations {
		s := logstage.New(t, g.number, func(s *logstage.Stage) {
			if g.number == 1 {
				promised(s)
			}
			s.Witnessed()
			s.Asleep.Store(true)
		})
		h := logHandler(t, s, g.number, prometheus.NewRegistry(), io.Discard, func(i *access.Identity) {
			if i.Name == "append" {
				i.RequestsAtOnce = 8
			}
		})
		var proposed [40][]byte
		for i := range proposed {
			proposed[i] = g.propose(fmt.Sprint(i))
		}
		answers := make(chan *httptest.ResponseRecorder, len(proposed))
		var running sync.WaitGroup
		for i := range proposed {
			running.Go(func() { answers <- ask(h, as("append", "POST", g.path, bytes.NewReader(proposed[i]))) })
		}
		for range len(proposed) - 8 {
			w := <-answers
			wantRefused(t, g.name, w, http.StatusTooManyRequests, "8 requests under way")
			if w.Header().Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		}
		if w := ask(h, as("operate", "GET", auditPath, nil)); w.Code != http.StatusOK {
			t.Errorf("others: %d", w.Code)
		}
		s.Asleep.Store(false)
		running.Wait()
		for range 8 {
			if w := <-answers; w.Code != http.StatusCreated {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		}
	}
}

// TestLogLargeBodies: memory is bounded, however many large bodies come at once, and small ones are
// not held up by them.
func TestLogLargeBodies(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("too slow under the race detector, which has memory of its own")
	}
	s, h := newLogV1(t, func(s *logstage.Stage) {
		s.Witnessed()
		s.Disk, s.Dir = vfs.Default, t.TempDir()
	})
	address := serveLog(t, h)
	s.AwaitPublished(0)
	s.Asleep.Store(true) // large entries are logged, and wait
	payload := logstage.Statement(strings.Repeat("x", 5<<20))
	var proposed [32][]byte
	for i := range proposed {
		proposed[i] = logstage.DSSE(payload)
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var running sync.WaitGroup
	for i := range proposed {
		running.Go(func() {
			r, err := http.NewRequest("POST", "http://"+address+pathV1, bytes.NewReader(proposed[i]))
			if err != nil {
				t.Error(err)
				return
			}
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Authorization", "Bearer "+tokenOf("all"))
			answer, err := http.DefaultClient.Do(r)
			for err == nil && answer.StatusCode == http.StatusTooManyRequests { // of a busy machine
				answer.Body.Close()
				time.Sleep(time.Second)
				r.Body, _ = r.GetBody()
				answer, err = http.DefaultClient.Do(r)
			}
			if err != nil {
				t.Error(err)
				return
			}
			defer answer.Body.Close()
			if answer.StatusCode != http.StatusCreated {
				t.Errorf("%d", answer.StatusCode)
			}
		})
	}
	s.AwaitHeld(uint64(len(proposed)))
	// What decoded them goes a moment later. Then at most 65 MiB are left, of the database, and would be 200
	// at least if proposals were kept.
	grown := int64(0)
	for range 20 {
		runtime.GC()
		runtime.ReadMemStats(&now)
		if grown = int64(now.HeapAlloc) - int64(before.HeapAlloc); grown <= 130<<20 {
			break
		}
		time.Sleep(500 * time.Millisecond)
	}
	if grown > 130<<20 {
		t.Errorf("%d requests that wait for witnesses hold %d MiB", len(proposed), grown>>20)
	}
	s.Asleep.Store(false)
	running.Wait()
}

// TestLogRoom: who waits for room among large requests is told to come again, before it is cut off.
func TestLogRoom(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		room := newCostly(1, 8, "large requests")
		r := request(http.MethodPost, pathV1, "x")
		if err := room.enter(r); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		e, ok := errors.AsType[rekorError](room.enter(r))
		if !ok || e.Code != http.StatusTooManyRequests || time.Since(began) != roomTime {
			t.Errorf("%+v after %v", e, time.Since(began))
		}
		time.AfterFunc(time.Second, func() { room.leave(r) })
		if err := room.enter(r); err != nil {
			t.Error(err)
		}
		room.leave(r)
		if len(room.byClient.inUse) != 0 {
			t.Errorf("still counted: %v", room.byClient.inUse)
		}
	})
}
