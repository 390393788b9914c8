package rekor

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	tilesnote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/tle"
	"github.com/sigstore/rekor/pkg/types"
	rekorverify "github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/storage"
)

func TestSignSET(t *testing.T) {
	key := newKey(t)
	signer, err := signature.LoadSigner(key, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	id, err := LogID(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	good := Entry{Body: []byte(`{"a":"<&>"}`), IntegratedTime: 1700000000, LogID: id, LogIndex: 1 << 53}
	if err := good.SignSET(signer); err != nil {
		t.Fatal(err)
	}
	if err := good.VerifySET(key.Public()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Entry){
		"no body":           func(e *Entry) { e.Body = nil },
		"no log ID":         func(e *Entry) { e.LogID = "" },
		"upper-case log ID": func(e *Entry) { e.LogID = strings.ToUpper(e.LogID) },
		"a large index":     func(e *Entry) { e.LogIndex++ },
		"a large time":      func(e *Entry) { e.IntegratedTime = 1<<53 + 1 },
		"an early time":     func(e *Entry) { e.IntegratedTime = -1<<53 - 1 },
	} {
		e := good
		e.SET = nil
		change(&e)
		if err := e.SignSET(signer); err == nil || e.SET != nil {
			t.Errorf("%s: %v, %x", name, err, e.SET)
		}
	}
	e := good
	e.SET = nil
	if err := e.SignSET(brokenSigner{signer}); !errors.Is(err, errBroken) || e.SET != nil {
		t.Errorf("%v, %x", err, e.SET)
	}
}

var errBroken = errors.New("no connection")

type brokenSigner struct{ signature.Signer }

// SignMessage implements signature.Signer.
func (brokenSigner) SignMessage(io.Reader, ...signature.SignOption) ([]byte, error) {
	return []byte("half a signature"), errBroken
}

func TestLogIDRefuses(t *testing.T) {
	if id, err := LogID("no key"); err == nil {
		t.Errorf("LogID: %s", id)
	}
	if id, err := LogIDV2("rekor.example", "no key"); err == nil {
		t.Errorf("LogIDV2: %x", id)
	}
	if id, err := LogIDV2("", newKey(t).Public()); err == nil {
		t.Errorf("LogIDV2 of no origin: %x", id)
	}
}

// The log IDs of the public logs are those that their trust roots state.
func TestGenuineLogIDs(t *testing.T) {
	trust := genuineTrust(t, genuine(t))
	v1, v2 := 0, 0
	for stated, log := range trust.RekorLogs() {
		if _, ok := log.PublicKey.(*ecdsa.PublicKey); ok {
			v1++
			if id, err := LogID(log.PublicKey); err != nil || id != stated {
				t.Errorf("%s: %s, %v", stated, id, err)
			}
			continue
		}
		v2++
		base, err := url.Parse(log.BaseURL)
		if err != nil {
			t.Fatal(err)
		}
		if id, err := LogIDV2(base.Hostname(), log.PublicKey); err != nil || hex.EncodeToString(id) != stated {
			t.Errorf("%s: %x, %v", stated, id, err)
		}
	}
	if v1 == 0 || v2 == 0 {
		t.Errorf("%d logs of v1, %d of v2", v1, v2)
	}
}

// ownV1 answers proposals as a log does that signs itself, and says whether the last one went
// the fast way.
func (w *world) ownV1(tb testing.TB) (address string, fast *bool) {
	fast = new(bool)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			tb.Error(err)
		}
		rw.Header().Set("Content-Type", "application/json")
		_, *fast = fastPropose(data)
		p, err := Propose(r.Context(), data)
		if wrong, ok := errors.AsType[*InputError](err); ok {
			rw.WriteHeader(wrong.Status)
			_ = json.NewEncoder(rw).Encode(models.Error{Code: int64(wrong.Status), Message: err.Error()})
			return
		}
		item := w.item(tb, w.add(p.Body))
		item.Entry.SET = nil
		if err := item.Entry.SignSET(w.signer); err != nil {
			tb.Error(err)
		}
		answer, err := MarshalItem(item)
		if err != nil {
			tb.Error(err)
		}
		rw.Header().Set("ETag", item.UUID.String())
		rw.Header().Set("Location", r.URL.Path+"/"+item.UUID.String())
		rw.WriteHeader(http.StatusCreated)
		_, _ = rw.Write(answer)
	}))
	tb.Cleanup(server.Close)
	return server.URL, fast
}

// Rekor's client proposes, and all verifiers take what it gets: cosign's, rekor-cli's and
// sigstore-go's.
func TestOwnLogV1(t *testing.T) {
	w := newWorld(t)
	address, fast := w.ownV1(t)
	c, err := client.GetRekorClient(address)
	if err != nil {
		t.Fatal(err)
	}
	create := func(kind string, props types.ArtifactProperties) (*entries.CreateLogEntryCreated, error) {
		t.Helper()
		proposed, err := types.NewProposedEntry(t.Context(), kind, "", props)
		if err != nil {
			t.Fatal(err)
		}
		return c.Entries.CreateLogEntryContext(t.Context(), entries.NewCreateLogEntryParams().WithProposedEntry(proposed))
	}
	key, cert := w.certificate(t)
	certPEM := pemOf("CERTIFICATE", cert)
	artifact := []byte("artifact")
	signed := sign(t, key, artifact)
	const payloadType = "application/vnd.in-toto+json"
	envelope := mustJSON(t, map[string]any{"payloadType": payloadType, "payload": []byte(statement),
		"signatures": []any{map[string]any{"sig": sign(t, key, pae(payloadType, []byte(statement)))}}})
	for kind, props := range map[string]types.ArtifactProperties{
		"hashedrekord": {PKIFormat: "x509", PublicKeyBytes: [][]byte{certPEM}, SignatureBytes: signed, ArtifactHash: "sha256:" + hexSum(artifact)},
		"dsse":         {PKIFormat: "x509", PublicKeyBytes: [][]byte{certPEM}, ArtifactBytes: envelope},
	} {
		created, err := create(kind, props)
		if err != nil {
			t.Fatal(err)
		}
		entry, ok := created.Payload[created.ETag]
		if !ok || len(created.Payload) != 1 || !strings.HasSuffix(created.Location.String(), created.ETag) {
			t.Fatalf("%s: ETag %q, location %s", kind, created.ETag, created.Location)
		}
		verifier, err := signature.LoadVerifier(w.key.Public(), crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := rekorverify.VerifyLogEntry(t.Context(), &entry, verifier); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
		theirs, err := tle.GenerateTransparencyLogEntry(entry)
		if err != nil {
			t.Fatal(err)
		}
		items, err := ParseAnswer(mustJSON(t, created.Payload))
		if err != nil {
			t.Fatal(err)
		}
		ours, err := TransparencyLogEntry(items[0])
		if err != nil || !proto.Equal(theirs, ours) {
			t.Errorf("%s: %v, %v, want %v", kind, err, ours, theirs)
		}
		if kind == "hashedrekord" {
			if !*fast {
				t.Errorf("%s: not the fast way", kind)
			}
			data, err := protojson.Marshal(messageBundle(ours, cert, artifact, signed))
			if err != nil {
				t.Fatal(err)
			}
			if err := verifyBundle(t, w, data, artifactOf(artifact), verify.WithoutIdentitiesUnsafe()); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
	// What is refused, is refused in the words of Rekor.
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(artifact)
	_, err = create("hashedrekord", types.ArtifactProperties{PKIFormat: "x509", PublicKeyBytes: [][]byte{pemOf("PUBLIC KEY", spkiOf(t, p384.Public()))},
		SignatureBytes: signDigest(t, p384, digest[:], crypto.SHA256), ArtifactHash: "sha256:" + hex.EncodeToString(digest[:])})
	if bad, ok := errors.AsType[*entries.CreateLogEntryBadRequest](err); !ok || bad.Payload.Message != "error processing entry: entry algorithms are not allowed" {
		t.Errorf("%v", err)
	}
}

// messageBundle returns a bundle over an artifact.
func messageBundle(entry *protorekor.TransparencyLogEntry, cert, artifact, signed []byte) *protobundle.Bundle {
	digest := sha256.Sum256(artifact)
	return &protobundle.Bundle{
		MediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
		VerificationMaterial: &protobundle.VerificationMaterial{
			TlogEntries: []*protorekor.TransparencyLogEntry{entry},
			Content:     &protobundle.VerificationMaterial_Certificate{Certificate: &common.X509Certificate{RawBytes: cert}},
		},
		Content: &protobundle.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{
			MessageDigest: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]}, Signature: signed,
		}},
	}
}

// ownTrust knows one log of v2.
type ownTrust struct {
	root.BaseTrustedMaterial
	log *root.TransparencyLog
}

// RekorLogs returns the log.
func (o *ownTrust) RekorLogs() map[string]*root.TransparencyLog {
	return map[string]*root.TransparencyLog{hex.EncodeToString(o.log.ID): o.log}
}

// The client of rekor-tiles proposes, and sigstore-go verifies what it gets by a trust root
// that has our log ID.
func TestOwnLogV2(t *testing.T) {
	const origin = "rekor2026-1.example.com"
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	logID, err := LogIDV2(origin, public)
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := signature.LoadSigner(private, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	noteSigner, err := tilesnote.NewNoteSigner(t.Context(), origin, loaded)
	if err != nil {
		t.Fatal(err)
	}
	leaves := [][]byte{[]byte("first"), []byte("second")}
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		data, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p, err := ProposeV2(data)
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
			return
		}
		leaves = append(leaves, p.Body)
		index, size := len(leaves)-1, len(leaves)
		var hashes []storage.Hash
		rootHash := naiveProof(leaves, index, &hashes)
		text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(rootHash[:]))
		checkpoint, err := note.Sign(&note.Note{Text: text}, noteSigner)
		if err != nil {
			t.Error(err)
		}
		msg, err := TransparencyLogEntryV2(p.Body, uint64(index), uint64(size), rootHash, hashes, checkpoint, logID)
		if err != nil {
			t.Error(err)
		}
		answer, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(msg)
		if err != nil {
			t.Error(err)
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(http.StatusCreated)
		_, _ = rw.Write(answer)
	}))
	defer server.Close()
	writer, err := write.NewWriter(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	cert := newCert(t, key, nil)
	artifact := []byte("artifact")
	request := requestV2(t, key, common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, crypto.SHA256, certVerifier(cert)).GetHashedRekordRequestV002()
	entry, err := writer.Add(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	b, err := bundle.NewBundle(messageBundle(entry, cert, artifact, request.Signature.Content))
	if err != nil {
		t.Fatal(err)
	}
	trust := &ownTrust{log: &root.TransparencyLog{
		BaseURL: "https://" + origin, ID: logID, PublicKey: public,
		HashFunc: crypto.SHA256, SignatureHashFunc: crypto.SHA512, ValidityPeriodStart: time.Unix(1, 0),
	}}
	if _, err := verify.VerifyTlogEntry(b, trust, 1, false); err != nil {
		t.Error(err)
	}
	// Of another log ID it knows no log.
	trust.log.ID = bytes.Repeat([]byte{1}, 32)
	if _, err := verify.VerifyTlogEntry(b, trust, 1, false); err == nil {
		t.Error("verified by another log's ID")
	}
	request.Digest[0] ^= 1
	if _, err := writer.Add(context.TODO(), request); err == nil || !strings.Contains(err.Error(), "invalid hashedrekord request: verifying signature") {
		t.Error(err)
	}
}
