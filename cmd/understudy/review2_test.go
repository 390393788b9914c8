package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// genuineRoot is one that Sigstore has published.
func genuineRoot(t *testing.T) []byte {
	data, err := os.ReadFile("../../../shared/data/trusted-roots/production/2025-09-22-c9bda74a-trusted_root.json")
	if err != nil {
		t.Skip(err)
	}
	return data
}

// TestReview2ECDSATargetFollows: the TrustedRoot for policy-controller is what is made of the other one, whatever
// stands in its place.
func TestReview2ECDSATargetFollows(t *testing.T) {
	c := newCeremony(t)
	c.write("m/trusted_root.ecdsa.json", string(genuineRoot(t))) // while trusted_root.json is empty
	c.sign("--material", c.file("m"))
	names := reviewMust(filepath.Glob(c.file("t/repository/targets/*.trusted_root.ecdsa.json")))
	if len(names) != 1 || string(reviewMust(os.ReadFile(names[0]))) != emptyRoot {
		t.Errorf("policy-controller trusts something else: %q", names)
	}
}

// TestReview2AddressesInTheTerminal: an address cannot hide a line from who looks before signing.
func TestReview2AddressesInTheTerminal(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(genuineRoot(t), &root); err != nil {
		t.Fatal(err)
	}
	root["certificateAuthorities"].([]any)[0].(map[string]any)["uri"] = "https://evil.example\x1b[2K\x1b[1A"
	c := newCeremony(t)
	data, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	c.write("m/trusted_root.json", string(data))
	c.write("m/signing_config.json", `{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": [{"url": "https://evil.example\u001b[2K\r", "operator": "x"}]}`)
	if out, _ := c.run("trust", "sign", c.file("t"), "--material", c.file("m"), "--dry-run"); strings.Contains(out, "\x1b") {
		t.Errorf("the terminal is given %d escapes", strings.Count(out, "\x1b"))
	}
}

// TestReview2KeysThatWereThere: a key that was not made now is said to be used.
func TestReview2KeysThatWereThere(t *testing.T) {
	c := newCeremony(t)
	c.ok("trust", "init", c.file("other"), "--passphrase-file", c.file("pass"))
	for _, name := range []string{"targets.pem", "targets.pem.pub"} { // somebody has begun with a copy of the directory
		data, err := os.ReadFile(c.file("other/keys/" + name))
		if err != nil {
			t.Fatal(err)
		}
		c.write("third/keys/"+name, string(data))
	}
	if out := c.ok("trust", "init", c.file("third"), "--passphrase-file", c.file("pass")); !strings.Contains(out, "targets.pem") {
		t.Errorf("the targets key is that of another repository, and what that one signs is good here: %q", out)
	}
	// a public key in its place needs no passphrase
	c.write("fourth/keys/root-1.pem", string(reviewMust(os.ReadFile(c.file("other/keys/root-1.pem.pub")))))
	if out, code := c.run("trust", "init", c.file("fourth"), "--passphrase-file", c.file("pass")); code == 0 && !strings.Contains(out, "root-1.pem") {
		t.Errorf("the root key is somebody's who has put it there: %q", out)
	}
}

// TestReview2StaleListLeadsOut: what an export takes away is in its directory.
func TestReview2StaleListLeadsOut(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	victim := filepath.Join(elsewhere, "precious")
	if err := os.WriteFile(victim, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, "history")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, exportedFile), []byte("history/precious\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (&exported{root: []byte(emptyRoot), name: "x"}).write(dir); err != nil {
		t.Log(err)
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error("a file outside of the directory is gone")
	}
}

// TestReview2RotateLeavesNoKeys: a rotation that is refused makes no keys.
func TestReview2RotateLeavesNoKeys(t *testing.T) {
	c := newCeremony(t)
	before := reviewMust(filepath.Glob(c.file("t/keys/*")))
	for _, args := range [][]string{{"timestamp", "--make", "2"}, {"root", "--threshold", "2"}, {"timestamp", "--make", "0"}} {
		out, code := c.run(append([]string{"trust", "rotate", c.file("t"), "--passphrase-file", c.file("pass")}, args...)...)
		if code == 0 {
			t.Errorf("%v: %s", args, out)
		}
	}
	if after := reviewMust(filepath.Glob(c.file("t/keys/*"))); len(after) != len(before) {
		t.Errorf("%d files of keys, %d before", len(after), len(before))
	}
}

// TestReview2AnotherFirstRoot: nothing is signed under a first root that is another one than was made here.
func TestReview2AnotherFirstRoot(t *testing.T) {
	c := newCeremony(t)
	c.ok("trust", "init", c.file("other"), "--passphrase-file", c.file("pass"))
	c.write("t/repository/1.root.json", string(reviewMust(os.ReadFile(c.file("other/repository/1.root.json")))))
	for _, args := range [][]string{{"sign"}, {"sign", "--root"}, {"rotate", "timestamp"}} {
		args = append([]string{"trust", args[0], c.file("t")}, args[1:]...)
		if out, code := c.run(append(args, "--passphrase-file", c.file("pass"))...); code != 2 || !strings.Contains(out, "another one than was made here") {
			t.Errorf("%v: %d, %s", args, code, out)
		}
	}
}
