package log

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-log/understudy/test/bubble"
)

// TestSecondKey: a key beside the one that the log is known by may come, be replaced and go, with
// witnesses and without; the first may not.
func TestSecondKey(t *testing.T) {
	for _, witnessed := range []bool{false, true} {
		bubble.Run(t, func(t *testing.T) {
			w := &witness{t: t}
			s := newStage(t, func(c *Config) {
				if witnessed {
					c.Cosign = w.Cosign
				}
			})
			s.open(true)
			s.append("a")
			s.close()
			signers, verifiers := s.config.Signers, s.config.Verifiers
			for i, more := range []int{1, 1, 0} { // keys beside the first, new ones each time
				s.config.Signers, s.config.Verifiers = signers[:1:1], verifiers[:1:1]
				for range more {
					signer, verifier := newKey(t)
					s.config.Signers, s.config.Verifiers = append(s.config.Signers, signer), append(s.config.Verifiers, verifier)
				}
				s.open(false)
				time.Sleep(time.Second)
				if err := s.log.verify(s.log.Published().Raw); err != nil || s.log.Problem() != nil {
					t.Errorf("witnesses %v, step %d: %v, %v", witnessed, i, err, s.log.Problem())
				}
				s.append("a")
				s.append(string(rune('b' + i)))
				s.close()
			}
			s.config.Signers[0], s.config.Verifiers[0] = newKey(t)
			err := s.tryOpen(false)
			if _, ok := errors.AsType[*KeyError](err); !ok {
				t.Errorf("another first key: %v", err)
			}
		})
	}
}
