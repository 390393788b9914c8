package witnesses

import (
	"slices"
	"testing"
)

// TestReference: the conformance test is content with a witness that does all.
func TestReference(t *testing.T) { Conformance(t, newReference(t, "")) }

// TestConformanceFails: every check fails for a witness that does not do what it is about, and
// such a witness is blamed for nothing else.
func TestConformanceFails(t *testing.T) {
	if testing.Short() {
		t.Skip("the same code as in TestReference, thirty times")
	}
	faults := []struct {
		fault string
		wide  bool // more than these fail
		fails []string
	}{
		{"GET", false, []string{"POST"}},
		{"newline", false, []string{"newline"}},
		{"CRLF", false, []string{"newline", "proof lines"}},
		{"zeroes", false, []string{"old size line", "old size zero"}},
		{"base64", false, []string{"proof lines"}},
		{"62 lines", false, []string{"63 proof lines"}},
		{"500", true, []string{"sequence", "newline", "old size line", "proof lines", "64 proof lines", "checkpoint text", "400 old size too large"}},
		{"15 signatures", false, []string{"16 signatures"}},
		{"unknown signatures", false, []string{"several signatures", "16 signatures", "signature lines", "monitor/several signatures"}},
		{"any signature", false, []string{"403 wrong signature", "403 wrong before right", "403 wrong after right"}},
		{"first signature", false, []string{"403 wrong after right"}},
		{"no signature", false, []string{"sequence", "403 no trusted key", "403 another log's key"}},
		{"key name", false, []string{"key with another name"}},
		{"403 for 404", false, []string{"404 unknown origin"}},
		{"old size", true, []string{"400 old size too large", "409 conflict", "409 to old size zero", "409 before the first", "race of proofs"}},
		{"first", false, []string{"409 before the first"}},
		{"409 body", true, []string{"409 conflict", "409 to old size zero", "409 before the first"}},
		{"content type", true, []string{"409 conflict", "409 to old size zero", "409 before the first"}},
		{"empty root", false, []string{"422 size zero"}},
		{"proof from zero", false, []string{"422 proof from zero"}},
		{"equal size", false, []string{"422 proof of equal sizes", "422 other root", "not cosigned", "monitor/refused"}},
		{"any proof", true, []string{"422 proof", "422 other root", "not cosigned"}},
		{"one key", true, []string{"200", "ML-DSA-44"}},
		{"no extensions", false, []string{"cosignatures", "equal size", "monitor/checkpoint"}},
		{"timestamp", true, []string{"timestamp"}},
		{"echo", true, []string{"signature lines", "Ed25519", "size zero", "all proofs"}},
		{"forgets", false, []string{"persistence"}},
		{"hangs up", false, []string{"keep-alive"}},
		{"race", true, []string{"race of proofs", "race of first checkpoints", "race of retries"}},
		{"monitor POST", false, []string{"monitor/GET"}},
		{"monitor case", false, []string{"monitor/origin hash"}},
		{"monitor without cosignatures", true, []string{"monitor/checkpoint", "monitor/several signatures"}},
		{"monitor 404", false, []string{"monitor/404", "monitor/origin hash"}},
	}
	failed := map[string]bool{}
	for _, f := range faults {
		t.Run(f.fault, func(t *testing.T) {
			target := newReference(t, f.fault)
			var fails []string
			for i, check := range Checks() {
				if err := check.Run(t.Context(), target, target.Logs[i]); err != nil {
					fails = append(fails, check.Name)
					failed[check.Name] = true
				}
			}
			if f.wide {
				fails = slices.DeleteFunc(fails, func(name string) bool { return !slices.Contains(f.fails, name) })
			}
			slices.Sort(fails)
			slices.Sort(f.fails)
			if !slices.Equal(fails, f.fails) {
				t.Errorf("want %q to fail, got %q", f.fails, fails)
			}
		})
	}
	for _, check := range Checks() {
		if !failed[check.Name] {
			t.Errorf("no fault makes the check %q fail", check.Name)
		}
	}
}
