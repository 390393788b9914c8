package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/drill"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
	"github.com/understudy-log/understudy/mirror/verdict"
)

// desk is where outages are dealt with: it knows the states of the upstreams, and does what follows from
// them. Its parts do not know each other; what one needs of another goes through here.
type desk struct {
	d          *daemon
	faults     *drill.Faults
	clock      *ledger.Clock
	ledger     *ledger.Ledger
	monitor    *outage.Monitor // nil until all logs are open
	verifier   *verdict.Verifier
	reconciler *reconcile.Reconciler
	drills     *drill.Runner
	access     *access.Control // nil: nobody is named
	key        *reportKey
	tufClient  *http.Client

	pollsMu sync.Mutex
	polls   map[string]*polls // by log; guarded by pollsMu

	watched sync.Map // components (outage.Component) by name

	heard   atomic.Bool // of every upstream, since the start
	open    atomic.Bool // the private log stands in for a public one
	effects struct {
		sync.Mutex
		rest.OutageEffects
	}
}

// beginOutage opens what the upstreams' clients need, and what remembers; nil without "outage".
func (d *daemon) beginOutage() (err error) {
	if d.config.Outage == nil {
		return nil
	}
	k := &desk{d: d, faults: drill.NewFaults(), polls: map[string]*polls{}}
	if k.clock, err = ledger.NewClock(d.db, nil); err != nil {
		return err
	}
	k.ledger, err = ledger.Open(d.db, k.clock.Now)
	if damage, ok := errors.AsType[*ledger.DamageError](err); ok {
		// What was recorded cannot be gone on with, and what is held can still be proven.
		d.deskLost = damage.Error()
		d.logger.Error("states of upstreams are not kept, nothing is verified for others, and no drill is held until the next start with a good ledger; all else goes on", "error", damage)
		return nil
	}
	if err != nil {
		return err
	}
	if d.config.TUF != nil {
		k.tufClient = k.client("tuf", d.config.tufURL())
	}
	d.desk = k
	return nil
}

// openOutage opens the rest, once the logs are open.
func (d *daemon) openOutage() (err error) {
	k := d.desk
	if k == nil {
		return nil
	}
	if k.key, err = openReportKey(d.config); err != nil {
		return d.config.mistake(err.Error(), "outage", "report_key")
	}
	if k.access, err = d.config.operators(d); err != nil {
		return err
	}
	o := d.config.Outage
	cfg := outage.Config{
		DB: d.db, Ledger: k.ledger, Now: k.clock.Now, Components: k.components(), Changed: k.changed, Drill: k.drillOf,
		Settings: outage.Settings{
			ProbeEvery: time.Duration(o.Probe.Every), ProbeTimeout: time.Duration(o.Probe.Timeout), SLO: o.SLO / 100, MaxForce: time.Duration(o.MaxForce),
		},
		Logger: d.logger, Metrics: outage.NewMetrics(d.registry),
	}
	if w := o.Webhook; w != nil {
		hook := &outage.Webhook{URL: w.URL}
		if w.SecretFile != "" {
			secret, err := os.ReadFile(w.SecretFile)
			if err != nil {
				return d.config.mistake(err.Error(), "outage", "webhook", "secret_file")
			}
			hook.Secret = bytes.TrimSpace(secret)
		}
		cfg.Webhook = hook
	}
	if k.monitor, err = outage.New(cfg); err != nil {
		return err
	}
	if err := k.openVerifier(); err != nil {
		return err
	}
	if err := k.openReconciler(); err != nil {
		return err
	}
	if err := k.openDrills(); err != nil {
		return err
	}
	k.follow()
	k.registerEffects()
	return nil
}

// registerEffects has metrics say what follows from the states.
func (k *desk) registerEffects() {
	flag := func(name, help string, is func(e rest.OutageEffects) bool) {
		k.d.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if is(k.followed()) {
				return 1
			}
			return 0
		}))
	}
	if len(k.d.private) > 0 {
		flag("understudy_private_log_open", "1 while the private log takes entries of clients.", func(e rest.OutageEffects) bool { return e.PrivateLog == "open" })
	}
	flag("understudy_trust_signing_fallback", "1 while the SigningConfig of our own TUF repository lists the private log alone.", func(e rest.OutageEffects) bool { return e.Signing == string(trust.SigningFallback) })
	flag("understudy_trust_signing_problem", "1 while the SigningConfig of our own TUF repository does not follow the states of the logs.", func(e rest.OutageEffects) bool { return e.SigningProblem != "" })
}

// followed is what follows from the states, as it was made last.
func (k *desk) followed() rest.OutageEffects {
	k.effects.Lock()
	defer k.effects.Unlock()
	return k.effects.OutageEffects
}

// operators are those who may operate and approve: identities of their own, and those of the private log.
func (c *Config) operators(d *daemon) (*access.Control, error) {
	identities := slices.Clone(c.Outage.Identities)
	if c.Private != nil {
		identities = append(identities, c.Private.Access.Identities...)
	}
	cfg := access.Config{Logger: d.logger, Registerer: prometheus.NewRegistry()} // the metrics are those of the private log's addresses
	for _, id := range identities {
		if id.TokenSHA256 == "" {
			continue // the admin listener asks for no certificates
		}
		sum, err := hex.DecodeString(id.TokenSHA256)
		if err != nil {
			return nil, err
		}
		identity := access.Identity{Name: id.Name, TokenSHA256: sum}
		for _, role := range id.Roles {
			identity.Roles = append(identity.Roles, access.Role(role))
		}
		cfg.Identities = append(cfg.Identities, identity)
	}
	if len(cfg.Identities) == 0 {
		return nil, nil
	}
	control, err := access.New(cfg)
	if err != nil {
		return nil, c.mistake(err.Error(), "outage", "identities")
	}
	return control, nil
}

// admin is the operator's part.
func (k *desk) admin() *rest.OutageConfig {
	if k == nil {
		return nil
	}
	return &rest.OutageConfig{
		Ledger: k.ledger, Monitor: k.monitor, Verifier: k.verifier, Reconciler: k.reconciler, Drills: k.drills, Access: k.access,
		Now: k.clock.Now, Effects: k.followed,
	}
}

// run keeps states, and does what follows from them, until ctx ends.
func (k *desk) run(ctx context.Context, group *errgroup.Group) {
	if k == nil {
		return
	}
	group.Go(func() error { return k.clock.Run(ctx) })
	group.Go(func() error { return k.monitor.Run(ctx) })
	group.Go(func() error { return k.reconciler.Run(ctx) })
	group.Go(func() error { return k.drills.Run(ctx) })
	if k.verifier != nil {
		group.Go(func() error { return k.verifier.Run(ctx) })
	}
	group.Go(func() error { k.act(ctx); return nil })
}

// verifies is what verifies for others; nil if nothing does.
func (k *desk) verifies() *verdict.Verifier {
	if k == nil {
		return nil
	}
	return k.verifier
}

// add watches a log that is new.
func (k *desk) add(f *follower) {
	if k == nil {
		return
	}
	if f.followed() {
		if err := k.reconciler.Add(k.upstream(f)); err != nil {
			k.d.logger.Error("a new log is not reconciled, so its states are not kept either", "log", f.config.Name, "error", err)
			return
		}
	}
	components := k.componentsOf(f)
	k.watch(components)
	for _, c := range components {
		if err := k.monitor.Add(c); err != nil {
			k.d.logger.Error("the state of a new log is not kept", "component", c.Name, "error", err)
		}
	}
}

// followerOf returns the log that a component belongs to; nil if it is none's.
func (k *desk) followerOf(component string) *follower {
	for _, f := range k.d.followers() {
		if component == f.config.Name+"/read" || component == f.config.Name+"/write" {
			return f
		}
	}
	return nil
}

// changed is told of every change of state, once it is durable.
func (k *desk) changed(c outage.Change) {
	if c.Component == "tuf" && c.To == outage.Recovering {
		k.d.tuf.Poll() // it is tried seldom when it has been away for long, and what is held may expire meanwhile
	}
	f := k.followerOf(c.Component)
	if f == nil || c.Component != f.config.Name+"/read" {
		return
	}
	switch c.To {
	case outage.Fallback:
		f.unreachable()
	case outage.Recovering:
		f.poll()
	}
}

// drillOf is the drill that has a component away; "" if none has.
func (k *desk) drillOf(component string) string {
	if k.drills == nil {
		return ""
	}
	return k.drills.Affects(component)
}

// anyDrill is the drill that is on; "" if none is.
func (k *desk) anyDrill() string {
	if a := k.drills.Active(); a != nil {
		return a.ID
	}
	return ""
}

// act does what follows from the states, again and again, until ctx ends.
func (k *desk) act(ctx context.Context) {
	for ctx.Err() == nil {
		changes := k.monitor.Changes()
		k.quarantine()
		again := 2 * time.Second
		if !k.follow() {
			again = 100 * time.Millisecond // another SigningConfig is being signed
		}
		select {
		case <-ctx.Done():
		case <-changes:
		case <-time.After(again):
		}
	}
}

// quarantine tells the monitor of logs that have signed two histories, also after somebody has released them.
func (k *desk) quarantine() {
	for _, f := range k.d.followers() {
		for _, m := range f.mirrors() {
			ev := m.Tree().State().Evidence
			if ev == nil || k.monitor.State(f.config.Name+"/read") == outage.Quarantined {
				continue
			}
			cause := outage.Cause{Code: outage.CodeFork, Text: m.Origin() + ": " + ev.Reason}
			if err := k.monitor.Quarantine(f.config.Name+"/read", cause); err != nil {
				k.d.logger.Error("a log that forked cannot be quarantined in the ledger", "log", f.config.Name, "error", err)
			}
		}
	}
}

// standsIn says whether the private log is to stand in for the public ones: one of them takes no entries, or is
// not to be trusted with new ones. It stays so until what happened meanwhile is reconciled.
func (k *desk) standsIn() bool {
	for _, s := range k.monitor.Status() {
		switch {
		case s.State == outage.Quarantined && k.takesEntries(s.Component),
			s.Kind == "write" && (s.State == outage.Fallback || s.State == outage.Recovering):
			return true
		}
	}
	return false
}

// takesEntries says whether a component belongs to a log that signers use.
func (k *desk) takesEntries(component string) bool {
	f := k.followerOf(component)
	return f != nil && f.config.writeURL() != ""
}

// follow makes the private log and the SigningConfig what the states ask for, and says whether they are, or
// cannot be.
func (k *desk) follow() (done bool) {
	done = true
	standsIn := k.standsIn()
	if k.open.Swap(standsIn) != standsIn {
		k.d.logger.Info("who signs is told another log", "private_log_stands_in", standsIn)
	}
	var e rest.OutageEffects
	waits := false
	if len(k.d.private) > 0 {
		e.PrivateLog = "open"
		if k.d.config.Private.Mode == modeFallback && !standsIn || !k.d.takesEntries() {
			e.PrivateLog = "closed"
		}
	}
	if k.d.own != nil && len(k.d.private) > 0 {
		want := trust.SigningPublic
		if standsIn && k.d.takesEntries() { // or signers would have no log at all
			want = trust.SigningFallback
		}
		if err := k.d.own.Switch(want); err != nil {
			e.SigningProblem = err.Error()
			why, ok := errors.AsType[*publish.SwitchError](err)
			waits = ok && why.Code == publish.CodeNotPublished // so begins every daemon; what goes on is told as "trust"
		}
		mode := k.d.own.Mode()
		e.Signing, e.SigningSince = string(mode.Served), mode.Since
		done = e.SigningProblem != "" || mode.Served == want
	}
	k.effects.Lock()
	before := k.effects.OutageEffects
	k.effects.OutageEffects = e
	k.effects.Unlock()
	if e.SigningProblem != "" && e.SigningProblem != before.SigningProblem {
		tell := k.d.logger.Error
		if waits {
			tell = k.d.logger.Info
		}
		tell("the SigningConfig of our own TUF repository does not follow the states of the logs", "error", e.SigningProblem)
	}
	return done
}

// endFallback has signers told of the public logs again if nobody here would do so any more: "outage" or the private log
// was taken out of the configuration while the SigningConfig listed that alone.
func (d *daemon) endFallback() error {
	if d.own == nil || d.desk != nil && len(d.private) > 0 || d.own.Mode().Wanted != trust.SigningFallback {
		return nil
	}
	d.logger.Warn("the SigningConfig of our own TUF repository lists the private log alone, and nothing in the configuration asks for that any more; it lists the public logs again")
	err := d.own.Switch(trust.SigningPublic)
	if _, later := errors.AsType[*publish.SwitchError](err); later {
		return nil // it is wanted, and served when it can be
	}
	return err
}

// takesEntries says whether a generation of the private log is there to take entries at all.
func (d *daemon) takesEntries() bool {
	return slices.ContainsFunc(d.private, func(l *privateLog) bool { return l.v1 != nil || l.v2 != nil })
}

// gate says whether the private log takes entries.
func (d *daemon) gate() func() bool {
	switch {
	case d.config.Private == nil || d.config.Private.Mode != modeFallback:
		return nil
	case d.desk == nil: // nobody knows whether it is needed
		return func() bool { return false }
	}
	return d.desk.open.Load
}

// modeNeedsOutage refuses a private log that would never open.
func (c *Config) modeNeedsOutage() error {
	if c.Private != nil && c.Private.Mode == modeFallback && c.Outage == nil {
		return c.mistake(fmt.Sprintf("a log in mode %s opens when a public log is away: it needs \"outage\", which may be {}", modeFallback), "log", "mode")
	}
	return nil
}
