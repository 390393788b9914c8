package rekor

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"

	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	hashedrekordv2 "github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	maxEntry      = 65535   // bytes of an entry in a bundle (C2SP tlog-tiles)
	maxProposedV2 = 4 << 20 // of a request's JSON, rekor-server's default
)

// ProposeV2 does with the JSON of POST /api/v2/log/entries what the server of Rekor v2 does
// before it logs. Every error is an *InputError; its text begins with the message of Rekor's
// API, which gives no reason.
func ProposeV2(request []byte) (*Proposal, error) {
	if len(request) > maxProposedV2 {
		return nil, &InputError{http.StatusRequestEntityTooLarge, fmt.Errorf("request of %d bytes, want at most %d", len(request), maxProposedV2)}
	}
	var message pb.CreateEntryRequest
	if len(request) > 0 { // the server takes an empty request for an empty message
		if err := protojson.Unmarshal(request, &message); err != nil {
			return nil, refuseV2(fmt.Errorf("parse request: %w", err))
		}
	}
	return ProposeV2Message(&message)
}

// ProposeV2Message is ProposeV2 for the message of the gRPC method CreateEntry.
func ProposeV2Message(request *pb.CreateEntryRequest) (p *Proposal, err error) {
	// rekor-tiles asks for the size of the hash that plain Ed25519 does not have, and for the
	// fields of a message that is nil.
	defer func() {
		if r := recover(); r != nil {
			p, err = nil, refuseV2(fmt.Errorf("it breaks Rekor's types: %v", r))
		}
	}()
	spec, ok := request.GetSpec().(*pb.CreateEntryRequest_HashedRekordRequestV002)
	if !ok {
		return nil, &InputError{http.StatusBadRequest, errors.New("invalid type, must be hashedrekord")}
	}
	entry, err := hashedrekordv2.ToLogEntry(spec.HashedRekordRequestV002, algorithms())
	if err != nil {
		return nil, refuseV2(err)
	}
	body := canonicalHashedrekordV2(entry.GetSpec().GetHashedRekordV002())
	if len(body) > maxEntry {
		return nil, &InputError{http.StatusRequestEntityTooLarge, fmt.Errorf("invalid hashedrekord request: entry of %d bytes, want at most %d", len(body), maxEntry)}
	}
	return &Proposal{Body: body, Kind: "hashedrekord"}, nil
}

func refuseV2(err error) error {
	return &InputError{http.StatusBadRequest, fmt.Errorf("invalid hashedrekord request: %w", err)}
}

// canonicalHashedrekordV2 writes an entry that rekor-tiles has made, in which nothing is
// missing. Neither base64 nor the names of the enumerations need an escape, so it is written
// by hand; a test holds it against the canonicalization that Rekor uses.
func canonicalHashedrekordV2(entry *pb.HashedRekordLogEntryV002) []byte {
	verifier := entry.GetSignature().GetVerifier()
	kind, der := `,"publicKey":{"rawBytes":"`, verifier.GetPublicKey().GetRawBytes()
	if cert := verifier.GetX509Certificate(); cert != nil {
		kind, der = `,"x509Certificate":{"rawBytes":"`, cert.GetRawBytes()
	}
	signature, digest := entry.GetSignature().GetContent(), entry.GetData().GetDigest()
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(der)+len(signature)+len(digest))+320)
	b = append(b, hashedrekordStart+`{"algorithm":"`...)
	b = append(b, entry.GetData().GetAlgorithm().String()...)
	b = append(b, `","digest":"`...)
	b = base64.StdEncoding.AppendEncode(b, digest)
	b = append(b, `"}`+hashedrekordNext+`{"content":"`...)
	b = base64.StdEncoding.AppendEncode(b, signature)
	b = append(b, `","verifier":{"keyDetails":"`...)
	b = append(b, verifier.GetKeyDetails().String()...)
	b = append(b, '"')
	b = append(b, kind...)
	b = base64.StdEncoding.AppendEncode(b, der)
	return append(b, `"}}}`+hashedrekordEnd...)
}
