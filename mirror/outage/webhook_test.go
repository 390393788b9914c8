package outage

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/test/bubble"
)

// receiver is the other end of a webhook, without a network.
type receiver struct {
	mu      sync.Mutex
	answer  func(r *http.Request, seq uint64) (int, error) // nil: 204
	tries   int
	took    []uint64 // the rows that it has taken, in order
	at      []time.Time
	problem string
}

func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	var row ledger.Row
	if err := json.Unmarshal(body, &row); err != nil {
		return nil, err
	}
	mac := hmac.New(sha256.New, []byte("secret"))
	mac.Write(body)
	r.mu.Lock()
	r.tries++
	r.at = append(r.at, time.Now())
	if got := request.Header.Get("Understudy-Signature"); got != "sha256="+hex.EncodeToString(mac.Sum(nil)) {
		r.problem = "signature " + got
	}
	if request.Method != http.MethodPost || request.Header.Get("Content-Type") != "application/json" {
		r.problem = request.Method + " " + request.Header.Get("Content-Type")
	}
	answer := r.answer
	r.mu.Unlock()
	code := http.StatusNoContent
	if answer != nil {
		if code, err = answer(request, row.Seq); err != nil && code == 0 {
			return nil, err
		}
	}
	if code/100 == 2 {
		r.mu.Lock()
		r.took = append(r.took, row.Seq)
		r.mu.Unlock()
	}
	if err != nil {
		return nil, err // taken, and the answer was lost
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Location": {"/other"}}, Body: io.NopCloser(strings.NewReader("")), Request: request}, nil
}

func (r *receiver) webhook() *Webhook {
	return &Webhook{URL: "https://alerts.example.com/hook", Secret: []byte("secret"), Client: &http.Client{Transport: r}}
}

func (r *receiver) set(answer func(r *http.Request, seq uint64) (int, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// told checks that all rows that a receiver is to be told of came, in order, however often.
func (r *receiver) told(t *testing.T, l *ledger.Ledger, from uint64) {
	t.Helper()
	var want []uint64
	if err := l.Rows(from, func(row ledger.Row) error {
		if row.Kind != "decision" && row.Kind != "rollback" {
			want = append(want, row.Seq)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if got := slices.Compact(slices.Clone(r.took)); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("took rows %v, want %v", got, want)
	}
	if r.problem != "" {
		t.Error(r.problem)
	}
}

// changes makes n rows, with others in between.
func changes(t *testing.T, s *stage, n int) {
	t.Helper()
	for i := range n {
		if err := s.m.Force(Force{Component: "tuf", State: []State{Fallback, Live}[i%2], Until: time.Now().Add(time.Hour), Ticket: "T", By: "ann"}); err != nil {
			t.Fatal(err)
		}
		var others []ledger.Entry
		for range i * 7 % 100 {
			others = append(others, ledger.Entry{Kind: "decision", Body: i})
		}
		if _, err := s.ledger.Append(append(others, ledger.Entry{Kind: "exception", Body: i}, ledger.Entry{Kind: "rollback", Body: i})...); err != nil {
			t.Fatal(err)
		}
	}
}

func TestWebhook(t *testing.T) {
	lost := errors.New("connection reset")
	random := rand.New(rand.NewPCG(7, 7))
	for what, answer := range map[string]func(r *http.Request, seq uint64) (int, error){
		"good": nil,
		"fails now and then": func(r *http.Request, seq uint64) (int, error) {
			return []int{500, 204, 404, 200, 301, 307}[random.IntN(6)], nil
		},
		"takes and answers nothing": func(r *http.Request, seq uint64) (int, error) {
			if random.IntN(3) == 0 {
				return 200, lost
			}
			return 202, nil
		},
		"hangs now and then": func(r *http.Request, seq uint64) (int, error) {
			if random.IntN(3) == 0 {
				<-r.Context().Done()
				return 0, r.Context().Err()
			}
			return 200, nil
		},
	} {
		t.Run(what, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				r := &receiver{answer: answer}
				s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "tuf"}}, Webhook: r.webhook()}).run()
				changes(t, s, 30)
				time.Sleep(3 * time.Hour)
				r.told(t, s.ledger, 1)
			})
		})
	}
}

// A receiver that is away is asked less and less often, loses nothing, and holds up nobody.
func TestWebhookAway(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		r := &receiver{answer: func(r *http.Request, _ uint64) (int, error) {
			<-r.Context().Done() // takes the connection, and does not answer
			return 0, r.Context().Err()
		}}
		u := &upstream{latency: 3 * time.Millisecond}
		u.set("good")
		s := newStage(t, vfs.NewMem(), Config{Components: append(read(u), Component{Name: "tuf"}), Webhook: r.webhook()}).run()
		changes(t, s, 10)
		time.Sleep(10 * time.Second)
		u.set("hang")
		s.until(rekorRead, Fallback, 4600*time.Millisecond)
		time.Sleep(time.Hour)
		r.mu.Lock()
		if r.tries > 70 || r.tries < 45 {
			t.Errorf("%d tries in an hour", r.tries)
		}
		r.mu.Unlock()
		r.set(nil)
		time.Sleep(2 * time.Minute)
		r.told(t, s.ledger, 1)
	})
}

// Across restarts each row comes at least once, in order; what came before there was a webhook does not.
func TestWebhookRestart(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		disk := vfs.NewMem()
		r := &receiver{}
		s := newStage(t, disk, Config{Components: []Component{{Name: "tuf"}}})
		changes(t, s, 3)
		s.close()
		cfg := Config{Components: []Component{{Name: "tuf"}}, Webhook: r.webhook()}
		s = newStage(t, disk, cfg) // it is configured, and the program ends before Run
		from, _ := s.ledger.Head()
		changes(t, s, 3)
		s.close()
		for i := range 12 {
			n := 0
			r.set(func(q *http.Request, _ uint64) (int, error) {
				if n++; n > i {
					<-q.Context().Done() // until the program ends
					return 0, context.Canceled
				}
				return 200, nil
			})
			s = newStage(t, disk, cfg).run()
			changes(t, s, 2)
			time.Sleep(3 * time.Second)
			if err := s.stop(); err != nil {
				t.Fatal(err)
			}
			s.close()
		}
		r.set(nil)
		s = newStage(t, disk, cfg).run()
		time.Sleep(time.Hour)
		synctest.Wait()
		r.told(t, s.ledger, from+1)
		// Only what was not taken came twice, or what was taken when the program ended.
		r.mu.Lock()
		defer r.mu.Unlock()
		if all, once := len(r.took), len(slices.Compact(slices.Clone(r.took))); all > once+13 {
			t.Errorf("%d rows came, %d of them once", all, once)
		}
	})
}

// The same over a network, with redirects that must not be taken for an answer.
func TestWebhookOverNetwork(t *testing.T) {
	var mu sync.Mutex
	got := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.Method != http.MethodPost || len(body) == 0:
			t.Errorf("%s with %d bytes", r.Method, len(body))
		case got == 0 && r.URL.Path == "/hook":
			got++
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		default:
			got++
		}
	}))
	defer server.Close()
	s := newStage(t, vfs.NewMem(), Config{Components: []Component{{Name: "tuf"}}, Webhook: &Webhook{URL: server.URL + "/hook"}}).run()
	if err := s.m.Quarantine("tuf", Cause{CodeFork, "two heads"}); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		time.Sleep(10 * time.Millisecond)
		mu.Lock()
		n := got
		mu.Unlock()
		if n == 2 {
			return
		}
	}
	t.Error("the row did not come after a redirect")
}

func TestWebhookURL(t *testing.T) {
	for _, bad := range []string{"", "alerts", "ftp://a/b", "http://", "http://a b/"} {
		if _, err := newHook(Config{Webhook: &Webhook{URL: bad}}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// A cursor beyond the ledger is of another database.
func TestWebhookCursor(t *testing.T) {
	r := &receiver{}
	s := newStage(t, vfs.NewMem(), Config{})
	for _, bad := range []string{"7", "x", "-1"} {
		if err := s.db.PutRecord(hookRecord, []byte(bad)); err != nil {
			t.Fatal(err)
		}
		cfg := s.cfg
		cfg.Webhook = r.webhook()
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "restore a backup") {
			t.Errorf("cursor %q: %v", bad, err)
		}
	}
}
