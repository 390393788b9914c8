package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// TestForeignFormat holds that a data directory of another version is refused with one
// sentence, by every verb that opens one, and left as it is.
func TestForeignFormat(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(config, []byte("data_dir: data\nlisten: {http: '127.0.0.1:0', grpc: '127.0.0.1:0', admin: '127.0.0.1:0'}\nlogs: [{url: 'http://127.0.0.1:1', origin: a.example}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := pebble.Open(filepath.Join(dir, "data", "db"), &pebble.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Set([]byte("m"), []byte("understudy\x63"), pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	const want = `data has the format "understudyc", and this version of understudy reads only understudy `
	for range 2 {
		for _, args := range [][]string{{"serve"}, {"check"}, {"status"}, {"backup", filepath.Join(dir, "backup")}} {
			var out, text strings.Builder
			code := run(t.Context(), append(args, "--config", config), &out, &text)
			if got := text.String(); code != exitNotRun || strings.Count(got, "\n") != 1 || !strings.Contains(got, want) || !strings.HasSuffix(got, ": use the version that wrote it\n") {
				t.Errorf("%s: exit code %d, %s", fmt.Sprint(args), code, got)
			}
		}
	}
}
