package drill

import (
	"slices"
	"strings"
	"testing"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestMatrix runs every scenario in a house that is sound, where it must pass, and in three that are
// not, where it must fail, for the reason that is there.
func TestMatrix(t *testing.T) {
	wants := map[mutation]string{
		detectorOff: "was never seen to be away|was not noticed",
		fallbackOff: "were not served",
		revertOff:   "the faults were still in force",
	}
	for _, s := range Scenarios() {
		for _, m := range []mutation{sound, detectorOff, fallbackOff, revertOff} {
			t.Run(strings.ReplaceAll(s.Name+"/"+string(m), " ", "-"), func(t *testing.T) {
				t.Parallel()
				bubble.Run(t, func(t *testing.T) {
					h := newHouse(t, m).start()
					defer h.close()
					res := h.drill(request(s.Name))
					md, _, err := h.runner.Report("")
					if err != nil {
						t.Fatal(err)
					}
					if m == sound {
						if res.Outcome != outcomePassed || len(res.Failures) != 0 {
							t.Errorf("the drill of a sound house:\n%s", md)
						}
						return
					}
					if res.Outcome != outcomeFailed {
						t.Fatalf("with the %s the drill %s:\n%s", m, res.Outcome, md)
					}
					if !slices.ContainsFunc(res.Failures, func(f string) bool {
						return slices.ContainsFunc(strings.Split(wants[m], "|"), func(want string) bool { return strings.Contains(f, want) })
					}) {
						t.Errorf("with the %s the drill failed for another reason:\n%s", m, md)
					}
				})
			})
		}
	}
}
