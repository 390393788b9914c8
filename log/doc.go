// Package log is the private log: a transparency log that signs itself, for the time in which the
// public one cannot be written to.
//
// An entry takes one way: into a pool, with others into a batch, into the tree by one durable commit
// whose seal signs the next checkpoint, to the witnesses, and then the checkpoint is published and
// everybody who waits gets a receipt. What the package promises:
//
//   - nothing leaves before it is durable: no index, no promise, no checkpoint;
//   - an entry is logged once: who appends it again gets the receipt of the first time;
//   - the time that entries get never goes back, and is not made up when the clock went back far;
//   - the log never signs two trees: it does not open over a database that is older than what was
//     published, nor goes on when a witness has seen a larger tree of it;
//   - every call of Append is answered, also when the log stops.
//
// It knows nothing of Rekor: bodies are bytes, and what is promised beside the leaf is made by
// Config.Promise. Checkpoints follow C2SP tlog-checkpoint (https://c2sp.org/tlog-checkpoint).
package log
