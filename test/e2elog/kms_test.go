package e2elog

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
)

// keyService is a key management service (test/kms) with the keys of one log, and an understudy
// that can use it.
type keyService struct {
	binary string
	shelf  string // the folder of its keys
}

func newKeyService(t *testing.T) *keyService {
	t.Helper()
	dir := t.TempDir()
	k := &keyService{binary: filepath.Join(dir, "understudy"), shelf: t.TempDir()}
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "shelf"), "github.com/understudy-log/understudy/test/kms").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// Tests run at the same time, and an environment is of all of them.
	built := filepath.Join(filepath.Dir(understudy()), "understudy-kms") // with -tags kms, by make
	for file, script := range map[string]string{
		k.binary: fmt.Sprintf("PATH='%s':$PATH SHELF='%s' exec '%s' \"$@\"\n", dir, k.shelf, built),
		// Not exec: who kills the plugin leaves the program that hangs.
		filepath.Join(dir, "sigstore-kms-shelf"): fmt.Sprintf("'%s/shelf' \"$@\"\n", dir),
	} {
		if err := os.WriteFile(file, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return k
}

// away takes the service away; it fails for a reason, or hangs.
func (k *keyService) away(t *testing.T, why string) {
	t.Helper()
	save(t, filepath.Join(k.shelf, "away"), []byte(why))
}

func (k *keyService) back(t *testing.T) {
	t.Helper()
	if err := os.Remove(filepath.Join(k.shelf, "away")); err != nil {
		t.Fatal(err)
	}
}

// swap makes the service have another key under a name, and returns what brings the old one back.
func (k *keyService) swap(t *testing.T, name string) (undo func()) {
	t.Helper()
	file := filepath.Join(k.shelf, name)
	old := must(os.ReadFile(file))
	if err := os.Remove(file); err != nil { // it makes one when it is asked
		t.Fatal(err)
	}
	return func() { save(t, file, old) }
}

// posted is a proposal to one generation, and where it goes.
type posted struct {
	at   string
	body proposal
}

// proposals are a new one to each generation.
func (s *stage) proposals(t *testing.T) map[string]posted {
	return map[string]posted{
		"v1": {direct(s.v1) + "/api/v1/log/entries", newKilledV1(t, s).propose()},
		"v2": {direct(s.v2) + "/api/v2/log/entries", new(killedV2).propose()},
	}
}

func (p posted) send(ctx context.Context) (*http.Response, string, error) {
	answer, body, err := post(ctx, http.DefaultClient, p.at, p.body)
	return answer, string(body), err
}

// refused checks that a proposal is refused because the log cannot, for a reason. When it can again nobody
// knows.
func (p posted) refused(t *testing.T, what, reason string) {
	t.Helper()
	answer, body, err := p.send(within(t, 30*time.Second))
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if answer.StatusCode != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") != "" || !strings.Contains(body, reason) {
		t.Errorf("%s: %s, Retry-After %q, want 503 with %s alone: %s", what, answer.Status, answer.Header.Get("Retry-After"), reason, body)
	}
}

// logged waits until a proposal is logged.
func (p posted) logged(t *testing.T, what string) {
	t.Helper()
	if err := process.Until(within(t, 30*time.Second), func(ctx context.Context) error {
		answer, body, err := p.send(ctx)
		if err == nil && answer.StatusCode != http.StatusCreated {
			err = fmt.Errorf("%s: %s", answer.Status, body)
		}
		return err
	}); err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// says waits until "understudy status" says something.
func (d *daemon) says(what string) {
	d.Helper()
	if err := process.Until(within(d.T, 20*time.Second), func(context.Context) error {
		// It is 1 when something is wrong, which may be what is waited for.
		if out, _ := d.try("status", "--config", d.config); !strings.Contains(out, what) {
			return fmt.Errorf("it does not say %q:\n%s", what, out)
		}
		return nil
	}); err != nil {
		d.Fatalf("status: %v", err)
	}
}

// saysNot checks that it does not.
func (d *daemon) saysNot(what string) {
	d.Helper()
	if out, _ := d.try("status", "--config", d.config); strings.Contains(out, what) {
		d.Errorf("status says %q:\n%s", what, out)
	}
}

// sizes returns how many entries each generation has published.
func (s *stage) sizes(t *testing.T) (v1, v2 uint64) {
	t.Helper()
	var info struct{ TreeSize uint64 }
	get := func(at string) []byte {
		answer, err := http.Get(at)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		var body bytes.Buffer
		if _, err := body.ReadFrom(answer.Body); err != nil || answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s, %v: %s", at, answer.Status, err, body.String())
		}
		return body.Bytes()
	}
	if err := json.Unmarshal(get(direct(s.v1)+"/api/v1/log"), &info); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(strings.Split(string(get(direct(s.v2)+"/api/v2/checkpoint")), "\n")[1], "%d", &v2); err != nil {
		t.Fatal(err)
	}
	return info.TreeSize, v2
}

// TestKeyService: the keys of both generations are in a key management service. When it cannot be reached,
// hangs, or has another key, entries are refused with the reason and nothing is logged, what is there is
// read on, and once it is well again so is the log, with no restart. A log is not run with another key.
func TestKeyService(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	service := newKeyService(t)
	d := newUnderstudy(t, settings{kms: service})
	s := d.stage()
	u := newUser(t)
	u.keys()
	trusted := map[int]material{}
	verified := func() {
		t.Helper()
		for version := 1; version <= 2; version++ {
			if err := u.verify(trusted[version].trustedRoot, fmt.Sprint("bundle", version), "artifact", signers[0].verify); err != nil {
				t.Errorf("v%d: %v", version, err)
			}
		}
	}
	for version := 1; version <= 2; version++ {
		trusted[version] = public(t, false).export(t, "fallback", s, version)
		if err := u.sign(trusted[version], fmt.Sprint("bundle", version), signers[0]); err != nil {
			t.Fatalf("v%d: %v", version, err)
		}
		u.loggedIn(fmt.Sprint("bundle", version), s.log(t, version).ID)
	}
	verified()

	for _, away := range []struct {
		name string
		take func() (back func())
		says string
	}{
		{"it fails", func() func() {
			service.away(t, "the service is closed")
			return func() { service.back(t) }
		}, "the service is closed"},
		{"it hangs", func() func() {
			service.away(t, "hang")
			return func() { service.back(t) }
		}, "gave no answer within 8s"},
		{"it has other keys", func() func() {
			v1, v2 := service.swap(t, "v1"), service.swap(t, "v2-ed25519")
			return func() { v1(); v2() }
		}, "the log cannot sign"},
	} {
		v1, v2 := s.sizes(t)
		back := away.take()
		proposed := s.proposals(t)
		var asking sync.WaitGroup
		for name, p := range proposed {
			asking.Go(func() { p.refused(t, away.name+", "+name, "CANNOT_SIGN") })
		}
		asking.Wait()
		d.says(away.says)
		if away.name == "it fails" {
			for version := 1; version <= 2; version++ {
				u.fails("cosign, "+away.name, u.sign(trusted[version], "none", signers[0]), "CANNOT_SIGN")
			}
		}
		if err := u.rekorCLI(s.v1, nil, "get", "--log-index=0"); err != nil {
			t.Errorf("%s: %v", away.name, err)
		}
		if now1, now2 := s.sizes(t); now1 != v1 || now2 != v2 {
			t.Errorf("%s: %d and %d entries, there were %d and %d", away.name, now1, now2, v1, v2)
		}
		verified()
		back()
		for name, p := range proposed {
			p.logged(t, "after "+away.name+", "+name)
		}
		if now1, now2 := s.sizes(t); now1 != v1+1 || now2 != v2+1 {
			t.Errorf("after %s: %d and %d entries, there were %d and %d", away.name, now1, now2, v1, v2)
		}
	}
	d.saysNot("problem ")

	// Who waits when the log is stopped gets an answer.
	service.away(t, "slow")
	answered := make(chan error, 2)
	for name, p := range s.proposals(t) {
		go func() {
			answer, body, err := p.send(within(t, 20*time.Second))
			if err == nil && answer.StatusCode != http.StatusCreated {
				err = fmt.Errorf("%s: %s: %s", name, answer.Status, body)
			}
			answered <- err
		}()
	}
	time.Sleep(300 * time.Millisecond) // the first signature takes longer
	if code, _, err := d.process.Terminate(20 * time.Second); err != nil || code != 0 {
		t.Errorf("stopped with code %d: %v", code, err)
	}
	for range 2 {
		if err := <-answered; err != nil {
			t.Errorf("who waited while it stopped: %v", err)
		}
	}
	service.back(t)

	for _, name := range []string{"v1", "v2-ed25519"} {
		d.kill()
		back := service.swap(t, name)
		_, err := d.try("serve", "--config", d.config)
		u.fails("serve with another key "+name, err, "is not signed by the keys of the configuration")
		back()
		if err := d.start(); err != nil {
			t.Fatal(err)
		}
	}
	for name, p := range s.proposals(t) {
		p.logged(t, "after all, "+name)
	}
	d.kill()
	d.command("check")
}
