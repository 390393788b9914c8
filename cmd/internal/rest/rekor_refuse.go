package rest

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-log/understudy/mirror"
)

// Codes of Rekor's API for requests that are not valid; their status is 422.
const (
	codeInvalidType   = 601
	codeRequired      = 602
	codeFailedPattern = 605
	codeBelowMinimum  = 609
)

// statusClientClosed is what nobody reads any more; logs and metrics have it from nginx.
const statusClientClosed = 499

// rekorError is an error as Rekor's API writes it. Reason is ours: why it is not known.
type rekorError struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
	Reason  string `json:"reason,omitempty"`

	// Line ends the text with a newline: so do Rekor's handlers, but not what checks the
	// form of a request in front of them.
	Line bool `json:"-"`
}

func (e rekorError) Error() string { return e.Message }

// status is the HTTP status: codes from 600 on say more than it does.
func (e rekorError) status() int {
	if e.Code >= 600 {
		return http.StatusUnprocessableEntity
	}
	return e.Code
}

func (e rekorError) json() []byte {
	data, err := json.Marshal(e)
	if err != nil {
		panic("rest: marshal error: " + err.Error()) // two strings and a number
	}
	if e.Line {
		data = append(data, '\n')
	}
	return data
}

func required(what string) error {
	return rekorError{Code: codeRequired, Message: what + " is required"}
}

// refused is the error of one of Rekor's handlers.
func refused(code int, message string) rekorError {
	return rekorError{Code: code, Message: message, Line: true}
}

func failedPattern(what, pattern string) error {
	return rekorError{Code: codeFailedPattern, Message: what + " should match '" + pattern + "'"}
}

func (e rekorError) write(w http.ResponseWriter) { writeRekor(w, e.status(), mediaJSON, e.json()) }

// refuseRekor answers as one of Rekor's handlers does.
func refuseRekor(w http.ResponseWriter, code int, message string) { refused(code, message).write(w) }

// refuseRoute answers as what is in front of Rekor's handlers does.
func refuseRoute(w http.ResponseWriter, code int, message string) {
	rekorError{Code: code, Message: message}.write(w)
}

func refuseMedia(w http.ResponseWriter, offers ...string) {
	refuseRoute(w, http.StatusNotAcceptable, "unsupported media type requested, only ["+strings.Join(offers, " ")+"] are available")
}

// refuseInvalid answers a request that is not valid. Of several errors, which the checks
// of Rekor's own types find, it tells the first.
func refuseInvalid(w http.ResponseWriter, err error) {
	for {
		several, ok := err.(interface{ Unwrap() []error })
		if !ok || len(several.Unwrap()) == 0 {
			break
		}
		err = several.Unwrap()[0]
	}
	e, ok := errors.AsType[rekorError](err)
	if !ok {
		e = rekorError{Code: http.StatusBadRequest, Message: err.Error()}
		if coded, ok := err.(interface{ Code() int32 }); ok {
			e.Code = int(coded.Code())
		}
	}
	switch {
	case errors.Is(err, context.Canceled):
		e = clientClosed
	case e.Code == http.StatusTooManyRequests:
		w.Header().Set("Retry-After", "1")
	}
	e.write(w)
}

var clientClosed = refused(statusClientClosed, "client disconnected during request")

// statusOf is the one table from kinds of refusal to HTTP status.
var statusOf = map[mirror.Kind]int{
	mirror.NotFound:    http.StatusNotFound,
	mirror.Unavailable: http.StatusServiceUnavailable,
	mirror.Invalid:     http.StatusBadRequest,
	mirror.Damaged:     http.StatusInternalServerError,
}

// refuse answers with the error of a service.
func (p *rekorAPI) refuse(w http.ResponseWriter, r *http.Request, err error) {
	refusal, ok := errors.AsType[*mirror.Refusal](err)
	switch {
	case ok:
	case r.Context().Err() != nil:
		clientClosed.write(w)
		return
	case errors.Is(err, context.DeadlineExceeded):
		refuseRekor(w, http.StatusGatewayTimeout, http.StatusText(http.StatusGatewayTimeout))
		return
	default:
		p.logger.Error("request cannot be answered", "path", r.URL.Path, "error", err)
		refuseRekor(w, http.StatusInternalServerError, "the answer could not be made; the server's operator finds the details in its log")
		return
	}
	setFreshness(w.Header(), refusal.Freshness)
	status := statusOf[refusal.Kind]
	if status == http.StatusNotFound { // as Rekor has it: no body
		w.WriteHeader(status)
		return
	}
	if refusal.After > 0 {
		seconds := (refusal.After + time.Second - 1) / time.Second
		w.Header().Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
	if refusal.Kind == mirror.Damaged {
		p.logger.Error("request cannot be answered", "path", r.URL.Path, "error", err, "cause", refusal.Err)
	}
	rekorError{Code: status, Message: refusal.Text, Reason: refusal.Reason, Line: true}.write(w)
}

// setFreshness tells how current an answer is, in the words of the gRPC API.
func setFreshness(h http.Header, f mirror.Freshness) {
	if f.Source == "" {
		return
	}
	h.Set("Understudy-Source", f.Source)
	h.Set("Understudy-Upstream-State", f.UpstreamState)
	h.Set("Understudy-Checkpoint-Age", strconv.FormatInt(int64(f.CheckpointAge.Seconds()), 10))
}

func setShardFreshness(h http.Header, s mirror.Shard) {
	if s.Mirror != nil {
		setFreshness(h, s.Mirror.Freshness())
	}
}
