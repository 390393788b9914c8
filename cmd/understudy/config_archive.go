package main

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
	_ "time/tzdata" // for machines without zones, such as the container

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/calendar"
	"github.com/understudy-log/understudy/witness/archive/stamp"
	"github.com/understudy-log/understudy/witness/archive/store"
)

// ArchiveConfig says when evidence packs are made, and where they go.
type ArchiveConfig struct {
	// Key is the file with the key that signs packs, an Ed25519 key of "understudy keys generate".
	Key string `yaml:"key"`
	// Vantage says from where the logs are watched, in a few words; default: the host name.
	Vantage string `yaml:"vantage"`
	// Schedule is a cron expression of five fields: when periods end.
	Schedule string `yaml:"schedule"`
	// TimeZone is the one in which it is meant.
	TimeZone string `yaml:"time_zone"`
	// TSA is a time-stamping authority (RFC 3161); nil is none.
	TSA *TSAConfig `yaml:"tsa"`
	// Entries go into every pack, with their proofs.
	Entries []EvidenceConfig `yaml:"entries"`
	// Destinations are where packs are stored beside the data directory.
	Destinations []DestinationConfig `yaml:"destinations"`
}

// TSAConfig is a time-stamping authority.
type TSAConfig struct {
	URL string `yaml:"url"`
	// Certificates is a PEM file with what the authority's certificate must chain to.
	Certificates string `yaml:"certificates"`
}

// EvidenceConfig names entries that go into packs, by exactly one of its first four keys.
type EvidenceConfig struct {
	Digest   string    `yaml:"digest"`   // sha256:HEX of an artifact
	Identity string    `yaml:"identity"` // e-mail or URI
	UUID     string    `yaml:"uuid"`     // of Rekor v1
	Indexes  IndexSpan `yaml:"indexes"`  // virtual ones of a service, or of a log; both included
	// Log is the name of a log or service, if only it is meant; indexes need it.
	Log string `yaml:"log"`
}

// DestinationConfig is one place for packs, by exactly one of directory and s3.
type DestinationConfig struct {
	// Name stands in messages and metrics; default: what the place is called.
	Name      string          `yaml:"name"`
	Directory string          `yaml:"directory"`
	S3        *S3BucketConfig `yaml:"s3"`
	// Retention is how long a pack is kept, from when it was stored on.
	Retention Duration `yaml:"retention"`
	// LegalHold puts every pack under legal hold.
	LegalHold bool `yaml:"legal_hold"`
}

// S3BucketConfig is a bucket of an S3-compatible service.
type S3BucketConfig struct {
	Bucket    string `yaml:"bucket"`
	Prefix    string `yaml:"prefix"`
	Endpoint  string `yaml:"endpoint"` // empty: AWS
	Region    string `yaml:"region"`
	PathStyle bool   `yaml:"path_style"`
	// CredentialsFile is in AWS's format; empty: environment, or a role of the machine.
	CredentialsFile string `yaml:"credentials_file"`
	Profile         string `yaml:"profile"`
	// Mode is that of Object Lock: governance, compliance; empty: nothing is locked.
	Mode string `yaml:"mode"`
}

// weekly is the default schedule: the night from Sunday to Monday.
const weekly = "0 0 * * 1"

func (c *Config) completeArchive() error {
	a := c.Archive
	if a == nil {
		return nil
	}
	setDefault(&a.Schedule, weekly)
	setDefault(&a.TimeZone, "UTC")
	if a.Vantage == "" {
		a.Vantage, _ = os.Hostname() // which nobody has to know
		setDefault(&a.Vantage, "not said")
	}
	switch {
	case a.Key == "":
		return c.mistake("evidence packs are signed: \"key\" is the file of a key that \"understudy keys generate\" made", "archive")
	case strings.ContainsFunc(a.Vantage, isControl):
		return c.mistake("vantage must be one line", "archive", "vantage")
	case a.TSA != nil && !isLogURL(a.TSA.URL):
		return c.mistake(fmt.Sprintf("%q is not the address of a time-stamping authority; write it like https://timestamp.example.com/api/v1/timestamp", a.TSA.URL), "archive", "tsa")
	}
	if _, err := calendar.Parse(a.Schedule, a.TimeZone); err != nil {
		return c.mistake(err.Error(), "archive")
	}
	names := map[string]bool{}
	for i := range a.Destinations {
		d := &a.Destinations[i]
		if (d.Directory == "") == (d.S3 == nil) {
			return c.mistake("each destination is one of directory and s3", "archive", "destinations", i)
		}
		if d.S3 == nil {
			if dir := filepath.Dir(c.name); within(relativeTo(dir, d.Directory), relativeTo(dir, c.DataDir)) {
				return c.mistake("a destination in data_dir is lost together with it; name a folder of another disk", "archive", "destinations", i)
			}
			setDefault(&d.Name, d.Directory)
		} else if setDefault(&d.Name, strings.TrimRight("s3://"+d.S3.Bucket+"/"+d.S3.Prefix, "/")); d.S3.Mode != "" && d.S3.Mode != string(store.Governance) && d.S3.Mode != string(store.Compliance) {
			return c.mistake(c.oneOf(d.S3.Mode, string(store.Governance), string(store.Compliance)), "archive", "destinations", i, "s3", "mode")
		} else if d.S3.Mode != "" && d.Retention == 0 {
			return c.mistake("Object Lock needs \"retention\", how long a pack is locked", "archive", "destinations", i)
		}
		if names[d.Name] {
			return c.mistake(fmt.Sprintf("two destinations are called %q", d.Name), "archive", "destinations", i)
		}
		names[d.Name] = true
	}
	for i := range a.Entries {
		if _, err := a.Entries[i].want(); err != nil {
			return c.mistake(err.Error(), "archive", "entries", i)
		}
	}
	return nil
}

// within says whether a folder is another one, or in it.
func within(folder, other string) bool {
	a, errA := filepath.Abs(folder)
	b, errB := filepath.Abs(other)
	if errA != nil || errB != nil {
		return false
	}
	rel, err := filepath.Rel(b, a)
	return err == nil && filepath.IsLocal(rel)
}

// want returns what is named, with what finds it.
func (e *EvidenceConfig) want() (archive.Want, error) {
	w := archive.Want{Wanted: archive.Wanted{Log: e.Log}}
	named := 0
	query := rekor.Query{}
	if e.Digest != "" {
		named++
		if w.Digest = strings.ToLower(e.Digest); !digestText.MatchString(w.Digest) {
			return w, fmt.Errorf("%q is no digest; write it like sha256: and 64 hex digits", e.Digest)
		}
		query.Hash = w.Digest
	}
	if e.Identity != "" {
		named++
		w.Identity, query.Subject = e.Identity, e.Identity
		if strings.Contains(e.Identity, "*") {
			return w, fmt.Errorf("%q: a pattern cannot be looked up; name identities in full", e.Identity)
		}
	}
	if e.UUID != "" {
		named++
		uuid, err := rekor.ParseUUID(e.UUID)
		if err != nil {
			return w, err
		}
		leaf := storage.Hash(uuid.LeafHash)
		w.UUID, w.Leaf, w.TreeID = e.UUID, &leaf, uuid.TreeID
	}
	if e.Indexes.End > 0 {
		named++
		w.First, w.End = e.Indexes.First, e.Indexes.End
		w.Index = fmt.Sprintf("%d-%d", w.First, w.End-1)
		if e.Log == "" {
			return w, fmt.Errorf("indexes are those of one log: say which with \"log\"")
		}
	}
	if named != 1 {
		return w, fmt.Errorf("each of the entries has exactly one of digest, identity, uuid, indexes")
	}
	keys, _, err := rekor.QueryKeys(query)
	w.Keys = keys
	return w, err
}

// archiveKey reads the key that signs packs.
func (c *Config) archiveKey() (note.Signer, string, error) {
	data, err := os.ReadFile(c.Archive.Key)
	if err != nil {
		return nil, "", c.mistake(fmt.Sprintf("read key: %v; make one with \"understudy keys generate\"", err), "archive", "key")
	}
	signer, vkey, err := parseArchiveKey(string(data))
	if err != nil {
		return nil, "", c.mistake(fmt.Sprintf("%s is no key of \"understudy keys generate --archive\"", c.Archive.Key), "archive", "key")
	}
	return signer, vkey, nil
}

// parseArchiveKey reads an Ed25519 note key, and returns its verifier key.
func parseArchiveKey(text string) (note.Signer, string, error) {
	text = strings.TrimSpace(text)
	signer, err := note.NewSigner(text)
	if err != nil {
		return nil, "", err
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(text, "+", 5)[4])
	if err != nil {
		return nil, "", err
	}
	public := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	vkey, err := note.NewEd25519VerifierKey(signer.Name(), public)
	return signer, vkey, err
}

// destinations makes what packs are stored in.
func (c *Config) destinations(ctx context.Context) ([]store.Destination, error) {
	var all []store.Destination
	for i, d := range c.Archive.Destinations {
		var made store.Destination
		var err error
		if d.S3 == nil {
			made, err = store.NewDirectory(store.DirectoryConfig{Name: d.Name, Path: d.Directory, Retention: time.Duration(d.Retention), LegalHold: d.LegalHold})
		} else {
			made, err = store.NewS3(ctx, store.S3Config{
				Name: d.Name, Endpoint: d.S3.Endpoint, Region: d.S3.Region, Bucket: d.S3.Bucket, Prefix: d.S3.Prefix, PathStyle: d.S3.PathStyle,
				CredentialsFile: d.S3.CredentialsFile, Profile: d.S3.Profile, Mode: store.Mode(d.S3.Mode), Retention: time.Duration(d.Retention), LegalHold: d.LegalHold,
			})
		}
		if err != nil {
			return nil, c.mistake(err.Error(), "archive", "destinations", i)
		}
		all = append(all, made)
	}
	return all, nil
}

// authority makes the time-stamping authority, with what verifies its tokens: nil if no
// certificates are configured.
func (c *Config) authority() (a *stamp.Authority, verify func([]byte, [32]byte) (time.Time, string, error), err error) {
	cfg := stamp.Config{URL: c.Archive.TSA.URL, Contact: c.Contact}
	if file := c.Archive.TSA.Certificates; file != "" {
		pem, err := os.ReadFile(file)
		if err == nil {
			cfg.Roots, err = stamp.RootsFromPEM(pem)
		}
		if err != nil {
			return nil, nil, c.mistake(err.Error(), "archive", "tsa", "certificates")
		}
		verify = verifyTimestamp([]stamp.Roots{cfg.Roots})
	}
	if a, err = stamp.New(cfg); err != nil {
		return nil, nil, c.mistake(err.Error(), "archive", "tsa", "url")
	}
	return a, verify, nil
}
