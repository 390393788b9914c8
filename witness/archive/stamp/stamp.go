// Package stamp obtains and verifies time stamps of RFC 3161, with which a time-stamp authority
// (TSA) that is nobody of ours says when the manifest of an evidence pack existed at the latest.
//
// What is kept is the whole response (TimeStampResp, DER): the content of a .tsr file, which
// `openssl ts -reply` and `openssl ts -verify` read. [Verify] needs no network and no clock.
//
// # What a response covers
//
// Flip any bit of a response, and [Verify] refuses it, except in
//
//   - the text that may stand beside the status (PKIFreeText), as long as it stays UTF-8, which can
//     be left out and repeated, too;
//   - those certificates in it whose issuer is neither in it nor among the roots, such as a
//     cross-certificate above the roots: there, whatever is not the subject and the key. They only
//     help to build the chain of the signer.
//
// By more than the flip of a bit, one can furthermore without the authority's key: take away, add,
// reorder or repeat certificates beside that of the signer, and name unknown issuers in those that
// the chain does not need; write the parameters of an algorithm as NULL or leave them out; name an
// RSA signature by rsaEncryption or with its hash; turn an ECDSA signature (r, s) into (r, -s).
// Digest, time, serial number, policy, nonce and the certificate of the signer stay what they were.
// Who needs the very bytes signs them: the signature of a pack covers its response.
//
// A response is read by two readers that must agree: the timestamp library of Sigstore's clients,
// which is lenient, and form.go, which refuses what is not DER and what no signature covers.
//
// Not read: signers that are named by a key identifier, RSASSA-PSS and Ed25519. Revocation is not
// looked up.
package stamp

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/digitorus/timestamp"
)

// MaxResponse is the size of the largest response in bytes. Usual ones have 1 to 8 KiB.
const MaxResponse = 64 << 10

const (
	defaultTimeout = 30 * time.Second
	defaultSkew    = 5 * time.Minute
	nonceBits      = 64 // more would be refused by some
)

// Config says which authority is asked, and how.
type Config struct {
	URL     string        // http or https; required. A password in it is not shown
	Client  *http.Client  // nil: http.DefaultTransport. Its redirects are not followed
	Timeout time.Duration // for one exchange as a whole; 0: 30 s
	Contact string        // somebody to write to, for the User-Agent

	// Roots are what the authority's certificate must chain to. Without any, a chain of the
	// authority's own making is taken: then only [Verify] tells whether to believe it.
	Roots Roots

	// Skew is how far the authority's time may be from this machine's clock; 0: 5 min.
	Skew time.Duration
}

// Authority is a time-stamp authority that can be asked. It may be used by several goroutines.
type Authority struct {
	url       string
	shown     string // url without a password
	userAgent string
	client    http.Client
	timeout   time.Duration
	skew      time.Duration
	roots     Roots
}

// New returns the authority that config describes. It asks it nothing.
func New(config Config) (*Authority, error) {
	u, err := url.Parse(config.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("url of a time-stamp authority: %q is not an http or https URL", config.URL)
	}
	if config.Timeout < 0 || config.Skew < 0 {
		return nil, errors.New("time-stamp authority: a negative duration")
	}
	a := &Authority{
		url:       config.URL,
		shown:     u.Redacted(),
		userAgent: userAgent(config.Contact),
		timeout:   config.Timeout,
		skew:      config.Skew,
		roots:     config.Roots,
	}
	if config.Client != nil {
		a.client = *config.Client
	}
	a.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if a.timeout == 0 {
		a.timeout = defaultTimeout
	}
	if a.skew == 0 {
		a.skew = defaultSkew
	}
	return a, nil
}

func userAgent(contact string) string {
	version := "devel"
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		version = strings.Trim(info.Main.Version, "()")
	}
	agent := "understudy/" + version
	if contact != "" {
		agent += " (" + contact + ")"
	}
	return agent
}

// Stamp asks the authority when digest, a SHA-256, exists. It returns the response as received,
// verified as [Verify] does it, also to be an answer to this very request, and its time, in UTC.
//
// An error is an [*UnreachableError], to try again; an [*InvalidError], to tell somebody; or that
// of ctx.
func (a *Authority) Stamp(ctx context.Context, digest [32]byte) (token []byte, at time.Time, err error) {
	nonce, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), nonceBits))
	if err != nil {
		return nil, time.Time{}, err
	}
	request := timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: digest[:], Certificates: true, Nonce: nonce}
	query, err := request.Marshal()
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("encode a time-stamp request: %w", err)
	}
	response, err := a.post(ctx, query)
	now := time.Now()
	if err == nil {
		at, _, err = open(response, digest, nonce, a.roots)
	}
	if err == nil {
		err = a.checkClock(at, now)
	}
	if refusal, ok := errors.AsType[*refusedError](err); ok {
		if refusal.passing() {
			err = &UnreachableError{Err: refusal}
		} else {
			err = refusal.asInvalid()
		}
	}
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("time stamp of %s: %w", a.shown, err)
	}
	return response, at, nil
}

func (a *Authority) checkClock(at, now time.Time) error {
	ahead, word := at.Sub(now), "ahead of"
	if ahead < 0 {
		ahead, word = -ahead, "behind"
	}
	if ahead <= a.skew {
		return nil
	}
	return invalid("its time %s is %s %s this machine's clock, which may differ by %s: see whether the clock is right (NTP); if it is, the authority's is wrong",
		at.Format(time.RFC3339), ahead.Round(time.Second), word, a.skew)
}

// post sends the query and returns the answer, whatever it says.
func (a *Authority) post(parent context.Context, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(parent, a.timeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, a.url, bytes.NewReader(query))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/timestamp-query") // SPEC: RFC 3161, section 3.4
	request.Header.Set("Accept", "application/timestamp-reply")
	request.Header.Set("User-Agent", a.userAgent)
	request.Close = true // requests are rare: by the next, an idle connection may be dead, which a POST does not survive
	answer, err := a.client.Do(request)
	if err != nil {
		return nil, a.unreachable(parent, ctx, err)
	}
	defer answer.Body.Close()
	if err := checkStatus(answer); err != nil {
		return nil, err
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, MaxResponse+1))
	switch {
	case len(body) > MaxResponse:
		return nil, invalid("the answer has more than %d bytes: see whether the url is that of a time-stamp authority", MaxResponse)
	case err != nil:
		return nil, a.unreachable(parent, ctx, err)
	}
	return body, nil
}

// unreachable says what err means: that the caller gave up, or that the authority did not answer.
func (a *Authority) unreachable(parent, ctx context.Context, err error) error {
	if parent.Err() != nil {
		return context.Cause(parent)
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("no whole answer within %s", a.timeout)
	} else if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL is in the message already
	}
	return &UnreachableError{Err: err}
}

func checkStatus(answer *http.Response) error {
	code := answer.StatusCode
	switch {
	case code == http.StatusOK, code == http.StatusCreated: // the latter is an option of Sigstore's server
		return nil
	case code >= 300 && code < 400:
		return invalid("it answered %s with a redirect to %q, which is not followed: set the url to where it leads", answer.Status, answer.Header.Get("Location"))
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
		return &UnreachableError{Err: fmt.Errorf("it answered %s", answer.Status), After: time.Duration(min(max(seconds, 0), maxAfter)) * time.Second}
	}
	return invalid("it answered %s: see whether the url is that of a time-stamp authority, and whether it wants other credentials", answer.Status)
}
