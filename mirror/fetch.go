package mirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	requestTime   = 30 * time.Second // for one request, answer included
	tries         = 3                // of one request, before the round is given up
	maxRetryAfter = time.Hour        // more is taken for a mistake
)

// fetcher sends requests to one place, within a budget. It verifies nothing.
type fetcher struct {
	prefix    string
	client    *http.Client
	userAgent string
	encoding  string // that is accepted
	budget    *rate.Limiter
	part      *rate.Limiter // of the budget; nil is all of it
	quiet     bool          // what fails may be what was asked for: it says nothing of upstream
	until     *atomic.Int64 // Unix nanoseconds before which upstream asked not to be asked; of quiet fetchers
	metrics   *logMetrics
	answered  func(ok bool) // told of every request whether upstream gave an orderly answer
}

// StatusError is an HTTP answer other than 200.
type StatusError struct {
	Code  int
	After time.Duration // what Retry-After asked for; 0 if nothing
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("upstream answered %d %s", e.Code, http.StatusText(e.Code))
	if e.After > 0 {
		s += fmt.Sprintf(" and asks to wait %s", e.After)
	}
	return s
}

// NewStatusError is the error of an answer.
func NewStatusError(r *http.Response) *StatusError {
	return &StatusError{Code: r.StatusCode, After: ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())}
}

// StatusCode is the HTTP status.
func (e *StatusError) StatusCode() int { return e.Code }

// RetryAfter is what upstream asked to wait; 0 if nothing.
func (e *StatusError) RetryAfter() time.Duration { return e.After }

// FormatError is an answer that cannot be what was asked for.
type FormatError struct{ Problem string }

func (e *FormatError) Error() string { return e.Problem }

func newFetcher(cfg Config, address string, answered func(bool)) (*fetcher, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("url %q of log %s is not an http or https address", address, cfg.Name)
	}
	client := cfg.HTTPClient
	if client == nil {
		client = NewClient(nil)
	}
	return &fetcher{
		prefix:    strings.TrimRight(address, "/"),
		client:    client,
		userAgent: UserAgent(cfg.Contact),
		encoding:  encodingFor(u.Hostname()),
		budget:    newBudget(cfg.RequestsPerSecond),
		until:     new(atomic.Int64),
		metrics:   cfg.Metrics.log(cfg.Name),
		answered:  answered,
	}, nil
}

// NewClient returns a client for upstreams. Its transport is what wrap makes of the usual one; nil
// changes nothing.
func NewClient(wrap func(http.RoundTripper) http.RoundTripper) *http.Client {
	var transport http.RoundTripper = newTransport()
	if wrap != nil {
		transport = wrap(transport)
	}
	return &http.Client{Transport: transport, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("more than 3 redirects")
		}
		return nil
	}}
}

// encodingFor returns the content encoding to ask a host for. Packing and unpacking costs more
// than it saves where the network is this machine.
func encodingFor(host string) string {
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.IsLoopback() {
		return "identity"
	}
	return "gzip"
}

// newTransport keeps enough connections for the requests under way, and little of answers
// that nobody reads yet.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = parallel
	// All requests share a connection. One that something on the way has forgotten swallows them until the system gives
	// it up, after a quarter of an hour, while upstream is there: so it must show that it lives, sooner than two probes fail.
	t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 20, SendPingTimeout: 2 * time.Second, PingTimeout: 1500 * time.Millisecond}
	return t
}

// UserAgent is what we call ourselves to upstreams; contact is how their operators reach ours.
func UserAgent(contact string) string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = strings.Trim(info.Main.Version, "()")
	}
	ua := "understudy/" + version
	if contact != "" {
		ua += " (" + contact + ")"
	}
	return ua
}

// get reads one resource of at most limit bytes, within the budget. It tries again a few
// times after what may pass.
func (f *fetcher) get(ctx context.Context, kind, path string, limit int64, s *share) ([]byte, error) {
	return f.request(ctx, kind, path, nil, limit, s)
}

// post sends JSON and reads the answer, as get does. What it asks for changes nothing upstream.
func (f *fetcher) post(ctx context.Context, kind, path string, body []byte, limit int64, s *share) ([]byte, error) {
	return f.request(ctx, kind, path, body, limit, s)
}

func (f *fetcher) request(ctx context.Context, kind, path string, body []byte, limit int64, s *share) ([]byte, error) {
	for try := 1; ; try++ {
		if wait := time.Until(time.Unix(0, f.until.Load())); f.quiet && wait > 0 {
			return nil, &StatusError{Code: http.StatusTooManyRequests, After: wait}
		}
		raw, err := f.once(ctx, kind, path, body, limit, s)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if after := retryAfter(err); after > 0 {
			f.until.Store(time.Now().Add(after).UnixNano())
		}
		f.report(err)
		if err == nil || try == tries || !passing(err) {
			return raw, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(jitter(100 * time.Millisecond << (2 * try))):
		}
	}
}

// report tells whether upstream gave an orderly answer. Of what a quiet fetcher meets, only
// that nothing can be connected to counts against it.
func (f *fetcher) report(err error) {
	ok := err == nil || isGone(err)
	var network *net.OpError
	if ok || !f.quiet || errors.As(err, &network) && network.Op == "dial" {
		f.answered(ok)
	}
}

// passing says whether an error is worth an immediate second try: a server's bad moment,
// but not one that asked us to wait, nor a network that is away.
func passing(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code >= 500 && status.After == 0
}

func (f *fetcher) once(ctx context.Context, kind, path string, body []byte, limit int64, s *share) ([]byte, error) {
	if err := f.turn(ctx); err != nil {
		return nil, err
	}
	return f.send(ctx, kind, path, body, limit, s)
}

// send is once without the budget.
func (f *fetcher) send(ctx context.Context, kind, path string, body []byte, limit int64, s *share) (_ []byte, err error) {
	code := 0
	defer func() { f.metrics.request(kind, code) }()
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, f.prefix+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("User-Agent", f.userAgent)
	req.Header.Set("Accept-Encoding", f.encoding) // unpacked by readAll: net/http would not tell a broken answer from a broken connection
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	code = resp.StatusCode
	if code != http.StatusOK {
		return nil, NewStatusError(resp)
	}
	return readAll(ctx, resp, limit, s)
}

// turn waits for the budget.
func (f *fetcher) turn(ctx context.Context) error {
	for _, budget := range []*rate.Limiter{f.part, f.budget} {
		if budget == nil {
			continue
		}
		r := budget.Reserve()
		if !pause(ctx, r.Delay()) {
			r.Cancel()
			return ctx.Err()
		}
	}
	return nil
}

// readAll reads an answer of at most limit bytes, unpacked, into bytes of s. What breaks on
// the way is upstream out of reach; what arrives and cannot be unpacked is malformed.
func readAll(ctx context.Context, resp *http.Response, limit int64, s *share) ([]byte, error) {
	wire := &wireReader{Reader: resp.Body}
	body, size := io.Reader(wire), resp.ContentLength
	switch encoding := resp.Header.Get("Content-Encoding"); strings.ToLower(encoding) {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(wire)
		if err != nil {
			return nil, wire.blame(err)
		}
		body, size = unpacked, -1
	default:
		return nil, &FormatError{fmt.Sprintf("answer has the content encoding %q, which was not asked for: look at what stands between here and the log", encoding)}
	}
	if size < 0 && s != nil {
		size = int64(s.bytes)
	}
	var buf []byte
	for int64(len(buf)) <= limit {
		if len(buf) == cap(buf) {
			room := min(max(512, size+1, 2*int64(cap(buf))), limit+1)
			if err := s.grow(ctx, int(room)); err != nil {
				return nil, unreachable(err)
			}
			buf = append(make([]byte, 0, room), buf...)
		}
		n, err := body.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			return buf, nil
		}
		if err != nil {
			return nil, wire.blame(err)
		}
	}
	return nil, &FormatError{fmt.Sprintf("answer is longer than %d bytes", limit)}
}

// wireReader remembers whether what it reads from broke.
type wireReader struct {
	io.Reader
	err error
}

func (w *wireReader) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	if err != nil && err != io.EOF {
		w.err = err
	}
	return n, err
}

// blame returns why reading and unpacking ended with err.
func (w *wireReader) blame(err error) error {
	if w.err != nil {
		return unreachable(w.err)
	}
	return &FormatError{fmt.Sprintf("answer says that it is gzip, but cannot be unpacked (%v): look at what stands between here and the log", err)}
}

// unreachable drops the method and URL that net/http puts in front of a cause: the
// caller names the resource.
func unreachable(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no whole answer within %s", requestTime)
	}
	return err
}

// ParseRetryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date. More than an hour is taken for a
// mistake, and is an hour.
func ParseRetryAfter(v string, now time.Time) time.Duration {
	after := time.Duration(0)
	if s, err := strconv.Atoi(v); err == nil {
		after = time.Duration(min(max(s, 0), int(maxRetryAfter/time.Second))) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		after = max(at.Sub(now), 0)
	}
	return min(after, maxRetryAfter)
}

func retryAfter(err error) time.Duration {
	var status *StatusError
	if errors.As(err, &status) {
		return status.After
	}
	return 0
}
