package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sigstore/rekor-tiles/v2/pkg/note"
	rekorutil "github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	sumdb "golang.org/x/mod/sumdb/note"
)

const (
	v2Origin = "log2030-1.rekor.example"
	v1Origin = "rekor.example - 1193050959916656506"
	v1Host   = "rekor.example"
)

// signingKeys holds one key of each kind that Rekor signs with.
var signingKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		keys[name] = must(ecdsa.GenerateKey(curve, rand.Reader))
	}
	keys["RSA"] = must(rsa.GenerateKey(rand.Reader, 2048))
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	keys["Ed25519"] = must(ed, err)
	return keys
})

func kinds() []string { return slices.Sorted(maps.Keys(signingKeys())) }

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// signV2 signs text as a Rekor v2 server does, with its own code.
func signV2(origin string, key crypto.Signer, text string) []byte {
	signer := must(note.NewNoteSigner(context.Background(), origin, must(signature.LoadDefaultSigner(key))))
	return must(sumdb.Sign(&sumdb.Note{Text: text}, signer))
}

// signV1 signs text as a Rekor v1 server does, with its own code.
func signV1(host string, key crypto.Signer, text string) []byte {
	n := rekorutil.SignedNote{Note: text}
	must(n.Sign(host, must(signature.LoadSigner(key, crypto.SHA256)), options.WithContext(context.Background())))
	return must(n.MarshalText())
}

func pemKey(t testing.TB, key crypto.Signer) Key {
	t.Helper()
	k, err := ParseKey(pemOf(key.Public()))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(public crypto.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(public))})
}

var (
	rootHash = sha256.Sum256([]byte("a root"))
	rootLine = base64.StdEncoding.EncodeToString(rootHash[:])
)

// textOf is the text of a checkpoint of 1234 entries.
func textOf(origin string, extensions ...string) string {
	text := origin + "\n1234\n" + rootLine + "\n"
	for _, e := range extensions {
		text += e + "\n"
	}
	return text
}

// trustedRoot makes a TrustedRoot of logs: base URL to key.
func trustedRoot(t testing.TB, logs map[string]crypto.PublicKey) []byte {
	t.Helper()
	tlogs := map[string]*root.TransparencyLog{}
	for base, key := range logs {
		_, id, err := note.KeyHash(must(url.Parse(base)).Hostname(), key)
		if err != nil {
			t.Fatal(err)
		}
		tlogs[string(id)] = &root.TransparencyLog{
			BaseURL: base, ID: id, PublicKey: key,
			HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256,
			ValidityPeriodStart: time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC),
			ValidityPeriodEnd:   time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC),
		}
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, nil, nil, nil, tlogs)
	if err != nil {
		t.Fatal(err)
	}
	return must(tr.MarshalJSON())
}

// genuine is the folder of genuine public Rekor data that may lie beside the
// checkout.
func genuine(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "..", "..", "shared", "data")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no genuine Rekor data: %v", err)
	}
	return dir
}

func lines(t *testing.T, elem ...string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(data), []byte("\n"))
}
