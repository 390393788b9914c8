package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// patientClient gives up a request on which nothing moves, in either direction, and one
// whose answer is too large to be one.
type patientClient struct {
	client   s3.HTTPClient
	patience time.Duration
}

const maxAnswer = 8 << 20 // bytes, but of a pack; a list of 1,000 long keys has one

// stalledError says that nothing moved. The SDK does not try again for it.
type stalledError struct{ patience time.Duration }

func (e *stalledError) Error() string {
	return fmt.Sprintf("the service was silent for %s", e.patience)
}

// RetryableError tells the SDK that we have waited for long enough.
func (e *stalledError) RetryableError() bool { return false }

// Do sends a request. Its time limit is renewed with every piece of either body.
func (c *patientClient) Do(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(c.patience, func() { cancel(&stalledError{c.patience}) })
	w := &watched{ctx: ctx, moved: func() { timer.Reset(c.patience) }, limit: -1}
	w.end = func() { timer.Stop(); cancel(nil) }
	sent := r.WithContext(ctx)
	if r.Body != nil && r.Body != http.NoBody {
		up := *w
		up.ReadCloser, up.end = r.Body, func() {}
		sent.Body, sent.GetBody = &up, nil
	}
	answer, err := c.client.Do(sent)
	if err != nil {
		err = w.cause(err)
		w.end()
		return nil, err
	}
	w.moved()
	w.ReadCloser = answer.Body
	if middleware.GetOperationName(ctx) != "GetObject" || answer.StatusCode >= 300 {
		w.limit = maxAnswer
	}
	answer.Body = w
	return answer, nil
}

// watched is a body that reports when it moves.
type watched struct {
	io.ReadCloser
	ctx   context.Context // of the request
	moved func()
	end   func()
	limit int64 // bytes that may still come; negative: any number
}

var errTooLarge = errors.New("the service's answer does not end")

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if n > 0 {
		w.moved()
	}
	if w.limit >= 0 {
		if w.limit -= int64(n); w.limit < 0 {
			return 0, errTooLarge
		}
	}
	if err != nil && err != io.EOF {
		err = w.cause(err)
	}
	return n, err
}

// Close closes the body, and ends the request.
func (w *watched) Close() error {
	defer w.end()
	return w.ReadCloser.Close()
}

// cause returns why the request was given up, if it was.
func (w *watched) cause(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}
