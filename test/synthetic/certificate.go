package synthetic

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// certificate is what varies in a Fulcio leaf certificate.
type certificate struct {
	serial           []byte        // 20 bytes
	issued           time.Time     // valid for ten minutes
	delay            time.Duration // until the SCT
	key              []byte        // uncompressed P-256 point
	keyID            []byte        // 20 bytes
	sctR, sctS       []byte        // the SCT's signature, 32 bytes each
	issuerR, issuerS []byte        // the issuer's signature, 48 bytes each
	identity         identity
}

// The constant parts, as DER.
const (
	ecdsaWithSHA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	publicKeyType   = "\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07"
	issuerName      = "\x30\x37\x31\x15\x30\x13\x06\x03\x55\x04\x0a\x13\x0csigstore.dev\x31\x1e\x30\x1c\x06\x03\x55\x04\x03\x13\x15sigstore-intermediate"

	oidKeyUsage       = "\x55\x1d\x0f"
	oidExtKeyUsage    = "\x55\x1d\x25"
	oidSubjectKeyID   = "\x55\x1d\x0e"
	oidAuthorityKeyID = "\x55\x1d\x23"
	oidSubjectAltName = "\x55\x1d\x11"
	oidSCTs           = "\x2b\x06\x01\x04\x01\xd6\x79\x02\x04\x02"
	oidFulcio         = "\x2b\x06\x01\x04\x01\x83\xbf\x30\x01" // and one more byte
)

// der encodes the certificate, from its end to its beginning.
func (c *certificate) der() []byte {
	w := newDER(3 << 10)
	end := w.mark()

	signature := w.mark()
	w.signature(c.issuerR, c.issuerS)
	w.raw("\x00")
	w.wrap(0x03, signature)
	w.raw(ecdsaWithSHA384)

	tbs := w.mark()
	c.extensions(w)
	spki := w.mark()
	w.raw(string(c.key))
	w.raw("\x00")
	w.wrap(0x03, spki)
	w.raw(publicKeyType)
	w.wrap(0x30, spki)
	w.raw("\x30\x00") // no subject
	validity := w.mark()
	w.leaf(0x17, c.issued.Add(10*time.Minute).Format("060102150405Z"))
	w.leaf(0x17, c.issued.Format("060102150405Z"))
	w.wrap(0x30, validity)
	w.raw(issuerName)
	w.raw(ecdsaWithSHA384)
	w.integer(c.serial)
	w.raw("\xa0\x03\x02\x01\x02") // version 3
	w.wrap(0x30, tbs)

	w.wrap(0x30, end)
	return w.bytes()
}

func (c *certificate) extensions(w *derWriter) {
	end := w.mark()
	w.extension(oidSCTs, false, string(wrapped(0x04, c.sctList())))
	id := &c.identity
	if id.email != "" {
		w.extension(oidFulcio+"\x08", false, utf8String(id.issuer))
		w.extension(oidFulcio+"\x01", false, id.issuer)
		w.extension(oidSubjectAltName, true, string(wrapped(0x30, wrapped(0x81, []byte(id.email)))))
	} else {
		c.workflow(w)
	}
	w.extension(oidAuthorityKeyID, false, "\x30\x16\x80\x14"+string(hashOf("synthetic issuer")[:20]))
	w.extension(oidSubjectKeyID, false, "\x04\x14"+string(c.keyID))
	w.extension(oidExtKeyUsage, false, "\x30\x0a\x06\x08\x2b\x06\x01\x05\x05\x07\x03\x03")
	w.extension(oidKeyUsage, true, "\x03\x02\x07\x80")
	w.wrap(0x30, end)
	w.wrap(0xa3, end)
}

// workflow writes Fulcio's extensions for a GitHub Actions token: 1 to 6 hold bare
// text, 8 to 22 a UTF8String.
func (c *certificate) workflow(w *derWriter) {
	id := &c.identity
	slug := id.owner + "/" + id.repository
	repository := "https://github.com/" + slug
	definition := repository + "/.github/workflows/" + id.workflow + "@" + id.ref
	commit := hex.EncodeToString(id.commit[:])
	for i, text := range [...]string{
		"public", fmt.Sprintf("%s/actions/runs/%d/attempts/1", repository, id.runID), id.trigger, commit, definition, fmt.Sprint(id.ownerID),
		"https://github.com/" + id.owner, fmt.Sprint(id.repositoryID), id.ref, commit, repository, id.runner, commit, definition, id.issuer,
	} {
		w.extension(oidFulcio+string(rune(22-i)), false, utf8String(text))
	}
	for i, text := range [...]string{id.ref, slug, id.title, commit, id.trigger, id.issuer} {
		w.extension(oidFulcio+string(rune(6-i)), false, text)
	}
	w.extension(oidSubjectAltName, true, string(wrapped(0x30, wrapped(0x86, []byte(definition)))))
}

// sctList is a SignedCertificateTimestampList of one SCT (RFC 6962, section 3.3).
func (c *certificate) sctList() []byte {
	w := newDER(80)
	w.signature(c.sctR, c.sctS)
	sig := w.bytes()
	sct := 1 + 32 + 8 + 2 + 2 + 2 + len(sig)
	b := binary.BigEndian.AppendUint16(nil, uint16(2+sct))
	b = binary.BigEndian.AppendUint16(b, uint16(sct))
	b = append(b, 0)
	b = append(b, hashOf("synthetic CT log")...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.issued.Add(c.delay).UnixMilli()))
	b = append(b, 0, 0, 4, 3)
	b = binary.BigEndian.AppendUint16(b, uint16(len(sig)))
	return append(b, sig...)
}

func hashOf(s string) []byte {
	h := sha256.Sum256([]byte(s))
	return h[:]
}

func utf8String(s string) string { return string(wrapped(0x0c, []byte(s))) }

func wrapped(tag byte, content []byte) []byte {
	w := newDER(len(content) + 4)
	w.leaf(tag, string(content))
	return w.bytes()
}

// derWriter writes DER backwards, so that a length is known when it is written.
type derWriter struct {
	buf []byte
	at  int // buf[at:] is written
}

func newDER(size int) *derWriter { return &derWriter{buf: make([]byte, size), at: size} }

func (w *derWriter) bytes() []byte { return w.buf[w.at:] }

func (w *derWriter) mark() int { return w.at }

func (w *derWriter) raw(s string) {
	w.at -= len(s)
	copy(w.buf[w.at:], s)
}

// wrap puts a header before what was written since mark.
func (w *derWriter) wrap(tag byte, mark int) {
	n := mark - w.at
	switch {
	case n < 0x80:
		w.raw(string([]byte{tag, byte(n)}))
	case n < 0x100:
		w.raw(string([]byte{tag, 0x81, byte(n)}))
	default:
		w.raw(string([]byte{tag, 0x82, byte(n >> 8), byte(n)}))
	}
}

func (w *derWriter) leaf(tag byte, content string) {
	mark := w.mark()
	w.raw(content)
	w.wrap(tag, mark)
}

// integer writes an unsigned big-endian number, which must not be zero.
func (w *derWriter) integer(b []byte) {
	mark := w.mark()
	for b[0] == 0 {
		b = b[1:]
	}
	w.raw(string(b))
	if b[0] >= 0x80 {
		w.raw("\x00")
	}
	w.wrap(0x02, mark)
}

func (w *derWriter) signature(r, s []byte) {
	mark := w.mark()
	w.integer(s)
	w.integer(r)
	w.wrap(0x30, mark)
}

func (w *derWriter) extension(oid string, critical bool, value string) {
	mark := w.mark()
	w.leaf(0x04, value)
	if critical {
		w.raw("\x01\x01\xff")
	}
	w.leaf(0x06, oid)
	w.wrap(0x30, mark)
}
