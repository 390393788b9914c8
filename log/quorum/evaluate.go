package quorum

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"
)

// Lists returns nil if the policy lists one of the verifier keys of a log, or no log at all. The key
// name counts, too. A Rekor v1 log signs under the name of its host, which is its origin without
// the tree ID.
func (p *Policy) Lists(vkeys ...string) error {
	if len(p.logs) == 0 {
		return nil
	}
	names := ""
	for _, vkey := range vkeys {
		k, err := parseKey(vkey)
		if err != nil {
			return err
		}
		for _, l := range p.logs {
			if l.Name() == k.Name() && l.KeyHash() == k.KeyHash() && l.public == k.public {
				return nil
			}
		}
		names = k.Name()
	}
	return fmt.Errorf("the policy has lines for logs, and none is for the key of %q: add \"log <vkey>\" with its verifier key, or leave all logs out", names)
}

// Verify returns nil if a checkpoint is valid by the policy: it is signed by a log that is listed,
// if any is, and cosigned by the quorum.
//
// SPEC: "The policy says that a checkpoint is considered valid if it is signed by any one of the
// listed logs, and it is cosigned by witnesses according to the defined quorum rule." (tlog-policy)
func (p *Policy) Verify(checkpoint []byte) error {
	n, err := note.Open(checkpoint, known{p})
	unverified, ok := errors.AsType[*note.UnverifiedNoteError](err)
	if ok { // no signature of anybody that is known, which may be enough
		n = unverified.Note
	} else if err != nil {
		return fmt.Errorf("open checkpoint: %w", err)
	}
	origin, _, _ := strings.Cut(n.Text, "\n")
	signed := len(p.logs) == 0
	have := map[int]bool{}
	for _, s := range n.Sigs {
		for _, l := range p.logs {
			signed = signed || matches(l.key, s) && isNameOf(l.Name(), origin)
		}
		for i, w := range p.witnesses {
			if !matches(w.key, s) {
				continue
			}
			if _, err := timestampOf(s); err != nil {
				return fmt.Errorf("cosignature of %s: %w", w.name, err)
			}
			have[i] = true
		}
	}
	if !signed {
		return fmt.Errorf("the checkpoint of %q is signed by none of the logs in the policy", origin)
	}
	if !p.satisfied(func(i int) bool { return have[i] }) {
		return fmt.Errorf("the checkpoint of %q lacks cosignatures: want %s, have %s", origin, p.want(), list(p.names(have)))
	}
	return nil
}

// known implements note.Verifiers, over the logs and witnesses of a policy. A key may be that of
// a log and of a witness.
type known struct{ *Policy }

func (p known) Verifier(name string, id uint32) (note.Verifier, error) {
	s := note.Signature{Name: name, Hash: id}
	for _, l := range p.logs {
		if matches(l.key, s) {
			return l.key, nil
		}
	}
	for _, w := range p.witnesses {
		if matches(w.key, s) {
			return w.key, nil
		}
	}
	return nil, &note.UnknownVerifierError{Name: name, KeyHash: id}
}

func matches(k *key, s note.Signature) bool { return k.Name() == s.Name && k.KeyHash() == s.Hash }

// isNameOf reports whether a log of this origin signs under name.
// SPEC: "The log's vkey includes a 'key name'. This name MUST correspond to the log's origin line,
// representing the identity of the log." (tlog-policy) The origin of a Rekor v1 log is
// "<key name> - <tree ID>", which is no name of a key.
func isNameOf(name, origin string) bool {
	rest, ok := strings.CutPrefix(origin, name)
	if !ok || rest == "" {
		return ok
	}
	digits, ok := strings.CutPrefix(rest, " - ")
	id, err := strconv.ParseUint(digits, 10, 64)
	return ok && err == nil && strconv.FormatUint(id, 10) == digits
}

// timestampOf returns when a cosignature was made.
// SPEC: "The cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero."
// (tlog-witness) "It MUST NOT exceed 2^63 - 1" (tlog-cosignature)
func timestampOf(s note.Signature) (time.Time, error) {
	t, err := formats.CoSigV1Timestamp(s)
	if err != nil {
		return time.Time{}, err
	}
	if t.Unix() == 0 {
		return time.Time{}, errors.New("it has no time")
	}
	if t.Unix() < 0 {
		return time.Time{}, errors.New("its time is out of range")
	}
	return t, nil
}

// names returns the names of some witnesses in the order of the policy.
func (p *Policy) names(have map[int]bool) (names []string) {
	for i, w := range p.witnesses {
		if have[i] {
			names = append(names, w.name)
		}
	}
	return names
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}
