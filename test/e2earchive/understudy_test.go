package e2earchive

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/witnesses"
)

// understudy starts the daemon as a witness, with a key of each kind. It is told of every second
// log by a list of the witness network's.
func understudy(t *testing.T, logs ...*witnesses.Log) *witness {
	t.Helper()
	binary, err := tool.Understudy(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := process.FreeAddrs(3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w := &witness{url: "http://" + addrs[0] + "/witness", monitor: "http://" + addrs[0] + "/witness", quarantines: true}
	config := fmt.Sprintf("data_dir: ./data\nlisten: {http: %s, grpc: %s, admin: %s}\nwitness:\n  keys:\n", addrs[0], addrs[1], addrs[2])
	for _, kind := range []string{"ed25519", "ml-dsa-44"} {
		file := filepath.Join(dir, kind+".key")
		vkey, err := exec.CommandContext(t.Context(), binary, "keys", "generate", "--name", "understudy.example/w", "--type", kind, "--output", file).Output()
		if err != nil {
			t.Fatal(err)
		}
		w.vkeys = append(w.vkeys, strings.TrimSpace(string(vkey)))
		config += fmt.Sprintf("  - %q\n", file)
	}
	listFile, configFile := filepath.Join(dir, "logs"), filepath.Join(dir, "understudy.yaml")
	config += fmt.Sprintf("  log_list: %q\n  logs:\n", listFile)
	list := "# of a test\nlogs/v0\n"
	for i, l := range logs {
		if i%2 == 0 {
			config += fmt.Sprintf("  - {origin: %q, public_key: %q}\n", l.Origin, l.VKey)
		} else {
			list += fmt.Sprintf("\nvkey %s\norigin %s\nqpd 86400\ncontact nobody\n", l.VKey, l.Origin)
		}
	}
	for file, content := range map[string]string{listFile: list, configFile: config} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}

	var daemon *process.Process
	start := func(ctx context.Context) (err error) {
		if daemon, err = process.Start(filepath.Join(dir, "understudy.log"), binary, "serve", "--config", configFile); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		return daemon.Until(ctx, func(context.Context) error {
			answer, err := http.Get("http://" + addrs[2] + "/healthz")
			if err == nil {
				answer.Body.Close()
			}
			return err
		})
	}
	w.restart = func(ctx context.Context) error {
		daemon.Kill()
		return start(ctx)
	}
	if err := start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { daemon.Kill() })
	return w
}

func TestUnderstudyConformance(t *testing.T) {
	witnessesOnly(t)
	logs := witnesses.NewLogs()
	conformance(t, understudy(t, logs...), logs, nil)
}
