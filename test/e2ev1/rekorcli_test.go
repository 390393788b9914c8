package e2ev1

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// rekorCLI runs rekor-cli and returns its JSON without the signatures made for this answer.
func (u *user) rekorCLI(args ...string) (string, error) {
	out, err := u.command("rekor-cli", nil, append([]string{"--rekor_server=" + u.url, "--format=json", "--retry=0"}, args...)...)
	if err != nil {
		return "", err
	}
	return u.unsigned(out)
}

// cli is a step of one rekor-cli command, which must print all of want.
func cli(name string, want []string, args ...string) step {
	return step{name: "rekor-cli/" + name, run: func(u *user) (string, error) {
		out, err := u.rekorCLI(args...)
		for _, w := range want {
			if err == nil && !strings.Contains(out, w) {
				err = fmt.Errorf("no %s in: %s", w, out)
			}
		}
		return out, err
	}}
}

// search is a step of rekor-cli search, whose answer has no order; it must find the samples.
func search(name string, found []sample, args ...string) step {
	s := cli(name, nil, append([]string{"search"}, args...)...)
	run := s.run
	s.run = func(u *user) (string, error) {
		out, err := run(u)
		if err != nil {
			return "", err
		}
		var answer struct{ UUIDs []string }
		if err := json.Unmarshal([]byte(out), &answer); err != nil {
			return "", err
		}
		slices.Sort(answer.UUIDs)
		for _, f := range found {
			if !slices.Contains(answer.UUIDs, f.UUID) {
				return "", fmt.Errorf("%s is not among %s", f.name, answer.UUIDs)
			}
		}
		return strings.Join(answer.UUIDs, "\n"), nil
	}
	return s
}

// without returns the step of a search with a result that leaves samples out.
func without(s step, names ...string) step {
	run := s.run
	s.run = func(u *user) (string, error) {
		out, err := run(u)
		uuids := strings.Split(out, "\n")
		for _, name := range names {
			uuids = slices.DeleteFunc(uuids, func(uuid string) bool { return uuid == u.byName(name).UUID })
		}
		return strings.Join(uuids, "\n"), err
	}
	return s
}

// logInfo is asked for twice: the first time, before the last writes, it is remembered.
var logInfo = cli("loginfo", nil, "loginfo")

// rekorCLISteps is what a user does with rekor-cli.
func (w *world) rekorCLISteps() []step {
	var steps []step
	last := w.sizeOf(len(w.log.Shards) - 1)
	frozen := w.log.Shards[0]
	steps = append(steps, logInfo,
		cli("logproof", nil, "logproof", "--first-size="+strconv.FormatUint(w.first, 10), "--last-size="+strconv.FormatUint(last, 10)),
		cli("logproof of the frozen shard", nil, "logproof", "--tree-id="+strconv.FormatUint(frozen.TreeID, 10),
			"--first-size="+strconv.FormatUint(w.sizeOf(0), 10), "--last-size="+strconv.FormatUint(w.sizeOf(0), 10)),
		unknown(cli("logproof beyond the log", nil, "logproof", "--first-size=1", "--last-size=1000000"), "greater than what is currently observable"),
	)
	for _, s := range w.samples {
		index := strconv.FormatUint(s.LogIndex, 10)
		uuid := []string{s.UUID}
		steps = append(steps,
			cli("get --log-index "+s.name, uuid, "get", "--log-index="+index),
			cli("get --uuid "+s.name, uuid, "get", "--uuid="+s.UUID),
			cli("get --uuid without tree ID "+s.name, uuid, "get", "--uuid="+s.UUID[16:]),
			cli("verify --uuid "+s.name, uuid, "verify", "--uuid="+s.UUID),
			cli("verify --log-index "+s.name, uuid, "verify", "--log-index="+index),
			cli("verify "+s.name, uuid, append([]string{"verify"}, s.artifactFlags()...)...),
		)
	}
	return append(append(steps, w.searches()...), w.rekorCLIMistakes()...)
}

// attested are samples with one statement.
func (w *world) attested() []sample {
	return []sample{w.byName("dsse in shard 1"), w.byName("dsse by e-mail in shard 1"), w.byName("intoto in shard 1")}
}

// bySubject searches by what stands in the statement, which is in no entry: that of an intoto
// entry is kept beside it, that of a dsse entry is in nothing that Rekor gives away. So a mirror
// finds a dsse entry only if it has seen Rekor do so.
func (w *world) bySubject() step {
	attested, by := w.attested(), fmt.Sprintf("--sha=%064x", 1)
	s := search("search --sha of a statement's subject", attested, by)
	all, kept := s.run, search("", attested[2:], by).run
	s.run = func(u *user) (string, error) {
		if u.mirror != nil && u.mirror.full {
			return kept(u)
		}
		return all(u)
	}
	return without(s, attested[0].name, attested[1].name)
}

func (w *world) searches() []step {
	mine := w.byName("hashedrekord in shard 1")
	byEmail := []sample{w.byName("hashedrekord by e-mail in shard 0"), w.byName("hashedrekord by e-mail in shard 1"), w.byName("dsse by e-mail in shard 1")}
	byURI := []sample{w.byName("hashedrekord by URI in shard 0"), w.byName("hashedrekord by URI in shard 1")}
	// Rekor does not find entries with an envelope by the key; a mirror may.
	byKey := search("search --public-key", []sample{w.byName("hashedrekord in shard 0"), mine, w.byName("rekord in shard 1")}, "--public-key="+mine.files.verifier, "--pki-format=x509")
	byKey = without(byKey, "dsse in shard 0", "intoto in shard 0", "dsse in shard 1", "intoto in shard 1")
	attested, digest := w.attested(), hexOf(mine.Artifact)
	return []step{
		search("search --sha", []sample{mine, w.byName("rekord in shard 1")}, "--sha="+digest),
		search("search --sha with prefix", []sample{mine}, "--sha=sha256:"+digest),
		search("search --artifact", []sample{mine}, "--artifact="+mine.files.artifact),
		search("search --email", byEmail, "--email="+email),
		search("search --subject", byURI, "--subject="+workflow),
		byKey,
		search("search --sha of a statement", attested, "--sha="+hexOf(attested[0].Artifact)),
		w.bySubject(),
		search("search --sha of an envelope", attested[:1], "--sha="+hexOf(attested[0].Envelope)),
		search("search --email and --sha", byEmail[1:2], "--email="+email, "--sha="+digest, "--operator=and"),
		search("search --email or --sha", append(byEmail, mine), "--email="+email, "--sha="+digest, "--operator=or"),
	}
}

func (w *world) rekorCLIMistakes() []step {
	beyond := strconv.FormatUint(w.end(), 10)
	mine, other, never := w.byName("hashedrekord in shard 1"), w.byName("hashedrekord in shard 0"), w.never()
	certified := w.byName("hashedrekord by e-mail in shard 1")
	nothing := strings.Repeat("ab", 32)
	lacks := func(name string, args ...string) step { return unknown(cli(name, nil, args...), "[404]") }
	lacksToVerify := func(name string, args ...string) step {
		return unknown(cli(name, nil, append([]string{"verify"}, args...)...), "entry in log cannot be located")
	}
	offered := func(digest string, f files, verifier string) []string {
		return []string{"--type=hashedrekord", "--pki-format=x509", "--artifact-hash=" + digest, "--signature=" + f.signature, "--public-key=" + verifier}
	}
	wrong := func(name, digest string, f files, verifier string) step {
		return fails(cli(name, nil, append([]string{"verify"}, offered(digest, f, verifier)...)...), "invalid signature")
	}
	return []step{
		lacks("get beyond the log", "get", "--log-index="+beyond),
		lacks("get far beyond the log", "get", "--log-index=1000000"),
		lacks("get unknown UUID", "get", "--uuid="+nothing),
		lacks("get unknown UUID of the active shard", "get", "--uuid="+mine.UUID[:16]+nothing),
		lacks("get UUID of another shard", "get", "--uuid="+other.UUID[:16]+mine.UUID[16:]),
		lacksToVerify("verify beyond the log", "--log-index="+beyond),
		lacksToVerify("verify unknown UUID", "--uuid="+nothing),
		lacksToVerify("verify what was never logged", offered(hexOf(neverLogged), never, mine.files.verifier)...),
		wrong("verify wrong artifact", hexOf([]byte("wrong")), mine.files, mine.files.verifier),
		wrong("verify wrong signature", hexOf(mine.Artifact), other.files, mine.files.verifier),
		wrong("verify wrong key", hexOf(mine.Artifact), mine.files, certified.files.verifier),
		fails(cli("search unknown digest", nil, "search", "--sha="+nothing), nothingFound),
		fails(cli("search unknown e-mail", nil, "search", "--email=nobody@understudy.test"), nothingFound),
	}
}

// artifactFlags are those with which rekor-cli makes the sample's entry again.
func (s sample) artifactFlags() []string {
	kind, _, _ := strings.Cut(s.name, " ")
	flags := []string{"--type=" + kind, "--pki-format=x509", "--public-key=" + s.files.verifier}
	switch kind {
	case "hashedrekord":
		return append(flags, "--artifact-hash="+hexOf(s.Artifact), "--signature="+s.files.signature)
	case "rekord":
		return append(flags, "--artifact="+s.files.artifact, "--signature="+s.files.signature)
	case "intoto":
		flags[0] += ":0.0.2" // without a version rekor-cli sends what rekor-server refuses
	}
	return append(flags, "--artifact="+s.files.envelope)
}

func hexOf(artifact []byte) string {
	digest := sha256.Sum256(artifact)
	return hex.EncodeToString(digest[:])
}
