package rest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestShardTiles: a shard that is held is a tlog-tiles log too, and what no bundle can hold is
// still proven and served.
func TestShardTiles(t *testing.T) {
	const size, large = 300, 290
	upstream := synthetic.NewRekorV1("rekor.example")
	entry := synthetic.HashedRekordV1(1)
	for i := range uint64(size) {
		body := entry(i)
		if i == large {
			body = bytes.Repeat([]byte("x"), 70_000)
		}
		upstream.Active().Add(body)
	}
	upstream.RollOver(synthetic.RekorKey("rekor.example", 1))
	upstream.Active().Grow(5, synthetic.HashedRekordV1(2))
	service := mirrorOf(t, upstream)
	h := NewPublic(PublicConfig{Mirrors: service.Mirrors, Rekor: service, Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry()})
	waitFor(t, "the first shard", func() bool {
		shards, err := service.Shards()
		return err == nil && len(shards) == 2 && shards[0].Mirror.Tree().State().Head.Size == size
	})
	shards, err := service.Shards()
	if err != nil {
		t.Fatal(err)
	}
	held, pinned := "/"+mirror.OriginHash(shards[0].Mirror.Origin()), "/"+mirror.OriginHash(shards[1].Mirror.Origin())
	sh := upstream.Shard(0)

	if r := get(h, http.MethodGet, held+"/checkpoint"); r.StatusCode != 200 || !strings.HasPrefix(body(t, r), fmt.Sprintf("%s\n%d\n", shards[0].Mirror.Origin(), size)) {
		t.Errorf("checkpoint: %d", r.StatusCode)
	}
	tile := body(t, get(h, http.MethodGet, held+"/tile/0/001.p/44"))
	if len(tile) != 44*storage.HashSize {
		t.Fatalf("tile of %d bytes", len(tile))
	}
	for i := range uint64(44) {
		if hash := storage.LeafHash(sh.Body(256 + i)); tile[i*32:(i+1)*32] != string(hash[:]) {
			t.Fatalf("hash %d differs", i)
		}
	}
	bundle := []byte(body(t, get(h, http.MethodGet, held+"/tile/entries/000")))
	for i := range uint64(256) {
		n := int(binary.BigEndian.Uint16(bundle))
		if !bytes.Equal(bundle[2:2+n], sh.Body(i)) {
			t.Fatalf("entry %d of the bundle differs", i)
		}
		bundle = bundle[2+n:]
	}
	if r := get(h, http.MethodGet, held+"/tile/entries/001.p/44"); r.StatusCode != http.StatusNotImplemented || !strings.Contains(body(t, r), fmt.Sprintf("entry %d", large)) {
		t.Errorf("bundle with a large entry: %d", r.StatusCode)
	}
	items, err := rekor.ParseAnswer([]byte(body(t, get(h, http.MethodGet, fmt.Sprintf("/api/v1/log/entries?logIndex=%d", large)))))
	if err != nil || len(items) != 1 || !bytes.Equal(items[0].Entry.Body, sh.Body(large)) || items[0].Entry.Proof.TreeSize != size {
		t.Errorf("large entry: %d items, %v", len(items), err)
	}

	if r := get(h, http.MethodGet, pinned+"/checkpoint"); r.StatusCode != http.StatusNotFound {
		t.Errorf("checkpoint of a shard that is not held: %d", r.StatusCode)
	}
}
