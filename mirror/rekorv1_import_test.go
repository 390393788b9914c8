package mirror_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// file returns what a file with an entry says of it: what a service answers now.
func file(t *testing.T, l *synthetic.RekorV1, shard int, index uint64) rekor.Import {
	t.Helper()
	client, stop := l.Client()
	defer stop()
	answer, err := client.Get(l.URL + "/api/v1/log/entries/" + l.Shard(shard).UUID(index))
	check(t, err)
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	check(t, err)
	imports, err := rekor.ParseBundle(content)
	check(t, err)
	if len(imports) != 1 {
		t.Fatalf("%d imports in %s", len(imports), content)
	}
	return imports[0]
}

// without returns an import that lacks the proof.
func without(imp rekor.Import) rekor.Import {
	e := *imp.Entry
	e.Proof = nil
	return rekor.Import{Entry: &e}
}

func (s *rekorStage) imports(imp rekor.Import, index uint64, before, linked bool) {
	s.t.Helper()
	done, err := s.service.Import(s.t.Context(), imp)
	check(s.t, err)
	if done.Index != index || done.Before != before || done.Linked != linked {
		s.t.Fatalf("imported %+v, want index %d, before %t, linked %t", done, index, before, linked)
	}
	s.get(byIndex(index), index)
}

func (s *rekorStage) unlinked(i int) (n int) {
	s.t.Helper()
	v := s.mirrorOf(i).Tree().View()
	defer v.Close()
	check(s.t, v.Pins(0, func(p storage.Pin, _ int) error {
		if p.Anchor == (storage.Head{}) {
			n++
		}
		return nil
	}))
	return n
}

// TestRekorImportOffline: an entry that comes with its proof makes its shard known, is served
// at once, and is tied to the archived checkpoint when there is one.
func TestRekorImportOffline(t *testing.T) {
	for name, order := range map[string][]uint64{"oldest first": {3, 36, 40, 57}, "newest first": {57, 40, 36, 3}, "one": {50}} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t)
				files := map[uint64]rekor.Import{}
				for _, i := range order {
					shard := 0
					if i >= 37 {
						shard = 1
					}
					files[i] = file(t, s.log, shard, i-s.log.Start(shard))
				}
				s.log.Refuse(true)
				s.start().run()
				s.settle(time.Second)
				for _, i := range order {
					s.refused(byIndex(i), mirror.Unavailable, mirror.ReasonNotPinned)
					s.imports(files[i], i, false, false)
					s.imports(files[i], i, true, false)
					s.get(byUUID(t, files[i].UUID.String()), i)
				}
				s.wantNoShards()
				s.refused(byIndex(4), mirror.Unavailable, mirror.ReasonNotPinned)
				s.refused(byIndex(51), mirror.Unavailable, mirror.ReasonNotPinned)
				s.reopen().run()
				s.settle(time.Second)
				for _, i := range order {
					s.get(byIndex(i), i)
				}
				s.wantNoShards()

				s.log.Active().Grow(7, synthetic.HashedRekordV1(2))
				s.back()
				s.wantShards()
				for i := range 2 {
					if n := s.unlinked(i); n != 0 {
						t.Errorf("%d pins of shard %d are not tied", n, i)
					}
				}
				for _, i := range order {
					s.imports(files[i], i, true, true)
				}
				s.get(byIndex(4), 4)
				s.get(byIndex(60), 60)
				for i := range 2 {
					for index, reasons := range func() map[uint64]storage.PinReasons { _, r := s.pins(i); return r }() {
						if imported := slices.Contains(order, s.log.Start(i)+index); imported != (reasons&storage.PinImported != 0) {
							t.Errorf("pin %d of shard %d has the reasons %b", index, i, reasons)
						}
					}
				}
				s.close()
			})
		})
	}
}

// forged returns imports that must be refused, each wrong in one thing.
func forged(t *testing.T, s *rekorStage) map[string]rekor.Import {
	honest := file(t, s.log, 1, 4)
	neighbour, foreign := file(t, s.log, 1, 5), file(t, s.log, 0, 4)
	change := func(f func(*rekor.Entry)) rekor.Import {
		e, p := *honest.Entry, *honest.Entry.Proof
		p.Hashes = slices.Clone(p.Hashes)
		e.Body, e.SET, e.Proof = bytes.Clone(e.Body), bytes.Clone(e.SET), &p
		f(&e)
		return rekor.Import{Entry: &e}
	}
	return map[string]rekor.Import{
		"body":             change(func(e *rekor.Entry) { e.Body[7] ^= 1 }),
		"no body":          change(func(e *rekor.Entry) { e.Body = nil }),
		"time":             change(func(e *rekor.Entry) { e.IntegratedTime++ }),
		"virtual index":    change(func(e *rekor.Entry) { e.LogIndex++ }),
		"both indexes":     change(func(e *rekor.Entry) { e.LogIndex++; e.Proof.Index++ }),
		"SET":              change(func(e *rekor.Entry) { e.SET[9] ^= 1 }),
		"SET of another":   change(func(e *rekor.Entry) { e.SET = neighbour.Entry.SET }),
		"log ID":           change(func(e *rekor.Entry) { e.LogID = s.log.Shard(0).LogID() }),
		"proof's index":    change(func(e *rekor.Entry) { e.Proof.Index-- }),
		"proof's hash":     change(func(e *rekor.Entry) { e.Proof.Hashes[2][5] ^= 1 }),
		"no hashes":        change(func(e *rekor.Entry) { e.Proof.Hashes = nil }),
		"proof of another": change(func(e *rekor.Entry) { e.Proof = neighbour.Entry.Proof }),
		"tree size":        change(func(e *rekor.Entry) { e.Proof.TreeSize++ }),
		"root":             change(func(e *rekor.Entry) { e.Proof.RootHash[0] ^= 1 }),
		"checkpoint":       change(func(e *rekor.Entry) { e.Proof.Checkpoint = foreign.Entry.Proof.Checkpoint }),
		"no checkpoint":    change(func(e *rekor.Entry) { e.Proof.Checkpoint = nil }),
		"checkpoint by another key": change(func(e *rekor.Entry) {
			sh := s.log.Shard(1)
			e.Proof.Checkpoint = synthetic.Note(sh.Origin(), sh.Size(), sh.Root(sh.Size()), nil, synthetic.RekorKey(rekorHost, 9))
		}),
		"checkpoint by the other shard's key": change(func(e *rekor.Entry) {
			sh := s.log.Shard(1)
			e.Proof.Checkpoint = synthetic.Note(sh.Origin(), sh.Size(), sh.Root(sh.Size()), nil, s.log.Shard(0).Key)
		}),
		"origin of another host": change(func(e *rekor.Entry) {
			sh := s.log.Shard(1)
			e.Proof.Checkpoint = synthetic.Note(fmt.Sprintf("other.example - %d", sh.TreeID), sh.Size(), sh.Root(sh.Size()), nil, sh.Key)
		}),
		"name": {UUID: neighbour.UUID, Entry: honest.Entry},
	}
}

// TestRekorImportForged: what does not verify is refused, whether the shard is known or not.
func TestRekorImportForged(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t)
		wrong := forged(t, s)
		honest := file(t, s.log, 1, 4)
		s.log.Refuse(true)
		s.start().run()
		s.settle(time.Second)
		for _, when := range []string{"empty", "known", "live"} {
			switch when {
			case "known":
				s.imports(honest, 41, false, false)
			case "live":
				s.back()
			}
			for name, imp := range wrong {
				if when == "empty" && name == "name" {
					continue // the shard becomes known by what is honest in it
				}
				if done, err := s.service.Import(t.Context(), imp); err == nil {
					t.Errorf("%s: a wrong %s is imported: %+v", when, name, done)
				}
			}
			if n := len(s.service.Mirrors()); when == "empty" && n != 0 {
				t.Fatalf("%d shards are known", n)
			}
		}
		if n, _ := s.pins(1); n != 1 {
			t.Errorf("%d pins", n)
		}
		s.wantShards()
		s.wantNoEvidence()
		s.close()
	})
}

// TestRekorImportWrongStart: one key signs two shards in which the same entry is logged. A file
// with the SET of the one and the proof of the other verifies, and says of the second that it
// begins where it does not.
func TestRekorImportWrongStart(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		l := synthetic.NewRekorV1(rekorHost)
		l.Active().Grow(37, synthetic.HashedRekordV1(1))
		l.RollOver(nil)
		l.Active().Grow(3, synthetic.HashedRekordV1(2))
		l.Add(l.Shard(0).Body(30))
		s := emptyRekorStage(t, l)
		mixed, other, good := file(t, l, 1, 3), file(t, l, 0, 30), file(t, l, 1, 1)
		mixed.UUID, mixed.Entry.SET, mixed.Entry.LogIndex, mixed.Entry.IntegratedTime = nil, other.Entry.SET, other.Entry.LogIndex, other.Entry.IntegratedTime
		s.log.Refuse(true)
		s.start().run()
		s.settle(time.Second)
		if _, err := s.service.Import(t.Context(), mixed); err != nil {
			t.Fatalf("import: %v", err)
		}
		if _, err := s.service.Import(t.Context(), good); err == nil {
			t.Error("an entry before the beginning of its shard is imported")
		}
		s.back()
		s.wantShards()
		if n, _ := s.pins(1); n != 0 {
			t.Errorf("%d pins with the SET of another shard are kept", n)
		}
		for i := range l.Size() {
			s.get(byIndex(i), i)
		}
		s.imports(good, 38, true, true)
		s.reopen()
		s.wantShards()
		s.get(byIndex(40), 40)
		s.close()
	})
}

// TestRekorImportFork: an imported entry with a proof to a tree that contradicts the archived
// checkpoint quarantines its shard, as soon as that can be proven.
func TestRekorImportFork(t *testing.T) {
	for name, c := range map[string]struct {
		grows   uint64 // of the fork
		offline bool
	}{
		"same size": {0, false}, "smaller later": {0, true}, "larger": {9, false}, "larger, offline": {9, true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble.Run(t, func(t *testing.T) {
				s := newRekorStage(t)
				fork := s.log.Fork(1, 10)
				fork.Active().Grow(c.grows, synthetic.HashedRekordV1(7))
				imp := file(t, fork, 1, 5) // an entry of both sides
				s.log.Refuse(c.offline)
				s.start().run()
				s.settle(rekorPoll)
				_, err := s.service.Import(t.Context(), imp)
				if direct := c.grows == 0 && !c.offline; direct && err == nil || !direct && err != nil {
					t.Errorf("import: %v", err)
				}
				s.log.Refuse(false)
				s.settle(2 * longestBackoff)
				if c.grows > 0 {
					s.wantNoEvidence() // nobody can prove it yet
				}
				s.log.Active().Grow(20, synthetic.HashedRekordV1(2))
				s.settle(2 * rekorPoll)
				s.wantEvidence(1)
				if s.mirrorOf(0).Tree().State().Evidence != nil {
					t.Error("the other shard is quarantined")
				}
				s.get(byIndex(5), 5)
				s.close()
			})
		})
	}
}

// TestRekorImportIncomplete: what a file lacks comes from upstream, and only from there.
func TestRekorImportIncomplete(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newRekorStage(t).start().run()
		imp, named := without(file(t, s.log, 1, 4)), rekor.Import{UUID: file(t, s.log, 0, 9).UUID}
		bare := without(file(t, s.log, 1, 6))
		bare.Entry.SET = nil
		short := rekor.Import{UUID: &rekor.UUID{LeafHash: file(t, s.log, 1, 7).UUID.LeafHash}}
		all := map[uint64]rekor.Import{41: imp, 9: named, 43: bare, 44: short}
		s.away()
		for _, imp := range all {
			_, err := s.service.Import(t.Context(), imp)
			wantRefusal(t, err, mirror.Unavailable, mirror.ReasonNotPinned)
		}
		s.back()
		for i, imp := range all {
			s.imports(imp, i, false, true)
		}
		s.away()
		for i, imp := range all {
			s.imports(imp, i, true, true)
		}
		s.back()
		// What was read becomes imported.
		s.get(byIndex(50), 50)
		s.imports(rekor.Import{UUID: file(t, s.log, 1, 13).UUID}, 50, true, true)
		if _, reasons := s.pins(1); reasons[13]&storage.PinImported == 0 {
			t.Errorf("reasons %b", reasons[13])
		}

		// The log says otherwise than the file.
		for name, change := range map[string]func(*rekor.Entry){
			"body":   func(e *rekor.Entry) { e.Body = []byte("another") },
			"time":   func(e *rekor.Entry) { e.IntegratedTime++ },
			"log ID": func(e *rekor.Entry) { e.LogID = s.log.Shard(0).LogID() },
			"index":  func(e *rekor.Entry) { e.LogIndex++ },
		} {
			for _, held := range []uint64{4, 10} {
				wrong := without(file(t, s.log, 1, held))
				change(wrong.Entry)
				var entry *mirror.EntryError
				if _, err := s.service.Import(t.Context(), wrong); !errors.As(err, &entry) {
					t.Errorf("a wrong %s: %v", name, err)
				}
			}
		}
		absent := *named.UUID
		absent.LeafHash[0] ^= 1
		_, err := s.service.Import(t.Context(), rekor.Import{UUID: &absent})
		wantRefusal(t, err, mirror.NotFound, mirror.ReasonNotFound)
		skipped := errors.New("of another kind")
		if _, err := s.service.Import(t.Context(), rekor.Import{Skipped: skipped}); err != skipped {
			t.Errorf("skipped: %v", err)
		}
		s.close()
	})
}
