package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/proto/understudy/v1/client"
)

// The server here is a small one in memory; outside a test conn is made by
//
//	conn, err := grpc.NewClient("mirror.example.com:8081", grpc.WithTransportCredentials(insecure.NewCredentials()))
//
// No transport security is needed to believe the answers: they are verified.
func Example() {
	s := newServer(40, 41)
	conn, stop := s.start()
	defer stop()
	ctx := context.Background()

	key, err := note.NewVerifier(s.key.Verifier()) // the log's key, as a C2SP verifier key
	if err != nil {
		slog.Error("read key", "error", err)
		return
	}
	log := client.New(conn, "log.example", client.NoteVerifier("log.example", key))

	proof, err := log.InclusionProof(ctx, client.Index(7), 0)
	if err != nil {
		slog.Error("prove entry", "error", err)
		return
	}
	fmt.Printf("entry %d is in the signed tree of %d entries (%s)\n", proof.Index, proof.Head.Size, proof.Freshness.Source)

	for entry, err := range log.Entries(ctx, 38, 0) {
		if err != nil {
			slog.Error("list entries", "error", err)
			return
		}
		fmt.Printf("%d: %s", entry.Index, entry.Body)
	}

	_, err = log.Entry(ctx, client.Index(41))
	if refused, ok := errors.AsType[*client.RefusedError](err); ok {
		fmt.Println(refused.Reason)
	}

	// Output:
	// entry 7 is in the signed tree of 41 entries (live)
	// 38: entry 38 of 0
	// 39: entry 39 of 0
	// 40: entry 40 of 0
	// UPSTREAM_UNREACHABLE
}
