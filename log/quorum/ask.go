package quorum

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-log/understudy/storage"
)

const (
	maxAnswer = 64 << 10 // bytes; a dozen cosignatures of the longest kind have 40 KiB
	maxProof  = 63       // SPEC: "The client MUST NOT send more than 63 consistency proof lines." (tlog-witness)
	maxPause  = time.Minute
)

// typeSize is the media type of the answer that says what a witness has cosigned.
const typeSize = "text/x.tlog.size"

// newEndpoint checks a submission prefix.
func newEndpoint(prefix string) (*endpoint, error) {
	u, err := url.Parse(prefix)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return nil, errors.New("want the submission prefix of the witness, such as https://witness.example.com/w")
	case u.User != nil, u.RawQuery != "", u.ForceQuery, u.Fragment != "", strings.HasSuffix(prefix, "#"):
		return nil, errors.New("a submission prefix has no password, no question mark and no fragment")
	}
	return &endpoint{url: strings.TrimRight(prefix, "/"), keys: map[int]*key{}}, nil
}

// ask asks a witness that has cosigned old entries to cosign a checkpoint. It returns the
// cosignatures, and what the witness has cosigned before.
func (c *Collector) ask(ctx context.Context, e *endpoint, j *job, old uint64) (map[int]string, uint64, error) {
	for again := false; ; again = true {
		body, err := requestBody(j, old)
		if err != nil {
			return nil, old, err
		}
		response, answer, err := c.post(ctx, e, body)
		if err != nil {
			return nil, old, err
		}
		switch response.StatusCode {
		case http.StatusOK:
			lines, err := readLines(j.text, answer, e.keys, time.Now())
			if err != nil {
				return nil, old, fail(resultInvalid, "%v", err)
			}
			return lines, j.checkpoint.Size, nil
		case http.StatusConflict:
			size, err := parseSize(response, answer)
			switch {
			case err != nil:
				return nil, old, err
			case size > j.checkpoint.Size && c.wasShown(size):
				return nil, size, fail(resultRefused, "it was asked about %d entries when it had cosigned %d of them", j.checkpoint.Size, size)
			case size > j.checkpoint.Size:
				return nil, old, &AheadError{Witness: e.name, Size: size, Ours: j.checkpoint.Size}
			case size == old:
				return nil, old, fail(resultInvalid, "it refuses a proof from size %d, and says that it has cosigned size %d", old, size)
			case again:
				return nil, size, fail(resultRefused, "it said twice that it has cosigned another size, %d at last: does somebody else submit checkpoints of this log?", size)
			}
			old = size
		default:
			return nil, old, refusal(response, answer, j, old)
		}
	}
}

// requestBody encodes what a witness is asked.
//
// SPEC: "The request body MUST be a sequence of the old size line, zero or more consistency proof
// lines, and an empty line, followed by a checkpoint." (tlog-witness)
func requestBody(j *job, old uint64) ([]byte, error) {
	var proof []storage.Hash
	// SPEC: "If the old size is zero, the consistency proof MUST be empty" (tlog-witness); a tree
	// needs no proof to itself.
	if old != 0 && old != j.checkpoint.Size {
		var err error
		if proof, err = j.prove(old); err != nil {
			return nil, fail(resultUnproven, "it has cosigned size %d, and we have no proof from there: %v", old, err)
		}
	}
	if len(proof) > maxProof {
		return nil, fail(resultUnproven, "the proof from size %d has %d hashes: %d is the most", old, len(proof), maxProof)
	}
	body := fmt.Appendf(nil, "old %d\n", old)
	for _, h := range proof {
		body = append(base64.StdEncoding.AppendEncode(body, h[:]), '\n')
	}
	body = append(body, '\n')
	return append(body, j.checkpoint.Raw...), nil
}

// post sends one request, and returns the whole answer.
//
// SPEC: "POST <submission prefix>/add-checkpoint. The request MUST be an HTTP POST." (tlog-witness)
func (c *Collector) post(ctx context.Context, e *endpoint, body []byte) (*http.Response, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return nil, nil, fail(resultUnreachable, "%v", err)
	}
	request.Header.Set("User-Agent", c.userAgent)
	// Asking twice does no harm, so a connection that died while idle may be replaced. The header
	// itself is not sent (net/http.Transport).
	request.Header["Idempotency-Key"] = nil
	response, err := c.client.Do(request)
	if err != nil {
		return nil, nil, c.unreachable(ctx, err)
	}
	defer response.Body.Close()
	// Read to its end, so that the connection is used again.
	// SPEC: "Clients SHOULD use, and witnesses SHOULD support, HTTP keep-alive HTTP connections"
	// (tlog-witness)
	answer, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case len(answer) > maxAnswer:
		return nil, nil, fail(resultInvalid, "its answer has more than %d bytes", maxAnswer)
	case err != nil:
		return nil, nil, c.unreachable(ctx, err)
	}
	return response, answer, nil
}

func (c *Collector) unreachable(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fail(resultUnreachable, "%s", c.silent())
	}
	if e, ok := errors.AsType[*url.Error](err); ok {
		err = e.Err // the URL stands beside it
	}
	return fail(resultUnreachable, "%v", err)
}

func (c *Collector) silent() string { return fmt.Sprintf("no whole answer within %s", c.timeout) }

// parseSize reads the answer of a witness that has cosigned another size.
//
// SPEC: "The response body MUST consist of the tree size of the latest cosigned checkpoint in
// decimal, followed by a newline (U+000A). The response MUST have a Content-Type of
// text/x.tlog.size." (tlog-witness)
func parseSize(response *http.Response, answer []byte) (uint64, error) {
	if media, _, err := mime.ParseMediaType(response.Header.Get("Content-Type")); err != nil || media != typeSize {
		return 0, fail(resultInvalid, "it answered %s without the type %s: see whether the url is that of a witness", response.Status, typeSize)
	}
	digits, ok := strings.CutSuffix(string(answer), "\n")
	size, err := strconv.ParseUint(digits, 10, 64)
	if !ok || err != nil || strconv.FormatUint(size, 10) != digits {
		return 0, fail(resultInvalid, "it answered %s without the size that it has cosigned", response.Status)
	}
	return size, nil
}

// refusal says what an answer means that has no cosignature.
func refusal(response *http.Response, answer []byte, j *job, old uint64) *failure {
	code := response.StatusCode
	said := ""
	if first, _, _ := strings.Cut(strings.TrimSpace(string(answer)), "\n"); first != "" {
		said = fmt.Sprintf(" and says %.120q", first)
	}
	switch {
	case code >= 300 && code < 400:
		return fail(resultInvalid, "it answered %s with a redirect to %.120q, which is not followed: set its url in the policy to where it leads", response.Status, response.Header.Get("Location"))
	case code == http.StatusNotFound:
		return fail(resultRefused, "it answered %s%s: it does not know this log, or its url in the policy is wrong", response.Status, said)
	case code == http.StatusForbidden:
		return fail(resultRefused, "it answered %s%s: it does not have the key of this log; tell its operator", response.Status, said)
	case code == http.StatusUnprocessableEntity && old == j.checkpoint.Size:
		return fail(resultRefused, "it answered %s%s: it has cosigned another tree with %d entries", response.Status, said, old)
	case code == http.StatusUnprocessableEntity:
		return fail(resultRefused, "it answered %s%s: what it has cosigned with %d entries is not the beginning of this log, or it is wrong", response.Status, said, old)
	case code >= 500, code == http.StatusTooManyRequests, code == http.StatusRequestTimeout:
		f := fail(resultUnreachable, "it answered %s%s", response.Status, said)
		seconds, _ := strconv.Atoi(response.Header.Get("Retry-After"))
		f.after = min(time.Duration(min(max(seconds, 0), 3600))*time.Second, maxPause)
		return f
	}
	return fail(resultRefused, "it answered %s%s", response.Status, said)
}
