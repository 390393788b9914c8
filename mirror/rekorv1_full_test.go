package mirror_test

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

func full(c *mirror.ServiceConfig) { c.Coverage = mirror.CoverageFull }

// fullRekorStage has shards that take a while to copy.
func fullRekorStage(t *testing.T, sizes ...uint64) *rekorStage {
	l := synthetic.NewRekorV1(rekorHost)
	for i, size := range sizes {
		if i > 0 {
			l.RollOver(synthetic.RekorKey(rekorHost, uint64(i)))
		}
		l.Active().Grow(size, synthetic.Tiny(uint64(i)))
	}
	s := emptyRekorStage(t, l)
	s.config = full
	return s
}

func (s *rekorStage) copied(i int) uint64 { return s.mirrorOf(i).Tree().State().Head.Size }

// wantCopied demands the whole log, without upstream.
func (s *rekorStage) wantCopied() {
	s.t.Helper()
	s.log.Refuse(true)
	s.settle(2 * rekorPoll)
	for i, sh := range s.log.Shards() {
		if got := s.copied(i); got != sh.Size() {
			s.t.Fatalf("%d entries of shard %d are copied, of %d: %+v", got, i, sh.Size(), s.mirrorOf(i).Status().Problem)
		}
		step := 1 + sh.Size()/97
		for at := uint64(0); at < sh.Size(); at += step {
			item := s.get(byIndex(s.log.Start(i)+at), s.log.Start(i)+at)
			if item.Entry.Proof.TreeSize != sh.Size() {
				s.t.Fatalf("entry %d is proven to size %d", at, item.Entry.Proof.TreeSize)
			}
			s.get(byUUID(s.t, sh.UUID(at)), s.log.Start(i)+at)
			if at > 0 {
				s.prove(i, at, sh.Size())
			}
		}
	}
	s.log.Refuse(false)
	s.settle(2 * longestBackoff)
}

// TestRekorFull: a shard is copied as fast as the budget allows, and then follows its growth.
func TestRekorFull(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		const budget, size = 8, 16_000
		s := fullRekorStage(t, size, 300)
		s.start().run()
		began := time.Now()
		for s.copied2() < size+300 {
			s.settle(time.Second)
			if time.Since(began) > 10*time.Minute {
				t.Fatalf("%d entries after ten minutes", s.copied2())
			}
		}
		elapsed := time.Since(began)
		if rate := float64(size+300) / elapsed.Seconds(); rate < 0.95*budget*10 {
			t.Errorf("%.1f entries/s under a budget of %d requests", rate, budget)
		}
		if n := s.log.Busiest(time.Second); n > budget+1 {
			t.Errorf("%d requests within a second", n)
		}
		s.wantShards()
		s.wantCopied()
		for range 5 {
			s.log.Active().Grow(123, synthetic.Tiny(1))
			s.settle(3 * rekorPoll)
		}
		s.log.Forget()
		s.settle(time.Minute)
		if n := len(s.log.Requests(allKinds &^ synthetic.LogInfo)); n != 0 {
			t.Errorf("%d requests while nothing grows", n)
		}
		s.wantCopied()
		s.wantPromises()
		s.refused(byIndex(s.log.Size()), mirror.NotFound, mirror.ReasonNotFound)
		s.close()
	})
}

// TestRekorSubject: an intoto entry is found by the subject of its statement, which stands in
// no entry but in what is kept beside it, whether it is copied or was only read.
func TestRekorSubject(t *testing.T) {
	for _, copied := range []bool{true, false} {
		bubble.Run(t, func(t *testing.T) {
			s := fullRekorStage(t, 100, 50)
			if !copied {
				s.config = nil
			}
			subject := strings.Repeat("ab", 32)
			statement := fmt.Appendf(nil, `{"subject":[{"name":"a","digest":{"sha256":"%s"}}]}`, subject)
			at := s.log.Add(fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"payloadHash":{"algorithm":"sha256","value":"%x"}}}}`, sha256.Sum256(statement)))
			s.log.Active().Attest(at-s.log.Start(1), statement)
			s.start().run()
			s.settle(5 * time.Minute)
			if !copied {
				s.get(byIndex(at), at)
			}
			s.log.Refuse(true)
			s.settle(2 * rekorPoll)
			for range 2 {
				found, _, err := s.service.Search(t.Context(), "client", rekor.Query{Hash: "sha256:" + subject})
				if err != nil || len(found.UUIDs) != 1 || found.UUIDs[0].String() != s.log.Active().UUID(at-s.log.Start(1)) {
					t.Errorf("copied %v: found %v, %v", copied, found.UUIDs, err)
				}
				s.reopen().run()
				s.settle(rekorPoll)
			}
			s.close()
		})
	}
}

// wantPromises has a check verify what each shard promised; another shard promised nothing of it.
func (s *rekorStage) wantPromises() {
	s.t.Helper()
	mirrors := s.service.Mirrors()
	for i, m := range mirrors {
		for j, by := range mirrors {
			report, err := m.Tree().Check(s.t.Context(), storage.CheckOptions{VerifyEntry: by.VerifyEntry})
			check(s.t, err)
			if good := len(report.Problems) == 0; good != (i == j) {
				s.t.Errorf("shard %d by the key of shard %d: %v", i, j, report.Problems)
			}
		}
	}
}

// copied2 is how many entries of all shards that are known are copied.
func (s *rekorStage) copied2() (n uint64) {
	for _, m := range s.service.Mirrors() {
		n += m.Tree().State().Head.Size
	}
	return n
}

// TestRekorFullOfOne: the coverage of a shard can be another than that of the service.
func TestRekorFullOfOne(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := fullRekorStage(t, 500, 300)
		s.config = func(c *mirror.ServiceConfig) {
			c.Shards = map[uint64]mirror.Coverage{s.log.Shard(0).TreeID: mirror.CoverageFull}
		}
		s.start().run()
		s.settle(time.Minute)
		if s.copied(0) != 500 || s.copied(1) != 0 {
			t.Errorf("%d and %d entries are copied", s.copied(0), s.copied(1))
		}
		s.get(byIndex(510), 510)
		s.away()
		s.get(byIndex(499), 499)
		s.get(byIndex(510), 510)
		s.refused(byIndex(511), mirror.Unavailable, mirror.ReasonNotPinned)
		s.close()
	})
}

// TestRekorFullCrash: after a crash at any time the copy goes on where it was, with what it has
// proven to the signed checkpoint.
func TestRekorFullCrash(t *testing.T) {
	for round := range 6 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := fullRekorStage(t, 6000, 100)
				s.disk = vfs.NewCrashableMem()
				rng := rand.New(rand.NewPCG(uint64(round), 1))
				for range 4 {
					s.start().run()
					s.settle(time.Duration(5+rng.IntN(30)) * time.Second)
					s.log.Active().Grow(uint64(rng.IntN(50)), synthetic.Tiny(1))
					held := s.copied2()
					clone := s.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50 * (round % 2), RNG: rng})
					s.log.Refuse(true)
					s.close()
					s.disk = clone
					s.start()
					if got := s.copied2(); got < held {
						t.Fatalf("%d entries after the crash, %d before", got, held)
					}
					for i, m := range s.service.Mirrors() {
						for at := uint64(0); at < m.Tree().State().Head.Size; at += 173 {
							s.get(byIndex(s.log.Start(i)+at), s.log.Start(i)+at)
						}
					}
					s.log.Refuse(false)
					s.close()
				}
				s.start().run()
				s.settle(2 * time.Minute)
				s.wantCopied()
				s.close()
			})
		})
	}
}

// TestRekorFullBadEntries: an entry that does not verify ends the copy in front of it, and says
// why. What comes after it, and the other shard, is not lost.
func TestRekorFullBadEntries(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(s *rekorStage) synthetic.Fault
		reason string
	}{
		"wrong SET":           {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).WrongSET() }, mirror.ProblemEntry},
		"no SET":              {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).NoSET() }, mirror.ProblemEntry},
		"wrong body":          {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).WrongBody() }, mirror.ProblemMalformed},
		"another entry":       {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).Neighbour() }, mirror.ProblemEntry},
		"wrong virtual index": {func(s *rekorStage) synthetic.Fault { return s.log.Shard(0).WrongVirtualIndex(1) }, mirror.ProblemEntry},
		"another key": {func(s *rekorStage) synthetic.Fault {
			return s.log.Shard(0).On(synthetic.AnsweredBy(s.log.Rekey(0, s.log.Shard(1).Key)))
		}, mirror.ProblemEntry},
		"nothing":     {func(*rekorStage) synthetic.Fault { return synthetic.Body([]byte("[]")) }, mirror.ProblemEntry},
		"500":         {func(*rekorStage) synthetic.Fault { return synthetic.Status(500) }, mirror.ProblemRefused},
		"HTML":        {func(*rekorStage) synthetic.Fault { return synthetic.HTML() }, mirror.ProblemMalformed},
		"wrong proof": {func(*rekorStage) synthetic.Fault { return synthetic.WrongConsistency() }, mirror.ProblemInconsistent},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := emptyRekorStage(t, signedRekor(200, 100))
				if name == "wrong proof" { // which takes more than one commit
					s = fullRekorStage(t, 3000, 100)
				}
				s.config = full
				s.start().run()
				s.settle(time.Second)
				fault := c.fault(s)
				s.log.Misbehave(synthetic.On(anyEntry|synthetic.LogProof, func(q synthetic.Request, a *synthetic.Answer) {
					if q.Kind == synthetic.LogProof || slices.Contains([]string{"500", "HTML", "nothing"}, name) {
						if name == "wrong proof" || q.Kind != synthetic.LogProof {
							fault(q, a)
						}
						return
					}
					fault(q, a)
				}))
				s.settle(40 * time.Second)
				held := s.copied(0)
				if held >= s.log.Shard(0).Size() {
					t.Error("everything is copied")
				}
				if s.problems(c.reason) < 1 {
					t.Errorf("no problem of the reason %s is counted", c.reason)
				}
				s.check() // of the roots and entries
				s.wantNoEvidence()
				for i := range 2 {
					if f := s.mirrorOf(i).Freshness(); f.Source != mirror.SourceLive {
						t.Errorf("freshness of shard %d: %+v", i, f)
					}
				}
				if want := uint64(100); !slices.Contains([]string{"500", "HTML", "nothing", "wrong proof"}, name) && s.copied(1) != want {
					t.Errorf("%d entries of the other shard are copied", s.copied(1))
				}
				s.log.Misbehave()
				s.settle(time.Minute)
				s.wantCopied()
				s.close()
			})
		})
	}
}

// signedRekor is a service of two shards with entries of Rekor's form.
func signedRekor(sizes ...uint64) *synthetic.RekorV1 {
	l := synthetic.NewRekorV1(rekorHost)
	for i, size := range sizes {
		if i > 0 {
			l.RollOver(synthetic.RekorKey(rekorHost, uint64(i)))
		}
		l.Active().Grow(size, synthetic.HashedRekordV1(uint64(i)))
	}
	return l
}

// TestRekorFullFork: entries that are proven to another tree than the one that is copied are
// evidence.
func TestRekorFullFork(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := emptyRekorStage(t, signedRekor(600, 300))
		s.config = full
		fork := s.log.Fork(0, 450)
		s.log.Misbehave(synthetic.On(anyEntry, synthetic.AnsweredBy(fork)))
		s.start().run()
		s.settle(time.Minute)
		s.wantEvidence(0)
		if s.copied(0) != 0 || s.copied(1) != 300 {
			t.Errorf("%d and %d entries are copied", s.copied(0), s.copied(1))
		}
		s.get(byIndex(700), 700)
		s.close()
	})
}

// TestRekorSearch: what is held or pinned is found without upstream, under the keys of Rekor;
// with it, what upstream names too.
func TestRekorSearch(t *testing.T) {
	for _, coverage := range []mirror.Coverage{mirror.CoverageFull, mirror.CoveragePinned} {
		t.Run(string(coverage), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := bigRekorStage(t)
				s.config = func(c *mirror.ServiceConfig) { c.Coverage, c.RequestsPerSecond = coverage, 1000 }
				s.start().run()
				s.settle(2 * rekorPoll)
				queries := map[string]rekor.Query{
					"email":   {Email: anIdentity(t, s.log.Shard(0), "@")},
					"subject": {Subject: anIdentity(t, s.log.Shard(1), "https://")},
					"hash":    {Hash: anIdentity(t, s.log.Shard(1), "sha256:")},
					"key":     {Format: "x509", PublicKey: publicKeyOf(t, s.log.Shard(0).Body(3))},
				}
				ask := func(name string, want []uint64, source string) {
					t.Helper()
					found, fresh, err := s.service.Search(t.Context(), "client", queries[name])
					check(t, err)
					var got, uuids []string
					for _, uuid := range found.UUIDs {
						got = append(got, uuid.String())
					}
					for _, at := range want {
						shard := 0
						if at >= s.log.Start(1) {
							shard = 1
						}
						uuids = append(uuids, s.log.Shard(shard).UUID(at-s.log.Start(shard)))
					}
					slices.Sort(got)
					slices.Sort(uuids)
					if !slices.Equal(got, uuids) || fresh.Source != source {
						t.Errorf("%s: found %d, want %d of %s: %s %+v", name, len(got), len(uuids), source, found.UUIDs, fresh)
					}
					if len(found.Covered) != 2 {
						t.Errorf("%s: covered %+v", name, found.Covered)
					}
					for i, c := range found.Covered {
						if end := s.copied(i); c.Origin != s.log.Shard(i).Origin() || c.Start != 0 && c.Start != c.End || c.End != end && c.Start != c.End {
							t.Errorf("%s: covered %+v of %d", name, c, end)
						}
					}
				}
				all := func(name string) []uint64 {
					q := queries[name]
					return s.matching(0, mirror.Watch{Query: &q})
				}
				for name := range queries {
					ask(name, all(name), mirror.SourceLive)
				}
				s.log.Misbehave(synthetic.On(synthetic.RetrieveIndex, synthetic.Status(500)))
				held := map[string][]uint64{}
				for name := range queries {
					if held[name] = all(name); coverage == mirror.CoveragePinned {
						held[name] = held[name][:1]
						s.get(byIndex(held[name][0]), held[name][0])
					}
				}
				if coverage == mirror.CoverageFull {
					for name := range queries {
						ask(name, held[name], mirror.SourceMirrored)
					}
				}
				s.away()
				s.reopen()
				for name := range queries {
					if coverage == mirror.CoverageFull {
						ask(name, held[name], mirror.SourceMirrored)
						continue
					}
					found, _, err := s.service.Search(t.Context(), "client", queries[name])
					check(t, err)
					if len(found.UUIDs) == 0 {
						t.Errorf("%s: nothing is found of what is pinned", name)
					}
				}
				s.close()
			})
		})
	}
}
