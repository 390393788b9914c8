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
}

// LogConfig is one log to mirror.
type LogConfig struct {
	// Name stands in metrics and messages; default: the origin.
	Name string `yaml:"name"`
	// Source is how the log is read: tiles (C2SP tlog-tiles).
	Source string `yaml:"source"`
	// URL is the log's monitoring prefix.
	URL string `yaml:"url"`
	// Origin is the first line of the log's checkpoints.
	Origin string `yaml:"origin"`
	// PublicKey is a PEM file, a file with a vkey, or a vkey; empty: the key comes
	// from the trusted root, by origin.
	PublicKey string `yaml:"public_key"`
	// Coverage is how much is held: full.
	Coverage string `yaml:"coverage"`
	// Poll is the time between two looks at the log's checkpoint.
	Poll Duration `yaml:"poll"`
	// RequestsPerSecond is the budget of requests to the log's server.
	RequestsPerSecond float64 `yaml:"requests_per_second"`
	// StaleAfter is Config.StaleAfter for this log.
	StaleAfter Duration `yaml:"stale_after"`
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
	c.DataDir = relativeTo(dir, c.DataDir)
	c.TrustedRoot = relativeTo(dir, c.TrustedRoot)
	for i := range c.Logs {
		if log := &c.Logs[i]; !log.keyIsInline() {
			log.PublicKey = relativeTo(dir, log.PublicKey)
		}
	}
	return c, nil
}

func relativeTo(dir, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}

// keyIsInline reports whether PublicKey is a key, not the name of its file.
func (l *LogConfig) keyIsInline() bool {
	return vkeyText.MatchString(l.PublicKey) || strings.Contains(l.PublicKey, "-----BEGIN ")
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
	if len(c.Logs) == 0 {
		return c.mistake("no log to mirror; \"logs\" must list at least one", "logs")
	}
	names, origins := map[string]bool{}, map[string]bool{}
	for i := range c.Logs {
		log := &c.Logs[i]
		if err := c.completeLog(i, log); err != nil {
			return err
		}
		if origins[log.Origin] {
			return c.mistake(fmt.Sprintf("the origin %q is used twice", log.Origin), "logs", i, "origin")
		}
		if names[log.Name] {
			return c.mistake(fmt.Sprintf("the name %q is used twice", log.Name), "logs", i, "name")
		}
		names[log.Name], origins[log.Origin] = true, true
	}
	return nil
}

func (c *Config) completeListen() error {
	seen := map[string]string{}
	for _, l := range []struct{ key, address string }{
		{"http", c.Listen.HTTP}, {"grpc", c.Listen.GRPC}, {"admin", c.Listen.Admin},
	} {
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
	case log.Source == "rekor-v1":
		return c.mistake("the source \"rekor-v1\" is not in this version; it has \"tiles\"", "logs", i, "source")
	case log.Source != "tiles":
		return c.mistake(c.oneOf(log.Source, "tiles"), "logs", i, "source")
	case log.Coverage == "window" || log.Coverage == "pinned":
		return c.mistake(fmt.Sprintf("the coverage %q is not in this version; it has \"full\"", log.Coverage), "logs", i, "coverage")
	case log.Coverage != "full":
		return c.mistake(c.oneOf(log.Coverage, "full"), "logs", i, "coverage")
	case !(log.RequestsPerSecond > 0):
		return c.mistake("requests_per_second must be positive", "logs", i, "requests_per_second")
	}
	u, err := url.Parse(log.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return c.mistake(fmt.Sprintf("%q is not the address of a log; write it like https://log.example.com/api/v2", log.URL), "logs", i, "url")
	}
	log.URL = strings.TrimRight(log.URL, "/")
	return nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }
