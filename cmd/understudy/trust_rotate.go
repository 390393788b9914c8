package main

import (
	"cmp"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust/publish"
)

func newTrustRotateCommand() *cobra.Command {
	var c ceremony
	var newKeys, keys []string
	var threshold, makeKeys int
	var renew bool
	var online string
	cmd := &cobra.Command{
		Use:   "rotate DIR ROLE",
		Short: "Replace the keys of a role of your TUF repository, by a next root",
		Long: `Rotate makes the next root of your TUF repository, in which ROLE (root, targets,
snapshot or timestamp) has other keys. Clients follow by themselves. With --renew the
keys stay, and only the root's end moves.

The role signing has a key of the daemon's that is in no root: it says which of the
SigningConfigs that the targets approve clients get. Rotate makes it, also for a repository
that had none, and the next targets name it.

The new key is made, or given by --new-key. Several are for root: --new-key names those that it
is to keep, and --make says how many are made beside them. The next root is signed with the root keys in
DIR/keys, or those given by --key; what it lacks then, other holders add with
"understudy trust sign --root".

After it:
  timestamp, snapshot: bring DIR/repository and the new key to the daemon, and name the key in
           its configuration. Until both are there the daemon goes on as before.
  targets: "understudy trust sign" with the new key, then bring DIR/repository to the daemon.
  signing: "understudy trust sign", with --material if there was no such key before; then bring
           DIR/repository and the new key to the daemon, and name it as signing_key.
  root:    bring DIR/repository to the daemon.

A lost key is rotated like this, and a stolen one, too: what a thief signed with it is
refused as soon as a client has the next root.

Exit codes: 0 made; 2 it could not be made.`,
		Example: `  understudy trust rotate ./trust timestamp
  understudy trust rotate ./trust targets --new-key awskms:///alias/targets-2
  understudy trust rotate ./trust signing
  understudy trust rotate ./trust root --renew
  understudy trust rotate ./trust root --new-key alice.pub.pem --new-key bob.pub.pem --make 1`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.dir = args[0]
			role := args[1]
			expires, err := c.expires()
			if err != nil {
				return err
			}
			folder, err := c.open()
			if err != nil {
				return err
			}
			if role == publish.SigningRole {
				if renew || threshold != 0 || len(keys) > 0 || makeKeys+len(newKeys) > 1 {
					return errors.New("the role signing has one key, which no root names: it takes --new-key or nothing")
				}
				return c.rotateSigning(cmd, folder, newKeys, online)
			}
			if !slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], role) {
				return fmt.Errorf("there is no role %q: it is root, targets, snapshot, timestamp or signing", role)
			}
			if renew && (role != metadata.ROOT || len(newKeys) > 0 || makeKeys > 0) {
				return errors.New("--renew is of a root, and of no key")
			}
			if !renew && len(newKeys) == 0 && !cmd.Flags().Changed("make") {
				makeKeys = 1
			}
			old, err := folder.Threshold(role)
			if err != nil {
				return err
			}
			switch n, threshold := len(newKeys)+makeKeys, cmp.Or(threshold, old); {
			case renew:
			case n < 1 || makeKeys < 0 || role != metadata.ROOT && n > 1:
				return fmt.Errorf("%d keys for %s: it has one, several are for root", n, role)
			case threshold < 1 || threshold > n:
				return fmt.Errorf("a threshold of %d of %d keys for %s: it is at least 1, and at most all of them; --new-key names every key that it is to have", threshold, n, role)
			}
			signers, err := c.signers(cmd.Context(), folder, keys, metadata.ROOT)
			if err != nil {
				return err
			}
			p := c.passphrase
			if role == metadata.SNAPSHOT || role == metadata.TIMESTAMP {
				if p, err = c.onlineOf(online, makeKeys > 0); err != nil {
					return err
				}
			}
			given := len(newKeys)
			for i := range makeKeys {
				newKeys = append(newKeys, c.freeKey(role, i))
			}
			var public []crypto.PublicKey
			for i, ref := range newKeys {
				if role != metadata.ROOT && i < given { // it need not sign now
					key, err := openPublic(cmd.Context(), ref)
					if err != nil {
						return err
					}
					public = append(public, key)
					continue
				}
				key, signer, err := c.holder(cmd.Context(), ref, i >= given, p)
				if err != nil {
					return err
				}
				public = append(public, key)
				if signer != nil {
					signers = append(signers, signer)
				}
			}
			version, err := folder.Rotate(role, public, threshold, expires, signers)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made %d.root.json\n", version)
			for _, ref := range newKeys {
				fmt.Fprintf(cmd.OutOrStdout(), "key of %s: %s\n", role, ref)
			}
			next := map[string]string{
				metadata.TARGETS:   "next: understudy trust sign " + c.dir + ", then bring " + c.repository() + " to the daemon",
				metadata.SNAPSHOT:  "next: bring " + c.repository() + " and the key to the daemon, and name the key as snapshot_key",
				metadata.TIMESTAMP: "next: bring " + c.repository() + " and the key to the daemon, and name the key as timestamp_key",
				metadata.ROOT:      "next: bring " + c.repository() + " to the daemon",
			}
			return c.tellMissing(cmd.OutOrStdout(), folder, next[role])
		},
	}
	c.flags(cmd, 730)
	cmd.Flags().StringArrayVar(&newKeys, "new-key", nil, "`KEY` that the role is to have: a file or one of a KMS (may be repeated for root)")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "root `KEY` to sign with (may be repeated; default: those in DIR/keys)")
	cmd.Flags().IntVar(&makeKeys, "make", 0, "`NUMBER` of keys to make (default: 1, or none with --new-key)")
	cmd.Flags().IntVar(&threshold, "threshold", 0, "`NUMBER` of keys that must sign (default: as it was)")
	cmd.Flags().StringVar(&online, "online-passphrase-file", "", "`FILE` with the passphrase of the daemon's keys (default: DIR/keys/online.passphrase)")
	cmd.Flags().BoolVar(&renew, "renew", false, "keep the keys: the root expires later")
	return cmd
}

// onlineOf is where the passphrase of the daemon's keys is: in a file that was given, or beside the keys. It
// must be there if a key is made.
func (c *ceremony) onlineOf(given string, makes bool) (passphrases, error) {
	p := c.online()
	p.file = cmp.Or(given, p.file)
	if _, err := os.Stat(p.file); err != nil && makes {
		return p, fmt.Errorf("the passphrase of the daemon's keys: %w; it has one for all of them: give its file with --online-passphrase-file", err)
	}
	return p, nil
}

// freeKey is the file of a key that is to be made, beside those that are there.
func (c *ceremony) freeKey(role string, skip int) string {
	for i := 2; ; i++ {
		file := c.key(fmt.Sprintf("%s-%d", role, i))
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			if skip--; skip < 0 {
				return file
			}
		}
	}
}
