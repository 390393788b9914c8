package client_test

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"runtime"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/test/synthetic"
)

func verifier(t testing.TB, key *synthetic.Key) client.Verifier {
	v, err := note.NewVerifier(key.Verifier())
	if err != nil {
		t.Fatal(err)
	}
	return client.NoteVerifier(origin, v)
}

func newClient(t testing.TB, s *server) *client.Client {
	return client.New(s.dial(t), origin, verifier(t, s.key))
}

// collect reads an iterator to its end or its error.
func collect[T any](seq iter.Seq2[T, error]) (out []T, err error) {
	for v, err := range seq {
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
	return out, nil
}

// TestEveryProof asks an honest server for everything that there is.
func TestEveryProof(t *testing.T) {
	ctx := t.Context()
	s := newServer(7, 8, 24, 25)
	c := newClient(t, s)
	for size := uint64(1); size <= 25; size++ {
		proven, err := c.ConsistencyProof(ctx, size, 0)
		if err != nil {
			t.Fatalf("size %d: %v", size, err)
		}
		if signed := proven.First.Checkpoint != nil; signed != s.signed[size] || proven.First.Size != size || proven.Last.Size != 25 {
			t.Errorf("size %d: first tree %+v", size, proven.First)
		}
		var all []uint64
		for i := range size {
			all = append(all, i)
			p, err := c.InclusionProof(ctx, client.Index(i), size)
			if s.signed[size] != (err == nil) || err != nil && !errors.Is(err, client.ErrUnsigned) {
				t.Fatalf("entry %d in size %d: error %v", i, size, err)
			}
			if p, err = c.InclusionProofAt(ctx, client.Index(i), proven.First); err != nil || p.Index != i {
				t.Fatalf("entry %d in size %d: %+v, error %v", i, size, p, err)
			}
			if _, err := c.InclusionProofAt(ctx, client.LeafHash(p.LeafHash), proven.First); err != nil {
				t.Fatalf("entry %d in size %d by leaf hash: %v", i, size, err)
			}
			if _, err := c.ConsistencyProofAt(ctx, i+1, proven.First); err != nil {
				t.Fatalf("size %d in size %d: %v", i+1, size, err)
			}
			entries, err := collect(c.Entries(ctx, i, size-i))
			if err != nil || uint64(len(entries)) != size-i || entries[0].Index != i || string(entries[0].Body) != string(s.entries[i]) {
				t.Fatalf("entries from %d to %d: %d, error %v", i, size, len(entries), err)
			}
		}
		if proofs, err := c.InclusionProofsAt(ctx, all, proven.First); err != nil || uint64(len(proofs)) != size {
			t.Fatalf("batch in size %d: %d proofs, error %v", size, len(proofs), err)
		}
		if _, err := c.InclusionProofs(ctx, all, size); s.signed[size] != (err == nil) {
			t.Fatalf("batch in size %d: error %v", size, err)
		}
	}
	var refused *client.RefusedError
	_, err := c.Entry(ctx, client.Index(25))
	if client.Reason(err) != "UPSTREAM_UNREACHABLE" || !errors.As(err, &refused) || refused.Metadata["source"] != "stale" || status.Code(err) != codes.Unavailable {
		t.Errorf("entry beyond the log: error %v", err)
	}
}

// TestWorseLies are those that need a signature.
func TestWorseLies(t *testing.T) {
	fork := synthetic.Tiny(1)
	forked := newServer()
	for i := range uint64(60) {
		forked.entries = append(forked.entries, fork(i))
	}
	for _, test := range []struct {
		name  string
		after func(s *server)
		check func(err error) bool
	}{
		{"an older tree is the newest", func(s *server) { delete(s.signed, 41) }, func(err error) bool {
			return errors.As(err, new(*client.VerificationError))
		}},
		{"another tree of the same size", func(s *server) { s.entries = forked.entries[:41] }, func(err error) bool {
			split, ok := errors.AsType[*client.SplitViewError](err)
			return ok && len(split.First) > 0 && len(split.Second) > 0 && string(split.First) != string(split.Second)
		}},
		{"another, larger tree", func(s *server) { s.entries, s.signed[60] = forked.entries, true }, func(err error) bool {
			return errors.As(err, new(*client.VerificationError))
		}},
		{"another key", func(s *server) { s.key = synthetic.Ed25519(origin, 1); s.grow(50) }, func(err error) bool {
			return errors.As(err, new(*client.VerificationError))
		}},
		{"another origin, same key", func(s *server) {
			s.setTamper(func(m proto.Message) error {
				if a, ok := m.(*understudyv1.GetCheckpointResponse); ok {
					a.Checkpoint = synthetic.Note("other.example", a.TreeSize, [32]byte(a.RootHash), nil, s.key)
				}
				return nil
			})
		}, func(err error) bool { return errors.As(err, new(*client.VerificationError)) }},
	} {
		s := newServer(20, 40, 41)
		c := newClient(t, s)
		if _, err := c.Checkpoint(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		test.after(s)
		if head, err := c.Checkpoint(t.Context(), 0); !test.check(err) {
			t.Errorf("%s: got %+v, error %v", test.name, head, err)
		}
		if newest := c.Newest(); newest.Size != 41 || string(newest.Root[:]) != string(mth(newServer(41).entries)) {
			t.Errorf("%s: newest is now %+v", test.name, newest)
		}
	}
}

// TestForgeries are answers that hang together and are not of the log.
func TestForgeries(t *testing.T) {
	ctx := t.Context()
	forged := []byte("forged")
	s := newServer(8, 20, 41)
	other := newServer(8)
	other.entries[3] = forged
	s.setTamper(func(m proto.Message) error {
		switch m := m.(type) {
		case *understudyv1.ListEntriesResponse:
			if m.Index == 13 {
				m.Body, m.LeafHash = forged, leaf(forged)
			}
		case *understudyv1.GetEntryResponse:
			m.Body, m.LeafHash = forged, leaf(forged)
		case *understudyv1.GetCheckpointResponse:
			if m.TreeSize == 8 { // signed by the log: a split view, at a size that is not the newest
				m.RootHash, m.Checkpoint = mth(other.entries), other.sign(8)
			}
		case *understudyv1.GetConsistencyProofResponse:
			switch m.FirstSize {
			case 8:
				m.FirstCheckpoint = other.sign(8)
			case 13: // a byte moves from one hash to the next; both together still hash to the signed root
				h := m.Hashes
				h[0], h[1] = h[0][:31], append(h[0][31:], h[1]...)
				m.FirstRootHash = node(mth(s.entries[:8]), node(mth(s.entries[8:12]), h[0]))
			}
		}
		return nil
	})
	conn, verify := s.dial(t), verifier(t, s.key)
	for name, call := range map[string]func(c *client.Client) (any, error){
		"Entry":               func(c *client.Client) (any, error) { return c.Entry(ctx, client.Index(13)) },
		"Entries":             func(c *client.Client) (any, error) { return collect(c.Entries(ctx, 10, 20)) },
		"Entries from 0":      func(c *client.Client) (any, error) { return collect(c.Entries(ctx, 0, 0)) },
		"ConsistencyProof":    func(c *client.Client) (any, error) { return c.ConsistencyProof(ctx, 8, 0) },
		"ConsistencyProof 13": func(c *client.Client) (any, error) { return c.ConsistencyProof(ctx, 13, 41) },
		"ConsistencyProof 0":  func(c *client.Client) (any, error) { return c.ConsistencyProof(ctx, 0, 41) },
		"Checkpoint":          func(c *client.Client) (any, error) { return c.Checkpoint(ctx, 8) },
		"Remember an empty": func(c *client.Client) (any, error) {
			return nil, c.Remember(synthetic.Note(origin, 0, client.Hash{}, nil, s.key))
		},
		"Remember a stranger": func(c *client.Client) (any, error) {
			return nil, c.Remember(synthetic.Note(origin, 1, client.Hash{}, nil, synthetic.Ed25519(origin, 1)))
		},
	} {
		c := client.New(conn, origin, verify)
		if name == "Checkpoint" { // known before: the newest tree
			if _, err := c.Checkpoint(ctx, 0); err != nil {
				t.Fatal(err)
			}
		}
		if got, err := call(c); !errors.As(err, new(*client.VerificationError)) {
			t.Errorf("%s: got %+v, error %v", name, got, err)
		} else if entries, ok := got.([]client.Entry); ok && len(entries) > 0 {
			t.Errorf("%s: %d entries before the error", name, len(entries))
		}
	}
}

// TestRemember: an older checkpoint does not take the place of a newer one.
func TestRemember(t *testing.T) {
	s := newServer(20, 41)
	c := newClient(t, s)
	for _, size := range []uint64{20, 41, 20} {
		if err := c.Remember(s.sign(size)); err != nil {
			t.Fatal(err)
		}
	}
	if newest := c.Newest(); newest.Size != 41 {
		t.Errorf("newest is %+v", newest)
	}
}

// TestBrokenStreams breaks the connection at every answer once: every entry comes once.
func TestBrokenStreams(t *testing.T) {
	s := newServer(41)
	conn, verify := s.dial(t), verifier(t, s.key)
	for _, limit := range []uint64{0, 30} {
		for k := 0; ; k++ {
			seen := 0
			s.setTamper(func(proto.Message) error {
				if seen++; seen == k+1 {
					return status.Error(codes.Unavailable, "connection reset")
				}
				return nil
			})
			entries, err := collect(client.New(conn, origin, verify).Entries(t.Context(), 3, limit))
			want := 38
			if limit > 0 {
				want = int(limit)
			}
			if err != nil || len(entries) != want {
				t.Fatalf("limit %d, break at %d: %d entries, error %v", limit, k, len(entries), err)
			}
			for i, e := range entries {
				if e.Index != uint64(3+i) {
					t.Fatalf("limit %d, break at %d: entry %d at place %d", limit, k, e.Index, i)
				}
			}
			if seen <= k {
				break // it was over before
			}
		}
	}
}

// TestBrokenEnd breaks the stream after its last entry, and what comes next is refused.
func TestBrokenEnd(t *testing.T) {
	s := newServer(25)
	s.cutEnd = true
	c := newClient(t, s)
	entries, err := collect(c.Entries(t.Context(), 20, 0))
	if err != nil || len(entries) != 5 {
		t.Errorf("%d entries, error %v", len(entries), err)
	}
	entries, err = collect(c.Entries(t.Context(), 25, 0))
	if client.Reason(err) != "UPSTREAM_UNREACHABLE" {
		t.Errorf("listing that begins there: %d entries, error %v", len(entries), err)
	}
	if s.lists != 3 {
		t.Errorf("%d calls, want 3: a refusal is not tried again", s.lists)
	}
}

// TestWatchBackwards: a stream does not go back to an older tree, though it is signed.
func TestWatchBackwards(t *testing.T) {
	s := newServer(3, 5)
	c := newClient(t, s)
	for head, err := range c.WatchCheckpoints(t.Context()) {
		if head.Size == 5 && err == nil {
			s.setTamper(func(m proto.Message) error {
				if m, ok := m.(*understudyv1.WatchCheckpointsResponse); ok {
					m.TreeSize, m.RootHash, m.Checkpoint = 3, mth(s.entries[:3]), s.sign(3)
				}
				return nil
			})
			s.grow(7)
			continue
		}
		if !errors.As(err, new(*client.VerificationError)) {
			t.Errorf("then came %+v, error %v", head, err)
		}
		break
	}
}

// TestWatch sees growth, takes up a broken stream, and leaves no goroutine behind.
func TestWatch(t *testing.T) {
	before := runtime.NumGoroutine()
	t.Run("watch", func(t *testing.T) {
		s := newServer(3)
		s.cutEnd = true
		c := newClient(t, s)
		var sizes []uint64
		for head, err := range c.WatchCheckpoints(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, head.Size)
			switch head.Size {
			case 3:
				go func() {
					s.wait(&s.watched, 2) // it is sent again, on the second stream
					s.grow(5)
				}()
			case 5:
				failed := false
				s.setTamper(func(proto.Message) error {
					if !failed {
						failed = true
						return status.Error(codes.Unavailable, "connection reset")
					}
					return nil
				})
				s.grow(9)
			}
			if head.Size == 9 {
				break
			}
		}
		if !reflect.DeepEqual(sizes, []uint64{3, 5, 9}) {
			t.Errorf("saw the sizes %v", sizes)
		}
		ctx, cancel := context.WithCancel(t.Context())
		for _, err := range c.WatchCheckpoints(ctx) {
			if err == nil {
				cancel()
			} else if status.Code(err) != codes.Canceled && !errors.Is(err, context.Canceled) {
				t.Errorf("after cancel: %v", err)
			}
		}
		cancel()
		for range c.Entries(t.Context(), 0, 0) {
			break
		}
		s.wait(&s.watches, 0) // the streams end though the connection stays
	})
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
