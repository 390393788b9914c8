// Package storage keeps append-only Merkle trees (RFC 6962, SHA-256) with their
// signed checkpoints in one Pebble database.
//
// A mirror is a log that someone else signs, so both are one [Tree], and a tree
// grows in one way: [Tree.Extend] computes the next tree, asks a seal for the
// signed checkpoint that the next tree equals or provably precedes, and commits
// entries, hash tiles, leaf index, proof and head in one synced batch. (Many entries
// are made durable as a table before that batch; until it is committed they are no
// part of the tree.) What the package promises:
//
//   - an entry is visible only together with the proof that ties it to a checkpoint;
//   - what a call returned as done survives any crash;
//   - the head and the newest checkpoint ([State.Pending]) only move forward, and
//     only along a verified consistency proof;
//   - no operation but [Tree.Check] walks the tree.
//
// It knows Merkle trees and bytes. It does not know keys: signatures are verified by
// the callers, before [Tree.Advance] and inside seals.
//
// The layout of the database is described in keys.go; formats follow C2SP tlog-tiles
// (https://c2sp.org/tlog-tiles) and tlog-checkpoint.
package storage
