package mirror_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestRekorDiskCap: what was only read goes when it takes too much, what was not read for the
// longest time first, and nothing else ever does.
func TestRekorDiskCap(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Active().Grow(500, synthetic.Tiny(5))
		s.config = func(c *mirror.ServiceConfig) {
			c.ReadThroughBytes, c.RequestsPerSecond = 30_000, 1000
			c.Watch = []mirror.Watch{{First: 100, End: 150}}
		}
		imported := []uint64{3, 60, 61}
		s.start().run()
		s.settle(2 * rekorPoll)
		for _, i := range imported {
			shard := 0
			if i >= 37 {
				shard = 1
			}
			s.imports(file(t, s.log, shard, i-s.log.Start(shard)), i, false, true)
		}
		// kept returns what is pinned, by virtual index, and demands what must stay.
		kept := func() (read []uint64) {
			t.Helper()
			var stay []uint64
			for i := range 2 {
				_, reasons := s.pins(i)
				for index, r := range reasons {
					if at := s.log.Start(i) + index; r == storage.PinRead {
						read = append(read, at)
					} else {
						stay = append(stay, at)
					}
				}
			}
			slices.Sort(read)
			slices.Sort(stay)
			want := slices.Clone(imported)
			for i := uint64(100); i < 150; i++ {
				want = append(want, i)
			}
			if !slices.Equal(stay, want) {
				t.Fatalf("watched and imported are %d, want %d", stay, want)
			}
			return read
		}
		kept()
		for i := uint64(200); i < 300; i++ {
			s.get(byIndex(i), i)
			s.get(byIndex(200), 200) // used all the time
			s.get(byIndex(120), 120)
			s.settle(time.Second) // a pin has a time
		}
		read := kept()
		n := uint64(len(read))
		if n < 15 || n > 60 {
			t.Fatalf("%d pins were kept", n)
		}
		want := []uint64{200}
		for i := 300 - (n - 1); i < 300; i++ {
			want = append(want, i)
		}
		if !slices.Equal(read, want) {
			t.Errorf("of what was read %d are kept, want %d", read, want)
		}
		s.log.Refuse(true) // an evicted one is not absent
		s.settle(2 * rekorPoll)
		s.refused(byIndex(201), mirror.Unavailable, mirror.ReasonNotPinned)
		s.get(byIndex(299), 299)
		s.log.Refuse(false)
		count := s.mirrorOf(1).Status().Pins
		if want := n + uint64(len(imported)-1) + 50; count == nil || count.Count != want || count.Kept != 52 || count.Evicted != 100-n || count.Unlinked != 0 {
			t.Errorf("status %+v, want %d pins", count, want)
		}

		// After a restart the count is the same, and those go first that were pinned first.
		s.reopen().run()
		s.settle(2 * rekorPoll)
		if got := s.mirrorOf(1).Status().Pins; got.Count != count.Count || got.Bytes != count.Bytes || got.Kept != count.Kept {
			t.Errorf("status %+v after a restart, %+v before", got, count)
		}
		if got := kept(); !slices.Equal(got, want) {
			t.Errorf("%d are kept after a restart", got)
		}
		s.get(byIndex(400), 400)
		s.settle(time.Second)
		if got := kept(); slices.Contains(got, 200) || !slices.Contains(got, 300-(n-1)) || !slices.Contains(got, 400) {
			t.Errorf("%d are kept after one more", got)
		}

		// What is no longer watched may go.
		s.config = func(c *mirror.ServiceConfig) { c.ReadThroughBytes, c.RequestsPerSecond = 30_000, 1000 }
		s.reopen().run()
		s.settle(2 * rekorPoll)
		for i := uint64(401); i < 500; i++ {
			s.get(byIndex(i), i)
		}
		s.settle(time.Second)
		_, reasons := s.pins(1)
		for index, r := range reasons {
			if at := index + 37; (at == 60 || at == 61) != (r&storage.PinImported != 0) || r&storage.PinWatched != 0 || at >= 100 && at < 150 {
				t.Errorf("pin %d has the reasons %b", at, r)
			}
		}
		if _, reasons := s.pins(0); reasons[3]&storage.PinImported == 0 {
			t.Error("an imported pin is gone")
		}

		// A smaller cap takes hold at once. One pin is kept whatever it takes.
		s.config = func(c *mirror.ServiceConfig) { c.ReadThroughBytes = 1 }
		s.reopen().run()
		s.settle(2 * rekorPoll)
		s.get(byIndex(300), 300)
		s.settle(time.Second)
		if n, _ := s.pins(1); n != 3 {
			t.Errorf("%d pins are kept of one, and two imported", n)
		}
		s.close()
	})
}

// TestRekorLowerCap: with a lower limit, and with a watch that is gone, nearly all pins give way
// at the start, many in one commit, and that ends when the service does.
func TestRekorLowerCap(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		const n = 3000
		s := newRekorStage(t)
		s.log.Active().Grow(n+100, synthetic.Tiny(5))
		quick := func(c *mirror.ServiceConfig) { c.RequestsPerSecond, c.MissesPerSecond = 100_000, 100_000 }
		watched := func(c *mirror.ServiceConfig) {
			quick(c)
			c.Watch = []mirror.Watch{{First: 40, End: 40 + n/2}}
		}
		small := func(c *mirror.ServiceConfig) {
			quick(c)
			c.ReadThroughBytes = 1
		}
		s.config = watched
		s.start().run()
		s.settle(time.Minute)
		for i := uint64(40); i < 40+n; i += 10 {
			var refs []mirror.EntryRef
			for j := range uint64(10) {
				refs = append(refs, byIndex(i+j))
			}
			_, _, err := s.service.Entries(t.Context(), "client", refs)
			check(t, err)
		}
		if got, _ := s.pins(1); got != n {
			t.Fatalf("%d pins, want %d", got, n)
		}

		// It ends while it is at it.
		s.config = small
		var syncs atomic.Int64
		ctx, cancel := context.WithCancel(t.Context())
		s.synced = func() {
			if syncs.Add(1) == 8 {
				cancel()
			}
		}
		s.reopen()
		check(t, s.service.Run(ctx, s.keys))
		if got, _ := s.pins(1); got < n/3 {
			t.Errorf("%d pins are left of a service that was stopped at once", got)
		}

		syncs.Store(100)
		s.reopen().run()
		before := syncs.Load()
		s.settle(2 * rekorPoll)
		if got, _ := s.pins(1); got != 1 {
			t.Errorf("%d pins are left under a limit of one byte, which one may exceed", got)
		}
		if got := syncs.Load() - before; got > n/20 {
			t.Errorf("%d pins gave way while the disk synced %d times", n, got)
		}
		if !s.says("entries that were only read gave way") {
			t.Error("the daemon's log does not say so")
		}
		s.synced = nil
		s.close()
	})
}
