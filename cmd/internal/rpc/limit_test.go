package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/understudy-log/understudy/mirror"
)

func from(address string) context.Context {
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		panic(err)
	}
	return peer.NewContext(context.Background(), &peer.Peer{Addr: addr})
}

// TestLimit: a client has a bounded number of calls, a neighbour has its own.
func TestLimit(t *testing.T) {
	l := newLimiter(2, 1)
	call := func(ctx context.Context, inside func()) error {
		answer, err := l.unary(ctx, nil, nil, func(context.Context, any) (any, error) {
			inside()
			return nil, nil
		})
		if err == nil {
			answer.(*message).call.done() // as gRPC does when it is written
		}
		return err
	}
	refusals := 0
	for _, client := range []string{"192.0.2.1:1", "[2001:db8::1]:1"} {
		err := call(from(client), func() {
			call(from(client), func() {
				for _, other := range []string{"192.0.2.1:2", "[::ffff:192.0.2.1]:3", "[2001:db8::ffff]:4", "192.0.2.2:1", "[2001:db8:0:1::1]:1", "[fe80::1%lo]:5"} {
					ran := false
					err := call(from(other), func() { ran = true })
					if ran != (err == nil) {
						t.Errorf("%s: ran %v, error %v", other, ran, err)
					}
					if same := clientOf(from(other)) == clientOf(from(client)); same != (status.Code(err) == codes.ResourceExhausted) {
						t.Errorf("%s while %s has two: %v", other, client, err)
					}
					if err != nil {
						refusals++
					}
				}
			})
		})
		if err != nil {
			t.Errorf("%s: %v", client, err)
		}
	}
	if refusals != 3 {
		t.Errorf("%d refusals, want those of 192.0.2.1 twice and of 2001:db8::/64", refusals)
	}
	if len(l.clients) != 0 {
		t.Errorf("left behind: %v", l.clients)
	}
	if a, b := clientOf(from("[fe80::1%lo]:1")), clientOf(from("[fe80::2]:2")); a != b || !a.IsValid() {
		t.Errorf("link-local clients %v and %v", a, b)
	}
	if got := clientOf(context.Background()); got.IsValid() {
		t.Errorf("client without address: %v", got)
	}
}

// TestRefusalTable holds the code of every kind of refusal, and that causes stay inside.
func TestRefusalTable(t *testing.T) {
	for kind, want := range map[mirror.Kind]codes.Code{
		mirror.NotFound: codes.NotFound, mirror.Unavailable: codes.Unavailable, mirror.Invalid: codes.InvalidArgument, mirror.Damaged: codes.DataLoss,
	} {
		err := refuse("o", slog.New(slog.DiscardHandler), &mirror.Refusal{Kind: kind, Reason: "R", Text: "text", Err: errors.New("secret path"), Freshness: mirror.Freshness{Source: "stale", CheckpointAge: 1500e6, UpstreamState: "frozen"}})
		s := status.Convert(err)
		if s.Code() != want || s.Message() != "text" || len(s.Details()) != 1 {
			t.Errorf("kind %d: %v %v", kind, s, s.Details())
			continue
		}
		info := s.Details()[0].(*errdetails.ErrorInfo)
		m := info.GetMetadata()
		if info.GetReason() != "R" || info.GetDomain() != "understudy.v1" || m["origin"] != "o" || m["source"] != "stale" || m["checkpoint_age"] != "1.5s" || m["upstream_state"] != "frozen" {
			t.Errorf("kind %d: %v", kind, info)
		}
	}
	for err, want := range map[error]codes.Code{
		context.Canceled: codes.Canceled, context.DeadlineExceeded: codes.DeadlineExceeded,
		status.Error(codes.Unavailable, "transport is closing"): codes.Unavailable, errors.New("secret path"): codes.Internal,
	} {
		got := status.Convert(refuse("o", slog.New(slog.DiscardHandler), err))
		if got.Code() != want || got.Message() == "secret path" {
			t.Errorf("%v becomes %v, want %v", err, got, want)
		}
	}
}
