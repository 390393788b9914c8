package stamp_test

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/timestamp-authority/v2/pkg/verification"

	"github.com/understudy-log/understudy/witness/archive/stamp"
)

// refused reports whether err is an InvalidError that says reason.
func refused(t *testing.T, err error, reason string) {
	t.Helper()
	if e, ok := errors.AsType[*stamp.InvalidError](err); !ok || !strings.Contains(e.Error(), reason) {
		t.Errorf("error %v, want one that says %q", err, reason)
	}
}

func TestVerify(t *testing.T) {
	a := newTSA(signerTemplate())
	roots := must(stamp.RootsFromPEM(a.rootPEM()))
	response := a.respond(nil)
	at, signer, err := stamp.Verify(response, digest, roots)
	if err != nil || time.Since(at) > time.Minute || at.Location() != time.UTC || signer != "CN=test time stamps" {
		t.Errorf("stamped at %v by %q: %v", at, signer, err)
	}
	_, _, err = stamp.Verify(response, sha256.Sum256([]byte("another")), roots)
	refused(t, err, "it is about the digest "+"c5eec9ba3ab4")
	_, _, err = stamp.Verify(response, digest, stamp.Roots{})
	if err == nil || !strings.Contains(err.Error(), "no roots") {
		t.Errorf("without roots: %v", err)
	}
	for _, c := range []struct {
		name  string
		roots *x509.Certificate
		ok    bool
	}{
		{"intermediate", a.intermediate.Certificate, true},
		{"signer", a.signer.Certificate, true},
		{"another", newTSA(signerTemplate()).root.Certificate, false},
	} {
		if _, _, err := stamp.Verify(response, digest, must(stamp.RootsFromPEM(pemOf(c.roots)))); (err == nil) != c.ok {
			t.Errorf("root is the %s: %v", c.name, err)
		}
	}
	for i := range response {
		if _, _, err := stamp.Verify(response[:i], digest, roots); err == nil {
			t.Errorf("accepted the first %d of %d bytes", i, len(response))
		}
	}
	_, _, err = stamp.Verify(append(response, 0), digest, roots)
	refused(t, err, "TimeStampResp")
	_, _, err = stamp.Verify(make([]byte, stamp.MaxResponse+1), digest, roots)
	refused(t, err, "more than 65536 bytes")
}

// TestRecorded: responses of Sigstore's server (ECDSA, a chain of three) and of openssl (RSA, fractions
// of a second, SHA-1 of the certificate), which Sigstore's own verification also takes.
func TestRecorded(t *testing.T) {
	for name, want := range map[string]string{
		"sigstore": "2026-11-26 08:29:45 +0000 UTC CN=Test TSA Timestamping,O=local",
		"openssl":  "2026-11-26 08:30:47.955 +0000 UTC CN=test time stamps",
	} {
		response, certificates := must(os.ReadFile("testdata/"+name+".tsr")), must(os.ReadFile("testdata/"+name+".pem"))
		at, signer, err := stamp.Verify(response, digest, must(stamp.RootsFromPEM(certificates)))
		if err != nil || at.String()+" "+signer != want {
			t.Errorf("%s: %v %s, %v, want %s", name, at, signer, err, want)
		}
	}
}

// TestRefused has one draft, or more, for each thing that is looked at.
func TestRefused(t *testing.T) {
	a := newTSA(signerTemplate())
	other := newTSA(signerTemplate())
	null := asn1.RawValue{Tag: asn1.TagNull}
	replace := func(kind asn1.ObjectIdentifier, values ...any) func([]attribute) []attribute {
		return func(attributes []attribute) []attribute {
			attributes = slices.DeleteFunc(attributes, func(a attribute) bool { return a.Type.Equal(kind) })
			if values != nil {
				attributes = append(attributes, attribute{kind, values, 0})
			}
			return attributes
		}
	}
	also := func(kind asn1.ObjectIdentifier, value any) func([]attribute) []attribute {
		return func(attributes []attribute) []attribute { return append(attributes, attribute{kind, []any{value}, 0}) }
	}
	for _, c := range []struct {
		name, reason string // no reason: it is not refused
		edit         func(d *draft)
	}{
		{"as it should be", "", func(d *draft) {}},
		{"refusal", `the request is rejected, transaction not permitted or supported ("no "): ask`, func(d *draft) {
			d.status = status{2, []asn1.RawValue{text("no ")}, asn1.BitString{Bytes: []byte{0x20}, BitLength: 3}}
		}},
		{"long refusal", strings.Repeat("x", 199) + `")`, func(d *draft) {
			d.status = status{Status: 2, Text: []asn1.RawValue{text(strings.Repeat("x", 199) + "éé")}}
		}},
		{"modified", "granted with modifications", func(d *draft) { d.status.Status = 1 }},
		{"failure of what was granted", "failInfo", func(d *draft) { d.status.Failure = asn1.BitString{Bytes: []byte{0x20}, BitLength: 3} }},
		{"text", "", func(d *draft) { d.status.Text = []asn1.RawValue{text("Granted."), text("é")} }},
		{"text that is none", "statusString", func(d *draft) { d.status.Text = []asn1.RawValue{text("\xff")} }},
		{"text of another type", "statusString", func(d *draft) {
			d.status.Text = []asn1.RawValue{{Tag: asn1.TagPrintableString, Bytes: []byte("Granted")}}
		}},
		{"type of token", "timeStampToken", func(d *draft) { d.tokenType = oidData }},
		{"version", "version of SignedData", func(d *draft) { d.version = 1 }},
		{"no digest algorithm", "digestAlgorithms", func(d *draft) { d.digestAlgorithms = nil }},
		{"two digest algorithms", "digestAlgorithms", func(d *draft) { d.digestAlgorithms = append(d.digestAlgorithms, d.digestAlgorithms[0]) }},
		{"another digest algorithm", "signerInfo", func(d *draft) { d.digestAlgorithms[0].Algorithm = oidSHA384 }},
		{"NULL", "", func(d *draft) {
			d.digestAlgorithms[0].Parameters, d.hash.Parameters, d.signature.Parameters = null, null, null
		}},
		{"parameters", "digestAlgorithms", func(d *draft) { d.digestAlgorithms[0].Parameters = text("x") }},
		{"type of content", "encapContentInfo", func(d *draft) { d.contentType = oidData }},
		{"no certificate", "no certificate, which was asked for", func(d *draft) { d.certificates = nil }},
		{"no certificate of the signer", "no certificate of its signer", func(d *draft) { d.certificates = d.certificates[1:] }},
		{"many certificates", "it has 12 certificates", func(d *draft) {
			for range 10 {
				d.certificates = append(d.certificates, a.intermediate.Certificate)
			}
		}},
		{"an unrelated certificate", "issued no other", func(d *draft) { d.certificates = append(d.certificates, other.root.Certificate) }},
		{"a certificate that is none", "certificates: x509", func(d *draft) { d.certificates[1] = &x509.Certificate{Raw: []byte{0x30, 0}} }},
		{"revocation lists", "revocation lists", func(d *draft) { d.lists = wrap(asn1.ClassContextSpecific, 1, nil) }},
		{"nobody signs", "signerInfos", func(d *draft) { d.signatures = 0 }},
		{"two sign", "signerInfos", func(d *draft) { d.signatures = 2 }},
		{"version of signer", "sid", func(d *draft) { d.signerVersion = 3 }},
		{"another serial number", "no certificate of its signer", func(d *draft) { d.serial = big.NewInt(99999) }},
		{"SHA-1", "algorithm that is not taken", func(d *draft) { d.digestAlgorithms[0].Algorithm, d.hash.Algorithm = oidSHA1, oidSHA1 }},
		{"ECDSA with SHA-1", "algorithm that is not taken", func(d *draft) { d.signature.Algorithm = oidECDSA1 }},
		{"unsigned attributes", "unsigned attributes", func(d *draft) { d.unsigned = wrap(asn1.ClassContextSpecific, 1, nil) }},
		{"no signed attributes", "signerInfo", func(d *draft) { d.attributes = func([]attribute) []attribute { return nil } }},
		{"unsorted attributes", "order of signedAttrs", func(d *draft) { d.unsorted = true }},
		{"an attribute twice", "one twice", func(d *draft) { d.attributes = also(oidType, oidData) }},
		{"unknown attribute", "", func(d *draft) { d.attributes = also(oidSomething, 1) }},
		{"no type", "contentType", func(d *draft) { d.attributes = replace(oidType) }},
		{"another type", "contentType", func(d *draft) { d.attributes = replace(oidType, oidData) }},
		{"two types", "contentType", func(d *draft) { d.attributes = replace(oidType, oidInfo, oidInfo) }},
		{"an attribute of three parts", "signedAttrs", func(d *draft) {
			d.attributes = func(attributes []attribute) []attribute {
				return append(attributes, attribute{oidSomething, []any{1}, 1})
			}
		}},
		{"no digest", "messageDigest", func(d *draft) { d.attributes = replace(oidDigest) }},
		{"two digests", "messageDigest", func(d *draft) { d.attributes = replace(oidDigest, digest[:], digest[:]) }},
		{"another digest", "what is stamped is not what is signed", func(d *draft) { d.attributes = replace(oidDigest, digest[:]) }},
		{"signer not named", "does not say which certificate", func(d *draft) { d.attributes = replace(oidSignerV2) }},
		{"another signer named", "under another certificate", func(d *draft) { d.attributes = replace(oidSignerV2, names(digest[:])) }},
		{"signer named by SHA-1", "", func(d *draft) {
			id := sha1.Sum(a.signer.Raw)
			d.attributes = also(oidSigner, names(id[:]))
		}},
		{"another signer also named", "under another certificate", func(d *draft) { d.attributes = also(oidSigner, names(digest[:20])) }},
		{"content", "TSTInfo", func(d *draft) { d.afterInfo = []byte{5, 0} }},
		{"version of content", "TSTInfo", func(d *draft) { d.info.Version = 2 }},
		{"extension", "", func(d *draft) { d.info.Extensions = []pkix.Extension{{Id: oidSomething, Value: []byte{}}} }},
		{"critical extension", "critical extension 1.2.3.4", func(d *draft) {
			d.info.Extensions = []pkix.Extension{{Id: oidSomething, Critical: true, Value: []byte{}}}
		}},
		{"another hash", "SHA-384 and not a SHA-256", func(d *draft) { d.info.Imprint.Algorithm.Algorithm = oidSHA384 }},
		{"another imprint", "belongs to something else", func(d *draft) { d.info.Imprint.Digest = make([]byte, 32) }},
		{"expired then", "certificate has expired", func(d *draft) { d.info.Time = d.info.Time.Add(48 * time.Hour) }},
		{"not yet valid then", "not yet valid", func(d *draft) { d.info.Time = d.info.Time.Add(-48 * time.Hour) }},
	} {
		response := a.respond(c.edit)
		_, _, err := stamp.Verify(response, digest, must(stamp.RootsFromPEM(a.rootPEM())))
		if c.reason != "" {
			t.Run(c.name, func(t *testing.T) { refused(t, err, c.reason) })
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := verification.VerifyTimestampResponse(response, bytes.NewReader(artifact), verification.VerifyOpts{Roots: []*x509.Certificate{a.root.Certificate}}); err != nil {
			t.Errorf("%s: Sigstore's library: %v", c.name, err)
		}
	}
}

// TestSigner: certificates that must not sign time stamps.
func TestSigner(t *testing.T) {
	for _, c := range []struct {
		name, reason string
		edit         func(c *x509.Certificate)
	}{
		{"no extended key usage", "not for time stamps alone", func(c *x509.Certificate) { c.ExtraExtensions = nil }},
		{"not critical", "not critically so", func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false }},
		{"another usage too", "not for time stamps alone", func(c *x509.Certificate) {
			c.ExtraExtensions, c.ExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping, x509.ExtKeyUsageCodeSigning}
		}},
		{"an unknown usage too", "not for time stamps alone", func(c *x509.Certificate) {
			c.ExtraExtensions, c.ExtKeyUsage, c.UnknownExtKeyUsage = nil, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}, []asn1.ObjectIdentifier{oidSomething}
		}},
		{"an authority", "for more than time stamps", func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }},
		{"key usage", "for more than time stamps", func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageKeyEncipherment }},
	} {
		template := signerTemplate()
		c.edit(&template)
		a := newTSA(template)
		_, _, err := stamp.Verify(a.respond(nil), digest, must(stamp.RootsFromPEM(a.rootPEM())))
		t.Run(c.name, func(t *testing.T) { refused(t, err, c.reason) })
	}
}

// TestIssuer: an authority that must not issue such certificates.
func TestIssuer(t *testing.T) {
	a := newTSA(signerTemplate())
	template := authorityTemplate("test intermediate")
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	a.intermediate = issue(template, &a.root)
	a = a.with(signerTemplate())
	_, _, err := stamp.Verify(a.respond(nil), digest, must(stamp.RootsFromPEM(a.rootPEM())))
	refused(t, err, "incompatible key usage")
}

// TestAlgorithmsBelongTogether: an ECDSA signature names its hash, which is that of the attributes.
func TestAlgorithmsBelongTogether(t *testing.T) {
	a := newTSA(signerTemplate())
	response := a.respond(func(d *draft) { d.digestAlgorithms[0].Algorithm, d.hash.Algorithm = oidSHA384, oidSHA384 })
	_, _, err := stamp.Verify(response, digest, must(stamp.RootsFromPEM(a.rootPEM())))
	refused(t, err, "digest 2.16.840.1.101.3.4.2.2, signature 1.2.840.10045.4.3.2")
}

func TestRoots(t *testing.T) {
	a := newTSA(signerTemplate())
	for name, data := range map[string][]byte{
		"nothing":             nil,
		"text":                []byte("certificate"),
		"a key":               bytes.ReplaceAll(a.rootPEM(), []byte("CERTIFICATE"), []byte("PRIVATE KEY")),
		"cut off":             a.rootPEM()[:200],
		"a second, cut off":   append(a.rootPEM(), a.rootPEM()[:200]...),
		"something in base64": []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
	} {
		if _, err := stamp.RootsFromPEM(data); err == nil || !strings.HasPrefix(err.Error(), "roots of time-stamp authorities: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "{", `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`} {
		if _, err := stamp.RootsFromTrustedRoot([]byte(text)); err == nil || !strings.HasPrefix(err.Error(), "roots of time-stamp authorities: ") {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestTrustedRoot: an authority of a trusted root is believed for its certificates, also one signer
// alone, and for its time.
func TestTrustedRoot(t *testing.T) {
	a, other := newTSA(signerTemplate()), newTSA(signerTemplate())
	second := a.with(signerTemplate())
	now := time.Now()
	authority := func(a *tsa, start, end time.Time) root.TimestampingAuthority {
		return &root.SigstoreTimestampingAuthority{Root: a.root.Certificate, Intermediates: []*x509.Certificate{a.intermediate.Certificate},
			Leaf: a.signer.Certificate, ValidityPeriodStart: start, ValidityPeriodEnd: end}
	}
	past, future := now.Add(-time.Hour), now.Add(time.Hour)
	for _, c := range []struct {
		name, reason string
		by           *tsa
		authorities  []root.TimestampingAuthority
	}{
		{"the one", "", a, []root.TimestampingAuthority{authority(a, past, future)}},
		{"without an end", "", a, []root.TimestampingAuthority{authority(a, past, time.Time{})}},
		{"one of two", "", a, []root.TimestampingAuthority{authority(other, past, future), authority(a, past, future)}},
		{"another", "signs with another certificate", a, []root.TimestampingAuthority{authority(other, past, future)}},
		{"two others", "none of 2 authorities", a, []root.TimestampingAuthority{authority(other, past, future), authority(second, past, future)}},
		{"another signer of the same", "signs with another certificate", second, []root.TimestampingAuthority{authority(a, past, future)}},
		{"before", "not trusted for that time", a, []root.TimestampingAuthority{authority(a, future, time.Time{})}},
		{"after", "not trusted for that time", a, []root.TimestampingAuthority{authority(a, past.Add(-time.Hour), past)}},
	} {
		trusted := must(root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, c.authorities, nil))
		roots := must(stamp.RootsFromTrustedRoot(must(trusted.MarshalJSON())))
		// Only the trusted root has the intermediate.
		_, _, err := stamp.Verify(c.by.respond(func(d *draft) { d.certificates = d.certificates[:1] }), digest, roots)
		if c.reason != "" {
			t.Run(c.name, func(t *testing.T) { refused(t, err, c.reason) })
		} else if err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
