package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/understudy-log/understudy/mirror/trust"
)

// ownLogsOf makes keys of a log of our own and returns its two generations.
func ownLogsOf(c *ceremonyOf, start time.Time) []trust.OwnLog {
	c.Helper()
	reviewMust(makeKey(c.file("v1.key"), passphrases{c.file("pass")}))
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		c.Fatal(err)
	}
	c.write("v2.key", string(pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: []byte("for its owner alone")})))
	c.write("v2.key.pub", string(reviewMust(cryptoutils.MarshalPublicKeyToPEM(public))))
	logs, err := ownLogs(c.Context(), "us",
		ownGeneration{version: 1, origin: "rekor.us.example - 7", url: "http://127.0.0.1:3000", key: c.file("v1.key"), start: start},
		ownGeneration{version: 2, origin: "rekor2026-1.us.example", url: "https://rekor2026-1.us.example", key: c.file("v2.key"), start: start})
	if err != nil {
		c.Fatal(err)
	}
	if _, err := ownLogs(c.Context(), "us", ownGeneration{version: 1, origin: "rekor.us.example - 7", key: c.file("none.key")}); err == nil || !strings.Contains(err.Error(), `the key of our log "rekor.us.example - 7"`) {
		c.Errorf("a key that is not there: %v", err)
	}
	return logs
}

// service is one of a SigningConfig.
func service(url string, version int, operator string) string {
	return fmt.Sprintf(`{"url": %q, "majorApiVersion": %d, "operator": %q, "validFor": {"start": "2020-01-01T00:00:00Z"}}`, url, version, operator)
}

func signingConfig(tsa string, logs ...string) string {
	return fmt.Sprintf(`{"mediaType": %q, "rekorTlogUrls": [%s], "rekorTlogConfig": {"selector": "ANY"}, "tsaUrls": [%s], "tsaConfig": {"selector": "ANY"}}`, root.SigningConfigMediaType02, strings.Join(logs, ","), tsa)
}

// TestTrustExportOwn: the log of the configuration is in the trusted root in any case, and in the
// SigningConfig when that is asked for, with nothing written by hand; what is given by hand wins.
func TestTrustExportOwn(t *testing.T) {
	c := &ceremonyOf{t, t.TempDir()}
	c.write("pass", "a horse\n")
	start := time.Now().Add(-time.Hour)
	own := ownLogsOf(c, start)
	c.write("root.json", string(rootOf(t, [3]string{"https://log2025-1.rekor.example", "b", "2025-01-01T00:00:00Z"})))
	v1, v2 := service("https://rekor.example", 1, "public"), service("https://log2025-1.rekor.example", 2, "public")
	c.write("untimed.json", signingConfig("", v1, v2))
	c.write("timed.json", signingConfig(service("https://tsa.example", 1, "public"), v1, v2))
	c.write("by hand.json", signingConfig("", service("https://rekor2026-1.us.example", 2, "by hand")))
	given := own[0]
	given.End = start.Add(24 * time.Hour)
	c.write("given.json", string(reviewMust(trust.OwnRoot([]trust.OwnLog{given}))))
	config, err := parseConfig(c.file("c.yaml"), []byte("logs: [{name: x, url: 'https://log2025-1.rekor.example', origin: log2025-1.rekor.example}]"))
	if err != nil {
		t.Fatal(err)
	}
	base := exportOptions{name: "understudy", trustedRoot: c.file("root.json"), signingConfig: c.file("timed.json"), logs: "public", own: own}
	with := func(change func(o *exportOptions)) exportOptions {
		o := base
		change(&o)
		return o
	}
	for name, test := range map[string]struct {
		options exportOptions
		logs    int    // in the trusted root
		signers string // where signers log; empty: no SigningConfig
		// fallback is where they log in an outage; empty: no SigningConfig for that
		fallback string
		says     []string
		not      string
		err      string
	}{
		"public": {options: base, logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example", fallback: "http://127.0.0.1:3000 https://rekor2026-1.us.example",
			says: []string{`our log "rekor.us.example - 7" (API version 1) is trusted from ` + start.UTC().Format(time.RFC3339), `our log "rekor2026-1.us.example" (API version 2) is trusted from `}},
		"fallback": {options: with(func(o *exportOptions) { o.logs = "fallback" }), logs: 3, signers: "http://127.0.0.1:3000 https://rekor2026-1.us.example",
			says: []string{"is trusted from"}, not: "does not know"},
		"fallback without times": {options: with(func(o *exportOptions) { o.logs, o.signingConfig = "fallback", c.file("untimed.json") }), logs: 3, signers: "http://127.0.0.1:3000",
			says: []string{"only our log of API version 1 is listed"}},
		"always": {options: with(func(o *exportOptions) { o.logs = "always" }), logs: 3, signers: "https://log2025-1.rekor.example https://rekor2026-1.us.example", fallback: "http://127.0.0.1:3000 https://rekor2026-1.us.example",
			says: []string{"only logs of API version 2"}},
		"always without times": {options: with(func(o *exportOptions) { o.logs, o.signingConfig = "always", c.file("untimed.json") }), logs: 3, signers: "https://rekor.example http://127.0.0.1:3000", fallback: "http://127.0.0.1:3000",
			says: []string{"those of version 2 give no time"}},
		"fallback of version 1": {options: with(func(o *exportOptions) { o.logs, o.apiVersion = "fallback", 1 }), logs: 3, signers: "http://127.0.0.1:3000",
			says: []string{`our log "rekor2026-1.us.example" (API version 2) is trusted from `}, not: "does not know"},
		"fallback of version 2":   {options: with(func(o *exportOptions) { o.logs, o.apiVersion = "fallback", 2 }), logs: 3, signers: "https://rekor2026-1.us.example"},
		"always of version 1":     {options: with(func(o *exportOptions) { o.logs, o.apiVersion = "always", 1 }), logs: 3, signers: "https://rekor.example http://127.0.0.1:3000", fallback: "http://127.0.0.1:3000"},
		"version 3":               {options: with(func(o *exportOptions) { o.logs, o.apiVersion = "fallback", 3 }), err: "--api-version 3: there is no private log of that version"},
		"version 1, public":       {options: with(func(o *exportOptions) { o.apiVersion = 1 }), logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example", fallback: "http://127.0.0.1:3000"},
		"version 1, no log":       {options: with(func(o *exportOptions) { o.apiVersion, o.own = 1, nil }), err: "it needs \"log\" there"},
		"version 1, by hand":      {options: with(func(o *exportOptions) { o.logs, o.apiVersion, o.ownSigning = "fallback", 1, c.file("by hand.json") }), err: "and no --own-signing-config"},
		"a SigningConfig by hand": {options: with(func(o *exportOptions) { o.logs, o.ownSigning = "fallback", c.file("by hand.json") }), logs: 3, signers: "https://rekor2026-1.us.example"},
		"a trusted root by hand": {options: with(func(o *exportOptions) { o.addRoots = []string{c.file("given.json")} }), logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example", fallback: "http://127.0.0.1:3000 https://rekor2026-1.us.example",
			says: []string{`our log "rekor.us.example - 7" (API version 1) is trusted as the one that was given says`}},
		"nothing to begin with": {options: with(func(o *exportOptions) { o.trustedRoot, o.signingConfig, o.logs = "", "", "fallback" }), logs: 2, signers: "http://127.0.0.1:3000",
			says: []string{"trusted_root.json has our logs, and what --add-trusted-root adds, alone", "neither certificate authorities nor", "only our log of API version 1 is listed"}},
		"nothing, and a trusted root that is added": {options: with(func(o *exportOptions) {
			o.trustedRoot, o.signingConfig, o.addRoots = "", "", []string{c.file("root.json"), c.file("given.json")}
		}), logs: 3, says: []string{"none is written"}},
		"nothing, always": {options: with(func(o *exportOptions) { o.trustedRoot, o.signingConfig, o.logs = "", "", "always" }), err: "there is no SigningConfig to begin with"},
		"no log":          {options: with(func(o *exportOptions) { o.logs, o.own = "always", nil }), err: `"log" in the configuration, or --own-signing-config`},
		"public, by hand": {options: with(func(o *exportOptions) { o.ownSigning = c.file("by hand.json") }), logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example",
			fallback: "https://rekor2026-1.us.example"},
		"public, no log":       {options: with(func(o *exportOptions) { o.own = nil }), logs: 1, signers: "https://rekor.example https://log2025-1.rekor.example"},
		"public without times": {options: with(func(o *exportOptions) { o.signingConfig = c.file("untimed.json") }), logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example", fallback: "http://127.0.0.1:3000", says: []string{"signing_config.fallback.json: only our log of API version 1 is listed"}},
		"no log, nothing":      {options: with(func(o *exportOptions) { o.trustedRoot, o.own = "", nil }), err: "does not exist"},
		"one of ours ends":     {options: with(func(o *exportOptions) { o.own = []trust.OwnLog{given, own[1]} }), logs: 3, signers: "https://rekor.example https://log2025-1.rekor.example", fallback: "http://127.0.0.1:3000 https://rekor2026-1.us.example", says: []string{" until " + given.End.UTC().Format(time.RFC3339)}},
		"one of ours is wrong": {options: with(func(o *exportOptions) {
			wrong := own[0]
			wrong.Operator = ""
			o.own = []trust.OwnLog{wrong}
		}), err: "has no operator"},
	} {
		dir, notes := filepath.Join(t.TempDir(), "out"), &strings.Builder{}
		err := test.options.export(t.Context(), config, dir, notes)
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
		parsed, err := trust.LoadRoot(filepath.Join(dir, trust.RootTarget))
		if err != nil {
			t.Fatal(err)
		}
		if n := len(parsed.Material().RekorLogs()); n != test.logs {
			t.Errorf("%s: %d logs are trusted, want %d", name, n, test.logs)
		}
		for file, want := range map[string]string{signingFile: test.signers, fallbackFile: test.fallback} {
			var signers []string
			if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
				for _, s := range reviewMust(root.NewSigningConfigFromJSON(data)).RekorLogURLs() {
					signers = append(signers, s.URL)
				}
			}
			if got := strings.Join(signers, " "); got != want {
				t.Errorf("%s: %s: signers log in %q, want %q", name, file, got, want)
			}
		}
		for _, says := range test.says {
			if !strings.Contains(notes.String(), says) {
				t.Errorf("%s: no %q in\n%s", name, says, notes)
			}
		}
		if test.not != "" && strings.Contains(notes.String(), test.not) {
			t.Errorf("%s: it says\n%s", name, notes)
		}
		if keys := parsed.Keys("rekor.us.example - 7"); strings.Contains(name, "root by hand") && (len(keys) != 1 || keys[0].End.IsZero()) {
			t.Errorf("%s: what was given has become %v", name, keys)
		}
	}
}

// TestTrustSignOwn: what is exported with our own log is signed into our own repository, after its keys
// were shown, and a rotated log is one more there.
func TestTrustSignOwn(t *testing.T) {
	c := newCeremony(t)
	own := ownLogsOf(c, time.Now().Add(-time.Hour))
	config, err := parseConfig(c.file("c.yaml"), []byte("logs: [{name: x, url: 'https://log2025-1.rekor.example', origin: log2025-1.rekor.example}]"))
	if err != nil {
		t.Fatal(err)
	}
	export := func(own []trust.OwnLog) {
		t.Helper()
		if err := (&exportOptions{name: "understudy", logs: "fallback", own: own}).export(t.Context(), config, c.file("m"), &strings.Builder{}); err != nil {
			t.Fatal(err)
		}
	}
	export(own)
	for _, more := range [][]string{{"--dry-run"}, nil} {
		out := c.sign(append(more, "--material", c.file("m"))...)
		for _, says := range []string{"+ log http://rekor.us.example ", "+ log https://rekor2026-1.us.example ", "+ signing_config.v0.2.json", `+ logged in http://127.0.0.1:3000, API version 1, operator "us"`, "~ trusted_root.json"} {
			if !strings.Contains(out, says) {
				t.Errorf("%v: no %q in\n%s", more, says, out)
			}
		}
	}
	// signed is what was exported, if the repository has the same.
	signed := func(target, file string) []byte {
		t.Helper()
		want := reviewMust(os.ReadFile(c.file("m/" + file)))
		for _, name := range reviewMust(filepath.Glob(c.file("t/repository/targets/*." + target))) {
			if bytes.Equal(reviewMust(os.ReadFile(name)), want) {
				return want
			}
		}
		t.Errorf("the repository has not the %s that was exported", target)
		return nil
	}
	if unknown, err := trust.UnknownLogs(signed(trust.SigningTarget, signingFile), signed(trust.RootTarget, trust.RootTarget), time.Now(), own...); err != nil || len(unknown) > 0 {
		t.Errorf("unknown are %v, %v", unknown, err)
	}

	reviewMust(makeKey(c.file("v1-2.key"), passphrases{c.file("pass")}))
	end := time.Now().Add(-time.Minute)
	own[0].End = end
	next, err := ownLogs(t.Context(), "us", ownGeneration{version: 1, origin: "rekor.us.example - 8", url: own[0].URL, key: c.file("v1-2.key"), start: end})
	if err != nil {
		t.Fatal(err)
	}
	export(append(own, next...))
	if out := c.sign("--material", c.file("m")); strings.Count(out, "+ log http://rekor.us.example ") != 2 || strings.Count(out, "- log http://rekor.us.example ") != 1 {
		t.Errorf("the log with another key is not shown beside the one that has ended:\n%s", out)
	}
	if keys := reviewMust(trust.ParseRoot(signed(trust.RootTarget, trust.RootTarget))).Keys("rekor.us.example - 8"); len(keys) != 2 {
		t.Errorf("the trusted root has %v", keys)
	}
}
