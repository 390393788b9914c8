package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/spf13/cobra"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust/publish"
)

// What a directory of a TUF repository of our own has.
const (
	repositoryDir    = "repository"
	keysDir          = "keys"
	onlinePassphrase = "online.passphrase"
	firstRoot        = "1.root.json"
)

// ceremony is what the verbs that sign have in common.
type ceremony struct {
	dir        string
	passphrase passphrases
	days       int
}

func (c *ceremony) flags(cmd *cobra.Command, days int) {
	cmd.Flags().StringVar(&c.passphrase.file, "passphrase-file", "", "`FILE` with the passphrase of the keys that are used (default: the terminal is asked)")
	cmd.Flags().IntVar(&c.days, "days", days, "how many `DAYS` what is signed is good for")
}

func (c *ceremony) repository() string { return filepath.Join(c.dir, repositoryDir) }
func (c *ceremony) key(name string) string {
	return filepath.Join(c.dir, keysDir, name+".pem")
}
func (c *ceremony) online() passphrases {
	return passphrases{filepath.Join(c.dir, keysDir, onlinePassphrase)}
}

func (c *ceremony) expires() (time.Time, error) {
	if c.days < 1 {
		return time.Time{}, fmt.Errorf("--days %d: it is at least one day", c.days)
	}
	return time.Now().AddDate(0, 0, c.days), nil
}

func newTrustInitCommand() *cobra.Command {
	var c ceremony
	var rootKeys, given []string
	var roots, threshold int
	var targetsKey, snapshotKey, timestampKey, signingKey string
	cmd := &cobra.Command{
		Use:   "init DIR",
		Short: "Make a TUF repository of your own: its keys and its first root",
		Long: `Init makes, in DIR, the keys and the first root of a TUF repository of your own.
Do it where the keys of root and targets will be kept: a machine without network.

  DIR/repository           what clients see: bring it to the daemon, now and after each signing
  DIR/keys/root-N.pem      sign roots: which keys count. Lock them away, one per holder
  DIR/keys/targets.pem     signs what clients trust: your TrustedRoot and SigningConfig
  DIR/keys/snapshot.pem, timestamp.pem, online.passphrase     bring these to the daemon
  DIR/keys/signing.pem     bring it to the daemon, too: in an outage it tells signers to log in
                           your own log alone, if a SigningConfig for that was signed

Keys are ECDSA on P-256 in files of encrypted PKCS #8. Those of the daemon have a
passphrase of their own, which is made here. Keys that exist already, also those
of a key management service (in a program built with -tags kms), are given by flags; of a
root key that somebody else holds the public key is enough, and that holder runs
"understudy trust sign --root".

Clients trust DIR/repository/1.root.json: distribute it before you need it.

Exit codes: 0 made; 2 it could not be made.`,
		Example: `  understudy trust init ./trust
  understudy trust init ./trust --root-keys 3 --root-threshold 2
  understudy trust init ./trust --root-key alice.pub.pem --root-key bob.pub.pem --targets-key awskms:///alias/targets`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.dir = args[0]
			expires, err := c.expires()
			if err != nil {
				return err
			}
			if entries, err := os.ReadDir(c.repository()); err == nil && len(entries) > 0 {
				return fmt.Errorf("%s has a repository already, which clients may trust: nothing was changed", c.repository())
			}
			n := roots
			if len(rootKeys) > 0 {
				n = len(rootKeys)
			}
			if threshold < 1 || threshold > n {
				return fmt.Errorf("a threshold of %d of %d keys for root: it is at least 1, and at most all of them", threshold, n)
			}
			if err := makePassphrase(c.online().file); err != nil {
				return err
			}
			if len(rootKeys) == 0 {
				for i := range roots {
					given = append(given, c.key(fmt.Sprintf("root-%d", i+1)))
				}
			} else {
				given = rootKeys
			}
			holders := publish.Holders{Threshold: threshold}
			var signers []signature.Signer
			for _, ref := range given {
				c.tellKey(cmd.OutOrStdout(), metadata.ROOT, ref)
				public, signer, err := c.holder(cmd.Context(), ref, len(rootKeys) == 0, c.passphrase)
				if err != nil {
					return err
				}
				holders.Root = append(holders.Root, public)
				if signer != nil {
					signers = append(signers, signer)
				}
			}
			for _, role := range []struct {
				name, ref string
				key       *crypto.PublicKey
				p         passphrases
			}{
				{metadata.TARGETS, targetsKey, &holders.Targets, c.passphrase},
				{metadata.SNAPSHOT, snapshotKey, &holders.Snapshot, c.online()},
				{metadata.TIMESTAMP, timestampKey, &holders.Timestamp, c.online()},
				{publish.SigningRole, signingKey, &holders.Signing, c.online()},
			} {
				c.tellKey(cmd.OutOrStdout(), role.name, cmp.Or(role.ref, c.key(role.name)))
				if role.ref != "" { // it need not sign now
					*role.key, err = openPublic(cmd.Context(), role.ref)
				} else {
					*role.key, _, err = c.holder(cmd.Context(), c.key(role.name), true, role.p)
				}
				if err != nil {
					return err
				}
			}
			folder, err := publish.Create(c.repository(), holders, expires, signers)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "made %s: clients begin at it, distribute it before you need it\n", filepath.Join(c.repository(), "1.root.json"))
			if err := errors.Join(c.noteFirst(folder), c.nameSigningKey(holders.Signing)); err != nil {
				return err
			}
			return c.tellMissing(cmd.OutOrStdout(), folder, "next: understudy trust export, and understudy trust sign "+c.dir+" --material with what it wrote")
		},
	}
	c.flags(cmd, 730)
	cmd.Flags().IntVar(&roots, "root-keys", 1, "`NUMBER` of root keys to make")
	cmd.Flags().IntVar(&threshold, "root-threshold", 1, "`NUMBER` of root keys that must sign a root")
	cmd.Flags().StringArrayVar(&rootKeys, "root-key", nil, "root `KEY` that exists: a file, also of the public key alone, or one of a KMS (may be repeated)")
	cmd.Flags().StringVar(&targetsKey, "targets-key", "", "`KEY` for targets that exists")
	cmd.Flags().StringVar(&snapshotKey, "snapshot-key", "", "`KEY` for snapshots that exists")
	cmd.Flags().StringVar(&timestampKey, "timestamp-key", "", "`KEY` for timestamps that exists")
	cmd.Flags().StringVar(&signingKey, "signing-key", "", "`KEY` that exists for the choice between SigningConfigs")
	cmd.MarkFlagsMutuallyExclusive("root-key", "root-keys")
	return cmd
}

// tellKey says which key a role gets, and whether it was there before.
func (c *ceremony) tellKey(out io.Writer, role, ref string) {
	how := "made now"
	if isKMS(ref) {
		how = "of a key management service"
	} else if isPublicFile(ref) {
		how = "a public key that was there: somebody else holds the key"
	} else if _, err := os.Stat(ref); err == nil {
		how = "which was there"
	}
	fmt.Fprintf(out, "key of %s: %s, %s\n", role, ref, how)
}

// open opens the repository, if its first root is the one that was made here, as far as that is known.
func (c *ceremony) open() (*publish.Folder, error) {
	made, err := os.ReadFile(filepath.Join(c.dir, keysDir, firstRoot))
	if err == nil {
		var is []byte
		if is, err = os.ReadFile(filepath.Join(c.repository(), firstRoot)); err == nil && !bytes.Equal(publish.SignedPart(made), publish.SignedPart(is)) {
			return nil, fmt.Errorf("%s is another one than was made here (%s): what is signed under it could be used against the clients of yours",
				filepath.Join(c.repository(), firstRoot), filepath.Join(c.dir, keysDir, firstRoot))
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return publish.OpenFolder(c.repository())
}

// noteFirst keeps a copy of the first root, once it has all signatures, beside the keys.
func (c *ceremony) noteFirst(folder *publish.Folder) error {
	if missing, err := folder.MissingSignatures(); err != nil || missing > 0 {
		return err
	}
	kept := filepath.Join(c.dir, keysDir, firstRoot)
	if _, err := os.Stat(kept); err == nil {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(c.repository(), firstRoot))
	if err != nil {
		return err
	}
	return os.WriteFile(kept, data, 0o644)
}

// holder returns a key, made if it is to be, and who signs with it; nil if that is somebody else.
func (c *ceremony) holder(ctx context.Context, ref string, fresh bool, p passphrases) (public crypto.PublicKey, signer signature.Signer, err error) {
	if _, missing := os.Stat(ref); fresh && missing != nil {
		signer, err = makeKey(ref, p)
	} else if public, err = openPublic(ctx, ref); err == nil && !isPublicFile(ref) {
		signer, err = openSigner(ctx, ref, p)
	}
	if err == nil && signer != nil {
		public, err = signer.PublicKey()
	}
	return public, signer, err
}

// isPublicFile says whether a key is the file of a public key.
func isPublicFile(ref string) bool {
	if isKMS(ref) {
		return false
	}
	block, err := readPEM(ref)
	return err == nil && block.Type == pemPublic
}

// tellMissing says whether the newest root can be used, and what is next if so.
func (c *ceremony) tellMissing(out io.Writer, folder *publish.Folder, next string) error {
	missing, err := folder.MissingSignatures()
	if err != nil {
		return err
	}
	if missing > 0 {
		next = fmt.Sprintf("the newest root lacks %d signatures: each holder of a root key runs understudy trust sign --root on this directory", missing)
	}
	_, err = fmt.Fprintln(out, next)
	return err
}

// signers opens the keys of a role that are given, or else those in the directory.
func (c *ceremony) signers(ctx context.Context, folder *publish.Folder, refs []string, role string) ([]signature.Signer, error) {
	if len(refs) == 0 {
		files, err := filepath.Glob(filepath.Join(c.dir, keysDir, "*.pem"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if public, err := openPublic(ctx, file); err == nil && !isPublicFile(file) && folder.Has(role, public) {
				refs = append(refs, file)
			}
		}
	}
	var signers []signature.Signer
	for _, ref := range refs {
		signer, err := openSigner(ctx, ref, c.passphrase)
		if err != nil {
			return nil, err
		}
		signers = append(signers, signer)
	}
	return signers, nil
}

func newTrustSignCommand() *cobra.Command {
	var c ceremony
	var keys []string
	var material string
	var root, dryRun bool
	cmd := &cobra.Command{
		Use:   "sign DIR",
		Short: "Sign what clients of your TUF repository trust, or add a signature to its root",
		Long: `Sign signs, with the targets key, what "understudy trust export" wrote into the directory
given by --material: the TrustedRoot, the SigningConfig, and the history of both. It tells
what changes, every key and address: look at it. Without --material it signs the same
targets again, to be good for longer.

If signing_config.fallback.json is there, too, both SigningConfigs are signed, and the daemon,
with the key of the role signing, says which of the two clients get: it can switch in an
outage, when nobody is there who holds the targets key.

With --root it adds signatures to the newest root instead, if that lacks some: of the keys
in DIR/keys, or given by --key. It tells which keys come and go.

With --dry-run it only tells. Then bring DIR/repository to the daemon.

Exit codes: 0 signed; 2 it could not be signed.`,
		Example: `  understudy trust export ./material
  understudy trust sign ./trust --material ./material --dry-run
  understudy trust sign ./trust --material ./material
  understudy trust sign ./trust --root --key bob.pem`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c.dir = args[0]
			expires, err := c.expires()
			if err != nil {
				return err
			}
			folder, err := c.open()
			if err != nil {
				return err
			}
			return c.sign(cmd.Context(), folder, signing{material, keys, root, dryRun, expires}, cmd.OutOrStdout())
		},
	}
	c.flags(cmd, 365)
	cmd.Flags().StringVar(&material, "material", "", "`DIR` that \"understudy trust export\" wrote")
	cmd.Flags().StringArrayVar(&keys, "key", nil, "`KEY` to sign with: a file or one of a KMS (may be repeated; default: those in DIR/keys)")
	cmd.Flags().BoolVar(&root, "root", false, "sign the newest root, as far as it lacks signatures")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would change, and sign nothing")
	return cmd
}

// signing says what to sign.
type signing struct {
	material string
	keys     []string
	root     bool
	dryRun   bool
	expires  time.Time
}

// sign tells what changes, and signs it.
func (c *ceremony) sign(ctx context.Context, folder *publish.Folder, o signing, out io.Writer) error {
	missing, err := folder.MissingSignatures()
	if err != nil {
		return err
	}
	if missing > 0 {
		changes, err := folder.Changes()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "the newest root lacks %d signatures; it changes\n  %s\n", missing, strings.Join(changes, "\n  "))
	}
	if o.root {
		return c.signRoot(ctx, folder, o, out)
	}
	had, err := folder.Targets()
	if err != nil {
		return err
	}
	signing, err := c.switchKey(folder)
	if err != nil {
		return err
	}
	var files map[string][]byte
	if o.material != "" {
		if files, err = readMaterial(o.material); err != nil {
			return err
		}
		for name, data := range had { // what was in force once stays known
			if strings.HasPrefix(name, historyPrefix) && files[name] == nil && data != nil {
				files[name] = data
			}
		}
		signing.approve(files, out)
		tellChanges(out, had, files)
	} else if had == nil {
		return errors.New("there are no targets yet: sign what \"understudy trust export\" wrote, with --material; a root is signed with --root")
	}
	signing.tell(had, files, out)
	if o.dryRun {
		return nil
	}
	targets, err := c.signers(ctx, folder, o.keys, metadata.TARGETS)
	if err != nil {
		return err
	}
	targets = slices.DeleteFunc(targets, func(s signature.Signer) bool {
		public, err := s.PublicKey()
		return err != nil || !folder.Has(metadata.TARGETS, public)
	})
	if len(targets) == 0 {
		return errors.New("the targets key is not at hand: give it with --key; a root is signed with --root")
	}
	version, err := folder.SignTargets(files, o.expires, targets[0])
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "signed %d.targets.json, good until %s\n", version, o.expires.UTC().Format(time.DateOnly))
	return c.tellMissing(out, folder, "next: bring "+c.repository()+" to the daemon")
}

// signRoot adds signatures to the newest root.
func (c *ceremony) signRoot(ctx context.Context, folder *publish.Folder, o signing, out io.Writer) error {
	if o.dryRun {
		return nil
	}
	signers, err := c.signers(ctx, folder, o.keys, metadata.ROOT)
	if err != nil {
		return err
	}
	added, err := folder.SignRoot(signers)
	if err != nil {
		return err
	}
	if added == 0 {
		return errors.New("no signature was added: the newest root has those of the root keys at hand; give another one with --key")
	}
	fmt.Fprintf(out, "added %d signatures to the newest root\n", added)
	if err := c.noteFirst(folder); err != nil {
		return err
	}
	return c.tellMissing(out, folder, "next: bring "+c.repository()+" to the daemon")
}
