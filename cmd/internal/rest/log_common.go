package rest

import (
	"net/http"

	"github.com/understudy-log/understudy/cmd/internal/access"
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
		w.Header().Set("Retry-After", "30")
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
