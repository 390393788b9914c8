package synthetic

import (
	"crypto/ecdh"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"time"
)

// HashedRekord makes canonical hashedrekord 0.0.2 bodies around certificates as Fulcio
// issues them: four of five for a workflow on GitHub, the others for an e-mail address.
// They are 2.4 KB in the mean. Signatures, keys, serials, digests and timestamps
// are random, so they cost a compressor what real ones cost; issuers and extensions
// repeat, and 20,000 repositories share the entries unevenly. The certificates parse,
// but no signature verifies.
//
// Shape: rekor-tiles, pkg/types/hashedrekord; Fulcio, docs/oid-info.md.
func HashedRekord(seed uint64) Entries {
	return func(index uint64) []byte {
		var key [32]byte
		binary.BigEndian.PutUint64(key[:], seed)
		binary.BigEndian.PutUint64(key[8:], index)
		d := &draw{rand.NewChaCha8(key)}
		c := certificate{
			serial:   d.bytes(20),
			issued:   shardStart.Add(time.Duration(index) * time.Second),
			delay:    time.Duration(d.Uint64()%1000) * time.Millisecond,
			key:      d.publicKey(),
			keyID:    d.bytes(20),
			sctR:     d.bytes(32),
			sctS:     d.bytes(32),
			issuerR:  d.bytes(48),
			issuerS:  d.bytes(48),
			identity: d.identity(seed),
		}
		return body(d.bytes(32), d.signature(), c.der())
	}
}

var shardStart = time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC)

func body(digest, signature, certificate []byte) []byte {
	b := make([]byte, 0, 512+base64.StdEncoding.EncodedLen(len(certificate)))
	b = append(b, `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"`...)
	b = base64.StdEncoding.AppendEncode(b, digest)
	b = append(b, `"},"signature":{"content":"`...)
	b = base64.StdEncoding.AppendEncode(b, signature)
	b = append(b, `","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","x509Certificate":{"rawBytes":"`...)
	b = base64.StdEncoding.AppendEncode(b, certificate)
	return append(b, `"}}}}}}`...)
}

// draw is the randomness of one entry.
type draw struct{ *rand.ChaCha8 }

func (d *draw) bytes(n int) []byte {
	b := make([]byte, n)
	d.Read(b)
	return b
}

// below draws from [0, n).
func (d *draw) below(n int) int { return int(d.Uint64() % uint64(n)) }

// publicKey returns an uncompressed point of P-256.
func (d *draw) publicKey() []byte {
	scalar := d.bytes(32)
	scalar[0] = scalar[0]&0x7f | 1 // neither zero nor beyond the group's order
	key, err := ecdh.P256().NewPrivateKey(scalar)
	if err != nil {
		panic(fmt.Sprintf("synthetic: scalar %x is no P-256 key: %v", scalar, err))
	}
	return key.PublicKey().Bytes()
}

// signature returns two random integers as an ECDSA-Sig-Value.
func (d *draw) signature() []byte {
	w := newDER(80)
	w.signature(d.bytes(32), d.bytes(32))
	return w.bytes()
}

// identity is what Fulcio learned from the signer's token.
type identity struct {
	issuer string // of the token
	email  string // set for a person; nothing below is set then

	owner, repository, workflow, title, ref, trigger, runner string

	ownerID, repositoryID, runID int
	commit                       [20]byte
}

func (d *draw) identity(seed uint64) identity {
	if d.below(5) == 0 {
		return identity{
			issuer: pick(d, "https://github.com/login/oauth", "https://accounts.google.com", "https://login.microsoftonline.com"),
			email:  pick(d, adjectives...) + "." + pick(d, nouns...) + fmt.Sprint(d.below(1000)) + "@" + pick(d, nouns...) + pick(d, ".com", ".org", ".dev", ".io"),
		}
	}
	u := float64(d.Uint64()>>11) / (1 << 53)
	id := project(seed, int(u*u*u*20_000))
	id.runID = 15_000_000_000 + d.below(5_000_000_000)
	copy(id.commit[:], d.bytes(20))
	return id
}

// project is the n-th repository of a log, the same for all its entries.
func project(seed uint64, n int) identity {
	key := [32]byte{31: 1} // never the key of an entry
	binary.BigEndian.PutUint64(key[:], seed)
	binary.BigEndian.PutUint64(key[8:], uint64(n))
	d := &draw{rand.NewChaCha8(key)}
	return identity{
		issuer:       "https://token.actions.githubusercontent.com",
		owner:        pick(d, nouns...) + pick(d, "", "-io", "labs", "-org", "hq", "-"+pick(d, nouns...)),
		repository:   pick(d, adjectives...) + "-" + pick(d, nouns...) + pick(d, "", "-operator", "-action", "-go", "-charts"),
		workflow:     pick(d, "release.yml", "publish.yaml", "build.yml", "docker-publish.yml", "ci.yaml"),
		title:        pick(d, "Release", "Publish", "Build and push", "Docker", "CI"),
		ref:          pick(d, "refs/heads/main", "refs/heads/main", "refs/heads/master", fmt.Sprintf("refs/tags/v%d.%d.%d", d.below(9), d.below(30), d.below(20))),
		trigger:      pick(d, "push", "push", "release", "schedule", "workflow_dispatch"),
		runner:       pick(d, "github-hosted", "github-hosted", "github-hosted", "self-hosted"),
		ownerID:      1_000_000 + d.below(200_000_000),
		repositoryID: 10_000_000 + d.below(900_000_000),
	}
}

func pick(d *draw, from ...string) string { return from[d.below(len(from))] }

var (
	adjectives = []string{
		"amber", "brisk", "calm", "dense", "eager", "fluent", "gentle", "hollow", "iron", "jolly", "keen", "lunar", "mellow", "nimble",
		"open", "plain", "quiet", "rapid", "solid", "tidy", "upper", "vivid", "warm", "young", "zonal", "bold", "crisp", "dry",
	}
	nouns = []string{
		"anchor", "beacon", "cargo", "delta", "engine", "forge", "garden", "harbor", "index", "jigsaw", "kernel", "lantern", "matrix", "nebula",
		"orbit", "parcel", "quarry", "relay", "signal", "tensor", "umbra", "vector", "willow", "yarn", "zephyr", "bridge", "cluster", "dynamo",
		"ember", "falcon", "gateway", "helix", "island", "junction", "ledger", "mosaic", "notary", "octave", "pipeline", "rocket",
	}
)
