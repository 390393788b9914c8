// Package publish makes a TUF repository of our own (TUF specification 1.0): one whose clients go
// on when Sigstore's can no longer be had, because we sign its metadata.
//
// Its keys are apart. Root and targets are signed where people hold these keys, into a Folder,
// which is then brought to the daemon. There a Publisher, with the keys of snapshot and timestamp
// alone, signs those anew on schedule and serves the whole. So who owns the daemon can hold back
// what is new, and cannot say anything of its own.
package publish

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
)

// Folder is a directory with what is signed offline: N.root.json, N.targets.json and, below
// targets/, what these name. It is laid out as clients see it. A file, once written, stays as it is,
// but for signatures that are added to a root. It is for one caller at a time.
type Folder struct {
	dir     string
	signing *metadata.Key // that the next targets delegate to; nil: the one of those before
}

// OpenFolder returns the folder that Create made.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{dir: dir}
	if _, err := os.Stat(filepath.Join(dir, rootFile(1))); err != nil {
		return nil, fmt.Errorf("%s has no repository: %w; \"understudy trust init\" makes one", dir, err)
	}
	return f, nil
}

// Holders are the public keys of a repository: ECDSA on P-256, or Ed25519. No key has two roles.
type Holders struct {
	Root                         []crypto.PublicKey
	Threshold                    int // how many of Root must sign a root
	Targets, Snapshot, Timestamp crypto.PublicKey
	// Signing is the key that targets are to delegate the SigningConfig to (Folder.Delegate); nil is
	// none. It is in no root.
	Signing crypto.PublicKey
}

// Create makes a folder with the first root, which expires at a time, signed by those of its keys
// that are at hand. The directory must be empty or missing.
func Create(dir string, holders Holders, expires time.Time, signers []signature.Signer) (*Folder, error) {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("%s is not empty: a repository is made once, and its clients trust its first root for good", dir)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	root := metadata.Root(expires.UTC().Truncate(time.Second))
	root.Signed.ConsistentSnapshot = true
	for _, h := range []struct {
		role      string
		keys      []crypto.PublicKey
		threshold int
	}{
		{metadata.ROOT, holders.Root, holders.Threshold}, {metadata.TARGETS, []crypto.PublicKey{holders.Targets}, 1},
		{metadata.SNAPSHOT, []crypto.PublicKey{holders.Snapshot}, 1}, {metadata.TIMESTAMP, []crypto.PublicKey{holders.Timestamp}, 1},
	} {
		if err := setKeys(root, h.role, h.keys, h.threshold, nil); err != nil {
			return nil, err
		}
	}
	var signing *metadata.Key
	if holders.Signing != nil {
		key, id, err := onlineKey(holders.Signing)
		if err != nil {
			return nil, err
		}
		if root.Signed.Keys[id] != nil {
			return nil, fmt.Errorf("the key of %s has another role: each role has keys of its own, or one lost key would cost two roles", SigningRole)
		}
		signing = key
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f := &Folder{dir: dir, signing: signing}
	if _, err := sign(root, signers, root); err != nil {
		return nil, err
	}
	return f, f.put(rootFile(1), root)
}

// setKeys makes keys those of a role. taken are IDs of keys that had other roles.
func setKeys(root *metadata.Metadata[metadata.RootType], role string, keys []crypto.PublicKey, threshold int, taken map[string]bool) error {
	if threshold < 1 || threshold > len(keys) {
		return fmt.Errorf("a threshold of %d of %d keys for %s: it is at least 1, and at most all of them", threshold, len(keys), role)
	}
	if role != metadata.ROOT && len(keys) > 1 {
		return fmt.Errorf("%d keys for %s: it has one, several are for root", len(keys), role)
	}
	for _, id := range slices.Clone(root.Signed.Roles[role].KeyIDs) {
		if err := root.Signed.RevokeKey(id, role); err != nil {
			return err
		}
	}
	for _, public := range keys {
		if err := usable(public); err != nil {
			return fmt.Errorf("key of %s: %w", role, err)
		}
		key, err := metadata.KeyFromPublicKey(public)
		if err != nil {
			return fmt.Errorf("key of %s: %w", role, err)
		}
		id, err := key.ID()
		if err != nil {
			return err
		}
		if _, ok := root.Signed.Keys[id]; ok || taken[id] {
			return fmt.Errorf("a key of %s has another role, or had: each role has keys of its own, or one lost key would cost two roles", role)
		}
		if err := root.Signed.AddKey(key, role); err != nil {
			return err
		}
	}
	root.Signed.Roles[role].Threshold = threshold
	return nil
}

// usable refuses keys that clients of TUF do not all verify.
func usable(public crypto.PublicKey) error {
	switch k := public.(type) {
	case ed25519.PublicKey:
		return nil
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return nil
		}
	}
	return fmt.Errorf("a %T: clients of TUF all verify ECDSA on P-256 and Ed25519, take one of these", public)
}

// Rotate makes keys those of a role, in a next root that expires at a time, signed by those of
// its keys and of the last root's that are at hand. Without keys these stay; a threshold of 0 is the
// one that was.
func (f *Folder) Rotate(role string, keys []crypto.PublicKey, threshold int, expires time.Time, signers []signature.Signer) (version int64, err error) {
	root, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	if missing, err := f.MissingSignatures(); err != nil {
		return 0, err
	} else if missing > 0 {
		return 0, fmt.Errorf("%s lacks %d signatures still: have it signed before the next one is made; if it is wrong and was never given away, delete it", rootFile(root.Signed.Version), missing)
	}
	old, ok := root.Signed.Roles[role]
	if !ok {
		return 0, fmt.Errorf("there is no role %q: it is root, targets, snapshot or timestamp", role)
	}
	if threshold == 0 {
		threshold = old.Threshold
	}
	if len(keys) > 0 {
		taken, err := f.keysOfOthers(role)
		if err != nil {
			return 0, err
		}
		if err := setKeys(root, role, keys, threshold, taken); err != nil {
			return 0, err
		}
	} else if threshold < 1 || threshold > len(old.KeyIDs) {
		return 0, fmt.Errorf("a threshold of %d of %d keys for %s: it is at least 1, and at most all of them", threshold, len(old.KeyIDs), role)
	}
	root.Signed.Roles[role].Threshold = threshold
	previous, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	root.ClearSignatures()
	root.Signed.Version++
	root.Signed.Expires = expires.UTC().Truncate(time.Second)
	if _, err := sign(root, signers, root, previous); err != nil {
		return 0, err
	}
	return root.Signed.Version, f.put(rootFile(root.Signed.Version), root)
}

// SignRoot adds signatures to the newest root, and says how many.
func (f *Folder) SignRoot(signers []signature.Signer) (added int, err error) {
	root, previous, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	if added, err = sign(root, signers, root, previous); err != nil || added == 0 {
		return 0, err
	}
	data, err := root.ToBytes(true)
	if err != nil {
		return 0, err
	}
	return added, f.write(rootFile(root.Signed.Version), data, true)
}

// MissingSignatures is how many signatures the newest root lacks until clients take it: of its own
// keys, and of those of the root before. A key of both counts for both.
func (f *Folder) MissingSignatures() (int, error) {
	root, previous, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	missing, could := 0, map[string]int{} // how many that lack it a key could sign for
	var lacks []int
	for _, by := range []*metadata.Metadata[metadata.RootType]{root, previous} {
		if by == nil {
			continue
		}
		good := signedBy(by, root)
		lack := max(0, by.Signed.Roles[metadata.ROOT].Threshold-len(good))
		missing, lacks = missing+lack, append(lacks, lack)
		for _, id := range by.Signed.Roles[metadata.ROOT].KeyIDs {
			if !slices.Contains(good, id) {
				could[id]++
			}
		}
	}
	both := 0
	for _, n := range could {
		if n == 2 {
			both++
		}
	}
	return missing - min(both, slices.Min(lacks)*(len(lacks)-1)), nil
}

// signedBy returns which root keys of one root have signed another one.
func signedBy(by, root *metadata.Metadata[metadata.RootType]) (ids []string) {
	for _, id := range by.Signed.Roles[metadata.ROOT].KeyIDs {
		one := &metadata.Metadata[metadata.RootType]{Signed: by.Signed}
		one.Signed.Roles = map[string]*metadata.Role{metadata.ROOT: {KeyIDs: []string{id}, Threshold: 1}}
		if one.VerifyDelegate(metadata.ROOT, root) == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// sign adds the signatures of those signers that have a root key of one of the roots.
func sign(root *metadata.Metadata[metadata.RootType], signers []signature.Signer, of ...*metadata.Metadata[metadata.RootType]) (added int, err error) {
	for _, signer := range signers {
		id, err := keyID(signer)
		if err != nil {
			return added, err
		}
		has := slices.ContainsFunc(of, func(r *metadata.Metadata[metadata.RootType]) bool {
			return r != nil && slices.Contains(r.Signed.Roles[metadata.ROOT].KeyIDs, id)
		})
		if !has || isSigned(root, id, of) {
			continue
		}
		root.Signatures = slices.DeleteFunc(root.Signatures, func(s metadata.Signature) bool { return s.KeyID == id }) // it is no good
		if err := signMetadata(root, signer); err != nil {
			return added, fmt.Errorf("sign the root: %w", err)
		}
		added++
	}
	return added, nil
}

// isSigned says whether a root has a good signature of a key, which one of the others has.
func isSigned(root *metadata.Metadata[metadata.RootType], id string, of []*metadata.Metadata[metadata.RootType]) bool {
	return slices.ContainsFunc(of, func(by *metadata.Metadata[metadata.RootType]) bool {
		return by != nil && slices.Contains(signedBy(by, root), id)
	})
}

// signMetadata signs, and tells why it cannot: go-tuf does not.
func signMetadata[T metadata.Roles](m *metadata.Metadata[T], signer signature.Signer) error {
	told := &teller{Signer: signer}
	if _, err := m.Sign(told); err != nil {
		return cmp.Or(told.err, err)
	}
	return nil
}

// teller remembers why a signer did not sign.
type teller struct {
	signature.Signer
	err error
}

func (t *teller) SignMessage(message io.Reader, o ...signature.SignOption) (sig []byte, err error) {
	sig, t.err = t.Signer.SignMessage(message, o...)
	return sig, t.err
}

// keyID is the name of a signer's key in TUF metadata.
func keyID(signer signature.PublicKeyProvider) (string, error) {
	public, err := signer.PublicKey()
	if err != nil {
		return "", fmt.Errorf("read the public key of a signer: %w", err)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return "", err
	}
	return key.ID()
}

// Has says whether a public key is one of a role in the newest root, or in the one before: as a
// root key, or as long as the newest lacks signatures.
func (f *Folder) Has(role string, public crypto.PublicKey) bool {
	newest, previous, err := f.newestRoot()
	if err != nil {
		return false
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return false
	}
	id, err := key.ID()
	if err != nil {
		return false
	}
	missing, err := f.MissingSignatures()
	return err == nil && (slices.Contains(newest.Signed.Roles[role].KeyIDs, id) ||
		previous != nil && (role == metadata.ROOT || missing > 0) && slices.Contains(previous.Signed.Roles[role].KeyIDs, id))
}

// Threshold is how many keys of a role must sign, by the newest root.
func (f *Folder) Threshold(role string) (int, error) {
	root, _, err := f.newestRoot()
	if err != nil {
		return 0, err
	}
	r, ok := root.Signed.Roles[role]
	if !ok {
		return 0, fmt.Errorf("there is no role %q: it is root, targets, snapshot or timestamp", role)
	}
	return r.Threshold, nil
}

// Changes says what the newest root changes: for a person who is to sign it.
func (f *Folder) Changes() (changes []string, err error) {
	newest, previous, err := f.newestRoot()
	if err != nil {
		return nil, err
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		is, was := newest.Signed.Roles[role], &metadata.Role{}
		if previous != nil {
			was = previous.Signed.Roles[role]
		}
		for _, id := range was.KeyIDs {
			if !slices.Contains(is.KeyIDs, id) {
				changes = append(changes, fmt.Sprintf("- key of %s %s", role, id))
			}
		}
		for _, id := range is.KeyIDs {
			if !slices.Contains(was.KeyIDs, id) {
				changes = append(changes, fmt.Sprintf("+ key of %s %s", role, id))
			}
		}
		if is.Threshold != was.Threshold {
			changes = append(changes, fmt.Sprintf("~ threshold of %s: %d", role, is.Threshold))
		}
	}
	return append(changes, fmt.Sprintf("%s is good until %s", rootFile(newest.Signed.Version), newest.Signed.Expires.Format(time.DateOnly))), nil
}

// TargetName is what targets are called: parts of letters, digits, dot, dash and underline.
var TargetName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)

// SignTargets writes the next version of targets, which expires at a time. files are all targets
// by name; nil: those of the newest version. With PublicTarget among them the SigningConfig is delegated.
func (f *Folder) SignTargets(files map[string][]byte, expires time.Time, signer signature.Signer) (version int64, err error) {
	newest, err := f.newestTargets()
	if err != nil {
		return 0, err
	}
	if files == nil {
		if files, err = f.Targets(); err != nil {
			return 0, err
		}
		for name, data := range files {
			if data == nil {
				return 0, fmt.Errorf("the file of %s is lost, or is another one: sign with what it was", name)
			}
		}
	}
	if public, err := signer.PublicKey(); err != nil {
		return 0, fmt.Errorf("read the public key of a signer: %w", err)
	} else if !f.Has(metadata.TARGETS, public) {
		return 0, fmt.Errorf("the key given is not the targets key of the newest root")
	}
	targets := metadata.Targets(expires.UTC().Truncate(time.Second))
	targets.Signed.Version = 1
	if newest != nil {
		targets.Signed.Version = newest.Signed.Version + 1
	}
	if len(files) == 0 {
		return 0, errors.New("there is nothing to sign: no targets are given")
	}
	if targets.Signed.Delegations, err = f.delegations(files, newest); err != nil {
		return 0, err
	}
	all := 0
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if !TargetName.MatchString(name) {
			return 0, fmt.Errorf("a target cannot be called %q", name)
		}
		if all += len(files[name]); len(files[name]) > maxFile || all > maxFiles {
			return 0, fmt.Errorf("%s has %d bytes: a target has at most %d, and all together %d", name, len(files[name]), maxFile, maxFiles)
		}
		if name == trust.RootTarget {
			if _, err := trust.ParseRoot(files[name]); err != nil {
				return 0, fmt.Errorf("%s: %w", name, err)
			}
		}
		meta, err := metadata.TargetFile().FromBytes(name, files[name], "sha256")
		if err != nil {
			return 0, err
		}
		targets.Signed.Targets[name] = meta
		if err := f.write(trust.TargetFile(name, meta.Hashes["sha256"]), files[name], true); err != nil {
			return 0, err
		}
	}
	if err := signMetadata(targets, signer); err != nil {
		return 0, fmt.Errorf("sign the targets: %w", err)
	}
	return targets.Signed.Version, f.put(targetsFile(targets.Signed.Version), targets)
}

// Bounds of one file, and of all targets together: those of trust.Repository.
const (
	maxFile  = 16 << 20
	maxFiles = 48 << 20
)
