package stamp

import (
	"bytes"
	"crypto"
	_ "crypto/sha1" // of a certificate, in signingCertificate
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/digitorus/timestamp"
	"golang.org/x/crypto/cryptobyte"
	tags "golang.org/x/crypto/cryptobyte/asn1"
)

// Verify says when, in UTC, and by whom, the subject of a certificate, it was stamped that digest, a
// SHA-256, exists. Certificates are judged as of that time: what was a valid time stamp stays one.
// Errors are of type [*InvalidError], but for empty roots.
func Verify(response []byte, digest [32]byte, roots Roots) (at time.Time, signer string, err error) {
	if len(roots.anchors) == 0 {
		return time.Time{}, "", errors.New("verify a time stamp: no roots: give the certificates of the authorities that are believed")
	}
	at, signer, err = open(response, digest, nil, roots)
	if refusal, ok := errors.AsType[*refusedError](err); ok {
		err = refusal.asInvalid()
	}
	return at, signer, err
}

// open verifies a response: without roots only for form, and without a nonce for any request.
func open(response []byte, digest [32]byte, nonce *big.Int, roots Roots) (time.Time, string, error) {
	at, signer, err := verify(response, digest, nonce, roots)
	if err != nil {
		return time.Time{}, "", err
	}
	return at, signer.Subject.String(), nil
}

func verify(response []byte, digest [32]byte, nonce *big.Int, roots Roots) (at time.Time, signer *x509.Certificate, err error) {
	if len(response) > MaxResponse {
		return at, nil, invalid("it has more than %d bytes: it is something else", MaxResponse)
	}
	d, err := parse(response)
	if err != nil {
		return at, nil, err
	}
	if err := d.checkAttributes(); err != nil {
		return at, nil, err
	}
	if d.signer.CheckSignature(d.algorithm, d.attributes, d.signature) != nil {
		return at, nil, invalid("its signature does not verify: it was damaged or altered")
	}
	stamp, err := timestamp.ParseResponse(response) // verifies the signature too, of what it makes of these bytes
	if err != nil {
		return at, nil, malformed(err.Error())
	}
	if err := checkContent(d.content, stamp, digest, nonce); err != nil {
		return at, nil, err
	}
	if err := checkUsage(d.signer); err != nil {
		return at, nil, err
	}
	believed := roots
	if len(roots.anchors) == 0 {
		believed = Roots{[]anchor{{roots: d.certificates}}} // of the times and usages alone
	}
	if err := believed.verify(d.signer, d.certificates, stamp.Time); err != nil {
		return at, nil, &InvalidError{Untrusted: true, Reason: fmt.Sprintf("the certificate of its signer, %q, is not to be believed at its time, %s: %v: see whether the roots are those of this authority",
			d.signer.Subject, stamp.Time.UTC().Format(time.RFC3339), err)}
	}
	if err := checkOthers(d, roots.certificates()); err != nil {
		return at, nil, err
	}
	return stamp.Time.UTC(), d.signer, nil
}

// checkAttributes holds the signed attributes against what they are about: the content and its
// type, and the certificate of the signer.
func (d *signedData) checkAttributes() error {
	attributes, err := parseAttributes(d.attributes)
	if err != nil {
		return err
	}
	content, digest := attributes[oidContentType.String()], attributes[oidMessageDigest.String()]
	var contentType asn1.ObjectIdentifier
	var hashed cryptobyte.String
	// SPEC: RFC 5652, section 11.1: the content-type attribute "MUST match the SignedData encapContentInfo eContentType".
	if !content.ReadASN1ObjectIdentifier(&contentType) || !content.Empty() || !contentType.Equal(oidTSTInfo) {
		return malformed("attribute contentType")
	}
	if !digest.ReadASN1(&hashed, tags.OCTET_STRING) || !digest.Empty() {
		return malformed("attribute messageDigest")
	}
	if !bytes.Equal(hashed, sum(d.hash, d.content)) {
		return invalid("what is stamped is not what is signed: it was damaged or altered")
	}
	// SPEC: RFC 3161, section 2.4.2, and RFC 5816: the certificate identifier "MUST be included as a
	// signerInfo attribute inside a SigningCertificate attribute", or SigningCertificateV2.
	v1, hasV1 := attributes[oidSigningCertificate.String()]
	v2, hasV2 := attributes[oidSigningCertificateV2.String()]
	if !hasV1 && !hasV2 {
		return invalid("it does not say which certificate its signer uses: choose another authority")
	}
	if hasV1 && !names(v1, false, d.signer) || hasV2 && !names(v2, true, d.signer) {
		return invalid("it was signed under another certificate than the one in it: it was altered")
	}
	return nil
}

// parseAttributes returns the values of attributes, a SET OF Attribute, by their types.
func parseAttributes(in cryptobyte.String) (map[string]cryptobyte.String, error) {
	attributes := map[string]cryptobyte.String{}
	var set, previous cryptobyte.String
	if !in.ReadASN1(&set, tags.SET) {
		return nil, malformed("signedAttrs")
	}
	for !set.Empty() {
		var element, attribute, values cryptobyte.String
		var kind asn1.ObjectIdentifier
		if !set.ReadASN1Element(&element, tags.SEQUENCE) {
			return nil, malformed("signedAttrs")
		}
		// SPEC: RFC 5652, section 5.3: "SignedAttributes MUST be DER encoded": the order is that of the encodings.
		if bytes.Compare(previous, element) >= 0 {
			return nil, malformed("order of signedAttrs")
		}
		previous = element
		if !element.ReadASN1(&attribute, tags.SEQUENCE) || !attribute.ReadASN1ObjectIdentifier(&kind) ||
			!attribute.ReadASN1(&values, tags.SET) || !attribute.Empty() {
			return nil, malformed("signedAttrs")
		}
		if _, ok := attributes[kind.String()]; ok {
			return nil, malformed("signedAttrs: one twice")
		}
		attributes[kind.String()] = values
	}
	return attributes, nil
}

// names says whether the first certificate that a SigningCertificate or SigningCertificateV2
// (RFC 5035, sections 5.4 and 3) names is this one. What else it says is signed and not needed.
func names(value cryptobyte.String, v2 bool, certificate *x509.Certificate) bool {
	var list, ids, id, hashed cryptobyte.String
	hash := crypto.SHA1
	if !value.ReadASN1(&list, tags.SEQUENCE) || !value.Empty() || !list.ReadASN1(&ids, tags.SEQUENCE) || !ids.ReadASN1(&id, tags.SEQUENCE) {
		return false
	}
	if v2 {
		oid := hashes[0].oid // SPEC: DEFAULT {algorithm id-sha256}
		if id.PeekASN1Tag(tags.SEQUENCE) && !readAlgorithm(&id, &oid) {
			return false
		}
		hash = 0
		for _, h := range hashes {
			if h.oid.Equal(oid) {
				hash = h.hash
			}
		}
	}
	return hash != 0 && id.ReadASN1(&hashed, tags.OCTET_STRING) && bytes.Equal(hashed, sum(hash, certificate.Raw))
}

func sum(hash crypto.Hash, data []byte) []byte {
	h := hash.New()
	h.Write(data)
	return h.Sum(nil)
}

// checkContent holds a TSTInfo, as encoded and as read, against what was asked for.
func checkContent(content []byte, stamp *timestamp.Timestamp, digest [32]byte, nonce *big.Int) error {
	in := cryptobyte.String(content)
	var info cryptobyte.String
	var version int
	if !in.ReadASN1(&info, tags.SEQUENCE) || !in.Empty() || !info.ReadASN1Integer(&version) || version != 1 {
		return malformed("TSTInfo")
	}
	for _, extension := range stamp.Extensions {
		if extension.Critical {
			return invalid("it has a critical extension %v, whose meaning is not known: choose another authority", extension.Id)
		}
	}
	if stamp.HashAlgorithm != crypto.SHA256 {
		return invalid("it is about a %v and not a SHA-256: it belongs to something else", stamp.HashAlgorithm)
	}
	if !bytes.Equal(stamp.HashedMessage, digest[:]) {
		return invalid("it is about the digest %x and not %x: it belongs to something else, or what was stamped has changed since", stamp.HashedMessage, digest)
	}
	// SPEC: RFC 3161, section 2.4.2: the nonce "MUST be present if it was present in TimeStampReq [and] MUST equal" it.
	if nonce != nil && (stamp.Nonce == nil || stamp.Nonce.Cmp(nonce) != 0) {
		return invalid("it answers another request, as its nonce shows: somebody plays back an old answer, or the authority is broken")
	}
	return nil
}

var oidExtendedKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}

// checkUsage says whether a certificate is for time stamps, and for nothing else.
func checkUsage(c *x509.Certificate) error {
	// SPEC: RFC 3161, section 2.3: "only one instance of the extended key usage field extension ...
	// with KeyPurposeID having value: id-kp-timeStamping. This extension MUST be critical."
	if len(c.ExtKeyUsage) != 1 || c.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping || len(c.UnknownExtKeyUsage) > 0 {
		return invalid("the certificate of its signer, %q, is not for time stamps alone: choose another authority", c.Subject)
	}
	for _, extension := range c.Extensions {
		if extension.Id.Equal(oidExtendedKeyUsage) && !extension.Critical {
			return invalid("the certificate of its signer, %q, is for time stamps, but not critically so: choose another authority", c.Subject)
		}
	}
	if c.IsCA || c.KeyUsage&^(x509.KeyUsageDigitalSignature|x509.KeyUsageContentCommitment) != 0 {
		return invalid("the certificate of its signer, %q, is for more than time stamps: choose another authority", c.Subject)
	}
	return nil
}

// checkOthers says whether the certificates beside that of the signer issued one another, as far
// as those who issued them are known. They are not believed for that; but no bit of them changes.
func checkOthers(d *signedData, roots []*x509.Certificate) error {
	known := slices.Concat(d.certificates, roots)
	for _, c := range d.certificates {
		if c == d.signer {
			continue
		}
		// An issuer is named twice, but for those of roots, which RFC 5280, section 4.2.1.1, excepts: so
		// that a name that was altered does not make it an unknown one.
		named, issued, used := len(c.AuthorityKeyId) == 0, false, false
		for _, k := range known {
			if bytes.Equal(k.RawSubject, c.RawIssuer) || len(k.SubjectKeyId) > 0 && bytes.Equal(k.SubjectKeyId, c.AuthorityKeyId) {
				named = true
				issued = issued || signed(k, c)
			}
			used = used || !k.Equal(c) && bytes.Equal(k.RawIssuer, c.RawSubject) && signed(c, k)
		}
		if !used {
			return invalid("it has a certificate of %q that issued no other: it was altered, or choose another authority", c.Subject)
		}
		if named && !issued {
			return invalid("it has a certificate of %q that its issuer did not sign: it was altered, or the roots lack the issuer", c.Subject)
		}
	}
	return nil
}

// signed says whether issuer signed c, be it with SHA-1: a root may be old.
func signed(issuer, c *x509.Certificate) bool {
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}
