package access

import (
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"math"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// hashOf is what the configuration knows of a token.
func hashOf(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}

func newControl(t *testing.T, c Config) *Control {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Registerer = prometheus.NewRegistry()
	control, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return control
}

func TestNewRefuses(t *testing.T) {
	good := func(change func(*Identity)) Identity {
		i := Identity{Name: "a", TokenSHA256: hashOf("a"), Roles: []Role{Read}}
		if change != nil {
			change(&i)
		}
		return i
	}
	one := func(change func(*Identity)) Config { return Config{Identities: []Identity{good(change)}} }
	two := func(change func(*Identity)) Config {
		return Config{Identities: []Identity{
			good(func(i *Identity) { i.Certificate = "spiffe://example.com/a" }),
			good(func(i *Identity) {
				i.Name, i.TokenSHA256, i.Certificate = "b", hashOf("b"), "spiffe://example.com/b"
				change(i)
			}),
		}}
	}
	for _, c := range []struct {
		config Config
		want   string // in the error; "" if it is accepted
	}{
		{one(nil), ""},
		{two(func(*Identity) {}), ""},
		{Config{Open: true}, ""},
		{one(func(i *Identity) { i.Name = "a.b_c-9" }), ""},
		{one(func(i *Identity) { i.TokenSHA256, i.Certificate = nil, "CN=Release robot" }), ""},
		{one(func(i *Identity) { i.Certificate = "urn:example:ci" }), ""},
		{one(func(i *Identity) { i.Certificate = "ci@example.com" }), ""},

		{Config{}, "nobody may use the log"},
		{Config{Open: true, Identities: []Identity{good(nil)}}, "without authentication no identity"},
		{two(func(i *Identity) { i.Name = "a" }), "is there twice"},
		{two(func(i *Identity) { i.TokenSHA256 = hashOf("a") }), "the same token"},
		{two(func(i *Identity) { i.Certificate = "spiffe://example.com/a" }), "the same certificate"},
		{one(func(i *Identity) { i.Name = "" }), "a name is made of"},
		{one(func(i *Identity) { i.Name = "A" }), "a name is made of"},
		{one(func(i *Identity) { i.Name = "a b" }), "a name is made of"},
		{one(func(i *Identity) { i.Name = "a\n" }), "a name is made of"},
		{one(func(i *Identity) { i.Name = "loopback" }), "reserved"},
		{one(func(i *Identity) { i.Name = "nobody" }), "reserved"},
		{one(func(i *Identity) { i.TokenSHA256 = nil }), "the hash of a token or"},
		{one(func(i *Identity) { i.TokenSHA256 = []byte{} }), "32 bytes, not 0"},
		{one(func(i *Identity) { i.TokenSHA256 = i.TokenSHA256[:31] }), "32 bytes, not 31"},
		{one(func(i *Identity) { i.Roles = nil }), "no role"},
		{one(func(i *Identity) { i.Roles = []Role{Read, "admin"} }), `no role "admin"`},
		{one(func(i *Identity) { i.Roles = []Role{""} }), `no role ""`},
		{one(func(i *Identity) { i.EntriesPerSecond = -1 }), "entries per second"},
		{one(func(i *Identity) { i.EntriesPerSecond = math.NaN() }), "entries per second"},
		{one(func(i *Identity) { i.EntriesPerSecond = math.Inf(1) }), "entries per second"},
		{one(func(i *Identity) { i.RequestsAtOnce = -1 }), "requests at once"},
		{one(func(i *Identity) { i.Certificate = "CN=" }), "needs the common name"},
		{one(func(i *Identity) { i.Certificate = "Release robot" }), "written CN=NAME"},
		{one(func(i *Identity) { i.Certificate = "SPIFFE://example.com/ci" }), "as certificates print it"},
		{one(func(i *Identity) { i.Certificate = "://example.com" }), "as certificates print it"},
	} {
		c.config.Logger, c.config.Registerer = slog.New(slog.DiscardHandler), prometheus.NewRegistry()
		_, err := New(c.config)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%+v: got %v, want %q", c.config.Identities, err, c.want)
		}
	}
}

func TestParseRole(t *testing.T) {
	for _, role := range roles {
		if got, err := ParseRole(string(role)); err != nil || got != role {
			t.Errorf("%s: got %q, %v", role, got, err)
		}
	}
	for _, name := range []string{"", "Append", "admin", "read "} {
		if _, err := ParseRole(name); err == nil {
			t.Errorf("%q is a role", name)
		}
	}
}

func TestNewToken(t *testing.T) {
	form := regexp.MustCompile(`^us_[0-9a-f]{64}$`)
	seen := map[string]bool{}
	for range 100 {
		token, hash := NewToken()
		if !form.MatchString(token) || !isToken(token) || hash != hex.EncodeToString(hashOf(token)) || seen[token] {
			t.Fatalf("got %q, %q", token, hash)
		}
		seen[token] = true
	}
}

func TestHoldsToken(t *testing.T) {
	token, _ := NewToken()
	for s, want := range map[string][2]bool{ // is one, holds one
		token:                           {true, true},
		"x" + token:                     {false, true},
		token + "0":                     {false, true},
		"us_" + token:                   {false, true},
		"us_0us_" + token:               {false, true},
		"/a/" + token + "/b":            {false, true},
		token[:len(token)-1]:            {false, false},
		token[:len(token)-1] + "g":      {false, false},
		"":                              {false, false},
		"us_" + strings.Repeat("A", 64): {false, false},
	} {
		if got := [2]bool{isToken(s), holdsToken(s)}; got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}
