package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/mirror"
)

// defaultConfigFile is read when no --config is given and it is there.
const defaultConfigFile = "understudy.yaml"

// Config is the configuration of every verb: a YAML or JSON file. After
// loadConfig every value is set and sound, and every path stands relative to the
// working directory.
type Config struct {
	// DataDir holds everything that is stored.
	DataDir string `yaml:"data_dir"`
	Listen  Listen `yaml:"listen"`
	// TrustedRoot is a Sigstore TrustedRoot JSON file; empty: fetched over TUF when
	// a log has no key of its own.
	TrustedRoot string `yaml:"trusted_root"`
	// TUF is the TUF repository that is mirrored, and served at /tuf/; nil is none.
	TUF *TUFConfig `yaml:"tuf"`
	// Trust is the TUF repository of our own, served at /trust/; nil is none.
	Trust *TrustConfig `yaml:"trust"`
	// Witness says what is cosigned; nil is nothing.
	Witness *WitnessConfig `yaml:"witness"`
	// Archive says when evidence packs are made; nil: none are.
	Archive *ArchiveConfig `yaml:"archive"`
	// Private is the private log; nil is none.
	Private *PrivateConfig `yaml:"log"`
	// Outage says how it is noticed that an upstream is away, and what is done then; nil: nobody looks.
	Outage *OutageConfig `yaml:"outage"`
	// Verification says what is verified for others; nil: nothing is.
	Verification *VerificationConfig `yaml:"verification"`
	// StaleAfter is the checkpoint age from which answers are called stale.
	StaleAfter Duration `yaml:"stale_after"`
	// Contact stands in the User-Agent, so that the operator of an upstream can
	// reach ours: a mail or web address.
	Contact string `yaml:"contact"`
	// LogLevel is debug, info, warn or error.
	LogLevel string      `yaml:"log_level"`
	Logs     []LogConfig `yaml:"logs"`

	name string    // of the file, for messages
	file *ast.File // positions, for messages
}

// Listen holds the addresses to serve on, each "host:port".
type Listen struct {
	HTTP  string `yaml:"http"`  // tiles, for everybody
	GRPC  string `yaml:"grpc"`  // entries and proofs, for everybody
	Admin string `yaml:"admin"` // metrics, health, backup, profiles: for the operator only
	// LogV1 and LogV2 are those of the private log, one for each generation that it has.
	LogV1 string `yaml:"log_v1"`
	LogV2 string `yaml:"log_v2"`
}

// LogConfig is one log to mirror.
type LogConfig struct {
	// Name stands in metrics and messages; default: the origin.
	Name string `yaml:"name"`
	// Source is how the log is read: tiles (C2SP tlog-tiles), or rekor-v1, which is a service
	// with all its shards.
	Source string `yaml:"source"`
	// URL is the log's monitoring prefix.
	URL string `yaml:"url"`
	// Origin is the first line of the log's checkpoints.
	Origin string `yaml:"origin"`
	// PublicKey is a PEM file, a file with a vkey, or a vkey; empty: the key comes
	// from the trusted root, by origin.
	PublicKey string `yaml:"public_key"`
	// Coverage is how much is held: full, or a window from an index on. Of a Rekor v1 shard, what a
	// window began without stays out, also under a wider coverage later on.
	Coverage string `yaml:"coverage"`
	// MinimumIndex is where a window begins; a multiple of 256.
	MinimumIndex *uint64 `yaml:"minimum_index"`
	// Window is instead how many entries before the end of the log it begins, rounded up
	// to whole bundles of 256.
	Window uint64 `yaml:"window"`
	// History is how far the window then grows backwards.
	History HistoryConfig `yaml:"history"`
	// Sources are further places that have the log. What comes from there is verified
	// against upstream's signature like everything else.
	Sources []SourceConfig `yaml:"sources"`
	// Poll is the time between two looks at the log's checkpoint.
	Poll Duration `yaml:"poll"`
	// RequestsPerSecond is the budget of requests to the log's server.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	// StaleAfter is Config.StaleAfter for this log.
	StaleAfter Duration `yaml:"stale_after"`

	// Successors says whether later Rekor v2 logs of the same domain are followed, too, when the
	// trust material announces them; default: if the key comes from the copy of a TUF repository.
	Successors *bool `yaml:"successors"`

	// WriteURL is where entries are proposed, if that is not URL, which it is for Rekor only.
	WriteURL string `yaml:"write_url"`
	// GrowsWithin is how soon the log is always larger; 0: that is not known.
	GrowsWithin Duration `yaml:"grows_within"`

	// PublicKeys are those of the shards of a Rekor v1 service, as PublicKey; empty: they come
	// from the trusted root, by host. The keys below are of such services too.
	PublicKeys []string `yaml:"public_keys"`
	// Shards is the coverage of shards that differ from Coverage, by tree ID.
	Shards map[string]string `yaml:"shards"`
	// Watch names entries that are pinned as soon as they can be found.
	Watch []WatchConfig `yaml:"watch"`
	// WatchEvery is the time between two searches for them.
	WatchEvery Duration `yaml:"watch_every"`
	// MissesPerSecond is how many entries that are not held each client may have fetched, with
	// a burst of twice that; default: RequestsPerSecond.
	MissesPerSecond float64 `yaml:"misses_per_second"`
	// ReadThroughMiB is the disk space for entries that were only read, in MiB; those beyond a
	// lower value are given up after the next start.
	ReadThroughMiB int64 `yaml:"read_through_mib"`
}

// SourceConfig is a further place that has a log.
type SourceConfig struct {
	// URL is its monitoring prefix; that of another Understudy is http://HOST/<origin hash>.
	URL string `yaml:"url"`
}

// HistoryConfig is how far a window grows backwards.
type HistoryConfig struct {
	None bool
	To   uint64 // index down to which it grows; 0 is all of it
}

const historyHint = "write full, none, or {to: INDEX} with a multiple of 256"

// UnmarshalYAML reads full, none or {to: INDEX}; its errors know where they are.
func (h *HistoryConfig) UnmarshalYAML(node ast.Node) error {
	var only *ast.MappingValueNode
	switch node := node.(type) {
	case *ast.MappingNode:
		if len(node.Values) == 1 {
			only = node.Values[0]
		}
	case *ast.MappingValueNode:
		only = node
	}
	if only != nil && only.Key.GetToken().Value == "to" {
		value := only.Value.GetToken()
		to, err := strconv.ParseUint(value.Value, 0, 64)
		if err != nil {
			return &mistake{token: value, text: fmt.Sprintf("%q is not an index; %s", value.Value, historyHint)}
		}
		if to%bundleWidth != 0 {
			return &mistake{token: value, text: notAligned("to", to)}
		}
		h.To = to
		return nil
	}
	if _, ok := node.(ast.ScalarNode); ok {
		switch node.GetToken().Value {
		case "full":
			return nil
		case "none":
			h.None = true
			return nil
		}
	}
	return &mistake{token: firstToken(node), text: "this is no history; " + historyHint}
}

// bundleWidth is how many entries a bundle of a log has (C2SP tlog-tiles): windows begin at
// whole bundles.
const bundleWidth = 256

func notAligned(key string, index uint64) string {
	below := index / bundleWidth * bundleWidth
	return fmt.Sprintf("%s must be a multiple of %d: %d or %d", key, bundleWidth, below, below+bundleWidth)
}

// Duration is a time.Duration that is written like 5s, 10m or 24h.
type Duration time.Duration

// UnmarshalYAML reads a duration; its errors know where they are.
func (d *Duration) UnmarshalYAML(node ast.Node) error {
	if _, ok := node.(ast.ScalarNode); !ok {
		return &mistake{token: firstToken(node), text: "a duration belongs here; write it like 5s, 10m or 24h"}
	}
	text := node.GetToken().Value
	v, err := time.ParseDuration(text)
	if err != nil {
		return &mistake{token: node.GetToken(), text: fmt.Sprintf("%q is not a duration; write it like 5s, 10m or 24h", text)}
	}
	if v <= 0 {
		return &mistake{token: node.GetToken(), text: fmt.Sprintf("the duration %s must be positive", text)}
	}
	*d = Duration(v)
	return nil
}

// vkeyText is what a C2SP note verifier key looks like: name, hash, key.
var vkeyText = regexp.MustCompile(`^[^\s+]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+=*$`)

// configOf loads the configuration that cmd's --config names.
func configOf(cmd *cobra.Command) (*Config, error) {
	name, err := cmd.Flags().GetString("config")
	if err != nil {
		return nil, err
	}
	if name != "" {
		return loadConfig(name)
	}
	c, err := loadConfig(defaultConfigFile)
	if errors.Is(err, fs.ErrNotExist) {
		return parseConfig("built-in configuration", []byte(initialConfig))
	}
	return c, err
}

// loadConfig reads a configuration file. The error of a file that is wrong names
// line and column.
func loadConfig(name string) (*Config, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w; write one with \"understudy init\"", err)
	}
	return parseConfig(name, data)
}

// parseConfig parses a configuration; relative paths in it start at the folder of
// name.
func parseConfig(name string, data []byte) (*Config, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if json.Valid(data) {
		// JSON may be indented with tabs, YAML may not. Inside its strings JSON has none.
		data = bytes.ReplaceAll(data, []byte("\t"), []byte(" "))
	}
	c := &Config{name: name}
	file, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, c.explain(err)
	}
	c.file = file
	if len(file.Docs) > 1 && file.Docs[1].Body != nil {
		return nil, c.mistakeAt(file.Docs[1].Body, "a second document; a configuration is one")
	}
	if len(file.Docs) > 0 && file.Docs[0].Body != nil {
		if err := yaml.NodeToValue(file.Docs[0].Body, c, yaml.Strict()); err != nil {
			return nil, c.explain(err)
		}
	}
	if err := c.complete(); err != nil {
		return nil, err
	}
	dir := filepath.Dir(name)
	for _, path := range c.paths() {
		*path = relativeTo(dir, *path)
	}
	return c, nil
}

// isInlineKey reports whether a public key is a key, not the name of its file.
func isInlineKey(key string) bool {
	return vkeyText.MatchString(key) || strings.Contains(key, "-----BEGIN ")
}

// complete sets what was left out and checks every value.
func (c *Config) complete() error {
	setDefault(&c.DataDir, "understudy-data")
	setDefault(&c.Listen.HTTP, "127.0.0.1:8080")
	setDefault(&c.Listen.GRPC, "127.0.0.1:8081")
	setDefault(&c.Listen.Admin, "127.0.0.1:8082")
	setDefault(&c.LogLevel, "info")
	setDefault(&c.StaleAfter, Duration(24*time.Hour))
	if err := c.completeListen(); err != nil {
		return err
	}
	if err := new(slog.Level).UnmarshalText([]byte(c.LogLevel)); err != nil {
		return c.mistake(c.oneOf(c.LogLevel, "debug", "info", "warn", "error"), "log_level")
	}
	if strings.ContainsFunc(c.Contact, isControl) {
		return c.mistake("contact must be one line", "contact")
	}
	if err := c.completeTUF(); err != nil {
		return err
	}
	if err := c.completeTrust(); err != nil {
		return err
	}
	if err := errors.Join(c.completeWitness(), c.completeArchive()); err != nil {
		return err
	}
	if len(c.Logs) == 0 && c.Private == nil && (c.Witness == nil || len(c.Witness.Logs) == 0 && c.Witness.LogList == "") {
		return c.mistake("no log to mirror; \"logs\" must list at least one", "logs")
	}
	names, origins, services := map[string]bool{}, map[string]bool{}, 0
	for i := range c.Logs {
		log := &c.Logs[i]
		if err := c.completeLog(i, log); err != nil {
			return err
		}
		if log.isService() {
			services++
		} else if origins[log.Origin] {
			return c.mistake(fmt.Sprintf("the origin %q is used twice", log.Origin), "logs", i, "origin")
		}
		if names[log.Name] {
			return c.mistake(fmt.Sprintf("the name %q is used twice", log.Name), "logs", i, "name")
		}
		if services > 1 {
			return c.mistake("a second Rekor v1 service; its API has one address, so one of them is served: run another understudy for this one", "logs", i, "source")
		}
		names[log.Name], origins[log.Origin] = true, true
	}
	if err := c.completePrivate(); err != nil {
		return err
	}
	if err := c.completeOutage(); err != nil {
		return err
	}
	if err := c.modeNeedsOutage(); err != nil {
		return err
	}
	return c.completeVerification()
}

func (c *Config) completeListen() error {
	seen := map[string]string{}
	for _, l := range []struct{ key, address string }{
		{"http", c.Listen.HTTP}, {"grpc", c.Listen.GRPC}, {"admin", c.Listen.Admin}, {"log_v1", c.Listen.LogV1}, {"log_v2", c.Listen.LogV2},
	} {
		if l.address == "" {
			continue // only the others have a default
		}
		_, port, err := net.SplitHostPort(l.address)
		if err == nil {
			_, err = strconv.ParseUint(port, 10, 16)
		}
		if err != nil {
			return c.mistake(fmt.Sprintf("%q is not an address; write it like 127.0.0.1:8080", l.address), "listen", l.key)
		}
		if other, ok := seen[l.address]; ok && port != "0" {
			return c.mistake(fmt.Sprintf("%s is the address of %q already", l.address, other), "listen", l.key)
		}
		seen[l.address] = l.key
	}
	return nil
}

func (c *Config) completeLog(i int, log *LogConfig) error {
	if log.WriteURL != "" && !isLogURL(log.WriteURL) {
		return c.mistake(fmt.Sprintf("%q is not the address of a log; write it like https://log.example.com/api/v2", log.WriteURL), "logs", i, "write_url")
	}
	log.WriteURL = strings.TrimRight(log.WriteURL, "/")
	if log.isService() {
		return c.completeService(i, log)
	}
	setDefault(&log.Name, log.Origin)
	setDefault(&log.Source, "tiles")
	setDefault(&log.Coverage, "full")
	setDefault(&log.Poll, Duration(5*time.Second))
	setDefault(&log.RequestsPerSecond, 20)
	setDefault(&log.StaleAfter, c.StaleAfter)
	switch {
	case log.Origin == "":
		return c.mistake("a log without \"origin\", the first line of its checkpoints", "logs", i)
	case strings.ContainsFunc(log.Origin+log.Name, isControl):
		return c.mistake("origin and name must be one line each", "logs", i)
	case log.URL == "":
		return c.mistake("a log without \"url\", where its checkpoint and tiles are", "logs", i)
	case log.Source != "tiles":
		return c.mistake(c.oneOf(log.Source, "tiles", sourceRekorV1), "logs", i, "source")
	case log.Coverage == string(mirror.CoveragePinned):
		return c.mistake("the coverage \"pinned\" is for Rekor v1; a log of tiles has \"full\" and \"window\"", "logs", i, "coverage")
	case log.Coverage != "full" && log.Coverage != "window":
		return c.mistake(c.oneOf(log.Coverage, "full", "window"), "logs", i, "coverage")
	case !(log.RequestsPerSecond > 0):
		return c.mistake("requests_per_second must be positive", "logs", i, "requests_per_second")
	}
	if !isLogURL(log.URL) {
		return c.mistake(fmt.Sprintf("%q is not the address of a log; write it like https://log.example.com/api/v2", log.URL), "logs", i, "url")
	}
	log.URL = strings.TrimRight(log.URL, "/")
	for _, part := range []struct {
		key string
		set bool
	}{
		{"public_keys", len(log.PublicKeys) > 0}, {"shards", len(log.Shards) > 0}, {"watch", len(log.Watch) > 0}, {"watch_every", log.WatchEvery > 0},
		{"misses_per_second", log.MissesPerSecond != 0}, {"read_through_mib", log.ReadThroughMiB != 0},
	} {
		if part.set {
			return c.mistake(fmt.Sprintf("%s is for a Rekor v1 service: it needs \"source: rekor-v1\"", part.key), "logs", i, part.key)
		}
	}
	if log.Successors != nil && *log.Successors && !c.hasSuccessors(log) {
		return c.mistake("successors are found in the copy of a TUF repository: it needs \"tuf\", and neither a trusted_root nor a public_key of the log's own", "logs", i, "successors")
	}
	for j := range log.Sources {
		source := &log.Sources[j]
		if !isLogURL(source.URL) {
			return c.mistake(fmt.Sprintf("%q is not the address of a log; that of another understudy is like http://mirror.example.com/<origin hash>", source.URL), "logs", i, "sources", j, "url")
		}
		source.URL = strings.TrimRight(source.URL, "/")
	}
	return c.completeWindow(i, log)
}

func isLogURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == "" && u.User == nil
}

// completeWindow checks where a window begins and how far it grows.
func (c *Config) completeWindow(i int, log *LogConfig) error {
	if log.Coverage == "full" {
		for _, part := range []struct {
			key string
			set bool
		}{
			{"minimum_index", log.MinimumIndex != nil}, {"window", log.Window != 0}, {"history", log.History != HistoryConfig{}},
		} {
			if part.set {
				return c.mistake(fmt.Sprintf("%s needs \"coverage: window\"", part.key), "logs", i, part.key)
			}
		}
		return nil
	}
	switch {
	case log.MinimumIndex == nil && log.Window == 0:
		return c.mistake("a window needs \"minimum_index\", where it begins, or \"window\", how many of the last entries it has", "logs", i, "coverage")
	case log.MinimumIndex != nil && log.Window != 0:
		return c.mistake("minimum_index and window say the same thing; leave one out", "logs", i, "window")
	case log.MinimumIndex != nil && *log.MinimumIndex%bundleWidth != 0:
		return c.mistake(notAligned("minimum_index", *log.MinimumIndex), "logs", i, "minimum_index")
	case log.MinimumIndex != nil && log.History.To > *log.MinimumIndex:
		return c.mistake(fmt.Sprintf("history cannot end at %d, behind minimum_index", log.History.To), "logs", i, "history")
	}
	return nil
}

// historyTo is the index down to which the copy grows.
func (l *LogConfig) historyTo() uint64 {
	switch {
	case !l.History.None:
		return l.History.To
	case l.MinimumIndex != nil: // also if it was a higher one before
		return *l.MinimumIndex
	}
	return mirror.NoHistory
}

// minimumIndex is where the copy begins, if that is fixed.
func (l *LogConfig) minimumIndex() uint64 {
	if l.MinimumIndex == nil {
		return 0
	}
	return *l.MinimumIndex
}

func (l *LogConfig) copies() []string {
	var urls []string
	for _, source := range l.Sources {
		urls = append(urls, source.URL)
	}
	return urls
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
