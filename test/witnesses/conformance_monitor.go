package witnesses

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// monitorChecks are about the monitor retrieval mechanism.
func monitorChecks() []Check {
	serves := func(t *Target) string {
		if t.Monitoring == "" {
			return "it serves no checkpoints"
		}
		return ""
	}
	return []Check{
		{Name: "monitor/404", Spec: "If the witness has never cosigned a checkpoint for that log, it MUST respond with a \"404 Not Found\" HTTP status code instead.", needs: serves,
			run: func(s *session) error {
				hash := hashOf(s.log.Origin)
				return errors.Join(
					s.monitorRefuses(http.MethodGet, hash, 404),
					s.monitorRefuses(http.MethodGet, hashOf("unknown.example/log"), 404),
					s.refuse(s.log.Request(8, 5).String()),
					s.monitorRefuses(http.MethodGet, hash, 404),
				)
			}},
		{Name: "monitor/checkpoint", Spec: "The response body MUST be a [checkpoint][] for the log identified by the origin, and it MUST include the cosignature(s) from the witness's key(s) that were returned from add-checkpoint and the cosignature from the log key(s) that the witness verified.", needs: serves,
			run: func(s *session) error {
				old := uint64(0)
				for _, size := range []uint64{0, 5, 5, 8} {
					if err := s.monitored(s.log.Request(old, size)); err != nil {
						return fmt.Errorf("from %d to %d: %w", old, size, err)
					}
					old = size
				}
				request := s.log.Request(8, 9)
				request.Checkpoint = s.log.Checkpoint(9, "extension")
				return s.monitored(request)
			}},
		{Name: "monitor/several signatures", Spec: "it MUST include the cosignature(s) from the witness's key(s) that were returned from add-checkpoint and the cosignature from the log key(s) that the witness verified.", needs: serves,
			run: func(s *session) error {
				text := s.log.Text(5)
				lines := strangeLines(s.log, text)
				request := s.log.Request(0, 5)
				request.Checkpoint = text + "\n" + strings.Join(lines[:4], "") + s.log.Line(text) + strings.Join(lines[4:], "")
				return s.monitored(request)
			}},
		{Name: "monitor/refused", Spec: "A witness SHOULD serve a recent checkpoint for each log it cosigned.", needs: serves,
			run: func(s *session) error {
				request := s.log.Request(0, 5)
				if err := s.monitored(request); err != nil {
					return err
				}
				before, err := s.monitor(http.MethodGet, hashOf(s.log.Origin))
				if err != nil {
					return err
				}
				if err := errors.Join(
					s.refuse(s.log.Fork().Request(5, 8).String(), 422),
					s.refuse(s.log.Request(3, 9).String(), 409),
					s.forked(5, 422),
				); err != nil {
					return err
				}
				after, err := s.monitor(http.MethodGet, hashOf(s.log.Origin))
				if err == nil && (after.Status != http.StatusOK || after.Body != before.Body) {
					err = fmt.Errorf("refused requests changed it from\n%s\nto\n%s", before.Body, after.Body)
				}
				return err
			}},
		{Name: "monitor/GET", Spec: "The request MUST be an HTTP GET.", needs: serves, run: func(s *session) error {
			if err := s.monitored(s.log.Request(0, 5)); err != nil {
				return err
			}
			hash := hashOf(s.log.Origin)
			return errors.Join(s.monitorRefuses(http.MethodPost, hash), s.monitorRefuses(http.MethodPut, hash), s.monitorRefuses(http.MethodDelete, hash))
		}},
		{Name: "monitor/origin hash", Spec: "The origin hash is the SHA-256 hash of the log's origin, hex encoded, in lowercase.", needs: serves, run: func(s *session) error {
			if err := s.monitored(s.log.Request(0, 5)); err != nil {
				return err
			}
			hash := hashOf(s.log.Origin)
			for _, other := range []string{strings.ToUpper(hash), hash[:63], hash + "0", hashOf(s.log.Origin + "\n"), "", "x" + hash[1:]} {
				if err := s.monitorRefuses(http.MethodGet, other); err != nil {
					return err
				}
			}
			return nil
		}},
	}
}

func hashOf(origin string) string {
	hash := sha256.Sum256([]byte(origin))
	return hex.EncodeToString(hash[:])
}

func (s *session) monitor(method, hash string) (Answer, error) {
	return do(s.ctx, s.client, method, s.target.Monitoring+"/"+hash+"/checkpoint", "")
}

// monitorRefuses asks for what must get one of the statuses. None stands for all of 400 to 499.
func (s *session) monitorRefuses(method, hash string, statuses ...int) error {
	answer, err := s.monitor(method, hash)
	if err != nil {
		return err
	}
	if err := answer.has(statuses); err != nil {
		return fmt.Errorf("%s of the checkpoint of %q: %w", method, hash, err)
	}
	return nil
}

// monitored has a request cosigned, and monitors see it.
func (s *session) monitored(request Request) error {
	lines, err := s.accept(request)
	if err != nil {
		return err
	}
	text := request.Checkpoint[:strings.LastIndex(request.Checkpoint, "\n\n")+1]
	for deadline := time.Now().Add(s.target.Delay); ; time.Sleep(50 * time.Millisecond) {
		answer, err := s.monitor(http.MethodGet, hashOf(s.log.Origin))
		if err != nil {
			return err
		}
		err = shows(answer, text, append(strings.SplitAfter(strings.TrimSuffix(lines, "\n"), "\n"), s.log.Line(text)))
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

// shows returns an error unless an answer is a checkpoint with a text and, among others, lines.
func shows(answer Answer, text string, lines []string) error {
	signatures, ok := strings.CutPrefix(answer.Body, text+"\n")
	if answer.Status != http.StatusOK || !ok {
		return fmt.Errorf("want the checkpoint\n%s\ngot %v", text, answer)
	}
	served := map[string]bool{}
	for line := range strings.Lines(signatures) {
		if _, err := parseLine(strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
		served[strings.TrimSuffix(line, "\n")] = true
	}
	for _, line := range lines {
		if !served[strings.TrimSuffix(line, "\n")] {
			return fmt.Errorf("it lacks the line %q:\n%s", line, answer.Body)
		}
	}
	return nil
}
