package main

import (
	"slices"

	"github.com/understudy-log/understudy/mirror/trust"
)

// findKeys looks for the keys of a log, and tells its status when there are none.
func (d *daemon) findKeys(f *follower) { d.setKeys(f, d.keysOf(f)) }

// keysOf returns the keys of a log; without an error there are some.
func (d *daemon) keysOf(f *follower) (k foundKeys) {
	if f.service != nil {
		if k.keys, k.err = d.keys.serviceKeys(&f.config); k.err != nil || !d.trustMoves() || len(f.config.PublicKeys) > 0 {
			return k
		}
		withdrawn, had, err := d.confirm(f.config.URL, k.keys)
		if withdrawn != "" { // shards under keys that stay go on; no shard is taken under a key that came for another
			d.logger.Error("the trust material has withdrawn or changed a key of this service: its shards are not followed, and no key is taken in its place; ask the log's owners, and give the keys that are right as public_keys", "service", f.config.Name, "key", withdrawn)
			k.keys = slices.DeleteFunc(slices.Clone(k.keys), func(key trust.Key) bool { return !slices.Contains(had, spkiHash(key)) })
		}
		if k.err = err; err == nil && len(k.keys) == 0 {
			k.err = errWithdrawn(f.config.URL, withdrawn)
		}
		return k
	}
	if k.keys, k.err = d.keys.keys(f.config.Origin); k.err == nil && d.trustMoves() && !d.keys.isOwn(f.config.Origin) {
		var withdrawn string
		if withdrawn, _, k.err = d.confirm(f.config.Origin, k.keys); withdrawn != "" {
			k.err = errWithdrawn(f.config.Origin, withdrawn)
		}
	}
	return k
}

// foundKeys are the keys of a log, or why there are none.
type foundKeys struct {
	keys []trust.Key
	err  error
}

func (d *daemon) setKeys(f *follower, found foundKeys) {
	err := found.err
	if err == nil {
		f.keys = found.keys
		d.known.Store(f.config.Origin, f.keys)
		return
	}
	f.keys = nil
	d.known.Delete(f.config.Origin)
	f.unkeyed(err)
	if d.keys.root != nil {
		d.logger.Error("this log is not followed; what is held stays served", "log", f.config.Name, "error", err)
	}
}
