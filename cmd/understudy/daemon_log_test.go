package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

// privateStage is a folder with a configuration of a mirror and of a private log of both generations.
type privateStage struct {
	t                          *testing.T
	http, admin, v1, v2, token string
	settings                   map[string]string // what the configuration is made of
}

// newPrivateStage makes the keys in a folder, to which it changes.
func newPrivateStage(t *testing.T) *privateStage {
	t.Helper()
	cheap(t)
	t.Chdir(t.TempDir())
	upstream := newScriptLog(t)
	s := &privateStage{t: t}
	grpc := ""
	for _, address := range []*string{&s.http, &grpc, &s.admin, &s.v1, &s.v2} {
		var err error
		if *address, err = freeAddress(); err != nil {
			t.Fatal(err)
		}
	}
	if code, _, text := s.run("log", "init", "keys", "--v1-host", "rekor.test", "--v2-origin", "log.test"); code != 0 {
		t.Fatal(text)
	}
	token, hash := newToken()
	s.token = token
	s.settings = map[string]string{
		"listen":    fmt.Sprintf("{http: '%s', grpc: '%s', admin: '%s', log_v1: '%s', log_v2: '%s'}", s.http, grpc, s.admin, s.v1, s.v2),
		"logs":      fmt.Sprintf("[{name: small, url: '%s', origin: %s, public_key: '%s'}]", upstream.url, upstream.origin, upstream.vkey),
		"v1":        "{host: rekor.test, tree_id: 7, key: keys/log-v1.key}",
		"v2":        "{origin: log.test, key: keys/log-v2.key, mldsa_key: keys/log-v2-mldsa.key}",
		"pass":      "keys/passphrase",
		"proposals": "{key: keys/proposals.key}",
		"more":      "checkpoint_interval: 1s",
		"access":    fmt.Sprintf("{identities: [{name: pipeline, token_sha256: %s, roles: [append, read, operate]}]}", hash),
	}
	return s
}

// write writes the configuration.
func (s *privateStage) write() {
	s.t.Helper()
	text := "data_dir: data\nlisten: " + s.settings["listen"] + "\nlogs: " + s.settings["logs"] + "\nlog:\n"
	for _, key := range []string{"v1", "v2", "proposals", "access"} {
		if s.settings[key] != "" {
			text += "  " + key + ": " + s.settings[key] + "\n"
		}
	}
	text += "  passphrase_file: " + s.settings["pass"] + "\n  " + s.settings["more"] + "\n"
	if err := os.WriteFile("c.yaml", []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// run runs a command.
func (s *privateStage) run(args ...string) (code int, out, text string) {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	code = run(ctx, args, &stdout, &stderr)
	return code, stdout.String(), stderr.String()
}

// with is run with the configuration.
func (s *privateStage) with(args ...string) (code int, out, text string) {
	s.t.Helper()
	return s.run(append(args, "--config", "c.yaml")...)
}

// serve runs the daemon until the other function is called, which returns what it wrote.
func (s *privateStage) serve() (stop func() string) {
	s.t.Helper()
	var text safeBuffer
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() { ended <- run(ctx, []string{"serve", "--config", "c.yaml"}, io.Discard, &text) }()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if code, _ := s.ask("GET", s.admin, "/healthz", nil); code == http.StatusOK {
			break
		}
		if len(ended) > 0 || time.Now().After(end) {
			s.t.Fatalf("it does not serve: %s", text.String())
		}
	}
	stop = sync.OnceValue(func() string {
		cancel()
		if code := <-ended; code != 0 {
			s.t.Errorf("exit code %d: %s", code, text.String())
		}
		return text.String()
	})
	s.t.Cleanup(func() { stop() })
	return stop
}

// safeBuffer is a buffer for several goroutines.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// ask asks an address with the token; code 0 is none.
func (s *privateStage) ask(method, address, path string, body []byte) (code int, text string) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+address+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	r.Close = true
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+s.token)
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		return 0, err.Error()
	}
	return answer.StatusCode, string(data)
}

// propose appends to one of the generations.
func (s *privateStage) propose(name, artifact string) {
	s.t.Helper()
	address, path, proposed := s.v1, "/api/v1/log/entries", logstage.Hashedrekord(artifact)
	if name == "v2" {
		address, path, proposed = s.v2, "/api/v2/log/entries", logstage.RequestV2JSON(artifact)
	}
	if code, text := s.ask("POST", address, path, proposed); code != http.StatusCreated {
		s.t.Fatalf("%s: %d %s", name, code, text)
	}
}

// TestPrivateMistakes: what is wrong about the private log stops the start with exit code 2, says where
// it is and what to do, and signs nothing.
func TestPrivateMistakes(t *testing.T) {
	s := newPrivateStage(t)
	s.write()
	start := func(name string, want ...string) {
		t.Helper()
		s.write()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		var stderr bytes.Buffer
		code := run(ctx, []string{"serve", "--config", "c.yaml"}, io.Discard, &stderr)
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		last := lines[len(lines)-1]
		if code != 2 {
			t.Errorf("%s: exit code %d: %s", name, code, stderr.String())
		}
		for _, w := range want {
			if !strings.Contains(stderr.String(), w) {
				t.Errorf("%s: no %q in %s", name, w, last)
			}
		}
	}
	change := func(key, value string) (back func()) {
		old := s.settings[key]
		s.settings[key] = value
		return func() { s.settings[key] = old }
	}
	start("no tree", `c.yaml:`, `there is no log "rekor.test - 7"`, `"understudy log create" makes it`)
	if code, out, text := s.with("log", "create"); code != 0 || !strings.Contains(out, "log.test  made") {
		t.Fatal(code, out, text)
	}
	if code, out, text := s.with("log", "create"); code != 2 || !strings.Contains(out, "is there already, with 0 entries") || !strings.Contains(text, "never begun anew") {
		t.Errorf("created again: %d %s %s", code, out, text)
	}

	for name, c := range map[string]struct{ file, with string }{
		"another key of v1": {"keys/log-v1.key", "other/log-v1.key"},
		"another key of v2": {"keys/log-v2.key", "other/log-v2.key"},
	} {
		if _, err := os.Stat("other"); err != nil {
			if code, _, text := s.run("log", "init", "other", "--v1-host", "rekor.test", "--v2-origin", "log.test", "--passphrase-file", "keys/passphrase"); code != 0 {
				t.Fatal(text)
			}
		}
		for _, g := range []string{"v1", "v2"} {
			if strings.Contains(s.settings[g], c.file+",") || strings.Contains(s.settings[g], c.file+"}") {
				back := change(g, strings.ReplaceAll(s.settings[g], c.file, c.with))
				start(name, "c.yaml:", "is not signed by the keys of the configuration", "give the keys that it was begun with")
				back()
			}
		}
	}
	write := func(name, text string) string {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for name, c := range map[string]struct {
		key, value string
		want       []string
	}{
		"wrong passphrase":     {"pass", write("wrong", "wrong horse\n"), []string{"c.yaml:", "keys/log-v1.key", "passphrase"}},
		"no passphrase":        {"pass", "nothing", []string{"c.yaml:", "nothing"}},
		"no key":               {"v1", "{host: rekor.test, tree_id: 7, key: keys/gone.key}", []string{"c.yaml:", "keys/gone.key"}},
		"a key of v2 for v1":   {"v1", "{host: rekor.test, tree_id: 7, key: keys/log-v2.key}", []string{"c.yaml:", "clients of Rekor v1 want ECDSA on P-256"}},
		"wrong proposals":      {"proposals", "{key: " + write("junk", "junk") + "}", []string{"c.yaml:", "has no key of proposed entries"}},
		"no policy":            {"more", "witness_policy: {file: nothing}", []string{"c.yaml:", "nothing"}},
		"policy":               {"more", "witness_policy: {file: " + write("policy", "# one\n# two\nwitnes x y\n") + "}", []string{"c.yaml:10:", "line 3 of the policy"}},
		"TLS":                  {"access", strings.Replace(s.settings["access"], "{", "{tls: {certificate: nothing.crt, key: nothing.key}, ", 1), []string{"c.yaml:", "nothing.crt"}},
		"same address":         {"listen", strings.Replace(s.settings["listen"], s.v2, s.v1, 1), []string{"c.yaml:2:", `is the address of "log_v1" already`}},
		"same as the mirror's": {"listen", strings.Replace(s.settings["listen"], s.v2, s.http, 1), []string{"c.yaml:2:", `is the address of "http" already`}},
	} {
		back := change(c.key, c.value)
		start(name, c.want...)
		back()
	}
	taken, err := net.Listen("tcp", s.v2)
	if err != nil {
		t.Fatal(err)
	}
	start("taken", "listen for log_v2 on "+s.v2, "change listen.log_v2")
	taken.Close()
}

// TestPrivateDaemon: what is logged is shown by status and audit, of a running daemon and of its data,
// and check holds all of it together.
func TestPrivateDaemon(t *testing.T) {
	s := newPrivateStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	stop := s.serve()
	s.propose("v1", "a")
	s.propose("v2", "b")
	s.propose("v2", "c")
	for path, address := range map[string]string{"/ping": s.v1, "/healthz": s.v2} {
		token := s.token
		s.token = ""
		if code, text := s.ask("GET", address, path, nil); code != http.StatusOK {
			t.Errorf("%s: %d %s", path, code, text)
		}
		s.token = token
	}
	for _, running := range []bool{true, false} {
		if !running {
			if text := stop(); strings.Contains(text, s.token) || strings.Contains(text, "level=ERROR") {
				t.Errorf("%s", text)
			}
		}
		code, out, text := s.with("status", "--json")
		var status rest.Status
		if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 || len(status.Private) != 2 || status.Running != running {
			t.Fatalf("%d %v %s %s", code, err, out, text)
		}
		for _, p := range status.Private {
			v1, size := p.Name == "v1", uint64(2)
			if v1 {
				size = 1
			}
			if p.Size != size || p.Published != p.Size || p.Problem != nil || p.Since.IsZero() || v1 && p.Origin != "rekor.test - 7" {
				t.Errorf("running %v: %+v", running, p)
			}
		}
		code, out, text = s.with("status")
		for _, want := range []string{"private log, Rekor v1 (rekor.test - 7)", "private log, Rekor v2 (log.test)", "published 2 entries"} {
			if code != 0 || !strings.Contains(out, want) {
				t.Errorf("running %v: %d, no %q in %s %s", running, code, want, out, text)
			}
		}
		for _, c := range []struct {
			args string
			rows int
		}{{"v1", 1}, {"v2", 2}, {"v2 --start 1", 1}, {"v2 --end 1", 1}, {"v2 --start 2", 0}, {"v2 --start 9 --end 4", 0}, {"v2 --end 99", 2}} {
			code, out, text := s.with(append([]string{"log", "audit"}, strings.Fields(c.args)...)...)
			if code != 0 || strings.Count(out, "\n") != c.rows || strings.Count(out, `"identity":"pipeline"`) != c.rows {
				t.Errorf("running %v: audit %s: %d %s %s", running, c.args, code, out, text)
			}
		}
		if code, _, text := s.with("log", "audit", "v3"); code != 2 || !strings.Contains(text, "want v1 or v2") {
			t.Errorf("%d %s", code, text)
		}
	}
	code, out, text := s.with("check")
	if code != 0 || !strings.Contains(out, "rekor.test - 7: good: 1 entry") || !strings.Contains(out, "log.test: good: 2 entries") || strings.Contains(out, "NOT checked") {
		t.Errorf("check: %d %s %s", code, out, text)
	}

	// Without a key its signatures are not checked, and nothing is called damaged for that.
	if code, _, text := s.with("log", "material", "material"); code != 0 {
		t.Fatal(text)
	}
	if err := os.Rename("keys/log-v1.key.pub", "away"); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"", "\ntrusted_root: material/trusted_root.json"} {
		s.settings["more"] = "checkpoint_interval: 1s" + root
		s.write()
		if code, out, text := s.with("check"); code != 0 {
			t.Errorf("check with %q: %d %s %s", root, code, out, text)
		}
	}
}

// TestPrivateLost: a generation whose database is older than what it published is not served, and says
// why; the other one and the mirror go on.
func TestPrivateLost(t *testing.T) {
	s := newPrivateStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	stop := s.serve()
	s.propose("v1", "a")
	s.propose("v2", "b")
	if code, _, text := s.with("backup", "backup"); code != 0 {
		t.Fatal(text)
	}
	s.propose("v1", "after the backup")
	stop()
	if err := os.Rename("data/db", "lost"); err != nil {
		t.Fatal(err)
	}
	code, out, text := s.with("restore", "backup")
	if code != 0 || !strings.Contains(out, "rekor.test - 7: 1 entry") || !strings.Contains(out, "rekor.test - 7: will NOT be served: it published a checkpoint over 2 entries") || strings.Contains(out, "log.test: will") {
		t.Fatal(code, out, text)
	}
	stop = s.serve()
	const want = `the database holds 1 entries of "rekor.test - 7", and a checkpoint over 2 was published`
	for path, code := range map[string]int{"/api/v1/log": 503, "/ping": 503, "/api/v1/log/entries?logIndex=0": 503} {
		got, text := s.ask("GET", s.v1, path, nil)
		if got != code || !strings.Contains(text, `"code":503`) || strings.Contains(text, "published") {
			t.Errorf("%s: %d %s", path, got, text)
		}
	}
	if code, text := s.ask("POST", s.v1, "/api/v1/log/entries", logstage.Hashedrekord("x")); code != 503 {
		t.Errorf("append: %d %s", code, text)
	}
	s.propose("v2", "goes on")
	if code, text := s.ask("GET", s.http, "/logs", nil); code != http.StatusOK {
		t.Errorf("mirror: %d %s", code, text)
	}
	code, out, text = s.with("status")
	if code != 0 || !strings.Contains(out, want) || !strings.Contains(out, "(rekor.test - 7)\n  url       http://rekor.test\n  entries   1\n  published 1 entry") {
		t.Errorf("status: %d %s %s", code, out, text)
	}
	if code, text := s.ask("GET", s.admin, "/metrics", nil); code != http.StatusOK || !strings.Contains(text, `understudy_private_log_problem{log="v1"} 1`) || !strings.Contains(text, `understudy_private_log_problem{log="v2"} 0`) {
		t.Errorf("metrics: %d %s", code, text)
	}
	if code, _, text := s.with("log", "audit", "v1"); code != 2 || !strings.Contains(text, "not served: \"understudy status\" says why") {
		t.Errorf("audit: %d %s", code, text)
	}
	// Who verifies what it signed has to know it all the same.
	if code, _, text := s.with("trust", "export", "material", "--logs", "fallback"); code != 0 || !strings.Contains(text, "signing_config.json: only our log of API version 1") {
		t.Errorf("export: %d %s", code, text)
	}
	if text := stop(); !strings.Contains(text, "level=ERROR") || !strings.Contains(text, "restore a newer backup") || strings.Contains(text, `serving the private log" log=v1`) || !strings.Contains(text, `serving the private log" log=v2`) {
		t.Errorf("log: %s", text)
	}
	if code, out, text := s.with("log", "create"); code != 2 || strings.Contains(out, "made;") {
		t.Errorf("create: %d %s %s", code, out, text)
	}
	// With nothing but the memory of what was published, it is not begun anew.
	if err := os.RemoveAll("data/db"); err != nil {
		t.Fatal(err)
	}
	if code, out, text := s.with("log", "create"); code != 2 || strings.Contains(out, "made;") || !strings.Contains(text, "two histories") {
		t.Errorf("create: %d %s %s", code, out, text)
	}
	_, out, text = s.with("status")
	v1, v2 := strings.Index(out, `there is no log "rekor.test - 7" in data yet: "understudy log create" makes it`), strings.Index(out, `there is no log "log.test" in data yet`)
	if v1 < 0 || v2 < v1 {
		t.Errorf("status: %s %s", out, text)
	}
}

// TestPrivateCheckSET: check names an entry whose promise the key of the log did not sign.
func TestPrivateCheckSET(t *testing.T) {
	s := newPrivateStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	c, err := loadConfig("c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	logs, err := c.privateLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	config := logs[0].config
	config.DB = db
	promise := config.Promise
	config.Promise = func(index uint64, at int64, e *log.Entry) ([]byte, error) {
		receipt, err := promise(index, at, e)
		if string(e.Body) == "bad" {
			receipt[8] ^= 1 // the time
		}
		return receipt, err
	}
	l, err := log.Open(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- l.Run(ctx) }()
	for _, body := range []string{"good", "bad", "good too"} {
		if _, err := l.Append(t.Context(), log.Entry{Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, text := s.with("check")
	if code != 1 || !strings.Contains(out, "entry 1") || !strings.Contains(out, "signed entry timestamp does not verify") || strings.Contains(out, "entry 0") || strings.Contains(out, "entry 2") || !strings.Contains(text, "1 thing is damaged") || strings.Contains(text, "mirror again") {
		t.Errorf("%d %s %s", code, out, text)
	}
}
