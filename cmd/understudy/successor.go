package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// A Rekor v2 log is followed by the next one about once a year, which the trust material announces. So
// a log that takes its key from a copy of a TUF repository, which changes by itself, has successors:
// Rekor v2 logs of the same domain that begin later. They are followed as it is.

// hasSuccessors says whether a log that is configured has successors.
func (c *Config) hasSuccessors(log *LogConfig) bool {
	return c.TUF != nil && c.TrustedRoot == "" && !log.isService() && log.PublicKey == "" && (log.Successors == nil || *log.Successors)
}

// domain is what the hosts of the Rekor v2 logs of a service have in common: rekor.sigstore.dev of
// log2025-1.rekor.sigstore.dev. It is empty if the origin is no such host, or directly below a top-level
// domain, which strangers share.
func domain(origin string) string {
	_, domain, _ := strings.Cut(origin, ".")
	if strings.ContainsAny(origin, " /:") || !strings.Contains(domain, ".") {
		return ""
	}
	return domain
}

// successor returns what the configuration of a successor at an address is, and whose.
func (c *Config) successor(origin, address string) (log LogConfig, of *LogConfig) {
	for i := range c.Logs {
		if c.Logs[i].Origin == origin {
			return log, nil
		}
	}
	for i := range c.Logs {
		of := &c.Logs[i]
		if !c.hasSuccessors(of) || domain(origin) == "" || domain(of.Origin) != domain(origin) {
			continue
		}
		log = *of
		log.Name, log.Origin = of.Name+"/"+origin, origin
		if u, err := url.Parse(of.URL); err == nil {
			log.URL = strings.TrimRight(address, "/") + u.Path
		}
		if log.MinimumIndex != nil { // of another log
			log.MinimumIndex, log.Coverage, log.History = nil, "full", HistoryConfig{}
		}
		log.Sources = nil
		for _, source := range of.Sources { // of another understudy, which has it, too
			if before, ok := strings.CutSuffix(source.URL, mirror.OriginHash(of.Origin)); ok {
				log.Sources = append(log.Sources, SourceConfig{before + mirror.OriginHash(origin)})
			}
		}
		return log, of
	}
	return log, nil
}

// successorsRecord keeps the successors that were ever followed.
const successorsRecord = "successors"

// heldSuccessors are the successors that were ever followed: their addresses, by origin.
func heldSuccessors(db *storage.DB) (map[string]string, error) {
	held := map[string]string{}
	raw, err := db.Record(successorsRecord)
	if err != nil || raw == nil {
		return held, err
	}
	if err := json.Unmarshal(raw, &held); err != nil {
		return held, fmt.Errorf("read which successors of logs are followed: %w", err)
	}
	return held, nil
}

// logOf returns the configuration of a log that is stored: its own, or that of a successor; ok is
// false if nothing in the configuration follows it.
func (c *Config) logOf(origin string, db *storage.DB) (log LogConfig, ok bool, err error) {
	if i := slices.IndexFunc(c.Logs, func(l LogConfig) bool { return !l.isService() && l.Origin == origin }); i >= 0 {
		return c.Logs[i], true, nil
	}
	held, err := heldSuccessors(db)
	if err != nil {
		return log, false, err
	}
	if address, was := held[origin]; was {
		var of *LogConfig
		log, of = c.successor(origin, address)
		ok = of != nil
	}
	return log, ok, nil
}

// openSuccessors opens the logs that were followed as successors.
func (d *daemon) openSuccessors() error {
	held, err := heldSuccessors(d.db)
	if err != nil {
		d.logger.Error("successors of logs are found again in the trust material", "error", err)
	}
	for _, origin := range slices.Sorted(maps.Keys(held)) {
		if log, of := d.config.successor(origin, held[origin]); of != nil {
			f, err := d.newFollower(log)
			if err != nil {
				return err
			}
			d.logs = append(d.logs, f)
		}
	}
	return nil
}

// succeed opens the logs that the trusted root has announced, and returns them.
func (d *daemon) succeed(root *trust.Root) (added []*follower) {
	shards := root.Shards()
	held, err := heldSuccessors(d.db)
	if err != nil {
		held = map[string]string{}
	}
	for _, shard := range shards {
		log, of := d.config.successor(shard.Origin, shard.URL)
		if of == nil || slices.ContainsFunc(d.followers(), func(f *follower) bool { return f.config.Origin == shard.Origin }) {
			continue
		}
		if i := slices.IndexFunc(shards, func(s trust.Shard) bool { return s.Origin == of.Origin }); i >= 0 && shard.Start.Before(shards[i].Start) {
			continue // it came before
		}
		held[shard.Origin] = shard.URL
		raw, err := json.Marshal(held)
		if err == nil {
			err = d.db.PutRecord(successorsRecord, raw)
		}
		var f *follower
		if err == nil {
			f, err = d.newFollower(log)
		}
		if err != nil {
			d.logger.Error("a log that the trust material has announced cannot be followed", "origin", shard.Origin, "error", err)
			continue
		}
		d.logger.Info("the trust material has announced another log, which is followed from now on", "log", log.Name, "url", log.URL, "as", of.Name)
		d.add(f)
		added = append(added, f)
	}
	return added
}
