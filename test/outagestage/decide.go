package outagestage

import (
	"context"
	"crypto/sha256"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/rekor"
)

// Bundle returns the bundle of an entry of Rekor v2 as its signer has it in a file.
func Bundle(e rekor.Entry) []byte {
	text, err := protojson.Marshal(e.Bundle)
	if err != nil {
		panic(err) // it came from a client
	}
	return text
}

// Unlogged returns a bundle without its log entry: a good signature that nobody has logged.
func Unlogged(e rekor.Entry) []byte {
	e.Bundle = proto.CloneOf(e.Bundle)
	e.Bundle.VerificationMaterial.TlogEntries = nil
	return Bundle(e)
}

// Decide asks the daemon by gRPC whether an artifact may be used, under a policy. whose is the identity that is
// asked for beside those of the policy; "" is none.
func (d *Daemon) Decide(ctx context.Context, policy string, bundle, artifact []byte, whose string) (*understudyv1.VerifyResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	digest := sha256.Sum256(artifact)
	request := &understudyv1.VerifyRequest{Bundle: bundle, Algorithm: "sha256", Digest: digest[:], Policy: policy}
	if whose != "" {
		request.Identity = &understudyv1.ExpectedIdentity{Identity: whose, Issuer: rekor.Issuer}
	}
	return understudyv1.NewVerificationServiceClient(d.conn).Verify(ctx, request)
}

// Codes are the codes of the reasons of a decision, in order.
func Codes(r *understudyv1.VerifyResponse) (codes []string) {
	for _, reason := range r.GetReasons() {
		codes = append(codes, reason.GetCode())
	}
	slices.Sort(codes)
	return codes
}
