package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestLogInit: what is printed is a configuration whose keys open.
func TestLogInit(t *testing.T) {
	cheap(t)
	t.Chdir(t.TempDir())
	var out, text strings.Builder
	if code := run(t.Context(), []string{"log", "init", "keys", "--v1-host", "rekor.example.com", "--v2-origin", "rekor2026-1.example.com"}, &out, &text); code != 0 {
		t.Fatal(text.String())
	}
	c, err := parseConfig("understudy.yaml", []byte(out.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if c.Private.V1 == nil || c.Private.V2 == nil || c.Private.V2.MLDSAKey == "" || c.Private.Access.WithoutAuthentication != onLoopbackOnly {
		t.Errorf("got %+v", c.Private)
	}
	s, err := openLogSigners(t.Context(), c.Private)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range [][32]byte{s.v1.logID, s.v2.logID} {
		if !strings.Contains(out.String(), "# Log ID: "+hex.EncodeToString(id[:])) {
			t.Errorf("the log ID %x is not told", id)
		}
	}
	if _, err := openProposalsKey(c.Private.Proposals.Key); err != nil {
		t.Error(err)
	}
}

// TestLogInitFails: what cannot be finished leaves no key in the way of the next try, and takes none of
// somebody else.
func TestLogInitFails(t *testing.T) {
	cheap(t)
	t.Chdir(t.TempDir())
	cmd := new(cobra.Command)
	cmd.SetContext(t.Context())
	cmd.SetOut(io.Discard)
	l := logInit{dir: "keys", v1Host: "rekor.example.com", v2Origin: "log.example", noMLDSA: true, passphrase: filepath.Join("keys", logPassphrase), config: defaultConfigFile}
	if err := os.MkdirAll("keys", 0o700); err != nil {
		t.Fatal(err)
	}
	const theirs = "keys/log-v2-mldsa.key"
	if err := os.WriteFile(theirs, nil, 0o600); err != nil { // between check and make
		t.Fatal(err)
	}
	if err := l.check(); err != nil {
		t.Fatal(err)
	}
	l.noMLDSA = false
	if err := l.build(cmd); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Fatal(err)
	}
	if files, err := filepath.Glob("keys/log-*"); err != nil || !slices.Equal(files, []string{theirs}) {
		t.Errorf("left: %s, %v", files, err)
	}
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	l.made = nil
	if err := l.run(cmd); err != nil {
		t.Error(err)
	}
}

// TestNewTreeID: a tree ID is one that the configuration takes.
func TestNewTreeID(t *testing.T) {
	for range 1000 {
		if id := newTreeID(); id < 1 || id > 1<<63-1 {
			t.Fatal(id)
		}
	}
}

// TestNewToken: a token is known by its hash, and no two are alike.
func TestNewToken(t *testing.T) {
	a, hash := newToken()
	b, _ := newToken()
	if sum := sha256.Sum256([]byte(a)); a == b || len(a) != 67 || !strings.HasPrefix(a, "us_") || hash != hex.EncodeToString(sum[:]) {
		t.Errorf("%s, %s, %s", a, hash, b)
	}
}
