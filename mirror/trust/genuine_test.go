package trust

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Two published files are malformed. One has the end "2025-09-04:00:00Z" and is
// refused. The other gives a Rekor v2 log the log ID of a v1 log; key IDs come from
// the keys, so that log's checkpoints open all the same (TestGenuineCheckpoints).
func TestGenuineRoots(t *testing.T) {
	dir := genuine(t)
	files, err := filepath.Glob(filepath.Join(dir, "trusted-roots", "*", "*trusted_root.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no trusted roots in %s (%v)", dir, err)
	}
	var refused []string
	for _, path := range files {
		r, err := LoadRoot(path)
		if err != nil {
			t.Log(err)
			refused = append(refused, filepath.Base(path))
			continue
		}
		for _, k := range r.keys {
			if k.Start.IsZero() || k.Name == "" || k.LogID == nil {
				t.Errorf("%s: key %+v", path, k)
			}
			if _, err := k.verifier(k.Name); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
	}
	if want := []string{"2025-08-12-8f89c913-trusted_root.json"}; !slices.Equal(refused, want) {
		t.Errorf("refused %q, want %q", refused, want)
	}
}

type logKey struct {
	BaseURL     string `json:"baseUrl"`
	SPKI        []byte `json:"spki_b64"`
	LogID       string `json:"logId_hex"`
	NoteKeyHash string `json:"noteKeyHash"`
}

func genuineKeys(t *testing.T, dir string) map[string]Key {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "trusted-roots", "log-keys.json"))
	if err != nil {
		t.Fatal(err)
	}
	var list []logKey
	if err := json.Unmarshal(data, &list); err != nil {
		t.Fatal(err)
	}
	keys := map[string]Key{}
	for _, l := range list {
		block := "-----BEGIN PUBLIC KEY-----\n" + base64.StdEncoding.EncodeToString(l.SPKI) + "\n-----END PUBLIC KEY-----\n"
		k, err := ParseKey([]byte(block))
		if err != nil {
			t.Errorf("%s: %v", l.BaseURL, err)
		}
		k.Name = strings.TrimPrefix(l.BaseURL, "https://")
		keys[l.LogID] = k
	}
	return keys
}

func TestGenuineCheckpoints(t *testing.T) {
	dir := genuine(t)
	keys := genuineKeys(t, dir)
	var roots []*Root
	for _, path := range []string{"production/2025-09-22-c9bda74a", "staging/2026-06-11-8b4e8006", "staging/2025-05-22-260bb561"} {
		r, err := LoadRoot(filepath.Join(dir, "trusted-roots", path+"-trusted_root.json"))
		if err != nil {
			t.Fatal(err)
		}
		roots = append(roots, r)
	}
	all := lines(t, dir, "checkpoints.jsonl")
	if len(all) != 188 {
		t.Errorf("%d checkpoints, want 188", len(all))
	}
	extended := 0
	for _, line := range all {
		var row struct {
			Note, Origin, LogKeyID, Root string
			Size                         uint64
			OtherSignatures              []json.RawMessage
		}
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		c, err := Open([]byte(row.Note), row.Origin, []Key{keys[row.LogKeyID]})
		if err != nil {
			t.Errorf("%s %d: %v", row.Origin, row.Size, err)
			continue
		}
		if c.Size != row.Size || c.Frozen() || string(c.Raw) != row.Note {
			t.Errorf("%s %d: opened %+v", row.Origin, row.Size, c)
		}
		extended += len(c.Extensions)
		opened := 0
		for _, r := range roots {
			if got, err := r.Open([]byte(row.Note)); err == nil && got.Origin == row.Origin && got.Root == c.Root {
				opened++
			}
		}
		want := 1 // one production root; two for staging, of which one knows few logs
		if strings.Contains(row.Origin, "rekor.sigstage.dev - ") || strings.HasPrefix(row.Origin, "log2025-alpha1.") {
			want = 2
		}
		if opened != want {
			t.Errorf("%s %d: %d trusted roots open it, want %d", row.Origin, row.Size, opened, want)
		}
		for _, k := range keys {
			if k.Name == keys[row.LogKeyID].Name {
				continue
			}
			if _, err := Open([]byte(row.Note), row.Origin, []Key{k}); err == nil {
				t.Errorf("%s %d: opened with the key of %s", row.Origin, row.Size, k.Name)
			}
		}
	}
	if extended == 0 {
		t.Error("no extension line seen")
	}
}

func TestGenuineNegativeCheckpoints(t *testing.T) {
	dir := genuine(t)
	var keys []Key
	for _, k := range genuineKeys(t, dir) {
		keys = append(keys, k)
	}
	for _, line := range lines(t, dir, "negative", "checkpoints.jsonl") {
		var row struct{ Note, Origin, Why string }
		if err := json.Unmarshal(line, &row); err != nil {
			t.Fatal(err)
		}
		_, err := Open([]byte(row.Note), row.Origin, keys)
		if strings.HasPrefix(row.Why, "signature invalid") && !badSignature(err) {
			t.Errorf("%s: %v", row.Why, err)
		}
		if _, ok := errors.AsType[*SignatureError](err); !ok {
			t.Errorf("%s: %v", row.Why, err)
		}
		t.Log(err)
	}
}

// The checkpoints inside the bundles of Sigstore's conformance suite.
func TestGenuineConformanceCheckpoints(t *testing.T) {
	dir := genuine(t)
	roots, err := filepath.Glob(filepath.Join(dir, "*", "conformance", "rekor2-*", "trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	good, refused := 0, 0
	for _, path := range roots {
		name := filepath.Base(filepath.Dir(path))
		r, err := LoadRoot(path)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		data, err := os.ReadFile(filepath.Join(filepath.Dir(path), "bundle.sigstore.json"))
		if err != nil {
			t.Fatal(err)
		}
		var bundle struct {
			VerificationMaterial struct {
				TlogEntries []struct {
					InclusionProof *struct {
						Checkpoint struct{ Envelope string }
					}
				}
			}
		}
		if err := json.Unmarshal(data, &bundle); err != nil {
			t.Fatal(err)
		}
		proof := bundle.VerificationMaterial.TlogEntries[0].InclusionProof
		if proof == nil {
			continue
		}
		_, err = r.Open([]byte(proof.Checkpoint.Envelope))
		// The other failing folders have a good checkpoint.
		if bad := strings.HasPrefix(name, "rekor2-checkpoint-") && strings.HasSuffix(name, "_fail"); bad != (err != nil) {
			t.Errorf("%s: %v", name, err)
		} else if bad {
			refused++
		} else {
			good++
		}
	}
	if good == 0 || refused != 5 {
		t.Errorf("%d opened, %d refused, want 5 refused", good, refused)
	}
}
