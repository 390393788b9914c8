package main

import (
	"fmt"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// What a configuration of a private log is made of, each on one line.
const (
	listenV1  = "listen: {log_v1: '127.0.0.1:3000'}\n"
	listenV2  = "listen: {log_v2: 'localhost:3003'}\n"
	privateV1 = "  passphrase_file: pass\n  proposals: {key: p.key}\n  v1: {host: rekor.example, tree_id: 7, key: v1.key}\n"
	privateV2 = "  passphrase_file: pass\n  proposals: {key: p.key}\n  v2: {origin: log.example, key: v2.key}\n"
	openLog   = "  access: {without_authentication: on loopback only}\n"
	privateOK = listenV1 + "log:\n" + privateV1 + openLog
)

// TestConfigPrivateMistakes holds every message about a private log: place first, then what to do.
func TestConfigPrivateMistakes(t *testing.T) {
	v1 := func(fields string) string {
		return listenV1 + "log:\n  passphrase_file: pass\n  proposals: {key: p.key}\n" + openLog + "  v1: {" + fields + "}\n"
	}
	v2 := func(fields string) string {
		return listenV2 + "log:\n  passphrase_file: pass\n  proposals: {key: p.key}\n" + openLog + "  v2: {" + fields + "}\n"
	}
	access := func(fields string) string { return listenV1 + "log:\n" + privateV1 + "  access: {" + fields + "}\n" }
	outside := func(fields string) string {
		return "listen: {log_v1: '0.0.0.0:3000'}\nlog:\n" + privateV1 + "  access: {" + fields + "}\n"
	}
	hash := strings.Repeat("ab", 32)
	ids := func(fields string) string { return access("identities: [" + fields + "]") }
	someone := "name: a, token_sha256: " + hash
	for _, test := range []struct{ in, want string }{
		// addresses
		{listenV1 + oneLog, `1:18: nothing would answer here: it is the address of "v1" in "log", which is not there`},
		{listenV2 + "log:\n" + privateV1 + openLog, `5:7: it has an address of its own, and there is none: set "log_v1" in "listen", such as 127.0.0.1:3000`},
		{"log:\n" + privateV2 + openLog, `4:7: it has an address of its own, and there is none: set "log_v2" in "listen", such as 127.0.0.1:3003`},
		{"listen: {log_v1: '127.0.0.1:3000', log_v2: '127.0.0.1:3001'}\nlog:\n" + privateV1 + openLog, `1:44: nothing would answer here: it is the address of "v2" in "log", which is not there`},
		{"listen: {log_v1: '127.0.0.1:8080'}\n" + oneLog, `1:18: 127.0.0.1:8080 is the address of "http" already`},
		{"listen: {log_v1: '127.0.0.1:1', log_v2: '127.0.0.1:1'}\n" + oneLog, `1:41: 127.0.0.1:1 is the address of "log_v1" already`},
		{"listen: {log_v1: '3000'}\n" + oneLog, `1:18: "3000" is not an address; write it like 127.0.0.1:8080`},
		{"listen: {log_v3: x}\n" + oneLog, `1:10: unknown key "log_v3"; did you mean "log_v1"?`},

		// the log as a whole
		{"log: {}\n", `1:6: a private log without "v1" and "v2"; it has one of them, or both: "understudy log init" prints them`},
		{"log: []\n", `1:6: a mapping belongs here, not a list`},
		{"log: {v1: {}, v3: {}}\n", `1:15: unknown key "v3"; did you mean "v1"?`},
		{"log: {v1: {hst: a}}\n", `1:12: unknown key "hst"; did you mean "host"?`},
		{"log: {access: {tls: {ca: x}}}\n", `1:22: unknown key "ca"; known here: certificate, key, client_ca`},
		{"log: {access: {identities: [{rolls: x}]}}\n", `1:30: unknown key "rolls"; did you mean "roles"?`},
		{listenV1 + "log:\n  proposals: {key: p.key}\n  v1: {host: a.example, tree_id: 1, key: k}\n" + openLog, `3:3: the keys are encrypted: "passphrase_file" is the file with their passphrase`},
		{listenV2 + "log:\n  proposals: {key: p.key}\n  v2: {origin: a.example, key: 'awskms://k', mldsa_key: m}\n" + openLog, `3:3: the keys are encrypted: "passphrase_file" is the file with their passphrase`},
		{privateOK + "  operator: \"a\\nb\"\n", `7:13: operator must be one line`},
		{privateOK + "  mode: falback\n", `7:9: unknown value "falback"; did you mean "fallback"?`},
		{privateOK + "  mode: outage\n", `7:9: unknown value "outage"; known here: always, fallback`},
		{privateOK + "  checkpoint_interval: 1ms\n", `7:24: checkpoint_interval must be at least 100ms`},
		{privateOK + "  checkpoint_interval: -1s\n", `7:24: the duration -1s must be positive`},
		{listenV1 + "log:\n  passphrase_file: p\n  v1: {host: a.example, tree_id: 1, key: k}\n" + openLog, `3:3: entries are kept as they were proposed, encrypted: "key" in "proposals" is the file of that key; "understudy log init" makes one`},
		{listenV1 + "log:\n  passphrase_file: p\n  proposals: {retention: 1h}\n  v1: {host: a.example, tree_id: 1, key: k}\n" + openLog, `4:14: entries are kept as they were proposed, encrypted: "key" in "proposals" is the file of that key; "understudy log init" makes one`},
		{privateOK + "  witness_policy: {timeout: 1s}\n", `7:19: a policy without "file", which names witnesses and the quorum (tlog-policy)`},
		{privateOK + "  witness_policy: {file: f, logs: [v3]}\n", `7:36: unknown value "v3"; did you mean "v1"?`},
		{privateOK + "  witness_policy: {file: f, logs: []}\n", `7:35: witnesses of no log: name v1, v2 or both, or leave "logs" out`},
		{privateOK + "  witness_policy: {file: f, without_quorum: publsh}\n", `7:45: unknown value "publsh"; did you mean "publish"?`},

		// v1
		{v1("tree_id: 1, key: k"), `6:7: a log without "host", with which its origin begins`},
		{v1("host: 'rekor.example:3000', tree_id: 1, key: k"), `6:14: "rekor.example:3000" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v1("host: 'https://rekor.example', tree_id: 1, key: k"), `6:14: "https://rekor.example" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v1("host: 'rekor example', tree_id: 1, key: k"), `6:14: "rekor example" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v1("host: Rekor.example, tree_id: 1, key: k"), `6:14: "Rekor.example" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v1("host: 127.0.0.1, tree_id: 1, key: k"), `6:14: "127.0.0.1" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v1("host: rekor.example, key: k"), `6:7: a log without "tree_id", with which its origin ends; "understudy log init" makes one`},
		{v1("host: rekor.example, tree_id: 0, key: k"), `6:38: "0" is no tree ID; write a number from 1 to 9223372036854775807, such as "understudy log init" makes`},
		{v1("host: rekor.example, tree_id: 9223372036854775808, key: k"), `6:38: "9223372036854775808" is no tree ID; write a number from 1 to 9223372036854775807, such as "understudy log init" makes`},
		{v1("host: rekor.example, tree_id: -1, key: k"), `6:38: "-1" is no tree ID; write a number from 1 to 9223372036854775807, such as "understudy log init" makes`},
		{v1("host: rekor.example, tree_id: 0x10, key: k"), `6:38: "0x10" is no tree ID; write a number from 1 to 9223372036854775807, such as "understudy log init" makes`},
		{v1("host: rekor.example, tree_id: [1], key: k"), `6:38: a tree ID belongs here; write a number from 1 to 9223372036854775807, such as "understudy log init" makes`},
		{v1("host: rekor.example, tree_id: 1"), `6:7: a log without "key", which signs; "understudy log init" makes one`},
		{v1("host: rekor.example, tree_id: 1, key: k, url: rekor.example"), `6:54: "rekor.example" is not the address of a log; write it like https://rekor.example.com:3000`},
		{v1("host: rekor.example, tree_id: 1, key: k") + "logs: [{origin: rekor.example - 1, url: 'https://a.example'}]\n", `6:14: the origin "rekor.example - 1" is that of a mirrored log; one of the two needs another`},

		// v2
		{v2("key: k"), `6:7: a log without "origin", the first line of its checkpoints`},
		{v2("origin: log.example/x, key: k"), `6:16: "log.example/x" is no host name; write it like rekor.example.com, in small letters, without scheme and port`},
		{v2("origin: log.example"), `6:7: a log without "key", which signs; "understudy log init" makes one`},
		{v2("origin: log.example, key: k, mldsa_key: 'awskms://k'"), `6:48: a key for ML-DSA-44 is a file: no key management service is known to have it; "understudy log init" makes one`},
		{v2("origin: log.example, key: k, url: 'http://other.example'"), `6:42: clients take the origin from the address: its host must be log.example`},
		{v2("origin: a.example, key: k") + oneLog, `6:16: the origin "a.example" is that of a mirrored log; one of the two needs another`},

		// access
		{listenV1 + "log:\n" + privateV1, `3:3: nobody may use the log: "identities" says who; to try it out, "without_authentication: on loopback only" lets everybody on this machine`},
		{access("without_authentication: yes"), `6:36: it is said in these words, or left out: without_authentication: on loopback only`},
		{access("without_authentication: On loopback only"), `6:36: it is said in these words, or left out: without_authentication: on loopback only`},
		{outside("without_authentication: on loopback only"), `1:18: 0.0.0.0:3000 is reached from other machines, and the log is "without_authentication: on loopback only": listen on 127.0.0.1, or say with "tls" and "identities" who may use it`},
		{strings.Replace(outside("without_authentication: on loopback only"), "0.0.0.0", "", 1), `1:18: :3000 is reached from other machines, and the log is "without_authentication: on loopback only": listen on 127.0.0.1, or say with "tls" and "identities" who may use it`},
		{outside("identities: [{" + someone + ", roles: [read]}]"), `6:11: log_v1 (0.0.0.0:3000) is reached from other machines: "tls" and "identities" say who may use it; without "tls" tokens are for loopback`},
		{outside("tls: {certificate: c, key: k}"), `6:11: nobody may use the log: "identities" says who; to try it out, "without_authentication: on loopback only" lets everybody on this machine`},
		{access("tls: {certificate: c}, identities: [{" + someone + ", roles: [read]}]"), `6:17: TLS has "certificate" and "key", files in PEM`},
		{access("without_authentication: on loopback only, identities: [{" + someone + ", roles: [read]}]"), `6:66: identities mean nothing to a log that is "without_authentication: on loopback only"; leave one of the two out`},
		{access("without_authentication: on loopback only, tls: {certificate: c, key: k, client_ca: a}"), `6:95: certificates of clients mean nothing to a log that is "without_authentication: on loopback only"; leave one of the two out`},
		{listenV2 + "log:\n" + strings.Replace(privateV2, "v2.key", "v2.key, url: 'http://log.example'", 1) + "  access: {tls: {certificate: c, key: k}, without_authentication: on loopback only}\n", `5:47: the log has "tls": its address begins with https://`},

		// identities
		{ids("{roles: [read]}"), `6:25: an identity without "name", which stands in audit rows`},
		{ids("{name: A, roles: [read]}"), `6:32: "A" is no name of an identity; it has small letters, digits, and . _ -`},
		{ids("{name: a, roles: [read]}"), `6:25: each identity is known by exactly one of token_sha256 and certificate; "understudy log token" makes a token`},
		{ids("{" + someone + ", certificate: x, roles: [read]}"), `6:25: each identity is known by exactly one of token_sha256 and certificate; "understudy log token" makes a token`},
		{ids("{name: a, token_sha256: 0123, roles: [read]}"), `6:49: it is the SHA-256 of a token, 64 hex digits, as "understudy log token" prints it`},
		{ids("{name: a, certificate: x, roles: [read]}"), `6:48: an identity known by its certificate needs "client_ca" in "tls", which vouches for it`},
		{access("tls: {certificate: c, key: k, client_ca: a}, identities: [{name: a, certificate: \"x\\ny\", roles: [read]}]"), `6:93: certificate must be one line`},
		{ids("{" + someone + "}"), `6:25: an identity without "roles" may do nothing; known: append, read, operate, approve`},
		{ids("{" + someone + ", roles: [read, apend]}"), `6:129: unknown value "apend"; did you mean "append"?`},
		{ids("{" + someone + ", roles: [read, read]}"), `6:129: the role "read" is there twice`},
		{ids("{" + someone + ", roles: [read], entries_per_second: -1}"), `6:150: entries_per_second must be positive`},
		{ids("{" + someone + ", roles: [read], entries_per_second: .nan}"), `6:150: entries_per_second must be positive`},
		{ids("{" + someone + ", roles: [read], requests_at_once: -1}"), `6:148: requests_at_once must be positive`},
		{ids("{" + someone + ", roles: [read]}, {" + someone + ", roles: [read]}"), `6:138: two identities are called "a"`},
		{ids("{" + someone + ", roles: [read]}, {name: b, token_sha256: " + strings.ToUpper(hash) + ", roles: [read]}"), `6:155: "a" is known by it already`},
	} {
		_, err := parseConfig("c.yaml", []byte(test.in))
		if err == nil || err.Error() != "c.yaml:"+test.want {
			t.Errorf("%s\n got %v\nwant c.yaml:%s", test.in, err, test.want)
		}
	}
}

// TestConfigPrivate holds what a configuration of a private log means, with and without all of it.
func TestConfigPrivate(t *testing.T) {
	c, err := parseConfig(filepath.Join("etc", "c.yaml"), []byte(privateOK))
	if err != nil {
		t.Fatal(err)
	}
	want := &PrivateConfig{
		Operator: "rekor.example", Mode: "always", PassphraseFile: filepath.Join("etc", "pass"),
		V1:                 &PrivateV1Config{Host: "rekor.example", TreeID: 7, Key: filepath.Join("etc", "v1.key"), URL: "http://rekor.example"},
		CheckpointInterval: Duration(10 * time.Second),
		Proposals:          ProposalsConfig{Key: filepath.Join("etc", "p.key"), Retention: Duration(2160 * time.Hour)},
		Access:             AccessConfig{WithoutAuthentication: "on loopback only"},
	}
	if !reflect.DeepEqual(c.Private, want) {
		t.Errorf("got  %+v\nwant %+v", c.Private, want)
	}
	if got := c.Private.V1.origin(); got != "rekor.example - 7" {
		t.Errorf("origin %q", got)
	}

	hash := strings.Repeat("12", 32) // YAML reads a number in it
	c, err = parseConfig("c.yaml", fmt.Appendf(nil, `
listen: {log_v1: '0.0.0.0:3000', log_v2: ':3003'}
log:
  v1: {host: rekor.example, tree_id: "9223372036854775807", key: 'awskms://v1'}
  v2: {origin: log.example, key: 'hashivault://v2', url: 'https://log.example:3003'}
  proposals: {key: /p.key, retention: 1h}
  checkpoint_interval: 1s
  witness_policy: {file: w}
  access:
    tls: {certificate: tls.crt, key: tls.key, client_ca: ca.crt}
    identities:
      - {name: ci, token_sha256: %s, roles: [append, read]}
      - {name: ops.team, certificate: CN=ops, roles: [operate, approve], entries_per_second: 0.5, requests_at_once: 1}
`+oneLog, hash))
	if err != nil {
		t.Fatal(err)
	}
	p := c.Private
	if p.V1.URL != "https://rekor.example" || p.V1.TreeID != 1<<63-1 || p.V2.URL != "https://log.example:3003" || p.Operator != "rekor.example" || p.V1.Key != "awskms://v1" {
		t.Errorf("got %+v, %+v, %+v", p, p.V1, p.V2)
	}
	if !reflect.DeepEqual(*p.WitnessPolicy, WitnessPolicyConfig{File: "w", Timeout: Duration(5 * time.Second), WithoutQuorum: "wait", Logs: []string{"v1", "v2"}}) {
		t.Errorf("got %+v", p.WitnessPolicy)
	}
	identities := []IdentityConfig{
		{Name: "ci", TokenSHA256: hash, Roles: []string{"append", "read"}, EntriesPerSecond: 50, RequestsAtOnce: 64},
		{Name: "ops.team", Certificate: "CN=ops", Roles: []string{"operate", "approve"}, EntriesPerSecond: 0.5, RequestsAtOnce: 1},
	}
	if !reflect.DeepEqual(p.Access.Identities, identities) {
		t.Errorf("got %+v", p.Access.Identities)
	}
	c, err = parseConfig("c.yaml", []byte(listenV2+"log:\n"+privateV2+"  access: {identities: [{name: ci, token_sha256: 0e"+strings.Repeat("12", 31)+", roles: [read]}]}\n"))
	if err != nil || c.Private.Operator != "log.example" || c.Private.Access.Identities[0].TokenSHA256 != "0e"+strings.Repeat("12", 31) {
		t.Errorf("tokens on loopback without TLS: %+v, %v", c, err)
	}
}

func TestIsLoopback(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:1": true, "127.1.2.3:1": true, "[::1]:1": true, "localhost:1": true, "[::ffff:127.0.0.1]:1": true,
		"0.0.0.0:1": false, ":1": false, "[::]:1": false, "10.0.0.1:1": false, "localhost.example:1": false, "": false, "127.0.0.1": false, "2130706433:1": false,
	} {
		if got := isLoopback(address); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
}

// TestConfigPrivateTemplate: what "init" writes about a private log is right, once it is uncommented.
func TestConfigPrivateTemplate(t *testing.T) {
	_, rest, ok := strings.Cut(initialConfig, "\n#log:\n")
	if !ok {
		t.Fatal("no private log in the initial configuration")
	}
	section, _, _ := strings.Cut(rest, "\n\n")
	section = regexp.MustCompile(`(?m)^(#\s*)#(checkpoint|retention|witness|url)`).ReplaceAllString(section, "$1$2")
	section = regexp.MustCompile(`(?m)^#`).ReplaceAllString(section, "")
	whole := strings.NewReplacer("#log_v1:", "log_v1:", "#log_v2:", "log_v2:").Replace(initialConfig) + "\nlog:\n" + section + "\n"
	c, err := parseConfig("c.yaml", []byte(whole))
	if err != nil {
		t.Fatalf("%v\n%s", err, whole)
	}
	if p := c.Private; p.V1 == nil || p.V2 == nil || p.WitnessPolicy == nil || len(p.Access.Identities) != 2 || c.Listen.LogV2 != "127.0.0.1:3003" || p.V1.URL != "https://rekor.example.com:3000" {
		t.Errorf("got %+v", p)
	}
}
