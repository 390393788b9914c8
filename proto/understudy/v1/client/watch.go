package client

import (
	"bytes"
	"context"
	"iter"

	"google.golang.org/grpc"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// WatchCheckpoints yields the newest checkpoint at once and then each newer one, each
// proven to be consistent with those before, until ctx ends (its error comes last) or
// the caller stops. A stream that breaks is taken up again, for up to a minute; what
// was yielded is not yielded again.
func (c *Client) WatchCheckpoints(ctx context.Context) iter.Seq2[SignedHead, error] {
	return func(yield func(SignedHead, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		w := &watch{Client: c}
		var last []byte
		for {
			head, err := retry(ctx, func() (SignedHead, error) { return w.receive(ctx) })
			if err != nil {
				yield(SignedHead{}, err)
				return
			}
			if bytes.Equal(head.Checkpoint, last) {
				continue
			}
			last = head.Checkpoint
			if !yield(head, nil) {
				return
			}
		}
	}
}

// watch is one call of WatchCheckpoints.
type watch struct {
	*Client
	stream grpc.ServerStreamingClient[understudyv1.WatchCheckpointsResponse]
	before Head // the next one must not be older
}

// receive returns the next checkpoint of the stream, which it opens if there is none.
func (w *watch) receive(ctx context.Context) (SignedHead, error) {
	if w.stream == nil {
		w.before = w.Newest()
		stream, err := w.rpc.WatchCheckpoints(ctx, &understudyv1.WatchCheckpointsRequest{Origin: w.origin}, grpc.MaxCallRecvMsgSize(maxAnswer))
		if err != nil {
			return SignedHead{}, refused("watch checkpoints", err)
		}
		w.stream = stream
	}
	answer, err := w.stream.Recv()
	if err != nil {
		w.stream = nil
		return SignedHead{}, refused("watch checkpoints", err)
	}
	head, err := w.head(ctx, w.before, 0, answer)
	if err != nil {
		return SignedHead{}, err
	}
	w.before = head
	return SignedHead{head, freshness(answer)}, nil
}
