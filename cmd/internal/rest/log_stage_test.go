package rest

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/test/logstage"
)

// tokenOf is the token of an identity in tests.
func tokenOf(name string) string { return fmt.Sprintf("us_%x", sha256.Sum256([]byte(name))) }

// logControl knows an identity for each role, which has its name, and "all", which has all.
func logControl(t testing.TB, registry prometheus.Registerer, change func(*access.Identity)) *access.Control {
	t.Helper()
	roles := []access.Role{access.Append, access.Read, access.Operate, access.Approve}
	c := access.Config{Logger: slog.New(slog.DiscardHandler), Registerer: registry}
	for _, name := range []string{"append", "read", "operate", "approve", "all"} {
		sum := sha256.Sum256([]byte(tokenOf(name)))
		i := access.Identity{Name: name, TokenSHA256: sum[:], Roles: roles, EntriesPerSecond: 1e6, RequestsAtOnce: 1000}
		if name != "all" {
			i.Roles = []access.Role{access.Role(name)}
		}
		if change != nil {
			change(&i)
		}
		c.Identities = append(c.Identities, i)
	}
	control, err := access.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return control
}

// logHandler serves a stage's log; what it logs goes to out.
func logHandler(t testing.TB, s *logstage.Stage, generation int, registry *prometheus.Registry, out io.Writer, change func(*access.Identity)) http.Handler {
	t.Helper()
	control := logControl(t, registry, change)
	logger := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if generation == 2 {
		return NewLogV2(LogV2Config{Log: private.NewV2(s.Log, s.LogID), Access: control, GRPC: http.NotFoundHandler(), Logger: logger, Registerer: registry})
	}
	v1, err := private.NewV1(s.Log, logstage.TreeID, s.Public)
	if err != nil {
		t.Fatal(err)
	}
	return NewLogV1(LogV1Config{Log: v1, Access: control, Logger: logger, Registerer: registry})
}

// promised gives a log of the first generation its promises.
func promised(s *logstage.Stage) {
	promise, err := private.PromiseV1(s.Public, s.Signer, true)
	if err != nil {
		panic(err)
	}
	s.Config.Promise = promise
}

// newLogV1 makes a log of Rekor v1 and its handler.
func newLogV1(t testing.TB, change func(*logstage.Stage)) (*logstage.Stage, http.Handler) {
	t.Helper()
	s := logstage.New(t, 1, func(s *logstage.Stage) {
		promised(s)
		if change != nil {
			change(s)
		}
	})
	return s, logHandler(t, s, 1, prometheus.NewRegistry(), io.Discard, nil)
}

func newLogV2(t testing.TB, change func(*logstage.Stage)) (*logstage.Stage, http.Handler) {
	t.Helper()
	s := logstage.New(t, 2, change)
	return s, logHandler(t, s, 2, prometheus.NewRegistry(), io.Discard, nil)
}

// as is a request of an identity.
func as(name, method, target string, body io.Reader, headers ...string) *http.Request {
	r := httptest.NewRequest(method, target, body)
	if name != "" {
		r.Header.Set("Authorization", "Bearer "+tokenOf(name))
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		r.Header.Set(name, value)
	}
	return r
}

const (
	pathV1 = "/api/v1/log/entries"
	pathV2 = "/api/v2/log/entries"
)

// propose appends something as "all".
func propose(h http.Handler, path string, proposed []byte) *httptest.ResponseRecorder {
	return ask(h, as("all", http.MethodPost, path, bytes.NewReader(proposed)))
}

// wantRefused holds a refusal to its status and to the shape that clients can read; text is a part of it.
func wantRefused(t *testing.T, name string, w *httptest.ResponseRecorder, status int, text string) {
	t.Helper()
	var e struct {
		Code    *int            `json:"code"`
		Message string          `json:"message"`
		Details json.RawMessage `json:"details"`
	}
	err := json.Unmarshal(w.Body.Bytes(), &e)
	if w.Code != status || err != nil || e.Code == nil || e.Message == "" || !strings.Contains(e.Message, text) || w.Header().Get("Content-Type") != mediaJSON {
		t.Errorf("%s: got %d %s %q (%v), want %d with %q as JSON", name, w.Code, w.Header().Get("Content-Type"), w.Body, err, status, text)
	}
	if e.Details != nil && string(e.Details) != "[]" {
		t.Errorf("%s: details %s", name, e.Details)
	}
	if w.Header().Get("Cache-Control") != "no-store" {
		t.Errorf("%s: a cache may keep the refusal", name)
	}
}

// handlerAgain serves a log that was opened again.
func handlerAgain(t testing.TB, s *logstage.Stage, generation int) http.Handler {
	return logHandler(t, s, generation, prometheus.NewRegistry(), io.Discard, nil)
}

// timeoutError is what reading gives when the deadline of a connection is over.
var timeoutError = &net.OpError{Op: "read", Net: "tcp", Err: os.ErrDeadlineExceeded}
