package e2eoutage

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/process"
)

// comesBack has the public Rekor v2 go away and come back with another storage folder, after which it must be
// quarantined, for a reason with a code, that names where it is wrong.
type comesBack struct {
	*theater
	held    uint64   // how much was held before
	private []string // digests of what was signed into the private log meanwhile
}

// newComesBack prepares a copy of what the log had published at an earlier size.
func newComesBack(t *testing.T) (c *comesBack, storage string, size uint64) {
	t.Helper()
	// No entries of probes, so that sizes are what is written here.
	c = &comesBack{theater: newTheater(t, 2*time.Minute, outagestage.Config{WriteProbe: "refused", Entries: 50})}
	storage = filepath.Join(t.TempDir(), "storage")
	size, err := c.CopyRekor2(c.ctx, storage)
	c.must(err)
	more, err := c.Rekor2.Write(c.ctx, 30, nil)
	c.must(err)
	c.V2 = append(c.V2, more...)
	c.held = more[len(more)-1].Index() + 1
	c.must(c.UntilHeld(c.ctx, outagestage.OriginV2, c.held))
	_, _, err = c.UntilLive(c.ctx, 20*time.Second)
	c.must(err)
	return c, storage, size
}

// exchange kills the log, has things signed privately meanwhile, and starts it from another folder.
func (c *comesBack) exchange(storage string) {
	c.Helper()
	c.Rekor2.Kill()
	c.until(time.Now(), 20*time.Second, "fallback", readV2, writeV2)
	digests, err := c.SignPrivately(c.ctx, 10)
	c.must(err)
	c.private = digests
	c.Rekor2.Move(storage)
	c.must(c.Rekor2.Restart(c.ctx))
}

// quarantined checks that the log is, and that nothing of it was taken, and nothing given to it.
func (c *comesBack) quarantined(code string, first, next uint64) {
	c.Helper()
	s, _, err := c.UntilState(c.ctx, 40*time.Second, "quarantined", readV2)
	c.must(err)
	if got := s.Cause(readV2); got != code {
		c.Errorf("quarantined for %s, want %s: %s", got, code, s)
	}
	rows := outagestage.Rows(c.ledger(), "state", "component", readV2, "to", "quarantined")
	if len(rows) != 1 {
		c.Errorf("%d rows say that it was quarantined, want 1", len(rows))
	}
	var r outagestage.Report
	c.must(process.Until(c.ctx, func(ctx context.Context) (err error) {
		r, err = c.Report(ctx, "")
		return err
	}))
	switch f := r.Document.Finding; {
	case f == nil || f.Code != code || !f.Named || f.First != first || next != 0 && f.Next != next || f.Origin != outagestage.OriginV2:
		c.Errorf("the report finds %+v, want %s from %d to %d", f, code, first, next)
	case len(r.Document.Evidence) == 0:
		c.Error("the report has no evidence")
	default:
		c.Logf("found: %s", f.Text)
	}
	c.must(c.InPrivateLog(c.ctx, r.Payload))
	c.untouched()
}

// untouched checks that what is held is what was held, verifies, and that nothing went the other way.
func (c *comesBack) untouched() {
	c.Helper()
	held, problem, err := c.Held(c.ctx, outagestage.OriginV2)
	if err != nil || held != c.held {
		c.Errorf("%d entries are held, want %d (%s, %v)", held, c.held, problem, err)
	}
	if _, err := c.Command(c.ctx, "outage", "status"); err == nil {
		c.Error("outage status ends with 0 while a log is quarantined")
	}
	sigstore, err := c.Sigstore()
	c.must(err)
	for _, e := range c.V2 {
		if err := outagestage.VerifyV2(c.ctx, c.API(), sigstore, e); err != nil {
			c.Fatalf("what was held before: %v", err)
		}
	}
	counts, err := c.PublicCounts(c.ctx)
	c.must(err)
	for _, digest := range c.private[len(c.private)/2:] { // of the second generation
		if counts[digest] != 0 {
			c.Errorf("an entry was submitted to a log that is quarantined")
		}
	}
	c.tells(5*time.Second, c.PrivateURLs())
}

// TestComesBackForked: another instance with the same key and other entries answers in its place.
func TestComesBackForked(t *testing.T) {
	t.Parallel()
	c, storage, size := newComesBack(t)
	twin, err := c.TwinOfRekor2(c.ctx, t.TempDir(), storage)
	c.must(err)
	defer twin.Close()
	_, err = twin.Write(c.ctx, 60, nil)
	c.must(err)
	twin.Kill()
	c.exchange(storage)
	c.quarantined("FORK", size, 0)
	// An operator cannot wish it away.
	c.as(outagestage.Operator, "outage", "release", readV2, "--ticket", "T-1")
	time.Sleep(3 * time.Second)
	c.until(time.Now(), 20*time.Second, "quarantined", readV2)
	c.untouched()
}

// TestComesBackShorter: it was restored from a backup that is too old. When it has grown again it is another log.
func TestComesBackShorter(t *testing.T) {
	t.Parallel()
	c, storage, size := newComesBack(t)
	c.exchange(storage)
	c.quarantined("LOST_TAIL", size, c.held)
	_, err := c.Rekor2.Write(c.ctx, 60, nil)
	c.must(err)
	time.Sleep(3 * time.Second)
	c.until(time.Now(), 20*time.Second, "quarantined", readV2)
	c.untouched()
}
