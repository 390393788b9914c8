package e2elog

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/understudy-log/understudy/test/authority"
)

const (
	email         = "releaser@understudy.test"
	predicateType = "https://understudy.test/e2e"
)

// signer is somebody who signs with cosign.
type signer struct {
	name    string
	prepare func(u *user)
	sign    []string // flags of sign-blob and attest-blob
	verify  []string // flags of verify-blob and verify-blob-attestation
	wrong   []string // flags of somebody else
}

var signers = []signer{
	{
		name:    "key",
		prepare: (*user).keys,
		sign:    []string{"--key=cosign.key"},
		verify:  []string{"--key=cosign.pub"},
		wrong:   []string{"--key=stranger.pub"},
	}, {
		name: "certificate of a private CA",
		prepare: func(u *user) {
			u.keys()
			u.certify("cosign.pub", "certificate.pem")
		},
		// Not --certificate-chain: the bundle would have a chain, which signs in no Rekor v2 and is
		// verified only with --allow-certificate-chain. The TrustedRoot has the CA.
		sign:   []string{"--key=cosign.key", "--certificate=certificate.pem"},
		verify: identified(email),
		wrong:  identified("somebody@else.test"),
	}, {
		name:    "identity token",
		prepare: func(u *user) { u.write("token", []byte(ca.token(email))) },
		sign:    []string{"--identity-token=token"},
		verify:  identified(email),
		wrong:   identified("somebody@else.test"),
	},
}

// identified are the flags for a certificate, which is in the log of no certificate transparency.
func identified(who string) []string {
	return []string{"--certificate-identity=" + who, "--certificate-oidc-issuer=" + authority.Issuer, "--insecure-ignore-sct"}
}

// certify has the private CA certify a public key.
func (u *user) certify(key, certificate string) {
	u.Helper()
	block, _ := pem.Decode(must(os.ReadFile(u.file(key))))
	parsed := must(cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block)))
	u.write(certificate, []byte(certificatePEM(must(ca.Issue(parsed, email)))))
}

// sign has cosign sign the artifact, by what it is told of logs and authorities.
func (u *user) sign(m material, bundle string, who signer) error {
	_, err := u.run("cosign", append([]string{"sign-blob", "--yes", "--bundle=" + bundle,
		"--signing-config=" + m.signingConfig, "--trusted-root=" + m.trustedRoot, "artifact"}, who.sign...)...)
	return err
}

// attest has cosign sign a statement about the artifact.
func (u *user) attest(m material, bundle string, who signer) error {
	u.write("predicate", []byte(`{"made": "by hand"}`))
	_, err := u.run("cosign", append([]string{"attest-blob", "--yes", "--bundle=" + bundle, "--predicate=predicate", "--type=" + predicateType,
		"--signing-config=" + m.signingConfig, "--trusted-root=" + m.trustedRoot, "artifact"}, who.sign...)...)
	return err
}

// verify has cosign verify a bundle with nothing but files.
func (u *user) verify(trustedRoot, bundle, artifact string, flags []string) error {
	_, err := u.run("cosign", append([]string{"verify-blob", "--trusted-root=" + trustedRoot, "--bundle=" + bundle, artifact}, flags...)...)
	return err
}

func (u *user) verifyAttestation(trustedRoot, bundle, artifact string, flags []string) error {
	_, err := u.run("cosign", append([]string{"verify-blob-attestation", "--type=" + predicateType,
		"--trusted-root=" + trustedRoot, "--bundle=" + bundle, artifact}, flags...)...)
	return err
}

// stranger makes what a wrong verification needs: a key that signed nothing, and another artifact.
func (u *user) stranger() {
	u.Helper()
	u.must("cosign", "generate-key-pair", "--output-key-prefix=stranger")
	u.write("tampered", append(must(os.ReadFile(u.file("artifact"))), '!'))
}

// TestCosign: cosign signs in a log of ours, of either generation, by the exported SigningConfig, and
// verifies with the bundle and the exported TrustedRoot alone; what is wrong it finds wrong.
func TestCosign(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	for version := 1; version <= 2; version++ {
		m := public(t, version == 2).export(t, "fallback", s, version)
		// Keyless signatures need a time: of the v1 log, or of the time-stamp authority.
		without := public(t, version == 2).trustedRoot
		for _, who := range signers {
			t.Run(fmt.Sprintf("v%d/%s", version, who.name), func(t *testing.T) {
				t.Parallel()
				u := newUser(t)
				who.prepare(u)
				u.stranger()
				if err := u.sign(m, "bundle", who); err != nil {
					t.Fatal(err)
				}
				u.loggedIn("bundle", s.log(t, version).ID)
				if err := u.verify(m.trustedRoot, "bundle", "artifact", who.verify); err != nil {
					t.Error(err)
				}
				u.fails("tampered artifact", u.verify(m.trustedRoot, "bundle", "tampered", who.verify), "")
				u.fails("wrong signer", u.verify(m.trustedRoot, "bundle", "artifact", who.wrong), "")
				u.fails("trusted root without our log", u.verify(without, "bundle", "artifact", who.verify), notTrusted)

				if err := u.attest(m, "attestation", who); err != nil {
					t.Fatal(err)
				}
				u.loggedIn("attestation", s.log(t, version).ID)
				if err := u.verifyAttestation(m.trustedRoot, "attestation", "artifact", who.verify); err != nil {
					t.Error(err)
				}
				u.fails("attestation, tampered artifact", u.verifyAttestation(m.trustedRoot, "attestation", "tampered", who.verify), "")
				u.fails("attestation, trusted root without our log", u.verifyAttestation(without, "attestation", "artifact", who.verify), notTrusted)
			})
		}
	}
}

// notTrusted is what cosign says of a log that the TrustedRoot has not.
const notTrusted = "not enough verified log entries from transparency log: 0 < 1"

// bundleJSON is of a Sigstore bundle what tests look at.
type bundleJSON struct {
	VerificationMaterial struct {
		TlogEntries []struct {
			LogIndex string
			LogID    struct{ KeyID []byte }

			IntegratedTime    string
			InclusionPromise  *struct{ SignedEntryTimestamp []byte }
			InclusionProof    struct{ Checkpoint struct{ Envelope string } }
			CanonicalizedBody []byte
		}
	}
}

func (u *user) bundle(name string) (b bundleJSON) {
	u.Helper()
	if err := json.Unmarshal(must(os.ReadFile(u.file(name))), &b); err != nil {
		u.Fatal(err)
	}
	return b
}

// loggedIn checks in which logs a bundle was logged.
func (u *user) loggedIn(bundle string, ids ...[]byte) {
	u.Helper()
	want, got := map[string]bool{}, map[string]bool{}
	for _, id := range ids {
		want[string(id)] = true
	}
	entries := u.bundle(bundle).VerificationMaterial.TlogEntries
	for _, entry := range entries {
		if !want[string(entry.LogID.KeyID)] {
			u.Errorf("%s has an entry in the log %x, which is none of %x", bundle, entry.LogID.KeyID, ids)
		}
		got[string(entry.LogID.KeyID)] = true
	}
	if len(entries) != len(ids) || len(got) != len(want) {
		u.Errorf("%s has %d entries, want one in each of %x", bundle, len(entries), ids)
	}
}

// TestCosignOtherLog: a bundle of another log of the same kind is not verified, nor is the proof of
// one log in a bundle of another.
func TestCosignOtherLog(t *testing.T) {
	t.Parallel()
	ours, others := newStage(t), (*stage)(nil)
	versions := []int{1, 2}
	if asked == realServers {
		others, versions = newTiles(t), []int{2}
	} else {
		others = newStage(t)
	}
	for _, version := range versions {
		u := newUser(t)
		u.keys()
		m, other := public(t, false).export(t, "fallback", ours, version), public(t, false).export(t, "fallback", others, version)
		for name, m := range map[string]material{"ours": m, "theirs": other} {
			if err := u.sign(m, name, signers[0]); err != nil {
				t.Fatal(err)
			}
		}
		u.fails("a bundle of another log", u.verify(m.trustedRoot, "theirs", "artifact", signers[0].verify), notTrusted)
		// The ID of our log on the entry of theirs.
		id := func(name string) string {
			return string(must(json.Marshal(u.bundle(name).VerificationMaterial.TlogEntries[0].LogID.KeyID)))
		}
		u.write("claimed", []byte(strings.Replace(string(must(os.ReadFile(u.file("theirs")))), id("theirs"), id("ours"), 1)))
		u.fails("a bundle of another log with the ID of ours", u.verify(m.trustedRoot, "claimed", "artifact", signers[0].verify), "")
	}
}

// TestCosignWithoutTime: with short-lived certificates and neither the v1 log nor a time-stamp authority
// there is no time, and cosign says so before it signs.
func TestCosignWithoutTime(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	u := newUser(t)
	m := public(t, false).export(t, "fallback", s, 2)
	signers[2].prepare(u)
	u.fails("keyless without a time", u.sign(m, "bundle", signers[2]), "a timestamp authority must be provided")
}

// TestCosignLegacy: cosign signs by the address of the v1 log alone, as it did before SigningConfigs, and
// verifies a signature without a bundle by asking the log.
func TestCosignLegacy(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	u := newUser(t)
	u.keys()
	u.stranger()
	u.certify("cosign.pub", "certificate.pem")
	root := u.write("root.pem", []byte(certificatePEM(ca.Root.Raw)))
	u.env = []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + s.keyFile(t, 1)}
	ask := []string{"--new-bundle-format=false", "--rekor-url=" + s.v1}
	for _, who := range []signer{
		{name: "key", sign: signers[0].sign, verify: signers[0].verify},
		{
			name: "certificate", sign: signers[1].sign,
			verify: append(identified(email), "--certificate=certificate.pem", "--ca-roots="+root),
		},
	} {
		u.must("cosign", append(append([]string{"sign-blob", "--yes", "--use-signing-config=false", "--output-signature=signature", "artifact"}, ask...), who.sign...)...)
		verify := append(append([]string{"verify-blob", "--signature=signature"}, ask...), who.verify...)
		if _, err := u.run("cosign", append(verify, "artifact")...); err != nil {
			t.Errorf("%s: %v", who.name, err)
		}
		_, err := u.run("cosign", append(verify, "tampered")...)
		u.fails(who.name+", tampered", err, "")
	}
	// With the bundle of old, which has a promise (SET) and no proof, nothing is asked.
	u.must("cosign", append(append([]string{"sign-blob", "--yes", "--use-signing-config=false", "--bundle=legacy", "artifact"}, ask...), signers[0].sign...)...)
	offline := []string{"verify-blob", "--new-bundle-format=false", "--rekor-url=http://rekor.public.test", "--bundle=legacy", "--key=cosign.pub"}
	if _, err := u.run("cosign", append(offline, "artifact")...); err != nil {
		t.Error(err)
	}
	_, err := u.run("cosign", append(offline, "tampered")...)
	u.fails("promise, tampered", err, "")
	// And cosign makes a bundle of a signature that is in the log.
	u.must("cosign", append(append([]string{"sign-blob", "--yes", "--use-signing-config=false", "--output-signature=signature", "artifact"}, ask...), signers[0].sign...)...)
	u.must("cosign", "bundle", "create", "--rekor-url="+s.v1, "--artifact=artifact", "--signature=signature", "--key=cosign.pub", "--out=made")
	if err := u.verify(s.trustedRoot, "made", "artifact", signers[0].verify); err != nil {
		t.Error(err)
	}
}
