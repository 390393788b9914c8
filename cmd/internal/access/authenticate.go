package access

import (
	"crypto/sha256"
	"crypto/x509"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// tokenPath stands before a token that is sent in the path: cosign and rekor-cli can send
// Rekor v1 neither a header nor a certificate, but they keep the path of the log's URL.
const tokenPath = "/token/"

// shown is what a request says about who sends it, before anybody believes it.
type shown struct {
	tokens []string // of whatever form
	user   string   // beside a token in Basic; may be empty
	wrong  string   // why none of it can be used; "" if it can
}

// What a client did wrong, as it is told.
const (
	noName        = "this log is not open to everybody: use a client certificate, or a token: as Bearer, as the password in https://:TOKEN@HOST, or in the path as https://HOST/token/TOKEN"
	noToken       = "this is not a token: a token is us_ and 64 hexadecimal digits"
	unknownToken  = "this token is not known here: ask the operator whether it was replaced"
	misplaced     = "a token is at the wrong place in the URL: it belongs before the path, as in https://HOST/token/TOKEN"
	oneHeader     = "there must be one Authorization header at most"
	wrongScheme   = "the Authorization header must be Bearer TOKEN, or Basic with the token as password"
	wrongUser     = "the user name is not that of the token's identity: leave it empty"
	unknownName   = "the client certificate has no name that is known here: ask the operator to add it"
	ambiguousName = "the client certificate has the names of two identities: use one that has the name of one"
	oldCert       = "the client certificate has expired since the connection was made: connect anew with another"
	otherHost     = "this log runs without authentication and answers under its own names, localhost and 127.0.0.1 only: use one of them, or have its operator name identities"
	twoNames      = "the certificate and the tokens of this request are not of the same identity: send one of them"
)

// strip takes what names the sender out of a request. The request that it returns shows no
// token, so it is the one to route, to log and to hand on.
func strip(r *http.Request) (*http.Request, shown) {
	var s shown
	u := *r.URL
	u.User = nil // of a request that is meant for a proxy
	if after, ok := strings.CutPrefix(u.Path, tokenPath); ok {
		token, _, _ := strings.Cut(after, "/")
		s.tokens = append(s.tokens, token)
		prefix := tokenPath + token
		var same bool
		u.Path, _ = cutPrefix(u.Path, prefix)
		if u.RawPath != "" {
			if u.RawPath, same = cutPrefix(u.RawPath, prefix); !same {
				s.wrong = noToken // no token needs an escape
			}
		}
	}
	if holdsToken(u.Path) || holdsToken(u.RawQuery) || holdsToken(u.Opaque) {
		s.wrong = misplaced
	}
	if s.wrong != "" {
		u = url.URL{Path: "/"}
	}
	header := r.Header.Clone()
	if values := header.Values("Authorization"); len(values) > 1 {
		s.wrong = oneHeader
	} else if len(values) == 1 {
		scheme, token, _ := strings.Cut(values[0], " ")
		user, password, basic := r.BasicAuth()
		switch {
		case strings.EqualFold(scheme, "Bearer"):
			s.tokens = append(s.tokens, strings.TrimLeft(token, " "))
		case basic:
			s.tokens, s.user = append(s.tokens, password), user
		default:
			s.wrong = wrongScheme
		}
	}
	header.Del("Authorization")
	stripped := r.WithContext(r.Context())
	stripped.URL, stripped.RequestURI, stripped.Header = &u, u.RequestURI(), header
	return stripped, s
}

// cutPrefix removes whole segments from the start of a path.
func cutPrefix(path, prefix string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, prefix)
	switch {
	case ok && rest == "":
		return "/", true
	case ok && rest[0] == '/':
		return rest, true
	}
	return "", false
}

// identify returns whom a request names, or the status and the reason why it names nobody.
func (c *Control) identify(r *http.Request, s shown) (m *member, status int, why string) {
	if c.open != nil {
		if why := c.fromElsewhere(r); why != "" {
			return nil, http.StatusForbidden, why
		}
		return c.open, 0, ""
	}
	m, why = c.identity(r, s)
	return m, http.StatusUnauthorized, why
}

// fromElsewhere returns why a request does not come from this machine, or "". A proxy on
// this machine would make everybody look as if they did.
func (c *Control) fromElsewhere(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !peer.Addr().IsLoopback() {
		return "this log runs without authentication and answers its own machine only: its operator must name identities"
	}
	for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Real-Ip"} {
		if r.Header.Get(name) != "" {
			return "this log runs without authentication and must not be behind a proxy: its operator must name identities"
		}
	}
	if !c.isOwn(r.Host) {
		return otherHost
	}
	return ""
}

// isOwn says whether a Host header names an open log. A browser that is deceived about where a
// site is sends the name of that site, and takes what it asks for as the site's own.
func (c *Control) isOwn(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.TrimSuffix(strings.ToLower(strings.Trim(host, "[]")), ".")
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback() || host == "localhost" || slices.Contains(c.hosts, host)
}

// identity finds the one identity that everything in a request names.
func (c *Control) identity(r *http.Request, s shown) (*member, string) {
	if s.wrong != "" {
		return nil, s.wrong
	}
	var found *member
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 { // what is in PeerCertificates alone proves nothing
		m, why := c.byCertificate(r.TLS.VerifiedChains[0][0])
		if m == nil {
			return nil, why
		}
		found = m
	}
	for _, token := range s.tokens {
		m, why := c.byToken(token)
		if m == nil {
			return nil, why
		}
		if found != nil && m != found {
			return nil, twoNames
		}
		found = m
	}
	if found == nil {
		return nil, noName
	}
	if s.user != "" && s.user != found.Name {
		return nil, wrongUser
	}
	return found, ""
}

// byToken finds a token by its hash. The time that a lookup takes tells at most how far a
// hash agrees with a stored one. That helps nobody: who wants to choose a hash has to
// invert SHA-256 first, and the token behind a known hash has 256 random bits.
func (c *Control) byToken(token string) (*member, string) {
	if !isToken(token) {
		return nil, noToken
	}
	if m := c.tokens[sha256.Sum256([]byte(token))]; m != nil {
		return m, ""
	}
	return nil, unknownToken
}

// byCertificate finds the identity that a verified client certificate names.
func (c *Control) byCertificate(leaf *x509.Certificate) (*member, string) {
	if time.Now().After(leaf.NotAfter) { // the handshake may have been days ago
		return nil, oldCert
	}
	keys := []string{nameKey(kindCommonName, leaf.Subject.CommonName)}
	for _, uri := range leaf.URIs {
		keys = append(keys, nameKey(kindURI, uri.String()))
	}
	for _, name := range leaf.DNSNames {
		keys = append(keys, nameKey(kindDNS, name))
	}
	for _, address := range leaf.EmailAddresses {
		keys = append(keys, nameKey(kindEmail, address))
	}
	var found *member
	for _, key := range keys {
		m := c.certificates[key]
		if m == nil {
			continue
		}
		if found != nil && m != found {
			return nil, ambiguousName
		}
		found = m
	}
	if found == nil {
		return nil, unknownName
	}
	return found, ""
}
