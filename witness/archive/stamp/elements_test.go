package stamp_test

import (
	"bytes"
	"encoding/asn1"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/witness/archive/stamp"
)

// element is a DER element, with its children if it is made of some.
type element struct {
	class, tag int
	content    []byte
	children   []*element
	compound   bool
}

func parseElements(der []byte) []*element {
	var elements []*element
	for len(der) > 0 {
		var raw asn1.RawValue
		der = must(asn1.Unmarshal(der, &raw))
		e := &element{class: raw.Class, tag: raw.Tag, content: raw.Bytes, compound: raw.IsCompound}
		if raw.IsCompound {
			e.children = parseElements(raw.Bytes)
		}
		elements = append(elements, e)
	}
	return elements
}

func (e *element) encode() []byte {
	content := e.content
	if e.compound {
		content = nil
		for _, child := range e.children {
			content = append(content, child.encode()...)
		}
	}
	return must(asn1.Marshal(asn1.RawValue{Class: e.class, Tag: e.tag, IsCompound: e.compound, Bytes: content}))
}

// TestElements takes elements away from responses, adds and doubles them, and exchanges neighbours,
// all with right lengths. What is accepted is what the package's documentation says.
func TestElements(t *testing.T) {
	a := newTSA(signerTemplate())
	old := issue(authorityTemplate("old root"), nil)
	cross := certify(authorityTemplate("test root"), a.root.key, &old)
	crossed := a.respond(func(d *draft) {
		d.status.Text = append(d.status.Text, text("Operation Okay"))
		d.certificates = append(d.certificates, cross.Certificate)
	})
	// Where these are in a response.
	const text, algorithms, certificates, signerHash, signerAlgorithm = "0.0.1", "0.1.1.0.1.0", "0.1.1.0.3", "0.1.1.0.4.0.2", "0.1.1.0.4.0.4"
	null := []string{"append to " + algorithms, "append to " + signerHash, "append to " + signerAlgorithm}
	for _, c := range []struct {
		name     string
		response []byte
		roots    stamp.Roots
		accepted []string // words to begin with
	}{
		{"by Sigstore's server", must(os.ReadFile("testdata/sigstore.tsr")), must(stamp.RootsFromPEM(must(os.ReadFile("testdata/sigstore.pem")))), slices.Concat(null, others(certificates, 1), others(certificates, 2))},
		{"by openssl", must(os.ReadFile("testdata/openssl.tsr")), must(stamp.RootsFromPEM(must(os.ReadFile("testdata/openssl.pem")))),
			append([]string{"drop " + algorithms + ".1", "drop " + signerHash + ".1", "drop " + signerAlgorithm + ".1"}, others(certificates, 1)...)},
		{"with text and a cross-certificate", crossed, must(stamp.RootsFromPEM(a.rootPEM())), slices.Concat(null, others(certificates, 1)[1:], others(certificates, 2),
			[]string{"drop " + text + "$", "double " + text + ".0$"},
			[]string{"drop " + certificates + ".2.0.", "double " + certificates + ".2.0.", "append to " + certificates + ".2.0", "exchange with the one before " + certificates + ".2.0."})},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := parseElements(c.response)[0]
			if !bytes.Equal(tree.encode(), c.response) {
				t.Fatal("it does not encode to itself")
			}
			var accepted []string
			try := func(what, path string) {
				if _, _, err := stamp.Verify(tree.encode(), digest, c.roots); err == nil {
					accepted = append(accepted, what+" "+path)
				}
			}
			tried := 0
			var mangle func(e *element, path string)
			mangle = func(e *element, path string) {
				if !e.compound {
					return
				}
				children := e.children
				for i, child := range children {
					at := fmt.Sprint(path, ".", i)
					e.children = slices.Delete(slices.Clone(children), i, i+1)
					try("drop", at)
					e.children = slices.Insert(slices.Clone(children), i, child)
					try("double", at)
					e.children = slices.Insert(slices.Clone(children), i, &element{tag: asn1.TagNull})
					try("insert before", at)
					if i > 0 && !bytes.Equal(child.encode(), children[i-1].encode()) {
						e.children = slices.Clone(children)
						e.children[i-1], e.children[i] = child, children[i-1]
						try("exchange with the one before", at)
					}
					e.children = children
					mangle(child, at)
					tried += 4
				}
				e.children = append(slices.Clone(children), &element{tag: asn1.TagNull})
				try("append to", path)
				e.children = children
			}
			mangle(tree, "0")
			for _, a := range accepted {
				if !slices.ContainsFunc(c.accepted, func(words string) bool { return begins(a, words) }) {
					t.Errorf("accepted: %s", a)
				}
			}
			for _, words := range c.accepted {
				if !slices.ContainsFunc(accepted, func(a string) bool { return begins(a, words) }) {
					t.Errorf("not accepted: %s: say so", words)
				}
			}
			if tried < 400 {
				t.Errorf("tried %d only", tried)
			}
		})
	}
}

// others are what may be done to the certificate n of a list, where it is not the signer's and the
// roots have it: the first only if they do.
func others(list string, n int) []string {
	at := fmt.Sprint(list, ".", n)
	return []string{"drop " + at + "$", "double " + at + "$", "exchange with the one before " + at + "$"}
}

// begins says whether s begins with words, or is these if they end in $.
func begins(s, words string) bool {
	whole, ok := strings.CutSuffix(words, "$")
	return ok && s == whole || !ok && strings.HasPrefix(s, words)
}
