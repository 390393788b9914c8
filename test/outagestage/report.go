package outagestage

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// Report is the report of a reconciliation, or of a drill, whose signature is verified.
type Report struct {
	Markdown string
	Payload  []byte // the JSON that was signed
	Document Document
}

// Document is the JSON of the report of a reconciliation, as far as it is looked at here.
type Document struct {
	ID        string  `json:"id"`
	Log       string  `json:"log"`
	Outcome   string  `json:"outcome"`
	Seconds   float64 `json:"seconds"`
	Proofs    int     `json:"proofs"`
	Decisions struct {
		Total   int `json:"total"`
		Same    int `json:"same"`
		Differs int `json:"differs"`
		NotKept int `json:"not_kept"`
		Left    int `json:"left"`
	} `json:"decisions"`
	Proposals []struct {
		Private    string `json:"private"`
		Total      int    `json:"total"`
		Submitted  int    `json:"submitted"`
		Duplicates int    `json:"duplicates"`
		Late       int    `json:"late"`
		Refused    int    `json:"refused"`
		NotKept    int    `json:"not_kept"`
		Unreadable int    `json:"unreadable"`
		Failed     int    `json:"failed"`
		Left       int    `json:"left"`
	} `json:"proposals"`
	Exceptions struct {
		Closed int `json:"closed"`
	} `json:"exceptions"`
	Finding *struct {
		Code   string `json:"code"`
		Origin string `json:"origin"`
		Named  bool   `json:"named"`
		First  uint64 `json:"first"`
		Next   uint64 `json:"next"`
		Text   string `json:"text"`
	} `json:"finding"`
	Evidence map[string][]byte `json:"evidence"`
}

// Summary is one line of a report.
func (r Report) Summary() string {
	d := r.Document
	return fmt.Sprintf("%s in %.1f s, %d proofs, decisions %+v, proposals %+v, exceptions %+v", d.Outcome, d.Seconds, d.Proofs, d.Decisions, d.Proposals, d.Exceptions)
}

// Report returns the report of a reconciliation in all its forms; the newest if id is empty.
func (d *Daemon) Report(ctx context.Context, id string) (r Report, err error) {
	report := func(flags ...string) (string, error) {
		args := []string{"reconcile", "report"}
		if id != "" {
			args = append(args, id)
		}
		return d.Command(ctx, append(args, flags...)...)
	}
	if r.Markdown, err = report(); err != nil {
		return r, err
	}
	text, err := report("--json")
	if err != nil {
		return r, err
	}
	signed, err := report("--signed")
	if err != nil {
		return r, err
	}
	if r.Payload, err = d.openReport([]byte(signed)); err != nil {
		return r, err
	}
	if !bytes.Equal(bytes.TrimSpace(r.Payload), bytes.TrimSpace([]byte(text))) {
		return r, errors.New("the report that is signed is not the one that is printed")
	}
	return r, json.Unmarshal(r.Payload, &r.Document)
}

// openReport verifies an envelope with the daemon's key of reports, and returns what is in it.
func (d *Daemon) openReport(envelope []byte) ([]byte, error) {
	var e struct {
		PayloadType string `json:"payloadType"`
		Payload     []byte `json:"payload"`
		Signatures  []struct {
			Sig []byte `json:"sig"`
		} `json:"signatures"`
	}
	if err := json.Unmarshal(envelope, &e); err != nil {
		return nil, fmt.Errorf("signed report: %w\n%s", err, envelope)
	}
	text, err := os.ReadFile(filepath.Join(d.Dir, "data", "outage-report.key"))
	if err != nil {
		return nil, err
	}
	private, err := cryptoutils.UnmarshalPEMToPrivateKey(text, cryptoutils.SkipPassword)
	if err != nil {
		return nil, err
	}
	digest := signedDigest(e.PayloadType, e.Payload)
	key, ok := private.(*ecdsa.PrivateKey)
	if !ok || len(e.Signatures) != 1 || !ecdsa.VerifyASN1(&key.PublicKey, digest[:], e.Signatures[0].Sig) {
		return nil, errors.New("the report is not signed by the key of reports")
	}
	return e.Payload, nil
}

// signedDigest is the digest of what the signature of a DSSE envelope is over.
// SPEC: DSSE v1: that is PAE(type, payload).
func signedDigest(payloadType string, payload []byte) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload))
}

// reportType is the payload type of reports.
const reportType = "application/vnd.understudy.report+json"

// InPrivateLog waits until a signed report is in the private log: a hashedrekord of what was signed, in the
// generation that speaks Rekor v2.
func (d *Daemon) InPrivateLog(ctx context.Context, payload []byte) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	digest := signedDigest(reportType, payload)
	for {
		found := false
		err := eachEntry(ctx, d.Private2+"/api/v2", func(body []byte) {
			found = found || digestInV2(body) == hex.EncodeToString(digest[:])
		})
		if found {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no entry of the private log is about the report (%v)", err)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// OwnTrustedRootFile is what our own TUF repository distributes.
func (d *Daemon) OwnTrustedRootFile() string {
	return filepath.Join(d.Dir, "material", "trusted_root.json")
}
