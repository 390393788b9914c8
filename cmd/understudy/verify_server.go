package main

import (
	"context"
	"crypto"
	_ "crypto/sha256" // of artifacts
	_ "crypto/sha512"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
)

// verifyByServer asks a server whether the artifact may be used. The server gets the bundle and the
// artifact's digest.
func (o *verifyOptions) verifyByServer(ctx context.Context, data []byte, out io.Writer) error {
	request, err := o.question(data)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, closeConn, err := connect(ctx, &Config{}, o.server, nil)
	if err != nil {
		return err
	}
	defer closeConn()
	answer, err := understudyv1.NewVerificationServiceClient(conn).Verify(ctx, request)
	if err != nil {
		s := status.Convert(err)
		if s.Code() == codes.Unimplemented && len(s.Details()) == 0 {
			return fmt.Errorf("%s decides nothing (%s): is that the gRPC address of an understudy of today?", o.server, s.Message())
		}
		return fmt.Errorf("%s could not decide (%s): %s; until it can, do not use the artifact", o.server, s.Code(), s.Message())
	}
	if err := o.printDecision(answer, out); err != nil {
		return err
	}
	if answer.GetDecision() != understudyv1.Decision_DECISION_ALLOW {
		return wrongf("%s must not be used: %s denies it", o.subject(), o.server)
	}
	return nil
}

// subject names the artifact.
func (o *verifyOptions) subject() string {
	if o.artifact != "" {
		return o.artifact
	}
	return o.artifactDigest
}

// question is what the flags ask.
func (o *verifyOptions) question(data []byte) (*understudyv1.VerifyRequest, error) {
	identity := o.identity + o.identityRegexp + o.issuer + o.issuerRegexp
	request := &understudyv1.VerifyRequest{Bundle: data, Policy: o.policy}
	switch {
	case identity != "" && o.publicKey != "":
		return nil, fmt.Errorf("--public-key and --certificate-... exclude each other: a bundle is signed with one of them")
	case identity != "":
		if o.identity+o.identityRegexp == "" || o.issuer+o.issuerRegexp == "" {
			return nil, fmt.Errorf("say whom you expect with --certificate-identity NAME and --certificate-oidc-issuer URL: one without the other is nobody")
		}
		request.Identity = &understudyv1.ExpectedIdentity{Identity: o.identity, IdentityRegexp: o.identityRegexp, Issuer: o.issuer, IssuerRegexp: o.issuerRegexp}
	case o.publicKey != "":
		key, err := os.ReadFile(o.publicKey)
		if err != nil {
			return nil, err
		}
		request.PublicKey = key
	}
	var err error
	request.Algorithm, request.Digest, err = o.digest(data)
	return request, err
}

// digest is that of the artifact, with the algorithm that the bundle is about.
func (o *verifyOptions) digest(data []byte) (algorithm string, digest []byte, err error) {
	if o.artifact == "" {
		if o.artifactDigest == "" {
			return "", nil, fmt.Errorf("a bundle is for an artifact: give --artifact FILE or --artifact-digest sha256:HEX")
		}
		algorithm, digits, _ := strings.Cut(o.artifactDigest, ":")
		if digest, err = hex.DecodeString(digits); err != nil || digits == "" {
			return "", nil, fmt.Errorf("--artifact-digest %q: want sha256:, sha384: or sha512: and the digest in hex", o.artifactDigest)
		}
		return algorithm, digest, nil
	}
	algorithm = algorithmOf(data)
	h := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512}[algorithm].New()
	f, err := os.Open(o.artifact)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	if _, err := io.Copy(h, f); err != nil {
		return "", nil, err
	}
	return algorithm, h.Sum(nil), nil
}

// algorithmOf is the algorithm of the digest that a bundle signs, or of the subjects of its statement;
// of a bundle that cannot be read sha256: the server says what is wrong with it.
func algorithmOf(data []byte) string {
	var b bundle.Bundle
	if err := b.UnmarshalJSON(data); err != nil {
		return "sha256"
	}
	switch b.GetMessageSignature().GetMessageDigest().GetAlgorithm() {
	case commonpb.HashAlgorithm_SHA2_384:
		return "sha384"
	case commonpb.HashAlgorithm_SHA2_512:
		return "sha512"
	}
	var statement struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if json.Unmarshal(b.GetDsseEnvelope().GetPayload(), &statement) != nil {
		return "sha256"
	}
	for _, algorithm := range []string{"sha256", "sha512", "sha384"} {
		for _, subject := range statement.Subject {
			if subject.Digest[algorithm] != "" {
				return algorithm
			}
		}
	}
	return "sha256"
}

// printDecision prints one line for scripts, and then what it is for people.
func (o *verifyOptions) printDecision(d *understudyv1.VerifyResponse, out io.Writer) error {
	if o.json {
		data, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(d)
		if err != nil {
			return err
		}
		var value any // protojson's white space is random
		if err := json.Unmarshal(data, &value); err != nil {
			return err
		}
		data, err = encode(value)
		if err == nil {
			_, err = out.Write(data)
		}
		return err
	}
	answer := "deny"
	if d.GetDecision() == understudyv1.Decision_DECISION_ALLOW {
		answer = "allow"
	}
	rests := "nothing"
	if d.GetRestsOn() != understudyv1.RestsOn_RESTS_ON_UNSPECIFIED {
		rests = strings.ToLower(strings.TrimPrefix(d.GetRestsOn().String(), "RESTS_ON_"))
	}
	if d.GetOrigin() != "" {
		rests += fmt.Sprintf(", entry %d of %s", d.GetIndex(), d.GetOrigin())
	}
	fmt.Fprintf(out, "%s\n  mode      %s, policy %s\n  rests on  %s\n  state     %s\n", answer,
		strings.ToLower(strings.TrimPrefix(d.GetMode().String(), "MODE_")), printable(d.GetPolicy()), printable(rests), printable(d.GetState()))
	if d.GetException() != "" {
		fmt.Fprintf(out, "  exception %s\n", printable(d.GetException()))
	}
	if d.GetCertificateIdentity() != "" {
		believed := ""
		if answer != "allow" || d.GetException() != "" {
			believed = ": as the bundle says, not verified"
		}
		fmt.Fprintf(out, "  signer    %s (%s)%s\n", printable(d.GetCertificateIdentity()), printable(d.GetCertificateIssuer()), believed)
	}
	if d.GetRow() > 0 {
		fmt.Fprintf(out, "  recorded  row %d of the ledger\n", d.GetRow())
	}
	for _, r := range d.GetReasons() {
		fmt.Fprintf(out, "  %s: %s\n", printable(r.GetCode()), printable(r.GetText()))
	}
	return nil
}
