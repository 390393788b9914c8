package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tufrepo"
)

// TestTrustExport: what is exported is what was in force at the time that is asked for, with the history
// up to then; a Rekor v1 log gets another address only when that is asked for, and a v2 log never.
func TestTrustExport(t *testing.T) {
	v1, v2 := [3]string{"https://rekor.example", "a", "2024-01-01T00:00:00Z"}, [3]string{"https://log2025-1.rekor.example", "b", "2025-01-01T00:00:00Z"}
	first, second := rootOf(t, v1), rootOf(t, v1, v2)
	repo := tufrepo.New(t, first)
	dir := t.TempDir()
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "understudy.yaml")
	for name, content := range map[string][]byte{filepath.Join(dir, "root.json"): repo.PublishRoot(t), file: fmt.Appendf(nil, `
listen: {http: '%s', grpc: '%s', admin: '%s'}
tuf: {url: %s, root: root.json, poll: 50ms}
logs: [{name: v1, source: rekor-v1, url: 'https://rekor.example'}]
`, addrs[0], addrs[1], addrs[2], repo.URL)} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verb := func(code int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if got := run(t.Context(), append(args, "--config", file), &out, &out); got != code {
			t.Errorf("%q: exit code %d, want %d: %s", args, got, code, out.String())
		}
		return out.String()
	}
	var running sync.WaitGroup
	running.Go(func() { run(t.Context(), []string{"serve", "--config", file}, io.Discard, io.Discard) })
	t.Cleanup(running.Wait)
	holds := func(n int) {
		t.Helper()
		for range 3000 {
			var out bytes.Buffer
			if run(t.Context(), []string{"trust", "show", "--list", "--config", file}, &out, io.Discard) == 0 && strings.Count(out.String(), "\n") == n {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Fatalf("there are never %d versions", n)
	}
	holds(1)
	between := time.Now().UTC().Format(time.RFC3339Nano)
	repo.Publish(t, second, time.Now().Add(time.Hour))
	holds(2)
	export := func(code int, args ...string) (files map[string]string, said string) {
		t.Helper()
		out := t.TempDir()
		said = verb(code, append([]string{"trust", "export", out}, args...)...)
		files = map[string]string{}
		for _, pattern := range []string{"*", "history/*/*"} {
			names, err := filepath.Glob(filepath.Join(out, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if data, err := os.ReadFile(name); err == nil {
					files[strings.TrimPrefix(name, out+"/")] = string(data)
				}
			}
		}
		return files, said
	}
	history := func(files map[string]string) (n int) {
		for name := range files {
			if strings.HasPrefix(name, "history/trusted_root/") {
				n++
			}
		}
		return n
	}
	now, said := export(0)
	if now[trust.RootTarget] != string(second) || history(now) != 2 || !strings.Contains(said, "which is this machine") {
		t.Errorf("now: %d in the history, %s, %s", history(now), now[trust.RootTarget], said)
	}
	then, _ := export(0, "--as-of", between, "--url", "http://mirror.example/tuf/")
	if then[trust.RootTarget] != string(first) || history(then) != 1 || !strings.Contains(then[cosignFile], "TUF_MIRROR='http://mirror.example/tuf'\n") {
		t.Errorf("then: %d in the history, %s, %s", history(then), then[trust.RootTarget], then[cosignFile])
	}
	moved, _ := export(0, "--v1-url", "http://mirror.example")
	root, err := trust.ParseRoot([]byte(moved[trust.RootTarget]))
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]bool{}
	for _, log := range root.Material().RekorLogs() {
		addresses[log.BaseURL] = true
	}
	if len(addresses) != 2 || !addresses["http://mirror.example"] || !addresses[v2[0]] {
		t.Errorf("logs are at %v", addresses)
	}
	for says, args := range map[string][]string{
		"what it was before is not known here": {"--as-of", "2020-01-01"},
		"is no time":                           {"--as-of", "soon"},
		"is no address":                        {"--v1-url", "mirror"},
		"--url":                                {"--url", "mirror"},
		"nobody answers":                       {"--server", "127.0.0.1:1"},
		"parse trusted root":                   {"--add-trusted-root", file},
		"there already":                        {"--add-trusted-root", filepath.Join(dir, "again.json")},
		"parse SigningConfig":                  {"--logs", "never", "--own-signing-config", file, "--signing-config", file},
	} {
		if err := os.WriteFile(filepath.Join(dir, "again.json"), second, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, said := export(2, args...); !strings.Contains(said, says) {
			t.Errorf("%v: %s", args, said)
		}
	}
}
