package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A hashedrekord is its own proposal, also in the order in which Rekor's Go client writes it.
func TestGenuineHashedrekordsProposed(t *testing.T) {
	fast, slow := 0, 0
	others := map[string]int{}
	for _, r := range records(t, genuine(t), "rekor-v1-entries.jsonl") {
		if r.Kind != "hashedrekord/0.0.1" {
			continue
		}
		body := r.body(t)
		var e struct {
			Spec json.RawMessage `json:"spec"`
		}
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		for _, proposed := range [][]byte{body, fmt.Appendf(nil, `{"apiVersion":"0.0.1","spec":%s,"kind":"hashedrekord"}`+"\n", e.Spec)} {
			p, err := Propose(t.Context(), proposed)
			if errors.Is(err, errAlgorithms) {
				if name := signerOf(t, body); name == "P-256" {
					t.Errorf("%s: %v for a key of %s", r.ID, err, name)
				} else {
					others[name]++
				}
				continue
			}
			if err != nil || !bytes.Equal(p.Body, body) || p.Keys != nil {
				t.Errorf("%s: %v, %+v", r.ID, err, p)
			}
			if checkPropose(t, proposed) {
				fast++
			} else {
				slow++
			}
		}
	}
	// The production log allowed P-384 with SHA-256, which is not in the default of today's server.
	if fast != 66 || slow != 2 || !maps.Equal(others, map[string]int{"P-384": 18}) {
		t.Errorf("%d the fast way, %d not; not allowed: %v", fast, slow, others)
	}
}

// signerOf returns the curve of who signed a hashedrekord.
func signerOf(t *testing.T, body []byte) string {
	t.Helper()
	entry, err := parseV1(body)
	if err != nil {
		t.Fatal(err)
	}
	verifiers, err := entry.Verifiers()
	if err != nil {
		t.Fatal(err)
	}
	identities, err := verifiers[0].Identities()
	if err != nil {
		t.Fatal(err)
	}
	key := identities[0].Crypto
	if cert, ok := key.(*x509.Certificate); ok {
		key = cert.PublicKey
	}
	if key, ok := key.(*ecdsa.PublicKey); ok {
		return key.Curve.Params().Name
	}
	return fmt.Sprintf("%T", key)
}

// signedPayload is what a bundle has beside an entry for a DSSE envelope.
type signedPayload struct {
	Payload     []byte
	PayloadType string
	Sigs        []string // base64
}

// envelopes collects the canonical bodies of all bundles, with the envelope of each: of
// Sigstore bundles and of PEP 740 attestations.
func envelopes(t *testing.T, dir string) map[string][]signedPayload {
	t.Helper()
	found := map[string][]signedPayload{}
	var walk func(any)
	walk = func(value any) {
		switch value := value.(type) {
		case []any:
			for _, v := range value {
				walk(v)
			}
		case map[string]any:
			var bundle struct {
				DSSE *struct {
					Payload     []byte
					PayloadType string
					Signatures  []struct{ Sig string }
				} `json:"dsseEnvelope"`
				Envelope *struct {
					Statement []byte
					Signature string
				} `json:"envelope"`
				Material struct {
					Entries []struct{ CanonicalizedBody []byte } `json:"tlogEntries"`
				} `json:"verificationMaterial"`
				PEP struct {
					Entries []struct{ CanonicalizedBody []byte } `json:"transparency_entries"`
				} `json:"verification_material"`
			}
			if json.Unmarshal(mustJSON(t, value), &bundle) == nil {
				for _, e := range append(bundle.Material.Entries, bundle.PEP.Entries...) {
					var p signedPayload
					switch {
					case bundle.DSSE != nil:
						p = signedPayload{Payload: bundle.DSSE.Payload, PayloadType: bundle.DSSE.PayloadType}
						for _, s := range bundle.DSSE.Signatures {
							p.Sigs = append(p.Sigs, s.Sig)
						}
					case bundle.Envelope != nil:
						p = signedPayload{bundle.Envelope.Statement, "application/vnd.in-toto+json", []string{bundle.Envelope.Signature}}
					}
					if p.Payload != nil {
						found[string(e.CanonicalizedBody)] = append(found[string(e.CanonicalizedBody)], p)
					}
				}
			}
			for _, v := range value {
				walk(v)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "bundles", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		d := json.NewDecoder(bytes.NewReader(data))
		for {
			var value any
			if d.Decode(&value) != nil {
				break
			}
			walk(value)
		}
	}
	return found
}

// envelopeForms are the texts in which clients write an envelope.
func envelopeForms(t *testing.T, p signedPayload) (forms []string) {
	t.Helper()
	var sigs [][]string
	for _, form := range []string{`{"sig":%q}`, `{"keyid":"","sig":%q}`, `{"sig":%q,"keyid":""}`} {
		var list []string
		for _, s := range p.Sigs {
			list = append(list, fmt.Sprintf(form, s))
		}
		sigs = append(sigs, list)
	}
	payload := `"payload":"` + base64.StdEncoding.EncodeToString(p.Payload) + `"`
	kind := fmt.Sprintf(`"payloadType":%q`, p.PayloadType)
	for _, list := range sigs {
		s := `"signatures":[` + strings.Join(list, ",") + `]`
		for _, order := range [][]string{{payload, kind, s}, {kind, payload, s}, {s, payload, kind}, {payload, s, kind}, {kind, s, payload}, {s, kind, payload}} {
			forms = append(forms, "{"+strings.Join(order, ",")+"}")
			spaced := strings.NewReplacer(`":`, `": `, `,"`, `, "`).Replace(strings.Join(order, ","))
			forms = append(forms, "{"+spaced+"}")
		}
	}
	return forms
}

// Attestations are proposed again as they were: what their envelope was a bundle tells.
func TestGenuineAttestationsProposed(t *testing.T) {
	dir := genuine(t)
	bundles := envelopes(t, dir)
	again, refused := map[string]bool{}, map[string]string{}
	keys := 0
	for _, r := range records(t, dir, "rekor-v1-entries.jsonl") {
		body := r.body(t)
		for _, payload := range bundles[string(body)] {
			for _, c := range attestationProposals(t, r.Kind, body, payload) {
				p, err := Propose(t.Context(), c)
				if err != nil {
					refused[r.ID] = err.Error()
					break
				}
				if kind, _, _ := strings.Cut(r.Kind, "/"); bytes.Equal(p.Body, body) && p.Kind == kind {
					again[r.Kind+" "+r.ID] = true
					keys += len(p.Keys)
					if err := refusesChanged(t, c, payload); err != nil {
						t.Errorf("%s: %v", r.ID, err)
					}
					break
				}
			}
		}
	}
	// Of one entry there are two bundles; the other's envelope was swapped.
	if len(again) != 90 || len(refused) != 1 || keys < len(again) {
		t.Errorf("%d entries proposed again, with %d keys; refused: %v", len(again), keys, refused)
	}
}

// attestationProposals returns what may have become the entry.
func attestationProposals(t *testing.T, kind string, body []byte, payload signedPayload) (list [][]byte) {
	t.Helper()
	switch kind {
	case "intoto/0.0.2":
		var e map[string]any
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		e["spec"].(map[string]any)["content"].(map[string]any)["envelope"].(map[string]any)["payload"] =
			[]byte(base64.StdEncoding.EncodeToString(payload.Payload))
		list = append(list, mustJSON(t, e))
	case "dsse/0.0.1":
		var e struct {
			Spec struct{ Signatures []struct{ Verifier []byte } }
		}
		if err := json.Unmarshal(body, &e); err != nil {
			t.Fatal(err)
		}
		for _, form := range envelopeForms(t, payload) {
			list = append(list, dsseOf(t, []byte(form), e.Spec.Signatures[0].Verifier))
		}
	}
	return list
}

// refusesChanged proposes the entry with a payload that was not signed.
func refusesChanged(t *testing.T, proposed []byte, p signedPayload) error {
	t.Helper()
	changed := bytes.Clone(p.Payload)
	changed[len(changed)/2] ^= 1
	for _, encode := range []func([]byte) string{
		func(b []byte) string { return base64.StdEncoding.EncodeToString(b) },
		func(b []byte) string {
			return base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString(b)))
		},
	} {
		if other := bytes.Replace(proposed, []byte(encode(p.Payload)), []byte(encode(changed)), 1); !bytes.Equal(other, proposed) {
			got, err := Propose(t.Context(), other)
			if wrong, ok := errors.AsType[*InputError](err); !ok || wrong.Status != http.StatusBadRequest {
				return fmt.Errorf("a changed payload: %v, %v", got, err)
			}
			return nil
		}
	}
	return errors.New("no payload in the proposal")
}

// Entries that were altered or made up, and what else no log of v1 takes. One was a genuine
// entry: only its proof is false.
func TestGenuineNegativeProposed(t *testing.T) {
	dir := genuine(t)
	for _, r := range records(t, dir, "negative", "entries.jsonl") {
		body, err := base64.StdEncoding.DecodeString(r.Body)
		if err != nil {
			body = []byte(r.Body)
		}
		p, err := Propose(t.Context(), body)
		if onlyProof := r.ID == "cd5a7ea37ed2cb14"; onlyProof != (err == nil) {
			t.Errorf("%s %s: %v, %v", r.ID, r.Kind, p, err)
		}
	}
}
