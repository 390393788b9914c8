package access

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// Refuse answers a request with a status and a sentence in the shape that the clients of
// an API expect. Headers that belong to the status are set already.
type Refuse func(w http.ResponseWriter, r *http.Request, status int, text string)

func refuseText(w http.ResponseWriter, _ *http.Request, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write([]byte(text + "\n"))
}

func respond(w http.ResponseWriter, r *http.Request, refuse Refuse, status int, text string) {
	w.Header().Set("Cache-Control", "no-store")
	if IsGRPC(r) {
		RefuseGRPC(w, status, text)
		return
	}
	refuse(w, r, status, text)
}

// IsGRPC reports whether a request is a gRPC call, by its content type.
func IsGRPC(r *http.Request) bool {
	after, ok := strings.CutPrefix(r.Header.Get("Content-Type"), "application/grpc")
	return ok && (after == "" || after[0] == '+' || after[0] == ';')
}

// grpcCodes are the gRPC status codes of the refusals that have one of their own.
var grpcCodes = map[int]int{
	http.StatusBadRequest:         3,  // INVALID_ARGUMENT
	http.StatusForbidden:          7,  // PERMISSION_DENIED
	http.StatusTooManyRequests:    8,  // RESOURCE_EXHAUSTED
	http.StatusServiceUnavailable: 14, // UNAVAILABLE
	http.StatusUnauthorized:       16, // UNAUTHENTICATED
}

// RefuseGRPC answers a gRPC call that came over net/http with the status code that stands
// for an HTTP status; UNKNOWN for those without. The body must not have been begun.
func RefuseGRPC(w http.ResponseWriter, status int, text string) {
	code, ok := grpcCodes[status]
	if !ok {
		code = 2 // UNKNOWN
	}
	// SPEC: Trailers-Only is HTTP-Status Content-Type Trailers, in one header block;
	// "Implementations MUST send a HTTP status 200" (gRPC over HTTP/2).
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	h.Set("Grpc-Status", strconv.Itoa(code))
	h.Set("Grpc-Message", percentEncode(text))
	w.WriteHeader(http.StatusOK)
}

// percentEncode makes a message fit for grpc-message.
// SPEC: Percent-Byte-Unencoded is 0x20 to 0x7E but for '%'; all others are encoded.
func percentEncode(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
