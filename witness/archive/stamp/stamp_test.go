package stamp_test

import (
	"context"
	"crypto/sha512"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"github.com/understudy-log/understudy/witness/archive/stamp"
)

// serve answers every request with handle, on loopback, until the test ends.
func serve(t *testing.T, handle http.HandlerFunc) string {
	server := httptest.NewServer(handle)
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server.URL
}

// answer serves what the authority says to a request, after edit.
func (a *tsa) answer(t *testing.T, edit func(d *draft, r *timestamp.Request)) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		body := must(io.ReadAll(r.Body))
		request, err := timestamp.ParseRequest(body)
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", "application/timestamp-reply")
		w.Write(a.respond(func(d *draft) {
			d.info.Imprint.Digest, d.info.Nonce = request.HashedMessage, request.Nonce
			if edit != nil {
				edit(d, request)
			}
		}))
	})
}

func TestStamp(t *testing.T) {
	a := newTSA(signerTemplate())
	var request *http.Request
	var query []byte
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		request, query = r, must(io.ReadAll(r.Body))
		parsed := must(timestamp.ParseRequest(query))
		w.WriteHeader(http.StatusCreated) // as Sigstore's server does if it is told to
		w.Write(a.respond(func(d *draft) { d.info.Nonce = parsed.Nonce }))
	})
	roots := must(stamp.RootsFromPEM(a.rootPEM()))
	authority := must(stamp.New(stamp.Config{URL: url, Contact: "archive@understudy.test", Roots: roots}))
	nonces := map[string]bool{}
	for range 3 {
		before := time.Now().Truncate(time.Second)
		token, at, err := authority.Stamp(t.Context(), digest)
		if err != nil {
			t.Fatal(err)
		}
		if at.Before(before) || at.After(time.Now()) || at.Location() != time.UTC {
			t.Errorf("stamped at %v", at)
		}
		if again, _, err := stamp.Verify(token, digest, roots); err != nil || !again.Equal(at) {
			t.Errorf("verified: %v, %v", again, err)
		}
		parsed := must(timestamp.ParseRequest(query))
		if !parsed.Certificates || parsed.HashAlgorithm.String() != "SHA-256" || [32]byte(parsed.HashedMessage) != digest {
			t.Errorf("asked %+v", parsed)
		}
		nonces[parsed.Nonce.String()] = true
	}
	if len(nonces) != 3 {
		t.Errorf("nonces %v", nonces)
	}
	if agent := request.UserAgent(); request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/timestamp-query" ||
		!strings.HasPrefix(agent, "understudy/") || !strings.HasSuffix(agent, " (archive@understudy.test)") {
		t.Errorf("%s with %v", request.Method, request.Header)
	}
}

func TestNew(t *testing.T) {
	for _, config := range []stamp.Config{{}, {URL: "tsa.example"}, {URL: "ftp://tsa.example"}, {URL: "http://"}, {URL: "http://tsa.example", Skew: -1}, {URL: "http://tsa.example", Timeout: -1}} {
		if _, err := stamp.New(config); err == nil {
			t.Errorf("accepted %+v", config)
		}
	}
}

// TestAnsweredWrong: what an authority says that must be reported.
func TestAnsweredWrong(t *testing.T) {
	a, other := newTSA(signerTemplate()), newTSA(signerTemplate())
	plain := signerTemplate()
	plain.ExtraExtensions = nil
	old := signerTemplate()
	old.NotBefore, old.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(-30*time.Minute)
	elsewhere := a.answer(t, nil)
	var followed atomic.Bool
	for _, c := range []struct {
		name, reason string
		url          string
	}{
		{"another nonce", "answers another request", a.answer(t, func(d *draft, r *timestamp.Request) { d.info.Nonce.Add(r.Nonce, r.Nonce) })},
		{"no nonce", "answers another request", a.answer(t, func(d *draft, r *timestamp.Request) { d.info.Nonce = nil })},
		{"another imprint", "belongs to something else", a.answer(t, func(d *draft, r *timestamp.Request) { d.info.Imprint.Digest = make([]byte, 32) })},
		{"another hash", "SHA-384 and not a SHA-256", a.answer(t, func(d *draft, r *timestamp.Request) {
			sum := sha512.Sum384(artifact)
			d.info.Imprint.Algorithm.Algorithm, d.info.Imprint.Digest = oidSHA384, sum[:]
		})},
		{"refusal", `the request is rejected ("we are closed"): ask its operator`, a.answer(t, func(d *draft, r *timestamp.Request) {
			d.status = status{Status: 2, Text: []asn1.RawValue{text("we are closed")}}
		})},
		{"no certificate", "no certificate", a.answer(t, func(d *draft, r *timestamp.Request) { d.certificates = nil })},
		{"no extended key usage", "not for time stamps alone", a.with(plain).answer(t, nil)},
		{"expired", "certificate has expired", a.with(old).answer(t, nil)},
		{"a chain of its own making", "signed by unknown authority", other.answer(t, nil)},
		{"too late", "ahead of this machine's clock", a.answer(t, func(d *draft, r *timestamp.Request) {
			d.info.Time = time.Now().UTC().Add(6*time.Minute + 500*time.Millisecond)
		})},
		{"too early", "behind this machine's clock", a.answer(t, func(d *draft, r *timestamp.Request) { d.info.Time = time.Now().UTC().Add(-6 * time.Minute) })},
		{"garbage", "TimeStampResp", serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, "<html>") })},
		{"nothing", "TimeStampResp", serve(t, func(w http.ResponseWriter, r *http.Request) {})},
		{"not found", "404 Not Found", serve(t, http.NotFound)},
		{"redirect", `redirect to "` + elsewhere, serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere, http.StatusTemporaryRedirect)
		})},
		{"redirect to itself", "redirect to", serve(t, func(w http.ResponseWriter, r *http.Request) {
			followed.CompareAndSwap(false, r.URL.Path != "/")
			http.Redirect(w, r, "/again", http.StatusPermanentRedirect)
		})},
	} {
		t.Run(c.name, func(t *testing.T) {
			authority := must(stamp.New(stamp.Config{URL: c.url, Roots: must(stamp.RootsFromPEM(a.rootPEM()))}))
			token, at, err := authority.Stamp(t.Context(), digest)
			refused(t, err, c.reason)
			if token != nil || !at.IsZero() || err != nil && !strings.HasPrefix(err.Error(), "time stamp of http://127.0.0.1") {
				t.Errorf("%d bytes, %v, %v", len(token), at, err)
			}
		})
	}
	if followed.Load() {
		t.Error("a redirect was followed")
	}
	authority := must(stamp.New(stamp.Config{URL: other.answer(t, nil)}))
	if _, _, err := authority.Stamp(t.Context(), digest); err != nil {
		t.Errorf("a chain of its own making, no roots: %v", err)
	}
	authority = must(stamp.New(stamp.Config{URL: a.with(old).answer(t, nil)}))
	_, _, err := authority.Stamp(t.Context(), digest)
	refused(t, err, "certificate has expired")
	authority = must(stamp.New(stamp.Config{Skew: 10 * time.Minute, URL: a.answer(t, func(d *draft, r *timestamp.Request) { d.info.Time = time.Now().UTC().Add(-6 * time.Minute) })}))
	if _, _, err := authority.Stamp(t.Context(), digest); err != nil {
		t.Errorf("within the skew: %v", err)
	}
}

// TestHuge: of a gigabyte hardly more is read than a response may have.
func TestHuge(t *testing.T) {
	wrote := make(chan int, 1)
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		n, piece := 0, make([]byte, 1<<16)
		defer func() { wrote <- n }()
		for n < 1<<30 {
			k, err := w.Write(piece)
			if n += k; err != nil {
				return
			}
		}
	})
	_, _, err := must(stamp.New(stamp.Config{URL: url})).Stamp(t.Context(), digest)
	refused(t, err, "more than 65536 bytes")
	if n := <-wrote; n > 64<<20 { // what sockets hold
		t.Errorf("the server got rid of %d bytes", n)
	}
}

// TestUnreachable: what may pass.
func TestUnreachable(t *testing.T) {
	a := newTSA(signerTemplate())
	closed := must(net.Listen("tcp", "127.0.0.1:0"))
	closed.Close()
	failing := func(code int, after string) string {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", after)
			w.WriteHeader(code)
		})
	}
	waiting := func(failure byte) string {
		return a.answer(t, func(d *draft, r *timestamp.Request) {
			d.status = status{Status: 2, Failure: asn1.BitString{Bytes: []byte{0, failure, 0}, BitLength: 24}}
		})
	}
	for _, c := range []struct {
		name, reason string
		url          string
		after        time.Duration
	}{
		{"nobody listens", "connection refused", "http://" + closed.Addr().String(), 0},
		{"nobody listens, with a password", "connection refused", "http://us:secret@" + closed.Addr().String(), 0},
		{"error", "500 Internal Server Error", failing(500, ""), 0},
		{"gone for a while", "503 Service Unavailable", failing(503, "120"), 2 * time.Minute},
		{"gone for ages", "503 Service Unavailable", failing(503, "99999999"), 24 * time.Hour},
		{"asked too often", "429 Too Many Requests", failing(429, "soon"), 0},
		{"no clock", "time source is not available", waiting(2), 0},
		{"waiting", "the request is waiting", a.answer(t, func(d *draft, r *timestamp.Request) { d.status.Status = 3 }), 0},
		{"hang", "no whole answer within 250ms", serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		}), 0},
		{"drip", "no whole answer within 250ms", serve(t, func(w http.ResponseWriter, r *http.Request) {
			for io.Copy(io.Discard, r.Body); r.Context().Err() == nil; time.Sleep(10 * time.Millisecond) {
				w.Write([]byte{0x30})
				w.(http.Flusher).Flush()
			}
		}), 0},
		{"cut off", "unexpected EOF", serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "2000")
			w.Write([]byte{0x30})
		}), 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := stamp.Config{URL: c.url}
			if strings.Contains(c.reason, "250ms") {
				config.Timeout = 250 * time.Millisecond
			}
			start := time.Now()
			_, _, err := must(stamp.New(config)).Stamp(t.Context(), digest)
			e, ok := errors.AsType[*stamp.UnreachableError](err)
			if !ok || !strings.Contains(err.Error(), c.reason) || e.After != c.after || strings.Contains(err.Error(), "secret") {
				t.Errorf("error %v (%+v), want one that says %q", err, e, c.reason)
			}
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
		})
	}
}

// TestGivenUp: an end of the caller's own is not the authority's.
func TestGivenUp(t *testing.T) {
	asked := make(chan struct{})
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(asked)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	_, _, err := must(stamp.New(stamp.Config{URL: url})).Stamp(ctx, digest)
	if _, ok := errors.AsType[*stamp.UnreachableError](err); ok || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
