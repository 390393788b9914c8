package rest

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

func newTestAdmin(status *Status, backup func(string) error) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "understudy_test", Help: "Test."}))
	return NewAdmin(AdminConfig{Status: func() Status { return *status }, Backup: backup, Gatherer: registry})
}

func TestAdminHealth(t *testing.T) {
	status := &Status{Logs: []mirror.Status{
		{Name: "good", HasCheckpoint: true},
		{Name: "dead", Problem: &mirror.Problem{Text: "connection refused"}},
		{Name: "new"},
	}}
	h := newTestAdmin(status, nil)
	if r := get(h, http.MethodGet, "/healthz"); r.StatusCode != http.StatusOK {
		t.Errorf("healthz: got %d", r.StatusCode)
	}
	r := get(h, http.MethodGet, "/readyz")
	text := body(t, r)
	if r.StatusCode != http.StatusServiceUnavailable || strings.Contains(text, "good") ||
		!strings.Contains(text, `"dead": "connection refused"`) || !strings.Contains(text, `"new": "no checkpoint`) {
		t.Errorf("readyz: got %d %s", r.StatusCode, text)
	}
	// A log that has something to serve is ready whatever its upstream does.
	status.Logs = []mirror.Status{{Name: "dead", HasCheckpoint: true, Problem: &mirror.Problem{Text: "connection refused"}}}
	status.Private = []PrivateStatus{{Name: "v2", Problem: &log.Problem{Text: "it is too old"}}}
	r = get(h, http.MethodGet, "/readyz")
	text = body(t, r)
	if r.StatusCode != http.StatusServiceUnavailable || !strings.Contains(text, `"private log v2": "it is too old"`) {
		t.Errorf("readyz without a private log: got %d %s", r.StatusCode, text)
	}
	status.Private[0].PublishedAt = new(time.Now())
	if r := get(h, http.MethodGet, "/readyz"); r.StatusCode != http.StatusOK {
		t.Errorf("readyz: got %d", r.StatusCode)
	}
	var answered Status
	if err := json.Unmarshal([]byte(body(t, get(h, http.MethodGet, "/status"))), &answered); err != nil || len(answered.Logs) != 1 || answered.Logs[0].Name != "dead" {
		t.Errorf("status: %+v, %v", answered, err)
	}
	if r := get(h, http.MethodGet, "/metrics"); r.StatusCode != 200 || !strings.Contains(body(t, r), "\nunderstudy_test 0\n") {
		t.Errorf("metrics: got %d", r.StatusCode)
	}
	if r := get(h, http.MethodGet, "/debug/pprof/heap"); r.StatusCode != 200 || len(body(t, r)) == 0 {
		t.Errorf("pprof: got %d", r.StatusCode)
	}
}

// TestAdminBackup holds that a backup is made where it is asked for, and never
// because of a web page.
func TestAdminBackup(t *testing.T) {
	var made []string
	var fails error
	h := newTestAdmin(&Status{DataDir: "/data"}, func(dir string) error {
		if fails == nil {
			made = append(made, dir)
		}
		return fails
	})
	const good = `{"data_dir": "/data", "dir": "/backup"}`
	ask := func(method, body string, header ...string) int {
		r := httptest.NewRequest(method, "/backup", strings.NewReader(body))
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w.Code
	}
	const contentType, json = "Content-Type", "application/json"
	for name, test := range map[string]struct{ got, want int }{
		"GET":              {ask(http.MethodGet, good, contentType, json), 405},
		"form":             {ask(http.MethodPost, good, contentType, "text/plain"), 415},
		"no type":          {ask(http.MethodPost, good), 415},
		"web page":         {ask(http.MethodPost, good, contentType, json, "Origin", "http://evil.example"), 403},
		"rebound web page": {ask(http.MethodPost, good, contentType, json, "Origin", "http://example.com"), 403},
		"null origin":      {ask(http.MethodPost, good, contentType, json, "Origin", "null"), 403},
		"fetch metadata":   {ask(http.MethodPost, good, contentType, json, "Sec-Fetch-Site", "same-origin"), 403},
		"other daemon":     {ask(http.MethodPost, `{"data_dir": "/other", "dir": "/backup"}`, contentType, json), 409},
		"relative":         {ask(http.MethodPost, `{"data_dir": "/data", "dir": "backup"}`, contentType, json), 400},
		"no dir":           {ask(http.MethodPost, `{"data_dir": "/data"}`, contentType, json), 400},
		"unknown field":    {ask(http.MethodPost, `{"data_dir": "/data", "dir": "/backup", "x": 1}`, contentType, json), 400},
		"no JSON":          {ask(http.MethodPost, `x`, contentType, json), 400},
		"too long":         {ask(http.MethodPost, `{"dir": "`+strings.Repeat("x", 100_000)+`"}`, contentType, json), 400},
	} {
		if test.got != test.want {
			t.Errorf("%s: got %d, want %d", name, test.got, test.want)
		}
	}
	if len(made) != 0 {
		t.Fatalf("backups made: %v", made)
	}
	if code := ask(http.MethodPost, good, contentType, json); code != 200 || len(made) != 1 || made[0] != "/backup" {
		t.Errorf("got %d, %v", code, made)
	}
	fails = storage.ErrExists
	if code := ask(http.MethodPost, good, contentType, json); code != 409 {
		t.Errorf("existing folder: got %d", code)
	}
	fails = errors.New("no space left on device")
	if code := ask(http.MethodPost, good, contentType, json); code != 500 {
		t.Errorf("full disk: got %d", code)
	}
}
