// Package reconcile does what has to be done once a public log answers again: it proves that what was
// served meanwhile is a prefix of what the log has now, verifies every decision of the outage again,
// submits what was logged privately, closes exceptions, and reports what was done and what was not.
//
// A reconciliation goes through phases, in this order:
//
//	head        upstream is polled until it shows at least what was held; the consistency proof is kept
//	decisions   each row "decision" of the ledger that is not reconciled yet is verified again, and the
//	            entry that it rests on is asked for upstream
//	submit      kept proposals of the private log go to the public one, in the order of their index
//	exceptions  what weakened verification is closed
//	report      JSON and Markdown, signed, appended to the private log
//	done        the components of the log may be live
//
// Each step is one row "reconcile" of the ledger, and the state after it is kept in the same commit: what
// crashes goes on at its last row. Whatever was done outside and not yet recorded is done again, so each
// of Config's functions must bear to be called twice: a proposal that was taken already is answered with
// the receipt of the first time. One reconciliation runs at a time.
//
// If upstream goes away again, the reconciliation pauses (a row "failed" says why) and goes on when it is
// back: from the head, since what comes back may be another tree, and with all that was done already.
//
// A log that comes back with another history (FORK), stays shorter than it was (LOST_TAIL) or gives
// another entry than the one that decisions rested on (CHANGED_ENTRY) is quarantined: the row, the report
// and the monitor name the index, the evidence is kept raw, nothing is submitted to it, and this package
// never calls it live.
package reconcile
