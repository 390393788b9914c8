package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// sourceRekorV1 is the source of a Rekor v1 service, with all its shards.
const sourceRekorV1 = "rekor-v1"

// WatchConfig names entries that are pinned as soon as they can be found, by one of its keys.
type WatchConfig struct {
	Digest    string    `yaml:"digest"`     // sha256:HEX of an artifact
	Identity  string    `yaml:"identity"`   // e-mail or URI; * stands for any characters
	PublicKey string    `yaml:"public_key"` // file with a key or certificate
	UUID      string    `yaml:"uuid"`
	Indexes   IndexSpan `yaml:"indexes"` // virtual indexes, both included
}

// IndexSpan is a range of indexes that is written like 100-200, or as one index.
type IndexSpan struct{ First, End uint64 }

var spanText = regexp.MustCompile(`^([0-9]{1,19})(?:-([0-9]{1,19}))?$`)

// UnmarshalYAML reads an index or FIRST-LAST; its errors know where they are.
func (s *IndexSpan) UnmarshalYAML(node ast.Node) error {
	wrong := &mistake{token: firstToken(node), text: "no range of indexes; write it like 100-200"}
	if _, ok := node.(ast.ScalarNode); !ok {
		return wrong
	}
	m := spanText.FindStringSubmatch(node.GetToken().Value)
	if m == nil {
		return wrong
	}
	first, err := strconv.ParseUint(m[1], 10, 63)
	last := first
	if m[2] != "" && err == nil {
		last, err = strconv.ParseUint(m[2], 10, 63)
	}
	if err != nil || last < first {
		return wrong
	}
	s.First, s.End = first, last+1
	return nil
}

// publicRekor is the host of the public service.
const publicRekor = "rekor.sigstore.dev"

// tooLarge says why the public service is not copied.
const tooLarge = "the active shard of " + publicRekor + " has over 3 billion entries, grows by about 177 a second, and its API gives at most 10 entries a request under a limit of about 16 requests a second: 160 a second, so no copy of it, nor of its tail, ever catches up. " +
	"Write \"coverage: pinned\", and list frozen shards by tree ID under \"shards\" to hold all of them"

// frozenShards are the shards of the public service that have ended and can be copied.
var frozenShards = map[uint64]bool{3904496407287907110: true, 2605736670972794746: true}

// completeService sets what was left out for a Rekor v1 service and checks every value.
func (c *Config) completeService(i int, log *LogConfig) error {
	setDefault(&log.Coverage, string(mirror.CoveragePinned))
	setDefault(&log.Poll, Duration(mirror.DefaultServicePoll))
	setDefault(&log.RequestsPerSecond, mirror.DefaultServiceRequestsPerSecond)
	setDefault(&log.StaleAfter, c.StaleAfter)
	setDefault(&log.WatchEvery, Duration(mirror.DefaultWatchEvery))
	setDefault(&log.ReadThroughMiB, mirror.DefaultReadThroughBytes>>20)
	setDefault(&log.MissesPerSecond, log.RequestsPerSecond)
	for _, part := range []struct {
		key  string
		set  bool
		hint string
	}{
		{"origin", log.Origin != "", "a Rekor v1 service has one origin for each shard, which it tells itself"},
		{"public_key", log.PublicKey != "", "a Rekor v1 service has one key for each shard: list them under \"public_keys\""},
		{"minimum_index", log.MinimumIndex != nil, "the shards of a Rekor v1 service have no common index: write \"window\", how many of the last entries of each"},
		{"history", log.History != HistoryConfig{}, "the window of a Rekor v1 shard does not grow backwards"},
		{"successors", log.Successors != nil, "a Rekor v1 service tells its shards itself"},
		{"sources", len(log.Sources) > 0, "a Rekor v1 service is read from its url alone"},
	} {
		if part.set {
			return c.mistake(fmt.Sprintf("%s does not belong here: %s", part.key, part.hint), "logs", i, part.key)
		}
	}
	switch {
	case log.Name == "":
		return c.mistake("a Rekor v1 service without \"name\"", "logs", i)
	case strings.ContainsFunc(log.Name, isControl) || strings.Contains(log.Name, "/"):
		return c.mistake("name must be one line without a slash: those of its shards are NAME/TREE-ID", "logs", i, "name")
	case log.URL == "":
		return c.mistake("a Rekor v1 service without \"url\", its address in front of /api/v1", "logs", i)
	case !isLogURL(log.URL):
		return c.mistake(fmt.Sprintf("%q is not the address of a log; write it like https://rekor.example.com", log.URL), "logs", i, "url")
	case !(log.RequestsPerSecond > 0):
		return c.mistake("requests_per_second must be positive", "logs", i, "requests_per_second")
	case !(log.MissesPerSecond > 0):
		return c.mistake("misses_per_second must be positive", "logs", i, "misses_per_second")
	case log.ReadThroughMiB < 0 || log.ReadThroughMiB > 1<<30:
		return c.mistake("read_through_mib must be between 1 and 1073741824", "logs", i, "read_through_mib")
	}
	log.URL = strings.TrimSuffix(strings.TrimRight(log.URL, "/"), "/api/v1")
	windowed := log.Coverage == string(mirror.CoverageWindow)
	if !isCoverage(log.Coverage) {
		return c.mistake(c.oneOf(log.Coverage, "pinned", "window", "full"), "logs", i, "coverage")
	}
	for id, coverage := range log.Shards {
		if treeID, err := strconv.ParseUint(id, 10, 63); err != nil || treeID == 0 || strconv.FormatUint(treeID, 10) != id {
			return c.mistake(fmt.Sprintf("%q is no tree ID", id), "logs", i, "shards", id)
		}
		if !isCoverage(coverage) {
			return c.mistake(c.oneOf(coverage, "pinned", "window", "full"), "logs", i, "shards", id)
		}
		windowed = windowed || coverage == string(mirror.CoverageWindow)
	}
	if windowed != (log.Window > 0) {
		if windowed {
			return c.mistake("a window needs \"window\", how many of the last entries of each shard it has", "logs", i, "coverage")
		}
		return c.mistake("window needs \"coverage: window\"", "logs", i, "window")
	}
	if err := c.refuseTooLarge(i, log); err != nil {
		return err
	}
	for j := range log.Watch {
		if _, err := log.Watch[j].watch(); err != nil {
			return c.mistake(err.Error(), "logs", i, "watch", j)
		}
	}
	return nil
}

func isCoverage(s string) bool {
	return s == string(mirror.CoveragePinned) || s == string(mirror.CoverageWindow) || s == string(mirror.CoverageFull)
}

// refuseTooLarge refuses to copy what grows faster than it can be read.
func (c *Config) refuseTooLarge(i int, log *LogConfig) error {
	u, err := url.Parse(log.URL)
	if err != nil || !strings.EqualFold(strings.TrimSuffix(u.Hostname(), "."), publicRekor) {
		return nil
	}
	if log.Coverage != string(mirror.CoveragePinned) {
		return c.mistake(fmt.Sprintf("coverage %q is not possible here: %s", log.Coverage, tooLarge), "logs", i, "coverage")
	}
	for id, coverage := range log.Shards {
		if treeID, _ := strconv.ParseUint(id, 10, 63); coverage != string(mirror.CoveragePinned) && !frozenShards[treeID] {
			return c.mistake(fmt.Sprintf("coverage %q is not possible for shard %s: %s", coverage, id, tooLarge), "logs", i, "shards", id)
		}
	}
	return nil
}

// watch returns what is watched. A file with a key is read by readWatch.
func (w *WatchConfig) watch() (mirror.Watch, error) {
	var watches []mirror.Watch
	if w.Digest != "" {
		digest := strings.ToLower(w.Digest)
		if !digestText.MatchString(digest) {
			return mirror.Watch{}, fmt.Errorf("%q is no digest; write it like sha256: and 64 hex digits", w.Digest)
		}
		watches = append(watches, mirror.Watch{Query: &rekor.Query{Hash: digest}})
	}
	switch {
	case w.Identity == "":
	case strings.Trim(w.Identity, "*") == "":
		return mirror.Watch{}, errors.New("an identity of * alone watches everything; a copy does that: coverage full")
	case strings.Contains(w.Identity, "*"):
		watches = append(watches, mirror.Watch{Identity: w.Identity})
	case strings.Contains(w.Identity, "@") && !strings.Contains(w.Identity, "/"):
		watches = append(watches, mirror.Watch{Query: &rekor.Query{Email: w.Identity}})
	default:
		watches = append(watches, mirror.Watch{Query: &rekor.Query{Subject: w.Identity}})
	}
	if w.PublicKey != "" {
		watches = append(watches, mirror.Watch{Query: &rekor.Query{}})
	}
	if w.UUID != "" {
		uuid, err := rekor.ParseUUID(w.UUID)
		if err != nil {
			return mirror.Watch{}, err
		}
		watches = append(watches, mirror.Watch{UUID: &uuid})
	}
	if w.Indexes.End > 0 {
		watches = append(watches, mirror.Watch{First: w.Indexes.First, End: w.Indexes.End})
	}
	if len(watches) != 1 {
		return mirror.Watch{}, errors.New("each watch has exactly one of digest, identity, public_key, uuid, indexes")
	}
	return watches[0], nil
}

var digestText = regexp.MustCompile(`^((sha512:)?[0-9a-f]{128}|(sha256:)?[0-9a-f]{64}|(sha1:)?[0-9a-f]{40})$`)

// readWatch is watch with the key in its file.
func (w *WatchConfig) readWatch() (mirror.Watch, error) {
	watch, err := w.watch()
	if err != nil || w.PublicKey == "" {
		return watch, err
	}
	data, err := os.ReadFile(w.PublicKey)
	if err != nil {
		return watch, fmt.Errorf("read public key: %w", err)
	}
	watch.Query.PublicKey, watch.Query.Format = data, keyFormat(data)
	if _, _, err := rekor.QueryKeys(*watch.Query); err != nil {
		return watch, fmt.Errorf("%s: %w", w.PublicKey, err)
	}
	return watch, nil
}

// keyFormat is Rekor's name for the format of a public key.
func keyFormat(data []byte) string {
	switch text := bytes.TrimSpace(data); {
	case bytes.HasPrefix(text, []byte("-----BEGIN PGP")):
		return "pgp"
	case bytes.HasPrefix(text, []byte("untrusted comment:")):
		return "minisign"
	case bytes.HasPrefix(text, []byte("ssh-")), bytes.HasPrefix(text, []byte("ecdsa-sha2-")), bytes.HasPrefix(text, []byte("sk-")):
		return "ssh"
	}
	return "x509"
}

// service is what the mirror of a Rekor v1 service is made from.
func (c *Config) service(i int, db *storage.DB) (mirror.ServiceConfig, error) {
	log := c.Logs[i]
	cfg := mirror.ServiceConfig{
		Name: log.Name, URL: log.URL, DB: db,
		Coverage: mirror.Coverage(log.Coverage), Shards: map[uint64]mirror.Coverage{}, LastEntries: log.Window,
		WatchEvery: time.Duration(log.WatchEvery), Poll: time.Duration(log.Poll),
		RequestsPerSecond: log.RequestsPerSecond, MissesPerSecond: log.MissesPerSecond,
		ReadThroughBytes: log.ReadThroughMiB << 20, StaleAfter: time.Duration(log.StaleAfter), Contact: c.Contact,
	}
	for id, coverage := range log.Shards {
		treeID, err := strconv.ParseUint(id, 10, 63)
		if err != nil {
			return cfg, err
		}
		cfg.Shards[treeID] = mirror.Coverage(coverage)
	}
	for j := range log.Watch {
		watch, err := log.Watch[j].readWatch()
		if err != nil {
			return cfg, c.mistake(err.Error(), "logs", i, "watch", j)
		}
		cfg.Watch = append(cfg.Watch, watch)
	}
	return cfg, nil
}

// heldShard returns the mirror of a stored shard of a service that does not run; nil if the
// service has no such shard.
func (c *Config) heldShard(i int, db *storage.DB, origin string) (*mirror.Mirror, error) {
	cfg, err := c.service(i, db)
	if err != nil {
		return nil, err
	}
	service, err := mirror.NewService(cfg)
	if err != nil {
		return nil, err
	}
	for _, m := range service.Mirrors() {
		if m.Origin() == origin {
			return m, nil
		}
	}
	return nil, nil
}

// serviceKeys returns the keys of a Rekor v1 service: its own, or those that the trusted root
// has for its host.
func (k *keyring) serviceKeys(log *LogConfig) ([]trust.Key, error) {
	if keys := k.services[log.Name]; len(keys) > 0 {
		return keys, nil
	}
	if k.root == nil {
		return nil, fmt.Errorf("no key is known for %q yet: it has no public_keys, and no trusted root is there", log.Name)
	}
	u, err := url.Parse(log.URL)
	if err != nil {
		return nil, err
	}
	if keys := k.root.Keys(u.Hostname() + " - 1"); len(keys) > 0 {
		return keys, nil
	}
	return nil, fmt.Errorf("%s lists no key of a Rekor v1 log at %s: give its public_keys", k.from, u.Hostname())
}

// isService reports whether the log is a Rekor v1 service.
func (l *LogConfig) isService() bool { return l.Source == sourceRekorV1 }
