package synthetic_test

import (
	"bytes"
	"compress/flate"
	"crypto/x509"
	"encoding/json"
	"testing"

	"github.com/understudy-log/understudy/test/synthetic"
)

type hashedRekord struct {
	Spec struct {
		HashedRekordV002 struct {
			Data struct{ Digest []byte }

			Signature struct {
				Content  []byte
				Verifier struct {
					X509Certificate struct{ RawBytes []byte }
				}
			}
		}
	}
}

func TestHashedRekordIsCanonicalUniqueAndParses(t *testing.T) {
	entries := synthetic.HashedRekord(7)
	seen := map[string]bool{}
	unique := func(what string, b []byte) {
		if len(b) < 20 || seen[what+string(b)] {
			t.Errorf("%s %x is short or not unique", what, b)
		}
		seen[what+string(b)] = true
	}
	total, people := 0, 0
	const n = 2000
	for i := range uint64(n) {
		entry := entries(i)
		total += len(entry)
		if !bytes.Equal(entry, entries(i)) {
			t.Fatalf("entry %d differs when made again", i)
		}
		var tree any
		if err := json.Unmarshal(entry, &tree); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if again, _ := json.Marshal(tree); !bytes.Equal(entry, again) {
			t.Fatalf("entry %d is not canonical:\n%s\n%s", i, entry, again)
		}
		var e hashedRekord
		if err := json.Unmarshal(entry, &e); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		v := e.Spec.HashedRekordV002
		c, err := x509.ParseCertificate(v.Signature.Verifier.X509Certificate.RawBytes)
		if err != nil {
			t.Fatalf("certificate %d: %v", i, err)
		}
		people += len(c.EmailAddresses)
		if len(c.EmailAddresses)+len(c.URIs) != 1 || c.Issuer.CommonName != "sigstore-intermediate" || len(c.Extensions) < 8 {
			t.Errorf("certificate %d: subject %v %v, issuer %v, %d extensions", i, c.EmailAddresses, c.URIs, c.Issuer, len(c.Extensions))
		}
		unique("digest", v.Data.Digest)
		unique("signature", v.Signature.Content)
		unique("serial", c.SerialNumber.FillBytes(make([]byte, 20)))
		unique("key", c.RawSubjectPublicKeyInfo)
		unique("key ID", c.SubjectKeyId)
		unique("issuer's signature", c.Signature)
	}
	if mean := total / n; mean < 2300 || mean > 2500 {
		t.Errorf("mean size is %d bytes, want about 2,400", mean)
	}
	if people < n/6 || people > n/4 {
		t.Errorf("%d of %d certificates are people's", people, n)
	}
	if bytes.Equal(entries(0), synthetic.HashedRekord(8)(0)) {
		t.Error("another seed makes the same entry")
	}
}

// Deflate cannot do better than the entropy that is put in, nor much worse than real
// entries, of which zstd leaves a third.
func TestHashedRekordCompressesLikeRealEntries(t *testing.T) {
	entries := synthetic.HashedRekord(0)
	raw, packed := 0, 0
	var block, out bytes.Buffer
	for i := range uint64(1000) {
		block.Write(entries(i))
		if block.Len() < 32<<10 {
			continue
		}
		raw += block.Len()
		out.Reset()
		z, _ := flate.NewWriter(&out, 6)
		block.WriteTo(z)
		z.Close()
		packed += out.Len()
	}
	ratio := float64(packed) / float64(raw)
	t.Logf("deflate of 32 KiB blocks leaves %.3f", ratio)
	if ratio < 0.28 || ratio > 0.42 {
		t.Errorf("deflate leaves %.3f, want about a third", ratio)
	}
}

func BenchmarkHashedRekord(b *testing.B) {
	entries := synthetic.HashedRekord(0)
	b.ReportAllocs()
	for i := range b.N {
		entries(uint64(i))
	}
}
