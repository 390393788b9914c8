package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
)

// fastPropose is Propose for what most clients send: a hashedrekord 0.0.1 with a SHA-256 that
// was signed with a P-256 key, in plain JSON and canonical base64 and PEM. Rekor's types verify
// such a signature twice, and once more for the search keys. It returns false for anything
// else, a false signature too, and then rekor's types decide; what it accepts they accept, with
// the same body, and no keys that the body has not: a fuzz test.
func fastPropose(proposed []byte) (body []byte, ok bool) {
	if len(proposed) > maxProposed {
		return nil, false
	}
	f, ok := scanHashedrekord(proposed)
	if !ok || string(f.kind) != "hashedrekord" || string(f.version) != hashedrekord1 || string(f.algorithm) != "sha256" {
		return nil, false
	}
	var digest [sha256.Size]byte
	if len(f.digest) != hex.EncodedLen(len(digest)) {
		return nil, false
	}
	if _, err := hex.Decode(digest[:], f.digest); err != nil {
		return nil, false
	}
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	key, ok := s.verifier(f.key)
	if !ok {
		return nil, false
	}
	if signature, ok := s.strict(f.signature); !ok || !ecdsa.VerifyASN1(key, digest[:], signature) {
		return nil, false
	}
	return f.body(), true
}

const hashedrekord1 = "0.0.1" // the only version of a hashedrekord of Rekor v1

// hashedrekordFields are the strings of a proposed hashedrekord, as they are between their
// quotes.
type hashedrekordFields struct {
	kind, version, algorithm, digest, signature, key []byte
	names                                            int // that were read
}

// hashedrekordNames is the number of names in a hashedrekord. If so many were read, and none
// of its strings is missing, nothing was there twice.
const hashedrekordNames = 11

// scanHashedrekord reads the JSON of a proposed hashedrekord in any order and with any white
// space. It leaves it to the caller to refuse an escape in a string.
func scanHashedrekord(proposed []byte) (f hashedrekordFields, ok bool) {
	s := &scanner{rest: proposed, ok: true}
	s.space()
	s.fields(&f, func(name string) {
		switch name {
		case "apiVersion":
			f.version = s.quoted()
		case "kind":
			f.kind = s.quoted()
		case "spec":
			s.fields(&f, func(name string) { s.spec(&f, name) })
		default:
			s.ok = false
		}
	})
	s.space()
	return f, s.ok && len(s.rest) == 0 && f.names == hashedrekordNames &&
		f.kind != nil && f.version != nil && f.algorithm != nil && f.digest != nil && f.signature != nil && f.key != nil
}

// spec reads one field of a hashedrekord's spec.
func (s *scanner) spec(f *hashedrekordFields, name string) {
	switch name {
	case "data":
		s.fields(f, func(name string) {
			if name != "hash" {
				s.ok = false
				return
			}
			s.fields(f, func(name string) {
				switch name {
				case "algorithm":
					f.algorithm = s.quoted()
				case "value":
					f.digest = s.quoted()
				default:
					s.ok = false
				}
			})
		})
	case "signature":
		s.fields(f, func(name string) {
			switch name {
			case "content":
				f.signature = s.quoted()
			case "publicKey":
				s.fields(f, func(name string) {
					if name != "content" {
						s.ok = false
						return
					}
					f.key = s.quoted()
				})
			default:
				s.ok = false
			}
		})
	default:
		s.ok = false
	}
}

// fields reads an object that is not empty; value reads the value of each name.
func (s *scanner) fields(f *hashedrekordFields, value func(name string)) {
	s.want("{")
	for s.ok {
		s.space()
		name := s.quoted()
		s.space()
		s.want(":")
		s.space()
		if !s.ok {
			return
		}
		f.names++
		value(string(name))
		s.space()
		if !s.skip(",") {
			s.want("}")
			return
		}
	}
}

func (s *scanner) space() { s.rest = bytes.TrimLeft(s.rest, " \t\r\n") }

func (s *scanner) quoted() []byte {
	s.want(`"`)
	return s.text()
}

// verifier reads the one PEM block of a P-256 key or of a certificate for one.
func (s *scanner) verifier(encoded []byte) (*ecdsa.PublicKey, bool) {
	text, ok := s.strict(encoded)
	if !ok {
		return nil, false
	}
	var public any
	switch kind, der := s.decodePEM(text); kind {
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, false
		}
		public = cert.PublicKey
	case "PUBLIC KEY":
		// Of other encodings of the key rekor's type makes this one.
		if !bytes.HasPrefix(der, []byte(p256Prefix)) {
			return nil, false
		}
		var err error
		if public, err = x509.ParsePKIXPublicKey(der); err != nil {
			return nil, false
		}
	}
	key, ok := public.(*ecdsa.PublicKey)
	return key, ok && key.Curve == elliptic.P256()
}

// body returns the canonical JSON.
func (f *hashedrekordFields) body() []byte {
	b := make([]byte, 0, len(f.signature)+len(f.key)+256)
	b = append(b, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"`...)
	b = append(b, f.digest...)
	b = append(b, `"}},"signature":{"content":"`...)
	b = append(b, f.signature...)
	b = append(b, `","publicKey":{"content":"`...)
	b = append(b, f.key...)
	return append(b, `"}}}}`...)
}
