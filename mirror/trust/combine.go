package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	// SigningTarget is the target with Sigstore's SigningConfig.
	SigningTarget = "signing_config.v0.2.json"
	// ECDSATarget is the target with what ECDSARoot makes of the TrustedRoot.
	ECDSATarget = "trusted_root.ecdsa.json"
)

// Parts of a TrustedRoot that are lists (protobuf-specs, sigstore_trustroot.proto).
var rootLists = []string{"tlogs", "certificateAuthorities", "ctlogs", "timestampAuthorities"}

// CombineRoots returns a TrustedRoot in JSON with the entries of one, as they stand, and then those
// of others. Each log that is added has a validity window with a beginning, and a log ID of its own.
func CombineRoots(base []byte, more ...[]byte) ([]byte, error) {
	if len(more) == 0 {
		return base, nil
	}
	all, err := rootParts(base)
	if err != nil {
		return nil, err
	}
	ids := map[string]bool{}
	for _, log := range slices.Concat(all.lists["tlogs"], all.lists["ctlogs"]) {
		ids[logOf(log).id()] = true
	}
	for _, json := range more {
		add, err := rootParts(json)
		if err != nil {
			return nil, fmt.Errorf("what is added: %w", err)
		}
		for _, log := range slices.Concat(add.lists["tlogs"], add.lists["ctlogs"]) {
			l := logOf(log)
			if ids[l.id()] {
				return nil, fmt.Errorf("the log %s with the ID %s is there already", l.BaseURL, l.id())
			}
			ids[l.id()] = true
		}
		for _, list := range rootLists {
			all.lists[list] = append(all.lists[list], add.lists[list]...)
		}
	}
	return all.json()
}

// RewriteV1 returns a TrustedRoot in which the Rekor v1 logs of a host have another address. Their
// checkpoints name them all the same. A Rekor v2 log is never given another address: its name is the
// host in it, and clients would not find its signature.
func RewriteV1(base []byte, host, address string) ([]byte, error) {
	parsed, err := ParseRoot(base)
	if err != nil {
		return nil, err
	}
	v1 := map[string]bool{}
	for _, key := range parsed.filter(Key.rekorV1) {
		if key.Name == host {
			v1[string(key.LogID)] = true
		}
	}
	if len(v1) == 0 {
		return nil, fmt.Errorf("the trusted root has no Rekor v1 log of %s", host)
	}
	all, err := rootParts(base)
	if err != nil {
		return nil, err
	}
	for i, raw := range all.lists["tlogs"] {
		if log := logOf(raw); !v1[string(log.LogID.KeyID)] {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(raw, &fields); err != nil {
			return nil, err
		}
		if fields["baseUrl"], err = json.Marshal(address); err != nil {
			return nil, err
		}
		if all.lists["tlogs"][i], err = json.Marshal(fields); err != nil {
			return nil, err
		}
	}
	return all.json()
}

// ECDSARoot returns a TrustedRoot as policy-controller takes it (its pkg/reconciler/trustroot, v0.15.1):
// without the logs that sign otherwise than by ECDSA, as those of Rekor v2 do, and with the RSA keys of CT
// logs as SubjectPublicKeyInfo, where Sigstore's staging has PKCS #1.
func ECDSARoot(base []byte) ([]byte, error) {
	parsed, err := ParseRoot(base)
	if err != nil {
		return nil, err
	}
	other := map[string]bool{}
	for _, key := range parsed.keys {
		if _, ok := key.public.(*ecdsa.PublicKey); !ok {
			other[string(key.LogID)] = true
		}
	}
	all, err := rootParts(base)
	if err != nil {
		return nil, err
	}
	changed := len(other) > 0
	all.lists["tlogs"] = slices.DeleteFunc(all.lists["tlogs"], func(raw json.RawMessage) bool { return other[string(logOf(raw).LogID.KeyID)] })
	for i, raw := range all.lists["ctlogs"] {
		rewritten, err := rewriteRSA(raw)
		if err != nil {
			return nil, err
		}
		if rewritten != nil {
			all.lists["ctlogs"][i], changed = rewritten, true
		}
	}
	if !changed {
		return base, nil
	}
	return all.json()
}

// rewriteRSA returns a log with its PKCS #1 key as SubjectPublicKeyInfo, or nil if it has no such key, or
// one of a size for which there is no word (protobuf-specs, PublicKeyDetails). The log ID is the same.
func rewriteRSA(log json.RawMessage) (json.RawMessage, error) {
	var fields, key map[string]json.RawMessage
	var der []byte
	if err := json.Unmarshal(log, &fields); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(fields["publicKey"], &key); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(key["rawBytes"], &der); err != nil {
		return nil, err
	}
	public, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		return nil, nil
	}
	details, ok := map[int]string{2048: "PKIX_RSA_PKCS1V15_2048_SHA256", 3072: "PKIX_RSA_PKCS1V15_3072_SHA256", 4096: "PKIX_RSA_PKCS1V15_4096_SHA256"}[public.N.BitLen()]
	if !ok {
		return nil, nil
	}
	if der, err = x509.MarshalPKIXPublicKey(public); err != nil {
		return nil, err
	}
	if key["rawBytes"], err = json.Marshal(der); err != nil {
		return nil, err
	}
	if key["keyDetails"], err = json.Marshal(details); err != nil {
		return nil, err
	}
	if fields["publicKey"], err = json.Marshal(key); err != nil {
		return nil, err
	}
	return json.Marshal(fields)
}

// parts is a TrustedRoot whose lists have their elements as they stand.
type parts struct {
	fields map[string]json.RawMessage
	lists  map[string][]json.RawMessage
}

func rootParts(data []byte) (*parts, error) {
	if _, err := ParseRoot(data); err != nil {
		return nil, err
	}
	p := &parts{lists: map[string][]json.RawMessage{}}
	if err := json.Unmarshal(data, &p.fields); err != nil {
		return nil, fmt.Errorf("parse trusted root: %w", err)
	}
	for _, list := range rootLists {
		var elements []json.RawMessage
		if raw, ok := p.fields[list]; ok {
			if err := json.Unmarshal(raw, &elements); err != nil {
				return nil, fmt.Errorf("parse trusted root: %s: %w", list, err)
			}
		}
		p.lists[list] = elements
	}
	return p, nil
}

// json returns the whole, in one order of fields, and only if it can be read again.
func (p *parts) json() ([]byte, error) {
	for list, elements := range p.lists {
		if len(elements) == 0 {
			delete(p.fields, list)
			continue
		}
		raw, err := json.Marshal(elements)
		if err != nil {
			return nil, err
		}
		p.fields[list] = raw
	}
	var out bytes.Buffer
	out.WriteString("{")
	names := append([]string{"mediaType"}, rootLists...)
	for _, name := range slices.Sorted(maps.Keys(p.fields)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, name := range names {
		if raw, ok := p.fields[name]; ok {
			if out.Len() > 1 {
				out.WriteString(",")
			}
			fmt.Fprintf(&out, "%q:%s", name, raw)
		}
	}
	out.WriteString("}")
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, out.Bytes(), "", "  "); err != nil {
		return nil, err
	}
	pretty.WriteByte('\n')
	_, err := ParseRoot(pretty.Bytes())
	return pretty.Bytes(), err
}

// logParts is what of a log matters for putting TrustedRoots together.
type logParts struct {
	BaseURL string `json:"baseUrl"`
	LogID   struct {
		KeyID []byte `json:"keyId"`
	} `json:"logId"`
}

func logOf(raw json.RawMessage) (l logParts) {
	_ = json.Unmarshal(raw, &l) // ParseRoot has read it
	return l
}

func (l logParts) id() string { return fmt.Sprintf("%x", l.LogID.KeyID) }

// SigningLogs says in which logs a SigningConfig has its users log.
type SigningLogs string

// The logs of a SigningConfig.
const (
	SigningPublic   SigningLogs = "public"   // those of upstream, and no other
	SigningAlways   SigningLogs = "always"   // one of upstream and ours, both each time
	SigningFallback SigningLogs = "fallback" // ours alone
)

// CombineSigning returns a SigningConfig in JSON (media type version 0.2) that has the logs which
// are wanted, as of a time. ours lists our own log as a SigningConfig does; nil with SigningPublic.
// Time-stamping authorities of both are listed; certificate authorities and OIDC providers are those
// of base, or ours if it has none. The notes say what users should know.
//
// A client takes the highest API version that it speaks and finds, and of that version the newest
// log of each operator (client specification; sigstore-go, pkg/root). So two logs of different
// versions, or of one operator, are never both used: they cannot be asked for.
func CombineSigning(base, ours []byte, logs SigningLogs, now time.Time) (config []byte, notes []string, err error) {
	b, err := parseSigning(base)
	if err != nil {
		return nil, nil, err
	}
	if logs == SigningPublic {
		return base, nil, nil
	}
	o, err := parseSigning(ours)
	if err != nil {
		return nil, nil, fmt.Errorf("the SigningConfig with our log: %w", err)
	}
	own := validAt(o.GetRekorTlogUrls(), now)
	if len(own) == 0 {
		return nil, nil, errors.New("the SigningConfig with our log lists none that is valid now")
	}
	for _, s := range own {
		if s.GetOperator() == "" || s.GetValidFor().GetStart() == nil {
			return nil, nil, fmt.Errorf("our log %s needs an operator, and a validFor with a start", s.GetUrl())
		}
	}
	b.TsaUrls = append(b.TsaUrls, o.GetTsaUrls()...)
	if b.TsaConfig == nil {
		b.TsaConfig = o.GetTsaConfig()
	}
	if len(b.CaUrls) == 0 {
		b.CaUrls = o.GetCaUrls()
	}
	if len(b.OidcUrls) == 0 {
		b.OidcUrls = o.GetOidcUrls()
	}
	switch logs {
	case SigningFallback:
		b.RekorTlogUrls = o.GetRekorTlogUrls()
		if v1 := slices.DeleteFunc(slices.Clone(b.RekorTlogUrls), func(s *trustroot.Service) bool { return s.GetMajorApiVersion() != 1 }); len(validAt(b.GetTsaUrls(), now)) == 0 && len(validAt(v1, now)) > 0 && len(v1) < len(b.RekorTlogUrls) {
			b.RekorTlogUrls = v1
			notes = append(notes, "only our log of API version 1 is listed: one of version 2 gives no time, and no time-stamping authority is listed")
		}
		if b.RekorTlogConfig = o.GetRekorTlogConfig(); b.RekorTlogConfig == nil {
			b.RekorTlogConfig = &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
		}
	case SigningAlways:
		version, dropped, err := dual(b, o, now)
		if err != nil {
			return nil, nil, err
		}
		if dropped > 0 {
			notes = append(notes, fmt.Sprintf("only logs of API version %d are listed: two logs of different versions are never both used", version))
		}
	default:
		return nil, nil, fmt.Errorf("logs %q: want public, always or fallback", logs)
	}
	if config, err = (protojson.MarshalOptions{Multiline: true, Indent: "  "}).Marshal(b); err != nil {
		return nil, nil, err
	}
	chosen, err := chosenLogs(config, now)
	if err != nil {
		return nil, nil, err
	}
	needed := map[string]bool{} // operators
	for _, s := range own {
		needed[s.GetOperator()] = true
	}
	v2 := false
	for _, s := range chosen {
		delete(needed, s.Operator)
		v2 = v2 || s.MajorAPIVersion >= 2
	}
	if len(needed) > 0 {
		return nil, nil, fmt.Errorf("clients would not use our log of %s: its API version is lower than that of another one", strings.Join(slices.Sorted(maps.Keys(needed)), ", "))
	}
	if v2 && len(validAt(b.GetTsaUrls(), now)) == 0 {
		notes = append(notes, "a Rekor v2 log gives no time, and no time-stamping authority is listed: signing with short-lived certificates will fail; add a time-stamping authority, or use a log of API version 1")
	}
	return append(config, '\n'), notes, nil
}

// dual makes b list the logs of b and of o that are used together: of the highest API version that
// both have, each of another operator. dropped is how many are not listed any more.
func dual(b, o *trustroot.SigningConfig, now time.Time) (version uint32, dropped int, err error) {
	versions := map[uint32]bool{}
	for _, s := range validAt(b.GetRekorTlogUrls(), now) {
		versions[s.GetMajorApiVersion()] = true
	}
	for _, s := range validAt(o.GetRekorTlogUrls(), now) {
		if v := s.GetMajorApiVersion(); versions[v] {
			version = max(version, v)
		}
	}
	if version == 0 {
		return 0, 0, errors.New("logging in two logs needs a public one and ours of the same API version, valid now: have our log speak the version that the public one has")
	}
	operators := map[string]bool{}
	var logs []*trustroot.Service
	for i, list := range [][]*trustroot.Service{b.GetRekorTlogUrls(), o.GetRekorTlogUrls()} {
		for _, s := range list {
			if s.GetMajorApiVersion() != version {
				dropped++
				continue
			}
			if i == 0 {
				operators[s.GetOperator()] = true
			} else if operators[s.GetOperator()] {
				return 0, 0, fmt.Errorf("our log %s has the operator %q, as the public one: clients use one log of each operator, give ours another one", s.GetUrl(), s.GetOperator())
			}
			logs = append(logs, s)
		}
	}
	b.RekorTlogUrls, b.RekorTlogConfig = logs, &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ALL}
	return version, dropped, nil
}

// UnknownLogs returns the logs that signers may use at a time, and that a TrustedRoot does not have: by
// the host of their address.
func UnknownLogs(config, trusted []byte, now time.Time) (unknown []string, err error) {
	c, err := parseSigning(config)
	if err != nil {
		return nil, err
	}
	parsed, err := ParseRoot(trusted)
	if err != nil {
		return nil, err
	}
	for _, s := range validAt(c.GetRekorTlogUrls(), now) {
		u, err := url.Parse(s.GetUrl())
		if err != nil {
			return nil, fmt.Errorf("parse SigningConfig: address of a log: %w", err)
		}
		if len(parsed.filter(func(k Key) bool { return k.Name == u.Hostname() })) == 0 {
			unknown = append(unknown, s.GetUrl())
		}
	}
	return unknown, nil
}

func parseSigning(data []byte) (*trustroot.SigningConfig, error) {
	s, err := root.NewSigningConfigProtobuf(data)
	if err != nil {
		return nil, fmt.Errorf("parse SigningConfig: %w", err)
	}
	if _, err := root.NewSigningConfigFromProtobuf(s); err != nil {
		return nil, fmt.Errorf("parse SigningConfig: %w", err)
	}
	return s, nil
}

func validAt(services []*trustroot.Service, at time.Time) (valid []*trustroot.Service) {
	for _, s := range services {
		if root.NewService(s).ValidAtTime(at) {
			valid = append(valid, s)
		}
	}
	return valid
}

// chosenLogs are the logs that a client which speaks every version would use, or could if it
// chooses among them.
func chosenLogs(config []byte, now time.Time) ([]root.Service, error) {
	c, err := root.NewSigningConfigFromJSON(config)
	if err != nil {
		return nil, err
	}
	all := c.RekorLogURLsConfig()
	all.Selector = trustroot.ServiceSelector_ALL
	return root.SelectServices(c.RekorLogURLs(), all, []uint32{1, 2}, now)
}
