package rest

import (
	"errors"

	"github.com/understudy-log/understudy/mirror/drill"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/mirror/verdict"
)

// orderCodes are the codes of refusals that have no type of their own, for scripts.
var orderCodes = []struct {
	err  error
	code string
}{
	{outage.ErrUnknown, "COMPONENT_UNKNOWN"}, {outage.ErrNoTicket, "TICKET_MISSING"}, {outage.ErrUntil, "END_INVALID"},
	{outage.ErrState, "STATE_INVALID"}, {outage.ErrQuarantined, "QUARANTINED"}, {outage.ErrNotForced, "NOT_FORCED"},
	{reconcile.ErrRunning, "RECONCILIATION_RUNNING"}, {reconcile.ErrStopped, "STOPPING"}, {reconcile.ErrUnknownLog, "LOG_UNKNOWN"},
	{reconcile.ErrQuarantined, "QUARANTINED"}, {reconcile.ErrAway, "UPSTREAM_AWAY"},
}

// codeOf is the code of why an order was not followed; empty if it is none's fault.
func codeOf(err error) string {
	if refused, ok := errors.AsType[*verdict.RefusedError](err); ok {
		return refused.Code
	}
	for _, known := range orderCodes {
		if errors.Is(err, known.err) {
			return known.code
		}
	}
	return drill.Code(err)
}
