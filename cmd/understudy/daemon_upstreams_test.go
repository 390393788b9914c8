package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/mirror/drill"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	"github.com/understudy-log/understudy/storage"
)

// TestSuccessorIsReconciled: a log that is announced while the daemon runs has states, and somebody who ends them:
// or it would recover for ever, and the private log stand in for it.
func TestSuccessorIsReconciled(t *testing.T) {
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), []byte("tuf: {}\noutage: {}\nlogs: [{name: us, url: 'https://log2025-1.rekor.example/api/v2', origin: log2025-1.rekor.example}]"))
	if err != nil {
		t.Fatal(err)
	}
	d, closeDB := openDaemon(t, c)
	defer closeDB()
	root, err := trust.ParseRoot(rootOf(t, [3]string{"https://log2025-1.rekor.example", "b", "2025-01-01T00:00:00Z"}, [3]string{"https://log2026-1.rekor.example", "c", "2026-01-01T00:00:00Z"}))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range d.succeed(root) {
		d.desk.add(f)
	}
	const next = "us/log2026-1.rekor.example"
	if d.desk.monitor.State(next+"/read") != outage.Live || d.desk.monitor.State(next+"/write") != outage.Live {
		t.Errorf("states %+v", d.desk.monitor.Status())
	}
	if state := d.desk.deciding(); state != outage.Degraded {
		t.Errorf("decisions are taken as %s, and nothing was heard of the logs", state)
	}
	for _, s := range d.desk.monitor.Status() {
		d.desk.monitor.Observe(s.Component, outage.Observation{Started: time.Now()})
	}
	if state := d.desk.deciding(); state != outage.Live {
		t.Errorf("decisions are taken as %s, and everything has answered", state)
	}
	if err := d.desk.reconciler.Now(t.Context(), next); !errors.Is(err, reconcile.ErrStopped) {
		t.Errorf("the reconciler says of it: %v", err)
	}
	if c, ok := d.desk.watched.Load(next + "/write"); !ok || c.(outage.Component).Probe == nil {
		t.Error("a drill could not ask it past the faults")
	}
}

// TestEndFallback: without "outage", or the private log, nobody would end the fallback that they began.
func TestEndFallback(t *testing.T) {
	c := newCeremony(t)
	db, err := storage.CreateScratch(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	own, err := publish.New(t.Context(), publish.Config{DB: db, Dir: c.file("t/repository"), Lifetime: time.Hour, Logger: slog.New(slog.DiscardHandler), Metrics: trust.NewMetrics(prometheus.NewRegistry())})
	if err != nil {
		t.Fatal(err)
	}
	for _, there := range []*daemon{{desk: &desk{}, private: []*privateLog{{}}}, {desk: &desk{}}, {private: []*privateLog{{}}}, {}} {
		_ = own.Switch(trust.SigningFallback) // which is kept, though this folder does not allow it
		want := trust.SigningPublic
		if there.desk != nil && len(there.private) > 0 {
			want = trust.SigningFallback
		}
		there.own, there.logger = own, slog.New(slog.DiscardHandler)
		if err := there.endFallback(); err != nil || own.Mode().Wanted != want {
			t.Errorf("outage %t, private log %t: %+v %v", there.desk != nil, len(there.private) > 0, own.Mode(), err)
		}
	}
	if err := (&daemon{}).endFallback(); err != nil {
		t.Error(err)
	}
}

// TestDamagedTreeHasNoReadPath: nobody follows it, so its state would stay what it is for ever.
func TestDamagedTreeHasNoReadPath(t *testing.T) {
	k := &desk{d: &daemon{config: &Config{Outage: &OutageConfig{WriteProbe: writeProbeRefused}}}, faults: drill.NewFaults()}
	all := k.componentsOf(&follower{config: LogConfig{Name: "us", URL: "https://us.example/api/v2", GrowsWithin: Duration(time.Minute)}})
	if len(all) != 1 || all[0].Name != "us/write" || all[0].Reconciles || all[0].Probe == nil {
		t.Errorf("%+v", all)
	}
}

// answers is a RoundTripper that fails where it is told to.
type answers struct {
	text string // of each request: g good, b 500, r 429, n 404, x no connection
	at   int
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	what := a.text[a.at]
	a.at++
	code := map[byte]int{'g': 200, 'b': 500, 'r': 429, 'n': 404}[what]
	if code == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{StatusCode: code, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// TestOneOfManyFails: traffic is told of only where it goes wrong, so what goes well between must count.
func TestOneOfManyFails(t *testing.T) {
	for text, want := range map[string]int{
		strings.Repeat("ggggbggggx", 20): 0,
		"gr":                             0,
		"gnnnnbn":                        0,
		"gbbb":                           2,
		"bb":                             2, // nothing was ever good
		"gxrbgxxg":                       3,
	} {
		told := 0
		o := &observing{next: &answers{text: text}, counts: func(*http.Request) bool { return true }, seen: func(time.Time, error) { told++ }}
		for range text {
			r, err := http.NewRequestWithContext(t.Context(), "GET", "http://us.example/tile", nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = o.RoundTrip(r)
		}
		if told != want {
			t.Errorf("%.20s: told %d times, want %d", text, told, want)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	o := &observing{next: &answers{text: "xx"}, counts: func(*http.Request) bool { return true }, seen: func(time.Time, error) { t.Error("a client that has gone") }}
	for range 2 {
		r, _ := http.NewRequestWithContext(gone, "GET", "http://us.example/tile", nil)
		_, _ = o.RoundTrip(r)
	}
	// While one request fails slowly, others go well.
	o = &observing{counts: o.counts, seen: func(time.Time, error) { t.Error("one that began before the others") }}
	began := time.Now()
	o.good = began.Add(time.Millisecond)
	o.failed(began, io.EOF)
	o.failed(began, io.EOF)
}

// TestForkIsQuarantined: a log whose tree has the evidence of a fork is quarantined in the ledger, also after somebody
// has released it; signers are kept away from it if they use it, and not for a log that takes no entries.
func TestForkIsQuarantined(t *testing.T) {
	for url, stands := range map[string]bool{"https://log.example/api/v2": true, "https://log.example/tiles": false} {
		c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), []byte("outage: {write_probe: off}\nlogs: [{name: us, url: '"+url+"', origin: log.example}]"))
		if err != nil {
			t.Fatal(err)
		}
		d, closeDB := openDaemon(t, c)
		if err := d.followers()[0].mirror.Tree().Quarantine(storage.Evidence{First: []byte("one"), Second: []byte("other"), At: time.Now(), Reason: "a test"}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := d.desk.monitor.Run(ctx); err != nil {
				t.Error(err)
			}
		})
		running.Go(func() { d.desk.act(ctx) })
		await := func(when string) {
			t.Helper()
			for began := time.Now(); d.desk.monitor.State("us/read") != outage.Quarantined || d.desk.open.Load() != stands; time.Sleep(10 * time.Millisecond) {
				if time.Since(began) > 15*time.Second {
					t.Fatalf("%s, %s: %+v, the private log stands in: %v", url, when, d.desk.monitor.Status(), d.desk.open.Load())
				}
			}
		}
		await("with evidence")
		rows, _ := d.desk.ledger.Head()
		if err := d.desk.monitor.Release("us/read", "T-1", "olga"); err != nil {
			t.Fatal(err)
		}
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			if now, _ := d.desk.ledger.Head(); now >= rows+2 { // released, and quarantined again
				break
			}
			if time.Since(began) > 15*time.Second {
				t.Fatal("a release ends the quarantine of a log that forked")
			}
		}
		await("after a release")
		cancel()
		running.Wait()
		closeDB()
	}
}
