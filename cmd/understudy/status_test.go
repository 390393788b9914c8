package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

var never time.Time

var catchingUp = rest.Status{
	Version: "v1", DataDir: "/data", Running: true, StorageBytes: 1_234_567_890,
	Logs: []mirror.Status{
		{
			Name: "rekor", Origin: "log.example", UpstreamState: "live", Source: "live", HasCheckpoint: true,
			NextIndex: 999_999, TreeSize: 1_000_000, CheckpointAge: 3.7, EntriesPerSecond: 5120.9, SecondsLeft: 3723,
		},
		{
			Name: "window", Origin: "huge.example", UpstreamState: "live", Source: "live", HasCheckpoint: true,
			MinimumIndex: 500_224, NextIndex: 1_000_000, TreeSize: 1_000_000, Lacks: "the entries 0 to 9: why",
			History: &mirror.History{EntriesPerSecond: 1000, SecondsLeft: 500, Problem: &mirror.Problem{Reason: "refused", Text: "http://peer: 404"}},
			Sources: []mirror.Source{
				{URL: "http://upstream", Upstream: true, State: "live"},
				{URL: "http://peer", State: "set aside", Problem: &mirror.Problem{Reason: "refused", Text: "404"}, Until: &never},
			},
		},
		{Name: "new", Origin: "new.example", Problem: &mirror.Problem{Reason: "unreachable", Text: "connection refused"}},
	},
}

func TestStatusText(t *testing.T) {
	const want = `understudy v1 in /data: running, 1.2 GB on disk

rekor (log.example)
  held      999,999 of 1,000,000 entries, 99.9 %
            [###############################################-]
  copying   5,120 entries/s, 1h2m3s left
  newest    checkpoint of 1,000,000 entries, vouched for 3s ago
  upstream  live; answers are live

window (huge.example)
  held      499,776 of 1,000,000 entries, 49.9 %, from 500,224 on
            [------------------------#######################-]
  history   down to 0: 1,000 entries/s, 8m20s left
  lacks     the entries 0 to 9: why
  newest    checkpoint of 1,000,000 entries, vouched for 0s ago
  upstream  live; answers are live
  problem   of history: refused: http://peer: 404
  source    http://upstream (upstream): live
  source    http://peer: set aside for another 0s, refused: 404

new (new.example)
  held      nothing yet
            [------------------------------------------------]
  upstream  -; answers are -
  problem   unreachable: connection refused
`
	if got := statusText(catchingUp); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	lines := strings.Split(statusLines(catchingUp), "\n")
	if len(lines) != 4 || !strings.HasSuffix(lines[0], "Z rekor: 999,999 of 1,000,000 entries, 99.9 %, 5,120 entries/s, 1h2m3s left, upstream live") ||
		!strings.HasSuffix(lines[1], "Z window: 499,776 of 1,000,000 entries, 49.9 %, from 500,224 on, history down to 0: 1,000 entries/s, 8m20s left, less than is configured, upstream live") ||
		!strings.HasSuffix(lines[2], "Z new: nothing yet, upstream -, problem unreachable") {
		t.Errorf("got %q", lines)
	}
	var back rest.Status
	for _, oneLine := range []bool{false, true} {
		text := statusJSON(catchingUp, oneLine)
		if err := json.Unmarshal([]byte(text), &back); err != nil || back.Logs[0].NextIndex != 999_999 || (strings.Count(text, "\n") == 1) != oneLine {
			t.Errorf("got %s, %v", text, err)
		}
	}
	for n, want := range map[uint64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 12_345_678: "12.3 MB", 18446744073709551615: "18.4 EB"} {
		if got := bytesText(n); got != want {
			t.Errorf("%d: got %s, want %s", n, got, want)
		}
	}
}

// pictures is a writer that ends a watch after some pictures.
type pictures struct {
	seen []string
	max  int
	stop context.CancelFunc
}

func (p *pictures) Write(data []byte) (int, error) {
	if p.seen = append(p.seen, string(data)); len(p.seen) == p.max {
		p.stop()
	}
	return len(data), nil
}

// TestStatusWatch holds that a terminal is redrawn in place and outlives a daemon
// that stops, and that elsewhere nothing is redrawn.
func TestStatusWatch(t *testing.T) {
	up := true
	daemon := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !up {
			http.Error(w, "down", http.StatusInternalServerError)
			return
		}
		up = r.URL.Path != "/status"
		json.NewEncoder(w).Encode(catchingUp)
	}))
	defer daemon.Close()
	c := &Config{Listen: Listen{Admin: daemon.Listener.Addr().String()}}
	ctx, stop := context.WithCancel(t.Context())
	out := &pictures{max: 2, stop: stop}
	if err := watchStatus(ctx, c, out, statusText, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.seen[0], statusText(catchingUp)) || !strings.HasPrefix(out.seen[1], "\x1b[25A\x1b[J") || !strings.Contains(out.seen[1], "down") {
		t.Errorf("got %q", out.seen)
	}
	up = true
	out = &pictures{max: 2}
	if err := watchStatus(t.Context(), c, out, statusLines, false); err == nil || len(out.seen) != 1 || strings.Contains(out.seen[0], "\x1b") {
		t.Errorf("got %v, %q", err, out.seen)
	}
}

// TestSingular holds that one thing is not called many.
func TestSingular(t *testing.T) {
	s := rest.Status{Running: true, Logs: []mirror.Status{{HasCheckpoint: true, NextIndex: 1, TreeSize: 1}}}
	report := storage.Report{Origin: "log.example", Entries: 1, Tiles: 1, Checkpoints: 1}
	var out strings.Builder
	printReport(&out, report, nil)
	out.WriteString(statusText(s) + statusLines(s))
	for _, want := range []string{"good: 1 entry, 1 tile, 1 checkpoint\n", "1 of 1 entry, 100.0 %", "checkpoint of 1 entry, vouched"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	if got := count(1000, "entry", "entries"); got != "1,000 entries" {
		t.Error(got)
	}
}
