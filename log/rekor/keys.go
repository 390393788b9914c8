package rekor

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sigstore/rekor/pkg/types"
	cose "github.com/sigstore/rekor/pkg/types/cose/v0.0.1"
)

// maxKey bounds a search key in characters, as Rekor's schema does: no query can ask for a
// longer one.
const maxKey = 512

// SearchKeys returns the keys under which an entry of Rekor v1 or v2 is found, sorted and
// without repetition; none for bytes that are no entry. All are in lower case:
//
//   - "sha256:" and the hex digest of the artifact, payload or envelope, as the entry's type
//     has it; likewise sha1, sha384 and sha512
//   - the hex SHA-256 of the public key or certificate, as PEM; dsse and intoto entries have
//     it with "sha256:" before it as well
//   - each subject alternative name of the certificate: e-mail, URI, DNS, IP, other name
//   - "issuer:" and the URL of the identity provider that Fulcio put into the certificate
//
// For v1 these are the keys of rekor's types for the stored entry, and a few that they lack:
// the issuer, the key without its prefix, the digest of a COSE payload, the signer of a helm
// chart. What only the proposal had, the subjects of an in-toto statement, is not in the body
// and not in its keys (see StatementKeys); of TUF metadata that has expired nothing is read but
// the digest.
// For v2 they have the same forms.
//
// Keys are what an entry claims. That its signatures are true is for whoever logs it, and for
// whoever finds it: a body with a false one, which no Rekor logs, may have keys or none.
func SearchKeys(body []byte) []string {
	if keys, ok := fastKeysV2(body); ok {
		return normalize(keys)
	}
	if keys, ok := fastKeysV1(body); ok {
		return normalize(keys)
	}
	if isV2(body) {
		return normalize(slowKeysV2(body))
	}
	return normalize(keysV1(body))
}

// issuerKey returns the key under which entries of an identity provider are found.
func issuerKey(url string) string { return "issuer:" + url }

// normalize sorts keys in lower case, in place, and drops repetitions and keys that no query
// can name.
func normalize(keys []string) []string {
	for i, k := range keys {
		keys[i] = strings.ToLower(k)
	}
	keys = slices.DeleteFunc(keys, func(k string) bool {
		return k == "" || k == issuerKey("") || len(k) > maxKey && utf8.RuneCountInString(k) > maxKey || !utf8.ValidString(k)
	})
	slices.Sort(keys)
	return slices.Compact(keys)
}

// keysV1 reads an entry by rekor's types, which verify what they can.
func keysV1(body []byte) []string {
	entry, err := parseV1(body)
	if err != nil {
		return nil
	}
	return entryKeys(entry)
}

// entryKeys returns the keys of rekor's types and ours.
func entryKeys(entry types.EntryImpl) (keys []string) {
	// What was gathered before rekor's types panic is true of the entry all the same.
	defer func() { _ = recover() }()
	keys, _ = entry.IndexKeys() // on an error: those before it
	if e, ok := entry.(*cose.V001Entry); ok {
		keys = coseKeys(keys, e)
	}
	if digest, err := entry.ArtifactHash(); err == nil {
		keys = append(keys, digest)
	}
	verifiers, _ := entry.Verifiers()
	for _, v := range verifiers {
		if canonical, err := v.CanonicalValue(); err == nil {
			keys = append(keys, hexSum(canonical))
		}
		keys = append(keys, v.Subjects()...) // rekor's type has none for a stored helm entry
		identities, _ := v.Identities()
		for _, id := range identities {
			if cert, ok := id.Crypto.(*x509.Certificate); ok {
				keys = appendCertificateKeys(keys, cert.Raw)
			}
		}
	}
	return keys
}

// coseKeys corrects the keys of a stored COSE entry: rekor's type hashes the message, which
// is no longer there, and so names every entry after the empty message.
func coseKeys(keys []string, e *cose.V001Entry) []string {
	if len(e.CoseObj.Message) > 0 {
		return keys
	}
	empty := "sha256:" + hexSum(nil)
	keys = slices.DeleteFunc(keys, func(k string) bool { return k == empty })
	if d := e.CoseObj.Data; d != nil && d.EnvelopeHash != nil && d.EnvelopeHash.Algorithm != nil && d.EnvelopeHash.Value != nil {
		keys = append(keys, *d.EnvelopeHash.Algorithm+":"+*d.EnvelopeHash.Value)
	}
	return keys
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// isV2 tells the entries of Rekor v2 by the field that names their type. That a value of a
// v1 entry reads like it (the headers of an RPM are anybody's) does not suffice.
func isV2(body []byte) bool {
	if !bytes.Contains(body, []byte(`"hashedRekordV002"`)) && !bytes.Contains(body, []byte(`"dsseV002"`)) {
		return false
	}
	var entry struct {
		Spec struct {
			Hashedrekord json.RawMessage `json:"hashedRekordV002"`
			DSSE         json.RawMessage `json:"dsseV002"`
		} `json:"spec"`
	}
	return json.Unmarshal(body, &entry) == nil && (entry.Spec.Hashedrekord != nil || entry.Spec.DSSE != nil)
}

// parseV1 reads a stored entry by rekor's types.
func parseV1(body []byte) (entry types.EntryImpl, err error) {
	defer recoverInto(&err)
	return unmarshalProposed(body)
}

// SearchVersion changes with what SearchKeys and StatementKeys return.
const SearchVersion = 3
