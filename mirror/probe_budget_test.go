package mirror

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

type alwaysThere struct{}

func (alwaysThere) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("x")), Request: r}, nil
}

// TestProbesLeaveSomething: where few requests are allowed, probes do not use up the budget for ever: what follows the
// log, and proves its head after an outage, has its turn.
func TestProbesLeaveSomething(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		f, err := newFetcher(Config{Name: "slow", RequestsPerSecond: 0.25, HTTPClient: &http.Client{Transport: alwaysThere{}}}, "http://slow.example", func(bool) {})
		if err != nil {
			t.Fatal(err)
		}
		for range 1800 {
			if _, err := f.probe(t.Context(), "checkpoint", "/checkpoint", 10); err != nil {
				t.Fatal(err)
			}
			time.Sleep(2 * time.Second)
		}
		began := time.Now()
		if _, err := f.get(t.Context(), "checkpoint", "/checkpoint", 10, nil); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 30*time.Second {
			t.Errorf("after an hour of probes a request waits for %s", took)
		}
	})
}
