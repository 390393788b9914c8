package log

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// TestAppend: entries get one index after the other, receipts verify, a duplicate gets the first
// receipt, and all of it is there after a clean stop.
func TestAppend(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	if c := s.log.Published(); c.Raw == nil || c.Size != 0 {
		t.Errorf("an empty log publishes %d %q", c.Size, c.Raw)
	}
	first := map[string]Receipt{}
	for i := range 20 {
		body := fmt.Sprint("entry ", i)
		r := s.append(body)
		if r.Index != uint64(i) || r.Duplicate {
			t.Errorf("entry %d got %d, duplicate %v", i, r.Index, r.Duplicate)
		}
		first[body] = r
	}
	again := func() {
		t.Helper()
		for body, want := range first {
			r := s.append(body)
			if r.Index != want.Index || !r.Duplicate || string(r.Promise) != string(want.Promise) {
				t.Errorf("again: %+v, want %+v", r, want)
			}
			index, ok, err := s.log.FindLeaf(storage.LeafHash([]byte(body)))
			if index != want.Index || !ok || err != nil {
				t.Errorf("leaf: %d %v %v", index, ok, err)
			}
			found, r, err := s.log.Find(want.Index)
			if err != nil || string(found) != body {
				t.Errorf("find: %q %v", found, err)
			}
			s.good(body, r)
			proposal, err := s.log.Proposal(want.Index)
			if err != nil || string(proposal) != "proposal of "+body {
				t.Errorf("proposal: %q %v", proposal, err)
			}
			audit, err := s.log.Audit(want.Index)
			if err != nil || audit.Identity != "tester" || time.Since(time.Unix(audit.Time, 0)).Abs() > time.Minute {
				t.Errorf("audit: %+v %v", audit, err)
			}
		}
		report, err := s.log.Tree().Check(context.Background(), storage.CheckOptions{Verify: s.log.verify})
		if err != nil || len(report.Problems) > 0 || report.Entries != 20 {
			t.Errorf("check: %+v %v", report, err)
		}
	}
	again()
	if _, _, err := s.log.Find(20); !errors.Is(err, storage.ErrNotHeld) {
		t.Errorf("beyond the end: %v", err)
	}
	s.close()
	if err := s.tryOpen(true); !errors.Is(err, storage.ErrExists) && !errors.Is(err, ErrBehind) {
		t.Errorf("made again: %v", err)
	}
	s.close()
	s.open(false)
	again()
}
