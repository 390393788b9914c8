// Package e2eoutage takes the public logs away from an understudy, in every way that servers go away and
// come back, while real clients verify and sign: nothing that is held may fail, and nothing may be taken that
// would not have been taken before.
//
// It needs MariaDB and programs that take minutes to build: `make e2e-outage` runs it.
package e2eoutage

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// Components, as the daemon calls them.
const (
	readV1  = outagestage.LogV1 + "/read"
	writeV1 = outagestage.LogV1 + "/write"
	readV2  = outagestage.LogV2 + "/read"
	writeV2 = outagestage.LogV2 + "/write"
)

// theater is a stage for one test.
type theater struct {
	*testing.T
	*outagestage.Stage
	ctx context.Context
}

// newTheater makes a stage on which all is well, for a test that may take so long.
func newTheater(t *testing.T, limit time.Duration, config outagestage.Config) *theater {
	t.Helper()
	if os.Getenv("UNDERSTUDY_E2E_OUTAGE") == "" {
		t.Skip("NOTICE: needs servers and clients that take minutes to build: make e2e-outage")
	}
	if _, err := rekorv1.MariaDB(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("skipped: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	config.Dir = t.TempDir()
	started := time.Now()
	s, err := outagestage.New(ctx, config)
	if err != nil {
		t.Fatal(err)
	}
	th := &theater{t, s, ctx}
	t.Cleanup(func() {
		if t.Failed() {
			th.tellLedger()
			t.Logf("the daemon printed, in the end:\n%s", s.Tail())
		}
		s.Close()
	})
	if _, _, err := s.UntilLive(ctx, 20*time.Second); err != nil {
		t.Fatal(err)
	}
	th.must(s.Refused(ctx))
	t.Logf("the stage was ready after %s", time.Since(started).Round(100*time.Millisecond))
	return th
}

// tellLedger prints the rows for who has to find out what went wrong, but not decisions.
func (t *theater) tellLedger() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), 10*time.Second)
	defer cancel()
	rows, err := t.Ledger(ctx)
	if err != nil {
		t.Logf("the ledger cannot be read: %v", err)
	}
	for _, row := range rows {
		if row.Kind != "decision" {
			t.Logf("%d %s %s %.400s", row.Seq, row.At.Format("15:04:05.000"), row.Kind, row.Body)
		}
	}
}

// must fails the test if something went wrong.
func (t *theater) must(err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command runs a verb that has to succeed.
func (t *theater) command(verb ...string) string {
	t.Helper()
	out, err := t.Command(t.ctx, verb...)
	t.must(err)
	return out
}

// as runs a verb in somebody's name, which has to succeed.
func (t *theater) as(who string, verb ...string) string {
	t.Helper()
	out, err := t.As(t.ctx, who, verb...)
	t.must(err)
	return out
}

// refused checks that a verb ended with exit code 2 and said why, with a code that a script can read.
func (t *theater) refused(why string, err error) {
	t.Helper()
	exit := new(outagestage.ExitError)
	if !errors.As(err, &exit) || exit.Code != 2 || !strings.Contains(exit.Stderr, why) {
		t.Errorf("want exit code 2 with %q, got %v", why, err)
	}
}

// until waits until components are in a state, and returns how long that took from a time on.
func (t *theater) until(since time.Time, limit time.Duration, state string, components ...string) time.Duration {
	t.Helper()
	_, at, err := t.UntilState(t.ctx, limit, state, components...)
	t.must(err)
	return at.Sub(since)
}

// within checks a time that was measured against a limit, and logs it.
func (t *theater) within(what string, took, limit time.Duration) {
	t.Helper()
	t.Logf("measured: %s: %.1f s (limit %s)", what, took.Seconds(), limit)
	if took > limit {
		t.Errorf("%s took %s, and must not take more than %s", what, took, limit)
	}
}

// ledger returns the rows, which hold together.
func (t *theater) ledger() []outagestage.Row {
	t.Helper()
	rows, err := t.Ledger(t.ctx)
	t.must(err)
	return rows
}
