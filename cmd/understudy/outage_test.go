package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/access"
	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/mirror/outage"
	"github.com/understudy-log/understudy/mirror/verdict"
)

// TestStatusNote: a note says of each component what is true of it, and never that no check was weakened
// while one is.
func TestStatusNote(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := rest.OutageStatus{State: outage.Fallback, Components: []outage.Status{
		{Component: "rekor/read", Kind: "read", State: outage.Fallback, Since: now},
		{Component: "rekor/write", Kind: "write", State: outage.Fallback, Since: now},
		{Component: "fulcio", Kind: "service", State: outage.Fallback, Since: now},
	}}
	const strong, weak = "No check was weakened", "1 exception is in force"
	for _, test := range []struct {
		name      string
		effects   rest.OutageEffects
		exception string
		want, not []string
	}{
		{"bridged", rest.OutageEffects{Signing: "fallback", PrivateLog: "open"}, "",
			[]string{"| rekor/read | does not answer; our copy stands in |", "| rekor/write | takes no entries; our own log stands in |", "| fulcio | does not answer |", "Signing goes on", "waits** for fulcio", strong}, []string{weak}},
		{"nothing stands in", rest.OutageEffects{}, "", []string{"| rekor/write | takes no entries |", "Signing waits"}, []string{"Signing goes on"}},
		{"asked for", rest.OutageEffects{}, verdict.ExceptionPending, []string{strong}, []string{weak}},
		{"weakened", rest.OutageEffects{}, verdict.ExceptionActive, []string{weak}, []string{strong}},
	} {
		s.Effects, s.Exceptions = test.effects, nil
		if test.exception != "" {
			s.Exceptions = []verdict.Exception{{State: test.exception}}
		}
		note := statusNote(s, now)
		for _, want := range test.want {
			if !strings.Contains(note, want) {
				t.Errorf("%s: no %q in\n%s", test.name, want, note)
			}
		}
		for _, not := range test.not {
			if strings.Contains(note, not) {
				t.Errorf("%s: %q in\n%s", test.name, not, note)
			}
		}
	}
}

// TestAnswersAgain: of a component that answers again, and has flapped, the status says so.
func TestAnswersAgain(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := outage.Status{Component: "rekor/read", State: outage.Fallback, Since: now.Add(-time.Hour), LastGood: now.Add(-2 * time.Hour)}
	for good, want := range map[time.Duration]bool{2 * time.Hour: false, time.Second: true} {
		c.LastGood = now.Add(-good)
		var out strings.Builder
		if err := printOutage(&out, rest.OutageStatus{Components: []outage.Status{c}}, now); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(out.String(), "answered in order 1s ago, and is not believed yet"); got != want {
			t.Errorf("a good answer %s ago: %s", good, &out)
		}
	}
}

// TestToken: what is no token is told before anybody is asked, and not shown.
func TestToken(t *testing.T) {
	token, _ := access.NewToken()
	for text, good := range map[string]bool{
		token: true, token + "\n": true, " " + token + "\r\n": true,
		"": false, "word": false, token + "\n\n# Give the line above to anna\n": false, token[:60]: false, token + "0": false,
	} {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := (&operator{tokenFile: file}).token()
		switch {
		case good && (err != nil || got != token):
			t.Errorf("%q: %v", text, err)
		case !good && (err == nil || !strings.Contains(err.Error(), "log token") || strings.Contains(err.Error(), token[3:20])):
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestArgumentsHint: who forgets an argument is told where the usage stands.
func TestArgumentsHint(t *testing.T) {
	for _, line := range []string{"outage force rekor/write", "exception approve", "reconcile now", "outage status more", "drill run"} {
		var out strings.Builder
		args := strings.Fields(line)
		code := run(t.Context(), args, io.Discard, &out)
		if want := `understudy ` + strings.Join(args[:2], " ") + ` --help`; code != exitNotRun || !strings.Contains(out.String(), want) {
			t.Errorf("%s: exit code %d, %q", line, code, out.String())
		}
	}
}
