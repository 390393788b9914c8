package reconcile

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	sumnote "golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// fakeV2 answers as Rekor v2 does; its mirror holds all that it has.
type fakeV2 struct {
	t      *testing.T
	note   sumnote.Signer
	logID  []byte
	key    trust.Key
	bodies [][]byte
	lie    func(*protorekor.TransparencyLogEntry)
	index  string // of duplicates; "" is the true one
	posts  int
}

func newFakeV2(t *testing.T) (*fakeV2, *httptest.Server) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := signature.LoadSigner(key, crypto.SHA512)
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeV2{t: t}
	if f.note, err = note.NewNoteSigner(t.Context(), "v2.test", signer); err != nil {
		t.Fatal(err)
	}
	if f.logID, err = rekor.LogIDV2("v2.test", public); err != nil {
		t.Fatal(err)
	}
	der, _ := x509.MarshalPKIXPublicKey(public)
	if f.key, err = trust.ParseKey(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(f)
	t.Cleanup(server.Close)
	return f, server
}

func (f *fakeV2) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.posts++
	request, _ := io.ReadAll(r.Body)
	p, err := rekor.ProposeV2(request)
	if err != nil || r.URL.Path != "/api/v2/log/entries" || r.Method != http.MethodPost {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for i, body := range f.bodies {
		if bytes.Equal(body, p.Body) {
			index := f.index
			if index == "" {
				index = strconv.Itoa(i)
			}
			w.Header().Set("X-Log-Index", index)
			w.WriteHeader(http.StatusConflict)
			return
		}
	}
	f.bodies = append(f.bodies, p.Body)
	entry, _ := f.entry(uint64(len(f.bodies) - 1))
	raw, err := protojson.Marshal(entry)
	if err != nil {
		f.t.Error(err)
	}
	w.WriteHeader(http.StatusCreated)
	w.Write(raw)
}

func (f *fakeV2) entry(index uint64) (*protorekor.TransparencyLogEntry, error) {
	if index >= uint64(len(f.bodies)) {
		return nil, errors.New("not mirrored yet")
	}
	all := leaves(f.bodies, false)
	root := rootOf(all)
	checkpoint, err := sumnote.Sign(&sumnote.Note{Text: fmt.Sprintf("v2.test\n%d\n%s\n", len(all), base64.StdEncoding.EncodeToString(root[:]))}, f.note)
	if err != nil {
		return nil, err
	}
	entry, err := rekor.TransparencyLogEntryV2(f.bodies[index], index, uint64(len(all)), root, inclusionProof(all, int(index)), checkpoint, f.logID)
	if err == nil && f.lie != nil {
		f.lie(entry)
	}
	return entry, err
}

func (f *fakeV2) fetch(_ context.Context, index uint64) (*protorekor.TransparencyLogEntry, error) {
	return f.entry(index)
}

func (f *fakeV2) find(_ context.Context, leaf storage.Hash) (*protorekor.TransparencyLogEntry, error) {
	for i, body := range f.bodies {
		if storage.LeafHash(body) == leaf {
			return f.entry(uint64(i))
		}
	}
	return nil, nil
}

func (f *fakeV2) submitter(server *httptest.Server, change func(*SubmitterConfig)) Submitter {
	f.t.Helper()
	c := SubmitterConfig{URL: server.URL + "/api/v2", Keys: func() []trust.Key { return []trust.Key{f.key} }}
	if change != nil {
		change(&c)
	}
	s, err := NewSubmitterV2(c)
	if err != nil {
		f.t.Fatal(err)
	}
	return s
}

func TestSubmitterV2(t *testing.T) {
	f, server := newFakeV2(t)
	s := f.submitter(server, func(c *SubmitterConfig) { c.Fetch = f.fetch })
	request := logstage.RequestV2JSON("a")
	for _, other := range []string{"0", "1"} {
		if _, err := s.Submit(t.Context(), logstage.RequestV2JSON(other)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 2 {
		r, err := s.Submit(t.Context(), request)
		if err != nil || r.LogIndex != 2 || r.Duplicate != (i == 1) || !r.Extends || r.Origin != "v2.test" {
			t.Fatalf("%+v %v", r, err)
		}
		var entry protorekor.TransparencyLogEntry
		if err := protojson.Unmarshal(r.JSON, &entry); err != nil || entry.LogIndex != 2 {
			t.Error(err)
		}
	}
	// A server that forgets takes nothing twice that the mirror holds.
	posts := f.posts
	s = f.submitter(server, func(c *SubmitterConfig) { c.Find = f.find })
	if r, err := s.Submit(t.Context(), request); err != nil || !r.Duplicate || f.posts != posts {
		t.Errorf("%+v %v, %d requests", r, err, f.posts-posts)
	}
	for index, fetch := range map[string]func(context.Context, uint64) (*protorekor.TransparencyLogEntry, error){"": nil, "x": f.fetch, "-1": f.fetch, "0": f.fetch, "9": f.fetch} {
		f.index = index
		s = f.submitter(server, func(c *SubmitterConfig) { c.Fetch = fetch })
		if r, err := s.Submit(t.Context(), request); err == nil || as[*RefusedError](err) {
			t.Errorf("a duplicate at %q: %+v %v", index, r, err)
		}
	}
	if _, err := s.Submit(t.Context(), []byte("{}")); !as[*RefusedError](err) {
		t.Error(err)
	}
}

func TestSubmitterV2Lies(t *testing.T) {
	for name, lie := range map[string]func(*protorekor.TransparencyLogEntry){
		"body":       func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody[9] ^= 1 },
		"index":      func(e *protorekor.TransparencyLogEntry) { e.LogIndex++ },
		"log ID":     func(e *protorekor.TransparencyLogEntry) { e.LogId.KeyId = e.LogId.KeyId[1:] },
		"no log ID":  func(e *protorekor.TransparencyLogEntry) { e.LogId = nil },
		"no proof":   func(e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil },
		"proof":      func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes[0][0] ^= 1 },
		"root":       func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.RootHash[0] ^= 1 },
		"short root": func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.RootHash = e.InclusionProof.RootHash[1:] },
		"size":       func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.TreeSize = -1 },
		"checkpoint": func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Checkpoint.Envelope += "x" },
		"nothing":    func(e *protorekor.TransparencyLogEntry) { e.Reset() },
	} {
		f, server := newFakeV2(t)
		s := f.submitter(server, func(c *SubmitterConfig) { c.Fetch = f.fetch })
		if _, err := s.Submit(t.Context(), logstage.RequestV2JSON("other")); err != nil {
			t.Fatal(err)
		}
		f.lie = func(e *protorekor.TransparencyLogEntry) {
			e.CanonicalizedBody = bytes.Clone(e.CanonicalizedBody)
			lie(e)
		}
		request := logstage.RequestV2JSON("a")
		for range 2 {
			if _, err := s.Submit(t.Context(), request); !as[*answerError](err) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
