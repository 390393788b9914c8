package rpc

import (
	"slices"
	"testing"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// FuzzCursor: a page token that is taken is one that we would write, and no token makes a
// page begin with what the page before had.
func FuzzCursor(f *testing.F) {
	for _, c := range []cursor{{Place: "rekor"}, {Place: "rekor", Origin: "b", Index: 7}, {Place: "é\"", UUID: "bb"}, {Place: "x", Origin: "b", Index: 1<<64 - 1}} {
		f.Add(c.String())
	}
	f.Add("")
	held := func(origin string, index uint64) *understudyv1.SearchHit {
		return &understudyv1.SearchHit{Origin: origin, Index: &index, Held: true}
	}
	hits := []*understudyv1.SearchHit{held("b", 0), held("b", 7), held("b", 1<<64-1), held("a", 3), {Uuid: "aa"}, {Uuid: "bb"}}
	covered := []*understudyv1.SearchCoverage{{Origin: "b"}, {Origin: "a"}}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := parseCursor(token)
		if err != nil {
			return
		}
		if token != "" && c.String() != token {
			t.Errorf("token %q is %q when written", token, c)
		}
		rest, err := c.after(hits, covered)
		if err != nil {
			return
		}
		if start := len(hits) - len(rest); !slices.Equal(hits[start:], rest) {
			t.Errorf("token %q: %v is no end of the hits", token, rest)
		}
	})
	for i, hit := range hits {
		c := cursorAt("x", hit)
		if rest, err := c.after(hits, covered); err != nil || len(rest) != len(hits)-i-1 {
			f.Errorf("after hit %d: %v, %v", i, rest, err)
		}
	}
}

// TestDigests: a digest is hex of the length that its name says.
func TestDigests(t *testing.T) {
	hex := func(n int) string { return string(slices.Repeat([]byte("aB"), n/2)) }
	for text, want := range map[string]bool{
		hex(40): true, hex(64): true, hex(96): true, hex(128): true, "sha1:" + hex(40): true, "SHA256:" + hex(64): true, "sha384:" + hex(96): true, "sha512:" + hex(128): true,
		"": false, ":": false, "sha256:": false, "sha256:" + hex(40): false, "sha1:" + hex(64): false, "md5:" + hex(64): false, ":" + hex(64): false, hex(62): false,
		hex(64) + ":" + hex(64): false, "sha256:sha256:" + hex(64): false, "g" + hex(64)[1:]: false,
	} {
		if isDigest(text) != want {
			t.Errorf("%q: %v", text, !want)
		}
	}
}
