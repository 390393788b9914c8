package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/understudy-log/understudy/storage"
)

const (
	historyShare = 0.5                   // of upstream's budget of requests
	historyAhead = 3 * chunkBundles      // bundles asked for before they are needed
	historyBytes = 32 << 20              // of those bundles
	tailBehind   = 50 * time.Millisecond // between two looks at whether the tail has caught up
)

// history grows a window backwards, newest first, until it begins at Config.HistoryTo.
// Nothing that it is given is trusted: each piece is accepted only if it hashes to what is
// held. It prefers copies to upstream, and waits while the tail is being copied, so the tail
// never lags because of it. It returns an error only when the tree can no longer be read or
// written.
func (m *Mirror) history(ctx context.Context) error {
	g := &grower{m: m}
	defer g.use(nil)
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = 500*time.Millisecond, maxBackoff
	for ctx.Err() == nil {
		changed := m.tree.Changed()
		s := m.tree.State()
		switch {
		case s.Evidence != nil || s.Head.Size > 0 && s.Minimum <= m.cfg.HistoryTo:
			return nil
		case s.Head.Size == 0: // the window has yet to begin
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		case m.tailBusy.Load():
			pause(ctx, tailBehind)
			continue
		}
		err := g.piece(ctx, s)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, storage.ErrQuarantined) {
			return nil
		}
		if ends(err) {
			return err
		}
		m.noteHistory(err)
		if err != nil {
			pause(ctx, max(min(wait.NextBackOff(), maxBackoff), retryAfter(err)))
			continue
		}
		wait.Reset()
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// grower fetches pieces of history from one place at a time.
type grower struct {
	m     *Mirror
	place *place
	ahead *ahead
}

// use changes the place that is read.
func (g *grower) use(p *place) {
	if g.place == p {
		return
	}
	if g.ahead != nil {
		g.ahead.reset()
	}
	g.place, g.ahead = p, nil
	if p == nil {
		return
	}
	source := p.tiles
	if p.upstream {
		source = p.within(historyShare * g.m.cfg.RequestsPerSecond)
	}
	g.ahead = newAhead(source, newFlight(parallel, historyBytes))
}

// piece fetches the entries before the window, from the best place that has them, and
// commits them.
func (g *grower) piece(ctx context.Context, s *storage.State) error {
	var last error
	for _, p := range append(g.m.copies(), g.m.places[0]) {
		start := time.Now()
		g.use(p)
		err := g.prepend(ctx, s)
		var broken *storageError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			if !p.upstream {
				g.m.served(p)
			}
			g.m.grew(s.Minimum-g.m.tree.State().Minimum, time.Since(start))
			return nil
		case errors.As(err, &broken):
			return err
		}
		g.use(nil) // forgets what was fetched ahead from there
		if last = err; !p.upstream {
			g.m.setAside(p, err)
		}
	}
	return last
}

func (g *grower) prepend(ctx context.Context, s *storage.State) error {
	end := s.Minimum
	start := max(end-min(end, chunkBundles*bundleWidth), s.PrependLimit(), g.m.cfg.HistoryTo)
	blame := func(err error) error { return &SourceError{URL: g.place.url, Start: start, End: end, Err: err} }
	for i, at := 0, end; i < historyAhead && at > g.m.cfg.HistoryTo; i++ {
		at -= bundleWidth
		g.ahead.want(ctx, bundleID{at / bundleWidth, bundleWidth})
	}
	var entries [][]byte
	for at := start; at < end; at += bundleWidth {
		id := bundleID{at / bundleWidth, bundleWidth}
		g.ahead.want(ctx, id)
		bundle, err := g.ahead.take(ctx, id, nil)
		if err != nil {
			return blame(err)
		}
		entries = append(entries, bundle...)
	}
	var tiles [][]byte
	for _, id := range s.Lacks(start) {
		raw, err := g.ahead.source.tile(ctx, id.Level, id.Index, id.Width)
		if err != nil {
			return blame(err)
		}
		tiles = append(tiles, raw)
	}
	_, err := g.m.tree.Prepend(entries, tiles)
	switch {
	case errors.Is(err, storage.ErrInconsistent):
		return blame(err)
	case err != nil:
		return &storageError{err}
	}
	return nil
}
