package e2eoutage

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/rekor"
)

// Sizes and limits that were promised.
const (
	wantVerified = 10_000
	wantExecuted = 200
	wantSigned   = 1_000

	detectWithin    = 5 * time.Second
	noticeWithin    = 10 * time.Second
	reconcileWithin = time.Minute
)

// TestOutage: both public logs hang, die, and come back, while thousands verify, and others sign. Nothing
// that is held fails, signers are led to the private log and back, and what they logged there is in the public
// logs afterwards, once.
func TestOutage(t *testing.T) {
	th := newTheater(t, 4*time.Minute, outagestage.Config{})
	ctx := th.ctx
	audience, err := th.NewAudience(ctx)
	th.must(err)
	programs, err := th.NewPrograms(ctx)
	th.must(err)
	executed := 0
	execute := func(n int) {
		t.Helper()
		if err := programs.Run(ctx, n); err != nil {
			t.Error(err)
		}
		executed += n
	}
	d := th.newDecisions()

	// A day like any other.
	signer := th.signer()
	th.signedIn(signer, "before", "https://"+outagestage.OriginV2)
	th.must(th.Refused(ctx))
	th.tells(time.Second, th.PublicURLs())
	th.canFail(signer)
	before := len(th.ledger())
	d.everyday()
	execute(20)

	// Both logs hang.
	audience.Enter("while they hang")
	audience.Fast()
	stopped := time.Now()
	th.must(th.Stop())
	th.within("from SIGSTOP to fallback, all four paths, under load", th.until(stopped, 20*time.Second, "fallback", readV1, writeV1, readV2, writeV2), detectWithin)
	th.says("fallback")
	th.within("from SIGSTOP until signers are told the private log", th.tells(10*time.Second, th.PrivateURLs()).Sub(stopped), 2*detectWithin)
	execute(60)
	if total := audience.Total(); total < wantVerified/2 {
		th.must(audience.Until(ctx, wantVerified/2))
	}

	// They die.
	audience.Enter("while they are dead")
	th.KillLogs()
	th.signedIn(signer, "during", th.Private2)
	if err := signer.Verify(ctx, "during", "during.bundle"); err != nil {
		t.Error(err)
	}
	began := time.Now()
	digests, err := th.SignPrivately(ctx, wantSigned)
	th.must(err)
	t.Logf("measured: %d entries signed into the private log in %.1f s", len(digests), time.Since(began).Seconds())
	d.during(signer)
	execute(100)
	th.must(audience.Until(ctx, wantVerified))
	audience.Slow()
	th.until(time.Now(), 10*time.Second, "fallback", "tuf")

	// They come back.
	audience.Enter("while they come back")
	th.must(th.RestartLogs(ctx))
	restarted := time.Now()
	th.within("from the restart until both are seen to be back", th.back(restarted), noticeWithin)
	_, live, err := th.UntilLive(ctx, 2*reconcileWithin)
	th.must(err)
	th.within(fmt.Sprintf("from the restart until all is live, %d entries reconciled", wantSigned), live.Sub(restarted), noticeWithin+reconcileWithin)
	audience.Enter("after it all")
	execute(wantExecuted - executed)
	counts, err := th.PublicCounts(ctx)
	th.must(err)
	if err := outagestage.Once(counts, append(digests, signer.Digest("during"))); err != nil {
		t.Error(err)
	}
	th.tells(5*time.Second, th.PublicURLs())
	th.must(th.Refused(ctx))
	th.signedIn(signer, "after", "https://"+outagestage.OriginV2)
	for _, name := range []string{"before", "during", "after"} {
		if err := signer.Verify(ctx, name, name+".bundle"); err != nil {
			t.Error(err)
		}
	}

	total, by, err := audience.Close()
	if err != nil {
		t.Error(err)
	}
	t.Logf("measured: %d verifications in process, none failed unless it is said above: %v", total, sorted(by))
	t.Logf("measured: %d executions: %v", executed, sorted(programs.Counts()))
	if total < wantVerified || executed < wantExecuted {
		t.Errorf("%d verifications and %d executions, want %d and %d", total, executed, wantVerified, wantExecuted)
	}
	d.closed(20 * time.Second)
	rows := th.ledger()
	th.states(rows[before:])
	d.after(rows)
	th.reports(rows, wantSigned+1)
}

// canFail shows that what must not fail below would, if it were wrong.
func (t *theater) canFail(signer *outagestage.User) {
	t.Helper()
	t.must(signer.Write("tampered", []byte("tampered")))
	if signer.Verify(t.ctx, "tampered", "before.bundle") == nil {
		t.Error("cosign verifies another artifact")
	}
	sigstore, err := t.Sigstore()
	t.must(err)
	e := t.V2[3]
	e.Artifact = []byte("tampered")
	if outagestage.VerifyV2(t.ctx, t.API(), sigstore, e) == nil {
		t.Error("sigstore-go verifies another artifact")
	}
	log, err := outagestage.RekorClient(t.URL)
	t.must(err)
	key, err := t.V1Verifier()
	t.must(err)
	old := t.V1[3]
	old.Artifact = []byte("tampered")
	if outagestage.VerifyV1(t.ctx, log, key, old) == nil {
		t.Error("Rekor's client takes the entry of another artifact")
	}
	if _, err := signer.RekorCLI(t.ctx, t.URL, "verify", "--uuid="+strings.Repeat("ab", 32)); err == nil {
		t.Error("rekor-cli verifies what is in no log")
	}
	if outagestage.Once(map[string]int{"a": 2}, []string{"a"}) == nil || outagestage.Once(nil, []string{"a"}) == nil {
		t.Error("what is logged twice, or not at all, is called logged once")
	}
}

// signer is somebody who begins at our own TUF repository, with a certificate for the identity of the policy.
func (t *theater) signer() *outagestage.User {
	t.Helper()
	u, err := t.NewUser()
	t.must(err)
	t.must(u.Initialize(t.ctx, t.URL+"/trust", t.RootFile))
	t.must(u.Certify(t.ctx, t.Authority, rekor.Identity))
	return u
}

// signedIn has cosign sign an artifact with no flag that names a log, and checks in which log it was logged.
func (t *theater) signedIn(u *outagestage.User, name, baseURL string) {
	t.Helper()
	t.must(u.Write(name, fmt.Appendf(nil, "what %s signs at %s", t.Name(), time.Now())))
	t.must(u.Certify(t.ctx, t.Authority, rekor.Identity)) // they live ten minutes
	if err := u.Sign(t.ctx, name, name+".bundle"); err != nil {
		t.Error(err)
		return
	}
	trusted := t.TrustedRootFile
	if strings.HasPrefix(baseURL, "http://localhost") {
		trusted = t.OwnTrustedRootFile()
	}
	want, err := outagestage.LogIDs(trusted, baseURL)
	t.must(err)
	got, err := u.LoggedIn(name + ".bundle")
	t.must(err)
	if len(got) != 1 || !slices.Contains(want, got[0]) {
		t.Errorf("%s was logged in %v, want %s: %v", name, got, baseURL, want)
	}
}

// tells waits until signers are told these logs and no others.
func (t *theater) tells(limit time.Duration, urls []string) time.Time {
	t.Helper()
	at, err := t.UntilSigning(t.ctx, limit, urls)
	t.must(err)
	return at
}

// says checks what the command prints of the state of all, and that its exit code tells the truth.
func (t *theater) says(state string) {
	t.Helper()
	var s outagestage.Status
	t.must(json.Unmarshal([]byte(t.command("outage", "status", "--json")), &s))
	if s.State != state {
		t.Errorf("outage status --json says %q, want %q", s.State, state)
	}
	_, err := t.Command(t.ctx, "outage", "status")
	if exit, ok := err.(*outagestage.ExitError); state == "live" && err != nil || state != "live" && (!ok || exit.Code != 1) {
		t.Errorf("outage status while all is %s: %v", state, err)
	}
}

// back waits until all paths of the logs have left fallback.
func (t *theater) back(since time.Time) time.Duration {
	t.Helper()
	_, at, err := t.UntilOutage(t.ctx, 30*time.Second, "back", func(s outagestage.Status) bool {
		for _, c := range []string{readV1, writeV1, readV2, writeV2} {
			if s.Of(c) == "fallback" {
				return false
			}
		}
		return true
	})
	t.must(err)
	return at.Sub(since)
}

// states checks that each path of the logs went the whole way, once, and that every change has a cause.
func (t *theater) states(rows []outagestage.Row) {
	t.Helper()
	for _, component := range []string{readV1, writeV1, readV2, writeV2, "tuf"} {
		var way []string
		for _, row := range outagestage.Rows(rows, "state", "component", component) {
			var body struct {
				To    string
				Cause struct{ Code, Text string }
			}
			t.must(json.Unmarshal(row.Body, &body))
			if body.Cause.Code == "" || body.Cause.Text == "" {
				t.Errorf("row %d has no cause: %s", row.Seq, row.Body)
			}
			if body.To != "degraded" {
				way = append(way, body.To)
			}
		}
		if want := []string{"fallback", "recovering", "live"}; !slices.Equal(way, want) {
			t.Errorf("%s went through %v, want %v", component, way, want)
		}
	}
}

// reports checks the report of each log: it is signed, stands in the private log, and says that so many
// entries were brought to the public logs.
func (t *theater) reports(rows []outagestage.Row, submitted int) {
	t.Helper()
	total, logs := 0, map[string]bool{}
	for _, row := range outagestage.Rows(rows, "reconcile", "event", "done") {
		r, err := t.Report(t.ctx, row.Field("id"))
		t.must(err)
		t.Logf("report %s of %s: %s", r.Document.ID, r.Document.Log, r.Summary())
		t.must(t.InPrivateLog(t.ctx, r.Payload))
		logs[r.Document.Log] = true
		for _, p := range r.Document.Proposals {
			total += p.Submitted
			if p.Refused+p.NotKept+p.Unreadable+p.Failed > 0 {
				t.Errorf("report %s: %+v", r.Document.ID, p)
			}
		}
		if r.Document.Proofs == 0 && r.Document.Log != "" {
			t.Errorf("report %s proves nothing of what was held", r.Document.ID)
		}
	}
	// The report of one log is an entry of the private log, too, which the other log may get. One without a log is
	// about what was left over.
	if total < submitted || total > submitted+len(logs) || !logs[outagestage.LogV1] || !logs[outagestage.LogV2] {
		t.Errorf("the reports of %v say that %d entries were submitted, want %d", logs, total, submitted)
	}
}

func sorted(counts map[string]int) (list []string) {
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, fmt.Sprintf("%s: %d", name, counts[name]))
	}
	return list
}
