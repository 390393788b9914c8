package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
)

// TestSuccessor: which logs are followed because the trust material announces them, and how.
func TestSuccessor(t *testing.T) {
	const old, next = "log2025-1.rekor.example", "log2026-1.rekor.example"
	for name, test := range map[string]struct {
		tuf, log string // of the configuration
		origin   string
		want     string // name, address and coverage; empty: it is not followed
	}{
		"the next log":                   {"tuf: {}", "coverage: full", next, "us/" + next + " https://new.example:8443/api/v2 full"},
		"a window":                       {"tuf: {}", "coverage: window, window: 1000", next, "us/" + next + " https://new.example:8443/api/v2 window"},
		"a minimum index of the old":     {"tuf: {}", "coverage: window, minimum_index: 512", next, "us/" + next + " https://new.example:8443/api/v2 full"},
		"asked for":                      {"tuf: {}", "successors: true", next, "us/" + next + " https://new.example:8443/api/v2 full"},
		"not wanted":                     {"tuf: {}", "successors: false", next, ""},
		"itself":                         {"tuf: {}", "coverage: full", old, ""},
		"of another domain":              {"tuf: {}", "coverage: full", "log2026-1.rekor.example.org", ""},
		"of a domain above":              {"tuf: {}", "coverage: full", "log2026-1.example", ""},
		"strangers in one top domain":    {"tuf: {}", "coverage: full", "rekor.example", ""},
		"a host without a domain":        {"tuf: {}", "coverage: full", "localhost", ""},
		"a shard of Rekor v1":            {"tuf: {}", "coverage: full", "x.rekor.example - 1", ""},
		"trust material that stays":      {"stale_after: 1h", "coverage: full", next, ""},
		"a key of the operator's giving": {"tuf: {}", "public_key: " + "log.example.com+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k", next, ""},
	} {
		c, err := parseConfig("c.yaml", fmt.Appendf(nil, "%s\nlogs: [{name: us, url: 'https://%s/api/v2', origin: %s, %s, sources: [{url: 'http://mirror.example/%s'}, {url: 'http://copy.example/x'}]}]", test.tuf, old, old, test.log, mirror.OriginHash(old)))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		log, of := c.successor(test.origin, "https://new.example:8443/")
		if of == nil {
			if test.want != "" {
				t.Errorf("%s: it is not followed", name)
			}
			continue
		}
		if got := log.Name + " " + log.URL + " " + log.Coverage; got != test.want || log.Origin != test.origin || of.Name != "us" {
			t.Errorf("%s: %s, want %s", name, got, test.want)
		}
		if len(log.Sources) != 1 || log.Sources[0].URL != "http://mirror.example/"+mirror.OriginHash(test.origin) {
			t.Errorf("%s: sources %v", name, log.Sources)
		}
		if c.Logs[0].Origin != old || len(c.Logs[0].Sources) != 2 {
			t.Errorf("%s: the log before it has changed: %+v", name, c.Logs[0])
		}
	}
	for _, config := range []string{
		"logs: [{url: 'https://a.example', origin: a.example, successors: true}]",
		"tuf: {}\nlogs: [{url: 'https://a.example', origin: a.example, successors: true, public_key: log.example.com+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k}]",
		"tuf: {}\nlogs: [{name: v1, source: rekor-v1, url: 'https://a.example', successors: true}]",
	} {
		if _, err := parseConfig("c.yaml", []byte(config)); err == nil || !strings.Contains(err.Error(), "successors") {
			t.Errorf("%s: %v", config, err)
		}
	}
}

// rootOf is a TrustedRoot that lists logs, each by address, key and beginning; those of Rekor v1 have the
// log ID that follows from their key.
func rootOf(t *testing.T, logs ...[3]string) []byte {
	t.Helper()
	var list []string
	for _, log := range logs {
		seed := sha256.Sum256([]byte(log[1]))
		spki, err := x509.MarshalPKIXPublicKey(ed25519.NewKeyFromSeed(seed[:]).Public())
		if err != nil {
			t.Fatal(err)
		}
		id := sha256.Sum256(append([]byte(log[1]), log[0]...))
		if strings.HasPrefix(log[0], "https://rekor.") {
			id = sha256.Sum256(spki)
		}
		list = append(list, fmt.Sprintf(`{"baseUrl": %q, "hashAlgorithm": "SHA2_256", "logId": {"keyId": %q},
			"publicKey": {"rawBytes": %q, "keyDetails": "PKIX_ED25519", "validFor": {"start": %q}}}`,
			log[0], base64.StdEncoding.EncodeToString(id[:]), base64.StdEncoding.EncodeToString(spki), log[2]))
	}
	return fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [%s]}`, strings.Join(list, ","))
}

// TestSucceed: later logs of the service are followed, those before the configured one are not, and
// what was followed once is opened again.
func TestSucceed(t *testing.T) {
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), []byte("tuf: {}\nlogs: [{name: us, url: 'https://log2025-1.rekor.example/api/v2', origin: log2025-1.rekor.example}]"))
	if err != nil {
		t.Fatal(err)
	}
	names := func(d *daemon) (names []string) {
		for _, f := range d.followers() {
			names = append(names, f.config.Name)
		}
		return names
	}
	d, closeDB := openDaemon(t, c)
	root, err := trust.ParseRoot(rootOf(t, [3]string{"https://log2024-1.rekor.example", "a", "2024-01-01T00:00:00Z"}, [3]string{"https://log2025-1.rekor.example", "b", "2025-01-01T00:00:00Z"},
		[3]string{"https://log2026-1.rekor.example", "c", "2026-01-01T00:00:00Z"}, [3]string{"https://rekor.rekor.example", "d", "2026-01-01T00:00:00Z"}, [3]string{"https://log2026-1.them.example", "e", "2026-01-01T00:00:00Z"}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"us", "us/log2026-1.rekor.example"}
	if added := d.succeed(root); len(added) != 1 || !slices.Equal(names(d), want) {
		t.Errorf("followed are %q", names(d))
	}
	if added := d.succeed(root); len(added) != 0 {
		t.Errorf("once more it adds %d", len(added))
	}
	closeDB()
	d, closeDB = openDaemon(t, c)
	defer closeDB()
	if !slices.Equal(names(d), want) {
		t.Errorf("after a restart followed are %q", names(d))
	}
}

// TestServiceKeys: a Rekor v1 service takes a further key, but none in the place of one that is
// withdrawn: else a new shard would be taken under a key that somebody put there.
func TestServiceKeys(t *testing.T) {
	c, err := parseConfig(filepath.Join(t.TempDir(), "c.yaml"), []byte("tuf: {}\nlogs: [{name: v1, source: rekor-v1, url: 'https://rekor.example'}]"))
	if err != nil {
		t.Fatal(err)
	}
	d, closeDB := openDaemon(t, c)
	defer closeDB()
	const start = "2024-01-01T00:00:00Z"
	a, b, x := [3]string{"https://rekor.example", "a", start}, [3]string{"https://rekor.example", "b", start}, [3]string{"https://rekor.example", "x", start}
	for i, step := range []struct {
		root []byte
		keys int
		says string
	}{
		{rootOf(t, a), 1, ""}, {rootOf(t, a, b), 2, ""}, {rootOf(t, a, x), 1, ""}, {rootOf(t, x), 0, "withdrawn or changed"}, {rootOf(t, a, b), 2, ""},
	} {
		if !d.keys.use(step.root) {
			t.Fatalf("step %d: the root is not taken", i)
		}
		found := d.keysOf(d.followers()[0])
		if len(found.keys) != step.keys || (found.err == nil) != (step.says == "") || found.err != nil && !strings.Contains(found.err.Error(), step.says) {
			t.Errorf("step %d: %d keys, %v", i, len(found.keys), found.err)
		}
	}
}

// TestDomain: what logs of one service have in common, and strangers have not.
func TestDomain(t *testing.T) {
	for origin, want := range map[string]string{
		"log2025-1.rekor.sigstore.dev": "rekor.sigstore.dev", "log.us.test": "us.test", "rekor.com": "", "localhost": "", "": "", "a.b.example:8080": "", "rekor.sigstore.dev - 1": "", "a.b/c.d": "",
	} {
		if got := domain(origin); got != want {
			t.Errorf("%s: %q, want %q", origin, got, want)
		}
	}
}
