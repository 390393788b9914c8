package log

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestUnpublishedNeverNegative: what is committed and published while somebody looks at how much is not
// published must not make the log seem full.
func TestUnpublishedNeverNegative(t *testing.T) {
	s := newStage(t, func(c *Config) { c.BatchWait = 1; c.BatchEntries = 1; c.ProposalKey = nil; c.Promise = nil })
	s.open(true)
	var group sync.WaitGroup
	end := time.Now().Add(2 * time.Second)
	for range 8 {
		group.Go(func() {
			for time.Now().Before(end) {
				for range 1000 {
					if n := s.log.unpublished(); n > 1000 {
						t.Errorf("%d entries are not published", int64(n))
						return
					}
				}
			}
		})
	}
	for i := 0; time.Now().Before(end); i++ {
		s.append(fmt.Sprint(i))
	}
	group.Wait()
	s.close()
}
