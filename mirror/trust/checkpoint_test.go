package trust

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/transparency-dev/formats/log"
	sumdb "golang.org/x/mod/sumdb/note"
)

func TestOpenWhatRekorSigns(t *testing.T) {
	for _, kind := range kinds() {
		key, other := signingKeys()[kind], signingKeys()["P-256"]
		if kind == "P-256" {
			other = signingKeys()["Ed25519"]
		}
		for version, c := range map[string]struct {
			origin, base string
			note         []byte
		}{
			"v1": {v1Origin, "https://" + v1Host + ":8080/path", signV1(v1Host, key, textOf(v1Origin, "Timestamp: 1"))},
			"v2": {v2Origin, "http://" + v2Origin + ":3000", signV2(v2Origin, key, textOf(v2Origin, "Timestamp: 1"))},
		} {
			t.Run(version+" "+kind, func(t *testing.T) {
				r, err := ParseRoot(trustedRoot(t, map[string]crypto.PublicKey{c.base: key.Public()}))
				if err != nil {
					t.Fatal(err)
				}
				for name, keys := range map[string][]Key{"PEM": {pemKey(t, key)}, "root": r.Keys(c.origin)} {
					got, err := Open(c.note, c.origin, keys)
					if err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					if got.Origin != c.origin || got.Size != 1234 || got.Root != rootHash || !slices.Equal(got.Extensions, []string{"Timestamp: 1"}) || !bytes.Equal(got.Raw, c.note) {
						t.Errorf("%s: opened %+v", name, got)
					}
				}
				if _, err := Open(c.note, c.origin, []Key{pemKey(t, other)}); !changedKey(err) {
					t.Errorf("with another key: %v", err)
				}
				altered := bytes.Replace(c.note, []byte("\n1234\n"), []byte("\n1235\n"), 1)
				if _, err := Open(altered, c.origin, []Key{pemKey(t, key)}); !badSignature(err) {
					t.Errorf("altered: %v", err)
				}
			})
		}
	}
}

// changedKey says whether err is the diagnosis that the log signs with a key that
// is not known.
func changedKey(err error) bool {
	e, ok := errors.AsType[*SignatureError](err)
	return ok && e.Bad == nil && len(e.Seen) == 1 && len(e.Want) == 1 && e.Seen[0] != e.Want[0] &&
		strings.Contains(err.Error(), e.Seen[0].String()) && strings.Contains(err.Error(), e.Want[0].String())
}

func badSignature(err error) bool {
	e, ok := errors.AsType[*SignatureError](err)
	return ok && e.Bad != nil
}

func isMalformed(err error) bool {
	_, ok := errors.AsType[*MalformedError](err)
	return ok
}

// TestOpenHuge: what an evidence pack cannot say would hold up all of them.
func TestOpenHuge(t *testing.T) {
	key := signingKeys()["Ed25519"]
	for size, good := range map[string]bool{"9223372036854775807": true, "9223372036854775808": false, "18446744073709551615": false} {
		raw := signV2(v2Origin, key, strings.Replace(textOf(v2Origin), "\n1234\n", "\n"+size+"\n", 1))
		if _, err := Open(raw, v2Origin, []Key{pemKey(t, key)}); (err == nil) != good || !good && !isMalformed(err) {
			t.Errorf("size %s: %v", size, err)
		}
	}
}

func TestOpenVkey(t *testing.T) {
	skey, vkey, err := sumdb.GenerateKey(nil, "example.com/key")
	if err != nil {
		t.Fatal(err)
	}
	k, err := ParseKey([]byte(vkey + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	// The name of a verifier key need not be the origin: sum.golang.org signs for
	// "go.sum database tree".
	raw := must(sumdb.Sign(&sumdb.Note{Text: textOf("example.com log tree")}, must(sumdb.NewSigner(skey))))
	if _, err := Open(raw, "example.com log tree", []Key{k}); err != nil {
		t.Error(err)
	}
	ec := signingKeys()["P-256"]
	k, err = ParseKey([]byte(ecVkey(v2Origin, ec.Public())))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(signV2(v2Origin, ec, textOf(v2Origin)), v2Origin, []Key{k}); err != nil {
		t.Error(err)
	}
}

func TestOpenToleratesOtherLines(t *testing.T) {
	ed, ec := signingKeys()["Ed25519"], signingKeys()["P-256"]
	raw := signV2(v2Origin, ed, textOf(v2Origin))
	text, sig, _ := strings.Cut(string(raw), "\n\n")
	keys := []Key{pemKey(t, ed)}

	junk := func(name string, id string) string {
		return "— " + name + " " + base64.StdEncoding.EncodeToString([]byte(id+"not a signature")) + "\n"
	}
	own := must(base64.StdEncoding.DecodeString(strings.Fields(sig)[2]))
	anotherLine := strings.SplitAfter(string(signV2(v2Origin, ec, text+"\n")), "\n\n")[1]
	for name, sigs := range map[string]string{
		"witness after":           sig + junk("witness.example/w1", "abcd"),
		"witnesses before":        junk("witness.example/w1", "abcd") + junk("witness.example/w1", "abce") + sig,
		"unknown key, same name":  anotherLine + sig,
		"same key ID, other name": junk("bob.example", string(own[:4])) + sig,
		"99 others":               sig + many(99, junk),
	} {
		raw := []byte(text + "\n\n" + sigs)
		c, err := Open(raw, v2Origin, keys)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if !bytes.Equal(c.Raw, raw) {
			t.Errorf("%s: a line was lost", name)
		}
	}
	// ECDSA is randomised: one key, two good lines.
	twice := string(signV2(v2Origin, ec, text+"\n")) + anotherLine
	if _, err := Open([]byte(twice), v2Origin, []Key{pemKey(t, ec)}); err != nil {
		t.Errorf("two lines by one key: %v", err)
	}
	// Two keys are known while a log changes its key.
	if _, err := Open(raw, v2Origin, []Key{pemKey(t, ec), pemKey(t, ed)}); err != nil {
		t.Errorf("one of two keys: %v", err)
	}
	// A known key's signature does not count under another known key's name.
	swapped := slices.Concat(must(base64.StdEncoding.DecodeString(strings.Fields(anotherLine)[2]))[:4], own[4:])
	forged := []byte(text + "\n\n— " + v2Origin + " " + base64.StdEncoding.EncodeToString(swapped) + "\n")
	if _, err := Open(forged, v2Origin, []Key{pemKey(t, ec), pemKey(t, ed)}); !badSignature(err) {
		t.Errorf("one key's signature under another's ID: %v", err)
	}
	// A bad line by a known key is not outweighed by a good one, wherever it stands.
	for _, sigs := range []string{sig + junk(v2Origin, string(own[:4])), junk(v2Origin, string(own[:4])) + sig} {
		if _, err := Open([]byte(text+"\n\n"+sigs), v2Origin, keys); !badSignature(err) {
			t.Errorf("a bad line beside a good one: %v", err)
		}
	}
}

func many(n int, junk func(name, id string) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(junk("witness.example", fmt.Sprintf("%04d", i)))
	}
	return b.String()
}

func TestOpenRefuses(t *testing.T) {
	key := signingKeys()["Ed25519"]
	keys := []Key{pemKey(t, key)}
	sign := func(text string) string { return string(signV2(v2Origin, key, text)) }
	good := sign(textOf(v2Origin))
	_, sig, _ := strings.Cut(good, "\n\n")
	junk := func(name, id string) string {
		return "— " + name + " " + base64.StdEncoding.EncodeToString([]byte(id+"x")) + "\n"
	}
	loose := []byte(rootLine) // the last letter before '=' has two bits to spare
	loose[len(loose)-2]++

	for name, raw := range map[string]string{
		"empty":                   "",
		"leading zero":            sign(v2Origin + "\n01234\n" + rootLine + "\n"),
		"plus sign":               sign(v2Origin + "\n+1234\n" + rootLine + "\n"),
		"negative size":           sign(v2Origin + "\n-1234\n" + rootLine + "\n"),
		"size over 64 bits":       sign(v2Origin + "\n18446744073709551616\n" + rootLine + "\n"),
		"no size":                 sign(v2Origin + "\n" + rootLine + "\n"),
		"no root":                 sign(v2Origin + "\n1234\n"),
		"short root":              sign(v2Origin + "\n1234\n" + base64.StdEncoding.EncodeToString(rootHash[:31]) + "\n"),
		"long root":               sign(v2Origin + "\n1234\n" + base64.StdEncoding.EncodeToString(append(rootHash[:32:32], 0)) + "\n"),
		"root in loose base64":    sign(v2Origin + "\n1234\n" + string(loose) + "\n"),
		"empty extension line":    sign(textOf(v2Origin, "")),
		"empty line between":      sign(textOf(v2Origin, "a", "", "b")),
		"no signature":            textOf(v2Origin) + "\n",
		"no end of line":          strings.TrimSuffix(good, "\n"),
		"carriage returns":        strings.ReplaceAll(good, "\n", "\r\n"),
		"repeated signature line": good + sig,
		"loose signature base64":  strings.TrimSuffix(good, "=\n") + "\n",
		"text after signatures":   good + "and more\n",
		"100 other lines":         good + many(100, junk),
		"over 1 MiB":              sign(textOf(v2Origin, strings.Repeat("x", 1<<20))),
	} {
		if _, err := Open([]byte(raw), v2Origin, keys); !isMalformed(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Spare bits in the base64 of another's line: x/mod/sumdb/note lets them pass.
	line := []byte(junk("witness.example", "abcd"))
	if line[len(line)-3] != '=' {
		line[len(line)-3]++
	}
	if _, err := Open(append([]byte(good), line...), v2Origin, keys); !isMalformed(err) {
		t.Errorf("loose base64 in another's line: %v", err)
	}

	_, err := Open([]byte(good), "other.example", keys)
	if e, ok := errors.AsType[*OriginError](err); !ok || e.Got != v2Origin || e.Want != "other.example" {
		t.Errorf("other origin: %v", err)
	}
	_, err = Open([]byte(good), v2Origin, nil)
	if e, ok := errors.AsType[*SignatureError](err); !ok || e.Bad != nil || len(e.Seen) != 1 || len(e.Want) != 0 {
		t.Errorf("no key: %v", err)
	}
}

// Open must never be more lenient than the libraries that clients use.
func TestOpenAgainstFormats(t *testing.T) {
	key := signingKeys()["Ed25519"]
	k := pemKey(t, key)
	raw := signV2(v2Origin, key, textOf(v2Origin, "an extension"))
	for i := range raw {
		for _, flip := range []byte{1, 0x20, 0x80} {
			mangled := bytes.Clone(raw)
			mangled[i] ^= flip
			if c, err := Open(mangled, v2Origin, []Key{k}); err == nil {
				t.Fatalf("byte %d changed by %#x: opened %+v", i, flip, c)
			}
		}
	}
	got, err := Open(raw, v2Origin, []Key{k})
	if err != nil {
		t.Fatal(err)
	}
	want, rest, _, err := log.ParseCheckpoint(raw, v2Origin, must(k.verifier(v2Origin)))
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != want.Size || !bytes.Equal(got.Root[:], want.Hash) || strings.Join(got.Extensions, "\n")+"\n" != string(rest) {
		t.Errorf("opened %+v, formats %+v and %q", got, want, rest)
	}
}

func TestFrozen(t *testing.T) {
	key := signingKeys()["Ed25519"]
	for extension, want := range map[string]bool{
		"Log frozen — 2030-12-31": true,
		"Timestamp: 1":            false,
		"not Log frozen — today":  false,
	} {
		c, err := Open(signV2(v2Origin, key, textOf(v2Origin, "Timestamp: 2", extension)), v2Origin, []Key{pemKey(t, key)})
		if err != nil {
			t.Fatal(err)
		}
		if c.Frozen() != want || Frozen(c.Raw) != want {
			t.Errorf("%q: Frozen() = %v, of the bytes %v", extension, c.Frozen(), Frozen(c.Raw))
		}
	}
}

func TestOpenKeepsNoAlias(t *testing.T) {
	key := signingKeys()["Ed25519"]
	raw := signV2(v2Origin, key, textOf(v2Origin))
	c, err := Open(raw, v2Origin, []Key{pemKey(t, key)})
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if !strings.HasPrefix(string(c.Raw), v2Origin) {
		t.Error("Raw changed with the caller's buffer")
	}
}
