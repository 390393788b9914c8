package verdict

import (
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/authority"
)

// An expression of a kilobyte can be a program of megabytes.
func TestLargeExpressions(t *testing.T) {
	s := newStage(t)
	for _, expression := range []string{strings.Repeat(".{0,1000}", 113), strings.Repeat(`(\pL{30}){30}`, 70)} {
		r := s.request([]byte("a"), s.bundle(t, []byte("a"), making{}))
		r.Identity = &Identity{SANRegexp: expression, Issuer: authority.Issuer}
		begun := time.Now()
		d := s.verify(r)
		if took := time.Since(begun); !d.has(CodeRequestMalformed) || took > 50*time.Millisecond {
			t.Errorf("%.20s: %v: %+v", expression, took, d)
		}
		r.Identity = &Identity{SAN: signer, IssuerRegexp: expression}
		if d := s.verify(r); !d.has(CodeRequestMalformed) {
			t.Errorf("issuer %.20s: %+v", expression, d)
		}
	}
	for _, expression := range []string{`^https://github\.com/[a-zA-Z0-9-]{1,39}/[^/]{1,100}/\.github/workflows/.+@refs/tags/v[0-9]+(\.[0-9]+){2}$`, "signer"} {
		if _, err := (Identity{SANRegexp: expression, Issuer: authority.Issuer}).parse(); err != nil {
			t.Errorf("%s: %v", expression, err)
		}
	}
}

// Whoever asks by an expression may mean a high-risk identity wherever the expression matches it, in the
// letter case in which the certificate has it.
func TestExpressionsOfHighRisk(t *testing.T) {
	p := Pattern{Identity: "release@example.com", Issuer: authority.Issuer}
	for _, expression := range []string{`release@`, `^RELEASE@`, `^[^A-Z]+$`, `^[^a-z]+$`, `^\P{Lu}+$`, `^\p{^Lu}+$`, `^[[:^upper:]]+$`, `^[^r].*`, `(?-i)release`, `^(?:release|other)@example\.com$`, `^\PL*[^0-9]`} {
		for _, i := range []Identity{{SANRegexp: expression, Issuer: authority.Issuer}, {SAN: "release@example.com", IssuerRegexp: strings.NewReplacer("release@", "accounts", "RELEASE@", "https").Replace(expression)}} {
			parsed, err := i.parse()
			must(t, err)
			means := false
			for _, name := range []string{"release@example.com", "Release@example.com", "RELEASE@EXAMPLE.COM"} {
				means = means || parsed.means(name, authority.Issuer)
			}
			if means && !p.mayMean(parsed) {
				t.Errorf("%+v means one of high risk, and is not told as one", i)
			}
		}
	}
	other, err := Identity{SANRegexp: `^dev@example\.com$`, Issuer: authority.Issuer}.parse()
	must(t, err)
	if p.mayMean(other) {
		t.Error("another name is of high risk")
	}
}
