package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive/store"
)

var wednesday = time.Date(2026, 9, 30, 12, 0, 0, 0, berlin)

func (w *world) manifest(number int) (m Manifest) {
	w.t.Helper()
	if err := json.Unmarshal(untar(w.t, filepath.Join(w.dir, w.archive.Packs()[number-1].Name))[manifestFile], &m); err != nil {
		w.t.Fatal(err)
	}
	return m
}

// TestMadeMeanwhile: a period that ended while a pack was made by hand has no pack of its own, which
// would end before it begins.
func TestMadeMeanwhile(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, wednesday, g)
	g.grow(t, 1, w.now)
	w.now = w.now.AddDate(0, 0, 7)
	due := w.archive.due(w.now)
	if _, err := w.archive.Make(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(2 * time.Second)
	if err := w.archive.make(t.Context(), due[0]); err != nil {
		t.Fatal(err)
	}
	if n := len(w.archive.Packs()); n != 1 {
		t.Errorf("%d packs: %q", n, w.manifest(n).Notes)
	}
}

// TestDeliveredTogether: what several destinations note of a pack at the same time is all kept.
func TestDeliveredTogether(t *testing.T) {
	w := newWorld(t, wednesday, newGrower(t, "tiles.test"))
	if err := w.next(); err != nil {
		t.Fatal(err)
	}
	var group sync.WaitGroup
	for i := range 32 {
		group.Go(func() {
			if err := w.archive.change(1, func(r *record) {
				stored := map[string]Delivery{fmt.Sprint(i): {}}
				for name, d := range r.Stored {
					stored[name] = d
				}
				r.Stored = stored
			}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := len(w.archive.Packs()[0].Stored); n != 32 {
		t.Errorf("%d of 32 are kept", n)
	}
}

// TestNotOverwritten: a pack that was put back while the daemon ran stays.
func TestNotOverwritten(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, wednesday, g)
	old := filepath.Join(w.dir, "understudy-evidence-000001-2026-10-04.tar")
	if err := os.WriteFile(old, []byte("of the destination"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := w.next(g); err == nil || !strings.Contains(err.Error(), "start again") || len(w.archive.Packs()) != 0 {
		t.Errorf("beside another pack 1: %v", err)
	}
	if err := os.Remove(old); err != nil {
		t.Fatal(err)
	}
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
}

// TestAhead: what was seen while the clock was ahead does not wait until that time has come.
func TestAhead(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, wednesday, g)
	g.grow(t, 1, w.now)
	for range 3 {
		g.grow(t, 1, w.now.AddDate(4, 0, 0))
	}
	if err := w.next(); err != nil {
		t.Fatal(err)
	}
	if rows := w.manifest(1).Logs[0].Rows; rows.Last != 4 {
		t.Errorf("rows: %+v", rows)
	}
	w.verify(w.dir)
}

// TestClockBackAtFirst: a clock that is set back a little before there is a pack makes none at once.
func TestClockBackAtFirst(t *testing.T) {
	w := newWorld(t, wednesday, newGrower(t, "tiles.test"))
	if due := w.archive.due(wednesday.Add(-time.Minute)); len(due) != 0 {
		t.Errorf("due: %v", due)
	}
	if err := w.next(); err != nil || len(w.archive.Packs()) != 1 {
		t.Errorf("%d packs, %v", len(w.archive.Packs()), err)
	}
}

// TestFirstPeriod: it begins when packs are made for the first time, or with what was seen before.
func TestFirstPeriod(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, wednesday, g)
	if err := w.next(g); err != nil {
		t.Fatal(err)
	}
	if from := w.manifest(1).Period.From; !from.Equal(wednesday) {
		t.Errorf("from %v", from)
	}
	old := newGrower(t, "tiles.test")
	w = newWorld(t, wednesday, old)
	old.grow(t, 1, wednesday.AddDate(-1, 0, 0))
	if err := w.next(old); err != nil {
		t.Fatal(err)
	}
	if from := w.manifest(1).Period.From; !from.Equal(wednesday.AddDate(-1, 0, 0)) {
		t.Errorf("from %v", from)
	}
	w.verify(w.dir)
}

// TestPoll: a log that is looked at once an hour is not unreachable in between.
func TestPoll(t *testing.T) {
	g := newGrower(t, "tiles.test")
	w := newWorld(t, wednesday, g)
	g.grow(t, 1, w.now)
	s := w.archive.cfg.Sources()[0]
	s.Poll = time.Hour
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{time.Hour + time.Minute, 0}, {4 * time.Hour, 1}} {
		if err := w.archive.look(s, w.now.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		if all, err := w.archive.outagesIn(w.now, w.now.AddDate(0, 0, 1)); err != nil || len(all) != c.want {
			t.Errorf("after %v: %v, %v", c.after, all, err)
		}
	}
}

// TestLostTree: a log whose tree is damaged holds up no pack of the others.
func TestLostTree(t *testing.T) {
	first, second := newGrower(t, "a.test"), newGrower(t, "b.test")
	w := newWorld(t, wednesday, first, second)
	if err := w.next(first, second); err != nil {
		t.Fatal(err)
	}
	w.logs = w.logs[1:]
	if err := w.next(second); err != nil {
		t.Fatal(err)
	}
	if m := w.manifest(2); len(m.Logs) != 2 || len(m.Notes) != 1 || !strings.Contains(m.Notes[0], `"a.test" is damaged`) {
		t.Errorf("%+v", m)
	}
	w.logs = []*grower{first, second}
	if err := w.next(first, second); err != nil {
		t.Fatal(err)
	}
	w.verify(w.dir)
}

// TestNotComplete: "there are no more" is said only if all of what is meant was looked through.
func TestNotComplete(t *testing.T) {
	full, witnessed := newGrower(t, "full.test"), newGrower(t, "witnessed.test")
	full.full = true
	w := newWorld(t, wednesday, full, witnessed)
	coverage := "witnessed"
	w.cfg = func(c *Config) {
		all := c.Sources
		c.Sources = func() []Source {
			sources := all()
			if len(sources) > 1 {
				sources[1].Coverage = coverage
			}
			return sources
		}
		leaf := storage.Hash{1}
		c.Wanted = []Want{
			{Wanted: Wanted{Digest: "no"}, Keys: []string{"no"}},
			{Wanted: Wanted{Digest: "no", Log: "full.test"}, Keys: []string{"no"}},
			{Wanted: Wanted{UUID: "no"}, Leaf: &leaf, TreeID: 77},
			{Wanted: Wanted{Index: "1-2", Log: "full.test"}, First: 1, End: 3},
			{Wanted: Wanted{Index: "1000000000-3000000000", Log: "full.test"}, First: 1e9, End: 3e9},
			{Wanted: Wanted{Index: "0-3000000000", Log: "full.test"}, First: 0, End: 3e9},
		}
	}
	w.openArchive()
	full.grow(t, 5, w.now)
	if err := w.next(witnessed); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range bytes.Lines(untar(t, filepath.Join(w.dir, w.archive.Packs()[0].Name))[entriesFile]) {
		var a Answer
		if err := json.Unmarshal(line, &a); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%d %t", len(a.Found), a.Complete))
	}
	if want := "[0 false 0 true 0 false 2 true 0 false 5 true]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	w.verify(w.dir)
}

// TestFailedByHand: that a pack could not be made by hand is no problem of one that is due.
func TestFailedByHand(t *testing.T) {
	w := newWorld(t, wednesday, newGrower(t, "tiles.test"))
	w.fail = func(string) error { return errors.New("no space left") }
	if _, err := w.archive.Make(t.Context()); err == nil {
		t.Fatal("made")
	}
	if p := w.archive.Status().Problem; p != nil {
		t.Errorf("problem: %+v", p)
	}
	if err := w.next(); err == nil || w.archive.Status().Problem == nil {
		t.Errorf("one that is due: %v", err)
	}
	w.fail = nil
	if err := w.make(); err != nil || w.archive.Status().Problem != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestNumberTwice: a destination that has a pack of another history under the number gets no second one.
func TestNumberTwice(t *testing.T) {
	w := newWorld(t, wednesday, newGrower(t, "tiles.test"))
	if err := w.next(); err != nil {
		t.Fatal(err)
	}
	r, _ := w.archive.record(1)
	folder := t.TempDir()
	d, err := store.NewDirectory(store.DirectoryConfig{Path: folder})
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(folder, "understudy-evidence-000001-2026-09-28.tar")
	if err := os.WriteFile(other, []byte("a pack"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := w.archive.deliverOne(t.Context(), d, r); !errors.Is(err, store.ErrDiffers) || !strings.Contains(err.Error(), "has number 1, too") {
		t.Errorf("stored beside it: %v", err)
	}
	if err := os.Remove(other); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.archive.deliverOne(t.Context(), d, r); err != nil {
			t.Error(err)
		}
	}
}
