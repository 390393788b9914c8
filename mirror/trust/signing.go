package trust

import (
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
	"google.golang.org/protobuf/proto"
)

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
	b.TsaUrls = slices.DeleteFunc(b.TsaUrls, func(s *trustroot.Service) bool {
		end := s.GetValidFor().GetEnd()
		if over := end != nil && end.AsTime().Before(now); !over {
			return false
		}
		notes = append(notes, fmt.Sprintf("the time-stamping authority %s is not listed: it ended at %s", s.GetUrl(), end.AsTime().Format(time.RFC3339)))
		return true
	})
	timed := len(validAt(b.GetTsaUrls(), now)) > 0
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
		if v1 := slices.DeleteFunc(slices.Clone(b.RekorTlogUrls), func(s *trustroot.Service) bool { return s.GetMajorApiVersion() != 1 }); !timed && len(validAt(v1, now)) > 0 && len(v1) < len(b.RekorTlogUrls) {
			b.RekorTlogUrls = v1
			notes = append(notes, "only our log of API version 1 is listed: one of version 2 gives no time, and no time-stamping authority is listed")
		}
		b.RekorTlogConfig = selecting(o.GetRekorTlogConfig())
	case SigningAlways:
		version, untimed, dropped, err := dual(b, o, timed, now)
		switch {
		case err != nil:
			return nil, nil, err
		case untimed:
			notes = append(notes, "only logs of API version 1 are listed: those of version 2 give no time, and no time-stamping authority is listed")
		case dropped > 0:
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
	if v2 && !timed {
		notes = append(notes, "a Rekor v2 log gives no time, and no time-stamping authority is listed: signing with short-lived certificates will fail; add a time-stamping authority, or use a log of API version 1")
	} else if later := now.Add(endsSoon); v2 && len(validAt(b.GetTsaUrls(), later)) == 0 {
		notes = append(notes, fmt.Sprintf("a Rekor v2 log gives no time, and no time-stamping authority that is listed goes on until %s: signing with short-lived certificates will fail then", later.Format(time.RFC3339)))
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
// both have, each of another operator. If nobody else gives times it is version 1 where both have that;
// untimed says that a higher one was left for it. dropped is how many are not listed any more.
func dual(b, o *trustroot.SigningConfig, timed bool, now time.Time) (version uint32, untimed bool, dropped int, err error) {
	versions := map[uint32]bool{}
	for _, s := range validAt(b.GetRekorTlogUrls(), now) {
		versions[s.GetMajorApiVersion()] = true
	}
	both := map[uint32]bool{}
	for _, s := range validAt(o.GetRekorTlogUrls(), now) {
		if v := s.GetMajorApiVersion(); versions[v] {
			version, both[v] = max(version, v), true
		}
	}
	if !timed && version > 1 && both[1] {
		version, untimed = 1, true
	}
	if version == 0 {
		return 0, false, 0, errors.New("logging in two logs needs a public one and ours of the same API version, valid now: have our log speak the version that the public one has")
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
				return 0, false, 0, fmt.Errorf("our log %s has the operator %q, as the public one: clients use one log of each operator, give ours another one", s.GetUrl(), s.GetOperator())
			}
			logs = append(logs, s)
		}
	}
	b.RekorTlogUrls, b.RekorTlogConfig = logs, &trustroot.ServiceConfiguration{Selector: trustroot.ServiceSelector_ALL}
	return version, untimed, dropped, nil
}

// UnknownLogs returns the logs that signers may use at a time, and that a TrustedRoot does not have: our
// own by their keys, others by the host of their address.
func UnknownLogs(config, trusted []byte, now time.Time, own ...OwnLog) (unknown []string, err error) {
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
		known := len(parsed.filter(func(k Key) bool { return k.Name == u.Hostname() })) > 0
		if i := slices.IndexFunc(own, func(l OwnLog) bool { return proto.Equal(l.service(), s) }); i >= 0 {
			known = parsed.hasOwn(own[i])
		}
		if !known {
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
