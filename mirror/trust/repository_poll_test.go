package trust

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

type asksToWait struct{ asked atomic.Int32 }

func (a *asksToWait) RoundTrip(r *http.Request) (*http.Response, error) {
	a.asked.Add(1)
	return &http.Response{StatusCode: 503, Status: "503", Header: http.Header{"Retry-After": {"60"}}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
}

// TestPollWaits: a repository that is to be polled at once is, but not before upstream wants to be asked.
func TestPollWaits(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		db, err := storage.CreateScratch(storage.Options{})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		upstream := &asksToWait{}
		r, err := NewRepository(RepositoryConfig{DB: db, HTTPClient: &http.Client{Transport: upstream}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		time.Sleep(time.Second)
		first := upstream.asked.Load()
		r.Poll()
		time.Sleep(50 * time.Second)
		if n := upstream.asked.Load(); n != first {
			t.Errorf("asked %d times within the time that it wanted none", n)
		}
		time.Sleep(10 * time.Second)
		if n := upstream.asked.Load(); n != 2*first {
			t.Errorf("asked %d times", n)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
