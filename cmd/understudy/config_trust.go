package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/tuf"
)

// TUFConfig is the TUF repository to mirror.
type TUFConfig struct {
	// URL is where its metadata is; empty: the public Sigstore's.
	URL string `yaml:"url"`
	// Root is a file with one of its root.json, to begin with; the public Sigstore's is built in.
	Root string `yaml:"root"`
	// Poll is the time between updates.
	Poll Duration `yaml:"poll"`
}

// TrustConfig is the TUF repository of our own: what "understudy trust" made.
type TrustConfig struct {
	// Repository is the folder with what was signed offline.
	Repository string `yaml:"repository"`
	// SnapshotKey and TimestampKey sign what the daemon signs: files of encrypted PKCS #8, or keys
	// of a key management service.
	SnapshotKey  string `yaml:"snapshot_key"`
	TimestampKey string `yaml:"timestamp_key"`
	// SigningKey signs which of the approved SigningConfigs clients get; empty: that cannot be switched.
	SigningKey string `yaml:"signing_key"`
	// PassphraseFile has the passphrase of all of them.
	PassphraseFile string `yaml:"passphrase_file"`
	// TimestampLifetime is how long a timestamp is good; it is signed anew after a seventh of that.
	TimestampLifetime Duration `yaml:"timestamp_lifetime"`
}

// tufURL is where the TUF repository is that is mirrored.
func (c *Config) tufURL() string {
	address := c.TUF.URL
	setDefault(&address, tuf.DefaultMirror)
	return strings.TrimRight(address, "/")
}

func (c *Config) completeTUF() error {
	if c.TUF == nil {
		return nil
	}
	setDefault(&c.TUF.Poll, Duration(time.Hour))
	switch {
	case c.TUF.URL != "" && !isLogURL(c.TUF.URL):
		return c.mistake(fmt.Sprintf("%q is not the address of a TUF repository; write it like https://tuf-repo-cdn.sigstore.dev", c.TUF.URL), "tuf", "url")
	case c.TUF.URL != "" && c.TUF.Root == "":
		return c.mistake("a TUF repository of its own needs \"root\", a file with one of its root.json to begin with", "tuf", "url")
	}
	return nil
}

func (c *Config) completeTrust() error {
	t := c.Trust
	if t == nil {
		return nil
	}
	setDefault(&t.TimestampLifetime, Duration(7*24*time.Hour))
	for _, part := range []struct{ key, value, what string }{
		{"repository", t.Repository, "the folder that \"understudy trust init\" made"},
		{"snapshot_key", t.SnapshotKey, "the key that signs snapshots"},
		{"timestamp_key", t.TimestampKey, "the key that signs timestamps"},
	} {
		if part.value == "" {
			return c.mistake(fmt.Sprintf("a TUF repository of our own without %q, %s", part.key, part.what), "trust")
		}
	}
	if t.PassphraseFile == "" && !(isKMS(t.SnapshotKey) && isKMS(t.TimestampKey) && (t.SigningKey == "" || isKMS(t.SigningKey))) {
		return c.mistake("the keys are encrypted: \"passphrase_file\" is the file with their passphrase", "trust")
	}
	return nil
}
