package reconcile

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	sumnote "golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

const treeID = 7

// fakeV1 answers POST log/entries as Rekor v1 does, and lies when a test wants it to.
type fakeV1 struct {
	t      *testing.T
	signer signature.Signer
	note   sumnote.Signer
	logID  string
	origin string
	key    trust.Key

	mu      sync.Mutex // guards all below
	entries []rekor.Entry
	now     int64
	lie     func(*rekor.Item)
	refuse  func(http.ResponseWriter) bool
	locate  func(uuid string) string
	paths   []string
}

func newFakeV1(t *testing.T) (*fakeV1, *httptest.Server) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeV1{t: t, origin: fmt.Sprintf("rekor.test - %d", treeID), now: time.Now().Unix(), locate: func(uuid string) string { return entriesV1 + "/" + uuid }}
	if f.signer, err = signature.LoadECDSASigner(key, crypto.SHA256); err != nil {
		t.Fatal(err)
	}
	if f.note, err = note.NewNoteSigner(t.Context(), "rekor.test", f.signer); err != nil {
		t.Fatal(err)
	}
	if f.logID, err = rekor.LogID(key.Public()); err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKIXPublicKey(key.Public())
	if f.key, err = trust.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server
}

func (f *fakeV1) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paths = append(f.paths, r.Method+" "+r.URL.Path)
	if f.refuse != nil && f.refuse(w) {
		return
	}
	if name, ok := strings.CutPrefix(r.URL.Path, entriesV1+"/"); ok && r.Method == http.MethodGet {
		uuid, err := rekor.ParseUUID(name)
		for i := range f.entries {
			if err == nil && storage.LeafHash(f.entries[i].Body) == uuid.LeafHash {
				f.answer(w, http.StatusOK, i)
				return
			}
		}
		http.NotFound(w, r)
		return
	}
	proposal, _ := io.ReadAll(r.Body)
	body, err := rekor.Canonicalize(r.Context(), proposal)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprintf(w, `{"code":400,"message":%q}`, "bad\x1b[31m entry")
		return
	}
	for i := range f.entries {
		if string(f.entries[i].Body) == string(body) {
			w.Header().Set("Location", f.locate(f.uuid(i)))
			w.WriteHeader(http.StatusConflict)
			return
		}
	}
	e := rekor.Entry{Body: body, IntegratedTime: f.now, LogID: f.logID, LogIndex: uint64(100 + len(f.entries))}
	if err := e.SignSET(f.signer); err != nil {
		f.t.Error(err)
	}
	f.entries = append(f.entries, e)
	f.answer(w, http.StatusCreated, len(f.entries)-1)
}

func (f *fakeV1) uuid(i int) string {
	return rekor.UUID{TreeID: treeID, LeafHash: storage.LeafHash(f.entries[i].Body)}.String()
}

func (f *fakeV1) answer(w http.ResponseWriter, status, i int) {
	var leaves []storage.Hash
	for _, e := range f.entries {
		leaves = append(leaves, storage.LeafHash(e.Body))
	}
	root := rootOf(leaves)
	checkpoint, err := sumnote.Sign(&sumnote.Note{Text: fmt.Sprintf("%s\n%d\n%s\n", f.origin, len(leaves), base64.StdEncoding.EncodeToString(root[:]))}, f.note)
	if err != nil {
		f.t.Error(err)
	}
	item := rekor.Item{UUID: rekor.UUID{TreeID: treeID, LeafHash: leaves[i]}, Entry: f.entries[i]}
	item.Entry.Proof = &rekor.Proof{Index: uint64(i), TreeSize: uint64(len(leaves)), RootHash: root, Hashes: inclusionProof(leaves, i), Checkpoint: checkpoint}
	if f.lie != nil {
		f.lie(&item)
	}
	raw, err := rekor.MarshalItem(item)
	if err != nil {
		f.t.Error(err)
	}
	w.WriteHeader(status)
	w.Write(raw)
}

// inclusionProof is RFC 6962, section 2.1.1.
func inclusionProof(d []storage.Hash, m int) []storage.Hash {
	if len(d) == 1 {
		return nil
	}
	k := split(len(d))
	if m < k {
		return append(inclusionProof(d[:k], m), rootOf(d[k:]))
	}
	return append(inclusionProof(d[k:], m-k), rootOf(d[:k]))
}

func submitterTo(t *testing.T, server *httptest.Server, keys ...trust.Key) Submitter {
	t.Helper()
	s, err := NewSubmitterV1(SubmitterConfig{URL: server.URL + "/", UserAgent: "test", Keys: func() []trust.Key { return keys }})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSubmitterV1(t *testing.T) {
	f, server := newFakeV1(t)
	s := submitterTo(t, server, f.key)
	proposals := [][]byte{logstage.Hashedrekord("a"), logstage.DSSE(logstage.Statement("00")), logstage.Hashedrekord("c")}
	for round := range 2 {
		for i, p := range proposals {
			r, err := s.Submit(t.Context(), p)
			if err != nil {
				t.Fatal(err)
			}
			if r.LogIndex != uint64(100+i) || r.Duplicate != (round == 1) || r.Origin != f.origin || !r.Extends || r.UUID != f.uuid(i) || r.IntegratedTime != f.now {
				t.Errorf("%+v", r)
			}
			if items, err := rekor.ParseAnswer(r.JSON); err != nil || len(items) != 1 {
				t.Errorf("%q: %v", r.JSON, err)
			}
		}
	}
}

func TestSubmitterV1Lies(t *testing.T) {
	f, server := newFakeV1(t)
	other, _ := newFakeV1(t)
	s := submitterTo(t, server, other.key, f.key)
	proposal := logstage.Hashedrekord("a")
	if _, err := s.Submit(t.Context(), logstage.Hashedrekord("z")); err != nil {
		t.Fatal(err)
	}
	flip := func(b []byte) []byte { b = append([]byte(nil), b...); b[len(b)/2] ^= 1; return b }
	for name, lie := range map[string]func(*rekor.Item){
		"SET":        func(i *rekor.Item) { i.Entry.SET = flip(i.Entry.SET) },
		"no SET":     func(i *rekor.Item) { i.Entry.SET = nil },
		"time":       func(i *rekor.Item) { i.Entry.IntegratedTime++ },
		"index":      func(i *rekor.Item) { i.Entry.LogIndex++ },
		"log ID":     func(i *rekor.Item) { i.Entry.LogID = other.logID },
		"no proof":   func(i *rekor.Item) { i.Entry.Proof = nil },
		"proof":      func(i *rekor.Item) { i.Entry.Proof.Hashes[0][0] ^= 1 },
		"place":      func(i *rekor.Item) { i.Entry.Proof.Index ^= 1 },
		"root":       func(i *rekor.Item) { i.Entry.Proof.RootHash[0] ^= 1 },
		"checkpoint": func(i *rekor.Item) { i.Entry.Proof.Checkpoint = flip(i.Entry.Proof.Checkpoint) },
		"tree":       func(i *rekor.Item) { i.UUID.TreeID++ },
		"body": func(i *rekor.Item) {
			i.Entry = f.entries[0]
			i.UUID.LeafHash = storage.LeafHash(i.Entry.Body)
		},
	} {
		for range 2 { // as what is new, and as a duplicate
			f.lie = lie
			_, err := s.Submit(t.Context(), proposal)
			if err == nil || as[*RefusedError](err) || !as[*answerError](err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	f.lie = nil
	if r, err := s.Submit(t.Context(), proposal); err != nil || !r.Duplicate {
		t.Errorf("%+v %v", r, err)
	}
	if _, err := submitterTo(t, server, other.key).Submit(t.Context(), proposal); !as[*answerError](err) {
		t.Errorf("another key: %v", err)
	}
}

// TestSubmitterV1Conflict: a log that has an entry already does not choose where we go.
func TestSubmitterV1Conflict(t *testing.T) {
	f, server := newFakeV1(t)
	s := submitterTo(t, server, f.key)
	proposal := logstage.Hashedrekord("a")
	if _, err := s.Submit(t.Context(), proposal); err != nil {
		t.Fatal(err)
	}
	leaf := storage.LeafHash(f.entries[0].Body)
	for location, good := range map[string]bool{
		entriesV1 + "/" + f.uuid(0):                           true,
		server.URL + entriesV1 + "/" + f.uuid(0):              true,
		entriesV1 + "/" + leaf.String() + "?a=b":              true,
		"http://elsewhere.test" + entriesV1 + "/" + f.uuid(0): false,
		"": false, "/": false, "/secret/" + f.uuid(0): false, entriesV1 + "/../../secret": false,
		entriesV1 + "/" + strings.Repeat("0", 63) + "1": false, entriesV1 + "/" + f.uuid(0) + "/x": false,
	} {
		f.mu.Lock()
		f.locate, f.paths = func(string) string { return location }, nil
		f.mu.Unlock()
		r, err := s.Submit(t.Context(), proposal)
		if (err == nil) != good || good && !r.Duplicate {
			t.Errorf("%q: %+v %v", location, r, err)
		}
		if !good && len(f.paths) != 1 {
			t.Errorf("%q led to %q", location, f.paths)
		}
	}
}

func TestSubmitterStatus(t *testing.T) {
	f, server := newFakeV1(t)
	s := submitterTo(t, server, f.key)
	for _, c := range []struct {
		status  int
		header  string
		refused bool
		after   time.Duration
	}{
		{400, "", true, 0}, {413, "", true, 0}, {422, "", true, 0}, {401, "", false, 0}, {403, "", false, 0}, {404, "", false, 0},
		{429, "7", false, 7 * time.Second}, {500, "", false, 0}, {503, "1000000", false, time.Hour}, {302, "", false, 0}, {307, "", false, 0}, {200, "", false, 0},
	} {
		f.refuse = func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "http://elsewhere.test/")
			w.Header().Set("Retry-After", c.header)
			w.WriteHeader(c.status)
			fmt.Fprintf(w, `{"message":"no\u001b[31m\nmore"}`)
			return true
		}
		_, err := s.Submit(t.Context(), logstage.Hashedrekord("a"))
		refused, is := errors.AsType[*RefusedError](err)
		if err == nil || is != c.refused || retryAfter(fmt.Errorf("wrapped: %w", err)) != c.after {
			t.Errorf("%d: %v after %s", c.status, err, retryAfter(err))
		}
		if is && (refused.Status != c.status || refused.Text != "no [31m more") {
			t.Errorf("%+v", refused)
		}
	}
	if _, err := s.Submit(t.Context(), []byte("{}")); !as[*RefusedError](err) {
		t.Errorf("no proposal: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Submit(ctx, logstage.Hashedrekord("a")); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, url := range []string{"", "ftp://a", "http://", "http://a/?x=y", "a"} {
		if _, err := NewSubmitterV1(SubmitterConfig{URL: url}); err == nil {
			t.Errorf("%q is taken for an address", url)
		}
	}
}

// certified is a proposal under a certificate that lives for ten minutes.
func certified(t *testing.T, begin time.Time, kind string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begin, NotAfter: begin.Add(10 * time.Minute)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	signer := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	spec := map[string]any{}
	switch kind {
	case "hashedrekord", "rekord":
		spec["signature"] = map[string]any{"publicKey": map[string]any{"content": signer}}
	case "dsse":
		spec["proposedContent"] = map[string]any{"verifiers": [][]byte{signer}}
	case "intoto":
		spec["content"] = map[string]any{"envelope": map[string]any{"signatures": []any{map[string]any{"publicKey": signer}}}}
	}
	// What was signed may be a certificate itself, and says nothing about who signed.
	spec["data"] = map[string]any{"content": signer[:0], "hash": map[string]any{"value": signer}}
	raw, err := json.Marshal(map[string]any{"kind": kind, "spec": spec})
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestExtends(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	for _, kind := range []string{"hashedrekord", "dsse", "intoto"} {
		p := certified(t, begin, kind)
		for after, want := range map[time.Duration]bool{-time.Second: false, 0: true, 10 * time.Minute: true, 10*time.Minute + time.Second: false, 24 * time.Hour: false} {
			ok, reason := extendsV1(p, begin.Add(after).Unix())
			if ok != want || ok != (reason == "") {
				t.Errorf("%s, %s after the certificate begins: %v %q", kind, after, ok, reason)
			}
		}
	}
	if ok, _ := extendsV1(certified(t, begin, "rekord"), begin.Unix()); ok {
		t.Error("a bundle with an entry of a kind that no bundle has")
	}
	if ok, _ := extendsV1(logstage.Hashedrekord("key"), begin.Unix()); !ok {
		t.Error("a signature by a key has no end")
	}
	broken := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("x")}))
	if ok, _ := extendsV1(fmt.Appendf(nil, `{"kind":"hashedrekord","spec":{"signature":{"publicKey":{"content":%q}}}}`, broken), 0); ok {
		t.Error("a certificate that cannot be read")
	}
}
