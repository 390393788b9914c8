package bubble_test

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestTimers lets many goroutines find timers due at once, in two bubbles at a time:
// without Run's care the race detector crashes in the first of them.
func TestTimers(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	t.Run("bubbles", func(t *testing.T) {
		for range 20 {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				bubble.Run(t, wait)
			})
		}
	})
	if after := runtime.GOMAXPROCS(0); after != before {
		t.Errorf("%d processors after the bubbles, %d before", after, before)
	}
}

func wait(*testing.T) {
	var waits sync.WaitGroup
	for i := range 20 {
		waits.Go(func() {
			for j := range 20 {
				timer := time.NewTimer(time.Duration(1+(i*j)%7) * time.Millisecond)
				select {
				case <-timer.C:
				case <-time.After(time.Duration(1+j%3) * time.Millisecond):
				}
				timer.Stop()
				time.AfterFunc(time.Duration(j%2)*time.Millisecond, func() {})
			}
		})
	}
	waits.Wait()
}
