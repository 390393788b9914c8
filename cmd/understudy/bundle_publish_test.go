package main

import (
	"bytes"
	"io"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"

	"github.com/understudy-log/understudy/mirror/reconcile"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestPublicEntry: what Rekor v1 answered to a late submission is, in a bundle, an entry that verifiers believe.
func TestPublicEntry(t *testing.T) {
	log := synthetic.NewRekorV1("rekor.example")
	log.Active().Grow(5, synthetic.HashedRekordV1(1))
	client, stop := log.Client()
	defer stop()
	answer, err := client.Get(log.URL + "/api/v1/log/entries?logIndex=3")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	data, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := publicEntry(&reconcile.Receipt{UUID: "some", JSON: data})
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.NewTrustedRootFromJSON(log.TrustedRootJSON())
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := tlog.ParseTransparencyLogEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	if err := tlog.VerifySET(parsed, trusted.RekorLogs()); err != nil {
		t.Errorf("its promise: %v", err)
	}
	if entry.GetLogIndex() != 3 || entry.GetInclusionProof().GetTreeSize() != 5 || !bytes.Contains(entry.GetCanonicalizedBody(), []byte("hashedrekord")) {
		t.Errorf("entry %v", entry)
	}
	for _, wrong := range []string{"", "{}", "[]", "{", `{"a":{}}`} {
		if _, err := publicEntry(&reconcile.Receipt{UUID: "some", JSON: []byte(wrong)}); err == nil {
			t.Errorf("%q is an entry", wrong)
		}
	}
}
