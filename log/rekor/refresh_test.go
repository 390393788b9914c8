package rekor

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// finder finds the world's entries and demands to be asked for them alone.
func (w *world) finder(t *testing.T) func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
	return func(_ context.Context, logID []byte, index uint64) (*protorekor.TransparencyLogEntry, error) {
		if !bytes.Equal(logID, w.logID[:]) || index < worldFirst || index >= worldFirst+uint64(len(w.leaves)) {
			t.Errorf("asked for index %d of log %x", index, logID)
			return nil, errors.New("not found")
		}
		return w.entry(t, int(index-worldFirst)), nil
	}
}

func TestRefreshBundle(t *testing.T) {
	artifact := []byte("artifact")
	for _, mediaType := range mediaTypes {
		w := newWorld(t)
		key, cert := w.certificate(t)
		msg, place := w.bundleOf(t, mediaType, key, cert, artifact)
		if strings.Contains(mediaType, "0.1") {
			msg.VerificationMaterial.TlogEntries[0].InclusionProof = nil
		}
		compact, err := marshalMessage(msg)
		if err != nil {
			t.Fatal(err)
		}
		w.add([]byte("a later one"), []byte("another"))
		var indented bytes.Buffer
		if err := json.Indent(&indented, compact, " ", "\t"); err != nil {
			t.Fatal(err)
		}
		snake := strings.NewReplacer(`"verificationMaterial"`, `"verification_material"`, `"tlogEntries"`, `"\u0074log_entries"`).Replace(string(compact))
		for _, old := range [][]byte{compact, append(indented.Bytes(), "\n\n"...), []byte(snake)} {
			if err := verifyBundle(t, w, old, artifactOf(artifact), verify.WithoutIdentitiesUnsafe()); err != nil {
				t.Fatalf("%s: before: %v", mediaType, err)
			}
			fresh, err := RefreshBundle(t.Context(), old, w.finder(t))
			if err != nil {
				t.Errorf("%s: %v", mediaType, err)
				continue
			}
			if err := verifyBundle(t, w, fresh, artifactOf(artifact), verify.WithoutIdentitiesUnsafe()); err != nil {
				t.Errorf("%s: after: %v", mediaType, err)
			}
			checkAround(t, old, fresh)
			var got protobundle.Bundle
			if err := protojson.Unmarshal(fresh, &got); err != nil {
				t.Fatal(err)
			}
			entry := got.VerificationMaterial.TlogEntries[0]
			if entry.InclusionProof.TreeSize != int64(len(w.leaves)) || entry.LogIndex != int64(worldFirst+place) {
				t.Errorf("%s: %v", mediaType, entry)
			}
			// Twice is as good as once: nothing but the signatures differ.
			if _, err := RefreshBundle(t.Context(), fresh, w.finder(t)); err != nil {
				t.Errorf("%s: again: %v", mediaType, err)
			}
		}
	}
}

// checkAround demands that all but the entries is byte for byte the same.
func checkAround(t *testing.T, old, fresh []byte) {
	t.Helper()
	cut := func(data []byte) string {
		spans, err := entrySpans(data)
		if err != nil || len(spans) == 0 {
			t.Fatalf("%d entries, %v", len(spans), err)
		}
		var rest []byte
		end := 0
		for _, s := range spans {
			rest = append(append(rest, data[end:s.start]...), '#')
			end = s.end
		}
		return string(append(rest, data[end:]...))
	}
	if a, b := cut(old), cut(fresh); a != b {
		t.Errorf("%s\nbecame\n%s", a, b)
	}
}

// A bundle with two entries, of which one has changed, is refused as a whole.
func TestRefreshBundleTwoEntries(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	msg, _ := w.bundleOf(t, mediaTypeV3, key, cert, []byte("a"))
	second := w.logged(t, hashedrekordV1(t, key, pemOf("CERTIFICATE", cert), []byte("a")))
	msg.VerificationMaterial.TlogEntries = append(msg.VerificationMaterial.TlogEntries, w.entry(t, second))
	data, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	w.add([]byte("a later one"))
	fresh, err := RefreshBundle(t.Context(), data, w.finder(t))
	if err != nil {
		t.Fatal(err)
	}
	checkAround(t, data, fresh)
	var got protobundle.Bundle
	if err := protojson.Unmarshal(fresh, &got); err != nil {
		t.Fatal(err)
	}
	for i, e := range got.VerificationMaterial.TlogEntries {
		if e.InclusionProof.TreeSize != int64(len(w.leaves)) || !bytes.Equal(e.CanonicalizedBody, msg.VerificationMaterial.TlogEntries[i].CanonicalizedBody) {
			t.Errorf("entry %d: %v", i, e)
		}
	}
	w.leaves[second] = []byte("{}")
	if _, err := RefreshBundle(t.Context(), data, func(_ context.Context, _ []byte, index uint64) (*protorekor.TransparencyLogEntry, error) {
		return &protorekor.TransparencyLogEntry{}, nil
	}); !errors.Is(err, ErrMismatch) {
		t.Errorf("%v", err)
	}
}

// What is found must be what the bundle has.
func TestRefreshBundleRefusesFound(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	msg, place := w.bundleOf(t, mediaTypeV3, key, cert, []byte("artifact"))
	w.add([]byte("a later one"))
	data, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change   func(e *protorekor.TransparencyLogEntry)
		mismatch bool
	}{
		"body":          {func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody = append(e.CanonicalizedBody, ' ') }, true},
		"no body":       {func(e *protorekor.TransparencyLogEntry) { e.CanonicalizedBody = nil }, true},
		"log":           {func(e *protorekor.TransparencyLogEntry) { e.LogId = &common.LogId{KeyId: make([]byte, 32)} }, true},
		"no log":        {func(e *protorekor.TransparencyLogEntry) { e.LogId = nil }, true},
		"index":         {func(e *protorekor.TransparencyLogEntry) { e.LogIndex++ }, true},
		"kind":          {func(e *protorekor.TransparencyLogEntry) { e.KindVersion.Kind = "dsse" }, true},
		"version":       {func(e *protorekor.TransparencyLogEntry) { e.KindVersion.Version = "0.0.2" }, true},
		"no kind":       {func(e *protorekor.TransparencyLogEntry) { e.KindVersion = nil }, true},
		"time":          {func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime++ }, true},
		"no time":       {func(e *protorekor.TransparencyLogEntry) { e.IntegratedTime = 0 }, true},
		"no proof":      {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil }, false},
		"no checkpoint": {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Checkpoint = nil }, false},
		"proof's index": {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.LogIndex-- }, false},
		"proof's size":  {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.TreeSize++ }, false},
		"proof's hash":  {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes[0][5] ^= 1 }, false},
		"proof's root":  {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.RootHash[5] ^= 1 }, false},
		"short proof":   {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Hashes = e.InclusionProof.Hashes[1:] }, false},
		"other checkpoint": {func(e *protorekor.TransparencyLogEntry) {
			e.InclusionProof.Checkpoint = msg.VerificationMaterial.TlogEntries[0].InclusionProof.Checkpoint
		}, false},
		"no note": {func(e *protorekor.TransparencyLogEntry) { e.InclusionProof.Checkpoint.Envelope = "note" }, false},
	} {
		out, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
			e := w.entry(t, place)
			tt.change(e)
			return e, nil
		})
		if err == nil || errors.Is(err, ErrMismatch) != tt.mismatch {
			t.Errorf("%s: %v, %s", name, err, out)
		}
	}
	if out, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
		return nil, nil
	}); !errors.Is(err, ErrMismatch) {
		t.Errorf("nothing found: %v, %s", err, out)
	}
	gone := errors.New("unavailable")
	if out, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
		return nil, gone
	}); !errors.Is(err, gone) {
		t.Errorf("an error of find: %v, %s", err, out)
	}
	// A mirror without the timestamp leaves the old one in its place.
	out, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
		e := w.entry(t, place)
		e.InclusionPromise, e.IntegratedTime = nil, 0
		return e, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyBundle(t, w, out, artifactOf([]byte("artifact")), verify.WithoutIdentitiesUnsafe()); err != nil {
		t.Error(err)
	}
}

func TestRefreshBundleRefuses(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	msg, _ := w.bundleOf(t, mediaTypeV3, key, cert, []byte("artifact"))
	data, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	good := string(data)
	empty := proto.CloneOf(msg)
	empty.VerificationMaterial.TlogEntries = nil
	none, err := marshalMessage(empty)
	if err != nil {
		t.Fatal(err)
	}
	negative := proto.CloneOf(msg)
	negative.VerificationMaterial.TlogEntries[0].LogIndex = -1
	below, err := marshalMessage(negative)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]string{
		"nothing":        "",
		"no JSON":        "bundle",
		"empty":          "{}",
		"null":           "null",
		"list":           "[" + good + "]",
		"cut":            good[:len(good)-1],
		"more behind":    good + "{}",
		"unknown field":  `{"unknown":1,` + good[1:],
		"field twice":    good[:len(good)-1] + `,"verificationMaterial":{}}`,
		"media type":     strings.Replace(good, "v0.3", "v0.9", 1),
		"no media type":  strings.Replace(good, `"mediaType":"`+mediaTypeV3+`",`, "", 1),
		"no entry":       string(none),
		"null entries":   strings.Replace(string(none), `"verificationMaterial":{`, `"verificationMaterial":{"tlogEntries":null,`, 1),
		"negative index": string(below),
		"endless":        good + strings.Repeat(" ", maxAnswer),
	} {
		if out, err := RefreshBundle(t.Context(), []byte(s), func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
			return w.entry(t, 2), nil
		}); err == nil {
			t.Errorf("%s: %s", name, out)
		}
	}
}

// An entry of Rekor v2: its index is that of the proof, and there is no time.
func TestRefreshBundleV2(t *testing.T) {
	w := newWorld(t)
	_, cert := w.certificate(t)
	place := w.add(hashedrekordV2(t, []byte("artifact"), certVerifier(cert)))
	entry := func() *protorekor.TransparencyLogEntry {
		p := w.item(t, place).Entry.Proof
		msg, err := TransparencyLogEntryV2(w.leaves[place], p.Index, p.TreeSize, p.RootHash, p.Hashes, p.Checkpoint, w.logID[:])
		if err != nil {
			t.Fatal(err)
		}
		return msg
	}
	data, err := marshalMessage(&protobundle.Bundle{MediaType: mediaTypeV3, VerificationMaterial: &protobundle.VerificationMaterial{
		TlogEntries: []*protorekor.TransparencyLogEntry{entry()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	w.add([]byte("a later one"))
	fresh, err := RefreshBundle(t.Context(), data, func(_ context.Context, _ []byte, index uint64) (*protorekor.TransparencyLogEntry, error) {
		if index != uint64(place) {
			t.Errorf("asked for index %d", index)
		}
		return entry(), nil
	})
	if err != nil || !bytes.Contains(fresh, []byte(`"treeSize":"4"`)) {
		t.Errorf("%v, %s", err, fresh)
	}
	moved := bytes.Replace(data, []byte(`"logIndex":"2"`), []byte(`"logIndex":"3"`), 1)
	if out, err := RefreshBundle(t.Context(), moved, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
		e := entry()
		e.LogIndex = 3 // and the proof is for 2
		return e, nil
	}); err == nil {
		t.Errorf("moved: %s", out)
	}
}

// Every genuine bundle is refreshed with the proof that its entry is known to have.
func TestGenuineRefresh(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	known := map[string]Item{} // by body
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		items, err := ParseAnswer(r.answer(t))
		if err != nil {
			t.Fatal(err)
		}
		known[string(items[0].Entry.Body)] = items[0]
	}
	files, err := filepath.Glob(filepath.Join(dir, "bundles", "*"))
	if err != nil {
		t.Fatal(err)
	}
	refreshed, without := 0, 0
	var wrong []string
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var msg protobundle.Bundle
		if protojson.Unmarshal(data, &msg) != nil || len(msg.GetVerificationMaterial().GetTlogEntries()) == 0 ||
			slices.ContainsFunc(msg.VerificationMaterial.TlogEntries, func(e *protorekor.TransparencyLogEntry) bool { return isV2(e.CanonicalizedBody) }) {
			continue
		}
		var items []Item
		n := 0
		fresh, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
			item, ok := known[string(msg.VerificationMaterial.TlogEntries[n].CanonicalizedBody)]
			if n++; !ok {
				return nil, errors.New("not known")
			}
			items = append(items, item)
			return TransparencyLogEntry(item)
		})
		if err != nil {
			// No checkpoint was kept with it.
			if len(items) > 0 && items[len(items)-1].Entry.Proof == nil {
				without++
				continue
			}
			if errors.Is(err, ErrMismatch) {
				wrong = append(wrong, filepath.Base(path))
				continue
			}
			t.Errorf("%s: %v", filepath.Base(path), err)
			continue
		}
		refreshed++
		checkAround(t, data, fresh)
		imports, err := ParseBundle(fresh)
		if err != nil {
			t.Fatal(err)
		}
		for i, imp := range imports {
			imp.Entry.Attestation = nil
			checkLogEntry(t, Item{UUID: items[i].UUID, Entry: *imp.Entry}, keys[imp.Entry.LogID])
		}
	}
	t.Logf("%d bundles refreshed, %d without a proof", refreshed, without)
	// One calls its dsse entry a hashedrekord.
	if refreshed < 70 || len(wrong) != 1 || !strings.HasPrefix(wrong[0], "sigstore-rs__00181306") {
		t.Errorf("%d bundles refreshed, %q do not match", refreshed, wrong)
	}
}

// Bundles that sigstore's conformance suite made up: those with a broken proof or checkpoint
// are no source of a proof, the good ones are. What else is wrong is for others to find.
func TestGenuineConformance(t *testing.T) {
	dir := genuine(t)
	self := func(data []byte) error {
		var msg protobundle.Bundle
		if err := protojson.Unmarshal(data, &msg); err != nil {
			return err
		}
		n := 0
		_, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
			n++
			return proto.CloneOf(msg.VerificationMaterial.TlogEntries[n-1]), nil
		})
		return err
	}
	for _, name := range []string{
		"bundle-malformed-json_fail", "inclusion-proof-corrupted-hash_fail", "rekor2-no-inclusion-proof_fail",
		"rekor2-checkpoint-missing-origin_fail", "rekor2-checkpoint-missing-root-hash_fail", "rekor2-checkpoint-missing-size_fail",
	} {
		data, err := os.ReadFile(filepath.Join(dir, "negative", "conformance", name, "bundle.sigstore.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := self(data); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	good, err := filepath.Glob(filepath.Join(dir, "positive", "conformance", "*", "bundle.sigstore.json"))
	if err != nil || len(good) == 0 {
		t.Fatalf("no bundles (%v)", err)
	}
	for _, path := range good {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := self(data); err != nil {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := ParseBundle(data); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Every proof of every small tree, and each of them mangled.
func TestCheckInclusion(t *testing.T) {
	w := newWorld(t)
	for size := 2; size <= 17; size++ {
		for place := range w.leaves {
			e := w.entryOf(t, place)
			if err := checkInclusion(e); err != nil {
				t.Fatalf("place %d of %d: %v", place, size, err)
			}
			p := e.InclusionProof
			for i := range p.Hashes {
				for name, hashes := range map[string][][]byte{
					"flipped":  slices.Concat(p.Hashes[:i], [][]byte{flipped(p.Hashes[i])}, p.Hashes[i+1:]),
					"dropped":  slices.Concat(p.Hashes[:i], p.Hashes[i+1:]),
					"repeated": slices.Concat(p.Hashes[:i], p.Hashes[i:i+1], p.Hashes[i:]),
					"shifted":  slices.Concat(p.Hashes[i:], p.Hashes[:i]),
					"short":    slices.Concat(p.Hashes[:i], [][]byte{p.Hashes[i][1:]}, p.Hashes[i+1:]),
				} {
					if name == "shifted" && i == 0 {
						continue
					}
					changed := proto.CloneOf(e)
					changed.InclusionProof.Hashes = hashes
					if err := checkInclusion(changed); err == nil {
						t.Errorf("place %d of %d, hash %d %s: accepted", place, size, i, name)
					}
				}
			}
			for other := range size {
				changed := proto.CloneOf(e)
				changed.InclusionProof.LogIndex = int64(other)
				if err := checkInclusion(changed); (err == nil) != (other == place) {
					t.Errorf("place %d of %d as %d: %v", place, size, other, err)
				}
			}
		}
		w.add([]byte{byte(size)})
	}
}

// entryOf is the message of a leaf that need not be an entry.
func (w *world) entryOf(tb testing.TB, place int) *protorekor.TransparencyLogEntry {
	tb.Helper()
	p := w.item(tb, place).Entry.Proof
	msg, err := inclusionProof(p.Index, p.TreeSize, p.RootHash, p.Hashes, p.Checkpoint)
	if err != nil {
		tb.Fatal(err)
	}
	return &protorekor.TransparencyLogEntry{CanonicalizedBody: w.leaves[place], InclusionProof: msg}
}

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func fuzzRefresh(t *testing.T, data []byte) {
	var msg protobundle.Bundle
	if protojson.Unmarshal(data, &msg) != nil {
		return
	}
	n := 0
	fresh, err := RefreshBundle(t.Context(), data, func(context.Context, []byte, uint64) (*protorekor.TransparencyLogEntry, error) {
		n++
		return proto.CloneOf(msg.VerificationMaterial.TlogEntries[n-1]), nil
	})
	if err != nil {
		return
	}
	checkAround(t, data, fresh)
	var again protobundle.Bundle
	if err := protojson.Unmarshal(fresh, &again); err != nil || !proto.Equal(&msg, &again) || n != len(msg.VerificationMaterial.TlogEntries) {
		t.Errorf("%s became %s (%v)", data, fresh, err)
	}
}
