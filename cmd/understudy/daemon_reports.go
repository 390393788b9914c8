package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	ssldsse "github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/dsse"

	"github.com/understudy-log/understudy/log/rekor"
	"github.com/understudy-log/understudy/mirror/ledger"
	"github.com/understudy-log/understudy/witness/archive"
)

// reportKey signs reports.
type reportKey struct {
	signer signature.Signer
	public crypto.PublicKey
	pem    []byte // of public
	spki   []byte // of public, in DER
}

// reportType is the payload type of signed reports.
const reportType = "application/vnd.understudy.report+json"

// openReportKey opens the key of reports. One that is not there is made: what it signs is told apart from
// what others sign by its place in the private log, in evidence packs, and by who keeps it.
func openReportKey(c *Config) (*reportKey, error) {
	name := c.Outage.ReportKey
	setDefault(&name, filepath.Join(c.DataDir, "outage-report.key"))
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = makeReportKey(); err == nil {
			err = writeSecret(name, data)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("key of reports: %w", err)
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(data, cryptoutils.SkipPassword)
	if err != nil {
		return nil, fmt.Errorf("key of reports: %s: %w", name, err)
	}
	key, ok := private.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, fmt.Errorf("key of reports: %s is no key for ECDSA on P-256; name a file that is not there, and one is made", name)
	}
	k := &reportKey{public: key.Public()}
	if k.pem, err = cryptoutils.MarshalPublicKeyToPEM(k.public); err != nil {
		return nil, err
	}
	if k.spki, err = x509.MarshalPKIXPublicKey(k.public); err != nil {
		return nil, err
	}
	k.signer, err = signature.LoadECDSASigner(key, crypto.SHA256)
	return k, err
}

func makeReportKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), err
}

// sign returns a report in a DSSE envelope.
func (k *reportKey) sign(report []byte) ([]byte, error) {
	return dsse.WrapSigner(k.signer, reportType).SignMessage(bytes.NewReader(report))
}

// archived puts the ledger and the reports into evidence packs.
func (k *desk) archived(cfg *archive.Config) {
	if k == nil {
		return
	}
	cfg.Ledger = func(from uint64, yield func(seq uint64, at time.Time, raw []byte) error) error {
		return k.ledger.Rows(from, func(row ledger.Row) error { return yield(row.Seq, row.At, row.Raw()) })
	}
	cfg.Reports, cfg.ReportKey = k.reports, k.key.spki
}

// reports are those of a period, of reconciliations and of drills.
func (k *desk) reports(from, to time.Time) (all []archive.OutageReport, err error) {
	reconciled, err := k.reconciler.Reports(from, to)
	if err != nil {
		return nil, err
	}
	for _, r := range reconciled {
		report := archive.OutageReport{ID: r.ID, At: r.At, JSON: r.JSON, Markdown: r.Markdown, Signed: r.Signed}
		if r.Place != nil {
			report.Place = fmt.Sprintf("entry %d of %s", r.Place.Index, r.Place.Origin)
		}
		all = append(all, report)
	}
	for _, r := range k.drills.History(math.MaxInt) {
		if r.Ended.IsZero() || r.Ended.Before(from) || !r.Ended.Before(to) {
			continue
		}
		markdown, data, err := k.drills.Report(r.ID)
		if err != nil {
			return nil, err
		}
		report := archive.OutageReport{ID: r.ID, At: r.Ended, JSON: data, Markdown: markdown}
		if report.Signed, err = k.key.sign(data); err != nil {
			return nil, err
		}
		if r.Place != nil {
			report.Place = fmt.Sprintf("entry %d of %s", r.Place.Index, r.Place.Origin)
		}
		all = append(all, report)
	}
	return all, nil
}

// reporter is who appends reports, in audit rows.
const reporter = "understudy: reports" // no identity is called so

// appendReport appends a signed report to the private log: to its second generation, if there is one. The
// same report gets the same place.
func (k *desk) appendReport(ctx context.Context, signed []byte) (origin string, index uint64, uuid string, err error) {
	for i := len(k.d.private) - 1; i >= 0; i-- {
		switch l := k.d.private[i]; {
		case l.v2 != nil:
			proposed, err := k.key.proposalV2(signed)
			if err != nil {
				return "", 0, "", err
			}
			p, err := rekor.ProposeV2(proposed)
			if err != nil {
				return "", 0, "", err
			}
			entry, _, err := l.v2.Append(ctx, reporter, proposed, p)
			if err != nil {
				return "", 0, "", err
			}
			return l.origin, uint64(entry.GetLogIndex()), "", nil
		case l.v1 != nil:
			proposed, err := k.key.proposalV1(signed)
			if err != nil {
				return "", 0, "", err
			}
			p, err := rekor.Propose(ctx, proposed)
			if err != nil {
				return "", 0, "", err
			}
			item, _, err := l.v1.Append(ctx, reporter, proposed, p)
			if err != nil {
				return "", 0, "", err
			}
			return l.origin, item.Entry.LogIndex, item.UUID.String(), nil
		}
	}
	return "", 0, "", errors.New("the private log is not served now")
}

// signedDigest returns what is logged of a signed report: that the key signed it. The digest is that of what a DSSE
// envelope signs, as it is for the bundles of Rekor's clients; servers of Rekor v2 take no envelopes.
func signedDigest(signed []byte) (digest [32]byte, sig []byte, err error) {
	var envelope struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
		Signatures  []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(signed, &envelope); err != nil || len(envelope.Signatures) != 1 {
		return digest, nil, fmt.Errorf("the signed report is no DSSE envelope with one signature: %w", err)
	}
	return sha256.Sum256(ssldsse.PAE(envelope.PayloadType, envelope.Payload)), envelope.Signatures[0].Sig, nil
}

func (k *reportKey) proposalV1(signed []byte) ([]byte, error) {
	digest, sig, err := signedDigest(signed)
	if err != nil {
		return nil, err
	}
	return hashedRekordV1(digest, sig, k.pem)
}

func (k *reportKey) proposalV2(signed []byte) ([]byte, error) {
	digest, sig, err := signedDigest(signed)
	if err != nil {
		return nil, err
	}
	return hashedRekordV2(digest, sig, k.spki)
}

// hashedRekordV1 is a proposed entry of Rekor v1: a signature, with ECDSA on P-256, of what has a digest.
func hashedRekordV1(digest [32]byte, sig, pem []byte) ([]byte, error) {
	type object = map[string]any
	return json.Marshal(object{"apiVersion": "0.0.1", "kind": "hashedrekord", "spec": object{
		"data":      object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
		"signature": object{"content": sig, "publicKey": object{"content": pem}},
	}})
}

// hashedRekordV2 is the same for Rekor v2.
func hashedRekordV2(digest [32]byte, sig, spki []byte) ([]byte, error) {
	type object = map[string]any
	return json.Marshal(object{"hashedRekordRequestV002": object{
		"digest": digest[:],
		"signature": object{"content": sig, "verifier": object{
			"publicKey": object{"rawBytes": spki}, "keyDetails": "PKIX_ECDSA_P256_SHA_256",
		}},
	}})
}
