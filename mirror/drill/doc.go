// Package drill rehearses outages: it disturbs what the daemon itself asks upstream, watches what
// becomes of that, and says whether it went as it should.
//
// The disturbance is [Faults], a switchboard between the daemon's clients and the network. A
// [Runner] throws its switches, for one [Scenario] at a time, and holds what it sees against
// [Targets]. What it promises:
//
//   - A drill weakens no verification and touches nothing that is stored. Upstream is out of reach,
//     or its answers arrive late, cut off or old; none is made up that a client would believe. The
//     one forgery, a fork, is signed by a key of the drill, in a log of the drill.
//   - It ends: when its time is up, by whichever clock says so first, when it is aborted, when the
//     daemon stops, and when something in it panics. The switchboard knows the end by itself. Faults
//     are in memory only.
//   - There is one at a time, none begins while anything is out of order, and it is aborted when
//     upstream is found to be away in earnest, past the faults.
//   - It can fail. Whatever it expects and does not see is a sentence in its result, and a drill
//     that has seen nothing has failed.
//
// Each step is a row of the ledger before it is told: "drill" with the events started, detected,
// reverted, and done or aborted; and logged, once its report is in the private log.
package drill
