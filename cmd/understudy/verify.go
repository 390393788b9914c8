package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/understudy-log/understudy/mirror/trust"
)

func newVerifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Verify a proof or a Sigstore bundle, offline or by a server",
		Long: `Verify checks, with no network, one of

  a C2SP .tlog-proof, or a JSON proof of inclusion or consistency, as
  "understudy proof" writes them;
  a Sigstore bundle, with sigstore-go's verifier.

The keys come from --trusted-root (a Sigstore TrustedRoot) or --key (one log's
public key), else from the configuration: a log's public_key, its trusted_root
file, or the trusted root that the daemon has fetched and cached. With --as-of it
is the TrustedRoot that was in force at that time, out of the daemon's copy of the
TUF repository.

A .tlog-proof does not say which entry it is for: give --entry or --leaf-hash. A
JSON proof names a leaf hash; --entry or --leaf-hash make it prove that entry.

A bundle needs --artifact or --artifact-digest. One that was signed with a
certificate also needs the identity and the issuer that you expect, one that was
signed with a key needs --public-key. Its entry must be in a log of the trusted
root, its certificate in a certificate log if the trusted root lists any, and a
timestamp must show that it was signed while the certificate was valid.

With --server a bundle is not checked here: an understudy is asked whether the
artifact may be used, under a policy of its own. It gets the bundle and the
artifact's digest, and says allow or deny, what that rests on, and why. What it
could not decide must not be used.

Exit codes: 0 it is good; 1 it is wrong, and why; 2 it could not be checked.`,
		Example: `  understudy verify 42.tlog-proof --entry body.json --trusted-root trusted_root.json
  understudy verify proof.json --key log.example.com+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k
  understudy verify app.sigstore.json --artifact app --trusted-root trusted_root.json \
      --certificate-identity me@example.com --certificate-oidc-issuer https://accounts.example.com
  understudy verify app.sigstore.json --artifact app --server mirror.example.com:7801 --policy release`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.file = args[0]
			o.config = func() (*Config, error) { return configOf(cmd) }
			return verifyFile(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	for _, f := range o.flags() {
		cmd.Flags().StringVar(f.value, f.name, "", f.usage)
	}
	cmd.Flags().BoolVar(&o.json, "json", false, "print the decision of --server as JSON")
	return cmd
}

// verifyOptions say what to verify, and against what.
type verifyOptions struct {
	file             string
	config           func() (*Config, error) // for the keys, when neither is given here
	trustedRoot, key string
	asOf             string

	entry, leafHash string // of proofs

	artifact, artifactDigest string // of bundles
	publicKey                string
	identity, identityRegexp string
	issuer, issuerRegexp     string

	server, policy string // of bundles that a server decides about
	json           bool
}

// proofKind is what a file to verify is.
type proofKind string

const (
	kindTlogProof   proofKind = "a .tlog-proof"
	kindInclusion   proofKind = "an inclusion proof"
	kindConsistency proofKind = "a consistency proof"
	kindBundle      proofKind = "a Sigstore bundle"
)

type verifyFlag struct {
	name, usage string
	value       *string
	kinds       []proofKind // that it applies to; nil: all
}

func (o *verifyOptions) flags() []verifyFlag {
	inclusion, bundle := []proofKind{kindTlogProof, kindInclusion}, []proofKind{kindBundle}
	return []verifyFlag{
		{"trusted-root", "Sigstore TrustedRoot JSON `FILE`", &o.trustedRoot, nil},
		{"key", "public key of the log: a verifier `KEY`, or a file with one or with PEM", &o.key, []proofKind{kindTlogProof, kindInclusion, kindConsistency}},
		{"as-of", "`TIME` whose trust material counts, as 2026-03-01T12:00:00Z or 2026-03-01", &o.asOf, nil},
		{"entry", "`FILE` with the entry (its logged body) that a proof must be for", &o.entry, inclusion},
		{"leaf-hash", "leaf hash in `HEX` that a proof must be for", &o.leafHash, inclusion},
		{"artifact", "`FILE` that a bundle must be for", &o.artifact, bundle},
		{"artifact-digest", "digest `ALG:HEX` (like sha256:...) of the file that a bundle must be for", &o.artifactDigest, bundle},
		{"public-key", "PEM `FILE` with the public key that signed a bundle", &o.publicKey, bundle},
		{"certificate-identity", "subject `NAME` that the certificate of a bundle must have", &o.identity, bundle},
		{"certificate-identity-regexp", "regular `EXPRESSION` for it (anchor it with ^ and $)", &o.identityRegexp, bundle},
		{"certificate-oidc-issuer", "OIDC issuer `URL` that the certificate of a bundle must have", &o.issuer, bundle},
		{"certificate-oidc-issuer-regexp", "regular `EXPRESSION` for it (anchor it with ^ and $)", &o.issuerRegexp, bundle},
		{"server", "`ADDRESS` of the gRPC API of an understudy that decides about a bundle", &o.server, bundle},
		{"policy", "`NAME` of the policy of --server (default: \"default\")", &o.policy, bundle},
	}
}

// maxProofFile bounds the size of a file to verify.
const maxProofFile = 64 << 20

// verifyFile verifies one file and tells out what it proves. The error of a file
// that is wrong is one of wrongf.
func verifyFile(ctx context.Context, o verifyOptions, out io.Writer) error {
	data, err := readFile(o.file)
	if err != nil {
		return err
	}
	kind, err := kindOf(o.file, data)
	if err != nil {
		return err
	}
	for _, f := range o.flags() {
		if *f.value != "" && f.kinds != nil && !slices.Contains(f.kinds, kind) {
			return fmt.Errorf("%s is %s, to which --%s does not apply", o.file, kind, f.name)
		}
	}
	for _, pair := range [][2]*string{
		{&o.trustedRoot, &o.key}, {&o.trustedRoot, &o.asOf}, {&o.key, &o.asOf}, {&o.entry, &o.leafHash}, {&o.artifact, &o.artifactDigest},
		{&o.identity, &o.identityRegexp}, {&o.issuer, &o.issuerRegexp}, {&o.server, &o.trustedRoot}, {&o.server, &o.asOf},
	} {
		if *pair[0] != "" && *pair[1] != "" {
			return fmt.Errorf("--%s and --%s exclude each other: give one", o.nameOf(pair[0]), o.nameOf(pair[1]))
		}
	}
	if o.server == "" && (o.policy != "" || o.json) {
		return fmt.Errorf("--policy and --json are for what a server decides: give --server ADDRESS")
	}
	switch kind {
	case kindTlogProof:
		return o.verifyTlogProof(ctx, data, out)
	case kindInclusion:
		return o.verifyInclusion(ctx, data, out)
	case kindConsistency:
		return o.verifyConsistency(ctx, data, out)
	default:
		if o.server != "" {
			return o.verifyByServer(ctx, data, out)
		}
		return o.verifyBundle(ctx, data, out)
	}
}

func (o *verifyOptions) nameOf(value *string) string {
	flags := o.flags()
	return flags[slices.IndexFunc(flags, func(f verifyFlag) bool { return f.value == value })].name
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProofFile+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxProofFile {
		return nil, fmt.Errorf("%s is over %d MiB: it is no proof, bundle or signature", name, maxProofFile>>20)
	}
	return data, nil
}

// kindOf tells what a file is. A file that begins like a proof and is broken is
// wrong; one that is something else cannot be checked.
func kindOf(name string, data []byte) (proofKind, error) {
	if bytes.HasPrefix(data, []byte("c2sp.org/tlog-proof@")) {
		return kindTlogProof, nil
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return "", fmt.Errorf("%s is neither a .tlog-proof nor JSON: give a file that \"understudy proof\" wrote, or a Sigstore bundle", name)
	}
	var head struct {
		Kind                 string          `json:"kind"`
		MediaType            string          `json:"mediaType"`
		VerificationMaterial json.RawMessage `json:"verificationMaterial"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return "", wrongf("%s is broken JSON (%w): get it again", name, err)
	}
	switch {
	case head.Kind == "inclusion":
		return kindInclusion, nil
	case head.Kind == "consistency":
		return kindConsistency, nil
	case strings.HasPrefix(head.MediaType, "application/vnd.dev.sigstore.bundle") || head.VerificationMaterial != nil:
		return kindBundle, nil
	}
	return "", fmt.Errorf("%s is JSON, but no proof and no Sigstore bundle: give a file that \"understudy proof\" wrote, or a Sigstore bundle", name)
}

// keyring finds the trusted root: the one given, or that of the configuration.
func (o *verifyOptions) keyring(ctx context.Context) (*keyring, error) {
	if o.trustedRoot != "" {
		root, err := trust.LoadRoot(o.trustedRoot)
		return &keyring{root: root, from: o.trustedRoot}, err
	}
	c, err := o.config()
	if err != nil {
		return nil, err
	}
	if o.asOf != "" {
		return trustAsOf(ctx, c, o.asOf)
	}
	k, err := newKeyring(c)
	if err != nil || k.root != nil {
		return k, err
	}
	if err = k.fetchHeld(ctx, c, nil); err != nil && len(k.own) == 0 {
		return nil, fmt.Errorf("nothing to verify against: give --trusted-root FILE, or for a proof --key KEY (%w)", err)
	}
	return k, nil
}

// opener returns what opens checkpoints: with the key given, else with the keyring.
func (o *verifyOptions) opener(ctx context.Context) (func(raw []byte) (*trust.Checkpoint, error), error) {
	k := &keyring{}
	var given []trust.Key
	if o.key != "" {
		key, err := readKey(o.key)
		if err != nil {
			return nil, err
		}
		given = []trust.Key{key}
	} else {
		var err error
		if k, err = o.keyring(ctx); err != nil {
			return nil, err
		}
	}
	return func(raw []byte) (*trust.Checkpoint, error) {
		origin, err := trust.Origin(raw)
		if err != nil {
			return nil, err
		}
		keys := given
		if own := k.own[origin]; own != nil {
			keys = own
		}
		if len(keys) == 0 && k.root != nil {
			return k.root.Open(raw)
		}
		return trust.Open(raw, origin, keys)
	}, nil
}

// wrongCheckpoint makes the errors of a checkpoint that is not believed those of a
// file that is wrong.
func wrongCheckpoint(err error) error {
	_, malformed := errors.AsType[*trust.MalformedError](err)
	_, signature := errors.AsType[*trust.SignatureError](err)
	if malformed || signature {
		return wrongf("%w", err)
	}
	return err
}
