package e2elog

import (
	"sync"
	"testing"
)

// TestCosignAlways: cosign logs in the public log and in ours each time, and the bundle is verified by who
// trusts either, with two logs demanded by who trusts both; an outage of ours is one of signing then.
func TestCosignAlways(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	theirs := newTiles(t)
	base := public(t, true, theirs)
	m := base.export(t, "always", s, 2)
	for _, who := range signers {
		u := newUser(t)
		who.prepare(u)
		if err := u.sign(m, "bundle", who); err != nil {
			t.Fatalf("%s: %v", who.name, err)
		}
		if err := u.attest(m, "attestation", who); err != nil {
			t.Fatalf("%s: %v", who.name, err)
		}
		for _, name := range []string{"bundle", "attestation"} {
			u.loggedIn(name, theirs.log(t, 2).ID, s.log(t, 2).ID)
		}
		fallback := public(t, true).export(t, "fallback", s, 2)
		for trust, trusted := range map[string]string{"both": m.trustedRoot, "the public log": base.trustedRoot, "ours": fallback.trustedRoot} {
			if err := u.verify(trusted, "bundle", "artifact", who.verify); err != nil {
				t.Errorf("%s, who trusts %s: %v", who.name, trust, err)
			}
			if err := u.verifyAttestation(trusted, "attestation", "artifact", who.verify); err != nil {
				t.Errorf("%s, who trusts %s: %v", who.name, trust, err)
			}
		}
		u.fails("who trusts neither", u.verify(public(t, true).trustedRoot, "bundle", "artifact", who.verify), notTrusted)
	}
}

// TestCosignAlwaysV1: the same with two logs of version 1, whose times are enough.
func TestCosignAlwaysV1(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	s, theirs := newStage(t), newUnderstudy(t, settings{without: 2}).stage()
	m := public(t, false, theirs).export(t, "always", s, 1)
	for _, who := range signers {
		u := newUser(t)
		who.prepare(u)
		if err := u.sign(m, "bundle", who); err != nil {
			t.Fatalf("%s: %v", who.name, err)
		}
		u.loggedIn("bundle", theirs.log(t, 1).ID, s.log(t, 1).ID)
		if err := u.verify(m.trustedRoot, "bundle", "artifact", who.verify); err != nil {
			t.Errorf("%s: %v", who.name, err)
		}
	}
}

// TestOutage: the public log dies while pipelines sign, each step fails as in real outages; with the
// fallback's SigningConfig they go on, and what was signed before, during and after is verified with one
// TrustedRoot by who never asks a log.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	theirs := newTiles(t)
	base := public(t, true, theirs)
	fallback := base.export(t, "fallback", s, 2)
	const pipelines = 3
	users := make([]*user, pipelines)
	for i := range users {
		users[i] = newUser(t)
		for _, who := range signers {
			who.prepare(users[i])
		}
	}
	each := func(step func(u *user, who signer)) {
		var all sync.WaitGroup
		for i, u := range users {
			all.Go(func() { step(u, signers[i%len(signers)]) })
		}
		all.Wait()
	}
	sign := func(phase string, m material, log *stage) {
		each(func(u *user, who signer) {
			if err := u.sign(m, phase, who); err != nil {
				t.Errorf("%s, %s: %v", phase, who.name, err)
				return
			}
			u.loggedIn(phase, log.log(t, 2).ID)
		})
	}
	verified := func(phases ...string) {
		each(func(u *user, who signer) {
			for _, phase := range phases {
				if err := u.verify(fallback.trustedRoot, phase, "artifact", who.verify); err != nil {
					t.Errorf("%s, %s: %v", phase, who.name, err)
				}
			}
		})
	}
	sign("before", base, theirs)
	theirs.kill()
	each(func(u *user, who signer) { u.fails("in the outage", u.sign(base, "outage", who), "502") })
	sign("during", fallback, s)
	verified("before", "during")
	if err := theirs.restart(); err != nil {
		t.Fatal(err)
	}
	sign("after", base, theirs)
	verified("before", "during", "after")
}

// TestChainIsForV1 holds what the comment at signers says of cosign's --certificate-chain.
func TestChainIsForV1(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	u := newUser(t)
	u.keys()
	u.certify("cosign.pub", "certificate.pem")
	u.write("chain.pem", []byte(certificatePEM(ca.Root.Raw)))
	who := signers[1]
	who.sign = append([]string{"--certificate-chain=chain.pem"}, who.sign...)
	m := public(t, false).export(t, "fallback", s, 1)
	if err := u.sign(m, "bundle", who); err != nil {
		t.Fatal(err)
	}
	u.fails("without the flag", u.verify(m.trustedRoot, "bundle", "artifact", who.verify), "")
	if err := u.verify(m.trustedRoot, "bundle", "artifact", append([]string{"--allow-certificate-chain"}, who.verify...)); err != nil {
		t.Error(err)
	}
	u.fails("v2", u.sign(public(t, true).export(t, "fallback", s, 2), "bundle", who), "400")
}
