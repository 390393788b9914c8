package rekor

import (
	"crypto"
	"crypto/ed25519"
	"encoding/hex"

	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/understudy-log/understudy/test/authority"
)

// trustedRootJSON is what the operator of such a log would publish: the authority,
// and the log under https://ORIGIN.
func trustedRootJSON(origin string, key ed25519.PublicKey, a *authority.Authority) ([]byte, error) {
	_, logID, err := note.KeyHash(origin, key)
	if err != nil {
		return nil, err
	}
	trusted, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root:                a.Root,
			ValidityPeriodStart: a.Start,
			URI:                 "https://fulcio.understudy.test",
		}},
		nil, // no certificate transparency
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root:                a.Root,
			Leaf:                a.StampCertificate,
			ValidityPeriodStart: a.Start,
			URI:                 "https://timestamp.understudy.test",
		}},
		map[string]*root.TransparencyLog{hex.EncodeToString(logID): {
			BaseURL:             "https://" + origin,
			ID:                  logID,
			ValidityPeriodStart: a.Start,
			HashFunc:            crypto.SHA256,
			PublicKey:           key,
			SignatureHashFunc:   crypto.SHA512,
		}})
	if err != nil {
		return nil, err
	}
	return trusted.MarshalJSON()
}
