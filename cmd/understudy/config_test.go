package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
)

const oneLog = "logs:\n  - name: a\n    url: https://a.example/api\n    origin: a.example\n"

// TestConfigMistakes holds every message that an operator gets for a wrong file:
// place first, then what to do.
func TestConfigMistakes(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"data_dri: x\n" + oneLog, `1:1: unknown key "data_dri"; did you mean "data_dir"?`},
		{oneLog + "    pol: 5s\n", `5:5: unknown key "pol"; did you mean "poll"?`},
		{oneLog + "    Poll: 5s\n", `5:5: unknown key "Poll"; did you mean "poll"?`},
		{"listen: {htp: x}\n" + oneLog, `1:10: unknown key "htp"; did you mean "http"?`},
		{"poll: 5s\n" + oneLog, `1:1: unknown key "poll"; known here: data_dir, listen, trusted_root, tuf, trust, witness, archive, log, outage, verification, stale_after, contact, log_level, logs`},
		{"{\n\t\"logs\": [\n\t\t{\"orign\": \"x\"}]}", `3:4: unknown key "orign"; did you mean "origin"?`},
		{oneLog + "    poll: 5x\n", `5:11: "5x" is not a duration; write it like 5s, 10m or 24h`},
		{oneLog + "    poll: 5\n", `5:11: "5" is not a duration; write it like 5s, 10m or 24h`},
		{oneLog + "    poll: [5s]\n", `5:11: a duration belongs here; write it like 5s, 10m or 24h`},
		{oneLog + "    poll: -5s\n", `5:11: the duration -5s must be positive`},
		{oneLog + "stale_after: 0s\n", `5:14: the duration 0s must be positive`},
		{oneLog + "    requests_per_second: fast\n", `5:26: a number belongs here, not a text`},
		{oneLog + "    requests_per_second: -1\n", `5:26: requests_per_second must be positive`},
		{oneLog + "    requests_per_second: .nan\n", `5:26: requests_per_second must be positive`},
		{"data_dir: [a]\n" + oneLog, `1:11: a text belongs here, not a list`},
		{"listen: here\n" + oneLog, `1:9: a mapping belongs here, not a text`},
		{"logs: 5\n", `1:7: a list belongs here, not a number`},
		{"- a\n", `1:1: a mapping belongs here, not a list`},
		{oneLog + "    source: tile\n", `5:13: unknown value "tile"; did you mean "tiles"?`},
		{oneLog + "    source: rekor-v1\n", `4:13: origin does not belong here: a Rekor v1 service has one origin for each shard, which it tells itself`},
		{oneLog + "    watch: [{digest: abc}]\n", `5:12: watch is for a Rekor v1 service: it needs "source: rekor-v1"`},
		{oneLog + "    coverage: pinned\n", `5:15: the coverage "pinned" is for Rekor v1; a log of tiles has "full" and "window"`},
		{oneLog + "    coverage: everything\n", `5:15: unknown value "everything"; known here: full, window`},
		{oneLog + "    coverage: window\n", `5:15: a window needs "minimum_index", where it begins, or "window", how many of the last entries it has`},
		{oneLog + "    coverage: window\n    minimum_index: 8200\n", `6:20: minimum_index must be a multiple of 256: 8192 or 8448`},
		{oneLog + "    coverage: window\n    minimum_index: -256\n", `6:20: -256 is out of range here`},
		{oneLog + "    coverage: window\n    minimum_index: 256\n    window: 1000\n", `7:13: minimum_index and window say the same thing; leave one out`},
		{oneLog + "    minimum_index: 256\n", `5:20: minimum_index needs "coverage: window"`},
		{oneLog + "    window: 1000\n", `5:13: window needs "coverage: window"`},
		{oneLog + "    history: none\n", `5:14: history needs "coverage: window"`},
		{oneLog + "    coverage: window\n    window: 1000\n    history: some\n", `7:14: this is no history; write full, none, or {to: INDEX} with a multiple of 256`},
		{oneLog + "    coverage: window\n    window: 1000\n    history: [full]\n", `7:14: this is no history; write full, none, or {to: INDEX} with a multiple of 256`},
		{oneLog + "    coverage: window\n    window: 1000\n    history: {until: 256}\n", `7:14: this is no history; write full, none, or {to: INDEX} with a multiple of 256`},
		{oneLog + "    coverage: window\n    window: 1000\n    history: {to: x}\n", `7:19: "x" is not an index; write full, none, or {to: INDEX} with a multiple of 256`},
		{oneLog + "    coverage: window\n    window: 1000\n    history: {to: 300}\n", `7:19: to must be a multiple of 256: 256 or 512`},
		{oneLog + "    coverage: window\n    minimum_index: 256\n    history: {to: 512}\n", `7:14: history cannot end at 512, behind minimum_index`},
		{oneLog + "    sources: [{url: peer}]\n", `5:21: "peer" is not the address of a log; that of another understudy is like http://mirror.example.com/<origin hash>`},
		{oneLog + "    sources: [{ulr: 'http://peer'}]\n", `5:16: unknown key "ulr"; did you mean "url"?`},
		{oneLog + "    sources: 'http://peer'\n", `5:14: a list belongs here, not a text`},
		{oneLog + "log_level: verbose\n", `5:12: unknown value "verbose"; known here: debug, info, warn, error`},
		{oneLog + "contact: \"a\\nb\"\n", `5:10: contact must be one line`},
		{oneLog + "  - {name: b, url: 'https://b.example', origin: a.example}\n", `5:49: the origin "a.example" is used twice`},
		{oneLog + "  - {name: a, url: 'https://b.example', origin: b.example}\n", `5:12: the name "a" is used twice`},
		{oneLog + "    name: b\n", `5:5: mapping key "name" already defined at [2:5]`},
		{`{"log_level": "info", "log_level": "warn", "logs": []}`, `1:23: mapping key "log_level" already defined at [1:2]`},
		{"logs:\n  - url: https://a.example\n", `2:5: a log without "origin", the first line of its checkpoints`},
		{"logs:\n  - origin: a.example\n", `2:5: a log without "url", where its checkpoint and tiles are`},
		{"logs:\n  - {origin: \"a\\nb\", url: 'https://a.example'}\n", `2:5: origin and name must be one line each`},
		{"logs:\n  - {origin: a, url: 'ftp://a.example'}\n", `2:22: "ftp://a.example" is not the address of a log; write it like https://log.example.com/api/v2`},
		{"logs:\n  - {origin: a, url: 'https://a.example?x=1'}\n", `2:22: "https://a.example?x=1" is not the address of a log; write it like https://log.example.com/api/v2`},
		{oneLog + "data_dir: d\narchive: {key: k, destinations: [{directory: dd}, {directory: ./d/packs}]}\n", `6:51: a destination in data_dir is lost together with it; name a folder of another disk`},
		{"data_dir: x\n", `: no log to mirror; "logs" must list at least one`},
		{"logs: []\n", `1:7: no log to mirror; "logs" must list at least one`},
		{"", `: no log to mirror; "logs" must list at least one`},
		{"listen: {http: '8080'}\n" + oneLog, `1:16: "8080" is not an address; write it like 127.0.0.1:8080`},
		{"listen: {http: ':99999'}\n" + oneLog, `1:16: ":99999" is not an address; write it like 127.0.0.1:8080`},
		{"listen: {grpc: '127.0.0.1:8080'}\n" + oneLog, `1:16: 127.0.0.1:8080 is the address of "http" already`},
		{"tuf: {url: 'ftp://tuf.example', root: r.json}\n" + oneLog, `1:12: "ftp://tuf.example" is not the address of a TUF repository; write it like https://tuf-repo-cdn.sigstore.dev`},
		{"tuf: {url: 'https://tuf.example'}\n" + oneLog, `1:12: a TUF repository of its own needs "root", a file with one of its root.json to begin with`},
		{"tuf: {poll: -1s}\n" + oneLog, `1:13: the duration -1s must be positive`},
		{"data_dir: a: b\n", `1:11: mapping value is not allowed in this context`},
		{oneLog + "---\ndata_dir: b\n", `6:1: a second document; a configuration is one`},
	} {
		_, err := parseConfig("c.yaml", []byte(test.in))
		if err == nil || strings.TrimPrefix(err.Error(), "c.yaml:") != strings.TrimPrefix(test.want, ":") {
			t.Errorf("%q:\n got %v\nwant c.yaml:%s", test.in, err, test.want)
		}
	}
}

const oneService = "logs:\n  - name: rekor\n    source: rekor-v1\n    url: https://rekor.example\n"

// publicService is the public one, whose active shard must not be copied.
const publicService = "logs:\n  - name: rekor\n    source: rekor-v1\n    url: https://REKOR.sigstore.dev/\n"

func TestConfigServiceMistakes(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"logs:\n  - source: rekor-v1\n    url: https://rekor.example\n", `2:5: a Rekor v1 service without "name"`},
		{"logs:\n  - {name: a/b, source: rekor-v1, url: 'https://rekor.example'}\n", `2:12: name must be one line without a slash: those of its shards are NAME/TREE-ID`},
		{"logs:\n  - {name: a, source: rekor-v1}\n", `2:5: a Rekor v1 service without "url", its address in front of /api/v1`},
		{oneService + "    public_key: a.pem\n", `5:17: public_key does not belong here: a Rekor v1 service has one key for each shard: list them under "public_keys"`},
		{oneService + "    coverage: most\n", `5:15: unknown value "most"; known here: pinned, window, full`},
		{oneService + "    shards: {\"12x\": full}\n", `5:21: "12x" is no tree ID`},
		{oneService + "    shards: {\"12\": fulll}\n", `5:20: unknown value "fulll"; did you mean "full"?`},
		{oneService + "    coverage: window\n", `5:15: a window needs "window", how many of the last entries of each shard it has`},
		{oneService + "    window: 100\n", `5:13: window needs "coverage: window"`},
		{oneService + "    requests_per_second: -1\n", `5:26: requests_per_second must be positive`},
		{oneService + "    misses_per_second: -1\n", `5:24: misses_per_second must be positive`},
		{oneService + "    read_through_mib: -1\n", `5:23: read_through_mib must be between 1 and 1073741824`},
		{oneService + "    watch: [{digest: abc}]\n", `5:13: "abc" is no digest; write it like sha256: and 64 hex digits`},
		{oneService + "    watch: [{identity: '**'}]\n", `5:13: an identity of * alone watches everything; a copy does that: coverage full`},
		{oneService + "    watch: [{uuid: '12'}]\n", `5:13: UUID of 2 characters, want 64 or 80 hex digits`},
		{oneService + "    watch: [{indexes: 200-100}]\n", `5:23: no range of indexes; write it like 100-200`},
		{oneService + "    watch: [{}]\n", `5:13: each watch has exactly one of digest, identity, public_key, uuid, indexes`},
		{oneService + "    watch: [{identity: a@b.example, indexes: 1-2}]\n", `5:13: each watch has exactly one of digest, identity, public_key, uuid, indexes`},
		{oneService + "    watch: [{digests: x}]\n", `5:14: unknown key "digests"; did you mean "digest"?`},
		{oneService + "  - {name: other, source: rekor-v1, url: 'https://b.example'}\n", `5:27: a second Rekor v1 service; its API has one address, so one of them is served: run another understudy for this one`},
		{publicService + "    coverage: full\n", `5:15: coverage "full" is not possible here: ` + tooLarge},
		{publicService + "    coverage: window\n    window: 1000\n", `5:15: coverage "window" is not possible here: ` + tooLarge},
		{publicService + "    shards: {\"1193050959916656506\": full}\n", `5:37: coverage "full" is not possible for shard 1193050959916656506: ` + tooLarge},
	} {
		_, err := parseConfig("c.yaml", []byte(test.in))
		if err == nil || err.Error() != "c.yaml:"+test.want {
			t.Errorf("%q:\n got %v\nwant c.yaml:%s", test.in, err, test.want)
		}
	}
}

// TestConfigService holds what a whole configuration of a service means.
func TestConfigService(t *testing.T) {
	dir := t.TempDir()
	key := "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr\nkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==\n-----END PUBLIC KEY-----\n"
	if err := os.WriteFile(filepath.Join(dir, "key.pem"), []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig(filepath.Join(dir, "c.yaml"), []byte(publicService+`    public_keys: [shard-a.pem, shard-b.pem]
    coverage: pinned
    shards: {"3904496407287907110": full}
    poll: 10s
    requests_per_second: 4
    watch: [{digest: "SHA256:`+strings.Repeat("ab", 32)+`"}, {identity: "*@example.com"}, {identity: a@example.com}, {identity: "https://a.example/b@c"}, {public_key: key.pem}, {uuid: `+strings.Repeat("0a", 32)+`}, {indexes: 100-200}, {indexes: 7}]
`))
	if err != nil {
		t.Fatal(err)
	}
	log := c.Logs[0]
	if log.URL != "https://REKOR.sigstore.dev" || log.MissesPerSecond != 4 || log.PublicKeys[1] != filepath.Join(dir, "shard-b.pem") {
		t.Errorf("got %+v", log)
	}
	s, err := c.service(0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s.Coverage != mirror.CoveragePinned || !reflect.DeepEqual(s.Shards, map[uint64]mirror.Coverage{3904496407287907110: mirror.CoverageFull}) || s.Poll != 10*time.Second || s.ReadThroughBytes != 1<<30 {
		t.Errorf("got %+v", s)
	}
	uuid, err := rekor.ParseUUID(strings.Repeat("0a", 32))
	if err != nil {
		t.Fatal(err)
	}
	want := []mirror.Watch{
		{Query: &rekor.Query{Hash: "sha256:" + strings.Repeat("ab", 32)}},
		{Identity: "*@example.com"},
		{Query: &rekor.Query{Email: "a@example.com"}},
		{Query: &rekor.Query{Subject: "https://a.example/b@c"}},
		{Query: &rekor.Query{Format: "x509", PublicKey: []byte(key)}},
		{UUID: &uuid},
		{First: 100, End: 201},
		{First: 7, End: 8},
	}
	if !reflect.DeepEqual(s.Watch, want) {
		t.Errorf("got  %+v\nwant %+v", s.Watch, want)
	}
}

func TestConfigDefaults(t *testing.T) {
	c, err := parseConfig(filepath.Join("etc", "c.yaml"), []byte(oneLog))
	if err != nil {
		t.Fatal(err)
	}
	if c.DataDir != filepath.Join("etc", "understudy-data") || c.Listen != (Listen{HTTP: "127.0.0.1:8080", GRPC: "127.0.0.1:8081", Admin: "127.0.0.1:8082"}) || c.TrustedRoot != "" {
		t.Errorf("got %+v", c)
	}
	want := LogConfig{Name: "a", Source: "tiles", URL: "https://a.example/api", Origin: "a.example", Coverage: "full",
		Poll: Duration(5 * time.Second), RequestsPerSecond: 20, StaleAfter: Duration(24 * time.Hour)}
	if !reflect.DeepEqual(c.Logs[0], want) {
		t.Errorf("got  %+v\nwant %+v", c.Logs[0], want)
	}
}

// TestConfigBuiltIn holds the built-in configuration to the public shard and to
// what a file of it says.
func TestConfigBuiltIn(t *testing.T) {
	c, err := parseConfig("built-in configuration", []byte(initialConfig))
	if err != nil {
		t.Fatal(err)
	}
	if l := c.Logs[0]; l.Coverage != "window" || l.Window != 1_000_000 || l.historyTo() != 0 {
		t.Errorf("got %+v", l)
	}
	if len(c.Logs) != 1 || c.Logs[0].Origin != "log2025-1.rekor.sigstore.dev" || c.Logs[0].URL != "https://log2025-1.rekor.sigstore.dev/api/v2" || c.DataDir != "understudy-data" {
		t.Errorf("got %+v", c)
	}
	// What stands there commented out is right as well, once it is uncommented.
	head, service, ok := strings.Cut(initialConfig, "  #- name: rekor\n")
	if !ok {
		t.Fatal("no Rekor v1 service in the initial configuration")
	}
	service = regexp.MustCompile(`(?m)^  #`).ReplaceAllString("  #- name: rekor\n"+service, "  ")
	service = regexp.MustCompile(`(?m)^    #(\S|  -)`).ReplaceAllString(service, "    $1")
	if c, err := parseConfig("understudy.yaml", []byte(head+service)); err != nil {
		t.Error(err)
	} else if log := c.Logs[1]; !log.isService() || len(log.Watch) != 5 || len(log.PublicKeys) != 2 || time.Duration(log.WatchEvery) != time.Hour {
		t.Errorf("got %+v", log)
	}
	all := strings.NewReplacer("#trusted", "trusted", "#stale", "stale", "#contact", "contact", "#log_level", "log_level", "#public", "public", "#sources", "sources").Replace(initialConfig)
	if _, err := parseConfig("understudy.yaml", []byte(all)); err != nil {
		t.Error(err)
	}
}

// TestConfigWindow holds what the ways to write a window mean.
func TestConfigWindow(t *testing.T) {
	for _, test := range []struct {
		in                   string
		minimum, last, until uint64
	}{
		{"    coverage: full\n", 0, 0, 0},
		{"    coverage: window\n    minimum_index: 8192\n", 8192, 0, 0},
		{"    coverage: window\n    minimum_index: 0\n", 0, 0, 0},
		{"    coverage: window\n    minimum_index: 8192\n    history: full\n", 8192, 0, 0},
		{"    coverage: window\n    minimum_index: 8192\n    history: none\n", 8192, 0, 8192},
		{"    coverage: window\n    minimum_index: 8192\n    history: {to: 4096}\n", 8192, 0, 4096},
		{"    coverage: window\n    window: 1000000\n", 0, 1_000_000, 0},
		{"    coverage: window\n    window: 1000000\n    history: none\n", 0, 1_000_000, mirror.NoHistory},
		{"    coverage: window\n    window: 1000\n    history:\n      to: 0x200\n", 0, 1000, 512},
	} {
		c, err := parseConfig("c.yaml", []byte(oneLog+test.in))
		if err != nil {
			t.Errorf("%s: %v", test.in, err)
			continue
		}
		if l := c.Logs[0]; l.minimumIndex() != test.minimum || l.Window != test.last || l.historyTo() != test.until {
			t.Errorf("%s: %d, %d, %d", test.in, l.minimumIndex(), l.Window, l.historyTo())
		}
	}
	c, err := parseConfig("c.json", []byte(`{"logs": [{"origin": "a", "url": "http://a", "sources": [{"url": "http://b/x/"}, {"url": "http://a"}]}]}`))
	if err != nil || !slices.Equal(c.Logs[0].copies(), []string{"http://b/x", "http://a"}) {
		t.Errorf("sources %+v, %v", c, err)
	}
}

func TestConfigPaths(t *testing.T) {
	const vkey = "a.example+5e1f8d2b+AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
	file := filepath.Join(t.TempDir(), "c.json")
	json := `{
	"data_dir": "../data", "trusted_root": "/abs/root.json", "stale_after": "1h",
	"logs": [
		{"origin": "a.example", "url": "https:\/\/a.example/", "public_key": "keys\/a.pem", "stale_after": "2h"},
		{"origin": "b.example", "url": "http://b.example:8080/x", "public_key": "` + vkey + `"},
		{"origin": "c.example - 12", "url": "http://c.example", "public_key": "-----BEGIN PUBLIC KEY-----\nx"}
	]
}`
	if err := os.WriteFile(file, []byte("\ufeff"+json), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := loadConfig(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(file)
	if c.DataDir != filepath.Join(filepath.Dir(dir), "data") || c.TrustedRoot != "/abs/root.json" {
		t.Errorf("paths %q, %q", c.DataDir, c.TrustedRoot)
	}
	if c.Logs[0].PublicKey != filepath.Join(dir, "keys", "a.pem") || c.Logs[1].PublicKey != vkey || c.Logs[2].PublicKey != "-----BEGIN PUBLIC KEY-----\nx" {
		t.Errorf("keys %+v", c.Logs)
	}
	if c.Logs[0].URL != "https://a.example" || c.Logs[0].Name != "a.example" {
		t.Errorf("log %+v", c.Logs[0])
	}
	if c.Logs[0].StaleAfter != Duration(2*time.Hour) || c.Logs[1].StaleAfter != Duration(time.Hour) {
		t.Errorf("stale_after %+v", c.Logs)
	}
}

// TestConfigPathsAll: a path is relative to the configuration wherever it stands in it.
func TestConfigPathsAll(t *testing.T) {
	dir := t.TempDir()
	c, err := parseConfig(filepath.Join(dir, "c.yaml"), []byte(`
data_dir: here
trusted_root: here
tuf: {url: 'https://tuf.example', root: here}
trust: {repository: here, snapshot_key: here, timestamp_key: 'awskms://here', signing_key: here, passphrase_file: here}
witness: {keys: [here], mirror_keys: [here], log_list: here, logs: [{public_key: here}]}
archive:
  key: here
  tsa: {url: 'https://tsa.example', certificates: here}
  destinations:
    - {name: a, directory: ../there}
    - {name: b, s3: {endpoint: 'https://s3.example', bucket: b, credentials_file: here}}
listen: {log_v1: '127.0.0.1:3000', log_v2: '127.0.0.1:3003'}
log:
  passphrase_file: here
  v1: {host: r.example, tree_id: 1, key: here}
  v2: {origin: s.example, key: here, mldsa_key: here}
  proposals: {key: here}
  witness_policy: {file: here}
  access: {tls: {certificate: here, key: here, client_ca: here}, identities: [{name: a, certificate: a@b.example, roles: [read]}]}
logs:
  - {name: a, source: rekor-v1, url: 'https://a.example', public_keys: [here], coverage: pinned, watch: [{public_key: here}]}
  - {origin: b.example, url: 'https://b.example', public_key: here}
`))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(text, []byte(`"here"`)); n != 0 {
		t.Errorf("%d paths stayed as they were: %s", n, text)
	}
	if want := filepath.Join(filepath.Dir(dir), "there"); c.Archive.Destinations[0].Directory != want {
		t.Errorf("destination %s, want %s", c.Archive.Destinations[0].Directory, want)
	}
	if n := bytes.Count(text, []byte(strconv.Quote(filepath.Join(dir, "here")))); n != 26 || !bytes.Contains(text, []byte(`"awskms://here"`)) {
		t.Errorf("%d paths in %s", n, text)
	}
}

// FuzzConfig holds that no text makes the loader panic and that every mistake
// names the file.
func FuzzConfig(f *testing.F) {
	f.Add(initialConfig)
	f.Add(oneLog)
	f.Add("{\"logs\": [{}]}")
	f.Add("logs:\n- &a {name: x}\n- *a\n")
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := parseConfig("c.yaml", []byte(text)); err != nil && !strings.HasPrefix(err.Error(), "c.yaml:") {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func TestDistance(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"poll", "POLL", 0}, {"", "abc", 3}, {"abc", "", 3}, {"polls", "poll", 1}, {"poll", "polls", 1},
		{"url", "rul", 2}, {"kitten", "sitting", 3}, {"saturday", "sunday", 3},
	} {
		if got := distance(test.a, test.b); got != test.want {
			t.Errorf("%q to %q: got %d, want %d", test.a, test.b, got, test.want)
		}
	}
}
