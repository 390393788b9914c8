package trust

import (
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
)

// Describe says what a target has, in lines that a person compares before signing: everything that
// clients would trust or use, each key and certificate by its SHA-256. The error says that clients
// could not read it.
func Describe(name string, data []byte) (lines []string, err error) {
	switch {
	case name == RootTarget, name == ECDSATarget:
		lines, err = describeRoot(data)
	case IsSigningConfig(name):
		lines, err = describeSigning(data)
	default:
		return []string{fmt.Sprintf("content %.16x", sha256.Sum256(data))}, nil
	}
	slices.Sort(lines)
	return lines, err
}

// IsSigningConfig says whether a target is a SigningConfig of the version that clients read.
func IsSigningConfig(name string) bool {
	return name == path.Base(name) && strings.HasPrefix(name, "signing_config") && strings.HasSuffix(name, ".v0.2.json")
}

func describeRoot(data []byte) (lines []string, err error) {
	p, err := rootParts(data)
	if err != nil {
		return nil, err
	}
	return p.describe(), nil
}

// describe has a line for each entry.
func (p *parts) describe() (lines []string) {
	logs := func(what string, list []*trustroot.TransparencyLogInstance) {
		for _, log := range list {
			key := log.GetPublicKey()
			lines = append(lines, fmt.Sprintf("%s %s %s key %.16x%s", what, plain(log.GetBaseUrl()), idOf(log), sha256.Sum256(key.GetRawBytes()), window(key.GetValidFor())))
		}
	}
	authorities := func(what string, list []*trustroot.CertificateAuthority) {
		for _, a := range list {
			var chain []byte
			for _, c := range a.GetCertChain().GetCertificates() {
				chain = append(chain, c.GetRawBytes()...)
			}
			lines = append(lines, fmt.Sprintf("%s %s %q certificates %.16x%s", what, plain(a.GetUri()), a.GetSubject().GetCommonName(), sha256.Sum256(chain), window(a.GetValidFor())))
		}
	}
	logs("log", p.read.GetTlogs())
	logs("certificate log", p.read.GetCtlogs())
	authorities("certificate authority", p.read.GetCertificateAuthorities())
	authorities("time-stamping authority", p.read.GetTimestampAuthorities())
	return lines
}

func describeSigning(data []byte) (lines []string, err error) {
	c, err := parseSigning(data)
	if err != nil {
		return nil, err
	}
	for _, part := range []struct {
		what string
		list []*trustroot.Service
	}{
		{"certificates from", c.GetCaUrls()}, {"identities from", c.GetOidcUrls()}, {"logged in", c.GetRekorTlogUrls()}, {"times from", c.GetTsaUrls()},
	} {
		for _, s := range part.list {
			lines = append(lines, fmt.Sprintf("%s %s, API version %d, operator %q%s", part.what, plain(s.GetUrl()), s.GetMajorApiVersion(), s.GetOperator(), window(s.GetValidFor())))
		}
	}
	for what, config := range map[string]*trustroot.ServiceConfiguration{"logs": c.GetRekorTlogConfig(), "time-stamping authorities": c.GetTsaConfig()} {
		if config != nil {
			lines = append(lines, fmt.Sprintf("of %s: %s %d", what, config.GetSelector(), config.GetCount()))
		}
	}
	return lines, nil
}

// plain is an address for a terminal.
func plain(address string) string {
	if strings.ContainsFunc(address, func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) }) {
		return strconv.Quote(address)
	}
	return address
}

// UpToDate says whether a TrustedRoot of ours has every entry of Sigstore's newest, and none that
// Sigstore had once, by the history, and has no more. The address of a log does not matter: ours may
// have another one.
func UpToDate(ours, newest []byte, history [][]byte) bool {
	entries := func(data []byte) map[string]bool {
		entries := map[string]bool{}
		if p, err := rootParts(data); err == nil {
			for _, log := range p.read.GetTlogs() {
				log.BaseUrl = ""
			}
			for _, line := range p.describe() {
				entries[line] = true
			}
		}
		return entries
	}
	our, new := entries(ours), entries(newest)
	for entry := range new {
		if !our[entry] {
			return false
		}
	}
	for _, data := range history {
		for entry := range entries(data) {
			if our[entry] && !new[entry] {
				return false
			}
		}
	}
	return true
}

func window(w *common.TimeRange) string {
	text := ""
	if w.GetStart() != nil {
		text += " from " + w.GetStart().AsTime().Format(time.DateOnly)
	}
	if w.GetEnd() != nil {
		text += " to " + w.GetEnd().AsTime().Format(time.DateOnly)
	}
	return text
}
