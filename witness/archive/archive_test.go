package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive/store"
)

// TestCalendar lives through twelve weeks: a change of daylight saving time, a week in which
// nothing runs, a shard that ends and another that begins, a crash at every step of the making of a
// pack, a clock that is set back, and checkpoints that come late. What is left are packs that verify
// as one chain, with every checkpoint once.
func TestCalendar(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin) // a Wednesday
	first, second := newGrower(t, "rekor.test - 1"), newGrower(t, "tiles.test")
	second.full = true
	w := newWorld(t, start, first, second)
	end := start.AddDate(0, 0, 7*12)
	steps := []string{"write", "rename", "record"}
	crashes := 0
	for day := 0; w.now.Before(end); day++ {
		w.now = start.AddDate(0, 0, day)
		week := day / 7
		switch {
		case week == 4: // nothing runs
			continue
		case week == 6 && day%7 == 0: // the shard ends, and another begins
			next := newGrower(t, "rekor.test - 2")
			w.logs = append(w.logs, next)
			w.openLog(next)
		}
		for hour := range 4 {
			at := w.now.Add(time.Duration(hour) * time.Hour)
			for i, g := range w.logs {
				if g == first && week >= 6 {
					continue
				}
				g.grow(t, 1+(day+hour+i)%3, at)
			}
		}
		if day%5 == 4 && week < 6 {
			first.older(t, uint64(len(first.leaves)-1), w.now.Add(5*time.Hour))
		}
		if day%7 == 5 { // Mondays: a period has ended
			what := steps[week%3]
			w.fail = func(step string) error {
				if step == what && week >= 8 && week < 11 {
					return errors.New("a crash")
				}
				return nil
			}
			if err := w.make(); (err != nil) != (week >= 8 && week < 11) {
				t.Fatalf("week %d: %v", week, err)
			} else if err != nil {
				crashes++
				w.fail = nil
				w.crash()
			}
		}
		if err := w.make(); err != nil {
			t.Fatal(err)
		}
	}
	if crashes != 3 {
		t.Errorf("%d crashes", crashes)
	}
	packs := w.archive.Packs()
	if len(packs) != 12 {
		t.Fatalf("%d packs", len(packs))
	}
	for i, p := range packs {
		if p.Number != uint64(i+1) || p.To.In(berlin).Format("Mon 15:04") != "Mon 00:00" {
			t.Errorf("pack %d is number %d and ends at %v", i+1, p.Number, p.To.In(berlin))
		}
		if i > 0 && !p.From.Equal(packs[i-1].To) {
			t.Errorf("pack %d begins at %v, the one before ends at %v", p.Number, p.From, packs[i-1].To)
		}
	}
	if d := packs[4].To.Sub(packs[3].To); packs[3].To.In(berlin).Format(time.DateOnly) != "2026-10-26" || packs[3].To.Sub(packs[2].To) != 7*24*time.Hour+time.Hour || d != 7*24*time.Hour {
		t.Errorf("around the change of time the packs end at %v, %v, %v", packs[2].To, packs[3].To, packs[4].To)
	}
	w.verify(w.dir)
	left, err := filepath.Glob(filepath.Join(w.dir, temporary))
	if err != nil || len(left) > 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
	// All but what came since the last period is in them.
	last := w.archive.lastRecord()
	for _, g := range w.logs {
		rows, _ := g.tree.State().ArchiveRows()
		if in := last.Rows[g.origin]; in < rows-12 || in > rows {
			t.Errorf("%s: %d of %d rows are in packs", g.origin, in, rows)
		}
	}

	// The clock is set back by three weeks: packs go on at its next boundary.
	w.now = w.now.AddDate(0, 0, -21)
	for day := range 16 {
		second.grow(t, 1, w.now.AddDate(0, 0, day))
		w.now = w.now.AddDate(0, 0, 1)
		if day == 3 {
			w.crash()
		}
		if err := w.make(); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(w.archive.Packs()); n < 13 || n > 15 {
		t.Errorf("%d packs after the clock was set back", n)
	}
	w.verify(w.dir)
}

// TestRestoredArchive: after an older database is restored, the packs that were made since take
// back what it lost, and the archive goes on behind them.
func TestRestoredArchive(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	pinned, full := newGrower(t, "rekor.test - 1"), newGrower(t, "tiles.test")
	full.full = true
	w := newWorld(t, start, pinned, full)
	week := func() {
		for range 7 {
			w.now = w.now.AddDate(0, 0, 1)
			pinned.grow(t, 2, w.now)
			full.grow(t, 3, w.now)
		}
		if err := w.make(); err != nil {
			t.Fatal(err)
		}
	}
	week()
	backup := w.disk.CrashClone(vfs.CrashCloneCfg{})
	held := len(full.leaves)
	week()
	week()
	in := w.archive.lastRecord().Rows[pinned.origin]
	w.close()
	again := backup.CrashClone(vfs.CrashCloneCfg{})
	w.disk = backup
	w.open()
	if n := len(w.archive.Packs()); n != 3 {
		t.Fatalf("%d packs", n)
	}
	if now, _ := pinned.tree.State().ArchiveRows(); now != in {
		t.Errorf("the archive has %d rows, the packs %d", now, in)
	}
	// What the packs do not have is lost. The logs come back to what is remembered, and go on.
	for _, g := range w.logs {
		g.seen = g.seen[:w.archive.lastRecord().Rows[g.origin]]
		report, err := g.tree.Check(t.Context(), storage.CheckOptions{})
		if err != nil || len(report.Problems) > 0 {
			t.Errorf("%s: %v, %v", g.origin, report.Problems, err)
		}
	}
	if full.tree.State().Pending.Size != uint64(held) {
		t.Fatalf("the tree has %d entries, want %d", full.tree.State().Pending.Size, held)
	}
	week()
	week()
	if report := w.verify(w.dir); len(w.archive.Packs()) != 5 {
		t.Errorf("%d packs: %v", len(w.archive.Packs()), report.Findings)
	}

	// A pack that is missing in between, or was changed, is not passed over.
	w.close()
	name := filepath.Join(w.dir, w.archive.Packs()[1].Name)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for what, content := range map[string][]byte{"missing": nil, "changed": append(bytes.Clone(whole[:3000]), append([]byte{whole[3000] ^ 1}, whole[3001:]...)...), "cut": whole[:len(whole)-512]} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if content != nil {
			if err := os.WriteFile(name, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		db, err := storage.Open("db", storage.Options{FS: again.CrashClone(vfs.CrashCloneCfg{})})
		if err != nil {
			t.Fatal(err)
		}
		w.db = db
		for _, g := range w.logs {
			w.openLog(g)
		}
		if _, err := Open(t.Context(), w.config()); err == nil || !strings.Contains(err.Error(), "pack 3 is in") && !strings.Contains(err.Error(), "does not verify") {
			t.Errorf("with a pack %s: %v", what, err)
		}
		w.close()
		if content == nil {
			if err := os.WriteFile(name, whole, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// moody is a destination that fails, before it stores or after.
type moody struct {
	store.Destination
	before, after int // how often it fails so
	puts          int
}

func (s *moody) Put(ctx context.Context, p store.Pack) (store.Stored, error) {
	s.puts++
	if s.before--; s.before >= 0 {
		return store.Stored{}, errors.New("down")
	}
	stored, err := s.Destination.Put(ctx, p)
	if s.after--; s.after >= 0 && err == nil {
		return store.Stored{}, errors.New("cut off")
	}
	return stored, err
}

// TestDelivery: a pack is tried at each destination until it is there, whatever one of them does,
// and across restarts.
func TestDelivery(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	g := newGrower(t, "tiles.test")
	w := newWorld(t, start, g)
	good, err := store.NewDirectory(store.DirectoryConfig{Name: "good", Path: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	inner, err := store.NewDirectory(store.DirectoryConfig{Name: "moody", Path: folder})
	if err != nil {
		t.Fatal(err)
	}
	d := &moody{Destination: inner, before: 2, after: 2}
	w.cfg = func(c *Config) { c.Destinations = []store.Destination{good, d} }
	w.crash()
	for range 2 {
		g.grow(t, 3, w.now)
		w.now = w.now.AddDate(0, 0, 7)
		if err := w.make(); err != nil {
			t.Fatal(err)
		}
	}
	once := func(d store.Destination) {
		for _, p := range w.archive.Packs() {
			if _, ok := p.Stored[d.Name()]; ok {
				continue
			}
			r, _ := w.archive.record(p.Number)
			if err := w.archive.deliverOne(t.Context(), d, r); err != nil {
				w.archive.failedAt(d, r, err)
			}
		}
	}
	once(good)
	once(d)
	st := w.archive.Status()
	if st.Waiting["good"] != 0 || st.Waiting["moody"] != 2 {
		t.Errorf("waiting: %v", st.Waiting)
	}
	if f := w.archive.Packs()[0].Failures["moody"]; f.Tries != 1 || f.Text != "down" {
		t.Errorf("failure: %+v", f)
	}
	w.crash()
	once(d)
	w.crash()
	if st := w.archive.Status(); st.Waiting["moody"] != 2 {
		t.Errorf("waiting: %v", st.Waiting)
	}
	once(d)
	if st := w.archive.Status(); st.Waiting["moody"] != 0 || d.puts != 6 {
		t.Errorf("waiting: %v after %d tries", st.Waiting, d.puts)
	}
	w.crash()
	if st := w.archive.Status(); st.Waiting["moody"] != 0 {
		t.Errorf("after a restart waiting: %v", st.Waiting)
	}
	w.verify(folder)
	if err := w.archive.Hold(t.Context(), 1, true); err != nil {
		t.Fatal(err)
	}
	if !w.archive.Packs()[0].Stored["moody"].LegalHold {
		t.Error("the hold is not noted")
	}
	if err := w.archive.Hold(t.Context(), 9, true); !errors.Is(err, ErrNoPack) {
		t.Errorf("hold of what there is not: %v", err)
	}
}

// TestStamp: an authority that is down holds up no pack; what it gives is in the pack.
func TestStamp(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	w := newWorld(t, start, newGrower(t, "tiles.test"))
	tries := 0
	answer := func([32]byte) ([]byte, error) { return nil, errors.New("down") }
	w.cfg = func(c *Config) {
		c.Authority = "https://tsa.test"
		c.Stamp = func(_ context.Context, digest [32]byte) ([]byte, time.Time, error) {
			tries++
			token, err := answer(digest)
			return token, w.now, err
		}
		c.Timestamp = func(token []byte, digest [32]byte) (time.Time, string, error) {
			if string(token) != fmt.Sprintf("token of %x", digest) {
				return time.Time{}, "", errors.New("not of this")
			}
			return w.now, "a test", nil
		}
		c.testingOnlyWait = func() {}
	}
	w.crash()
	w.now = w.now.AddDate(0, 0, 7)
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	answer = func(digest [32]byte) ([]byte, error) { return fmt.Appendf(nil, "token of %x", digest), nil }
	w.now = w.now.AddDate(0, 0, 7)
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	packs := w.archive.Packs()
	if len(packs) != 2 || packs[0].Stamped || !packs[1].Stamped || tries != stampTries+1 {
		t.Errorf("%d packs after %d tries, stamped %t and %t", len(packs), tries, packs[0].Stamped, packs[1].Stamped)
	}
	if files := untar(t, filepath.Join(w.dir, packs[0].Name)); files[timestampFile] != nil || !bytes.Contains(files[noteFile], []byte("\nnone\n")) {
		t.Errorf("the first pack has a token, or does not say that it has none")
	}
	// A token that does not verify is never put into a pack.
	answer = func([32]byte) ([]byte, error) { return []byte("rubbish"), nil }
	w.now = w.now.AddDate(0, 0, 7)
	if err := w.make(); err == nil || len(w.archive.Packs()) != 2 {
		t.Errorf("with a token that is none: %v", err)
	}
}

// TestClock: a clock that jumps ahead is waited for.
func TestClock(t *testing.T) {
	w := newWorld(t, time.Now(), newGrower(t, "tiles.test"))
	base := time.Now()
	if due := w.archive.due(base); len(due) != 0 {
		t.Fatalf("due: %v", due)
	}
	// The wall clock says three weeks later, a moment after.
	jumped := base.Add(time.Second).Round(0).AddDate(0, 0, 21)
	ahead := base.Add(time.Second)
	if w.archive.jumpedAhead(ahead, jumped); !w.archive.jumped.Equal(ahead) {
		t.Error("the jump was not seen")
	}
	if due := w.archive.due(ahead); due != nil {
		t.Errorf("due at once: %v", due)
	}
}

// TestOutages: what is not seen is in the packs of every period that it touches.
func TestOutages(t *testing.T) {
	start := time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)
	g := newGrower(t, "tiles.test")
	w := newWorld(t, start, g)
	look := func() {
		t.Helper()
		for _, s := range w.archive.cfg.Sources() {
			if err := w.archive.look(s, w.now); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.archive.beat(w.now); err != nil {
			t.Fatal(err)
		}
	}
	look()
	g.grow(t, 1, w.now)
	look()
	w.now = w.now.Add(2 * time.Minute)
	look() // not long enough
	w.now = w.now.AddDate(0, 0, 7)
	look() // nothing was seen for a week
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	g.grow(t, 1, w.now)
	look()
	back := w.now
	w.now = w.now.AddDate(0, 0, 1) // the process ends for a day
	w.crash()
	g.grow(t, 1, w.now)
	look()
	w.now = w.now.AddDate(0, 0, 7)
	if err := g.tree.Quarantine(storage.Evidence{First: []byte(g.seen[0]), Second: []byte(g.seen[1]), Reason: "a test", At: w.now}); err != nil {
		t.Fatal(err)
	}
	look()
	var got []string
	all, err := w.archive.outagesIn(time.Time{}, w.now.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		text := o.What + " " + o.From.In(berlin).Format(time.DateOnly)
		if o.To != nil {
			text += " " + o.To.In(berlin).Format(time.DateOnly)
		}
		got = append(got, text)
	}
	want := []string{"unreachable 2026-09-30 2026-10-07", "stopped 2026-10-07 2026-10-08", "quarantined 2026-10-15"}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("outages: %q, want %q", got, want)
	}
	if in, err := w.archive.outagesIn(back.AddDate(0, 0, 2), w.now.AddDate(0, 0, -3)); err != nil || len(in) != 0 {
		t.Errorf("outages in between: %v, %v", in, err)
	}
}
