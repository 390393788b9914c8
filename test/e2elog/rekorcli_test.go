package e2elog

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/rekorv1"
)

// rekorCLI runs rekor-cli against a v1 log and decodes what it prints.
func (u *user) rekorCLI(at string, answer any, args ...string) error {
	out, err := u.run("rekor-cli", append([]string{"--rekor_server=" + at, "--format=json", "--retry=0"}, args...)...)
	if err != nil || answer == nil {
		return err
	}
	if err := json.Unmarshal([]byte(out), answer); err != nil {
		return fmt.Errorf("rekor-cli %v: %w\n%s", args, err, out)
	}
	return nil
}

// uploaded is an entry that rekor-cli has uploaded.
type uploaded struct {
	name, uuid string
	index      int64
	flags      []string // that make the entry again
	signed     rekorv1.Signed
}

// upload has rekor-cli upload what was signed, twice.
func (u *user) upload(at, name, kind string, signed rekorv1.Signed) uploaded {
	u.Helper()
	file := func(part string, content []byte) string {
		return u.write(strings.ReplaceAll(name, " ", "-")+"."+part, content)
	}
	e := uploaded{name: name, signed: signed, flags: []string{"--type=" + kind, "--pki-format=x509", "--public-key=" + file("pem", signed.Signer.Verifier)}}
	if signed.Envelope != nil {
		e.flags = append(e.flags, "--artifact="+file("envelope", signed.Envelope))
	} else {
		e.flags = append(e.flags, "--artifact="+file("artifact", signed.Artifact), "--signature="+file("signature", signed.Signature))
	}
	var first, second struct {
		Location      string
		Index         int64
		AlreadyExists bool
	}
	if err := u.rekorCLI(at, &first, append([]string{"upload"}, e.flags...)...); err != nil {
		u.Fatalf("%s: %v", name, err)
	}
	e.uuid, e.index = first.Location[strings.LastIndex(first.Location, "/")+1:], first.Index
	if len(e.uuid) != 80 || first.AlreadyExists {
		u.Errorf("%s: first upload: %+v", name, first)
	}
	if err := u.rekorCLI(at, &second, append([]string{"upload"}, e.flags...)...); err != nil {
		u.Fatalf("%s again: %v", name, err)
	}
	if !second.AlreadyExists || !strings.HasSuffix(second.Location, "/"+e.uuid) {
		u.Errorf("%s again: %+v, want that it exists at %s", name, second, first.Location)
	}
	return e
}

// TestRekorCLI: rekor-cli uploads entries of each type, has each verified, and finds them by all that is
// in them.
func TestRekorCLI(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	u := newUser(t)
	plain, person := must(rekorv1.NewSigner()), must(rekorv1.NewCertified(ca.Authority, email))
	artifact := []byte("an artifact of rekor-cli at " + time.Now().String())
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v0.1","predicateType":%q,"subject":[{"name":"artifact","digest":{"sha256":"%x"}}],"predicate":{}}`, predicateType, sha256.Sum256(artifact))
	var info logInfo
	if err := u.rekorCLI(s.v1, &info, "loginfo"); err != nil {
		t.Fatal(err)
	}
	before := info.ActiveTreeSize
	var entries []uploaded
	for _, e := range []struct {
		name, kind string
		sign       func([]byte) (rekorv1.Signed, error)
		what       []byte
	}{
		{"hashedrekord", "hashedrekord", plain.HashedRekord, artifact},
		{"hashedrekord by e-mail", "hashedrekord", person.HashedRekord, artifact},
		{"rekord", "rekord", plain.Rekord, artifact},
		{"dsse", "dsse", plain.DSSE, statement},
		{"dsse by e-mail", "dsse", person.DSSE, statement},
		{"intoto", "intoto:0.0.2", plain.InToto, statement}, // without a version it sends what rekor-server refuses
	} {
		entries = append(entries, u.upload(s.v1, e.name, e.kind, must(e.sign(e.what))))
	}
	for _, e := range entries {
		index := strconv.FormatInt(e.index, 10)
		for _, by := range [][]string{
			{"get", "--log-index=" + index}, {"get", "--uuid=" + e.uuid}, {"get", "--uuid=" + e.uuid[16:]},
			{"verify", "--log-index=" + index}, {"verify", "--uuid=" + e.uuid}, append([]string{"verify"}, e.flags...),
		} {
			var got struct {
				UUID, EntryUUID string
				LogIndex, Index int64
			}
			err := u.rekorCLI(s.v1, &got, by...)
			if err != nil || got.UUID+got.EntryUUID != e.uuid || got.LogIndex+got.Index != e.index {
				t.Errorf("%s, %v: %+v, want entry %d, %s: %v", e.name, by, got, e.index, e.uuid, err)
			}
		}
	}
	// Statements are found by their subject, too.
	all := []string{"hashedrekord", "hashedrekord by e-mail", "rekord", "dsse", "dsse by e-mail", "intoto"}
	u.search(s.v1, entries, "--sha="+hexOf(artifact), all...)
	u.search(s.v1, entries, "--artifact="+u.write("searched", artifact), all...)
	u.search(s.v1, entries, "--sha="+hexOf(statement), "dsse", "dsse by e-mail", "intoto")
	u.search(s.v1, entries, "--sha="+hexOf(entries[3].signed.Envelope), "dsse")
	u.search(s.v1, entries, "--email="+email, "hashedrekord by e-mail", "dsse by e-mail")
	u.search(s.v1, entries, "--public-key="+u.write("searched.pem", plain.Verifier), "hashedrekord", "rekord")

	if err := u.rekorCLI(s.v1, &info, "loginfo"); err != nil { // with the state of the first
		t.Error(err)
	} else if grown := info.ActiveTreeSize - before; asked != realServers && grown != int64(len(entries)) || grown < int64(len(entries)) {
		t.Errorf("the log has grown by %d, want %d", grown, len(entries))
	}
	if err := u.rekorCLI(s.v1, nil, "logproof", fmt.Sprintf("--first-size=%d", before+1), fmt.Sprintf("--last-size=%d", before+4)); err != nil {
		t.Error(err)
	}
	u.mistakes(s, entries)
}

// logInfo is what rekor-cli loginfo prints.
type logInfo struct{ ActiveTreeSize int64 }

// search has rekor-cli search; it must find those of the entries that are named, and no other of them.
func (u *user) search(at string, entries []uploaded, by string, want ...string) {
	u.Helper()
	args := []string{"search", by}
	if strings.HasPrefix(by, "--public-key") {
		args = append(args, "--pki-format=x509")
	}
	var found struct{ UUIDs []string }
	if err := u.rekorCLI(at, &found, args...); err != nil {
		u.Errorf("search %s: %v", by, err)
		return
	}
	for _, e := range entries {
		has, wanted := slices.Contains(found.UUIDs, e.uuid), slices.Contains(want, e.name)
		// rekor-server finds no envelope by its key; a log may.
		may := strings.HasPrefix(by, "--public-key") && e.signed.Envelope != nil && slices.Equal(e.signed.Signer.Verifier, entries[0].signed.Signer.Verifier)
		if has != wanted && !(has && may) {
			u.Errorf("search %s: found %s: %t, want %t", by, e.name, has, wanted)
		}
	}
}

// mistakes: what is wrong is refused, with a reason.
func (u *user) mistakes(s *stage, entries []uploaded) {
	u.Helper()
	mine, other := entries[0], entries[1]
	upload := func(args ...string) error {
		return u.rekorCLI(s.v1, nil, append([]string{"upload", "--type=hashedrekord", "--pki-format=x509"}, args...)...)
	}
	u.write("mine.signature", mine.signed.Signature)
	u.write("mine.pem", mine.signed.Signer.Verifier)
	u.write("other.pem", other.signed.Signer.Verifier)
	u.fails("another digest", upload("--artifact-hash="+strings.Repeat("ab", 32), "--signature=mine.signature", "--public-key=mine.pem"), "invalid signature")
	u.fails("another key", upload("--artifact-hash="+hexOf(mine.signed.Artifact), "--signature=mine.signature", "--public-key=other.pem"), "invalid signature")
	u.fails("beyond the log", u.rekorCLI(s.v1, nil, "get", "--log-index=1000000"), "[404]")
	u.fails("unknown", u.rekorCLI(s.v1, nil, "get", "--uuid="+strings.Repeat("ab", 32)), "[404]")
	u.fails("unknown digest", u.rekorCLI(s.v1, nil, "search", "--sha="+strings.Repeat("ab", 32)), "no matching entries found")
	u.fails("proof beyond the log", u.rekorCLI(s.v1, nil, "logproof", "--first-size=1", "--last-size=1000000"), "greater than what is currently observable")
}

func hexOf(content []byte) string {
	digest := sha256.Sum256(content)
	return hex.EncodeToString(digest[:])
}
