package rpc

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/understudy-log/understudy/mirror"
	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/witness/archive"
	"github.com/understudy-log/understudy/witness/archive/calendar"
)

// serveArchive serves an archive; nil is none.
func serveArchive(t *testing.T, a *archive.Archive, tree func(string) *storage.Tree) understudyv1.ArchiveServiceClient {
	t.Helper()
	server := NewServer(Config{
		Mirrors: func() []*mirror.Mirror { return nil }, Archive: a, Tree: tree,
		Logger: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	l := bufconn.Listen(1 << 20)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:test", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return understudyv1.NewArchiveServiceClient(conn)
}

// TestArchiveService: packs come byte for byte, rows as they stand in the chain, and what is not
// there is said.
func TestArchiveService(t *testing.T) {
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem(), CacheBytes: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	tree, err := db.CreateTree("log.test")
	if err != nil {
		t.Fatal(err)
	}
	for size := range uint64(2500) {
		var root storage.Hash
		if size > 0 {
			root = storage.Hash{byte(size), byte(size >> 8)}
		} else {
			root = sha256.Sum256(nil)
		}
		c := storage.Checkpoint{Head: storage.Head{Size: size, Root: root}, FirstSeen: time.Unix(int64(size), 0), LastSeen: time.Unix(int64(size), 0), Source: "here"}
		c.Raw = fmt.Appendf(nil, "log.test\n%d\n%s\n\n— log.test AAAAAAAA\n", size, base64.StdEncoding.EncodeToString(root[:]))
		if err := tree.Archive(c); err != nil {
			t.Fatal(err)
		}
	}
	private, vkey, err := note.GenerateKey(nil, "archive.test")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	schedule, err := calendar.Parse("0 0 * * 1", "UTC")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	a, err := archive.Open(t.Context(), archive.Config{DB: db, Dir: dir, Signer: signer, VKey: vkey, Vantage: "a test", Schedule: schedule, Expression: "0 0 * * 1", TimeZone: "UTC", Sources: func() []archive.Source { return nil }})
	if err != nil {
		t.Fatal(err)
	}
	trees := func(origin string) *storage.Tree {
		if origin != "log.test" {
			return nil
		}
		return tree
	}
	client := serveArchive(t, a, trees)
	none := serveArchive(t, nil, trees)

	refused := func(what string, err error, code codes.Code) {
		t.Helper()
		if status.Code(err) != code {
			t.Errorf("%s: %v, want %v", what, err, code)
		}
	}
	pack := func(c understudyv1.ArchiveServiceClient, number uint64) (*understudyv1.Pack, []byte, error) {
		stream, err := c.GetPack(t.Context(), &understudyv1.GetPackRequest{Number: number})
		if err != nil {
			return nil, nil, err
		}
		var first *understudyv1.Pack
		var data []byte
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return first, data, nil
			}
			if err != nil {
				return nil, nil, err
			}
			if m.Pack != nil {
				first = m.Pack
			}
			data = append(data, m.Data...)
		}
	}
	_, err = none.ListPacks(t.Context(), &understudyv1.ListPacksRequest{})
	refused("packs of none", err, codes.FailedPrecondition)
	_, _, err = pack(none, 1)
	refused("a pack of none", err, codes.FailedPrecondition)
	_, _, err = pack(client, 0)
	refused("the newest before there is one", err, codes.NotFound)

	for range 2 {
		if _, err := a.Make(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list, err := client.ListPacks(t.Context(), &understudyv1.ListPacksRequest{FromNumber: 2})
	if err != nil || len(list.Packs) != 1 || list.Packs[0].Number != 2 || list.Key != vkey || list.Failing {
		t.Fatalf("packs: %v, %v", list, err)
	}
	for _, number := range []uint64{0, 1, 2} {
		p, data, err := pack(client, number)
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join(dir, p.Name))
		if sum := sha256.Sum256(data); err != nil || !bytes.Equal(data, want) || !bytes.Equal(p.Sha256, sum[:]) || number == 0 && p.Number != 2 {
			t.Errorf("pack %d is %v, %d bytes, %v", number, p, len(data), err)
		}
	}
	_, _, err = pack(client, 3)
	refused("a pack that is not there", err, codes.NotFound)
	if err := os.Remove(filepath.Join(dir, list.Packs[0].Name)); err != nil {
		t.Fatal(err)
	}
	_, _, err = pack(client, 2)
	refused("a pack whose file is gone", err, codes.Unavailable)

	var rows []*understudyv1.ArchivedCheckpoint
	for len(rows) < 2500 {
		page, err := none.ListCheckpoints(t.Context(), &understudyv1.ListCheckpointsRequest{Origin: "log.test", FromRow: uint64(len(rows) + 1)}, grpc.MaxCallRecvMsgSize(64<<20))
		if err != nil || len(page.Checkpoints) == 0 || len(page.Checkpoints) > maxRows || page.Rows != 2500 {
			t.Fatalf("%d rows of %d, %v", len(page.GetCheckpoints()), page.GetRows(), err)
		}
		rows = append(rows, page.Checkpoints...)
	}
	previous := make([]byte, 32)
	for i, r := range rows {
		if r.Row != uint64(i+1) || !bytes.Equal(r.Previous, previous) || r.Size != uint64(i) || r.Source != "here" || !bytes.HasPrefix(r.Checkpoint, fmt.Appendf(nil, "log.test\n%d\n", i)) || r.FirstSeen.Seconds != int64(i) {
			t.Fatalf("row %d is %v", i+1, r)
		}
		previous = r.RowHash
	}
	page, err := none.ListCheckpoints(t.Context(), &understudyv1.ListCheckpointsRequest{Origin: "log.test", FromRow: 7, PageSize: 2})
	if err != nil || len(page.Checkpoints) != 2 || page.Checkpoints[0].Row != 7 {
		t.Errorf("a page is %v, %v", page, err)
	}
	page, err = none.ListCheckpoints(t.Context(), &understudyv1.ListCheckpointsRequest{Origin: "log.test", FromRow: 2501})
	if err != nil || len(page.Checkpoints) != 0 {
		t.Errorf("behind the last row: %v, %v", page, err)
	}
	_, err = none.ListCheckpoints(t.Context(), &understudyv1.ListCheckpointsRequest{Origin: "other"})
	refused("an unknown log", err, codes.NotFound)
}
