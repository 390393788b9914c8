package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/verdict"
	"github.com/understudy-log/understudy/storage"
)

// openVerifier opens what verifies for others, if that is configured.
func (k *desk) openVerifier() error {
	v := k.d.config.Verification
	if v == nil {
		return nil
	}
	own, err := k.ownMaterial()
	if err != nil {
		return err
	}
	cfg := verdict.Config{
		DB: k.d.db, Ledger: k.ledger, Now: k.clock.Now, MaxAudit: time.Duration(v.MaxAudit), Held: k.held,
		Material: func() root.TrustedMaterial { return k.material(own) },
		State:    k.deciding, Drill: k.anyDrill, Logger: k.d.logger, Metrics: verdict.NewMetrics(k.d.registry),
	}
	for i, p := range v.Policies {
		policy := verdict.Policy{Name: p.Name}
		for _, id := range p.Identities {
			policy.Identities = append(policy.Identities, verdict.Identity{SAN: id.Identity, SANRegexp: id.IdentityRegexp, Issuer: id.Issuer, IssuerRegexp: id.IssuerRegexp})
		}
		for j, file := range p.PublicKeys {
			pem, err := os.ReadFile(file)
			if err != nil {
				return k.d.config.mistake(err.Error(), "verification", "policies", i, "public_keys", j)
			}
			policy.PublicKeys = append(policy.PublicKeys, pem)
		}
		for _, accept := range p.Accept {
			if accept == acceptPrivate {
				policy.Accept = append(policy.Accept, verdict.Private)
			} else {
				policy.Accept = append(policy.Accept, verdict.PublicLive, verdict.Mirrored, verdict.OwnProof)
			}
		}
		cfg.Policies = append(cfg.Policies, policy)
	}
	for i, h := range v.HighRisk {
		if h.PublicKey == "" {
			cfg.HighRisk = append(cfg.HighRisk, verdict.Pattern{Identity: h.Identity, Issuer: h.Issuer})
			continue
		}
		pem, err := os.ReadFile(h.PublicKey)
		if err != nil {
			return k.d.config.mistake(err.Error(), "verification", "high_risk", i, "public_key")
		}
		cfg.HighRiskKeys = append(cfg.HighRiskKeys, pem)
	}
	if k.verifier, err = verdict.New(cfg); err != nil {
		return k.d.config.mistake(err.Error(), "verification")
	}
	return nil
}

// material is today's trust material, with that of the private log; nil as long as there is none, or the one
// that is configured was not read yet: what that would believe must not be denied meanwhile.
func (k *desk) material(own root.TrustedMaterialCollection) root.TrustedMaterial {
	r := k.d.keys.now.Load()
	switch {
	case r != nil:
		return append(root.TrustedMaterialCollection{r.Material()}, own...)
	case k.d.config.TUF != nil || len(own) == 0:
		return nil
	}
	return own
}

// deciding is the state that decisions are taken in: the worst one, and degraded as long as something was not heard
// of since the start. Until then nobody knows that it is live, and what is decided goes into the ledger.
func (k *desk) deciding() outage.State {
	worst := k.monitor.Worst()
	if worst != outage.Live || k.heard.Load() {
		return worst
	}
	for _, s := range k.monitor.Status() {
		if c, ok := k.watched.Load(s.Component); ok && c.(outage.Component).Probe != nil && s.LastGood.IsZero() {
			return outage.Degraded
		}
	}
	k.heard.Store(true)
	return worst
}

// ownMaterial is the trust material of the private log.
func (k *desk) ownMaterial() (root.TrustedMaterialCollection, error) {
	var logs []trust.OwnLog
	for _, l := range k.d.private {
		if l.log == nil || len(l.keys) == 0 {
			continue
		}
		version := uint32(1)
		if l.name == "v2" {
			version = 2
		}
		logs = append(logs, trust.OwnLog{
			URL: l.url, APIVersion: version, Origin: l.origin, Operator: k.d.config.Private.Operator, Public: l.keys[0].Public(), Start: sinceOf(l.log.Tree()),
		})
	}
	if len(logs) == 0 {
		return nil, nil
	}
	data, err := trust.OwnRoot(logs)
	if err != nil {
		return nil, fmt.Errorf("trust material of the private log: %w", err)
	}
	r, err := trust.ParseRoot(data)
	if err != nil {
		return nil, fmt.Errorf("trust material of the private log: %w", err)
	}
	return root.TrustedMaterialCollection{r.Material()}, nil
}

// held says what is known here of an entry that a bundle names: of a log that is mirrored, or of our own.
func (k *desk) held(_ context.Context, origin string, index uint64, leaf storage.Hash, size uint64, root storage.Hash) verdict.Held {
	for _, l := range k.d.private {
		if l.log != nil && meansOwn(origin, size, l.origin) {
			return heldByOwn(l.log.Tree(), index, leaf, size, root)
		}
	}
	for _, f := range k.d.followers() {
		if size == 0 && f.service != nil && f.host() == origin {
			shards, err := f.service.Shards()
			if err != nil {
				return verdict.Held{Text: err.Error()}
			}
			for _, sh := range slices.Backward(shards) {
				if index >= sh.Start {
					return k.heldBy(f, sh.Mirror, index-sh.Start, leaf, 0, root)
				}
			}
		}
		for _, m := range f.mirrors() {
			if size > 0 && m.Origin() == origin {
				return k.heldBy(f, m, index, leaf, size, root)
			}
		}
	}
	return verdict.Held{Text: fmt.Sprintf("no log with the origin %q is mirrored here", origin)}
}

// meansOwn reports whether a bundle means our own log: by the origin in its checkpoint, or, with a promise alone, by
// the host of Rekor v1, which may be the origin of a log of Rekor v2.
func meansOwn(origin string, size uint64, own string) bool {
	if size == 0 {
		return strings.HasPrefix(own, origin+" - ")
	}
	return own == origin
}

// host is that of the log's address.
func (f *follower) host() string {
	u, err := url.Parse(f.config.URL)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// heldByOwn is what our own log knows. It holds whatever it has signed: it signs nothing before it is durable.
func heldByOwn(tree *storage.Tree, index uint64, leaf storage.Hash, size uint64, root storage.Hash) verdict.Held {
	h := heldIn(tree, index, leaf, size, root)
	if held := tree.State().Head.Size; !h.Contradicted && (index >= held || size > held) {
		h = verdict.Held{Contradicted: true, Text: fmt.Sprintf("%s has %d entries, and never signed what is beyond: its key was used elsewhere, or its database was set back", tree.Origin(), held)}
	}
	h.Private = true
	return h
}

// heldBy is what a mirror knows.
func (k *desk) heldBy(f *follower, m *mirror.Mirror, index uint64, leaf storage.Hash, size uint64, root storage.Hash) verdict.Held {
	h := heldIn(m.Tree(), index, leaf, size, root)
	h.Freshness = m.Freshness()
	state := k.monitor.State(f.config.Name + "/read")
	h.Live = h.Freshness.Source == mirror.SourceLive && state == outage.Live
	h.Quarantined = h.Freshness.UpstreamState == mirror.UpstreamQuarantined || state == outage.Quarantined
	return h
}

// heldIn compares with a tree.
func heldIn(tree *storage.Tree, index uint64, leaf storage.Hash, size uint64, root storage.Hash) verdict.Held {
	view := tree.View()
	defer view.Close()
	compare := func(ours, theirs storage.Hash, what string) verdict.Held {
		if ours == theirs {
			return verdict.Held{Confirmed: true}
		}
		return verdict.Held{Contradicted: true, Text: fmt.Sprintf("%s is %v in what is held of %s, and %v in the bundle", what, ours, tree.Origin(), theirs)}
	}
	entry := verdict.Held{Text: fmt.Sprintf("entry %d of %s is not held here", index, tree.Origin())}
	if pin, ok, err := view.Pin(index); err == nil && ok {
		entry = compare(storage.LeafHash(pin.Entry), leaf, fmt.Sprintf("entry %d", index))
	} else if hash, err := view.LeafHash(index); err == nil && index < view.State().Head.Size {
		entry = compare(hash, leaf, fmt.Sprintf("entry %d", index))
	}
	if size == 0 || entry.Contradicted {
		return entry
	}
	// The bundle proves the entry to its root: if that is ours, the entry is ours. If it is another one, the log
	// has another history, though this entry is in both.
	if ours, err := view.Root(size); err == nil {
		return compare(ours, root, fmt.Sprintf("the root of size %d", size))
	}
	c, ok, err := view.Checkpoint(size)
	switch {
	case err == nil && ok:
		return compare(c.Root, root, fmt.Sprintf("the signed root of size %d", size))
	case err != nil && !entry.Confirmed && !errors.Is(err, storage.ErrNotHeld) && !errors.Is(err, storage.ErrBelowMinimum):
		return verdict.Held{Text: err.Error()}
	}
	return entry
}
