package e2elog

import (
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/understudy-log/understudy/test/authority"
)

// certifier is a private certificate authority that speaks as much of Fulcio's API as clients use:
// it certifies the subject of its own tokens, who has to own the key.
type certifier struct {
	*httptest.Server
	*authority.Authority
	secret []byte // signs tokens
}

func newCertifier(root *authority.Authority) *certifier {
	c := &certifier{Authority: root, secret: make([]byte, 32)}
	rand.Read(c.secret) // never fails
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v2/signingCert", func(w http.ResponseWriter, r *http.Request) {
		chain, err := c.certify(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(object{"signedCertificateEmbeddedSct": object{"chain": object{"certificates": chain}}})
	})
	c.Server = httptest.NewServer(mux)
	return c
}

// token returns an OpenID Connect token for an e-mail address.
func (c *certifier) token(email string) string {
	part := func(v any) string { return base64.RawURLEncoding.EncodeToString(must(json.Marshal(v))) }
	text := part(object{"alg": "HS256", "typ": "JWT"}) + "." +
		part(object{"iss": authority.Issuer, "aud": "sigstore", "sub": email, "email": email, "email_verified": true})
	return text + "." + c.mac(text)
}

func (c *certifier) mac(text string) string {
	mac := hmac.New(sha256.New, c.secret)
	mac.Write([]byte(text))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func (c *certifier) certify(r *http.Request) (chain []string, err error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	parts := strings.Split(token, ".")
	if len(parts) != 3 || !hmac.Equal([]byte(c.mac(parts[0]+"."+parts[1])), []byte(parts[2])) {
		return nil, errors.New("no token of ours")
	}
	var claims struct{ Email string }
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err := errors.Join(err, json.Unmarshal(payload, &claims)); err != nil {
		return nil, err
	}
	var request struct {
		PublicKeyRequest struct {
			PublicKey         struct{ Content string }
			ProofOfPossession []byte
		}
	}
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(request.PublicKeyRequest.PublicKey.Content))
	if block == nil {
		return nil, errors.New("no key")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	digest := sha256.Sum256([]byte(claims.Email))
	if !ok || !ecdsa.VerifyASN1(key, digest[:], request.PublicKeyRequest.ProofOfPossession) {
		return nil, fmt.Errorf("%s does not prove to own the key", claims.Email)
	}
	der, err := c.Issue(key, claims.Email)
	return []string{certificatePEM(der), certificatePEM(c.Root.Raw)}, err
}

func certificatePEM(der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
