package rest

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/test/logstage"
)

// gatedHandler serves a stage's log behind a gate.
func gatedHandler(t *testing.T, s *logstage.Stage, generation int, open func() bool) http.Handler {
	t.Helper()
	registry := prometheus.NewRegistry()
	control, logger := logControl(t, registry, nil), slog.New(slog.DiscardHandler)
	if generation == 2 {
		v2 := private.NewV2(s.Log, s.LogID)
		v2.Open = open
		return NewLogV2(LogV2Config{Log: v2, Access: control, GRPC: http.NotFoundHandler(), Logger: logger, Registerer: registry})
	}
	v1, err := private.NewV1(s.Log, logstage.TreeID, s.Public)
	if err != nil {
		t.Fatal(err)
	}
	v1.Open = open
	return NewLogV1(LogV1Config{Log: v1, Access: control, Logger: logger, Registerer: registry})
}

// wantClosed holds a refusal to what scripts and people go by.
func wantClosed(t *testing.T, name string, generation int, w *httptest.ResponseRecorder) {
	t.Helper()
	wantRefused(t, name, w, http.StatusServiceUnavailable, "use the public log")
	if !strings.Contains(w.Body.String(), "NOT_IN_FALLBACK") {
		t.Errorf("%s: no reason in %s", name, w.Body)
	}
	if generation == 1 && !strings.Contains(w.Body.String(), `"reason":"NOT_IN_FALLBACK"`) || generation == 2 && w.Header().Get("Understudy-Reason") != "NOT_IN_FALLBACK" {
		t.Errorf("%s: %v %s", name, w.Header(), w.Body)
	}
	if after := w.Header().Get("Retry-After"); after != "" {
		if seconds, err := strconv.Atoi(after); err != nil || seconds < 10 {
			t.Errorf("%s: Retry-After %q", name, after)
		}
	}
}

// TestLogGate: a log for outages takes entries while one is there and refuses them else, asked anew for each
// request; it is read in either case, and who may not append is told that first.
func TestLogGate(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			s, _ := g.make(t, nil)
			var open atomic.Bool
			h := gatedHandler(t, s, g.number, open.Load)
			read := map[int][]string{1: {"/api/v1/log/entries?logIndex=0", "/api/v1/log", "/api/v1/log/publicKey"}, 2: {"/api/v2/checkpoint", "/api/v2/tile/entries/000.p/1"}}[g.number]
			for i, opens := range []bool{false, true, false, true, false} {
				open.Store(opens)
				proposed := g.propose(fmt.Sprint(i / 2))
				if w := propose(h, g.path, proposed); !opens {
					wantClosed(t, "closed", g.number, w)
				} else if w.Code != http.StatusCreated {
					t.Errorf("open: %d %s", w.Code, w.Body)
				}
				if i == 0 {
					continue // nothing is there
				}
				for _, path := range read {
					if w := ask(h, as("read", http.MethodGet, path, nil)); w.Code != http.StatusOK {
						t.Errorf("%s: %d %s", path, w.Code, w.Body)
					}
				}
			}
			wantClosed(t, "a duplicate", g.number, propose(h, g.path, g.propose("0")))
			wantClosed(t, "junk", g.number, propose(h, g.path, []byte("junk")))
			wantClosed(t, "much", g.number, propose(h, g.path, bytes.Repeat([]byte(" "), 1<<20)))
			for name, status := range map[string]int{"": 401, "read": 403} {
				if w := ask(h, as(name, http.MethodPost, g.path, bytes.NewReader(g.propose("a")))); w.Code != status {
					t.Errorf("%q: %d %s", name, w.Code, w.Body)
				}
			}
			if size := s.Log.Tree().State().Head.Size; size != 2 {
				t.Errorf("%d entries", size)
			}
			s.Sound()
		})
	}
}

// TestLogGateCloses: what is under way when the gate closes ends as if it had not, from the first byte on.
func TestLogGateCloses(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			s, _ := g.make(t, func(s *logstage.Stage) {
				s.Witnessed()
				s.Asleep.Store(true)
			})
			var open atomic.Bool
			open.Store(true)
			h := gatedHandler(t, s, g.number, open.Load)
			waiting, reading := make(chan *httptest.ResponseRecorder), make(chan *httptest.ResponseRecorder)
			go func() { waiting <- propose(h, g.path, g.propose("a")) }()
			s.AwaitHeld(1)
			proposed := g.propose("b")
			in, out := io.Pipe()
			go func() { reading <- ask(h, as("all", http.MethodPost, g.path, in)) }()
			if _, err := out.Write(proposed[:10]); err != nil { // it was admitted: somebody reads
				t.Fatal(err)
			}
			open.Store(false)
			wantClosed(t, "after it was closed", g.number, propose(h, g.path, g.propose("c")))
			if _, err := out.Write(proposed[10:]); err != nil {
				t.Fatal(err)
			}
			out.Close()
			s.AwaitHeld(2)
			s.Asleep.Store(false)
			for _, w := range []*httptest.ResponseRecorder{<-waiting, <-reading} {
				if w.Code != http.StatusCreated {
					t.Errorf("under way: %d %s", w.Code, w.Body)
				}
			}
			s.Sound()
		})
	}
}
