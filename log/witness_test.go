package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

func cosigned(c storage.Checkpoint) bool { return bytes.Contains(c.Raw, []byte(cosignature)) }

// TestWait: without quorum nothing is published and nobody answered, unless the configuration says so;
// when witnesses answer again, so does the log.
func TestWait(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { c.Cosign = w.Cosign })
		w.will(refuse)
		s.open(true)
		for i := range 3 {
			_, err := s.within(5*time.Second, fmt.Sprint(i))
			if !errors.Is(err, ErrUnwitnessed) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("without witnesses: %v", err)
			}
		}
		if c := s.log.Published(); c.Raw != nil {
			t.Errorf("published: %q", c.Raw)
		}
		if _, _, err := s.log.Find(0); !errors.Is(err, storage.ErrNotHeld) {
			t.Errorf("served: %v", err)
		}
		if s.log.Problem() == nil {
			t.Error("no problem")
		}
		w.will(nil)
		began := time.Now()
		if r := s.append("1"); r.Index != 1 || !r.Duplicate || !cosigned(r.Checkpoint) || time.Since(began) > retryAfter+time.Second {
			t.Errorf("again: %+v after %v", r, time.Since(began))
		}
		if s.log.Problem() != nil {
			t.Errorf("still a problem: %v", s.log.Problem())
		}
		s.sound()
		s.close()
	})
}

// TestWithoutQuorum: published all the same, and told.
func TestWithoutQuorum(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { c.Cosign, c.WithoutQuorum = w.Cosign, true })
		w.will(refuse)
		s.open(true)
		if r := s.append("0"); cosigned(r.Checkpoint) || s.log.Problem() == nil {
			t.Errorf("without witnesses: %q, problem %v", r.Checkpoint.Raw, s.log.Problem())
		}
		w.will(nil)
		if r := s.append("1"); !cosigned(r.Checkpoint) || s.log.Problem() != nil {
			t.Errorf("with witnesses: %q, problem %v", r.Checkpoint.Raw, s.log.Problem())
		}
		s.close()
	})
}

// TestHeadAgain: after a restart, and after a crash, the same head goes to the witnesses again, and
// what was published before is served meanwhile, with its cosignatures.
func TestHeadAgain(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { c.Cosign = w.Cosign })
		s.open(true)
		before := s.append("0").Checkpoint
		w.will(refuse)
		if _, err := s.within(time.Second, "1"); !errors.Is(err, ErrUnwitnessed) {
			t.Errorf("without witnesses: %v", err)
		}
		head := s.log.Tree().State().Head
		for round := range 2 {
			if round == 0 {
				s.close()
			} else {
				s.crash(0, nil)
			}
			w.will(sleep)
			asked := w.times()
			s.open(false)
			synctest.Wait()
			if got := s.log.Published(); got.Head != before.Head || !bytes.Equal(got.Raw, before.Raw) {
				t.Errorf("published while witnesses are asked: %d %q, want %q", got.Size, got.Raw, before.Raw)
			}
			if _, r, err := s.log.Find(0); err != nil {
				t.Error(err)
			} else {
				s.good("0", r)
			}
			if _, _, err := s.log.Find(1); !errors.Is(err, storage.ErrNotHeld) {
				t.Errorf("what is not published is served: %v", err)
			}
			if _, ok, err := s.log.FindLeaf(storage.LeafHash([]byte("1"))); ok || err != nil {
				t.Errorf("what is not published is found: %v", err)
			}
			if w.times() != asked+1 || w.asked[asked] != head {
				t.Errorf("witnesses were asked for %v, want %v", w.asked[asked:], head)
			}
		}
		w.will(nil)
		s.close()
		s.open(false)
		if r := s.append("1"); r.Index != 1 || !r.Duplicate {
			t.Errorf("again: %+v", r)
		}
		var kept []uint64 // sizes whose cosignatures are in the archive
		view := s.log.Tree().View()
		if err := view.Archive(0, math.MaxUint64, func(row storage.ArchiveRow) error {
			if slices.Equal(row.Cosignatures, []string{cosignature}) {
				kept = append(kept, row.Checkpoint.Size)
			}
			return nil
		}); err != nil || !slices.Equal(kept[max(0, len(kept)-2):], []uint64{1, 2}) {
			t.Errorf("cosignatures are kept of %d: %v", kept, err)
		}
		view.Close()
		s.close()
	})
}

// TestStopWithSleepingWitness: Run returns after drainTime, everybody is answered, and the next run
// gives the retry the same index. Where the policy allows, what waits is published without them.
func TestStopWithSleepingWitness(t *testing.T) {
	for i := range 10 { // many ways in which channels are ready at once
		without := i%2 == 0
		t.Run(fmt.Sprint("without quorum ", without), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				w := &witness{t: t}
				s := newStage(t, func(c *Config) { c.Cosign, c.WithoutQuorum = w.Cosign, without })
				s.open(true)
				s.append("first")
				w.will(sleep)
				var index []uint64
				var appends sync.WaitGroup
				for i := range 20 {
					appends.Go(func() {
						time.Sleep(time.Duration(i) * 10 * time.Millisecond) // in many batches, of which a round has the first
						r, err := s.log.Append(context.Background(), entryOf(fmt.Sprint(i)))
						if without && err != nil || !without && !errors.Is(err, ErrUnwitnessed) {
							t.Errorf("entry %d: %v", i, err)
						}
						if without {
							s.good(fmt.Sprint(i), r)
						}
					})
				}
				time.Sleep(time.Second)
				began := time.Now()
				if err := s.stop(); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took > drainTime+time.Second/2 {
					t.Errorf("stopped after %v", took)
				}
				appends.Wait()
				for i := range 20 {
					at, ok, err := s.indexOf(fmt.Sprint(i))
					if !ok || err != nil {
						t.Errorf("entry %d: %v", i, err)
					}
					index = append(index, at)
				}
				s.close()
				w.will(nil)
				s.open(false)
				for i := range 20 {
					if r := s.append(fmt.Sprint(i)); !r.Duplicate || r.Index != index[i] {
						t.Errorf("entry %d again: %+v", i, r)
					}
				}
				s.sound()
				s.close()
			})
		})
	}
}

// TestWitnessesComeAndGo: what is published stays so when the configuration gets witnesses, or loses
// them and gets them again.
func TestWitnessesComeAndGo(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		s := newStage(t, nil)
		s.open(true)
		next := 0
		append := func() {
			t.Helper()
			s.append(fmt.Sprint(next))
			next++
		}
		stays := func(what string) {
			t.Helper()
			s.close()
			s.open(false)
			if size := s.log.Published().Size; size != uint64(next) {
				t.Errorf("%s: %d is published, and %d was", what, size, next)
			}
		}
		append()
		s.config.Cosign = w.Cosign
		w.will(refuse)
		stays("with the first witnesses")
		if _, err := s.within(time.Second, "unwitnessed"); !errors.Is(err, ErrUnwitnessed) {
			t.Errorf("without witnesses: %v", err)
		}
		stays("with the first witnesses, and more than they saw")
		w.will(nil)
		s.append("unwitnessed")
		next++
		s.config.Cosign = nil
		stays("without witnesses again")
		append()
		append()
		s.config.Cosign = w.Cosign
		w.will(refuse)
		stays("with witnesses again")
		s.close()
	})
}

// TestIdle: a checkpoint is published at every Interval, and if a key cannot sign the last one stays.
func TestIdle(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		w := &witness{t: t}
		var key *signs
		s := newStage(t, func(c *Config) { c.Cosign = w.Cosign; c.Interval = 10 * time.Second; key = counting(c) })
		s.open(true)
		s.append("0")
		time.Sleep(time.Second)
		for range 5 {
			asked, signed, seen := w.times(), key.times.Load(), s.log.Published().LastSeen
			time.Sleep(10 * time.Second)
			if w.times() != asked+1 || key.times.Load() != signed+1 || s.log.Published().LastSeen.Sub(seen) != 10*time.Second {
				t.Errorf("in an interval: asked %d times, signed %d times, published %v later", w.times()-asked, key.times.Load()-signed, s.log.Published().LastSeen.Sub(seen))
			}
		}
		if at := s.log.Tree().State().Pending.LastSeen; !at.Equal(s.log.Published().LastSeen) {
			t.Errorf("vouched for at %v, published at %v", at, s.log.Published().LastSeen)
		}
		key.will(func([]byte) ([]byte, error) { return nil, errors.New("the key is away") })
		published := s.log.Published()
		time.Sleep(15 * time.Second)
		if s.log.Problem() == nil || !bytes.Equal(s.log.Published().Raw, published.Raw) {
			t.Errorf("without a key: %v", s.log.Problem())
		}
		key.will(nil)
		time.Sleep(2 * time.Second)
		if s.log.Problem() != nil || !s.log.Published().LastSeen.After(published.LastSeen) {
			t.Errorf("with the key again: %v", s.log.Problem())
		}
		s.sound()
		s.close()
	})
}

// TestLinesOfWitnesses: lines that would spoil the note are not published, and the log opens again.
func TestLinesOfWitnesses(t *testing.T) {
	for name, lines := range map[string][]string{
		"junk":       {"junk"},
		"no base64":  {"— witness.test/one !"},
		"two lines":  {cosignature + "\n" + cosignature},
		"empty":      {""},
		"very many":  strings.Split(strings.Repeat(cosignature+"\n", 300)+cosignature, "\n"),
		"our own":    {"— " + testOrigin + " AAAAAQAAAAAAAAAA"},
		"ends it":    {cosignature + "\n\n"},
		"good, junk": {cosignature, "junk"},
	} {
		for _, without := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", without quorum ", without), func(t *testing.T) {
				bubble.Run(t, func(t *testing.T) {
					s := newStage(t, func(c *Config) {
						c.WithoutQuorum = without
						c.Cosign = func(context.Context, storage.Checkpoint, func(uint64) ([]storage.Hash, error)) ([]string, error) {
							return lines, nil
						}
					})
					s.open(true)
					r, err := s.within(5*time.Second, "0")
					if err == nil {
						s.good("0", r)
					} else if without || !errors.Is(err, ErrUnwitnessed) {
						t.Errorf("append: %v", err)
					}
					s.close()
					s.open(false)
					s.sound()
					s.close()
				})
			})
		}
	}
}
