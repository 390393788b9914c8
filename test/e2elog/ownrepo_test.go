package e2elog

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/process"
)

// TestOwnRepository: the private log is signed into a TUF repository of our own; cosign, initialised there,
// signs and verifies with no flag that names a log, a key of one, or an authority. When it is signed
// anew with the v1 log alone, signers that know nothing of it log there, and what was signed before is
// verified on.
func TestOwnRepository(t *testing.T) {
	t.Parallel()
	understudyOnly(t)
	m := public(t, true)
	d := newUnderstudy(t, settings{})
	s := d.stage()
	save(t, filepath.Join(d.dir, "root.passphrase"), []byte("another horse\n"))
	passphrase := []string{"--passphrase-file", "root.passphrase"}
	d.command(append([]string{"trust", "init", "trust"}, passphrase...)...)
	// publish exports and signs, with more said of the export.
	publish := func(more ...string) {
		t.Helper()
		d.command(append([]string{"trust", "export", "exported", "--logs", "fallback", "--trusted-root", m.trustedRoot, "--signing-config", m.signingConfig}, more...)...)
		d.command(append([]string{"trust", "sign", "trust", "--material", "exported"}, passphrase...)...)
	}
	publish()
	save(t, d.config, fmt.Appendf(must(os.ReadFile(d.config)), "trust: {repository: trust/repository, snapshot_key: trust/keys/snapshot.pem, timestamp_key: trust/keys/timestamp.pem, passphrase_file: trust/keys/online.passphrase}\n"))
	d.kill()
	if err := d.start(); err != nil {
		t.Fatal(err)
	}
	at := "http://" + d.http + "/trust"
	serves := func(version int) {
		t.Helper()
		if err := process.Until(within(t, 20*time.Second), func(ctx context.Context) error {
			for _, file := range []string{"timestamp.json", fmt.Sprintf("%d.targets.json", version)} {
				request, err := http.NewRequestWithContext(ctx, http.MethodGet, at+"/"+file, nil)
				if err != nil {
					return err
				}
				answer, err := http.DefaultClient.Do(request)
				if err != nil {
					return err
				}
				answer.Body.Close()
				if answer.StatusCode != http.StatusOK {
					return fmt.Errorf("%s: %s", file, answer.Status)
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(d.dir, "trust", "repository", "1.root.json")
	users := map[string]*user{}
	sign := func(name string, who signer, version int) {
		t.Helper()
		u := newUser(t)
		who.prepare(u)
		u.stranger()
		u.must("cosign", "initialize", "--mirror="+at, "--root="+root)
		u.must("cosign", append([]string{"sign-blob", "--yes", "--bundle=bundle", "artifact"}, who.sign...)...)
		u.loggedIn("bundle", s.log(t, version).ID)
		users[name] = u
	}
	verify := func(name string, who signer) {
		t.Helper()
		u := users[name]
		run := func(artifact string) error {
			_, err := u.run("cosign", append([]string{"verify-blob", "--bundle=bundle", artifact}, who.verify...)...)
			return err
		}
		if err := run("artifact"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		u.fails(name+", tampered", run("tampered"), "")
	}
	serves(1)
	for _, who := range signers {
		sign("both, "+who.name, who, 2)
		verify("both, "+who.name, who)
	}
	publish("--api-version", "1")
	serves(2)
	for _, who := range signers {
		sign("v1, "+who.name, who, 1)
		verify("v1, "+who.name, who)
		verify("both, "+who.name, who)
	}
}
