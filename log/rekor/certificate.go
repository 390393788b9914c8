package rekor

import (
	"bytes"
	"net"
	"net/url"
	"unicode/utf8"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
)

// DER content of the object identifiers that are looked for.
var (
	oidSAN      = []byte{0x55, 0x1d, 0x11}                                           // 2.5.29.17
	oidIssuer   = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x01} // 1.3.6.1.4.1.57264.1.1
	oidIssuerV2 = []byte{0x2b, 0x06, 0x01, 0x04, 0x01, 0x83, 0xbf, 0x30, 0x01, 0x08} // 1.3.6.1.4.1.57264.1.8
)

// appendCertificateKeys appends the subject alternative names of a certificate and its
// issuer, as Fulcio states them, in the form that crypto/x509 and sigstore give them. It
// reads only what it needs, without crypto/x509, which takes ten times as long: a damaged
// certificate gives the names up to the damage. A test holds it against crypto/x509.
func appendCertificateKeys(keys []string, der []byte) []string {
	in := cryptobyte.String(der)
	var cert, tbs, extensions cryptobyte.String
	if !in.ReadASN1(&cert, asn1.SEQUENCE) || !cert.ReadASN1(&tbs, asn1.SEQUENCE) ||
		!tbs.SkipOptionalASN1(asn1.Tag(0).Constructed().ContextSpecific()) || // version
		!tbs.SkipASN1(asn1.INTEGER) || // serial number
		!tbs.SkipASN1(asn1.SEQUENCE) || // signature algorithm
		!tbs.SkipASN1(asn1.SEQUENCE) || // issuer
		!tbs.SkipASN1(asn1.SEQUENCE) || // validity
		!tbs.SkipASN1(asn1.SEQUENCE) || // subject
		!tbs.SkipASN1(asn1.SEQUENCE) || // public key
		!tbs.SkipOptionalASN1(asn1.Tag(1).ContextSpecific()) || // unique IDs
		!tbs.SkipOptionalASN1(asn1.Tag(2).ContextSpecific()) {
		return keys
	}
	var outer cryptobyte.String
	var present bool
	if !tbs.ReadOptionalASN1(&outer, &present, asn1.Tag(3).Constructed().ContextSpecific()) || !present ||
		!outer.ReadASN1(&extensions, asn1.SEQUENCE) {
		return keys
	}
	for !extensions.Empty() {
		var extension, oid, value cryptobyte.String
		if !extensions.ReadASN1(&extension, asn1.SEQUENCE) ||
			!extension.ReadASN1(&oid, asn1.OBJECT_IDENTIFIER) ||
			!extension.SkipOptionalASN1(asn1.BOOLEAN) || // critical
			!extension.ReadASN1(&value, asn1.OCTET_STRING) {
			return keys
		}
		switch {
		case bytes.Equal(oid, oidSAN):
			keys = appendNames(keys, value)
		case bytes.Equal(oid, oidIssuer):
			keys = append(keys, issuerKey(string(value)))
		case bytes.Equal(oid, oidIssuerV2):
			var issuer cryptobyte.String
			if value.ReadASN1(&issuer, asn1.UTF8String) && value.Empty() {
				keys = append(keys, issuerKey(string(issuer)))
			}
		}
	}
	return keys
}

// appendNames appends the general names of a subjectAltName (RFC 5280, section 4.2.1.6).
func appendNames(keys []string, san cryptobyte.String) []string {
	var names cryptobyte.String
	if !san.ReadASN1(&names, asn1.SEQUENCE) || !san.Empty() {
		return keys
	}
	for !names.Empty() {
		var name cryptobyte.String
		var tag asn1.Tag
		if !names.ReadAnyASN1(&name, &tag) {
			return keys
		}
		switch tag {
		case asn1.Tag(1).ContextSpecific(), asn1.Tag(2).ContextSpecific(): // e-mail, DNS
			if isASCII(name) {
				keys = append(keys, string(name))
			}
		case asn1.Tag(6).ContextSpecific():
			if key, ok := uriKey(name); ok {
				keys = append(keys, key)
			}
		case asn1.Tag(7).ContextSpecific():
			if len(name) == net.IPv4len || len(name) == net.IPv6len {
				keys = append(keys, net.IP(name).String())
			}
		case asn1.Tag(0).Constructed().ContextSpecific(): // otherName: type and [0] value
			var value, text cryptobyte.String
			if name.SkipASN1(asn1.OBJECT_IDENTIFIER) &&
				name.ReadASN1(&value, asn1.Tag(0).Constructed().ContextSpecific()) &&
				value.ReadASN1(&text, asn1.UTF8String) && utf8.Valid(text) {
				keys = append(keys, string(text))
			}
		}
	}
	return keys
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// uriKey returns a URI as url.URL writes it, which is what v1 indexes.
func uriKey(s []byte) (string, bool) {
	if !isASCII(s) {
		return "", false
	}
	if isPlainURL(s) {
		return string(s), true
	}
	u, err := url.Parse(string(s))
	if err != nil {
		return "", false
	}
	return u.String(), true
}

// isPlainURL says whether s is https://host/path of characters that url.URL writes as it
// read them. All workflow identities are.
func isPlainURL(s []byte) bool {
	rest, ok := bytes.CutPrefix(s, []byte("https://"))
	if !ok {
		return false
	}
	host, path, _ := bytes.Cut(rest, []byte("/"))
	for _, c := range host {
		if !isAlphanumeric(c) && c != '-' && c != '.' {
			return false
		}
	}
	for _, c := range path {
		if !isAlphanumeric(c) && bytes.IndexByte([]byte("-._~/@+"), c) < 0 {
			return false
		}
	}
	return len(host) > 0
}

func isAlphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
