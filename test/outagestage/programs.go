package outagestage

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/understudy-log/understudy/test/rekor"
	"github.com/understudy-log/understudy/test/rekorv1"
)

// Programs verifies what is held by executions of real programs: cosign with a bundle and the mirror's copy of
// the TUF repository, cosign with a signature alone, which asks Rekor v1, and rekor-cli. Each step is one
// execution, but for a cosign that has never run, which is two.
type Programs struct {
	stage *Stage
	users []*User // one for each that runs at a time
	next  int

	mu     sync.Mutex // guards the fields below
	counts map[string]int
	failed []error
}

// samples are how many entries of each generation programs are given.
const samples = 10

// NewPrograms makes users, with files of what was signed.
func (s *Stage) NewPrograms(ctx context.Context) (*Programs, error) {
	p := &Programs{stage: s, counts: map[string]int{}}
	for range workers {
		u, err := s.NewUser()
		if err != nil {
			return nil, err
		}
		for i := range samples {
			if err := errors.Join(u.saveV1(i, s.sampleV1(i)), s.saveV2(ctx, u, i)); err != nil {
				return nil, err
			}
		}
		if err := u.Initialize(ctx, s.URL+"/tuf", s.TUFRootFile); err != nil {
			return nil, err
		}
		p.users = append(p.users, u)
	}
	return p, nil
}

func (s *Stage) sampleV1(i int) rekorv1.Entry { return s.V1[i*len(s.V1)/samples] }
func (s *Stage) sampleV2(i int) rekor.Entry   { return s.V2[i*len(s.V2)/samples] }

func (u *User) saveV1(i int, e rekorv1.Entry) error {
	return errors.Join(
		u.Write(fmt.Sprintf("old%d", i), e.Artifact),
		u.Write(fmt.Sprintf("old%d.sig", i), e.Signature),
		u.Write(fmt.Sprintf("old%d.sig64", i), base64Of(e.Signature)),
		u.Write(fmt.Sprintf("old%d.pem", i), e.Signer.Verifier))
}

// saveV2 writes a bundle whose proof comes from the mirror.
func (s *Stage) saveV2(ctx context.Context, u *User, i int) error {
	e := s.sampleV2(i)
	sigstore, err := s.Sigstore()
	if err != nil {
		return err
	}
	proof, err := proofOf(ctx, s.API(), OriginV2, e.Index())
	if err != nil {
		return err
	}
	text, err := protojson.Marshal(sigstore.Assemble(e.Bundle, proof))
	return errors.Join(err, u.Write(fmt.Sprintf("new%d", i), e.Artifact), u.Write(fmt.Sprintf("new%d.bundle", i), text))
}

// Run executes n programs, two at a time. Failures are told by Failed.
func (p *Programs) Run(ctx context.Context, n int) error {
	steps := make(chan int)
	var wait sync.WaitGroup
	for _, u := range p.users {
		wait.Go(func() {
			for i := range steps {
				kind, err := p.step(ctx, u, i)
				p.mu.Lock()
				p.counts[kind]++
				if err != nil {
					p.failed = append(p.failed, err)
				}
				p.mu.Unlock()
			}
		})
	}
	for range n {
		steps <- p.next
		p.next++
	}
	close(steps)
	wait.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return errors.Join(p.failed[:min(len(p.failed), keptErrors)]...)
}

// Counts returns how many were executed, by kind.
func (p *Programs) Counts() map[string]int { return p.counts }

// step is one execution.
func (p *Programs) step(ctx context.Context, u *User, i int) (kind string, err error) {
	n := (i / 10) % samples
	older, s := p.stage.sampleV1(n), p.stage
	index := strconv.FormatUint(older.LogIndex, 10)
	cli := func(args ...string) (string, error) {
		_, err := u.RekorCLI(ctx, s.URL, args...)
		return "rekor-cli " + args[0], err
	}
	switch i % 10 {
	case 0, 1, 2:
		return "cosign verify-blob, bundle", u.Verify(ctx, fmt.Sprintf("new%d", n), fmt.Sprintf("new%d.bundle", n))
	case 3, 4:
		return "cosign verify-blob, Rekor v1", u.VerifyLegacy(ctx, s.URL, s.KeyFileV1(), fmt.Sprintf("old%d", n), fmt.Sprintf("old%d.sig64", n), fmt.Sprintf("old%d.pem", n))
	case 5:
		return cli("get", "--log-index="+index)
	case 6:
		return cli("verify", "--uuid="+older.UUID)
	case 7:
		return cli("verify", "--type=hashedrekord", "--pki-format=x509", "--artifact-hash="+digestHex(older.Artifact),
			fmt.Sprintf("--signature=old%d.sig", n), fmt.Sprintf("--public-key=old%d.pem", n))
	case 8:
		return cli("loginfo")
	default:
		return "cosign initialize", u.Initialize(ctx, s.URL+"/tuf", s.TUFRootFile)
	}
}
