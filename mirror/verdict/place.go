package verdict

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	commonpb "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	tilespb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/options"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"github.com/understudy-log/understudy/mirror"
	"github.com/understudy-log/understudy/storage"
)

// place is where an entry stands, as the bundle says. With a promise alone size is 0.
type place struct {
	origin string
	index  uint64
	leaf   storage.Hash
	size   uint64
	root   storage.Hash
}

// rank orders what an allow rests on, the best last.
var rank = []RestsOn{OwnProof, Private, Mirrored, PublicLive}

// place asks the mirror about every log entry of the bundle, and decides what an evaluation that has
// found nothing wrong rests on. verified says that sigstore-go believes the bundle.
//
// An entry of a log that is not in the trust material is skipped by sigstore-go, so of several entries
// each is verified by itself: only what verifies makes an allow. What contradicts is told of any.
func (v *Verifier) place(ctx context.Context, e *evaluation, material root.TrustedMaterial, verified bool) {
	var best, refused RestsOn
	quarantined, unplaced := false, error(nil)
	for _, entry := range e.entity.entries {
		counts := verified && (len(e.entity.entries) == 1 || e.believes(material, entry))
		p, err := e.placeOf(material, entry)
		if counts && err != nil {
			counts, unplaced = false, err
		}
		if p.origin == "" {
			continue
		}
		h := v.c.Held(ctx, p.origin, p.index, p.leaf, p.size, p.root)
		if h.Contradicted {
			e.contradicted = true
			text := "the mirror holds something else than entry %d of %s"
			if counts { // its own proof is good: both are signed
				text += ", and the log has signed both: keep the bundle as evidence"
			}
			e.add(CodeMirrorContradicts, text+"%s", p.index, p.origin, after(h.Text))
		}
		if !counts || h.Contradicted {
			continue
		}
		if h.Private && !h.Confirmed { // it is no proof of a public log
			unplaced = errors.New("our own log does not hold it")
			continue
		}
		if h.Quarantined && !h.Confirmed {
			quarantined = true
			e.origin, e.index, e.freshness = cmpOr(e.origin, p.origin), p.index, h.Freshness
			continue
		}
		rests := restsOn(h)
		if !e.asked.policy.accepts(rests) {
			refused = rests
			if e.restsOn == "" {
				e.rest("", p, h.Freshness)
			}
			continue
		}
		if slices.Index(rank, rests) > slices.Index(rank, best) {
			best = rests
			e.rest(rests, p, h.Freshness)
		}
	}
	switch {
	case !verified || e.contradicted:
		e.restsOn = ""
	case best != "":
		e.ok = true
	case quarantined:
		e.add(CodeLogQuarantined, "%s contradicted itself and is quarantined, and the mirror does not hold this entry of it", e.origin)
	case refused != "":
		e.restsOn = refused
		e.add(CodeNotAcceptedSource, "it rests on %s, which the policy %q does not accept", refused, e.asked.policy.Name)
	case unplaced != nil:
		e.add(CodeInclusionInvalid, "it cannot be told which entry the log signed: %v", unplaced)
	default:
		e.add(CodeLogUntrusted, "no log entry verifies by itself")
	}
}

func after(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}

func (e *evaluation) rest(rests RestsOn, p place, f mirror.Freshness) {
	e.restsOn, e.origin, e.index, e.freshness = rests, oneLine(p.origin, maxName), p.index, f
}

func restsOn(h Held) RestsOn {
	switch {
	case !h.Confirmed:
		return OwnProof
	case h.Private:
		return Private
	case h.Live && !h.Quarantined:
		return PublicLive
	}
	return Mirrored
}

// believes reports whether sigstore-go believes one log entry of a bundle that it believes.
func (e *evaluation) believes(material root.TrustedMaterial, entry *tlog.Entry) bool {
	one := e.entity.alone(entry)
	if one.certificate != nil {
		verifier, err := verify.NewVerifier(material, needed(material, true)...)
		if err != nil {
			return false
		}
		logged, err := verifier.VerifyTransparencyLogInclusion(one)
		if err != nil {
			return false
		}
		// The time of another log may be what makes the certificate good.
		_, err = verifier.VerifyObserverTimestamps(one, logged)
		return err == nil
	}
	return slices.ContainsFunc(e.keys(), func(k *key) bool {
		with, err := k.material(material, e.entity.GetMessageSignature() != nil)
		if err != nil {
			return false
		}
		_, err = verify.VerifyTlogEntry(one, with, 1, false)
		return err == nil
	})
}

// rekorV1Origin is how sigstore-go tells the checkpoints of Rekor v1.
var rekorV1Origin = regexp.MustCompile(".* - [0-9]+$")

// placeOf says where an entry stands, and proves that by the checkpoint's own numbers: sigstore-go
// takes the size of a v1 proof from the bundle, where a wrong one makes another index. With an error
// it is what the bundle claims, as far as it does; without an origin nobody can be asked about it.
func (e *evaluation) placeOf(material root.TrustedMaterial, entry *tlog.Entry) (place, error) {
	tle := entry.TransparencyLogEntry()
	p := place{index: uint64(max(tle.GetLogIndex(), 0)), leaf: storage.LeafHash(tle.GetCanonicalizedBody())}
	if !entry.HasInclusionProof() {
		log, ok := material.RekorLogs()[hex.EncodeToString([]byte(entry.LogKeyID()))]
		if !ok {
			return p, errors.New("its log is not in the trust material")
		}
		base, err := url.Parse(log.BaseURL)
		if err != nil || base.Hostname() == "" {
			return p, errors.New("its log has no host in the trust material")
		}
		p.origin = base.Hostname()
		return p, nil
	}
	lines := strings.SplitN(tle.GetInclusionProof().GetCheckpoint().GetEnvelope(), "\n", 4)
	if len(lines) < 4 {
		return p, errors.New("its checkpoint has no three lines")
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	if err != nil {
		return p, fmt.Errorf("size in its checkpoint: %w", err)
	}
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(hash) != storage.HashSize {
		return p, errors.New("its checkpoint has no root hash")
	}
	p.origin, p.size, p.root = lines[0], size, storage.Hash(hash)
	v1 := rekorV1Origin.MatchString(p.origin)
	if v1 {
		p.index = uint64(max(tle.GetInclusionProof().GetLogIndex(), 0))
	}
	if v1 == entry.IsRekorV2() {
		// sigstore-go compares neither the body of the one nor the tree of the other with the bundle.
		return p, errors.New("it is an entry of another generation of Rekor than its log")
	}
	included := func(leaf storage.Hash) error {
		return proof.VerifyInclusion(rfc6962.DefaultHasher, p.index, p.size, leaf[:], tle.GetInclusionProof().GetHashes(), p.root[:])
	}
	if err = included(p.leaf); err == nil {
		return p, nil
	}
	// sigstore-go does not look at the body of a v2 entry: it makes one of the bundle.
	for _, public := range e.publicKeys() {
		if leaf, err := e.leafV2(public); err == nil && included(leaf) == nil {
			p.leaf = leaf
			return p, nil
		}
	}
	return p, errors.New("its proof does not lead to the checkpoint")
}

// publicKeys are those one of which signed a bundle that verifies.
func (e *evaluation) publicKeys() (keys []crypto.PublicKey) {
	if c := e.entity.certificate; c != nil {
		return []crypto.PublicKey{c.PublicKey}
	}
	for _, k := range e.keys() {
		keys = append(keys, k.public)
	}
	return keys
}

// leafV2 is the leaf hash of the entry that Rekor v2 makes of the bundle.
func (e *evaluation) leafV2(public crypto.PublicKey) (storage.Hash, error) {
	content, err := e.entity.SignatureContent()
	if err != nil {
		return storage.Hash{}, err
	}
	verifier := &tilespb.Verifier{}
	if c := e.entity.certificate; c != nil {
		verifier.Verifier = &tilespb.Verifier_X509Certificate{X509Certificate: &commonpb.X509Certificate{RawBytes: c.Raw}}
	} else {
		spki, err := x509.MarshalPKIXPublicKey(public)
		if err != nil {
			return storage.Hash{}, err
		}
		verifier.Verifier = &tilespb.Verifier_PublicKey{PublicKey: &tilespb.PublicKey{RawBytes: spki}}
	}
	details, err := signature.GetDefaultAlgorithmDetails(public, options.WithED25519ph())
	if err != nil {
		return storage.Hash{}, err
	}
	verifier.KeyDetails = details.GetSignatureAlgorithm()
	var digest []byte
	if message := content.MessageSignatureContent(); message != nil {
		digest = message.Digest()
	} else {
		envelope := content.EnvelopeContent().RawEnvelope()
		payload, err := base64.StdEncoding.DecodeString(envelope.Payload)
		if err != nil || !details.GetHashType().Available() {
			return storage.Hash{}, errors.New("its envelope cannot be read")
		}
		h := details.GetHashType().New()
		h.Write(preAuth(envelope.PayloadType, payload))
		digest = h.Sum(nil)
	}
	leaf, err := hashedrekord.ToEntryHash(digest, &tilespb.Signature{Content: content.Signature(), Verifier: verifier})
	if err != nil || len(leaf) != storage.HashSize {
		return storage.Hash{}, fmt.Errorf("its entry cannot be made again: %w", err)
	}
	return storage.Hash(leaf), nil
}

// preAuth is what an envelope signs (DSSE v1, protocol: PAE).
func preAuth(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}
