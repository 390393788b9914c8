package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	tilesnote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"golang.org/x/mod/sumdb/note"
)

// logSigners are the keys of the private log.
type logSigners struct {
	v1 *v1Signer // nil: there is no such generation
	v2 *v2Signer
}

// v1Signer is the key of a log that speaks Rekor v1: ECDSA on P-256.
type v1Signer struct {
	public *ecdsa.PublicKey
	logID  [32]byte         // SHA-256 of the public key
	signer signature.Signer // of SETs: ASN.1, over SHA-256
	local  crypto.Signer    // the same for digests, by many at once; nil if the key is in a KMS
	// note signs checkpoints, under the host's name alone, as Rekor does.
	note     note.Signer
	verifier note.Verifier
}

// vkey is the verifier key; type 2 is ECDSA (https://c2sp.org/signed-note).
func (s *v1Signer) vkey() (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(s.public)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s+%08x+%s", s.verifier.Name(), s.verifier.KeyHash(), base64.StdEncoding.EncodeToString(append([]byte{2}, spki...))), nil
}

// v2Signer are the keys of a log that speaks Rekor v2, all named by its origin: Ed25519, and
// ML-DSA-44 if there is one.
type v2Signer struct {
	public    ed25519.PublicKey
	logID     [32]byte // the whole ID of the Ed25519 key, of which notes have 4 bytes
	notes     []note.Signer
	verifiers []note.Verifier // of each of notes
}

// openLogSigners opens the keys of the private log, and lets each sign something. Until ctx ends they
// can be used, if they are in a KMS.
func openLogSigners(ctx context.Context, p *PrivateConfig) (*logSigners, error) {
	s := new(logSigners)
	pass := passphrases{p.PassphraseFile}
	var err error
	if v := p.V1; v != nil {
		if s.v1, err = openV1Signer(ctx, v, pass); err != nil {
			return nil, fmt.Errorf("the key of %q: %w", v.origin(), err)
		}
	}
	if v := p.V2; v != nil {
		if s.v2, err = openV2Signer(ctx, v, pass); err != nil {
			return nil, fmt.Errorf("the keys of %q: %w", v.Origin, err)
		}
	}
	return s, nil
}

func openV1Signer(ctx context.Context, v *PrivateV1Config, pass passphrases) (*v1Signer, error) {
	public, err := openPublic(ctx, v.Key)
	if err != nil {
		return nil, err
	}
	key, ok := public.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("%s is a key for %s: clients of Rekor v1 want ECDSA on P-256; \"understudy log init\" makes one", v.Key, keyType(public))
	}
	s := &v1Signer{public: key}
	if s.signer, err = openSame(ctx, v.Key, key, pass); err != nil {
		return nil, err
	}
	s.local, _ = s.signer.(crypto.Signer)
	s.note, s.verifier, s.logID, err = noteSigner(ctx, v.Host, s.signer)
	if err != nil {
		return nil, err
	}
	return s, tryNoteSigner(v.Key, s.note, s.verifier)
}

func openV2Signer(ctx context.Context, v *PrivateV2Config, pass passphrases) (*v2Signer, error) {
	public, err := openPublic(ctx, v.Key)
	if err != nil {
		return nil, err
	}
	key, ok := public.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%s is a key for %s: a log that speaks Rekor v2 signs with Ed25519, which witnesses know; \"understudy log init\" makes such a key", v.Key, keyType(public))
	}
	opened, err := openSame(ctx, v.Key, key, pass)
	if err != nil {
		return nil, err
	}
	signer, verifier, id, err := noteSigner(ctx, v.Origin, pureSigner{opened})
	if err != nil {
		return nil, err
	}
	s := &v2Signer{public: key, logID: id, notes: []note.Signer{signer}, verifiers: []note.Verifier{verifier}}
	if err := tryNoteSigner(v.Key, signer, verifier); err != nil || v.MLDSAKey == "" {
		return s, err
	}
	private, err := openMLDSA(v.MLDSAKey, v.Origin, pass)
	if err != nil {
		return nil, err
	}
	if signer, verifier, err = mldsaSigner(v.Origin, private); err != nil {
		return nil, err
	}
	s.notes, s.verifiers = append(s.notes, signer), append(s.verifiers, verifier)
	return s, tryNoteSigner(v.MLDSAKey, signer, verifier)
}

// openSame opens a key whose public half is known. A file that is damaged can be another key, and a
// log that signs with another one is lost to its clients.
func openSame(ctx context.Context, ref string, public interface{ Equal(crypto.PublicKey) bool }, pass passphrases) (signature.Signer, error) {
	signer, err := openSigner(ctx, ref, pass)
	if err != nil {
		return nil, err
	}
	has, err := signer.PublicKey()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	if !public.Equal(has) {
		return nil, fmt.Errorf("%s.pub is not the public key of %s: one of the two files is damaged, or of another log", ref, ref)
	}
	return signer, nil
}

// noteSigner makes a key sign notes as name, as Rekor's do; id is the whole ID of the key.
func noteSigner(ctx context.Context, name string, signer signature.Signer) (s note.Signer, v note.Verifier, id [32]byte, err error) {
	public, err := signer.PublicKey()
	if err != nil {
		return nil, nil, id, err
	}
	_, whole, err := tilesnote.KeyHash(name, public)
	if err != nil {
		return nil, nil, id, err
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		return nil, nil, id, err
	}
	if s, err = tilesnote.NewNoteSigner(ctx, name, signer); err != nil {
		return nil, nil, id, err
	}
	v, err = tilesnote.NewNoteVerifier(name, verifier)
	return s, v, [32]byte(whole), err
}

// tryNoteSigner has a key sign a checkpoint of no log: what cannot sign is known before anything is
// to be signed.
func tryNoteSigner(ref string, s note.Signer, v note.Verifier) error {
	const text = "a\n0\nAA==\n"
	signature, err := s.Sign([]byte(text))
	if err != nil {
		return fmt.Errorf("%s does not sign: %w", ref, err)
	}
	if !v.Verify([]byte(text), signature) {
		return fmt.Errorf("%s signs in another way than a log needs it", ref)
	}
	return nil
}

// pureSigner has messages signed as they are: Ed25519 takes no hash, which a KMS must be told.
type pureSigner struct{ signature.Signer }

func (s pureSigner) SignMessage(message io.Reader, o ...signature.SignOption) ([]byte, error) {
	return s.Signer.SignMessage(message, append(o, options.WithCryptoSignerOpts(crypto.Hash(0)))...)
}

// keyType names the algorithm of a public key.
func keyType(public crypto.PublicKey) string {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA on " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("something else (%T)", public)
}

// proposalsKeySize is the size of the key that encrypts proposed entries, in bytes.
const proposalsKeySize = 32

// makeProposalsKey writes a random key for proposed entries into a file, unless there is one.
func makeProposalsKey(file string) error {
	key := make([]byte, proposalsKeySize)
	rand.Read(key)
	if err := writeSecret(file, []byte(hex.EncodeToString(key)+"\n")); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// openProposalsKey reads the key that encrypts proposed entries, out of a file that only its owner
// can read.
func openProposalsKey(file string) (key [proposalsKeySize]byte, err error) {
	f, err := os.Open(file)
	if err != nil {
		return key, fmt.Errorf("read the key of proposed entries: %w; \"understudy log init\" makes one", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return key, fmt.Errorf("read the key of proposed entries: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return key, fmt.Errorf("others than its owner may use %s (mode %04o): change that with \"chmod 600\"", file, mode)
	}
	text, err := io.ReadAll(io.LimitReader(f, 2*proposalsKeySize+3))
	if err != nil {
		return key, fmt.Errorf("read the key of proposed entries: %w", err)
	}
	text = bytes.TrimRight(text, "\r\n")
	if len(text) != hex.EncodedLen(len(key)) {
		return key, fmt.Errorf("%s has no key of proposed entries: %d hex digits belong there; bring it back from a backup", file, hex.EncodedLen(len(key)))
	}
	if _, err := hex.Decode(key[:], text); err != nil {
		return key, fmt.Errorf("%s has no key of proposed entries: %w; bring it back from a backup", file, err)
	}
	return key, nil
}
