package e2earchive

import (
	"maps"
	"testing"

	"github.com/understudy-log/understudy/test/witnesses"
)

// conformance holds a witness against the specification.
func conformance(t *testing.T, w *witness, logs []*witnesses.Log, deviates map[string]string) {
	witnesses.Conformance(t, &witnesses.Target{
		Submission: w.url, Monitoring: w.monitor, VKeys: w.vkeys, Logs: logs, Restart: w.restart,
		Quarantines: w.quarantines, Deviates: deviates,
	})
}

// both are deviations of both peers.
var both = map[string]string{
	"sequence":              "a malformed note is answered with 500",
	"newline":               "a note without a newline at its end is answered with 500",
	"old size line":         "leading zeroes and a sign are taken",
	"old size zero":         "00 is taken",
	"proof lines":           "a carriage return and bits that are left over are taken",
	"checkpoint text":       "malformed ones are answered with 500, or cosigned",
	"16 signatures":         "the body is limited to 16 KiB, or 10 KiB",
	"403 wrong after right": "of several lines of one key the first decides",
	"422 proof from zero":   "the first proof is not looked at",
}

// with returns deviations of both peers and more.
func with(more map[string]string) map[string]string {
	deviates := maps.Clone(both)
	maps.Copy(deviates, more)
	return deviates
}

// TestOmniwitnessConformance and TestLitewitnessConformance show that what the conformance test
// asks can be done, and what others do.
func TestOmniwitnessConformance(t *testing.T) {
	witnessesOnly(t)
	logs := witnesses.NewLogs()
	conformance(t, omniwitness(t, logs...), logs, with(map[string]string{
		"404 unknown origin":                 "500, with a database",
		"403 no trusted key":                 "500",
		"403 another log's key":              "500",
		"403 wrong signature":                "500",
		"403 wrong before right":             "500",
		"400 old size too large and unknown": "the first checkpoint is cosigned whatever the old size",
		"409 before the first":               "the first checkpoint is cosigned whatever the old size",
	}))
}

func TestLitewitnessConformance(t *testing.T) {
	witnessesOnly(t)
	logs := witnesses.NewLogs()
	conformance(t, litewitness(t, logs...), logs, with(map[string]string{
		"422 size zero": "any root is cosigned",
	}))
}
