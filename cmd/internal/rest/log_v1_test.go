package rest

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// loggedV1 reads an answer with one entry.
func loggedV1(t *testing.T, w *httptest.ResponseRecorder) (uuid string, e models.LogEntryAnon) {
	t.Helper()
	var entry models.LogEntry
	if err := json.Unmarshal(w.Body.Bytes(), &entry); err != nil || len(entry) != 1 {
		t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	for uuid, e = range entry {
	}
	return uuid, e
}

// TestLogV1Append holds what a new entry and a duplicate are answered with.
func TestLogV1Append(t *testing.T) {
	s, h := newLogV1(t, nil)
	for i, proposed := range [][]byte{logstage.Hashedrekord("a"), logstage.DSSE(logstage.Statement("ab"))} {
		w := propose(h, pathV1, proposed)
		uuid, e := loggedV1(t, w)
		//lint:ignore SA1008 Rekor's own spelling
		if w.Code != http.StatusCreated || w.Header().Get("Location") != pathV1+"/"+uuid || w.Header()["ETag"][0] != uuid || len(uuid) != 80 || w.Header().Get("Content-Type") != mediaJSON {
			t.Errorf("%d, %v", w.Code, w.Header())
		}
		items, err := rekor.ParseAnswer(w.Body.Bytes())
		if err != nil || len(items) != 1 {
			t.Fatal(err)
		}
		if err := items[0].Entry.VerifySET(s.Public); err != nil || *e.LogIndex != int64(i) || *e.IntegratedTime < time.Now().Unix()-60 {
			t.Errorf("%v: %+v", err, e)
		}
		for range 2 {
			again := propose(h, pathV1, append([]byte("\n "), proposed...))
			wantRefused(t, "duplicate", again, http.StatusConflict, "already exists in the transparency log with UUID "+uuid)
			if again.Header().Get("Location") != pathV1+"/"+uuid {
				t.Errorf("location %q", again.Header().Get("Location"))
			}
			w = ask(h, as("read", http.MethodGet, again.Header().Get("Location"), nil))
			if _, first := loggedV1(t, w); w.Code != http.StatusOK || *first.IntegratedTime != *e.IntegratedTime || !bytes.Equal(first.Verification.SignedEntryTimestamp, e.Verification.SignedEntryTimestamp) {
				t.Errorf("another receipt: %s", w.Body)
			}
		}
	}
	s.Sound()
}

// TestLogV1Refuses holds that whatever is wrong with a proposal is told in the shape that Rekor's clients read.
func TestLogV1Refuses(t *testing.T) {
	s, h := newLogV1(t, nil)
	good := string(logstage.Hashedrekord("a"))
	other := string(logstage.Hashedrekord("b"))
	var two [2]struct {
		Spec struct{ Signature struct{ Content string } }
	}
	for i, text := range []string{good, other} {
		if err := json.Unmarshal([]byte(text), &two[i]); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		body   string
		status int
		text   string
	}{
		"nothing":         {"", 422, "proposedEntry in body is required"},
		"blanks":          {"  \n", 422, "required"},
		"junk":            {"junk", 400, "parsing proposedEntry body"},
		"cut":             {good[:len(good)/2], 400, "parsing proposedEntry body"},
		"null":            {"null", 422, "kind in body is required"},
		"number":          {"7", 400, ""},
		"list":            {"[]", 400, ""},
		"no kind":         {strings.Replace(good, `"kind":"hashedrekord"`, `"other":"x"`, 1), 422, "kind in body is required"},
		"unknown kind":    {strings.Replace(good, `"hashedrekord"`, `"nonsense"`, 1), 422, "nonsense"},
		"unknown version": {strings.Replace(good, `"0.0.1"`, `"9.9.9"`, 1), 400, ""},
		"wrong signature": {strings.Replace(good, two[0].Spec.Signature.Content, two[1].Spec.Signature.Content, 1), 400, "signature"},
		"no signature":    {strings.Replace(good, two[0].Spec.Signature.Content, "", 1), 400, ""},
		"wrong digest":    {replaceDigest(good), 400, "signature"},
		"short digest":    {strings.Replace(good, `"value":"`, `"value":"00`, 1), 0, ""},
		"no key":          {strings.Replace(good, base64.StdEncoding.EncodeToString(logstage.PublicPEM()), "", 1), 400, ""},
		"content by URL": {`{"apiVersion":"0.0.1","kind":"rekord","spec":{"data":{"url":"http://127.0.0.1:1/x"},"signature":{"format":"x509","content":"` +
			two[0].Spec.Signature.Content + `","publicKey":{"content":"` + base64.StdEncoding.EncodeToString(logstage.PublicPEM()) + `"}}}}`, 0, ""},
		"oversized": {`{"a":"` + strings.Repeat("x", maxBody) + `"}`, 413, "Request Entity Too Large"},
		"deep":      {strings.Repeat("[", 100_000), 400, ""},
	} {
		w := propose(h, pathV1, []byte(c.body))
		if c.status == 0 && (w.Code == 400 || w.Code == 422) {
			c.status = w.Code
		}
		wantRefused(t, name, w, c.status, c.text)
	}
	for name, c := range map[string]struct {
		headers []string
		status  int
	}{
		"no content type":    {[]string{"Content-Type: "}, 415},
		"wrong content type": {[]string{"Content-Type: text/plain"}, 415},
		"bad content type":   {[]string{"Content-Type: a b/;"}, 400},
		"accepts text":       {[]string{"Accept: text/plain"}, 406},
	} {
		wantRefused(t, name, ask(h, as("all", http.MethodPost, pathV1, strings.NewReader(good), c.headers...)), c.status, "")
	}
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"PUT", pathV1, 405}, {"DELETE", pathV1 + "/x", 405}, {"GET", "/api/v1/nothing", 404}, {"GET", "/api/v2/checkpoint", 404}, {"GET", "/", 404}, {"POST", "/x", 404},
		{"GET", pathV1 + "?logIndex=-1", 422}, {"GET", pathV1 + "/nonsense", 422}, {"GET", pathV1 + "/" + strings.Repeat("0", 80), 400},
	} {
		wantRefused(t, c.method+" "+c.path, ask(h, as("all", c.method, c.path, nil)), c.status, "")
	}
	if size := s.Log.Tree().State().Head.Size; size != 0 {
		t.Errorf("%d entries are logged", size)
	}
}

// replaceDigest changes the digest of a hashedrekord.
func replaceDigest(proposed string) string {
	at := strings.Index(proposed, `"value":"`) + len(`"value":"`)
	return proposed[:at] + strings.Repeat("0", 64) + proposed[at+64:]
}

// TestLogV1Race: of many equal proposals at once one is new, and all get the same entry.
func TestLogV1Race(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			proposed, path, generation := g.propose("a"), g.path, g.number
			s, h := g.make(t, nil)
			answers := [100]*httptest.ResponseRecorder{}
			var running sync.WaitGroup
			for i := range answers {
				running.Go(func() { answers[i] = propose(h, path, proposed) })
			}
			running.Wait()
			codes := map[int]int{}
			for _, w := range answers {
				codes[w.Code]++
				if at := w.Header().Get("Location"); generation == 1 && at != answers[0].Header().Get("Location") {
					t.Errorf("location %q", at)
				}
				if generation == 2 && w.Header().Get("X-Log-Index") != "0" {
					t.Errorf("%v", w.Header())
				}
			}
			if s.Log.Tree().State().Head.Size != 1 || generation == 1 && (codes[201] != 1 || codes[409] != 99) || generation == 2 && codes[201] != 100 {
				t.Errorf("%d entries, %v", s.Log.Tree().State().Head.Size, codes)
			}
			s.Sound()
		})
	}
}

// TestLogHangUp: who hangs up may have logged an entry; the next try gets the receipt of it.
func TestLogHangUp(t *testing.T) {
	for _, g := range generations {
		t.Run(g.name, func(t *testing.T) {
			proposed, path, generation := g.propose("a"), g.path, g.number
			s, h := g.make(t, func(s *logstage.Stage) { s.Witnessed() })
			server := httptest.NewServer(h)
			defer server.Close()
			s.AwaitPublished(0)
			s.Asleep.Store(true)
			send := func(body []byte) net.Conn {
				conn, err := net.Dial("tcp", server.Listener.Addr().String())
				if err != nil {
					t.Fatal(err)
				}
				if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, tokenOf("all"), len(proposed), body); err != nil {
					t.Fatal(err)
				}
				return conn
			}
			for _, body := range [][]byte{nil, proposed[:10], proposed[:len(proposed)-1]} {
				send(body).Close()
			}
			conn := send(proposed)
			s.AwaitHeld(1)
			conn.Close()
			s.Asleep.Store(false)
			w := propose(h, path, proposed)
			if generation == 1 {
				wantRefused(t, "second try", w, http.StatusConflict, "")
				w = ask(h, as("all", http.MethodGet, w.Header().Get("Location"), nil))
				if _, e := loggedV1(t, w); *e.LogIndex != 0 {
					t.Errorf("%s", w.Body)
				}
			} else if w.Code != http.StatusCreated || w.Header().Get("X-Log-Index") != "0" {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if size := s.Log.Tree().State().Head.Size; size != 1 {
				t.Errorf("%d entries", size)
			}
			rows := 0
			for row := range strings.Lines(ask(h, as("operate", http.MethodGet, auditPath, nil)).Body.String()) {
				if rows++; !strings.Contains(row, `"identity":"all"`) {
					t.Errorf("audit: %s", row)
				}
			}
			if rows != 1 {
				t.Errorf("%d audit rows", rows)
			}
		})
	}
}

// TestLogV1Unpublished: what is durable and not published is seen by no one, and is not denied.
func TestLogV1Unpublished(t *testing.T) {
	s, h := newLogV1(t, func(s *logstage.Stage) {
		s.Witnessed()
		s.Asleep.Store(true)
	})
	digest := strings.Repeat("ab", 32)
	proposed := logstage.DSSE(logstage.Statement(digest))
	proposal, err := rekor.Propose(t.Context(), proposed)
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	go ask(h, as("all", http.MethodPost, pathV1, bytes.NewReader(proposed)).WithContext(gone))
	s.AwaitHeld(1)
	cancel()
	leaf := storage.LeafHash(proposal.Body).String()
	uuid := fmt.Sprintf("%016x", uint64(logstage.TreeID)) + leaf
	asks := func() map[string]*http.Request {
		body := func(path, format string, args ...any) *http.Request {
			return as("read", http.MethodPost, path, strings.NewReader(fmt.Sprintf(format, args...)))
		}
		return map[string]*http.Request{
			"by index":          as("read", "GET", pathV1+"?logIndex=0", nil),
			"by UUID":           as("read", "GET", pathV1+"/"+uuid, nil),
			"by leaf hash":      as("read", "GET", pathV1+"/"+leaf, nil),
			"retrieve index":    body(pathV1+"/retrieve", `{"logIndexes":[0]}`),
			"retrieve UUID":     body(pathV1+"/retrieve", `{"entryUUIDs":[%q]}`, uuid),
			"retrieve proposed": body(pathV1+"/retrieve", `{"entries":[%s]}`, proposed),
			"search":            body("/api/v1/index/retrieve", `{"hash":"sha256:%s"}`, digest),
		}
	}
	for name, r := range asks() {
		wantRefused(t, name, ask(h, r), http.StatusServiceUnavailable, "has not published")
	}
	for _, path := range []string{"/api/v1/log", "/api/v1/log/proof?lastSize=1", "/api/v1/log/proof?firstSize=1&lastSize=1&treeID=" + strconv.FormatUint(logstage.TreeID, 10)} {
		w := ask(h, as("read", "GET", path, nil))
		wantRefused(t, path, w, http.StatusServiceUnavailable, "has not published")
		if w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: when to try again?", path)
		}
	}
	if w := ask(h, as("read", "GET", "/api/v1/log/publicKey", nil)); w.Code != http.StatusOK {
		t.Errorf("public key: %d", w.Code)
	}

	s.Asleep.Store(false)
	s.AwaitPublished(1)
	for name, r := range asks() {
		if w := ask(h, r); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), uuid) {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}

	// The tree is larger than what is published.
	s.Asleep.Store(true)
	hidden := logstage.DSSE(logstage.Statement(digest))
	gone, cancel = context.WithCancel(t.Context())
	go ask(h, as("all", http.MethodPost, pathV1, bytes.NewReader(hidden)).WithContext(gone))
	s.AwaitHeld(2)
	cancel()
	if proposal, err = rekor.Propose(t.Context(), hidden); err != nil {
		t.Fatal(err)
	}
	leaf = storage.LeafHash(proposal.Body).String()
	for name, c := range map[string]struct {
		r      *http.Request
		status int
		body   string
	}{
		"by index":          {as("read", "GET", pathV1+"?logIndex=1", nil), 404, ""},
		"by leaf hash":      {as("read", "GET", pathV1+"/"+leaf, nil), 404, ""},
		"retrieve index":    {as("read", "POST", pathV1+"/retrieve", strings.NewReader(`{"logIndexes":[1]}`)), 200, "[]\n"},
		"retrieve proposed": {as("read", "POST", pathV1+"/retrieve", strings.NewReader(fmt.Sprintf(`{"entries":[%s]}`, hidden))), 200, "[]\n"},
		"search":            {as("read", "POST", "/api/v1/index/retrieve", strings.NewReader(`{"hash":"sha256:`+digest+`"}`)), 200, "[\"" + uuid + "\"]\n"},
		"proof":             {as("read", "GET", "/api/v1/log/proof?lastSize=2", nil), 400, `{"code":400,"message":"the tree size requested(2) was greater than what is currently observable(1)"}` + "\n"},
	} {
		wantAnswer(t, name, ask(h, c.r), c.status, c.body)
	}
	if w := ask(h, as("read", "GET", "/api/v1/log", nil)); !strings.Contains(w.Body.String(), `"treeSize":1`) || strings.Contains(w.Body.String(), "witness.test") {
		t.Errorf("%s", w.Body) // Rekor's verifiers refuse a line of another key
	}
	s.Asleep.Store(false)
}
