package witnesses

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// requestChecks are about the form of the request and its signatures.
func requestChecks() []Check {
	return []Check{
		{Name: "POST", Spec: "The request MUST be an HTTP POST.", run: func(s *session) error {
			if err := s.reach(5); err != nil {
				return err
			}
			for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
				answer, err := do(s.ctx, s.client, method, s.target.Submission+"/add-checkpoint", s.log.Request(5, 8).String())
				if err != nil {
					return err
				}
				if answer.Status/100 != 4 {
					return fmt.Errorf("%s: got %v", method, answer)
				}
			}
			return s.holds(5)
		}},
		{Name: "sequence", Spec: "The request body MUST be a sequence of - an old size line, - zero or more consistency proof lines, - and an empty line, - followed by a [checkpoint][].",
			run: func(s *session) error {
				good := s.log.Request(5, 8)
				bodies := map[string]string{
					"nothing":              "",
					"no old size line":     strings.Join(good.Proof, "\n") + "\n\n" + good.Checkpoint,
					"no checkpoint":        good.Old + "\n" + strings.Join(good.Proof, "\n") + "\n\n",
					"no checkpoint, equal": "old 5\n\n",
					"no empty line":        good.Old + "\n" + strings.Join(good.Proof, "\n") + "\n" + good.Checkpoint,
					"two empty lines":      strings.Replace(good.String(), "\n\n", "\n\n\n", 1),
					"an empty line first":  "\n" + good.String(),
					"old size line last":   strings.Join(good.Proof, "\n") + "\n" + good.Old + "\n\n" + good.Checkpoint,
					"no signature":         Request{good.Old, good.Proof, s.log.Text(8)}.String(),
					"no signature line":    Request{good.Old, good.Proof, s.log.Text(8) + "\n"}.String(),
					"something after":      good.String() + "more",
					"a note of one line":   Request{good.Old, good.Proof, s.log.Sign(s.log.Origin + "\n")}.String(),
				}
				return s.refuseEach(bodies)
			}},
		{Name: "newline", Spec: "Each line MUST terminate in a newline character (U+000A).", run: func(s *session) error {
			good := s.log.Request(5, 8)
			return s.refuseEach(map[string]string{
				"none at the end":     strings.TrimSuffix(good.String(), "\n"),
				"CRLF":                strings.ReplaceAll(good.String(), "\n", "\r\n"),
				"CRLF above the note": Request{good.Old + "\r", []string{strings.Join(good.Proof, "\r\n") + "\r"}, good.Checkpoint}.String(),
				"CRLF after old size": Request{good.Old + "\r", good.Proof, good.Checkpoint}.String(),
				"CR":                  Request{good.Old, []string{strings.Join(good.Proof, "\r")}, good.Checkpoint}.String(),
				"CRLF in the note":    Request{good.Old, good.Proof, strings.ReplaceAll(good.Checkpoint, "\n", "\r\n")}.String(),
			})
		}},
		{Name: "old size line", Spec: "The old size line MUST consist of the string `old`, a single space (0x20), and the tree size of the previous checkpoint encoded as an ASCII decimal with no leading zeroes (unless the size is zero, in which case the encoding MUST be `0`).",
			run: func(s *session) error {
				good := s.log.Request(5, 8)
				bodies := map[string]string{}
				for _, line := range []string{
					"", "old", "old ", "5", "old5", "old  5", "old\t5", " old 5", "Old 5", "OLD 5", "new 5", "older 5", "old 05", "old 005", "old +5", "old -5", "old -0",
					"old 5 ", "old 5 5", "old 5x", "old 0x5", "old 5.0", "old 5e0", "old 5_0", "old ５", "old 18446744073709551621", "old 99999999999999999999999", "old five",
				} {
					bodies[fmt.Sprintf("%q", line)] = Request{line, good.Proof, good.Checkpoint}.String()
				}
				return s.refuseEach(bodies)
			}},
		{Name: "old size zero", Spec: "(unless the size is zero, in which case the encoding MUST be `0`)", run: func(s *session) error {
			var errs []error
			for _, line := range []string{"old 00", "old -0", "old +0", "old ", "old"} {
				request := s.log.Request(0, 8)
				request.Old = line
				if err := s.refuse(request.String()); err != nil {
					errs = append(errs, err)
				}
			}
			return errors.Join(append(errs, s.reach(5))...)
		}},
		{Name: "proof lines", Spec: "Each consistency proof line MUST encode a single hash in base64.", run: func(s *session) error {
			good := s.log.Request(5, 8)
			hash := good.Proof[0]
			raw, err := base64.StdEncoding.DecodeString(hash)
			if err != nil {
				return err
			}
			// 32 bytes leave 2 bits over, which must be zero.
			const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
			last := strings.IndexByte(digits, hash[42])
			bodies := map[string]string{}
			for name, line := range map[string]string{
				"31 bytes":           base64.StdEncoding.EncodeToString(raw[:31]),
				"33 bytes":           base64.StdEncoding.EncodeToString(append(raw[:32:32], 0)),
				"two hashes":         base64.StdEncoding.EncodeToString(append(raw[:32:32], raw...)),
				"two encoded":        hash + hash,
				"hexadecimal":        fmt.Sprintf("%x", raw),
				"no padding":         strings.TrimRight(hash, "="),
				"URL's alphabet":     base64.URLEncoding.EncodeToString(append(raw[:31:31], 0xff)) + "-_",
				"a space behind":     hash + " ",
				"a space before":     " " + hash,
				"bits left over":     hash[:42] + digits[last|1:last|1+1] + "=",
				"no base64":          strings.Repeat("!", 44),
				"a carriage return":  hash + "\r",
				"one in the middle":  hash[:20] + "\r" + hash[20:],
				"something after it": hash + "AAAA",
			} {
				bodies[name] = Request{good.Old, append([]string{line}, good.Proof[1:]...), good.Checkpoint}.String()
			}
			return s.refuseEach(bodies)
		}},
		{Name: "64 proof lines", Spec: "The client MUST NOT send more than 63 consistency proof lines.", run: func(s *session) error {
			good := s.log.Request(5, 8)
			bodies := map[string]string{}
			for _, n := range []int{63, 64, 65, 100} {
				bodies[fmt.Sprintf("%d lines", n)] = Request{good.Old, slices.Repeat(good.Proof[:1], n), good.Checkpoint}.String()
			}
			return s.refuseEach(bodies)
		}},
		{Name: "63 proof lines", Spec: "If the proof is not empty when the old size is zero, or if a Merkle Consistency Proof doesn't verify, the witness MUST respond with a \"422 Unprocessable Entity\" HTTP status code.",
			run: func(s *session) error { // 63 lines are no reason for another status
				good := s.log.Request(5, 8)
				return s.refuseEach(map[string]string{"63 lines": Request{good.Old, slices.Repeat(good.Proof[:1], 63), good.Checkpoint}.String()}, 422)
			}},
		{Name: "checkpoint text", Spec: "followed by a [checkpoint][]", run: func(s *session) error {
			good := s.log.Request(5, 8)
			origin, root := s.log.Origin, strings.Split(s.log.Text(8), "\n")[2]
			bodies := map[string]string{}
			for name, text := range map[string]string{
				"two lines":             origin + "\n8\n",
				"size with zeroes":      origin + "\n08\n" + root + "\n",
				"size with a sign":      origin + "\n+8\n" + root + "\n",
				"size with a space":     origin + "\n8 \n" + root + "\n",
				"size too large":        origin + "\n18446744073709551624\n" + root + "\n",
				"negative size":         origin + "\n-8\n" + root + "\n",
				"root of 31 bytes":      Text(origin, 8, s.log.Root(8)[:31]),
				"root of 33 bytes":      Text(origin, 8, append(s.log.Root(8), 0)),
				"root without padding":  origin + "\n8\n" + strings.TrimRight(root, "=") + "\n",
				"a space after root":    origin + "\n8\n" + root + " \n",
				"an empty line":         origin + "\n8\n\n" + root + "\n",
				"empty extension line":  s.log.Text(8) + "\nextension\n",
				"empty extension lines": s.log.Text(8) + "\n\n",
			} {
				bodies[name] = Request{good.Old, good.Proof, s.log.Sign(text)}.String()
			}
			return s.refuseEach(bodies)
		}},
		{Name: "several signatures", Spec: "The submitted checkpoint MAY include multiple signatures.", run: func(s *session) error {
			for size := uint64(0); ; size++ {
				text := s.log.Text(size + 1)
				lines := strangeLines(s.log, text)
				if int(size) > len(lines) {
					return nil
				}
				request := s.log.Request(size, size+1)
				request.Checkpoint = text + "\n" + strings.Join(slices.Insert(lines, int(size), s.log.Line(text)), "")
				if _, err := s.accept(request); err != nil {
					return fmt.Errorf("the log's line after %d others: %w", size, err)
				}
			}
		}},
		{Name: "16 signatures", Spec: "Verifiers SHOULD apply a maximum limit to the number of signatures in a note (or, equivalently, to the overall size of a note), but MUST accept at least up to 16 signatures.",
			run: func(s *session) error { // signed-note; of the largest kind that there is, ML-DSA-44
				text := s.log.Text(5)
				request := s.log.Request(0, 5)
				request.Checkpoint = text + "\n"
				for i := range 15 {
					request.Checkpoint += Line(fmt.Sprintf("witness.example/w%d", i), uint32(i)+1, make([]byte, 8+2420))
				}
				request.Checkpoint += s.log.Line(text)
				_, err := s.accept(request)
				return err
			}},
	}
}

// strangeLines are signatures of a text that no witness knows the keys of.
func strangeLines(l *Log, text string) []string {
	other := NewLog(l.Origin, l.signer.Name())
	good, err := l.signer.Sign([]byte(text))
	if err != nil {
		panic(err) // an Ed25519 key signs everything
	}
	return []string{
		other.Line(text), // same name, other ID
		NewLog("other.example", "other.example").Line(text),
		Line("other.example/x", l.signer.KeyHash(), good), // same ID, other name
		Line("witness.example", 1, make([]byte, 8+64)),    // like a cosignature
		Line("witness.example", 2, make([]byte, 8+2420)),  // like one of ML-DSA-44
		Line("short.example", 3, []byte{1}),               // of no known algorithm
		Line("ünïcode.example/∞", 4, make([]byte, 64)),
		Line(l.signer.Name(), l.signer.KeyHash()+1, good),
	}
}
