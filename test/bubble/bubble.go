// Package bubble runs tests in bubbles of testing/synctest.
package bubble

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

var processors struct {
	sync.Mutex

	bubbles, before int // bubbles that live, and how many processors there were before the first
}

// Run runs f in a bubble. Under the race detector the process has one processor while
// any bubble lives: all timers of a bubble run in one context of the detector, and two
// threads in it at once crash the detector (go.dev/issue/78156, seen with Go 1.26).
func Run(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	if detector {
		defer oneProcessor()()
	}
	synctest.Test(t, f)
}

// oneProcessor returns what ends it.
func oneProcessor() func() {
	p := &processors
	p.Lock()
	defer p.Unlock()
	if p.bubbles++; p.bubbles == 1 {
		p.before = runtime.GOMAXPROCS(1)
	}
	return func() {
		p.Lock()
		defer p.Unlock()
		if p.bubbles--; p.bubbles == 0 {
			runtime.GOMAXPROCS(p.before)
		}
	}
}
