package log

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/storage"
)

const testOrigin = "log.test/ours"

// stage is a log in memory that can be stopped, crashed and opened again.
type stage struct {
	t       testing.TB
	fs      *vfs.MemFS
	config  Config // but for DB and Newest
	db      *storage.DB
	newest  *storage.Newest
	log     *Log
	stop    func()
	skipNew bool // no memory of what was published
}

func newStage(t testing.TB, change func(*Config)) *stage {
	t.Helper()
	private, public, err := note.GenerateKey(rand.Reader, testOrigin)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		t.Fatal(err)
	}
	key, err := NewProposalKey(make([]byte, ProposalKeySize))
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, fs: vfs.NewCrashableMem()}
	s.config = Config{
		Origin: testOrigin, Signers: []note.Signer{signer}, Verifiers: []note.Verifier{verifier}, ProposalKey: key,
		Promise: func(index uint64, at int64, e *Entry) ([]byte, error) {
			return fmt.Appendf(nil, "%d at %d: %s", index, at, e.Body), nil
		},
		BatchWait: time.Millisecond,
	}
	if change != nil {
		change(&s.config)
	}
	t.Cleanup(s.close)
	return s
}

// open opens the database, and the log, which it makes first if create.
func (s *stage) open(create bool) {
	s.t.Helper()
	if err := s.tryOpen(create); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) tryOpen(create bool) (err error) {
	o := storage.Options{FS: s.fs}
	exists, err := storage.Exists("db", o)
	if err != nil {
		return err
	}
	openDB := storage.Create
	if exists {
		openDB = storage.Open
	}
	if s.db, err = openDB("db", o); err != nil {
		return err
	}
	if s.newest, err = storage.OpenNewest("newest", o); err != nil {
		return err
	}
	c := s.config
	c.DB, c.Newest = s.db, s.newest
	openLog := Open
	if create {
		openLog = Create
	}
	if s.log, err = openLog(c); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := s.log.Run(ctx); err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	s.stop = func() { cancel(); running.Wait() }
	return nil
}

// close stops the log cleanly.
func (s *stage) close() {
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	if s.db != nil {
		if err := errors.Join(s.newest.Close(), s.db.Close()); err != nil {
			s.t.Error(err)
		}
		s.db, s.log = nil, nil
	}
}

func (s *stage) append(body string) Receipt {
	s.t.Helper()
	r, err := s.log.Append(context.Background(), Entry{Body: []byte(body), Proposed: []byte("proposal of " + body), Identity: "tester"})
	if err != nil {
		s.t.Fatal(err)
	}
	s.good(body, r)
	return r
}

// good verifies all of a receipt.
func (s *stage) good(body string, r Receipt) {
	s.t.Helper()
	if err := s.check(body, r); err != nil {
		s.t.Error(err)
	}
}

func (s *stage) check(body string, r Receipt) error {
	n, err := note.Open(r.Checkpoint.Raw, note.VerifierList(s.config.Verifiers...))
	if err != nil {
		return err
	}
	if want := fmt.Sprintf("%s\n%d\n", testOrigin, r.Checkpoint.Size); len(n.Text) < len(want) || n.Text[:len(want)] != want {
		return fmt.Errorf("checkpoint %q of another tree than %d", n.Text, r.Checkpoint.Size)
	}
	root, err := rootFromInclusion(r.Index, r.Checkpoint.Size, storage.LeafHash([]byte(body)), r.Proof)
	if err != nil || root != r.Checkpoint.Root {
		return fmt.Errorf("entry %d: the proof gives %v (%v), want %v", r.Index, root, err, r.Checkpoint.Root)
	}
	if s.config.Promise != nil {
		var index uint64
		var at int64
		if _, err := fmt.Sscanf(string(r.Promise), "%d at %d:", &index, &at); err != nil || index != r.Index {
			return fmt.Errorf("entry %d has the promise %q", r.Index, r.Promise)
		}
	}
	return nil
}

// rootFromInclusion is RFC 9162, section 2.1.3.2, in the words of the RFC.
func rootFromInclusion(index, size uint64, hash storage.Hash, proof []storage.Hash) (storage.Hash, error) {
	if index >= size {
		return hash, errors.New("beyond the tree")
	}
	fn, sn := index, size-1
	for _, p := range proof {
		if sn == 0 {
			return hash, errors.New("too many hashes")
		}
		if fn&1 == 1 || fn == sn {
			hash = storage.NodeHash(p, hash)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			hash = storage.NodeHash(hash, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	if sn != 0 {
		return hash, errors.New("too few hashes")
	}
	return hash, nil
}

// TestAppend: entries get one index after the other, receipts verify, a duplicate gets the first
// receipt, and all of it is there after a clean stop.
func TestAppend(t *testing.T) {
	s := newStage(t, nil)
	s.open(true)
	if c := s.log.Published(); c.Raw == nil || c.Size != 0 {
		t.Errorf("an empty log publishes %d %q", c.Size, c.Raw)
	}
	first := map[string]Receipt{}
	for i := range 20 {
		body := fmt.Sprint("entry ", i)
		r := s.append(body)
		if r.Index != uint64(i) || r.Duplicate {
			t.Errorf("entry %d got %d, duplicate %v", i, r.Index, r.Duplicate)
		}
		first[body] = r
	}
	again := func() {
		t.Helper()
		for body, want := range first {
			r := s.append(body)
			if r.Index != want.Index || !r.Duplicate || string(r.Promise) != string(want.Promise) {
				t.Errorf("again: %+v, want %+v", r, want)
			}
			index, ok, err := s.log.FindLeaf(storage.LeafHash([]byte(body)))
			if index != want.Index || !ok || err != nil {
				t.Errorf("leaf: %d %v %v", index, ok, err)
			}
			found, r, err := s.log.Find(want.Index)
			if err != nil || string(found) != body {
				t.Errorf("find: %q %v", found, err)
			}
			s.good(body, r)
			proposal, err := s.log.Proposal(want.Index)
			if err != nil || string(proposal) != "proposal of "+body {
				t.Errorf("proposal: %q %v", proposal, err)
			}
			audit, err := s.log.Audit(want.Index)
			if err != nil || audit.Identity != "tester" || time.Since(time.Unix(audit.Time, 0)).Abs() > time.Minute {
				t.Errorf("audit: %+v %v", audit, err)
			}
		}
		report, err := s.log.Tree().Check(context.Background(), storage.CheckOptions{Verify: s.log.verify})
		if err != nil || len(report.Problems) > 0 || report.Entries != 20 {
			t.Errorf("check: %+v %v", report, err)
		}
	}
	again()
	if _, _, err := s.log.Find(20); !errors.Is(err, storage.ErrNotHeld) {
		t.Errorf("beyond the end: %v", err)
	}
	s.close()
	if err := s.tryOpen(true); !errors.Is(err, storage.ErrExists) && !errors.Is(err, ErrBehind) {
		t.Errorf("made again: %v", err)
	}
	s.close()
	s.open(false)
	again()
}
