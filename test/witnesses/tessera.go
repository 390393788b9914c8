package witnesses

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"
	"golang.org/x/mod/sumdb/note"

	"github.com/understudy-log/understudy/test/tools/tool"
)

// Tessera is a log of transparency-dev's Tessera in a folder, which has its checkpoints
// cosigned by witnesses before it publishes them.
type Tessera struct {
	*Log        // for its origin and keys only
	Dir  string // what it publishes

	scratch string
	entries int
}

// NewTessera makes an empty log below an existing folder.
func NewTessera(dir, origin string) *Tessera {
	return &Tessera{Log: NewLog(origin, origin), Dir: filepath.Join(dir, "log"), scratch: dir}
}

// Policy is one that wants a cosignature of every witness, given as its verifier key and its
// submission prefix.
func Policy(witnesses ...[2]string) string {
	text, names := "", ""
	for i, w := range witnesses {
		text += fmt.Sprintf("witness w%d %s %s\n", i, w[0], w[1])
		names += fmt.Sprintf(" w%d", i)
	}
	return text + "group all-of-them all" + names + "\nquorum all-of-them\n"
}

// Oneshot adds entries with Tessera's program posix-oneshot. Without a policy there are no
// witnesses.
func (l *Tessera) Oneshot(ctx context.Context, n int, policy string) error {
	binary, err := tool.Path(ctx, "tessera-oneshot")
	if err != nil {
		return err
	}
	batch := filepath.Join(l.scratch, fmt.Sprintf("entries-%d", l.entries))
	if err := os.Mkdir(batch, 0o700); err != nil {
		return err
	}
	for i := range n {
		if err := os.WriteFile(filepath.Join(batch, fmt.Sprint(i)), fmt.Appendf(nil, "entry %d", l.entries+i), 0o600); err != nil {
			return err
		}
	}
	l.entries += n
	policyFile, keyFile := filepath.Join(batch, "policy"), filepath.Join(batch, "key")
	args := []string{"--storage_dir", l.Dir, "--entries", filepath.Join(batch, "[0-9]*"), "--private_key", keyFile}
	if policy != "" {
		args = append(args, "--witness_policy_file", policyFile, "--witness_timeout", "10s")
	}
	for file, content := range map[string]string{policyFile: policy, keyFile: l.SKey} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second) // it waits for a checkpoint for ever
	defer cancel()
	if out, err := exec.CommandContext(ctx, binary, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("posix-oneshot: %w\n%s", err, out)
	}
	return nil
}

// Append adds entries with Tessera as a library, whose witness client knows more kinds of keys
// in our build than in the program's.
func (l *Tessera) Append(ctx context.Context, n int, vkey, submissionPrefix string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	prefix, err := url.Parse(submissionPrefix)
	if err != nil {
		return err
	}
	witness, err := tessera.NewWitness(vkey, prefix)
	if err != nil {
		return err
	}
	signer, err := note.NewSigner(l.SKey)
	if err != nil {
		return err
	}
	driver, err := posix.New(ctx, posix.Config{Path: l.Dir})
	if err != nil {
		return err
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).
		WithBatching(uint(n), 100*time.Millisecond).
		WithCheckpointInterval(100*time.Millisecond).
		WithWitnesses(tessera.NewWitnessGroup(1, witness), &tessera.WitnessOptions{Timeout: 10 * time.Second}))
	if err != nil {
		return err
	}
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, 50*time.Millisecond)
	futures := make([]tessera.IndexFuture, n)
	for i := range futures {
		futures[i] = appender.Add(ctx, tessera.NewEntry(fmt.Appendf(nil, "entry %d", l.entries)))
		l.entries++
	}
	for _, future := range futures {
		if _, _, err := await.Await(ctx, future); err != nil {
			return fmt.Errorf("entry of Tessera: %w", err)
		}
	}
	return shutdown(ctx)
}

// Published returns the checkpoint that the log has published last.
func (l *Tessera) Published() (string, error) {
	checkpoint, err := os.ReadFile(l.checkpointFile())
	return string(checkpoint), err
}

// Forget has the log not know what its witnesses know, as before its first checkpoint.
func (l *Tessera) Forget() error { return os.Remove(l.checkpointFile()) }

func (l *Tessera) checkpointFile() string { return filepath.Join(l.Dir, "checkpoint") }
