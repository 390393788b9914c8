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
	"slices"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
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
