package log

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/bubble"
)

// signs counts what a key signs, and fails as it is told.
type signs struct {
	note.Signer
	times atomic.Int64
	do    atomic.Pointer[func(msg []byte) ([]byte, error)] // nil: sign
}

func (s *signs) Sign(msg []byte) ([]byte, error) {
	s.times.Add(1)
	if do := s.do.Load(); do != nil {
		return (*do)(msg)
	}
	return s.Signer.Sign(msg)
}

func (s *signs) will(do func(msg []byte) ([]byte, error)) {
	if do == nil {
		s.do.Store(nil)
		return
	}
	s.do.Store(&do)
}

func counting(c *Config) *signs {
	s := &signs{Signer: c.Signers[0]}
	c.Signers = []note.Signer{s}
	return s
}

// restore puts a backup in the place of the database.
func (s *stage) restore(backup string) {
	s.t.Helper()
	s.close()
	if err := s.disk.RemoveAll("db"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := storage.Restore("db", backup, s.options()); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) backup(name string) {
	s.t.Helper()
	if err := s.db.Backup(name); err != nil {
		s.t.Fatal(err)
	}
}

// refused expects that the log does not open, and that nothing was signed.
func (s *stage) refused(create bool, key *signs, what any) {
	s.t.Helper()
	before := key.times.Load()
	err := s.openOnly(create)
	if !errors.As(err, what) {
		s.t.Errorf("opened: %v", err)
	}
	if after := key.times.Load(); after != before {
		s.t.Errorf("%d signatures were made", after-before)
	}
	s.close()
}

// TestRestoredBackup: a log whose database is older than what was published does not open.
func TestRestoredBackup(t *testing.T) {
	var key *signs
	s := newStage(t, func(c *Config) { key = counting(c) })
	s.open(true)
	s.backup("at 0")
	for i := range 5 {
		s.append(fmt.Sprint(i))
	}
	s.backup("at 5")
	s.append("5")
	var behind *BehindError
	s.restore("at 5")
	s.refused(false, key, &behind)
	if behind != nil && (behind.Held.Size != 5 || behind.Published.Size != 6 || !errors.Is(behind, ErrBehind)) {
		t.Errorf("behind: %v", behind)
	}
	s.restore("at 0")
	s.refused(false, key, &behind)
	if err := s.disk.RemoveAll("db"); err != nil {
		t.Fatal(err)
	}
	s.refused(true, key, &behind)

	// With the memory lost as well nobody knows; with witnesses it goes on, since they would, and if
	// those have not seen it either, to another history. When the memory is found again, that it is longer
	// does not help.
	s.restore("at 5")
	if err := s.disk.Rename("newest", "lost"); err != nil {
		t.Fatal(err)
	}
	before := key.times.Load()
	if err := s.openOnly(false); !errors.Is(err, ErrForgotten) || key.times.Load() != before {
		t.Errorf("forgotten: %v, and %d signatures", err, key.times.Load()-before)
	}
	s.close()
	s.config.Cosign = (&witness{t: t}).Cosign
	s.open(false)
	for i := range 5 {
		s.append(fmt.Sprint("other ", i))
	}
	s.close()
	s.config.Cosign = nil
	if err := errors.Join(s.disk.RemoveAll("newest"), s.disk.Rename("lost", "newest")); err != nil {
		t.Fatal(err)
	}
	s.refused(false, key, &behind)
	if behind != nil && behind.Held.Size != 10 {
		t.Errorf("behind: %v", behind)
	}
}

// TestResume: a log whose memory is lost goes on when its operator says how large it was, if it is.
func TestResume(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	for i := range 5 {
		s.append(fmt.Sprint(i))
	}
	resume := func(size uint64) (storage.Head, error) {
		if err := s.openOnly(false); s.db == nil || s.newest == nil {
			t.Fatal(err)
		}
		defer s.close()
		c := s.config
		c.DB, c.Newest = s.db, s.newest
		return Resume(c, size)
	}
	s.close()
	if _, err := resume(5); err == nil || !strings.Contains(err.Error(), "is remembered") {
		t.Errorf("resumed what is remembered: %v", err)
	}
	if err := s.disk.RemoveAll("newest"); err != nil {
		t.Fatal(err)
	}
	var behind *BehindError
	if _, err := resume(6); !errors.As(err, &behind) || behind.Held.Size != 5 || behind.Published.Size != 6 {
		t.Errorf("resumed a smaller one: %v", err)
	}
	good := s.config
	_, other := newKey(t)
	s.config.Verifiers = []note.Verifier{other}
	var key *KeyError
	if _, err := resume(5); !errors.As(err, &key) {
		t.Errorf("resumed that of another: %v", err)
	}
	s.config = good
	if err := s.openOnly(false); !errors.Is(err, ErrForgotten) {
		t.Errorf("opened: %v", err)
	}
	s.close()
	if head, err := resume(4); err != nil || head.Size != 5 {
		t.Errorf("resume: %v %v", head, err)
	}
	s.open(false)
	if r := s.append("more"); r.Index != 5 {
		t.Errorf("index %d", r.Index)
	}
	s.close()
}

// TestShownIsRemembered: what witnesses were shown has left, also if they were too few.
func TestShownIsRemembered(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		var key *signs
		w := &witness{t: t}
		s := newStage(t, func(c *Config) { key = counting(c); c.Cosign = w.Cosign })
		s.open(true)
		s.append("0")
		s.backup("at 1")
		w.will(refuse)
		if _, err := s.within(time.Second, "1"); !errors.Is(err, ErrUnwitnessed) {
			t.Errorf("without witnesses: %v", err)
		}
		s.restore("at 1")
		s.refused(false, key, new(*BehindError))
	})
}

// TestWitnessIsAhead: the memory is lost, too, and a witness knows a larger tree. From then on nothing
// is published or answered, what was published before is served, and a restart changes nothing.
func TestWitnessIsAhead(t *testing.T) {
	for _, without := range []bool{false, true} {
		bubble.Run(t, func(t *testing.T) {
			w := &witness{t: t}
			s := newStage(t, func(c *Config) { c.Cosign, c.WithoutQuorum = w.Cosign, without })
			s.open(true)
			s.append("0")
			eventually(t, "it is published", func() bool { return s.log.Published().Size == 1 })
			s.backup("at 1")
			s.append("1")
			s.append("2")
			s.restore("at 1")
			if err := s.disk.RemoveAll("newest"); err != nil {
				t.Fatal(err)
			}
			w.will(func(_ context.Context, c storage.Checkpoint) error {
				if c.Size < 3 {
					return fmt.Errorf("witness: %w: it has 3", ErrBehind)
				}
				t.Errorf("a witness is shown %d", c.Size)
				return nil
			})
			for range 2 {
				asked := w.times()
				s.open(false)
				for i := range 5 {
					if r, err := s.within(10*time.Second, fmt.Sprint("other ", i)); !errors.Is(err, ErrBehind) {
						t.Fatalf("answered %+v %v", r, err)
					}
				}
				eventually(t, "it has a problem", func() bool { return s.log.Problem() != nil })
				time.Sleep(20 * time.Second)
				if n := w.times() - asked; n != 1 {
					t.Errorf("witnesses were asked %d times", n)
				}
				if c := s.log.Published(); c.Size != 1 {
					t.Errorf("published: %d", c.Size)
				}
				if body, r, err := s.log.Find(0); err != nil || string(body) != "0" {
					t.Errorf("what was published: %q %v", body, err)
				} else {
					s.good("0", r)
				}
				if r, err := s.within(time.Second, "0"); !errors.Is(err, ErrBehind) {
					t.Errorf("a duplicate is answered: %+v %v", r, err)
				}
				for i := range 5 {
					if _, ok, err := s.log.FindLeaf(storage.LeafHash(fmt.Append(nil, "other ", i))); ok || err != nil {
						t.Errorf("entry %d is served: %v", i, err)
					}
				}
				s.sound()
				s.close()
			}
		})
	}
}

// TestKeys: keys that did not sign the log so far do not go on with it, and nothing is signed.
func TestKeys(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	s.append("0")
	s.close()
	good := s.config
	other, otherVerifier := newKey(t)
	var keyError *KeyError
	t.Run("wrong", func(t *testing.T) {
		s.config.Signers, s.config.Verifiers = []note.Signer{other}, []note.Verifier{otherVerifier}
		s.refused(false, counting(&s.config), &keyError)
	})
	t.Run("the first one joins later", func(t *testing.T) { // the log is what its first key says
		s.config = good
		key := counting(&s.config)
		s.config.Signers = append([]note.Signer{other}, s.config.Signers...)
		s.config.Verifiers = append([]note.Verifier{otherVerifier}, good.Verifiers...)
		s.refused(false, key, &keyError)
	})
	t.Run("another joins and leaves", func(t *testing.T) {
		s.config = good
		s.config.Signers = append(good.Signers[:1:1], other)
		s.config.Verifiers = append(good.Verifiers[:1:1], otherVerifier)
		s.open(false)
		s.append("both")
		if err := s.log.verify(s.log.Published().Raw); err != nil {
			t.Errorf("a line is missing: %v", err)
		}
		s.close()
		s.config = good
		s.open(false)
		s.append("one")
		s.close()
	})
	t.Run("lost", func(t *testing.T) {
		s.config = good
		for _, verifiers := range [][]note.Verifier{nil, good.Verifiers} {
			s.config.Signers, s.config.Verifiers = nil, verifiers
			if err := s.openOnly(false); err == nil || !strings.Contains(err.Error(), "0 keys to sign with") {
				t.Errorf("opened without a key: %v", err)
			}
			s.close()
		}
	})
	t.Run("one that is not the verifier's", func(t *testing.T) { // it would sign what nobody can verify
		s.config = good
		s.config.Signers = []note.Signer{other}
		s.open(false)
		before := s.log.Tree().State().Head.Size
		if _, err := s.within(time.Minute, "1"); !errors.Is(err, ErrSigning) {
			t.Errorf("append: %v", err)
		}
		if size := s.log.Tree().State().Head.Size; size != before {
			t.Errorf("%d entries, and there were %d", size, before)
		}
		s.sound()
		s.close()
	})
	s.config = good
	s.open(false)
	s.append("1")
	s.sound()
}

// TestCreate: what is there is not made again, unless nothing was ever signed for it.
func TestCreate(t *testing.T) {
	var key *signs
	s := newStage(t, func(c *Config) { key = counting(c) })
	if err := s.openOnly(false); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("opened what does not exist: %v", err)
	}
	s.close()
	key.will(func([]byte) ([]byte, error) { return nil, errors.New("the key is away") })
	if err := s.openOnly(true); !errors.Is(err, ErrSigning) {
		t.Errorf("made without a key: %v", err)
	}
	s.close()
	key.will(nil)
	s.open(true)
	s.append("0")
	s.close()
	before := key.times.Load()
	if err := s.openOnly(true); !errors.Is(err, storage.ErrExists) || key.times.Load() != before {
		t.Errorf("made again: %v", err)
	}
	s.close()
	if err := s.disk.RemoveAll("db"); err != nil { // what was published is remembered elsewhere
		t.Fatal(err)
	}
	if err := s.openOnly(true); !errors.Is(err, ErrBehind) || key.times.Load() != before {
		t.Errorf("made again: %v", err)
	}
	s.close()
}

// TestStopWhileWaiting: what waits in the pool when the log finds that it is behind is not logged.
func TestStopWhileWaiting(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s := newStage(t, func(c *Config) { c.BatchWait = time.Second })
		s.open(true)
		answered := make(chan error)
		go func() {
			_, err := s.log.Append(context.Background(), entryOf("waits"))
			answered <- err
		}()
		synctest.Wait()
		s.log.stop(errors.New("a witness has seen more"))
		if err := <-answered; !errors.Is(err, ErrBehind) {
			t.Errorf("answered: %v", err)
		}
		if size := s.log.Tree().State().Head.Size; size != 0 {
			t.Errorf("%d entries are logged", size)
		}
		s.close()
	})
}

// TestOpenRefuses: what the database says of the log is not believed where it contradicts itself, or
// somebody has proven that the log signed two histories.
func TestOpenRefuses(t *testing.T) {
	w := &witness{t: t}
	s := newStage(t, func(c *Config) { c.Cosign = w.Cosign })
	s.open(true)
	s.append("0")
	s.append("1")
	record := s.log.publishedRecord()
	signed := func(size uint64, root storage.Hash) []byte {
		t.Helper()
		c, err := s.log.sign(storage.Head{Size: size, Root: root})
		if err != nil {
			t.Fatal(err)
		}
		return c.Raw
	}
	first := s.log.Tree().View()
	root, err := first.Root(1)
	first.Close()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := note.Sign(&note.Note{Text: "log.test/other\n1\n" + base64.StdEncoding.EncodeToString(root[:]) + "\n"}, s.config.Signers...)
	if err != nil {
		t.Fatal(err)
	}
	good, err := s.db.Record(record)
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{
		"junk": []byte("junk"), "another tree": signed(1, storage.Hash{1}), "a larger tree": signed(9, storage.Hash{1}),
		"another log": foreign, "cut": good[:len(good)-100],
	} {
		if err := s.db.PutRecord(record, raw); err != nil {
			t.Fatal(err)
		}
		s.close()
		if err := s.openOnly(false); err == nil {
			t.Errorf("%s is what was published", name)
		}
	}
	if err := s.db.PutRecord(record, good); err != nil {
		t.Fatal(err)
	}
	s.close()
	s.open(false)
	if err := s.log.Tree().Quarantine(storage.Evidence{First: []byte("one"), Second: []byte("two"), At: time.Now(), Reason: "a test"}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.within(time.Minute, "2"); !errors.Is(err, storage.ErrQuarantined) {
		t.Errorf("append: %v", err)
	}
	s.close()
	if err := s.openOnly(false); !errors.Is(err, storage.ErrQuarantined) {
		t.Errorf("open: %v", err)
	}
}
