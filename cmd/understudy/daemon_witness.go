package main

import (
	"errors"
	"fmt"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness"
)

// openWitness makes the witness, if one is configured, with the logs that are only witnessed.
func (d *daemon) openWitness() error {
	w := d.config.Witness
	if w == nil {
		return nil
	}
	cfg := witness.Config{Newest: d.newest, Find: d.findWitnessed, Mirrored: d.witnessed, Logger: d.logger, Metrics: witness.NewMetrics(d.registry)}
	var err error
	if cfg.Keys, err = d.config.witnessKeys(w.Keys, "keys"); err != nil {
		return err
	}
	if cfg.MirrorKeys, err = d.config.witnessKeys(w.MirrorKeys, "mirror_keys"); err != nil {
		return err
	}
	if d.witness, err = witness.New(cfg); err != nil {
		return d.config.mistake(err.Error(), "witness")
	}
	logs, skipped, err := d.config.witnessLogs()
	if err != nil {
		return err
	}
	for _, err := range skipped {
		d.logger.Warn("a log of the list is not witnessed", "error", err)
	}
	for _, log := range logs {
		if _, mirrored := d.findWitnessed(log.Origin); mirrored { // a shard of a service, or a successor
			d.logger.Warn("this log is mirrored, and witnessed without more: it need not be listed", "origin", log.Origin)
			continue
		}
		tree, err := d.db.OpenTree(log.Origin)
		if errors.Is(err, storage.ErrNotExist) {
			tree, err = d.db.CreateTree(log.Origin)
		}
		if err != nil {
			d.logger.Error("this log is not witnessed: what is stored of it is damaged; run \"understudy check\" and restore a backup", "origin", log.Origin, "error", err)
		}
		d.witnessOnly[log.Origin] = witnessedLog{tree, log.keys}
	}
	return nil
}

// witnessedLog is a log that is only witnessed.
type witnessedLog struct {
	tree *storage.Tree // nil: it is damaged
	keys []trust.Key
}

// addWitnessed adds the logs that are only witnessed, after the archive has taken back what an older
// database lacks.
func (d *daemon) addWitnessed() error {
	for origin, log := range d.witnessOnly {
		if log.tree == nil {
			continue
		}
		if err := d.witness.Add(witness.Log{
			Origin: origin, Tree: log.tree, Frozen: trust.Frozen, Open: openChecked(origin, func() []trust.Key { return log.keys }),
		}); err != nil {
			return fmt.Errorf("witness %q: %w", origin, err)
		}
	}
	return nil
}

// openChecked verifies checkpoints with the keys that a log has at that moment.
func openChecked(origin string, keys func() []trust.Key) func([]byte) (storage.Checkpoint, error) {
	return func(raw []byte) (storage.Checkpoint, error) {
		known := keys()
		if len(known) == 0 {
			return storage.Checkpoint{}, fmt.Errorf("the key of %q is not known here yet; try again later", origin)
		}
		c, err := trust.OpenAlone(raw, origin, known)
		if err == nil {
			return storage.Checkpoint{Head: storage.Head{Size: c.Size, Root: c.Root}, Raw: c.Raw}, nil
		}
		if _, malformed := errors.AsType[*trust.MalformedError](err); malformed {
			return storage.Checkpoint{}, fmt.Errorf("%w: %w", witness.ErrMalformed, err)
		}
		if _, unsigned := errors.AsType[*trust.SignatureError](err); unsigned {
			return storage.Checkpoint{}, fmt.Errorf("%w: %w", witness.ErrUnsigned, err)
		}
		return storage.Checkpoint{}, err
	}
}

// witnessed are the mirrored logs, as the witness sees them.
func (d *daemon) witnessed() (logs []witness.Log) {
	for _, f := range d.followers() {
		for _, m := range f.mirrors() {
			logs = append(logs, d.witnessedLog(f, m))
		}
	}
	return logs
}

func (d *daemon) witnessedLog(f *follower, m *mirror.Mirror) witness.Log {
	return witness.Log{
		Origin: m.Origin(), Tree: m.Tree(), Frozen: trust.Frozen, Offer: m.Offer,
		Open:   openChecked(m.Origin(), func() []trust.Key { return d.witnessKeysOf(f, m) }),
		Behind: func() bool { _, behind := m.Behind(); return behind || m.Unread() },
		Full:   f.service == nil && f.config.Coverage == string(mirror.CoverageFull) || f.service != nil && m.Status().Coverage == string(mirror.CoverageFull),
	}
}

// witnessKeysOf returns the keys under which a mirror is followed now.
func (d *daemon) witnessKeysOf(f *follower, m *mirror.Mirror) []trust.Key {
	if f.service == nil {
		return d.logKeys(m.Origin())
	}
	return m.ShardKeys()
}

func (d *daemon) findWitnessed(origin string) (witness.Log, bool) {
	for _, f := range d.followers() {
		for _, m := range f.mirrors() {
			if m.Origin() == origin {
				return d.witnessedLog(f, m), true
			}
		}
	}
	return witness.Log{}, false
}
