package rekor

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"golang.org/x/crypto/ssh"
)

func TestQueryKeys(t *testing.T) {
	const sum = "0123456789ABCDEF"
	for _, tt := range []struct {
		query Query
		keys  []string
		all   bool
	}{
		{Query{}, nil, false},
		{Query{Operator: "and"}, nil, true},
		{Query{Operator: "AND"}, nil, true},
		{Query{Hash: strings.Repeat(sum, 4)}, []string{"sha256:" + strings.Repeat("0123456789abcdef", 4)}, false},
		{Query{Hash: "sha256:" + strings.Repeat(sum, 4)}, []string{"sha256:" + strings.Repeat("0123456789abcdef", 4)}, false},
		{Query{Hash: strings.Repeat(sum, 6)}, []string{"sha384:" + strings.Repeat("0123456789abcdef", 6)}, false},
		{Query{Hash: strings.Repeat(sum, 8)}, []string{"sha512:" + strings.Repeat("0123456789abcdef", 8)}, false},
		{Query{Hash: strings.Repeat("A", 40)}, []string{"sha1:" + strings.Repeat("a", 40)}, false},
		{Query{Email: "Jane@Example.COM", Operator: "or"}, []string{"jane@example.com"}, false},
		{Query{Subject: testIdentity}, []string{strings.ToLower(testIdentity)}, false},
		{Query{Issuer: testIssuer}, []string{"issuer:" + testIssuer}, false},
		{Query{Email: "a@b.c", Subject: "s", Issuer: "i", Hash: "h", Operator: "and"}, []string{"h", "a@b.c", "s", "issuer:i"}, true},
	} {
		keys, all, err := QueryKeys(tt.query)
		if err != nil || all != tt.all || !slices.Equal(keys, tt.keys) {
			t.Errorf("%+v: %q, %v, %v", tt.query, keys, all, err)
		}
	}
	for _, q := range []Query{
		{Operator: "xor"},
		{Format: "x509"},
		{Format: "x509", PublicKey: []byte("no key")},
		{Format: "pgp", PublicKey: []byte("no key")},
		{Format: "minisign", PublicKey: []byte("no key")},
		{Format: "ssh", PublicKey: []byte("no key")},
		{Format: "tuf", PublicKey: []byte("{}")},
		{Format: "gif", PublicKey: []byte("GIF89a")},
		{PublicKey: []byte("no format")},
	} {
		keys, _, err := QueryKeys(q)
		var wrong *InputError
		if !errors.As(err, &wrong) {
			t.Errorf("%+v: %q, %v", q, keys, err)
		}
	}
}

// Each of a certificate, its names and its issuer finds the entry that was signed with it.
func TestQueryFinds(t *testing.T) {
	key := newKey(t)
	cert := newCert(t, key, manyNames(t))
	body, err := Canonicalize(t.Context(), hashedrekordV1(t, key, pemOf("CERTIFICATE", cert), []byte("artifact")))
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(cert)
	if err != nil {
		t.Fatal(err)
	}
	queries := []Query{
		{Format: "x509", PublicKey: pemOf("CERTIFICATE", cert)},
		{Issuer: testIssuer},
		{Hash: hexSum([]byte("artifact"))},
		{Email: parsed.EmailAddresses[0]},
		{Subject: parsed.DNSNames[0]},
	}
	for _, u := range parsed.URIs {
		queries = append(queries, Query{Subject: u.String()})
	}
	for _, body := range [][]byte{body, hashedrekordV2(t, []byte("artifact"), certVerifier(cert))} {
		keys := SearchKeys(body)
		for _, q := range queries {
			asked, _, err := QueryKeys(q)
			if err != nil || len(asked) != 1 || !slices.Contains(keys, asked[0]) {
				t.Errorf("%+v: asks for %q (%v), the entry has %q", q, asked, err, keys)
			}
		}
	}
}

// Keys of the other formats find what rekor's types made of entries signed with them.
func TestQueryFormats(t *testing.T) {
	all := proposals(t)
	for kind, format := range map[string]string{"rekord": "pgp", "rpm": "pgp", "helm": "pgp", "alpine": "x509"} {
		var entry struct {
			Spec struct {
				PublicKey *models.RpmV001SchemaPublicKey
				Signature struct {
					PublicKey *models.RpmV001SchemaPublicKey
				}
			}
		}
		if err := json.Unmarshal(all[kind], &entry); err != nil {
			t.Fatal(err)
		}
		public := entry.Spec.PublicKey
		if public == nil {
			public = entry.Spec.Signature.PublicKey
		}
		body, err := Canonicalize(t.Context(), all[kind])
		if err != nil {
			t.Fatal(err)
		}
		keys, _, err := QueryKeys(Query{Format: format, PublicKey: *public.Content})
		if err != nil || len(keys) != 1 || !slices.Contains(SearchKeys(body), keys[0]) {
			t.Errorf("%s: %q, %v, entry has %q", kind, keys, err, SearchKeys(body))
		}
	}
	sshKey, err := ssh.NewPublicKey(newKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	line := ssh.MarshalAuthorizedKey(sshKey)
	keys, _, err := QueryKeys(Query{Format: "ssh", PublicKey: line})
	if err != nil || len(keys) != 1 {
		t.Errorf("ssh: %q, %v", keys, err)
	}
	again, _, err := QueryKeys(Query{Format: "ssh", PublicKey: append(slices.Clone(line[:len(line)-1]), " comment\n"...)})
	if err != nil || !slices.Equal(keys, again) {
		t.Errorf("ssh with a comment: %q, %v, want %q", again, err, keys)
	}
}

func TestParseQuery(t *testing.T) {
	key := pemOf("PUBLIC KEY", spkiOf(t, newKey(t).Public()))
	sum := hexSum(nil)
	q, err := ParseQuery(mustJSON(t, map[string]any{
		"email": "Jane@Example.com", "hash": sum, "operator": "and", "subject": "S",
		"publicKey": map[string]any{"format": "x509", "content": key},
	}))
	if err != nil || q.Email != "Jane@Example.com" || q.Hash != sum || q.Operator != "and" || q.Subject != "S" || q.Format != "x509" || string(q.PublicKey) != string(key) {
		t.Errorf("%+v, %v", q, err)
	}
	for s, status := range map[string]int{
		`{}`:                     0,
		`{"email":""}`:           0,
		`{"hash":"` + sum + `"}`: 0,
		`{"unknown":1}`:          0,
		`{"hash":"sha256:` + sum + `","operator":"or"}`: 0,
		`{"publicKey":null}`:                            0,
		``:                                              http.StatusUnprocessableEntity,
		`{`:                                             http.StatusBadRequest,
		`[]`:                                            http.StatusBadRequest,
		`{} {}`:                                         http.StatusBadRequest,
		`{"hash":1}`:                                    http.StatusBadRequest,
		`{"hash":"zz"}`:                                 http.StatusUnprocessableEntity,
		`{"email":"nobody"}`:                            http.StatusUnprocessableEntity,
		`{"operator":"xor"}`:                            http.StatusUnprocessableEntity,
		`{"publicKey":{}}`:                              http.StatusUnprocessableEntity,
		`{"publicKey":{"format":"gif","content":"AA=="}}`:            http.StatusUnprocessableEntity,
		`{"publicKey":{"format":"x509","url":"http://127.0.0.1/"}}`:  http.StatusBadRequest,
		`{"publicKey":{"format":"x509","content":"AA==","url":"u"}}`: http.StatusBadRequest,
		`{"publicKey":{"format":"x509","content":"not base64"}}`:     http.StatusBadRequest,
	} {
		q, err := ParseQuery([]byte(s))
		if status == 0 {
			if err != nil {
				t.Errorf("%s: %v", s, err)
			}
			continue
		}
		var wrong *InputError
		if !errors.As(err, &wrong) || wrong.Status != status {
			t.Errorf("%s: %+v, %v (%+v), want status %d", s, q, err, wrong, status)
		}
	}
}

func FuzzQuery(f *testing.F) {
	f.Add(mustJSON(f, map[string]any{
		"email": "jane@example.com", "hash": hexSum(nil), "operator": "and",
		"publicKey": map[string]any{"format": "x509", "content": pemOf("PUBLIC KEY", spkiOf(f, newKey(f).Public()))},
	}))
	f.Add([]byte(`{"publicKey":{"format":"pgp","content":"AA=="}}`))
	f.Add([]byte(`{"publicKey":{"format":"ssh","content":"AA=="}}`))
	f.Add([]byte(`{"publicKey":{"format":"minisign","content":"AA=="}}`))
	f.Add([]byte(`{"publicKey":{"format":"tuf","content":"e30="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var wrong *InputError
		q, err := ParseQuery(data)
		if err == nil {
			var keys []string
			if keys, _, err = QueryKeys(q); err == nil && slices.Contains(keys, "") {
				t.Errorf("%s: keys %q", data, keys)
			}
		}
		if err != nil && !errors.As(err, &wrong) {
			t.Errorf("%T: %v", err, err)
		}
	})
}
