package drill

import (
	"testing"

	"github.com/understudy-log/understudy/mirror/outage"
)

// TestAimIsNotAtSuccessors: a drill of a log disturbs no other one that is called after it.
func TestAimIsNotAtSuccessors(t *testing.T) {
	all := []outage.Status{{Component: "us/read", Kind: kindRead}, {Component: "us/write", Kind: kindWrite}, {Component: "us/log2026.example/read", Kind: kindRead}, {Component: "tuf", Kind: kindTUF}}
	s, err := findScenario("refuse")
	if err != nil {
		t.Fatal(err)
	}
	for component, want := range map[string]int{"": 2, "us": 2, "us/read": 1, "us/log2026.example": 1, "tuf": 1} {
		if parts, err := s.aim(component, all); err != nil || len(parts) != want {
			t.Errorf("%q: %v %v", component, parts, err)
		}
	}
}
