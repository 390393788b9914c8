// Package verdict decides whether an artifact may be used: it verifies Sigstore bundles under a
// policy, and says what the answer rests on.
//
// Its laws:
//
//   - In mode enforce an allow rests on a bundle that sigstore-go's verifier believed with today's
//     trust material, or that it believed when an operator pinned it (a [Rollback]), for exactly that
//     artifact and the identity that was asked for. Faults of upstreams, of the mirror and of the
//     bundle make denials or errors, never an allow.
//   - Mode audit, in which what would be denied is allowed and said to be, holds for one policy, with
//     an [Exception]: it has an end, a ticket, and two different people, and ends by itself, also
//     across restarts and when somebody sets the clock.
//   - Identities and keys marked as high risk never leave enforce. Neither does a bundle that the
//     mirror contradicts, nor a question that is none.
//   - A decision that is taken while an upstream is not live, or that somebody's signature under an
//     exception made, is a row of the ledger before it is answered.
//   - Input that is malformed is denied with a reason code.
//
// Formats: Sigstore bundles v0.1 to v0.3 in JSON (protobuf-specs, sigstore_bundle.proto), verified as
// cosign does: one log entry, one signed certificate timestamp if the trust material has certificate
// logs, one timestamp of when a certificate signed.
package verdict
