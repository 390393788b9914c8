package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
	"github.com/youmark/pkcs8"

	"github.com/understudy-log/understudy/mirror/trust"
)

func reviewMust[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

const emptyRoot = `{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`

// ceremonyOf is a repository of our own with signed targets.
type ceremonyOf struct {
	*testing.T

	dir string
}

func newCeremony(t *testing.T) *ceremonyOf {
	c := &ceremonyOf{t, t.TempDir()}
	c.write("pass", "a horse\n")
	c.write("m/trusted_root.json", emptyRoot)
	c.ok("trust", "init", c.file("t"), "--passphrase-file", c.file("pass"))
	c.ok("trust", "sign", c.file("t"), "--material", c.file("m"), "--passphrase-file", c.file("pass"))
	return c
}

func (c *ceremonyOf) file(name string) string { return filepath.Join(c.dir, name) }

func (c *ceremonyOf) write(name, text string) {
	c.Helper()
	if err := os.MkdirAll(filepath.Dir(c.file(name)), 0o755); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(c.file(name), []byte(text), 0o644); err != nil {
		c.Fatal(err)
	}
}

func (c *ceremonyOf) run(args ...string) (string, int) {
	var out bytes.Buffer
	code := run(c.Context(), args, &out, &out)
	return out.String(), code
}

func (c *ceremonyOf) ok(args ...string) string {
	c.Helper()
	out, code := c.run(args...)
	if code != 0 {
		c.Fatalf("%v: %d\n%s", args, code, out)
	}
	return out
}

func (c *ceremonyOf) sign(more ...string) string {
	c.Helper()
	return c.ok(append([]string{"trust", "sign", c.file("t"), "--passphrase-file", c.file("pass")}, more...)...)
}

// TestReviewBlindRoot: who can write to DIR/repository, and has no key, has a root of his signed, by an operator who
// came to sign targets, and was shown nothing of it.
func TestReviewBlindRoot(t *testing.T) {
	c := newCeremony(t)
	data := reviewMust(os.ReadFile(c.file("t/repository/1.root.json")))
	trusted := reviewMust(trustedmetadata.New(data))
	thief := reviewMust(signature.LoadSigner(reviewMust(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), crypto.SHA256))
	root := reviewMust(metadata.Root().FromBytes(data))
	root.Signed.Version = 2
	key := reviewMust(metadata.KeyFromPublicKey(reviewMust(thief.PublicKey())))
	if err := root.Signed.AddKey(key, metadata.TARGETS); err != nil { // beside the operator's own
		t.Fatal(err)
	}
	root.ClearSignatures()
	c.write("t/repository/2.root.json", string(reviewMust(root.ToBytes(true))))
	dry := c.sign("--material", c.file("m"), "--dry-run")
	out, code := c.run("trust", "sign", c.file("t"), "--passphrase-file", c.file("pass"), "--material", c.file("m"))
	t.Logf("--dry-run says %q; sign says %q, %d", dry, out, code)
	if _, err := trusted.UpdateRoot(reviewMust(os.ReadFile(c.file("t/repository/2.root.json")))); err == nil {
		t.Error("clients follow to a root in which the thief has a targets key")
	}
}

// TestReviewRenewalIsBlind: without --material the newest targets are signed again, whoever wrote them; nothing is shown.
func TestReviewRenewalIsBlind(t *testing.T) {
	c := newCeremony(t)
	targets := metadata.Targets(time.Now().AddDate(1, 0, 0))
	targets.Signed.Version = 2
	evil := []byte(strings.Replace(emptyRoot, "}", `, "tlogs": []}`, 1))
	meta := reviewMust(metadata.TargetFile().FromBytes(trust.RootTarget, evil, "sha256"))
	targets.Signed.Targets[trust.RootTarget] = meta
	c.write("t/repository/"+trust.TargetFile(trust.RootTarget, meta.Hashes["sha256"]), string(evil))
	c.write("t/repository/2.targets.json", string(reviewMust(targets.ToBytes(true))))
	out, code := c.run("trust", "sign", c.file("t"), "--passphrase-file", c.file("pass"))
	if code != 2 || !strings.Contains(out, "signed by no targets key") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if _, err := os.Stat(c.file("t/repository/3.targets.json")); err == nil {
		t.Error("targets that nobody had signed are signed")
	}
}

// TestReviewMaterialLinks: material comes from a machine that has a network. What it links to is not published.
func TestReviewMaterialLinks(t *testing.T) {
	c := newCeremony(t)
	if err := os.Symlink("../t/keys/online.passphrase", c.file("m/rekor.pub")); err != nil {
		t.Fatal(err)
	}
	out, code := c.run("trust", "sign", c.file("t"), "--passphrase-file", c.file("pass"), "--material", c.file("m"))
	if code == 0 {
		secret := reviewMust(os.ReadFile(c.file("t/keys/online.passphrase")))
		for _, name := range reviewMust(filepath.Glob(c.file("t/repository/targets/*"))) {
			if bytes.Equal(secret, reviewMust(os.ReadFile(name))) {
				t.Errorf("the passphrase of the online keys is in the repository: %s\n%s", filepath.Base(name), out)
			}
		}
	}
}

// TestReviewSigningConfigIsRead: as the TrustedRoot is.
func TestReviewSigningConfigIsRead(t *testing.T) {
	c := newCeremony(t)
	c.write("m/signing_config.json", "junk")
	if out, code := c.run("trust", "sign", c.file("t"), "--passphrase-file", c.file("pass"), "--material", c.file("m")); code == 0 {
		t.Errorf("a SigningConfig that nobody can read is signed: %s", out)
	}
}

// TestReviewChangesAreTold: what is signed is what the operator saw: authorities, keys, where signers are sent.
func TestReviewChangesAreTold(t *testing.T) {
	spki := func() string {
		k := reviewMust(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
		return base64.StdEncoding.EncodeToString(spkiOf(k))
	}
	log := func(key string) string {
		return fmt.Sprintf(`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "tlogs": [{"baseUrl": "https://log.example.com", "hashAlgorithm": "SHA2_256",
			"publicKey": {"rawBytes": %q, "keyDetails": "PKIX_ECDSA_P256_SHA_256", "validFor": {"start": "2026-01-01T00:00:00Z"}}, "logId": {"keyId": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}}]}`, key)
	}
	signing := func(url string) string {
		return fmt.Sprintf(`{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "caUrls": [{"url": %q}]}`, url)
	}
	var genuine struct {
		CertificateAuthorities []json.RawMessage `json:"certificateAuthorities"`
	}
	if err := json.Unmarshal(reviewMust(os.ReadFile("../../../shared/data/trusted-roots/production/2025-09-22-c9bda74a-trusted_root.json")), &genuine); err != nil {
		t.Skip(err)
	}
	authority := func(i int) string {
		return fmt.Sprintf(`{"mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1", "certificateAuthorities": [%s]}`, genuine.CertificateAuthorities[i])
	}
	for name, test := range map[string]struct{ file, had, has string }{
		"the key of a log, under the same ID": {trust.RootTarget, log(spki()), log(spki())},
		"a certificate authority":             {trust.RootTarget, authority(0), authority(1)},
		"where certificates are had":          {trust.SigningTarget, signing("https://fulcio.example.com"), signing("https://evil.example.com")},
	} {
		var out strings.Builder
		tellChanges(&out, map[string][]byte{test.file: []byte(test.had)}, map[string][]byte{test.file: []byte(test.has)})
		if strings.Count(out.String(), "\n") < 2 {
			t.Errorf("%s: all that is told is %q", name, out.String())
		}
	}
}

func spkiOf(k *ecdsa.PrivateKey) []byte {
	block, _ := pem.Decode(reviewMust(marshalPublic(k)))
	return block.Bytes
}

func marshalPublic(k *ecdsa.PrivateKey) ([]byte, error) {
	s, err := signature.LoadSigner(k, crypto.SHA256)
	if err != nil {
		return nil, err
	}
	key, err := metadata.KeyFromPublicKey(reviewMust(s.PublicKey()))
	if err != nil {
		return nil, err
	}
	return []byte(key.Value.PublicKey), nil
}

// TestReviewNamesInTheTerminal: a name cannot hide another line.
func TestReviewNamesInTheTerminal(t *testing.T) {
	c := newCeremony(t)
	c.write("m/history/x\x1b[1A\x1b[2K.json", "{}")
	if out, _ := c.run("trust", "sign", c.file("t"), "--passphrase-file", c.file("pass"), "--material", c.file("m"), "--dry-run"); strings.Contains(out, "\x1b") {
		t.Errorf("%q", out)
	}
}

// TestReviewNothingSignedIsNotSuccess: exit code 0 is "signed".
func TestReviewNothingSignedIsNotSuccess(t *testing.T) {
	c := newCeremony(t)
	c.write("pass2", "another\n")
	c.ok("trust", "init", c.file("other"), "--passphrase-file", c.file("pass"))
	c.ok("trust", "rotate", c.file("t"), "root", "--new-key", c.file("other/keys/root-1.pem.pub"), "--passphrase-file", c.file("pass"))
	if out, code := c.run("trust", "sign", c.file("t"), "--key", c.file("other/keys/targets.pem"), "--passphrase-file", c.file("pass")); code == 0 {
		t.Errorf("with a wrong key nothing is signed, and it ends with 0: %s", out)
	}
}

// TestReviewInitAgain: what a mistake has left does not stand in the way.
func TestReviewInitAgain(t *testing.T) {
	c := &ceremonyOf{t, t.TempDir()}
	c.write("pass", "a horse\n")
	if out, code := c.run("trust", "init", c.file("t"), "--root-threshold", "2", "--passphrase-file", c.file("pass")); code != 2 {
		t.Fatal(out)
	}
	if out, code := c.run("trust", "init", c.file("t"), "--passphrase-file", c.file("pass")); code != 0 {
		t.Errorf("once more, without the mistake: %s", out)
	}
	if out, code := c.run("trust", "rotate", c.file("t"), "../../elsewhere", "--passphrase-file", c.file("pass")); code == 0 {
		t.Error(out)
	} else if _, err := os.Stat(c.file("elsewhere-2.pem")); err == nil {
		t.Error("a key was made outside of DIR for a role that is none")
	}
}

// TestReviewStaleExport: what an earlier export left is not taken for part of this one.
func TestReviewStaleExport(t *testing.T) {
	dir := t.TempDir()
	first := &exported{root: []byte(emptyRoot), signing: map[string][]byte{"signing_config_v9.v0.2.json": []byte("{}")}, keys: map[string][]byte{"rekor.pub": []byte("withdrawn since")}, name: "x"}
	second := &exported{root: []byte(emptyRoot), name: "x"}
	for _, e := range []*exported{first, second} {
		if err := e.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	files := reviewMust(readMaterial(dir))
	for _, name := range []string{"rekor.pub", "signing_config_v9.v0.2.json"} {
		if files[name] != nil {
			t.Errorf("%s is not in what was exported, and would be signed", name)
		}
	}
}

// TestReviewExportIsWhole: a client that reads while it is written, or a crash, sees the old or the new file.
func TestReviewExportIsWhole(t *testing.T) {
	dir := t.TempDir()
	big := []byte(strings.Replace(emptyRoot, "}", strings.Repeat(" ", 4<<20)+"}", 1))
	e := &exported{root: big, name: "x"}
	if err := e.write(dir); err != nil {
		t.Fatal(err)
	}
	stop, torn := make(chan bool), 0
	done := make(chan bool)
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				if data, err := os.ReadFile(filepath.Join(dir, trust.RootTarget)); err == nil && len(data) != len(big) {
					torn++
				}
			}
		}
	}()
	for range 10 {
		if err := e.write(dir); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	if torn > 0 {
		t.Errorf("half a trusted_root.json was read %d times", torn)
	}
}

// TestReviewCosignEnvironment: an address is an address, also for a shell.
func TestReviewCosignEnvironment(t *testing.T) {
	at := "http://mirror.example.com/it's/trust"
	if !isLogURL(at) {
		t.Fatal("it is no address")
	}
	e := &exported{root: []byte(emptyRoot), url: at, tufRoot: []byte("{}"), name: "x"}
	name := filepath.Join(t.TempDir(), "cosign.env")
	if err := os.WriteFile(name, reviewMust(e.cosign(t.TempDir())), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sh", "-c", `. "$0" && echo "$TUF_MIRROR"`, name).CombinedOutput()
	if strings.TrimSpace(string(out)) != at {
		t.Errorf("a shell gets %q, %v", out, err)
	}
}

// TestReviewWhereClientsBegin: an address to listen on is not one to ask.
func TestReviewWhereClientsBegin(t *testing.T) {
	for listen, says := range map[string]string{"0.0.0.0:8080": "--url", ":8080": "--url", "[::]:8080": "--url", "127.0.0.1:8080": "this machine", "localhost:8080": "this machine", "mirror.example.com:8080": ""} {
		c := &Config{TUF: &TUFConfig{}, Listen: Listen{HTTP: listen}}
		var notes strings.Builder
		_, at, err := c.whereClientsBegin("", &notes)
		if says == "--url" && err == nil || says == "this machine" && !strings.Contains(notes.String(), says) || says == "" && (err != nil || notes.Len() > 0 || at != "http://mirror.example.com:8080/tuf") {
			t.Errorf("%s: clients are sent to %q, %v, %q", listen, at, err, notes.String())
		}
	}
}

// TestReviewExportAsOf: a time that cannot be honoured is not ignored.
func TestReviewExportAsOf(t *testing.T) {
	dir := t.TempDir()
	c := &ceremonyOf{t, dir}
	c.write("root.json", emptyRoot)
	c.write("c.yaml", "logs: [{name: x, url: https://log.example.com, origin: log.example.com}]\n")
	for _, asOf := range []string{"tomorrow-ish", "2020-01-01"} {
		if out, code := c.run("trust", "export", c.file("out"), "--trusted-root", c.file("root.json"), "--as-of", asOf, "--config", c.file("c.yaml")); code == 0 {
			t.Errorf("--as-of %s: %q", asOf, out)
		}
	}
}

// TestReviewAllVariants: Sigstore publishes two SigningConfigs, of v1 and of v1 and v2. Logging in two logs is
// possible with one of them.
func TestReviewAllVariants(t *testing.T) {
	const at = "../../../shared/data/trusted-roots/production/"
	v1, err := os.ReadFile(at + "2025-07-07-aa440a9b-signing_config.v0.2.json")
	if err != nil {
		t.Skip(err)
	}
	ours := filepath.Join(t.TempDir(), "ours.json")
	if err := os.WriteFile(ours, []byte(`{"mediaType": "application/vnd.dev.sigstore.signingconfig.v0.2+json", "rekorTlogUrls": [{"url": "https://us", "majorApiVersion": 2, "operator": "us", "validFor": {"start": "2025-01-01T00:00:00Z"}}], "rekorTlogConfig": {"selector": "ANY"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	e := &exported{root: []byte(emptyRoot), signing: map[string][]byte{trust.SigningTarget: v1, "signing_config_rekor_v2.v0.2.json": reviewMust(os.ReadFile(at + "2026-05-11-110f9879-signing_config_rekor_v2.v0.2.json"))}}
	var notes strings.Builder
	if err := (&exportOptions{ownSigning: ours}).signers(e, trust.SigningAlways, &notes); err != nil {
		t.Errorf("nothing is exported: %v", err)
	}
}

// TestReviewDamagedKey: a key file that is damaged is an error.
func TestReviewDamagedKey(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key.pem")
	der := reviewMust(pkcs8.MarshalPrivateKey(reviewMust(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), []byte("x"), &pkcs8.Opts{Cipher: pkcs8.AES256CBC, KDFOpts: keyCost}))
	type algorithm struct {
		OID    asn1.ObjectIdentifier
		Params asn1.RawValue
	}
	var outer struct {
		Algorithm algorithm
		Data      []byte
	}
	reviewMust(asn1.Unmarshal(der, &outer))
	outer.Data = outer.Data[:len(outer.Data)-1] // cut off
	der = reviewMust(asn1.Marshal(outer))
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: pemEncrypted, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	pass := filepath.Join(filepath.Dir(file), "pass")
	if err := os.WriteFile(pass, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			t.Errorf("it ends the daemon: %v", p)
		}
	}()
	_, err := openSigner(t.Context(), file, passphrases{pass})
	t.Log(err)
}

// TestReviewNamesOfAuthorities: policy-controller refuses an authority without organization and common name
// (v0.15.1, pkg/apis/policy/v1alpha1/trustroot_validation.go, ValidateDistinguishedName), or without a URI.
func TestReviewNamesOfAuthorities(t *testing.T) {
	var genuine map[string]any
	if err := json.Unmarshal(reviewMust(os.ReadFile("../../../shared/data/trusted-roots/production/2025-09-22-c9bda74a-trusted_root.json")), &genuine); err != nil {
		t.Skip(err)
	}
	for _, a := range genuine["certificateAuthorities"].([]any) {
		delete(a.(map[string]any), "subject") // nothing demands it, and verifiers take it
		delete(a.(map[string]any), "uri")
	}
	data := reviewMust(json.Marshal(genuine))
	if _, err := trust.ParseRoot(data); err != nil {
		t.Skip(err)
	}
	e := &exported{root: data, name: "x"}
	text, err := e.policyController()
	if err == nil && (bytes.Contains(text, []byte(`organization: ""`)) || bytes.Contains(text, []byte(`uri: ""`))) {
		t.Error("a TrustRoot is written that policy-controller refuses")
	}
	// and none at all
	text, err = (&exported{root: []byte(emptyRoot), name: "x"}).policyController()
	if err == nil {
		t.Errorf("policy-controller refuses a TrustRoot without authorities:\n%s", text)
	}
}

// TestReviewPassphraseWasMoved: online.passphrase was brought to the daemon, as init says, and is not here any more. A new
// one is made without a word, and the daemon, which has one for both keys, can open only one of them.
func TestReviewPassphraseWasMoved(t *testing.T) {
	c := newCeremony(t)
	old := c.file("daemon.passphrase")
	if err := os.Rename(c.file("t/keys/online.passphrase"), old); err != nil {
		t.Fatal(err)
	}
	out, code := c.run("trust", "rotate", c.file("t"), "timestamp", "--passphrase-file", c.file("pass"))
	if code != 0 {
		return
	}
	for _, pass := range []string{old, c.file("t/keys/online.passphrase")} {
		_, err := openSigner(t.Context(), c.file("t/keys/snapshot.pem"), passphrases{pass})
		_, err2 := openSigner(t.Context(), c.file("t/keys/timestamp-2.pem"), passphrases{pass})
		if err == nil && err2 == nil {
			return
		}
	}
	t.Errorf("no passphrase opens both keys; it said only\n%s", out)
}
