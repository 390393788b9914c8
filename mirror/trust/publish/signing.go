package publish

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
)

// The SigningConfig can be changed at night, when nobody is there who holds the targets key: targets
// list two contents of it, approved by people, and delegate the one path that clients ask for to a
// role with a key at the daemon, which says which of the two it is (TUF specification, section 4.5).

const (
	// SigningRole is the role that targets delegate trust.SigningTarget to.
	SigningRole = "signing"
	// PublicTarget is the SigningConfig of good days, FallbackTarget the one for an outage of the
	// public log. Clients ask for neither.
	PublicTarget   = "signing/public.json"
	FallbackTarget = "signing/fallback.json"
)

// approvedTarget is the name of the content of a mode.
func approvedTarget(mode trust.SigningLogs) string {
	if mode == trust.SigningFallback {
		return FallbackTarget
	}
	return PublicTarget
}

// delegation is what targets say of the SigningConfig.
type delegation struct {
	id       string // of the key
	key      *metadata.Key
	contents map[trust.SigningLogs]*metadata.TargetFiles // that are approved
}

// delegationOf returns the delegation that targets have; nil if they have none, or another one than
// SignTargets makes: nothing is signed for that.
func delegationOf(targets *metadata.Metadata[metadata.TargetsType]) *delegation {
	given := targets.Signed.Delegations
	if given == nil || given.SuccinctRoles != nil || len(given.Roles) != 1 || len(given.Keys) != 1 || targets.Signed.Targets[trust.SigningTarget] != nil {
		return nil
	}
	r := given.Roles[0]
	if r.Name != SigningRole || !r.Terminating || r.Threshold != 1 || len(r.KeyIDs) != 1 || len(r.PathHashPrefixes) > 0 || !slices.Equal(r.Paths, []string{trust.SigningTarget}) {
		return nil
	}
	d := &delegation{id: r.KeyIDs[0], key: given.Keys[r.KeyIDs[0]], contents: map[trust.SigningLogs]*metadata.TargetFiles{}}
	if d.key == nil || !isCanonical(d.key, d.id) {
		return nil
	}
	for _, mode := range []trust.SigningLogs{trust.SigningPublic, trust.SigningFallback} {
		if meta := targets.Signed.Targets[approvedTarget(mode)]; meta != nil {
			d.contents[mode] = meta
		}
	}
	return d
}

// isCanonical says whether a key has the ID that it should have: else an ID that people know could get
// another key.
func isCanonical(key *metadata.Key, id string) bool {
	public, err := key.ToPublicKey()
	if err != nil {
		return false
	}
	canonical, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return false
	}
	is, err := canonical.ID()
	return err == nil && is == id
}

// delegations are those of the next targets with these files: to the key of Delegate, else to the one of
// the targets before.
func (f *Folder) delegations(files map[string][]byte, before *metadata.Metadata[metadata.TargetsType]) (*metadata.Delegations, error) {
	for _, name := range []string{PublicTarget, FallbackTarget} {
		if files[name] == nil {
			continue
		}
		if _, err := trust.Describe(trust.SigningTarget, files[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	switch {
	case files[PublicTarget] == nil && files[FallbackTarget] == nil:
		return nil, nil
	case files[PublicTarget] == nil:
		return nil, fmt.Errorf("%s is for an outage: %s, for good days, belongs beside it", FallbackTarget, PublicTarget)
	case files[trust.SigningTarget] != nil:
		return nil, fmt.Errorf("%s is delegated if there is %s: it cannot be a target of its own", trust.SigningTarget, PublicTarget)
	}
	key := f.signing
	if key == nil && before != nil {
		if d := delegationOf(before); d != nil {
			key = d.key
		}
	}
	if key == nil {
		return nil, errors.New("there is no key for the SigningConfig: \"understudy trust rotate DIR signing\" makes one")
	}
	id, err := key.ID()
	if err != nil {
		return nil, err
	}
	return &metadata.Delegations{Keys: map[string]*metadata.Key{id: key}, Roles: []metadata.DelegatedRole{
		{Name: SigningRole, KeyIDs: []string{id}, Threshold: 1, Terminating: true, Paths: []string{trust.SigningTarget}},
	}}, nil
}

// Delegate has the next targets delegate the SigningConfig to a key, if they have PublicTarget. It returns
// the key's ID, and refuses one that has another role, or had.
func (f *Folder) Delegate(public crypto.PublicKey) (id string, err error) {
	key, id, err := onlineKey(public)
	if err != nil {
		return "", err
	}
	taken, err := f.keysOfOthers(SigningRole)
	if err != nil {
		return "", err
	}
	if taken[id] {
		return "", fmt.Errorf("the key of %s has another role, or had: each role has keys of its own, or one lost key would cost two roles", SigningRole)
	}
	f.signing = key
	return id, nil
}

// onlineKey is a key as the metadata of targets has it.
func onlineKey(public crypto.PublicKey) (key *metadata.Key, id string, err error) {
	if err = usable(public); err == nil {
		key, err = metadata.KeyFromPublicKey(public)
	}
	if err == nil {
		id, err = key.ID()
	}
	if err != nil {
		return nil, "", fmt.Errorf("key of %s: %w", SigningRole, err)
	}
	return key, id, nil
}

// SigningKey is the ID of the key that the newest targets delegate the SigningConfig to; empty if they do
// not.
func (f *Folder) SigningKey() (id string, err error) {
	newest, err := f.newestTargets()
	if err != nil || newest == nil {
		return "", err
	}
	if d := delegationOf(newest); d != nil {
		return d.id, nil
	}
	return "", nil
}

// delegatedKeys are the IDs of all keys that targets of ours delegate to, or did.
func (f *Folder) delegatedKeys() map[string]bool {
	ids := map[string]bool{}
	versions, err := f.versions(metadata.TARGETS)
	if err != nil {
		return ids
	}
	for _, version := range versions {
		targets, err := f.targetsOf(version)
		if err != nil {
			continue // what is damaged, or a stranger's, must not keep roots from being signed
		}
		if d := delegationOf(targets); d != nil {
			ids[d.id] = true
		}
	}
	return ids
}

// lists says whether metadata of the role signing has one content and nothing else.
func lists(m *metadata.Metadata[metadata.TargetsType], content *metadata.TargetFiles) bool {
	is := m.Signed.Targets[trust.SigningTarget]
	return is != nil && content != nil && len(m.Signed.Targets) == 1 && m.Signed.Delegations == nil &&
		is.Length == content.Length && len(is.Hashes) == 1 && bytes.Equal(is.Hashes["sha256"], content.Hashes["sha256"])
}
