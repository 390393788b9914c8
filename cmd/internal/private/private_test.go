package private

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
)

func newV1(t *testing.T, change func(*logstage.Stage)) (*logstage.Stage, *V1) {
	t.Helper()
	s := logstage.New(t, 1, func(s *logstage.Stage) {
		promise, err := PromiseV1(s.Public, s.Signer, true)
		if err != nil {
			t.Fatal(err)
		}
		s.Config.Promise = promise
		if change != nil {
			change(s)
		}
	})
	v, err := NewV1(s.Log, logstage.TreeID, s.Public)
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// TestPromise: what is promised is what VerifyEntry verifies, and nothing else is.
func TestPromise(t *testing.T) {
	s, v := newV1(t, nil)
	for i := range 3 {
		p := &rekor.Proposal{Body: fmt.Append(nil, "body ", i), Keys: []string{fmt.Sprint("key", i)}}
		item, duplicate, err := v.Append(t.Context(), "me", nil, p)
		if err != nil || duplicate || item.Entry.LogIndex != uint64(i) {
			t.Fatalf("%+v %v %v", item, duplicate, err)
		}
		if err := item.Entry.VerifySET(s.Public); err != nil {
			t.Error(err)
		}
		again, duplicate, err := v.Append(t.Context(), "you", nil, p)
		if err != nil || !duplicate || again.Entry.IntegratedTime != item.Entry.IntegratedTime || !bytes.Equal(again.Entry.SET, item.Entry.SET) {
			t.Errorf("again: %+v %v %v", again, duplicate, err)
		}
	}
	view := s.Log.Tree().View()
	defer view.Close()
	receipt, err := view.Receipt(1)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	verify := VerifyEntry(true, s.Public)
	if err := verify(1, []byte("body 1"), receipt); err != nil {
		t.Error(err)
	}
	if err := VerifyEntry(true, other.Public(), s.Public)(1, []byte("body 1"), receipt); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"index": verify(2, []byte("body 1"), receipt), "body": verify(1, []byte("body 2"), receipt), "none": verify(1, []byte("body 1"), nil),
		"key": VerifyEntry(true, other.Public())(1, []byte("body 1"), receipt), "no key": VerifyEntry(true, nil)(1, []byte("body 1"), receipt),
	} {
		if err == nil {
			t.Errorf("another %s verifies", name)
		}
	}
	for i := range 9 + 60 { // version, time and SET
		changed := bytes.Clone(receipt)
		changed[i] ^= 1
		if verify(1, []byte("body 1"), changed) == nil {
			t.Errorf("byte %d changed, and it verifies", i)
		}
	}
	if VerifyEntry(false, s.Public) != nil || VerifyEntry(true) != nil {
		t.Error("there is something to verify")
	}
}

// TestOtherTree: what is asked of another tree is not answered with this one.
func TestOtherTree(t *testing.T) {
	_, v := newV1(t, nil)
	item, _, err := v.Append(t.Context(), "me", nil, &rekor.Proposal{Body: []byte("body")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		treeID uint64
		found  bool
	}{{0, true}, {logstage.TreeID, true}, {1, false}, {logstage.TreeID + 1, false}} {
		uuid := rekor.UUID{TreeID: c.treeID, LeafHash: item.UUID.LeafHash}
		_, _, errEntry := v.Entry(t.Context(), "", mirror.EntryRef{UUID: &uuid})
		_, errKey := v.PublicKey(t.Context(), c.treeID)
		_, _, errProof := v.Consistency(t.Context(), "", c.treeID, 1, 1)
		for _, err := range []error{errEntry, errKey, errProof} {
			refusal, ok := errors.AsType[*mirror.Refusal](err)
			if (err == nil) != c.found || err != nil && (!ok || refusal.Kind != mirror.NotFound) {
				t.Errorf("tree %x: %v", c.treeID, err)
			}
		}
	}
}

// TestRestarted: of what was published before a start the age is not known.
func TestRestarted(t *testing.T) {
	s, v := newV1(t, func(s *logstage.Stage) { s.Witnessed() })
	if _, _, err := v.Append(t.Context(), "me", nil, &rekor.Proposal{Body: []byte("body")}); err != nil {
		t.Fatal(err)
	}
	s.Asleep.Store(true)
	s.Close()
	again := logstage.Reopen(t, s)
	if v, err := NewV1(again.Log, logstage.TreeID, s.Public); err != nil {
		t.Error(err)
	} else if _, fresh, err := v.Entry(t.Context(), "", mirror.EntryRef{}); err != nil || fresh != (mirror.Freshness{}) {
		t.Errorf("%+v %v", fresh, err)
	}
	s.Asleep.Store(false)
}

// TestReasons: every error of the log has a reason of its own and a text that ends in what to do, and no
// text shows what is inside of the error.
func TestReasons(t *testing.T) {
	seen := map[Reason]bool{}
	for _, err := range []error{log.ErrFull, log.ErrTooLarge, log.ErrClock, log.ErrBehind, log.ErrSigning, log.ErrStopping, log.ErrUnwitnessed, context.DeadlineExceeded, ErrClosed, errors.New("disk")} {
		reason := ReasonOf(fmt.Errorf("secret: %w", err))
		if seen[reason] || (reason == ReasonFailed) != (err.Error() == "disk") {
			t.Errorf("%v: %s", err, reason)
		}
		seen[reason] = true
		if text := reason.Text(); text == "" || strings.Contains(text, "secret") {
			t.Errorf("%s: %q", reason, text)
		}
	}
	// Who waited in vain for witnesses is told of them, and not of the time alone.
	if reason := ReasonOf(fmt.Errorf("%w (%w)", log.ErrUnwitnessed, context.DeadlineExceeded)); reason != ReasonUnwitnessed {
		t.Error(reason)
	}
	if reason := ReasonOf(&log.BehindError{Published: storage.Checkpoint{}}); reason != ReasonBehind {
		t.Error(reason)
	}
}

// TestAlone holds that only the log's own line is left of a checkpoint.
func TestAlone(t *testing.T) {
	for in, want := range map[string]string{
		"o\n1\nr\n\n— a x\n":                 "o\n1\nr\n\n— a x\n",
		"o\n1\nr\n\n— a x\n— b y\n— c z\n":   "o\n1\nr\n\n— a x\n",
		"o\n1\nr\nmore\n\n— a x\n— b y\n":    "o\n1\nr\nmore\n\n— a x\n",
		"":                                   "",
		"no signature\n":                     "no signature\n",
		"o\n1\nr\n\n— no newline at the end": "o\n1\nr\n\n— no newline at the end",
	} {
		if got := string(alone([]byte(in))); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}
