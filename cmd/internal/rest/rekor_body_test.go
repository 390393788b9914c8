package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
)

// TestRubbishBodies: what is no request is refused with a sentence, and nobody is asked.
func TestRubbishBodies(t *testing.T) {
	deep := strings.Repeat("[", 20_000)
	for _, body := range []string{
		"\x00", "{", `{"logIndexes":`, `{"logIndexes":[1,]}`, `{"logIndexes":{}}`, `"x"`, "12", "true",
		`{"logIndexes":[9223372036854775808]}`, `{"entryUUIDs":[1]}`, `{"entryUUIDs":[null]}`, `{"entryUUIDs":["` + strings.Repeat("0", 80) + `"]}`,
		`{"entries":{}}`, `{"entries":[null]}`, `{"entries":[1]}`, `{"entries":[{"kind":"rekord"}]}`, `{"entries":` + deep + `}`,
		`{"entries":[{"kind":"jar","apiVersion":"0.0.1","spec":{"archive":{"content":"UEsDBA=="}}}]}`,
		"\xef\xbb\xbf{}", `{"logIndexes":[1e99]}`,
	} {
		f := newFake()
		w := post(f.handler(), "/api/v1/log/entries/retrieve", body)
		if w.Code != 400 && w.Code != 422 || !strings.HasPrefix(w.Body.String(), `{"code":`) || f.refs != nil {
			t.Errorf("%.60q: got %d %.200s, asked for %v", body, w.Code, w.Body, f.refs)
		}
	}
	for _, body := range []string{
		"\x00", "[", `{"email":1}`, `{"email":"` + strings.Repeat("a", 100) + `"}`, `{"hash":"sha256:"}`, `{"publicKey":1}`, `{"publicKey":{}}`,
		`{"publicKey":{"format":"x509","content":"?"}}`, `{"publicKey":{"format":"pgp","content":"AAAA"}}`, `{"publicKey":{"format":"tuf","content":"e30="}}`,
		`{"publicKey":{"format":"ssh","content":"AAAA"}}`, `{"publicKey":{"format":"minisign","content":"AAAA"}}`, `{"operator":"xor"}`,
	} {
		f := newFake()
		w := post(f.handler(), "/api/v1/index/retrieve", body)
		if w.Code != 400 && w.Code != 422 || !strings.HasPrefix(w.Body.String(), `{"code":`) || f.client != "" {
			t.Errorf("%.60q: got %d %.200s, asked for %+v", body, w.Code, w.Body, f.query)
		}
	}
}

// blanks are n bytes that JSON does not mind.
func blanks(n int64) io.Reader { return io.LimitReader(blank{}, n) }

type blank struct{}

func (blank) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// TestGiantBodies: a body over the bound is cut off there, whatever it says of its length.
func TestGiantBodies(t *testing.T) {
	const bound = 8 << 20 // as docs/api.md has it
	h := newFake().handler()
	for _, length := range []int64{-1, 1 << 40} {
		for _, target := range []string{"/api/v1/log/entries/retrieve", "/api/v1/index/retrieve"} {
			read := &counter{Reader: blanks(1 << 40)}
			r := request(http.MethodPost, target, "x", "Content-Type: application/json")
			r.Body, r.ContentLength = io.NopCloser(read), length
			if w := ask(h, r); w.Code != http.StatusRequestEntityTooLarge {
				t.Errorf("%s: got %d %s", target, w.Code, w.Body)
			}
			if read.n > bound+1<<20 {
				t.Errorf("%s: %d bytes were read", target, read.n)
			}
		}
	}
	// One that is just below it is taken.
	r := request(http.MethodPost, "/api/v1/log/entries/retrieve", "x", "Content-Type: application/json")
	r.Body, r.ContentLength = io.NopCloser(io.MultiReader(blanks(bound-2), strings.NewReader("{}"))), -1
	wantAnswer(t, "body of 8 MiB", ask(h, r), 200, "[]\n")
}

type counter struct {
	io.Reader
	n int64
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// TestLargeBodies: a client may have two large bodies under way, all clients together four;
// small ones are never kept waiting.
func TestLargeBodies(t *testing.T) {
	h := newFake().handler()
	var waiting sync.WaitGroup
	large := func(client string) (release func(), answer func() int) {
		in, out := io.Pipe()
		r := request(http.MethodPost, "/api/v1/log/entries/retrieve", "x", "Content-Type: application/json")
		r.Body, r.ContentLength, r.RemoteAddr = in, -1, client+":1"
		w := httptest.NewRecorder()
		done := make(chan struct{})
		waiting.Go(func() {
			h.ServeHTTP(w, r)
			in.Close()
			close(done)
		})
		io.Copy(out, blanks(smallBody+1)) // returns when the last byte is read, or the answer is there
		return func() { out.Write([]byte("{}")) }, func() int {
			select {
			case <-done:
				return w.Code
			case <-time.After(5 * time.Second): // it was let in
				out.Close()
				return 0
			}
		}
	}
	var releases []func()
	for _, client := range []string{"192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"} {
		release, _ := large(client)
		releases = append(releases, release)
	}
	if _, answer := large("192.0.2.1"); answer() != http.StatusTooManyRequests {
		t.Errorf("third large body of a client: %d", answer())
	}
	wantAnswer(t, "small body", post(h, "/api/v1/log/entries/retrieve", "{}"), 200, "[]\n")
	// The fifth waits until one of the four is done, and not longer than its client. What
	// it took it gives back, or else the third one would be too many.
	for range maxClientLarge + 1 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if w := ask(h, largeRequest().WithContext(ctx)); w.Code == http.StatusOK || w.Code == http.StatusTooManyRequests {
			t.Errorf("fifth large body: got %d %s", w.Code, w.Body)
		}
		cancel()
	}
	for _, release := range releases {
		release()
	}
	waiting.Wait()
	wantAnswer(t, "large body afterwards", ask(h, largeRequest()), 200, "[]\n")
}

// largeRequest asks for nothing at length.
func largeRequest() *http.Request {
	r := request(http.MethodPost, "/api/v1/log/entries/retrieve", "x", "Content-Type: application/json")
	r.Body, r.ContentLength = io.NopCloser(io.MultiReader(blanks(smallBody*2), strings.NewReader("{}"))), -1
	return r
}

// TestSlowBody: a body that does not come in time is 408, and a client that goes away is
// waited for no longer.
func TestSlowBody(t *testing.T) {
	f := newFake()
	server := httptest.NewUnstartedServer(f.handler())
	server.Config.ReadTimeout = 200 * time.Millisecond
	server.Start()
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /api/v1/log/entries/retrieve HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{")
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != http.StatusRequestTimeout || !bytes.Contains(body, []byte(`"code":408`)) {
		t.Errorf("slow body: got %d %s", answer.StatusCode, body)
	}

	f.reaches = make(chan struct{})
	ctx, cancel := context.WithCancel(t.Context())
	r := request(http.MethodPost, "/api/v1/log/entries/retrieve", `{"logIndexes":[1]}`, "Content-Type: application/json").WithContext(ctx)
	done := make(chan int)
	go func() { done <- ask(f.handler(), r).Code }()
	<-f.reaches
	cancel()
	if code := <-done; code != statusClientClosed {
		t.Errorf("client that went away: got %d", code)
	}
}

// FuzzRekorRequest: any request gets an answer, which is JSON where it says so, and the
// service is asked for at most ten entries.
func FuzzRekorRequest(f *testing.F) {
	for _, r := range recordings(f) {
		f.Add(r.Method, r.Target, r.Body, strings.Join(r.Headers, "\n"))
	}
	methods := []string{http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodOptions}
	f.Fuzz(func(t *testing.T, method, target, body, headers string) {
		if !strings.HasPrefix(target, "/") || !slices.Contains(methods, method) {
			return
		}
		r, err := http.NewRequest(method, "http://x"+target, strings.NewReader(body))
		if err != nil {
			return
		}
		r.RemoteAddr = testClient + ":1"
		for line := range strings.SplitSeq(headers, "\n") {
			if name, value, ok := strings.Cut(line, ": "); ok {
				r.Header.Add(name, value)
			}
		}
		service := newFake()
		service.items = append(service.items, oneItem("one", 12))
		w := ask(service.handler(), r)
		if w.Code < 200 || w.Code > 599 || len(service.refs) > maxItems {
			t.Errorf("got %d, asked for %d entries", w.Code, len(service.refs))
		}
		if w.Code == http.StatusInternalServerError || w.Code == http.StatusServiceUnavailable {
			t.Errorf("got %d %s", w.Code, w.Body)
		}
		wantJSON(t, w)
	})
}

// wantJSON holds an answer that says to be JSON to being it.
func wantJSON(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	if w.Header().Get("Content-Type") == mediaJSON && !json.Valid(w.Body.Bytes()) {
		t.Errorf("got %d %q", w.Code, w.Body)
	}
}

// BenchmarkRekor measures what the adapter takes of an answer.
func BenchmarkRekor(b *testing.B) {
	f := newFake()
	for _, r := range recordings(b) {
		if r.Name == "entry by index 13 (active, dsse)" {
			items, err := rekor.ParseAnswer([]byte(r.Answer))
			if err != nil {
				b.Fatal(err)
			}
			for range 10 {
				f.items = append(f.items, items...)
			}
		}
	}
	h := f.handler()
	for name, r := range map[string]func() *http.Request{
		"index": func() *http.Request { return request(http.MethodGet, "/api/v1/log/entries?logIndex=13", "") },
		"proof": func() *http.Request { return request(http.MethodGet, "/api/v1/log/proof?firstSize=3&lastSize=90", "") },
		"retrieve": func() *http.Request {
			return request(http.MethodPost, "/api/v1/log/entries/retrieve", `{"logIndexes":[13,13,13,13,13,13,13,13,13,13]}`, "Content-Type: application/json")
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if w := ask(h, r()); w.Code != 200 || w.Body.Len() < 50 {
					b.Fatal(w.Code, w.Body)
				}
			}
		})
	}
}
