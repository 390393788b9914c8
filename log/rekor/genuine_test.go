package rekor

import (
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/understudy-log/understudy/storage"
)

func TestGenuineEntries(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	var sets, proofs int
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		items, err := ParseAnswer(r.answer(t))
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		item := items[0]
		e := &item.Entry
		key := keys[e.LogID]
		if e.SET != nil {
			sets++
			if err := e.VerifySET(key); err != nil {
				t.Errorf("%s: %v", r.ID, err)
			}
			for name, change := range map[string]func(*Entry){
				"body":  func(e *Entry) { e.Body = append(slices.Clone(e.Body), ' ') },
				"time":  func(e *Entry) { e.IntegratedTime++ },
				"index": func(e *Entry) { e.LogIndex++ },
				"SET":   func(e *Entry) { e.SET = append(slices.Clone(e.SET), 0) },
				"none":  func(e *Entry) { e.SET = nil },
			} {
				changed := *e
				change(&changed)
				if err := changed.VerifySET(key); !errors.Is(err, ErrSET) {
					t.Errorf("%s: changed %s gives %v", r.ID, name, err)
				}
			}
		}
		if e.Proof != nil {
			proofs++
		}
		if (e.Proof != nil) != (r.Proof != nil && r.Proof.Checkpoint != nil) {
			t.Errorf("%s: proof %v", r.ID, e.Proof)
		}
		checkRoundTrip(t, item)
		checkKeys(t, r.ID, e.Body)
		checkLogEntry(t, item, key)
	}
	if sets != 160 || proofs != 101 {
		t.Errorf("%d SETs and %d proofs with a checkpoint, want 160 and 101", sets, proofs)
	}
}

// checkRoundTrip writes the item, reads it, and reads it with the models of Rekor's client.
func checkRoundTrip(t *testing.T, item Item) {
	t.Helper()
	data, err := MarshalItem(item)
	if err != nil {
		t.Error(err)
		return
	}
	again, err := ParseAnswer(data)
	if err != nil || !reflect.DeepEqual(again, []Item{item}) {
		t.Errorf("%s: read back with %v, not equal", item.UUID, err)
	}
	list, err := ParseAnswers(slices.Concat([]byte("["), data, []byte(",\n"), data, []byte("]")))
	if err != nil || !reflect.DeepEqual(list, []Item{item, item}) {
		t.Errorf("%s: list read back with %v, not equal", item.UUID, err)
	}
	var model models.LogEntry
	if err := json.Unmarshal(data, &model); err != nil {
		t.Error(err)
	}
	if err := model.Validate(nil); err != nil {
		t.Errorf("%s: Rekor's client refuses: %v", item.UUID, err)
	}
}

// checkKeys demands that all that rekor's own type indexes is there.
func checkKeys(t *testing.T, id string, body []byte) {
	t.Helper()
	keys := SearchKeys(body)
	entry, err := parseV1(body)
	if err != nil {
		t.Errorf("%s: rekor's type refuses its own entry: %v", id, err)
		return
	}
	theirs, err := entry.IndexKeys()
	if err != nil {
		t.Errorf("%s: %v", id, err)
	}
	for _, k := range theirs {
		if !slices.Contains(keys, strings.ToLower(k)) {
			t.Errorf("%s: no key %q in %q", id, k, keys)
		}
	}
	if len(keys) < 2 || !slices.IsSorted(keys) {
		t.Errorf("%s: keys %q", id, keys)
	}
}

// checkLogEntry lets sigstore-go verify the bundle message.
func checkLogEntry(t *testing.T, item Item, key crypto.PublicKey) {
	t.Helper()
	msg, err := TransparencyLogEntry(item)
	if err != nil {
		t.Errorf("%s: %v", item.UUID, err)
		return
	}
	entry, err := tlog.ParseTransparencyLogEntry(msg)
	if err != nil {
		t.Errorf("%s: %v", item.UUID, err)
		return
	}
	if item.Entry.SET != nil {
		log := &root.TransparencyLog{PublicKey: key, ValidityPeriodStart: entry.IntegratedTime()}
		if err := tlog.VerifySET(entry, map[string]*root.TransparencyLog{item.Entry.LogID: log}); err != nil {
			t.Errorf("%s: %v", item.UUID, err)
		}
	}
	if item.Entry.Proof != nil {
		verifier, err := signature.LoadVerifier(key, crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyInclusion(entry, verifier); err != nil {
			t.Errorf("%s: %v", item.UUID, err)
		}
	}
}

func TestGenuineEntriesV2(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	verified := 0
	for _, r := range records(t, dir, "rekor-v2-entries.jsonl") {
		body := r.body(t)
		fast, ok := fastKeysV2(body)
		if !ok {
			t.Errorf("%s: not read by the fast way", r.ID)
		}
		slow := normalize(slowKeysV2(body))
		if got := SearchKeys(body); !slices.Equal(got, slow) || !slices.Equal(normalize(fast), slow) || len(got) < 2 {
			t.Errorf("%s: keys %q, by the slow way %q", r.ID, got, slow)
		}
		logID, err := hex.DecodeString(r.LogID)
		if err != nil {
			t.Fatal(err)
		}
		rootHash, err := parseHash(r.Proof.RootHash)
		if err != nil {
			t.Fatal(err)
		}
		var hashes []storage.Hash
		for _, s := range r.Proof.Hashes {
			h, err := parseHash(s)
			if err != nil {
				t.Fatal(err)
			}
			hashes = append(hashes, h)
		}
		msg, err := TransparencyLogEntryV2(body, uint64(r.LogIndex), uint64(r.Proof.TreeSize), rootHash, hashes, []byte(*r.Proof.Checkpoint), logID)
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		if r.Kind != "hashedrekord/0.0.2" {
			continue // sigstore-go 1.3.0 no longer reads dsse 0.0.2
		}
		entry, err := tlog.ParseTransparencyLogEntry(msg)
		if err != nil {
			t.Errorf("%s: %v", r.ID, err)
			continue
		}
		verifier, err := signature.LoadVerifier(keys[r.LogID], crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		if err := tlog.VerifyCheckpointAndInclusion(entry, verifier, r.Log); err != nil {
			t.Errorf("%s: %v", r.ID, err)
		}
		verified++
	}
	if verified < 10 {
		t.Errorf("%d entries verified", verified)
	}
}

// Entries that were altered or made up. Where the timestamp is genuine the proof is false,
// which is for the mirror to find.
func TestGenuineNegative(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	refused := 0
	for _, r := range records(t, dir, "negative", "entries.jsonl") {
		if r.Verified.SET != "INVALID" {
			continue
		}
		refused++
		items, err := ParseAnswer(r.answer(t))
		if err != nil {
			continue
		}
		if err := items[0].Entry.VerifySET(keys[items[0].Entry.LogID]); err == nil {
			t.Errorf("%s: accepted", r.ID)
		}
	}
	if refused < 10 {
		t.Errorf("%d entries with a false timestamp", refused)
	}
}

func TestGenuineBundles(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	known := map[storage.Hash]bool{}
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		known[storage.LeafHash(r.body(t))] = false
	}
	files, err := filepath.Glob(filepath.Join(dir, "bundles", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no bundles (%v)", err)
	}
	var refused []string
	var entries, proofs, skipped, wrong int
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		imports, err := ParseBundle(data)
		if err != nil {
			name, _, _ := strings.Cut(filepath.Base(path), "__")
			refused = append(refused, name)
			t.Log(filepath.Base(path), err)
			continue
		}
		for _, imp := range imports {
			if imp.Skipped != nil {
				skipped++
				continue
			}
			leaf := storage.LeafHash(imp.Entry.Body)
			if _, ok := known[leaf]; !ok {
				wrong++
				continue
			}
			if imp.Entry.SET != nil && imp.Entry.VerifySET(keys[imp.Entry.LogID]) != nil {
				wrong++
				continue
			}
			known[leaf] = true
			entries++
			if imp.Entry.Proof != nil {
				proofs++
			}
		}
	}
	slices.Sort(refused)
	t.Logf("%d entries, %d with a proof; %d of v2; %d that are not genuine", entries, proofs, skipped, wrong)
	if want := []string{"sigstore-verifier-cpp", "slsa-github-generator", "slsa-github-generator", "slsa-github-generator"}; !slices.Equal(refused, want) {
		t.Errorf("refused %q, want %q", refused, want)
	}
	found := 0
	for _, ok := range known {
		if ok {
			found++
		}
	}
	t.Logf("%d of %d genuine entries are in a bundle", found, len(known))
	// The others come from test code and issues, not from files.
	if found != 130 || skipped != 16 || wrong != 0 {
		t.Errorf("%d genuine entries found, %d skipped, %d not genuine", found, skipped, wrong)
	}
}

// A bundle that is read and written again is the same message.
func TestGenuineBundleRoundTrip(t *testing.T) {
	dir := genuine(t)
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		items, err := ParseAnswer(r.answer(t))
		if err != nil {
			t.Fatal(err)
		}
		msg, err := TransparencyLogEntry(items[0])
		if err != nil {
			t.Fatal(err)
		}
		data := slices.Concat([]byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"tlogEntries":[`), marshalProto(t, msg), []byte(`]}}`))
		imports, err := ParseBundle(data)
		if err != nil || len(imports) != 1 {
			t.Fatalf("%s: %d imports, %v", r.ID, len(imports), err)
		}
		again, err := TransparencyLogEntry(Item{Entry: *imports[0].Entry})
		if err != nil || !proto.Equal(msg, again) {
			t.Errorf("%s: %v, messages differ", r.ID, err)
		}
	}
}

func marshalProto(t *testing.T, msg *protorekor.TransparencyLogEntry) []byte {
	t.Helper()
	data, err := protojson.Marshal(msg)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
