package publish

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"github.com/understudy-log/understudy/mirror/trust"
	"github.com/understudy-log/understudy/storage"
)

// SwitchError says why clients cannot get another SigningConfig now. Code is for scripts.
type SwitchError struct{ Code, Text string }

// Codes of a SwitchError.
const (
	CodeNotPublished = "NOT_PUBLISHED"   // nothing is served yet
	CodeNotDelegated = "NOT_DELEGATED"   // the targets leave no choice, as those of older folders
	CodeNoContent    = "NO_CONTENT"      // the targets approve no content for this mode
	CodeNoKey        = "NO_SIGNING_KEY"  // the daemon has no key for it
	CodeWrongKey     = "WRONG_KEY"       // it is not the key that the targets name
	CodeKeyFails     = "KEY_UNAVAILABLE" // it cannot be opened
)

func (e *SwitchError) Error() string { return e.Text + " (" + e.Code + ")" }

// Mode is which of the approved SigningConfigs clients get.
type Mode struct {
	// Served is what clients get, Since when they could get it first; empty: the targets leave no choice.
	Served trust.SigningLogs `json:"served,omitempty"`
	Since  time.Time         `json:"since,omitzero"`
	// Wanted is what Switch was told last, WantedSince when; without that it is public.
	Wanted      trust.SigningLogs `json:"wanted"`
	WantedSince time.Time         `json:"wanted_since,omitzero"`
}

// modeRecord keeps what Switch was told last.
const modeRecord = "mode of our own tuf"

// switching is what Switch and Publish share.
type switching struct {
	wake  chan struct{} // Run publishes at once
	order sync.Mutex    // one Switch at a time; held for a write of the database

	mu     sync.Mutex
	wanted Mode   // of which Served and Since are not used; guarded by mu
	gets   Mode   // of which Wanted and WantedSince are not used; guarded by mu
	key    string // ID of the key at hand; empty: it was not opened yet; guarded by mu
	keyErr error  // why it cannot be opened; guarded by mu
}

// loadMode reads what was wanted last.
func (p *Publisher) loadMode() error {
	p.wake, p.wanted.Wanted = make(chan struct{}, 1), trust.SigningPublic
	raw, err := p.cfg.DB.Record(modeRecord)
	var kept Mode
	if err == nil && raw != nil {
		if json.Unmarshal(raw, &kept) != nil || !isMode(kept.Wanted) {
			err = &storage.DamageError{Place: "the mode of our own TUF repository", Problem: "cannot be read"}
		}
	}
	p.noteServed()
	switch {
	case errors.As(err, new(*storage.DamageError)):
		p.cfg.Logger.Error("which SigningConfig was wanted is damaged; the one that is served stays", "error", err)
		if p.gets.Served != "" {
			p.wanted.Wanted = p.gets.Served
		}
	case err != nil:
		return err
	case raw != nil:
		p.wanted = Mode{Wanted: kept.Wanted, WantedSince: kept.WantedSince}
	}
	return nil
}

func isMode(mode trust.SigningLogs) bool {
	return mode == trust.SigningPublic || mode == trust.SigningFallback
}

// Switch has clients get the SigningConfig of a mode, public or fallback. That is durable when it returns,
// and served a moment later, at once if Run runs; a client sees it when it asks for the timestamp the next
// time. The error is a *SwitchError if what is published, or the key, does not allow it now: what is wanted
// is kept all the same, and served as soon as it can be. Public is always allowed where there is no choice.
func (p *Publisher) Switch(mode trust.SigningLogs) error {
	if !isMode(mode) {
		return fmt.Errorf("SigningConfig %q: want public or fallback", mode)
	}
	if err := p.want(mode); err != nil {
		return err
	}
	select {
	case p.wake <- struct{}{}:
	default: // it wakes already
	}
	return p.allows(mode)
}

// want makes a mode durable.
func (p *Publisher) want(mode trust.SigningLogs) error {
	p.order.Lock()
	defer p.order.Unlock()
	if p.Mode().Wanted == mode && !p.Mode().WantedSince.IsZero() {
		return nil
	}
	next := Mode{Wanted: mode, WantedSince: time.Now().UTC()}
	raw, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := p.cfg.DB.PutRecord(modeRecord, raw); err != nil {
		return fmt.Errorf("keep which SigningConfig is wanted: %w", err)
	}
	p.mu.Lock()
	p.wanted = next
	p.mu.Unlock()
	p.cfg.Logger.Info("another SigningConfig is to be served", "mode", mode)
	return nil
}

// Mode returns which SigningConfig clients get, and which is wanted.
func (p *Publisher) Mode() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.wanted
	m.Served, m.Since = p.gets.Served, p.gets.Since
	return m
}

// allows says why clients cannot get a mode; nil if they do or will.
func (p *Publisher) allows(mode trust.SigningLogs) error {
	if p.Mode().Served == mode {
		return nil
	}
	file := targetsFile(p.Seen(metadata.TARGETS))
	f, ok := p.File(file)
	if !ok {
		return &SwitchError{CodeNotPublished, "our own TUF repository is not published yet: \"understudy status\" says why"}
	}
	var d *delegation
	if err := safely(func() error {
		targets, err := metadata.Targets().FromBytes(f.Data)
		if err == nil {
			d = delegationOf(targets)
		}
		return err
	}); err != nil {
		return err
	}
	p.mu.Lock()
	key, keyErr := p.key, p.keyErr
	p.mu.Unlock()
	switch {
	case d == nil && mode == trust.SigningPublic:
		return nil
	case d == nil:
		return &SwitchError{CodeNotDelegated, file + " does not delegate the SigningConfig, so only a person with the targets key can change it: \"understudy trust rotate DIR signing\" makes a key for that, and \"understudy trust sign DIR --material\" delegates to it, if \"understudy trust export\" has written signing_config.fallback.json"}
	case d.contents[mode] == nil:
		return &SwitchError{CodeNoContent, file + " approves no " + approvedTarget(mode) + ": export with a private log in the configuration, then \"understudy trust sign DIR --material\""}
	case p.cfg.Signing == nil:
		return &SwitchError{CodeNoKey, "the daemon has no key for the SigningConfig: bring the key that \"understudy trust init\" or \"understudy trust rotate DIR signing\" made, and name it as signing_key in \"trust\""}
	case keyErr != nil:
		return &SwitchError{CodeKeyFails, "the key for the SigningConfig cannot be opened: " + keyErr.Error()}
	case key != "" && key != d.id:
		return &SwitchError{CodeWrongKey, (&wrongKeyError{SigningRole, file}).Error()}
	}
	return nil
}

// prepareSigning gets who signs for the role signing; without, what was signed is served.
func (p *Publisher) prepareSigning(ctx context.Context) {
	if p.cfg.Signing == nil || p.signing != nil && !p.reload && !p.reopen {
		return
	}
	p.reopen = false
	signer, err := p.cfg.Signing(ctx)
	id := ""
	if err == nil {
		id, err = keyID(signer)
	}
	if err != nil && p.signing != nil {
		return // the one at hand goes on
	}
	p.mu.Lock()
	p.key, p.keyErr = id, err
	p.mu.Unlock()
	if err == nil {
		p.signing = signer
	}
}

// assembleSigning adds the metadata of the role signing, if targets delegate to it: what is served, or other
// if that has another content, or was good for long enough. It returns what a snapshot has to name. When it
// cannot be signed now, what is served stays if these targets approve it: those who only verify go on.
func (p *Publisher) assembleSigning(d draft, version int64, now time.Time) (*metadata.MetaFiles, error) {
	p.unsigned = nil
	last := p.lastSigning()
	file := targetsFile(version)
	targets, err := metadata.Targets().FromBytes(d[file])
	if err != nil {
		return nil, err
	}
	allowed := delegationOf(targets)
	if allowed == nil {
		return last, nil // clients refuse a snapshot that names a role less
	}
	mode := p.Mode().Wanted
	var missing error
	if allowed.contents[mode] == nil {
		missing = fmt.Errorf("%s approves no %s: \"understudy trust sign DIR --material\" with one that has it", file, approvedTarget(mode))
		mode = trust.SigningPublic
	}
	content := allowed.contents[mode]
	if content == nil {
		return nil, fmt.Errorf("%s delegates the SigningConfig, and has no %s: \"understudy trust sign DIR --material\" makes the next one", file, PublicTarget)
	}
	var served *metadata.Metadata[metadata.TargetsType]
	if last != nil {
		if f, ok := p.File(signingFile(last.Version)); ok {
			if m, err := metadata.Targets().FromBytes(f.Data); err == nil && targets.VerifyDelegate(SigningRole, m) == nil {
				served = m
				d[signingFile(last.Version)] = f.Data
			}
		}
	}
	life := 4 * p.cfg.Lifetime
	if served != nil && lists(served, content) && served.Signed.Expires.Sub(now) > life/2 && !p.anew {
		p.unsigned = missing
		d.addConfig(mode, content)
		return last, nil
	}
	least := p.Seen(SigningRole)
	if last != nil {
		least = max(least, last.Version)
	}
	fresh, data, err := p.signSigning(targets, allowed.id, content, d[approvedFile(mode, content)], nextVersion(least, now), expiry(now, life))
	if wrong, ok := errors.AsType[*wrongKeyError](err); ok {
		wrong.file = file
	}
	if err == nil {
		if last != nil {
			delete(d, signingFile(last.Version))
		}
		p.unsigned = missing
		d[signingFile(fresh)] = data
		d.addConfig(mode, content)
		return metaOf(fresh, data), nil
	}
	p.reopen = true // the right key may be in its place the next time
	for mode, content := range allowed.contents {
		if served != nil && lists(served, content) {
			p.unsigned = fmt.Errorf("the SigningConfig cannot be signed, and stays %s: %w", mode, err)
			d.addConfig(mode, content)
			return last, nil
		}
	}
	return nil, err
}

// signSigning signs metadata of the role signing that has one content and nothing else. data is that
// content: nothing is signed that the targets do not approve.
func (p *Publisher) signSigning(targets *metadata.Metadata[metadata.TargetsType], id string, content *metadata.TargetFiles, data []byte, version int64, expires time.Time) (int64, []byte, error) {
	if p.signing == nil {
		if p.cfg.Signing == nil {
			return 0, nil, errors.New("the targets delegate the SigningConfig, and the daemon has no key for it: bring the key of the role signing, and name it as signing_key in \"trust\"")
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return 0, nil, fmt.Errorf("the key of the role %s: %w", SigningRole, p.keyErr)
	}
	if is, err := keyID(p.signing); err != nil {
		return 0, nil, err
	} else if is != id {
		return 0, nil, &wrongKeyError{role: SigningRole}
	}
	if err := content.VerifyLengthHashes(data); err != nil {
		return 0, nil, fmt.Errorf("the SigningConfig is not one that the targets approve: %w", err)
	}
	meta, err := metadata.TargetFile().FromBytes(trust.SigningTarget, data, "sha256")
	if err != nil {
		return 0, nil, err
	}
	m := metadata.Targets(expires)
	m.Signed.Version = version
	m.Signed.Targets[trust.SigningTarget] = meta
	raw, err := signed(m, p.signing)
	if err != nil {
		return 0, nil, fmt.Errorf("sign the SigningConfig: %w", err)
	}
	if err := targets.VerifyDelegate(SigningRole, m); err != nil { // a key of a service may sign with another one
		return 0, nil, fmt.Errorf("sign the SigningConfig: %w", err)
	}
	return version, raw, nil
}

// addConfig adds an approved content under the name that clients ask for.
func (d draft) addConfig(mode trust.SigningLogs, content *metadata.TargetFiles) {
	d[trust.TargetFile(trust.SigningTarget, content.Hashes["sha256"])] = d[approvedFile(mode, content)]
}

func approvedFile(mode trust.SigningLogs, content *metadata.TargetFiles) string {
	return trust.TargetFile(approvedTarget(mode), content.Hashes["sha256"])
}

// lastSigning is what the snapshot that is served names of the role signing; nil if nothing.
func (p *Publisher) lastSigning() *metadata.MetaFiles {
	f, ok := p.File(fmt.Sprintf("%d.snapshot.json", p.Seen(metadata.SNAPSHOT)))
	if !ok {
		return nil
	}
	s, err := metadata.Snapshot().FromBytes(f.Data)
	if err != nil {
		return nil
	}
	return s.Signed.Meta[SigningRole+".json"]
}

// noteServed notes which SigningConfig clients get.
func (p *Publisher) noteServed() {
	var m Mode
	_ = safely(func() error {
		f, _ := p.File(targetsFile(p.Seen(metadata.TARGETS)))
		targets, err := metadata.Targets().FromBytes(f.Data)
		if err != nil {
			return err
		}
		d := delegationOf(targets)
		history := p.History(trust.SigningTarget)
		if d == nil || len(history) == 0 || !history[len(history)-1].Until.IsZero() {
			return nil
		}
		last := history[len(history)-1]
		for mode, c := range d.contents {
			if hex.EncodeToString(c.Hashes["sha256"]) == last.Hash && (m.Served == "" || mode == p.Mode().Wanted) { // they may be the same
				m = Mode{Served: mode, Since: last.Seen}
			}
		}
		return nil
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gets = m
}

// canSwitch says whether the newest targets of the folder can be published with the key that is here.
func (p *Publisher) canSwitch(ctx context.Context) error {
	id, err := p.folder.SigningKey()
	if err != nil || id == "" {
		return err
	}
	if p.cfg.Signing == nil {
		return &wrongKeyError{role: SigningRole}
	}
	signer, err := p.cfg.Signing(ctx)
	if err != nil {
		return err
	}
	if is, err := keyID(signer); err != nil || is != id {
		return errors.Join(err, &wrongKeyError{role: SigningRole})
	}
	return nil
}

func signingFile(version int64) string { return fmt.Sprintf("%d.%s.json", version, SigningRole) }
