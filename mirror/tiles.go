package mirror

import (
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/understudy-log/understudy/storage"
)

const (
	bundleWidth = 256 // entries in a full bundle, hashes in a full tile

	maxCheckpoint = 1 << 20                        // bytes of a note
	maxBundle     = bundleWidth * (2 + 1<<16 - 1)  // bytes of a full bundle of the longest entries
	maxTile       = bundleWidth * storage.HashSize // bytes of a full tile
	requestTime   = 30 * time.Second               // for one request, answer included
	tries         = 3                              // of one request, before the round is given up
	maxRetryAfter = time.Hour                      // more is taken for a mistake
)

// tiles is a source that speaks C2SP tlog-tiles over HTTP. It verifies nothing but the
// form of what it reads.
type tiles struct {
	prefix    string
	client    *http.Client
	userAgent string
	encoding  string // that is accepted
	budget    *rate.Limiter
	part      *rate.Limiter // of the budget; nil is all of it
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

// FormatError is an answer that cannot be what was asked for.
type FormatError struct{ Problem string }

func (e *FormatError) Error() string { return e.Problem }

func newTiles(cfg Config, address string, answered func(bool)) (*tiles, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return nil, fmt.Errorf("url %q of log %s is not an http or https address", address, cfg.Name)
	}
	client := cfg.HTTPClient
	if client == nil {
		client = &http.Client{Transport: newTransport(), CheckRedirect: func(_ *http.Request, via []*http.Request) error {
			if len(via) > 3 {
				return errors.New("more than 3 redirects")
			}
			return nil
		}}
	}
	return &tiles{
		prefix:    strings.TrimRight(address, "/"),
		client:    client,
		userAgent: userAgent(cfg.Contact),
		encoding:  encodingFor(u.Hostname()),
		budget:    newBudget(cfg.RequestsPerSecond),
		metrics:   cfg.Metrics.log(cfg.Name),
		answered:  answered,
	}, nil
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
	t.HTTP2 = &http.HTTP2Config{MaxReceiveBufferPerStream: 1 << 20}
	return t
}

func userAgent(contact string) string {
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

// checkpoint reads the signed note.
func (t *tiles) checkpoint(ctx context.Context) ([]byte, error) {
	raw, err := t.get(ctx, "checkpoint", "/checkpoint", maxCheckpoint, nil)
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	return raw, nil
}

// tile reads width hashes of a hash tile.
func (t *tiles) tile(ctx context.Context, level int, index uint64, width int) ([]byte, error) {
	name := fmt.Sprintf("tile/%d/%s", level, tilePath(index))
	raw, err := t.partial(ctx, "tile", name, width, maxTile, nil)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if want := width * storage.HashSize; len(raw) < want || (len(raw) != want && len(raw) != maxTile) {
		return nil, fmt.Errorf("read %s: %w", name, &FormatError{fmt.Sprintf("%d bytes are not a tile of %d hashes", len(raw), width)})
	}
	return raw[:width*storage.HashSize], nil
}

// entries reads the first width entries of a bundle. Its bytes come out of s.
func (t *tiles) entries(ctx context.Context, index uint64, width int, s *share) ([][]byte, error) {
	name := "tile/entries/" + tilePath(index)
	raw, err := t.partial(ctx, "entries", name, width, maxBundle, s)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	entries, err := splitBundle(raw, width)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return entries, nil
}

// partial reads a resource of the given width, or the full one if the partial one is
// gone.
// SPEC: tlog-tiles, Partial Tiles: logs "MAY delete any partial tile once the
// corresponding full tile is [...] available".
func (t *tiles) partial(ctx context.Context, kind, name string, width int, limit int64, s *share) ([]byte, error) {
	if width == bundleWidth {
		return t.get(ctx, kind, "/"+name, limit, s)
	}
	raw, err := t.get(ctx, kind, fmt.Sprintf("/%s.p/%d", name, width), limit, s)
	if isGone(err) {
		if full, fullErr := t.get(ctx, kind, "/"+name, limit, s); fullErr == nil {
			return full, nil
		}
	}
	return raw, err
}

func isGone(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && (status.Code == http.StatusNotFound || status.Code == http.StatusGone)
}

// splitBundle returns the first width entries of a bundle that holds width entries or is
// full. It refuses trailing bytes.
func splitBundle(raw []byte, width int) ([][]byte, error) {
	entries := make([][]byte, 0, width)
	n, rest := 0, raw
	for ; len(rest) > 0; n++ {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, &FormatError{fmt.Sprintf("bundle is cut off in entry %d", n)}
		}
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if n < width {
			entries = append(entries, rest[2:end:end])
		}
		rest = rest[end:]
	}
	if n != width && (n != bundleWidth || width > n) {
		return nil, &FormatError{fmt.Sprintf("bundle has %s, want %d", entriesText(uint64(n)), width)}
	}
	return entries, nil
}

// tilePath encodes the index of a tile.
// SPEC: tlog-tiles, Merkle Tree: "a non-negative integer encoded into zero-padded
// 3-digit path elements. All but the last path element MUST begin with an x."
func tilePath(index uint64) string {
	path := fmt.Sprintf("%03d", index%1000)
	for index >= 1000 {
		index /= 1000
		path = fmt.Sprintf("x%03d/%s", index%1000, path)
	}
	return path
}

// get reads one resource of at most limit bytes, within the budget. It tries again a few
// times after what may pass.
func (t *tiles) get(ctx context.Context, kind, path string, limit int64, s *share) ([]byte, error) {
	for try := 1; ; try++ {
		raw, err := t.getOnce(ctx, kind, path, limit, s)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		t.answered(err == nil || isGone(err))
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

// passing says whether an error is worth an immediate second try: a server's bad moment,
// but not one that asked us to wait, nor a network that is away.
func passing(err error) bool {
	var status *StatusError
	return errors.As(err, &status) && status.Code >= 500 && status.After == 0
}

func (t *tiles) getOnce(ctx context.Context, kind, path string, limit int64, s *share) (_ []byte, err error) {
	for _, budget := range []*rate.Limiter{t.part, t.budget} {
		if budget == nil {
			continue
		}
		if err := budget.Wait(ctx); err != nil {
			return nil, err
		}
	}
	code := 0
	defer func() { t.metrics.request(kind, code) }()
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.prefix+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", t.userAgent)
	req.Header.Set("Accept-Encoding", t.encoding) // unpacked by readAll: net/http would not tell a broken answer from a broken connection
	resp, err := t.client.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer resp.Body.Close()
	code = resp.StatusCode
	if code != http.StatusOK {
		return nil, &StatusError{Code: code, After: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())}
	}
	return readAll(ctx, resp, limit, s)
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

// parseRetryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
func parseRetryAfter(v string, now time.Time) time.Duration {
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
