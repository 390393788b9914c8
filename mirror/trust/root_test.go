package trust

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRootKeys(t *testing.T) {
	keys := signingKeys()
	path := filepath.Join(t.TempDir(), "trusted_root.json")
	logs := map[string]crypto.PublicKey{
		"https://" + v1Host:               keys["P-256"].Public(),
		"https://" + v2Origin + "/api/v2": keys["Ed25519"].Public(),
		"":                                keys["P-384"].Public(),
	}
	if err := os.WriteFile(path, trustedRoot(t, logs), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := LoadRoot(path)
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]string{
		v2Origin:            "Ed25519",
		v2Origin + " - 12":  "Ed25519",
		v1Origin:            "P-256",
		v1Host:              "P-256",
		v1Host + ":443":     "",
		v1Host + " - x":     "",
		"x." + v1Host:       "",
		" - 12":             "",
		"":                  "",
		"Rekor":             "",
		v1Host + " - 1 - 2": "",
	} {
		got := r.Keys(origin)
		if want == "" && len(got) != 0 || want != "" && (len(got) != 1 || !got[0].public.(interface{ Equal(crypto.PublicKey) bool }).Equal(keys[want].Public())) {
			t.Errorf("Keys(%q) = %+v, want that of %s", origin, got, want)
		}
	}
	k := r.Keys(v2Origin)[0]
	if k.Start != time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC) || k.End != time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC) || len(k.LogID) != 32 {
		t.Errorf("key %+v", k)
	}
	// Outside its window, by this machine's clock: a checkpoint has no time.
	if _, err := r.Open(signV2(v2Origin, keys["Ed25519"], textOf(v2Origin))); err != nil {
		t.Error(err)
	}
	if len(r.Material().RekorLogs()) != 3 {
		t.Error("sigstore-go does not see the logs")
	}
	if _, err := LoadRoot(path + ".gone"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}

func TestRootOpenLearnsOrigin(t *testing.T) {
	v1, v2 := signingKeys()["P-256"], signingKeys()["Ed25519"]
	r, err := ParseRoot(trustedRoot(t, map[string]crypto.PublicKey{
		"https://" + v1Host:   v1.Public(),
		"https://" + v2Origin: v2.Public(),
	}))
	if err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{v1Origin, "Rekor"} {
		c, err := r.Open(signV1(v1Host, v1, textOf(origin)))
		if err != nil || c.Origin != origin {
			t.Errorf("origin %q: %+v, %v", origin, c, err)
		}
	}
	// A v2 key signs for its own host alone.
	if c, err := r.Open(signV2(v2Origin, v2, textOf("other.example"))); err == nil {
		t.Errorf("v2 key for another origin: %+v", c)
	}
	_, err = r.Open(signV2("other.example", v2, textOf("other.example")))
	if _, ok := errors.AsType[*SignatureError](err); !ok {
		t.Errorf("unknown log: %v", err)
	}
	if _, err := r.Open([]byte("no note")); !isMalformed(err) {
		t.Errorf("no note: %v", err)
	}
}

func TestParseRootRefuses(t *testing.T) {
	public := signingKeys()["Ed25519"].Public()
	weak := &rsa.PublicKey{N: must(rand.Prime(rand.Reader, 1024)), E: 65537}
	encode := func(public crypto.PublicKey) string {
		return base64.StdEncoding.EncodeToString(must(x509.MarshalPKIXPublicKey(public)))
	}
	var good bytes.Buffer // protojson puts spaces in at random
	if err := json.Compact(&good, trustedRoot(t, map[string]crypto.PublicKey{"https://" + v2Origin: public})); err != nil {
		t.Fatal(err)
	}
	for name, alter := range map[string][]string{
		"truncated":     {"}]}", "}]"},
		"no start":      {`"start":"2030-01-01T00:00:00Z",`, ""},
		"bad time":      {"2031-01-01T00", "2031-01-01"},
		"bad base URL":  {"https://", "https://%zz"},
		"no key":        {encode(public), ""},
		"weak key":      {encode(public), encode(weak), "PKIX_ED25519", "PKIX_RSA_PKCS1V15_2048_SHA256"},
		"other version": {"version=0.1", "version=0.9"},
	} {
		for i := 0; i < len(alter); i += 2 {
			if !strings.Contains(good.String(), alter[i]) {
				t.Errorf("%s: no %s in %s", name, alter[i], good.String())
			}
		}
		if _, err := ParseRoot([]byte(strings.NewReplacer(alter...).Replace(good.String()))); err == nil {
			t.Errorf("%s: parsed", name)
		}
	}
}
