package outage

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

type status struct{ code int }

func (s status) Error() string   { return fmt.Sprint("status ", s.code) }
func (s status) StatusCode() int { return s.code }

// Real errors of real connections, and those that say what they are.
func TestCodeOf(t *testing.T) {
	get := func(client *http.Client, url string) error {
		patience := 10 * time.Second
		if strings.HasSuffix(url, "/hang") || strings.HasSuffix(url, "/drip") {
			patience = 100 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		_, err = io.Copy(io.Discard, answer.Body)
		return err
	}
	done := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-done:
			case <-r.Context().Done():
			}
		case "/drip":
			for range 100 {
				fmt.Fprint(w, "x")
				w.(http.Flusher).Flush()
				time.Sleep(10 * time.Millisecond)
			}
		case "/cut":
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "x")
		case "/close":
			panic(http.ErrAbortHandler)
		}
	}))
	defer server.Close()
	defer close(done)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	secure.StartTLS()
	defer secure.Close()
	closed := httptest.NewServer(nil)
	closed.Close()
	names := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "rekor.invalid", IsTimeout: true}}
	}}}
	old := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10, InsecureSkipVerify: true}}}
	for _, c := range []struct {
		what, code string
		err        error
	}{
		{"nothing", "", nil},
		{"hangs", CodeTimeout, get(server.Client(), server.URL+"/hang")},
		{"drips", CodeTimeout, get(server.Client(), server.URL+"/drip")},
		{"cut off", CodeMalformed, get(server.Client(), server.URL+"/cut")},
		{"closes", CodeNotReachable, get(server.Client(), server.URL+"/close")},
		{"refuses", CodeNotReachable, get(http.DefaultClient, closed.URL)},
		{"another authority", CodeTLS, get(http.DefaultClient, secure.URL)},
		{"no version in common", CodeTLS, get(old, secure.URL)},
		{"no TLS at all", CodeTLS, get(http.DefaultClient, strings.Replace(server.URL, "http:", "https:", 1))},
		{"no such name", CodeDNS, get(names, "http://rekor.invalid")},
		{"500", CodeHTTPError, fmt.Errorf("poll: %w", status{500})},
		{"429", CodeRateLimited, fmt.Errorf("poll: %w", status{429})},
		{"deadline", CodeTimeout, fmt.Errorf("poll: %w", context.DeadlineExceeded)},
		{"deadline of a connection", CodeTimeout, fmt.Errorf("poll: %w", os.ErrDeadlineExceeded)},
		{"coded", CodeRollback, fmt.Errorf("poll: %w", Coded(CodeRollback, status{500}))},
		{"anything", CodeMalformed, errors.New("not a checkpoint")},
		{"canceled", CodeNotReachable, context.Canceled},
	} {
		if c.what != "nothing" && c.err == nil {
			t.Errorf("%s: no error", c.what)
		}
		if got := CodeOf(c.err); got != c.code {
			t.Errorf("%s: %s, want %s: %v", c.what, got, c.code, c.err)
		}
	}
	if Coded(CodeFork, nil) != nil {
		t.Error("no error has a code")
	}
	if got := short("a\x00b\n\tc \xff" + strings.Repeat("é", 400)); len(got) > maxText+10 || !strings.HasPrefix(got, "a b c ?é") {
		t.Errorf("short: %q", got)
	}
}
