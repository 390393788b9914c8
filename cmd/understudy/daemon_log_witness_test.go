package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/test/logstage"
)

// TestPrivateUnwitnessed: a generation whose witnesses sleep keeps what it logs, shows none of it, and
// says so, also while it does not run; the other one goes on.
func TestPrivateUnwitnessed(t *testing.T) {
	s := newPrivateStage(t)
	s.write()
	if code, _, text := s.with("log", "create"); code != 0 {
		t.Fatal(text)
	}
	c, err := loadConfig("c.yaml")
	if err != nil {
		t.Fatal(err)
	}
	logs, err := c.privateLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_, cosigner, err := note.GenerateKey(rand.Reader, "sleeper.test")
	if err != nil {
		t.Fatal(err)
	}
	policy := fmt.Sprintf("log %s\nwitness sleeper %s http://127.0.0.1:1\nquorum sleeper\n", logs[1].vkeys[0], cosignerKey(t, cosigner))
	if err := os.WriteFile("policy", []byte(policy), 0o600); err != nil {
		t.Fatal(err)
	}
	s.settings["more"] += "\n  witness_policy: {file: policy, timeout: 1s, logs: [v2]}"
	s.write()
	// The log was made without witnesses, and what it published then was the empty tree.
	stop := s.serve()
	s.propose("v1", "a")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r, err := http.NewRequestWithContext(ctx, "POST", "http://"+s.v2+"/api/v2/log/entries", bytes.NewReader(logstage.RequestV2JSON("b")))
		if err != nil {
			return
		}
		r.Header.Set("Authorization", "Bearer "+s.token)
		if answer, err := http.DefaultClient.Do(r); err == nil {
			answer.Body.Close()
		}
	}()
	status := func() (v1, v2 rest.PrivateStatus) {
		t.Helper()
		code, out, text := s.with("status", "--json")
		var status rest.Status
		if err := json.Unmarshal([]byte(out), &status); err != nil || code != 0 || len(status.Private) != 2 {
			t.Fatalf("%d %v %s %s", code, err, out, text)
		}
		for _, p := range status.Private {
			if p.Name == "v1" {
				v1 = p
			} else {
				v2 = p
			}
		}
		return v1, v2
	}
	v1, v2 := status()
	for end := time.Now().Add(20 * time.Second); v2.Size == 0 || v2.Problem == nil; time.Sleep(10 * time.Millisecond) {
		if v1, v2 = status(); time.Now().After(end) {
			t.Fatalf("%+v", v2)
		}
	}
	cancel()
	if v2.Size != 1 || v2.Published != 0 || len(v2.Witnesses) != 1 || v2.Witnesses[0].Failure == "" || v1.Published != 1 || v1.Problem != nil {
		t.Errorf("%+v %+v", v1, v2)
	}
	if code, text := s.ask("GET", s.v2, "/api/v2/tile/entries/000.p/1", nil); code != http.StatusNotFound {
		t.Errorf("%d %s", code, text)
	}
	for _, running := range []bool{true, false} {
		if !running {
			stop()
		}
		code, out, text := s.with("status")
		published := "nothing"
		if running {
			published = "0 entries"
		}
		if code != 0 || !strings.Contains(out, "entries   1\n  published "+published) || running != strings.Contains(out, "witness   sleeper") {
			t.Errorf("running %v: %d %s %s", running, code, out, text)
		}
		if code, out, _ := s.with("log", "audit", "v2"); code != 0 || strings.Count(out, "\n") != 1 {
			t.Errorf("running %v: %d %s", running, code, out)
		}
	}
	if v1, v2 = status(); v2.Size != 1 || v2.Published != 0 || v1.Published != 1 {
		t.Errorf("%+v %+v", v1, v2)
	}
}

// cosignerKey is a verifier key for cosignatures with the Ed25519 key of another one.
func cosignerKey(t *testing.T, vkey string) string {
	t.Helper()
	parts := strings.SplitN(vkey, "+", 3)
	public, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		t.Fatal(err)
	}
	public[0] = 4 // https://c2sp.org/signed-note
	id := sha256.Sum256(append([]byte(parts[0]+"\n"), public...))
	return fmt.Sprintf("%s+%x+%s", parts[0], id[:4], base64.StdEncoding.EncodeToString(public))
}
