package client_test

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/understudy-log/understudy/proto/understudy/v1/client"
	"github.com/understudy-log/understudy/test/synthetic"
)

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
		for _, message := range messages {
			asked := proto.Equal(message, messages[0]) || kindOf(message) == "understudy.v1.ListEntriesResponse"
			for _, lie := range append(lies(message.ProtoReflect(), ""), exchanges(message, honest)...) {
				s.setTamper(func(m proto.Message) error {
					if proto.Equal(m, message) {
						lie.tell(m.ProtoReflect())
					}
					return nil
				})
				got, err := run(name)
				switch {
				case err != nil:
					refused++
				case unbelieved(name, lie.name):
				case asked:
					t.Errorf("%s: %s with %s is believed: %+v", name, kindOf(message), lie.name, got)
				case !reflect.DeepEqual(got, results[name]):
					t.Errorf("%s: %s with %s: got %+v, want %+v", name, kindOf(message), lie.name, got, results[name])
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
