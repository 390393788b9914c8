package reconcile

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

const (
	requestTime = time.Minute // of one request: Rekor v2 answers when a checkpoint covers the entry
	maxAnswer   = 32 << 20    // bytes
	maxRefusal  = 300         // characters of the log's words
)

// SubmitterConfig is what a Submitter is made from.
type SubmitterConfig struct {
	// URL is where the log's API begins: of Rekor v1 what stands before /api/v1, of Rekor v2 with the
	// /api/v2 at the end.
	URL       string
	Client    *http.Client // nil is http.DefaultClient. Redirects are never followed
	UserAgent string
	// Keys are today's keys of the log: an answer counts only if they signed what is in it.
	Keys func() []trust.Key

	// Find returns the entry of a leaf hash if the mirror of a Rekor v2 log holds it, with its proof, and
	// nil if not: the server forgets after a while what it has logged, and would take it twice. Fetch
	// returns the entry at an index, which the server names when it remembers; it waits until the
	// mirror holds it. Nil: there is no mirror. Rekor v1 needs neither.
	Find  func(ctx context.Context, leaf storage.Hash) (*protorekor.TransparencyLogEntry, error)
	Fetch func(ctx context.Context, index uint64) (*protorekor.TransparencyLogEntry, error)
}

// api sends requests to a log.
type api struct {
	SubmitterConfig

	url    *url.URL
	client http.Client
}

func newAPI(c SubmitterConfig) (*api, error) {
	u, err := url.Parse(strings.TrimRight(c.URL, "/"))
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is no http or https address of a log", c.URL)
	}
	a := &api{SubmitterConfig: c, url: u}
	if c.Client != nil {
		a.client = *c.Client
	}
	// Whoever redirects a proposal reads it, or turns it into a GET.
	a.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return a, nil
}

// statusError is an answer that says neither yes nor no.
type statusError struct {
	code  int
	text  string
	after time.Duration
}

func (e *statusError) Error() string {
	s := fmt.Sprintf("the log answered %d %s", e.code, http.StatusText(e.code))
	if e.text != "" {
		s += ": " + e.text
	}
	if e.after > 0 {
		s += fmt.Sprintf(" and asks to wait %s", e.after)
	}
	return s
}

// RetryAfter is what the header of that name asked for.
func (e *statusError) RetryAfter() time.Duration { return e.after }

// answerError is an answer that does not prove what it says. It is no refusal, and no receipt.
type answerError struct{ err error }

func (e *answerError) Error() string {
	return fmt.Sprintf("the answer of the log is not believed: %v; if the log has new keys, update its trusted root", e.err)
}

func (e *answerError) Unwrap() error { return e.err }

func doubt(format string, args ...any) error { return &answerError{fmt.Errorf(format, args...)} }

// answer is what a request got.
type answer struct {
	code   int
	header http.Header
	body   []byte
}

// send sends a request; path follows the address of the log.
func (a *api) send(ctx context.Context, method, path string, body []byte) (*answer, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.url.String()+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("Accept", "application/json")
	if a.UserAgent != "" {
		req.Header.Set("User-Agent", a.UserAgent)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // without the URL, in which there may be a secret
		}
		return nil, fmt.Errorf("ask the log: %w", err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read the log's answer: %w", err)
	}
	if len(raw) > maxAnswer {
		return nil, doubt("it is longer than %d bytes", maxAnswer)
	}
	return &answer{resp.StatusCode, resp.Header, raw}, nil
}

// refusal returns what an answer other than a good one means.
func (a *answer) refusal() error {
	text := plain(words(a.body), maxRefusal)
	switch a.code {
	// What is wrong with the proposal itself. All else (401, 403, 404, 429, 5xx, redirects) is between
	// the log and us, and may pass.
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity:
		return &RefusedError{a.code, text}
	}
	return &statusError{a.code, text, mirror.ParseRetryAfter(a.header.Get("Retry-After"), time.Now())}
}

// words returns the message of a refusal, which is JSON from both generations.
func words(body []byte) string {
	var refusal struct{ Message string }
	if json.Unmarshal(body, &refusal) == nil && refusal.Message != "" {
		return refusal.Message
	}
	return string(body[:min(len(body), 4*maxRefusal)])
}

// plain returns a stranger's text on one line, without control characters and cut to a length.
func plain(s string, most int) string {
	s = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "?"), func(r rune) bool { return unicode.IsSpace(r) || !unicode.IsPrint(r) }), " ")
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return s
}
