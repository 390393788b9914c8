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

// TestReview3RootKeyIsLost: of three holders one has lost a key. The two others make a root with another one in its place;
// what does not fit is refused before a key is made.
func TestReview3RootKeyIsLost(t *testing.T) {
	c := &ceremonyOf{t, t.TempDir()}
	c.write("pass", "a horse\n")
	c.ok("trust", "init", c.file("t"), "--root-keys", "3", "--root-threshold", "2", "--passphrase-file", c.file("pass"))
	before := len(reviewMust(filepath.Glob(c.file("t/keys/*"))))
	if out, code := c.run("trust", "rotate", c.file("t"), "root", "--passphrase-file", c.file("pass")); code != 2 || !strings.Contains(out, "names every key that it is to have") {
		t.Errorf("one key for a threshold of two: %d, %s", code, out)
	}
	if after := len(reviewMust(filepath.Glob(c.file("t/keys/*")))); after != before {
		t.Errorf("%d files of keys, %d before", after, before)
	}
	for _, name := range []string{"root-2.pem", "root-2.pem.pub"} {
		if err := os.Remove(c.file("t/keys/" + name)); err != nil {
			t.Fatal(err)
		}
	}
	out := c.ok("trust", "rotate", c.file("t"), "root", "--new-key", c.file("t/keys/root-1.pem"), "--new-key", c.file("t/keys/root-3.pem"), "--make", "1", "--passphrase-file", c.file("pass"))
	if strings.Count(out, "key of root: ") != 3 || strings.Contains(out, "lacks") {
		t.Errorf("three keys, and all signatures: %s", out)
	}
	c.ok("trust", "rotate", c.file("t"), "root", "--renew", "--passphrase-file", c.file("pass"))
}

// TestReview3FullDisk: what a disk that fills up leaves is not in the way of the next try.
func TestReview3FullDisk(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.pem")
	if err := os.Mkdir(file+".pub", 0o755); err != nil { // the second of the two files cannot be written
		t.Fatal(err)
	}
	pass := filepath.Join(t.TempDir(), "pass")
	if err := os.WriteFile(pass, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := makeKey(file, passphrases{pass}); err == nil {
		t.Error("a key without its public key is made")
	}
	if _, err := os.Stat(file); err == nil {
		t.Error("the key is there, without its public key")
	}
}
