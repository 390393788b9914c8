package rekor

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"testing"
)

// TestHugeRSA: nobody can keep a processor busy with a key that is huge, whatever type of entry it is in,
// and neither a proposal nor a look-up of one does it.
func TestHugeRSA(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	digest := sha256.Sum256([]byte("x"))
	entries := func(bits int, kind string) map[string]string {
		n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
		n.SetBit(n.SetBit(n, bits-1, 1), 0, 1)
		public := &rsa.PublicKey{N: n, E: 65537}
		der, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			t.Fatal(err)
		}
		if kind == "RSA PUBLIC KEY" {
			der = x509.MarshalPKCS1PublicKey(public)
		}
		text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		key := encode(text)
		signature := encode(make([]byte, bits/8))
		envelope := fmt.Sprintf(`{"payloadType":"text/plain","payload":"e30=","signatures":[{"sig":"%s"}]}`, signature)
		return map[string]string{
			"hashedrekord": fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, digest, signature, key),
			"rekord":       fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"rekord","spec":{"data":{"content":"eA=="},"signature":{"format":"x509","content":"%s","publicKey":{"content":"%s"}}}}`, signature, key),
			"dsse":         fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"proposedContent":{"envelope":%q,"verifiers":["%s"]}}}`, envelope, key),
			"TUF":          fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"tuf","spec":{"metadata":{"content":{}},"root":{"content":{"signed":{"keys":{"a":{"keytype":"rsa","keyval":{"public":%q}}}}}}}}`, text),
			"escaped":      fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"rekord","spec":{"data":{"content":"eA=="},"signature":{"format":"x509","content":"%s","publicKey":{"content":"\u00%x%s"}}}}`, signature, key[0], key[1:]),
		}
	}
	for _, kind := range []string{"PUBLIC KEY", "RSA PUBLIC KEY"} {
		for name, proposed := range entries(maxRSA+8, kind) {
			for _, propose := range []func(context.Context, []byte) error{
				func(ctx context.Context, b []byte) error { _, err := Propose(ctx, b); return err },
				func(ctx context.Context, b []byte) error { _, err := Canonicalize(ctx, b); return err },
			} {
				err := propose(t.Context(), []byte(proposed))
				if input, ok := errors.AsType[*InputError](err); !ok || input.Status != http.StatusBadRequest || !strings.Contains(err.Error(), "RSA key of 16392 bits") {
					t.Errorf("%s in a %s: %v", kind, name, err)
				}
			}
		}
	}
	// One that is as large as may be is refused for its signature.
	if _, err := Propose(t.Context(), []byte(entries(maxRSA, "PUBLIC KEY")["rekord"])); err == nil || !strings.Contains(err.Error(), "verification") {
		t.Errorf("%d bits: %v", maxRSA, err)
	}
}
