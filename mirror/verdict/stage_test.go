package verdict

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	bundlepb "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	dssepb "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorpb "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/merkle/testonly"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/authority"
)

const (
	signer   = "signer@example.com"
	release  = "bot@release.example.com" // high risk
	hostV1   = "rekor.example.com"
	originV1 = hostV1 + " - 42"
	originV2 = "log2026.example.com"
)

// modelLog is a log, and the truth about it.
type modelLog struct {
	origin string
	key    *ecdsa.PrivateKey
	id     []byte
	tree   *testonly.Tree
	leaves []storage.Hash
	bodies [][]byte
}

func newModelLog(t testing.TB, origin string, v2 bool) *modelLog {
	key := newKey(t)
	l := &modelLog{origin: origin, key: key, tree: testonly.New(rfc6962.DefaultHasher)}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	must(t, err)
	sum := sha256.Sum256(spki)
	if l.id = sum[:]; v2 {
		_, l.id, err = rekornote.KeyHash(origin, key.Public())
		must(t, err)
	}
	for i := range 3 {
		l.append(fmt.Appendf(nil, "entry %d of somebody else", i))
	}
	return l
}

func (l *modelLog) append(body []byte) (index uint64) {
	l.tree.AppendData(body)
	l.leaves = append(l.leaves, storage.LeafHash(body))
	l.bodies = append(l.bodies, body)
	return uint64(len(l.leaves) - 1)
}

// holds is the truth.
func (l *modelLog) holds(index uint64, leaf storage.Hash) bool {
	return index < uint64(len(l.leaves)) && l.leaves[index] == leaf
}

// signed reports whether the entry at an index is about a signature.
func (l *modelLog) signed(index int64, sig []byte) bool {
	return index >= 0 && index < int64(len(l.bodies)) && bytes.Contains(l.bodies[index], []byte(base64.StdEncoding.EncodeToString(sig)))
}

func (l *modelLog) checkpoint(t testing.TB) string {
	text := fmt.Sprintf("%s\n%d\n%s\n", l.origin, len(l.leaves), base64.StdEncoding.EncodeToString(l.tree.Hash()))
	sv, err := signature.LoadECDSASignerVerifier(l.key, crypto.SHA256)
	must(t, err)
	s, err := rekornote.NewNoteSigner(t.Context(), l.origin, sv)
	if l.origin == originV1 {
		s, err = v1Signer{l}, nil
	}
	must(t, err)
	raw, err := note.Sign(&note.Note{Text: text}, s)
	must(t, err)
	return string(raw)
}

func (l *modelLog) sign(message []byte) []byte {
	digest := sha256.Sum256(message)
	sig, err := l.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		panic(err)
	}
	return sig
}

// v1Signer signs checkpoints as Rekor v1.
type v1Signer struct{ l *modelLog }

func (s v1Signer) Name() string { return hostV1 }
func (s v1Signer) KeyHash() uint32 {
	return uint32(s.l.id[0])<<24 | uint32(s.l.id[1])<<16 | uint32(s.l.id[2])<<8 | uint32(s.l.id[3])
}
func (s v1Signer) Sign(msg []byte) ([]byte, error) { return s.l.sign(msg), nil }

// sigstore is a small Sigstore: authorities and two logs.
type sigstore struct {
	ca     *authority.Authority
	v1, v2 *modelLog
	start  time.Time
}

func newSigstore(t testing.TB) *sigstore {
	ca, err := authority.New()
	must(t, err)
	return &sigstore{ca: ca, v1: newModelLog(t, originV1, false), v2: newModelLog(t, originV2, true), start: time.Now().Add(-time.Hour)}
}

// without names a part of the trust material that is left out.
func (s *sigstore) material(t testing.TB, without ...string) root.TrustedMaterial {
	left := func(part string) bool {
		for _, w := range without {
			if w == part {
				return true
			}
		}
		return false
	}
	logs := map[string]*root.TransparencyLog{}
	for name, l := range map[string]*modelLog{"v1": s.v1, "v2": s.v2} {
		host := l.origin
		if name == "v1" {
			host = hostV1
		}
		if !left(name) {
			logs[hex.EncodeToString(l.id)] = &root.TransparencyLog{
				BaseURL: "https://" + host, ID: l.id, PublicKey: l.key.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: s.start,
			}
		}
	}
	var cas []root.CertificateAuthority
	if !left("ca") {
		cas = append(cas, &root.FulcioCertificateAuthority{Root: s.ca.Root, ValidityPeriodStart: s.start})
	}
	var tsas []root.TimestampingAuthority
	if !left("tsa") {
		tsas = append(tsas, &root.SigstoreTimestampingAuthority{Root: s.ca.Root, Leaf: s.ca.StampCertificate, ValidityPeriodStart: s.start})
	}
	var ctlogs map[string]*root.TransparencyLog
	if left("no ct log") { // there is one, and no certificate has its SCT
		ctlogs = map[string]*root.TransparencyLog{"00": {BaseURL: "https://ct.example.com", ID: []byte{0}, PublicKey: s.v1.key.Public(), HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA256, ValidityPeriodStart: s.start}}
	}
	tr, err := root.NewTrustedRoot(root.TrustedRootMediaType01, cas, ctlogs, tsas, logs)
	must(t, err)
	return tr
}

// making says how a bundle is made. Its zero value is one of Rekor v2 with a certificate of signer.
type making struct {
	identity string
	key      crypto.Signer // instead of a certificate
	v1       bool
	promise  bool // v1: without a proof
	envelope bool // v2
	noStamp  bool // v2
	media    string
}

func (s *sigstore) bundle(t testing.TB, artifact []byte, m making) []byte {
	data, err := protojson.Marshal(s.message(t, artifact, m))
	must(t, err)
	return data
}

func (s *sigstore) message(t testing.TB, artifact []byte, m making) *bundlepb.Bundle {
	private, identity := m.key, m.identity
	if identity == "" {
		identity = signer
	}
	var certificate []byte
	if private == nil {
		k := newKey(t)
		var err error
		certificate, err = s.ca.Issue(k.Public(), identity)
		must(t, err)
		private = k
	}
	signed := artifact
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"https://example.com/p","subject":[{"name":"a","digest":{"sha256":"%x"}}],"predicate":{}}`, sha256.Sum256(artifact))
	const payloadType = "application/vnd.in-toto+json"
	if m.envelope {
		signed = preAuth(payloadType, statement)
	}
	short, long := sha256.Sum256(signed), sha512.Sum512(signed)
	digest, hash, algorithm, details := short[:], crypto.SHA256, commonpb.HashAlgorithm_SHA2_256, commonpb.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
	if _, ok := private.Public().(ed25519.PublicKey); ok {
		digest, hash, algorithm, details = long[:], crypto.SHA512, commonpb.HashAlgorithm_SHA2_512, commonpb.PublicKeyDetails_PKIX_ED25519_PH
	}
	sig, err := private.Sign(rand.Reader, digest, hash)
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(private.Public())
	must(t, err)
	output := &commonpb.HashOutput{Algorithm: algorithm, Digest: digest}
	material := &bundlepb.VerificationMaterial{TimestampVerificationData: &bundlepb.TimestampVerificationData{}}
	b := &bundlepb.Bundle{MediaType: cmpOr(m.media, "application/vnd.dev.sigstore.bundle.v0.3+json"), VerificationMaterial: material}
	if m.envelope {
		b.Content = &bundlepb.Bundle_DsseEnvelope{DsseEnvelope: &dssepb.Envelope{Payload: statement, PayloadType: payloadType, Signatures: []*dssepb.Signature{{Sig: sig}}}}
	} else {
		b.Content = &bundlepb.Bundle_MessageSignature{MessageSignature: &commonpb.MessageSignature{MessageDigest: output, Signature: sig}}
	}
	verifier := &tilespb.Verifier{KeyDetails: details}
	if certificate == nil {
		verifier.Verifier = &tilespb.Verifier_PublicKey{PublicKey: &tilespb.PublicKey{RawBytes: spki}}
		material.Content = &bundlepb.VerificationMaterial_PublicKey{PublicKey: &commonpb.PublicKeyIdentifier{Hint: "a hint"}}
	} else {
		c := &commonpb.X509Certificate{RawBytes: certificate}
		verifier.Verifier = &tilespb.Verifier_X509Certificate{X509Certificate: c}
		material.Content = &bundlepb.VerificationMaterial_Certificate{Certificate: c}
		if m.media != "" {
			material.Content = &bundlepb.VerificationMaterial_X509CertificateChain{X509CertificateChain: &commonpb.X509CertificateChain{Certificates: []*commonpb.X509Certificate{c}}}
		}
	}
	if m.v1 {
		block := &pem.Block{Type: "PUBLIC KEY", Bytes: spki}
		if certificate != nil {
			block = &pem.Block{Type: "CERTIFICATE", Bytes: certificate}
		}
		body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha%d","value":"%x"}},"signature":{"content":%q,"publicKey":{"content":%q}}}}`,
			8*len(digest), digest, base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString(pem.EncodeToMemory(block)))
		material.TlogEntries = []*rekorpb.TransparencyLogEntry{s.v1.entry(t, body, m.promise)}
		return b
	}
	if certificate != nil && !m.noStamp {
		stamp, err := s.ca.Stamp(sig)
		must(t, err)
		material.TimestampVerificationData.Rfc3161Timestamps = []*commonpb.RFC3161SignedTimestamp{{SignedTimestamp: stamp}}
	}
	entry, err := protojson.Marshal(&tilespb.Entry{Kind: "hashedrekord", ApiVersion: "0.0.2", Spec: &tilespb.Spec{Spec: &tilespb.Spec_HashedRekordV002{
		HashedRekordV002: &tilespb.HashedRekordLogEntryV002{Data: output, Signature: &tilespb.Signature{Content: sig, Verifier: verifier}},
	}}})
	must(t, err)
	body, err := jsoncanonicalizer.Transform(entry)
	must(t, err)
	material.TlogEntries = []*rekorpb.TransparencyLogEntry{s.v2.entry(t, body, false)}
	return b
}

func (l *modelLog) entry(t testing.TB, body []byte, promise bool) *rekorpb.TransparencyLogEntry {
	index := l.append(body)
	size := uint64(len(l.leaves))
	path, err := l.tree.InclusionProof(index, size)
	must(t, err)
	e := &rekorpb.TransparencyLogEntry{
		LogIndex: int64(index), LogId: &commonpb.LogId{KeyId: l.id}, CanonicalizedBody: body,
		KindVersion: &rekorpb.KindVersion{Kind: "hashedrekord", Version: "0.0.2"},
		InclusionProof: &rekorpb.InclusionProof{
			LogIndex: int64(index), TreeSize: int64(size), RootHash: l.tree.Hash(), Hashes: path, Checkpoint: &rekorpb.Checkpoint{Envelope: l.checkpoint(t)},
		},
	}
	if l.origin != originV1 {
		return e
	}
	e.LogIndex += 1000 // the virtual index
	e.KindVersion.Version = "0.0.1"
	e.IntegratedTime = time.Now().Unix()
	payload, err := json.Marshal(map[string]any{"body": base64.StdEncoding.EncodeToString(body), "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": hex.EncodeToString(l.id)})
	must(t, err)
	canonical, err := jsoncanonicalizer.Transform(payload)
	must(t, err)
	e.InclusionPromise = &rekorpb.InclusionPromise{SignedEntryTimestamp: l.sign(canonical)}
	if promise {
		e.InclusionProof = nil
	}
	return e
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

func pemOf(t testing.TB, public crypto.PublicKey) []byte {
	spki, err := x509.MarshalPKIXPublicKey(public)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// stage is a verifier, and the world around it as the test has it.
type stage struct {
	t *testing.T
	*sigstore
	fs     vfs.FS
	db     *storage.DB
	ledger *ledger.Ledger
	clock  *ledger.Clock
	v      *Verifier
	config Config

	mu    sync.Mutex // guards the fields below
	state outage.State
	now   root.TrustedMaterial
	held  func(origin string, index uint64, leaf storage.Hash, size uint64) Held
	jump  time.Duration // of the wall clock
}

var policies = []Policy{
	{Name: "team", Identities: []Identity{{SAN: signer, Issuer: authority.Issuer}}},
	{Name: "any"},
	{Name: "picky", Accept: []RestsOn{PublicLive, Private}},
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, sigstore: newSigstore(t), fs: vfs.NewCrashableMem(), state: outage.Live}
	s.now, s.held = s.material(t), s.truth
	s.config = Config{
		Policies: policies, HighRisk: []Pattern{{Identity: "*@release.example.com"}},
		Material: func() root.TrustedMaterial { s.mu.Lock(); defer s.mu.Unlock(); return s.now },
		State:    func() outage.State { s.mu.Lock(); defer s.mu.Unlock(); return s.state },
		Held: func(_ context.Context, origin string, index uint64, leaf storage.Hash, size uint64, _ storage.Hash) Held {
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.held(origin, index, leaf, size)
		},
	}
	s.open()
	t.Cleanup(func() {
		if s.db != nil {
			s.db.Close()
		}
	})
	return s
}

// truth is what a mirror knows that holds both logs.
func (s *stage) truth(origin string, index uint64, leaf storage.Hash, size uint64) Held {
	l := s.v2
	switch {
	case origin == originV1 || origin == hostV1:
		l = s.v1
	case origin != originV2:
		return Held{}
	}
	if size == 0 {
		index -= 1000
	}
	if index >= uint64(len(l.leaves)) {
		return Held{Live: s.state == outage.Live}
	}
	return Held{Confirmed: l.holds(index, leaf), Contradicted: !l.holds(index, leaf), Live: s.state == outage.Live}
}

func (s *stage) wall() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Round(0).Add(s.jump)
}

func (s *stage) open() {
	s.t.Helper()
	var err error
	s.db, err = storage.Open("db", storage.Options{FS: s.fs, CacheBytes: 1 << 20})
	if errors.Is(err, storage.ErrNotExist) {
		s.db, err = storage.Create("db", storage.Options{FS: s.fs, CacheBytes: 1 << 20})
	}
	must(s.t, err)
	s.clock, err = ledger.NewClock(s.db, s.wall)
	must(s.t, err)
	s.ledger, err = ledger.Open(s.db, s.clock.Now)
	must(s.t, err)
	s.config.DB, s.config.Ledger, s.config.Now = s.db, s.ledger, s.clock.Now
	s.v, err = New(s.config)
	must(s.t, err)
}

// crash ends the process, and starts it again with what was durable.
func (s *stage) crash() {
	s.t.Helper()
	clone := s.fs.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
	s.db.Close()
	s.fs = clone
	s.open()
}

func (s *stage) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *stage) request(artifact, bundle []byte) Request {
	digest := sha256.Sum256(artifact)
	return Request{Bundle: bundle, Algorithm: "sha256", Digest: digest[:], Identity: &Identity{SAN: signer, Issuer: authority.Issuer}}
}

func (s *stage) verify(r Request) Decision {
	s.t.Helper()
	d, err := s.v.Verify(s.t.Context(), r)
	if err != nil {
		s.t.Fatal(err)
	}
	if len(d.Reasons) == 0 {
		s.t.Fatalf("a decision without a reason: %+v", d)
	}
	return d
}

func (d Decision) has(code string) bool {
	for _, r := range d.Reasons {
		if r.Code == code {
			return true
		}
	}
	return false
}

// rows returns the rows of a kind.
func (s *stage) rows(kind string) (rows []ledger.Row) {
	s.t.Helper()
	must(s.t, s.ledger.Rows(1, func(r ledger.Row) error {
		if r.Kind == kind {
			rows = append(rows, r)
		}
		return nil
	}))
	return rows
}
