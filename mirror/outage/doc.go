// Package outage knows how the upstreams are, and remembers it.
//
// A [Monitor] keeps one state for each component of an upstream: the read path and the write path of a
// log, a TUF repository, a service. It probes them, is told what real traffic met ([Monitor.Observe]), and
// moves each by a machine that is a pure function of what is recorded, what came since, and the time:
//
//	live -> degraded         errors come faster than the objective allows, in two windows at once, or a log does not grow
//	degraded -> live         at less than half of that, after five minutes at the soonest, and when it grows again
//	live, degraded, recovering -> fallback
//	                         failures in a row, or half of what came in 30 s
//	fallback -> recovering   successes in a row, over a while that doubles each time it falls back soon again
//	recovering -> live       [Monitor.Reconciled]; after a while by itself, where nothing is reconciled
//	any -> quarantined       [Monitor.Quarantine]; left by [Monitor.Release] alone
//
// It promises:
//
//   - What State, Status and Overall say is in the ledger: a change is a row, and the record of the new state in
//     the same commit. A change is shown, and told to Config.Changed, when that commit is durable. Getting worse
//     waits for its row just so: a state that a crash could take back would let the ledger miss what was decided
//     in it. It is one synced write; a disk that cannot do it stops the program, not only this package.
//   - After a restart each state, its cause, a force and the flap level are what the rows say. The counts of
//     the error budget and the successes so far are lost: fallback needs all its successes again.
//   - A wall clock that is set moves no state and prolongs no force: how long something lasted is told by the
//     monotonic clock. A force ends when either clock says so.
//   - An upstream that takes connections and does not answer is in fallback 4.5 s later at most, with the
//     defaults: the next probe starts within 2 s, a second one 0.5 s later because the first is not answered, and
//     2 s after its start that one has failed as well. Jitter makes the time between probes shorter, never longer.
//   - An upstream that flaps changes its state some forty times an hour at most: who falls back soon after a
//     recovery must answer twice as long before the next one.
//   - It is polite: one probe every two seconds, a bound on those under way, Retry-After obeyed. While an
//     upstream forbids asking it counts as not answering, though nothing is sent.
//   - Requests that fail together count as one: a connection that breaks under fifty of them is no outage.
//
// The circuit breaker is a few lines of the machine and not one of the libraries: theirs keep their own
// clock and their own memory, and this one must be driven by a fake clock, be written down, and start
// again where it was.
package outage
