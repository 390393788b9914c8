package rekor

import (
	"bytes"
	"crypto"
	"encoding/hex"

	"github.com/sigstore/rekor/pkg/generated/models"
)

// fastKeysV1 reads a hashedrekord 0.0.1, which most entries of Rekor v1 are, in plain JSON and
// canonical base64 and PEM, and returns false for anything else. It runs for every entry that
// is logged or mirrored, before the commit, and verifies nothing: rekor's types verify the
// signature of what they read, which costs more than all the rest. Of what they read too, the
// keys are the same: a fuzz test.
func fastKeysV1(body []byte) ([]string, bool) {
	f, ok := scanHashedrekord(body)
	if !ok || string(f.kind) != "hashedrekord" || string(f.version) != hashedrekord1 {
		return nil, false
	}
	size := 0
	switch string(f.algorithm) {
	case models.HashedrekordV001SchemaDataHashAlgorithmSha256:
		size = crypto.SHA256.Size()
	case models.HashedrekordV001SchemaDataHashAlgorithmSha384:
		size = crypto.SHA384.Size()
	case models.HashedrekordV001SchemaDataHashAlgorithmSha512:
		size = crypto.SHA512.Size()
	}
	if digest, err := hex.DecodeString(string(f.digest)); err != nil || size == 0 || len(digest) != size {
		return nil, false
	}
	s := scanners.Get().(*scanner)
	defer scanners.Put(s)
	if _, ok := s.strict(f.signature); !ok {
		return nil, false
	}
	kind, der, sum, ok := s.onePEM(f.key)
	if !ok || kind == "PUBLIC KEY" && !isCommonKey(der) {
		return nil, false
	}
	keys := append(make([]string, 0, 8), string(f.algorithm)+":"+string(f.digest), sum)
	if kind == "CERTIFICATE" {
		keys = appendCertificateKeys(keys, der)
	}
	return keys, true
}

// onePEM decodes the base64 of one key or certificate as encoding/pem writes it, and returns the
// hex SHA-256 of that as well. der is good until the scanner decodes again.
func (s *scanner) onePEM(encoded []byte) (kind string, der []byte, sum string, ok bool) {
	text, ok := s.strict(encoded)
	if !ok {
		return "", nil, "", false
	}
	sum = hexSum(text)
	for _, kind := range []string{"CERTIFICATE", "PUBLIC KEY"} {
		rest, begins := bytes.CutPrefix(text, []byte("-----BEGIN "+kind+"-----\n"))
		rest, ends := bytes.CutSuffix(rest, []byte("\n-----END "+kind+"-----\n"))
		if !begins || !ends {
			continue
		}
		inner := s.pem[:0]
		for len(rest) > pemLine {
			if rest[pemLine] != '\n' {
				return "", nil, "", false
			}
			inner = append(inner, rest[:pemLine]...)
			rest = rest[pemLine+1:]
		}
		s.pem = append(inner, rest...)
		der, ok := s.strict(s.pem)
		return kind, der, sum, ok
	}
	return "", nil, "", false
}
