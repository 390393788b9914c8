package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// What the recorded Rekor has.
const (
	inactiveTree = 6246034143256394669
	activeTree   = 6939986364423721607
	recordedHost = "rekor.e2e.test - "
)

// fakeService stands for a *mirror.Service that is live and has the given answers.
type fakeService struct {
	shards []mirror.Shard
	keys   map[uint64]string // PEM, by tree ID
	items  []rekor.Item
	hashes []storage.Hash // every consistency proof
	root   storage.Hash
	found  mirror.SearchResult

	fresh   mirror.Freshness
	fails   error         // of every method that can fail
	reaches chan struct{} // if not nil, Entries waits until it can send, and then for its context
	takes   time.Duration // of Entries

	// What was asked for last.
	client              mirror.Client
	refs                []mirror.EntryRef
	query               rekor.Query
	treeID, first, last uint64
}

func (f *fakeService) Name() string { return "rekor" }

func (f *fakeService) Shards() ([]mirror.Shard, error) { return f.shards, f.fails }

func (f *fakeService) refuse(kind mirror.Kind, reason string) error {
	return &mirror.Refusal{Kind: kind, Reason: reason, Text: "refused", Freshness: f.fresh}
}

func (f *fakeService) PublicKey(_ context.Context, treeID uint64) ([]byte, error) {
	if treeID == 0 {
		treeID = activeTree
	}
	if key, ok := f.keys[treeID]; ok || f.fails != nil {
		return []byte(key), f.fails
	}
	return nil, f.refuse(mirror.Invalid, mirror.ReasonInvalidRequest)
}

func (f *fakeService) Consistency(_ context.Context, client mirror.Client, treeID, first, last uint64) ([]storage.Hash, storage.Hash, error) {
	f.client, f.treeID, f.first, f.last = client, treeID, first, last
	if f.fails != nil {
		return nil, storage.Hash{}, f.fails
	}
	i := slices.IndexFunc(f.shards, func(s mirror.Shard) bool { return s.TreeID == treeID || treeID == 0 && s.Active })
	if i < 0 {
		return nil, storage.Hash{}, f.refuse(mirror.Invalid, mirror.ReasonInvalidRequest)
	}
	if last > f.shards[i].Head.Size {
		return nil, storage.Hash{}, f.refuse(mirror.NotFound, mirror.ReasonNotFound)
	}
	root := f.root
	if root == (storage.Hash{}) {
		root = f.shards[i].Head.Root
	}
	return f.hashes, root, nil
}

func (f *fakeService) Entry(ctx context.Context, client mirror.Client, ref mirror.EntryRef) (rekor.Item, mirror.Freshness, error) {
	items, fresh, err := f.Entries(ctx, client, []mirror.EntryRef{ref})
	if err == nil && len(items) == 0 {
		err = f.refuse(mirror.NotFound, mirror.ReasonNotFound)
	}
	if err != nil {
		return rekor.Item{}, fresh, err
	}
	return items[0], fresh, nil
}

func (f *fakeService) Entries(ctx context.Context, client mirror.Client, refs []mirror.EntryRef) ([]rekor.Item, mirror.Freshness, error) {
	f.client, f.refs = client, refs
	if f.reaches != nil {
		f.reaches <- struct{}{}
		<-ctx.Done()
		return nil, f.fresh, ctx.Err()
	}
	if f.takes > 0 {
		select {
		case <-time.After(f.takes):
		case <-ctx.Done():
			return nil, f.fresh, ctx.Err()
		}
	}
	if f.fails != nil {
		return nil, f.fresh, f.fails
	}
	if len(refs) > maxItems {
		return nil, f.fresh, f.refuse(mirror.Invalid, mirror.ReasonInvalidRequest)
	}
	rest := slices.Clone(f.items) // Rekor signs again in each answer, also twice in one
	var out []rekor.Item
	for _, ref := range refs {
		i := slices.IndexFunc(rest, func(item rekor.Item) bool {
			if ref.UUID == nil {
				return item.Entry.LogIndex == ref.Index
			}
			return item.UUID.LeafHash == ref.UUID.LeafHash && (ref.UUID.TreeID == 0 || ref.UUID.TreeID == item.UUID.TreeID)
		})
		if i >= 0 {
			out = append(out, rest[i])
			rest = slices.Delete(rest, i, i+1)
		}
	}
	return out, f.fresh, nil
}

func (f *fakeService) Search(_ context.Context, client mirror.Client, q rekor.Query) (mirror.SearchResult, mirror.Freshness, error) {
	f.client, f.query = client, q
	return f.found, f.fresh, f.fails
}

var liveNow = mirror.Freshness{Source: mirror.SourceLive, UpstreamState: mirror.UpstreamLive, CheckpointAge: 3_900_000_000}

// newFake returns the recorded Rekor without entries.
func newFake() *fakeService {
	shard := func(treeID, start, size uint64, root byte) mirror.Shard {
		return mirror.Shard{TreeID: treeID, Active: treeID == activeTree, Start: start,
			Head: storage.Head{Size: size, Root: storage.Hash{root}}, Checkpoint: fmt.Appendf(nil, "%s%d\n", recordedHost, treeID)}
	}
	return &fakeService{
		shards: []mirror.Shard{shard(inactiveTree, 0, 12, 1), shard(activeTree, 12, 112, 2)},
		keys:   map[uint64]string{inactiveTree: "inactive's\n", activeTree: "active's\n"},
		fresh:  liveNow,
	}
}

// oneItem is an entry as it is pinned.
func oneItem(body string, index uint64) rekor.Item {
	return rekor.Item{
		UUID: rekor.UUID{TreeID: activeTree, LeafHash: storage.LeafHash([]byte(body))},
		Entry: rekor.Entry{Body: []byte(body), IntegratedTime: 1, LogID: strings.Repeat("ab", 32), LogIndex: index, SET: []byte("signed"),
			Proof: &rekor.Proof{Index: index - 12, TreeSize: 112, Hashes: []storage.Hash{{1}, {2}}, Checkpoint: []byte("checkpoint <&>\n")}},
	}
}

func (f *fakeService) handler() http.Handler { return handlerOf(f) }

// handlerOf serves a service as NewPublic does.
func handlerOf(service rekorService) http.Handler {
	return newPublic(PublicConfig{
		Mirrors: func() []*mirror.Mirror { return nil }, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	}, service)
}

const testClient = "192.0.2.7"

// request is one to the API, with headers as "Name: value".
func request(method, target, body string, headers ...string) *http.Request {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	out := httptest.NewRequest(method, target, r)
	out.RemoteAddr = testClient + ":1"
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		out.Header.Add(name, value)
	}
	return out
}

func ask(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// post asks with a JSON body.
func post(h http.Handler, target, body string) *httptest.ResponseRecorder {
	return ask(h, request(http.MethodPost, target, body, "Content-Type: application/json"))
}

// wantAnswer holds an answer to a status and a body.
func wantAnswer(t *testing.T, name string, w *httptest.ResponseRecorder, code int, body string) {
	t.Helper()
	if w.Code != code || w.Body.String() != body {
		t.Errorf("%s: got %d %q, want %d %q", name, w.Code, w.Body, code, body)
	}
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
