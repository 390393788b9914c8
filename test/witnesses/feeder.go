package witnesses

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/understudy-log/understudy/test/process"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// Feeder is transparency-dev's feedwitness, which takes checkpoints and proofs from a
// C2SP tlog-tiles log and submits them to a witness.
type Feeder struct {
	dir, binary string
	process     *process.Process
}

// NewFeeder builds a feeder of one log, in an existing folder. It has its list of logs built in,
// so it is built from its own source with another list.
func NewFeeder(ctx context.Context, dir, origin, vkey, logURL string) (*Feeder, error) {
	list := fmt.Sprintf("Logs:\n- {Origin: %q, URL: %q, PublicKey: %q, Feeder: tiles}\n", origin, logURL, vkey)
	binary, err := buildFeeder(ctx, dir, list)
	return &Feeder{dir: dir, binary: binary}, err
}

// Start has it submit to a witness, ten times a second, until Kill.
func (f *Feeder) Start(submissionPrefix string) (err error) {
	f.process, err = process.Start(f.logFile(), f.binary, "--witness_url", submissionPrefix, "--max_qps", "10", "--metrics_listen", "", "--v", "1")
	return err
}

// Kill ends it, if it was started. It may be started again.
func (f *Feeder) Kill() {
	if f.process != nil {
		f.process.Kill()
	}
}

// Until waits until its output since the first start, which has the cosignatures that it got,
// is good.
func (f *Feeder) Until(ctx context.Context, good func(output string) error) error {
	return f.process.Until(ctx, func(context.Context) error {
		output, err := os.ReadFile(f.logFile())
		if err != nil {
			return err
		}
		return good(string(output))
	})
}

func (f *Feeder) logFile() string { return filepath.Join(f.dir, "feedwitness.log") }

// buildFeeder builds, in dir, the version that the module test/feedwitness pins.
func buildFeeder(ctx context.Context, dir, list string) (string, error) {
	const module = "github.com/transparency-dev/witness"
	root, err := tool.Root()
	if err != nil {
		return "", err
	}
	scratch := filepath.Join(dir, "feedwitness-source")
	if err := os.CopyFS(scratch, os.DirFS(filepath.Join(root, "test", "feedwitness"))); err != nil {
		return "", err
	}
	inModule := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Dir = scratch
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "CGO_ENABLED=0")
		out, err := cmd.Output()
		if exit, ok := err.(*exec.ExitError); ok {
			err = fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, exit.Stderr)
		}
		return strings.TrimSpace(string(out)), err
	}
	if _, err := inModule("mod", "download", module); err != nil {
		return "", err
	}
	source, err := inModule("list", "-m", "-f", "{{.Dir}}", module)
	if err != nil {
		return "", err
	}
	copied := filepath.Join(scratch, "witness")
	if err := copyWritable(copied, source); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(copied, "omniwitness", "logs.yaml"), []byte(list), 0o600); err != nil {
		return "", err
	}
	if _, err := inModule("mod", "edit", "-replace", module+"="+copied); err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "feedwitness")
	_, err = inModule("build", "-buildvcs=false", "-o", binary, module+"/cmd/feedwitness")
	return binary, err
}

// copyWritable copies a folder of the module cache, which is read-only.
func copyWritable(to, from string) error {
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		return err
	}
	return filepath.WalkDir(to, func(path string, entry os.DirEntry, err error) error {
		if err == nil {
			err = os.Chmod(path, 0o755)
		}
		return err
	})
}
