package main

import (
	"cmp"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/mirror/trust"
)

// Files of an export that are for one client each.
const (
	policyControllerFile = "policy-controller.yaml"
	kyvernoFile          = "kyverno.yaml"
	cosignFile           = "cosign.env"
	tufRootFile          = "root.json"
)

// clientFiles adds the files for clients.
func (e *exported) clientFiles(dir string, files map[string][]byte) (err error) {
	if files[trust.ECDSATarget], err = trust.ECDSARoot(e.root); err != nil {
		return err
	}
	switch text, err := e.policyController(); {
	case err == nil:
		files[policyControllerFile] = text
	case !errors.Is(err, errNoAuthorities):
		return err
	}
	if e.tufRoot == nil { // there is no TUF repository
		return nil
	}
	files[tufRootFile] = e.tufRoot
	if files[kyvernoFile], err = e.kyverno(); err != nil {
		return err
	}
	files[cosignFile], err = e.cosign(dir)
	return err
}

// object begins a Kubernetes object.
func (e *exported) object(api, kind string, spec yaml.MapSlice) yaml.MapSlice {
	return yaml.MapSlice{{Key: "apiVersion", Value: api}, {Key: "kind", Value: kind}, {Key: "metadata", Value: yaml.MapSlice{{Key: "name", Value: e.name}}}, {Key: "spec", Value: spec}}
}

// policyController is a TrustRoot (policy-controller v0.15.1, pkg/apis/policy/v1alpha1). Its
// reconciler takes no trusted root with a log that signs otherwise than by ECDSA, as Rekor v2 does:
// it gets one without them, out of our own repository, or as plain keys.
func (e *exported) policyController() ([]byte, error) {
	says := `# TrustRoot for sigstore/policy-controller: name it in "trustRootRef" of a ClusterImagePolicy.
# It has no Rekor v2 log, because policy-controller (v0.15.1) refuses a TrustRoot with one.
`
	if e.tufRoot != nil {
		says += fmt.Sprintf(`# For these, and for signatures in bundles, start policy-controller with --tuf-mirror and --tuf-root instead:
#   --tuf-mirror %s --tuf-root root.json
`, e.url)
	}
	var spec yaml.MapSlice
	if e.own {
		spec = yaml.MapSlice{{Key: "remote", Value: yaml.MapSlice{
			{Key: "mirror", Value: e.url}, {Key: "root", Value: base64.StdEncoding.EncodeToString(e.tufRoot)}, {Key: "trustedRootTarget", Value: trust.ECDSATarget},
		}}}
	} else {
		keys, err := sigstoreKeys(e.root)
		if err != nil {
			return nil, err
		}
		spec = yaml.MapSlice{{Key: "sigstoreKeys", Value: keys}}
	}
	text, err := yaml.Marshal(e.object("policy.sigstore.dev/v1alpha1", "TrustRoot", spec))
	return append([]byte(says), text...), err
}

// sigstoreKeys is a TrustedRoot as policy-controller has it, with logs that sign by ECDSA alone.
func sigstoreKeys(root []byte) (yaml.MapSlice, error) {
	root, err := trust.ECDSARoot(root)
	if err != nil {
		return nil, err
	}
	var r trustroot.TrustedRoot
	if err := protojson.Unmarshal(root, &r); err != nil {
		return nil, err
	}
	if len(r.GetCertificateAuthorities()) == 0 && len(r.GetTimestampAuthorities()) == 0 {
		return nil, errNoAuthorities
	}
	authorities := func(list []*trustroot.CertificateAuthority) (out []yaml.MapSlice) {
		for _, a := range list {
			organization, name := namesOf(a)
			out = append(out, yaml.MapSlice{
				{Key: "subject", Value: yaml.MapSlice{{Key: "organization", Value: organization}, {Key: "commonName", Value: name}}},
				{Key: "uri", Value: cmp.Or(a.GetUri(), "https://unnamed.invalid")},
				{Key: "certChain", Value: base64.StdEncoding.EncodeToString(certificates(a.GetCertChain().GetCertificates()))},
			})
		}
		return out
	}
	logs := func(list []*trustroot.TransparencyLogInstance) (out []yaml.MapSlice) {
		for _, l := range list {
			public := pem.EncodeToMemory(&pem.Block{Type: pemPublic, Bytes: l.GetPublicKey().GetRawBytes()})
			out = append(out, yaml.MapSlice{
				{Key: "baseURL", Value: l.GetBaseUrl()}, {Key: "hashAlgorithm", Value: "sha-256"}, {Key: "publicKey", Value: base64.StdEncoding.EncodeToString(public)},
			})
		}
		return out
	}
	return yaml.MapSlice{
		{Key: "certificateAuthorities", Value: authorities(r.GetCertificateAuthorities())},
		{Key: "tLogs", Value: logs(r.GetTlogs())}, {Key: "ctLogs", Value: logs(r.GetCtlogs())},
		{Key: "timestampAuthorities", Value: authorities(r.GetTimestampAuthorities())},
	}, nil
}

// errNoAuthorities: policy-controller takes no TrustRoot of plain keys without an authority.
var errNoAuthorities = errors.New("the trusted root lists neither certificate authorities nor time-stamping authorities")

// namesOf are organization and common name of an authority, which policy-controller wants and a
// TrustedRoot may leave out: those of its certificates then.
func namesOf(a *trustroot.CertificateAuthority) (organization, name string) {
	organization, name = a.GetSubject().GetOrganization(), a.GetSubject().GetCommonName()
	for _, raw := range a.GetCertChain().GetCertificates() {
		if c, err := x509.ParseCertificate(raw.GetRawBytes()); err == nil {
			organization, name = cmp.Or(organization, strings.Join(c.Subject.Organization, " ")), cmp.Or(name, c.Subject.CommonName)
		}
	}
	return cmp.Or(organization, "unnamed"), cmp.Or(name, "unnamed")
}

func certificates(list []*common.X509Certificate) (out []byte) {
	for _, c := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.GetRawBytes()})...)
	}
	return out
}

// kyverno is an ImageValidatingPolicy (Kyverno 1.17 and later, api policies.kyverno.io/v1).
func (e *exported) kyverno() ([]byte, error) {
	const says = `# Policy for Kyverno 1.17 and later: fill in REGISTRY, ISSUER and SUBJECT. It needs no log: what it
# trusts comes out of the TUF repository. A process of Kyverno keeps the first repository that it was given,
# so start it with the same one: --enableTuf=true --tufMirror=%s --tufRoot=root.json
`
	attestor := yaml.MapSlice{{Key: "name", Value: "sigstore"}, {Key: "cosign", Value: yaml.MapSlice{
		{Key: "tuf", Value: yaml.MapSlice{{Key: "mirror", Value: e.url}, {Key: "root", Value: yaml.MapSlice{{Key: "data", Value: base64.StdEncoding.EncodeToString(e.tufRoot)}}}}},
		{Key: "keyless", Value: yaml.MapSlice{{Key: "identities", Value: []yaml.MapSlice{{{Key: "issuer", Value: "ISSUER"}, {Key: "subject", Value: "SUBJECT"}}}}}},
	}}}
	text, err := yaml.Marshal(e.object("policies.kyverno.io/v1", "ImageValidatingPolicy", yaml.MapSlice{
		{Key: "validationActions", Value: []string{"Deny"}},
		{Key: "matchConstraints", Value: yaml.MapSlice{{Key: "resourceRules", Value: []yaml.MapSlice{{
			{Key: "apiGroups", Value: []string{""}}, {Key: "apiVersions", Value: []string{"v1"}}, {Key: "resources", Value: []string{"pods"}}, {Key: "operations", Value: []string{"CREATE", "UPDATE"}},
		}}}}},
		{Key: "matchImageReferences", Value: []yaml.MapSlice{{{Key: "glob", Value: "REGISTRY/*"}}}},
		{Key: "attestors", Value: []yaml.MapSlice{attestor}},
		{Key: "validations", Value: []yaml.MapSlice{{
			{Key: "expression", Value: "images.containers.map(image, verifyImageSignatures(image, [attestors.sigstore])).all(e, e > 0)"},
			{Key: "message", Value: "no signature that is trusted"},
		}}},
	}))
	return append(fmt.Appendf(nil, says, e.url), text...), err
}

// cosign is an environment for cosign (v3.1.3: its pkg/cosign/env, and flags as COSIGN_<FLAG>).
func (e *exported) cosign(dir string) ([]byte, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	quote := func(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }
	quoted := func(file string) string { return quote(filepath.Join(dir, file)) }
	signing := ""
	if e.signing[trust.SigningTarget] != nil {
		signing = "#export COSIGN_SIGNING_CONFIG=" + quoted(signingFile) + "\n"
	}
	return fmt.Appendf(nil, `# Environment for cosign 3: source it into a shell. No "cosign initialize" is needed.
# With one of these variables cosign would not ask the TUF repository.
unset SIGSTORE_ROOT_FILE SIGSTORE_REKOR_PUBLIC_KEY SIGSTORE_CT_LOG_PUBLIC_KEY_FILE SIGSTORE_TSA_CERTIFICATE_FILE

# It follows the TUF repository, and needs it for each run.
export TUF_MIRROR=%s
export TUF_ROOT_JSON=%s

# Or it takes these files as they are, and needs nobody; they do not change by themselves.
#export COSIGN_TRUSTED_ROOT=%s
%s`, quote(e.url), quoted(tufRootFile), quoted(trust.RootTarget), signing), nil
}
