package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/storage"
	"github.com/understudy-log/understudy/test/synthetic"
)

// TestCheckWitnessed: the checkpoints of logs that are only witnessed are held against the keys
// that they are witnessed under.
func TestCheckWitnessed(t *testing.T) {
	const origin = "log.example/witnessed"
	log := synthetic.New(synthetic.Options{Origin: origin, Entries: synthetic.Tiny(1)})
	c := &Config{DataDir: t.TempDir(), Witness: &WitnessConfig{Keys: []string{"w1.key"}, Logs: []WitnessLogConfig{{Origin: origin, PublicKey: log.Key.Verifier()}}}}
	db, err := c.openOrCreate(storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := db.CreateTree(origin)
	if err != nil {
		t.Fatal(err)
	}
	log.Grow(3)
	if _, err := tree.Advance(storage.Checkpoint{Head: storage.Head{Size: 3, Root: log.Root(3)}, Raw: log.Checkpoint(3), FirstSeen: time.Unix(1, 0)}, nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := check(t.Context(), c, false, &out, &out); err != nil || strings.Contains(out.String(), "NOT checked") {
		t.Errorf("check: %v\n%s", err, out.String())
	}
	c.Witness.Logs[0].PublicKey = synthetic.Ed25519(origin, 7).Verifier()
	out.Reset()
	if err := check(t.Context(), c, false, &out, &out); err == nil {
		t.Errorf("under another key it is good:\n%s", out.String())
	}
}

// TestLogListNamesNoFiles: a list that others keep cannot have a file of ours read.
func TestLogListNamesNoFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return dir + "/" + name
	}
	key := synthetic.Ed25519("log.example/a", 1).Verifier()
	file := write("a+b", key)
	c := &Config{DataDir: dir, Witness: &WitnessConfig{Keys: []string{"w1.key"}, LogList: write("list", fmt.Sprintf("logs/v0\nvkey %s\n", file))}}
	if logs, skipped, err := c.witnessLogs(); err != nil || len(skipped) != 1 || len(logs) != 0 {
		t.Errorf("logs %v", logs)
	}
	c.Witness.LogList = write("list", fmt.Sprintf("logs/v0\nvkey %s\n", key))
	if logs, _, err := c.witnessLogs(); err != nil || len(logs) != 1 || logs[0].Origin != "log.example/a" {
		t.Errorf("logs %v, %v", logs, err)
	}
}
