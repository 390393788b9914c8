package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

const aRoot = `"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"`

// b64 is an ID whose base64 has the two characters in which the alphabets differ.
var (
	oddID    = bytes.Repeat([]byte{0xfb, 0xff}, 16)
	stdOdd   = base64.StdEncoding.EncodeToString(oddID)
	urlOdd   = base64.URLEncoding.EncodeToString(oddID)
	rawOdd   = base64.RawStdEncoding.EncodeToString(oddID)
	ourKey   = base64.StdEncoding.EncodeToString(Key{public: signingKeys()["Ed25519"].Public()}.SPKI())
	otherKey = func() string {
		k := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		return base64.StdEncoding.EncodeToString(Key{public: k.Public()}.SPKI())
	}()
)

func logJSON(idField, keyField, id, key, details string) string {
	return fmt.Sprintf(`{"baseUrl": "https://log.example.com", "hashAlgorithm": "SHA2_256", "publicKey": {"rawBytes": %q, "keyDetails": %q, "validFor": {"start": "2026-01-01T00:00:00Z"}}, %q: {%q: %q}}`, key, details, idField, keyField, id)
}

func rootOf(logs string) []byte { return fmt.Appendf(nil, `{%s, "tlogs": [%s]}`, aRoot, logs) }

// TestReviewOneLogIDTwice: what is added must have an ID of its own, however it is written: else it takes the place of
// upstream's key, for clients keep logs by ID.
func TestReviewOneLogIDTwice(t *testing.T) {
	base := rootOf(logJSON("logId", "keyId", stdOdd, otherKey, "PKIX_ECDSA_P256_SHA_256"))
	for name, add := range map[string]string{
		"snake case":        logJSON("log_id", "key_id", stdOdd, ourKey, "PKIX_ED25519"),
		"snake case inside": logJSON("logId", "key_id", stdOdd, ourKey, "PKIX_ED25519"),
		"URL alphabet":      logJSON("logId", "keyId", urlOdd, ourKey, "PKIX_ED25519"),
		"no padding":        logJSON("logId", "keyId", rawOdd, ourKey, "PKIX_ED25519"),
	} {
		both, err := CombineRoots(base, rootOf(add))
		if err != nil {
			t.Logf("%s: refused: %v", name, err)
			continue
		}
		was, is := must(ParseRoot(base)).keys[0], must(ParseRoot(both)).keys
		t.Errorf("%s: it is taken, and clients that had for this log ID a %T have now %d log(s), a %T", name, was.public, len(is), is[0].public)
	}
}

// TestReviewListsAreLost: lists by their other name are not left out.
func TestReviewListsAreLost(t *testing.T) {
	ca := `{"uri": "https://ca.example", "subject": {"organization": "us", "commonName": "us"}, "certChain": {"certificates": [{"rawBytes": %q}]}, "validFor": {"start": "2026-01-01T00:00:00Z"}}`
	genuine := ""
	for _, data := range genuineFiles(t, "production/*trusted_root.json") {
		if p, err := rootParts(data); err == nil && len(p.lists["certificateAuthorities"]) > 0 {
			genuine = string(p.lists["certificateAuthorities"][0])
		}
	}
	_ = ca
	for _, list := range []string{"certificate_authorities", "timestamp_authorities"} {
		add := fmt.Appendf(nil, `{%s, %q: [%s]}`, aRoot, list, genuine)
		before := must(root.NewTrustedRootFromJSON(add))
		both, err := CombineRoots(rootOf(logJSON("logId", "keyId", stdOdd, otherKey, "PKIX_ECDSA_P256_SHA_256")), add)
		if err != nil {
			t.Logf("%s: refused: %v", list, err)
			continue
		}
		after := must(root.NewTrustedRootFromJSON(both))
		if len(before.FulcioCertificateAuthorities()) != len(after.FulcioCertificateAuthorities()) || len(before.TimestampingAuthorities()) != len(after.TimestampingAuthorities()) {
			t.Errorf("%s: it is lost", list)
		}
	}
}

// TestReviewRewriteV1: a log that is to have another address has it, or it is an error; a v2 log never has.
func TestReviewRewriteV1(t *testing.T) {
	raw := must(base64.StdEncoding.DecodeString(otherKey))
	sum := sha256.Sum256(raw)
	v1ID := base64.StdEncoding.EncodeToString(sum[:])
	for name, log := range map[string]string{
		"snake case": logJSON("log_id", "key_id", v1ID, otherKey, "PKIX_ECDSA_P256_SHA_256"),
		"no padding": logJSON("logId", "keyId", strings.TrimRight(v1ID, "="), otherKey, "PKIX_ECDSA_P256_SHA_256"),
	} {
		out, err := RewriteV1(rootOf(log), "log.example.com", "https://mirror.example.com")
		if err == nil && !bytes.Contains(out, []byte("https://mirror.example.com")) {
			t.Errorf("%s: it says it has done it, and has not", name)
		}
	}
}

// TestReviewECDSARoot: what policy-controller refuses is out.
func TestReviewECDSARoot(t *testing.T) {
	for name, log := range map[string]string{
		"snake case": logJSON("log_id", "key_id", stdOdd, ourKey, "PKIX_ED25519"),
		"no padding": logJSON("logId", "keyId", rawOdd, ourKey, "PKIX_ED25519"),
	} {
		out, err := ECDSARoot(rootOf(log))
		if err != nil {
			t.Logf("%s: %v", name, err)
			continue
		}
		if n := len(must(ParseRoot(out)).keys); n != 0 {
			t.Errorf("%s: the log that signs by Ed25519 is there still", name)
		}
	}
}

// TestReviewSelectors: what is written is what clients can use: no selector that cannot be met or is not there.
func TestReviewSelectors(t *testing.T) {
	now := must(time.Parse(time.RFC3339, "2026-07-01T00:00:00Z"))
	const old = "2020-01-01T00:00:00Z"
	config := func(logs, logConfig, tsas, tsaConfig string) []byte {
		return fmt.Appendf(nil, `{"mediaType": %q, "rekorTlogUrls": [%s] %s, "tsaUrls": [%s] %s}`, root.SigningConfigMediaType02, logs, logConfig, tsas, tsaConfig)
	}
	public, us := service("https://public", 2, "public", old, ""), service("https://us", 2, "us", old, "")
	us1 := service("https://us-v1", 1, "us", old, "")
	tsa, tsa2 := service("https://tsa", 1, "public", old, ""), service("https://tsa-2", 1, "other", old, "")
	over := service("https://tsa-old", 1, "public", old, "2021-01-01T00:00:00Z")
	const anyLog, anyTSA = `, "rekorTlogConfig": {"selector": "ANY"}`, `, "tsaConfig": {"selector": "ANY"}`
	for name, test := range map[string]struct {
		base, ours []byte
		logs       SigningLogs
	}{
		"ours wants exactly two, and has one":               {config(public, anyLog, tsa, anyTSA), config(us, `, "rekorTlogConfig": {"selector": "EXACT", "count": 2}`, "", ""), SigningFallback},
		"ours wants none":                                   {config(public, anyLog, tsa, anyTSA), config(us, `, "rekorTlogConfig": {}`, "", ""), SigningFallback},
		"exactly two versions of ours, of which one is out": {config(public, anyLog, "", ""), config(us+","+us1, `, "rekorTlogConfig": {"selector": "EXACT", "count": 2}`, "", ""), SigningFallback},
		"no tsaConfig":                                      {config(public, anyLog, tsa, ""), config(us, anyLog, "", ""), SigningFallback},
		"no tsaConfig, always":                              {config(public, anyLog, tsa, ""), config(us, anyLog, "", ""), SigningAlways},
		"no tsaUrls, no tsaConfig":                          {config(public, anyLog, "", ""), config(us, anyLog, "", ""), SigningFallback},
		"exactly two authorities, one of which is over":     {config(public, anyLog, over+","+tsa2, `, "tsaConfig": {"selector": "EXACT", "count": 2}`), config(us, anyLog, "", ""), SigningFallback},
		"public without rekorTlogConfig":                    {config(public, "", tsa, anyTSA), nil, SigningPublic},
		"public without tsaConfig":                          {config(public, anyLog, tsa, ""), nil, SigningPublic},
	} {
		t.Run(name, func(t *testing.T) {
			out, notes, err := CombineSigning(test.base, test.ours, test.logs, now)
			if err != nil || len(notes) > 0 {
				t.Logf("said: %v, %v", notes, err)
				return
			}
			defer func() {
				if p := recover(); p != nil {
					t.Errorf("without a word, and clients panic: %v", p)
				}
			}()
			c := must(root.NewSigningConfigFromJSON(out))
			if _, err := root.SelectServices(c.RekorLogURLs(), c.RekorLogURLsConfig(), []uint32{1, 2}, now); err != nil {
				t.Errorf("without a word, and clients refuse the logs: %v", err)
			}
			if len(c.TimestampAuthorityURLs()) == 0 {
				_ = c.TimestampAuthorityURLsConfig()
				return
			}
			if _, err := root.SelectServices(c.TimestampAuthorityURLs(), c.TimestampAuthorityURLsConfig(), []uint32{1}, now); err != nil {
				t.Errorf("without a word, and clients refuse the authorities: %v", err)
			}
		})
	}
}

// TestReviewWindows: what is over, or has not begun, is not given out without a word; that of ours which ends tomorrow neither.
func TestReviewWindows(t *testing.T) {
	now := must(time.Parse(time.RFC3339, "2026-07-01T00:00:00Z"))
	public := service("https://public", 2, "public", "2020-01-01T00:00:00Z", "")
	us := service("https://us", 2, "us", "2020-01-01T00:00:00Z", "2026-07-02T00:00:00Z")
	_, notes, err := CombineSigning(signing([]string{public}, []string{service("https://tsa", 1, "public", "2020-01-01T00:00:00Z", "")}), signing([]string{us}, nil), SigningAlways, now)
	if err == nil && len(notes) == 0 {
		t.Error("from tomorrow on signers log in one log alone, and nothing is said")
	}
	// three logs where two were asked for
	third := service("https://third", 2, "third", "2020-01-01T00:00:00Z", "")
	out, notes, err := CombineSigning(signing([]string{public, third}, []string{service("https://tsa", 1, "public", "2020-01-01T00:00:00Z", "")}), signing([]string{service("https://us", 2, "us", "2020-01-01T00:00:00Z", "")}, nil), SigningAlways, now)
	if err == nil && len(notes) == 0 {
		if chosen := must(chosenLogs(out, now)); len(chosen) != 2 {
			t.Errorf("always is one of upstream and ours; clients use %d logs", len(chosen))
		}
	}
	// the same authority in both
	tsa := service("https://tsa", 1, "public", "2020-01-01T00:00:00Z", "")
	out, _, err = CombineSigning(signing([]string{public}, []string{tsa}), signing([]string{service("https://us", 2, "us", "2020-01-01T00:00:00Z", "")}, []string{tsa}), SigningFallback, now)
	if err == nil {
		if n := len(must(root.NewSigningConfigFromJSON(out)).TimestampAuthorityURLs()); n != 1 {
			t.Errorf("one authority is listed %d times", n)
		}
	}
}

// TestReviewSigningFieldNames: unknown fields and other spellings.
func TestReviewSigningFieldNames(t *testing.T) {
	for name, text := range map[string]string{
		"null lists":     `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": null, "ctlogs": null}`,
		"null element":   `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [null]}`,
		"unknown field":  `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "x": 1}`,
		"twice":          `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [], "tlogs": []}`,
		"other case":     `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "Tlogs": []}`,
		"media_type":     `{"media_type": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"trailing bytes": `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"} {}`,
	} {
		out, err := CombineRoots([]byte(text), rootOf(logJSON("logId", "keyId", stdOdd, ourKey, "PKIX_ED25519")))
		t.Logf("%s: %v", name, err)
		if err == nil && len(must(ParseRoot(out)).keys) != 1 {
			t.Errorf("%s: it has become %s", name, out)
		}
	}
}

// TestReviewUnknownLogs: what signers use is known by its host, as Sigstore has it.
func TestReviewUnknownLogs(t *testing.T) {
	for name, base := range genuineFiles(t, "production/2025-09-22*trusted_root.json") {
		for url, want := range map[string]int{"https://rekor.sigstore.dev": 0, "https://log2025-1.rekor.sigstore.dev": 0, "https://log.us.example": 1} {
			config := signing([]string{service(url, 1, "sigstore.dev", "2020-01-01T00:00:00Z", "")}, nil)
			if unknown := must(UnknownLogs(config, base, time.Now())); len(unknown) != want {
				t.Errorf("%s: of %s unknown are %v", name, url, unknown)
			}
		}
	}
}
