package rpc

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/understudy-log/understudy/mirror"
)

// domain is that of every google.rpc.ErrorInfo we send.
const domain = "understudy.v1"

// Reasons of refusals that do not come from a mirror.
const (
	reasonUnknownOrigin = "UNKNOWN_ORIGIN"
	reasonTooManyCalls  = "TOO_MANY_CALLS"
	reasonInternal      = "INTERNAL"
	reasonLogIDUnknown  = "LOG_ID_UNKNOWN"
)

// codeOf is the one table from kinds of refusal to status codes.
var codeOf = map[mirror.Kind]codes.Code{
	mirror.NotFound:    codes.NotFound,
	mirror.Unavailable: codes.Unavailable,
	mirror.Invalid:     codes.InvalidArgument,
	mirror.Damaged:     codes.DataLoss,
}

// refuse turns the error of an answer about the log of an origin into a status.
// Errors of a stream or its context keep their code.
func refuse(origin string, logger *slog.Logger, err error) error {
	if err == nil {
		return nil
	}
	if refusal, ok := errors.AsType[*mirror.Refusal](err); ok {
		var details []protoadapt.MessageV1
		if refusal.After > 0 {
			details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(refusal.After)})
		}
		return statusOf(codeOf[refusal.Kind], refusal.Reason, strings.ToValidUTF8(refusal.Text, ""), metadataOf(origin, refusal.Freshness), details...)
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	logger.Error("call cannot be answered", "origin", origin, "error", err)
	return statusOf(codes.Internal, reasonInternal, "the answer could not be made; the server's operator finds the details in its log", nil)
}

// unknownOrigin refuses a request for a log that is not mirrored here.
func unknownOrigin(origin string) error {
	origin = sendable(origin)
	return statusOf(codes.NotFound, reasonUnknownOrigin,
		"no log with the origin \""+origin+"\" is mirrored here: ListLogs names those that are", map[string]string{"origin": origin})
}

// sendable cuts text to what may be sent in headers.
func sendable(text string) string { return strings.ToValidUTF8(text[:min(len(text), 200)], "") }

// metadataOf says how current an answer about an origin is.
func metadataOf(origin string, f mirror.Freshness) map[string]string {
	return map[string]string{
		"origin":         origin,
		"source":         f.Source,
		"checkpoint_age": strconv.FormatFloat(f.CheckpointAge.Seconds(), 'f', -1, 64) + "s", // as in JSON
		"upstream_state": f.UpstreamState,
	}
}

// statusOf is the status error of a refusal.
func statusOf(code codes.Code, reason, text string, metadata map[string]string, more ...protoadapt.MessageV1) error {
	s, err := status.New(code, text).WithDetails(append([]protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: reason, Domain: domain, Metadata: metadata},
	}, more...)...)
	if err != nil {
		panic("rpc: attach error info: " + err.Error()) // the code was OK, or text is not UTF-8
	}
	return s.Err()
}
