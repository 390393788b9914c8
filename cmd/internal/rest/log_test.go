package rest

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

const origin = "rest.example/log"

// upstream is a log that signs what is appended to its mirror's tree.
type upstream struct {
	t        testing.TB
	signer   note.Signer
	verifier note.Verifier
	tree     *storage.Tree
	mirror   *mirror.Mirror
	entries  [][]byte
}

func newUpstream(t testing.TB) *upstream {
	t.Helper()
	skey, vkey, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{t: t}
	if u.signer, err = note.NewSigner(skey); err != nil {
		t.Fatal(err)
	}
	if u.verifier, err = note.NewVerifier(vkey); err != nil {
		t.Fatal(err)
	}
	db, err := storage.Create(t.TempDir(), storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	if u.tree, err = db.CreateTree(origin); err != nil {
		t.Fatal(err)
	}
	u.mirror, err = mirror.New(mirror.Config{Name: "rest", Origin: origin, URL: "http://127.0.0.1:1", Tree: u.tree})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *upstream) sign(head storage.Head) storage.Checkpoint {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, head.Size, base64.StdEncoding.EncodeToString(head.Root[:]))
	raw, err := note.Sign(&note.Note{Text: text}, u.signer)
	if err != nil {
		u.t.Fatal(err)
	}
	return storage.Checkpoint{Head: head, Raw: raw, FirstSeen: time.Now(), LastSeen: time.Now()}
}

// grow appends entries until there are size of them.
func (u *upstream) grow(size int) {
	u.t.Helper()
	var added [][]byte
	for i := len(u.entries); i < size; i++ {
		entry := fmt.Appendf(nil, "entry %d %s", i, strings.Repeat("x", i%97))
		u.entries, added = append(u.entries, entry), append(added, entry)
	}
	u.extend(added)
}

func (u *upstream) extend(entries [][]byte) {
	u.t.Helper()
	_, err := u.tree.Extend(entries, func(next storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: u.sign(next)}, nil
	})
	if err != nil {
		u.t.Fatal(err)
	}
}

// mirrors is what PublicConfig asks for.
func (u *upstream) mirrors() []*mirror.Mirror { return []*mirror.Mirror{u.mirror} }

func (u *upstream) handler() http.Handler {
	return NewPublic(PublicConfig{Mirrors: u.mirrors, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
}

// prefix is the path of the log.
var prefix = "/" + mirror.OriginHash(origin)

func get(h http.Handler, method, path string, header ...string) *http.Response {
	r := httptest.NewRequest(method, path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t testing.TB, r *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
