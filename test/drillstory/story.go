package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/understudy-log/understudy/test/outagestage"
	"github.com/understudy-log/understudy/test/rekor"
)

const (
	entries  = 200 // of each public log, before anything happens
	signed   = 200 // in the outage, into the private log
	verified = 2_000
)

// The paths whose states are told.
var paths = []string{outagestage.LogV1 + "/read", outagestage.LogV1 + "/write", outagestage.LogV2 + "/read", outagestage.LogV2 + "/write"}

// story is what is told; each method is one step and returns what it showed.
type story struct {
	*outagestage.Stage
	out io.Writer
	dir string

	signer  *outagestage.User // with cosign, at our own TUF repository
	digests []string          // of what was signed in the outage
}

// clear ends every process that is left.
func (s *story) clear() {
	if s.Stage != nil {
		s.Close()
	}
}

// tell prints lines of this step.
func (s *story) tell(format string, args ...any) {
	fmt.Fprintln(s.out, "   "+fmt.Sprintf(format, args...))
}

// quote prints a command and what it printed.
func (s *story) quote(command, printed string) {
	fmt.Fprintln(s.out, "   $ "+command)
	for line := range strings.Lines(strings.TrimSpace(s.plain(printed))) {
		fmt.Fprintln(s.out, strings.TrimRight("   "+line, " \n"))
	}
}

// plain gives what differs from run to run the same name in each.
func (s *story) plain(text string) string {
	for _, r := range []struct{ what, name string }{
		{s.GRPC, "localhost:8081"}, {s.Private1, "https://rekor.us.example"}, {s.Private2, "https://rekor2.us.example"},
		{s.Rekor1.URL, "https://rekor.public.example"}, {s.Rekor2.WriteURL(), "https://log2025-1.public.example"}, {s.dir, "."},
	} {
		text = strings.ReplaceAll(text, r.what, r.name)
	}
	return ports.ReplaceAllString(text, "$1:…")
}

var ports = regexp.MustCompile(`(127\.0\.0\.1|\[::1\]|localhost):(?:\d{5})`)

// show runs a verb of understudy that ends with a code, and prints what it printed.
func (s *story) show(ctx context.Context, code int, who string, verb ...string) (string, error) {
	run, as := s.Command, ""
	if who != "" {
		run = func(ctx context.Context, verb ...string) (string, error) { return s.As(ctx, who, verb...) }
		as = "   # " + who
	}
	out, err := run(ctx, verb...)
	exit, failed := errors.AsType[*outagestage.ExitError](err)
	if err != nil && !failed {
		return out, err
	}
	got := 0
	if failed {
		got, out = exit.Code, exit.Stdout+exit.Stderr
	}
	s.quote("understudy "+quoted(verb)+as, out)
	if got != code {
		return out, fmt.Errorf("understudy %s: exit code %d, want %d", quoted(verb), got, code)
	}
	return out, nil
}

// quoted is a command line as somebody would type it.
func quoted(args []string) string {
	args = slices.Clone(args)
	for i, arg := range args {
		if strings.ContainsAny(arg, " '\"") {
			args[i] = "'" + arg + "'"
		}
	}
	return strings.Join(args, " ")
}

// seconds rounds what was measured.
func seconds(d time.Duration) string { return fmt.Sprintf("%.0f s", max(d.Seconds(), 1)) }

func (s *story) begin(ctx context.Context) (string, error) {
	var err error
	if s.Stage, err = outagestage.New(ctx, outagestage.Config{Dir: s.dir, Entries: entries}); err != nil {
		return "", err
	}
	if _, _, err := s.UntilLive(ctx, 20*time.Second); err != nil {
		return "", err
	}
	s.tell("on loopback: a real Rekor v1 (MariaDB, Trillian), a real Rekor v2, a TUF repository like Sigstore's,")
	s.tell("and understudy, which mirrors all three; %d entries in each log, and all are held", entries)
	if _, err := s.show(ctx, 0, "", "outage", "status"); err != nil {
		return "", err
	}
	if s.signer, err = s.NewUser(); err != nil {
		return "", err
	}
	if err := errors.Join(s.signer.Initialize(ctx, s.URL+"/trust", s.RootFile), s.signer.Certify(ctx, s.Authority, rekor.Identity)); err != nil {
		return "", err
	}
	if err := s.cosignSigns(ctx, "before", "https://"+outagestage.OriginV2); err != nil {
		return "", err
	}
	if err := s.Refused(ctx); err != nil {
		return "", err
	}
	return "cosign signs in the public log; the private log takes nothing (503)", s.pin(ctx)
}

// cosignSigns has cosign sign something, and checks where that was logged.
func (s *story) cosignSigns(ctx context.Context, name, baseURL string) error {
	if err := errors.Join(s.signer.Write(name, []byte("the release "+name+" the outage\n")), s.signer.Certify(ctx, s.Authority, rekor.Identity)); err != nil {
		return err
	}
	if err := s.signer.Sign(ctx, name, name+".bundle"); err != nil {
		return err
	}
	trusted := s.TrustedRootFile
	if baseURL == s.Private2 {
		trusted = s.OwnTrustedRootFile()
	}
	want, err := outagestage.LogIDs(trusted, baseURL)
	if err != nil {
		return err
	}
	got, err := s.signer.LoggedIn(name + ".bundle")
	if err == nil && (len(got) != 1 || !slices.Contains(want, got[0])) {
		err = fmt.Errorf("%s was logged in %v, and should be in the log at %s", name, got, baseURL)
	}
	s.tell("$ cosign sign-blob --key cosign.key --certificate certificate.pem --bundle %[1]s.bundle %[1]s", name)
	return err
}

// pin keeps a bundle for bad days.
func (s *story) pin(ctx context.Context) error {
	if err := s.copyToDaemon("before", "before.bundle"); err != nil {
		return err
	}
	_, err := s.show(ctx, 0, outagestage.Operator, "rollback", "add", "shop-4.2", "--bundle", "before.bundle", "--artifact", "before", "--policy", outagestage.Policy, "--ticket", "REL-9")
	return err
}

// copyToDaemon gives files of the signer to who works at the daemon.
func (s *story) copyToDaemon(names ...string) error {
	for _, name := range names {
		data, err := os.ReadFile(s.signer.File(name))
		if err == nil {
			err = os.WriteFile(filepath.Join(s.Daemon.Dir, name), data, 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *story) hang(ctx context.Context) (string, error) {
	stopped := time.Now()
	if err := s.Stop(); err != nil {
		return "", err
	}
	s.tell("SIGSTOP to every process of both logs: connections succeed, and nothing answers")
	_, at, err := s.UntilState(ctx, 20*time.Second, "fallback", paths...)
	if err != nil {
		return "", err
	}
	took := at.Sub(stopped)
	if took > 5*time.Second {
		return "", fmt.Errorf("it took %s until all four paths were in fallback, and may take 5 s", took)
	}
	if _, err := s.show(ctx, 1, "", "outage", "status"); err != nil {
		return "", err
	}
	return fmt.Sprintf("all four paths are in fallback after %s; promised are 5 s", seconds(took)), nil
}

func (s *story) sign(ctx context.Context) (string, error) {
	if _, err := s.UntilSigning(ctx, 10*time.Second, s.PrivateURLs()); err != nil {
		return "", err
	}
	s.tell("the SigningConfig of our own TUF repository lists the private log alone")
	if err := s.cosignSigns(ctx, "during", s.Private2); err != nil {
		return "", err
	}
	var err error
	if s.digests, err = s.SignPrivately(ctx, signed); err != nil {
		return "", err
	}
	return fmt.Sprintf("cosign signs, with the same command, in the private log; %d others do, too, in both generations", signed), nil
}

func (s *story) verify(ctx context.Context) (string, error) {
	if err := s.signer.Verify(ctx, "before", "before.bundle"); err != nil {
		return "", err
	}
	if err := s.signer.Verify(ctx, "during", "during.bundle"); err != nil {
		return "", err
	}
	s.tell("cosign verifies what was signed before, and what was signed just now, with no flag for either")
	programs, err := s.NewPrograms(ctx)
	if err != nil {
		return "", err
	}
	if err := programs.Run(ctx, 20); err != nil {
		return "", err
	}
	s.tell("20 more executions of cosign and rekor-cli, against the mirror: none fails")
	audience, err := s.NewAudience(ctx)
	if err != nil {
		return "", err
	}
	audience.Fast()
	if err := audience.Until(ctx, verified); err != nil {
		return "", err
	}
	if _, _, err := audience.Close(); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d verifications by sigstore-go and Rekor's client: none fails", verified), nil
}

func (s *story) die(ctx context.Context) (string, error) {
	s.KillLogs()
	_, _, err := s.UntilState(ctx, 20*time.Second, "fallback", append(slices.Clone(paths), "tuf")...)
	return "SIGKILL for both logs and the TUF repository: nothing changes for whoever verifies or signs", err
}

func (s *story) decide(ctx context.Context) (string, error) {
	if err := s.copyToDaemon("during", "during.bundle"); err != nil {
		return "", err
	}
	if err := s.unlogged(); err != nil {
		return "", err
	}
	for _, ask := range []struct {
		bundle, artifact string
		code             int
	}{
		{"before.bundle", "before", 0},
		{"during.bundle", "during", 0},
		{"during.bundle", "before", 1},
		{"unlogged.bundle", "unlogged", 1},
	} {
		if err := s.asks(ctx, ask.bundle, ask.artifact, ask.code); err != nil {
			return "", err
		}
	}
	return "the rollback bundle and what the private log holds are allowed, and say what they rest on; the rest is denied, with reasons", nil
}

// asks has the daemon decide.
func (s *story) asks(ctx context.Context, bundle, artifact string, code int) error {
	out, err := s.Command(ctx, "verify", bundle, "--server", s.GRPC, "--policy", outagestage.Policy, "--artifact", artifact)
	exit, failed := errors.AsType[*outagestage.ExitError](err)
	if err != nil && !failed {
		return err
	}
	got := 0
	if failed {
		got, out = exit.Code, exit.Stdout+exit.Stderr
	}
	s.quote(fmt.Sprintf("understudy verify %s --server $SERVER --policy %s --artifact %s   # exit code %d", bundle, outagestage.Policy, artifact, got), out)
	if got != code {
		return fmt.Errorf("verify %s: exit code %d, want %d", bundle, got, code)
	}
	return nil
}

// unlogged writes a good signature that nobody has logged.
func (s *story) unlogged() error {
	e := s.V2[0]
	return errors.Join(
		os.WriteFile(filepath.Join(s.Daemon.Dir, "unlogged"), e.Artifact, 0o600),
		os.WriteFile(filepath.Join(s.Daemon.Dir, "unlogged.bundle"), outagestage.Unlogged(e), 0o600))
}

func (s *story) except(ctx context.Context) (string, error) {
	const life = 8 * time.Second
	began := time.Now()
	out, err := s.show(ctx, 0, outagestage.Both, "exception", "request", outagestage.Policy, "--for", life.String(), "--ticket", "SEC-77", "--reason", "built before logging was required")
	if err != nil {
		return "", err
	}
	id := exceptionID.FindString(out)
	if id == "" {
		return "", fmt.Errorf("no ID of an exception in %q", out)
	}
	if _, err := s.show(ctx, 2, outagestage.Both, "exception", "approve", id); err != nil {
		return "", err
	}
	if _, err := s.show(ctx, 0, outagestage.Approver, "exception", "approve", id); err != nil {
		return "", err
	}
	if err := s.asks(ctx, "unlogged.bundle", "unlogged", 0); err != nil {
		return "", err
	}
	time.Sleep(time.Until(began.Add(life + 1500*time.Millisecond)))
	s.tell("%s later:", life)
	return "it is allowed as audit, which the answer says, until the exception ends by itself; then it is denied", s.asks(ctx, "unlogged.bundle", "unlogged", 1)
}

var exceptionID = regexp.MustCompile(`x-[a-z0-9]+`)

func (s *story) note(ctx context.Context) (string, error) {
	_, err := s.show(ctx, 0, "", "outage", "note")
	return "what there is to tell, in Markdown", err
}

func (s *story) comeBack(ctx context.Context) (string, error) {
	if err := s.RestartLogs(ctx); err != nil {
		return "", err
	}
	restarted := time.Now()
	s.tell("both logs are started again on their data")
	_, noticed, err := s.UntilOutage(ctx, 20*time.Second, "back", func(st outagestage.Status) bool {
		return !slices.ContainsFunc(paths, func(path string) bool { return st.Of(path) == "fallback" })
	})
	if err != nil {
		return "", err
	}
	if took := noticed.Sub(restarted); took > 10*time.Second {
		return "", fmt.Errorf("it took %s until both were seen to be back, and may take 10 s", took)
	}
	s.tell("seen after %s; promised are 10 s", seconds(noticed.Sub(restarted)))
	_, live, err := s.UntilLive(ctx, time.Minute)
	if err != nil {
		return "", err
	}
	counts, err := s.PublicCounts(ctx)
	if err != nil {
		return "", err
	}
	all := append(slices.Clone(s.digests), s.signer.Digest("during"))
	return fmt.Sprintf("all is live after %s more, and each of the %d entries of the private log is in the public logs, once", seconds(live.Sub(noticed)), len(all)), outagestage.Once(counts, all)
}
