package e2etrust

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// Kyverno as a Go module, and its hash as in a go.sum. It is in none of ours: what it needs would be too
// much, for one file.
const (
	kyverno    = "github.com/kyverno/kyverno@v1.19.1"
	kyvernoSum = "h1:/MkgFii3/VlQfKR1JpC9tVwNNVNQTt2S4U6qCsafsTU="
)

// kyvernoCRD is Kyverno's own definition of an ImageValidatingPolicy.
func kyvernoCRD(t *testing.T) *crd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "mod", "download", "-json", kyverno)
	cmd.Dir = t.TempDir() // in no module, so that it writes into no go.sum
	out, err := cmd.Output()
	var module struct{ Dir, Sum, Error string }
	if json.Unmarshal(out, &module) != nil || err != nil {
		t.Fatalf("download %s: %v: %s", kyverno, err, out)
	}
	if module.Sum != kyvernoSum {
		t.Fatalf("%s has the hash %s, want %s", kyverno, module.Sum, kyvernoSum)
	}
	return must(readCRD(filepath.Join(module.Dir, "config/crds/policies.kyverno.io/policies.kyverno.io_imagevalidatingpolicies.yaml")))
}

// TestKyvernoPolicyIsValid: the exported policy is one by Kyverno's own definition, and it leads to the
// TUF repository. The same test shows that something else would not do.
func TestKyvernoPolicyIsValid(t *testing.T) {
	w := newWorld(t)
	w.status("timestamp version 1, expires in")
	dir := t.TempDir()
	w.understudy("trust", "export", dir)
	text := must(os.ReadFile(filepath.Join(dir, "kyverno.yaml")))
	definition := kyvernoCRD(t)

	// policy has parts of the exported policy at hand.
	type policy struct{ all, spec, attestor, tuf, keyless, identity object }
	exported := func() (p policy) {
		if err := yaml.Unmarshal(text, &p.all); err != nil {
			t.Fatal(err)
		}
		p.spec = p.all["spec"].(object)
		p.attestor = p.spec["attestors"].([]any)[0].(object)
		cosign := p.attestor["cosign"].(object)
		p.tuf, p.keyless = cosign["tuf"].(object), cosign["keyless"].(object)
		p.identity = p.keyless["identities"].([]any)[0].(object)
		return p
	}
	p := exported()
	if err := definition.check(p.all); err != nil {
		t.Errorf("%v:\n%s", err, text)
	}
	if p.tuf["mirror"] != w.url || p.tuf["root"].(object)["data"] != base64.StdEncoding.EncodeToString(must(os.ReadFile(w.root))) {
		t.Errorf("it begins elsewhere than at %s with its root: %v", w.url, p.tuf)
	}

	for _, test := range []struct {
		says string
		edit func(p policy)
	}{
		{"kind Policy", func(p policy) { p.all["kind"] = "Policy" }},
		{"apiVersion policies.kyverno.io/v2 is not served", func(p policy) { p.all["apiVersion"] = "policies.kyverno.io/v2" }},
		{"metadata", func(p policy) { delete(p.all, "metadata") }},
		{".sepc is unknown", func(p policy) { p.all["sepc"] = p.spec }},
		{".spec.attestors[0].cosign.keyless.identities[0].subjct is unknown", func(p policy) { p.identity["subjct"] = "SUBJECT" }},
		{".spec.attestors[0].cosign.tuf.miror is unknown", func(p policy) { p.tuf["miror"] = w.url }},
		{".spec is missing", func(p policy) { delete(p.all, "spec") }},
		{".spec.validations is missing", func(p policy) { delete(p.spec, "validations") }},
		{".spec.attestors[0].name is missing", func(p policy) { delete(p.attestor, "name") }},
		{".keyless.identities is missing", func(p policy) { delete(p.keyless, "identities") }},
		{".tuf.mirror: 1 is of type integer, want string", func(p policy) { p.tuf["mirror"] = uint64(1) }},
		{".tuf.mirror: <nil>", func(p policy) { p.tuf["mirror"] = nil }},
		{".validationActions: Deny is of type string, want array", func(p policy) { p.spec["validationActions"] = "Deny" }},
		{".validationActions[0]: Refuse is none of", func(p policy) { p.spec["validationActions"] = []any{"Refuse"} }},
		{".attestors[0]: it conforms to 2 of", func(p policy) { p.attestor["notary"] = object{} }},
		{".attestors[0]: it conforms to 0 of", func(p policy) { delete(p.attestor, "cosign") }},
	} {
		p := exported()
		test.edit(p)
		if err := definition.check(p.all); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%v, want an error with %q", err, test.says)
		}
	}
}
