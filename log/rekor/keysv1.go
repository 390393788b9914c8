package rekor

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/hex"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// The canonical JSON of the commonest entries of Rekor v1, in the pieces between their values.
const (
	hashedrekordV1Start     = `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"`
	hashedrekordV1Signature = `}},"signature":{"content":"`
	hashedrekordV1Key       = `,"publicKey":{"content":"`
	hashedrekordV1End       = `}}}}`
	dsseV1Start             = `{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"`
	dsseV1Payload           = `},"payloadHash":{"algorithm":"sha256","value":"`
	dsseV1Signatures        = `},"signatures":[`
	dsseV1Signature         = `{"signature":"`
	dsseV1Verifier          = `,"verifier":"`
	dsseV1End               = `]}}`
)

// fastKeysV1 reads a hashedrekord or dsse of Rekor v1 in the form in which it is logged, with one
// key or certificate for each signature, and returns false for anything else. It runs for every
// entry that is appended or mirrored, before the commit. Its keys are those of keysV1: a fuzz
// test.
//
// But it does not verify the signature of a hashedrekord, as rekor's type does, which takes most
// of its time. No Rekor logs a false one, so the keys of what is logged are the same; made-up
// bodies have keys here and none there. That is how it always was with a dsse and with v2: an
// index finds claims, and whoever finds one verifies it.
func fastKeysV1(body []byte) (keys []string, ok bool) {
	if len(body) > maxProposed {
		return nil, false
	}
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	s.rest, s.ok = body, true
	keys = make([]string, 0, 8)
	switch {
	case s.skip(hashedrekordV1Start):
		keys = s.hashedrekordV1(keys)
	case s.skip(dsseV1Start):
		keys = s.dsseV1(keys)
	default:
		return nil, false
	}
	return keys, s.ok && len(s.rest) == 0
}

func (s *scanner) hashedrekordV1(keys []string) []string {
	switch {
	case s.skip(`sha256","value":"`):
		keys = s.digestV1(keys, "sha256:", sha256.Size)
	case s.skip(`sha384","value":"`):
		keys = s.digestV1(keys, "sha384:", sha512.Size384)
	case s.skip(`sha512","value":"`):
		keys = s.digestV1(keys, "sha512:", sha512.Size)
	default:
		s.ok = false
	}
	s.want(hashedrekordV1Signature)
	s.decode()
	s.want(hashedrekordV1Key)
	keys = s.verifierV1(keys, false)
	s.want(hashedrekordV1End)
	return keys
}

func (s *scanner) dsseV1(keys []string) []string {
	keys = s.digestV1(keys, "sha256:", sha256.Size)
	s.want(dsseV1Payload)
	keys = s.digestV1(keys, "sha256:", sha256.Size)
	s.want(dsseV1Signatures)
	for more := s.ok; more; more = s.ok && s.skip(",") {
		s.want(dsseV1Signature)
		s.decode()
		s.want(dsseV1Verifier)
		keys = s.verifierV1(keys, true)
		s.want(`}`)
	}
	s.want(dsseV1End)
	return keys
}

// digestV1 reads a digest of size bytes, in hex up to the closing quote.
func (s *scanner) digestV1(keys []string, prefix string, size int) []string {
	value := s.text()
	var digest [sha512.Size]byte
	if len(value) != hex.EncodedLen(size) {
		s.ok = false
		return keys
	}
	if _, err := hex.Decode(digest[:], value); err != nil {
		s.ok = false
	}
	return append(keys, prefix+string(value))
}

// verifierV1 reads a key or certificate as rekor's types store it. Like them it asks crypto/x509,
// which has its own view of odd names, and refuses more than appendCertificateKeys does.
func (s *scanner) verifierV1(keys []string, prefixed bool) []string {
	_, text := s.decode()
	if !s.ok {
		return keys
	}
	sum := sha256.Sum256(text)
	kind, der := s.decodePEM(text)
	switch {
	case kind == "CERTIFICATE":
		if cert, err := x509.ParseCertificate(der); err == nil {
			keys = append(keys, cryptoutils.GetSubjectAlternateNames(cert)...)
			keys = appendCertificateKeys(keys, der)
			return appendKeyHash(keys, sum, prefixed)
		}
	case kind == "PUBLIC KEY" && isCanonicalKey(der):
		return appendKeyHash(keys, sum, prefixed)
	}
	s.ok = false
	return keys
}

// isCanonicalKey says whether der is a key as crypto/x509 writes it. In another encoding it is
// found by the hash of this one as well.
func isCanonicalKey(der []byte) bool {
	key, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return false
	}
	again, err := x509.MarshalPKIXPublicKey(key)
	return err == nil && bytes.Equal(again, der)
}

// decodePEM reads the one PEM block of text, if it is as encoding/pem writes it, without headers;
// of anything else the kind is "". The DER is good until the scanner decodes again; text may be
// what it decoded last, and is lost.
func (s *scanner) decodePEM(text []byte) (kind string, der []byte) {
	const line = 64
	text, begins := bytes.CutPrefix(text, []byte("-----BEGIN "))
	name, lines, _ := bytes.Cut(text, []byte("-----\n"))
	kind = string(name)
	lines, ends := bytes.CutSuffix(lines, []byte("-----END "+kind+"-----\n"))
	if !begins || !ends {
		return "", nil
	}
	s.pem = s.pem[:0]
	for len(lines) > 0 {
		n := min(line, len(lines)-1)
		if n == 0 || lines[n] != '\n' {
			return "", nil
		}
		s.pem = append(s.pem, lines[:n]...)
		lines = lines[n+1:]
	}
	der, ok := s.strict(s.pem)
	if !ok {
		return "", nil
	}
	return kind, der
}
