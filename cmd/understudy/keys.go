package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/sigstore/sigstore-go/pkg/tuf"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// keyring finds the keys of logs: a log's own, then those of the trusted root.
type keyring struct {
	own map[string][]trust.Key // by origin
	// services are the keys of Rekor v1 services, by name.
	services map[string][]trust.Key
	root     *trust.Root // nil until there is one; see setRoot
	from     string      // what root is, for messages
	// now is root for those who run beside the one goroutine that changes it.
	now atomic.Pointer[trust.Root]

	material []byte // root in JSON, if it comes out of a copy of a TUF repository

	fetchRoot func(ctx context.Context, cacheDir string) (*trust.Root, error) // trust.FetchRoot
}

// newKeyring reads the keys and the trusted root that c names.
func newKeyring(c *Config) (*keyring, error) {
	k := &keyring{own: map[string][]trust.Key{}, services: map[string][]trust.Key{}, fetchRoot: trust.FetchRoot}
	for i, log := range c.Logs {
		for j, source := range log.PublicKeys {
			key, err := readKey(source)
			if err != nil {
				return nil, c.mistake(err.Error(), "logs", i, "public_keys", j)
			}
			k.services[log.Name] = append(k.services[log.Name], key)
		}
		if log.PublicKey == "" {
			continue
		}
		key, err := readKey(log.PublicKey)
		if err != nil {
			return nil, c.mistake(err.Error(), "logs", i, "public_key")
		}
		k.own[log.Origin] = []trust.Key{key}
	}
	if c.TrustedRoot == "" {
		return k, nil
	}
	root, err := trust.LoadRoot(c.TrustedRoot)
	if err != nil {
		return nil, c.mistake(err.Error(), "trusted_root")
	}
	k.setRoot(root, c.TrustedRoot)
	return k, nil
}

// setRoot makes a trusted root the one that counts.
func (k *keyring) setRoot(root *trust.Root, from string) {
	k.root, k.from = root, from
	k.now.Store(root)
}

// readKey reads a key, or the file that has it.
func readKey(source string) (trust.Key, error) {
	if isInlineKey(source) {
		return trust.ParseKey([]byte(source))
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return trust.Key{}, fmt.Errorf("read public key: %w", err)
	}
	key, err := trust.ParseKey(data)
	if err != nil {
		return trust.Key{}, fmt.Errorf("%s: %w", source, err)
	}
	return key, nil
}

// use makes a trusted root the one that counts, and says whether it is another one.
func (k *keyring) use(json []byte) bool {
	if bytes.Equal(k.material, json) {
		return false
	}
	root, err := trust.ParseRoot(json)
	if err != nil {
		return false // an update that has such a one is refused
	}
	k.setRoot(root, "the copy of the TUF repository")
	k.material = json
	return true
}

// keys returns the keys of a log; the error says why there are none.
func (k *keyring) keys(origin string) ([]trust.Key, error) {
	if keys := k.own[origin]; len(keys) > 0 {
		return keys, nil
	}
	if keys := k.ofShard(origin); len(keys) > 0 {
		return keys, nil
	}
	if k.root == nil {
		return nil, fmt.Errorf("no key is known for %q yet: it has no public_key, and no trusted root is there", origin)
	}
	if keys := k.root.Keys(origin); len(keys) > 0 {
		return keys, nil
	}
	return nil, fmt.Errorf("%s lists no key for %q: give its public_key, or check the origin", k.from, origin)
}

// isOwn says whether the keys of a log are in the configuration.
func (k *keyring) isOwn(origin string) bool {
	return len(k.own[origin]) > 0 || len(k.ofShard(origin)) > 0
}

// ofShard returns the keys that services have of their own, for the origin of a shard.
func (k *keyring) ofShard(origin string) (keys []trust.Key) {
	if shardOrigin.MatchString(origin) {
		for _, own := range k.services {
			keys = append(keys, own...)
		}
	}
	return keys
}

// shardOrigin is what the origin of a Rekor v1 shard looks like.
var shardOrigin = regexp.MustCompile(`^.+ - [0-9]+$`)

// missing reports whether the key of some origin can only come from a root that is
// not there.
func (k *keyring) missing(origins []string) bool {
	return k.root == nil && slices.ContainsFunc(origins, func(origin string) bool { return !k.isOwn(origin) })
}

// fetchTimeout bounds one try to fetch the trusted root.
const fetchTimeout = 2 * time.Minute

// fetch gets the public trusted root over TUF, or from its cache. It tries again
// until ctx ends, and tells failed of every failure.
func (k *keyring) fetch(ctx context.Context, cacheDir string, logger *slog.Logger, failed func(error)) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = time.Second, time.Minute
	root, err := backoff.Retry(ctx, func() (*trust.Root, error) {
		try, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		return k.fetchRoot(try, cacheDir)
	}, backoff.WithBackOff(wait), backoff.WithMaxElapsedTime(0), backoff.WithNotify(func(err error, next time.Duration) {
		logger.Warn("the trusted root cannot be fetched; it is tried again", "error", err, "next_try", next.Round(time.Second))
		failed(err)
	}))
	if err != nil {
		return err
	}
	k.setRoot(root, "the public trusted root")
	return nil
}

// fetchHeld finds the trusted root that the daemon got over TUF, without asking upstream. db is
// the database if it is open already.
func (k *keyring) fetchHeld(ctx context.Context, c *Config, db *storage.DB) error {
	if c.TUF == nil {
		if _, err := os.Stat(c.tufDir()); err != nil { // looking must not create it
			return noCachedRoot(c.tufDir())
		}
		return k.fetchCached(ctx, c.tufDir())
	}
	root, err := c.heldRoot(ctx, db)
	if err != nil {
		return err
	}
	k.setRoot(root, "the copy of the TUF repository")
	return nil
}

// heldRoot returns the trusted root out of the copy of the TUF repository: in a database that is
// open, from the daemon, or in the data of a stopped one.
func (c *Config) heldRoot(ctx context.Context, db *storage.DB) (root *trust.Root, err error) {
	cfg, err := c.repository(db)
	if err != nil {
		return nil, err
	}
	if db == nil {
		var daemonErr error
		if root, daemonErr = trust.FetchRootFrom(ctx, "http://"+c.Listen.HTTP+"/tuf", cfg.Root); daemonErr == nil {
			return root, nil
		}
		if cfg.DB, err = storage.Open(c.databaseDir(), indexed(storage.Options{ReadOnly: true})); err != nil {
			return nil, errors.Join(daemonErr, c.explainDatabase(err))
		}
		defer func() { err = errors.Join(err, cfg.DB.Close()) }()
	}
	repository, err := trust.NewRepository(cfg)
	if err != nil {
		return nil, err
	}
	return repository.CurrentRoot()
}

// repository is what the copy of the TUF repository is made from.
func (c *Config) repository(db *storage.DB) (trust.RepositoryConfig, error) {
	cfg := trust.RepositoryConfig{DB: db, URL: c.TUF.URL, Root: tuf.DefaultRoot(), Poll: time.Duration(c.TUF.Poll), Contact: c.Contact}
	if c.TUF.Root != "" {
		var err error
		if cfg.Root, err = os.ReadFile(c.TUF.Root); err != nil {
			return cfg, c.mistake(err.Error(), "tuf", "root")
		}
	}
	return cfg, nil
}

func noCachedRoot(cacheDir string) error {
	return fmt.Errorf("no valid trusted root is cached in %s: give a trusted root file, or let \"understudy serve\" fetch it", cacheDir)
}

// fetchCached is fetch without the network.
func (k *keyring) fetchCached(ctx context.Context, cacheDir string) error {
	offline, cancel := context.WithCancel(ctx)
	cancel() // every request fails at once, and the cache answers
	root, err := k.fetchRoot(offline, cacheDir)
	if err != nil {
		return noCachedRoot(cacheDir)
	}
	k.setRoot(root, "the cached trusted root")
	return nil
}
