package rekor

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/understudy-log/understudy/storage"
)

func TestUUID(t *testing.T) {
	leaf := strings.Repeat("0a", 32)
	for _, tt := range []struct {
		s  string
		ok bool
	}{
		{leaf, true},
		{"108e9186e8c5677a" + leaf, true},
		{"0000000000000001" + leaf, true},
		{"7fffffffffffffff" + leaf, true},
		{"8000000000000000" + leaf, false}, // Rekor reads an int64
		{"0000000000000000" + leaf, false},
		{"+000000000000001" + leaf, false},
		{"0x00000000000001" + leaf, false},
		{"00000000_0000001" + leaf, false},
		{"", false},
		{leaf[1:], false},
		{leaf + "0", false},
		{"g" + leaf[1:], false},
		{leaf[1:] + "\n", false},
		{"108e9186e8c5677a", false},
	} {
		u, err := ParseUUID(tt.s)
		if (err == nil) != tt.ok {
			t.Errorf("%q: %v", tt.s, err)
		}
		if err == nil && u.String() != tt.s {
			t.Errorf("%q became %q", tt.s, u)
		}
		upper, err := ParseUUID(strings.ToUpper(tt.s))
		if (err == nil) != (tt.ok || strings.HasPrefix(tt.s, "0X")) || upper != u {
			t.Errorf("%q in upper case: %v, %v", tt.s, upper, err)
		}
	}
}

// newItem returns an entry signed by a fresh log.
func newItem(tb testing.TB) (Item, *ecdsa.PrivateKey) {
	tb.Helper()
	key := newKey(tb)
	id := sha256.Sum256(spkiOf(tb, key.Public()))
	e := Entry{
		Body: []byte(`{"kind":"k","apiVersion":"1","é":"<&>"}`), IntegratedTime: 1700000000,
		LogID: hex.EncodeToString(id[:]), LogIndex: 3_000_000_001,
		Attestation: []byte("attestation"),
		Proof: &Proof{Index: 5, TreeSize: 6, RootHash: storage.Hash{1}, Hashes: []storage.Hash{{2}, {3}},
			Checkpoint: []byte("rekor.example - 7\n6\nAQ==\n\n— rekor.example <&>\n")},
	}
	e.SET = sign(tb, key, e.signedBytes())
	return Item{UUID: UUID{TreeID: 7, LeafHash: storage.LeafHash(e.Body)}, Entry: e}, key
}

func TestMarshalItem(t *testing.T) {
	full, _ := newItem(t)
	bare := Item{UUID: UUID{LeafHash: full.UUID.LeafHash}, Entry: Entry{Body: full.Entry.Body, LogID: full.Entry.LogID}}
	single := full
	single.Entry.Attestation = nil
	single.Entry.Proof = &Proof{TreeSize: 1, Hashes: []storage.Hash{}, Checkpoint: []byte("c")}
	for name, item := range map[string]Item{"full": full, "bare": bare, "single": single} {
		checkRoundTripOf(t, name, item)
	}
	data, err := MarshalItem(full)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(data), `— rekor.example <&>\n`) {
		t.Errorf("escaped in another way than Rekor's: %s", data)
	}
	if data, err = MarshalItem(single); err != nil || !strings.Contains(string(data), `"hashes":[]`) || strings.Contains(string(data), "attestation") {
		t.Errorf("%s, %v", data, err)
	}
	full.Entry.LogIndex = 1 << 63
	if data, err := MarshalItem(full); err == nil {
		t.Errorf("wrote %s", data)
	}
}

func checkRoundTripOf(t *testing.T, name string, item Item) {
	t.Helper()
	data, err := MarshalItem(item)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	again, err := ParseAnswer(data)
	if err != nil || !reflect.DeepEqual(again, []Item{item}) {
		t.Errorf("%s: %v, %+v, want %+v", name, err, again, item)
	}
}

func TestParseAnswerRefuses(t *testing.T) {
	item, _ := newItem(t)
	good, err := MarshalItem(item)
	if err != nil {
		t.Fatal(err)
	}
	body := base64.StdEncoding.EncodeToString(item.Entry.Body)
	for _, change := range [][2]string{
		{body, body[:len(body)-2] + "!!"},
		{body, ""},
		{`"` + body + `"`, "{}"},
		{`"` + body + `"`, "null"},
		{`"integratedTime":1700000000`, `"integratedTime":-1`},
		{`"integratedTime":1700000000`, `"integratedTime":1.5`},
		{`"integratedTime":1700000000,`, ``},
		{`"logIndex":3000000001`, `"logIndex":-1`},
		{`"logIndex":3000000001`, `"logIndex":99999999999999999999`},
		{`"logIndex":3000000001`, `"logIndex":"3000000001"`},
		{item.Entry.LogID, strings.ToUpper(item.Entry.LogID)},
		{item.Entry.LogID, item.Entry.LogID[2:]},
		{`"treeSize":6`, `"treeSize":5`},
		{`"treeSize":6`, `"treeSize":0`},
		{`"treeSize":6`, `"treeSize":-6`},
		{`"logIndex":5`, `"logIndex":-5`},
		{`"logIndex":5,`, ``},
		{item.Entry.Proof.RootHash.String(), item.Entry.Proof.RootHash.String()[2:]},
		{item.Entry.Proof.Hashes[0].String(), item.Entry.Proof.Hashes[0].String() + "00"},
		{item.Entry.Proof.Hashes[0].String(), strings.Repeat("zz", 32)},
		{`"` + item.Entry.Proof.Hashes[0].String() + `"`, strings.Repeat(`"`+item.Entry.Proof.Hashes[0].String()+`",`, 70) + `""`},
		{item.UUID.String(), item.UUID.String()[1:]},
		{`"signedEntryTimestamp":"`, `"signedEntryTimestamp":"*`},
	} {
		changed := strings.Replace(string(good), change[0], change[1], 1)
		if changed == string(good) {
			t.Fatalf("nothing to change: %q", change[0])
		}
		if items, err := ParseAnswer([]byte(changed)); err == nil {
			t.Errorf("%q for %q accepted: %+v", change[1], change[0], items)
		}
	}
	for _, s := range []string{"", "null", "[]", "{", "<html></html>", string(good) + "{}", string(good) + "x", `{"a":{}}`} {
		if _, err := ParseAnswer([]byte(s)); err == nil {
			t.Errorf("%q accepted", s)
		}
	}
	if items, err := ParseAnswer([]byte("{}\n")); err != nil || len(items) != 0 {
		t.Errorf("{} gives %v, %v", items, err)
	}
	if items, err := ParseAnswers([]byte("[]\n")); err != nil || len(items) != 0 {
		t.Errorf("[] gives %v, %v", items, err)
	}
	if _, err := ParseAnswers([]byte("null")); err == nil {
		t.Error("a list that is null accepted")
	}
	if _, err := ParseAnswer(make([]byte, maxAnswer+1)); err == nil {
		t.Error("an endless answer accepted")
	}
	// Another body of the same length.
	other := base64.StdEncoding.EncodeToString([]byte(strings.Replace(string(item.Entry.Body), "k", "x", 1)))
	_, err = ParseAnswer([]byte(strings.Replace(string(good), body, other, 1)))
	var wrong *LeafHashError
	if !errors.As(err, &wrong) || wrong.UUID != item.UUID {
		t.Errorf("a body of another UUID gives %v", err)
	}
}

// The bytes that are signed are those that Rekor's client canonicalizes.
func TestSignedBytes(t *testing.T) {
	item, key := newItem(t)
	for _, index := range []uint64{0, 1, 3_000_000_001, 1<<53 - 1, maxExact} {
		e := item.Entry
		e.LogIndex = index
		payload, err := json.Marshal(map[string]any{"body": e.Body, "integratedTime": e.IntegratedTime, "logIndex": e.LogIndex, "logID": e.LogID})
		if err != nil {
			t.Fatal(err)
		}
		want, err := jsoncanonicalizer.Transform(payload)
		if err != nil {
			t.Fatal(err)
		}
		if got := e.signedBytes(); string(got) != string(want) {
			t.Errorf("index %d: %s, want %s", index, got, want)
		}
	}
	item.Entry.LogIndex = maxExact + 1
	item.Entry.SET = sign(t, key, item.Entry.signedBytes())
	if err := item.Entry.VerifySET(key.Public()); !errors.Is(err, ErrSET) {
		t.Errorf("an index beyond 2^53: %v", err)
	}
}

func TestVerifySETKeys(t *testing.T) {
	var signers []crypto.Signer
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		signers = append(signers, key)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signers = append(signers, rsaKey, edKey)
	for _, s := range signers {
		item, _ := newItem(t)
		e := &item.Entry
		id := sha256.Sum256(spkiOf(t, s.Public()))
		e.LogID = hex.EncodeToString(id[:])
		// Signed by the code of Rekor's server, verified by ours and by its client.
		signer, err := signature.LoadSignerVerifier(s, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if e.SET, err = signer.SignMessage(strings.NewReader(string(e.signedBytes()))); err != nil {
			t.Fatal(err)
		}
		if err := e.VerifySET(s.Public()); err != nil {
			t.Errorf("%T: %v", s, err)
		}
		data, err := MarshalItem(item)
		if err != nil {
			t.Fatal(err)
		}
		var model models.LogEntry
		if err := json.Unmarshal(data, &model); err != nil {
			t.Fatal(err)
		}
		anon := model[item.UUID.String()]
		if err := verify.VerifySignedEntryTimestamp(t.Context(), &anon, signer); err != nil {
			t.Errorf("%T: Rekor's client: %v", s, err)
		}
		e.SET[len(e.SET)-1] ^= 1
		if err := e.VerifySET(s.Public()); !errors.Is(err, ErrSET) {
			t.Errorf("%T: a changed timestamp gives %v", s, err)
		}
		var wrong *LogIDError
		if err := e.VerifySET(newKey(t).Public()); !errors.As(err, &wrong) || wrong.LogID != e.LogID {
			t.Errorf("%T: another key gives %v", s, err)
		}
	}
	item, _ := newItem(t)
	if err := item.Entry.VerifySET("no key"); err == nil {
		t.Error("no key accepted")
	}
}

// No bit of a timestamp, of what it signs, is free.
func TestVerifySETMutations(t *testing.T) {
	item, key := newItem(t)
	good := item.Entry
	if err := good.VerifySET(key.Public()); err != nil {
		t.Fatal(err)
	}
	refused := func(name string, e Entry) {
		t.Helper()
		var wrong *LogIDError
		if err := e.VerifySET(key.Public()); !errors.Is(err, ErrSET) && !errors.As(err, &wrong) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for i := range good.SET {
		for bit := range 8 {
			e := good
			e.SET = bytes.Clone(good.SET)
			e.SET[i] ^= 1 << bit
			refused("bit of the timestamp", e)
		}
		e := good
		e.SET = good.SET[:i]
		refused("cut timestamp", e)
	}
	for i := range good.Body {
		e := good
		e.Body = bytes.Clone(good.Body)
		e.Body[i] ^= 1
		refused("bit of the body", e)
	}
	for bit := range 52 {
		e := good
		e.LogIndex ^= 1 << bit
		refused("bit of the index", e)
		e = good
		e.IntegratedTime ^= 1 << bit
		refused("bit of the time", e)
	}
	for _, id := range []string{"", strings.ToUpper(good.LogID), good.LogID[1:], strings.Repeat("0", 64)} {
		e := good
		e.LogID = id
		refused("log ID", e)
	}
}

func TestTransparencyLogEntryRefuses(t *testing.T) {
	good, _ := newItem(t)
	if _, err := TransparencyLogEntry(good); err != nil {
		t.Fatal(err)
	}
	v2 := hashedrekordV2(t, []byte("artifact"), keyVerifier(spkiOf(t, newKey(t).Public())))
	for name, change := range map[string]func(e *Entry){
		"v2":             func(e *Entry) { e.Body = v2 },
		"nothing signed": func(e *Entry) { e.SET, e.Proof = nil, nil },
		"log ID":         func(e *Entry) { e.LogID = "log" },
		"no JSON":        func(e *Entry) { e.Body = []byte("body") },
		"no kind":        func(e *Entry) { e.Body = []byte(`{"apiVersion":"0.0.1"}`) },
		"no version":     func(e *Entry) { e.Body = []byte(`{"kind":"hashedrekord"}`) },
		"index":          func(e *Entry) { e.LogIndex = 1 << 63 },
		"place":          func(e *Entry) { e.Proof = &Proof{Index: 6, TreeSize: 6, Checkpoint: []byte("c")} },
		"size":           func(e *Entry) { e.Proof = &Proof{Index: 6, TreeSize: 1 << 63, Checkpoint: []byte("c")} },
		"no checkpoint":  func(e *Entry) { e.Proof = &Proof{Index: 5, TreeSize: 6} },
	} {
		item := good
		change(&item.Entry)
		if msg, err := TransparencyLogEntry(item); err == nil {
			t.Errorf("%s: %v", name, msg)
		}
	}
	checkpoint := []byte("checkpoint")
	if _, err := TransparencyLogEntryV2(v2, 5, 6, storage.Hash{}, nil, checkpoint, []byte("id")); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"v1":            second(TransparencyLogEntryV2(good.Entry.Body, 5, 6, storage.Hash{}, nil, checkpoint, []byte("id"))),
		"place":         second(TransparencyLogEntryV2(v2, 6, 6, storage.Hash{}, nil, checkpoint, []byte("id"))),
		"no checkpoint": second(TransparencyLogEntryV2(v2, 5, 6, storage.Hash{}, nil, nil, []byte("id"))),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func BenchmarkVerifySET(b *testing.B) {
	item, key := newItem(b)
	item.Entry.Body = []byte(strings.Repeat("x", 2000))
	item.Entry.SET = sign(b, key, item.Entry.signedBytes())
	b.ReportAllocs()
	for b.Loop() {
		if err := item.Entry.VerifySET(key.Public()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshalItem(b *testing.B) {
	item, _ := newItem(b)
	item.Entry.Body = []byte(strings.Repeat("x", 2000))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := MarshalItem(item); err != nil {
			b.Fatal(err)
		}
	}
}
