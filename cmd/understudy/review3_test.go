package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReview3OneMoreSignature: a holder who signs the first root, when it has enough already, does not lock the others out.
func TestReview3OneMoreSignature(t *testing.T) {
	c := newCeremony(t)
	c.ok("trust", "init", c.file("bob"), "--passphrase-file", c.file("pass"))
	c.ok("trust", "init", c.file("alice"), "--passphrase-file", c.file("pass"))
	c.ok("trust", "init", c.file("ours"), "--root-key", c.file("alice/keys/root-1.pem"), "--root-key", c.file("bob/keys/root-1.pem.pub"), "--passphrase-file", c.file("pass"))
	c.ok("trust", "sign", c.file("ours"), "--root", "--key", c.file("bob/keys/root-1.pem"), "--passphrase-file", c.file("pass"))
	if out, code := c.run("trust", "sign", c.file("ours"), "--material", c.file("m"), "--passphrase-file", c.file("pass")); code != 0 {
		t.Errorf("nothing can be signed any more: %s", out)
	}
}

// TestReview3KeyFiles: what opens keys is its owner's alone, and is another one each time.
func TestReview3KeyFiles(t *testing.T) {
	c := newCeremony(t)
	c.ok("trust", "init", c.file("other"), "--passphrase-file", c.file("pass"))
	for _, name := range reviewMust(filepath.Glob(c.file("t/keys/*"))) {
		secret := strings.HasSuffix(name, ".pem") || strings.HasSuffix(name, "passphrase")
		if mode := reviewMust(os.Stat(name)).Mode().Perm(); secret && mode != 0o600 {
			t.Errorf("%s has the mode %v", name, mode)
		}
		other := strings.Replace(name, "/t/keys/", "/other/keys/", 1)
		if bytes.Equal(reviewMust(os.ReadFile(name)), reviewMust(os.ReadFile(other))) {
			t.Errorf("%s is the same in two repositories", name)
		}
	}
	if mode := reviewMust(os.Stat(c.file("t/keys"))).Mode().Perm(); mode != 0o700 {
		t.Errorf("the keys are in a directory of mode %v", mode)
	}
}
