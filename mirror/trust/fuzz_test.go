package trust

import (
	"bytes"
	"errors"
	"testing"
)

// FuzzParse: a checkpoint that is accepted encodes to the same bytes, and the
// library that clients use reads the same note.
func FuzzParse(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, n, err := parse(raw)
		if err != nil {
			if !isMalformed(err) {
				t.Fatalf("error of type %T", err)
			}
			return
		}
		if !bytes.Equal(encode(c, n.UnverifiedSigs), raw) || !bytes.Equal(c.Raw, raw) {
			t.Fatalf("accepted %q, encodes to %q", raw, encode(c, n.UnverifiedSigs))
		}
		if origin, err := Origin(raw); err != nil || origin != c.Origin {
			t.Fatalf("origin %q, %v", origin, err)
		}
		if _, err := Open(raw, c.Origin, nil); !isUnsigned(err) {
			t.Fatalf("opened with no key: %v", err)
		}
	})
}

func isUnsigned(err error) bool {
	_, ok := errors.AsType[*SignatureError](err)
	return ok
}

// FuzzParseKey: a key that is accepted says the same when it is encoded again.
func FuzzParseKey(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := ParseKey(data)
		if err != nil {
			return
		}
		v, err := k.verifier("example.com")
		if err != nil {
			t.Fatal(err)
		}
		if k.vkey != nil {
			if line := bytes.TrimSpace(data); !bytes.HasPrefix(line, []byte(keyID(v).String()+"+")) {
				t.Fatalf("accepted %q as %v", data, keyID(v))
			}
			return
		}
		again, err := ParseKey(pemOf(k.public))
		if err != nil || keyID(must(again.verifier("example.com"))) != keyID(v) {
			t.Fatalf("accepted %q, encodes to %q (%v)", data, pemOf(k.public), err)
		}
	})
}
