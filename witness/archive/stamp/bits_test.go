package stamp_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"testing"
	"unicode/utf8"

	"github.com/sigstore/timestamp-authority/v2/pkg/verification"

	"github.com/understudy-log/understudy/witness/archive/stamp"
)

// span is a part of a response.
type span struct{ start, end int }

func spanOf(response, part []byte) span {
	start := bytes.Index(response, part)
	if start < 0 {
		panic("no such part")
	}
	return span{start, start + len(part)}
}

func within(i int, spans []span) bool {
	return slices.ContainsFunc(spans, func(s span) bool { return s.start <= i && i < s.end })
}

// TestBits flips every bit of responses. It holds what the package's documentation says about
// what they cover: those that are accepted lie where it says, and change nothing.
func TestBits(t *testing.T) {
	a := newTSA(signerTemplate())
	old := issue(authorityTemplate("old root"), nil)
	cross := certify(authorityTemplate("test root"), a.root.key, &old)
	words := []byte("Operation Okay")
	crossed := a.respond(func(d *draft) {
		d.status.Text = append(d.status.Text, text(string(words)))
		d.certificates = append(d.certificates, cross.Certificate)
	})
	whole := a.respond(func(d *draft) { d.certificates = append(d.certificates, a.root.Certificate) })
	sigstore, openssl := parsePEM("testdata/sigstore.pem"), parsePEM("testdata/openssl.pem")
	rootsOf := func(certificates ...*x509.Certificate) stamp.Roots {
		return must(stamp.RootsFromPEM(pemOf(certificates...)))
	}
	for _, c := range []struct {
		name     string
		response []byte
		roots    stamp.Roots
		loose    []span // in which bits may flip
		but      []span // of these
	}{
		{"by Sigstore's server", must(os.ReadFile("testdata/sigstore.tsr")), rootsOf(sigstore...), nil, nil},
		{"by Sigstore's server, with its root alone", must(os.ReadFile("testdata/sigstore.tsr")), rootsOf(sigstore[2]), nil, nil},
		{"by openssl", must(os.ReadFile("testdata/openssl.tsr")), rootsOf(openssl...), nil, nil},
		{"with the whole chain", whole, rootsOf(a.root.Certificate), nil, nil},
		{"with text and a cross-certificate", crossed, rootsOf(a.root.Certificate),
			[]span{spanOf(crossed, words), spanOf(crossed, cross.Raw)},
			[]span{spanOf(crossed, cross.RawSubjectPublicKeyInfo), after(spanOf(crossed, cross.Raw), spanOf(cross.Raw, cross.RawSubject))}},
		{"under the issuer of the cross-certificate", crossed, rootsOf(old.Certificate, a.root.Certificate), []span{spanOf(crossed, words)}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			at, signer, err := stamp.Verify(c.response, digest, c.roots)
			if err != nil {
				t.Fatal(err)
			}
			flipped, accepted := bytes.Clone(c.response), map[span]int{}
			for bit := range 8 * len(flipped) {
				i := bit / 8
				if testing.Short() && bit%8 != i%8 {
					continue
				}
				flipped[i] ^= 1 << (bit % 8)
				nowAt, nowSigner, err := stamp.Verify(flipped, digest, c.roots)
				switch {
				case err != nil:
				case !nowAt.Equal(at) || nowSigner != signer:
					t.Fatalf("bit %d of byte %d changes what is said: %v by %s", bit%8, i, nowAt, nowSigner)
				case !within(i, c.loose) || within(i, c.but):
					t.Errorf("bit %d of byte %d may flip", bit%8, i)
				default:
					accepted[c.loose[slices.IndexFunc(c.loose, func(s span) bool { return s.start <= i && i < s.end })]]++
				}
				flipped[i] ^= 1 << (bit % 8)
			}
			for _, s := range c.loose {
				if accepted[s] == 0 {
					t.Errorf("no bit of bytes %d to %d may flip: say so", s.start, s.end)
				}
			}
			t.Logf("%d bits, accepted %v", 8*len(flipped), accepted)
		})
	}
}

// after is a span within another.
func after(outer, inner span) span {
	return span{outer.start + inner.start, outer.start + inner.end}
}

// parsePEM returns the certificates in a PEM file.
func parsePEM(file string) []*x509.Certificate {
	var certificates []*x509.Certificate
	for data := must(os.ReadFile(file)); ; {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return certificates
		}
		certificates = append(certificates, must(x509.ParseCertificate(block.Bytes)))
	}
}

// FuzzVerify: nothing panics, and what is accepted is so by the library of Sigstore's clients.
func FuzzVerify(f *testing.F) {
	certificates := slices.Concat(parsePEM("testdata/sigstore.pem"), parsePEM("testdata/openssl.pem"))
	roots := must(stamp.RootsFromPEM(pemOf(certificates...)))
	f.Fuzz(func(t *testing.T, response []byte) {
		at, signer, err := stamp.Verify(response, digest, roots)
		if err != nil {
			if !at.IsZero() || signer != "" || !utf8.ValidString(err.Error()) {
				t.Fatalf("%v by %q, %q", at, signer, err)
			}
			return
		}
		theirStamp, err := verification.VerifyTimestampResponse(response, bytes.NewReader(artifact), verification.VerifyOpts{Roots: certificates})
		if err != nil || !theirStamp.Time.Equal(at) {
			t.Fatalf("accepted, but by Sigstore's library: %v", err)
		}
		if _, _, err := stamp.Verify(response, sha256.Sum256(response), roots); err == nil {
			t.Fatal("accepted for another digest")
		}
	})
}
