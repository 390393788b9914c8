package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

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

// calls are all the calls of the API, on a server of 41 entries; each returns what it
// got, without what nobody signs.
var calls = map[string]func(context.Context, *client.Client) (any, error){
	"Checkpoint":   func(ctx context.Context, c *client.Client) (any, error) { return plain(c.Checkpoint(ctx, 0)) },
	"Checkpoint 8": func(ctx context.Context, c *client.Client) (any, error) { return plain(c.Checkpoint(ctx, 8)) },
	"Entry":        func(ctx context.Context, c *client.Client) (any, error) { return plain(c.Entry(ctx, client.Index(11))) },
	"Entry 12":     func(ctx context.Context, c *client.Client) (any, error) { return plain(c.Entry(ctx, client.Index(12))) },
	"InclusionProof 12": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProof(ctx, client.Index(12), 0))
	},
	"InclusionProofs 12": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProofs(ctx, []uint64{12, 13}, 0))
	},
	"Entry by hash": func(ctx context.Context, c *client.Client) (any, error) { return plain(c.Entry(ctx, hash11)) },
	"Entries":       func(ctx context.Context, c *client.Client) (any, error) { return plain(collect(c.Entries(ctx, 11, 5))) },
	"InclusionProof": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProof(ctx, client.Index(11), 0))
	},
	"InclusionProof by hash": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProof(ctx, hash11, 0))
	},
	"InclusionProof 40": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProof(ctx, hash11, 40))
	},
	"InclusionProofAt": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProofAt(ctx, client.Index(11), head13()))
	},
	"InclusionProofs": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProofs(ctx, []uint64{40, 0}, 0))
	},
	"InclusionProofsAt": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.InclusionProofsAt(ctx, []uint64{12, 0}, head13()))
	},
	"ConsistencyProof":   func(ctx context.Context, c *client.Client) (any, error) { return plain(c.ConsistencyProof(ctx, 13, 0)) },
	"ConsistencyProof 8": func(ctx context.Context, c *client.Client) (any, error) { return plain(c.ConsistencyProof(ctx, 8, 40)) },
	"ConsistencyProofAt": func(ctx context.Context, c *client.Client) (any, error) {
		return plain(c.ConsistencyProofAt(ctx, 5, head13()))
	},
	"WatchCheckpoints": func(ctx context.Context, c *client.Client) (any, error) {
		for head, err := range c.WatchCheckpoints(ctx) {
			return plain(head, err)
		}
		return nil, nil
	},
}

var hash11 = client.LeafHash(client.Hash(leaf(synthetic.Tiny(0)(11))))

func head13() client.Head {
	return client.Head{Size: 13, Root: client.Hash(mth(newServer(13).entries))}
}

// plain removes the freshness.
func plain(v any, err error) (any, error) {
	switch v := v.(type) {
	case client.SignedHead:
		return v.Head, err
	case client.Entry:
		v.Freshness = client.Freshness{}
		return v, err
	case client.InclusionProof:
		v.Freshness = client.Freshness{}
		return v, err
	case client.ConsistencyProof:
		v.Freshness = client.Freshness{}
		return v, err
	case []client.Entry:
		for i := range v {
			v[i].Freshness = client.Freshness{}
		}
	case []client.InclusionProof:
		for i := range v {
			v[i].Freshness = client.Freshness{}
		}
	}
	return v, err
}

// TestLies changes every field of every answer in every way that comes to mind, and
// exchanges answers. A lie in the answer that was asked for is refused. One in an answer
// to what the client asked of its own accord is refused or changes nothing.
func TestLies(t *testing.T) {
	s := newServer(7, 8, 20, 40, 41)
	conn, verify := s.dial(t), verifier(t, s.key)
	remembered := s.sign(20)
	run := func(name string) (any, error) {
		c := client.New(conn, origin, verify)
		if err := c.Remember(remembered); err != nil {
			t.Fatal(err)
		}
		return calls[name](t.Context(), c)
	}
	honest, results := map[string][]proto.Message{}, map[string]any{}
	for name := range calls {
		s.setTamper(func(m proto.Message) error {
			honest[name] = append(honest[name], proto.Clone(m))
			return nil
		})
		var err error
		if results[name], err = run(name); err != nil {
			t.Fatalf("%s of an honest server: %v", name, err)
		}
	}
	refused := 0
	for name, messages := range honest {
		nth := map[protoreflect.FullName]int{}
		for _, message := range messages {
			kind := kindOf(message)
			k := nth[kind]
			nth[kind]++
			for _, lie := range append(lies(message.ProtoReflect(), ""), exchanges(message, honest)...) {
				seen := 0 // answers of this kind; those of different kinds come in no fixed order
				s.setTamper(func(m proto.Message) error {
					if kindOf(m) == kind {
						if seen == k {
							lie.tell(m.ProtoReflect())
						}
						seen++
					}
					return nil
				})
				got, err := run(name)
				switch asked := kind == kindOf(messages[0]); {
				case err != nil:
					refused++
				case asked && k == 0 && !unbelieved(name, lie.name):
					t.Errorf("%s: %s with %s is believed: %+v", name, kind, lie.name, got)
				case !reflect.DeepEqual(got, results[name]) && !unbelieved(name, lie.name):
					t.Errorf("%s: %s %d with %s: got %+v, want %+v", name, kind, k, lie.name, got, results[name])
				}
			}
		}
	}
	t.Logf("%d lies refused", refused)
}

func kindOf(m proto.Message) protoreflect.FullName { return m.ProtoReflect().Descriptor().FullName() }

// unbelieved tells whether a lie is none: it is about a field that nobody signs, or that
// is not looked at because the caller has said what to believe, or keeps something back.
func unbelieved(call, lie string) bool {
	return strings.HasPrefix(lie, ".freshness") || strings.Contains(call, "At") && strings.HasPrefix(lie, ".checkpoint") ||
		lie == ".first_checkpoint empty" || strings.HasPrefix(call, "InclusionProof") && lie == "the answer of InclusionProof 40"
}

// exchanges are the honest answers to other questions.
func exchanges(message proto.Message, honest map[string][]proto.Message) (out []lie) {
	for name, others := range honest {
		for _, other := range others {
			if kindOf(other) == kindOf(message) && !proto.Equal(other, message) {
				out = append(out, lie{"the answer of " + name, func(m protoreflect.Message) {
					proto.Reset(m.Interface())
					proto.Merge(m.Interface(), other)
				}})
			}
		}
	}
	return out
}

// lie is one way to change a message.
type lie struct {
	name string
	tell func(protoreflect.Message)
}

// lies returns all changes of a message: of each field, of each element of its lists,
// and of the messages in it.
func lies(m protoreflect.Message, path string) (out []lie) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := path + "." + string(f.Name())
		add := func(how string, tell func(protoreflect.Message)) { out = append(out, lie{name + " " + how, tell}) }
		add("empty", func(m protoreflect.Message) { m.Clear(f) })
		switch {
		case f.IsList():
			list := func(m protoreflect.Message) protoreflect.List { return m.Mutable(f).List() }
			add("shorter", func(m protoreflect.Message) { list(m).Truncate(v.List().Len() - 1) })
			add("longer", func(m protoreflect.Message) { list(m).Append(list(m).Get(0)) })
			add("swapped", func(m protoreflect.Message) {
				l := list(m)
				first, last := l.Get(0), l.Get(l.Len()-1)
				l.Set(0, last)
				l.Set(l.Len()-1, first)
			})
			for i := range v.List().Len() {
				if f.Message() != nil {
					for _, inner := range lies(v.List().Get(i).Message(), fmt.Sprintf("%s[%d]", name, i)) {
						out = append(out, lie{inner.name, func(m protoreflect.Message) { inner.tell(list(m).Get(i).Message()) }})
					}
					continue
				}
				for how, changed := range changes(f.Kind(), v.List().Get(i)) {
					add(fmt.Sprintf("[%d] %s", i, how), func(m protoreflect.Message) { list(m).Set(i, changed) })
				}
			}
		case f.Message() != nil:
			for _, inner := range lies(v.Message(), name) {
				out = append(out, lie{inner.name, func(m protoreflect.Message) { inner.tell(m.Mutable(f).Message()) }})
			}
		default:
			for how, changed := range changes(f.Kind(), v) {
				add(how, func(m protoreflect.Message) { m.Set(f, changed) })
			}
		}
		return true
	})
	return out
}

func changes(kind protoreflect.Kind, v protoreflect.Value) map[string]protoreflect.Value {
	switch kind {
	case protoreflect.Uint64Kind:
		return map[string]protoreflect.Value{
			"one more": protoreflect.ValueOfUint64(v.Uint() + 1),
			"one less": protoreflect.ValueOfUint64(v.Uint() - 1),
			"huge":     protoreflect.ValueOfUint64(1<<64 - 1),
		}
	case protoreflect.StringKind:
		return map[string]protoreflect.Value{"other": protoreflect.ValueOfString(v.String() + "x")}
	case protoreflect.BytesKind:
		b := v.Bytes()
		out := map[string]protoreflect.Value{
			"shorter": protoreflect.ValueOfBytes(b[:len(b)-1]),
			"longer":  protoreflect.ValueOfBytes(append(b[:len(b):len(b)], 0)),
		}
		for i := range b {
			changed := append([]byte(nil), b...)
			changed[i] ^= 1
			if i < 2 || i%41 == 0 || i > len(b)-5 {
				out[fmt.Sprintf("byte %d flipped", i)] = protoreflect.ValueOfBytes(changed)
			}
		}
		return out
	}
	return nil
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
			if m.FirstSize == 8 {
				m.FirstCheckpoint = other.sign(8)
			}
		}
		return nil
	})
	conn, verify := s.dial(t), verifier(t, s.key)
	for name, call := range map[string]func(c *client.Client) (any, error){
		"Entry":              func(c *client.Client) (any, error) { return c.Entry(ctx, client.Index(13)) },
		"Entries":            func(c *client.Client) (any, error) { return collect(c.Entries(ctx, 10, 20)) },
		"Entries from 0":     func(c *client.Client) (any, error) { return collect(c.Entries(ctx, 0, 0)) },
		"ConsistencyProof":   func(c *client.Client) (any, error) { return c.ConsistencyProof(ctx, 8, 0) },
		"ConsistencyProof 0": func(c *client.Client) (any, error) { return c.ConsistencyProof(ctx, 0, 41) },
		"Checkpoint":         func(c *client.Client) (any, error) { return c.Checkpoint(ctx, 8) },
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
