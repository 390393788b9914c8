package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
)

const known = "604fc8d42d87d28737ecf6e1136be0928c4c6506c8bdbd628a9fa1ceaff8e7800ffda73ff90b3010"

// reads are requests for each path that asks the service.
func reads() map[string]*http.Request {
	const json = "Content-Type: application/json"
	return map[string]*http.Request{
		"log":       request(http.MethodGet, "/api/v1/log", ""),
		"publicKey": request(http.MethodGet, "/api/v1/log/publicKey", ""),
		"proof":     request(http.MethodGet, "/api/v1/log/proof?lastSize=5", ""),
		"index":     request(http.MethodGet, "/api/v1/log/entries?logIndex=7", ""),
		"uuid":      request(http.MethodGet, "/api/v1/log/entries/"+known, ""),
		"retrieve":  request(http.MethodPost, "/api/v1/log/entries/retrieve", `{"logIndexes":[7,8]}`, json),
		"search":    request(http.MethodPost, "/api/v1/index/retrieve", `{"email":"a@b.example"}`, json),
	}
}

// TestRekorRefusals: each kind of refusal of the service has one status on every path, and
// what is not known is never 404.
func TestRekorRefusals(t *testing.T) {
	away := mirror.Freshness{Source: mirror.SourceStale, UpstreamState: mirror.UpstreamUnreachable, CheckpointAge: 90 * time.Minute}
	refusal := func(kind mirror.Kind, reason string, after time.Duration) error {
		return &mirror.Refusal{Kind: kind, Reason: reason, Text: "a <sentence>", After: after, Freshness: away}
	}
	for _, test := range []struct {
		name       string
		err        error
		code       int
		retryAfter string
		reason     string
	}{
		{"not pinned", refusal(mirror.Unavailable, mirror.ReasonNotPinned, 0), 503, "", "NOT_PINNED"},
		{"unreachable", refusal(mirror.Unavailable, mirror.ReasonUpstreamUnreachable, 10*time.Second), 503, "10", "UPSTREAM_UNREACHABLE"},
		{"budget", fmt.Errorf("wrapped: %w", refusal(mirror.Unavailable, mirror.ReasonBudgetExhausted, 1001*time.Millisecond)), 503, "2", "BUDGET_EXHAUSTED"},
		{"shards", refusal(mirror.Unavailable, mirror.ReasonShardsUnknown, time.Nanosecond), 503, "1", "SHARDS_UNKNOWN"},
		{"quarantined", refusal(mirror.Unavailable, mirror.ReasonQuarantined, 0), 503, "", "QUARANTINED"},
		{"not found", refusal(mirror.NotFound, mirror.ReasonNotFound, 0), 404, "", ""},
		{"invalid", refusal(mirror.Invalid, mirror.ReasonInvalidRequest, 0), 400, "", "INVALID_REQUEST"},
		{"damaged", refusal(mirror.Damaged, mirror.ReasonDamaged, 0), 500, "", "STORAGE_DAMAGED"},
		{"defect", errors.New("with a secret"), 500, "", ""},
		{"deadline", context.DeadlineExceeded, 504, "", ""},
	} {
		for path, r := range reads() {
			f := newFake()
			f.fails = test.err
			w := ask(f.handler(), r)
			code := test.code
			if path == "publicKey" && (code == 404 || code == 400) {
				code = 400 // as Rekor refuses an unknown tree
			}
			if w.Code != code || w.Header().Get("Retry-After") != test.retryAfter || strings.Contains(w.Body.String(), "secret") {
				t.Errorf("%s of %s: got %d %v %s", path, test.name, w.Code, w.Header(), w.Body)
			}
			if test.reason != "" && w.Header().Get("Understudy-Source") != "stale" || w.Header().Get("Cache-Control") != "no-store" {
				t.Errorf("%s of %s: headers %v", path, test.name, w.Header())
			}
			if code == 404 {
				if w.Body.Len() > 0 || w.Header().Get("Content-Type") != "" {
					t.Errorf("%s of %s: %v %q", path, test.name, w.Header(), w.Body)
				}
				continue
			}
			var e struct {
				Code            int
				Message, Reason string
			}
			if err := json.Unmarshal(w.Body.Bytes(), &e); path == "publicKey" && code == 400 {
				continue
			} else if err != nil || e.Code != code || e.Message == "" || e.Reason != test.reason {
				t.Errorf("%s of %s: got %s, %v", path, test.name, w.Body, err)
			}
		}
	}
	w := ask(newFake().handler(), request(http.MethodPost, "/api/v1/log/entries", "rubbish"))
	if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" || !strings.HasPrefix(w.Body.String(), `{"code":405,"message":"this is a mirror`) {
		t.Errorf("write: got %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// TestRekorProof: a proof is refused with what Rekor says about its sizes; what is not known
// stays 503 also there.
func TestRekorProof(t *testing.T) {
	f := newFake()
	f.fails = &mirror.Refusal{Kind: mirror.Unavailable, Reason: mirror.ReasonUpstreamUnreachable, Text: "not composed"}
	f.shards[1].Head.Size = 112
	h := handlerOf(&proofsFail{f})
	if w := ask(h, request(http.MethodGet, "/api/v1/log/proof?firstSize=3&lastSize=9", "")); w.Code != 503 {
		t.Errorf("proof that cannot be composed: %d %s", w.Code, w.Body)
	}
	f = newFake()
	for target, want := range map[string]string{
		"firstSize=3&lastSize=113":              `{"code":400,"message":"the tree size requested(113) was greater than what is currently observable(112)"}`,
		"firstSize=3&lastSize=9&treeID=0":       `{"code":400,"message":"no log range found for tree ID 0"}`,
		"firstSize=3&lastSize=9&treeID=000":     `{"code":400,"message":"no log range found for tree ID 0"}`,
		"lastSize=9&treeID=9223372036854775808": `{"code":400,"message":"invalid tree ID specified: 9223372036854775808"}`,
	} {
		wantAnswer(t, target, ask(f.handler(), request(http.MethodGet, "/api/v1/log/proof?"+target, "")), 400, want+"\n")
	}
}

// proofsFail is a service that knows its shards and composes no proof.
type proofsFail struct{ *fakeService }

func (f *proofsFail) Shards() ([]mirror.Shard, error) { return f.shards, nil }

// TestRekorHeaders: answers say how current they are, a search what it has seen, and HEAD is
// GET without its body.
func TestRekorHeaders(t *testing.T) {
	f := newFake()
	f.items = []rekor.Item{oneItem("one", 12)}
	f.found = mirror.SearchResult{
		UUIDs:   []rekor.UUID{f.items[0].UUID, f.items[0].UUID},
		Covered: []mirror.IndexRange{{Origin: `log "a" - 1`, Start: 0, End: 12}, {Origin: "log - é", Start: 256, End: 512, Pinned: 3}},
	}
	h := f.handler()
	w := post(h, "/api/v1/index/retrieve", `{"hash":"`+strings.Repeat("ab", 32)+`"}`)
	if got := w.Header().Get("Understudy-Index-Covered"); got != `"log \"a\" - 1";start=0;end=12;pinned=0, "log - \u00e9";start=256;end=512;pinned=3` {
		t.Errorf("covered: %s", got)
	}
	for name, r := range map[string]*http.Request{
		"entry":    request(http.MethodGet, "/api/v1/log/entries?logIndex=12", ""),
		"retrieve": request(http.MethodPost, "/api/v1/log/entries/retrieve", `{"logIndexes":[12]}`, "Content-Type: application/json"),
		"search":   request(http.MethodPost, "/api/v1/index/retrieve", `{"email":"a@b.example"}`, "Content-Type: application/json; charset=utf-8"),
	} {
		w := ask(h, r)
		header := w.Header()
		if w.Code != 200 || header.Get("Understudy-Source") != "live" || header.Get("Understudy-Upstream-State") != "live" || header.Get("Understudy-Checkpoint-Age") != "3" ||
			header.Get("Cache-Control") != "no-store" || header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: got %d %v", name, w.Code, header)
		}
		if f.client != testClient+"/32" {
			t.Errorf("%s: asked for the client %q", name, f.client)
		}
	}
	for _, target := range []string{"/api/v1/log", "/api/v1/log/publicKey", "/api/v1/log/proof?lastSize=5", "/api/v1/log/entries?logIndex=12", "/api/v1/log/entries/" + f.items[0].UUID.String()} {
		server := httptest.NewServer(h)
		got, head := get(h, http.MethodGet, target), get(h, http.MethodHead, target)
		server.Close()
		if got.StatusCode != 200 || head.StatusCode != 200 || got.Header.Get("Content-Length") != head.Header.Get("Content-Length") || got.Header.Get("Content-Length") == "" {
			t.Errorf("%s: GET %d %v, HEAD %d %v", target, got.StatusCode, got.Header, head.StatusCode, head.Header)
		}
		if got := ask(h, request(http.MethodGet, target, "", "Origin: https://x.example")).Header(); got.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("%s of another origin: %v", target, got)
		}
	}
}

// TestRekorLog: without an older shard the list of them is null, as Rekor's is.
func TestRekorLog(t *testing.T) {
	f := newFake()
	f.shards = f.shards[1:]
	f.shards[0].Checkpoint = []byte("<&>\n")
	w := ask(f.handler(), request(http.MethodGet, "/api/v1/log", ""))
	if w.Code != 200 || !strings.HasPrefix(w.Body.String(), `{"inactiveShards":null,"rootHash":"02`) || !strings.Contains(w.Body.String(), `"<&>\n"`) {
		t.Errorf("one shard: %d %s", w.Code, w.Body)
	}
	f.shards = nil
	if w := ask(f.handler(), request(http.MethodGet, "/api/v1/log", "")); w.Code != 500 {
		t.Errorf("no shard: %d %s", w.Code, w.Body)
	}
}

// TestRetrieveOrder: names are asked for in the order of Rekor's answers.
func TestRetrieveOrder(t *testing.T) {
	f := newFake()
	var proposed string
	for _, r := range recordings(t) {
		if r.Name == "retrieve proposed entry logged: dsse (active)" {
			_, proposed, _ = strings.Cut(strings.TrimSuffix(r.Body, "}"), `"entries": `)
		}
	}
	w := post(f.handler(), "/api/v1/log/entries/retrieve", `{"logIndexes":[5,null,3],"entries":`+proposed+`,"entryUUIDs":["`+strings.Repeat("cd", 32)+`","`+strings.ToUpper(known)+`"]}`)
	wantAnswer(t, "retrieve", w, 200, "[]\n")
	var got []string
	for _, ref := range f.refs {
		got = append(got, ref.String())
	}
	want := []string{known, strings.Repeat("cd", 32), known[16:], "5", "0", "3"}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("asked for %v, want %v", got, want)
	}
}

// TestNoRekor: without a service its paths say so.
func TestNoRekor(t *testing.T) {
	h := newPublic(PublicConfig{Mirrors: func() []*mirror.Mirror { return nil }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}, nil)
	for _, r := range append([]*http.Request{request(http.MethodGet, "/api/v1", ""), request(http.MethodPost, "/api/v1/log/entries", "x")}, reads()["log"], reads()["retrieve"]) {
		if w := ask(h, r); w.Code != 404 || !strings.Contains(w.Body.String(), "no Rekor v1 service is mirrored here") {
			t.Errorf("%s %s: got %d %s", r.Method, r.URL, w.Code, w.Body)
		}
	}
}

// TestRekorMetrics: paths of entries are one route, whatever is asked for.
func TestRekorMetrics(t *testing.T) {
	f, registry := newFake(), prometheus.NewRegistry()
	h := newPublic(PublicConfig{Mirrors: func() []*mirror.Mirror { return nil }, Logger: slog.New(slog.DiscardHandler), Registerer: registry}, f)
	for _, target := range []string{"/api/v1/log/entries/" + known, "/api/v1/log/entries/x", "/api/v1/log/entries/" + known + "/", "/api/v1/nothing", "/api/v1/log/"} {
		ask(h, request(http.MethodGet, target, ""))
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, family := range families {
		if family.GetName() != "understudy_http_requests_total" {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "route" {
					counts[l.GetValue()] += m.GetCounter().GetValue()
				}
			}
		}
	}
	if counts["/api/v1/log/entries/{entryUUID}"] != 3 || counts["/api/v1/log"] != 1 || counts["none"] != 1 || len(counts) != len(routes)+len(rekorPaths())+1 {
		t.Errorf("counted %v", counts)
	}
}
