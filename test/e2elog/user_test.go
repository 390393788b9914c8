package e2elog

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/tools/tool"
)

// user runs clients in a home folder of its own. Files are named as seen from there.
type user struct {
	*testing.T
	home string
	env  []string // more environment
}

func newUser(t *testing.T) *user {
	u := &user{T: t, home: t.TempDir()}
	u.write("artifact", fmt.Appendf(nil, "an artifact of %s at %s", t.Name(), time.Now()))
	return u
}

func (u *user) file(name string) string { return filepath.Join(u.home, name) }

func (u *user) write(name string, content []byte) string {
	u.Helper()
	return save(u.T, u.file(name), content)
}

// run runs a pinned program and returns what it printed. It sees the user's home, no other setting
// of this machine, and no way to the internet.
func (u *user) run(program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(u.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, must(tool.Path(ctx, program)), args...)
	cmd.Dir = u.home
	cmd.Env = append([]string{
		"HOME=" + u.home,
		"XDG_CONFIG_HOME=" + u.file("config"),
		"XDG_CACHE_HOME=" + u.file("cache"),
		"TUF_ROOT=" + u.file("tuf"),
		"TMPDIR=" + u.home,
		"COSIGN_PASSWORD=",
		"HTTP_PROXY=" + names.URL, "HTTPS_PROXY=" + names.URL,
	}, u.env...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("%s %v: %w\n%s%s", program, args, err, out, exit.Stderr)
	}
	return string(out), err
}

// must runs a program that has to succeed.
func (u *user) must(program string, args ...string) string {
	u.Helper()
	out, err := u.run(program, args...)
	if err != nil {
		u.Fatal(err)
	}
	return out
}

// fails checks that something failed and said why.
func (u *user) fails(what string, err error, why string) {
	u.Helper()
	switch {
	case err == nil:
		u.Errorf("%s: it succeeded", what)
	case !strings.Contains(err.Error(), why):
		u.Errorf("%s: it failed, as it must, but not with %q: %v", what, why, err)
	}
}

// keys makes a key pair, unless there is one: cosign.key and cosign.pub.
func (u *user) keys() {
	u.Helper()
	if _, err := os.Stat(u.file("cosign.key")); err != nil {
		u.must("cosign", "generate-key-pair")
	}
}
