package trust

import (
	"fmt"
	"strings"
)

// KeyID names the key of a signature line: the two are unique together.
type KeyID struct {
	Name string
	ID   uint32
}

// String returns the form that verifier keys begin with: name+0123abcd.
func (k KeyID) String() string { return fmt.Sprintf("%s+%08x", k.Name, k.ID) }

// MalformedError says that the bytes are not a canonical signed checkpoint.
type MalformedError struct{ Reason string }

func (e *MalformedError) Error() string { return "malformed checkpoint: " + e.Reason }

func malformed(format string, args ...any) error {
	return &MalformedError{fmt.Sprintf(format, args...)}
}

// OriginError says that a checkpoint belongs to another log.
type OriginError struct{ Got, Want string }

func (e *OriginError) Error() string {
	return fmt.Sprintf("checkpoint of %q, want one of %q: check the url and the origin of this log", e.Got, e.Want)
}

// SignatureError says that no key of the log vouches for a checkpoint.
type SignatureError struct {
	Origin string
	Bad    *KeyID  // the known key whose signature line does not verify; nil when no line is by a known key
	Seen   []KeyID // the signature lines of the note, up to Bad
	Want   []KeyID // the keys that are known
}

func (e *SignatureError) Error() string {
	switch {
	case e.Bad != nil:
		return fmt.Sprintf("checkpoint of %q has a signature by %v that does not verify: it was altered, or signed by another key of the same ID", e.Origin, *e.Bad)
	case len(e.Want) == 0:
		return fmt.Sprintf("no key is known for %q (signed by %s): give its public key, or a trusted root that lists it", e.Origin, join(e.Seen))
	default:
		return fmt.Sprintf("checkpoint of %q is signed by %s, not by the known %s: if the log changed its key, update the trusted root or the public key", e.Origin, join(e.Seen), join(e.Want))
	}
}

func join(ids []KeyID) string {
	names := make([]string, len(ids))
	for i, id := range ids {
		names[i] = id.String()
	}
	return strings.Join(names, ", ")
}
