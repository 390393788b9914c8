package quorum

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func cosi(name string) string  { return newSigner(name, typeEd25519Cosi).vkey() }
func mldsa44(n string) string  { return newSigner(n, typeMLDSA44).vkey() }
func plain(name string) string { return newSigner(name, typeEd25519).vkey() }

// derOf returns one key for each curve.
var derOf = map[elliptic.Curve]func() []byte{elliptic.P224(): newDER(elliptic.P224()), elliptic.P256(): newDER(elliptic.P256())}

func newDER(curve elliptic.Curve) func() []byte {
	return sync.OnceValue(func() []byte {
		return must(x509.MarshalPKIXPublicKey(&must(ecdsa.GenerateKey(curve, rand.Reader)).PublicKey))
	})
}

func ecdsaKey(name string, curve elliptic.Curve) string {
	der := derOf[curve]()
	sum := sha256.Sum256(der)
	return fmt.Sprintf("%s+%x+%s", name, sum[:4], base64.StdEncoding.EncodeToString(append([]byte{typeECDSA}, der...)))
}

// example is that of the specification.
func example() string {
	s := "log " + plain("log.example.com") + "\n\n"
	for _, g := range []string{"X", "Y"} {
		for i := range 3 {
			name := g + strconv.Itoa(i+1)
			s += "witness " + name + " " + cosi(name+".example.com") + "\n"
		}
		s += "group " + g + "-witnesses " + map[string]string{"X": "2", "Y": "any"}[g] + " " + g + "1 " + g + "2 " + g + "3\n\n"
	}
	return s + "group X-and-Y all X-witnesses Y-witnesses\nquorum X-and-Y\n"
}

func TestParsePolicy(t *testing.T) {
	a, b, c := "witness a "+cosi("a.example")+"\n", "witness b "+cosi("b.example")+"\n", "witness c "+mldsa44("c.example")+"\n"
	seven := newSigner("seven", typeEd25519)
	key := func(edit func(parts []string)) string {
		parts := strings.SplitN(cosi("a.example"), "+", 3)
		edit(parts)
		return "witness a " + strings.Join(parts, "+") + "\nquorum none\n"
	}
	raw := func(kind byte, public []byte) string { return vkeyOf("k.example", kind, public) }
	many := func(n int, line func(i int) string) (s string) {
		for i := range n {
			s += line(i) + "\n"
		}
		return s + "quorum none\n"
	}
	manyWitnesses := func(i int) string { return fmt.Sprintf("witness w%d %s", i, cosi(fmt.Sprint("w", i))) }
	manyLogs := func(i int) string { return "log " + plain(fmt.Sprint("l", i)) }
	manyGroups := func(i int) string {
		if i == 0 {
			return a + "group g0 1 a"
		}
		return fmt.Sprintf("group g%d all g%d", i, i-1)
	}
	for _, tc := range []struct{ name, policy, want string }{ // want: "" is accepted, or what the error has
		{"example", example(), ""},
		{"none alone", "quorum none\n", ""},
		{"witness as quorum", a + "quorum a\n", ""},
		{"ML-DSA-44", c + "quorum c\n", ""},
		{"white space and comments", " \t\n# c\n\t #c\n\twitness \t a\t" + cosi("a.example") + "  https://a/ \t\nquorum a \n", ""},
		{"octets", "# \x80\xff é\nwitness \xe2\x84\xaa " + cosi("é.example") + " https://é/\nwitness K " + cosi("b") + "\nwitness \xff " + cosi("c") + "\nquorum \xe2\x84\xaa\n", ""},
		{"no newline at the end", "quorum none", "line 1 of the policy: it does not end with a newline"},
		{"empty", "", "no line that says what the quorum is"},
		{"no quorum", a, "no line that says what the quorum is"},
		{"carriage return", a + "quorum a\r\n", "line 2 of the policy: a carriage return"},
		{"NUL", "# \x00\nquorum none\n", "line 1 of the policy: control character 0x00"},
		{"DEL in a comment", "# \x7f\nquorum none\n", "control character 0x7f"},
		{"vertical tab", "quorum\vnone\n", "control character 0x0b"},
		{"form feed", "quorum\fnone\n", "control character 0x0c"},
		{"no-break space is no white space", "quorum\u00a0none\n", "is not the beginning of a line"},
		{"upper case", "Quorum none\n", "is not the beginning of a line"},
		{"comment after items", "quorum none # nobody\n", "want quorum <name>"},
		{"name that begins with #", "witness #a " + cosi("a.example") + "\nquorum #a\n", ""},

		{"log", "log " + plain("l.example") + "\nlog " + cosi("m.example") + " https://m\nlog " + mldsa44("n.example") + "\nquorum none\n", ""},
		{"log with ECDSA", "log " + ecdsaKey("e", elliptic.P256()) + "\nquorum none\n", ""},
		{"log with P-224", "log " + ecdsaKey("e", elliptic.P224()) + "\nquorum none\n", "its curve is none of"},
		{"log without a key", "log\nquorum none\n", "want log <vkey> [<url>]"},
		{"log with three items", "log " + plain("l") + " u v\nquorum none\n", "want log <vkey> [<url>]"},
		{"duplicate log", "log " + plain("l") + "\nlog " + plain("l") + "\nquorum none\n", "line 2 of the policy: the public key"},
		{"duplicate log of another name and type", "log " + vkeyOf("l", typeEd25519, seven.public()) + "\nlog " + vkeyOf("m", typeEd25519Cosi, seven.public()) + "\nquorum none\n", "line 2 of the policy: the public key"},
		{"log and witness of one key", "log " + cosi("a.example") + "\n" + a + "quorum a\n", ""},

		{"witness without a key", "witness a\nquorum none\n", "want witness <name> <vkey> [<url>]"},
		{"witness with four items", "witness a " + cosi("a") + " u v\nquorum none\n", "want witness <name> <vkey> [<url>]"},
		{"witness with a plain key", "witness a " + plain("a.example") + "\nquorum none\n", "is of type 0x01"},
		{"witness with ECDSA", "witness a " + ecdsaKey("e", elliptic.P256()) + "\nquorum none\n", "is of type 0x02"},
		{"duplicate witness of another name", "witness a " + vkeyOf("l", typeEd25519Cosi, seven.public()) + "\nwitness b " + vkeyOf("m", typeEd25519Cosi, seven.public()) + "\nquorum none\n", `line 2 of the policy: the witness "b" has the public key of the witness "a"`},
		{"two witnesses of one name", a + "witness a " + cosi("b") + "\nquorum none\n", `the name "a" is defined already`},
		{"witness none", "witness none " + cosi("b") + "\nquorum none\n", "the name none has a meaning"},

		{"group any", a + b + "group g any a b\nquorum g\n", ""},
		{"group of a group", a + b + "group g 1 a\ngroup h all g b\nquorum h\n", ""},
		{"words as names", "witness any " + cosi("a") + "\nwitness 2 " + cosi("b") + "\ngroup all 2 any 2\nquorum all\n", ""},
		{"group without members", a + "group g any\nquorum none\n", "with one member at least"},
		{"group of none", a + "group g any none\nquorum none\n", "none is no member"},
		{"group named none", a + "group none any a\nquorum none\n", "the name none has a meaning"},
		{"group with the name of a witness", a + b + "group a any b\nquorum none\n", "share their names"},
		{"group of what comes later", a + "group g any a b\n" + b + "quorum g\n", `line 2 of the policy: no line before this one defines "b"`},
		{"group of itself", a + "group g any a g\nquorum g\n", "no line before this one"},
		{"member twice", a + "group g any a a\nquorum g\n", "is a member of a group already"},
		{"member of two groups", a + b + "group g any a\ngroup h any a b\nquorum h\n", "line 4 of the policy: \"a\" is a member"},
		{"group in two groups", a + b + "group g any a\ngroup h any g\ngroup i any g b\nquorum i\n", "is a member of a group already"},
		{"k = n", a + b + "group g 2 a b\nquorum g\n", ""},
		{"k = 0", a + "group g 0 a\nquorum g\n", "can never be had"},
		{"k = n + 1", a + "group g 2 a\nquorum g\n", "can never be had"},
		{"k negative", a + "group g -1 a\nquorum g\n", "can never be had"},
		{"k with a sign", a + "group g +1 a\nquorum g\n", "nor a decimal number"},
		{"k with a zero in front", a + "group g 01 a\nquorum g\n", "nor a decimal number"},
		{"k in hex", a + "group g 0x1 a\nquorum g\n", "nor a decimal number"},
		{"k huge", a + "group g 18446744073709551617 a\nquorum g\n", "nor a decimal number"},
		{"k upper case", a + "group g ALL a\nquorum g\n", "nor a decimal number"},

		{"quorum of nobody known", "quorum a\n", "no line before this one"},
		{"quorum before its witness", "quorum a\n" + a, "line 1 of the policy: no line before this one"},
		{"quorum without a name", "quorum\n", "want quorum <name>"},
		{"quorum of two", a + b + "quorum a b\n", "want quorum <name>"},
		{"two quorums", a + "quorum a\nquorum a\n", "line 3 of the policy: a second quorum"},
		{"none and a quorum", a + "quorum none\nquorum a\n", "a second quorum"},
		{"witness after the quorum", a + "quorum a\n" + b, ""},

		{"key ID wrong", key(func(p []string) { p[1] = "00000000" }), "it was damaged"},
		{"key ID in upper case", key(func(p []string) { p[1] = strings.ToUpper(p[1]) }), "it was damaged"},
		{"key ID short", key(func(p []string) { p[1] = p[1][1:] }), "line 1 of the policy"},
		{"key without base64", key(func(p []string) { p[2] = "" }), "not in base64"},
		{"key with too much base64", key(func(p []string) { p[2] += "=" }), "not in base64"},
		{"key with loose base64", "witness c " + loosen(mldsa44("c.example")) + "\nquorum none\n", "not in base64"},
		{"key without a name", key(func(p []string) { p[0] = "" }), "a key cannot be named"},
		{"key name with a Unicode space", "log " + strings.Replace(ecdsaKey("a", elliptic.P256()), "a", "a\u00a0b", 1) + "\nquorum none\n", "a key cannot be named"},
		{"key name not UTF-8", "log " + strings.Replace(ecdsaKey("a", elliptic.P256()), "a", "\xff", 1) + "\nquorum none\n", "a key cannot be named"},
		{"not a key", "witness a b\nquorum none\n", "not a verifier key"},
		{"key too short", "witness a " + raw(typeEd25519Cosi, seven.public()[1:]) + "\nquorum none\n", "line 1 of the policy"},
		{"ML-DSA-44 key too short", "witness a " + raw(typeMLDSA44, seven.public()) + "\nquorum none\n", "line 1 of the policy"},
		{"unknown type", "log " + raw(0xff, seven.public()) + "\nquorum none\n", "signature type 0xff is not known"},
		{"ECDSA that is no DER", "log " + raw(typeECDSA, seven.public()) + "\nquorum none\n", "not a public key in DER"},
		{"ML-DSA-44 with 255 bytes of name", "witness a " + mldsa44(strings.Repeat("n", 255)) + "\nquorum none\n", ""},
		{"ML-DSA-44 with 256 bytes of name", "witness a " + mldsa44(strings.Repeat("n", 256)) + "\nquorum none\n", "a name of 256 bytes"},

		{"32 witnesses", many(32, manyWitnesses), ""},
		{"32 logs", many(32, manyLogs), ""},
		{"32 groups", many(32, manyGroups), ""},
		{"32 witnesses with ML-DSA-44", many(32, func(i int) string { return fmt.Sprintf("witness w%d %s", i, mldsa44(fmt.Sprint("w", i))) }), ""},
		{"65 witnesses", many(65, manyWitnesses), "line 65 of the policy: more than 64 witnesses"},
		{"65 logs", many(65, manyLogs), "more than 64 logs"},
		{"65 groups", many(65, manyGroups), "more than 64 groups"},
		{"huge", "#" + strings.Repeat(" ", maxPolicy) + "\nquorum none\n", "is the most"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := ParsePolicy([]byte(tc.policy))
			switch {
			case tc.want == "" && err != nil:
				t.Fatal(err)
			case tc.want == "":
				checkLaw(t, tc.policy, p)
			case err == nil || !strings.Contains(err.Error(), tc.want):
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}

// loosen sets bits of base64 that encode nothing.
func loosen(s string) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	trimmed := strings.TrimRight(s, "=")
	last := strings.IndexByte(alphabet, trimmed[len(trimmed)-1])
	return trimmed[:len(trimmed)-1] + string(alphabet[last+1]) + s[len(trimmed):]
}

// TestAmbiguous needs a collision of 32 bits, so it makes the keys by hand.
func TestAmbiguous(t *testing.T) {
	k := must(parseKey(cosi("a.example")))
	twin := *k
	twin.public = "another"
	for _, p := range []*Policy{{logs: []log{{key: k}}}, {witnesses: []witness{{key: k}}}} {
		if err := (&parser{policy: p}).unambiguous(&twin); err == nil {
			t.Error("two keys of one name and ID were accepted")
		}
		if err := (&parser{policy: p}).unambiguous(k); err != nil {
			t.Error(err)
		}
	}
}

// encode writes a policy, with numbers as thresholds.
func encode(p *Policy) string {
	var b strings.Builder
	for _, l := range p.logs {
		fmt.Fprintln(&b, strings.TrimRight("log "+l.vkey+" "+l.url, " "))
	}
	for _, w := range p.witnesses {
		fmt.Fprintln(&b, strings.TrimRight("witness "+w.name+" "+w.vkey+" "+w.url, " "))
	}
	for _, g := range p.groups {
		fmt.Fprintf(&b, "group %s %d", g.name, g.k)
		for _, m := range g.members {
			b.WriteString(" " + m.name)
		}
		b.WriteString("\n")
	}
	name := none
	if p.quorum != nil {
		name = p.quorum.name
	}
	return b.String() + "quorum " + name + "\n"
}

// checkLaw holds that nothing of what was accepted is lost or invented: but for white space,
// comments, order and words for thresholds the policy encodes to what was read, and reading that
// changes nothing.
func checkLaw(t *testing.T, data string, p *Policy) {
	t.Helper()
	encoded := encode(p)
	again, err := ParsePolicy([]byte(encoded))
	if err != nil {
		t.Fatalf("re-encoded: %v", err)
	}
	if encode(again) != encoded || again.want() != p.want() {
		t.Errorf("not stable: %q", encoded)
	}
	var lines []string
	for _, line := range strings.Split(data, "\n") {
		var items []string
		for _, item := range strings.Split(strings.ReplaceAll(line, "\t", " "), " ") {
			if item != "" {
				items = append(items, item)
			}
		}
		if len(items) == 0 || strings.HasPrefix(items[0], "#") {
			continue
		}
		if items[0] == "group" && items[2] == "all" {
			items[2] = strconv.Itoa(len(items) - 3)
		} else if items[0] == "group" && items[2] == "any" {
			items[2] = "1"
		}
		lines = append(lines, strings.Join(items, " "))
	}
	want := strings.Split(strings.TrimSuffix(encoded, "\n"), "\n")
	slices.Sort(want)
	slices.Sort(lines)
	if !slices.Equal(lines, want) {
		t.Errorf("got  %q\nwant %q", want, lines)
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(example()))
	f.Fuzz(func(t *testing.T, data []byte) {
		if p, err := ParsePolicy(data); err == nil {
			checkLaw(t, string(data), p)
		}
	})
}

// TestQuorum holds quorums of random groups, for all subsets of witnesses, against an evaluator
// that works on names.
func TestQuorum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		witnesses := rapid.IntRange(1, 7).Draw(t, "witnesses")
		var text strings.Builder
		var free []string // not yet members
		for i := range witnesses {
			fmt.Fprintf(&text, "witness w%d %s\n", i, cosi(fmt.Sprint("w", i)))
			free = append(free, fmt.Sprint("w", i))
		}
		type group struct {
			k       int
			members []string
		}
		groups := map[string]group{}
		last := free[0]
		for i := range rapid.IntRange(0, 5).Draw(t, "groups") {
			free = rapid.Permutation(free).Draw(t, "order")
			n := rapid.IntRange(1, len(free)).Draw(t, "n")
			g := group{rapid.IntRange(1, n).Draw(t, "k"), free[:n]}
			word := strconv.Itoa(g.k)
			if g.k == n && rapid.Bool().Draw(t, "all") {
				word = "all"
			} else if g.k == 1 && rapid.Bool().Draw(t, "any") {
				word = "any"
			}
			last = fmt.Sprint("g", i)
			groups[last] = g
			fmt.Fprintf(&text, "group %s %s %s\n", last, word, strings.Join(g.members, " "))
			free = append(slices.Clone(free[n:]), last)
		}
		quorum := rapid.SampledFrom([]string{none, "w0", last}).Draw(t, "quorum")
		p, err := ParsePolicy([]byte(text.String() + "quorum " + quorum + "\n"))
		if err != nil {
			t.Fatal(err)
		}
		for subset := range 1 << witnesses {
			have := func(i int) bool { return subset>>i&1 == 1 }
			var naive func(name string) int
			naive = func(name string) int {
				if g, ok := groups[name]; ok {
					count := 0
					for _, m := range g.members {
						count += naive(m)
					}
					return min(count/g.k, 1)
				}
				i, _ := strconv.Atoi(name[1:])
				return subset >> i & 1
			}
			if want := quorum == none || naive(quorum) == 1; p.satisfied(have) != want {
				t.Fatalf("subset %b of\n%squorum %s: %t", subset, text.String(), quorum, !want)
			}
		}
	})
}
