package rekor

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"testing"
)

// BenchmarkPropose compares the plain way with ours; "verify" is the signature alone.
func BenchmarkPropose(b *testing.B) {
	key := newKey(b)
	cert := pemOf("CERTIFICATE", newCert(b, key, nil))
	for name, proposed := range map[string][]byte{
		"hashedrekord": hashedrekordV1(b, key, cert, []byte("artifact")),
		"publicKey":    hashedrekordV1(b, key, pemOf("PUBLIC KEY", spkiOf(b, key.Public())), []byte("artifact")),
		"dsse":         dsseV1(b, key, cert, []byte("payload")),
	} {
		b.Run(name+"/rekor", func(b *testing.B) {
			for b.Loop() {
				if _, err := slowPropose(b.Context(), proposed); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/ours", func(b *testing.B) {
			for b.Loop() {
				if _, err := Propose(b.Context(), proposed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	digest := sha256.Sum256([]byte("artifact"))
	signed := sign(b, key, []byte("artifact"))
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], signed) {
				b.Fatal("false")
			}
		}
	})
}
