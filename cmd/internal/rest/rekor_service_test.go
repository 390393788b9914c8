package rest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestMirroredService asks a Rekor v1 service and a real mirror of it the same things, live
// and then without upstream.
func TestMirroredService(t *testing.T) {
	upstream := synthetic.NewRekorV1("rekor.example")
	upstream.Active().Grow(37, synthetic.HashedRekordV1(1))
	upstream.RollOver(synthetic.RekorKey("rekor.example", 1))
	upstream.Active().Grow(21, synthetic.HashedRekordV1(2))
	for i := range 2 {
		if err := upstream.IndexAll(i); err != nil {
			t.Fatal(err)
		}
	}
	service := mirrorOf(t, upstream)
	h := NewPublic(PublicConfig{Mirrors: service.Mirrors, Rekor: service, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	waitFor(t, "both shards", func() bool {
		shards, err := service.Shards()
		return err == nil && len(shards) == 2 && shards[0].Mirror.Tree().State().Head.Size == 37 && shards[1].Head.Size == 21
	})
	web, stop := upstream.Client()
	defer stop()
	ended, active := upstream.Shard(0), upstream.Shard(1)
	digest := fmt.Sprintf("%q", digestOf(t, active.Body(4)))
	asks := []struct {
		target, body string
		away         int // status without upstream; 0 is that of before
	}{
		{"/api/v1/log", "", 0},
		{"/api/v1/log/publicKey", "", 0},
		{fmt.Sprintf("/api/v1/log/publicKey?treeID=%d", ended.TreeID), "", 0},
		{"/api/v1/log/publicKey?treeID=5", "", 0},
		{"/api/v1/log/entries?logIndex=0", "", 0},
		{"/api/v1/log/entries?logIndex=36", "", 0},
		{"/api/v1/log/entries?logIndex=37", "", 0},
		{"/api/v1/log/entries?logIndex=58", "", 503},
		{"/api/v1/log/entries?logIndex=-1", "", 0},
		{"/api/v1/log/entries/" + active.UUID(5), "", 0},
		{"/api/v1/log/entries/" + active.UUID(6)[16:], "", 0},
		{"/api/v1/log/entries/" + ended.UUID(6)[:16] + active.UUID(6)[16:], "", 503},
		{"/api/v1/log/entries/" + strings.Repeat("ab", 32), "", 503},
		{"/api/v1/log/entries/retrieve", `{"logIndexes":[0,40,36]}`, 0},
		{"/api/v1/log/entries/retrieve", `{"logIndexes":[0,1000]}`, 503},
		{"/api/v1/log/entries/retrieve", `{"entryUUIDs":["` + active.UUID(7) + `","` + ended.UUID(1)[16:] + `"]}`, 0},
		{"/api/v1/log/entries/retrieve", `{"entries":[` + string(active.Body(8)) + `]}`, 0},
		{"/api/v1/index/retrieve", `{"hash":` + digest + `}`, 200},
		{fmt.Sprintf("/api/v1/log/proof?firstSize=3&lastSize=9&treeID=%d", ended.TreeID), "", 0},
		{"/api/v1/log/proof?firstSize=3&lastSize=9", "", 503},
		{"/api/v1/log/proof?firstSize=21&lastSize=21", "", 0},
		{"/api/v1/log/proof?firstSize=9&lastSize=3", "", 0},
	}
	here := map[int]string{}
	for i, a := range asks {
		code, want := askUpstream(t, web, upstream.URL+a.target, a.body)
		w := askHere(h, a.target, a.body)
		here[i] = unsigned(t, w.Body.String())
		if w.Code != code || here[i] != unsigned(t, want) {
			t.Errorf("%s %s: got %d %s\nupstream %d %s", a.target, a.body, w.Code, w.Body, code, want)
		}
		if code == 200 && !strings.HasPrefix(a.target, "/api/v1/log/publicKey") && w.Header().Get("Understudy-Source") != "live" {
			t.Errorf("%s: headers %v", a.target, w.Header())
		}
	}
	upstream.Refuse(true)
	waitFor(t, "the outage", func() bool { return service.Freshness().Source != mirror.SourceLive })
	for i, a := range asks {
		w := askHere(h, a.target, a.body)
		switch {
		case a.away == 503:
			var e rekorError
			if err := json.Unmarshal(w.Body.Bytes(), &e); w.Code != 503 || err != nil || e.Code != 503 || e.Reason == "" {
				t.Errorf("%s %s without upstream: got %d %s", a.target, a.body, w.Code, w.Body)
			}
		case unsigned(t, w.Body.String()) != here[i] && !strings.HasPrefix(a.target, "/api/v1/index"):
			t.Errorf("%s %s without upstream: got %d %s, before %s", a.target, a.body, w.Code, w.Body, here[i])
		}
		if strings.HasPrefix(a.target, "/api/v1/index") && (w.Code != 200 || w.Header().Get("Understudy-Source") == "live" || !strings.Contains(w.Header().Get("Understudy-Index-Covered"), "end=37;pinned=0, ")) {
			t.Errorf("search without upstream: got %d %v %s", w.Code, w.Header(), w.Body)
		}
	}
}

func digestOf(t *testing.T, body []byte) string {
	keys := rekor.SearchKeys(body)
	i := slices.IndexFunc(keys, func(key string) bool { return strings.HasPrefix(key, "sha256:") })
	if i < 0 {
		t.Fatalf("keys %q", keys)
	}
	return keys[i]
}

// mirrorOf follows a service until the test ends; all of its oldest shard is held.
func mirrorOf(t *testing.T, upstream *synthetic.RekorV1) *mirror.Service {
	t.Helper()
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20, SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: rekor.SearchVersion})
	if err != nil {
		t.Fatal(err)
	}
	web, stop := upstream.Client()
	service, err := mirror.NewService(mirror.ServiceConfig{
		Name: "rekor", URL: upstream.URL, DB: db, Poll: time.Second, RequestsPerSecond: 1e6, HTTPClient: web,
		Shards: map[uint64]mirror.Coverage{upstream.Shard(0).TreeID: mirror.CoverageFull},
	})
	if err != nil {
		t.Fatal(err)
	}
	var keys []trust.Key
	for _, sh := range upstream.Shards() {
		key, err := trust.ParseKey(sh.PublicKeyPEM())
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := service.Run(ctx, keys); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return service
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never: " + what)
		}
	}
}

func askUpstream(t *testing.T, web *http.Client, url, body string) (int, string) {
	t.Helper()
	answer, err := web.Get(url)
	if body != "" {
		answer, err = web.Post(url, mediaJSON, strings.NewReader(body))
	}
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(data)
}

// unsigned is an answer without its signatures, which are new in each answer of upstream.
func unsigned(t *testing.T, answer string) string {
	t.Helper()
	var v any
	if !strings.HasPrefix(answer, "{") && !strings.HasPrefix(answer, "[") {
		return strings.TrimSpace(answer)
	}
	if err := json.Unmarshal([]byte(answer), &v); err != nil {
		t.Fatalf("%s: %v", answer, err)
	}
	var strip func(v any)
	strip = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				strip(item)
			}
		case map[string]any:
			for name, item := range v {
				switch text, _ := item.(string); name {
				case "signedEntryTimestamp":
					v[name] = text != ""
				case "signedTreeHead", "checkpoint":
					v[name], _, _ = strings.Cut(text, "\n\n")
				default:
					strip(item)
				}
			}
		}
	}
	strip(v)
	out, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func askHere(h http.Handler, target, body string) *httptest.ResponseRecorder {
	if body != "" {
		return post(h, target, body)
	}
	return ask(h, request(http.MethodGet, target, ""))
}

// TestProposedForms: of two forms of one attestation, the one that is held answers for the
// other while upstream is away. Two signatures on it are two things, and one that is not held
// is not known.
func TestProposedForms(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		upstream := synthetic.NewRekorV1("rekor.example")
		upstream.Active().Grow(3, synthetic.HashedRekordV1(1))
		upstream.RollOver(synthetic.RekorKey("rekor.example", 1))
		dsse, intoto := attest(t)
		another, _ := attest(t)
		body, err := rekor.Canonicalize(t.Context(), dsse)
		if err != nil {
			t.Fatal(err)
		}
		upstream.Add(body)
		uuid := upstream.Active().UUID(0)
		service := mirrorOf(t, upstream)
		h := NewPublic(PublicConfig{Mirrors: service.Mirrors, Rekor: service, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
		waitFor(t, "both shards", func() bool { shards, err := service.Shards(); return err == nil && len(shards) == 2 })
		retrieve := func(proposed ...[]byte) *httptest.ResponseRecorder {
			return post(h, "/api/v1/log/entries/retrieve", fmt.Sprintf(`{"entries":[%s]}`, bytes.Join(proposed, []byte(","))))
		}
		wantIt := func(when string, w *httptest.ResponseRecorder) {
			t.Helper()
			var items []map[string]struct{ Body []byte }
			if err := json.Unmarshal(w.Body.Bytes(), &items); w.Code != 200 || err != nil || len(items) != 1 || !bytes.Equal(items[0][uuid].Body, body) {
				t.Errorf("%s: got %d %s", when, w.Code, w.Body)
			}
		}
		wantIt("both forms", retrieve(dsse, intoto))
		wantIt("two signatures", retrieve(dsse, another)) // upstream has just said that it does not have the second
		upstream.Refuse(true)
		waitFor(t, "the outage", func() bool { return service.Freshness().Source != mirror.SourceLive })
		wantIt("both forms without upstream", retrieve(dsse, intoto))
		if w := retrieve(dsse, another); w.Code != 503 || !strings.Contains(w.Body.String(), mirror.ReasonNotPinned) {
			t.Errorf("two signatures without upstream: got %d %s", w.Code, w.Body)
		}
	})
}

// attest returns the same statement each time, newly signed by a new key, as both of the
// entries that cosign proposes for it.
func attest(t *testing.T) (dsse, intoto []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	verifier := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
	const kind, statement = "application/vnd.in-toto+json", `{"_type":"https://in-toto.io/Statement/v0.1","subject":[]}`
	digest := sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(statement), statement))
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	type object = map[string]any
	envelope := asJSON(t, object{"payloadType": kind, "payload": []byte(statement), "signatures": []any{object{"sig": sig}}})
	again := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) } // as intoto has it
	dsse = asJSON(t, object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{
		"proposedContent": object{"envelope": string(envelope), "verifiers": []any{verifier}},
	}})
	intoto = asJSON(t, object{"kind": "intoto", "apiVersion": "0.0.2", "spec": object{"content": object{
		"envelope": object{"payloadType": kind, "payload": again([]byte(statement)), "signatures": []any{object{"publicKey": verifier, "sig": again(sig)}}},
		"hash":     object{"algorithm": "sha256", "value": fmt.Sprintf("%x", sha256.Sum256(envelope))},
	}}})
	return dsse, intoto
}
