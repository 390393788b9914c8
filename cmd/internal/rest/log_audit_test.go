package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// TestLogAudit: every entry has its row, in order, and a range is what was asked for.
func TestLogAudit(t *testing.T) {
	s, h := newLogV2(t, nil)
	for i := range 10 {
		if _, err := s.Log.Append(t.Context(), log.Entry{Body: fmt.Append(nil, i), Identity: fmt.Sprintf("someone-%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		query      string
		start, end uint64
	}{{"", 0, 10}, {"?start=3", 3, 10}, {"?end=4", 0, 4}, {"?start=3&end=4", 3, 4}, {"?start=4&end=3", 0, 0}, {"?start=10", 0, 0}, {"?start=99&end=100", 0, 0}, {"?end=18446744073709551615", 0, 10}, {"?start=18446744073709551615", 0, 0}} {
		w := ask(h, as("operate", http.MethodGet, auditPath+c.query, nil))
		d := json.NewDecoder(w.Body)
		for want := c.start; want < c.end; want++ {
			var row AuditRow
			if err := d.Decode(&row); err != nil {
				t.Fatalf("%s: %v", c.query, err)
			}
			if row.Index != want || row.Identity != fmt.Sprintf("someone-%d", want) || row.LeafHash != storage.LeafHash(fmt.Append(nil, want)).String() || time.Since(row.Time) > time.Minute {
				t.Errorf("%s: %+v", c.query, row)
			}
		}
		if d.More() || w.Code != http.StatusOK {
			t.Errorf("%s: %d, more than [%d, %d)", c.query, w.Code, c.start, c.end)
		}
	}
	for _, query := range []string{"?start=-1", "?start=x", "?end=1.5", "?start=18446744073709551616"} {
		if w := ask(h, as("operate", http.MethodGet, auditPath+query, nil)); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", query, w.Code)
		}
	}
}

// TestLogAuditDamaged: rows that cannot be read are not hidden by an answer that just ends.
func TestLogAuditDamaged(t *testing.T) {
	s, _ := newLogV2(t, nil)
	if _, err := s.Log.Append(t.Context(), log.Entry{Body: []byte("good"), Identity: "x"}); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if _, err := s.Log.Tree().Extend([][]byte{[]byte("bad")}, func(next storage.Head) (storage.Seal, error) {
		c := s.Log.Tree().State().Pending
		c.Head = next
		return storage.Seal{Checkpoint: c, Audits: [][]byte{[]byte("no row")}}, nil
	}); err != nil {
		t.Fatal(err)
	}
	var told bytes.Buffer
	server := httptest.NewServer(serveAudit(func(*http.Request) *log.Log { return s.Log }, slog.New(slog.NewTextHandler(&told, nil))))
	defer server.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := http.DefaultClient.Do(r)
	var text []byte
	if err == nil {
		defer answer.Body.Close()
		text, err = io.ReadAll(answer.Body)
	}
	if err == nil {
		t.Errorf("it ended as if all were told: %s", strings.TrimSpace(string(text)))
	}
	server.Close() // then the handler has ended
	if !strings.Contains(told.String(), "audit row is malformed") {
		t.Errorf("the operator is told %q", &told)
	}
}

// TestLogAuditRole: however its path is written, only who may operate a log sees who appended what.
func TestLogAuditRole(t *testing.T) {
	for generation, make := range []func(testing.TB, func(*logstage.Stage)) (*logstage.Stage, http.Handler){newLogV1, newLogV2} {
		s, h := make(t, nil)
		if _, err := s.Log.Append(t.Context(), log.Entry{Body: []byte("a"), Identity: "someone-1"}); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{
			auditPath, auditPath + "/", auditPath + "//", auditPath + "%2f", auditPath + "/%2F/", "/understudy%2fv1%2faudit", "/understudy/v1/audi%74", "/understudy/v1/audi%74/",
			"//understudy/v1/audit", "/api/v1/../../understudy/v1/audit", "/understudy/v1/./audit/", "/understudy/v1/x%2f../audit", auditPath + "/.", auditPath + "?start=0", auditPath + "/?start=0",
		} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions} {
				for _, who := range []string{"append", "read", "approve"} {
					w := ask(h, as(who, method, path, nil))
					if w.Code < 300 || strings.Contains(w.Body.String(), "someone-1") {
						t.Errorf("v%d: %s %s for the role %s: %d %s", generation+1, method, path, who, w.Code, w.Body)
					}
				}
			}
		}
		if w := ask(h, as("operate", http.MethodGet, auditPath, nil)); w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "someone-1") {
			t.Errorf("v%d: operate: %d %s", generation+1, w.Code, w.Body)
		}
	}
}
