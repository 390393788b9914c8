package log

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
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

	// With the memory lost as well it goes on, to another history; when the memory is found again,
	// that it is longer does not help.
	s.restore("at 5")
	if err := s.disk.Rename("newest", "lost"); err != nil {
		t.Fatal(err)
	}
	s.open(false)
	for i := range 5 {
		s.append(fmt.Sprint("other ", i))
	}
	s.close()
	if err := errors.Join(s.disk.RemoveAll("newest"), s.disk.Rename("lost", "newest")); err != nil {
		t.Fatal(err)
	}
	s.refused(false, key, &behind)
	if behind != nil && behind.Held.Size != 10 {
		t.Errorf("behind: %v", behind)
	}
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
		t.Run(fmt.Sprint("without quorum ", without), func(t *testing.T) {
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
				time.Sleep(20 * time.Millisecond)
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
	t.Run("one more", func(t *testing.T) {
		s.config = good
		key := counting(&s.config)
		s.config.Signers = append(s.config.Signers, other)
		s.config.Verifiers = append(good.Verifiers[:1:1], otherVerifier)
		s.refused(false, key, &keyError)
	})
	t.Run("lost", func(t *testing.T) {
		s.config = good
		s.config.Signers = nil
		if err := s.openOnly(false); err == nil {
			t.Error("opened without a key")
		}
		s.close()
	})
	t.Run("one that is not the verifier's", func(t *testing.T) { // it would sign what nobody can verify
		s.config = good
		s.config.Signers = []note.Signer{other}
		s.open(false)
		if _, err := s.within(time.Minute, "1"); !errors.Is(err, ErrSigning) {
			t.Errorf("append: %v", err)
		}
		if size := s.log.Tree().State().Head.Size; size != 1 {
			t.Errorf("%d entries", size)
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
	if err := s.openOnly(true); !errors.Is(err, ErrBehind) {
		t.Errorf("made again: %v", err)
	}
	s.close()
	if err := s.disk.RemoveAll("newest"); err != nil {
		t.Fatal(err)
	}
	before := key.times.Load()
	if err := s.openOnly(true); !errors.Is(err, storage.ErrExists) || key.times.Load() != before {
		t.Errorf("made again: %v", err)
	}
	s.close()
}
