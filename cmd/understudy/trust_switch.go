package main

import (
	"crypto"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/mirror/trust/publish"
)

// signingPublic is the file beside the keys with the public key that the next targets name for the role
// signing: it is not believed out of the repository, which others may write to.
const signingPublic = "signing.pub"

// nameSigningKey has the next targets name a key for the role signing.
func (c *ceremony) nameSigningKey(public crypto.PublicKey) error {
	data, err := cryptoutils.MarshalPublicKeyToPEM(public)
	if err != nil {
		return err
	}
	dir := filepath.Join(c.dir, keysDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return replaceIn(root, signingPublic, data)
}

// switchKey is the key of the role signing: that of the targets that are signed, and of those that will be.
type switchKey struct{ had, has string } // IDs; empty: none

// switchKey reads it, and has the folder delegate to it.
func (c *ceremony) switchKey(folder *publish.Folder) (k switchKey, err error) {
	if k.had, err = folder.SigningKey(); err != nil {
		return k, err
	}
	k.has = k.had
	file := filepath.Join(c.dir, keysDir, signingPublic)
	if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return k, nil // a repository from before, or a machine without the daemon's keys
	}
	block, err := readPEM(file)
	if err != nil {
		return k, err
	}
	public, err := cryptoutils.UnmarshalPEMToPublicKey(pem.EncodeToMemory(block))
	if err != nil {
		return k, fmt.Errorf("%s: %w", file, err)
	}
	k.has, err = folder.Delegate(public)
	return k, err
}

// approve makes the SigningConfigs of an export those that the targets approve, if there are two and a key.
func (k switchKey) approve(files map[string][]byte, out io.Writer) {
	normal, fallback := files[trust.SigningTarget], files[publish.FallbackTarget]
	switch {
	case fallback == nil && k.had != "":
		fmt.Fprintf(out, "note: there is no %s: the SigningConfig is not delegated any more, and cannot be switched in an outage\n", fallbackFile)
	case fallback == nil:
	case normal == nil:
		delete(files, publish.FallbackTarget)
		fmt.Fprintf(out, "note: %s is not signed: %s, for good days, belongs beside it\n", fallbackFile, signingFile)
	case k.has == "":
		delete(files, publish.FallbackTarget)
		fmt.Fprintf(out, "note: %s is not signed: there is no key for the role signing; \"understudy trust rotate DIR signing\" makes one\n", fallbackFile)
	default:
		files[publish.PublicTarget] = normal
		delete(files, trust.SigningTarget)
	}
}

// tell says which key comes and goes with targets; files are the next ones, nil if they stay.
func (k switchKey) tell(had, files map[string][]byte, out io.Writer) {
	next := files
	if next == nil {
		next = had
	}
	if _, delegates := next[publish.PublicTarget]; !delegates {
		if k.had == "" && k.has != "" && files == nil {
			fmt.Fprintf(out, "note: the key of the role signing is not named yet: that takes --material with %s\n", fallbackFile)
		}
		k.has = ""
	}
	if k.had != "" && k.had != k.has {
		fmt.Fprintf(out, "- key of %s %s\n", publish.SigningRole, k.had)
	}
	if k.has != "" && k.had != k.has {
		fmt.Fprintf(out, "+ key of %s %s: it says which of the two SigningConfigs clients get\n", publish.SigningRole, k.has)
	}
}

// describe is trust.Describe, which knows targets by the names that clients ask for.
func describe(name string, data []byte) ([]string, error) {
	if name == publish.PublicTarget || name == publish.FallbackTarget {
		name = trust.SigningTarget
	}
	return trust.Describe(name, data)
}

// rotateSigning makes a key for the role signing, or takes one that is given, for the next targets.
func (c *ceremony) rotateSigning(cmd *cobra.Command, folder *publish.Folder, given []string, online string) error {
	ref := c.key(publish.SigningRole)
	if len(given) > 0 {
		ref = given[0]
	} else if _, err := os.Stat(ref); err == nil {
		ref = c.freeKey(publish.SigningRole, 0)
	}
	p, err := c.onlineOf(online, len(given) == 0)
	if err != nil {
		return err
	}
	var public crypto.PublicKey
	if len(given) > 0 {
		public, err = openPublic(cmd.Context(), ref) // it need not sign now
	} else {
		public, _, err = c.holder(cmd.Context(), ref, true, p)
	}
	if err != nil {
		return err
	}
	if _, err := folder.Delegate(public); err != nil {
		return err
	}
	if err := c.nameSigningKey(public); err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "key of %s: %s\nnext: understudy trust sign %s, with --material if the SigningConfig was not delegated before; then bring %s and the key to the daemon, and name the key as signing_key\n",
		publish.SigningRole, ref, c.dir, c.repository())
	return err
}
