package main

import (
	"strings"
	"testing"
	"time"
)

const outageLogs = "logs:\n  - {name: a, origin: log.example.com, url: \"https://log.example.com/api/v2\"}\n  - {name: b, source: rekor-v1, url: \"https://rekor.example.com\"}\n  - {name: c, origin: tiles.example.com, url: \"https://tiles.example.com/log\"}\n"

func TestConfigOutageMistakes(t *testing.T) {
	sum := strings.Repeat("ab", 32)
	for _, c := range []struct{ name, text, want string }{
		{"slo", "outage: {slo: 100}\n", ":1:15: slo is a part of a hundred"},
		{"no slo", "outage: {slo: -1}\n", "slo is a part of a hundred"},
		{"write probe", "outage: {write_probe: on}\n", ":1:23: unknown value \"on\"; did you mean \"off\"?"},
		{"webhook", "outage: {webhook: {url: hooks}}\n", "is not the address of a webhook"},
		{"probe", "outage: {probes: {tsa: timestamp}}\n", "is not the address of a service"},
		{"rate", "outage: {reconcile: {requests_per_second: -1}}\n", "must be positive"},
		{"unknown key", "outage: {probes: {fulico: x}}\n", "fulcio"},
		{"role", "outage:\n  identities: [{name: x, token_sha256: " + sum + ", roles: [append]}]\n", "append"},
		{"no role", "outage:\n  identities: [{name: x, token_sha256: " + sum + "}]\n", "without \"roles\""},
		{"certificate", "outage:\n  identities: [{name: x, certificate: a, roles: [operate]}]\n", "needs \"client_ca\""},
		{"twice", "outage:\n  identities: [{name: x, token_sha256: " + sum + ", roles: [operate]}, {name: x, token_sha256: " + sum + ", roles: [approve]}]\n", "two identities"},
		{"scenario", "outage:\n  drills: {schedule: [{scenario: refused, cron: '0 1 * * 1', for: 1m, ticket: t}]}\n", "refuse"},
		{"no ticket", "outage:\n  drills: {schedule: [{scenario: refuse, cron: '0 1 * * 1', for: 1m}]}\n", "without \"ticket\""},
		{"no for", "outage:\n  drills: {schedule: [{scenario: refuse, cron: '0 1 * * 1', ticket: t}]}\n", "without \"for\""},
		{"too long", "outage:\n  drills: {schedule: [{scenario: refuse, cron: '0 1 * * 1', for: 31m, ticket: t}]}\n", "at most 30m"},
		{"cron", "outage:\n  drills: {schedule: [{scenario: refuse, cron: '0 1 * *', for: 1m, ticket: t}]}\n", "want minute, hour"},
		{"log", "outage:\n  drills: {schedule: [{scenario: refuse, log: z, cron: '0 1 * * 1', for: 1m, ticket: t}]}\n", "no log is called \"z\""},
		{"verification alone", "verification: {}\n", "needs \"outage\""},
		{"policy", "outage: {}\nverification: {policies: [{}]}\n", "without \"name\""},
		{"policy's name", "outage: {}\nverification: {policies: [{name: A b}]}\n", "is no name of a policy"},
		{"two policies", "outage: {}\nverification: {policies: [{name: a}, {name: a}]}\n", "two policies"},
		{"issuer", "outage: {}\nverification: {policies: [{name: a, identities: [{identity: x}]}]}\n", "an identity is a name and its issuer"},
		{"accept", "outage: {}\nverification: {policies: [{name: a, accept: [publik]}]}\n", "public"},
		{"high risk", "outage: {}\nverification: {high_risk: [{issuer: x}]}\n", "one of \"identity\""},
		{"write url", "outage: {}\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig("test.yaml", []byte(c.text+outageLogs))
			switch {
			case c.want == "" && err != nil:
				t.Fatal(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), strings.TrimPrefix(c.want, `"`))):
				t.Errorf("%v; want %s", err, c.want)
			}
		})
	}
}

func TestConfigOutage(t *testing.T) {
	c, err := parseConfig("dir/test.yaml", []byte("outage: {report_key: r.key, webhook: {url: 'https://h.example/x?y=z', secret_file: s}, drills: {schedule: [{scenario: hang, cron: '@weekly', for: 1m, ticket: t}]}}\nverification: {policies: [{name: p, public_keys: [k.pub]}], high_risk: [{public_key: h.pub}]}\n"+outageLogs))
	if err != nil {
		t.Fatal(err)
	}
	o, v := c.Outage, c.Verification
	if o.SLO != 99.5 || o.Probe.Every != Duration(2*time.Second) || o.WriteProbe != writeProbeRefused || o.Drills.Schedule[0].Log != "a" || v.MaxAudit != Duration(24*time.Hour) {
		t.Errorf("defaults: %+v %+v", o, v)
	}
	for _, path := range []string{o.ReportKey, o.Webhook.SecretFile, v.Policies[0].PublicKeys[0], v.HighRisk[0].PublicKey} {
		if !strings.HasPrefix(path, "dir/") {
			t.Errorf("the path %q does not start at the folder of the file", path)
		}
	}
	for i, want := range []string{"https://log.example.com/api/v2", "https://rekor.example.com", ""} {
		if got := c.Logs[i].writeURL(); got != want {
			t.Errorf("entries of %s are proposed at %q, want %q", c.Logs[i].Name, got, want)
		}
	}
}

// What "init" writes about outages is what the program understands.
func TestConfigOutageTemplate(t *testing.T) {
	var text strings.Builder
	in := false
	for line := range strings.Lines(initialConfig) {
		if strings.HasPrefix(line, "#outage:") || strings.HasPrefix(line, "#verification:") {
			in = true
		} else if line == "\n" {
			in = false
		}
		if in {
			line = strings.TrimPrefix(line, "#")
			if bare := strings.TrimLeft(line, " "); strings.HasPrefix(bare, "#") && strings.Contains(bare, ":") {
				line = strings.Replace(line, "#", "", 1)
			}
			if strings.Contains(line, "log: rekor-v2") {
				line = strings.ReplaceAll(line, "rekor-v2", "a")
			}
		}
		if in {
			text.WriteString(line)
		}
	}
	if !strings.Contains(text.String(), "max_force") || !strings.Contains(text.String(), "high_risk") {
		t.Fatal("the template has no such part")
	}
	if _, err := parseConfig("test.yaml", []byte(text.String()+outageLogs)); err != nil {
		t.Errorf("%v in\n%s", err, text.String())
	}
}
