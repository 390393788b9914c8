package main

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
)

// PrivateConfig is the private log: one or two trees of our own, which we sign.
type PrivateConfig struct {
	// Operator says in a SigningConfig who runs the log; default: the host of the first generation.
	Operator string `yaml:"operator"`
	// Mode says when clients may append: always, or in fallback, which is while the public log cannot.
	Mode string `yaml:"mode"`
	// PassphraseFile has the passphrase of all encrypted keys.
	PassphraseFile string `yaml:"passphrase_file"`
	// V1 is the log that speaks Rekor v1, V2 the one that speaks Rekor v2; nil is none.
	V1 *PrivateV1Config `yaml:"v1"`
	V2 *PrivateV2Config `yaml:"v2"`
	// CheckpointInterval is how often a checkpoint is signed at least.
	CheckpointInterval Duration `yaml:"checkpoint_interval"`
	// Proposals are entries as they were proposed.
	Proposals ProposalsConfig `yaml:"proposals"`
	// WitnessPolicy says whose cosignatures a checkpoint needs; nil: none.
	WitnessPolicy *WitnessPolicyConfig `yaml:"witness_policy"`
	// Access says who may do what.
	Access AccessConfig `yaml:"access"`
}

// hosts are the names under which clients know the log, in small letters.
func (p *PrivateConfig) hosts() (names []string) {
	add := func(name, address string) {
		names = append(names, strings.ToLower(name))
		if u, err := url.Parse(address); err == nil {
			names = append(names, strings.ToLower(u.Hostname()))
		}
	}
	if p.V1 != nil {
		add(p.V1.Host, p.V1.URL)
	}
	if p.V2 != nil {
		add(p.V2.Origin, p.V2.URL)
	}
	return names
}

// PrivateV1Config is the log that speaks Rekor v1.
type PrivateV1Config struct {
	// Host and TreeID make the origin: "<host> - <tree_id>".
	Host   string `yaml:"host"`
	TreeID TreeID `yaml:"tree_id"`
	// Key signs, with ECDSA on P-256: a file of encrypted PKCS #8, or a key of a key management
	// service.
	Key string `yaml:"key"`
	// URL is where clients reach the log; default: Host.
	URL string `yaml:"url"`
}

// origin is the first line of the log's checkpoints.
func (v *PrivateV1Config) origin() string { return fmt.Sprintf("%s - %d", v.Host, v.TreeID) }

// PrivateV2Config is the log that speaks Rekor v2.
type PrivateV2Config struct {
	// Origin is the first line of its checkpoints, a host name.
	Origin string `yaml:"origin"`
	// Key signs, with Ed25519: a file of encrypted PKCS #8, or a key of a key management service.
	Key string `yaml:"key"`
	// MLDSAKey signs as well, with ML-DSA-44: such a file; empty: nothing does.
	MLDSAKey string `yaml:"mldsa_key"`
	// URL is where clients reach the log: Origin, with a port if need be; default: Origin.
	URL string `yaml:"url"`
}

// ProposalsConfig says how entries are kept as they were proposed, to be published later.
type ProposalsConfig struct {
	// Key is the file of the key that encrypts them: 32 bytes in hex.
	Key string `yaml:"key"`
	// Retention is how long they are kept.
	Retention Duration `yaml:"retention"`
}

// WitnessPolicyConfig says whose cosignatures a checkpoint needs.
type WitnessPolicyConfig struct {
	// File is a policy in the format of C2SP tlog-policy.
	File string `yaml:"file"`
	// Timeout is how long one round waits for witnesses.
	Timeout Duration `yaml:"timeout"`
	// WithoutQuorum is what happens to a checkpoint that has too few: wait or publish.
	WithoutQuorum string `yaml:"without_quorum"`
	// Logs are the generations that are witnessed, v1 and v2; default: those that there are. Few
	// witnesses know the keys of Rekor v1.
	Logs []string `yaml:"logs"`
}

// AccessConfig says who may use the private log.
type AccessConfig struct {
	// WithoutAuthentication are the words "on loopback only", if everybody on this machine may.
	WithoutAuthentication string `yaml:"without_authentication"`
	// TLS is what the addresses of the log have; nil: plain HTTP, on loopback.
	TLS        *ServerTLSConfig `yaml:"tls"`
	Identities []IdentityConfig `yaml:"identities"`
}

// ServerTLSConfig is how a server proves who it is, and who its clients are.
type ServerTLSConfig struct {
	Certificate string `yaml:"certificate"` // a PEM file with the chain
	Key         string `yaml:"key"`         // a PEM file
	// ClientCA is a PEM file with what certificates of clients must chain to; empty: none are asked for.
	ClientCA string `yaml:"client_ca"`
}

// IdentityConfig is somebody who may use the log, known by a token or by a certificate.
type IdentityConfig struct {
	// Name stands in audit rows and messages.
	Name string `yaml:"name"`
	// TokenSHA256 is the hash of a bearer token, in hex.
	TokenSHA256 string `yaml:"token_sha256"`
	// Certificate is a name in a client certificate: a URI, a DNS name, an e-mail address, or "CN=...".
	Certificate string   `yaml:"certificate"`
	Roles       []string `yaml:"roles"`
	// EntriesPerSecond is how many entries may be appended, with a burst of twice that.
	EntriesPerSecond float64 `yaml:"entries_per_second"`
	// RequestsAtOnce is how many requests are answered at a time.
	RequestsAtOnce int `yaml:"requests_at_once"`
}

// TreeID tells the trees of a Rekor v1 service apart.
type TreeID uint64

const treeIDHint = "write a number from 1 to 9223372036854775807, such as \"understudy log init\" makes"

// UnmarshalYAML reads a tree ID in decimal, also as a text: not every JSON writer can write such
// numbers. Its errors know where they are.
func (id *TreeID) UnmarshalYAML(node ast.Node) error {
	if _, ok := node.(ast.ScalarNode); !ok {
		return &mistake{token: firstToken(node), text: "a tree ID belongs here; " + treeIDHint}
	}
	text := node.GetToken().Value
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil || n == 0 || text[0] == '0' {
		return &mistake{token: node.GetToken(), text: fmt.Sprintf("%q is no tree ID; %s", text, treeIDHint)}
	}
	*id = TreeID(n)
	return nil
}

// Modes of the private log.
const (
	modeAlways   = "always"
	modeFallback = "fallback"
)

// onLoopbackOnly are the words that leave the log open to everybody on this machine.
const onLoopbackOnly = "on loopback only"

// Roles of identities.
const (
	roleAppend  = "append"
	roleRead    = "read"
	roleOperate = "operate"
	roleApprove = "approve"
)

var roles = []string{roleAppend, roleRead, roleOperate, roleApprove}

var (
	identityName = regexp.MustCompile(`^[a-z0-9._-]+$`)
	sha256Text   = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	dnsName      = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)*[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
)

// isDNSName says whether a host is named as in an origin: without scheme, port and capitals.
func isDNSName(s string) bool {
	_, err := netip.ParseAddr(s)
	return err != nil && len(s) <= 253 && dnsName.MatchString(s) && !slices.ContainsFunc(strings.Split(s, "."), func(label string) bool { return len(label) > 63 })
}

// isLoopback says whether only this machine reaches an address to listen on.
func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}

// completePrivate sets what was left out of the private log and checks it; the logs that are
// mirrored are complete.
func (c *Config) completePrivate() error {
	p := c.Private
	for _, g := range []struct {
		key, address, example string
		wanted                bool
	}{
		{"v1", c.Listen.LogV1, "127.0.0.1:3000", p != nil && p.V1 != nil},
		{"v2", c.Listen.LogV2, "127.0.0.1:3003", p != nil && p.V2 != nil},
	} {
		if g.address != "" && !g.wanted {
			return c.mistake(fmt.Sprintf("nothing would answer here: it is the address of \"%s\" in \"log\", which is not there", g.key), "listen", "log_"+g.key)
		}
		if g.address == "" && g.wanted {
			return c.mistake(fmt.Sprintf("it has an address of its own, and there is none: set \"log_%s\" in \"listen\", such as %s", g.key, g.example), "log", g.key)
		}
	}
	if p == nil {
		return nil
	}
	if p.V1 == nil && p.V2 == nil {
		return c.mistake("a private log without \"v1\" and \"v2\"; it has one of them, or both: \"understudy log init\" prints them", "log")
	}
	scheme := "http://"
	if p.Access.TLS != nil {
		scheme = "https://"
	}
	if err := c.completePrivateV1(scheme); err != nil {
		return err
	}
	if err := c.completePrivateV2(scheme); err != nil {
		return err
	}
	if err := c.completePrivateRest(); err != nil {
		return err
	}
	return c.completeAccess()
}

func (c *Config) completePrivateV1(scheme string) error {
	v := c.Private.V1
	if v == nil {
		return nil
	}
	setDefault(&v.URL, scheme+v.Host)
	switch {
	case v.Host == "":
		return c.mistake("a log without \"host\", with which its origin begins", "log", "v1")
	case !isDNSName(v.Host):
		return c.mistake(notDNSName(v.Host), "log", "v1", "host")
	case v.TreeID == 0:
		return c.mistake("a log without \"tree_id\", with which its origin ends; \"understudy log init\" makes one", "log", "v1")
	case v.Key == "":
		return c.mistake("a log without \"key\", which signs; \"understudy log init\" makes one", "log", "v1")
	}
	setDefault(&c.Private.Operator, v.Host)
	return c.checkOwnLog(v.origin(), v.URL, "v1", "host")
}

func (c *Config) completePrivateV2(scheme string) error {
	v := c.Private.V2
	if v == nil {
		return nil
	}
	setDefault(&v.URL, scheme+v.Origin)
	switch {
	case v.Origin == "":
		return c.mistake("a log without \"origin\", the first line of its checkpoints", "log", "v2")
	case !isDNSName(v.Origin):
		return c.mistake(notDNSName(v.Origin), "log", "v2", "origin")
	case v.Key == "":
		return c.mistake("a log without \"key\", which signs; \"understudy log init\" makes one", "log", "v2")
	case isKMS(v.MLDSAKey):
		return c.mistake("a key for ML-DSA-44 is a file: no key management service is known to have it; \"understudy log init\" makes one", "log", "v2", "mldsa_key")
	}
	setDefault(&c.Private.Operator, v.Origin)
	if err := c.checkOwnLog(v.Origin, v.URL, "v2", "origin"); err != nil {
		return err
	}
	if u, err := url.Parse(v.URL); err != nil || u.Hostname() != v.Origin {
		return c.mistake(fmt.Sprintf("clients take the origin from the address: its host must be %s", v.Origin), "log", "v2", "url")
	}
	return nil
}

func notDNSName(s string) string {
	return fmt.Sprintf("%q is no host name; write it like rekor.example.com, in small letters, without scheme and port", s)
}

// checkOwnLog checks what both generations have; key is the one that has the origin.
func (c *Config) checkOwnLog(origin, url, generation, key string) error {
	if slices.ContainsFunc(c.Logs, func(l LogConfig) bool { return l.Origin == origin }) {
		return c.mistake(fmt.Sprintf("the origin %q is that of a mirrored log; one of the two needs another", origin), "log", generation, key)
	}
	if !isLogURL(url) {
		return c.mistake(fmt.Sprintf("%q is not the address of a log; write it like https://rekor.example.com:3000", url), "log", generation, "url")
	}
	if c.Private.Access.TLS != nil && !strings.HasPrefix(url, "https:") {
		return c.mistake("the log has \"tls\": its address begins with https://", "log", generation, "url")
	}
	return nil
}

// completePrivateRest completes what both generations share, but for access.
func (c *Config) completePrivateRest() error {
	p := c.Private
	setDefault(&p.Mode, modeAlways)
	setDefault(&p.CheckpointInterval, Duration(10*time.Second))
	setDefault(&p.Proposals.Retention, Duration(90*24*time.Hour))
	encrypted := p.V1 != nil && !isKMS(p.V1.Key) || p.V2 != nil && (!isKMS(p.V2.Key) || p.V2.MLDSAKey != "")
	switch {
	case p.Mode != modeAlways && p.Mode != modeFallback:
		return c.mistake(c.oneOf(p.Mode, modeAlways, modeFallback), "log", "mode")
	case strings.ContainsFunc(p.Operator, isControl):
		return c.mistake("operator must be one line", "log", "operator")
	case encrypted && p.PassphraseFile == "":
		return c.mistake("the keys are encrypted: \"passphrase_file\" is the file with their passphrase", "log")
	case time.Duration(p.CheckpointInterval) < 100*time.Millisecond:
		return c.mistake("checkpoint_interval must be at least 100ms", "log", "checkpoint_interval")
	case p.Proposals.Key == "":
		return c.mistake("entries are kept as they were proposed, encrypted: \"key\" in \"proposals\" is the file of that key; \"understudy log init\" makes one", "log", "proposals")
	}
	w := p.WitnessPolicy
	if w == nil {
		return nil
	}
	setDefault(&w.Timeout, Duration(5*time.Second))
	setDefault(&w.WithoutQuorum, "wait")
	switch {
	case w.File == "":
		return c.mistake("a policy without \"file\", which names witnesses and the quorum (tlog-policy)", "log", "witness_policy")
	case w.WithoutQuorum != "wait" && w.WithoutQuorum != "publish":
		return c.mistake(c.oneOf(w.WithoutQuorum, "wait", "publish"), "log", "witness_policy", "without_quorum")
	}
	var there []string
	if p.V1 != nil {
		there = append(there, "v1")
	}
	if p.V2 != nil {
		there = append(there, "v2")
	}
	if w.Logs == nil {
		w.Logs = there
	}
	if len(w.Logs) == 0 {
		return c.mistake("witnesses of no log: name v1, v2 or both, or leave \"logs\" out", "log", "witness_policy", "logs")
	}
	for i, name := range w.Logs {
		if !slices.Contains(there, name) {
			return c.mistake(c.oneOf(name, there...), "log", "witness_policy", "logs", i)
		}
	}
	return nil
}

func (c *Config) completeAccess() error {
	a := &c.Private.Access
	open := a.WithoutAuthentication != ""
	if open && a.WithoutAuthentication != onLoopbackOnly {
		return c.mistake(fmt.Sprintf("it is said in these words, or left out: without_authentication: %s", onLoopbackOnly), "log", "access", "without_authentication")
	}
	for _, l := range []struct{ key, address string }{{"log_v1", c.Listen.LogV1}, {"log_v2", c.Listen.LogV2}} {
		switch {
		case l.address == "" || isLoopback(l.address):
		case open:
			return c.mistake(fmt.Sprintf("%s is reached from other machines, and the log is \"without_authentication: %s\": listen on 127.0.0.1, or say with \"tls\" and \"identities\" who may use it", l.address, onLoopbackOnly), "listen", l.key)
		case a.TLS == nil:
			return c.mistake(fmt.Sprintf("%s (%s) is reached from other machines: \"tls\" and \"identities\" say who may use it; without \"tls\" tokens are for loopback", l.key, l.address), "log", "access")
		}
	}
	if t := a.TLS; t != nil && (t.Certificate == "" || t.Key == "") {
		return c.mistake("TLS has \"certificate\" and \"key\", files in PEM", "log", "access", "tls")
	}
	switch {
	case open && len(a.Identities) > 0:
		return c.mistake(fmt.Sprintf("identities mean nothing to a log that is \"without_authentication: %s\"; leave one of the two out", onLoopbackOnly), "log", "access", "identities")
	case open && a.TLS != nil && a.TLS.ClientCA != "":
		return c.mistake(fmt.Sprintf("certificates of clients mean nothing to a log that is \"without_authentication: %s\"; leave one of the two out", onLoopbackOnly), "log", "access", "tls", "client_ca")
	case !open && len(a.Identities) == 0:
		return c.mistake(fmt.Sprintf("nobody may use the log: \"identities\" says who; to try it out, \"without_authentication: %s\" lets everybody on this machine", onLoopbackOnly), "log", "access")
	}
	seen := map[string]string{} // what must differ, and who has it
	for i := range a.Identities {
		if err := c.completeIdentity(a.Identities, i, a.TLS, seen, "log", "access", "identities"); err != nil {
			return err
		}
	}
	return nil
}

// completeIdentity checks one of the identities that stand at a place of the configuration. seen is what
// must differ, and who has it.
func (c *Config) completeIdentity(identities []IdentityConfig, i int, tls *ServerTLSConfig, seen map[string]string, place ...any) error {
	id := &identities[i]
	wrong := func(text string, path ...any) error {
		return c.mistake(text, slices.Concat(place, []any{i}, path)...)
	}
	id.TokenSHA256 = strings.ToLower(id.TokenSHA256)
	setDefault(&id.EntriesPerSecond, 50)
	setDefault(&id.RequestsAtOnce, 64)
	switch {
	case id.Name == "":
		return wrong("an identity without \"name\", which stands in audit rows")
	case !identityName.MatchString(id.Name):
		return wrong(notIdentityName(id.Name), "name")
	case seen["name "+id.Name] != "":
		return wrong(fmt.Sprintf("two identities are called %q", id.Name), "name")
	case (id.TokenSHA256 == "") == (id.Certificate == ""):
		return wrong("each identity is known by exactly one of token_sha256 and certificate; \"understudy log token\" makes a token")
	case id.TokenSHA256 != "" && !sha256Text.MatchString(id.TokenSHA256):
		return wrong("it is the SHA-256 of a token, 64 hex digits, as \"understudy log token\" prints it", "token_sha256")
	case id.Certificate != "" && (tls == nil || tls.ClientCA == ""):
		return wrong("an identity known by its certificate needs \"client_ca\" in \"tls\", which vouches for it", "certificate")
	case strings.ContainsFunc(id.Certificate, isControl):
		return wrong("certificate must be one line", "certificate")
	case len(id.Roles) == 0:
		return wrong("an identity without \"roles\" may do nothing; known: " + strings.Join(roles, ", "))
	case !(id.EntriesPerSecond > 0): // not a number, either
		return wrong("entries_per_second must be positive", "entries_per_second")
	case id.RequestsAtOnce < 0:
		return wrong("requests_at_once must be positive", "requests_at_once")
	}
	for _, known := range []struct{ key, value string }{{"token_sha256", id.TokenSHA256}, {"certificate", id.Certificate}} {
		if other := seen[known.key+known.value]; known.value != "" && other != "" {
			return wrong(fmt.Sprintf("%q is known by it already", other), known.key)
		}
		seen[known.key+known.value] = id.Name
	}
	seen["name "+id.Name] = id.Name
	for j, role := range id.Roles {
		if !slices.Contains(roles, role) {
			return wrong(c.oneOf(role, roles...), "roles", j)
		}
		if slices.Contains(id.Roles[:j], role) {
			return wrong(fmt.Sprintf("the role %q is there twice", role), "roles", j)
		}
	}
	return nil
}

func notIdentityName(s string) string {
	return fmt.Sprintf("%q is no name of an identity; it has small letters, digits, and . _ -", s)
}
