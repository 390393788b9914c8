package stamp

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/asn1"
	"math/big"
	"slices"
	"unicode/utf8"

	"github.com/digitorus/timestamp"
	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

// maxCertificates bounds the work that the certificates in a response can cause.
const maxCertificates = 10

var (
	oidSignedData           = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidTSTInfo              = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidContentType          = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidMessageDigest        = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigningCertificate   = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSigningCertificateV2 = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}

	oidRSA = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 1}
)

// hashes are those that a signer may use, with the ways to sign.
var hashes = []struct {
	hash               crypto.Hash
	oid                asn1.ObjectIdentifier
	oidRSA, oidECDSA   asn1.ObjectIdentifier
	withRSA, withECDSA x509.SignatureAlgorithm
}{
	{crypto.SHA256, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 11},
		asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}, x509.SHA256WithRSA, x509.ECDSAWithSHA256},
	{crypto.SHA384, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 12},
		asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}, x509.SHA384WithRSA, x509.ECDSAWithSHA384},
	{crypto.SHA512, asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}, asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 1, 13},
		asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 4}, x509.SHA512WithRSA, x509.ECDSAWithSHA512},
}

// signedData is what a response holds: the content that is stamped, and who signed it.
type signedData struct {
	content      []byte // a TSTInfo
	certificates []*x509.Certificate
	signer       *x509.Certificate // one of them
	hash         crypto.Hash
	algorithm    x509.SignatureAlgorithm
	attributes   []byte // what is signed: a SET OF Attribute
	signature    []byte
}

// parse reads a response whose bytes are all accounted for: each is covered by the signature, has
// the one value that it may have, or is one of those in the package's documentation. Nothing is
// verified yet.
//
// SPEC: RFC 3161, section 3.4: an HTTP answer is "the ASN.1 DER-encoded Time-Stamp Response message".
func parse(response []byte) (*signedData, error) {
	in := cryptobyte.String(response)
	var resp, status, info, wrapped, content cryptobyte.String
	var contentType asn1.ObjectIdentifier
	if !in.ReadASN1(&resp, tags.SEQUENCE) || !in.Empty() || !resp.ReadASN1(&status, tags.SEQUENCE) {
		return nil, malformed("TimeStampResp")
	}
	if err := parseStatus(status); err != nil {
		return nil, err
	}
	if !resp.ReadASN1(&info, tags.SEQUENCE) || !resp.Empty() || !info.ReadASN1ObjectIdentifier(&contentType) || !contentType.Equal(oidSignedData) ||
		!info.ReadASN1(&wrapped, explicit(0)) || !info.Empty() || !wrapped.ReadASN1(&content, tags.SEQUENCE) || !wrapped.Empty() {
		return nil, malformed("timeStampToken")
	}
	return parseSignedData(content)
}

func explicit(tag uint8) tags.Tag { return tags.Tag(tag).Constructed().ContextSpecific() }

// parseStatus reads a PKIStatusInfo. All but granted is a refusal: with modifications would not be
// what was asked for.
func parseStatus(status cryptobyte.String) error {
	var code int
	var text, failure cryptobyte.String
	var hasText, hasFailure bool
	if !status.ReadASN1Integer(&code) || !status.ReadOptionalASN1(&text, &hasText, tags.SEQUENCE) ||
		!status.ReadOptionalASN1(&failure, &hasFailure, tags.BIT_STRING) || !status.Empty() || hasText && text.Empty() {
		return malformed("status")
	}
	refusal := &refusedError{status: timestamp.Status(code), failure: timestamp.UnknownFailureInfo}
	for !text.Empty() {
		var line cryptobyte.String
		if !text.ReadASN1(&line, tags.UTF8String) || !utf8.Valid(line) {
			return malformed("statusString")
		}
		refusal.text = append(refusal.text, string(line))
	}
	if code == int(timestamp.Granted) {
		if hasFailure {
			return malformed("failInfo")
		}
		return nil
	}
	if hasFailure && len(failure) > 0 {
		bits := asn1.BitString{Bytes: failure[1:], BitLength: 8 * (len(failure) - 1)}
		for _, f := range []timestamp.FailureInfo{timestamp.BadAlgorithm, timestamp.BadRequest, timestamp.BadDataFormat, timestamp.TimeNotAvailable,
			timestamp.UnacceptedPolicy, timestamp.UnacceptedExtension, timestamp.AddInfoNotAvailable, timestamp.SystemFailure} {
			if bits.At(int(f)) != 0 {
				refusal.failure = f
			}
		}
	}
	return refusal
}

// parseSignedData reads the content of a SignedData (RFC 5652, section 5.1) that is a time-stamp token.
func parseSignedData(in cryptobyte.String) (*signedData, error) {
	var version int
	var algorithms, info, wrapped, content, certificates, infos, signerInfo cryptobyte.String
	var digest, contentType asn1.ObjectIdentifier
	var hasCertificates bool
	// SPEC: RFC 5652, section 5.1: the version is 3, as the content is not id-data and all certificates are X.509.
	if !in.ReadASN1Integer(&version) || version != 3 {
		return nil, malformed("version of SignedData")
	}
	if !in.ReadASN1(&algorithms, tags.SET) || !readAlgorithm(&algorithms, &digest) || !algorithms.Empty() {
		return nil, malformed("digestAlgorithms")
	}
	if !in.ReadASN1(&info, tags.SEQUENCE) || !info.ReadASN1ObjectIdentifier(&contentType) || !contentType.Equal(oidTSTInfo) ||
		!info.ReadASN1(&wrapped, explicit(0)) || !info.Empty() || !wrapped.ReadASN1(&content, tags.OCTET_STRING) || !wrapped.Empty() {
		return nil, malformed("encapContentInfo")
	}
	if !in.ReadOptionalASN1(&certificates, &hasCertificates, explicit(0)) {
		return nil, malformed("certificates")
	}
	if !hasCertificates {
		return nil, invalid("it has no certificate, which was asked for: choose another authority")
	}
	if in.PeekASN1Tag(explicit(1)) {
		return nil, invalid("it has revocation lists, which no signature covers: choose another authority")
	}
	// SPEC: RFC 3161, section 2.4.2: a token "MUST NOT contain any signatures other than the signature of the TSA".
	if !in.ReadASN1(&infos, tags.SET) || !in.Empty() || !infos.ReadASN1(&signerInfo, tags.SEQUENCE) || !infos.Empty() {
		return nil, malformed("signerInfos")
	}
	d := &signedData{content: content}
	var err error
	if d.certificates, err = x509.ParseCertificates(certificates); err != nil {
		return nil, malformed("certificates: " + err.Error())
	}
	if len(d.certificates) > maxCertificates {
		return nil, invalid("it has %d certificates, more than %d: choose another authority", len(d.certificates), maxCertificates)
	}
	for _, c := range d.certificates {
		in := cryptobyte.String(c.Raw)
		var certificate cryptobyte.String
		if !in.ReadASN1(&certificate, tags.SEQUENCE) || !certificate.SkipASN1(tags.SEQUENCE) || !certificate.SkipASN1(tags.SEQUENCE) ||
			!certificate.SkipASN1(tags.BIT_STRING) || !certificate.Empty() { // crypto/x509 reads no further
			return nil, malformed("certificates: after a signature")
		}
	}
	return d, d.parseSigner(signerInfo, digest)
}

// parseSigner reads the content of a SignerInfo (RFC 5652, section 5.3).
func (d *signedData) parseSigner(in cryptobyte.String, digest asn1.ObjectIdentifier) error {
	var version int
	var id, issuer, attributes, signature cryptobyte.String
	var hash, algorithm asn1.ObjectIdentifier
	serial := new(big.Int)
	// SPEC: RFC 5652, section 5.3: version 1 names the signer by issuer and serial number.
	if !in.ReadASN1Integer(&version) || version != 1 || !in.ReadASN1(&id, tags.SEQUENCE) ||
		!id.ReadASN1Element(&issuer, tags.SEQUENCE) || !id.ReadASN1Integer(serial) || !id.Empty() {
		return malformed("sid")
	}
	if !readAlgorithm(&in, &hash) || !hash.Equal(digest) || !in.ReadASN1Element(&attributes, explicit(0)) ||
		!readAlgorithm(&in, &algorithm) || !in.ReadASN1(&signature, tags.OCTET_STRING) {
		return malformed("signerInfo")
	}
	if !in.Empty() {
		return invalid("it has unsigned attributes, which no signature covers: choose another authority")
	}
	if d.hash, d.algorithm = algorithms(hash, algorithm); d.algorithm == x509.UnknownSignatureAlgorithm {
		return invalid("it is signed with an algorithm that is not taken (digest %v, signature %v): choose an authority that uses SHA-2 with RSA (PKCS #1 v1.5) or ECDSA", hash, algorithm)
	}
	i := slices.IndexFunc(d.certificates, func(c *x509.Certificate) bool {
		return bytes.Equal(c.RawIssuer, issuer) && c.SerialNumber.Cmp(serial) == 0
	})
	if i < 0 {
		return invalid("it has no certificate of its signer, which was asked for: choose another authority")
	}
	d.signer, d.signature = d.certificates[i], signature
	// SPEC: RFC 5652, section 5.4: signed is "a separate encoding of the signedAttrs field", as a SET OF.
	d.attributes = slices.Clone(attributes)
	d.attributes[0] = byte(tags.SET)
	return nil
}

// algorithms returns how a signer hashed and signed, zero if that is not taken.
func algorithms(hash, algorithm asn1.ObjectIdentifier) (crypto.Hash, x509.SignatureAlgorithm) {
	for _, h := range hashes {
		switch {
		case !h.oid.Equal(hash):
		case algorithm.Equal(oidRSA), algorithm.Equal(h.oidRSA):
			return h.hash, h.withRSA
		case algorithm.Equal(h.oidECDSA):
			return h.hash, h.withECDSA
		}
	}
	return 0, x509.UnknownSignatureAlgorithm
}

// readAlgorithm reads an AlgorithmIdentifier that has no parameters, or NULL.
func readAlgorithm(in *cryptobyte.String, oid *asn1.ObjectIdentifier) bool {
	var algorithm, null cryptobyte.String
	var hasNull bool
	return in.ReadASN1(&algorithm, tags.SEQUENCE) && algorithm.ReadASN1ObjectIdentifier(oid) &&
		algorithm.ReadOptionalASN1(&null, &hasNull, tags.NULL) && null.Empty() && algorithm.Empty()
}
