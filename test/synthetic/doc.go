// Package synthetic makes and serves transparency logs for tests and benchmarks.
//
// [HashedRekord] makes entries that look, measure and compress like those of a Rekor v2
// log; [Log] is a C2SP tlog-tiles log over any such entries, held in memory and served
// over HTTP, with its own key; and a [Fault] makes it misbehave while it runs. The same
// seed gives the same bytes in every run.
package synthetic
