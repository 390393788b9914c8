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

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// grower fetches pieces of history from one place at a time.
type grower struct {
	m     *Mirror
	place *place
	ahead *ahead
	next  *piece // gathered while the one before it was committed; nil if there is none
}

// use changes the place that is read.
func (g *grower) use(p *place) {
	if g.place == p {
		return
	}
	if g.ahead != nil {
		g.ahead.reset()
	}
	g.place, g.ahead, g.next = p, nil, nil
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

// prepend commits the entries before the window, and gathers those before them meanwhile.
func (g *grower) prepend(ctx context.Context, s *storage.State) (err error) {
	p := g.next
	g.next = nil
	if p == nil || p.end != s.Minimum {
		if p, err = g.gather(ctx, s.Minimum); err != nil {
			return err
		}
	}
	committed := make(chan error, 1)
	go func() { committed <- g.commit(ctx, s, p) }()
	var next *piece
	if p.start > g.m.cfg.HistoryTo {
		next, _ = g.gather(ctx, p.start) // what failed is tried again when it is needed
	}
	if err := <-committed; err != nil {
		return err
	}
	g.next = next
	return nil
}

// piece is the entries [start, end), whole bundles.
type piece struct {
	start, end uint64
	entries    [][]byte
	began      time.Time // when it was asked for
}

func (g *grower) blame(start, end uint64, err error) error {
	return &SourceError{URL: g.place.url, Start: start, End: end, Err: err}
}

// gather fetches the entries that end at an index, for one commit.
func (g *grower) gather(ctx context.Context, end uint64) (*piece, error) {
	limit := (&storage.State{Minimum: end}).PrependLimit()
	start := max(end-min(end, chunkBundles*bundleWidth), limit, g.m.cfg.HistoryTo)
	for i, at := 0, end; i < historyAhead && at > g.m.cfg.HistoryTo; i++ {
		at -= bundleWidth
		g.ahead.want(ctx, bundleID{at / bundleWidth, bundleWidth})
	}
	p := &piece{start: start, end: end, began: time.Now()}
	for at := start; at < end; at += bundleWidth {
		id := bundleID{at / bundleWidth, bundleWidth}
		g.ahead.want(ctx, id)
		bundle, err := g.ahead.take(ctx, id, nil)
		if err != nil {
			return nil, g.blame(start, end, err)
		}
		p.entries = append(p.entries, bundle...)
	}
	return p, nil
}

// commit adds a piece to the window.
func (g *grower) commit(ctx context.Context, s *storage.State, p *piece) error {
	var tiles [][]byte
	for _, id := range s.Lacks(p.start) {
		raw, err := g.ahead.source.tile(ctx, id.Level, id.Index, id.Width)
		if err != nil {
			return g.blame(p.start, p.end, err)
		}
		tiles = append(tiles, raw)
	}
	_, err := g.m.tree.Prepend(p.entries, tiles)
	switch {
	case errors.Is(err, storage.ErrInconsistent):
		return g.blame(p.start, p.end, err)
	case err != nil:
		return &storageError{err}
	}
	g.m.grew(p.end-p.start, time.Since(p.began))
	return nil
}
