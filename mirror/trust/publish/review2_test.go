package publish

import (
	"context"
	"crypto"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// rogueRoot is the next root as somebody without keys would write it into the folder.
func (h *house) rogueRoot(change func(*metadata.RootType)) {
	h.Helper()
	root := must(metadata.Root().FromBytes(must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))))
	root.Signed.Version = 2
	change(&root.Signed)
	root.ClearSignatures()
	h.write("2.root.json", must(root.ToBytes(true)))
}

// TestReview2StrangersRoot: what a root that nobody has signed says of the targets key does not count: else its writer
// has targets of his signed again.
func TestReview2StrangersRoot(t *testing.T) {
	inHouse(t, func(h *house) {
		thief := newKey()
		h.rogueRoot(func(r *metadata.RootType) {
			if err := r.AddKey(must(metadata.KeyFromPublicKey(public(thief))), metadata.TARGETS); err != nil {
				t.Fatal(err)
			}
		})
		evil := []byte("evil")
		targets := metadata.Targets(time.Now().Add(500 * day))
		targets.Signed.Version = 2
		meta := must(metadata.TargetFile().FromBytes("what", evil, "sha256"))
		targets.Signed.Targets["what"] = meta
		must(targets.Sign(thief))
		h.write(trust.TargetFile("what", meta.Hashes["sha256"]), evil)
		h.write("2.targets.json", must(targets.ToBytes(true)))
		if v, err := h.folder.SignTargets(nil, time.Now().Add(500*day), h.keys[metadata.TARGETS]); err == nil {
			h.publish()
			got, err := h.client(h.TempDir())
			t.Errorf("version %d is signed; clients get %q, %v", v, got, err)
		}
	})
}

// TestReview2FirstRoot: nor does a first root that is another one than init made: what is signed under it is good under
// ours, too.
func TestReview2FirstRoot(t *testing.T) {
	inHouse(t, func(h *house) {
		thief := newKey()
		first := must(os.ReadFile(filepath.Join(h.dir, "1.root.json")))
		root := must(metadata.Root().FromBytes(first))
		if err := root.Signed.AddKey(must(metadata.KeyFromPublicKey(public(thief))), metadata.TARGETS); err != nil {
			t.Fatal(err)
		}
		root.ClearSignatures()
		h.write("1.root.json", must(root.ToBytes(true))) // on the way to the people who sign
		evil := []byte("evil")
		targets := metadata.Targets(time.Now().Add(500 * day))
		targets.Signed.Version = 2
		meta := must(metadata.TargetFile().FromBytes("what", evil, "sha256"))
		targets.Signed.Targets["what"] = meta
		must(targets.Sign(thief))
		h.write(trust.TargetFile("what", meta.Hashes["sha256"]), evil)
		h.write("2.targets.json", must(targets.ToBytes(true)))
		_, err := h.folder.SignTargets(nil, time.Now().Add(500*day), h.keys[metadata.TARGETS])
		h.write("1.root.json", first) // on the way back
		if err == nil {
			h.publish()
			got, err := h.client(h.TempDir())
			t.Errorf("it is signed; clients get %q, %v", got, err)
		}
	})
}

// TestReview2KeyUnderAnID: a root that gives a known ID another key changes something, and is shown.
func TestReview2KeyUnderAnID(t *testing.T) {
	inHouse(t, func(h *house) {
		thief := newKey()
		h.rogueRoot(func(r *metadata.RootType) {
			r.Keys[r.Roles[metadata.TARGETS].KeyIDs[0]] = must(metadata.KeyFromPublicKey(public(thief)))
		})
		changes, err := h.folder.Changes()
		if err != nil {
			return
		}
		if len(changes) > 1 {
			return
		}
		t.Logf("told: %q", changes)
		if _, err := h.folder.SignRoot(h.roots()); err != nil {
			return
		}
		targets := metadata.Targets(time.Now().Add(500 * day))
		targets.Signed.Version = 2
		evil := []byte("evil")
		meta := must(metadata.TargetFile().FromBytes("what", evil, "sha256"))
		targets.Signed.Targets["what"] = meta
		must(targets.Sign(thief))
		root, _, err := h.folder.newestRoot()
		if err != nil {
			t.Fatal(err)
		}
		targets.Signatures[0].KeyID = root.Signed.Roles[metadata.TARGETS].KeyIDs[0]
		h.write(trust.TargetFile("what", meta.Hashes["sha256"]), evil)
		h.write("2.targets.json", must(targets.ToBytes(true)))
		h.publish()
		got, err := h.client(h.clientDir)
		t.Errorf("a root of which only its end was shown is signed, and the targets key is the thief's: clients get %q, %v", got, err)
	})
}

// TestReview2ClockIsBehind: a daemon that starts with a clock that is behind (no battery, a machine that was resumed) does
// not put what is dead in the place of what is good.
func TestReview2ClockIsBehind(t *testing.T) {
	inHouse(t, func(h *house) {
		h.begin()
		if err := h.prepare(h.Context()); err != nil {
			t.Fatal(err)
		}
		roots, _ := h.Publisher.roots()
		for _, behind := range []time.Duration{8 * day, 300 * day} {
			d := must(h.assemble(roots, 1, time.Now().Add(-behind)))
			if expires := must(metadata.Timestamp().FromBytes(d["timestamp.json"])).Signed.Expires; expires.Before(time.Now()) {
				t.Errorf("%d days behind: the timestamp that is good for %v is replaced by one that expired %v ago", behind/day,
					time.Until(h.Status().Roles[1].Expires), time.Since(expires))
			}
		}
	})
}

// TestReview2NewMachineDuringACeremony: a database that is new, and a newest root that lacks a signature still: no client
// has seen that root.
func TestReview2NewMachineDuringACeremony(t *testing.T) {
	inHouse(t, func(h *house) {
		must(h.folder.Rotate(metadata.ROOT, nil, 0, time.Now().Add(900*day), h.roots()[:1]))
		time.Sleep(day)
		h.db.Close()
		h.db = must(storage.Create("db", storage.Options{FS: vfs.NewCrashableMem()}))
		h.begin()
		_ = h.Publish(h.Context())
		h.serves("one")
		t.Logf("%+v", h.Status().Problem)
	})
}

// TestReview2KeysAtHandStay: while the key of the next root is missing, those at hand go on, also when their files (or the
// passphrase) are there no more.
func TestReview2KeysAtHandStay(t *testing.T) {
	inHouse(t, func(h *house) {
		must(h.folder.Rotate(metadata.TIMESTAMP, []crypto.PublicKey{public(newKey())}, 0, time.Now().Add(900*day), h.roots()))
		h.publish()
		h.noKeys = true // the operator takes the old file away, before the new one is there
		h.weeks(10 * day)
		h.serves("one")
	})
}

// TestReview2RefusalAndShortLifetime: what is held is tried again before it expires.
func TestReview2RefusalAndShortLifetime(t *testing.T) {
	inHouse(t, func(h *house) { // a lifetime of 35 minutes
		bad := true
		good := h.online[metadata.TIMESTAMP]
		h.online[metadata.TIMESTAMP] = wrong{good, &bad}
		h.begin()
		time.Sleep(2 * day)
		_ = h.Publish(h.Context()) // a service that signs by another key for a moment
		bad = false
		h.weeks(8 * day)
		h.serves("one")
	})
}

type wrong struct {
	signature.Signer
	bad *bool
}

func (w wrong) SignMessage(r io.Reader, o ...signature.SignOption) ([]byte, error) {
	sig, err := w.Signer.SignMessage(r, o...)
	if *w.bad && err == nil {
		sig[10] ^= 1
	}
	return sig, err
}

// TestReview2RunLeavesNobody: Run returns when nobody of it is left: the database is closed after it.
func TestReview2RunLeavesNobody(t *testing.T) {
	inHouse(t, func(h *house) {
		until, began := make(chan struct{}), make(chan struct{}, 9)
		h.online[metadata.TIMESTAMP] = held{slow{h.online[metadata.TIMESTAMP], until}, began}
		h.begin()
		time.Sleep(2 * day)
		ctx, stop := context.WithCancel(h.Context())
		done := make(chan error, 1)
		go func() { done <- h.Publisher.Run(ctx) }()
		<-began
		stop()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		before := must2(h.File("timestamp.json")).Hash
		close(until)
		time.Sleep(day)
		if must2(h.File("timestamp.json")).Hash != before {
			t.Error("after Run something was published")
		}
	})
}

type held struct {
	slow
	began chan struct{}
}

func (s held) SignMessage(r io.Reader, o ...signature.SignOption) ([]byte, error) {
	s.began <- struct{}{}
	return s.slow.SignMessage(r, o...)
}
