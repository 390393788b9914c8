package rest

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/test/bubble"
)

// pipes are connections in memory to what Serve serves, each from an address of its own. They
// work in a bubble.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

// servePipes serves until the test ends.
func servePipes(t *testing.T, h http.Handler) *pipes {
	p := &pipes{make(chan net.Conn), make(chan struct{})}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, p, h, time.Minute, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

type remoteConn struct {
	net.Conn
	remote net.Addr
}

func (c remoteConn) RemoteAddr() net.Addr { return c.remote }

// send asks for the entry 12 with a body of a size: what is a small one and a piece
// at once, then a piece after each pause. It returns what became of that, and how long it took.
func (p *pipes) send(t *testing.T, client string, size, piece int, pause time.Duration) (code int, answer string, took time.Duration) {
	began := time.Now()
	here, there := net.Pipe()
	p.conns <- remoteConn{there, &net.TCPAddr{IP: net.ParseIP(client), Port: 1}}
	var sending sync.WaitGroup
	sending.Go(func() { // until all is sent, or nobody reads it any more
		_, err := fmt.Fprintf(here, "POST /api/v1/log/entries/retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n", size)
		const end = `{"logIndexes":[12]}`
		body := append(bytes.Repeat([]byte{' '}, size-len(end)), end...)
		for n := smallBody + piece; err == nil && len(body) > 0; n = piece {
			n = min(n, len(body))
			if _, err = here.Write(body[:n]); err == nil {
				body = body[n:]
				time.Sleep(pause)
			}
		}
	})
	r, err := http.ReadResponse(bufio.NewReader(here), nil)
	if err != nil {
		t.Errorf("%s: %v", client, err)
		here.Close()
		return
	}
	data, _ := io.ReadAll(r.Body)
	took = time.Since(began)
	here.Close()
	sending.Wait()
	return r.StatusCode, string(data), took
}

// TestSlowBodies: strangers that let large bodies drip, again and again, do not keep those of
// others out, be they fast or sent steadily over a slow link.
func TestSlowBodies(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		p := servePipes(t, newFake().handler())
		var strangers sync.WaitGroup
		end := time.Now().Add(time.Minute)
		for i := range maxLargeBodies {
			strangers.Go(func() {
				for time.Now().Before(end) {
					code, answer, _ := p.send(t, fmt.Sprintf("192.0.2.%d", i), 1<<20, 1, time.Second)
					if code != http.StatusRequestTimeout || !strings.Contains(answer, "too slowly: ") {
						t.Errorf("a body that drips: %d %s", code, answer)
					}
				}
			})
		}
		time.Sleep(time.Second)
		for range 3 {
			if code, answer, took := p.send(t, "198.51.100.1", 6<<20, 6<<20, 0); code != http.StatusOK || took > 5*time.Second {
				t.Errorf("fast: %d %s after %v", code, answer, took)
			}
		}
		if code, answer, took := p.send(t, "198.51.100.1", 6<<20, 25_000, 100*time.Millisecond); code != http.StatusOK {
			t.Errorf("2 Mbit/s: %d %s after %v", code, answer, took)
		}
		strangers.Wait()
	})
}

// TestBodyPace: who sends steadily may send slowly, and is not hurried once all is there.
func TestBodyPace(t *testing.T) {
	for name, c := range map[string]struct {
		size, piece int
		pause       time.Duration
		code        int
		atMost      time.Duration // without the work
	}{
		"2 Mbit/s":               {6 << 20, 25_000, 100 * time.Millisecond, 200, 26 * time.Second},
		"long pauses":            {2 << 20, 512 << 10, 2500 * time.Millisecond, 200, 11 * time.Second},
		"a byte now and then":    {8 << 20, 1, time.Second, 408, 4 * time.Second},
		"half of the least pace": {8 << 20, 64 << 10, time.Second, 408, 7 * time.Second},
		"fast, and then nothing": {8 << 20, 7 << 20, time.Hour, 408, 4 * time.Second},
		"steady, but for ever":   {8 << 20, 150 << 10, time.Second, 408, 31 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				f := newFake()
				f.items, f.takes = []rekor.Item{oneItem("one", 12)}, 20*time.Second
				code, answer, took := servePipes(t, f.handler()).send(t, testClient, c.size, c.piece, c.pause)
				if code == http.StatusOK {
					took -= f.takes
				}
				if code != c.code || took > c.atMost {
					t.Errorf("got %d %s after %v", code, answer, took)
				}
			})
		})
	}
}

// wantTooMany demands a refusal for the time being.
func wantTooMany(t *testing.T, w *httptest.ResponseRecorder, what string) {
	t.Helper()
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "too many "+what+" at once from your address") {
		t.Errorf("got %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// longSearches is a service in which searches take as long as the test wants.
type longSearches struct {
	*fakeService
	under   atomic.Int32 // way
	release chan struct{}
}

func (f *longSearches) Search(context.Context, mirror.Client, rekor.Query) (mirror.SearchResult, mirror.Freshness, error) {
	f.under.Add(1)
	defer f.under.Add(-1)
	<-f.release
	return f.found, f.fresh, nil
}

// TestManySearches: a client may have half of the searches under way; whoever comes when there
// is no room waits, and other requests do not.
func TestManySearches(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		f := &longSearches{fakeService: newFake(), release: make(chan struct{})}
		h := handlerOf(f)
		search := func(client string) *httptest.ResponseRecorder {
			r := request(http.MethodPost, "/api/v1/index/retrieve", `{"email":"a@b.example"}`, "Content-Type: application/json")
			r.RemoteAddr = client + ":1"
			return ask(h, r)
		}
		var running sync.WaitGroup
		for i := range maxSearches {
			client := fmt.Sprint("192.0.2.", 1+i/maxClientSearches)
			running.Go(func() { wantAnswer(t, "search", search(client), 200, "[]\n") })
		}
		synctest.Wait()
		refused := make(chan *httptest.ResponseRecorder, 1)
		running.Go(func() { refused <- search("192.0.2.1") })
		running.Go(func() { wantAnswer(t, "search that waits", search("192.0.2.9"), 200, "[]\n") })
		synctest.Wait()
		select {
		case w := <-refused:
			wantTooMany(t, w, "searches")
		default:
			t.Error("one client has more searches under way than it may")
		}
		wantAnswer(t, "no search", post(h, "/api/v1/index/retrieve", "{}"), 200, "[]\n")
		if n := f.under.Load(); n != maxSearches {
			t.Errorf("%d searches are under way", n)
		}
		close(f.release)
		running.Wait()
		wantAnswer(t, "search afterwards", search("192.0.2.1"), 200, "[]\n")
	})
}

// TestManyProposals: of very many proposed entries that cost much, one client gets some
// refused, and no others.
func TestManyProposals(t *testing.T) {
	h := newFake().handler()
	var packed bytes.Buffer
	for _, size := range []int{1 << 10, 16 << 20} { // what is signed, and what takes long to unpack
		z := gzip.NewWriter(&packed)
		if _, err := z.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	body := fmt.Sprintf(`{"entries":[{"kind":"alpine","apiVersion":"0.0.1","spec":{"package":{"content":%s},"publicKey":{"content":"AA=="}}}]}`, asJSON(t, packed.Bytes()))
	propose := func(client string) *httptest.ResponseRecorder {
		r := request(http.MethodPost, "/api/v1/log/entries/retrieve", body, "Content-Type: application/json")
		r.RemoteAddr = client + ":1"
		return ask(h, r)
	}
	var running sync.WaitGroup
	answers := make(chan *httptest.ResponseRecorder, 3*maxClientProposals)
	for range cap(answers) {
		running.Go(func() { answers <- propose("192.0.2.1") })
	}
	running.Go(func() {
		if w := propose("192.0.2.2"); w.Code != http.StatusBadRequest { // it is no package
			t.Errorf("of another client: got %d %s", w.Code, w.Body)
		}
	})
	running.Wait()
	close(answers)
	taken, refused := 0, 0
	for w := range answers {
		if w.Code == http.StatusBadRequest {
			taken++
			continue
		}
		refused++
		wantTooMany(t, w, "proposed entries")
	}
	if taken < maxClientProposals || refused == 0 {
		t.Errorf("%d were taken and %d refused", taken, refused)
	}
	if w := propose("192.0.2.1"); w.Code != http.StatusBadRequest {
		t.Errorf("afterwards: got %d %s", w.Code, w.Body)
	}
}
