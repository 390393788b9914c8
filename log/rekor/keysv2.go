package rekor

//lint:file-ignore SA1019 logs hold dsse 0.0.2 from before it was given up

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"sync"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"
)

// The canonical JSON of the entries of Rekor v2, in the pieces between their values.
const (
	hashedrekordStart = `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":`
	hashedrekordNext  = `,"signature":`
	hashedrekordEnd   = `}}}`
	dsseStart         = `{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{"payloadHash":`
	dsseNext          = `,"signatures":[`
	dsseEnd           = `]}}}`
)

// strict refuses a second spelling of the same bytes.
var strict = base64.StdEncoding.Strict()

// fastKeysV2 reads an entry of Rekor v2 in its one canonical form, without reflection, and
// returns false for anything else. It runs for every entry that is mirrored, before the
// commit. What it accepts slowKeysV2 accepts too, with the same keys: a fuzz test.
func fastKeysV2(body []byte) ([]string, bool) {
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	s.rest, s.ok = body, true
	keys := make([]string, 0, 8)
	if s.skip(hashedrekordStart) {
		keys = s.digest(keys)
		s.want(hashedrekordNext)
		keys = s.signature(keys, false)
		s.want(hashedrekordEnd)
	} else {
		s.want(dsseStart)
		keys = s.digest(keys)
		s.want(dsseNext)
		keys = s.signature(keys, true)
		for s.skip(",") {
			keys = s.signature(keys, true)
		}
		s.want(dsseEnd)
	}
	return keys, s.ok && len(s.rest) == 0
}

// scanner reads from the front of rest. After the first mismatch ok is false and all that
// it returns is worthless.
type scanner struct {
	rest []byte
	ok   bool
	// Memory that is used again: of what base64 stands for, and of PEM.
	decoded, pem []byte
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

func (s *scanner) skip(literal string) bool {
	if len(s.rest) < len(literal) || string(s.rest[:len(literal)]) != literal {
		return false
	}
	s.rest = s.rest[len(literal):]
	return true
}

func (s *scanner) want(literal string) { s.ok = s.skip(literal) && s.ok }

// text reads up to the closing quote, which it takes. Escapes are for the slow way: neither
// base64 nor the name of an enum value needs one, and their readers refuse it.
func (s *scanner) text() []byte {
	end := bytes.IndexByte(s.rest, '"')
	if end < 0 {
		s.ok = false
		return nil
	}
	text := s.rest[:end]
	s.rest = s.rest[end+1:]
	return text
}

// decode reads base64 of at least one byte. What it stands for is good until the next call.
func (s *scanner) decode() (encoded, decoded []byte) {
	encoded = s.text()
	decoded, ok := s.strict(encoded)
	s.ok = ok && s.ok
	return encoded, decoded
}

// strict decodes canonical base64 of at least one byte. The result is good until the scanner
// decodes again.
func (s *scanner) strict(encoded []byte) (decoded []byte, ok bool) {
	// Line breaks, which the decoder passes over, are no JSON.
	if len(encoded) == 0 || bytes.IndexByte(encoded, '\n') >= 0 || bytes.IndexByte(encoded, '\r') >= 0 {
		return nil, false
	}
	var err error
	s.decoded, err = strict.AppendDecode(s.decoded[:0], encoded)
	return s.decoded, err == nil
}

func (s *scanner) digest(keys []string) []string {
	s.want(`{"algorithm":"`)
	prefix := digestPrefix(string(s.text()))
	s.want(`,"digest":"`)
	_, digest := s.decode()
	s.want(`}`)
	if prefix == "" {
		s.ok = false
	}
	return append(keys, digestKey(prefix, digest))
}

func (s *scanner) signature(keys []string, prefixed bool) []string {
	s.want(`{"content":"`)
	s.decode()
	s.want(`,"verifier":{"keyDetails":"`)
	if _, known := common.PublicKeyDetails_value[string(s.text())]; !known {
		s.ok = false
	}
	switch {
	case s.skip(`,"x509Certificate":{"rawBytes":"`):
		encoded, der := s.decode()
		if !s.ok {
			return keys
		}
		keys = appendKeyHash(keys, s.hashPEM("CERTIFICATE", encoded), prefixed)
		keys = appendCertificateKeys(keys, der)
	case s.skip(`,"publicKey":{"rawBytes":"`):
		encoded, der := s.decode()
		if !s.ok || !isCommonKey(der) {
			s.ok = false
			return keys
		}
		keys = appendKeyHash(keys, s.hashPEM("PUBLIC KEY", encoded), prefixed)
	default:
		s.ok = false
	}
	s.want(`}}}`)
	return keys
}

// Everything before the point of a P-256 key, or before an Ed25519 key, in its SPKI.
const (
	p256Prefix    = "\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04"
	ed25519Prefix = "\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00"
)

// isCommonKey says whether der is the SPKI of a kind that has one encoding for each key.
func isCommonKey(der []byte) bool {
	return len(der) == len(p256Prefix)+64 && string(der[:len(p256Prefix)]) == p256Prefix ||
		len(der) == len(ed25519Prefix)+32 && string(der[:len(ed25519Prefix)]) == ed25519Prefix
}

// hashPEM hashes the PEM block that holds canonical base64, in lines of 64 as encoding/pem
// writes it: v1 names keys and certificates by that.
func (s *scanner) hashPEM(kind string, encoded []byte) [sha256.Size]byte {
	const line = 64
	block := append(s.pem[:0], "-----BEGIN "...)
	block = append(block, kind...)
	block = append(block, "-----\n"...)
	for len(encoded) > 0 {
		n := min(line, len(encoded))
		block = append(block, encoded[:n]...)
		block = append(block, '\n')
		encoded = encoded[n:]
	}
	block = append(block, "-----END "...)
	block = append(block, kind...)
	s.pem = append(block, "-----\n"...)
	return sha256.Sum256(s.pem)
}

// appendKeyHash appends the hash of a key as v1 does: bare for a hashedrekord; for a dsse
// with a prefix, and then bare too, so that a search by public key finds it.
func appendKeyHash(keys []string, sum [sha256.Size]byte, prefixed bool) []string {
	key := digestKey("sha256:", sum[:])
	if prefixed {
		keys = append(keys, key)
	}
	return append(keys, key[len("sha256:"):])
}

func digestKey(prefix string, digest []byte) string {
	var b [7 + 128]byte
	return string(hex.AppendEncode(append(b[:0], prefix...), digest))
}

// digestPrefix returns the prefix of v1 for a hash algorithm of v2, "" for one that v1 does
// not have.
func digestPrefix(algorithm string) string {
	switch algorithm {
	case "SHA2_256":
		return "sha256:"
	case "SHA2_384":
		return "sha384:"
	case "SHA2_512":
		return "sha512:"
	}
	return ""
}

// slowKeysV2 reads an entry of Rekor v2 by its protobuf message, in any JSON form.
func slowKeysV2(body []byte) []string {
	var entry pb.Entry
	if protojson.Unmarshal(body, &entry) != nil || entry.ApiVersion != "0.0.2" {
		return nil
	}
	switch spec := entry.GetSpec().GetSpec().(type) {
	case *pb.Spec_HashedRekordV002:
		if entry.Kind == "hashedrekord" {
			keys := messageDigest(nil, spec.HashedRekordV002.GetData())
			return messageSignature(keys, spec.HashedRekordV002.GetSignature(), false)
		}
	case *pb.Spec_DsseV002:
		if entry.Kind == "dsse" {
			keys := messageDigest(nil, spec.DsseV002.GetPayloadHash())
			for _, signature := range spec.DsseV002.GetSignatures() {
				keys = messageSignature(keys, signature, true)
			}
			return keys
		}
	}
	return nil
}

func messageDigest(keys []string, hash *common.HashOutput) []string {
	prefix := digestPrefix(hash.GetAlgorithm().String())
	if prefix == "" || len(hash.GetDigest()) == 0 {
		return keys
	}
	return append(keys, digestKey(prefix, hash.GetDigest()))
}

func messageSignature(keys []string, signature *pb.Signature, prefixed bool) []string {
	verifier := signature.GetVerifier()
	if der := verifier.GetX509Certificate().GetRawBytes(); len(der) > 0 {
		sum := new(scanner).hashPEM("CERTIFICATE", []byte(base64.StdEncoding.EncodeToString(der)))
		return appendCertificateKeys(appendKeyHash(keys, sum, prefixed), der)
	}
	der := verifier.GetPublicKey().GetRawBytes()
	if len(der) == 0 {
		return keys
	}
	// v1 writes the key anew before it hashes it.
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		if again, err := x509.MarshalPKIXPublicKey(key); err == nil {
			der = again
		}
	}
	return appendKeyHash(keys, new(scanner).hashPEM("PUBLIC KEY", []byte(base64.StdEncoding.EncodeToString(der))), prefixed)
}
