// Package quorum collects cosignatures on our checkpoints until a tlog-policy is satisfied.
//
// Whom to ask and what is enough is said by a policy file (https://c2sp.org/tlog-policy); the
// witnesses are asked as https://c2sp.org/tlog-witness says; what they answer is a cosignature of
// https://c2sp.org/tlog-cosignature. What the package promises:
//
//   - no line is returned that does not verify over the text of the checkpoint with the key that the
//     policy has for the witness that was asked;
//   - a round takes as long as the slowest witness that the quorum needs, and never longer than
//     the time-out; whoever is slower is heard to the end in the background, and is up to date in
//     the next round;
//   - no witness is asked two things at once;
//   - a witness that has cosigned a larger tree of this log is an [AheadError], whatever the
//     others say: then the database is older than what was published.
package quorum
