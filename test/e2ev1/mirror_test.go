package e2ev1

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/daemon"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// TestPinned takes Rekor away from a mirror of what users have asked for.
func TestPinned(t *testing.T) {
	w := newWorld(t)
	m := w.newMirror("coverage: pinned, public_keys: " + w.keyList())
	m.standIn(func() {
		for _, e := range w.entries {
			m.read(e.LogIndex)
		}
		w.user(m.daemon.URL()).do([]step{w.bySubject()})
	})
}

// TestFull takes Rekor away from a mirror that holds all of it, and that nobody asked before.
func TestFull(t *testing.T) {
	w := newWorld(t)
	m := w.newMirror("coverage: full, public_keys: " + w.keyList())
	m.full = true
	m.standIn(func() {
		m.until("complete", func(shard int, log *understudyv1.Log) bool { return log.GetMirrorSize() == w.sizeOf(shard) })
	})
}

// TestMirroredRollOver has a mirror see a third shard begin, and then takes Rekor away.
func TestMirroredRollOver(t *testing.T) {
	w := newWorld(t)
	m := w.newMirror("coverage: pinned, public_keys: " + w.keyList())
	m.live()
	for _, e := range w.entries {
		m.read(e.LogIndex)
	}
	w.rollOver()
	m.live()
	w.fill(5)
	m.live()
	for _, e := range w.entries {
		m.read(e.LogIndex)
	}
	want := w.user(w.log.URL).do(w.shardSteps())
	m.alone()
	users := w.user(m.daemon.URL())
	users.mirror = m
	users.same(users.do(w.shardSteps()), want)
	m.sound()
}

// mirror is an understudy of the world's Rekor.
type mirror struct {
	*world
	daemon *daemon.Daemon
	relay  *relay
	full   bool // it holds all entries
}

// newMirror runs one; coverage is its keys of the configuration that say how much it holds.
func (w *world) newMirror(coverage string) *mirror {
	w.Helper()
	binary, err := tool.Understudy(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	m := &mirror{world: w, relay: w.newRelay()}
	m.daemon, err = daemon.New(daemon.Config{
		Binary: binary, Dir: w.TempDir(), URL: m.relay.url, TrustedRoot: w.log.TrustedRootFile,
		Poll: time.Second, RequestsPerSecond: 200, Coverage: coverage,
	})
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(m.daemon.Kill)
	if err := m.daemon.Start(w.within(startLimit)); err != nil {
		w.Fatal(err)
	}
	return m
}

// keyList is the public keys of the log in YAML's flow style.
func (w *world) keyList() string {
	var quoted []string
	for _, file := range w.log.PublicKeyFiles() {
		quoted = append(quoted, strconv.Quote(file))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// standIn has users work with Rekor, calls learn, kills Rekor, and has other users work with
// the mirror alone: with the same results.
func (m *mirror) standIn(learn func()) {
	m.Helper()
	m.live() // so that it has a checkpoint from before the last writes
	actor, understudy := m.user(m.log.URL), m.user(m.daemon.URL())
	for _, u := range []*user{actor, understudy} {
		u.do([]step{logInfo})
	}
	m.fill(15)
	m.live()
	learn()
	want := actor.do(m.steps())

	m.alone()
	understudy.mirror = m
	for _, again := range []bool{false, true} {
		if again { // what it knows is on disk
			m.sound()
			if err := m.daemon.Start(m.within(startLimit)); err != nil {
				m.Fatal(err)
			}
			m.gone()
		}
		understudy.same(understudy.do(m.steps()), want)
		m.takesNothing()
	}
	m.sound()
}

// live waits until the mirror has the newest checkpoint of every shard.
func (m *mirror) live() {
	m.Helper()
	m.until("live", func(shard int, log *understudyv1.Log) bool {
		return log.GetTreeSize() == m.sizeOf(shard) && log.GetFreshness().GetSource() == "live"
	})
}

// alone kills Rekor, and waits until the mirror has seen it.
func (m *mirror) alone() {
	m.Helper()
	m.log.Kill()
	m.relay.close()
	m.gone()
}

func (m *mirror) gone() {
	m.Helper()
	m.until("alone", func(_ int, log *understudyv1.Log) bool {
		return log.GetFreshness().GetUpstreamState() == "unreachable"
	})
}

// until waits until the mirror says of each shard of the log what good wants.
func (m *mirror) until(what string, good func(shard int, log *understudyv1.Log) bool) {
	m.Helper()
	err := process.Until(m.within(30*time.Second), func(ctx context.Context) error {
		// Not with ctx, so that the last error is one that tells what was lacking.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		answer, err := m.daemon.API().ListLogs(ctx, &understudyv1.ListLogsRequest{})
		if err != nil {
			return err
		}
		if got, want := len(answer.GetLogs()), len(m.log.Shards); got != want {
			return fmt.Errorf("%d shards, want %d: %v", got, want, answer)
		}
		for i, shard := range m.log.Shards {
			log := answer.GetLogs()[i]
			if log.GetOrigin() != m.log.Origin(shard) || !good(i, log) {
				return fmt.Errorf("shard %d of %d entries is not %s: %v", i, m.sizeOf(i), what, log)
			}
		}
		return nil
	})
	if err != nil {
		m.Fatalf("%v\n%s", err, m.daemon.Tail())
	}
}

// read asks the mirror for an entry, so that it fetches it from Rekor.
func (m *mirror) read(index uint64) {
	m.Helper()
	if _, err := m.user(m.daemon.URL()).ask(http.MethodGet, "/api/v1/log/entries?logIndex="+strconv.FormatUint(index, 10), nil); err != nil {
		m.Fatal(err)
	}
}

// takesNothing tries to write to the mirror.
func (m *mirror) takesNothing() {
	m.Helper()
	signed, err := m.plain.HashedRekord([]byte("one for the mirror"))
	if err != nil {
		m.Fatal(err)
	}
	answer, err := http.Post(m.daemon.URL()+"/api/v1/log/entries", "application/json", bytes.NewReader(signed.Proposal))
	if err != nil {
		m.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusMethodNotAllowed {
		m.Errorf("a write: %s", answer.Status)
	}
}

// sound stops the mirror and runs `understudy check` on what it has stored.
func (m *mirror) sound() {
	m.Helper()
	if code, _, err := m.daemon.Terminate(); err != nil || code != 0 {
		m.Fatalf("exit code %d (%v)\n%s", code, err, m.daemon.Tail())
	}
	if _, err := m.daemon.Command(m.within(time.Minute), "check"); err != nil {
		m.Fatal(err)
	}
}

// relay stands between a mirror and Rekor, and remembers what was signed in the answers.
type relay struct {
	url    string
	server *http.Server

	mu     sync.Mutex // guards signed
	signed map[string]bool
}

func (w *world) newRelay() *relay {
	w.Helper()
	target, err := url.Parse(w.log.URL)
	if err != nil {
		w.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.Fatal(err)
	}
	r := &relay{url: "http://" + listener.Addr().String(), signed: make(map[string]bool)}
	r.server = &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Del("Accept-Encoding") // so that it can be read here
		},
		ModifyResponse: r.remember,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}}
	go r.server.Serve(listener)
	w.Cleanup(r.close)
	return r
}

func (r *relay) close() { r.server.Close() }

func (r *relay) remember(response *http.Response) error {
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	response.Body.Close()
	response.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, form := range []*regexp.Regexp{noteSignature, setMember} {
		for _, match := range form.FindAllSubmatch(body, -1) {
			r.signed[string(match[1])] = true
		}
	}
	return nil
}

// gave reports whether a signature was in an answer.
func (r *relay) gave(signature string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.signed[signature]
}
