package verdict

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/understudy-log/understudy/mirror/outage"
)

func TestMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage(t)
		r := prometheus.NewRegistry()
		s.config.Metrics = NewMetrics(r)
		s.crash()
		artifact := []byte("an artifact")
		good := s.request(artifact, s.bundle(t, artifact, making{}))
		s.verify(good)
		s.set(func() { s.state = outage.Fallback })
		s.verify(good)
		none := good
		none.Policy = "whatever a stranger sends"
		s.verify(none)
		x := s.except("any", time.Hour)
		_, err := s.v.Request("any", x.Until, "T-1", "alice", "")
		must(t, err)
		bad := s.bad("a")
		bad.Policy = "any"
		s.verify(bad)
		_, err = s.v.AddRollback(t.Context(), "good", good, "alice", "T-1")
		must(t, err)
		s.config.Metrics.tick(s.v, time.Minute)
		want := `
# HELP understudy_verification_decisions_total Decisions about artifacts, by what they rest on, and whether all upstreams were live.
# TYPE understudy_verification_decisions_total counter
understudy_verification_decisions_total{decision="allow",live="false",mode="audit",policy="any",rests_on="nothing"} 1
understudy_verification_decisions_total{decision="allow",live="false",mode="enforce",policy="default",rests_on="mirrored"} 1
understudy_verification_decisions_total{decision="allow",live="true",mode="enforce",policy="default",rests_on="public_live"} 1
understudy_verification_decisions_total{decision="deny",live="false",mode="enforce",policy="unknown",rests_on="nothing"} 1
# HELP understudy_verification_denied_total Reasons of decisions that denied, or that would have without an exception.
# TYPE understudy_verification_denied_total counter
understudy_verification_denied_total{policy="any",reason="AUDIT_WOULD_DENY"} 1
understudy_verification_denied_total{policy="any",reason="IDENTITY_MISMATCH"} 1
understudy_verification_denied_total{policy="unknown",reason="POLICY_UNKNOWN"} 1
# HELP understudy_verification_exceptions Exceptions that are not over.
# TYPE understudy_verification_exceptions gauge
understudy_verification_exceptions{state="active"} 1
understudy_verification_exceptions{state="pending"} 1
# HELP understudy_verification_rollback_bundles Rollback bundles, by whether they verified offline when that was looked at last.
# TYPE understudy_verification_rollback_bundles gauge
understudy_verification_rollback_bundles{state="bad"} 0
understudy_verification_rollback_bundles{state="good"} 1
# HELP understudy_verification_mode_seconds_total Time that a policy was in a mode.
# TYPE understudy_verification_mode_seconds_total counter
understudy_verification_mode_seconds_total{mode="audit",policy="any"} 60
understudy_verification_mode_seconds_total{mode="audit",policy="default"} 0
understudy_verification_mode_seconds_total{mode="audit",policy="picky"} 0
understudy_verification_mode_seconds_total{mode="audit",policy="team"} 0
understudy_verification_mode_seconds_total{mode="enforce",policy="any"} 0
understudy_verification_mode_seconds_total{mode="enforce",policy="default"} 60
understudy_verification_mode_seconds_total{mode="enforce",policy="picky"} 60
understudy_verification_mode_seconds_total{mode="enforce",policy="team"} 60
`
		if err := testutil.GatherAndCompare(r, strings.NewReader(want), "understudy_verification_decisions_total", "understudy_verification_denied_total",
			"understudy_verification_exceptions", "understudy_verification_rollback_bundles", "understudy_verification_mode_seconds_total"); err != nil {
			t.Error(err)
		}
		if n, err := testutil.GatherAndCount(r, "understudy_verification_exception_end_timestamp_seconds", "understudy_verification_kept_bytes", "understudy_verification_exceptions_total"); n != 8 || err != nil {
			t.Errorf("%d series, %v", n, err)
		}
	})
}
