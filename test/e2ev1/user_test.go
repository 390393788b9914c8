package e2ev1

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/tools/tool"
)

// user runs clients against one address, with a home folder of its own.
type user struct {
	*world
	url    string // of the Rekor v1 API, without a path
	home   string
	mirror *mirror // which has that address, and no Rekor any more; nil: Rekor has it
}

func (w *world) user(url string) *user { return &user{world: w, url: url, home: w.TempDir()} }

// step is something that a user does. Its result is what may not depend on who answers.
type step struct {
	name string
	run  func(u *user) (result string, err error)

	why     string // a part of the error with which it must fail at Rekor; empty: it must succeed
	unknown bool   // it fails because Rekor knows that there is no such thing; a mirror alone does not
	unread  bool   // it succeeds with what no user of a mirror has ever asked for
}

// fails returns the step as one that must fail, whoever answers.
func fails(s step, why string) step {
	s.why = why
	return s
}

// unknown returns the step as one that must fail at Rekor for a lack of something.
func unknown(s step, why string) step {
	s.why, s.unknown = why, true
	return s
}

// unavailable is what clients say of a mirror that does not know: the status, or that they
// gave up asking again.
var unavailable = regexp.MustCompile(`\b503\b|giving up after`)

// nothingFound is what rekor-cli says of a search without a result.
const nothingFound = "no matching entries found"

// expects returns what the error of a step must match; nil is for none.
func (u *user) expects(s step) *regexp.Regexp {
	if u.mirror != nil && (s.unknown || s.unread && !u.mirror.full) {
		return unavailable
	}
	if s.why == "" {
		return nil
	}
	return regexp.MustCompile(regexp.QuoteMeta(s.why))
}

// results is the result of each step by its name; one that failed as it must has none.
type results map[string]string

// do takes all steps and reports those that went wrong.
func (u *user) do(steps []step) results {
	u.Helper()
	took := make(results)
	for _, s := range steps {
		u.Run(s.name, func(t *testing.T) {
			result, err := s.run(u)
			switch want := u.expects(s); {
			case want == nil && err != nil:
				t.Error(err)
			case want == nil:
				took[s.name] = result
			case err == nil:
				t.Errorf("succeeded, and must fail with %q:\n%s", want, result)
			case !want.MatchString(err.Error()):
				t.Errorf("failed, as it must, but not with %q: %v", want, err)
			}
		})
	}
	return took
}

// same reports each result that is not what another user got, of those that both have.
func (u *user) same(got, want results) {
	u.Helper()
	both := 0
	for name, result := range got {
		if other, found := want[name]; found {
			if both++; result != other {
				u.Errorf("%s: got\n%s\nwant\n%s", name, result, other)
			}
		}
	}
	if both < 100 {
		u.Errorf("only %d results could be compared", both)
	}
}

// command runs a pinned program and returns what it printed. It sees the user's home, no
// other setting of this machine, and no way to the internet. more is environment, too.
func (u *user) command(program string, more []string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(u.Context(), 30*time.Second)
	defer cancel()
	binary, err := tool.Path(ctx, program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = u.home
	cmd.Env = append([]string{
		"HOME=" + u.home,
		"XDG_CONFIG_HOME=" + filepath.Join(u.home, "config"),
		"XDG_CACHE_HOME=" + filepath.Join(u.home, "cache"),
		"TUF_ROOT=" + filepath.Join(u.home, "tuf"),
		"TMPDIR=" + u.home,
		// Go's clients never ask a proxy for loopback.
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1",
	}, more...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("%s %v: %w\n%s%s", program, args, err, out, exit.Stderr)
	}
	return string(out), err
}

// The log signs its checkpoints and entries anew for each answer. What is left says the same
// in each. The signature is the first group.
var (
	noteSignature = regexp.MustCompile(`— \S+ ([A-Za-z0-9+/=]+)`)
	setMember     = regexp.MustCompile(`"signedEntryTimestamp": ?"([^"]*)"`)
)

// unsigned cuts out of an answer the signatures that are made for it. Those that a mirror
// gives must be the log's own.
func (u *user) unsigned(answer string) (string, error) {
	for _, form := range []*regexp.Regexp{noteSignature, setMember} {
		for _, match := range form.FindAllStringSubmatch(answer, -1) {
			if u.mirror != nil && !u.mirror.relay.gave(match[1]) {
				return "", fmt.Errorf("the signature %s never came from Rekor", match[1])
			}
			answer = strings.Replace(answer, match[1], "...", 1)
		}
	}
	return answer, nil
}

// base64Of encodes as rekor and cosign do.
func base64Of(data []byte) string { return base64.StdEncoding.EncodeToString(data) }
