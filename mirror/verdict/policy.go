package verdict

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/verify"
)

// DefaultPolicy is the name of the policy of requests that name none. If no policy with this name is
// configured, it is one that believes what sigstore-go believes, and demands that the request says
// who must have signed.
const DefaultPolicy = "default"

// Identity says whose certificates are expected: a subject and an issuer, each by its name or by a
// regular expression, which is not anchored.
type Identity struct {
	SAN          string `json:"identity,omitempty"`
	SANRegexp    string `json:"identity_regexp,omitempty"`
	Issuer       string `json:"issuer,omitempty"`
	IssuerRegexp string `json:"issuer_regexp,omitempty"`
}

// Policy says who may sign, and what an allow may rest on.
type Policy struct {
	Name string
	// Identities and PublicKeys are those of which one must have signed; keys are PEM blocks PUBLIC
	// KEY. If both are empty the request must say who. If not, who the request names must have signed
	// and be one of them.
	Identities []Identity
	PublicKeys [][]byte
	// Accept lists what an allow may rest on; nil: all. Rollback bundles are always accepted.
	Accept []RestsOn
}

// Pattern marks identities as high risk: of names that match, where * stands for any characters, of
// one issuer or, if that is empty, of any. Letter case does not matter.
type Pattern struct{ Identity, Issuer string }

// policy is a Policy that was read.
type policy struct {
	Policy
	identities []identity
	keys       []*key
}

func (p *policy) names() bool { return len(p.identities)+len(p.keys) > 0 }

// identity is an Identity that was read.
type identity struct {
	Identity
	matcher verify.CertificateIdentity
}

// maxName bounds the bytes of each part of an Identity, and of what is kept of a certificate's.
const maxName = 1024

func (i Identity) parse() (identity, error) {
	for _, part := range []string{i.SAN, i.SANRegexp, i.Issuer, i.IssuerRegexp} {
		if len(part) > maxName {
			return identity{}, fmt.Errorf("a name or expression of %d bytes, want at most %d", len(part), maxName)
		}
	}
	switch {
	case i.SAN != "" && i.SANRegexp != "", i.Issuer != "" && i.IssuerRegexp != "":
		return identity{}, errors.New("a name and an expression for it: give one")
	case i.SAN+i.SANRegexp == "" || i.Issuer+i.IssuerRegexp == "":
		return identity{}, errors.New("an identity is a name and its issuer: give both")
	}
	for _, expression := range []string{i.SANRegexp, i.IssuerRegexp} {
		if err := boundExpression(expression); err != nil {
			return identity{}, err
		}
	}
	m, err := verify.NewShortCertificateIdentity(i.Issuer, i.IssuerRegexp, i.SAN, i.SANRegexp)
	return identity{i, m}, err
}

// maxProgram bounds what an expression becomes, about in instructions: a kilobyte of repetitions makes
// hundreds of thousands, and takes a processor a fifth of a second before it has matched anything.
const maxProgram = 5_000

// boundExpression refuses an expression that is too large once its repetitions are written out. It must be
// asked before the expression is compiled.
func boundExpression(expression string) error {
	parsed, err := syntax.Parse(expression, syntax.Perl)
	if err != nil {
		return fmt.Errorf("expression: %w", err)
	}
	if size := sizeOf(parsed); size > maxProgram {
		return fmt.Errorf("an expression that is %d steps long with its repetitions written out, want at most %d", size, maxProgram)
	}
	return nil
}

func sizeOf(e *syntax.Regexp) int {
	size := 1 + len(e.Rune)/2
	for _, sub := range e.Sub {
		size += sizeOf(sub)
	}
	if e.Op == syntax.OpRepeat {
		size *= max(e.Min, e.Max, 1) // the parser has bounded them, and what they come to in one another
	}
	return size
}

func (i identity) matches(c certificate.Summary) bool { return i.matcher.Verify(c) == nil }

// means reports whether i is what a certificate with this subject and issuer is for.
func (i identity) means(name, issuer string) bool {
	return i.matches(certificate.Summary{SubjectAlternativeName: name, Extensions: certificate.Extensions{Issuer: issuer}})
}

// key is a public key.
type key struct {
	pem    []byte
	spki   []byte
	public crypto.PublicKey
}

const maxKey = 8 << 10

func parseKey(data []byte) (*key, error) {
	if len(data) > maxKey {
		return nil, fmt.Errorf("a public key of %d bytes, want at most %d", len(data), maxKey)
	}
	block, rest := pem.Decode(bytes.TrimSpace(data))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("no public key; want one PEM block PUBLIC KEY")
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public) // of several encodings of a key, one
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	return &key{pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), spki, public}, nil
}

func (k *key) is(public any) bool {
	if c, ok := public.(*x509.Certificate); ok {
		public = c.PublicKey
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	return err == nil && bytes.Equal(spki, k.spki)
}

func (k *key) in(keys []*key) bool {
	return slices.ContainsFunc(keys, func(other *key) bool { return bytes.Equal(k.spki, other.spki) })
}

func (p Policy) parse() (*policy, error) {
	if p.Name == "" || p.Name != oneLine(p.Name, 100) {
		return nil, fmt.Errorf("policy %q: want a name of one line and at most 100 bytes", p.Name)
	}
	out := &policy{Policy: p}
	for _, i := range p.Identities {
		parsed, err := i.parse()
		if err != nil {
			return nil, fmt.Errorf("policy %q: identity %q: %w", p.Name, i.SAN+i.SANRegexp, err)
		}
		out.identities = append(out.identities, parsed)
	}
	for _, data := range p.PublicKeys {
		k, err := parseKey(data)
		if err != nil {
			return nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		if _, err := k.verifier(true); err != nil {
			return nil, fmt.Errorf("policy %q: %w", p.Name, err)
		}
		out.keys = append(out.keys, k)
	}
	for _, rests := range p.Accept {
		if !slices.Contains([]RestsOn{PublicLive, Mirrored, Private, OwnProof}, rests) {
			return nil, fmt.Errorf("policy %q accepts %q; want %s, %s, %s or %s", p.Name, rests, PublicLive, Mirrored, Private, OwnProof)
		}
	}
	return out, nil
}

func (p *policy) accepts(rests RestsOn) bool {
	return p.Accept == nil || slices.Contains(p.Accept, rests)
}

func parsePolicies(policies []Policy) (map[string]*policy, error) {
	out := map[string]*policy{DefaultPolicy: {Policy: Policy{Name: DefaultPolicy}}}
	seen := map[string]bool{}
	for _, p := range policies {
		parsed, err := p.parse()
		if err != nil {
			return nil, err
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("two policies have the name %q", p.Name)
		}
		seen[p.Name] = true
		out[p.Name] = parsed
	}
	return out, nil
}

// claim is who a certificate says that it is of, whoever made it; an issuer that it does not say is "".
type claim struct{ name, issuer string }

// covers reports whether the pattern marks who is claimed.
func (p Pattern) covers(c claim) bool {
	return glob(p.Identity, c.name) && (p.Issuer == "" || c.issuer == "" || strings.EqualFold(p.Issuer, c.issuer))
}

// mayMean reports whether somebody whom the pattern marks can be meant by i. Where that cannot be
// told, of an expression and a pattern, it can.
func (p Pattern) mayMean(i identity) bool {
	if i.Issuer != "" && p.Issuer != "" && !strings.EqualFold(i.Issuer, p.Issuer) {
		return false
	}
	if i.IssuerRegexp != "" && p.Issuer != "" && !mayMatch(i.IssuerRegexp, p.Issuer) {
		return false
	}
	switch {
	case i.SAN != "":
		return glob(p.Identity, i.SAN)
	case strings.Contains(p.Identity, "*"):
		return true
	default:
		return mayMatch(i.SANRegexp, p.Identity)
	}
}

// mayMatch reports whether an expression matches text in whatever letter case. One that says more
// about letter case than this can ask may match: with flags of its own, or with what does not match a
// class, which is less if letter case does not matter.
func mayMatch(expression, text string) bool {
	for _, more := range []string{"(?", "[^", "[:^", `\P`, `\p{^`} {
		if strings.Contains(expression, more) {
			return true
		}
	}
	folded, err := regexp.Compile("(?i)" + expression)
	return err != nil || folded.MatchString(text)
}

// glob reports whether text matches pattern, where * stands for any characters.
func glob(pattern, text string) bool {
	parts := strings.Split(strings.ToLower(pattern), "*")
	text = strings.ToLower(text)
	if len(parts) == 1 {
		return text == parts[0]
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) {
		return false
	}
	text = text[len(first):]
	for _, part := range parts[1 : len(parts)-1] {
		at := strings.Index(text, part)
		if at < 0 {
			return false
		}
		text = text[at+len(part):]
	}
	return strings.HasSuffix(text, last)
}
