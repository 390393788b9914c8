package drill

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// The log of a drill: how many entries it has, how many it is to have, and from which on those of
// its fork are others.
const (
	forkHeld   = 300
	forkGrown  = 340
	forkAt     = 270
	forkPoll   = time.Second
	forkSetup  = 30 * time.Second // to copy it
	forkDomain = "drill.invalid"  // SPEC: RFC 6761, section 6.4: no such name exists
)

// stage is a log of the drill and a real mirror of it, with a database and a key that nobody trusts.
// The mirror asks through the switchboard, and the fork is one of its faults.
type stage struct {
	component string // of the switchboard; also the origin
	faults    *Faults
	mirror    *mirror.Mirror
	key       trust.Key
	held      *drillLog // what the mirror has copied
	fork      *drillLog // what it is shown in its place
	client    *http.Client
	next      atomic.Uint64

	stop  context.CancelFunc
	done  sync.WaitGroup
	clean func()

	testingOnlyAnswer error // in the place of answers
}

// newStage makes the log and has it copied. It leaves nothing behind if it fails.
func (r *Runner) newStage(ctx context.Context, id string) (_ *stage, err error) {
	s := &stage{component: forkDomain + "/" + id, faults: r.cfg.Faults, stop: func() {}, clean: func() {}}
	ready := false
	defer func() {
		if !ready {
			s.close()
		}
	}()
	private, public, err := note.GenerateKey(rand.Reader, s.component)
	if err != nil {
		return nil, fmt.Errorf("make a key of the drill: %w", err)
	}
	if s.key, err = trust.ParseKey([]byte(public)); err != nil {
		return nil, err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return nil, fmt.Errorf("make a key of the drill: %w", err)
	}
	entries := func(size, forked int) (all [][]byte) {
		for i := range size {
			which := ""
			if i >= forked {
				which = " of the fork"
			}
			all = append(all, fmt.Appendf(nil, "entry %d%s of %s", i, which, s.component))
		}
		return all
	}
	if s.held, err = newDrillLog(s.component, signer, entries(forkHeld, forkHeld)); err != nil {
		return nil, err
	}
	if s.fork, err = newDrillLog(s.component, signer, entries(forkGrown, forkAt)); err != nil {
		return nil, err
	}
	db, clean, err := r.cfg.OpenScratch()
	if err != nil {
		return nil, err
	}
	s.clean = clean
	tree, err := db.CreateTree(s.component)
	if err != nil {
		return nil, err
	}
	s.client = &http.Client{Transport: r.cfg.Faults.Transport(func(*http.Request) string { return s.component }, s.held)}
	s.mirror, err = mirror.New(mirror.Config{
		Name: "drill", Origin: s.component, URL: "http://" + forkDomain, Tree: tree, Poll: forkPoll, RequestsPerSecond: 1000, HTTPClient: s.client,
	})
	if err != nil {
		return nil, err
	}
	following, stop := context.WithCancel(context.WithoutCancel(ctx)) // close ends it, after the last proof
	s.stop = stop
	s.done.Go(func() { _ = s.mirror.Run(following, []trust.Key{s.key}) }) // what went wrong shows in the copy
	deadline := time.Now().Add(forkSetup)
	for s.mirror.Tree().State().Mirrored.Size != forkHeld {
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("the log of the drill was not copied within %s", forkSetup)
		}
		select {
		case <-ctx.Done():
			return nil, ErrStopped
		case <-time.After(lookEvery):
		}
	}
	if r.testingOnlyStage != nil {
		r.testingOnlyStage(s)
	}
	ready = true
	return s, nil
}

// close ends the mirror and throws its database away.
func (s *stage) close() {
	s.stop()
	s.done.Wait()
	s.clean()
}

// forked is the fault.
func (s *stage) forked(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	return s.fork.RoundTrip(r)
}

// serve asks the mirror for a proof of something that it held before, and verifies it.
func (s *stage) serve() error {
	if s.testingOnlyAnswer != nil {
		return s.testingOnlyAnswer
	}
	index := s.next.Add(7) % forkHeld
	p, head, _, err := s.mirror.InclusionProof(mirror.Ref{Index: index}, 0)
	if err != nil {
		return err
	}
	c, err := trust.Open(head.Checkpoint, s.component, []trust.Key{s.key})
	if err != nil {
		return err
	}
	if !bytes.Equal(c.Raw, s.held.checkpoint) {
		return fmt.Errorf("the mirror of the drill's log answers with another checkpoint than before: %q", c.Raw)
	}
	leaf := storage.LeafHash(s.held.entries[index])
	hashes := make([][]byte, len(p.Hashes))
	for i := range p.Hashes {
		hashes[i] = p.Hashes[i][:]
	}
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, c.Size, leaf[:], hashes, c.Root[:])
}

// shown is the checkpoint that the mirror would be given now.
func (s *stage) shown() ([]byte, error) {
	resp, err := s.client.Get("http://" + forkDomain + "/checkpoint")
	if err != nil {
		return nil, err
	}
	_, raw, err := whole(resp, nil)
	return raw, err
}

// forkSeen is what was seen of a fork.
type forkSeen struct {
	noticed  *time.Duration
	evidence bool  // both notes are held, as they were signed
	kept     bool  // the head is the one from before
	reverted bool  // the honest log is shown again
	err      error // of asking for that
}

// look notes how the mirror is, some time after the faults began.
func (f *forkSeen) look(s *stage, at time.Duration, ended bool) {
	state := s.mirror.Tree().State()
	if state.Evidence != nil { // which is for good
		if f.noticed == nil && !ended {
			f.noticed = &at
		}
		f.evidence = bytes.Equal(state.Evidence.First, s.held.checkpoint) && bytes.Equal(state.Evidence.Second, s.fork.checkpoint)
	}
	f.kept = state.Head.Size == forkHeld && bytes.Equal(state.Pending.Raw, s.held.checkpoint)
	if ended && !f.reverted {
		var raw []byte
		raw, f.err = s.shown()
		f.reverted = f.err == nil && bytes.Equal(raw, s.held.checkpoint)
	}
}

func (f *forkSeen) score(e *expectations) (missed []string) {
	miss := func(format string, args ...any) { missed = append(missed, fmt.Sprintf(format, args...)) }
	switch {
	case f.noticed == nil:
		miss("the fork of the drill's log was not noticed, and had to be within %s", e.targets.Detect)
	case *f.noticed > e.targets.Detect:
		miss("the fork of the drill's log was noticed after %s, and had to be within %s", text(*f.noticed), e.targets.Detect)
	}
	if f.noticed != nil && !f.evidence {
		miss("the two checkpoints that the drill signed are not both kept as evidence")
	}
	if !f.kept {
		miss("what the mirror of the drill's log held has changed")
	}
	if !f.reverted {
		miss("the drill's log still shows its fork after the faults were reverted")
	}
	return missed
}
