package rpc

import (
	"log/slog"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-log/understudy/mirror"
)

// TestRetryInfo: a refusal says when to ask again, if that is known, and its text can be sent.
func TestRetryInfo(t *testing.T) {
	for _, after := range []time.Duration{0, 1500 * time.Millisecond} {
		err := refuse("log", slog.New(slog.DiscardHandler), &mirror.Refusal{Kind: mirror.Unavailable, Reason: mirror.ReasonBudgetExhausted, Text: "wait\xff", After: after})
		s := status.Convert(err)
		var info *errdetails.ErrorInfo
		var delay time.Duration
		for _, detail := range s.Details() {
			switch d := detail.(type) {
			case *errdetails.ErrorInfo:
				info = d
			case *errdetails.RetryInfo:
				delay = d.GetRetryDelay().AsDuration()
			}
		}
		if s.Code() != codes.Unavailable || s.Message() != "wait" || info.GetReason() != "BUDGET_EXHAUSTED" || delay != after || len(s.Details()) != 1+min(1, int(after)) {
			t.Errorf("after %v: %v, %v", after, s, s.Details())
		}
	}
}
