package witnesses

import (
	"errors"
	"fmt"
	"net/http/httptrace"
	"strings"
)

// answerChecks are about the answer to a good request, and what must be durable before it.
func answerChecks() []Check {
	return []Check{
		{Name: "200", Spec: "If all the checks above pass, the witness MUST update its record of the latest cosigned checkpoint and respond with a \"200 Success\" HTTP status code.",
			run: func(s *session) error { return errors.Join(s.reach(1, 3, 9), s.holds(9)) }},
		{Name: "signature lines", Spec: "The response body MUST be a sequence of one or more [note][] signature lines, each starting with the `—` character (U+2014) and ending with a newline character (U+000A).",
			run: func(s *session) error { // and nothing of the request's own lines is among them
				request := s.log.Request(0, 5)
				request.Checkpoint += strings.Join(strangeLines(s.log, s.log.Text(5)), "")
				_, err := s.accept(request)
				return err
			}},
		{Name: "cosignatures", Spec: "The signatures MUST be [cosignatures][] from the witness key(s) on the checkpoint.", run: func(s *session) error {
			// tlog-cosignature: "followed by the whole note body of the cosigned checkpoint"
			request := s.log.Request(0, 5)
			request.Checkpoint = s.log.Checkpoint(5, "an extension")
			if _, err := s.accept(request); err != nil {
				return err
			}
			request = s.log.Request(5, 8)
			request.Checkpoint = s.log.Checkpoint(8, "— one.that.looks/like a line", "8", "ünïcode")
			_, err := s.accept(request)
			return err
		}},
		{Name: "ML-DSA-44", Spec: "If the cosignature format supports subtrees, the cosignature returned by the witness MUST be for the entire tree in the submitted checkpoint, i.e. start MUST be zero and end MUST be the checkpoint size.",
			needs: needsKey(MLDSA44), run: func(s *session) error { return s.reach(0, 1, 2, 256, 300) }},
		{Name: "Ed25519", Spec: "The signed message MUST be two newline (U+000A) terminated lines (one header line and one timestamp line) followed by the whole note body of the cosigned checkpoint (including the final newline, but not including any signature lines).",
			needs: needsKey(Ed25519), run: func(s *session) error { return s.reach(0, 1, 2, 256, 300) }},
		{Name: "timestamp", Spec: "The cosignature MUST NOT omit the timestamp, i.e. the timestamp MUST NOT be zero.",
			run: func(s *session) error { return s.reach(5, 5, 6) }}, // accept compares it with the clock
		{Name: "equal size", Spec: "If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical.",
			run: func(s *session) error { // then all checks pass
				if err := s.reach(5); err != nil {
					return err
				}
				request := s.log.Request(5, 5)
				request.Checkpoint = s.log.Checkpoint(5, "another extension")
				_, err := s.accept(request)
				return errors.Join(err, s.reachFrom(5, 5, 8))
			}},
		{Name: "keep-alive", Spec: "Clients SHOULD use, and witnesses SHOULD support, HTTP keep-alive HTTP connections to reduce latency and load due to connection establishment.",
			run: func(s *session) error {
				dialled := 0
				s.ctx = httptrace.WithClientTrace(s.ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
					if !info.Reused {
						dialled++
					}
				}})
				err := errors.Join(
					s.reach(3, 5),
					s.refuse("no request"),
					s.refuse(s.log.Fork().Request(5, 8).String(), 422),
					s.holds(5),
					s.reachFrom(5, 8),
				)
				if err == nil && dialled != 1 {
					err = fmt.Errorf("the requests took %d connections", dialled)
				}
				return err
			}},
		{Name: "persistence", Spec: "The witness MUST persist the new checkpoint before responding.",
			needs: func(t *Target) string {
				if t.Restart == nil {
					return "it cannot be started again"
				}
				return ""
			},
			run: func(s *session) error {
				for size := uint64(1); size < 4; size++ {
					if err := s.reachFrom(size-1, size); err != nil {
						return err
					}
					if err := s.target.Restart(s.ctx); err != nil {
						return err
					}
					s.client.CloseIdleConnections()
					if err := s.holds(size); err != nil {
						return err
					}
				}
				return s.refuse(s.log.Fork().Request(3, 8).String(), 422)
			}},
	}
}

// needsKey returns a function that says whether the target lacks a key of a kind.
func needsKey(kind byte) func(*Target) string {
	return func(t *Target) string {
		for _, vkey := range t.VKeys {
			if key, err := parseVKey(vkey); err == nil && key.kind == kind {
				return ""
			}
		}
		return fmt.Sprintf("it has no key of type %#02x", kind)
	}
}
