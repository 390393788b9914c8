package publish

import (
	"crypto"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestReview3ClockIsBehindForLong: neither after an hour does a daemon whose clock is behind (a machine that was resumed)
// put what is dead in the place of what is good.
func TestReview3ClockIsBehindForLong(t *testing.T) {
	inHouse(t, func(h *house) {
		time.Sleep(day / 2) // more than shortly
		roots, _ := h.Publisher.roots()
		d := must(h.assemble(roots, 1, time.Now().Add(-300*day)))
		if expires := must(metadata.Timestamp().FromBytes(d["timestamp.json"])).Signed.Expires; expires.Before(time.Now()) {
			t.Errorf("the timestamp that is good is replaced by one that expired %v ago", time.Since(expires))
		}
	})
}

// TestReview3AnotherRepositoryWithoutItsKeys: a folder that is complete and of which the keys are not here is no reason to
// give up what is served.
func TestReview3AnotherRepositoryWithoutItsKeys(t *testing.T) {
	inHouse(t, func(h *house) {
		first := must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))
		h.away()
		other, targets := newKey(), newKey()
		folder := must(Create(h.dir, Holders{Root: []crypto.PublicKey{public(other)}, Threshold: 1, Targets: public(targets), Snapshot: public(newKey()), Timestamp: public(newKey())},
			time.Now().Add(1000*day), []signature.Signer{other}))
		must(folder.SignTargets(map[string][]byte{"what": []byte("another")}, time.Now().Add(500*day), targets))
		h.begin()
		_ = h.Publish(h.Context())
		t.Logf("%+v", h.Status().Problem)
		h.dir = h.TempDir()
		h.write("1.root.json", first)
		h.serves("one")
	})
}
