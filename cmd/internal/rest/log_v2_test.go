package rest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/cmd/internal/private"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/test/logstage"
)

// verifiedV2 reads an answer with an entry, and verifies its proof and checkpoint.
func verifiedV2(t *testing.T, s *logstage.Stage, data []byte) *protorekor.TransparencyLogEntry {
	t.Helper()
	e := new(protorekor.TransparencyLogEntry)
	if err := protojson.Unmarshal(data, e); err != nil {
		t.Fatalf("%s: %v", data, err)
	}
	p := e.GetInclusionProof()
	if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(p.GetLogIndex()), uint64(p.GetTreeSize()), rfc6962.DefaultHasher.HashLeaf(e.GetCanonicalizedBody()), p.GetHashes(), p.GetRootHash()); err != nil {
		t.Error(err)
	}
	n, err := note.Open([]byte(p.GetCheckpoint().GetEnvelope()), note.VerifierList(s.Config.Verifiers...))
	if err != nil || !strings.HasPrefix(n.Text, fmt.Sprintf("%s\n%d\n", logstage.Host, p.GetTreeSize())) {
		t.Errorf("checkpoint: %v %+v", err, n)
	}
	if p.GetLogIndex() != e.GetLogIndex() || e.GetKindVersion().GetVersion() != "0.0.2" || !bytes.Equal(e.GetLogId().GetKeyId(), s.LogID) {
		t.Errorf("%v", e)
	}
	return e
}

// TestLogV2Append holds what a new entry and a duplicate are answered with.
func TestLogV2Append(t *testing.T) {
	s, h := newLogV2(t, func(s *logstage.Stage) { s.Witnessed() })
	for i := range 3 {
		proposed := logstage.RequestV2JSON(strconv.Itoa(i))
		var first *protorekor.TransparencyLogEntry
		for range 3 {
			w := propose(h, pathV2, proposed)
			if w.Code != http.StatusCreated || w.Header().Get("X-Log-Index") != strconv.Itoa(i) || w.Header().Get("Content-Type") != mediaJSON || !strings.Contains(w.Body.String(), `"integratedTime":`) {
				t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
			}
			e := verifiedV2(t, s, w.Body.Bytes())
			if first == nil {
				first = e
			}
			if e.GetLogIndex() != int64(i) || !bytes.Equal(e.GetCanonicalizedBody(), first.GetCanonicalizedBody()) {
				t.Errorf("%v", e)
			}
			proposed = append([]byte(" "), proposed...)
		}
	}
	s.Sound()
}

// TestLogV2Refuses holds that whatever is wrong with a proposal is told in the shape of rekor-tiles.
func TestLogV2Refuses(t *testing.T) {
	s, h := newLogV2(t, nil)
	good, other := string(logstage.RequestV2JSON("a")), string(logstage.RequestV2JSON("b"))
	var two [2]struct {
		HashedRekordRequestV002 struct {
			Digest    string
			Signature struct{ Content string }
		}
	}
	for i, text := range []string{good, other} {
		if err := json.Unmarshal([]byte(text), &two[i]); err != nil {
			t.Fatal(err)
		}
	}
	large, err := protojson.Marshal(logstage.LargeRequestV2())
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, with string) string { return strings.Replace(good, old, with, 1) }
	a, b := two[0].HashedRekordRequestV002, two[1].HashedRekordRequestV002
	for name, c := range map[string]struct {
		body   string
		status int
		text   string
	}{
		"nothing":         {"", 400, "must be hashedrekord"},
		"empty":           {"{}", 400, "must be hashedrekord"},
		"junk":            {"junk", 400, "parse request"},
		"cut":             {good[:len(good)/2], 400, "parse request"},
		"two":             {good + good, 400, "parse request"},
		"dsse":            {`{"dsseRequestV002":{}}`, 400, "must be hashedrekord"},
		"v1":              {string(logstage.Hashedrekord("a")), 400, ""},
		"unknown field":   {"{\"more\":1," + good[1:], 400, "unknown field"},
		"inner field":     {replace(`"digest"`, `"more":1,"digest"`), 400, "unknown field"},
		"null":            {`{"hashedRekordRequestV002":null}`, 400, ""},
		"hollow":          {`{"hashedRekordRequestV002":{}}`, 400, ""},
		"wrong signature": {replace(a.Signature.Content, b.Signature.Content), 400, ""},
		"wrong digest":    {replace(a.Digest, b.Digest), 400, ""},
		"no digest":       {replace(a.Digest, ""), 400, ""},
		"bad base64":      {replace(a.Digest, "~~~"), 400, ""},
		"large entry":     {string(large), 413, "want at most 65535"},
		"oversized":       {`{"more":"` + strings.Repeat("x", maxV2Body) + `"}`, 413, ""},
		"deep":            {strings.Repeat(`{"a":`, 20_000), 400, ""},
	} {
		w := propose(h, pathV2, []byte(c.body))
		wantRefused(t, name, w, c.status, c.text)
		if !strings.Contains(w.Body.String(), `"details":[]`) || !strings.Contains(w.Body.String(), `"code":3,`) {
			t.Errorf("%s: %s", name, w.Body)
		}
	}
	for _, c := range []struct {
		name, method, path string
		status, code       int
	}{
		{"", "POST", pathV2, 401, 16}, {"read", "POST", pathV2, 403, 7}, {"all", "GET", pathV2, 404, 5}, {"all", "GET", "/", 404, 5}, {"all", "DELETE", "/api/v2/checkpoint", 404, 5}, {"all", "GET", "/api/v1/log", 404, 5},
	} {
		w := ask(h, as(c.name, c.method, c.path, nil))
		wantRefused(t, c.method+" "+c.path, w, c.status, "")
		if !strings.Contains(w.Body.String(), fmt.Sprintf(`{"code":%d,`, c.code)) || !strings.Contains(w.Body.String(), `"details":[]`) {
			t.Errorf("%s", w.Body)
		}
	}
	if size := s.Log.Tree().State().Head.Size; size != 0 {
		t.Errorf("%d entries are logged", size)
	}
}

// TestLogV2Tiles: tiles, bundles and the checkpoint are there up to what is published, in every width,
// and not one entry further.
func TestLogV2Tiles(t *testing.T) {
	s, h := newLogV2(t, func(s *logstage.Stage) {
		s.Witnessed()
		s.Asleep.Store(true)
	})
	fill := func(from, to int) {
		for i := from; i < to; i++ {
			go s.Log.Append(context.Background(), log.Entry{Body: fmt.Appendf(nil, "entry %d", i)})
		}
		s.AwaitHeld(uint64(to))
	}
	answer := func(method, path string, headers ...string) (int, string, http.Header) {
		w := ask(h, as("read", method, "/api/v2/"+path, nil, headers...))
		return w.Code, w.Body.String(), w.Header()
	}
	fill(0, 5)
	for _, path := range []string{"checkpoint", "tile/0/000.p/1", "tile/0/000.p/5", "tile/entries/000.p/1", "tile/entries/000.p/5"} {
		if code, text, h := answer("GET", path); code != http.StatusNotFound || h.Get("Cache-Control") != "no-store" {
			t.Errorf("unpublished %s: %d %s", path, code, text)
		}
	}
	s.Asleep.Store(false)
	s.AwaitPublished(5)
	s.Asleep.Store(true)
	fill(5, 600)
	for _, path := range []string{"tile/0/000.p/6", "tile/0/000", "tile/0/001", "tile/0/001.p/1", "tile/0/002.p/10", "tile/1/000.p/1", "tile/1/000.p/2", "tile/entries/000.p/6", "tile/entries/000", "tile/entries/001.p/1", "tile/entries/002.p/88",
		"tile/0/x072/x057/x594/x037/x927/935", "tile/0/x18446744/073", "tile/8/000.p/1", "tile/63/000.p/1", "tile/64/000", "tile/entries/x036/x028/x797/x018/x963/968.p/1"} {
		if code, text, _ := answer("GET", path); code != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
	if code, text, h := answer("GET", "checkpoint"); code != 200 || !strings.HasPrefix(text, logstage.Host+"\n5\n") || !strings.Contains(text, "— witness.test/one") || strings.Contains(h.Get("Cache-Control"), "public") {
		t.Errorf("checkpoint: %d %s", code, text)
	}
	s.Asleep.Store(false)
	s.AwaitPublished(600)
	leaves := make([]byte, 0)
	for width := 1; width <= 256; width++ {
		name := "000.p/" + strconv.Itoa(width)
		if width == 256 {
			name = "000"
		}
		code, text, header := answer("GET", "tile/0/"+name)
		if code != 200 || len(text) != 32*width || !strings.HasPrefix(text, string(leaves)) || header.Get("Cache-Control") != "private, max-age=31536000, immutable" || header.Get("Content-Type") != "application/octet-stream" {
			t.Fatalf("%s: %d, %d bytes, %v", name, code, len(text), header)
		}
		leaves = []byte(text)
		_, bundle, _ := answer("GET", "tile/entries/"+name)
		for i := range width {
			n := int(bundle[0])<<8 | int(bundle[1])
			if leaf := rfc6962.DefaultHasher.HashLeaf([]byte(bundle[2 : 2+n])); !bytes.Equal(leaf, leaves[32*i:32*i+32]) {
				t.Fatalf("bundle of %d, entry %d", width, i)
			}
			bundle = bundle[2+n:]
		}
		if bundle != "" {
			t.Errorf("bundle of %d has more", width)
		}
	}
	if code, text, _ := answer("GET", "tile/1/000.p/2"); code != 200 || len(text) != 64 {
		t.Errorf("level 1: %d %q", code, text)
	}
	for _, path := range []string{"tile/1/000.p/3", "tile/0/002.p/89", "tile/0/2", "tile/0/0000", "tile/entries/002.p/0", "tile/entries/002.p/256", "tile/0/000.p/08", "tile/-1/000", "tile/x/000", "tile/", "tile/0/%3000", "tile/0/000.p/"} {
		if code, text, _ := answer("GET", path); code != http.StatusNotFound {
			t.Errorf("%s: %d %q", path, code, text)
		}
	}
	for _, path := range []string{"checkpoint", "tile/0/000", "tile/entries/002.p/88"} {
		if code, text, header := answer("HEAD", path); code != 200 || header.Get("Content-Type") == "" {
			t.Errorf("HEAD %s: %d %s", path, code, text)
		}
	}
	_, plain, _ := answer("GET", "tile/entries/002.p/88")
	code, text, header := answer("GET", "tile/entries/002.p/88", "Accept-Encoding: gzip")
	z, err := gzip.NewReader(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || string(got) != plain || code != 200 || header.Get("Content-Encoding") != "gzip" {
		t.Errorf("gzip: %d %v %v", code, err, header)
	}
}

// TestLogV2Slow: a body that does not come is told so, in the shape of the API, and holds nothing for ever.
func TestLogV2Slow(t *testing.T) {
	s, h := newLogV2(t, nil)
	r := as("all", http.MethodPost, pathV2, io.MultiReader(strings.NewReader(`{"hashed`), timedOut{}))
	w := ask(h, r)
	wantRefused(t, "slow", w, http.StatusRequestTimeout, "too slowly")
	if !strings.Contains(w.Body.String(), `"code":4,`) {
		t.Errorf("%s", w.Body)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	for _, working := range []chan struct{}{nil, make(chan struct{}, 1)} { // all processors are busy, or none
		busy := &logV2{log: private.NewV2(s.Log, s.LogID), logger: slog.New(slog.DiscardHandler), working: working}
		w := ask(http.HandlerFunc(busy.append), as("all", http.MethodPost, pathV2, bytes.NewReader(logstage.RequestV2JSON("a"))).WithContext(gone))
		wantRefused(t, "hung up", w, statusClientClosed, "")
	}
}

// timedOut reads as a connection whose deadline is over.
type timedOut struct{}

func (timedOut) Read([]byte) (int, error) { return 0, timeoutError }

// TestLogRestarted: what was published is served at once after a restart, though the witnesses sleep,
// and no age is made up for it.
func TestLogRestarted(t *testing.T) {
	for _, g := range generations {
		s, h := g.make(t, func(s *logstage.Stage) { s.Witnessed() })
		if w := propose(h, g.path, g.propose("a")); w.Code != http.StatusCreated {
			t.Fatal(w.Body)
		}
		s.Asleep.Store(true)
		s.Close()
		again := logstage.Reopen(t, s)
		h = handlerAgain(t, again, g.number)
		path := pathV1 + "?logIndex=0"
		if g.number == 2 {
			path = "/api/v2/tile/entries/000.p/1"
		}
		w := ask(h, as("read", "GET", path, nil))
		if age := w.Header().Get("Understudy-Checkpoint-Age"); w.Code != http.StatusOK || age != "" && len(age) > 4 {
			t.Errorf("%s: %d, age %s", g.name, w.Code, age)
		}
		s.Asleep.Store(false)
	}
}
