package quorum

import (
	"crypto/elliptic"
	"strings"
	"testing"
)

func TestLists(t *testing.T) {
	parse := func(lines string) *Policy { return must(ParsePolicy([]byte(lines + "quorum none\n"))) }
	ours, other := logSigner.vkey(), plain("other.example")
	for _, tc := range []struct {
		name  string
		p     *Policy
		vkeys []string
		ok    bool
	}{
		{"no logs", parse(""), []string{ours}, true},
		{"ours", parse("log " + other + "\nlog " + ours + "\n"), []string{ours}, true},
		{"one of ours", parse("log " + ours + "\n"), []string{other, ours}, true},
		{"not ours", parse("log " + other + "\n"), []string{ours}, false},
		{"our name, another key", parse("log " + vkeyOf(origin, typeEd25519, newSigner("x", typeEd25519).public()) + "\n"), []string{ours}, false},
		{"our key, another name", parse("log " + vkeyOf("x", typeEd25519, logSigner.public()) + "\n"), []string{ours}, false},
		{"our key, another type", parse("log " + vkeyOf(origin, typeEd25519Cosi, logSigner.public()) + "\n"), []string{ours}, false},
		{"ECDSA of another name", parse("log " + ecdsaKey("a", elliptic.P256()) + "\n"), []string{ecdsaKey("b", elliptic.P256())}, false},
		{"no key", parse("log " + ours + "\n"), []string{"x"}, false},
	} {
		if err := tc.p.Lists(tc.vkeys...); (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

func TestVerify(t *testing.T) {
	a, b, m := newSigner("a.example", typeEd25519Cosi), newSigner("b.example", typeEd25519Cosi), newSigner("m.example", typeMLDSA44)
	text := textFor("", 9)
	signed := logSigner.line(text, 0)
	witnesses := "witness a " + a.vkey() + "\nwitness b " + b.vkey() + "\nwitness m " + m.vkey() + "\n"
	listed := "log " + logSigner.vkey() + "\n"
	two := witnesses + "group g 2 a b m\nquorum g\n"
	broken := []byte(a.line(text, 9))
	broken[len(broken)-6] ^= 1
	foreign := strings.Replace(text, origin, "other.example", 1)
	rekor := strings.Replace(text, origin, origin+" - 17", 1)
	zero := strings.Replace(text, origin, origin+" - 017", 1)
	for _, tc := range []struct {
		name, policy, note, want string
	}{
		{"quorum", listed + two, text + "\n" + signed + a.line(text, 9) + b.line(text, 9), ""},
		{"ML-DSA-44", listed + two, text + "\n" + signed + a.line(text, 9) + m.line(text, 9), ""},
		{"too few", listed + two, text + "\n" + signed + a.line(text, 9), "want 2 of (a, b, m), have a"},
		{"one twice", listed + two, text + "\n" + signed + a.line(text, 9) + a.line(text, 10), "lacks cosignatures"},
		{"nobody", listed + two, text + "\n" + signed, "have nobody"},
		{"of another text", listed + two, text + "\n" + signed + a.line(text, 9) + b.line(textFor("", 8), 9), "invalid signature"},
		{"damaged", listed + two, text + "\n" + signed + string(broken) + b.line(text, 9) + m.line(text, 9), "a.example"},
		{"without a time", listed + two, text + "\n" + signed + a.line(text, 0) + b.line(text, 9), "it has no time"},
		{"time out of range", listed + two, text + "\n" + signed + a.line(text, -9) + b.line(text, 9), "out of range"},
		{"log not listed", "log " + plain("other.example") + "\n" + two, text + "\n" + signed + a.line(text, 9) + b.line(text, 9), "signed by none"},
		{"not signed by the log", listed + two, text + "\n" + a.line(text, 9) + b.line(text, 9), "signed by none"},
		{"no log listed", two, text + "\n" + signed + a.line(text, 9) + b.line(text, 9), ""},
		{"a log of another origin", listed + "quorum none\n", foreign + "\n" + logSigner.line(foreign, 0), "signed by none"},
		{"Rekor v1", listed + "quorum none\n", rekor + "\n" + logSigner.line(rekor, 0), ""},
		{"not quite Rekor v1", listed + "quorum none\n", zero + "\n" + logSigner.line(zero, 0), "signed by none"},
		{"nothing needed, nobody known", "quorum none\n", text + "\n" + signed, ""},
		{"no note", "quorum none\n", text, "malformed"},
	} {
		p, err := ParsePolicy([]byte(tc.policy))
		if err != nil {
			t.Fatal(err)
		}
		err = p.Verify([]byte(tc.note))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s: got %v, want %q", tc.name, err, tc.want)
		}
	}
}
