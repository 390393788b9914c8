package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	understudyv1 "github.com/understudy-log/understudy/proto/understudy/v1"
	"github.com/understudy-log/understudy/test/daemon"
	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/tools/tool"
	"github.com/understudy-log/understudy/test/verifier"
)

const (
	origin = "log.demo.test"
	sample = 200 // entries that are proven one by one

	windowSize = 1000 // entries of the second mirror's window
)

// stage is where the demo plays; each method is one step and returns what it showed.
type stage struct {
	out    io.Writer
	dir    string
	wanted int // entries

	rekorTiles, tesseraFsck, understudy string // programs

	log     *rekor.Log
	daemon  *daemon.Daemon
	second  *daemon.Daemon // with a window
	entries []rekor.Entry
}

// clear ends every process that is left.
func (s *stage) clear() {
	for _, d := range []*daemon.Daemon{s.daemon, s.second} {
		if d != nil {
			d.Kill()
		}
	}
	if s.log != nil {
		s.log.Close()
	}
}

func (s *stage) build(ctx context.Context) (result string, err error) {
	if s.rekorTiles, err = tool.Path(ctx, "rekor-tiles"); err != nil {
		return "", err
	}
	if s.tesseraFsck, err = tool.Path(ctx, "tessera-fsck"); err != nil {
		return "", err
	}
	s.understudy, err = tool.Understudy(ctx)
	return "the peers from the module proxy, understudy from this checkout", err
}

func (s *stage) startLog(ctx context.Context) (string, error) {
	dir, err := s.folder("rekor")
	if err != nil {
		return "", err
	}
	s.log, err = rekor.Start(ctx, rekor.Config{Binary: s.rekorTiles, Dir: dir, Origin: origin})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("rekor-tiles on loopback signs for %s", origin), nil
}

func (s *stage) write(ctx context.Context) (result string, err error) {
	var wrote atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.entries, err = s.log.Write(ctx, s.wanted, func(total int) { wrote.Store(int64(total)) })
	}()
	for tick := time.NewTicker(2 * time.Second); ; {
		select {
		case <-tick.C:
			s.bar(uint64(wrote.Load()), uint64(s.wanted), "written")
		case <-done:
			tick.Stop()
			return fmt.Sprintf("%d hashedrekord entries through its API, each with its own certificate", len(s.entries)), err
		}
	}
}

// mirror starts understudy beside the full log, on a small request budget, so that its
// progress can be watched.
func (s *stage) mirror(ctx context.Context) (string, error) {
	dir, err := s.folder("understudy")
	if err != nil {
		return "", err
	}
	s.daemon, err = daemon.New(daemon.Config{
		Binary: s.understudy, Dir: dir,
		URL: s.log.ReadURL, Origin: origin, TrustedRoot: s.log.TrustedRootFile,
		Poll: time.Second, RequestsPerSecond: 10,
	})
	if err != nil {
		return "", err
	}
	if err := s.daemon.Start(ctx); err != nil {
		return "", err
	}
	var shown string
	err = s.daemon.Until(ctx, "fully mirrored", func(log *understudyv1.Log) bool {
		if state := fmt.Sprint(log.GetNextIndex(), log.GetTreeSize()); log.GetTreeSize() > 0 && state != shown {
			shown = state
			s.bar(log.GetNextIndex(), log.GetTreeSize(), "verified and held")
		}
		return log.GetMirrorSize() == uint64(s.wanted) && log.GetFreshness().GetSource() == "live"
	})
	if err != nil {
		return "", err
	}
	report, err := s.daemon.Command(ctx, "status")
	if err != nil {
		return "", err
	}
	fmt.Fprint(s.out, indent("$ understudy status\n"+report))
	return fmt.Sprintf("all %d entries are verified and held; answers are live", s.wanted), nil
}

// window starts a second understudy at the end of the log.
func (s *stage) window(ctx context.Context) (string, error) {
	dir, err := s.folder("second")
	if err != nil {
		return "", err
	}
	s.second, err = daemon.New(daemon.Config{
		Binary: s.understudy, Dir: dir,
		URL: s.log.ReadURL, Origin: origin, TrustedRoot: s.log.TrustedRootFile,
		Poll: time.Second, RequestsPerSecond: 10,
		Coverage: fmt.Sprintf("coverage: window, window: %d, history: none", windowSize),
	})
	if err != nil {
		return "", err
	}
	if err := s.second.Start(ctx); err != nil {
		return "", err
	}
	var minimum uint64
	if err := s.second.Until(ctx, "at the end of the log", func(log *understudyv1.Log) bool {
		minimum = log.GetMinimumIndex()
		return log.GetMirrorSize() == uint64(s.wanted)
	}); err != nil {
		return "", err
	}
	sigstore, err := s.sigstore()
	if err != nil {
		return "", err
	}
	proven := 0
	for _, entry := range s.sample() {
		proof, err := s.second.Proof(ctx, entry.Index())
		if entry.Index() < minimum {
			if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "below the minimum index") {
				return "", fmt.Errorf("entry %d lies below the minimum index, and asking for it gave %v", entry.Index(), err)
			}
			continue
		}
		if err != nil {
			return "", err
		}
		if err := sigstore.Verify(entry.Bundle, entry.Artifact, proof); err != nil {
			return "", err
		}
		proven++
	}
	return fmt.Sprintf("a window from entry %d on; %d of its entries are proven with sigstore-go, the others are unavailable, with the reason", minimum, proven), nil
}

// complete lets a disk damage the second understudy, which then puts it back, and fetches the
// rest, from the first, while the log is dead.
func (s *stage) complete(ctx context.Context) (string, error) {
	if code, _, err := s.second.Terminate(); err != nil || code != 0 {
		return "", fmt.Errorf("exit code %d, %w", code, err)
	}
	if err := s.damage(ctx); err != nil {
		return "", err
	}
	if err := s.second.Cover(fmt.Sprintf("coverage: window, window: %d, history: full, sources: [{url: %q}]", windowSize, s.daemon.Prefix())); err != nil {
		return "", err
	}
	if err := s.second.Start(ctx); err != nil {
		return "", err
	}
	if err := s.second.Until(ctx, "complete", func(log *understudyv1.Log) bool {
		return log.GetMinimumIndex() == 0 && log.GetMirrorSize() == uint64(s.wanted) && log.GetCoverage() == "full"
	}); err != nil {
		return "", err
	}
	sigstore, err := s.sigstore()
	if err != nil {
		return "", err
	}
	for _, entry := range s.sample() {
		proof, err := s.second.Proof(ctx, entry.Index())
		for tries := 0; status.Code(err) == codes.DataLoss && tries < 100; tries++ { // it is being put back
			time.Sleep(200 * time.Millisecond)
			proof, err = s.second.Proof(ctx, entry.Index())
		}
		if err != nil {
			return "", err
		}
		if err := sigstore.Verify(entry.Bundle, entry.Artifact, proof); err != nil {
			return "", err
		}
	}
	if code, _, err := s.second.Terminate(); err != nil || code != 0 {
		return "", fmt.Errorf("exit code %d, %w", code, err)
	}
	report, err := s.second.Command(ctx, "check")
	fmt.Fprint(s.out, indent("$ understudy check\n"+report))
	return "the second mirror has put back what its disk had damaged, and has all entries, from the first one, and all is sound", err
}

// damage flips a bit in the largest file of the second understudy's database.
func (s *stage) damage(ctx context.Context) error {
	dir, err := s.folder("backup")
	if err != nil {
		return err
	}
	if _, err := s.second.Command(ctx, "backup", filepath.Join(dir, "db")); err != nil { // it also ends the write-ahead log
		return err
	}
	names, err := filepath.Glob(filepath.Join(filepath.Dir(s.second.ConfigFile), "data", "db", "*.sst"))
	if err != nil {
		return err
	}
	var largest []byte
	name := ""
	for _, candidate := range names {
		data, err := os.ReadFile(candidate)
		if err != nil {
			return err
		}
		if len(data) > len(largest) {
			name, largest = candidate, data
		}
	}
	if name == "" {
		return errors.New("the second mirror has no file to damage")
	}
	largest[len(largest)/2] ^= 1
	if err := os.WriteFile(name, largest, 0o600); err != nil {
		return err
	}
	report, err := s.second.Command(ctx, "check")
	if err == nil {
		return fmt.Errorf("a bit was flipped in %s, and check finds nothing:\n%s", name, report)
	}
	for line := range strings.Lines(report) {
		if strings.Contains(line, "entries") {
			fmt.Fprint(s.out, indent("$ understudy check\n"+line))
			break
		}
	}
	return nil
}

func (s *stage) killLog(ctx context.Context) (string, error) {
	s.log.Kill()
	response, err := http.Get(s.log.ReadURL + "/checkpoint")
	if err == nil {
		response.Body.Close()
		return "", errors.New("the log still answers")
	}
	err = s.daemon.Until(ctx, "aware of it", func(log *understudyv1.Log) bool {
		return log.GetFreshness().GetSource() == "mirrored" && log.GetFreshness().GetUpstreamState() == "unreachable"
	})
	return "SIGKILL; answers are mirrored, upstream_state is unreachable", err
}

func (s *stage) proveWithSigstore(ctx context.Context) (string, error) {
	sigstore, err := s.sigstore()
	if err != nil {
		return "", err
	}
	proven := 0
	for _, entry := range s.sample() {
		proof, err := s.daemon.Proof(ctx, entry.Index())
		if err != nil {
			return "", err
		}
		if err := sigstore.Verify(entry.Bundle, entry.Artifact, proof); err != nil {
			return "", err
		}
		proven++
	}
	return fmt.Sprintf("%d bundles with the mirror's proofs, under upstream's own trusted root", proven), nil
}

// refuseForgeries shows that the step before could have failed.
func (s *stage) refuseForgeries(ctx context.Context) (string, error) {
	sigstore, err := s.sigstore()
	if err != nil {
		return "", err
	}
	entry, other := s.entries[0], s.entries[1]
	proof, err := s.daemon.Proof(ctx, entry.Index())
	if err != nil {
		return "", err
	}
	bent := proof
	bent.Hashes = append([][]byte{make([]byte, 32)}, proof.Hashes[1:]...)
	if sigstore.Verify(entry.Bundle, entry.Artifact, bent) == nil {
		return "", errors.New("a bent proof verified")
	}
	if sigstore.Verify(entry.Bundle, other.Artifact, proof) == nil {
		return "", errors.New("another artifact verified")
	}
	if sigstore.Verify(other.Bundle, other.Artifact, proof) == nil {
		return "", errors.New("the proof of one entry verified for another")
	}
	return "a bent proof, another artifact, another entry: none verifies", nil
}

func (s *stage) proveWithTessera(ctx context.Context) (string, error) {
	tessera, err := verifier.NewTessera(ctx, s.daemon.Prefix(), s.log.VKey)
	if err != nil {
		return "", err
	}
	if tessera.Size() != uint64(s.wanted) {
		return "", fmt.Errorf("checkpoint of size %d, want %d", tessera.Size(), s.wanted)
	}
	proven := 0
	for _, entry := range s.sample() {
		if err := tessera.Verify(ctx, entry.Index(), entry.Body()); err != nil {
			return "", err
		}
		proven++
	}
	return fmt.Sprintf("%d entries over tiles, in the signed tree of %d", proven, tessera.Size()), nil
}

func (s *stage) fsck(ctx context.Context) (string, error) {
	size, err := verifier.Fsck(ctx, s.tesseraFsck, s.daemon.Prefix(), s.log.VKeyFile)
	if err == nil && size != uint64(s.wanted) {
		err = fmt.Errorf("size %d, want %d", size, s.wanted)
	}
	return fmt.Sprintf("accepts the mirror: every tile and bundle of %d entries", size), err
}

func (s *stage) restart(ctx context.Context) (string, error) {
	s.daemon.Kill()
	if err := s.daemon.Start(ctx); err != nil {
		return "", err
	}
	if err := s.daemon.Ready(ctx); err != nil {
		return "", err
	}
	sigstore, err := s.sigstore()
	if err != nil {
		return "", err
	}
	last := s.entries[len(s.entries)-1]
	proof, err := s.daemon.Proof(ctx, last.Index())
	if err != nil {
		return "", err
	}
	return "SIGKILL; up again, ready, and the last entry is proven", sigstore.Verify(last.Bundle, last.Artifact, proof)
}

func (s *stage) stop(context.Context) (string, error) {
	code, took, err := s.daemon.Terminate()
	if err == nil && (code != 0 || took > 10*time.Second) {
		err = fmt.Errorf("exit code %d after %s, want 0 within 10s\n%s", code, took, s.daemon.Tail())
	}
	return "exit code 0", err
}

func (s *stage) check(ctx context.Context) (string, error) {
	report, err := s.daemon.Command(ctx, "check")
	fmt.Fprint(s.out, indent("$ understudy check\n"+report))
	return "everything stored is sound", err
}

func (s *stage) sigstore() (*verifier.Sigstore, error) {
	return verifier.NewSigstore(s.log.TrustedRootFile, origin, rekor.Identity, rekor.Issuer)
}

// sample returns entries from the first to the last, evenly spread.
func (s *stage) sample() []rekor.Entry {
	n := min(sample, len(s.entries))
	picked := make([]rekor.Entry, n)
	for i := range picked {
		picked[i] = s.entries[i*(len(s.entries)-1)/max(n-1, 1)]
	}
	return picked
}

func (s *stage) folder(name string) (string, error) {
	dir := filepath.Join(s.dir, name)
	return dir, os.Mkdir(dir, 0o700)
}

// bar prints one line of progress.
func (s *stage) bar(done, total uint64, what string) {
	const width = 40
	filled := int(width * done / total)
	fmt.Fprintf(s.out, "   [%s%s] %d of %d %s\n", strings.Repeat("#", filled), strings.Repeat(".", width-filled), done, total, what)
}

func indent(text string) string {
	return "   " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n   ") + "\n"
}
