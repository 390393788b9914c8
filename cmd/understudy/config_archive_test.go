package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/witness"
)

// TestConfigArchiveMistakes: what is wrong with a witness or an archive is named with its place.
func TestConfigArchiveMistakes(t *testing.T) {
	const key = "archive: {key: a.key"
	for _, test := range []struct{ in, want string }{
		{"witness: {}\n" + oneLog, `1:10: a witness without "keys" or "mirror_keys"; make some with "understudy keys generate"`},
		{"witness: {mirror_keys: [m.key], log_list: l}\n" + oneLog, `1:10: logs are witnessed with "keys", and there are none`},
		{"witness: {keys: [w.key], logs: [{origin: a}]}\n" + oneLog, `1:33: a log to witness without "public_key"`},
		{"witness: {key: [w.key]}\n" + oneLog, `1:11: unknown key "key"; did you mean "keys"?`},
		{key + ", destinations: [{s3: {buket: b}}]}\n" + oneLog, `unknown key "buket"; did you mean "bucket"?`},
		{key + ", tsa: {uri: b}}\n" + oneLog, `unknown key "uri"; did you mean "url"?`},
		{"witness: {keys: [w.key]}\n", `: no log to mirror; "logs" must list at least one`},
		{"archive: {}\n" + oneLog, `1:10: evidence packs are signed: "key" is the file of a key that "understudy keys generate" made`},
		{key + ", schedule: weekly}\n" + oneLog, `schedule`},
		{key + ", schedule: '* * * * *'}\n" + oneLog, `it fires 60 times an hour, where once is the most: make the first field a single minute`},
		{key + ", time_zone: Europe/Berlyn}\n" + oneLog, `time zone "Europe/Berlyn" is not known: use an IANA name such as Europe/Berlin or UTC`},
		{key + ", vantage: \"a\\nb\"}\n" + oneLog, `1:32: vantage must be one line`},
		{key + ", tsa: {url: 'ftp://a'}}\n" + oneLog, `"ftp://a" is not the address of a time-stamping authority; write it like https://timestamp.example.com/api/v1/timestamp`},
		{key + ", destinations: [{}]}\n" + oneLog, `each destination is one of directory and s3`},
		{key + ", destinations: [{directory: d, s3: {bucket: b}}]}\n" + oneLog, `each destination is one of directory and s3`},
		{key + ", destinations: [{directory: d}, {directory: d}]}\n" + oneLog, `two destinations are called "d"`},
		{key + ", destinations: [{s3: {bucket: b, mode: strict}}]}\n" + oneLog, `unknown value "strict"; known here: governance, compliance`},
		{key + ", destinations: [{s3: {bucket: b, mode: compliance}}]}\n" + oneLog, `Object Lock needs "retention", how long a pack is locked`},
		{key + ", entries: [{}]}\n" + oneLog, `each of the entries has exactly one of digest, identity, uuid, indexes`},
		{key + ", entries: [{digest: 'sha256:00', identity: a}]}\n" + oneLog, `is no digest`},
		{key + ", entries: [{identity: '*@example.com'}]}\n" + oneLog, `a pattern cannot be looked up; name identities in full`},
		{key + ", entries: [{indexes: 1-9}]}\n" + oneLog, `indexes are those of one log: say which with "log"`},
		{key + ", entries: [{uuid: x}]}\n" + oneLog, `UUID`},
	} {
		_, err := parseConfig("c.yaml", []byte(test.in))
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.HasPrefix(err.Error(), "c.yaml:") {
			t.Errorf("%q:\n got %v\nwant c.yaml:%s", test.in, err, test.want)
		}
	}
}

// TestConfigDestinationInDataDir: a destination is not in data_dir, however both are written and
// wherever the program is started.
func TestConfigDestinationInDataDir(t *testing.T) {
	dir := t.TempDir()
	for _, data := range []string{"data", filepath.Join(dir, "data")} {
		for destination, wrong := range map[string]bool{"data": true, "data/packs": true, "./x/../data": true, filepath.Join(dir, "data", "packs"): true, "packs": false, "data2": false} {
			_, err := parseConfig(filepath.Join(dir, "c.yaml"), fmt.Appendf(nil, "data_dir: %s\narchive: {key: a.key, destinations: [{directory: %s}]}\n%s", data, destination, oneLog))
			if said := err != nil && strings.Contains(err.Error(), "a destination in data_dir is lost together with it"); said != wrong || err != nil && !said {
				t.Errorf("data_dir %s, directory %s: %v", data, destination, err)
			}
		}
	}
}

// TestConfigWitness: logs that are only witnessed come from the configuration and from the list,
// each once, and those that are mirrored are left out of the list.
func TestConfigWitness(t *testing.T) {
	dir := t.TempDir()
	vkey := func(name string) string {
		_, key, err := parseArchiveKey(must(witness.GenerateKey(name, witness.Ed25519)))
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	a, b, c, mirrored := vkey("a.test"), vkey("b.test"), vkey("c.test"), vkey("a.example")
	list := "logs/v0\nvkey " + b + "\norigin the log b\nqpd 24\nvkey " + a + "\norigin none\nvkey " + mirrored + "\norigin none\nvkey d.test+00000000+/w==\n"
	if err := os.WriteFile(filepath.Join(dir, "list"), []byte(list), 0o600); err != nil {
		t.Fatal(err)
	}
	text := "witness: {keys: [w.key], log_list: list, logs: [{public_key: '" + a + "'}, {origin: 'an origin - 7', public_key: '" + c + "'}]}\n" + oneLog
	config, err := parseConfig(filepath.Join(dir, "c.yaml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if config.Witness.Keys[0] != filepath.Join(dir, "w.key") {
		t.Errorf("key file %s", config.Witness.Keys[0])
	}
	logs, skipped, err := config.witnessLogs()
	if err != nil || len(skipped) != 1 || !strings.Contains(skipped[0].Error(), "line 9 of the list") {
		t.Fatal(skipped, err)
	}
	var origins []string
	for _, l := range logs {
		origins = append(origins, l.Origin)
	}
	if !slices.Equal(origins, []string{"a.test", "an origin - 7", "the log b"}) {
		t.Errorf("origins %q", origins)
	}
	for _, wrong := range []struct{ witness, want string }{
		{"logs: [{public_key: '" + mirrored + "'}]", "is mirrored or listed already"},
		{"logs: [{public_key: '" + a + "'}, {public_key: '" + a + "'}]", "is mirrored or listed already"},
		{"logs: [{public_key: x}]", "read public key"},
		{"logs: [{origin: " + strings.Repeat("x", 256) + ", public_key: '" + a + "'}]", "at most 255 bytes"},
		{"log_list: nothing", "nothing"},
	} {
		config, err := parseConfig(filepath.Join(dir, "c.yaml"), []byte("witness: {keys: [w.key], "+wrong.witness+"}\n"+oneLog))
		if err == nil {
			_, _, err = config.witnessLogs()
		}
		if err == nil || !strings.Contains(err.Error(), wrong.want) {
			t.Errorf("%s: %v, want %s", wrong.witness, err, wrong.want)
		}
	}
	if _, err := config.witnessKeys(config.Witness.Keys, "keys"); err == nil || !strings.Contains(err.Error(), "understudy keys generate") {
		t.Errorf("a key that is not there: %v", err)
	}
}

// must returns the first of two results of a function that must not fail.
func must(private, _ string, err error) string {
	if err != nil {
		panic(err)
	}
	return private
}
