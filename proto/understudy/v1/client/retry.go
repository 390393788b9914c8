package client

import (
	"context"
	"time"

	"github.com/cenkalti/backoff/v5"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// retryTime is how long a broken call is tried again without any progress.
const retryTime = time.Minute

// retry calls f until it returns a result or an error other than that of a broken
// connection, or until retryTime is over.
func retry[T any](ctx context.Context, f func() (T, error)) (T, error) {
	if v, err := f(); !broken(err) {
		return v, err
	}
	return backoff.Retry(ctx, func() (T, error) {
		v, err := f()
		if err != nil && !broken(err) {
			err = backoff.Permanent(err)
		}
		return v, err
	}, backoff.WithMaxElapsedTime(retryTime))
}

// broken tells whether err says that there was no answer, not even a refusal.
func broken(err error) bool {
	return status.Code(err) == codes.Unavailable && Reason(err) == ""
}
