package stamp_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"slices"
	"time"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// artifact is what is stamped in tests, also in those that are recorded.
var (
	artifact = []byte("understudy\n")
	digest   = sha256.Sum256(artifact)
)

// issued is a certificate with its key.
type issued struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

var serials int64

// issue certifies a key of template, by the parent or, without one, by itself.
func issue(template x509.Certificate, parent *issued) issued {
	serials++
	template.SerialNumber = big.NewInt(serials)
	if template.NotBefore.IsZero() {
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	}
	return certify(template, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), parent)
}

func certify(template x509.Certificate, key *ecdsa.PrivateKey, parent *issued) issued {
	if parent == nil {
		parent = &issued{&template, key}
	}
	der := must(x509.CreateCertificate(rand.Reader, &template, parent.Certificate, key.Public(), parent.key))
	return issued{must(x509.ParseCertificate(der)), key}
}

func authorityTemplate(name string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

// signerTemplate is that of a TSA's certificate. RFC 3161 wants its extended key usage critical.
func signerTemplate() x509.Certificate {
	usage := must(asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}}))
	return x509.Certificate{
		Subject:         pkix.Name{CommonName: "test time stamps"},
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: usage}},
	}
}

// tsa is a time-stamp authority with an intermediate certificate.
type tsa struct{ root, intermediate, signer issued }

func newTSA(signer x509.Certificate) *tsa {
	root := issue(authorityTemplate("test root"), nil)
	intermediate := issue(authorityTemplate("test intermediate"), &root)
	return &tsa{root, intermediate, issue(signer, &intermediate)}
}

// with is the authority with another certificate to sign with.
func (a *tsa) with(signer x509.Certificate) *tsa {
	return &tsa{a.root, a.intermediate, issue(signer, &a.intermediate)}
}

func (a *tsa) rootPEM() []byte { return pemOf(a.root.Certificate) }

func pemOf(certificates ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certificates {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

var (
	oidSHA1      = asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	oidSHA256    = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	oidSHA384    = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidECDSA     = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 2}
	oidECDSA1    = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
	oidSigned    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}
	oidData      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1}
	oidInfo      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 1, 4}
	oidType      = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 3}
	oidDigest    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 4}
	oidSigner    = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 12}
	oidSignerV2  = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 16, 2, 47}
	oidSomething = asn1.ObjectIdentifier{1, 2, 3, 4}
)

// draft is a response before it is signed and encoded. A test changes it, to be wrong.
type draft struct {
	status           status
	tokenType        asn1.ObjectIdentifier
	version          int
	digestAlgorithms []pkix.AlgorithmIdentifier
	contentType      asn1.ObjectIdentifier
	info             tstInfo
	afterInfo        []byte // in the signed content
	certificates     []*x509.Certificate
	lists            []byte // of revoked certificates, encoded
	signerVersion    int
	serial           *big.Int
	hash             pkix.AlgorithmIdentifier
	attributes       func(attributes []attribute) []attribute
	unsorted         bool
	signature        pkix.AlgorithmIdentifier
	unsigned         []byte // attributes, encoded
	signatures       int
}

type status struct {
	Status  int
	Text    []asn1.RawValue `asn1:"optional,omitempty"`
	Failure asn1.BitString  `asn1:"optional"`
}

type tstInfo struct {
	Version int
	Policy  asn1.ObjectIdentifier
	Imprint struct {
		Algorithm pkix.AlgorithmIdentifier
		Digest    []byte
	}
	Serial     int
	Time       time.Time        `asn1:"generalized"`
	Nonce      *big.Int         `asn1:"optional"`
	Extensions []pkix.Extension `asn1:"tag:1,optional,omitempty"`
}

type attribute struct {
	Type   asn1.ObjectIdentifier
	Values []any `asn1:"set"`
	More   int   `asn1:"optional"`
}

// respond returns a response about the test's artifact, changed by edit.
func (a *tsa) respond(edit func(d *draft)) []byte {
	d := &draft{
		tokenType:        oidSigned,
		version:          3,
		digestAlgorithms: []pkix.AlgorithmIdentifier{{Algorithm: oidSHA256}},
		contentType:      oidInfo,
		info:             tstInfo{Version: 1, Policy: oidSomething, Serial: 1, Time: time.Now().UTC()},
		certificates:     []*x509.Certificate{a.signer.Certificate, a.intermediate.Certificate},
		signerVersion:    1,
		serial:           a.signer.SerialNumber,
		hash:             pkix.AlgorithmIdentifier{Algorithm: oidSHA256},
		signature:        pkix.AlgorithmIdentifier{Algorithm: oidECDSA},
		signatures:       1,
	}
	d.info.Imprint.Algorithm.Algorithm, d.info.Imprint.Digest = oidSHA256, digest[:]
	if edit != nil {
		edit(d)
	}
	content := append(must(asn1.Marshal(d.info)), d.afterInfo...)
	hash, id := sha256.Sum256(content), sha256.Sum256(a.signer.Raw)
	attributes := []attribute{{oidType, []any{oidInfo}, 0}, {oidDigest, []any{hash[:]}, 0}, {oidSignerV2, []any{names(id[:])}, 0}}
	if d.attributes != nil {
		attributes = d.attributes(attributes)
	}
	signed, signature := a.sign(attributes, d.unsorted)
	signer := [][]byte{
		must(asn1.Marshal(d.signerVersion)),
		sequence(a.signer.RawIssuer, must(asn1.Marshal(d.serial))),
		must(asn1.Marshal(d.hash)),
		wrap(asn1.ClassContextSpecific, 0, signed),
		must(asn1.Marshal(d.signature)),
		must(asn1.Marshal(signature)),
		d.unsigned,
	}
	if signed == nil {
		signer[3] = nil
	}
	var certificates []byte
	for _, c := range d.certificates {
		certificates = append(certificates, c.Raw...)
	}
	if d.certificates != nil {
		certificates = wrap(asn1.ClassContextSpecific, 0, certificates)
	}
	return sequence(
		must(asn1.Marshal(d.status)),
		sequence(must(asn1.Marshal(d.tokenType)), wrap(asn1.ClassContextSpecific, 0, sequence(
			must(asn1.Marshal(d.version)),
			must(asn1.MarshalWithParams(d.digestAlgorithms, "set")),
			sequence(must(asn1.Marshal(d.contentType)), wrap(asn1.ClassContextSpecific, 0, must(asn1.Marshal(content)))),
			certificates,
			d.lists,
			wrap(asn1.ClassUniversal, asn1.TagSet, bytes.Repeat(sequence(signer...), d.signatures)),
		))),
	)
}

// sign returns the content of signed attributes, and the signature over it.
func (a *tsa) sign(attributes []attribute, unsorted bool) (signed, signature []byte) {
	var encoded [][]byte
	for _, attribute := range attributes {
		encoded = append(encoded, must(asn1.Marshal(attribute)))
	}
	slices.SortFunc(encoded, bytes.Compare)
	if unsorted {
		slices.Reverse(encoded)
	}
	signed = slices.Concat(encoded...)
	hash := sha256.Sum256(wrap(asn1.ClassUniversal, asn1.TagSet, signed))
	return signed, must(a.signer.key.Sign(rand.Reader, hash[:], crypto.SHA256))
}

// names is a SigningCertificateV2 that names a certificate by its SHA-256, or a
// SigningCertificate that does by its SHA-1.
func names(hash []byte) asn1.RawValue {
	return asn1.RawValue{FullBytes: sequence(sequence(sequence(must(asn1.Marshal(hash)))))}
}

func sequence(parts ...[]byte) []byte {
	return wrap(asn1.ClassUniversal, asn1.TagSequence, slices.Concat(parts...))
}

func wrap(class, tag int, content []byte) []byte {
	return must(asn1.Marshal(asn1.RawValue{Class: class, Tag: tag, IsCompound: true, Bytes: content}))
}

func text(s string) asn1.RawValue {
	return asn1.RawValue{Tag: asn1.TagUTF8String, Bytes: []byte(s)}
}
