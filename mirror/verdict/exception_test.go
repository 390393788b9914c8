package verdict

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/authority"
)

// bad is a request whose bundle does not verify: of somebody who is not who is expected.
func (s *stage) bad(artifact string) Request {
	return s.request([]byte(artifact), s.bundle(s.t, []byte(artifact), making{identity: "stranger@example.com"}))
}

// except makes an exception active.
func (s *stage) except(policy string, length time.Duration) Exception {
	s.t.Helper()
	x, err := s.v.Request(policy, s.clock.Now().Add(length), "T-1", "alice", "an outage")
	must(s.t, err)
	x, err = s.v.Approve(x.ID, "bob")
	must(s.t, err)
	return x
}

func (s *stage) wantRefused(err error, code string) {
	s.t.Helper()
	if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Code != code {
		s.t.Errorf("got %v, want %s", err, code)
	}
}

func TestExceptionNeedsTwoPeopleATicketAndAnEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		now := s.clock.Now()
		request := func(until time.Time, ticket, by string) error {
			_, err := s.v.Request("any", until, ticket, by, "")
			return err
		}
		s.wantRefused(request(now.Add(time.Hour), " ", "alice"), RefusedTicket)
		s.wantRefused(request(now.Add(time.Hour), "T-1", "\t"), RefusedPerson)
		s.wantRefused(request(now, "T-1", "alice"), RefusedEnd)
		s.wantRefused(request(now.Add(24*time.Hour+1), "T-1", "alice"), RefusedEnd)
		s.wantRefused(request(time.Time{}, "T-1", "alice"), RefusedEnd)
		_, err := s.v.Request("no such policy", now.Add(time.Hour), "T-1", "alice", "")
		s.wantRefused(err, RefusedPolicy)
		if rows := s.rows(kindException); len(rows) != 0 {
			t.Errorf("%d rows of what was refused", len(rows))
		}

		x, err := s.v.Request("", now.Add(time.Hour), "T-1", "alice", "an outage\nof theirs")
		must(t, err)
		if x.Policy != DefaultPolicy || x.State != ExceptionPending {
			t.Errorf("%+v", x)
		}
		r := s.bad("a")
		if d := s.verify(r); d.Allow || d.Mode != ModeEnforce {
			t.Errorf("pending, and allowed: %+v", d)
		}
		for _, self := range []string{"alice", " alice ", "ALICE"} {
			_, err = s.v.Approve(x.ID, self)
			s.wantRefused(err, RefusedSelf)
		}
		_, err = s.v.Approve("x-nothing", "bob")
		s.wantRefused(err, RefusedUnknown)
		_, err = s.v.Approve(x.ID, "")
		s.wantRefused(err, RefusedPerson)
		if d := s.verify(r); d.Allow {
			t.Errorf("nobody approved, and it is allowed: %+v", d)
		}
		_, err = s.v.Approve(x.ID, "bob")
		must(t, err)
		_, err = s.v.Approve(x.ID, "carol")
		s.wantRefused(err, RefusedState)
		d := s.verify(r)
		if !d.Allow || d.Mode != ModeAudit || d.Exception != x.ID || d.RestsOn != "" || !d.has(CodeAuditWouldDeny) || !d.has(CodeIdentityMismatch) || d.Seq == 0 {
			t.Errorf("%+v", d)
		}
		good := s.verify(s.request([]byte("b"), s.bundle(t, []byte("b"), making{})))
		if !good.Allow || good.Exception != "" || !good.has(CodeOK) || good.RestsOn != PublicLive {
			t.Errorf("%+v", good)
		}

		second, err := s.v.Request("", now.Add(time.Hour), "T-2", "alice", "")
		must(t, err)
		_, err = s.v.Approve(second.ID, "bob")
		s.wantRefused(err, RefusedActive)
		_, err = s.v.Revoke(x.ID, "bob", "")
		s.wantRefused(err, RefusedTicket)
		_, err = s.v.Revoke(x.ID, "bob", "T-3")
		must(t, err)
		if d := s.verify(r); d.Allow {
			t.Errorf("revoked, and allowed: %+v", d)
		}
		_, err = s.v.Approve(second.ID, "bob")
		must(t, err)
		third := func() Exception {
			x, err := s.v.Request("any", now.Add(time.Hour), "T-4", "alice", "")
			must(t, err)
			return x
		}()
		_, err = s.v.Deny(third.ID, "bob")
		must(t, err)
		_, err = s.v.Approve(third.ID, "carol")
		s.wantRefused(err, RefusedState)
		if n, err := s.v.CloseAll("it is over"); n != 1 || err != nil {
			t.Errorf("closed %d, %v", n, err)
		}
		if d := s.verify(r); d.Allow {
			t.Errorf("closed, and allowed: %+v", d)
		}
		for range maxPending {
			must(t, request(now.Add(time.Hour), "T-1", "alice"))
		}
		s.wantRefused(request(now.Add(time.Hour), "T-1", "alice"), RefusedMany)
	})
}

// An exception ends by itself: whatever the wall clock does, across restarts, and without Run.
func TestExceptionEnds(t *testing.T) {
	for name, c := range map[string]struct {
		jump    time.Duration // of the wall clock, after half an hour
		restart bool
		left    time.Duration // how long it holds after that, at most
	}{
		"steady":               {0, false, 30 * time.Minute},
		"set back":             {-10 * time.Hour, false, 30 * time.Minute},
		"set ahead":            {20 * time.Minute, false, 10 * time.Minute},
		"far ahead":            {100 * time.Hour, false, 0},
		"restart":              {0, true, 30 * time.Minute},
		"restart, set back":    {-10 * time.Hour, true, 30 * time.Minute},
		"restart, far ahead":   {100 * time.Hour, true, 0},
		"restart, ahead a bit": {25 * time.Minute, true, 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newStage(t)
				x := s.except("any", time.Hour)
				pending, err := s.v.Request("picky", s.clock.Now().Add(time.Hour), "T-1", "alice", "")
				must(t, err)
				r := s.bad("a")
				r.Policy = "any"
				time.Sleep(30 * time.Minute)
				if d := s.verify(r); !d.Allow { // the row marks the time
					t.Fatalf("too early: %+v", d)
				}
				s.set(func() { s.jump += c.jump })
				if c.restart {
					s.crash()
				}
				if c.left > 0 {
					time.Sleep(c.left - time.Second)
					if d := s.verify(r); !d.Allow || d.Exception != x.ID {
						t.Fatalf("it ended too early: %+v", d)
					}
					time.Sleep(time.Second)
				}
				if d := s.verify(r); d.Allow || d.Mode != ModeEnforce {
					t.Fatalf("it does not end: %+v", d)
				}
				// Whatever happens from here on, it has ended.
				_, err = s.v.Approve(pending.ID, "bob")
				s.wantRefused(err, RefusedExpired)
				_, err = s.v.Revoke(x.ID, "bob", "T-2")
				s.wantRefused(err, RefusedExpired)
				s.set(func() { s.jump -= 200 * time.Hour })
				if d := s.verify(r); d.Allow {
					t.Fatalf("set back, and it holds again: %+v", d)
				}
				ctx, cancel := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() {
					if err := s.v.Run(ctx); err != nil {
						t.Error(err)
					}
				})
				time.Sleep(2 * time.Second)
				cancel()
				running.Wait()
				s.crash()
				if d := s.verify(r); d.Allow {
					t.Fatalf("restarted, and it holds again: %+v", d)
				}
				expired := 0
				for _, row := range s.rows(kindException) {
					var body exceptionRow
					must(t, row.Decode(&body))
					if body.Event == ExceptionExpired {
						expired++
					}
				}
				if expired != 2 {
					t.Errorf("%d rows of what expired", expired)
				}
				for _, e := range s.v.Exceptions() {
					if e.State != ExceptionExpired {
						t.Errorf("%+v", e)
					}
				}
			})
		})
	}
}

// A cap that is lowered holds for what was approved before.
func TestLowerCap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		s.except(DefaultPolicy, 20*time.Hour)
		r := s.bad("a")
		s.config.MaxAudit = time.Hour
		s.crash()
		if d := s.verify(r); !d.Allow {
			t.Fatalf("%+v", d)
		}
		time.Sleep(time.Hour)
		if d := s.verify(r); d.Allow {
			t.Fatalf("it lasts longer than the cap: %+v", d)
		}
	})
}

// High-risk identities and keys, contradictions, and questions that are none never leave enforce.
func TestNeverInAudit(t *testing.T) {
	s := newStage(t)
	k, high := newKey(t), newKey(t)
	s.config.HighRiskKeys = [][]byte{pemOf(t, high.Public())}
	s.config.Policies = append(policies, Policy{Name: "mixed", Identities: []Identity{{SAN: signer, Issuer: authority.Issuer}, {SAN: release, Issuer: authority.Issuer}}, PublicKeys: [][]byte{pemOf(t, k.Public())}},
		Policy{Name: "keys", PublicKeys: [][]byte{pemOf(t, high.Public()), pemOf(t, k.Public())}})
	s.crash()
	for _, p := range s.config.Policies {
		s.except(p.Name, time.Hour)
	}
	s.except(DefaultPolicy, time.Hour)
	artifact := []byte("an artifact")
	identity := func(san, expression string) *Identity {
		return &Identity{SAN: san, SANRegexp: expression, Issuer: authority.Issuer}
	}
	stranger, of := s.bundle(t, artifact, making{identity: "stranger@example.com"}), s.bundle(t, artifact, making{identity: "Bot@Release.Example.com"})
	for name, c := range map[string]struct {
		allow bool
		r     Request
	}{
		"anybody else":                 {true, Request{Bundle: stranger, Identity: identity(signer, "")}},
		"asked for":                    {false, Request{Bundle: stranger, Identity: identity(release, "")}},
		"asked for in another case":    {false, Request{Bundle: stranger, Identity: identity("BOT@release.example.COM", "")}},
		"asked for by an expression":   {false, Request{Bundle: stranger, Identity: identity("", "^bot@")}},
		"claimed":                      {false, Request{Bundle: of, Identity: identity(signer, "")}},
		"in the policy":                {false, Request{Bundle: stranger, Policy: "mixed"}},
		"in the policy, another asked": {true, Request{Bundle: stranger, Policy: "mixed", Identity: identity(signer, "")}},
		"a key":                        {false, Request{Bundle: s.bundle(t, artifact, making{key: newKey(t)}), PublicKey: pemOf(t, high.Public())}},
		"a key in the entry":           {false, Request{Bundle: s.bundle(t, artifact, making{key: high}), PublicKey: pemOf(t, k.Public())}},
		"a key in the policy":          {false, Request{Bundle: s.bundle(t, artifact, making{key: newKey(t)}), Policy: "keys"}},
		"a key of somebody":            {true, Request{Bundle: s.bundle(t, artifact, making{key: newKey(t)}), PublicKey: pemOf(t, k.Public())}},
		"a key of nobody":              {false, Request{Bundle: s.bundle(t, artifact, making{key: newKey(t)}), Identity: identity(signer, "")}},
		"no bundle":                    {false, Request{Bundle: []byte("{}"), Identity: identity(signer, "")}},
		"nobody asked":                 {false, Request{Bundle: stranger}},
		"no policy":                    {false, Request{Bundle: stranger, Policy: "none", Identity: identity(signer, "")}},
		"half an identity":             {false, Request{Bundle: stranger, Identity: &Identity{SAN: signer}}},
	} {
		t.Run(name, func(t *testing.T) {
			sum := sha256.Sum256(artifact)
			c.r.Algorithm, c.r.Digest = "sha256", sum[:]
			if d := s.verify(c.r); d.Allow != c.allow || c.allow != (d.Mode == ModeAudit) || c.allow != (d.Exception != "") {
				t.Errorf("%+v", d)
			}
		})
	}
	r := s.request(artifact, s.bundle(t, artifact, making{}))
	s.set(func() { s.held = func(string, uint64, storage.Hash, uint64) Held { return Held{Contradicted: true} } })
	if d := s.verify(r); d.Allow || !d.has(CodeMirrorContradicts) {
		t.Errorf("contradicted: %+v", d)
	}
	r.Bundle = stranger
	if d := s.verify(r); d.Allow || !d.has(CodeMirrorContradicts) {
		t.Errorf("contradicted, and it does not verify: %+v", d)
	}
}

// After a crash behind any row, exceptions are what the rows say.
func TestExceptionsAfterEachRow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		var ids []string
		steps := []func(){
			func() {
				x, err := s.v.Request("any", s.clock.Now().Add(time.Hour), "T-1", "alice", "r")
				must(t, err)
				ids = append(ids, x.ID)
			},
			func() { _, err := s.v.Approve(ids[0], "bob"); must(t, err) },
			func() { s.set(func() { s.state = outage.Fallback }); s.verify(s.bad("a")) },
			func() {
				r := s.bad("b")
				r.Policy = "any"
				if d := s.verify(r); !d.Allow {
					t.Fatal("not in audit")
				}
			},
			func() { _, err := s.v.Revoke(ids[0], "carol", "T-2"); must(t, err) },
			func() {
				r := s.bad("b")
				r.Policy = "any"
				if d := s.verify(r); d.Allow {
					t.Fatal("revoked, and allowed")
				}
			},
			func() {
				_, err := s.v.AddRollback(t.Context(), "last good", s.request([]byte("c"), s.bundle(t, []byte("c"), making{})), "alice", "T-3")
				must(t, err)
			},
			func() { must(t, s.v.RemoveRollback("last good", "alice", "T-4")) },
		}
		for i, step := range steps {
			step()
			before, pins := s.v.Exceptions(), s.v.Rollbacks()
			if size, _ := s.ledger.Head(); size != uint64(i+1) {
				t.Fatalf("step %d: %d rows", i, size)
			}
			s.crash()
			a, _ := json.Marshal([]any{before, pins})
			b, _ := json.Marshal([]any{s.v.Exceptions(), s.v.Rollbacks()})
			if string(a) != string(b) {
				t.Fatalf("step %d: before %s, after a restart %s", i, a, b)
			}
		}
	})
}

// No decision stands under an exception behind the row that ends it.
func TestRevokeWhileVerifying(t *testing.T) {
	s := newStage(t)
	r := s.bad("a")
	var verifiers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		verifiers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					if _, err := s.v.Verify(t.Context(), r); err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	for range 10 {
		x := s.except(DefaultPolicy, time.Hour)
		time.Sleep(5 * time.Millisecond)
		_, err := s.v.Revoke(x.ID, "bob", "T-9")
		must(t, err)
	}
	close(stop)
	verifiers.Wait()
	active, under := "", 0
	must(t, s.ledger.Rows(1, func(row ledger.Row) error {
		switch row.Kind {
		case kindException:
			var x exceptionRow
			must(t, row.Decode(&x))
			if active = ""; x.Event == "approved" {
				active = x.ID
			}
		case kindDecision:
			var d decision
			must(t, row.Decode(&d))
			under++
			if d.Exception != active {
				return fmt.Errorf("row %d is under the exception %q, and %q is active", row.Seq, d.Exception, active)
			}
		}
		return nil
	}))
	if under == 0 {
		t.Error("no decision was under an exception")
	}
}
