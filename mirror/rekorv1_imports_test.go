package mirror_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// uuids returns imports that only name entries of the active shard.
func uuids(t *testing.T, s *rekorStage, first, end uint64) (imports []rekor.Import) {
	for i := first; i < end; i++ {
		imports = append(imports, rekor.Import{UUID: byUUID(t, s.log.Active().UUID(i)).UUID})
	}
	return imports
}

// TestRekorImportAll: a list is asked for ten at a time, whatever is wrong with one of them, and
// of each entry it is said what became of it, in order.
func TestRekorImportAll(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Active().Grow(200, synthetic.Tiny(5))
		s.start().run()
		s.settle(2 * rekorPoll)
		list := uuids(t, s, 0, 195)
		list[17] = list[16] // twice
		list[33] = rekor.Import{Skipped: errors.New("no entry")}
		list[34] = rekor.Import{UUID: &rekor.UUID{TreeID: s.log.Active().TreeID, LeafHash: storage.Hash{1}}}
		list[60] = file(t, s.log, 1, 60)
		list[61] = without(file(t, s.log, 1, 61))
		const bad = 88
		s.log.Misbehave(naming(s.log.Active().UUID(bad), s.log.Active().WrongUUID())) // spoils ten
		s.get(byIndex(37+100), 37+100)
		s.log.Forget()
		at := 0
		check(t, s.service.ImportAll(t.Context(), list, func(done mirror.Imported, err error) error {
			i := at
			at++
			switch i {
			case 33, 34, bad:
				if refusal, ok := errors.AsType[*mirror.Refusal](err); err == nil || i == 34 && (!ok || refusal.Kind != mirror.NotFound) {
					t.Errorf("%d is imported: %v, %v", i, done, err)
				}
			case 17:
				if err != nil || done.Index != 37+16 || !done.Before {
					t.Errorf("%d is %+v, %v", i, done, err)
				}
			default:
				if err != nil || done.Index != 37+uint64(i) || done.Before != (i == 100) || !done.Linked {
					t.Errorf("%d is %+v, %v", i, done, err)
				}
			}
			return nil
		}))
		if at != len(list) {
			t.Errorf("%d of %d are answered", at, len(list))
		}
		if n := len(s.log.Requests(anyEntry)); n > 20+10 {
			t.Errorf("%d requests for %d entries", n, len(list))
		}
		s.log.Misbehave()
		_, reasons := s.pins(1)
		if len(reasons) != 195-4 {
			t.Errorf("%d pins", len(reasons))
		}

		failure := errors.New("enough")
		if err := s.service.ImportAll(t.Context(), list, func(mirror.Imported, error) error { return failure }); err != failure {
			t.Errorf("it went on: %v", err)
		}
		s.close()
	})
}

// TestRekorImportAllWaits: an upstream that goes away in the middle of a list and comes back is
// waited for; one that stays away, or was never there, is not, for long.
func TestRekorImportAllWaits(t *testing.T) {
	for name, c := range map[string]struct {
		away func(s *rekorStage, away bool)
		code int
	}{
		"refuses": {func(s *rekorStage, away bool) { s.log.Refuse(away) }, 0},
		"429": {func(s *rekorStage, away bool) {
			if s.log.Misbehave(); away {
				s.log.Misbehave(synthetic.On(anyEntry, synthetic.Throttle(40*time.Second)))
			}
		}, 429},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t)
				s.log.Active().Grow(200, synthetic.Tiny(5))
				s.start().run()
				s.settle(2 * rekorPoll)
				run := func(list []rekor.Import, each func(i int)) (good int, took time.Duration) {
					t.Helper()
					began, i := time.Now(), 0
					check(t, s.service.ImportAll(t.Context(), list, func(_ mirror.Imported, err error) error {
						if err == nil {
							good++
						}
						i++
						each(i)
						return nil
					}))
					return good, time.Since(began)
				}
				good, took := run(uuids(t, s, 0, 100), func(i int) {
					if i == 30 {
						c.away(s, true)
						time.AfterFunc(2*time.Minute, func() { c.away(s, false) })
					}
				})
				if good != 100 || took < 2*time.Minute || took > 5*time.Minute {
					t.Errorf("%d entries of 100 are pinned, in %v", good, took)
				}
				good, took = run(uuids(t, s, 100, 200), func(i int) {
					if i == 50 {
						c.away(s, true)
					}
				})
				if good != 50 || took > 10*time.Minute {
					t.Errorf("%d entries of 100 are pinned, in %v", good, took)
				}
				if good, took = run(uuids(t, s, 150, 200), func(int) {}); good != 0 || took > time.Minute {
					t.Errorf("%d entries are pinned of a log that is away, in %v", good, took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				c.away(s, false)
				s.settle(time.Minute)
				err := s.service.ImportAll(ctx, uuids(t, s, 150, 200), func(mirror.Imported, error) error {
					time.Sleep(time.Second)
					return nil
				})
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("it went on: %v", err)
				}
				s.close()
			})
		})
	}
}
