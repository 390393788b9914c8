package synthetic_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"

	"github.com/understudy-log/understudy/test/bubble"
	"github.com/understudy-log/understudy/test/synthetic"
)

// Each lie about an entry is caught by the one check that it is made for, by every way
// to the entry, and the other shard stays honest.
func TestRekorV1EntryFaults(t *testing.T) {
	s, httpClient := twoShards(t)
	sh := s.Shard(0)
	for name, c := range map[string]struct {
		fault synthetic.Fault
		want  string // in the error
	}{
		"wrong SET":           {sh.WrongSET(), "unable to verify bundle"},
		"no SET":              {sh.NoSET(), "signature missing"},
		"no proof":            {sh.NoProof(), "inclusion proof not provided"},
		"wrong body":          {sh.WrongBody(), "does not match expected root"},
		"wrong UUID":          {sh.WrongUUID(), "UUID is not that of the body"},
		"wrong virtual index": {sh.WrongVirtualIndex(1), "virtual index is wrong"},
		"foreign proof":       {sh.ForeignProof(), "does not match expected root"},
		"foreign checkpoint":  {sh.ForeignCheckpoint(s.Shard(1)), "signature on checkpoint"},
		"rekeyed":             {synthetic.AnsweredBy(s.Rekey(0, synthetic.RekorKey(v1Host, 9))), "signature on checkpoint"},
		"once honest":         {synthetic.Times(0, sh.WrongSET()), ""},
		"by other kinds":      {synthetic.On(synthetic.LogProof, sh.WrongSET()), ""},
		"of the other shard":  {s.Shard(1).On(sh.WrongSET()), ""},
	} {
		t.Run(name, func(t *testing.T) {
			s.Misbehave(c.fault)
			defer s.Misbehave()
			for _, way := range []struct{ path, body string }{
				{"?logIndex=5", ""},
				{"/" + sh.UUID(5), ""},
				{"/retrieve", `{"logIndexes":[5]}`},
			} {
				_, content := ask(t, httpClient, s.URL+"/api/v1/log/entries"+way.path, way.body)
				uuid, e := oneEntry(t, content)
				err := verifyEntry(t, s, 0, uuid, e)
				if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s: error is %v, want %q", way.path, err, c.want)
				}
			}
			_, content := ask(t, httpClient, s.URL+"/api/v1/log/entries/retrieve", `{"logIndexes":[40]}`)
			if uuid, e := oneEntry(t, content); verifyEntry(t, s, 1, uuid, e) != nil {
				t.Error("the other shard is not honest")
			}
		})
	}
}

// oneEntry reads an answer without asking it to be right.
func oneEntry(t *testing.T, content []byte) (string, models.LogEntryAnon) {
	t.Helper()
	var found []models.LogEntry
	if json.Unmarshal(content, &found) != nil {
		found = make([]models.LogEntry, 1)
		if err := json.Unmarshal(content, &found[0]); err != nil {
			t.Fatalf("%v in %s", err, content)
		}
	}
	for uuid, e := range found[0] {
		return uuid, e
	}
	t.Fatalf("no entry in %s", content)
	panic("unreachable")
}

func TestRekorV1Neighbour(t *testing.T) {
	s, httpClient := twoShards(t)
	for shard, asked := range []uint64{36, 40} {
		s.Misbehave(s.Shard(shard).Neighbour())
		uuid, e := askEntry(t, httpClient, fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", s.URL, asked), "")
		if want := s.Shard(shard).UUID((asked - s.Start(shard) + 1) % s.Shard(shard).Size()); uuid != want {
			t.Errorf("entry %d is answered with %s, want %s", asked, uuid, want)
		}
		if err := verifyEntry(t, s, shard, uuid, e); err != nil {
			t.Errorf("the neighbour is not right in itself: %v", err)
		}
	}
}

func TestRekorV1HeadFaults(t *testing.T) {
	s, httpClient := twoShards(t)
	type head struct {
		RootHash, SignedTreeHead string
		TreeSize                 uint64
	}
	for name, c := range map[string]struct {
		fault  func(i int) synthetic.Fault
		signed bool // by the shard's key
		origin bool // is right
		size   int  // more than it is
		root   bool // belongs to the tree
		agrees bool // the fields with the checkpoint
	}{
		"none":         {func(int) synthetic.Fault { return synthetic.Times(0, synthetic.HTML()) }, true, true, 0, true, true},
		"wrong origin": {func(i int) synthetic.Fault { return s.Shard(i).WrongOrigin("other.example - 1") }, true, false, 0, true, true},
		"wrong root":   {func(i int) synthetic.Fault { return s.Shard(i).WrongRoot(3) }, true, true, 3, false, true},
		"wrong key":    {func(i int) synthetic.Fault { return s.Shard(i).WrongKey(synthetic.RekorKey(v1Host, 7)) }, false, true, 0, true, true},
		"wrong fields": {func(i int) synthetic.Fault { return s.Shard(i).WrongFields(3) }, true, true, 0, true, false},
		"rollback":     {func(i int) synthetic.Fault { return synthetic.AnsweredBy(s.Rollback(i, 12)) }, true, true, -1, true, true},
		"fork":         {func(i int) synthetic.Fault { return synthetic.AnsweredBy(s.Fork(i, 12)) }, true, true, 0, false, true},
		"rekeyed": {func(i int) synthetic.Fault { return synthetic.AnsweredBy(s.Rekey(i, synthetic.RekorKey(v1Host, 8))) },
			false, true, 0, true, true},
	} {
		for i := range s.Shards() {
			s.Misbehave(c.fault(i))
			_, content := ask(t, httpClient, s.URL+"/api/v1/log", "")
			s.Misbehave()
			var info struct {
				head
				InactiveShards []head
			}
			if err := json.Unmarshal(content, &info); err != nil {
				t.Fatal(err)
			}
			heads := append(info.InactiveShards, info.head)
			for j, sh := range s.Shards() {
				want := c
				if j != i {
					want.signed, want.origin, want.size, want.root, want.agrees = true, true, 0, true, true
				}
				var note util.SignedCheckpoint
				if err := note.UnmarshalText([]byte(heads[j].SignedTreeHead)); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				if got := note.Verify(verifierOf(t, sh)); got != want.signed {
					t.Errorf("%s of shard %d: signed by the key of %d is %t", name, i, j, got)
				}
				if got := note.Origin == sh.Origin(); got != want.origin {
					t.Errorf("%s of shard %d: origin of %d is %s", name, i, j, note.Origin)
				}
				if got := int(note.Size) - int(sh.Size()); got != want.size && (want.size >= 0 || got >= 0) {
					t.Errorf("%s of shard %d: size of %d is %d", name, i, j, note.Size)
				}
				if got := note.Size <= sh.Size() && [32]byte(note.Hash) == sh.Root(note.Size); got != want.root {
					t.Errorf("%s of shard %d: root of %d belongs to its tree is %t", name, i, j, got)
				}
				if got := note.Size == heads[j].TreeSize && fmt.Sprintf("%x", note.Hash) == heads[j].RootHash; got != want.agrees {
					t.Errorf("%s of shard %d: fields of %d agree is %t", name, i, j, got)
				}
			}
		}
	}
}

func TestRekorV1WrongConsistency(t *testing.T) {
	s, httpClient := twoShards(t)
	rekor := rekorClient(httpClient)
	heads := make([][3]*util.SignedCheckpoint, 2)
	for i, sh := range s.Shards() {
		for j, size := range []uint64{8, 16, 21} {
			heads[i][j] = new(util.SignedCheckpoint)
			if err := heads[i][j].UnmarshalText(sh.Checkpoint(size)); err != nil {
				t.Fatal(err)
			}
		}
	}
	prove := func(i, from, to int) error {
		return verify.ProveConsistency(t.Context(), rekor, heads[i][from], heads[i][to], fmt.Sprint(s.Shard(i).TreeID))
	}
	s.Misbehave(s.Shard(1).On(synthetic.WrongConsistency()))
	for _, span := range [][2]int{{0, 1}, {1, 2}, {0, 2}} {
		if err := prove(0, span[0], span[1]); err != nil {
			t.Errorf("the other shard, %v: %v", span, err)
		}
		if prove(1, span[0], span[1]) == nil {
			t.Errorf("a wrong proof is accepted, %v", span)
		}
	}
	_, content := ask(t, httpClient, fmt.Sprintf("%s/api/v1/log/proof?firstSize=5&lastSize=5&treeID=%d", s.URL, s.Shard(1).TreeID), "")
	if strings.Contains(string(content), `"hashes":[]`) {
		t.Error("a proof without hashes is not made wrong")
	}
}

func TestRekorV1WebPages(t *testing.T) {
	s, httpClient := twoShards(t)
	s.Misbehave(synthetic.On(synthetic.LogInfo, synthetic.Times(2, synthetic.HTML())), synthetic.On(synthetic.LogProof, synthetic.Truncate()))
	for i := range 4 {
		answer, content := ask(t, httpClient, s.URL+"/api/v1/log", "")
		if isHTML := strings.HasPrefix(answer.Header.Get("Content-Type"), "text/html"); isHTML != (i < 2) || json.Valid(content) == isHTML {
			t.Errorf("answer %d is %s", i, content)
		}
		if _, content := ask(t, httpClient, s.URL+"/api/v1/log/proof?lastSize=9", ""); json.Valid(content) {
			t.Errorf("answer %d is whole: %s", i, content)
		}
	}
}

func TestRekorV1InABubble(t *testing.T) {
	bubble.Run(t, func(t *testing.T) {
		s, httpClient := twoShards(t)
		get := func(path string) (*http.Response, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r, _ := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+"/api/v1/"+path, nil)
			answer, err := httpClient.Do(r)
			if err != nil {
				return nil, err
			}
			defer answer.Body.Close()
			_, err = io.Copy(io.Discard, answer.Body)
			return answer, err
		}

		uuid, e := askEntry(t, httpClient, s.URL+"/api/v1/log/entries?logIndex=3", "")
		if err := verifyEntry(t, s, 0, uuid, e); err != nil {
			t.Error(err)
		}
		if *e.IntegratedTime != time.Now().Unix() {
			t.Errorf("integrated at %d", *e.IntegratedTime)
		}

		s.Refuse(true)
		s.Forget()
		if _, err := get("log"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a refused connection gives %v", err)
		}
		if n := len(s.Requests(^0)); n != 0 {
			t.Errorf("%d refused requests are counted", n)
		}
		s.Refuse(false)

		s.Misbehave(synthetic.On(synthetic.LogInfo, synthetic.Hang()), synthetic.On(synthetic.LogProof, synthetic.Drip(time.Second)),
			synthetic.On(synthetic.LogKey, synthetic.Throttle(7*time.Second)), synthetic.On(synthetic.EntryByIndex, synthetic.Status(http.StatusBadGateway)))
		for _, path := range []string{"log", "log/proof?lastSize=9"} {
			if _, err := get(path); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s gives %v", path, err)
			}
		}
		if answer, err := get("log/publicKey"); err != nil || answer.StatusCode != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "7" {
			t.Errorf("throttled: %v, %v", answer, err)
		}
		if answer, err := get("log/entries?logIndex=3"); err != nil || answer.StatusCode != http.StatusBadGateway {
			t.Errorf("bad gateway: %v, %v", answer, err)
		}
		s.Misbehave()

		s.Forget()
		for _, pause := range []time.Duration{0, 400, 400, 400, 100, 2000} { // milliseconds
			time.Sleep(pause * time.Millisecond)
			if _, err := get("log"); err != nil {
				t.Fatal(err)
			}
		}
		if most := s.Busiest(time.Second); most != 4 { // at 400, 800, 1200 and 1300
			t.Errorf("busiest second has %d requests", most)
		}
		if infos, all := len(s.Requests(synthetic.LogInfo)), len(s.Requests(^0)); infos != 6 || all != 6 || len(s.Requests(synthetic.LogKey)) != 0 {
			t.Errorf("counted %d and %d requests", infos, all)
		}
	})
}

// What a lie does not touch stays right, or a check that comes first would hide the one
// that the lie is for.
func TestRekorV1LiesAreNarrow(t *testing.T) {
	s, httpClient := twoShards(t)
	sh := s.Shard(0)
	lied := func(fault synthetic.Fault) *models.LogEntryAnon {
		s.Misbehave(fault)
		_, content := ask(t, httpClient, s.URL+"/api/v1/log/entries?logIndex=5", "")
		_, e := oneEntry(t, content)
		return &e
	}
	for name, e := range map[string]*models.LogEntryAnon{"wrong body": lied(sh.WrongBody()), "foreign proof": lied(sh.ForeignProof())} {
		if err := verify.VerifySignedEntryTimestamp(t.Context(), e, verifierOf(t, sh)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := verify.VerifyCheckpointSignature(e, verifierOf(t, sh)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := verify.VerifyInclusion(t.Context(), lied(sh.WrongSET())); err != nil {
		t.Errorf("wrong SET: %v", err)
	}
	rekeyed := s.Rekey(0, synthetic.RekorKey(v1Host, 9))
	if err := verify.VerifyLogEntry(t.Context(), lied(synthetic.AnsweredBy(rekeyed)), verifierOf(t, rekeyed.Shard(0))); err != nil {
		t.Errorf("rekeyed: %v", err)
	}
}

func TestRekorV1GrowsWhileItServes(t *testing.T) {
	s, httpClient := twoShards(t)
	grown := make(chan struct{})
	go func() {
		defer close(grown)
		for range 20 {
			s.Active().Grow(7, synthetic.HashedRekordV1(3))
		}
		s.RollOver(synthetic.RekorKey(v1Host, 2)).Grow(9, synthetic.HashedRekordV1(4))
	}()
	for i := range 100 {
		uuid, e := askEntry(t, httpClient, fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", s.URL, i%58), "")
		shard := 0
		if i%58 >= 37 {
			shard = 1
		}
		if err := verifyEntry(t, s, shard, uuid, e); err != nil {
			t.Errorf("entry %d: %v", i%58, err)
		}
	}
	<-grown
	if n := s.Size(); n != 58+140+9 {
		t.Errorf("size is %d", n)
	}
}
