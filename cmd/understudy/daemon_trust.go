package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
)

// openTUF opens the copy of the TUF repository, if one is configured. The trusted root comes out
// of it then, unless a file has it.
func (d *daemon) openTUF() error {
	if d.config.TUF == nil {
		return nil
	}
	cfg, err := d.config.repository(d.db)
	if err != nil {
		return err
	}
	cfg.Logger, cfg.Metrics = d.logger, d.tufMetrics
	if k := d.desk; k != nil {
		cfg.HTTPClient = k.tufClient
		cfg.Now = func() time.Time { return time.Now().Add(k.faults.Clock("tuf")) }
		cfg.Polled = func(started time.Time, err error) { k.observe("tuf", started, err) }
	}
	if d.tuf, err = trust.NewRepository(cfg); err != nil {
		return err
	}
	d.keys.fetchRoot = func(ctx context.Context, _ string) (*trust.Root, error) { return d.tuf.TrustedRoot(ctx) }
	return nil
}

// openTrust opens the TUF repository of our own, if one is configured.
func (d *daemon) openTrust(ctx context.Context) (err error) {
	t := d.config.Trust
	if t == nil {
		return nil
	}
	p := passphrases{t.PassphraseFile}
	cfg := publish.Config{
		DB: d.db, Dir: t.Repository, Lifetime: time.Duration(t.TimestampLifetime), Logger: d.logger, Metrics: d.tufMetrics,
		Signers: func(ctx context.Context) (snapshot, timestamp signature.Signer, err error) {
			if snapshot, err = openSigner(ctx, t.SnapshotKey, p); err == nil {
				timestamp, err = openSigner(ctx, t.TimestampKey, p)
			}
			return snapshot, timestamp, err
		},
	}
	if t.SigningKey != "" {
		cfg.Signing = func(ctx context.Context) (signature.Signer, error) { return openSigner(ctx, t.SigningKey, p) }
	}
	if d.own, err = publish.New(ctx, cfg); err != nil {
		return d.config.mistake(err.Error(), "trust", "repository")
	}
	flag := func(name, help string, is func() bool) {
		d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if is() {
				return 1
			}
			return 0
		}))
	}
	flag("understudy_trust_problem", "1 while the newest of our own TUF repository cannot be served.", func() bool { return d.own.Status().Problem != nil })
	flag("understudy_trust_behind", "1 while the copy of Sigstore's TUF repository has another TrustedRoot than was signed into our own.", d.behind)
	return nil
}

// trustMoves says whether the trusted root comes out of a copy of a TUF repository, where it
// changes by itself.
func (d *daemon) trustMoves() bool { return d.tuf != nil && d.config.TrustedRoot == "" }

// confirm remembers the keys under which a log is followed, and says which of those that it was
// followed under is withdrawn, if one is: a key that the trust material withdraws or replaces ends
// the trust in that log until the operator has looked. Then it remembers no others.
func (d *daemon) confirm(origin string, keys []trust.Key) (withdrawn string, had []string, err error) {
	name := "keys of " + origin
	raw, err := d.db.Record(name)
	if err != nil {
		return "", nil, err
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &had); err != nil {
			return "", nil, fmt.Errorf("the keys under which %s was followed cannot be read: %w", origin, err)
		}
	}
	var has []string
	for _, key := range keys {
		has = append(has, spkiHash(key))
	}
	slices.Sort(has)
	has = slices.Compact(has)
	for _, id := range had {
		if !slices.Contains(has, id) {
			return id, had, nil
		}
	}
	if slices.Equal(had, has) {
		return "", had, nil
	}
	if raw, err = json.Marshal(has); err != nil {
		return "", had, err
	}
	return "", has, d.db.PutRecord(name, raw)
}

// spkiHash names a key.
func spkiHash(key trust.Key) string {
	sum := sha256.Sum256(key.SPKI())
	return hex.EncodeToString(sum[:])
}

func errWithdrawn(origin, key string) error {
	return fmt.Errorf("the trust material of the TUF repository has withdrawn or changed the key (SHA-256 %s) under which %s was followed: ask the log's owners, and give the key that is right as its public_key", key, origin)
}

// newTrust waits for another trusted root, and makes it the one that counts. It returns false
// when ctx has ended.
func (d *daemon) newTrust(ctx context.Context) bool {
	for {
		changed := d.tuf.Changed()
		if data := d.tuf.Target(trust.RootTarget); data != nil && d.keys.use(data) {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// behind says whether ours lacks something of the newest TrustedRoot in the copy of Sigstore's repository, or
// has what is withdrawn there.
func (d *daemon) behind() bool {
	if d.tuf == nil || d.own == nil {
		return false
	}
	newest := d.tuf.Target(trust.RootTarget)
	return newest != nil && !d.own.UpToDate(newest)
}
