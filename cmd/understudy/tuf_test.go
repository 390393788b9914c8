package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tufrepo"
)

// TestTUFRepository: the daemon takes the keys of its logs out of its copy of the TUF
// repository, and serves that to an unmodified client, also when the repository is gone and
// after a restart.
func TestTUFRepository(t *testing.T) {
	log := newScriptLog(t)
	target := []byte(trustedRootListing(t, log))
	repo := tufrepo.New(t, target)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "root.json"), repo.PublishRoot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(filepath.Join(dir, "c.yaml"), fmt.Appendf(nil, `
listen: {http: '127.0.0.1:0', grpc: '127.0.0.1:0', admin: '127.0.0.1:0'}
tuf: {url: %s, root: root.json, poll: 100ms}
logs: [{name: log, url: %s, origin: %s, poll: 50ms}]
`, repo.URL, log.url, log.origin))
	if err != nil {
		t.Fatal(err)
	}
	for _, restarted := range []bool{false, true} {
		d, closeDB := openDaemon(t, c)
		l, err := listen(c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := d.run(ctx, l); err != nil {
				t.Error(err)
			}
		})
		for tree := d.followers()[0].mirror.Tree(); ; {
			changed := tree.Changed()
			if s := d.followers()[0].statuses()[0]; s.MirrorSize == 1000 && s.Problem == nil {
				break
			}
			select {
			case <-changed:
			case <-time.After(100 * time.Millisecond):
				if t.Context().Err() != nil {
					t.Fatal("the log is not followed")
				}
			}
		}
		repo.Down(true)
		client, err := tuf.New(&tuf.Options{Root: repo.PublishRoot(t), RepositoryBaseURL: "http://" + l.http.Addr().String() + "/tuf", CachePath: t.TempDir()})
		if err != nil {
			t.Fatalf("restarted %v: %v", restarted, err)
		}
		if got, err := client.GetTarget("trusted_root.json"); err != nil || !bytes.Equal(got, target) {
			t.Errorf("restarted %v: a client gets %q, %v", restarted, got, err)
		}
		for d.status().TUF.Problem == nil {
			time.Sleep(time.Millisecond)
		}
		text := statusText(d.status())
		for _, want := range []string{"TUF repository (" + repo.URL, "timestamp version 1, expires in 59m", "  checked   ", "  problem   unreachable: 2.root.json: upstream answered 502 Bad Gateway\n"} {
			if !strings.Contains(text, want) {
				t.Errorf("status lacks %q:\n%s", want, text)
			}
		}
		stop()
		running.Wait()
		closeDB()
	}
}

// TestTrustMoves: a log is followed under what the trust material says now. A key that is withdrawn
// or changed stops that log, also after a restart, until the material or the operator says otherwise.
func TestTrustMoves(t *testing.T) {
	log := newScriptLog(t)
	changed := log
	changed.vkey = log.otherVkey
	good, other := []byte(trustedRootListing(t, log)), []byte(trustedRootListing(t, changed))
	none := bytes.Replace(good, []byte("https://"+log.origin), []byte("https://elsewhere.example"), 1)
	both := bytes.Replace(good, []byte(`"tlogs": [`), slices.Concat([]byte(`"tlogs": [`), bytes.Replace(entryOf(t, other), []byte("c2hvcnQ="), []byte("b3RoZXI="), 1), []byte(",")), 1)
	repo := tufrepo.New(t, good)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "root.json"), repo.PublishRoot(t), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(filepath.Join(dir, "c.yaml"), fmt.Appendf(nil, `
tuf: {url: %s, root: root.json, poll: 20ms}
logs: [{name: log, url: %s, origin: %s, poll: 50ms, requests_per_second: 1000}]
`, repo.URL, log.url, log.origin))
	if err != nil {
		t.Fatal(err)
	}
	problem := func(d *daemon) string {
		if p := d.followers()[0].statuses()[0].Problem; p != nil {
			return p.Reason + ": " + p.Text
		}
		return ""
	}
	var d *daemon
	start := func() (stop func()) {
		var closeDB func()
		d, closeDB = openDaemon(t, c)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { d.follow(ctx) })
		running.Go(func() {
			if err := d.tuf.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		return func() {
			cancel()
			running.Wait()
			closeDB()
		}
	}
	stop := start()
	for i, step := range []struct {
		target  []byte
		problem string
	}{
		{good, ""},
		{none, "key: the copy of the TUF repository lists no key for"},
		{good, ""},
		{other, "key: the trust material of the TUF repository has withdrawn or changed the key"},
		{both, ""},
		{good, "key: the trust material of the TUF repository has withdrawn or changed the key"},
		{both, ""},
	} {
		repo.Publish(t, step.target, time.Now().Add(time.Hour))
		for _, restarted := range []bool{false, true} {
			if restarted {
				stop()
				stop = start()
			}
			settled := func() bool {
				s := d.followers()[0].statuses()[0]
				return bytes.Equal(d.tuf.Target(trust.RootTarget), step.target) && (step.problem == "") == (problem(d) == "") &&
					strings.Contains(problem(d), step.problem) && s.MirrorSize == 1000 && (step.problem != "" || s.UpstreamState == "live")
			}
			for n := 0; !settled(); n++ {
				if time.Sleep(10 * time.Millisecond); n == 6000 {
					t.Fatalf("step %d, restarted %v: the log has the problem %q, want %q: %+v, %+v", i, restarted, problem(d), step.problem, d.followers()[0].statuses()[0], d.status().TUF.Problem)
				}
			}
		}
	}
	stop()
}

// entryOf is the one log that a trusted root lists.
func entryOf(t *testing.T, root []byte) []byte {
	t.Helper()
	_, entry, ok := bytes.Cut(root, []byte(`"tlogs": [`))
	if !ok {
		t.Fatal("no logs")
	}
	return bytes.TrimSuffix(bytes.TrimSpace(entry), []byte("]}"))
}

// TestTrustShow: what was in force is shown by a daemon, and out of the data of a stopped one.
func TestTrustShow(t *testing.T) {
	log := newScriptLog(t)
	first, second := []byte(trustedRootListing(t, log)), []byte(trustedRootListing(t, newScriptLog(t)))
	repo := tufrepo.New(t, first)
	dir := t.TempDir()
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		t.Fatal(err)
	}
	root, file := filepath.Join(dir, "root.json"), filepath.Join(dir, "understudy.yaml")
	for name, content := range map[string][]byte{root: repo.PublishRoot(t), file: fmt.Appendf(nil, `
listen: {http: '%s', grpc: '%s', admin: '%s'}
tuf: {url: %s, root: root.json, poll: 50ms}
logs: [{name: log, url: 'http://127.0.0.1:1', origin: log.example}]
`, addrs[0], addrs[1], addrs[2], repo.URL)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	show := func(code int, args ...string) string {
		t.Helper()
		var out, failure bytes.Buffer
		if got := run(t.Context(), append([]string{"trust", "show", "--config", file}, args...), &out, &failure); got != code {
			t.Errorf("%q: exit code %d, want %d: %s", args, got, code, failure.String())
		}
		return out.String() + failure.String()
	}
	if got := show(2); !strings.Contains(got, "understudy serve") {
		t.Errorf("without data: %s", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	running.Go(func() {
		if code := run(ctx, []string{"serve", "--config", file}, io.Discard, io.Discard); code != 0 {
			t.Errorf("serve ends with %d", code)
		}
	})
	holds := func(n int) {
		t.Helper()
		for range 3000 {
			var out bytes.Buffer
			if run(t.Context(), []string{"trust", "show", "--list", "--config", file}, &out, io.Discard) == 0 && strings.Count(out.String(), "\n") == n {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("there are never %d versions", n)
	}
	holds(1)
	between := time.Now()
	repo.Publish(t, second, time.Now().Add(time.Hour))
	holds(2)
	for _, daemon := range []bool{true, false} {
		if !daemon {
			stop()
			running.Wait()
		}
		for _, test := range []struct {
			code int
			args []string
			want string
		}{
			{0, nil, string(second)},
			{0, []string{"--as-of", between.UTC().Format(time.RFC3339Nano)}, string(first)},
			{0, []string{"--name", "trusted_root.json"}, string(second)},
			{1, []string{"--name", "other.json"}, "had no such target then"},
			{2, []string{"--as-of", "2020-01-01"}, "what it was before is not known here"},
			{2, []string{"--as-of", "yesterday"}, "is no time; write it like"},
			{0, []string{"--list"}, "  trusted_root.json\n"},
			{2, []string{"--server", "127.0.0.1:1"}, "check --server"},
		} {
			if got := show(test.code, test.args...); !strings.Contains(got, test.want) {
				t.Errorf("daemon %v, %q: got %s, want %s", daemon, test.args, got, test.want)
			}
		}
	}
}

// TestTUFText is what a person reads of a copy that has gone too old.
func TestTUFText(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	checked := now.Add(-200 * time.Hour)
	s := trust.RepositoryStatus{URL: "https://tuf.example", Checked: &checked, Roles: []trust.Role{
		{Name: "root", Version: 12, Expires: now.Add(100 * time.Hour)}, {Name: "timestamp", Version: 300, Expires: now.Add(-32 * time.Hour)},
	}, Problem: &trust.RepositoryProblem{Reason: "unreachable", Text: "timestamp.json: no\nroute"}}
	want := `
TUF repository (https://tuf.example)
  root      version 12, expires in 100h0m0s
  timestamp version 300, EXPIRED 32h0m0s ago: clients refuse it
  checked   200h0m0s ago
  problem   unreachable: timestamp.json: no route
`
	if got := tufText("TUF repository", &s, now); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := tufText("TUF repository", &trust.RepositoryStatus{URL: "https://tuf.example"}, now); got != "\nTUF repository (https://tuf.example)\n  held      nothing yet\n" {
		t.Errorf("got %s", got)
	}
}
