package rekor

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
)

// proposals returns proposed entries, most of them made of the files of rekor's own tests,
// which are in its module. The one for tuf has expired.
func proposals(t *testing.T) map[string][]byte {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/sigstore/rekor").Output()
	if err != nil {
		t.Skipf("no rekor module: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "pkg", "types")
	read := func(elem ...string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, filepath.Join(elem...)))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	content := func(elem ...string) map[string]any { return map[string]any{"content": read(elem...)} }
	entry := func(kind, version string, spec any) []byte {
		return mustJSON(t, map[string]any{"kind": kind, "apiVersion": version, "spec": spec})
	}
	key := newKey(t)
	cert := pemOf("CERTIFICATE", newCert(t, key, nil))
	return map[string][]byte{
		"alpine": entry("alpine", "0.0.1", map[string]any{
			"package": content("alpine", "tests", "test_alpine.apk"), "publicKey": content("alpine", "tests", "test_alpine.pub"),
		}),
		"rpm": entry("rpm", "0.0.1", map[string]any{
			"package": content("rpm", "tests", "test.rpm"), "publicKey": content("rpm", "tests", "test_rpm_public_key.key"),
		}),
		"jar": entry("jar", "0.0.1", map[string]any{"archive": content("jar", "v0.0.1", "tests", "test.jar")}),
		"helm": entry("helm", "0.0.1", map[string]any{
			"chart": map[string]any{"provenance": content("helm", "tests", "test-0.1.0.tgz.prov")}, "publicKey": content("helm", "tests", "test_helm_armor.pub"),
		}),
		"rekord": entry("rekord", "0.0.1", map[string]any{
			"data": content("rekord", "tests", "test_file.txt"),
			"signature": map[string]any{
				"format": "pgp", "content": read("rekord", "tests", "test_file.sig"), "publicKey": content("rekord", "tests", "test_public_key.key"),
			},
		}),
		"tuf": entry("tuf", "0.0.1", map[string]any{
			"metadata": map[string]any{"content": json.RawMessage(read("tuf", "v0.0.1", "tests", "test_timestamp.json"))},
			"root":     map[string]any{"content": json.RawMessage(read("tuf", "v0.0.1", "tests", "test_root.json"))},
		}),
		"rfc3161":      entry("rfc3161", "0.0.1", map[string]any{"tsr": content("rfc3161", "tests", "test.tsr")}),
		"hashedrekord": hashedrekordV1(t, key, cert, []byte("artifact")),
		"dsse":         dsseV1(t, key, cert, []byte("payload")),
		"cose":         coseV1(t, key, pemOf("PUBLIC KEY", spkiOf(t, key.Public())), []byte("payload")),
		"intoto":       intotoV2(t, key, cert, []byte(`{"_type":"https://in-toto.io/Statement/v0.1","subject":[]}`)),
	}
}

// intotoV2 returns a proposed entry: its payload and signatures are base64 of base64.
func intotoV2(tb testing.TB, key *ecdsa.PrivateKey, verifier, payload []byte) []byte {
	tb.Helper()
	const kind = "application/vnd.in-toto+json"
	again := func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }
	return mustJSON(tb, map[string]any{"kind": "intoto", "apiVersion": "0.0.2", "spec": map[string]any{
		"content": map[string]any{
			"envelope": map[string]any{
				"payload": again(payload), "payloadType": kind,
				"signatures": []any{map[string]any{"publicKey": verifier, "sig": again(sign(tb, key, pae(kind, payload)))}},
			},
			"hash": map[string]any{"algorithm": "sha256", "value": hexSum([]byte("the proposer's word"))},
		},
	}})
}

// coseV1 returns a proposed entry for a COSE_Sign1 message (RFC 9052, section 4.2), whose CBOR
// is short enough to be written by hand.
func coseV1(tb testing.TB, key *ecdsa.PrivateKey, verifier, payload []byte) []byte {
	tb.Helper()
	protected := []byte("\x43\xa1\x01\x26") // {1: -7}: ES256
	content := append([]byte{0x40 + byte(len(payload))}, payload...)
	signed := slices.Concat([]byte("\x84\x6aSignature1"), protected, []byte{0x40}, content)
	digest := sha256.Sum256(signed)
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		tb.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	message := slices.Concat([]byte{0xd2, 0x84}, protected, []byte{0xa0}, content, []byte{0x58, 64}, signature)
	return mustJSON(tb, map[string]any{"kind": "cose", "apiVersion": "0.0.1", "spec": map[string]any{
		"message": message, "publicKey": verifier, "data": map[string]any{},
	}})
}

// What rekor's types make of a proposal, without our checks.
func canonicalByRekor(proposed []byte) ([]byte, types.EntryImpl, error) {
	model, err := models.UnmarshalProposedEntry(bytes.NewReader(proposed), runtime.JSONConsumer())
	if err != nil {
		return nil, nil, err
	}
	entry, err := types.UnmarshalEntry(model)
	if err != nil {
		return nil, nil, err
	}
	body, err := types.CanonicalizeEntry(context.TODO(), entry) // nothing is fetched
	return body, entry, err
}

func TestCanonicalize(t *testing.T) {
	all := proposals(t)
	// Of expired metadata rekor's type tells no more than the digest; and a query by an expired
	// root is refused.
	if keys := SearchKeys(all["tuf"]); len(keys) != 1 || !strings.HasPrefix(keys[0], "sha256:") {
		t.Errorf("tuf: keys %q", keys)
	}
	var expired *InputError
	if body, err := Canonicalize(t.Context(), all["tuf"]); !errors.As(err, &expired) || expired.Status != http.StatusBadRequest || !strings.Contains(err.Error(), "expired") {
		t.Errorf("tuf: %v, %s", err, body)
	}
	delete(all, "tuf")
	for kind, proposed := range all {
		want, entry, err := canonicalByRekor(proposed)
		if err != nil {
			t.Fatalf("%s: rekor refuses the test's own proposal: %v", kind, err)
		}
		body, err := Canonicalize(t.Context(), proposed)
		if err != nil || !bytes.Equal(body, want) {
			t.Errorf("%s: %v, %s, want %s", kind, err, body, want)
			continue
		}
		// The stored entry has the keys under which the proposal was indexed.
		proposedKeys, err := entry.IndexKeys()
		if err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		keys := SearchKeys(body)
		for _, k := range proposedKeys {
			if !slices.Contains(keys, strings.ToLower(k)) {
				t.Errorf("%s: no key %q in %q", kind, k, keys)
			}
		}
		// What is no longer in the body is not taken for empty.
		if len(keys) < 1 || slices.Contains(keys, "sha256:"+hexSum(nil)) {
			t.Errorf("%s: keys %q", kind, keys)
		}
	}
}

// What is only at a URL is not fetched: nobody is asked, and the proposal refused.
func TestCanonicalizeNeverFetches(t *testing.T) {
	var asked atomic.Int32
	remote := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = w.Write([]byte("content"))
	}))
	defer remote.Close()
	for kind, proposed := range proposals(t) {
		var entry map[string]any
		if err := json.Unmarshal(proposed, &entry); err != nil {
			t.Fatal(err)
		}
		for _, path := range contentPaths(entry, nil) {
			var changed map[string]any
			if err := json.Unmarshal(proposed, &changed); err != nil {
				t.Fatal(err)
			}
			object := changed
			for _, name := range path {
				object = object[name].(map[string]any)
			}
			delete(object, "content")
			object["url"] = remote.URL
			body, err := Canonicalize(t.Context(), mustJSON(t, changed))
			var wrong *InputError
			if !errors.As(err, &wrong) {
				t.Errorf("%s with a URL at %v: %v, %s", kind, path, err, body)
			}
			if p, err := Propose(t.Context(), mustJSON(t, changed)); !errors.As(err, &wrong) {
				t.Errorf("%s proposed with a URL at %v: %v, %v", kind, path, err, p)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d fetches", n)
	}
}

// contentPaths returns the objects that have content.
func contentPaths(object map[string]any, path []string) [][]string {
	var paths [][]string
	if _, ok := object["content"]; ok && len(path) > 1 { // not intoto's
		paths = append(paths, path)
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		if inner, ok := object[name].(map[string]any); ok {
			paths = append(paths, contentPaths(inner, append(slices.Clone(path), name))...)
		}
	}
	return paths
}

func TestCanonicalizeRefuses(t *testing.T) {
	key := newKey(t)
	good := string(hashedrekordV1(t, key, pemOf("CERTIFICATE", newCert(t, key, nil)), []byte("artifact")))
	other := string(hashedrekordV1(t, newKey(t), pemOf("PUBLIC KEY", spkiOf(t, key.Public())), []byte("artifact")))
	for s, status := range map[string]int{
		"":         http.StatusBadRequest,
		"null":     http.StatusBadRequest,
		"[]":       http.StatusBadRequest,
		"{}":       http.StatusBadRequest,
		"<html>":   http.StatusBadRequest,
		"\x00\xff": http.StatusBadRequest,
		good[:99]:  http.StatusBadRequest,
		other:      http.StatusBadRequest, // signed by another key
		`{"kind":"unknown","apiVersion":"0.0.1","spec":{}}`:                            http.StatusBadRequest,
		`{"kind":"hashedrekord","apiVersion":"9.9.9","spec":{}}`:                       http.StatusBadRequest,
		`{"kind":"hashedrekord","spec":{}}`:                                            http.StatusUnprocessableEntity,
		`{"kind":"hashedrekord","apiVersion":"one","spec":{}}`:                         http.StatusUnprocessableEntity,
		`{"kind":"hashedrekord","apiVersion":"0.0.1"}`:                                 http.StatusUnprocessableEntity,
		`{"kind":"hashedrekord","apiVersion":"0.0.1","spec":null}`:                     http.StatusUnprocessableEntity,
		`{"kind":"dsse","apiVersion":"0.0.1","spec":{"proposedContent":null}}`:         http.StatusBadRequest,
		`{"kind":"dsse","apiVersion":"0.0.1","spec":{"signatures":[null]}}`:            http.StatusBadRequest,
		`{"kind":"intoto","apiVersion":"0.0.2","spec":{"content":{"envelope":null}}}`:  http.StatusBadRequest,
		`{"kind":"intoto","apiVersion":"0.0.1","spec":{"content":{"envelope":"{}"}}}`:  http.StatusBadRequest,
		`{"kind":"cose","apiVersion":"0.0.1","spec":{"message":"AA==","data":{}}}`:     http.StatusBadRequest,
		`{"kind":"rfc3161","apiVersion":"0.0.1","spec":{"tsr":{"content":"AA=="}}}`:    http.StatusBadRequest,
		`{"kind":"tuf","apiVersion":"0.0.1","spec":{"metadata":{},"root":{}}}`:         http.StatusBadRequest,
		`{"kind":"alpine","apiVersion":"0.0.1","spec":{"package":{"content":"AA=="}}}`: http.StatusBadRequest,
		`{"kind":"helm","apiVersion":"0.0.1","spec":{"chart":{"provenance":{}}}}`:      http.StatusBadRequest,
		`{"kind":"rekord","apiVersion":"0.0.1","spec":{"data":{},"signature":{}}}`:     http.StatusBadRequest,
		`{"kind":"jar","apiVersion":"0.0.1","spec":{"archive":{"content":"AA=="}}}`:    http.StatusBadRequest,
		`{"kind":"rpm","apiVersion":"0.0.1","spec":{"package":{},"publicKey":{}}}`:     http.StatusBadRequest,
		strings.Repeat(" ", maxProposed+1):                                             http.StatusRequestEntityTooLarge,
	} {
		body, err := Canonicalize(t.Context(), []byte(s))
		var wrong *InputError
		if !errors.As(err, &wrong) || wrong.Status != status {
			t.Errorf("%.100q: %s, %v (%+v), want status %d", s, body, err, wrong, status)
		}
	}
}

// A panic of rekor's types is the client's mistake.
func TestRecoverInto(t *testing.T) {
	err := func() (err error) {
		defer recoverInto(&err)
		var p *int
		_ = *p
		return nil
	}()
	var wrong *InputError
	if !errors.As(err, &wrong) || wrong.Status != http.StatusBadRequest {
		t.Errorf("%v", err)
	}
}

// Packages that state, or unpack to, more than is allowed.
func TestBoundContent(t *testing.T) {
	gzipped := func(data []byte) []byte {
		var b bytes.Buffer
		w := gzip.NewWriter(&b)
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	tarHeader := func(name string, size int64) []byte {
		var b bytes.Buffer
		if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Name: name, Size: size, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	zipped := func(name string, size int) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		w, err := z.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	stating := func(sizes ...uint64) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for _, size := range sizes {
			if _, err := z.CreateRaw(&zip.FileHeader{Name: "a.class", UncompressedSize64: size}); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	rpmOf := func(entries, size uint32) []byte {
		b := make([]byte, 96+16)
		binary.BigEndian.PutUint32(b[96+8:], entries)
		binary.BigEndian.PutUint32(b[96+12:], size)
		return b
	}
	signature := gzipped(tarHeader(".SIGN.RSA.key", 0))
	for name, err := range map[string]error{
		"signature unpacks to 2 MiB":       boundAlpine(gzipped(make([]byte, 2*maxMetadata))),
		"control unpacks to 17 MiB":        boundAlpine(slices.Concat(signature, gzipped(make([]byte, maxControl+1<<20)))),
		"signature states a terabyte":      boundAlpine(gzipped(tarHeader(".SIGN.RSA.key", 1<<40))),
		"package info states 2 GiB":        boundAlpine(slices.Concat(signature, gzipped(tarHeader(".PKGINFO", 2<<30)))),
		"no Alpine package":                boundAlpine([]byte("text")),
		"a manifest of 2 MiB":              boundJar(zipped("META-INF/MANIFEST.MF", 2*maxMetadata)),
		"a file of a terabyte":             boundJar(stating(1 << 40)),
		"files of 400 MiB":                 boundJar(stating(200<<20, 200<<20)),
		"more than 2^64 bytes":             boundJar(stating(1<<63, 1<<63)),
		"an RPM of over a million entries": boundRPM(slices.Concat(rpmOf(1<<20+1, 0), make([]byte, 17<<20))),
		"no jar":                           boundJar([]byte("text")),
		"an RPM of 4 billion entries":      boundRPM(rpmOf(1<<32-1, 0)),
		"an RPM of 4 GiB of data":          boundRPM(rpmOf(0, 1<<32-1)),
		"an RPM of a million entries":      boundRPM(rpmOf(1<<20, 0)),
		"no RPM":                           boundRPM(make([]byte, 100)),
		"an RPM without its 2nd header":    boundRPM(rpmOf(0, 0)),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	_, err := Canonicalize(t.Context(), mustJSON(t, map[string]any{"kind": "jar", "apiVersion": "0.0.1", "spec": map[string]any{
		"archive": map[string]any{"content": stating(1 << 40)},
	}}))
	if err == nil || !strings.Contains(err.Error(), "states 1099511627776 bytes") {
		t.Errorf("a proposal for a jar that states a terabyte: %v", err)
	}
	// Whatever their signatures: they go on to rekor's types.
	for name, err := range map[string]error{
		"a small Alpine package": boundAlpine(slices.Concat(signature, gzipped(tarHeader(".PKGINFO", 0)))),
		"a file of 2 MiB":        boundJar(zipped("a.class", 2*maxMetadata)),
		"a small RPM":            boundRPM(slices.Concat(rpmOf(0, 0), make([]byte, 16))),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCanonicalize(f *testing.F) {
	key := newKey(f)
	cert := pemOf("CERTIFICATE", newCert(f, key, nil))
	f.Add(hashedrekordV1(f, key, cert, []byte("artifact")))
	f.Add(dsseV1(f, key, cert, []byte("payload")))
	f.Add(intotoV2(f, key, cert, []byte("{}")))
	f.Fuzz(func(t *testing.T, proposed []byte) {
		body, err := Canonicalize(t.Context(), proposed)
		if err != nil {
			var wrong *InputError
			if !errors.As(err, &wrong) {
				t.Errorf("%T: %v", err, err)
			}
			return
		}
		if !json.Valid(body) || len(SearchKeys(body)) == 0 {
			t.Errorf("%s became %s, with keys %q", proposed, body, SearchKeys(body))
		}
	})
}
