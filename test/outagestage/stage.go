// Package outagestage is a stage for outages of the public log: a real Rekor v1, a real Rekor v2, a TUF
// repository in the role of Sigstore's, and an understudy that mirrors all three, with a private log and
// a TUF repository of its own for the day when they are away. Everything that is public can be stopped,
// killed, and started again on its data; everything that is asked is asked as users do.
package outagestage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
	"github.com/understudy-log/understudy/test/tools/tool"
)

// What things are called.
const (
	LogV1 = "rekor"  // in the configuration of the daemon
	LogV2 = "rekor2" // the same

	HostV1   = "rekor.public.test"
	OriginV2 = "log2025-1.public.test"

	// Policy takes what Identity has signed, HighRisk what a release manager has, who is high-risk.
	Policy           = "production"
	HighRisk         = "releases"
	HighRiskIdentity = "manager@release.understudy.test"
)

// Config says how a Stage differs from the usual.
type Config struct {
	Dir     string // an existing, empty folder
	Entries int    // of each generation, before anything happens; 0 is 300

	WriteProbe string        // of the daemon; empty: entry
	PerSecond  float64       // of reconciliation; 0 is 500
	Patience   time.Duration // with a log that shows less than before; 0 is 3 s
	MaxAudit   time.Duration // of exceptions; 0 is an hour
	FallBack   time.Duration // target of drills, which is a part of their least length; 0 is 10 s
}

// Stage is all of it. Its methods are for one caller at a time, unless they say otherwise.
type Stage struct {
	*Upstream
	*Daemon

	V1 []rekorv1.Entry // that are held, in the order of the log
	V2 []rekor.Entry   // the same

	config Config
	homes  int
}

// New makes a stage on which all is well, and everything that was written is held.
func New(ctx context.Context, config Config) (*Stage, error) {
	if config.Entries == 0 {
		config.Entries = 300
	}
	s := &Stage{config: config}
	var err error
	if s.Upstream, err = newUpstream(ctx, config.Dir); err != nil {
		return nil, err
	}
	if err := s.write(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if s.Daemon, err = s.newDaemon(ctx); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.hold(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("%w\n%s", err, s.Daemon.Tail())
	}
	return s, nil
}

// Close ends every process of the stage; files stay.
func (s *Stage) Close() {
	if s.Daemon != nil {
		s.Daemon.Kill()
	}
	if s.Upstream != nil {
		s.Upstream.close()
	}
}

// write has signers use the public logs.
func (s *Stage) write(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() (err error) {
		s.V1, err = s.Rekor1.Fill(ctx, s.config.Entries)
		return err
	})
	group.Go(func() (err error) {
		s.V2, err = s.Rekor2.Write(ctx, s.config.Entries, nil)
		return err
	})
	return group.Wait()
}

// hold waits until all of that is held: the entries of Rekor v1 are pinned, those of Rekor v2 copied.
func (s *Stage) hold(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := s.UntilHeld(ctx, OriginV2, s.V2[len(s.V2)-1].Index()+1); err != nil {
		return err
	}
	var uuids []byte
	for _, e := range s.V1 {
		uuids = fmt.Appendln(uuids, e.UUID)
	}
	list := filepath.Join(s.Daemon.Dir, "uuids.txt")
	if err := os.WriteFile(list, uuids, 0o600); err != nil {
		return err
	}
	if _, err := s.Command(ctx, "pin", list); err != nil {
		return err
	}
	if err := s.UntilV1Held(ctx, s.V1); err != nil {
		return err
	}
	_, _, err := s.UntilOutage(ctx, time.Minute, "live, and signers are told so", func(st Status) bool {
		return st.State == "live" && st.Effects.Signing == "public"
	})
	return err
}

// binaries builds what the stage consists of.
func binaries(ctx context.Context) (tiles, files string, err error) {
	tiles, err1 := tool.Path(ctx, "rekor-tiles")
	files, err2 := tool.Command(ctx, "test/rekor/fileserver")
	return tiles, files, errors.Join(err1, err2)
}

// folder makes a folder of the stage.
func folder(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	return dir, os.MkdirAll(dir, 0o700)
}
