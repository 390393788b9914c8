package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// openReconciler opens what reconciles logs that are back.
func (k *desk) openReconciler() (err error) {
	o := k.d.config.Outage.Reconcile
	cfg := reconcile.Config{
		DB: k.d.db, Ledger: k.ledger, Now: k.clock.Now, Monitor: k.monitor, Drill: k.drillOf, Sign: k.key.sign,
		PerSecond: o.RequestsPerSecond, AtOnce: submittedAtOnce, RollbackPatience: time.Duration(o.Patience), Logger: k.d.logger, Metrics: reconcile.NewMetrics(k.d.registry),
	}
	for _, f := range k.d.followers() {
		if f.followed() {
			cfg.Upstreams = append(cfg.Upstreams, k.upstream(f))
		}
	}
	for _, l := range k.d.private {
		if l.log == nil {
			continue
		}
		private, err := k.reconciled(l)
		if err != nil {
			return err
		}
		cfg.Privates = append(cfg.Privates, private)
	}
	if k.verifier != nil {
		cfg.Again = k.again
		cfg.CloseExceptions = k.verifier.CloseAll
	}
	if len(cfg.Privates) > 0 {
		cfg.AppendReport = func(ctx context.Context, signed []byte) (reconcile.Place, error) {
			origin, index, uuid, err := k.appendReport(ctx, signed)
			return reconcile.Place{Origin: origin, Index: index, UUID: uuid}, err
		}
	}
	k.reconciler, err = reconcile.New(cfg)
	return err
}

// submittedAtOnce is how many entries are on their way to a public log: Rekor v2 answers only when a checkpoint
// covers an entry.
const submittedAtOnce = 64

// again verifies a decision again.
func (k *desk) again(ctx context.Context, row ledger.Row) (reconcile.Outcome, error) {
	o, err := k.verifier.Again(ctx, row)
	text := make([]string, len(o.Reasons))
	for i, r := range o.Reasons {
		text[i] = r.Code + ": " + r.Text
	}
	return reconcile.Outcome{Result: reconcile.Result(o.Result), Text: strings.Join(text, "; ")}, err
}

// upstream is a log as the reconciler knows it.
func (k *desk) upstream(f *follower) reconcile.Upstream {
	mirrorOf := func(origin string) *mirror.Mirror {
		for _, m := range f.mirrors() {
			if m.Origin() == origin {
				return m
			}
		}
		return nil
	}
	u := reconcile.Upstream{
		Name: f.config.Name,
		Heads: func() (heads []reconcile.Head) {
			for _, m := range f.mirrors() {
				if p := m.Tree().State().Pending; p.Raw != nil {
					heads = append(heads, reconcile.Head{Origin: m.Origin(), Size: p.Size, Root: p.Root, Checkpoint: p.Raw, LastSeen: p.LastSeen})
				}
			}
			return heads
		},
		Refresh: func(ctx context.Context) error {
			k.pollsMu.Lock()
			p := k.polls[f.config.Name]
			k.pollsMu.Unlock()
			if p == nil {
				return errors.New("the log is not followed")
			}
			return p.next(ctx, f.poll)
		},
		Prove: func(ctx context.Context, origin string, first, last uint64) ([]storage.Hash, error) {
			if f.service != nil { // of a shard that is pinned no tree is held, but proofs between its checkpoints are
				return proveShard(ctx, f.service, origin, first, last)
			}
			m := mirrorOf(origin)
			if m == nil {
				return nil, fmt.Errorf("no log with the origin %q", origin)
			}
			c, _, err := m.ConsistencyProof(first, last)
			return c.Hashes, err
		},
		Evidence: func() (all []reconcile.Evidence) {
			for _, m := range f.mirrors() {
				if ev := m.Tree().State().Evidence; ev != nil {
					all = append(all, reconcile.Evidence{Origin: m.Origin(), Reason: ev.Reason, First: ev.First, Second: ev.Second})
				}
			}
			return all
		},
		Differs: func(ctx context.Context, origin string) (uint64, string, bool) {
			m := mirrorOf(origin)
			if m == nil {
				return 0, "", false
			}
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			index, ours, theirs, err := m.Difference(ctx)
			if withheld, ok := errors.AsType[*mirror.WithheldError](err); ok {
				return withheld.Index, err.Error(), true
			}
			if err != nil {
				return 0, err.Error(), false
			}
			return index, fmt.Sprintf("entry %d had the leaf hash %v, and has %v now", index, storage.LeafHash(ours), storage.LeafHash(theirs)), true
		},
	}
	if f.service != nil {
		u.Recheck = f.service.Recheck
	}
	return u
}

// proveShard proves that the tree of one size of a shard precedes that of another.
func proveShard(ctx context.Context, s *mirror.Service, origin string, first, last uint64) ([]storage.Hash, error) {
	shards, err := s.Shards()
	if err != nil {
		return nil, err
	}
	for _, sh := range shards {
		if sh.Mirror.Origin() == origin {
			hashes, _, err := s.Consistency(ctx, reporter, sh.TreeID, first, last)
			return hashes, err
		}
	}
	return nil, fmt.Errorf("no shard with the origin %q", origin)
}

// reconciled is a generation of the private log as the reconciler knows it. Its entries belong to the first
// public log of the same generation.
func (k *desk) reconciled(l *privateLog) (reconcile.Private, error) {
	p := reconcile.Private{
		Name: l.name, Origin: l.origin,
		Size: func() uint64 { return l.log.Published().Size },
		Time: func(index uint64) (time.Time, error) {
			audit, err := l.log.Audit(index)
			return time.Unix(audit.Time, 0), err
		},
		Proposal: l.log.Proposal,
		Withheld: !*k.d.config.Outage.Reconcile.Submit,
		Logged:   func() uint64 { return l.log.Tree().State().Head.Size },
		Standby:  k.d.config.Private.Mode == modeFallback,
		Own: func(index uint64) bool {
			audit, err := l.log.Audit(index)
			return err == nil && audit.Identity == reporter
		},
	}
	if p.Withheld {
		return p, nil
	}
	followers := k.d.followers()
	i := slices.IndexFunc(followers, func(f *follower) bool {
		return f.config.writeURL() != "" && f.config.isService() == (l.name == "v1") && f.followed()
	})
	if i < 0 {
		return p, nil
	}
	f := followers[i]
	address := f.config.writeURL()
	c := reconcile.SubmitterConfig{URL: address, Client: k.client(f.config.Name+"/write", address), UserAgent: mirror.UserAgent(k.d.config.Contact)}
	var err error
	p.Upstream = f.config.Name
	if l.name == "v1" {
		c.Keys = f.service.Keys
		p.Submit, err = reconcile.NewSubmitterV1(c)
		return p, err
	}
	c.Keys = func() []trust.Key { return k.d.logKeys(f.config.Origin) }
	c.Find, c.Fetch = k.findIn(f), k.fetchFrom(f)
	p.Submit, err = reconcile.NewSubmitterV2(c)
	return p, err
}

// findIn finds an entry of a Rekor v2 log in its mirror.
func (k *desk) findIn(f *follower) func(ctx context.Context, leaf storage.Hash) (*protorekor.TransparencyLogEntry, error) {
	return func(_ context.Context, leaf storage.Hash) (*protorekor.TransparencyLogEntry, error) {
		entry, err := k.entryV2(f, mirror.Ref{LeafHash: &leaf})
		if refusal, ok := errors.AsType[*mirror.Refusal](err); ok && refusal.Kind != mirror.Damaged {
			return nil, nil
		}
		return entry, err
	}
}

// fetchFrom waits for an entry of a Rekor v2 log in its mirror.
func (k *desk) fetchFrom(f *follower) func(ctx context.Context, index uint64) (*protorekor.TransparencyLogEntry, error) {
	return func(ctx context.Context, index uint64) (*protorekor.TransparencyLogEntry, error) {
		for {
			entry, err := k.entryV2(f, mirror.Ref{Index: index})
			if err == nil {
				return entry, nil
			}
			f.poll()
			select {
			case <-ctx.Done():
				return nil, err
			case <-time.After(time.Second):
			}
		}
	}
}

// entryV2 is an entry that a mirror holds, with the proof to its newest checkpoint, as Rekor v2 gives it.
func (k *desk) entryV2(f *follower, ref mirror.Ref) (*protorekor.TransparencyLogEntry, error) {
	entry, _, err := f.mirror.Entry(ref)
	if err != nil {
		return nil, err
	}
	proof, head, _, err := f.mirror.InclusionProof(mirror.Ref{Index: entry.Index}, 0)
	if err != nil {
		return nil, err
	}
	keys := k.d.logKeys(f.config.Origin)
	if len(keys) == 0 {
		return nil, errors.New("the key of the log is not known")
	}
	logID := keys[0].LogID
	if len(logID) == 0 { // the key is in the configuration
		if _, logID, err = rekornote.KeyHash(f.config.Origin, keys[0].Public()); err != nil {
			return nil, err
		}
	}
	return rekor.TransparencyLogEntryV2(entry.Body, entry.Index, head.Size, head.Root, proof.Hashes, head.Checkpoint, logID)
}
