package drill

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// What a client sees of each fault is what net/http gives it when that happens in earnest.

// refuse is a port where nobody listens.
func refuse(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	unsent(r)
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

// noName is a name server that knows no such host.
func noName(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	unsent(r)
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: r.URL.Hostname(), IsNotFound: true}}
}

// untrusted is a server with a certificate of an authority that nobody knows.
func untrusted(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	unsent(r)
	return nil, &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
}

// hang is a server that was stopped: it takes a request and says nothing. When it goes on, it
// answers.
func hang(a *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
	select {
	case <-r.Context().Done():
		unsent(r)
		return nil, context.Cause(r.Context())
	case <-a.gone:
		return base.RoundTrip(r)
	}
}

// unsent closes the body of a request that is not sent, as a RoundTripper must.
func unsent(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// answer is an answer that upstream never gave.
func answer(r *http.Request, status int, header http.Header) *http.Response {
	unsent(r)
	body := http.StatusText(status) + "\n"
	header.Set("Content-Type", "text/plain; charset=utf-8")
	return &http.Response{
		Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: io.NopCloser(bytes.NewReader([]byte(body))), ContentLength: int64(len(body)), Request: r,
	}
}

// serverErrors answers 503 and 500 in turns.
func serverErrors() fault {
	var asked atomic.Uint64
	return func(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
		status := http.StatusServiceUnavailable
		if asked.Add(1)%2 == 0 {
			status = http.StatusInternalServerError
		}
		return answer(r, status, http.Header{}), nil
	}
}

// retryAfter is short: who obeys it must still see within the targets that upstream is back.
const retryAfter = time.Second

func rateLimited(_ *arming, r *http.Request, _ http.RoundTripper) (*http.Response, error) {
	return answer(r, http.StatusTooManyRequests, http.Header{"Retry-After": {strconv.Itoa(int(retryAfter / time.Second))}}), nil
}

// flapTurn is how long a flapping upstream is away, and then there.
const flapTurn = 3 * time.Second

func flap(a *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
	if time.Since(a.began)/flapTurn%2 == 0 {
		return refuse(a, r, base)
	}
	return base.RoundTrip(r)
}

// dripEvery is the time that a byte of a slow drip takes.
const dripEvery = time.Second

// slowDrip lets the header of an answer through, and then a byte a second.
func slowDrip(a *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
	resp, err := base.RoundTrip(r)
	if err == nil {
		resp.Body = &drip{ReadCloser: resp.Body, ctx: r.Context(), gone: a.gone, closed: make(chan struct{})}
	}
	return resp, err
}

// drip is a body that arrives a byte at a time while a fault is in force.
type drip struct {
	io.ReadCloser
	ctx    context.Context // of the request, as net/http keeps it: reading ends with it
	gone   <-chan struct{}
	once   sync.Once
	closed chan struct{}
}

// Read implements io.Reader.
func (d *drip) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	timer := time.NewTimer(dripEvery)
	defer timer.Stop()
	select {
	case <-d.ctx.Done():
		return 0, context.Cause(d.ctx)
	case <-d.closed:
		return 0, http.ErrBodyReadAfterClose
	case <-timer.C:
		p = p[:1]
	case <-d.gone:
	}
	return d.ReadCloser.Read(p)
}

// Close implements io.Closer.
func (d *drip) Close() error {
	d.once.Do(func() { close(d.closed) })
	return d.ReadCloser.Close()
}

// maxHalved bounds what is read of an answer to find its half; of a longer one that much passes.
const maxHalved = 16 << 20

// truncate lets half of an answer through; then the connection breaks.
func truncate(_ *arming, r *http.Request, base http.RoundTripper) (*http.Response, error) {
	resp, err := base.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	whole, err := io.ReadAll(io.LimitReader(resp.Body, maxHalved))
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), broken{}))
	return resp, nil
}

// broken is the end of a body that broke off.
type broken struct{}

// Read implements io.Reader.
func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }
