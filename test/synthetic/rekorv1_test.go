package synthetic_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	openapi "github.com/go-openapi/runtime/client"
	"github.com/go-openapi/strfmt"
	"github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/client/index"
	"github.com/sigstore/rekor/pkg/generated/client/pubkey"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/test/synthetic"
)

const v1Host = "rekor.example"

// twoShards makes a service with 37 entries in a frozen shard and 21 in an active one.
func twoShards(t testing.TB) (*synthetic.RekorV1, *http.Client) {
	t.Helper()
	s := synthetic.NewRekorV1(v1Host)
	s.Active().Grow(37, synthetic.HashedRekordV1(1))
	s.RollOver(synthetic.RekorKey(v1Host, 1))
	s.Active().Grow(21, synthetic.HashedRekordV1(2))
	httpClient, stop := s.Client()
	t.Cleanup(stop)
	return s, httpClient
}

// ask makes a request and returns the answer; a body makes it a POST.
func ask(t testing.TB, httpClient *http.Client, url, body string) (*http.Response, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if body != "" {
		r, err = http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	if err != nil {
		t.Fatal(err)
	}
	answer, err := httpClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, content
}

// askEntry asks for exactly one entry, which must have the shape that rekor demands.
func askEntry(t testing.TB, httpClient *http.Client, url, body string) (uuid string, e models.LogEntryAnon) {
	t.Helper()
	_, content := ask(t, httpClient, url, body)
	var found []models.LogEntry
	if body == "" {
		content = fmt.Appendf(nil, "[%s]", content)
	}
	if err := json.Unmarshal(content, &found); err != nil {
		t.Fatalf("%s: %v in %s", url, err, content)
	}
	if len(found) != 1 || len(found[0]) != 1 {
		t.Fatalf("%s: %d answers: %s", url, len(found), content)
	}
	for uuid, e = range found[0] {
		if err := e.Validate(strfmt.Default); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	return uuid, e
}

// verifyEntry holds an entry against the shard that should have answered it: by rekor's
// verification, and then what that does not look at.
func verifyEntry(t testing.TB, s *synthetic.RekorV1, shard int, uuid string, e models.LogEntryAnon) error {
	t.Helper()
	sh := s.Shard(shard)
	if err := verify.VerifyLogEntry(t.Context(), &e, verifierOf(t, sh)); err != nil {
		return err
	}
	body, err := base64.StdEncoding.DecodeString(e.Body.(string))
	if err != nil {
		return err
	}
	var head util.SignedCheckpoint
	if err := head.UnmarshalText([]byte(*e.Verification.InclusionProof.Checkpoint)); err != nil {
		return err
	}
	switch p := e.Verification.InclusionProof; {
	case uuid != fmt.Sprintf("%016x%x", sh.TreeID, rfc6962.DefaultHasher.HashLeaf(body)):
		return errors.New("UUID is not that of the body")
	case uint64(*e.LogIndex) != s.Start(shard)+uint64(*p.LogIndex):
		return errors.New("virtual index is wrong")
	case head.Size != uint64(*p.TreeSize) || head.Origin != sh.Origin():
		return errors.New("checkpoint is of another tree")
	case *e.LogID != sh.LogID():
		return errors.New("log ID is wrong")
	}
	return nil
}

func verifierOf(t testing.TB, sh *synthetic.Shard) signature.Verifier {
	t.Helper()
	key, err := cryptoutils.UnmarshalPEMToPublicKey(sh.PublicKeyPEM())
	if err != nil {
		t.Fatal(err)
	}
	v, err := signature.LoadDefaultVerifier(key)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestRekorV1TreeAtEverySize(t *testing.T) {
	sh := synthetic.NewRekorV1(v1Host).Active()
	h := rfc6962.DefaultHasher
	var leaves [][]byte
	for size := range uint64(130) {
		root := sh.Root(size)
		if want := mth(leaves); root != want {
			t.Fatalf("root of size %d is %x, want %x", size, root, want)
		}
		for i := range size {
			leaf, old := sh.LeafHash(i), sh.Root(i)
			if err := proof.VerifyInclusion(h, i, size, leaf[:], sh.Inclusion(i, size), root[:]); err != nil {
				t.Fatalf("inclusion of %d in %d: %v", i, size, err)
			}
			if i == 0 {
				continue // nothing is proven from an empty tree
			}
			if err := proof.VerifyConsistency(h, i, size, sh.Consistency(i, size), old[:], root[:]); err != nil {
				t.Fatalf("consistency of %d with %d: %v", i, size, err)
			}
		}
		entry := synthetic.Tiny(1)(size)
		leaves = append(leaves, entry)
		if got := sh.Add(entry); got != size {
			t.Fatalf("entry %d is added at %d", size, got)
		}
	}
	if at := sh.Add(leaves[7]); at != 7 || sh.Size() != uint64(len(leaves)) {
		t.Errorf("entry 7 is added again at %d, size %d", at, sh.Size())
	}
}

func TestHashedRekordV1IsWhatRekorLogs(t *testing.T) {
	bodies := synthetic.HashedRekordV1(7)
	seen := map[string]bool{}
	for i := range uint64(130) {
		body := bodies(i)
		if !bytes.Equal(body, synthetic.HashedRekordV1(7)(i)) {
			t.Fatalf("entry %d differs when made again", i)
		}
		if seen[string(body)] {
			t.Fatalf("entry %d is not unique", i)
		}
		seen[string(body)] = true
		var asked models.SearchLogQuery
		if err := json.Unmarshal(fmt.Appendf(nil, `{"entries":[%s]}`, body), &asked); err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		entry, err := types.UnmarshalEntry(asked.Entries()[0]) // verifies the signature
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		canonical, err := types.CanonicalizeEntry(t.Context(), entry)
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if !bytes.Equal(body, canonical) {
			t.Fatalf("entry %d is not canonical:\n%s\n%s", i, body, canonical)
		}
		keys, err := entry.IndexKeys()
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if want := 3; i%4 == 3 {
			if len(keys) != want-1 {
				t.Errorf("entry %d of a plain key has the search keys %q", i, keys)
			}
		} else if len(keys) != want {
			t.Errorf("entry %d of a certificate has the search keys %q", i, keys)
		}
	}
	if bytes.Equal(bodies(0), synthetic.HashedRekordV1(8)(0)) {
		t.Error("another seed makes the same entry")
	}
}

func TestRekorVerifiesEveryEntryOfRekorV1(t *testing.T) {
	s, httpClient := twoShards(t)
	for shard, sh := range s.Shards() {
		for i := range sh.Size() {
			virtual, name := s.Start(shard)+i, sh.UUID(i)
			for _, c := range []struct{ path, body string }{
				{fmt.Sprintf("?logIndex=%d", virtual), ""},
				{"/" + name, ""},
				{"/" + strings.ToUpper(name), ""},
				{"/" + name[16:], ""},
				{"/retrieve", fmt.Sprintf(`{"logIndexes":[%d],"entryUUIDs":null}`, virtual)},
				{"/retrieve", fmt.Sprintf(`{"entryUUIDs":[%q]}`, name)},
				{"/retrieve", fmt.Sprintf(`{"entryUUIDs":[%q]}`, name[16:])},
				{"/retrieve", fmt.Sprintf(`{"entries":[%s]}`, sh.Body(i))},
			} {
				uuid, e := askEntry(t, httpClient, s.URL+"/api/v1/log/entries"+c.path, c.body)
				if err := verifyEntry(t, s, shard, uuid, e); err != nil {
					t.Errorf("entry %d by %s %.60s: %v", virtual, c.path, c.body, err)
				}
				if uuid != name || uint64(*e.LogIndex) != virtual {
					t.Errorf("entry %d by %s %.60s is %s at %d", virtual, c.path, c.body, uuid, *e.LogIndex)
				}
			}
		}
	}
}

func TestRekorV1SignsAnew(t *testing.T) {
	s, httpClient := twoShards(t)
	first := func(index int) (set, checkpoint string) {
		_, e := askEntry(t, httpClient, fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", s.URL, index), "")
		return e.Verification.SignedEntryTimestamp.String(), *e.Verification.InclusionProof.Checkpoint
	}
	set, frozen := first(0)
	set2, frozen2 := first(0)
	if set == set2 {
		t.Error("a SET is given twice")
	}
	if frozen != frozen2 {
		t.Error("the checkpoint of an inactive shard is signed again")
	}
	s.Restart()
	if _, after := first(0); after == frozen {
		t.Error("the checkpoint of an inactive shard survives a restart")
	}
	_, active := first(40)
	if _, active2 := first(40); active == active2 {
		t.Error("the checkpoint of the active shard is given twice")
	}
}

// rekorClient is what rekor generates for its API.
func rekorClient(httpClient *http.Client) *client.Rekor {
	transport := openapi.NewWithClient(v1Host, "/", []string{"http"}, httpClient)
	transport.Consumers["application/x-pem-file"] = transport.Consumers["text/plain"]
	return client.New(transport, strfmt.Default)
}

func TestRekorsOwnClient(t *testing.T) {
	s, httpClient := twoShards(t)
	rekor := rekorClient(httpClient)
	old := new(util.SignedCheckpoint)
	for range 12 {
		if err := old.UnmarshalText(s.Active().Checkpoint(s.Active().Size())); err != nil {
			t.Fatal(err)
		}
		s.Active().Grow(5, synthetic.HashedRekordV1(2))
		now, err := verify.VerifyCurrentCheckpoint(t.Context(), rekor, verifierOf(t, s.Active()), old)
		if err != nil {
			t.Fatal(err)
		}
		if now.Size != s.Active().Size() {
			t.Errorf("log info has the size %d, want %d", now.Size, s.Active().Size())
		}
	}

	info, err := rekor.Tlog.GetLogInfo(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := info.Payload.Validate(strfmt.Default); err != nil {
		t.Error(err)
	}
	if len(info.Payload.InactiveShards) != 1 {
		t.Fatalf("%d inactive shards", len(info.Payload.InactiveShards))
	}
	if err := old.UnmarshalText([]byte(*info.Payload.InactiveShards[0].SignedTreeHead)); err != nil {
		t.Fatal(err)
	}
	if !old.Verify(verifierOf(t, s.Shard(0))) || old.Size != 37 || old.Origin != s.Shard(0).Origin() {
		t.Errorf("the inactive shard's checkpoint is wrong: %s", old)
	}

	for i, sh := range append([]*synthetic.Shard{s.Active()}, s.Shards()...) {
		p := pubkey.NewGetPublicKeyParams()
		if i > 0 {
			p.TreeID = new(fmt.Sprint(sh.TreeID))
		}
		key, err := rekor.Pubkey.GetPublicKey(p)
		if err != nil {
			t.Fatal(err)
		}
		if key.Payload != string(sh.PublicKeyPEM()) {
			t.Errorf("key %d is %s", i, key.Payload)
		}
	}
}

func TestRekorV1RollsOver(t *testing.T) {
	s, httpClient := twoShards(t)
	name := s.Active().UUID(3)
	next := s.RollOver(nil)
	if next.Key != s.Shard(1).Key || next.TreeID == s.Shard(1).TreeID {
		t.Error("the new shard has not the old key and another tree ID")
	}
	body := s.Shard(0).Body(4)
	if at := s.Add(body); at != 58 {
		t.Errorf("the first entry of the new shard is at %d", at)
	}
	if uuid, e := askEntry(t, httpClient, s.URL+"/api/v1/log/entries/"+name, ""); verifyEntry(t, s, 1, uuid, e) != nil {
		t.Error("an entry is lost by a roll-over")
	}
	_, content := ask(t, httpClient, s.URL+"/api/v1/log/entries/retrieve", fmt.Sprintf(`{"entryUUIDs":[%q]}`, next.UUID(0)[16:]))
	var found []models.LogEntry
	if err := json.Unmarshal(content, &found); err != nil {
		t.Fatal(err)
	}
	if len(found) != 2 || found[0][next.UUID(0)].LogIndex == nil || found[1][s.Shard(0).UUID(4)].LogIndex == nil {
		t.Errorf("a leaf of two shards is found as %s", content)
	}
	// By UUID alone the active shard comes first.
	if uuid, _ := askEntry(t, httpClient, s.URL+"/api/v1/log/entries/"+next.UUID(0)[16:], ""); uuid != next.UUID(0) {
		t.Errorf("a leaf of two shards is %s", uuid)
	}
}

func TestRekorV1Attestation(t *testing.T) {
	s, httpClient := twoShards(t)
	s.Shard(0).Attest(2, []byte("an attestation"))
	uuid, e := askEntry(t, httpClient, s.URL+"/api/v1/log/entries?logIndex=2", "")
	if e.Attestation == nil || string(e.Attestation.Data) != "an attestation" {
		t.Errorf("attestation is %v", e.Attestation)
	}
	if err := verifyEntry(t, s, 0, uuid, e); err != nil {
		t.Error(err)
	}
}

func TestRekorV1Search(t *testing.T) {
	s, httpClient := twoShards(t)
	for i := range s.Shards() {
		if err := s.IndexAll(i); err != nil {
			t.Fatal(err)
		}
	}
	s.Index("uuid of the test", "Somebody@Example.com")
	sh := s.Shard(1)
	var plain struct {
		Spec struct {
			Data struct{ Hash struct{ Value string } }

			Signature struct{ PublicKey struct{ Content []byte } }
		}
	}
	if err := json.Unmarshal(sh.Body(3), &plain); err != nil { // 3 has a plain key
		t.Fatal(err)
	}
	key := &models.SearchIndexPublicKey{Format: new("x509"), Content: plain.Spec.Signature.PublicKey.Content}
	for name, c := range map[string]struct {
		query models.SearchIndex
		want  []string
	}{
		"hash":           {models.SearchIndex{Hash: plain.Spec.Data.Hash.Value}, []string{sh.UUID(3)}},
		"prefixed hash":  {models.SearchIndex{Hash: "sha256:" + strings.ToUpper(plain.Spec.Data.Hash.Value)}, []string{sh.UUID(3)}},
		"unknown hash":   {models.SearchIndex{Hash: strings.Repeat("00", 32)}, []string{}},
		"key":            {models.SearchIndex{PublicKey: key}, []string{sh.UUID(3)}},
		"email":          {models.SearchIndex{Email: "somebody@example.com"}, []string{"uuid of the test"}},
		"or":             {models.SearchIndex{Email: "somebody@example.com", PublicKey: key}, []string{sh.UUID(3), "uuid of the test"}},
		"and":            {models.SearchIndex{Email: "somebody@example.com", PublicKey: key, Operator: "and"}, []string{}},
		"and, with both": {models.SearchIndex{Hash: plain.Spec.Data.Hash.Value, PublicKey: key, Operator: "and"}, []string{sh.UUID(3)}},
		"nothing":        {models.SearchIndex{}, []string{}},
	} {
		p := index.NewSearchIndexParams()
		p.Query = &c.query
		found, err := rekorClient(httpClient).Index.SearchIndex(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if slices.Sort(found.Payload); !slices.Equal(found.Payload, c.want) {
			t.Errorf("%s: found %q, want %q", name, found.Payload, c.want)
		}
	}
}

func TestRekorV1Refuses(t *testing.T) {
	s, httpClient := twoShards(t)
	unknown := strings.Repeat("0123456789abcdef", 4)
	tree := fmt.Sprintf("%016x", s.Shard(0).TreeID)
	eleven := strings.TrimSuffix(strings.Repeat("1,", 11), ",")
	for _, c := range []struct {
		path, body string
		status     int
		content    string // a part of it; "" is none at all
	}{
		{"log/entries?logIndex=58", "", 404, ""},
		{"log/entries?logIndex=-1", "", 422, `{"code":609,"message":"logIndex in query should be greater than or equal to 0"}`},
		{"log/entries", "", 422, `{"code":602,"message":"logIndex in query is required"}`},
		{"log/entries?logIndex=x", "", 422, `"code":601,`},
		{"log/entries/" + unknown, "", 404, ""},
		{"log/entries/" + tree + unknown, "", 404, ""},
		{"log/entries/1111111111111111" + unknown, "", 404, ""},
		{"log/entries/ffffffffffffffff" + unknown, "", 400, "is not a valid TreeID"},
		{"log/entries/0000000000000000" + unknown, "", 500, "unexpected error"},
		{"log/entries/retrieve", "", 422, `"code":605,`},
		{"log/entries/retrieve", "{}", 200, "[]\n"},
		{"log/entries/retrieve", `{"entries":null,"entryUUIDs":null,"logIndexes":[57,58,9999]}`, 200, `"logIndex":57,`},
		{"log/entries/retrieve", `{"entryUUIDs":["` + unknown + `","` + tree + unknown + `","1111111111111111` + unknown + `"]}`, 200, "[]\n"},
		{"log/entries/retrieve", `{"entryUUIDs":["ffffffffffffffff` + unknown + `"]}`, 400, "invalid entryID"},
		{"log/entries/retrieve", `{"entryUUIDs":["xyz"]}`, 422, `"code":605,`},
		{"log/entries/retrieve", `{"logIndexes":[` + eleven + `]}`, 422, `"code":611,`},
		{"log/entries/retrieve", `{"logIndexes":[1,2,3,4,5,6],"entryUUIDs":["` + strings.Repeat(unknown+`","`, 4) + unknown + `"]}`, 422,
			`{"code":422,"message":"more than max allowed 10 entries in request"}`},
		{"log/entries/retrieve", `{"logIndexes":[]}`, 422, `"code":612,`},
		{"log/entries/retrieve", `{"logIndexes":[-1]}`, 422, `"code":609,`},
		{"log/entries/retrieve", `{"logIndexes":`, 400, `"code":400,`},
		{"log/entries/retrieve", `{"entries":[{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{}}]}`, 400, `"code":400,`},
		{"log/proof?lastSize=5&firstSize=0", "", 422, `"code":609,`},
		{"log/proof", "", 422, `{"code":602,"message":"lastSize in query is required"}`},
		{"log/proof?firstSize=6&lastSize=5", "", 400, "firstSize(6) must be less than lastSize(5)"},
		{"log/proof?firstSize=5&lastSize=22", "", 400, "the tree size requested(22) was greater than what is currently observable(21)"},
		{"log/proof?firstSize=5&lastSize=5", "", 200, `"hashes":[]`},
		{"log/proof?firstSize=5&lastSize=6&treeID=7", "", 400, "no log range found for tree ID 7"},
		{"log/proof?firstSize=5&lastSize=6&treeID=x", "", 422, `"code":605,`},
		{"log/publicKey?treeID=7", "", 400, `{"code":400,"message":"Bad Request"}`},
		{"log/publicKey?treeID=x", "", 422, `"code":605,`},
		{"index/retrieve", `{"hash":"12"}`, 422, `"code":605,`},
		{"index/retrieve", `{"email":"nobody"}`, 422, `"code":601,`},
		{"index/retrieve", `{"publicKey":{"format":"ssh","content":"AAAA"}}`, 400, "PKI format"},
		{"log/entries", `{"kind":"hashedrekord"}`, 501, "not enabled"},
		{"nothing", "", 404, "was not found"},
	} {
		answer, content := ask(t, httpClient, s.URL+"/api/v1/"+c.path, c.body)
		if answer.StatusCode != c.status || !strings.Contains(string(content), c.content) || (c.content == "") != (len(content) == 0) {
			t.Errorf("%s %s: %d %s, want %d %s", c.path, c.body, answer.StatusCode, content, c.status, c.content)
		}
	}

	for _, header := range []http.Header{
		{"Accept": {"application/json"}}, // of the public key
		{"Content-Type": {"text/plain"}}, // of a retrieval
	} {
		method, path, want := http.MethodGet, "/api/v1/log/publicKey", http.StatusNotAcceptable
		if header.Get("Accept") == "" {
			method, path, want = http.MethodPost, "/api/v1/log/entries/retrieve", http.StatusUnsupportedMediaType
		}
		r, _ := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader("{}"))
		if method == http.MethodGet {
			r.Body, r.ContentLength = nil, 0
		}
		r.Header = header
		answer, err := httpClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%v: %s, want %d", header, answer.Status, want)
		}
	}
}

func TestRekorV1TrustedRoot(t *testing.T) {
	s, _ := twoShards(t)
	s.RollOver(nil)
	trusted, err := root.NewTrustedRootFromJSON(s.TrustedRootJSON())
	if err != nil {
		t.Fatal(err)
	}
	logs := trusted.RekorLogs()
	if len(logs) != 2 {
		t.Fatalf("%d logs for two keys", len(logs))
	}
	for _, sh := range s.Shards() {
		log := logs[sh.LogID()]
		if log == nil || hex.EncodeToString(log.ID) != sh.LogID() || log.BaseURL != s.URL {
			t.Errorf("log %s is %+v", sh.LogID(), log)
			continue
		}
		if der, _ := cryptoutils.MarshalPublicKeyToPEM(log.PublicKey); !bytes.Equal(der, sh.PublicKeyPEM()) {
			t.Errorf("log %s has another key", sh.LogID())
		}
	}
}

func TestRekorV1Fork(t *testing.T) {
	s, _ := twoShards(t)
	fork, rollback := s.Fork(1, 10), s.Rollback(1, 15)
	a, b := s.Shard(1), fork.Shard(1)
	if a.Size() != b.Size() || a.Root(10) != b.Root(10) || a.Root(11) == b.Root(11) || a.UUID(9) != b.UUID(9) || a.Key != b.Key {
		t.Error("a fork is not of the same size, key and beginning, with another entry 10")
	}
	if fork.Shard(0) != s.Shard(0) {
		t.Error("a fork of one shard changes the other")
	}
	if c := rollback.Shard(1); c.Size() != 15 || c.Root(15) != a.Root(15) {
		t.Error("a rollback is no prefix")
	}
	fork.Add([]byte("one more"))
	rollback.Add([]byte("another"))
	if a.Size() != 21 || b.Size() != 22 || rollback.Shard(1).Size() != 16 {
		t.Error("a fork or a rollback does not grow on its own")
	}
	if _, ok := rollback.Shard(1).Find(a.LeafHash(15)); ok {
		t.Error("a rollback still finds what it dropped")
	}
	rekeyed := s.Rekey(0, synthetic.RekorKey(v1Host, 9))
	if rekeyed.Shard(0).LogID() == s.Shard(0).LogID() || rekeyed.Shard(0).Root(37) != s.Shard(0).Root(37) {
		t.Error("a rekeyed shard has not another key and the same tree")
	}
}

func BenchmarkRekorV1Retrieve(b *testing.B) {
	s := synthetic.NewRekorV1(v1Host)
	s.Active().Grow(100_000, synthetic.Tiny(1))
	httpClient, stop := s.Client()
	defer stop()
	rekor := rekorClient(httpClient)
	for at := int64(0); b.Loop(); at = (at + 10) % 99_990 {
		p := entries.NewSearchLogQueryParams()
		p.Entry = &models.SearchLogQuery{}
		for i := range int64(10) {
			p.Entry.LogIndexes = append(p.Entry.LogIndexes, new(at+i))
		}
		if found, err := rekor.Entries.SearchLogQuery(p); err != nil || len(found.Payload) != 10 {
			b.Fatalf("%v, %v", found, err)
		}
	}
}

func BenchmarkHashedRekordV1(b *testing.B) {
	bodies := synthetic.HashedRekordV1(0)
	for i := uint64(0); b.Loop(); i++ {
		bodies(i)
	}
}
