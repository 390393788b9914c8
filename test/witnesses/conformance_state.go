package witnesses

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// stateChecks are about what the witness knows: logs, keys, sizes and roots.
func stateChecks() []Check {
	return []Check{
		{Name: "404 unknown origin", Spec: "If the checkpoint origin is unknown, the witness MUST respond with a \"404 Not Found\" HTTP status code.", run: func(s *session) error {
			stranger := NewLog("unknown.example/log", "unknown.example/log")
			errs := []error{s.refuse(stranger.Request(0, 5).String(), 404), s.refuse(stranger.Request(3, 5).String(), 404)}
			for _, origin := range []string{s.log.Origin + "/more", s.log.Origin + " ", strings.ToUpper(s.log.Origin), s.log.Origin[1:]} { // with the key of a known one
				request := Request{Old: "old 0", Checkpoint: s.log.Sign(Text(origin, 5, s.log.Root(5)))}
				errs = append(errs, s.refuse(request.String(), 404))
			}
			return errors.Join(append(errs, s.reach(5))...)
		}},
		{Name: "403 no trusted key", Spec: "The witness MUST respond with a \"403 Forbidden\" HTTP status code if either no signature from a trusted key for the origin is present,", run: func(s *session) error {
			good := s.log.Request(5, 8)
			text := s.log.Text(8)
			other := NewLog(s.log.Origin, s.log.Origin)
			bodies := map[string]string{}
			for i, line := range append(strangeLines(s.log, text), other.Line(text)) {
				bodies[fmt.Sprintf("line %d", i)] = Request{good.Old, good.Proof, text + "\n" + line}.String()
			}
			return s.refuseEach(bodies, 403)
		}},
		{Name: "403 another log's key", Spec: "The witness MUST verify the checkpoint signature against the public key(s) it trusts for the checkpoint origin",
			run: func(s *session) error {
				if err := s.reach(5); err != nil {
					return err
				}
				text := s.log.Text(8)
				for _, other := range s.target.Logs {
					if other.Origin == s.log.Origin {
						continue
					}
					request := s.log.Request(5, 8)
					request.Checkpoint = other.Sign(text)
					if err := s.refuse(request.String(), 403); err != nil {
						return err
					}
				}
				return s.holds(5)
			}},
		{Name: "403 wrong signature", Spec: "or a signature line's key name and ID match a trusted key but the signature itself fails to verify (such a note is malformed per [signed-note][]).",
			run: func(s *session) error {
				good := s.log.Request(5, 8)
				bodies := map[string]string{}
				for name, wrong := range s.wrongLines(8) {
					bodies[name] = Request{good.Old, good.Proof, s.log.Text(8) + "\n" + wrong}.String()
				}
				return s.refuseEach(bodies, 403)
			}},
		{Name: "403 wrong before right", Spec: "or a signature line's key name and ID match a trusted key but the signature itself fails to verify (such a note is malformed per [signed-note][]).",
			run: func(s *session) error {
				good := s.log.Request(5, 8)
				text := s.log.Text(8)
				bodies := map[string]string{}
				for name, wrong := range s.wrongLines(8) {
					bodies[name] = Request{good.Old, good.Proof, text + "\n" + wrong + s.log.Line(text)}.String()
				}
				return s.refuseEach(bodies, 403)
			}},
		{Name: "403 wrong after right", Spec: "or a signature line's key name and ID match a trusted key but the signature itself fails to verify (such a note is malformed per [signed-note][]).",
			run: func(s *session) error {
				good := s.log.Request(5, 8)
				text := s.log.Text(8)
				bodies := map[string]string{}
				for name, wrong := range s.wrongLines(8) {
					bodies[name] = Request{good.Old, good.Proof, text + "\n" + s.log.Line(text) + wrong}.String()
				}
				return s.refuseEach(bodies, 403)
			}},
		{Name: "key with another name", Spec: "The witness MUST verify the checkpoint signature against the public key(s) it trusts for the checkpoint origin", renamed: true,
			run: func(s *session) error { return s.reach(5, 8) }},
		{Name: "400 old size too large", Spec: "The old size MUST be equal to or lower than the checkpoint size. Otherwise, the witness MUST respond with a \"400 Bad Request\" HTTP status code.",
			run: func(s *session) error {
				return s.refuseEach(map[string]string{
					"older checkpoint": s.log.Request(5, 3).String(),
					"size 0":           s.log.Request(5, 0).String(),
				}, 400)
			}},
		{Name: "400 old size too large and unknown", Spec: "The old size MUST be equal to or lower than the checkpoint size. Otherwise, the witness MUST respond with a \"400 Bad Request\" HTTP status code.",
			run: func(s *session) error { // 409 is due as well
				if err := s.refuse(s.log.Request(5, 3).String(), 400, 409); err != nil {
					return fmt.Errorf("before the first: %w", err)
				}
				return s.refuseEach(map[string]string{
					"larger":  s.log.Request(9, 8).String(),
					"largest": Request{Old: "old 18446744073709551615", Checkpoint: s.log.Checkpoint(8)}.String(),
				}, 400, 409)
			}},
		{Name: "409 conflict", Spec: "If it doesn't match, the witness MUST respond with a \"409 Conflict\" HTTP status code. The response body MUST consist of the tree size of the latest cosigned checkpoint in decimal, followed by a newline (U+000A). The response MUST have a `Content-Type` of `text/x.tlog.size`.",
			run: func(s *session) error {
				if err := s.reach(3, 12); err != nil {
					return err
				}
				fork := s.log.Fork()
				return errors.Join(
					s.conflict(s.log.Request(3, 15), 12),
					s.conflict(s.log.Request(13, 15), 12),
					s.conflict(s.log.Request(15, 15), 12),
					s.conflict(s.log.Request(3, 12), 12),
					s.conflict(s.log.Request(3, 7), 12), // going back
					s.conflict(s.log.Request(3, 3), 12),
					s.conflict(fork.Request(3, 15), 12),
					s.conflict(Request{Old: "old 3", Checkpoint: s.log.Checkpoint(15)}, 12),
					s.reachFrom(12, 15),
					s.conflict(fork.Request(12, 15), 15), // not less for its other root
				)
			}},
		{Name: "409 to old size zero", Spec: "If a client doesn't have information on the latest cosigned checkpoint, it MAY initially make a request with a old size of zero to obtain it.",
			run: func(s *session) error {
				if err := s.reach(7); err != nil {
					return err
				}
				return errors.Join(s.conflict(s.log.Request(0, 7), 7), s.conflict(s.log.Request(0, 9), 7), s.conflict(s.log.Request(0, 3), 7), s.conflict(s.log.Request(0, 0), 7))
			}},
		{Name: "409 before the first", Spec: "The witness MUST check that the old size matches the size of the latest checkpoint it cosigned for the checkpoint's origin (or zero if it never cosigned a checkpoint for that origin).",
			run: func(s *session) error {
				return errors.Join(s.conflict(s.log.Request(5, 8), 0), s.conflict(s.log.Request(8, 8), 0), s.reach(3))
			}},
		{Name: "size zero", Spec: "A checkpoint of size zero MUST have the root hash of the empty tree, which [RFC 6962][], Section 2.1 defines as the hash of the empty string.",
			run: func(s *session) error { return errors.Join(s.reach(0, 0, 5, 8), s.holds(8)) }},
		{Name: "422 size zero", Spec: "A checkpoint of size zero MUST have the root hash of the empty tree, which [RFC 6962][], Section 2.1 defines as the hash of the empty string. Otherwise, the witness MUST respond with a \"422 Unprocessable Entity\" HTTP status code.",
			run: func(s *session) error {
				for _, root := range [][]byte{make([]byte, 32), s.log.Root(1)} {
					request := s.log.Request(0, 0)
					request.Checkpoint = s.log.Sign(Text(s.log.Origin, 0, root))
					if err := s.refuse(request.String(), 422); err != nil {
						return err
					}
				}
				return s.reach(0, 5)
			}},
		{Name: "422 proof from zero", Spec: "If the old size is zero, the consistency proof MUST be empty, because the empty tree is consistent with any tree, so no proof is necessary.",
			run: func(s *session) error {
				request := s.log.Request(0, 8)
				request.Proof = s.log.Proof(5, 8)
				first := s.refuse(request.String(), 422)
				request = s.log.Request(0, 0)
				request.Proof = s.log.Proof(5, 8)[:1]
				empty := s.refuse(request.String(), 422)
				return errors.Join(first, empty, s.reach(5))
			}},
		{Name: "422 proof", Spec: "the consistency proof lines MUST encode a Merkle Consistency Proof from the old size to the checkpoint size according to [RFC 6962][], Section 2.1.2.",
			run: func(s *session) error { return s.refuseEach(s.badProofs(), 422) }},
		{Name: "422 proof of equal sizes", Spec: "the consistency proof lines MUST encode a Merkle Consistency Proof from the old size to the checkpoint size according to [RFC 6962][], Section 2.1.2.",
			run: func(s *session) error { // it is empty
				request := s.log.Request(5, 5)
				request.Proof = s.log.Proof(5, 8)
				return s.refuseEach(map[string]string{"not empty": request.String()}, 422)
			}},
		{Name: "422 other root", Spec: "If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical. If they don't match, the witness MUST respond with a \"422 Unprocessable Entity\" HTTP status code.",
			run: func(s *session) error {
				return errors.Join(s.reach(5), s.forked(5, 422))
			}},
		{Name: "not cosigned", Spec: "(but MUST NOT cosign the checkpoint)", run: func(s *session) error {
			if err := s.reach(5); err != nil {
				return err
			}
			for range 3 { // what was refused is not known better the next time
				if err := s.refuse(s.log.Fork().Request(5, 8).String(), 422); err != nil {
					return err
				}
			}
			return errors.Join(s.reachFrom(5, 9), s.forked(9, 422))
		}},
		{Name: "all proofs", Spec: "the consistency proof lines MUST encode a Merkle Consistency Proof from the old size to the checkpoint size according to [RFC 6962][], Section 2.1.2.",
			run: func(s *session) error {
				return s.reach(1, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 100, 255, 256, 257, 300)
			}},
	}
}

// reachFrom has the witness cosign some more sizes.
func (s *session) reachFrom(old uint64, sizes ...uint64) error {
	for _, size := range sizes {
		if _, err := s.accept(s.log.Request(old, size)); err != nil {
			return fmt.Errorf("from %d to %d: %w", old, size, err)
		}
		old = size
	}
	return nil
}

// wrongLines are lines with the log's key name and ID that do not verify for a size.
func (s *session) wrongLines(size uint64) map[string]string {
	name, id := s.log.signer.Name(), s.log.signer.KeyHash()
	good, err := s.log.signer.Sign([]byte(s.log.Text(size)))
	if err != nil {
		panic(err) // an Ed25519 key signs everything
	}
	flipped := slices.Clone(good)
	flipped[7] ^= 1
	return map[string]string{
		"one bit":      Line(name, id, flipped),
		"other text":   s.log.Line(s.log.Text(size + 1)),
		"zeroes":       Line(name, id, make([]byte, 64)),
		"too short":    Line(name, id, good[:63]),
		"too long":     Line(name, id, append(slices.Clone(good), 0)),
		"cosignature?": Line(name, id, append(make([]byte, 8), good...)),
	}
}

// badProofs are requests from size 5 to size 8 whose proof does not verify.
func (s *session) badProofs() map[string]string {
	good := s.log.Request(5, 8)
	with := func(proof ...string) string { return Request{good.Old, proof, good.Checkpoint}.String() }
	reversed := slices.Clone(good.Proof)
	slices.Reverse(reversed)
	bodies := map[string]string{
		"none":          with(),
		"reversed":      with(reversed...),
		"from 4":        with(s.log.Proof(4, 8)...),
		"from 6":        with(s.log.Proof(6, 8)...),
		"to 7":          with(s.log.Proof(5, 7)...),
		"of a fork":     with(s.log.Fork().Proof(5, 8)...),
		"to a fork":     s.log.Fork().Request(5, 8).String(),
		"fork's root":   Request{good.Old, good.Proof, s.log.Fork().Checkpoint(8)}.String(),
		"other size":    Request{good.Old, good.Proof, s.log.Sign(Text(s.log.Origin, 9, s.log.Root(8)))}.String(),
		"twice":         with(append(slices.Clone(good.Proof), good.Proof...)...),
		"one before":    with(append([]string{good.Proof[0]}, good.Proof...)...),
		"one more":      with(append(slices.Clone(good.Proof), good.Proof[0])...),
		"last one less": with(good.Proof[:len(good.Proof)-1]...),
		"first missing": with(good.Proof[1:]...),
	}
	for i := range good.Proof {
		proof := slices.Clone(good.Proof)
		proof[i] = s.log.Proof(1, 2)[0]
		bodies[fmt.Sprintf("line %d other", i)] = with(proof...)
	}
	return bodies
}
