//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"github.com/transparency-dev/tessera/api/layout"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

const origin = "bench.example"

// upstream is the generated log, served on loopback as static files.
type upstream struct {
	log        *synthetic.Log
	size       uint64
	dir        string
	entryBytes uint64 // of all entries
	url        string
	keyFile    string // with the vkey
	server     *http.Server
}

func newUpstream(ctx context.Context, dir string, size uint64) (*upstream, error) {
	u := &upstream{log: synthetic.New(synthetic.Options{Origin: origin}), size: size, dir: dir, keyFile: dir + ".vkey"}
	for u.log.Size() < size {
		u.log.Grow(min(size, u.log.Size()+16*batch))
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	var err error
	if u.entryBytes, err = u.log.WriteFiles(dir); err != nil {
		return nil, err
	}
	if err := os.WriteFile(u.keyFile, []byte(u.log.Key.Verifier()), 0o644); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	u.url = "http://" + listener.Addr().String() + "/"
	u.server = &http.Server{Handler: http.FileServer(http.Dir(dir)), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go u.server.Serve(listener)
	return u, nil
}

func (u *upstream) close() { u.server.Close() }

// note signs a checkpoint with the log's key.
func (u *upstream) note(head storage.Head) []byte {
	return synthetic.Note(origin, head.Size, head.Root, nil, u.log.Key)
}

// batches sends the log's entries in batches, one read ahead, until done is closed.
func (u *upstream) batches(done <-chan struct{}) (<-chan [][]byte, <-chan error) {
	out, failed := make(chan [][]byte, 1), make(chan error, 1)
	go func() {
		defer close(out)
		for start := uint64(0); start < u.size; start += batch {
			entries, err := u.entries(start, min(batch, u.size-start))
			if err != nil {
				failed <- err
				return
			}
			select {
			case out <- entries:
			case <-done:
				return
			}
		}
	}()
	return out, failed
}

// entries reads entries from the bundle files; start is a multiple of 256.
func (u *upstream) entries(start, count uint64) ([][]byte, error) {
	entries := make([][]byte, 0, count)
	for uint64(len(entries)) < count {
		first := start + uint64(len(entries))
		width := min(256, u.size-first)
		raw, err := os.ReadFile(filepath.Join(u.dir, layout.EntriesPath(first/256, uint8(width))))
		if err != nil {
			return nil, err
		}
		for len(raw) > 0 {
			n := int(binary.BigEndian.Uint16(raw)) + 2
			if n > len(raw) {
				return nil, fmt.Errorf("bundle %d is cut short", first/256)
			}
			entries, raw = append(entries, raw[2:n:n]), raw[n:]
		}
	}
	return entries, nil
}
