package mirror_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// silent is a logger of Pebble that says nothing.
type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(format string, args ...any) {
	panic(fmt.Sprintf(format, args...))
}

// sick flips the first byte of the first row of a kind and tree on the disk of a stage that is
// closed.
func (s *rekorStage) sick(kind, tree byte) {
	s.t.Helper()
	db, err := pebble.Open("db", &pebble.Options{FS: s.disk, FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	check(s.t, err)
	it, err := db.NewIter(&pebble.IterOptions{LowerBound: []byte{kind, 0, 0, 0, 0, 0, 0, 0, tree}, UpperBound: []byte{kind, 0, 0, 0, 0, 0, 0, 0, tree + 1}})
	check(s.t, err)
	if !it.First() {
		s.t.Fatalf("no row of %q", kind)
	}
	key, value := bytes.Clone(it.Key()), bytes.Clone(it.Value())
	check(s.t, it.Close())
	value[0] ^= 0xff
	check(s.t, db.Set(key, value, pebble.Sync))
	check(s.t, db.Close())
}

// TestRekorDamagedPin: a pin that cannot be read hides no other, and goes or comes back while
// upstream is there.
func TestRekorDamagedPin(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		for i := range uint64(10) {
			s.get(byIndex(37+i), 37+i)
		}
		s.close()
		s.sick('p', 2)
		s.start()
		if _, err := s.service.Held(); err != nil {
			t.Errorf("status of a stopped service: %v", err)
		}
		s.run()
		s.settle(rekorPoll)
		if n := s.mirrorOf(1).Status().Pins.Count; n < 9 {
			t.Errorf("%d pins are counted, and so can give way, of 9 that are good", n)
		}
		s.settle(10 * time.Minute)
		if st := s.mirrorOf(1).Status(); st.DamagedPlaces != 0 {
			t.Errorf("after ten minutes with upstream: %v", st.Damage)
		}
		s.stop()
	})
}

// TestRekorDamagedTree: one tree that cannot be opened takes nothing from the other shards.
func TestRekorDamagedTree(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.get(byIndex(40), 40)
		s.close()
		s.log.Refuse(true)
		s.sick('h', 1)
		db, err := storage.Open("db", storage.Options{FS: s.disk, CacheBytes: 4 << 20, SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: 1})
		check(t, err)
		service, err := mirror.NewService(mirror.ServiceConfig{Name: "test", URL: s.log.URL, DB: db})
		if err != nil {
			t.Errorf("one tree of two: %v", err)
		} else if item, _, err := service.Entry(t.Context(), "client", byIndex(40)); err != nil {
			t.Errorf("pinned in the other tree: %v", err)
		} else {
			s.wantItem(item, 40)
		}
		check(t, db.Close())
	})
}

// TestRekorDamageIsOurs: that a tree here is damaged is nothing that upstream did, and who is told of polls is not told so:
// else the service would count as half away for as long as that lasts.
func TestRekorDamageIsOurs(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.close()
		s.sick('h', 1)
		polls := 0
		s.config = func(c *mirror.ServiceConfig) {
			c.Polled = func(_ time.Time, err error) {
				if polls++; err != nil {
					t.Errorf("told of %v", err)
				}
			}
		}
		s.start().run()
		s.settle(5 * rekorPoll)
		if all := s.service.Statuses(); polls < 2 || !slices.ContainsFunc(all, func(s mirror.Status) bool { return s.Problem != nil }) {
			t.Errorf("%d polls, %+v", polls, all)
		}
		s.close()
	})
}

// TestRekorWindowIsAllThereWillBe: no history is promised that nobody copies.
func TestRekorWindowIsAllThereWillBe(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Active().Grow(2000, synthetic.Tiny(3))
		s.config = func(c *mirror.ServiceConfig) {
			c.Coverage, c.LastEntries, c.RequestsPerSecond = mirror.CoverageWindow, 512, 1000
		}
		s.start().run()
		s.settle(time.Hour)
		st := s.mirrorOf(1).Status()
		if st.MinimumIndex == 0 || st.NextIndex != st.TreeSize {
			t.Fatalf("no window: %+v", st)
		}
		if st.History != nil {
			t.Errorf("history down to %d is promised, an hour after all was copied", st.History.To)
		}
		s.close()
	})
}

// TestRekorArchiveIsNotForStrangers: what clients ask for does not decide how fast the archive
// grows, nor how often log info is read.
func TestRekorArchiveIsNotForStrangers(t *testing.T) {
	for name, ask := range map[string]func(s *rekorStage, i uint64){
		"unknown trees": func(s *rekorStage, i uint64) { _, _ = s.service.PublicKey(s.t.Context(), 1000+i) },
		"newest sizes": func(s *rekorStage, _ uint64) {
			_, _, _ = s.service.Consistency(s.t.Context(), "client", 0, 21, s.log.Active().Size())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				s.log.Forget()
				const lasts = 5 * time.Minute
				end := time.Now().Add(lasts)
				for i := uint64(0); time.Now().Before(end); i++ {
					s.log.Active().Grow(18, synthetic.Tiny(3))
					ask(s, i)
					time.Sleep(100 * time.Millisecond)
				}
				polls := int(lasts / rekorPoll)
				if n := len(s.archived(1)); n > 2*polls+2 { // the first one, and the start of the next
					t.Errorf("%d checkpoints are archived in the time of %d polls", n, polls)
				}
				if n := len(s.log.Requests(synthetic.LogInfo)); n > 2*polls+2 {
					t.Errorf("log info was read %d times in the time of %d polls", n, polls)
				}
				s.close()
			})
		})
	}
}

// TestRekorFailedLook: while log info cannot be read out of turn, nobody is told that there is
// no more than was known before, and upstream is not asked again for each who wants to know.
func TestRekorFailedLook(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = func(c *mirror.ServiceConfig) { c.Poll = 5 * time.Minute }
		s.start().run()
		s.settle(rekorPoll)
		s.log.Active().Grow(12, synthetic.HashedRekordV1(2))
		s.log.Misbehave(synthetic.On(synthetic.LogInfo, synthetic.Status(500)))
		s.unproven(1, 21, 33, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		s.log.Forget()
		for range 3 {
			_, err := s.service.PublicKey(t.Context(), 1000)
			wantRefusal(t, err, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
			s.unproven(1, 21, 33, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		}
		if n := len(s.log.Requests(synthetic.LogInfo)); n != 0 {
			t.Errorf("log info was read %d times more", n)
		}
		s.log.Misbehave()
		s.settle(6 * time.Minute)
		s.prove(1, 21, 33)
		_, err := s.service.PublicKey(t.Context(), 1000)
		wantRefusal(t, err, mirror.Invalid, mirror.ReasonInvalidRequest)
		s.close()
	})
}
