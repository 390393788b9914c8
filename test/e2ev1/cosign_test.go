package e2ev1

import (
	"bytes"
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// legacy runs cosign on a signature that has no bundle, so that cosign asks the log for it.
// It believes the key of one shard: it takes no trusted root here, and one key file.
func (u *user) legacy(shard rekorv1.Shard, verb string, args ...string) error {
	_, err := u.command("cosign", []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + shard.PublicKeyFile},
		append([]string{verb, "--new-bundle-format=false", "--rekor-url=" + u.url}, args...)...)
	return err
}

// online is a step of cosign verify-blob.
func online(name string, shard rekorv1.Shard, args ...string) step {
	return step{name: "cosign/verify-blob " + name, run: func(u *user) (string, error) {
		return "", u.legacy(shard, "verify-blob", args...)
	}}
}

// attested is a step of cosign verify-blob-attestation.
func attested(name string, shard rekorv1.Shard, s sample, key string) step {
	return step{name: "cosign/verify-blob-attestation " + name, run: func(u *user) (string, error) {
		return "", u.legacy(shard, "verify-blob-attestation", "--key="+key, "--signature="+s.files.envelope,
			"--type=https://understudy.test/e2e", "--check-claims=false", s.files.artifact)
	}}
}

// What cosign says at Rekor of a signature that Rekor finds wrong, of one that it does not
// have, and of an entry under another key than the one that it was told.
const (
	refusedByRekor = "verifying signature: invalid signature"
	notInRekor     = "signature not found in transparency log"
	strangeLog     = "rekor log public key not found"
)

// cosignSteps is what a user does with cosign and a signature, and then with sigstore-go and
// the bundle that cosign has made of it.
func (w *world) cosignSteps() []step {
	var steps []step
	strange := w.strangeKey()
	for i, shard := range w.log.Shards {
		key := w.byName(fmt.Sprintf("hashedrekord in shard %d", i))
		person := w.byName(fmt.Sprintf("hashedrekord by e-mail in shard %d", i))
		machine := w.byName(fmt.Sprintf("hashedrekord by URI in shard %d", i))
		statement := w.byName(fmt.Sprintf("dsse in shard %d", i))
		other := w.log.Shards[(i+1)%len(w.log.Shards)]
		steps = append(steps,
			online(key.name, shard, append(w.keyed(key), key.files.artifact)...),
			online(person.name, shard, append(w.certified(person, email), person.files.artifact)...),
			online(machine.name, shard, append(w.certified(machine, workflow), machine.files.artifact)...),
			fails(online("wrong log key, "+key.name, other, append(w.keyed(key), key.files.artifact)...), strangeLog),
			fails(online("wrong artifact, "+person.name, shard, append(w.certified(person, email), key.files.verifier)...), refusedByRekor),
			fails(online("wrong identity, "+person.name, shard, append(w.certified(person, workflow), person.files.artifact)...), "none of the expected identities matched"),
			attested(statement.name, shard, statement, statement.files.verifier),
			fails(attested("wrong key, "+statement.name, shard, statement, strange), "could not verify envelope"),
			bundled(key, "--key="+key.files.verifier),
			bundled(person, "--certificate="+person.files.verifier64),
		)
	}
	mine, other, never := w.byName("hashedrekord in shard 1"), w.byName("rekord in shard 1"), w.never()
	active := w.log.Shards[1]
	return append(steps,
		fails(online("wrong artifact", active, append(w.keyed(mine), other.files.verifier)...), refusedByRekor),
		fails(online("wrong key", active, "--key="+strange, "--signature="+mine.files.signature64, mine.files.artifact), refusedByRekor),
		unknown(online("never logged", active, "--key="+mine.files.verifier, "--signature="+never.signature64, never.artifact), notInRekor),
		unknown(unmade("never logged", never, never.verifier), notInRekor),
		fails(unmade("wrong key", mine.files, strange), refusedByRekor),
	)
}

// keyed are the flags for a signature with a plain key.
func (w *world) keyed(s sample) []string {
	return []string{"--key=" + s.files.verifier, "--signature=" + s.files.signature64}
}

// certified are the flags for a signature with a certificate.
func (w *world) certified(s sample, identity string) []string {
	return []string{"--certificate=" + s.files.verifier, "--signature=" + s.files.signature64, "--certificate-identity=" + identity,
		"--certificate-oidc-issuer=" + authority.Issuer, "--ca-roots=" + w.rootFile(), "--insecure-ignore-sct"}
}

// unmade is a step that tries to make a bundle.
func unmade(name string, f files, key string) step {
	return step{name: "cosign/bundle create, " + name, run: func(u *user) (string, error) {
		return "", u.createBundle(filepath.Join(u.home, "never.json"), f, "--key="+key)
	}}
}

func (u *user) createBundle(out string, f files, args ...string) error {
	_, err := u.command("cosign", nil, append([]string{"bundle", "create", "--rekor-url=" + u.url,
		"--artifact=" + f.artifact, "--signature=" + f.signature64, "--out=" + out}, args...)...)
	return err
}

// bundled is a step that makes a bundle of a signature with cosign, and has it verified by
// sigstore-go and, for a key, by cosign, under the trusted root of the real log.
func bundled(s sample, args ...string) step {
	return step{name: "cosign/bundle create " + s.name, run: func(u *user) (string, error) {
		file := filepath.Join(u.home, "bundle.json")
		if err := u.createBundle(file, s.files, args...); err != nil {
			return "", err
		}
		made, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := u.verifyBundle(made, s.Signer, s.Artifact); err != nil {
			return "", fmt.Errorf("sigstore-go: %w\n%s", err, made)
		}
		stranger, err := rekorv1.NewSigner()
		if err != nil {
			return "", err
		}
		if u.verifyBundle(made, s.Signer, []byte("wrong")) == nil || u.verifyBundle(made, stranger, s.Artifact) == nil {
			return "", errors.New("sigstore-go accepts a wrong artifact or key")
		}
		who := []string{"--key=" + s.files.verifier}
		if isCertificate(s.Signer.Verifier) {
			who = []string{"--certificate-identity=" + email, "--certificate-oidc-issuer=" + authority.Issuer, "--insecure-ignore-sct"}
		}
		for _, artifact := range []string{s.files.artifact, s.files.verifier} {
			_, err := u.command("cosign", nil, append(append([]string{"verify-blob", "--new-bundle-format", "--bundle=" + file, "--trusted-root=" + u.log.TrustedRootFile}, who...), artifact)...)
			if right := artifact == s.files.artifact; right != (err == nil) {
				return "", fmt.Errorf("cosign with the bundle, right artifact %t: %w\n%s", right, err, made)
			}
		}
		return u.unsigned(string(made))
	}}
}

// verifyBundle verifies as a user of sigstore-go does.
func (u *user) verifyBundle(made []byte, signer *rekorv1.Signer, artifact []byte) error {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(made); err != nil {
		return err
	}
	trusted, err := root.NewTrustedRootFromPath(u.log.TrustedRootFile)
	if err != nil {
		return err
	}
	var material root.TrustedMaterial = trusted
	var who verify.PolicyOption
	if isCertificate(signer.Verifier) {
		identity, err := verify.NewShortCertificateIdentity(authority.Issuer, "", email, "")
		if err != nil {
			return err
		}
		who = verify.WithCertificateIdentity(identity)
	} else {
		key, err := signature.LoadVerifier(mustKey(signer.Verifier), crypto.SHA256)
		if err != nil {
			return err
		}
		material = root.TrustedMaterialCollection{trusted, root.NewTrustedPublicKeyMaterial(func(string) (root.TimeConstrainedVerifier, error) {
			return root.NewExpiringKey(key, time.Time{}, time.Time{}), nil
		})}
		who = verify.WithKey()
	}
	verifier, err := verify.NewVerifier(material, verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1))
	if err != nil {
		return err
	}
	_, err = verifier.Verify(&b, verify.NewPolicy(verify.WithArtifact(bytes.NewReader(artifact)), who))
	return err
}

// rootFile returns a file with the certificate of the authority.
func (w *world) rootFile() string {
	w.Helper()
	return w.pemFile("root.pem", "CERTIFICATE", w.log.Authority.Root.Raw)
}

// strangeKey returns a file with a public key that has signed nothing.
func (w *world) strangeKey() string {
	w.Helper()
	stranger, err := rekorv1.NewSigner()
	if err != nil {
		w.Fatal(err)
	}
	block, _ := pem.Decode(stranger.Verifier)
	return w.pemFile("strange.pem", block.Type, block.Bytes)
}

func (w *world) pemFile(name, kind string, der []byte) string {
	w.Helper()
	path := filepath.Join(w.TempDir(), name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		w.Fatal(err)
	}
	return path
}

func isCertificate(text []byte) bool {
	block, _ := pem.Decode(text)
	return block != nil && block.Type == "CERTIFICATE"
}

// mustKey decodes a public key that this test has encoded.
func mustKey(text []byte) any {
	key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		panic(err)
	}
	return key
}

// mustSPKI encodes a public key that was decoded before.
func mustSPKI(key any) []byte {
	der, err := cryptoutils.MarshalPublicKeyToDER(key)
	if err != nil {
		panic(err)
	}
	return der
}
