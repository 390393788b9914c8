package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
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
	for _, log := range all.logs() {
		ids[idOf(log)] = true
	}
	for _, json := range more {
		add, err := rootParts(json)
		if err != nil {
			return nil, fmt.Errorf("what is added: %w", err)
		}
		for _, log := range add.logs() {
			if ids[idOf(log)] {
				return nil, fmt.Errorf("the log %s with the ID %s is there already", log.GetBaseUrl(), idOf(log))
			}
			ids[idOf(log)] = true
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
	for i, log := range all.read.GetTlogs() {
		if !v1[string(log.GetLogId().GetKeyId())] {
			continue
		}
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(all.lists["tlogs"][i], &fields); err != nil {
			return nil, err
		}
		delete(fields, "base_url") // the other name of the field
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
	var tlogs []json.RawMessage
	for i, log := range all.read.GetTlogs() {
		if !other[string(log.GetLogId().GetKeyId())] {
			tlogs = append(tlogs, all.lists["tlogs"][i])
		}
	}
	all.lists["tlogs"] = tlogs
	for i, log := range all.read.GetCtlogs() {
		if rewritten, err := rewriteRSA(log); err != nil {
			return nil, err
		} else if rewritten != nil {
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
func rewriteRSA(log *trustroot.TransparencyLogInstance) (json.RawMessage, error) {
	public, err := x509.ParsePKCS1PublicKey(log.GetPublicKey().GetRawBytes())
	if err != nil {
		return nil, nil
	}
	details, ok := map[int]common.PublicKeyDetails{
		2048: common.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256, 3072: common.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, 4096: common.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
	}[public.N.BitLen()]
	if !ok {
		return nil, nil
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	log = proto.CloneOf(log)
	log.PublicKey.RawBytes, log.PublicKey.KeyDetails = spki, details
	return protojson.Marshal(log)
}

// parts is a TrustedRoot whose lists have their elements as they stand, and as they are read: fields
// have two names, and base64 has several forms.
type parts struct {
	fields map[string]json.RawMessage
	lists  map[string][]json.RawMessage
	read   *trustroot.TrustedRoot
}

// logs are those of Rekor and of certificates.
func (p *parts) logs() []*trustroot.TransparencyLogInstance {
	return slices.Concat(p.read.GetTlogs(), p.read.GetCtlogs())
}

func idOf(log *trustroot.TransparencyLogInstance) string {
	return hex.EncodeToString(log.GetLogId().GetKeyId())
}

func rootParts(data []byte) (*parts, error) {
	if _, err := ParseRoot(data); err != nil {
		return nil, err
	}
	p := &parts{lists: map[string][]json.RawMessage{}, read: &trustroot.TrustedRoot{}}
	var fields map[string]json.RawMessage
	if err := errors.Join(protojson.Unmarshal(data, p.read), json.Unmarshal(data, &fields)); err != nil {
		return nil, fmt.Errorf("parse trusted root: %w", err)
	}
	p.fields = map[string]json.RawMessage{}
	for name, raw := range fields {
		if other, ok := map[string]string{"media_type": "mediaType", "certificate_authorities": "certificateAuthorities", "timestamp_authorities": "timestampAuthorities"}[name]; ok {
			name = other
		}
		p.fields[name] = raw
	}
	for list, read := range map[string]int{
		"tlogs": len(p.read.GetTlogs()), "certificateAuthorities": len(p.read.GetCertificateAuthorities()),
		"ctlogs": len(p.read.GetCtlogs()), "timestampAuthorities": len(p.read.GetTimestampAuthorities()),
	} {
		var elements []json.RawMessage
		if raw, ok := p.fields[list]; ok {
			if err := json.Unmarshal(raw, &elements); err != nil {
				return nil, fmt.Errorf("parse trusted root: %s: %w", list, err)
			}
		}
		if len(elements) != read {
			return nil, fmt.Errorf("parse trusted root: %s is not what it seems", list)
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
		if err := usable(b, now); err != nil {
			notes = append(notes, err.Error())
		}
		return base, notes, nil
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
	for _, tsa := range o.GetTsaUrls() {
		if !slices.ContainsFunc(b.TsaUrls, func(s *trustroot.Service) bool { return s.GetUrl() == tsa.GetUrl() }) {
			b.TsaUrls = append(b.TsaUrls, tsa)
		}
	}
	if b.TsaConfig == nil {
		b.TsaConfig = o.GetTsaConfig()
	}
	if len(b.TsaUrls) > 0 {
		b.TsaConfig = selecting(b.TsaConfig)
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
		b.RekorTlogConfig = selecting(o.GetRekorTlogConfig())
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
	if err := usable(b, now); err != nil {
		return nil, nil, err
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
		if end := s.GetValidFor().GetEnd(); end != nil && end.AsTime().Before(now.Add(endsSoon)) {
			notes = append(notes, fmt.Sprintf("our log %s ends at %s: from then on signers do not use it", s.GetUrl(), end.AsTime().Format(time.RFC3339)))
		}
	}
	if logs == SigningAlways && len(chosen) > 2 {
		notes = append(notes, fmt.Sprintf("signers log in %d logs each time: public ones of several operators are listed", len(chosen)))
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

// endsSoon is how long before its end a log is said to end.
const endsSoon = 90 * 24 * time.Hour

// selecting returns a configuration that clients can read: cosign 3.1.3 panics without one.
func selecting(c *trustroot.ServiceConfiguration) *trustroot.ServiceConfiguration {
	if c == nil || c.GetSelector() == trustroot.ServiceSelector_SERVICE_SELECTOR_UNDEFINED {
		return &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ANY}
	}
	return c
}

// usable says what keeps clients from choosing logs and time-stamping authorities.
func usable(c *trustroot.SigningConfig, now time.Time) error {
	for _, part := range []struct {
		what, key string
		services  []*trustroot.Service
		config    *trustroot.ServiceConfiguration
		versions  []uint32
	}{
		{"logs", "rekorTlogConfig", c.GetRekorTlogUrls(), c.GetRekorTlogConfig(), []uint32{1, 2}},
		{"time-stamping authorities", "tsaConfig", c.GetTsaUrls(), c.GetTsaConfig(), []uint32{1}},
	} {
		if len(part.services) == 0 {
			continue
		}
		if part.config == nil {
			return fmt.Errorf("it lists %s and has no %s: clients cannot choose (cosign panics)", part.what, part.key)
		}
		var services []root.Service
		for _, s := range part.services {
			services = append(services, root.NewService(s))
		}
		if _, err := root.SelectServices(services, root.ServiceConfiguration{Selector: part.config.GetSelector(), Count: part.config.GetCount()}, part.versions, now); err != nil {
			return fmt.Errorf("clients cannot choose among the %s: %w", part.what, err)
		}
	}
	return nil
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
