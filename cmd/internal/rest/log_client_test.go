package rest

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"errors"
	"path"
	"strings"
	"testing"

	"github.com/go-openapi/swag/conv"
	"github.com/sigstore/rekor/pkg/client"
	rekorclient "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/client/index"
	"github.com/sigstore/rekor/pkg/generated/client/pubkey"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"github.com/go-openapi/runtime"

	"github.com/understudy-log/understudy/test/logstage"
)

// clientOfLog is rekor's own client with a token in the path.
func clientOfLog(t *testing.T, address, identity string) *rekorclient.Rekor {
	t.Helper()
	c, err := client.GetRekorClient("http://"+address+"/token/"+tokenOf(identity), client.WithRetryCount(0))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func proposedModel(t *testing.T, proposed []byte) models.ProposedEntry {
	t.Helper()
	m, err := models.UnmarshalProposedEntry(bytes.NewReader(proposed), runtime.JSONConsumer())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestLogV1Client: rekor's generated client writes, reads and verifies, with a token in the path, and
// has the reason of every refusal.
func TestLogV1Client(t *testing.T) {
	s, h := newLogV1(t, func(s *logstage.Stage) { s.Witnessed() })
	address := serveLog(t, h)
	c := clientOfLog(t, address, "all")
	verifier, err := signature.LoadVerifier(s.Public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	proposed := proposedModel(t, logstage.DSSE(logstage.Statement(digest)))
	create := func(c *rekorclient.Rekor, m models.ProposedEntry) (*entries.CreateLogEntryCreated, error) {
		return c.Entries.CreateLogEntry(entries.NewCreateLogEntryParams().WithProposedEntry(m))
	}
	created, err := create(c, proposed)
	if err != nil {
		t.Fatal(err)
	}
	uuid := created.ETag
	verified := func(payload models.LogEntry) {
		t.Helper()
		e, ok := payload[uuid]
		if !ok {
			t.Fatalf("%v", payload)
		}
		if err := verify.VerifyLogEntry(t.Context(), &e, verifier); err != nil {
			t.Error(err)
		}
	}
	verified(created.Payload)
	_, err = create(c, proposed)
	conflict, ok := errors.AsType[*entries.CreateLogEntryConflict](err)
	if !ok || path.Base(conflict.Location.String()) != uuid || !strings.Contains(conflict.Payload.Message, uuid) {
		t.Errorf("duplicate: %v", err)
	}

	byUUID, err := c.Entries.GetLogEntryByUUID(entries.NewGetLogEntryByUUIDParams().WithEntryUUID(uuid))
	if err != nil {
		t.Fatal(err)
	}
	verified(byUUID.Payload)
	byIndex, err := c.Entries.GetLogEntryByIndex(entries.NewGetLogEntryByIndexParams().WithLogIndex(0))
	if err != nil {
		t.Fatal(err)
	}
	verified(byIndex.Payload)
	query := new(models.SearchLogQuery)
	query.SetEntries([]models.ProposedEntry{proposed})
	query.EntryUUIDs, query.LogIndexes = []string{uuid, uuid[16:]}, []*int64{conv.Pointer(int64(0)), conv.Pointer(int64(7))}
	retrieved, err := c.Entries.SearchLogQuery(entries.NewSearchLogQueryParams().WithEntry(query))
	if err != nil || len(retrieved.Payload) != 4 {
		t.Fatalf("%v %v", retrieved, err)
	}
	for _, payload := range retrieved.Payload {
		verified(payload)
	}
	key := &models.SearchIndexPublicKey{Format: conv.Pointer("x509"), Content: logstage.PublicPEM()}
	for name, q := range map[string]*models.SearchIndex{"hash": {Hash: "sha256:" + digest}, "key": {PublicKey: key}, "both": {Hash: digest, PublicKey: key, Operator: "and"}} {
		found, err := c.Index.SearchIndex(index.NewSearchIndexParams().WithQuery(q))
		if err != nil || len(found.Payload) != 1 || found.Payload[0] != uuid {
			t.Errorf("%s: %v %v", name, found, err)
		}
	}
	if found, err := c.Index.SearchIndex(index.NewSearchIndexParams().WithQuery(&models.SearchIndex{Hash: strings.Repeat("00", 32)})); err != nil || len(found.Payload) != 0 {
		t.Errorf("%v %v", found, err)
	}

	if _, err := create(c, proposedModel(t, logstage.Hashedrekord("second"))); err != nil {
		t.Fatal(err)
	}
	info, err := c.Tlog.GetLogInfo(tlog.NewGetLogInfoParams())
	if err != nil {
		t.Fatal(err)
	}
	var checkpoint util.SignedCheckpoint
	if err := checkpoint.UnmarshalText([]byte(*info.Payload.SignedTreeHead)); err != nil || !checkpoint.Verify(verifier) || checkpoint.Size != 2 || *info.Payload.TreeSize != 2 || hex.EncodeToString(checkpoint.Hash) != *info.Payload.RootHash {
		t.Errorf("%v: %+v", err, info.Payload)
	}
	consistency, err := c.Tlog.GetLogProof(tlog.NewGetLogProofParams().WithFirstSize(conv.Pointer(int64(1))).WithLastSize(2).WithTreeID(info.Payload.TreeID))
	if err != nil || len(consistency.Payload.Hashes) != 1 || *consistency.Payload.RootHash != *info.Payload.RootHash {
		t.Errorf("%+v %v", consistency, err)
	}
	public, err := c.Pubkey.GetPublicKey(pubkey.NewGetPublicKeyParams().WithTreeID(info.Payload.TreeID))
	if err != nil || !strings.HasPrefix(public.Payload, "-----BEGIN PUBLIC KEY") {
		t.Errorf("%v %v", public, err)
	}
	for _, other := range []string{"1", "0"} {
		if answer, err := c.Pubkey.GetPublicKey(pubkey.NewGetPublicKeyParams().WithTreeID(&other)); err == nil {
			t.Errorf("tree %s: %v", other, answer)
		}
		if answer, err := c.Tlog.GetLogProof(tlog.NewGetLogProofParams().WithLastSize(1).WithTreeID(&other)); err == nil {
			t.Errorf("tree %s: %v", other, answer)
		}
	}

	wrong := string(logstage.Hashedrekord("x"))
	for name, c := range map[string]struct {
		client *rekorclient.Rekor
		text   string
		m      models.ProposedEntry
	}{
		"signature": {c, "signature", proposedModel(t, []byte(replaceDigest(wrong)))},
		"role":      {clientOfLog(t, address, "read"), "does not have the role append", proposed},
		"stranger":  {clientOfLog(t, address, "stranger"), "not known here", proposed},
	} {
		_, err := create(c.client, c.m)
		var message string
		switch e := err.(type) {
		case *entries.CreateLogEntryBadRequest:
			message = e.Payload.Message
		case *entries.CreateLogEntryDefault:
			message = e.Payload.Message
		default:
			data, _ := json.Marshal(err)
			t.Errorf("%s: %T %s", name, err, data)
		}
		if !strings.Contains(message, c.text) {
			t.Errorf("%s: %q", name, message)
		}
	}
}
