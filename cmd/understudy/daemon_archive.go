package main

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// packsDir is where evidence packs are made and stay.
func (c *Config) packsDir() string { return filepath.Join(c.DataDir, "packs") }

// openArchive opens the archive, if evidence packs are configured.
func (d *daemon) openArchive(ctx context.Context) error {
	a := d.config.Archive
	if a == nil {
		return nil
	}
	cfg := archive.Config{
		DB: d.db, Dir: d.config.packsDir(), Vantage: a.Vantage, Expression: a.Schedule, TimeZone: a.TimeZone,
		Sources: d.sources, SET: readSET(d), Keys: d.archiveKeys, Trust: d.trustFiles, Logger: d.logger, Metrics: archive.NewMetrics(d.registry),
	}
	var err error
	if cfg.Signer, cfg.VKey, err = d.config.archiveKey(); err != nil {
		return err
	}
	if d.witness != nil && slices.ContainsFunc(d.witness.VKeys(), func(vkey string) bool { return sameKey(vkey, cfg.VKey) }) {
		return d.config.mistake("the key of the archive is that of a cosigner: what they say differs, so each needs a key of its own", "archive", "key")
	}
	if cfg.Schedule, err = calendar.Parse(a.Schedule, a.TimeZone); err != nil {
		return d.config.mistake(err.Error(), "archive")
	}
	if cfg.Destinations, err = d.config.destinations(ctx); err != nil {
		return err
	}
	cfg.Retention = map[string]time.Duration{}
	for _, destination := range a.Destinations {
		cfg.Retention[destination.Name] = time.Duration(destination.Retention)
	}
	if a.TSA != nil {
		authority, verify, err := d.config.authority()
		if err != nil {
			return err
		}
		cfg.Stamp, cfg.Timestamp, cfg.Authority = authority.Stamp, verify, a.TSA.URL
	}
	for i := range a.Entries {
		w, err := a.Entries[i].want()
		if err != nil {
			return d.config.mistake(err.Error(), "archive", "entries", i)
		}
		cfg.Wanted = append(cfg.Wanted, w)
	}
	if d.witness != nil {
		cfg.Cosigners = d.witness.VKeys()
	}
	d.desk.archived(&cfg)
	if d.archive, err = archive.Open(ctx, cfg); err != nil {
		return fmt.Errorf("evidence packs: %w", err)
	}
	return nil
}

// sameKey says whether two verifier keys are one key, whatever their names and types.
func sameKey(a, b string) bool {
	key := func(vkey string) string {
		parts := strings.SplitN(vkey, "+", 3)
		raw, err := base64.StdEncoding.DecodeString(parts[len(parts)-1])
		if err != nil || len(raw) == 0 {
			return vkey
		}
		return string(raw[1:])
	}
	return key(a) == key(b)
}

// sources are all logs of which anything is archived: those that are followed, those that are
// witnessed, and those that were once.
func (d *daemon) sources() []archive.Source {
	sources, seen := []archive.Source(nil), map[string]bool{}
	for _, f := range d.followers() {
		for _, m := range f.mirrors() {
			seen[m.Origin()] = true
			s := archive.Source{Origin: m.Origin(), Name: m.Name(), Coverage: m.Status().Coverage, Tree: m.Tree(), Followed: true, Poll: time.Duration(f.config.Poll)}
			keys := d.witnessKeysOf(f, m)
			if f.service != nil {
				s.TreeID, s.Start = m.Shard()
			}
			s.Keys = keyTexts(keys)
			sources = append(sources, s)
		}
	}
	for _, p := range d.private {
		if p.log == nil {
			continue // below, as what was there once
		}
		seen[p.origin] = true
		s := archive.Source{Origin: p.origin, Name: "private log " + p.name, Coverage: "full", Tree: p.log.Tree(), Followed: true, Poll: p.config.Interval, Keys: keyTexts(p.keys)}
		if p.v1 != nil {
			s.TreeID = uint64(d.config.Private.V1.TreeID)
		}
		sources = append(sources, s)
	}
	for _, origin := range d.db.Origins() {
		tree, err := d.db.OpenTree(origin)
		if seen[origin] || err != nil { // a damaged one is reported where it is opened
			continue
		}
		s := archive.Source{Origin: origin, Name: origin, Coverage: "witnessed", Tree: tree}
		witnessed, ok := d.witnessOnly[origin]
		s.Keys, s.Gone = keyTexts(witnessed.keys), !ok && !d.config.privateOrigin(origin)
		sources = append(sources, s)
	}
	return sources
}

// archiveKeys returns what verifies what a log signed, with the keys that it has now; nil if none is
// known.
func (d *daemon) archiveKeys(origin string) *archive.LogKeys {
	keys := d.witnessOnly[origin].keys
	for _, f := range d.followers() {
		for _, m := range f.mirrors() {
			if m.Origin() == origin {
				keys = d.witnessKeysOf(f, m)
			}
		}
	}
	for _, p := range d.private {
		if p.origin == origin {
			keys = p.keys
		}
	}
	if len(keys) == 0 {
		return nil
	}
	all := &archiveKeys{}
	for _, k := range keys {
		all.logs = append(all.logs, archiveLogKey{Key: k, origin: origin, public: k.Public()})
	}
	return all.log(origin)
}

// keyTexts writes keys as others can read them.
func keyTexts(keys []trust.Key) (texts []string) {
	for _, k := range keys {
		texts = append(texts, k.Text())
	}
	return texts
}

// trustFiles returns what the keys of logs were taken from in a period.
func (d *daemon) trustFiles(_ context.Context, from, to time.Time) (files []archive.TrustFile, err error) {
	if d.config.TrustedRoot != "" {
		data, err := os.ReadFile(d.config.TrustedRoot)
		if err != nil {
			return nil, err
		}
		return []archive.TrustFile{{Kind: trust.RootTarget, Content: data, From: from}}, nil
	}
	if d.tuf == nil {
		if d.keys.root == nil {
			return nil, nil
		}
		data, err := d.keys.root.Material().MarshalJSON()
		return []archive.TrustFile{{Kind: trust.RootTarget, Content: data, From: from}}, err
	}
	for _, name := range d.tuf.Names() {
		kind := trust.RootTarget
		if trust.IsSigningConfig(name) {
			kind = "signing_config.json"
		} else if name != trust.RootTarget {
			continue
		}
		for _, v := range d.tuf.History(name) {
			if !v.Seen.Before(to) || !v.Until.IsZero() && !v.Until.After(from) {
				continue
			}
			_, content, err := d.tuf.AsOf(name, v.Seen)
			if err != nil {
				return nil, fmt.Errorf("%s of %s: %w", name, v.Seen.UTC().Format(time.RFC3339), err)
			}
			files = append(files, archive.TrustFile{Kind: kind, Content: content, From: v.Seen, To: v.Until})
		}
	}
	return files, nil
}

// readSET reads what a shard promised about an entry.
func readSET(d *daemon) func(string, []byte) (*archive.SET, error) {
	return func(origin string, receipt []byte) (*archive.SET, error) {
		for _, p := range d.private {
			if p.origin == origin && p.v1 != nil {
				return p.v1.SET(receipt)
			}
			if p.origin == origin {
				return nil, nil // Rekor v2 promises nothing
			}
		}
		for _, m := range d.mirrors() {
			if m.Origin() != origin {
				continue
			}
			time, logID, signature, err := m.Promise(receipt)
			if err != nil || signature == nil {
				return nil, err
			}
			return &archive.SET{IntegratedTime: time, LogID: logID, Signature: signature}, nil
		}
		return nil, errors.New("the log is not served")
	}
}

// tree returns the tree of an origin; nil if there is none.
func (d *daemon) tree(origin string) *storage.Tree {
	tree, err := d.db.OpenTree(origin)
	if err != nil {
		return nil
	}
	return tree
}
