package rest

import (
	"log/slog"
	"net/http"
	"strconv"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/private"
)

// grpcCode is a status code of gRPC, as it stands in the bodies of refusals of Rekor v2.
type grpcCode int

const (
	codeCanceled          grpcCode = 1
	codeUnknown           grpcCode = 2
	codeInvalidArgument   grpcCode = 3
	codeDeadlineExceeded  grpcCode = 4
	codeNotFound          grpcCode = 5
	codePermissionDenied  grpcCode = 7
	codeResourceExhausted grpcCode = 8
	codeInternal          grpcCode = 13
	codeUnavailable       grpcCode = 14
	codeUnauthenticated   grpcCode = 16
)

// appendStatus is the one table from the reasons of the private log to HTTP.
var appendStatus = map[private.Reason]int{
	private.ReasonFull:     http.StatusTooManyRequests,
	private.ReasonTooLarge: http.StatusRequestEntityTooLarge,
	private.ReasonFailed:   http.StatusInternalServerError,
	// All others: the log cannot, now.
}

// statusOfAppend returns the status for an error of an append, and when to try again, in seconds.
func statusOfAppend(reason private.Reason) (status, after int) {
	status, ok := appendStatus[reason]
	if !ok {
		status = http.StatusServiceUnavailable
	}
	switch reason {
	case private.ReasonFull, private.ReasonStopping:
		return status, 1
	case private.ReasonUnwitnessed, private.ReasonTimeout:
		return status, 2
	}
	return status, 0 // an operator is needed, or another log: to wait does not help
}

// refusalOf returns the status and the reason with which an entry that was not logged is refused, and
// sets the headers that both generations have.
func refusalOf(w http.ResponseWriter, err error, logger *slog.Logger) (int, private.Reason) {
	reason := private.ReasonOf(err)
	status, after := statusOfAppend(reason)
	if status == http.StatusInternalServerError {
		logger.Error("an entry could not be logged", "error", err)
	}
	if after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(after))
	}
	return status, reason
}

// openly answers GET and HEAD of one path to everybody, and hands all else to next. Health is asked by
// load balancers and supervisors, which have no token: it is one constant answer, which tells
// nothing of the log but that it is served, costs nothing, and reads no body.
func openly(path, media, answer string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == path && r.URL.RawPath == "" && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			w.Header().Set("Cache-Control", "no-store")
			writeRekor(w, http.StatusOK, media, []byte(answer))
			return
		}
		next.ServeHTTP(w, r)
	})
}

// LostLog answers for a private log that cannot go on where it ended, in the shape of its generation,
// v1 or v2.
func LostLog(generation string) http.Handler {
	const text = "this log is not served until its operator has looked after it: the reason stands in its log, and in \"understudy status\""
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case generation == "v1":
			refuseRekorAccess(w, r, http.StatusServiceUnavailable, text)
		case access.IsGRPC(r):
			access.RefuseGRPC(w, http.StatusServiceUnavailable, text)
		default:
			refuseV2Access(w, r, http.StatusServiceUnavailable, text)
		}
	})
}
