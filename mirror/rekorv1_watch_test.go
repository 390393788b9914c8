package mirror_test

import (
	"encoding/base64"
	"encoding/json"

	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// watchedPins returns the virtual indexes of what is pinned because it is watched.
func (s *rekorStage) watchedPins() (indexes []uint64) {
	s.t.Helper()
	for i := range s.service.Mirrors() {
		_, reasons := s.pins(i)
		for index, r := range reasons {
			if r&storage.PinWatched != 0 {
				indexes = append(indexes, s.log.Start(i)+index)
			}
		}
	}
	slices.Sort(indexes)
	return indexes
}

// matching returns the virtual indexes from an index on of what watches name, by going through
// the whole log.
func (s *rekorStage) matching(from uint64, watches ...mirror.Watch) (indexes []uint64) {
	s.t.Helper()
	for i, sh := range s.log.Shards() {
		for index := range sh.Size() {
			at := s.log.Start(i) + index
			keys := rekor.SearchKeys(sh.Body(index))
			if at >= from && slices.ContainsFunc(watches, func(w mirror.Watch) bool {
				switch {
				case w.Query != nil:
					want, _, err := rekor.QueryKeys(*w.Query)
					check(s.t, err)
					return slices.ContainsFunc(want, func(key string) bool { return slices.Contains(keys, key) })
				case w.Identity != "":
					return slices.ContainsFunc(keys, func(key string) bool {
						return strings.HasSuffix(key, strings.ToLower(strings.TrimPrefix(w.Identity, "*")))
					})
				case w.UUID != nil:
					return sh.UUID(index) == w.UUID.String()
				}
				return w.First <= at && at < w.End
			}) {
				indexes = append(indexes, at)
			}
		}
	}
	return indexes
}

func (s *rekorStage) wantWatched(want []uint64) {
	s.t.Helper()
	if got := s.watchedPins(); !slices.Equal(got, want) {
		s.t.Fatalf("watched pins are %d, want %d", got, want)
	}
}

// identityOf returns a subject of the certificate of an entry.
func identityOf(t *testing.T, body []byte, with string) string {
	t.Helper()
	for _, key := range rekor.SearchKeys(body) {
		if strings.Contains(key, with) && !strings.HasPrefix(key, "issuer:") && (with != "@" || !strings.Contains(key, "://")) {
			return key
		}
	}
	return ""
}

// anIdentity returns a subject that contains a text, of any entry of a shard.
func anIdentity(t *testing.T, sh *synthetic.Shard, with string) string {
	t.Helper()
	for i := range sh.Size() {
		if id := identityOf(t, sh.Body(i), with); id != "" {
			return id
		}
	}
	t.Fatalf("no entry has a subject with %q", with)
	return ""
}

// publicKeyOf returns the PEM of what signed an entry.
func publicKeyOf(t *testing.T, body []byte) []byte {
	t.Helper()
	var entry struct {
		Spec struct {
			Signature struct{ PublicKey struct{ Content string } }
		}
	}
	check(t, json.Unmarshal(body, &entry))
	pem, err := base64.StdEncoding.DecodeString(entry.Spec.Signature.PublicKey.Content)
	check(t, err)
	return pem
}

// bigRekorStage has entries under every one of the 64 keys, and identities more than once.
func bigRekorStage(t *testing.T) *rekorStage {
	l := synthetic.NewRekorV1(rekorHost)
	l.Active().Grow(150, synthetic.HashedRekordV1(1))
	l.RollOver(synthetic.RekorKey(rekorHost, 1))
	l.Active().Grow(90, synthetic.HashedRekordV1(1).Then(0, func(i uint64) []byte { return synthetic.HashedRekordV1(1)(i + 1000) }))
	check(t, l.IndexAll(0))
	check(t, l.IndexAll(1))
	return emptyRekorStage(t, l)
}

// TestRekorWatch: what is watched is pinned, however it is named, also what is logged later;
// nothing else is.
func TestRekorWatch(t *testing.T) {
	for name, watch := range map[string]func(s *rekorStage) mirror.Watch{
		"digest": func(s *rekorStage) mirror.Watch {
			key := identityOf(t, s.log.Shard(0).Body(9), "sha256:")
			return mirror.Watch{Query: &rekor.Query{Hash: strings.TrimPrefix(key, "sha256:")}}
		},
		"email": func(s *rekorStage) mirror.Watch {
			return mirror.Watch{Query: &rekor.Query{Email: strings.ToUpper(anIdentity(t, s.log.Shard(0), "@"))}}
		},
		"subject": func(s *rekorStage) mirror.Watch {
			return mirror.Watch{Query: &rekor.Query{Subject: anIdentity(t, s.log.Shard(0), "https://")}}
		},
		"public key": func(s *rekorStage) mirror.Watch {
			return mirror.Watch{Query: &rekor.Query{Format: "x509", PublicKey: publicKeyOf(t, s.log.Shard(1).Body(3))}}
		},
		"UUID": func(s *rekorStage) mirror.Watch {
			uuid, err := rekor.ParseUUID(s.log.Shard(1).UUID(7))
			check(t, err)
			return mirror.Watch{UUID: &uuid}
		},
		"indexes": func(s *rekorStage) mirror.Watch { return mirror.Watch{First: 140, End: 165} },
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := bigRekorStage(t)
				w := watch(s)
				s.config = func(c *mirror.ServiceConfig) { c.Watch = []mirror.Watch{w} }
				s.start().run()
				s.settle(2 * rekorPoll)
				want := s.matching(0, w)
				if len(want) == 0 {
					t.Fatal("nothing is watched")
				}
				s.wantWatched(want)
				s.away()
				for _, i := range want {
					s.get(byIndex(i), i)
				}
				s.back()

				// Found once, it is not fetched again; the next round finds what is new.
				s.log.Forget()
				s.log.Active().Grow(64, func(i uint64) []byte { return synthetic.HashedRekordV1(1)(i + 5000) })
				check(t, s.log.IndexAll(1))
				s.settle(mirror.DefaultWatchEvery + 10*time.Minute)
				later := s.matching(0, w)
				s.wantWatched(later)
				if n := len(s.log.Requests(anyEntry)); (len(later) == len(want)) != (n == 0) {
					t.Errorf("%d requests for %d new entries", n, len(later)-len(want))
				}

				// What was read before it was watched is watched now; without the watch it is only read.
				s.config = nil
				s.reopen().run()
				s.settle(2 * rekorPoll)
				s.wantWatched(nil)
				s.get(byIndex(want[0]), want[0])
				s.config = func(c *mirror.ServiceConfig) { c.Watch = []mirror.Watch{w} }
				s.reopen().run()
				s.settle(2 * rekorPoll)
				s.wantWatched(later)
				s.close()
			})
		})
	}
}

// TestRekorWatchAbsent: that upstream lacks a watched UUID is said once, and only if it has said
// so; when it is logged, it is pinned.
func TestRekorWatchAbsent(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		active := s.log.Active()
		later := rekor.UUID{TreeID: active.TreeID, LeafHash: storage.LeafHash(synthetic.Tiny(5)(active.Size()))}
		never := rekor.UUID{LeafHash: storage.Hash{1}}
		s.config = func(c *mirror.ServiceConfig) {
			c.Watch = []mirror.Watch{{UUID: byUUID(t, active.UUID(3)).UUID}, {UUID: &later}, {UUID: &never}}
			c.WatchEvery = time.Minute
		}
		said := func() int {
			s.mu.Lock()
			defer s.mu.Unlock()
			return strings.Count(s.logged.String(), "upstream has no entry with a watched UUID")
		}
		s.log.Misbehave(synthetic.On(anyEntry, synthetic.Status(500)))
		s.start().run()
		s.settle(10 * time.Minute)
		if n := said(); n != 0 {
			t.Errorf("%d UUIDs are said to be absent by an upstream that fails", n)
		}
		s.log.Misbehave()
		s.settle(10 * time.Minute)
		s.wantWatched([]uint64{40})
		if n := said(); n != 2 || !s.says("uuid="+later.String()) || !s.says("uuid="+never.String()) {
			t.Errorf("it is said %d times:\n%s", n, &s.logged)
		}
		active.Grow(1, synthetic.Tiny(5))
		s.settle(3 * time.Minute)
		s.wantWatched([]uint64{40, s.log.Size() - 1})
		if n := said(); n != 2 {
			t.Errorf("it is said %d times:\n%s", n, &s.logged)
		}
		s.close()
	})
}

// TestRekorWatchLater: a range that is not logged yet is pinned when it is.
func TestRekorWatchLater(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = func(c *mirror.ServiceConfig) {
			c.Watch, c.WatchEvery = []mirror.Watch{{First: 50, End: 70}}, time.Minute
		}
		s.start().run()
		s.settle(2 * rekorPoll)
		for range 6 {
			s.wantWatched(s.matching(0, mirror.Watch{First: 50, End: 70}))
			s.log.Active().Grow(2, synthetic.HashedRekordV1(2))
			s.log.RollOver(nil)
			s.log.Active().Grow(1, synthetic.HashedRekordV1(s.log.Size()))
			s.settle(90 * time.Second)
		}
		if got := s.watchedPins(); len(got) != 20 {
			t.Errorf("watched pins are %d", got)
		}
		s.close()
	})
}

// TestRekorWatchPattern: entries of identities that match a pattern are found among the new
// ones, over a roll-over too, unless the log grows too fast for that.
func TestRekorWatchPattern(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := bigRekorStage(t)
		domain := anIdentity(t, s.log.Shard(0), "@")
		w := mirror.Watch{Identity: "*" + strings.ToUpper(domain[strings.Index(domain, "@"):])}
		s.config = func(c *mirror.ServiceConfig) { c.Watch, c.WatchEvery = []mirror.Watch{w}, time.Minute }
		s.start().run()
		s.settle(2 * rekorPoll)
		from := s.log.Size()
		grow := func(n, seed uint64) {
			s.log.Active().Grow(n, func(i uint64) []byte { return synthetic.HashedRekordV1(1)(i + seed) })
		}
		grow(200, 7000)
		s.settle(90 * time.Second)
		if len(s.matching(from, w)) == 0 {
			t.Fatal("nothing matches")
		}
		s.wantWatched(s.matching(from, w))
		grow(100, 8000)
		s.log.RollOver(nil)
		grow(100, 9000)
		s.settle(2 * time.Minute)
		s.wantWatched(s.matching(from, w))

		// One that does not verify does not hold up the others, and is tried again.
		bad := s.log.Size() + 3
		for s.log.Size() <= bad || len(s.matching(bad, w)) == 0 {
			grow(64, 10_000)
		}
		bad = s.matching(bad, w)[0]
		last := s.log.Active()
		s.log.Misbehave(naming(last.UUID(bad-s.log.Start(2)), last.WrongSET()))
		s.settle(2 * time.Minute)
		want := s.matching(from, w)
		s.wantWatched(slices.DeleteFunc(slices.Clone(want), func(i uint64) bool { return i == bad }))
		s.log.Misbehave()
		s.settle(2 * time.Minute)
		s.wantWatched(want)

		// 8 requests a second, of which half may look: 40 entries a second.
		before := s.watchedPins()
		s.log.Active().Grow(3000, synthetic.Tiny(1))
		grow(64, 20_000)
		s.log.Forget()
		s.settle(90 * time.Second)
		s.wantWatched(before)
		if n := len(s.log.Requests(anyEntry)); n != 0 || !s.says("grows faster than its API gives entries") || !s.says("affordable=2") {
			t.Errorf("%d requests; the log says:\n%s", n, &s.logged)
		}
		// One that comes by is pinned all the same.
		late := s.matching(s.log.Size()-64, w)
		s.get(byIndex(late[0]), late[0])
		s.wantWatched(append(before, late[0]))
		// And when it grows slowly again, it is looked through.
		from = s.log.Size()
		grow(100, 30_000)
		s.settle(2 * time.Minute)
		s.wantWatched(append(append(before, late[0]), s.matching(from, w)...))
		s.close()
	})
}

// naming limits a fault to answers with an entry, and to that entry.
func naming(uuid string, fault synthetic.Fault) synthetic.Fault {
	return synthetic.On(anyEntry, func(q synthetic.Request, a *synthetic.Answer) {
		honest, wrong := *a, *a
		fault(q, &wrong)
		var list, edited []map[string]json.RawMessage
		if q.Kind != synthetic.RetrieveEntry || json.Unmarshal(honest.Body, &list) != nil || json.Unmarshal(wrong.Body, &edited) != nil {
			return
		}
		for i, entry := range list {
			if _, ok := entry[uuid]; ok {
				list[i] = edited[i]
			}
		}
		a.Body, _ = json.Marshal(list)
	})
}

// TestRekorWatchBadDays: a bad entry does not hold up the good ones, nor one watch another, nor
// an upstream that fails for a while all of them.
func TestRekorWatchBadDays(t *testing.T) {
	for name, c := range map[string]struct {
		fault func(s *rekorStage, bad uint64) synthetic.Fault
		lacks bool // the bad one only
	}{
		"wrong SET": {func(s *rekorStage, bad uint64) synthetic.Fault {
			return naming(s.log.Shard(0).UUID(bad), s.log.Shard(0).WrongSET())
		}, true},
		"wrong body": {func(s *rekorStage, bad uint64) synthetic.Fault {
			return naming(s.log.Shard(0).UUID(bad), s.log.Shard(0).WrongBody())
		}, true},
		"wrong UUID": {func(s *rekorStage, bad uint64) synthetic.Fault {
			return naming(s.log.Shard(0).UUID(bad), s.log.Shard(0).WrongUUID())
		}, true},
		"another": {func(s *rekorStage, bad uint64) synthetic.Fault {
			return naming(s.log.Shard(0).UUID(bad), s.log.Shard(0).Neighbour())
		}, true},
		"500": {func(*rekorStage, uint64) synthetic.Fault {
			return synthetic.On(anyEntry|synthetic.RetrieveIndex, synthetic.Status(500))
		}, false},
		"429": {func(*rekorStage, uint64) synthetic.Fault {
			return synthetic.On(anyEntry|synthetic.RetrieveIndex, synthetic.Throttle(20*time.Second))
		}, false},
		"HTML": {func(*rekorStage, uint64) synthetic.Fault {
			return synthetic.On(anyEntry|synthetic.RetrieveIndex, synthetic.HTML())
		}, false},
		"hangs": {func(*rekorStage, uint64) synthetic.Fault {
			return synthetic.On(anyEntry|synthetic.RetrieveIndex, synthetic.Hang())
		}, false},
		"no UUIDs": {func(*rekorStage, uint64) synthetic.Fault {
			return synthetic.On(synthetic.RetrieveIndex, synthetic.Body([]byte(`["x"]`)))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := bigRekorStage(t)
				watches := []mirror.Watch{
					{First: 20, End: 45},
					{Query: &rekor.Query{Format: "x509", PublicKey: publicKeyOf(t, s.log.Shard(0).Body(30))}},
					{Query: &rekor.Query{Email: anIdentity(t, s.log.Shard(1), "@")}},
				}
				const bad = 30
				s.start().run() // and learn where each shard begins
				s.settle(rekorPoll)
				s.config = func(c *mirror.ServiceConfig) { c.Watch = watches }
				s.log.Misbehave(c.fault(s, bad))
				s.reopen().run()
				s.settle(5 * time.Minute)
				all := s.matching(0, watches...)
				if c.lacks {
					s.wantWatched(slices.DeleteFunc(slices.Clone(all), func(i uint64) bool { return i == bad }))
				}
				for i := range 2 {
					if f := s.mirrorOf(i).Freshness(); f.Source != mirror.SourceLive {
						t.Errorf("freshness of shard %d: %+v", i, f)
					}
				}
				if !s.says("watched entries could not all be pinned") {
					t.Error("the daemon's log does not say so")
				}
				s.log.Misbehave()
				s.settle(2 * time.Minute)
				s.wantWatched(all)
				s.close()
			})
		})
	}
}

// TestRekorWatchPastQuarantine: the entries of a good shard are found beside those of a bad one.
func TestRekorWatchPastQuarantine(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := bigRekorStage(t)
		key := publicKeyOf(t, s.log.Shard(0).Body(7))
		w := mirror.Watch{Query: &rekor.Query{Format: "x509", PublicKey: key}}
		shards := map[bool]int{}
		for _, at := range s.matching(0, w) {
			shards[at < 150]++
		}
		if len(slices.Collect(maps.Keys(shards))) != 2 {
			t.Fatalf("the key is not in both shards: %v", shards)
		}
		s.start().run()
		s.settle(rekorPoll)
		s.log.Misbehave(synthetic.AnsweredBy(s.log.Fork(1, 0)))
		s.settle(2 * rekorPoll)
		s.wantEvidence(1)
		s.log.Misbehave()
		s.config = func(c *mirror.ServiceConfig) { c.Watch = []mirror.Watch{w} }
		s.reopen().run()
		s.settle(3 * rekorPoll)
		s.wantWatched(slices.DeleteFunc(s.matching(0, w), func(i uint64) bool { return i >= 150 }))
		s.close()
	})
}
