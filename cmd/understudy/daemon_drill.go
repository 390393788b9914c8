package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/drill"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/storage"
)

// openDrills opens what rehearses outages.
func (k *desk) openDrills() (err error) {
	o := k.d.config.Outage.Drills
	cfg := drill.Config{
		DB: k.d.db, Ledger: k.ledger, Now: k.clock.Now, Faults: k.faults, Monitor: k.monitor,
		Control: k.control, Serve: k.serve, Reconciled: k.reconciledSince, OldCheckpoint: k.oldCheckpoint, GrowsWithin: k.growsWithin,
		OpenScratch: func() (*storage.DB, func(), error) {
			db, err := storage.CreateScratch(storage.Options{})
			if err != nil {
				return nil, nil, err
			}
			return db, func() { _ = db.Close() }, nil // it is in memory
		},
		MaxDuration: time.Duration(o.Max),
		Targets: drill.Targets{
			Detect: time.Duration(o.Targets.Detect), FallBack: time.Duration(o.Targets.FallBack),
			Recover: time.Duration(o.Targets.Recover), Reconcile: time.Duration(o.Targets.Reconcile),
		},
		Logger: k.d.logger, Metrics: drill.NewMetrics(k.d.registry),
	}
	for _, s := range o.Schedule {
		cfg.Schedule = append(cfg.Schedule, drill.Scheduled{Cron: s.Cron, Scenario: s.Scenario, Component: s.component(), For: time.Duration(s.For), Ticket: s.Ticket})
	}
	if len(k.d.private) > 0 {
		cfg.FallenBack = k.fallenBack
		cfg.AppendReport = func(ctx context.Context, report []byte) (drill.Place, error) {
			signed, err := k.key.sign(report)
			if err != nil {
				return drill.Place{}, err
			}
			origin, index, uuid, err := k.appendReport(ctx, signed)
			return drill.Place{Origin: origin, Index: index, UUID: uuid}, err
		}
	}
	if k.drills, err = drill.New(cfg); err != nil {
		return k.d.config.mistake(err.Error(), "outage", "drills")
	}
	return nil
}

// component is what a scheduled drill is aimed at: the log, if the scenario is for logs.
func (s *DrillConfig) component() string {
	for _, scenario := range drill.Scenarios() {
		if scenario.Name == s.Scenario && (slices.Contains(scenario.Paths, "read") || slices.Contains(scenario.Paths, "write")) {
			return s.Log
		}
	}
	return ""
}

// fallenBack says whether the private log stands in for the public ones in every way that is configured.
func (k *desk) fallenBack() bool {
	e := k.followed()
	return k.open.Load() && e.PrivateLog == "open" && (e.Signing == string(trust.SigningFallback) || e.Signing == "" || e.SigningProblem != "")
}

// control asks an upstream past the drill.
func (k *desk) control(ctx context.Context, component string) error {
	found, _ := k.watched.Load(component)
	c, _ := found.(outage.Component)
	if c.Probe == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, pastDrillsKey{}, true), time.Duration(k.d.config.Outage.Probe.Timeout))
	defer cancel()
	return c.Probe(ctx)
}

// reconciledSince says whether a reconciliation has ended after a time, and none is under way.
func (k *desk) reconciledSince(since time.Time) bool {
	s := k.reconciler.Status()
	for _, last := range s.Last {
		if last.After(since) && s.Running == nil && len(s.Paused) == 0 {
			return true
		}
	}
	return false
}

// logOf is the log of a component.
func (k *desk) mirrorsOf(component string) []*mirror.Mirror {
	if f := k.followerOf(component); f != nil {
		return f.mirrors()
	}
	return nil
}

// oldCheckpoint is a checkpoint of a component's log that is older than the newest, as the log signed it.
func (k *desk) oldCheckpoint(component string) (raw []byte, err error) {
	found := errors.New("found")
	for _, m := range slices.Backward(k.mirrorsOf(component)) {
		view := m.Tree().View()
		newest := view.State().Pending.Size
		err = view.Archive(1, 1<<62, func(row storage.ArchiveRow) error {
			if row.Checkpoint.Size > 0 && row.Checkpoint.Size < newest {
				raw = row.Checkpoint.Raw
				return found
			}
			return nil
		})
		view.Close()
		if err != nil && err != found {
			return nil, err
		}
		if raw != nil {
			return raw, nil
		}
	}
	return nil, errors.New("no older checkpoint is held yet: wait until the log has grown")
}

func (k *desk) growsWithin(component string) time.Duration {
	if f := k.followerOf(component); f != nil {
		return time.Duration(f.config.GrowsWithin)
	}
	return 0
}

// serve asks our own server, as a client does, for the proof of an entry that is held, of each log, and
// verifies it. A log of which no entry is held is asked for its checkpoint. It returns the age of the oldest.
func (k *desk) serve(ctx context.Context) (stale time.Duration, err error) {
	conn, err := grpc.NewClient(k.d.grpcAddress, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	asked := false
	for _, f := range k.d.followers() {
		if k.monitor.State(f.config.Name+"/read") == outage.Quarantined {
			continue
		}
		for _, m := range slices.Backward(f.mirrors()) {
			keys := k.d.keysOfMirror(f, m)
			if len(keys) == 0 || m.Tree().State().Pending.Raw == nil {
				continue
			}
			age, err := askProof(ctx, conn, m, keys)
			if err != nil {
				return stale, fmt.Errorf("%s: %w", m.Origin(), err)
			}
			asked, stale = true, max(stale, age)
			break // of a service the newest shard that is held
		}
	}
	if !asked {
		return 0, errors.New("nothing is held yet that could be proven")
	}
	return stale, nil
}

// keysOfMirror are the keys of a log, or of a shard.
func (d *daemon) keysOfMirror(f *follower, m *mirror.Mirror) []trust.Key {
	if f.service != nil {
		return f.service.Keys()
	}
	return d.logKeys(m.Origin())
}

func askProof(ctx context.Context, conn *grpc.ClientConn, m *mirror.Mirror, keys []trust.Key) (age time.Duration, err error) {
	c := client.New(conn, m.Origin(), func(raw []byte) (uint64, client.Hash, error) {
		checkpoint, err := trust.Open(raw, m.Origin(), keys)
		if err != nil {
			return 0, client.Hash{}, err
		}
		return checkpoint.Size, checkpoint.Root, nil
	})
	if index, ok := heldEntry(m); ok {
		proof, err := c.InclusionProof(ctx, client.Index(index), 0)
		return proof.Freshness.CheckpointAge, err
	}
	head, err := c.Checkpoint(ctx, 0)
	return head.Freshness.CheckpointAge, err
}

// heldEntry is the index of some entry that is held.
func heldEntry(m *mirror.Mirror) (index uint64, ok bool) {
	view := m.Tree().View()
	defer view.Close()
	if s := view.State(); s.Head.Size > s.Minimum {
		return s.Minimum + rand.Uint64N(s.Head.Size-s.Minimum), true
	}
	enough := errors.New("enough")
	_ = view.Pins(0, func(p storage.Pin, _ int) error {
		index, ok = p.Index, true
		return enough
	})
	return index, ok
}
