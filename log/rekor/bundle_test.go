package rekor

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"

	"github.com/understudy-log/understudy/storage"
)

// Every sort of file gives the entry that is in it.
func TestParseBundle(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	msg, place := w.bundleOf(t, mediaTypeV3, key, cert, []byte("artifact"))
	item := w.item(t, place)
	msg.VerificationMaterial.TlogEntries[0] = mustEntry(t, item)
	full, bare := item.Entry, item.Entry
	bare.Proof = nil
	bundle, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := MarshalItem(item)
	if err != nil {
		t.Fatal(err)
	}
	legacy := legacyBundle(t, []byte("signature"), pemOf("CERTIFICATE", cert), &bare)
	uuid := item.UUID
	short := UUID{LeafHash: uuid.LeafHash}
	entry := []Import{{Entry: &full}}
	for name, tt := range map[string]struct {
		data string
		want []Import
	}{
		"bundle":              {string(bundle), entry},
		"spaces":              {"\n\t " + string(bundle) + "\n", entry},
		"JSON lines":          {string(bundle) + "\n" + string(bundle) + "\n", slices.Repeat(entry, 2)},
		"list":                {"[" + string(bundle) + ",null,1,\"x\"," + string(bundle) + "]", slices.Repeat(entry, 2)},
		"inside another file": {`{"a":{"b":[` + string(bundle) + `]},"c":"{"}`, entry},
		"as a string":         {string(mustJSON(t, map[string]any{"dev.sigstore.cosign/bundle": string(bundle)})), entry},
		"legacy":              {string(legacy), []Import{{Entry: &bare}}},
		"answer":              {string(answer), []Import{{Entry: &full, UUID: &uuid}}},
		"answers":             {"[" + string(answer) + "," + string(answer) + "]", []Import{{Entry: &full, UUID: &uuid}, {Entry: &full, UUID: &uuid}}},
		"UUIDs":               {"# ours\n\n " + uuid.String() + " # one\r\n" + strings.ToUpper(short.String()), []Import{{UUID: &uuid}, {UUID: &short}}},
	} {
		got, err := ParseBundle([]byte(tt.data))
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func mustEntry(tb testing.TB, item Item) *protorekor.TransparencyLogEntry {
	tb.Helper()
	msg, err := TransparencyLogEntry(item)
	if err != nil {
		tb.Fatal(err)
	}
	return msg
}

// Entries of Rekor v2 are skipped, with a reason.
func TestParseBundleV2(t *testing.T) {
	w := newWorld(t)
	_, cert := w.certificate(t)
	place := w.add(hashedrekordV2(t, []byte("artifact"), certVerifier(cert)))
	p := w.item(t, place).Entry.Proof
	msg, err := TransparencyLogEntryV2(w.leaves[place], p.Index, p.TreeSize, p.RootHash, p.Hashes, p.Checkpoint, w.logID[:])
	if err != nil {
		t.Fatal(err)
	}
	data, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	imports, err := ParseBundle(data)
	if err != nil || len(imports) != 1 || !errors.Is(imports[0].Skipped, errV2) || imports[0].Entry != nil || imports[0].UUID != nil {
		t.Errorf("%+v, %v", imports, err)
	}
}

func TestParseBundleRefuses(t *testing.T) {
	w := newWorld(t)
	key, cert := w.certificate(t)
	msg, place := w.bundleOf(t, mediaTypeV3, key, cert, []byte("artifact"))
	data, err := marshalMessage(msg)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := MarshalItem(w.item(t, place))
	if err != nil {
		t.Fatal(err)
	}
	good, given := string(data), string(answer)
	for name, s := range map[string]string{
		"nothing":            "",
		"comments":           "# nothing\n\n",
		"empty object":       "{}",
		"empty list":         "[]",
		"another JSON":       `{"mediaType":"x","verificationMaterial":{"tlogEntries":[]}}`,
		"text":               "hello",
		"short UUID":         strings.Repeat("0a", 31),
		"one UUID of two":    strings.Repeat("0a", 32) + "\n" + strings.Repeat("0a", 31) + "g",
		"two UUIDs in a row": strings.Repeat("0a", 32) + " " + strings.Repeat("0a", 32),
		"cut":                good[:len(good)-1],
		"rubbish behind":     good + "x",
		"body":               strings.Replace(good, `"canonicalizedBody":"`, `"canonicalizedBody":"*`, 1),
		"no body":            strings.Replace(good, `"canonicalizedBody":"`, `"canonicalizedBody":"","x":"`, 1),
		"log ID":             strings.Replace(good, `"keyId":"`, `"keyId":"AAAA`, 1),
		"negative index":     strings.Replace(good, `"logIndex":"1`, `"logIndex":"-1`, 1),
		"root hash":          strings.Replace(good, `"rootHash":"`, `"rootHash":"AAAA`, 1),
		"tree size":          strings.Replace(good, `"treeSize":"3"`, `"treeSize":"2"`, 1),
		"answer's UUID":      strings.Replace(given, w.item(t, place).UUID.String(), strings.Repeat("0a", 40), 1),
		"legacy's log ID":    string(legacyBundle(t, []byte("s"), nil, &Entry{Body: []byte("{}")})),
		"too large":          strings.Repeat(" ", maxAnswer+1),
	} {
		if imports, err := ParseBundle([]byte(s)); err == nil {
			t.Errorf("%s: %+v", name, imports)
		}
	}
}

// What is accepted has a body, or a name, or a reason; and reads back from an answer.
func FuzzParseBundle(f *testing.F) {
	w := newWorld(f)
	key, cert := w.certificate(f)
	msg, place := w.bundleOf(f, mediaTypeV3, key, cert, []byte("artifact"))
	bundle, err := marshalMessage(msg)
	if err != nil {
		f.Fatal(err)
	}
	item := w.item(f, place)
	answer, err := MarshalItem(item)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(bundle)
	f.Add([]byte(answer))
	f.Add(legacyBundle(f, []byte("signature"), nil, &item.Entry))
	f.Add([]byte(item.UUID.String() + " # comment\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		imports, err := ParseBundle(data)
		if (err == nil) != (len(imports) > 0) {
			t.Fatalf("%v, %v", imports, err)
		}
		for _, imp := range imports {
			switch {
			case imp.Skipped != nil:
				if imp.Entry != nil || imp.UUID != nil {
					t.Errorf("%+v", imp)
				}
			case imp.Entry != nil:
				checkWritten(t, Item{UUID: UUID{TreeID: 1, LeafHash: storage.LeafHash(imp.Entry.Body)}, Entry: *imp.Entry})
			case imp.UUID == nil:
				t.Error("an import of nothing")
			}
		}
	})
}

// What an answer says reads back the same.
func FuzzParseAnswer(f *testing.F) {
	w := newWorld(f)
	for _, item := range []Item{w.item(f, 0), w.item(f, 1)} {
		answer, err := MarshalItem(item)
		if err != nil {
			f.Fatal(err)
		}
		f.Add([]byte(answer))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		items, err := ParseAnswer(data)
		if err != nil {
			return
		}
		for _, item := range items {
			checkWritten(t, item)
		}
	})
}

// checkWritten writes an accepted item and demands it back.
func checkWritten(t *testing.T, item Item) {
	t.Helper()
	data, err := MarshalItem(item)
	if err != nil {
		t.Errorf("%+v: %v", item, err)
		return
	}
	again, err := ParseAnswer(data)
	if err != nil || !reflect.DeepEqual(again, []Item{item}) {
		t.Errorf("%+v became %+v, %v", item, again, err)
	}
}

// A bundle that was refreshed with its own entries says the same.
func FuzzRefreshBundle(f *testing.F) {
	w := newWorld(f)
	key, cert := w.certificate(f)
	for _, mediaType := range mediaTypes {
		msg, _ := w.bundleOf(f, mediaType, key, cert, []byte("artifact"))
		data, err := marshalMessage(msg)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(fuzzRefresh)
}
