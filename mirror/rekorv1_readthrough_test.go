package mirror_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// anyEntry are the ways to an entry.
const anyEntry = synthetic.EntryByIndex | synthetic.EntryByUUID | synthetic.RetrieveEntry

// slow lets an answer take a while.
func slow(l *synthetic.RekorV1, d time.Duration) synthetic.Fault {
	return func(_ synthetic.Request, a *synthetic.Answer) {
		honest := *a
		a.Serve = func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-time.After(d):
			case <-r.Context().Done():
				return
			}
			for name, values := range honest.Header {
				w.Header()[name] = values
			}
			w.WriteHeader(honest.Status)
			w.Write(honest.Body)
		}
	}
}

func TestRekorReadThrough(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		s.start().run()
		s.settle(rekorPoll)
		s.log.Forget()
		for range 3 {
			for i, ref := range map[uint64]mirror.EntryRef{
				0: byIndex(0), 36: byIndex(36), 37: byIndex(37), 57: byIndex(57), 41: byIndex(41),
				5: byUUID(t, s.log.Shard(0).UUID(5)), 6: byUUID(t, s.log.Shard(0).UUID(6)[16:]),
				40: byUUID(t, s.log.Shard(1).UUID(3)), 42: byUUID(t, s.log.Shard(1).UUID(5)[16:]),
			} {
				s.get(ref, i)
			}
		}
		if n := len(s.log.Requests(anyEntry)); n != 9 {
			t.Errorf("%d requests for 9 entries", n)
		}
		if n := len(s.log.Requests(synthetic.LogProof)); n != 0 {
			t.Errorf("%d proofs were asked for while nothing grew", n)
		}
		// What is logged after the last poll is found, and tied to the archived checkpoint.
		s.log.Active().Grow(5, synthetic.HashedRekordV1(2))
		for i := range uint64(5) {
			s.get(byIndex(58+i), 58+i)
		}
		if n := len(s.log.Requests(synthetic.LogProof)); n != 1 {
			t.Errorf("%d proofs were asked for one tie", n)
		}
		// In the order asked, with what is unknown left out, each from where it is.
		absent := mirror.EntryRef{UUID: byUUID(t, s.log.Shard(0).UUID(5)).UUID}
		other := *absent.UUID
		other.LeafHash[0] ^= 1
		absent.UUID = &other
		nowhere := *absent.UUID
		nowhere.TreeID = 99
		items, _, err := s.service.Entries(t.Context(), "client", []mirror.EntryRef{byIndex(30), byIndex(9999), byIndex(0), absent, {UUID: &nowhere}, byUUID(t, s.log.Shard(1).UUID(9)), byIndex(30)})
		check(t, err)
		want := []uint64{30, 0, 46, 30}
		if len(items) != len(want) {
			t.Fatalf("%d items, want %d", len(items), len(want))
		}
		for i, item := range items {
			s.wantItem(item, want[i])
		}
		s.refused(byIndex(9999), mirror.NotFound, mirror.ReasonNotFound)
		s.refused(absent, mirror.NotFound, mirror.ReasonNotFound)
		s.refused(mirror.EntryRef{UUID: &nowhere}, mirror.NotFound, mirror.ReasonNotFound)
		_, _, err = s.service.Entries(t.Context(), "client", make([]mirror.EntryRef, 11))
		wantRefusal(t, err, mirror.Invalid, mirror.ReasonInvalidRequest)

		// Everything that was read is there without upstream, and after a restart.
		s.log.Refuse(true)
		s.reopen().run()
		for _, i := range []uint64{0, 5, 6, 30, 36, 37, 40, 41, 42, 46, 57, 58, 62} {
			s.get(byIndex(i), i)
		}
		s.get(byUUID(t, s.log.Shard(1).UUID(3)[16:]), 40)
		s.close()
	})
}

// TestRekorAttestation: what is stored beside an entry is kept with it if the entry signs it.
func TestRekorAttestation(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		attestation := []byte(`{"subject":[]}`)
		body := fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"payloadHash":{"algorithm":"sha256","value":"%x"}}}}`, sha256.Sum256(attestation))
		other := fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"payloadHash":{"algorithm":"sha256","value":"%x"}}}}`, sha256.Sum256([]byte("another")))
		message := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"cose","spec":{"data":{"envelopeHash":{"algorithm":"sha256","value":"%x"}}}}`, sha256.Sum256(attestation))
		signed, cose, wrong := s.log.Add(body), s.log.Add(message), s.log.Add(other)
		for _, at := range []uint64{signed, cose, wrong, 40} {
			s.log.Shard(1).Attest(at-37, attestation)
		}
		s.start().run()
		s.settle(rekorPoll)
		for range 2 {
			for _, at := range []uint64{signed, cose} {
				if item := s.get(byIndex(at), at); !bytes.Equal(item.Entry.Attestation, attestation) {
					t.Errorf("attestation of %d is %q", at, item.Entry.Attestation)
				}
			}
			s.refused(byIndex(wrong), mirror.Unavailable, mirror.ReasonUpstreamRefused)
			if item := s.get(byIndex(40), 40); item.Entry.Attestation != nil {
				t.Errorf("attestation %q, which nothing signs", item.Entry.Attestation)
			}
			s.reopen().run()
			s.settle(rekorPoll)
		}
		s.close()
	})
}

// TestRekorUnknownIsNotAbsent is law 5: what cannot be asked for is never "not found".
func TestRekorUnknownIsNotAbsent(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start()
		absent := byUUID(t, fmt.Sprintf("%064x", 1))
		ask := func(when string) {
			t.Helper()
			for _, ref := range []mirror.EntryRef{
				byIndex(0), byIndex(50), byIndex(9999), absent, byUUID(t, fmt.Sprintf("%016x%064x", 5, 1)),
				byUUID(t, s.log.Shard(0).UUID(1)), byUUID(t, s.log.Shard(1).UUID(1)), byUUID(t, s.log.Shard(1).UUID(1)[16:]),
			} {
				before := time.Now()
				s.refused(ref, mirror.Unavailable, mirror.ReasonNotPinned)
				// Together with one that is held: as a whole.
				if _, _, err := s.service.Entries(t.Context(), "client", []mirror.EntryRef{byIndex(7), ref}); err == nil {
					t.Fatalf("%s: %v is left out", when, ref)
				} else {
					wantRefusal(t, err, mirror.Unavailable, mirror.ReasonNotPinned)
				}
				if d := time.Since(before); d > 0 {
					t.Errorf("%s: the refusal of %v took %v", when, ref, d)
				}
			}
		}
		ask("before anything")
		s.log.Refuse(true)
		s.run()
		s.settle(time.Minute)
		ask("never connected")
		s.log.Refuse(false)
		s.settle(time.Minute)
		s.get(byIndex(7), 7)
		s.away()
		ask("away")
		s.get(byIndex(7), 7)
		s.reopen()
		ask("after a restart")
		s.get(byIndex(7), 7)
		s.run()
		s.settle(time.Minute)
		ask("and while it tries")
		s.back()
		s.refused(absent, mirror.NotFound, mirror.ReasonNotFound)
		s.refused(byIndex(9999), mirror.NotFound, mirror.ReasonNotFound)

		// The first failure to connect ends it; until that is met, nothing is said either.
		s.log.Refuse(true)
		s.refused(absent, mirror.Unavailable, mirror.ReasonUpstreamUnreachable)
		ask("at once")
		s.log.Refuse(false)
		s.close()
	})
}

// TestRekorDuplicateLeaf: an entry that is logged in two shards is answered out of the one that
// is asked for.
func TestRekorDuplicateLeaf(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		at := s.log.Add(s.log.Shard(0).Body(5))
		old, young := s.log.Shard(0).UUID(5), s.log.Active().UUID(at-37)
		s.start().run()
		s.settle(rekorPoll)
		for range 2 {
			s.get(byUUID(t, old), 5)
			s.get(byUUID(t, young), at)
			s.get(byUUID(t, young[16:]), at)
		}
		s.reopen() // offline
		s.get(byUUID(t, old), 5)
		s.get(byUUID(t, young), at)
		s.close()
	})
}

// wrongEntries are answers that must be refused: nothing of them is kept.
func TestRekorWrongEntries(t *testing.T) {
	for name, c := range map[string]struct {
		fault  func(s *rekorStage, sh *synthetic.Shard) synthetic.Fault
		reason string
	}{
		"wrong SET":             {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.WrongSET() }, mirror.ProblemEntry},
		"no SET":                {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.NoSET() }, mirror.ProblemEntry},
		"no proof":              {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.NoProof() }, mirror.ProblemEntry},
		"wrong body":            {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.WrongBody() }, mirror.ProblemMalformed},
		"wrong UUID":            {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.WrongUUID() }, mirror.ProblemMalformed},
		"another entry":         {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.Neighbour() }, mirror.ProblemEntry},
		"index one too great":   {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.WrongVirtualIndex(1) }, mirror.ProblemEntry},
		"index one too small":   {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.WrongVirtualIndex(-1) }, mirror.ProblemEntry},
		"proof to another tree": {func(_ *rekorStage, sh *synthetic.Shard) synthetic.Fault { return sh.ForeignProof() }, mirror.ProblemEntry},
		"checkpoint of another shard": {func(s *rekorStage, sh *synthetic.Shard) synthetic.Fault {
			for _, other := range s.log.Shards() {
				if other.TreeID != sh.TreeID {
					return sh.ForeignCheckpoint(other)
				}
			}
			return nil
		}, mirror.ProblemEntry},
		"another key": {func(s *rekorStage, sh *synthetic.Shard) synthetic.Fault {
			i := slices.IndexFunc(s.log.Shards(), func(x *synthetic.Shard) bool { return x.TreeID == sh.TreeID })
			return sh.On(synthetic.AnsweredBy(s.log.Rekey(i, synthetic.RekorKey(rekorHost, 9))))
		}, mirror.ProblemEntry},
		"the other shard's key": {func(s *rekorStage, sh *synthetic.Shard) synthetic.Fault {
			i := slices.IndexFunc(s.log.Shards(), func(x *synthetic.Shard) bool { return x.TreeID == sh.TreeID })
			return sh.On(synthetic.AnsweredBy(s.log.Rekey(i, s.log.Shard(1-i).Key)))
		}, mirror.ProblemEntry},
	} {
		for shard := range 2 {
			t.Run(fmt.Sprintf("%s of %d", name, shard), func(t *testing.T) {
				bubble.Run(t, func(t *testing.T) {
					s := newRekorStage(t)
					s.start().run()
					s.settle(rekorPoll)
					sh, start, other := s.log.Shard(shard), s.log.Start(shard), s.log.Start(1-shard)
					s.log.Misbehave(synthetic.On(anyEntry, c.fault(s, sh)))
					for i, ref := range []mirror.EntryRef{byIndex(start + 4), byUUID(t, sh.UUID(5)), byUUID(t, sh.UUID(6)[16:])} {
						r := s.refused(ref, mirror.Unavailable, mirror.ReasonUpstreamRefused)
						if r.After <= 0 || r.Err == nil {
							t.Errorf("refusal without a time or a cause: %+v", r)
						}
						if n := s.problems(c.reason); n != float64(i+1) {
							t.Errorf("%v problems of reason %s are counted, want %d", n, c.reason, i+1)
						}
					}
					if _, _, err := s.service.Entries(t.Context(), "client", []mirror.EntryRef{byIndex(other + 1), byIndex(start + 4)}); err == nil {
						t.Error("a refused entry is left out")
					}
					s.get(byIndex(other+3), other+3)
					if n, _ := s.pins(shard); n != 0 {
						t.Errorf("%d pins", n)
					}
					s.wantNoEvidence()
					s.settle(2 * rekorPoll)
					for i := range 2 {
						if p := s.mirrorOf(i).Status().Problem; p != nil || s.mirrorOf(i).Freshness().Source != mirror.SourceLive {
							t.Errorf("the reading of an entry is a problem of shard %d: %+v", i, p)
						}
					}
					s.log.Misbehave()
					s.get(byIndex(start+4), start+4)
					s.close()
				})
			})
		}
	}
}

// TestRekorBadAnswers: whatever the network does to an answer, that is not "not found", nor is
// the log unreachable because somebody asked for an entry.
func TestRekorBadAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		fault  synthetic.Fault
		reason string
		after  time.Duration
	}{
		"HTML":           {synthetic.HTML(), mirror.ReasonUpstreamRefused, 0},
		"truncated":      {synthetic.Truncate(), mirror.ReasonUpstreamRefused, 0},
		"null":           {synthetic.Body([]byte("null")), mirror.ReasonUpstreamRefused, 0},
		"nothing":        {synthetic.Body(nil), mirror.ReasonUpstreamRefused, 0},
		"no list":        {synthetic.Body([]byte("{}")), mirror.ReasonUpstreamRefused, 0},
		"an empty list":  {synthetic.Body([]byte("[]")), mirror.ReasonUpstreamRefused, 0},
		"a gigabyte":     {synthetic.Endless(), mirror.ReasonUpstreamRefused, 0},
		"a bomb":         {synthetic.Bomb(), mirror.ReasonUpstreamRefused, 0},
		"wrong encoding": {synthetic.WrongEncoding(), mirror.ReasonUpstreamRefused, 0},
		"cut off":        {synthetic.CutOff(), mirror.ReasonUpstreamUnreachable, 0},
		"reset":          {synthetic.Reset(), mirror.ReasonUpstreamUnreachable, 0},
		"hangs":          {synthetic.Hang(), mirror.ReasonUpstreamUnreachable, 0},
		"drips":          {synthetic.Drip(time.Second), mirror.ReasonUpstreamUnreachable, 0},
		"404":            {synthetic.Status(404), mirror.ReasonUpstreamUnreachable, 0},
		"400":            {synthetic.Status(400), mirror.ReasonUpstreamUnreachable, 0},
		"500":            {synthetic.Status(500), mirror.ReasonUpstreamUnreachable, 0},
		"429":            {synthetic.Throttle(7 * time.Second), mirror.ReasonUpstreamUnreachable, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t).start().run()
				s.settle(rekorPoll)
				s.log.Misbehave(synthetic.On(anyEntry, c.fault))
				before := time.Now()
				if r := s.refused(byIndex(40), mirror.Unavailable, c.reason); r.After < max(c.after, time.Second) || c.after > 0 && r.After != c.after {
					t.Errorf("to be asked again after %v", r.After)
				}
				if d := time.Since(before); d > 31*time.Second {
					t.Errorf("the refusal took %v", d)
				}
				if f := s.service.Freshness(); f.Source != mirror.SourceLive {
					t.Errorf("freshness %+v", f)
				}
				if n, _ := s.pins(1); n != 0 {
					t.Errorf("%d pins", n)
				}
				s.log.Misbehave()
				s.settle(c.after) // nobody asks before
				s.get(byIndex(40), 40)
				s.close()
			})
		})
	}
}

// TestRekorSharedFlight: an entry is fetched once, whoever asks for it meanwhile, and for whoever still waits.
func TestRekorSharedFlight(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		s.log.Forget()
		s.log.Misbehave(synthetic.On(anyEntry, slow(s.log, 3*time.Second)))
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				item, _, err := s.service.Entry(t.Context(), mirror.Client(fmt.Sprint(i)), byIndex(40))
				if err != nil || s.verify(item, 40) != nil {
					t.Errorf("client %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if n := len(s.log.Requests(anyEntry)); n != 1 {
			t.Errorf("%d requests for one entry", n)
		}

		// Who asked first goes away; who waits for it gets it all the same.
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if _, _, err := s.service.Entry(ctx, "impatient", byIndex(41)); err != context.Canceled {
				t.Errorf("error of who went away: %v", err)
			}
		})
		synctest.Wait()
		wg.Go(func() { s.get(byIndex(41), 41) })
		time.Sleep(time.Second)
		cancel()
		wg.Wait()
		if n := len(s.log.Requests(anyEntry)); n != 2 {
			t.Errorf("%d requests for two entries", n)
		}
		// It is kept also if nobody waits.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		_, _, err := s.service.Entry(ctx, "impatient", byIndex(42))
		cancel()
		if err == nil {
			t.Error("an answer before it came")
		}
		s.settle(3 * time.Second)
		s.log.Refuse(true)
		s.get(byIndex(42), 42)

		// At the end nothing is under way: what comes after that is refused.
		s.log.Refuse(false)
		s.log.Misbehave(synthetic.On(anyEntry, synthetic.Hang()))
		wg.Go(func() { s.refused(byIndex(43), mirror.Unavailable, mirror.ReasonUpstreamUnreachable) })
		synctest.Wait()
		s.reopen()
		wg.Wait()
		s.refused(byIndex(44), mirror.Unavailable, mirror.ReasonNotPinned)
		s.close()
	})
}

// TestRekorPinsAreTied: every pin leads to an archived checkpoint by stored hashes.
func TestRekorPinsAreTied(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		s.settle(rekorPoll)
		for i := range uint64(20) {
			s.log.Active().Grow(3+i, synthetic.HashedRekordV1(2))
			s.get(byIndex(37+i), 37+i)
			s.settle(rekorPoll + time.Second)
		}
		v := s.mirrorOf(1).Tree().View()
		pending := v.State().Pending.Size
		check(t, v.Pins(0, func(p storage.Pin, _ int) error {
			if p.Anchor == (storage.Head{}) {
				t.Errorf("pin %d is not anchored", p.Index)
			}
			if _, c, err := v.PinProof(&p, p.Anchor.Size); err != nil || c.Size != p.Anchor.Size {
				t.Errorf("pin %d is not proven to size %d: %v", p.Index, p.Anchor.Size, err)
			}
			return nil
		}))
		v.Close()
		if pending != s.log.Active().Size() {
			t.Errorf("size %d", pending)
		}
		s.close()
	})
}
