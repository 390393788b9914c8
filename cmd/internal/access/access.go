// Package access says who may do what at the private log's addresses.
//
// A request is named by a verified client certificate, by a bearer token, or by both;
// the configuration says which roles that identity has, and how much of them. Nothing
// behind [Control.Guard] answers a request that nobody is named for. What follows from a
// role is written down elsewhere: this package neither reads nor writes a log.
//
// A token is a secret. The configuration holds only its SHA-256, and what Guard hands on
// does not show it any more, whether it came in a header or in the path.
package access

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Role is a permission. No role contains another.
type Role string

// The roles.
const (
	Append  Role = "append"  // propose entries
	Read    Role = "read"    // read entries, proofs and checkpoints
	Operate Role = "operate" // run the log: drills, exports, kept proposals
	Approve Role = "approve" // agree to what another identity asks for
)

var roles = [...]Role{Append, Read, Operate, Approve}

// ParseRole returns the role of that name.
func ParseRole(name string) (Role, error) {
	if role := Role(name); slices.Contains(roles[:], role) {
		return role, nil
	}
	return "", fmt.Errorf("there is no role %q; the roles are append, read, operate and approve", name)
}

// What an identity may do at most when its configuration does not say.
const (
	DefaultEntriesPerSecond = 50
	DefaultRequestsAtOnce   = 64
)

// Identity is somebody who may do something.
type Identity struct {
	Name        string // of a-z, 0-9, '.', '_' and '-'
	TokenSHA256 []byte // 32 bytes: SHA-256 of its token, as NewToken returns it; nil: it has none
	// Certificate is a name in its client certificate, compared exactly: a URI, a DNS name
	// or an e-mail address among the alternative names, or "CN=" and the common name.
	Certificate      string
	Roles            []Role
	EntriesPerSecond float64 // appended, in the long run; a burst is twice that. 0: 50
	RequestsAtOnce   int     // of all kinds. 0: 64
}

// Has reports whether the identity has a role.
func (i Identity) Has(role Role) bool { return slices.Contains(i.Roles, role) }

// Config is what New needs.
type Config struct {
	// Open names every request that comes from this machine "loopback", which may append
	// and read without limits of its own, and refuses all others. The caller makes sure
	// that the addresses are on the loopback interface. It excludes Identities.
	Open bool
	// Hosts are the names under which clients ask an open log, beside localhost and the addresses
	// of the loopback interface: under another name only a web page does, whose site has made its
	// own name lead here (DNS rebinding).
	Hosts      []string
	Identities []Identity
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Control knows the identities and what each has in use. Several addresses may share one;
// then the limits hold for all of them together.
type Control struct {
	open         *member            // names every request; nil if identities are asked for
	hosts        []string           // Config.Hosts
	tokens       map[digest]*member // by SHA-256 of the token
	certificates map[string]*member // by kind and name, as nameKey makes them
	browser      *http.CrossOriginProtection
	strangers    *strangers
	logger       *slog.Logger
	metrics      *metrics
}

type digest [sha256.Size]byte

// Names that mean something in metrics and audit rows.
const (
	loopback = "loopback"
	nobody   = "nobody"
)

var validName = regexp.MustCompile(`^[a-z0-9._-]+$`)

// New returns the control of a configuration, or why it is ambiguous or incomplete.
func New(c Config) (*Control, error) {
	control := &Control{
		tokens:       map[digest]*member{},
		certificates: map[string]*member{},
		browser:      http.NewCrossOriginProtection(),
		strangers:    newStrangers(),
		logger:       c.Logger,
	}
	switch {
	case c.Open && len(c.Identities) > 0:
		return nil, errors.New("without authentication no identity can be told from another: remove the identities, or without_authentication")
	case c.Open:
		control.hosts = c.Hosts
		control.open = &member{Identity: Identity{Name: loopback, Roles: []Role{Append, Read}}}
		control.metrics = newMetrics(c.Registerer, []string{loopback})
		return control, nil
	case len(c.Identities) == 0:
		return nil, errors.New("nobody may use the log: name identities, or say without_authentication")
	}
	var names []string
	for _, identity := range c.Identities {
		if err := check(identity); err != nil {
			return nil, fmt.Errorf("identity %q: %w", identity.Name, err)
		}
		if slices.Contains(names, identity.Name) {
			return nil, fmt.Errorf("identity %q is there twice; give each its own name", identity.Name)
		}
		names = append(names, identity.Name)
		if err := control.add(identity); err != nil {
			return nil, err
		}
	}
	control.metrics = newMetrics(c.Registerer, names)
	return control, nil
}

// check returns what is wrong with an identity by itself.
func check(i Identity) error {
	switch {
	case !validName.MatchString(i.Name):
		return errors.New("a name is made of a-z, 0-9, '.', '_' and '-'")
	case i.Name == loopback || i.Name == nobody:
		return errors.New("the name is reserved for requests without authentication; choose another")
	case i.TokenSHA256 == nil && i.Certificate == "":
		return errors.New("it needs the hash of a token or the name in a certificate")
	case i.TokenSHA256 != nil && len(i.TokenSHA256) != sha256.Size:
		return fmt.Errorf("the SHA-256 of a token has 32 bytes, not %d", len(i.TokenSHA256))
	case len(i.Roles) == 0:
		return errors.New("it has no role, so it may do nothing; the roles are append, read, operate and approve")
	case !(i.EntriesPerSecond >= 0) || math.IsInf(i.EntriesPerSecond, 1): // the first is true of NaN
		return errors.New("entries per second must be a number above 0")
	case i.RequestsAtOnce < 0:
		return errors.New("requests at once must be a number above 0")
	}
	for _, role := range i.Roles {
		if _, err := ParseRole(string(role)); err != nil {
			return err
		}
	}
	return nil
}

// add makes an identity known by its token and certificate.
func (c *Control) add(identity Identity) error {
	m := newMember(identity)
	if hash := identity.TokenSHA256; hash != nil {
		key := digest(hash)
		if other := c.tokens[key]; other != nil {
			return fmt.Errorf("identities %q and %q have the same token; give each its own", other.Name, m.Name)
		}
		c.tokens[key] = m
	}
	if identity.Certificate == "" {
		return nil
	}
	key, err := configuredKey(identity.Certificate)
	if err != nil {
		return fmt.Errorf("identity %q: %w", m.Name, err)
	}
	if other := c.certificates[key]; other != nil {
		return fmt.Errorf("identities %q and %q have the same certificate; give each its own", other.Name, m.Name)
	}
	c.certificates[key] = m
	return nil
}

// The kinds of name in a certificate. They are kept apart: a CA that lets its clients
// choose a DNS name must not let them choose a common name, or a URI, by that.
const (
	kindCommonName = "CN="
	kindURI        = "URI="
	kindEmail      = "e-mail="
	kindDNS        = "DNS="
)

func nameKey(kind, name string) string { return kind + name }

// configuredKey returns the key of a certificate's name as the configuration writes it.
func configuredKey(name string) (string, error) {
	if commonName, ok := strings.CutPrefix(name, kindCommonName); ok {
		if commonName == "" {
			return "", errors.New("CN= needs the common name of a certificate")
		}
		return nameKey(kindCommonName, commonName), nil
	}
	if strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("%q is no URI, DNS name or e-mail address; a common name is written CN=NAME", name)
	}
	switch {
	case strings.Contains(name, ":"):
		// Certificates are compared as they print, so what prints differently never matches.
		if parsed, err := url.Parse(name); err != nil || parsed.Scheme == "" || parsed.String() != name {
			return "", fmt.Errorf("%q is not a URI as certificates print it, such as spiffe://example.com/ci", name)
		}
		return nameKey(kindURI, name), nil
	case strings.Contains(name, "@"):
		return nameKey(kindEmail, name), nil
	}
	return nameKey(kindDNS, name), nil
}
