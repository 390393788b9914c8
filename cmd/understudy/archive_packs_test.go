package main

import (
	"context"
	"crypto/sha256"
	"net"
	"os"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// liar answers GetPack with whatever it is told to.
type liar struct {
	understudyv1.UnimplementedArchiveServiceServer
	pack    *understudyv1.Pack
	data    []byte
	forever bool
}

func (l *liar) GetPack(_ *understudyv1.GetPackRequest, out grpc.ServerStreamingServer[understudyv1.GetPackResponse]) error {
	if err := out.Send(&understudyv1.GetPackResponse{Pack: l.pack, Data: l.data}); err != nil {
		return err
	}
	for l.forever {
		if err := out.Send(&understudyv1.GetPackResponse{Data: l.data}); err != nil {
			return err
		}
	}
	return nil
}

// client returns a client of a server of l, which ends with the test.
func (l *liar) client(t *testing.T) understudyv1.ArchiveServiceClient {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	understudyv1.RegisterArchiveServiceServer(server, l)
	go server.Serve(listener) // ends with Stop
	t.Cleanup(server.Stop)
	conn, err := grpc.NewClient("passthrough:///liar", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return understudyv1.NewArchiveServiceClient(conn)
}

// TestExportOfLiar: what another server says is written nowhere but under the name of a pack, and
// only if it is that.
func TestExportOfLiar(t *testing.T) {
	data := []byte("a pack")
	sum := sha256.Sum256(data)
	const name = "understudy-evidence-000003-2026-10-05.tar"
	for what, c := range map[string]struct {
		pack    *understudyv1.Pack
		forever bool
		code    int
	}{
		"the pack":       {pack: &understudyv1.Pack{Number: 3, Name: name, SizeBytes: 6, Sha256: sum[:]}},
		"nothing":        {nil, false, exitWrong},
		"no hash":        {&understudyv1.Pack{Number: 3, Name: name, SizeBytes: 6}, false, exitWrong},
		"half a hash":    {&understudyv1.Pack{Number: 3, Name: name, SizeBytes: 6, Sha256: sum[:16]}, false, exitWrong},
		"another hash":   {&understudyv1.Pack{Number: 3, Name: name, SizeBytes: 6, Sha256: make([]byte, 32)}, false, exitWrong},
		"another number": {&understudyv1.Pack{Number: 4, Name: name, SizeBytes: 6, Sha256: sum[:]}, false, exitWrong},
		"a path":         {&understudyv1.Pack{Number: 3, Name: "../" + name, SizeBytes: 6, Sha256: sum[:]}, false, exitWrong},
		"another name":   {&understudyv1.Pack{Number: 3, Name: "understudy.yaml", SizeBytes: 6, Sha256: sum[:]}, false, exitWrong},
		"escapes":        {&understudyv1.Pack{Number: 3, Name: "\x1b[2J" + name, SizeBytes: 6, Sha256: sum[:]}, false, exitWrong},
		"no end":         {&understudyv1.Pack{Number: 3, Name: name, SizeBytes: 6, Sha256: sum[:]}, true, exitWrong},
	} {
		dir := t.TempDir()
		_, err := export(t.Context(), (&liar{pack: c.pack, data: data, forever: c.forever}).client(t), 3, dir)
		if exitCode(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
		files, err := os.ReadDir(dir)
		if want := map[bool]int{true: 1}[c.code == 0]; err != nil || len(files) != want {
			t.Errorf("%s: %d files, %v", what, len(files), err)
		}
	}
}
