// Package e2e runs the real understudy binary against the real Rekor v2 server, kills
// both in turn, and holds every answer against independent verifiers.
package e2e

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/daemon"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/verifier"
)

const origin = "log.e2e.test"

// world is one real log and one mirror of it.
type world struct {
	*testing.T
	log      *rekor.Log
	daemon   *daemon.Daemon
	sigstore *verifier.Sigstore
	reads    *reads
}

// newWorld runs a log; its mirror is configured but not started.
func newWorld(t *testing.T) *world {
	if testing.Short() {
		t.Skip("skipped by -short: runs real servers")
	}
	server, err := tool.Path(t.Context(), "rekor-tiles")
	if err != nil {
		t.Fatal(err)
	}
	understudy, err := tool.Understudy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, reads: &reads{bundles: map[uint64]int{}}}
	w.log, err = rekor.Start(t.Context(), rekor.Config{Binary: server, Dir: t.TempDir(), Origin: origin, Intercept: w.reads.intercept})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.log.Close)
	w.sigstore, err = verifier.NewSigstore(w.log.TrustedRootFile, origin, rekor.Identity, rekor.Issuer)
	if err != nil {
		t.Fatal(err)
	}
	w.daemon, err = daemon.New(daemon.Config{
		Binary: understudy, Dir: t.TempDir(),
		URL: w.log.ReadURL, Origin: origin, TrustedRoot: w.log.TrustedRootFile,
		Poll: 250 * time.Millisecond, RequestsPerSecond: 1000,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.daemon.Kill)
	return w
}

// within limits one step of a test, so that what hangs names itself.
func (w *world) within(limit time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(w.Context(), limit)
	w.Cleanup(cancel)
	return ctx
}

func (w *world) write(n int) []rekor.Entry {
	w.Helper()
	entries, err := w.log.Write(w.within(time.Minute), n, nil)
	if err != nil {
		w.Fatal(err)
	}
	return entries
}

// start runs the mirror, which must answer at once whatever its upstream does.
func (w *world) start() {
	w.Helper()
	if err := w.daemon.Start(w.within(10 * time.Second)); err != nil {
		w.Fatal(err)
	}
}

// until waits until the mirror says of its log what good wants.
func (w *world) until(what string, good func(*understudyv1.Log) bool) {
	w.Helper()
	if err := w.daemon.Until(w.within(30*time.Second), what, good); err != nil {
		w.Fatal(err)
	}
}

// held waits until the mirror follows live and has all entries.
func (w *world) held(size int) {
	w.Helper()
	w.until("live and complete", func(log *understudyv1.Log) bool {
		return log.GetMirrorSize() == uint64(size) && log.GetFreshness().GetSource() == "live"
	})
}

// provable verifies entries as a user of sigstore-go would, with the mirror's answers.
func (w *world) provable(entries ...rekor.Entry) {
	w.Helper()
	ctx := w.within(30 * time.Second)
	for _, entry := range entries {
		proof, err := w.daemon.Proof(ctx, entry.Index())
		if err != nil {
			w.Fatalf("proof of %d: %v\n%s", entry.Index(), err, w.daemon.Tail())
		}
		if err := w.sigstore.Verify(entry.Bundle, entry.Artifact, proof); err != nil {
			w.Fatal(err)
		}
	}
}

// sound runs `understudy check` on what the stopped mirror has stored.
func (w *world) sound() {
	w.Helper()
	if _, err := w.daemon.Command(w.within(time.Minute), "check"); err != nil {
		w.Fatal(err)
	}
}

// refused fails unless asking for the entry at index is refused with code and reason.
func (w *world) refused(index uint64, code codes.Code, reason string) {
	w.Helper()
	ctx := w.within(10 * time.Second)
	_, entryErr := w.daemon.API().GetEntry(ctx, &understudyv1.GetEntryRequest{
		Origin: origin, Entry: &understudyv1.GetEntryRequest_Index{Index: index},
	})
	_, proofErr := w.daemon.API().GetInclusionProof(ctx, &understudyv1.GetInclusionProofRequest{
		Origin: origin, Entry: &understudyv1.GetInclusionProofRequest_Index{Index: index},
	})
	for _, err := range []error{entryErr, proofErr} {
		if got := status.Code(err); got != code || reasonOf(err) != reason {
			w.Fatalf("entry %d: %s with reason %q, want %s with %q (%v)", index, got, reasonOf(err), code, reason, err)
		}
	}
}

// reasonOf returns the reason of a refusal; "" if it carries none, as the errors of a
// broken connection do.
func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok && info.GetDomain() == "understudy.v1" {
			return info.GetReason()
		}
	}
	return ""
}

// spread returns n entries from the first to the last.
func spread(entries []rekor.Entry, n int) []rekor.Entry {
	picked := make([]rekor.Entry, n)
	for i := range picked {
		picked[i] = entries[i*(len(entries)-1)/(n-1)]
	}
	return picked
}

// reads stands before the log's file server: it counts the bundles that were asked for,
// and can hold some of them back.
type reads struct {
	mu      sync.Mutex // guards what follows
	bundles map[uint64]int
	gate    chan struct{} // bundles from gateAt on wait until it is closed; nil: none
	gateAt  uint64
}

func (r *reads) intercept(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		name, isBundle := strings.CutPrefix(request.URL.Path, "/tile/entries/")
		if isBundle {
			index, err := strconv.ParseUint(name[:3], 10, 64) // no test needs a thousand bundles
			if err != nil {
				panic(err)
			}
			r.mu.Lock()
			r.bundles[index]++
			gate := r.gate
			if index < r.gateAt {
				gate = nil
			}
			r.mu.Unlock()
			if gate != nil {
				select {
				case <-gate:
				case <-request.Context().Done():
					return
				}
			}
		}
		next.ServeHTTP(w, request)
	})
}

// hold holds back all bundles from index on, until the returned function is called.
func (r *reads) hold(index uint64) (release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gate := make(chan struct{})
	r.gate, r.gateAt = gate, index
	return sync.OnceFunc(func() {
		close(gate)
		r.mu.Lock()
		defer r.mu.Unlock()
		r.gate = nil
	})
}

// forget begins counting anew.
func (r *reads) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.bundles)
}

// below returns how many times bundles before index were asked for.
func (r *reads) below(index uint64) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for i, times := range r.bundles {
		if i < index {
			n += times
		}
	}
	return n
}
