package main

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/outage"
)

// TestStopsInOutage: the daemon is down soon after it is told so, whatever is under way.
func TestStopsInOutage(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	s := newOutageStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	both := []string{"small/read", "small/write"}
	stop := s.serve()
	stops := func(what string) {
		t.Helper()
		began := time.Now()
		text := stop()
		took := time.Since(began)
		if t.Logf("%s: down after %s", what, took.Round(time.Millisecond)); took > 5*time.Second || strings.Contains(text, "panic") {
			t.Errorf("%s: it took %s: %s", what, took, text)
		}
		stop = s.serve()
	}
	s.await(20*time.Second, outage.Live, both...)
	time.Sleep(2 * time.Second) // live is what it is called before anybody has looked, and drills run a moment after the port is open
	s.wantOrder("otto", "", "drill", "run", "hang", "--for", "50s", "--ticket", "T-1")
	s.await(10*time.Second, outage.Fallback, both...)
	s.propose("v2", "in the drill")
	stops("drill")
	s.await(60*time.Second, outage.Live, both...)
	s.away.Store(true)
	s.await(8*time.Second, outage.Fallback, both...)
	s.propose("v2", "in the outage")
	stops("outage")
	s.await(2*time.Second, outage.Fallback, both...)
	s.away.Store(false)
	s.await(20*time.Second, outage.Recovering, "small/read")
	stops("recovering")
	s.await(60*time.Second, outage.Live, both...)
	s.away.Store(true)
	time.Sleep(1200 * time.Millisecond)
	stops("probes hang")
	s.away.Store(false)
	s.await(60*time.Second, outage.Live, both...)
	if text := stop(); strings.Contains(text, "panic") {
		t.Fatal(text)
	}
}
