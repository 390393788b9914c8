package archive

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestFiles deletes, reorders, adds and exchanges whole files.
func TestFiles(t *testing.T) {
	w := newChain(t)
	p := w.packs[0]
	files, others := readTar(p.encoded), readTar(w.packs[1].encoded)
	mtime := p.m.Period.To.Unix()
	if !bytes.Equal(writeTar(files, mtime), p.encoded) {
		t.Fatal("the pack is not written again")
	}
	check := func(list []tarFile, mtime int64, format string, args ...any) {
		t.Helper()
		if r := w.verify(writeTar(list, mtime)); r.Good() {
			t.Errorf("good: "+format, args...)
		}
	}
	check(nil, mtime, "no files")
	check(files, mtime+1, "another time")
	for i, f := range files {
		check(slices.Delete(slices.Clone(files), i, i+1), mtime, "without %s", f.name)
		check(slices.Insert(slices.Clone(files), i, f), mtime, "%s twice", f.name)
		check(append(slices.Clone(files), f), mtime, "%s once more at the end", f.name)
		check(slices.Insert(slices.Clone(files), i, tarFile{"more", nil}), mtime, "a file before %s", f.name)
		if i > 0 {
			swapped := slices.Clone(files)
			swapped[i-1], swapped[i] = swapped[i], swapped[i-1]
			check(swapped, mtime, "%s before the one before it", f.name)
		}
		changed := slices.Clone(files)
		for name, content := range map[string][]byte{"longer": append(slices.Clone(f.content), 0), "empty": nil, "changed": append([]byte{f.content[0] ^ 1}, f.content[1:]...)} {
			changed[i].content = content
			check(changed, mtime, "%s is %s", f.name, name)
		}
		changed[i] = tarFile{f.name + "x", f.content}
		check(changed, mtime, "%s has another name", f.name)
		for _, other := range others {
			if other.name == f.name && !bytes.Equal(other.content, f.content) {
				changed[i] = other
				check(changed, mtime, "%s of another pack", f.name)
			}
		}
	}
	check(append(slices.Clone(files), tarFile{"zzz", nil}), mtime, "a file at the end")
}

// jsonNode is JSON with the order of its members.
type jsonNode struct {
	names  []string // of an object
	items  []*jsonNode
	scalar any
	open   json.Delim
}

func parseJSON(d *json.Decoder) *jsonNode {
	token := must(d.Token())
	n := &jsonNode{scalar: token}
	if open, ok := token.(json.Delim); ok {
		n.open = open
		for d.More() {
			if open == '{' {
				n.names = append(n.names, must(d.Token()).(string))
			}
			n.items = append(n.items, parseJSON(d))
		}
		must(d.Token())
	}
	return n
}

func (n *jsonNode) write(b *bytes.Buffer) {
	if number, ok := n.scalar.(json.Number); ok && n.open == 0 {
		b.WriteString(string(number)) // in any form
		return
	}
	if n.open == 0 {
		b.Write(must(json.Marshal(n.scalar)))
		return
	}
	b.WriteByte(byte(n.open))
	for i, item := range n.items {
		if i > 0 {
			b.WriteByte(',')
		}
		if n.open == '{' {
			b.Write(append(must(json.Marshal(n.names[i])), ':'))
		}
		item.write(b)
	}
	b.WriteByte(byte(n.open) + 2)
}

// mutate calls try after each change of one thing below n, which it undoes: always are changes that
// no verifier may overlook.
func (n *jsonNode) mutate(path string, try func(what string, always bool)) {
	if n.open == 0 {
		was := n.scalar
		for _, c := range n.others() {
			n.scalar = c
			_, isText := was.(string)
			_, stays := c.(string)
			_, isNumber := was.(json.Number)
			_, staysNumber := c.(json.Number)
			same := isText == stays && isNumber == staysNumber && was != nil && c != nil
			if _, isBool := was.(bool); isBool {
				_, same = c.(bool)
			}
			optional := path == ".to" && c == nil // of an outage
			try(fmt.Sprintf("%s: %v for %v", path, c, was), !same && !optional)
		}
		n.scalar = was
		return
	}
	names, items := n.names, n.items
	for i := range items {
		below := fmt.Sprintf("%s[]", path)
		if n.open == '{' {
			below = path + "." + names[i]
			for _, twice := range []int{0, len(items)} {
				n.names, n.items = slices.Insert(slices.Clone(names), twice, names[i]), slices.Insert(slices.Clone(items), twice, items[i])
				try(below+": twice", true)
			}
			n.names = slices.Delete(slices.Clone(names), i, i+1)
		}
		n.items = slices.Delete(slices.Clone(items), i, i+1)
		try(below+": removed", n.open == '{' && below != ".wanted.log")
		n.names, n.items = names, items
		items[i].mutate(below, try)
	}
	open := n.open
	n.open, n.names, n.items, n.scalar = 0, nil, nil, "x"
	try(path+": text for all of it", true)
	n.scalar = nil
	try(path+": null for all of it", path != ".previous" && !strings.HasSuffix(path, ".newest") && !strings.HasSuffix(path, ".quarantine"))
	n.open, n.names, n.items = open, names, items
}

// others are other values than that of n.
func (n *jsonNode) others() []any {
	switch v := n.scalar.(type) {
	case string:
		other := v + "x"
		if i := len(v) - 2; i > 0 && (v[i+1] == 'Z' || v[i+1] == '=') {
			other = v[:i] + string(v[i]^1) + v[i+1:]
		} else if regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(v) {
			other = v[:63] + string(v[63]^1)
		}
		return []any{other, json.Number("7"), nil, true}
	case json.Number:
		return []any{json.Number("1" + v), json.Number("0" + v), json.Number("9" + v), json.Number(v + ".0"), json.Number(v + "e0"), json.Number("-" + v), json.Number("9223372036854775808"), v.String(), nil}
	case bool:
		return []any{!v, "x", nil, json.Number("1")}
	}
	return []any{json.Number("7"), "x", true}
}

// said are the values that only the maker's signature stands for: another one, signed, is as good.
var said = regexp.MustCompile(`^(manifest\.json \.(archive\.vantage|built|period\.from: 2026-03-01T01|period\.(to|time_zone|schedule)|time_stamping_authority|notes\[\]|previous\.name: .*tarx for|logs\[\]\.(name|folder: logs/tilesx for|keys\[\]|cosigners\[\]: removed|quarantine: null.*|quarantine\.(reason|at))|reports\.list\[\]\.(at|place)|trust\[\]\.(from|to: .*Z for .*Z))|` +
	`entries\.jsonl \.(wanted\.(digest|identity|uuid|index): .*x for|wanted\.log: removed|looked|complete|found\[\]: removed)|` +
	`outages\.jsonl \.(from|to|text|origin: removed)|` +
	`logs/.*/checkpoints\.jsonl \.(last_seen|cosignatures\[\]: removed))`)

// TestFields changes everything in all JSON, with and without hashing and signing it again.
func TestFields(t *testing.T) {
	if testing.Short() {
		t.Skip("many packs")
	}
	w := newChain(t)
	tried, passed := 0, 0
	for i, p := range w.packs[:2] {
		pack, files := p.encoded, p.files()
		front := readTar(pack)
		files[manifestFile] = front[0].content
		for _, name := range slices.Sorted(maps.Keys(files)) {
			isLines := strings.HasSuffix(name, ".jsonl")
			if !isLines && name != manifestFile && !strings.HasSuffix(name, "place.json") {
				continue
			}
			parts := [][]byte{files[name]}
			if isLines {
				parts = bytes.SplitAfter(files[name], []byte("\n"))
				parts = parts[:len(parts)-1]
			}
			for j := range parts {
				d := json.NewDecoder(bytes.NewReader(parts[j]))
				d.UseNumber()
				n := parseJSON(d)
				n.mutate("", func(what string, always bool) {
					var b bytes.Buffer
					n.write(&b)
					if b.WriteByte('\n'); bytes.Equal(b.Bytes(), parts[j]) {
						return
					}
					changed := slices.Clone(parts)
					changed[j] = b.Bytes()
					tried++
					what = name + " " + what
					r := w.verify(append(w.encoded()[:i:i], p.replaced(name, bytes.Join(changed, nil), files))...)
					if !r.Good() {
						return
					}
					if passed++; always || !said.MatchString(what) {
						t.Errorf("pack %d: good, though signed with: %s", i+1, what)
					}
				})
			}
		}
		p.encoded = pack
		p.manifest = sha256.Sum256(front[0].content)
	}
	t.Logf("%d changes, of which %d are of what is only said", tried, passed)
}

// replaced is the pack with another file, hashed and signed.
func (p *testPack) replaced(name string, content []byte, files map[string][]byte) []byte {
	p.m.Files = []File{}
	listed := maps.Clone(files)
	delete(listed, manifestFile)
	if name == manifestFile {
		return p.encodeManifest(content, listed)
	}
	listed[name] = content
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		p.m.Files = append(p.m.Files, File{name, int64(len(listed[name])), sha256.Sum256(listed[name])})
	}
	return p.encodeManifest(must(json.MarshalIndent(p.m, "", " ")), listed)
}
