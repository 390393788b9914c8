package outagestage

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"github.com/understudy-log/understudy/test/authority"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// User runs clients in a home folder of its own. Files are named as seen from there.
type User struct{ Home string }

// NewUser makes somebody who has never run a client.
func (s *Stage) NewUser() (*User, error) {
	s.homes++
	home, err := folder(s.config.Dir, fmt.Sprintf("home%d", s.homes))
	return &User{home}, err
}

// File returns the full name of a file.
func (u *User) File(name string) string { return filepath.Join(u.Home, name) }

// Write writes a file.
func (u *User) Write(name string, content []byte) error {
	return os.WriteFile(u.File(name), content, 0o600)
}

// Run runs a pinned program and returns what it printed. It sees the user's home, no other setting of this
// machine, and no way to the internet.
func (u *User) Run(ctx context.Context, program string, args ...string) (string, error) {
	return u.runWith(ctx, nil, program, args...)
}

// runWith runs a program with more environment.
func (u *User) runWith(ctx context.Context, env []string, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	binary, err := tool.Path(ctx, program)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Dir = u.Home
	cmd.Env = append([]string{
		"HOME=" + u.Home,
		"XDG_CONFIG_HOME=" + u.File("config"),
		"XDG_CACHE_HOME=" + u.File("cache"),
		"TUF_ROOT=" + u.File("tuf"),
		"TMPDIR=" + u.Home,
		"COSIGN_PASSWORD=",
		// Go's clients never ask a proxy for loopback.
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1",
	}, env...)
	out, err := cmd.Output()
	if exit := new(exec.ExitError); errors.As(err, &exit) {
		return "", fmt.Errorf("%s %v: %w\n%s%s", program, args, err, out, exit.Stderr)
	}
	return string(out), err
}

// identified are cosign's flags for what rekor.Identity has signed; no certificate log is in play.
var identified = []string{"--certificate-identity=" + rekor.Identity, "--certificate-oidc-issuer=" + rekor.Issuer, "--insecure-ignore-sct"}

// Initialize has cosign begin at a TUF repository, with a root that the user trusts.
func (u *User) Initialize(ctx context.Context, url, rootFile string) error {
	_, err := u.Run(ctx, "cosign", "initialize", "--mirror="+url, "--root="+rootFile)
	return err
}

// Certify makes a key pair, unless there is one, and has the authority certify an identity for it.
func (u *User) Certify(ctx context.Context, ca *authority.Authority, identity string) error {
	if _, err := os.Stat(u.File("cosign.key")); err != nil {
		if _, err := u.Run(ctx, "cosign", "generate-key-pair"); err != nil {
			return err
		}
	}
	text, err := os.ReadFile(u.File("cosign.pub"))
	if err != nil {
		return err
	}
	key, err := cryptoutils.UnmarshalPEMToPublicKey(text)
	if err != nil {
		return err
	}
	der, err := ca.Issue(key, identity)
	if err != nil {
		return err
	}
	return u.Write("certificate.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// Sign has cosign sign a file with the certified key, where the TUF repository tells it to, and write
// a bundle.
func (u *User) Sign(ctx context.Context, artifact, bundle string) error {
	_, err := u.Run(ctx, "cosign", "sign-blob", "--yes", "--bundle="+bundle, "--key=cosign.key", "--certificate=certificate.pem", artifact)
	return err
}

// Digest returns the SHA-256 of a file in hex.
func (u *User) Digest(name string) string {
	content, err := os.ReadFile(u.File(name))
	if err != nil {
		return err.Error()
	}
	return digestHex(content)
}

// Verify has cosign verify a bundle of rekor.Identity by the TUF repository.
func (u *User) Verify(ctx context.Context, artifact, bundle string) error {
	_, err := u.Run(ctx, "cosign", append([]string{"verify-blob", "--bundle=" + bundle, artifact}, identified...)...)
	return err
}

// VerifyUnder has cosign verify a bundle of rekor.Identity by a TrustedRoot.
func (u *User) VerifyUnder(ctx context.Context, trustedRoot, artifact, bundle string) error {
	_, err := u.Run(ctx, "cosign", append([]string{"verify-blob", "--trusted-root=" + trustedRoot, "--bundle=" + bundle, artifact}, identified...)...)
	return err
}

// VerifyLegacy has cosign verify a signature that has no bundle: it asks a Rekor v1 whose key is in logKey.
func (u *User) VerifyLegacy(ctx context.Context, url, logKey, artifact, signature, key string) error {
	// With this variable cosign has no TrustedRoot, which it does not need here.
	_, err := u.runWith(ctx, []string{"SIGSTORE_REKOR_PUBLIC_KEY=" + logKey}, "cosign", "verify-blob", "--new-bundle-format=false", "--rekor-url="+url, "--key="+key, "--signature="+signature, artifact)
	return err
}

// RekorCLI runs rekor-cli against a log.
func (u *User) RekorCLI(ctx context.Context, url string, args ...string) (string, error) {
	return u.Run(ctx, "rekor-cli", append([]string{"--rekor_server=" + url, "--format=json", "--retry=0"}, args...)...)
}

// LoggedIn returns the IDs of the logs in which a bundle was logged, as base64.
func (u *User) LoggedIn(bundle string) (ids []string, err error) {
	data, err := os.ReadFile(u.File(bundle))
	if err != nil {
		return nil, err
	}
	var b struct {
		VerificationMaterial struct {
			TlogEntries []struct {
				LogID struct{ KeyID string }
			}
		}
	}
	if err := json.Unmarshal(data, &b); err != nil {
		return nil, err
	}
	for _, e := range b.VerificationMaterial.TlogEntries {
		ids = append(ids, e.LogID.KeyID)
	}
	return ids, nil
}

func base64Of(data []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(data)) }
