package trust

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	rekornote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	"github.com/sigstore/sigstore-go/pkg/root"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// OwnLog is a log of our own, as clients know it: one generation of Rekor, one key. A log whose key is
// replaced is another log, with an origin of its own, and the one before gets an End.
type OwnLog struct {
	URL        string           // where signers reach it; the host of a log of version 2 is its origin
	APIVersion uint32           // the generation of Rekor whose API it has: 1 or 2
	Origin     string           // of its checkpoints: "host - treeID" for version 1, a host for version 2
	Operator   string           // who runs it: signers use one log of each
	Public     crypto.PublicKey // ECDSA on P-256 for version 1, Ed25519 for version 2
	Start, End time.Time        // when it takes entries; a zero End is none
}

// OwnRoot returns a TrustedRoot in JSON (media type version 0.1) with our logs and nothing else.
func OwnRoot(logs []OwnLog) ([]byte, error) {
	if err := checkOwn(logs); err != nil {
		return nil, err
	}
	r := &trustroot.TrustedRoot{MediaType: root.TrustedRootMediaType01}
	for _, l := range logs {
		instance, err := l.instance()
		if err != nil {
			return nil, err
		}
		r.Tlogs = append(r.Tlogs, instance)
	}
	return indented(r)
}

// OwnSigning returns a SigningConfig in JSON (media type version 0.2) with our logs and nothing else.
func OwnSigning(logs []OwnLog) ([]byte, error) {
	if err := checkOwn(logs); err != nil {
		return nil, err
	}
	c := &trustroot.SigningConfig{MediaType: root.SigningConfigMediaType02, RekorTlogConfig: selecting(nil), TsaConfig: selecting(nil)}
	for _, l := range logs {
		c.RekorTlogUrls = append(c.RekorTlogUrls, l.service())
	}
	return indented(c)
}

// AddOwn returns a TrustedRoot in JSON with the entries of base, as they stand, and our logs. Those that
// base has already, with the same key, stay as they are there: kept. Without base our logs are all.
func AddOwn(base []byte, logs []OwnLog) (combined []byte, kept []OwnLog, err error) {
	if base == nil {
		combined, err = OwnRoot(logs)
		return combined, nil, err
	}
	has, err := ParseRoot(base)
	if err != nil {
		return nil, nil, err
	}
	if err := checkOwn(logs); err != nil {
		return nil, nil, err
	}
	var missing []OwnLog
	for _, l := range logs {
		if has.hasOwn(l) {
			kept = append(kept, l)
		} else {
			missing = append(missing, l)
		}
	}
	if len(missing) == 0 {
		return base, kept, nil
	}
	ours, err := OwnRoot(missing)
	if err != nil {
		return nil, nil, err
	}
	combined, err = CombineRoots(base, ours)
	return combined, kept, err
}

// hasOwn says whether a TrustedRoot has a log of ours: its ID and its key.
func (r *Root) hasOwn(l OwnLog) bool {
	_, id, err := rekornote.KeyHash(l.host(), l.Public)
	if err != nil {
		return false
	}
	return len(r.filter(func(k Key) bool {
		public, ok := k.public.(interface{ Equal(crypto.PublicKey) bool })
		return ok && bytes.Equal(k.LogID, id) && public.Equal(l.Public)
	})) > 0
}

// host is what verifiers find the log by.
func (l OwnLog) host() string {
	host, _ := rekorV1Host(l.Origin)
	return host
}

// instance is the log in a TrustedRoot. Its ID is the hash of the key for version 1, and of the name and
// the key for version 2 (c2sp.org/signed-note).
func (l OwnLog) instance() (*trustroot.TransparencyLogInstance, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.Public)
	if err != nil {
		return nil, l.wrong("encode its key: %w", err)
	}
	_, id, err := rekornote.KeyHash(l.host(), l.Public)
	if err != nil {
		return nil, l.wrong("compute its log ID: %w", err)
	}
	details := common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256
	if l.APIVersion == 2 {
		details = common.PublicKeyDetails_PKIX_ED25519
	}
	return &trustroot.TransparencyLogInstance{
		BaseUrl: l.baseURL(), HashAlgorithm: common.HashAlgorithm_SHA2_256, LogId: &common.LogId{KeyId: id},
		PublicKey: &common.PublicKey{RawBytes: spki, KeyDetails: details, ValidFor: l.window()},
	}, nil
}

// service is the log in a SigningConfig.
func (l OwnLog) service() *trustroot.Service {
	return &trustroot.Service{Url: l.URL, MajorApiVersion: l.APIVersion, Operator: l.Operator, ValidFor: l.window()}
}

// baseURL is the address with the name that checkpoints are signed with. sigstore-go takes the name of a
// log of version 2 from it. Of version 1 no client does, they go by the ID of the key; but people do, and
// we, and it may be reached elsewhere.
func (l OwnLog) baseURL() string {
	u, err := url.Parse(l.URL)
	if err != nil || u.Hostname() == l.host() {
		return l.URL
	}
	return u.Scheme + "://" + l.host()
}

// window is in whole seconds: a Rekor v1 log gives its times so, and one that it gives in its first
// second must not lie before its beginning.
func (l OwnLog) window() *common.TimeRange {
	w := &common.TimeRange{Start: timestamppb.New(l.Start.Truncate(time.Second))}
	if !l.End.IsZero() {
		w.End = timestamppb.New(l.End.Truncate(time.Second))
	}
	return w
}

// checkOwn says what clients could not use, or would take for something else.
func checkOwn(logs []OwnLog) error {
	if len(logs) == 0 {
		return errors.New("there is no log of our own")
	}
	for i, l := range logs {
		if err := l.check(); err != nil {
			return err
		}
		for _, other := range logs[:i] {
			if l.Origin == other.Origin {
				return l.wrong("it is there twice: a log with another key is another log, give it an origin of its own")
			}
			if public, ok := l.Public.(interface{ Equal(crypto.PublicKey) bool }); ok && public.Equal(other.Public) {
				return l.wrong("it has the key of %q: clients tell logs by their keys, give it one of its own", other.Origin)
			}
		}
	}
	return nil
}

func (l OwnLog) check() error {
	host, v1 := rekorV1Host(l.Origin)
	switch l.APIVersion {
	case 1:
		if key, ok := l.Public.(*ecdsa.PublicKey); !ok || key == nil || key.Curve != elliptic.P256() {
			return l.wrong("a log of API version 1 has an ECDSA key on P-256")
		}
		id := strings.TrimPrefix(l.Origin, host+" - ")
		if n, _ := strconv.ParseInt(id, 10, 64); n < 1 || strconv.FormatInt(n, 10) != id { // also if it is no number
			return l.wrong("the origin of a log of API version 1 is its host, a dash and its tree ID, like %q", "rekor.example.com - 3141592653589793238")
		}
	case 2:
		if key, ok := l.Public.(ed25519.PublicKey); !ok || len(key) != ed25519.PublicKeySize {
			return l.wrong("a log of API version 2 has an Ed25519 key")
		}
		if v1 {
			return l.wrong("clients take this origin for one of API version 1: that of version 2 is a host")
		}
	default:
		return l.wrong("it has the API version %d, want 1 or 2", l.APIVersion)
	}
	if u, err := url.Parse("https://" + host); err != nil || !validName(host) || u.Hostname() != host {
		return l.wrong("its name %q is no host without a port", host)
	}
	u, err := url.Parse(l.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return l.wrong("its address %q is none that clients can use, want one like https://%s", l.URL, host)
	case l.APIVersion == 2 && u.Hostname() != host:
		return l.wrong("clients take its name from its address %s: the host of that must be the origin", l.URL)
	case l.Operator == "":
		return l.wrong("it has no operator: signers use one log of each")
	case l.Start.IsZero():
		return l.wrong("it has no time at which it begins: clients refuse it without")
	case !l.End.IsZero() && !l.End.After(l.Start):
		return l.wrong("it ends at %s, before it begins", l.End.Format(time.RFC3339))
	}
	return nil
}

func (l OwnLog) wrong(format string, args ...any) error {
	return fmt.Errorf("our log %q: %w", l.Origin, fmt.Errorf(format, args...))
}

// indented is the JSON of a message, the same from every build: protojson's spaces are not.
func indented(m proto.Message) ([]byte, error) {
	raw, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
