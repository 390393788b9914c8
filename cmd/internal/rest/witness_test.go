package rest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/witnesses"
	"github.com/understudy-log/understudy/witness"
)

// witnessStage serves a witness of one log.
type witnessStage struct {
	*httptest.Server
	log    *witnesses.Log
	behind bool
}

func newWitnessStage(t *testing.T, patience time.Duration) *witnessStage {
	t.Helper()
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	newest, err := storage.OpenNewest("newest", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	private, _, err := witness.GenerateKey("witness.test/w1", witness.Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	key, err := witness.ParseKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	s := &witnessStage{log: witnesses.NewLog("log.test/a", "log.test/a")}
	tree, err := db.CreateTree(s.log.Origin)
	if err != nil {
		t.Fatal(err)
	}
	own, err := trust.ParseKey([]byte(s.log.VKey))
	if err != nil {
		t.Fatal(err)
	}
	mirrored := witness.Log{
		Origin: s.log.Origin, Tree: tree, Behind: func() bool { return s.behind },
		Offer: func(next storage.Checkpoint, consistency []storage.Hash) error {
			_, err := tree.Advance(next, consistency, nil)
			return err
		},
		Open: func(raw []byte) (storage.Checkpoint, error) {
			c, err := trust.OpenAlone(raw, s.log.Origin, []trust.Key{own})
			if err != nil {
				return storage.Checkpoint{}, fmt.Errorf("%w: %w", witness.ErrUnsigned, err)
			}
			return storage.Checkpoint{Head: storage.Head{Size: c.Size, Root: c.Root}, Raw: c.Raw}, nil
		},
	}
	w, err := witness.New(witness.Config{Keys: []*witness.Key{key}, Newest: newest, Find: func(origin string) (witness.Log, bool) { return mirrored, origin == s.log.Origin }})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	handleWitness(mux, w, slog.New(slog.DiscardHandler), patience)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(func() {
		s.Close()
		if err := errors.Join(newest.Close(), db.Close()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *witnessStage) push(old, size uint64) string {
	body := fmt.Sprintf("old %d\n", old)
	if old > 0 {
		for _, line := range s.log.Proof(old, size) {
			body += line + "\n"
		}
	}
	return body + "\n" + s.log.Checkpoint(size)
}

// TestWitnessHTTP: each outcome has the status code, the headers and the body of the
// specification.
func TestWitnessHTTP(t *testing.T) {
	s := newWitnessStage(t, submitTime)
	hash := mirror.OriginHash(s.log.Origin)
	for _, test := range []struct {
		method, path, body string
		code               int
		header, value      string
		want               string // beginning of the answer
	}{
		{"GET", "/witness/" + hash + "/checkpoint", "", 404, "Cache-Control", "no-store", "this witness has cosigned no checkpoint"},
		{"POST", "/witness/add-checkpoint", s.push(0, 10), 200, "Cache-Control", "no-store", "— witness.test/w1 "},
		{"POST", "/witness/add-checkpoint", s.push(5, 20), 409, "Content-Type", "text/x.tlog.size", "10\n"},
		{"POST", "/witness/add-checkpoint", s.push(10, 20), 200, "Content-Type", "text/plain; charset=utf-8", "— witness.test/w1 "},
		{"POST", "/witness/add-checkpoint", strings.Replace(s.push(20, 30), "A", "B", 1), 422, "X-Content-Type-Options", "nosniff", ""},
		{"POST", "/witness/add-checkpoint", "rubbish", 400, "Cache-Control", "no-store", "the first line must be"},
		{"POST", "/witness/add-checkpoint", "old 0\n\n" + strings.Repeat("x", witness.MaxRequest), 413, "Cache-Control", "no-store", "a checkpoint and its proof"},
		{"POST", "/witness/add-checkpoint", "old 0\n\n" + witnesses.NewLog("log.test/b", "b").Checkpoint(1), 404, "", "", "this witness does not cosign"},
		{"POST", "/witness/add-checkpoint", "old 20\n\n" + strings.ReplaceAll(s.log.Checkpoint(20), "— log.test/a", "— log.test/b"), 403, "", "", "no good signature"},
		{"GET", "/witness/add-checkpoint", "", 405, "Allow", "POST", "add-checkpoint is a POST"},
		{"PUT", "/witness/add-checkpoint", s.push(20, 30), 405, "Allow", "POST", ""},
		{"GET", "/witness/", "", 404, "", "", "the witness has add-checkpoint"},
		{"GET", "/witness/" + hash + "/checkpoint", "", 200, "Content-Type", "text/plain; charset=utf-8", "log.test/a\n20\n"},
		{"HEAD", "/witness/" + hash + "/checkpoint", "", 200, "Cache-Control", "public, max-age=1", ""},
		{"GET", "/witness/" + strings.ToUpper(hash) + "/checkpoint", "", 404, "", "", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), test.method, s.URL+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		reply, err := s.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(reply.Body)
		reply.Body.Close()
		if err != nil || reply.StatusCode != test.code || test.header != "" && reply.Header.Get(test.header) != test.value || !strings.HasPrefix(string(body), test.want) {
			t.Errorf("%s %s %.40q: %d, %v, %q, %v", test.method, test.path, test.body, reply.StatusCode, reply.Header, body, err)
		}
	}
	s.behind = true
	reply, err := http.Post(s.URL+"/witness/add-checkpoint", "text/plain", strings.NewReader(s.push(20, 30)))
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != 503 || reply.Header.Get("Retry-After") == "" {
		t.Errorf("after an older database was restored: %d, %v", reply.StatusCode, reply.Header)
	}
}

// TestSlowCheckpoint: a body that drips, or never comes, is given up, and takes nothing with it.
func TestSlowCheckpoint(t *testing.T) {
	s := newWitnessStage(t, 300*time.Millisecond)
	for _, sent := range []string{"", "old 0\n", s.push(0, 10)[:60]} {
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		fmt.Fprintf(conn, "POST /witness/add-checkpoint HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n%s", sent)
		go func() { // drips
			for range 100 {
				if _, err := conn.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		reply, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if reply.StatusCode != http.StatusRequestTimeout || time.Since(began) > 3*time.Second {
			t.Errorf("after %v: %d", time.Since(began), reply.StatusCode)
		}
		conn.Close()
	}
	reply, err := http.Post(s.URL+"/witness/add-checkpoint", "text/plain", bytes.NewReader([]byte(s.push(0, 10))))
	if err != nil {
		t.Fatal(err)
	}
	reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d", reply.StatusCode)
	}
}
