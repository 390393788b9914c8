package synthetic

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"math/rand/v2"
	"sync"
)

// The keys that sign the entries of HashedRekordV1: each of them has the certificate or
// stands alone.
const (
	v1Certificates = 48
	v1PlainKeys    = 16
)

// HashedRekordV1 makes canonical hashedrekord 0.0.1 bodies, as Rekor v1 logs them: a
// signature of [ArtifactV1] under one of 64 keys. Three of four are certified as in
// HashedRekord and the others are plain. The signatures verify and no two bodies
// are equal.
func HashedRekordV1(seed uint64) Entries {
	signers := sync.OnceValue(func() []v1Signer { return v1Signers(seed) })
	return func(index uint64) []byte {
		digest := sha256.Sum256(ArtifactV1(seed, index))
		s := signers()
		signer := &s[index%uint64(len(s))]
		signature, err := signer.private.Sign(nil, digest[:], crypto.SHA256) // a nil reader: RFC 6979
		if err != nil {
			panic(fmt.Sprintf("synthetic: sign entry: %v", err))
		}
		b := make([]byte, 0, 512+len(signer.verifier))
		b = fmt.Appendf(b, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"`, digest)
		b = base64.StdEncoding.AppendEncode(b, signature)
		b = append(b, `","publicKey":{"content":"`...)
		b = append(b, signer.verifier...)
		return append(b, `"}}}}`...)
	}
}

// ArtifactV1 is what the entry of HashedRekordV1 at an index is the signature of.
func ArtifactV1(seed, index uint64) []byte {
	return fmt.Appendf(nil, "artifact %d of %d\n", index, seed)
}

// v1Signer is a key with its certificate or public key, PEM in base64.
type v1Signer struct {
	private  *ecdsa.PrivateKey
	verifier string
}

func v1Signers(seed uint64) []v1Signer {
	signers := make([]v1Signer, v1Certificates+v1PlainKeys)
	inParallel(uint64(len(signers)), func(i uint64) {
		key := [32]byte{31: 2} // neither the key of an entry nor that of a project
		binary.BigEndian.PutUint64(key[:], seed)
		binary.BigEndian.PutUint64(key[8:], i)
		d := &draw{rand.NewChaCha8(key)}
		scalar := d.bytes(32)
		scalar[0] = scalar[0]&0x7f | 1
		private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
		if err != nil {
			panic(fmt.Sprintf("synthetic: scalar is no P-256 key: %v", err))
		}
		block := pem.Block{Type: "PUBLIC KEY", Bytes: mustSPKI(&private.PublicKey)}
		if i%4 != 3 {
			point, err := private.PublicKey.Bytes()
			if err != nil {
				panic(fmt.Sprintf("synthetic: encode point: %v", err))
			}
			block = pem.Block{Type: "CERTIFICATE", Bytes: (&certificate{
				serial: d.bytes(20), issued: shardStart, key: point, keyID: d.bytes(20),
				sctR: d.bytes(32), sctS: d.bytes(32), issuerR: d.bytes(48), issuerS: d.bytes(48),
				identity: d.identity(seed),
			}).der()}
		}
		signers[i] = v1Signer{private, base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&block))}
	})
	return signers
}
