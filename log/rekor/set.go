package rekor

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
)

// maxExact is the largest integer up to which all are exact in JSON's canonical form
// (RFC 8785, which takes numbers for IEEE 754 doubles).
const maxExact = 1 << 53

// VerifySET verifies the signed entry timestamp over body, integratedTime, logID and
// logIndex. The key is an ECDSA, RSA or Ed25519 key of the log; Rekor signs the SHA-256 on
// every curve. An entry that names another key gives a *LogIDError, a timestamp that is
// missing or false gives ErrSET.
func (e *Entry) VerifySET(key crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("encode log key: %w", err)
	}
	id := sha256.Sum256(spki)
	if logID := hex.EncodeToString(id[:]); logID != e.LogID {
		return &LogIDError{LogID: e.LogID, Key: logID}
	}
	if e.IntegratedTime > maxExact || e.IntegratedTime < -maxExact || e.LogIndex > maxExact {
		return fmt.Errorf("%w: a number beyond 2^53", ErrSET)
	}
	signed := e.signedBytes()
	digest := sha256.Sum256(signed)
	var ok bool
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(key, digest[:], e.SET)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(key, crypto.SHA256, digest[:], e.SET) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(key, signed, e.SET)
	default:
		return fmt.Errorf("log key of type %T, want ECDSA, RSA or Ed25519", key)
	}
	if !ok {
		return ErrSET
	}
	return nil
}

// signedBytes returns the canonical JSON that the SET signs. Base64 and hex need no escape,
// so it is written by hand; a test holds it against the canonicalization that Rekor uses.
func (e *Entry) signedBytes() []byte {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(e.Body))+176)
	b = append(b, `{"body":"`...)
	b = base64.StdEncoding.AppendEncode(b, e.Body)
	b = append(b, `","integratedTime":`...)
	b = strconv.AppendInt(b, e.IntegratedTime, 10)
	b = append(b, `,"logID":"`...)
	b = append(b, e.LogID...)
	b = append(b, `","logIndex":`...)
	b = strconv.AppendUint(b, e.LogIndex, 10)
	return append(b, '}')
}
