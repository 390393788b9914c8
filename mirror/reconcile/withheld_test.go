package reconcile

import (
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestLoggedBeforeSubmission: what was logged while nothing was to be submitted is not submitted once something is.
func TestLoggedBeforeSubmission(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := newWorld(t)
		withheld := func(c *Config) { c.Privates[0].Withheld, c.Privates[0].Submit, c.Privates[0].Upstream = true, nil, "" }
		again := func(proposal string, patch func(*Config)) {
			if w.life != nil {
				w.life.stop()
			}
			w.patch = patch
			w.start()
			w.log([]byte(proposal))
			w.outage(true)
			time.Sleep(time.Minute)
			w.outage(false)
			w.awaitLive()
		}
		w.log([]byte("of before"))
		again("withheld", withheld)
		again("public", nil)
		again("public too", nil)
		again("withheld again", withheld)
		again("public once more", nil)
		for proposal, want := range map[string]int{"of before": 0, "withheld": 0, "public": 1, "public too": 1, "withheld again": 0, "public once more": 1} {
			if got := w.times(proposal); got != want {
				t.Errorf("%s: submitted %d times, want %d", proposal, got, want)
			}
		}
	})
}
