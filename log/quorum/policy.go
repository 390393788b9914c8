package quorum

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxPolicy bounds a policy file in bytes, and maxListed its logs, witnesses and groups each.
// SPEC: "It is strongly recommended that an implementation supports at least up to 32 logs, 32
// witnesses, and 32 groups." (tlog-policy)
const (
	maxPolicy = 1 << 20
	maxListed = 64
)

// none is the name of the quorum that needs nobody.
const none = "none"

// Policy is a policy file (https://c2sp.org/tlog-policy). It is made by [ParsePolicy] and does not
// change.
type Policy struct {
	logs      []log
	witnesses []witness
	groups    []*node
	quorum    *node // nil: none
}

type log struct {
	*key
	url string
}

type witness struct {
	*key
	name string // in the policy; that of the key is another
	url  string
}

// node is a witness or a group.
type node struct {
	name    string
	witness int     // index in Policy.witnesses, unless it is a group
	k       int     // how many of the members of a group it takes; 0: a witness
	members []*node // of a group
	member  bool    // of a group
}

// satisfied reports whether those witnesses that have reports are enough.
// SPEC: "the group is considered to witness a checkpoint if and only if at least k of its n
// members have witnessed that checkpoint, each group member being either a witness or another
// group." (tlog-policy)
func (n *node) satisfied(have func(witness int) bool) bool {
	if n.k == 0 {
		return have(n.witness)
	}
	count := 0
	for _, m := range n.members {
		if m.satisfied(have) {
			count++
		}
	}
	return count >= n.k
}

// String says in words what it takes: "a", "2 of (a, b, c)".
func (n *node) String() string {
	if n.k == 0 {
		return n.name
	}
	names := make([]string, len(n.members))
	for i, m := range n.members {
		names[i] = m.String()
	}
	return fmt.Sprintf("%d of (%s)", n.k, strings.Join(names, ", "))
}

// satisfied reports whether those witnesses that have reports are the quorum.
func (p *Policy) satisfied(have func(witness int) bool) bool {
	return p.quorum == nil || p.quorum.satisfied(have)
}

// want says in words what the quorum is.
func (p *Policy) want() string {
	if p.quorum == nil {
		return none
	}
	return p.quorum.String()
}

// ParsePolicy reads a policy file, as strictly as https://c2sp.org/tlog-policy says. An error
// names the line.
func ParsePolicy(data []byte) (*Policy, error) {
	if len(data) > maxPolicy {
		return nil, fmt.Errorf("the policy has %d bytes: %d is the most", len(data), maxPolicy)
	}
	p := &parser{policy: &Policy{}, names: map[string]*node{}}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		if err := p.line(line); err != nil {
			return nil, fmt.Errorf("line %d of the policy: %w", number, err)
		}
	}
	// SPEC: "A policy file must include exactly one quorum line." (tlog-policy)
	if !p.quorum {
		return nil, errors.New("the policy has no line that says what the quorum is: end it with \"quorum <name>\", or with \"quorum none\" to need no witness")
	}
	return p.policy, nil
}

type parser struct {
	policy *Policy
	// SPEC: "Witnesses and groups share a single namespace." (tlog-policy) Names are octets, and
	// compared as such.
	names  map[string]*node
	quorum bool // there was a quorum line
}

func (p *parser) line(line string) error {
	// SPEC: "The policy file is line based, where each line is terminated by ASCII newline"
	// (tlog-policy). A file that was cut off would otherwise have another quorum.
	line, ok := strings.CutSuffix(line, "\n")
	if !ok {
		return errors.New("it does not end with a newline: see whether the file was cut off")
	}
	// SPEC: "the allowed octet values are 0x09 (tab), 0x0A (newline), 0x20-0x7E, and 0x80-0xFF."
	// (tlog-policy), which holds in comments, too.
	if i := strings.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }); i >= 0 {
		if line[i] == '\r' {
			return errors.New("a carriage return: lines end with a newline alone")
		}
		return fmt.Errorf("control character %#02x", line[i])
	}
	// SPEC: "the items on each line are separated by 'whitespace', which in this specification
	// means sequences of ASCII space and tab characters only. Leading and trailing whitespace is
	// allowed." (tlog-policy)
	items := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' })
	// SPEC: "Empty lines (whitespace only) and comment lines (lines starting with '#', possibly
	// preceded by whitespace) are allowed and ignored." (tlog-policy) There are no other comments.
	if len(items) == 0 || items[0][0] == '#' {
		return nil
	}
	switch items[0] {
	case "log":
		return p.log(items[1:])
	case "witness":
		return p.witness(items[1:])
	case "group":
		return p.group(items[1:])
	case "quorum":
		return p.setQuorum(items[1:])
	}
	return fmt.Errorf("%q is not the beginning of a line: want log, witness, group, quorum or #", items[0])
}

// SPEC: "log <vkey> [<url>]" (tlog-policy)
func (p *parser) log(items []string) error {
	if len(items) != 1 && len(items) != 2 {
		return errors.New("want log <vkey> [<url>]")
	}
	k, err := parseKey(items[0])
	if err != nil {
		return err
	}
	// SPEC: "Duplicate logs, i.e., multiple log lines with the same public key, are not allowed."
	// (tlog-policy)
	if slices.ContainsFunc(p.policy.logs, func(other log) bool { return other.public == k.public }) {
		return fmt.Errorf("the public key of the log %q is that of another log, too", k.Name())
	}
	if len(p.policy.logs) == maxListed {
		return fmt.Errorf("more than %d logs", maxListed)
	}
	if err := p.unambiguous(k); err != nil {
		return err
	}
	p.policy.logs = append(p.policy.logs, log{k, optional(items, 1)})
	return nil
}

// SPEC: "witness <name> <vkey> [<url>]" (tlog-policy)
func (p *parser) witness(items []string) error {
	if len(items) != 2 && len(items) != 3 {
		return errors.New("want witness <name> <vkey> [<url>]")
	}
	k, err := parseKey(items[1])
	if err != nil {
		return err
	}
	// SPEC: "Log and witness keys must use a signature type approprate respective function, see
	// tlog-checkpoint and tlog-cosignature." (tlog-policy)
	if k.kind != typeEd25519Cosi && k.kind != typeMLDSA44 {
		return fmt.Errorf("the key of the witness %q is of type %#02x: cosignatures have type %#02x (Ed25519) or %#02x (ML-DSA-44)", items[0], k.kind, typeEd25519Cosi, typeMLDSA44)
	}
	// SPEC: "Duplicate witnesses, i.e., multiple witness lines with the same public key, are not
	// allowed." (tlog-policy)
	if i := slices.IndexFunc(p.policy.witnesses, func(other witness) bool { return other.public == k.public }); i >= 0 {
		return fmt.Errorf("the witness %q has the public key of the witness %q", items[0], p.policy.witnesses[i].name)
	}
	if len(p.policy.witnesses) == maxListed {
		return fmt.Errorf("more than %d witnesses", maxListed)
	}
	if err := p.unambiguous(k); err != nil {
		return err
	}
	if err := p.define(&node{name: items[0], witness: len(p.policy.witnesses)}); err != nil {
		return err
	}
	p.policy.witnesses = append(p.policy.witnesses, witness{k, items[0], optional(items, 2)})
	return nil
}

// SPEC: "group <name> all <name>..., group <name> any <name>..., group <name> <k> <name>..."
// (tlog-policy)
func (p *parser) group(items []string) error {
	// SPEC: "At least one member must be listed (i.e., n >= 1)." (tlog-policy)
	if len(items) < 3 {
		return errors.New("want group <name> all|any|<k> <name>..., with one member at least")
	}
	g := &node{name: items[0]}
	for _, name := range items[2:] {
		// SPEC: "The special name none is predefined; it can be used when defining the quorum, but
		// it is invalid as a group member." (tlog-policy)
		if name == none {
			return errors.New("none is no member of a group")
		}
		m, err := p.find(name)
		if err != nil {
			return err
		}
		// SPEC: "Each defined name can be listed as a group member at most once." (tlog-policy)
		if m.member {
			return fmt.Errorf("%q is a member of a group already", name)
		}
		m.member = true
		g.members = append(g.members, m)
	}
	var err error
	if g.k, err = threshold(items[1], len(g.members)); err != nil {
		return err
	}
	if len(p.policy.groups) == maxListed {
		return fmt.Errorf("more than %d groups", maxListed)
	}
	if err := p.define(g); err != nil {
		return err
	}
	p.policy.groups = append(p.policy.groups, g)
	return nil
}

// threshold returns how many of n members it takes.
func threshold(word string, n int) (int, error) {
	switch word {
	case "any": // SPEC: "The any variant is a shorthand for k = 1" (tlog-policy)
		return 1, nil
	case "all": // SPEC: "the all variant is a shorthand for k = n" (tlog-policy)
		return n, nil
	}
	// SPEC: "If k is given numerically, it must be written in decimal, and it is required that
	// 1 <= k <= n." (tlog-policy)
	k, err := strconv.Atoi(word)
	if err != nil || strconv.Itoa(k) != word {
		return 0, fmt.Errorf("%q is neither all, any, nor a decimal number", word)
	}
	if k < 1 || k > n {
		return 0, fmt.Errorf("%d of %d members can never be had: want 1 to %d", k, n, n)
	}
	return k, nil
}

// SPEC: "quorum <name>" (tlog-policy)
func (p *parser) setQuorum(items []string) error {
	if len(items) != 1 {
		return errors.New("want quorum <name>")
	}
	// SPEC: "A policy file must include exactly one quorum line." (tlog-policy)
	if p.quorum {
		return errors.New("a second quorum")
	}
	p.quorum = true
	// SPEC: "To not require any cosignatures at all, one can use the predefined name none"
	// (tlog-policy)
	if items[0] == none {
		return nil
	}
	var err error
	p.policy.quorum, err = p.find(items[0])
	return err
}

// define gives a witness or a group its name.
func (p *parser) define(n *node) error {
	if n.name == none {
		return errors.New("the name none has a meaning already: nobody")
	}
	if p.names[n.name] != nil {
		return fmt.Errorf("the name %q is defined already; witnesses and groups share their names", n.name)
	}
	p.names[n.name] = n
	return nil
}

// SPEC: "A line defining a group can only reference names of groups and witnesses defined on
// preceding lines. Similarly, the quorum line must specify a witness or group defined earlier."
// (tlog-policy)
func (p *parser) find(name string) (*node, error) {
	if n := p.names[name]; n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no line before this one defines %q", name)
}

// unambiguous refuses a key that cannot be told from another one.
// SPEC: "The tuple of key name and key ID uniquely identifies the key that performed the
// signature and the algorithm it used." (signed-note)
func (p *parser) unambiguous(k *key) error {
	same := func(other *key) bool {
		return other.Name() == k.Name() && other.KeyHash() == k.KeyHash() && other.public != k.public
	}
	if slices.ContainsFunc(p.policy.logs, func(l log) bool { return same(l.key) }) ||
		slices.ContainsFunc(p.policy.witnesses, func(w witness) bool { return same(w.key) }) {
		return fmt.Errorf("two different keys have the name %q and the ID %08x", k.Name(), k.KeyHash())
	}
	return nil
}

func optional(items []string, i int) string {
	if i < len(items) {
		return items[i]
	}
	return ""
}
