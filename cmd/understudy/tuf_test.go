package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
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
		keys, err := newKeyring(c)
		if err != nil {
			t.Fatal(err)
		}
		db, err := c.openOrCreate(storage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDaemon(c, keys, db, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
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
		for tree := d.logs[0].mirror.Tree(); ; {
			changed := tree.Changed()
			if s := d.logs[0].statuses()[0]; s.MirrorSize == 1000 && s.Problem == nil {
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
		if err := db.Close(); err != nil {
			t.Fatal(err)
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
	if got := tufText(&s, now); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	if got := tufText(&trust.RepositoryStatus{URL: "https://tuf.example"}, now); got != "\nTUF repository (https://tuf.example)\n  held      nothing yet\n" {
		t.Errorf("got %s", got)
	}
}
