// Package logstage makes private logs in memory, and what is proposed to them, for tests.
package logstage

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	tilesnote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// Host is what the logs are called, and TreeID is the tree of the first generation.
const (
	Host   = "rekor.test"
	TreeID = 0x1234_5678_9abc_def0
)

// Stage is a log that can be closed, and opened again.
type Stage struct {
	t testing.TB

	Log    *log.Log
	Public crypto.PublicKey
	Signer signature.Signer // of SETs
	LogID  []byte           // full ID of the note key
	Config log.Config       // but for DB and Newest
	// Disk has the databases, in Dir: it is in memory, unless change replaces it.
	Disk vfs.FS
	Dir  string

	// Asleep are the witnesses of Witnessed, and Sick the key: it does not sign checkpoints.
	Asleep, Sick atomic.Bool

	db     *storage.DB
	newest *storage.Newest
	cancel context.CancelFunc
	ended  chan error
}

// New makes a log of a generation, 1 or 2, and runs it. change may be nil.
func New(t testing.TB, generation int, change func(*Stage)) *Stage {
	t.Helper()
	s := &Stage{t: t, Disk: vfs.NewMem()}
	var err error
	origin := Host
	if generation == 1 {
		origin = Origin
		key, keyErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if keyErr != nil {
			t.Fatal(keyErr)
		}
		s.Public = key.Public()
		s.Signer, err = signature.LoadECDSASigner(key, crypto.SHA256)
	} else {
		public, key, keyErr := ed25519.GenerateKey(rand.Reader)
		if keyErr != nil {
			t.Fatal(keyErr)
		}
		s.Public = public
		s.Signer, err = signature.LoadED25519Signer(key)
	}
	if err != nil {
		t.Fatal(err)
	}
	signer, err := tilesnote.NewNoteSigner(t.Context(), Host, s.Signer)
	if err != nil {
		t.Fatal(err)
	}
	verifying, err := signature.LoadVerifier(s.Public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := tilesnote.NewNoteVerifier(Host, verifying)
	if err != nil {
		t.Fatal(err)
	}
	if _, s.LogID, err = tilesnote.KeyHash(Host, s.Public); err != nil {
		t.Fatal(err)
	}
	key, err := log.NewProposalKey(make([]byte, log.ProposalKeySize))
	if err != nil {
		t.Fatal(err)
	}
	s.Config = log.Config{
		Origin: origin, Name: "test", Signers: []note.Signer{sickSigner{signer, &s.Sick}}, Verifiers: []note.Verifier{verifier},
		ProposalKey: key, BatchWait: time.Millisecond,
	}
	if change != nil {
		change(s)
	}
	s.Open(true)
	t.Cleanup(s.Close)
	return s
}

// Origin is that of a log of the first generation.
const Origin = Host + " - 1311768467463790320"

type sickSigner struct {
	note.Signer
	sick *atomic.Bool
}

func (s sickSigner) Sign(message []byte) ([]byte, error) {
	if s.sick.Load() {
		return nil, errors.New("the key is out of reach: secret-name-of-the-key")
	}
	return s.Signer.Sign(message)
}

// Witnessed gives a log a witness that cosigns unless it is asleep.
func (s *Stage) Witnessed() {
	s.Config.Cosign = func(context.Context, storage.Checkpoint, func(uint64) ([]storage.Hash, error)) ([]string, error) {
		if s.Asleep.Load() {
			return nil, errors.New("the witness does not answer: secret-name-of-the-witness")
		}
		return []string{"— witness.test/one AAAAAQAAAAAAAAAA"}, nil
	}
}

// Open opens the log, or makes it, and runs it.
func (s *Stage) Open(create bool) {
	s.t.Helper()
	o := storage.Options{FS: s.Disk, CacheBytes: 1 << 20, SearchKeys: rekor.SearchKeys, ReceiptKeys: rekor.ReceiptKeys, SearchVersion: rekor.SearchVersion}
	openDB, openLog := storage.Open, log.Open
	if create {
		openDB, openLog = storage.Create, log.Create
	}
	var err error
	if s.db, err = openDB(filepath.Join(s.Dir, "db"), o); err != nil {
		s.t.Fatal(err)
	}
	if s.newest, err = storage.OpenNewest(filepath.Join(s.Dir, "newest"), storage.Options{FS: s.Disk, CacheBytes: 1 << 20}); err != nil {
		s.t.Fatal(err)
	}
	c := s.Config
	c.DB, c.Newest = s.db, s.newest
	if s.Log, err = openLog(c); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel, s.ended = cancel, make(chan error, 1)
	run := s.Log.Run
	go func() { s.ended <- run(ctx) }()
}

// Stop ends Run.
func (s *Stage) Stop() {
	s.t.Helper()
	if s.cancel == nil {
		return
	}
	s.cancel()
	s.cancel = nil
	if err := <-s.ended; err != nil {
		s.t.Errorf("run: %v", err)
	}
}

// Close stops the log and closes its database.
func (s *Stage) Close() {
	s.t.Helper()
	s.Stop()
	if s.db == nil {
		return
	}
	if err := errors.Join(s.newest.Close(), s.db.Close()); err != nil {
		s.t.Error(err)
	}
	s.db = nil
}

// Sound holds what is stored together.
func (s *Stage) Sound() {
	s.t.Helper()
	report, err := s.Log.Tree().Check(context.Background(), storage.CheckOptions{})
	if err != nil || len(report.Problems) > 0 {
		s.t.Errorf("check: %v %v", report.Problems, err)
	}
}

// AwaitPublished waits until so many entries are published.
func (s *Stage) AwaitPublished(size uint64) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); s.Log.Published().Raw == nil || s.Log.Published().Size < size; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("never published: %d entries", size)
		}
	}
}

// AwaitHeld waits until so many entries are durable.
func (s *Stage) AwaitHeld(size uint64) {
	s.t.Helper()
	for end := time.Now().Add(time.Minute); s.Log.Tree().State().Head.Size < size; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("never durable: %d entries", size)
		}
	}
}

// key signs what is proposed.
var key = sync.OnceValue(func() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
})

func sign(message []byte) (digest [sha256.Size]byte, sig []byte) {
	digest = sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key(), digest[:])
	if err != nil {
		panic(err)
	}
	return digest, sig
}

// Reopen opens the log of a stage that is closed, perhaps at another time.
func Reopen(t testing.TB, closed *Stage) *Stage {
	t.Helper()
	s := &Stage{t: t, Public: closed.Public, Signer: closed.Signer, LogID: closed.LogID, Config: closed.Config, Disk: closed.Disk, Dir: closed.Dir}
	s.Open(false)
	t.Cleanup(s.Close)
	return s
}
