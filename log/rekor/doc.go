// Package rekor knows the formats of Rekor's entries, of both generations: the names and the
// JSON of the API, what clients propose, canonical bodies, signed entry timestamps, the keys
// under which entries are searched, and the files that people keep: Sigstore bundles, whose
// proofs it renews, and cosign's older signatures, which it turns into bundles. It does no I/O
// and never follows a URL.
//
// What is canonical, and what an entry of Rekor v1 is found by, is decided by rekor's own
// types (github.com/sigstore/rekor/pkg/types); entries of Rekor v2 are the canonical JSON of
// the messages of github.com/sigstore/rekor-tiles and get the keys that v1 would give them.
// A panic of those types on hostile input becomes an error here.
//
// Parsers refuse what is malformed; what is signed they hand over as it came. Only VerifySET
// and the functions that take in proposals verify a signature.
package rekor

import (
	rekorlog "github.com/sigstore/rekor/pkg/log"
	"go.uber.org/zap"

	// All entry types that rekor-server knows, in all their versions.
	_ "github.com/sigstore/rekor/pkg/types/alpine/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/cose/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/helm/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	_ "github.com/sigstore/rekor/pkg/types/jar/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rfc3161/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/rpm/v0.0.1"
	_ "github.com/sigstore/rekor/pkg/types/tuf/v0.0.1"
)

// Rekor's types tell their own logger, a development logger on standard error, about every
// entry that lacks what only a proposal has. It is exchanged here, before any goroutine can
// use it, and in place, because they hold copies of the pointer.
var _ = func() bool {
	*rekorlog.Logger = *zap.NewNop().Sugar()
	return true
}()
