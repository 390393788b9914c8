package e2elog

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/test/tools/tool"
)

// verdict is what a verifier says of a pack.
type verdict struct {
	verifier, says string
	err            error
}

// audit has both verifiers look at a pack, offline, with the TrustedRoot that the log's users have and the
// key of the archive: understudy's, and the one that was written from the format alone.
func (d *daemon) audit(pack, trustedRoot, archiveKey string) []verdict {
	d.Helper()
	args := []string{pack, "--trusted-root", trustedRoot, "--key", archiveKey}
	ours, oursErr := d.try(append([]string{"archive", "verify"}, args...)...)
	script := filepath.Join(must(tool.Root()), "test", "evidence", "verify.py")
	theirs, err := exec.CommandContext(d.Context(), "python3", append([]string{"-B", script}, args...)...).CombinedOutput()
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || exit.ExitCode() == 2) {
		d.Fatalf("the second verifier: %v (Debian: python3-cryptography)\n%s", err, theirs)
	} else if err != nil {
		err = fmt.Errorf("%w\n%s", err, theirs)
	}
	return []verdict{{"understudy archive verify", ours, oursErr}, {"verify.py", string(theirs), err}}
}

// taken checks that both take a pack, and what they say of it.
func (d *daemon) taken(pack, trustedRoot, archiveKey string, says ...string) {
	d.Helper()
	for _, v := range d.audit(pack, trustedRoot, archiveKey) {
		if v.err != nil {
			d.Errorf("%s of %s: %v", v.verifier, pack, v.err)
		}
		for _, text := range says {
			if !strings.Contains(v.says, text) {
				d.Errorf("%s of %s: no %q in\n%s", v.verifier, pack, text, v.says)
			}
		}
	}
}

// filesOf returns where the content of each file of a pack begins, and how long it is.
func filesOf(t *testing.T, pack []byte) map[string][2]int64 {
	t.Helper()
	files := map[string][2]int64{}
	r := bytes.NewReader(pack)
	for archive := tar.NewReader(r); ; {
		header, err := archive.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = [2]int64{int64(len(pack)) - int64(r.Len()), header.Size}
	}
}

// TestEvidence: an evidence pack has the checkpoints of both generations, and the entries that are wanted,
// with their promises and proofs; both verifiers take it with the TrustedRoot of the log, name what was
// changed in it, and do not take it for a log of somebody else.
func TestEvidence(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	archiveKey := ""
	d := newUnderstudy(t, settings{more: func(d *daemon) string {
		archiveKey = strings.TrimSpace(must(d.try("keys", "generate", "--archive", "--name", "archive.us.test/a1", "--output", "archive.key")))
		return `archive:
  key: archive.key
  entries:
    - {indexes: 0-1, log: private log v1}
    - {indexes: 1-2, log: private log v2}
`
	}})
	s := d.stage()
	for range 3 {
		for name, p := range s.proposals(t) {
			p.logged(t, name)
		}
	}
	export := func() string {
		return strings.TrimSpace(d.command("archive", "export", "--now", "--output", filepath.Join(d.dir, "for-the-auditor")))
	}
	pack := export()
	d.taken(pack, s.trustedRoot, archiveKey, "4 entries")
	content := must(os.ReadFile(pack))
	files := filesOf(t, content)
	dir := t.TempDir()
	// A byte in the middle of a file of each kind: those of one differ in digits.
	kinds := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		kinds[regexp.MustCompile(`[0-9]+`).ReplaceAllString(strings.ReplaceAll(name, "private-log-v", "private log v"), "N")] = name
	}
	for _, name := range slices.Sorted(maps.Values(kinds)) {
		if files[name][1] == 0 {
			continue
		}
		changed := bytes.Clone(content)
		changed[files[name][0]+files[name][1]/2] ^= 1
		for _, v := range d.audit(save(t, filepath.Join(dir, filepath.Base(pack)), changed), s.trustedRoot, archiveKey) {
			d.fails(v.verifier+", a byte of "+name, v.err, strings.TrimSuffix(strings.TrimSuffix(name, ".json"), ".note"))
		}
	}
	if len(kinds) < 8 {
		t.Errorf("the pack has only %v", slices.Sorted(maps.Keys(files)))
	}
	// Another log under the same names.
	other := newUnderstudy(t, settings{}).stage()
	root := bytes.ReplaceAll(must(os.ReadFile(other.trustedRoot)), []byte(other.origin()), []byte(s.origin()))
	for _, v := range d.audit(pack, save(t, filepath.Join(dir, "root.json"), root), archiveKey) {
		d.fails(v.verifier+", the keys of another log", v.err, "size-3.txt")
	}
	// The next pack goes on from there.
	for name, p := range s.proposals(t) {
		p.logged(t, name)
	}
	d.taken(export(), s.trustedRoot, archiveKey, "evidence-000002-", "4 entries")
}

// fails checks that something failed and said why.
func (d *daemon) fails(what string, err error, why string) {
	d.Helper()
	(&user{T: d.T}).fails(what, err, why)
}
