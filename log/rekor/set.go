package rekor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"

	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
)

// maxExact is the largest integer up to which all are exact in JSON's canonical form
// (RFC 8785, which takes numbers for IEEE 754 doubles).
const maxExact = 1 << 53

// VerifySET verifies the signed entry timestamp over body, integratedTime, logID and
// logIndex. The key is an ECDSA, RSA or Ed25519 key of the log; Rekor signs the SHA-256 on
// every curve. An entry that names another key gives a *LogIDError, a timestamp that is
// missing or false gives ErrSET.
func (e *Entry) VerifySET(key crypto.PublicKey) error {
	logID, err := LogID(key)
	if err != nil {
		return err
	}
	if logID != e.LogID {
		return &LogIDError{LogID: e.LogID, Key: logID}
	}
	if !e.isExact() {
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

// SignSET signs the entry's SET, over all that VerifySET verifies: LogID must be that of the
// signer's key. The signer hashes with SHA-256, as one of sigstore that was loaded with it does;
// it may be a key management service.
func (e *Entry) SignSET(signer signature.Signer) error {
	if len(e.Body) == 0 || !isLogID(e.LogID) {
		return fmt.Errorf("sign entry timestamp: an entry of %d bytes with the log ID %q", len(e.Body), e.LogID)
	}
	if !e.isExact() {
		return fmt.Errorf("sign entry timestamp: index %d or time %d is beyond 2^53", e.LogIndex, e.IntegratedTime)
	}
	set, err := signer.SignMessage(bytes.NewReader(e.signedBytes()))
	if err != nil {
		return fmt.Errorf("sign entry timestamp: %w", err)
	}
	e.SET = set
	return nil
}

// isExact says whether all readers see the same numbers in the JSON that the SET signs.
func (e *Entry) isExact() bool {
	return e.IntegratedTime <= maxExact && e.IntegratedTime >= -maxExact && e.LogIndex <= maxExact
}

// LogID returns the log ID of a log of Rekor v1: the SHA-256 of its key's SPKI, as 64
// lower-case hex digits.
func LogID(key crypto.PublicKey) (string, error) {
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode log key: %w", err)
	}
	return hexSum(spki), nil
}

// LogIDV2 returns the log ID of a log of Rekor v2: the key ID of its signed notes, of which
// notes have the first 4 of these 32 bytes. The origin is the host name. The key is an Ed25519
// key, or one of the others that rekor-tiles takes.
func LogIDV2(origin string, key crypto.PublicKey) ([]byte, error) {
	if origin == "" {
		return nil, errors.New("log ID of no origin")
	}
	_, id, err := note.KeyHash(origin, key)
	if err != nil {
		return nil, fmt.Errorf("log ID of %s: %w", origin, err)
	}
	return id, nil
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
