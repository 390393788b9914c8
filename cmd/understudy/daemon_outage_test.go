package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// outageStage is a privateStage whose public log can be away, with people who deal with that.
type outageStage struct {
	*privateStage
	away atomic.Bool // takes requests and does not answer
	url  string
}

func newOutageStage(t *testing.T) *outageStage {
	s := &outageStage{privateStage: newPrivateStage(t)}
	var logs []map[string]string
	text := strings.Trim(s.settings["logs"], "[]{}")
	for _, part := range strings.Split(text, ", ") {
		key, value, _ := strings.Cut(part, ": ")
		logs = append(logs, map[string]string{key: strings.Trim(value, "'")})
	}
	upstream, err := url.Parse(logs[1]["url"])
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(upstream)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case s.away.Load():
			_, _ = io.Copy(io.Discard, r.Body) // or nobody would notice that the client has gone
			<-r.Context().Done()
		case r.Method == http.MethodPost: // what is proposed here is nothing that it wants
			http.Error(w, `{"code":3,"message":"not such an entry"}`, http.StatusBadRequest)
		default:
			proxy.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	s.settings["logs"] = strings.Replace(s.settings["logs"], logs[1]["url"], server.URL, 1)
	s.settings["logs"] = strings.Replace(s.settings["logs"], "}", ", write_url: '"+server.URL+"/api/v2', poll: 1s}", 1)
	s.settings["more"] = "checkpoint_interval: 1s\n  mode: fallback"
	var identities []string
	for _, who := range []struct{ name, roles string }{{"otto", "operate"}, {"olga", "operate, approve"}, {"anna", "approve"}} {
		token, hash := newToken()
		if err := os.WriteFile(who.name+".token", []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		identities = append(identities, fmt.Sprintf("{name: %s, token_sha256: %s, roles: [%s]}", who.name, hash, who.roles))
	}
	s.settings["access"] += "\noutage:\n  probe: {every: 1s, timeout: 1s}\n  identities: [" + strings.Join(identities, ", ") + "]\n  drills: {max: 1m}\nverification:\n  policies: [{name: production}]"
	return s
}

// write puts what stands at the top behind the rest.
func (s *outageStage) write() {
	s.t.Helper()
	s.privateStage.write()
	data, err := os.ReadFile("c.yaml")
	if err != nil {
		s.t.Fatal(err)
	}
	before, after, _ := strings.Cut(string(data), "\noutage:")
	top, rest, _ := strings.Cut(after, "\n  passphrase_file:")
	if err := os.WriteFile("c.yaml", []byte(before+"\n  passphrase_file:"+rest+"\noutage:"+top+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *outageStage) outage() (status rest.OutageStatus) {
	s.t.Helper()
	code, out, text := s.with("outage", "status", "--json")
	if code != 0 {
		s.t.Fatal(text)
	}
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		s.t.Fatal(err)
	}
	return status
}

// await waits until the components have a state.
func (s *outageStage) await(within time.Duration, state outage.State, components ...string) rest.OutageStatus {
	s.t.Helper()
	began := time.Now()
	for {
		status, n := s.outage(), 0
		for _, c := range status.Components {
			for _, name := range components {
				if c.Component == name && c.State == state {
					n++
				}
			}
		}
		if n == len(components) {
			s.t.Logf("%v are %s after %s", components, state, time.Since(began).Round(100*time.Millisecond))
			return status
		}
		if time.Since(began) > within {
			s.t.Fatalf("%v are not %s after %s: %+v", components, state, within, status.Components)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// as gives an order in somebody's name.
func (s *outageStage) as(who string, args ...string) (code int, out, text string) {
	s.t.Helper()
	return s.with(append(args, "--token-file", who+".token")...)
}

func (s *outageStage) wantOrder(who, want string, args ...string) string {
	s.t.Helper()
	code, out, text := s.as(who, args...)
	if (want == "") != (code == 0) || !strings.Contains(text, want) {
		s.t.Fatalf("%s: %v: %d %s %s; want %q", who, args, code, out, text, want)
	}
	return out
}

// TestOutageDay goes through an outage as its operators see it.
func TestOutageDay(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	s := newOutageStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	stop := s.serve()
	both := []string{"small/read", "small/write"}
	s.await(20*time.Second, outage.Live, both...)
	if code, out, text := s.with("outage", "status"); code != 0 || !strings.Contains(out, "private log   closed") {
		t.Errorf("%d %s %s", code, out, text)
	}
	refused := func() {
		t.Helper()
		if code, text := s.ask("POST", s.v2, "/api/v2/log/entries", logstage.RequestV2JSON("early")); code != http.StatusServiceUnavailable || !strings.Contains(text, "NOT_IN_FALLBACK") {
			t.Errorf("it takes entries: %d %s", code, text)
		}
	}
	refused()

	// What an operator says, and who may.
	for _, c := range []struct {
		who, want string
		args      []string
	}{
		{"anna", "does not have the role operate", []string{"outage", "force", "small/write", "fallback", "--for", "1h", "--ticket", "T-1"}},
		{"otto", "icket", []string{"outage", "force", "small/write", "fallback", "--for", "1h"}},
		{"otto", "", []string{"outage", "force", "small/write", "fallback", "--for", "2s", "--ticket", "T-1"}},
	} {
		s.wantOrder(c.who, c.want, c.args...)
	}
	s.await(2*time.Second, outage.Fallback, "small/write")
	s.await(10*time.Second, outage.Live, "small/write") // by itself

	s.away.Store(true)
	status := s.await(8*time.Second, outage.Fallback, both...)
	if status.State != outage.Fallback || status.Effects.PrivateLog != "open" {
		time.Sleep(3 * time.Second) // what follows is not in the same instant
		if status = s.outage(); status.Effects.PrivateLog != "open" {
			t.Errorf("effects %+v", status.Effects)
		}
	}
	for i := range 5 {
		s.propose("v2", fmt.Sprint("in the outage ", i))
	}
	s.propose("v1", "in the outage")
	s.wantOrder("otto", "OUTAGE", "drill", "run", "refuse", "--for", "20s", "--ticket", "T-2")
	id := strings.TrimSuffix(strings.Fields(s.wantOrder("olga", "", "exception", "request", "production", "--for", "10m", "--ticket", "T-3"))[2], ";")
	s.wantOrder("olga", "SELF_APPROVAL", "exception", "approve", id)
	s.wantOrder("otto", "does not have the role approve", "exception", "approve", id)
	s.wantOrder("anna", "", "exception", "approve", id)
	if code, out, _ := s.with("outage", "note"); code != 0 || !strings.Contains(out, "Verification goes on") || !strings.Contains(out, "Signing goes on") {
		t.Errorf("%s", out)
	}

	// It is the same after a restart.
	if text := stop(); strings.Contains(text, "panic") {
		t.Fatal(text)
	}
	stop = s.serve()
	s.await(2*time.Second, outage.Fallback, both...)

	s.away.Store(false)
	s.await(60*time.Second, outage.Live, both...)
	_, out, _ := s.with("outage", "ledger")
	for line := range strings.Lines(out) {
		var row struct {
			At   time.Time
			Kind string
			Body map[string]any
		}
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		t.Log(row.At.Format("05.000"), row.Kind, row.Body["event"], row.Body["component"], row.Body["to"], row.Body["cause"])
	}
	refusedBy := time.Now().Add(5 * time.Second)
	for s.outage().Effects.PrivateLog != "closed" && time.Now().Before(refusedBy) {
		time.Sleep(100 * time.Millisecond)
	}
	refused()
	code, out, text := s.with("reconcile", "report")
	if code != 0 || !strings.Contains(out, "small") {
		t.Fatalf("%d %s %s", code, out, text)
	}
	t.Log(out)
	if code, out, text := s.with("exception", "list"); code != 0 || !strings.Contains(out, "closed") {
		t.Errorf("%d %s %s", code, out, text)
	}

	s.wantOrder("otto", "", "drill", "run", "hang", "--for", "15s", "--ticket", "T-4", "--wait")
	if code, out, text := s.with("drill", "report"); code != 0 || !strings.Contains(out, "T-4") {
		t.Errorf("%d %s %s", code, out, text)
	} else {
		t.Log(out)
	}
	if text := stop(); strings.Contains(text, "panic") {
		t.Fatal(text)
	}
	if code, out, text := s.with("check"); code != 0 || !strings.Contains(out, "ledger of outages: ") {
		t.Errorf("%d %s %s", code, out, text)
	}
	code, out, text = s.with("outage", "ledger")
	if code != 0 || !strings.Contains(out, `"kind":"state"`) || !strings.Contains(out, `"kind":"reconcile"`) || !strings.Contains(out, `"kind":"drill"`) {
		t.Errorf("%d %s %s", code, out, text)
	}
	t.Log(out)
}

// TestOutageLedgerDamaged: a ledger that was changed on the disk takes what rests on it, and nothing else.
func TestOutageLedgerDamaged(t *testing.T) {
	s := newOutageStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	stop := s.serve()
	s.await(20*time.Second, outage.Live, "small/read")
	s.wantOrder("otto", "", "outage", "force", "small/write", "fallback", "--for", "1h", "--ticket", "T-1")
	stop()
	c, err := loadConfig("c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	db, err := c.openHeld(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("ledger %020d", 1)
	row, err := db.Record(name)
	if err != nil || row == nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.PutRecord(name, bytes.Replace(row, []byte(`"kind":"`), []byte(`"kind":"x`), 1)), db.Close()); err != nil {
		t.Fatal(err)
	}
	s.serve()
	if code, _, text := s.with("outage", "status"); code != 2 || !strings.Contains(text, "restore a backup") {
		t.Errorf("status: %d %s", code, text)
	}
	if code, text := s.ask("POST", s.v2, "/api/v2/log/entries", logstage.RequestV2JSON("a")); code != http.StatusServiceUnavailable || !strings.Contains(text, "NOT_IN_FALLBACK") {
		t.Errorf("it takes entries, and nobody knows whether it should: %d %s", code, text)
	}
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		if code, _ := s.ask("GET", s.http, "/"+mirror.OriginHash("log.example")+"/checkpoint", nil); code == http.StatusOK {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("what is held is not served any more")
		}
	}
}
