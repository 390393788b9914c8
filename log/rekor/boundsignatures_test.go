package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestManySignatures: nobody can keep a processor busy with an envelope of many signatures and many keys.
func TestManySignatures(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	var private []*ecdsa.PrivateKey
	var public [][]byte
	for range 33 {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		private, public = append(private, key), append(public, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	}
	digest := sha256.Sum256([]byte("DSSEv1 10 text/plain 2 {}"))
	list := func(n int, one func(i int) string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString(one(i % len(private)))
		}
		return b.String()
	}
	sign := func(i int) string {
		signature, err := ecdsa.SignASN1(rand.Reader, private[i], digest[:])
		if err != nil {
			t.Fatal(err)
		}
		return encode(signature)
	}
	dsse := func(signatures, keys int) string {
		envelope := `{"payloadType":"text/plain","payload":"e30=","signatures":[` + list(signatures, func(i int) string { return `{"sig":"` + sign(i) + `"}` }) + `]}`
		return fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"proposedContent":{"envelope":%q,"verifiers":[%s]}}}`, envelope, list(keys, func(i int) string { return `"` + encode(public[i]) + `"` }))
	}
	intoto := func(signatures int) string {
		one := func(i int) string {
			return fmt.Sprintf(`{"sig":"%s","publicKey":"%s"}`, encode([]byte(sign(i))), encode(public[i]))
		}
		return fmt.Sprintf(`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"%x"},"envelope":{"payloadType":"text/plain","payload":"%s","signatures":[%s]}}}}`, digest, encode([]byte("e30=")), list(signatures, one))
	}
	for name, proposed := range map[string]string{
		"1025 keys":           dsse(1, maxVerifications+1),
		"1025 signatures":     dsse(maxVerifications+1, 1),
		"33 of both":          dsse(33, 33),
		"33 of both, in-toto": intoto(33),
	} {
		_, err := Propose(t.Context(), []byte(proposed))
		_, look := Canonicalize(t.Context(), []byte(proposed))
		for _, err := range []error{err, look} {
			if input, ok := errors.AsType[*InputError](err); !ok || input.Status != http.StatusBadRequest || !strings.Contains(err.Error(), "at most 1024 pairs") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for name, proposed := range map[string]string{"32 of both": dsse(32, 32), "32 of both, in-toto": intoto(32)} {
		p, err := Propose(t.Context(), []byte(proposed))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if body, err := Canonicalize(t.Context(), []byte(proposed)); err != nil || !bytes.Equal(body, p.Body) {
			t.Errorf("%s is looked up as another: %v", name, err)
		}
		// What is stored is read without a bound: nothing is verified with it.
		if len(SearchKeys(p.Body)) == 0 {
			t.Errorf("%s has no keys", name)
		}
	}
}
