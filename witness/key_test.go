package witness

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"
)

// TestKeys: what is not a key, or a damaged one, is refused.
func TestKeys(t *testing.T) {
	for _, algorithm := range []string{Ed25519, MLDSA44} {
		private, _, err := GenerateKey("witness.test/w1", algorithm)
		if err != nil {
			t.Fatal(err)
		}
		for i := range private {
			b := []byte(private)
			if b[i] = 'A'; private[i] == 'A' {
				b[i] = 'B'
			}
			k, err := ParseKey(b)
			if err == nil && i < len(private)-2 { // the last characters have bits that mean nothing
				t.Errorf("%s key with another character %d is accepted as %s", algorithm, i, k.VKey())
			}
		}
	}
	for _, bad := range []string{"", "x", "PRIVATE+KEY+a+00000000+", "PRIVATE+KEY+a+00000000+AA==", "witness.test/w1+fc77bf1f+BCGgMEBQqBSVWH9uy5OTVh9nNqGG3H5xHuwFCmOfWL6m"} {
		if _, err := ParseKey([]byte(bad)); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
	for _, bad := range []string{"", "with space", "with+plus", "line\n"} {
		for _, algorithm := range []string{Ed25519, MLDSA44} {
			if _, _, err := GenerateKey(bad, algorithm); err == nil {
				t.Errorf("%s key of the name %q", algorithm, bad)
			}
		}
	}
	if _, _, err := GenerateKey("a", "rsa"); err == nil {
		t.Error("an RSA key")
	}
}

// FuzzRequest: what is accepted encodes to the same bytes.
func FuzzRequest(f *testing.F) {
	f.Add([]byte("old 0\n\nx"))
	f.Add([]byte("old 10\n" + strings.Repeat(base64.StdEncoding.EncodeToString(make([]byte, 32))+"\n", 63) + "\nlog\n1\n"))
	f.Add([]byte("old 18446744073709551615\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if again := body(r.old, r.proof, string(r.checkpoint)); !bytes.Equal(again, b) {
			t.Errorf("%q encodes to %q", b, again)
		}
	})
}

// FuzzLogList never panics, and a list that is read has an origin and a key for each log.
func FuzzLogList(f *testing.F) {
	f.Add([]byte("# x\nlogs/v0\n\nvkey a+00000000+AA\norigin none\nqpd 3\nvkey b+11111111+BB\norigin other name\ncontact x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		logs, err := ParseLogList(b)
		for _, l := range logs {
			if err == nil && (l.Origin == "" && !strings.HasPrefix(l.VKey, "+") || l.VKey == "") {
				t.Errorf("%+v", l)
			}
		}
	})
}
