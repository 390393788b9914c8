package mirror

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/understudy-log/understudy/storage"
)

const (
	scrubBytes = 4 << 20         // of entries that are read again in a second
	scrubRest  = time.Hour       // between two scrubs
	scrubSoon  = time.Minute     // instead, after one that found damage
	mendPause  = time.Second     // before damage is tried again, growing to
	mendLater  = 5 * time.Minute // this
)

// scrub reads all that is stored again and again, slowly, and holds it together; what it
// finds becomes known to the tree, and mend puts it back. It returns an error only when the
// tree can no longer be read.
func (m *Mirror) scrub(ctx context.Context) error {
	budget := rate.NewLimiter(scrubBytes, scrubBytes)
	for ctx.Err() == nil {
		changed, start := m.tree.Changed(), time.Now()
		if m.tree.State().Head.Size == 0 && m.shard == nil {
			select {
			case <-ctx.Done():
			case <-changed:
			}
			continue
		}
		report, err := m.tree.Check(ctx, storage.CheckOptions{Pace: func(ctx context.Context, bytes int) error {
			return budget.WaitN(ctx, min(bytes, scrubBytes))
		}})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return &storageError{err}
		}
		m.scrubbed(report, time.Since(start))
		if len(report.Problems) > 0 {
			pause(ctx, scrubSoon)
		} else {
			pause(ctx, scrubRest)
		}
	}
	return nil
}

// scrubbed notes the end of a scrub.
func (m *Mirror) scrubbed(report storage.Report, elapsed time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	m.lastScrub = &now
	if len(report.Problems) == 0 {
		m.logger.Info("all that is stored was read and is good", "entries", report.Entries, "elapsed", elapsed.Round(time.Millisecond))
		return
	}
	for i, problem := range report.Problems {
		if i == 10 {
			m.logger.Error("and more is damaged", "problems", len(report.Problems)-i)
			break
		}
		m.logger.Error("stored data is damaged; it is put back if any source has it", "place", problem.Place, "problem", problem.Problem)
	}
}

// mend puts back what is known to be damaged, as soon as that is known, and tries again what
// could not be had. It returns an error only when the tree can no longer be written.
func (m *Mirror) mend(ctx context.Context) error {
	wait := backoff.NewExponentialBackOff()
	wait.InitialInterval, wait.MaxInterval = mendPause, mendLater
	said := ""
	for ctx.Err() == nil {
		more := m.tree.Damaged()
		var again <-chan time.Time
		if len(m.tree.Damage()) > 0 || m.tree.Broken() != nil {
			done, err := m.Repair(ctx)
			switch {
			case ctx.Err() != nil:
				return nil
			case err != nil:
				return &storageError{err}
			case done.Left == 0:
				wait.Reset()
				said = ""
			default:
				again = time.After(wait.NextBackOff())
				if why := stuck(m.tree); why != said {
					said = why
					m.logger.Error("damage cannot be put back; what it took is unavailable, the rest is served, and it is tried again", "damage", why, "places", done.Left)
				}
			}
			pause(ctx, mendPause) // damage that is met faster than it is mended
		}
		select {
		case <-ctx.Done():
		case <-more:
		case <-again:
		}
	}
	return nil
}

// stuck is the first thing that could not be put back.
func stuck(t *storage.Tree) string {
	if err := t.Broken(); err != nil {
		return err.Error()
	}
	for _, damage := range t.Damage() {
		if damage.Stuck != "" {
			return damage.Error()
		}
	}
	return ""
}

// Repair puts back once what is known to be damaged, from what is not and from the places
// that have the log. Done.Left says how much could not be had; the tree's Damage names it.
func (m *Mirror) Repair(ctx context.Context) (done storage.Repaired, err error) {
	start := time.Now()
	done, err = m.tree.Repair(ctx, m.elsewhere())
	if rows := done.Entries + done.Tiles + done.IndexRows; rows > 0 {
		m.cfg.Metrics.log(m.cfg.Name).repaired(rows)
		m.logger.Info("damage was put back: rows were verified and written anew", "entries", done.Entries, "tiles", done.Tiles, "index_rows", done.IndexRows,
			"fetched_bundles", done.FetchedBundles, "fetched_tiles", done.FetchedTiles, "left", done.Left, "elapsed", time.Since(start).Round(time.Millisecond))
	}
	return done, err
}

// elsewhere is where lost parts of the log can be had: the copies, and then upstream.
func (m *Mirror) elsewhere() storage.Elsewhere {
	if m.shard != nil {
		return m.shard.elsewhere()
	}
	return storage.Elsewhere{
		Tile: func(ctx context.Context, id storage.TileID, accept func([]byte) error) error {
			start := id.Index << (tileHeight * (id.Level + 1))
			return m.ask(ctx, start, start+uint64(id.Width)<<(tileHeight*id.Level), func(p *place) error {
				raw, err := p.tile(ctx, id.Level, id.Index, id.Width)
				if err != nil {
					return err
				}
				return accept(raw)
			})
		},
		Border: func(ctx context.Context, head storage.Head, accept func([][]byte) error) error {
			return m.ask(ctx, 0, head.Size, func(p *place) error {
				tree, err := newUpstreamTree(ctx, p.tiles, head)
				if err != nil {
					return err
				}
				var tiles [][]byte
				for level := 0; head.Size>>(tileHeight*level) > 0; level++ {
					tiles = append(tiles, tree.edge[level])
				}
				return accept(tiles)
			})
		},
		Bundle: func(ctx context.Context, index uint64, width int, accept func([][]byte) error) error {
			start := index * bundleWidth
			return m.ask(ctx, start, start+uint64(width), func(p *place) error {
				entries, err := p.entries(ctx, index, width, nil)
				if err != nil {
					return err
				}
				return accept(entries)
			})
		},
	}
}

// ask tries one place after another. The error is that of the last one, which is upstream.
func (m *Mirror) ask(ctx context.Context, start, end uint64, try func(*place) error) (last error) {
	for _, p := range append(m.copies(), m.places[0]) {
		err := try(p)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			if !p.upstream {
				m.served(p)
			}
			return nil
		}
		last = &SourceError{URL: p.url, Start: start, End: end, Err: err}
		if !p.upstream {
			m.setAside(p, last)
		}
	}
	return last
}

// ends says whether an error means that the tree can no longer be read or written. Damage
// does not: it is put back, or the rest goes on.
func ends(err error) bool {
	var broken *storageError
	return errors.As(err, &broken) && !errors.As(err, new(*storage.DamageError))
}
