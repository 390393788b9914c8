package mirror_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// listsToo adds a shard to log info that nobody signed; active says where.
func listsToo(treeID string, active bool) synthetic.Fault {
	return synthetic.On(synthetic.LogInfo, func(_ synthetic.Request, a *synthetic.Answer) {
		var info map[string]any
		if err := json.Unmarshal(a.Body, &info); err != nil {
			panic(err)
		}
		inactive, _ := info["inactiveShards"].([]any)
		bogus := map[string]any{"treeID": treeID, "treeSize": 1, "rootHash": "00", "signedTreeHead": "nobody signed this"}
		if active {
			last := map[string]any{"treeID": info["treeID"], "treeSize": info["treeSize"], "rootHash": info["rootHash"], "signedTreeHead": info["signedTreeHead"]}
			inactive, info = append(inactive, last), bogus
		} else {
			inactive = append(inactive, bogus)
		}
		info["inactiveShards"] = inactive
		a.Body, _ = json.Marshal(info)
	})
}

// TestRekorListedByNobody: a shard that is listed once, and that no key signed, does not take
// the state of the others away when upstream is gone.
func TestRekorListedByNobody(t *testing.T) {
	for _, active := range []bool{false, true} {
		t.Run(fmt.Sprint(active), func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				s.wantShards()
				s.log.Misbehave(listsToo("77", active))
				s.settle(2 * rekorPoll)
				s.log.Misbehave()
				s.away()
				s.wantShards()
				s.reopen()
				s.wantShards()
				s.close()
			})
		})
	}
}

// TestRekorNewShardIsNotDenied: between a roll-over and the next poll, nothing is said about
// the new shard that upstream has not said.
func TestRekorNewShardIsNotDenied(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.config = func(c *mirror.ServiceConfig) { c.Poll = 5 * time.Minute }
		s.start().run()
		s.settle(rekorPoll)
		sh := s.log.RollOver(nil)
		sh.Grow(3, synthetic.HashedRekordV1(3))
		_, _, err := s.service.Entry(t.Context(), "client", byUUID(t, sh.UUID(1)))
		if r, ok := errors.AsType[*mirror.Refusal](err); ok && r.Kind == mirror.NotFound {
			t.Errorf("an entry that upstream has: %v", err)
		}
		if _, err = s.service.PublicKey(t.Context(), sh.TreeID); err != nil {
			wantRefusal(t, err, mirror.Unavailable, mirror.ReasonShardsUnknown)
		}
		if _, _, err = s.service.Consistency(t.Context(), "client", sh.TreeID, 1, 2); err != nil {
			wantRefusal(t, err, mirror.Unavailable, mirror.ReasonShardsUnknown)
		}
		s.close()
	})
}

// TestRekorPollOutOfTurn: a checkpoint that a client's question brought, while a poll was under
// way, makes the poll's own neither a rollback nor the shard unreachable.
func TestRekorPollOutOfTurn(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		var once sync.Once
		late := make(chan struct{}) // closed when the poll has its answer
		s.log.Misbehave(synthetic.On(synthetic.LogInfo, func(q synthetic.Request, a *synthetic.Answer) {
			once.Do(func() { // the poll's answer is on its way; meanwhile somebody asks
				honest := *a
				a.Serve = func(w http.ResponseWriter, r *http.Request) {
					s.log.Active().Grow(5, synthetic.HashedRekordV1(2))
					size := s.log.Active().Size()
					if _, _, err := s.service.Consistency(t.Context(), "client", 0, 21, size); err != nil {
						t.Errorf("out of turn: %v", err)
					}
					w.WriteHeader(honest.Status)
					w.Write(honest.Body)
					close(late)
				}
			})
		}))
		<-late
		s.settle(time.Second)
		s.log.Misbehave()
		if f := s.mirrorOf(1).Freshness(); f.Source != mirror.SourceLive {
			t.Errorf("freshness %+v, problem %+v", f, s.mirrorOf(1).Status().Problem)
		}
		if n := s.problems(mirror.ProblemRollback); n != 0 {
			t.Errorf("%v rollbacks are counted of an honest log", n)
		}
		s.close()
	})
}

// TestRekorRetryAfter: what upstream asks one miss to wait, the next ones wait too.
func TestRekorRetryAfter(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.log.Misbehave(synthetic.On(synthetic.RetrieveEntry, synthetic.Throttle(time.Hour)))
		s.log.Forget()
		for i := range uint64(20) {
			_, _, err := s.service.Entry(t.Context(), "client", byIndex(i))
			if err == nil {
				t.Fatal("answered")
			}
			s.settle(time.Second)
		}
		if n := len(s.log.Requests(synthetic.RetrieveEntry)); n > 1 {
			t.Errorf("%d requests within 20 s of an upstream that asked to wait for an hour", n)
		}
		s.close()
	})
}

// TestRekorProofBudget: proofs that clients ask for leave the polls their part of the budget.
func TestRekorProofBudget(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Active().Grow(5000, synthetic.Tiny(3))
		s.start().run()
		s.settle(rekorPoll)
		s.log.Forget()
		var wg sync.WaitGroup
		end := time.Now().Add(5 * time.Minute)
		for range 20 {
			wg.Go(func() {
				for time.Now().Before(end) {
					_, _, _ = s.service.Consistency(t.Context(), "client", 0, 2, 4096)
					time.Sleep(50 * time.Millisecond)
				}
			})
		}
		wg.Wait()
		polls := s.log.Requests(synthetic.LogInfo)
		var longest time.Duration
		for i := 1; i < len(polls); i++ {
			longest = max(longest, polls[i].At.Sub(polls[i-1].At))
		}
		if n := len(polls); longest > 13*time.Second {
			t.Errorf("%d polls in 5 minutes, up to %v apart", n, longest)
		}
		s.close()
	})
}

// TestRekorPinAge: an answer with an old checkpoint says how old it is.
func TestRekorPinAge(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.get(byIndex(40), 40)
		for range 10 {
			s.log.Active().Grow(1, synthetic.HashedRekordV1(2))
			s.settle(time.Hour)
		}
		item, fresh, err := s.service.Entry(t.Context(), "client", byIndex(40))
		check(t, err)
		if item.Entry.Proof.TreeSize == 21 && fresh.CheckpointAge < 9*time.Hour {
			t.Errorf("a checkpoint of ten hours ago is said to be %v old", fresh.CheckpointAge)
		}
		s.close()
	})
}

// TestRekorStaleFirstContact: an old answer at the first contact does not spoil the service for
// good.
func TestRekorStaleFirstContact(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.log.Misbehave(synthetic.On(synthetic.LogInfo, synthetic.AnsweredBy(s.log.Rollback(0, 30))))
		s.start().run()
		s.settle(2 * rekorPoll)
		s.log.Misbehave()
		s.settle(time.Hour)
		s.get(byIndex(40), 40)
		s.close()
	})
}

// TestRekorSearchAll: what is asked for with all of several keys is found also if one of them
// has very many entries.
func TestRekorSearchAll(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		l := synthetic.NewRekorV1(rekorHost)
		one := synthetic.HashedRekordV1(1)
		for i := range uint64(10_002) { // all of one key
			l.Active().Add(one(64 * i))
		}
		at, last, pem := uint64(10_001), one(64*10_001), publicKeyOf(t, one(0))
		s := emptyRekorStage(t, l)
		s.config = func(c *mirror.ServiceConfig) { c.Coverage, c.RequestsPerSecond = mirror.CoverageFull, 10_000 }
		s.start().run()
		s.settle(2 * time.Minute)
		s.log.Refuse(true)
		s.settle(time.Minute)
		digest := identityOf(t, last, "sha256:")
		found, _, err := s.service.Search(t.Context(), "client", rekor.Query{Hash: digest, Format: "x509", PublicKey: pem, Operator: "and"})
		check(t, err)
		if len(found.Hits) != 1 || found.Hits[0].Index != at {
			t.Errorf("%d hits (%d held)", len(found.Hits), s.copied(0))
		}
		s.close()
	})
}
