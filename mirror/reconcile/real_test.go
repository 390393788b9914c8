package reconcile

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/logstage"
	realv2 "github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// keysIn reads the public keys in files.
func keysIn(t *testing.T, files ...string) []trust.Key {
	t.Helper()
	var keys []trust.Key
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		key, err := trust.ParseKey(data)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys
}

// TestRealV1 submits to a real Rekor v1: what is new, what it has, what it refuses, every kind of entry; and
// then a thousand entries of an outage, as many at once as it can take.
func TestRealV1(t *testing.T) {
	if os.Getenv("UNDERSTUDY_E2E_V1") == "" {
		t.Skip("skipped: run by make e2e-v1")
	}
	upstream, err := rekorv1.Start(t.Context(), rekorv1.Config{Dir: t.TempDir(), Hostname: "rekor.test"})
	if errors.Is(err, rekorv1.ErrNoMariaDB) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	s, err := NewSubmitterV1(SubmitterConfig{URL: upstream.URL, Client: client, UserAgent: "understudy-test", Keys: func() []trust.Key { return keysIn(t, upstream.PublicKeyFiles()...) }})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := rekorv1.NewSigner()
	if err != nil {
		t.Fatal(err)
	}
	keyless, err := upstream.NewCertified("somebody@understudy.test")
	if err != nil {
		t.Fatal(err)
	}
	for name, sign := range map[string]func([]byte) (rekorv1.Signed, error){
		"hashedrekord": signer.HashedRekord, "rekord": signer.Rekord, "dsse": signer.DSSE, "intoto": signer.InToto, "keyless": keyless.HashedRekord,
	} {
		signed, err := sign(logstage.Statement(fmt.Sprintf("%064x", len(name))))
		if err != nil {
			t.Fatal(err)
		}
		first, err := s.Submit(t.Context(), signed.Proposal)
		if err != nil || first.Duplicate || first.Extends != (name != "rekord") || first.Origin != upstream.Origin(upstream.Shards[0]) {
			t.Errorf("%s: %+v %v", name, first, err)
		}
		again, err := s.Submit(t.Context(), signed.Proposal)
		if err != nil || !again.Duplicate || again.UUID != first.UUID || again.LogIndex != first.LogIndex || again.IntegratedTime != first.IntegratedTime {
			t.Errorf("%s again: %+v %v", name, again, err)
		}
	}
	signed, err := signer.HashedRekord([]byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	other, err := signer.HashedRekord([]byte("b"))
	if err != nil {
		t.Fatal(err)
	}
	wrong := bytes.Replace(signed.Proposal, []byte(base64.StdEncoding.EncodeToString(signed.Signature)), []byte(base64.StdEncoding.EncodeToString(other.Signature)), 1)
	if r, err := s.Submit(t.Context(), wrong); !as[*RefusedError](err) {
		t.Errorf("a false signature: %+v %v", r, err)
	}

	const n = 1000
	private := make([][]byte, n)
	for i := range private {
		signed, err := signer.HashedRekord(fmt.Appendf(nil, "entry %d", i))
		if err != nil {
			t.Fatal(err)
		}
		private[i] = signed.Proposal
	}
	took := reconciled(t, s, private)
	t.Logf("%d private entries are in a real Rekor v1 after %s, %.0f a second", n, took.Round(time.Millisecond), n/took.Seconds())
	if took > time.Minute {
		t.Errorf("it took %s", took)
	}
}

// reconciled reconciles proposals with a log and returns how long that took.
func reconciled(t *testing.T, s Submitter, private [][]byte) time.Duration {
	t.Helper()
	db, err := storage.Create("db", storage.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	l, err := ledger.Open(db, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := newMonitor("rekor/read", "rekor/write")
	ctx, cancel := context.WithCancel(t.Context())
	live := &mortal{m, &life{w: &world{crashAt: map[string]bool{}}}}
	var logged atomic.Uint64
	r, err := New(Config{
		DB: db, Ledger: l, Monitor: live, PerSecond: 1e6, AtOnce: 64,
		Upstreams: []Upstream{{Name: "rekor", Refresh: func(context.Context) error { return nil }, Heads: func() []Head { return nil }}},
		Privates: []Private{{
			Name: "v1", Origin: privateOrigin, Upstream: "rekor", Submit: s,
			Size:     logged.Load,
			Time:     func(uint64) (time.Time, error) { return time.Time{}, nil },
			Proposal: func(index uint64) ([]byte, error) { return private[index], nil },
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	logged.Store(uint64(len(private))) // later than submission was allowed
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	began := time.Now()
	m.set(outage.Recovering, "rekor/read", "rekor/write")
	for end := began.Add(4 * time.Minute); m.state("rekor/write") != outage.Live; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %+v", r.Status())
		}
	}
	took := time.Since(began)
	for i := range private {
		if receipt, err := r.Proof(privateOrigin, uint64(i)); err != nil || receipt == nil {
			t.Fatalf("entry %d has no receipt: %v", i, err)
		}
	}
	cancel()
	if err := errors.Join(<-ended, db.Close()); err != nil {
		t.Error(err)
	}
	return took
}

// TestRealV2 submits to a real Rekor v2.
func TestRealV2(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped by -short: runs a real server")
	}
	binary, err := tool.Path(t.Context(), "rekor-tiles")
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := realv2.Start(t.Context(), realv2.Config{Binary: binary, Dir: t.TempDir(), Origin: "log.understudy.test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(upstream.Close)
	var fetched int
	var first *protorekor.TransparencyLogEntry
	s, err := NewSubmitterV2(SubmitterConfig{
		URL: upstream.WriteURL() + "/api/v2", Keys: func() []trust.Key { return keysIn(t, upstream.PublicKeyFile) },
		Fetch: func(context.Context, uint64) (*protorekor.TransparencyLogEntry, error) { fetched++; return first, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	request := logstage.RequestV2JSON("a")
	r, err := s.Submit(t.Context(), request)
	if err != nil || r.Duplicate || r.Origin != upstream.Origin {
		t.Fatalf("%+v %v", r, err)
	}
	first = entryOf(t, r.JSON)
	again, err := s.Submit(t.Context(), request)
	if err != nil || !again.Duplicate || again.LogIndex != r.LogIndex || fetched != 1 {
		t.Errorf("%+v %v, fetched %d times", again, err, fetched)
	}
	private := make([][]byte, 50)
	for i := range private {
		private[i] = logstage.RequestV2JSON(fmt.Sprint("entry ", i))
	}
	took := reconciled(t, s, private)
	t.Logf("%d private entries are in a real Rekor v2 after %s", len(private), took.Round(time.Millisecond))
}

func entryOf(t *testing.T, raw []byte) *protorekor.TransparencyLogEntry {
	t.Helper()
	entry := new(protorekor.TransparencyLogEntry)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(raw, entry); err != nil {
		t.Fatal(err)
	}
	return entry
}
