package mirror_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// sickSize is the size of a mirror whose disk is damaged: its entries fill a table.
const sickSize = 4000

// gone answers nothing.
var gone = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusBadGateway)
})

// files returns the largest table files of a closed database by what Check names when one of
// them is damaged. (One at the top is compacted all the time, in vain.)
func (s *stage) files() map[string]string {
	s.t.Helper()
	names, err := s.disk.List("db")
	check(s.t, err)
	found, sizes := map[string]string{}, map[string]int64{}
	for _, name := range names {
		if !strings.HasSuffix(name, ".sst") {
			continue
		}
		info, err := s.disk.Stat("db/" + name)
		check(s.t, err)
		sick := vfs.NewMem()
		check(s.t, cloneFiles(s.disk, sick))
		flip(s.t, sick, "db/"+name)
		db, err := storage.Open("db", storage.Options{FS: sick, ReadOnly: true})
		if err != nil {
			continue
		}
		if tree, err := db.OpenTree(origin); err == nil {
			report, err := tree.Check(context.Background(), storage.CheckOptions{MaxProblems: 1})
			check(s.t, err)
			for _, p := range report.Problems {
				for _, kind := range []string{"entr", "tile", `table "L"`} {
					if strings.Contains(p.Place, kind) && info.Size() > sizes[kind] {
						found[kind], sizes[kind] = "db/"+name, info.Size()
					}
				}
				break
			}
		}
		check(s.t, db.Close())
	}
	return found
}

func cloneFiles(from, to *vfs.MemFS) error {
	names, err := from.List("db")
	if err != nil {
		return err
	}
	if err := to.MkdirAll("db/incoming", 0o755); err != nil {
		return err
	}
	for _, name := range names {
		if name == "incoming" || name == "LOCK" {
			continue
		}
		if err := vfs.CopyAcrossFS(from, "db/"+name, to, "db/"+name); err != nil {
			return err
		}
	}
	return nil
}

// flip damages a file.
func flip(t *testing.T, disk vfs.FS, name string) {
	t.Helper()
	f, err := disk.OpenReadWrite(name, vfs.WriteCategoryUnspecified)
	check(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, 150)
	check(t, err)
	_, err = f.WriteAt([]byte{b[0] ^ 1}, 150)
	check(t, err)
}

// sickStage is a mirror of sickSize entries, stopped, and one of its files damaged.
func sickStage(t *testing.T, kind string) (_ *stage, file string) {
	t.Helper()
	s := newStage(t, synthetic.Options{Entries: synthetic.HashedRekord(1)})
	s.log.Grow(sickSize)
	s.start().run()
	s.settle(2 * poll)
	s.wantHeld(sickSize)
	s.close()
	s.start() // what stood in the WAL is in tables now
	s.close()
	files := s.files()
	if files[kind] == "" {
		t.Fatalf("no file with %s among %v", kind, files)
	}
	flip(t, s.disk, files[kind])
	return s, files[kind]
}

// wantHealed wants nothing to be damaged any more.
func (s *stage) wantHealed() {
	s.t.Helper()
	st := s.mirror.Status()
	if st.DamagedPlaces != 0 || len(st.Damage) > 0 || st.ScrubbedAt == nil {
		s.t.Fatalf("still damaged: %+v", st)
	}
	for i := uint64(0); i < sickSize; i += 777 {
		s.prove(i, 0)
	}
	s.check()
}

// TestHeal: what a disk damaged is found and put back after a start, whatever it is of, also
// with upstream gone and a liar among the copies.
func TestHeal(t *testing.T) {
	for _, kind := range []string{"entr", "tile", `table "L"`} {
		t.Run(kind, func(t *testing.T) {
			if testing.Short() && kind != "entr" {
				t.Skip("slow with the race detector; make test runs it")
			}
			bubble.Run(t, func(t *testing.T) {
				s, _ := sickStage(t, kind)
				bad := s.copyOf("bad.example", 0)
				good := s.copyOf("good.example", sickSize)
				liar := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(9), Key: bad.Key})
				liar.Grow(sickSize)
				s.host("bad.example", liar)
				s.host("upstream.example", gone)
				s.start().run()
				defer s.close()
				s.settle(time.Minute)
				s.wantHealed()
				fetched := len(good.Requests(synthetic.Bundle))
				if kind == "entr" && fetched == 0 || kind != "entr" && fetched > 0 {
					t.Errorf("%d bundles were fetched", fetched)
				}
				if kind == "entr" {
					if i := slices.IndexFunc(s.mirror.Status().Sources, func(p mirror.Source) bool { return strings.Contains(p.URL, "bad") && p.Problem != nil }); i < 0 {
						t.Errorf("the liar is not set aside: %+v", s.mirror.Status().Sources)
					} else if text := s.mirror.Status().Sources[i].Problem.Text; !strings.Contains(text, "bad.example") || !strings.Contains(text, "entries ") {
						t.Errorf("the message names neither source nor range: %s", text)
					}
				}
			})
		})
	}
}

// TestHealBroken: the tiles that reach into a window from far before it are damaged. Nothing is
// answered, and the rest of the daemon goes on, until a place has them.
func TestHealBroken(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, synthetic.Options{}).and(window(70_144, mirror.NoHistory))
		s.log.Grow(70_300)
		s.start().run()
		s.settle(2 * poll)
		s.wantHeld(70_300)
		s.close()
		s.start() // what stood in the WAL is in tables now
		s.close()
		flip(t, s.disk, s.files()["tile"])
		s.host("upstream.example", gone)
		s.start().run()
		defer s.close()
		if s.mirror.Tree().Broken() == nil {
			t.Fatal("the border can be read: the test tests nothing")
		}
		s.settle(time.Minute)
		_, _, _, err := s.mirror.InclusionProof(mirror.Ref{Index: 70_200}, 0)
		wantRefusal(t, err, mirror.Damaged, mirror.ReasonDamaged)
		if st := s.mirror.Status(); st.DamagedPlaces == 0 || !strings.Contains(st.Damage[0], "upstream.example") {
			t.Errorf("status %+v", st)
		}
		s.host("upstream.example", nil)
		s.log.Grow(70_400)
		s.settle(11 * time.Minute)
		s.wantHeld(70_400)
		for i := uint64(70_144); i < 70_400; i += 7 {
			s.prove(i, 0)
		}
		s.check()
	})
}

// TestHealLater: while no place has what was lost, it is named, and unavailable; the rest is
// served, and grows. When upstream is back, it is put back without a restart.
func TestHealLater(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s, _ := sickStage(t, "entr")
		s.host("upstream.example", gone)
		s.start().run()
		defer s.close()
		s.settle(time.Minute)
		st := s.mirror.Status()
		if st.DamagedPlaces == 0 || !strings.Contains(strings.Join(st.Damage, "\n"), "cannot be put back: entries ") || !strings.Contains(st.Damage[0], "upstream.example") {
			t.Fatalf("what is damaged is not named: %+v", st)
		}
		lost, served := 0, 0
		for i := uint64(0); i < sickSize; i += 16 {
			_, _, err := s.mirror.Entry(mirror.Ref{Index: i})
			var refusal *mirror.Refusal
			switch {
			case err == nil:
				served++
				s.prove(i, 0)
			case errors.As(err, &refusal) && refusal.Kind == mirror.Damaged:
				lost++
			default:
				t.Fatal(err)
			}
		}
		if lost == 0 || served < 10*lost {
			t.Errorf("%d entries are lost, %d are served", lost, served)
		}
		s.host("upstream.example", nil)
		s.log.Grow(sickSize + 300)
		s.settle(11 * time.Minute) // the longest wait, and a scrub
		s.wantHeld(sickSize + 300)
		s.wantHealed()
	})
}

// TestHealWhatIsMet: damage that happens while the mirror runs is put back as soon as
// somebody asks for what it took.
func TestHealWhatIsMet(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s, file := sickStage(t, "entr")
		flip(t, s.disk, file) // good again
		s.start().run()
		defer s.close()
		s.settle(time.Minute)
		s.wantHealed()
		flip(t, s.disk, file)
		met := 0
		for i := uint64(0); i < sickSize; i += 16 {
			_, _, err := s.mirror.Entry(mirror.Ref{Index: i})
			if err != nil {
				met++
				wantRefusal(t, err, mirror.Damaged, mirror.ReasonDamaged)
				s.settle(time.Minute)
				if _, _, err := s.mirror.Entry(mirror.Ref{Index: i}); err != nil {
					t.Fatalf("a minute later entry %d is not put back: %v", i, err)
				}
			}
		}
		if met == 0 {
			t.Error("no damage was met: the test tests nothing")
		}
	})
}
