package rpc_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/cmd/internal/rpc"
	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
)

// TestTruncated: where more entries have a key than are looked for, the answer says so; also
// if it was asked for entries that have another key as well.
func TestTruncated(t *testing.T) {
	const entries = 10_001
	// Every entry has the identity "many", the last two have another one as well.
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 4 << 20, SearchVersion: 1, SearchKeys: func(entry []byte) []string {
		switch string(entry) {
		case fmt.Sprint(entries - 1), fmt.Sprint(entries - 2):
			return []string{"many", "https://few"}
		}
		return []string{"many"}
	}})
	check(t, err)
	t.Cleanup(func() { check(t, db.Close()) })
	tree, err := db.CreateTree(origin)
	check(t, err)
	bodies := make([][]byte, entries)
	for i := range bodies {
		bodies[i] = fmt.Append(nil, i)
	}
	_, err = tree.Extend(bodies, func(head storage.Head) (storage.Seal, error) {
		return storage.Seal{Checkpoint: storage.Checkpoint{Head: head, Raw: []byte("unsigned")}}, nil
	})
	check(t, err)
	m, err := mirror.New(mirror.Config{Name: "test", Origin: origin, URL: "http://upstream.example", Tree: tree, HTTPClient: http.DefaultClient})
	check(t, err)
	api := understudyv1.NewLogServiceClient(serve(t, rpc.NewServer(rpc.Config{Mirrors: only(m), Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()}))())
	for _, test := range []struct {
		in        *understudyv1.SearchEntriesRequest
		truncated bool
	}{
		{&understudyv1.SearchEntriesRequest{Identity: "many"}, true},
		{&understudyv1.SearchEntriesRequest{Identity: "few"}, false},
		{&understudyv1.SearchEntriesRequest{Identity: "https://few"}, false},
		{&understudyv1.SearchEntriesRequest{Identity: "many", Digest: fmt.Sprintf("%064x", 0), All: true}, false},
		{&understudyv1.SearchEntriesRequest{Identity: "https://few", Digest: fmt.Sprintf("%064x", 0), All: true}, false},
	} {
		answer, err := api.SearchEntries(t.Context(), test.in)
		check(t, err)
		if len(answer.Covered) != 1 || answer.Covered[0].Truncated != test.truncated || answer.Covered[0].EndIndex != entries {
			t.Errorf("%v: covered %v", test.in, answer.Covered)
		}
		if test.in.Identity == "many" && !test.in.All && (len(answer.Hits) != 1000 || answer.NextPageToken == "") {
			t.Errorf("%v: %d hits, next page %q", test.in, len(answer.Hits), answer.NextPageToken)
		}
	}
}
