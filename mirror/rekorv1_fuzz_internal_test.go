package mirror

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/storage"
)

// TestReceiptOfMirror: nothing proves the search keys that a private log keeps in its receipts.
func TestReceiptOfMirror(t *testing.T) {
	e := rekor.Entry{IntegratedTime: 1700000000, SET: []byte("a signature"), Attestation: []byte("{}")}
	var again rekor.Entry
	if err := decodeReceipt(&again, rekor.EncodeReceipt(&e, nil)); err != nil || !reflect.DeepEqual(e, again) {
		t.Errorf("%+v, %v", again, err)
	}
	if err := decodeReceipt(&again, rekor.EncodeReceipt(&e, []string{"sha256:aa"})); err == nil {
		t.Error("a receipt with keys is accepted")
	}
}

// FuzzGlob: a pattern matches what the regular expression does that is made of it.
func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{{"*@example.com", "a@example.com"}, {"", ""}, {"*", ""}, {"a*a", "a"}, {"a*b*c", "abbcc"}, {"**", "x"}, {"*ab*ba", "aba"}, {"a*", "b"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		parts := strings.Split(pattern, "*")
		for i := range parts {
			parts[i] = regexp.QuoteMeta(parts[i])
		}
		re, err := regexp.Compile(`\A(?s:` + strings.Join(parts, ".*") + `)\z`)
		if err != nil || !strings.Contains(pattern+text, "") || strings.ToValidUTF8(pattern+"\x00"+text, "") != pattern+"\x00"+text {
			return // regexp reads runes
		}
		if got, want := glob(pattern, text), re.MatchString(text); got != want {
			t.Fatalf("%q matches %q: %t, want %t", pattern, text, got, want)
		}
	})
}

// answering is a client that gets one answer to everything.
type answering []byte

// RoundTrip implements http.RoundTripper.
func (a answering) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(a)), ContentLength: int64(len(a))}, nil
}

// FuzzRekorAnswers: whatever upstream answers, what is read of it has the form that the rest
// relies on.
func FuzzRekorAnswers(f *testing.F) {
	hash := strings.Repeat("ab", 32)
	f.Add([]byte(`{"treeID":"7","signedTreeHead":"x","inactiveShards":[{"treeID":"5","signedTreeHead":"y"}]}`))
	f.Add([]byte(`{"treeID":"07"}`))
	f.Add([]byte(`{"treeID":"7","inactiveShards":[{"treeID":"7"}]}`))
	f.Add([]byte(`{"hashes":["` + hash + `"]}`))
	f.Add([]byte(`{"hashes":["` + strings.ToUpper(hash) + `",null,""]}`))
	f.Add([]byte(`["` + hash + `","` + "0000000000000005" + hash + `"]`))
	f.Add([]byte(`[{"` + hash + `":{"body":"e30=","integratedTime":1,"logID":"` + hash + `","logIndex":5}}]`))
	f.Add([]byte(`null`))
	f.Add([]byte(`<html>`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		fetch, err := newFetcher(Config{Name: "fuzz", RequestsPerSecond: 1e9, HTTPClient: &http.Client{Transport: answering(answer)}}, "http://rekor.example", func(bool) {})
		if err != nil {
			t.Fatal(err)
		}
		api, _ := newRekorAPI(fetch)
		ctx := t.Context()
		if infos, err := api.info(ctx); err == nil {
			seen := map[uint64]bool{}
			for i, info := range infos {
				if info.treeID == 0 || info.treeID >= 1<<63 || seen[info.treeID] || info.active != (i == len(infos)-1) {
					t.Fatalf("log info %+v", infos)
				}
				seen[info.treeID] = true
			}
			if len(infos) == 0 {
				t.Fatal("no shard, and no error")
			}
		}
		if hashes, err := api.consistency(ctx, 5, 3, 9); err == nil && len(hashes) > maxProofAnswer/64 {
			t.Fatalf("%d hashes", len(hashes))
		}
		leaf := storage.LeafHash([]byte("{}"))
		for _, ref := range []EntryRef{{Index: 5}, {UUID: &rekor.UUID{LeafHash: leaf}}, {UUID: &rekor.UUID{TreeID: 5, LeafHash: leaf}}} {
			items, err := api.entries(ctx, []EntryRef{ref})
			for i := range items {
				if err != nil || !ref.names(&items[i]) || storage.LeafHash(items[i].Entry.Body) != items[i].UUID.LeafHash {
					t.Fatalf("asked for %v, got %+v, %v", ref, items, err)
				}
			}
		}
		uuids, err := api.search(ctx, rekor.Query{Hash: hash})
		var names []string
		if err == nil && (json.Unmarshal(answer, &names) != nil || len(names) != len(uuids)) {
			t.Fatalf("found %v", uuids)
		}
	})
}
