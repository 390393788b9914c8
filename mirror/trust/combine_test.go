package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
)

// genuineFiles are files that Sigstore has published, from the shared data.
func genuineFiles(t *testing.T, pattern string) map[string][]byte {
	t.Helper()
	names := must(filepath.Glob("../../../shared/data/trusted-roots/" + pattern))
	if len(names) == 0 {
		t.Skip("NOTICE: no ../shared/data here")
	}
	files := map[string][]byte{}
	for _, name := range names {
		files[filepath.Base(name)] = must(os.ReadFile(name))
	}
	return files
}

// someLog is a TrustedRoot with one log of ours.
func someLog(t *testing.T, url, start string) []byte {
	t.Helper()
	key := Key{public: signingKeys()["Ed25519"].Public()}
	return fmt.Appendf(nil, `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [{"baseUrl": %q, "hashAlgorithm": "SHA2_256",
		"publicKey": {"rawBytes": %q, "keyDetails": "PKIX_ED25519" %s}, "logId": {"keyId": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}]}`,
		url, must(json.Marshal(key.SPKI()))[1:len(must(json.Marshal(key.SPKI())))-1], start)
}

const since2026 = `, "validFor": {"start": "2026-01-01T00:00:00Z"}`

// TestCombineRoots: what Sigstore has published comes through as it stands, entry by entry, and ours
// is one more.
func TestCombineRoots(t *testing.T) {
	ours := someLog(t, "https://log.example.com", since2026)
	for name, base := range genuineFiles(t, "*/*trusted_root.json") {
		parsed, err := ParseRoot(base)
		if err != nil { // two are malformed
			if _, err := CombineRoots(base, ours); err == nil {
				t.Errorf("%s is malformed, and is taken", name)
			}
			continue
		}
		both, err := CombineRoots(base, ours)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		before, after := must(rootParts(base)), must(rootParts(both))
		for _, list := range rootLists {
			for i, entry := range before.lists[list] {
				if got := compact(after.lists[list][i]); got != compact(entry) {
					t.Errorf("%s: %s %d has become %s", name, list, i, got)
				}
			}
		}
		if n, m := len(parsed.Material().RekorLogs()), len(must(ParseRoot(both)).Material().RekorLogs()); m != n+1 {
			t.Errorf("%s: %d logs and ours are %d", name, n, m)
		}
		if again := must(CombineRoots(base)); !bytes.Equal(again, base) {
			t.Errorf("%s: with nothing more it is another one", name)
		}
		if _, err := CombineRoots(base, base); err == nil || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("%s with itself: %v", name, err)
		}
		if _, err := CombineRoots(base, someLog(t, "https://log.example.com", `, "validFor": {}`)); err == nil || !strings.Contains(err.Error(), "validity") {
			t.Errorf("%s with a log without a window: %v", name, err)
		}
		if _, err := CombineRoots(base, ours, ours); err == nil {
			t.Errorf("%s: ours twice is taken", name)
		}
	}
}

// TestECDSARoot: of what Sigstore has published the Rekor logs with ECDSA keys remain, and every CT log, with
// a key in the one encoding that policy-controller reads.
func TestECDSARoot(t *testing.T) {
	rewritten := 0
	for name, base := range genuineFiles(t, "*/*trusted_root.json") {
		before, err := root.NewTrustedRootFromJSON(base)
		if err != nil { // it is malformed
			if _, err := ECDSARoot(base); err == nil {
				t.Errorf("%s is malformed, and is taken", name)
			}
			continue
		}
		made := must(ECDSARoot(base))
		after := must(root.NewTrustedRootFromJSON(made))
		logs := before.RekorLogs()
		maps.DeleteFunc(logs, func(_ string, l *root.TransparencyLog) bool { _, ok := l.PublicKey.(*ecdsa.PublicKey); return !ok })
		if !reflect.DeepEqual(after.RekorLogs(), logs) || len(after.CTLogs()) != len(before.CTLogs()) {
			t.Errorf("%s: other logs", name)
		}
		for id, l := range before.CTLogs() {
			if a := after.CTLogs()[id]; a == nil || a.BaseURL != l.BaseURL || !reflect.DeepEqual(a.PublicKey, l.PublicKey) || a.ValidityPeriodStart != l.ValidityPeriodStart || a.ValidityPeriodEnd != l.ValidityPeriodEnd {
				t.Errorf("%s: CT log %s: %v, want %v", name, id, a, l)
			}
		}
		for _, l := range must(root.NewTrustedRootProtobuf(made)).GetCtlogs() {
			if _, err := x509.ParsePKIXPublicKey(l.GetPublicKey().GetRawBytes()); err != nil {
				t.Errorf("%s: %s: %v", name, l.GetBaseUrl(), err)
			}
		}
		if !bytes.Equal(made, base) {
			rewritten++
		}
	}
	if rewritten == 0 {
		t.Error("none had to be rewritten")
	}
}

func compact(raw []byte) string {
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		panic(err)
	}
	return b.String()
}

// TestRewriteV1: the v1 log of a host gets another address, and nothing else changes: v2 logs never.
func TestRewriteV1(t *testing.T) {
	for name, base := range genuineFiles(t, "production/*trusted_root.json") {
		if _, err := ParseRoot(base); err != nil {
			continue
		}
		out, err := RewriteV1(base, "rekor.sigstore.dev", "https://mirror.example.com")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := RewriteV1(base, "log2025-1.rekor.sigstore.dev", "https://mirror.example.com"); err == nil {
			t.Errorf("%s: a v2 log got another address", name)
		}
		before, after := must(rootParts(base)), must(rootParts(out))
		n := 0
		for i, was := range before.read.GetTlogs() {
			is := after.read.GetTlogs()[i]
			if was.GetBaseUrl() == "https://rekor.sigstore.dev" {
				n++
				was.BaseUrl = "https://mirror.example.com"
			}
			if was.GetBaseUrl() != is.GetBaseUrl() || idOf(was) != idOf(is) {
				t.Errorf("%s: log %d has become %v", name, i, is)
			}
		}
		if n == 0 {
			t.Errorf("%s has no v1 log", name)
		}
		for _, list := range rootLists[1:] {
			if !slices.EqualFunc(before.lists[list], after.lists[list], func(a, b json.RawMessage) bool { return compact(a) == compact(b) }) {
				t.Errorf("%s: %s has changed", name, list)
			}
		}
	}
}

func service(url string, version int, operator, start, end string) string {
	if end != "" {
		end = fmt.Sprintf(`, "end": %q`, end)
	}
	return fmt.Sprintf(`{"url": %q, "majorApiVersion": %d, "operator": %q, "validFor": {"start": %q %s}}`, url, version, operator, start, end)
}

// signing is a SigningConfig with logs, and time-stamping authorities.
func signing(logs, tsas []string) []byte {
	tsa := ""
	if len(tsas) > 0 {
		tsa = fmt.Sprintf(`"tsaUrls": [%s], "tsaConfig": {"selector": "ANY"},`, strings.Join(tsas, ","))
	}
	return fmt.Appendf(nil, `{"mediaType": %q, "caUrls": [%s], %s "rekorTlogUrls": [%s], "rekorTlogConfig": {"selector": "ANY"}}`,
		root.SigningConfigMediaType02, service("https://ca.example", 1, "public", "2020-01-01T00:00:00Z", ""), tsa, strings.Join(logs, ","))
}

// TestCombineSigning: what clients choose, by sigstore-go's own rules, is what was asked for.
func TestCombineSigning(t *testing.T) {
	const old, late = "2020-01-01T00:00:00Z", "2020-06-01T00:00:00Z"
	now := must(time.Parse(time.RFC3339, "2026-07-01T00:00:00Z"))
	publicV1, publicV2 := service("https://public-v1", 1, "public", old, ""), service("https://public-v2", 2, "public", old, "")
	ourV1, ourV2 := service("https://our-v1", 1, "us", old, ""), service("https://our-v2", 2, "us", old, "")
	tsa := []string{service("https://tsa", 1, "public", old, "")}
	for name, test := range map[string]struct {
		base, ours, tsas []string
		logs             SigningLogs
		want             []string // logs that clients which speak both versions use
		note, err        string
	}{
		"fallback":                               {base: []string{publicV2, publicV1}, ours: []string{ourV2}, tsas: tsa, logs: SigningFallback, want: []string{"https://our-v2"}},
		"fallback to the newer version":          {base: []string{publicV2}, ours: []string{ourV1, ourV2}, tsas: tsa, logs: SigningFallback, want: []string{"https://our-v2"}},
		"fallback to the version that has times": {base: []string{publicV2}, ours: []string{ourV1, ourV2}, logs: SigningFallback, want: []string{"https://our-v1"}, note: "gives no time"},
		"fallback without any time":              {base: []string{publicV1}, ours: []string{ourV2}, logs: SigningFallback, want: []string{"https://our-v2"}, note: "short-lived certificates will fail"},
		"always, v2":                             {base: []string{publicV2, publicV1}, ours: []string{ourV2}, tsas: tsa, logs: SigningAlways, want: []string{"https://our-v2", "https://public-v2"}, note: "only logs of API version 2"},
		"always, v1":                             {base: []string{publicV2, publicV1}, ours: []string{ourV1}, tsas: tsa, logs: SigningAlways, want: []string{"https://our-v1", "https://public-v1"}, note: "only logs of API version 1"},
		"always, both versions":                  {base: []string{publicV2, publicV1}, ours: []string{ourV1, ourV2}, tsas: tsa, logs: SigningAlways, want: []string{"https://our-v2", "https://public-v2"}, note: "only logs of API version 2"},
		"always, the newest of the operator": {base: []string{service("https://public-2025", 2, "public", old, ""), service("https://public-2026", 2, "public", late, "")}, ours: []string{ourV2}, tsas: tsa, logs: SigningAlways,
			want: []string{"https://our-v2", "https://public-2026"}},
		"always, the public one is over": {base: []string{service("https://public-v2", 2, "public", old, late), publicV1}, ours: []string{ourV1, ourV2}, tsas: tsa, logs: SigningAlways, want: []string{"https://our-v1", "https://public-v1"}, note: "only logs of API version 1"},
		"always, different versions":     {base: []string{publicV1}, ours: []string{ourV2}, tsas: tsa, logs: SigningAlways, err: "of the same API version"},
		"always, one operator":           {base: []string{publicV2}, ours: []string{service("https://our", 2, "public", old, "")}, tsas: tsa, logs: SigningAlways, err: `has the operator "public"`},
		"ours is over":                   {base: []string{publicV2}, ours: []string{service("https://our", 2, "us", old, late)}, tsas: tsa, logs: SigningFallback, err: "none that is valid now"},
		"ours has no operator":           {base: []string{publicV2}, ours: []string{service("https://our", 2, "", old, "")}, tsas: tsa, logs: SigningFallback, err: "needs an operator"},
		"ours is not there":              {base: []string{publicV2}, tsas: tsa, logs: SigningFallback, err: "none that is valid now"},
		"logs that are none":             {base: []string{publicV2}, ours: []string{ourV2}, tsas: tsa, logs: "never", err: "want public, always or fallback"},
	} {
		base := signing(test.base, test.tsas)
		out, notes, err := CombineSigning(base, signing(test.ours, nil), test.logs, now)
		if test.err != "" {
			if err == nil || !strings.Contains(err.Error(), test.err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		config := must(root.NewSigningConfigFromJSON(out))
		var got []string
		for _, s := range must(root.SelectServices(config.RekorLogURLs(), config.RekorLogURLsConfig(), []uint32{1, 2}, now)) {
			got = append(got, s.URL)
		}
		slices.Sort(got)
		if !slices.Equal(got, test.want) {
			t.Errorf("%s: clients use %v, want %v", name, got, test.want)
		}
		if strings.Join(notes, "; ") != "" && test.note == "" || !strings.Contains(strings.Join(notes, "; "), test.note) {
			t.Errorf("%s: notes %q", name, notes)
		}
		if n := len(config.TimestampAuthorityURLs()); n != len(test.tsas) {
			t.Errorf("%s: %d time-stamping authorities", name, n)
		}
		if len(config.FulcioCertificateAuthorityURLs()) != 1 {
			t.Errorf("%s: %v", name, config)
		}
		if test.logs == SigningFallback {
			for _, s := range config.RekorLogURLs() {
				if s.Operator != "us" {
					t.Errorf("%s: it lists %s", name, s.URL)
				}
			}
		}
		// One that speaks only v1 must not log in one log alone, if it is to log in both.
		if test.logs == SigningAlways {
			if alone, err := root.SelectServices(config.RekorLogURLs(), config.RekorLogURLsConfig(), []uint32{1}, now); err == nil && len(alone) != 2 {
				t.Errorf("%s: a client of v1 uses %v", name, alone)
			}
		}
	}
}

// TestCombineSigningGenuine: with every SigningConfig that Sigstore has published.
func TestCombineSigningGenuine(t *testing.T) {
	now := must(time.Parse(time.RFC3339, "2026-07-01T00:00:00Z"))
	ours := signing([]string{service("https://our-v1", 1, "us", "2020-01-01T00:00:00Z", ""), service("https://our-v2", 2, "us", "2020-01-01T00:00:00Z", "")}, nil)
	for name, base := range genuineFiles(t, "*/*signing_config*.json") {
		if !strings.Contains(name, "v0.2") {
			if _, _, err := CombineSigning(base, ours, SigningFallback, now); err == nil {
				t.Errorf("%s is of media type version 0.1, and is taken", name)
			}
			continue
		}
		if out, _, err := CombineSigning(base, nil, SigningPublic, now); err != nil || !bytes.Equal(out, base) {
			t.Errorf("%s has become %s, %v", name, out, err)
		}
		had := must(root.NewSigningConfigFromJSON(base))
		for _, logs := range []SigningLogs{SigningAlways, SigningFallback} {
			out, _, err := CombineSigning(base, ours, logs, now)
			if err != nil {
				t.Errorf("%s, %s: %v", name, logs, err)
				continue
			}
			has := must(root.NewSigningConfigFromJSON(out))
			if !slices.Equal(has.TimestampAuthorityURLs(), had.TimestampAuthorityURLs()) || !slices.Equal(has.FulcioCertificateAuthorityURLs(), had.FulcioCertificateAuthorityURLs()) || !slices.Equal(has.OIDCProviderURLs(), had.OIDCProviderURLs()) {
				t.Errorf("%s, %s: %v", name, logs, has)
			}
		}
	}
}

// TestUpToDate: every change of Sigstore's is seen, in both directions, whatever we have added or
// addressed otherwise.
func TestUpToDate(t *testing.T) {
	ours := someLog(t, "https://log.example.com", since2026)
	files := genuineFiles(t, "production/*trusted_root.json")
	var names []string
	for name, data := range files {
		if _, err := ParseRoot(data); err == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	entries := func(data []byte) []string {
		lines := must(Describe(RootTarget, data))
		slices.Sort(lines)
		return lines
	}
	for i, name := range names {
		var history [][]byte
		for _, earlier := range names[:i+1] {
			history = append(history, files[earlier])
		}
		served := must(RewriteV1(must(CombineRoots(files[name], ours)), "rekor.sigstore.dev", "https://mirror.example.com"))
		for _, newest := range names {
			same := slices.Equal(entries(files[name]), entries(files[newest]))
			if got := UpToDate(served, files[newest], append(history, files[newest])); got != same {
				t.Errorf("%s is served, %s is the newest: %v, want %v", name, newest, got, same)
			}
		}
	}
}
