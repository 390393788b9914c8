package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore/pkg/signature"
	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// makeLogKeys makes the keys of both generations in a new folder.
func makeLogKeys(t *testing.T) *PrivateConfig {
	t.Helper()
	dir := t.TempDir()
	p := &PrivateConfig{
		PassphraseFile: filepath.Join(dir, "passphrase"),
		V1:             &PrivateV1Config{Host: "rekor.example", TreeID: 7, Key: filepath.Join(dir, "v1.key")},
		V2:             &PrivateV2Config{Origin: "log.example", Key: filepath.Join(dir, "v2.key"), MLDSAKey: filepath.Join(dir, "v2-mldsa.key")},
	}
	if err := makePassphrase(p.PassphraseFile); err != nil {
		t.Fatal(err)
	}
	pass := passphrases{p.PassphraseFile}
	_, err1 := makeKey(p.V1.Key, pass)
	_, err2 := makeEd25519Key(p.V2.Key, pass)
	_, err3 := makeMLDSAKey(p.V2.MLDSAKey, p.V2.Origin, pass)
	if err1 != nil || err2 != nil || err3 != nil {
		t.Fatal(err1, err2, err3)
	}
	return p
}

// TestLogSigners: what the keys sign is what clients of Rekor and of notes verify.
func TestLogSigners(t *testing.T) {
	cheap(t)
	p := makeLogKeys(t)
	s, err := openLogSigners(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}

	text := p.V1.origin() + "\n1\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	raw, err := note.Sign(&note.Note{Text: text}, s.v1.note)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(raw, note.VerifierList(s.v1.verifier)); err != nil {
		t.Error(err)
	}
	var signed util.SignedCheckpoint // Rekor's own
	if err := signed.UnmarshalText(raw); err != nil {
		t.Fatal(err)
	}
	verifier, err := signature.LoadVerifier(s.v1.public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	if !signed.Verify(verifier) || signed.Signatures[0].Name != "rekor.example" {
		t.Errorf("Rekor does not verify %s", raw)
	}
	spki, err := x509.MarshalPKIXPublicKey(s.v1.public)
	if err != nil {
		t.Fatal(err)
	}
	if id := sha256.Sum256(spki); s.v1.logID != id || s.v1.note.KeyHash() != binary.BigEndian.Uint32(id[:]) {
		t.Errorf("log ID %x, key hash %08x, want %x", s.v1.logID, s.v1.note.KeyHash(), id)
	}
	var wg sync.WaitGroup
	for i := range 8 { // SETs are signed in parallel
		wg.Go(func() {
			digest := sha256.Sum256([]byte{byte(i)})
			set, err := s.v1.local.Sign(rand.Reader, digest[:], nil)
			if err != nil || !ecdsa.VerifyASN1(s.v1.public, digest[:], set) {
				t.Errorf("SET %d: %v", i, err)
			}
		})
	}
	wg.Wait()

	text = "log.example\n1\n" + base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	if raw, err = note.Sign(&note.Note{Text: text}, s.v2.notes...); err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey("log.example", s.v2.public)
	if err != nil {
		t.Fatal(err)
	}
	classic, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := os.ReadFile(p.V2.MLDSAKey + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	quantum, err := formats.NewMLDSAVerifier(strings.TrimSpace(string(pub)))
	if err != nil {
		t.Fatal(err)
	}
	for _, verifiers := range [][]note.Verifier{{classic, quantum}, s.v2.verifiers} {
		if n, err := note.Open(raw, note.VerifierList(verifiers...)); err != nil || len(n.Sigs) != 2 {
			t.Errorf("%+v, %v", n, err)
		}
	}
	if !strings.HasPrefix(vkey, fmt.Sprintf("log.example+%x+", s.v2.logID[:4])) {
		t.Errorf("log ID %x is not that of %s", s.v2.logID, vkey)
	}
	if text := fmt.Sprintf("%08x", quantum.KeyHash()); strings.Split(string(pub), "+")[1] != text {
		t.Errorf("the hash of %.30s is %s", pub, text)
	}
}

// TestLogSignersRefused: keys of the wrong kind, of another log, damaged or out of reach are refused
// with a hint.
func TestLogSignersRefused(t *testing.T) {
	cheap(t)
	good := makeLogKeys(t)
	other := makeLogKeys(t)
	plain := filepath.Join(t.TempDir(), "plain")
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	big := filepath.Join(t.TempDir(), "p384")
	if _, err := keepKey(big, p384, passphrases{good.PassphraseFile}); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{plain: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", plain + ".pub": string(reviewMust(os.ReadFile(good.V2.Key + ".pub")))} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		change func(p *PrivateConfig)
		want   string
	}{
		{func(p *PrivateConfig) { p.V1.Key = good.V2.Key }, `the key of "rekor.example - 7": ` + good.V2.Key + ` is a key for Ed25519: clients of Rekor v1 want ECDSA on P-256; "understudy log init" makes one`},
		{func(p *PrivateConfig) { p.V1.Key = big }, "is a key for ECDSA on P-384: clients of Rekor v1 want ECDSA on P-256"},
		{func(p *PrivateConfig) { p.V2.Key = good.V1.Key }, `the keys of "log.example": ` + good.V1.Key + ` is a key for ECDSA on P-256: a log that speaks Rekor v2 signs with Ed25519`},
		{func(p *PrivateConfig) { p.V2.Key = good.V2.MLDSAKey }, "v2-mldsa.key.pub has no PEM block"},
		{func(p *PrivateConfig) { p.V2.MLDSAKey = good.V2.Key }, "it has no ML-DSA-44 key"},
		{func(p *PrivateConfig) { p.V2.Origin = "b.example" }, "is not the verifier key of"},
		{func(p *PrivateConfig) { p.V2.Key = plain }, "is not encrypted: encrypt it with"},
		{func(p *PrivateConfig) { p.PassphraseFile = other.PassphraseFile }, "is the passphrase the right one?"},
		{func(p *PrivateConfig) { p.PassphraseFile = "missing" }, "read the passphrase: open missing"},
		{func(p *PrivateConfig) { p.V1.Key = "missing" }, "read a key: open missing"},
		{func(p *PrivateConfig) { p.V2.MLDSAKey = "missing" }, "the verifier key of missing belongs beside it"},
		{func(p *PrivateConfig) { p.V2.Key = "awskms:/x" }, "read a key: open awskms:/x"},
	} {
		p, v1, v2 := *good, *good.V1, *good.V2
		p.V1, p.V2 = &v1, &v2
		test.change(&p)
		if _, err := openLogSigners(t.Context(), &p); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got  %v\nwant %s", err, test.want)
		}
	}
	// A key that was replaced without its public key.
	if err := os.WriteFile(good.V1.Key, bytes.TrimSpace(reviewMust(os.ReadFile(other.V1.Key))), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(good.PassphraseFile, reviewMust(os.ReadFile(other.PassphraseFile)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openLogSigners(t.Context(), good); err == nil || !strings.Contains(err.Error(), "v1.key.pub is not the public key of") {
		t.Errorf("another key: %v", err)
	}
}

// TestProposalsKey: the key of proposed entries is made once, and refused when others can read it.
func TestProposalsKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys", "p.key")
	if err := makeProposalsKey(file); err != nil {
		t.Fatal(err)
	}
	key, err := openProposalsKey(file)
	if err != nil || key == [32]byte{} {
		t.Fatalf("%x, %v", key, err)
	}
	if err := makeProposalsKey(file); err != nil {
		t.Fatal(err)
	}
	if again, err := openProposalsKey(file); err != nil || again != key {
		t.Errorf("%x, then %x, %v", key, again, err)
	}
	for _, mode := range []os.FileMode{0o640, 0o604, 0o601, 0o620} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := openProposalsKey(file); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("others than its owner may use %s (mode %04o): change that with \"chmod 600\"", file, mode)) {
			t.Errorf("mode %v: %v", mode, err)
		}
	}
	if err := os.Chmod(file, 0o400); err != nil {
		t.Fatal(err)
	}
	if again, err := openProposalsKey(file); err != nil || again != key {
		t.Errorf("mode 400: %x, %v", again, err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	digits := strings.Repeat("ab", 32)
	for text, good := range map[string]bool{digits: true, digits + "\r\n": true, "": false, digits[1:]: false, digits + "a": false, digits + "\nab": false, "x" + digits[1:]: false, " " + digits: false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openProposalsKey(file); (err == nil) != good || err != nil && !strings.Contains(err.Error(), "bring it back from a backup") {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := openProposalsKey("missing"); err == nil || !strings.Contains(err.Error(), `"understudy log init" makes one`) {
		t.Errorf("missing: %v", err)
	}
}
