package witnesses

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Target is a witness that is held against the specification.
type Target struct {
	Submission string   // submission prefix, without a slash at its end
	Monitoring string   // monitoring prefix; empty: it serves no checkpoints
	VKeys      []string // all its keys, of type 0x04 or 0x06

	// Delay is how long monitors may have to wait for what was cosigned. SPEC: The witness MAY
	// delay updating the checkpoint.
	Delay time.Duration

	// Logs are those of NewLogs, all of which the witness knows and none of which it has
	// cosigned.
	Logs []*Log

	// Restart kills the witness and starts it again, at the same prefixes; nil: it cannot be.
	Restart func(context.Context) error

	// Quarantines says that a log that has signed two roots for one size gets 403 from then on:
	// no key of it is trusted any more.
	Quarantines bool

	// Deviates says, by the name of a check, what the witness is known to do otherwise. Such a
	// check must fail, or else it is no deviation any more.
	Deviates map[string]string
}

// Check is one requirement of the specification.
type Check struct {
	Name string
	Spec string // the sentence

	// needs returns why it cannot be asked of a target, or "". It may be nil.
	needs func(*Target) string
	// renamed has the key of the check's log have another name than the log.
	renamed bool

	run func(*session) error
}

// Checks returns all checks: of the request, of the states and proofs, of the answer, and of
// the monitor retrieval mechanism.
func Checks() []Check {
	return slices.Concat(requestChecks(), stateChecks(), answerChecks(), concurrencyChecks(), monitorChecks())
}

// NewLogs makes the logs of a target, one for each check.
func NewLogs() []*Log {
	var logs []*Log
	for i, check := range Checks() {
		origin := fmt.Sprintf("conformance.example/log%d", i)
		keyName := origin
		if check.renamed {
			keyName += "/key"
		}
		logs = append(logs, NewLog(origin, keyName))
	}
	return logs
}

// Conformance runs all checks as sub-tests.
func Conformance(t *testing.T, target *Target) {
	for i, check := range Checks() {
		t.Run(check.Name, func(t *testing.T) {
			err := check.Run(t.Context(), target, target.Logs[i])
			deviation, deviates := target.Deviates[check.Name]
			switch skipped := new(NotAskedError); {
			case errors.As(err, skipped):
				t.Skip(err)
			case deviates && err == nil:
				t.Errorf("does it no more: %s\n\t%q", deviation, check.Spec)
			case deviates:
				t.Logf("known to deviate: %s\n\t%q\n\t%v", deviation, check.Spec, err)
			case err != nil:
				t.Errorf("%q\n\t%v", check.Spec, err)
			}
		})
	}
}

// NotAskedError says why a check could not be run on a target.
type NotAskedError string

func (e NotAskedError) Error() string { return string(e) }

// Run runs the check with a log that the witness has never cosigned.
func (c Check) Run(ctx context.Context, target *Target, log *Log) error {
	if c.needs != nil {
		if why := c.needs(target); why != "" {
			return NotAskedError(why)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	transport := &http.Transport{MaxIdleConnsPerHost: racers}
	defer transport.CloseIdleConnections()
	return c.run(&session{ctx: ctx, target: target, log: log, client: &http.Client{Transport: transport}})
}

// session is one run of a check. Its methods may be called at the same time.
type session struct {
	ctx    context.Context // of this run only
	target *Target
	log    *Log
	client *http.Client
}

// post submits a body. It comes again while the witness is too busy, which it may be.
func (s *session) post(body string) (Answer, error) {
	for {
		answer, err := Submit(s.ctx, s.client, s.target.Submission, body)
		if err != nil || answer.Status != http.StatusTooManyRequests {
			return answer, err
		}
		select {
		case <-s.ctx.Done():
			return answer, nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// accept submits a request, which must be cosigned. It returns the answered lines.
func (s *session) accept(request Request) (string, error) {
	from := time.Now()
	answer, err := s.post(request.String())
	if err != nil {
		return "", err
	}
	if answer.Status != http.StatusOK {
		return "", fmt.Errorf("want 200, got %v to\n%v", answer, request)
	}
	text := request.Checkpoint[:strings.LastIndex(request.Checkpoint, "\n\n")+1]
	if err := Cosigned(text, answer.Body, s.target.VKeys, from.Add(-time.Second), time.Now().Add(time.Second)); err != nil {
		return "", fmt.Errorf("%w\nin %v to\n%v", err, answer, request)
	}
	return answer.Body, nil
}

// reach has the witness, which has cosigned none of the log's checkpoints, cosign some sizes.
func (s *session) reach(sizes ...uint64) error {
	old := uint64(0)
	for _, size := range sizes {
		if _, err := s.accept(s.log.Request(old, size)); err != nil {
			return fmt.Errorf("from %d to %d: %w", old, size, err)
		}
		old = size
	}
	return nil
}

// refuse submits a body that must get one of the statuses. None stands for all of 400 to 499.
func (s *session) refuse(body string, statuses ...int) error {
	answer, err := s.post(body)
	if err != nil {
		return err
	}
	if err := answer.has(statuses); err != nil {
		return fmt.Errorf("%w to\n%s", err, body)
	}
	return nil
}

// has returns an error unless the answer has one of the statuses. None stands for all of 400
// to 499.
func (a Answer) has(statuses []int) error {
	if len(statuses) == 0 && a.Status/100 == 4 || slices.Contains(statuses, a.Status) {
		return nil
	}
	want := strings.Trim(fmt.Sprint(statuses), "[]")
	if want == "" {
		want = "any of 400 to 499"
	}
	return fmt.Errorf("want %s, got %v", want, a)
}

// conflict submits a request that must get 409 with the size that the witness knows.
func (s *session) conflict(request Request, known uint64) error {
	answer, err := s.post(request.String())
	if err != nil {
		return err
	}
	return conflicting(answer, known)
}

// conflicting returns an error unless an answer is 409 with a size.
func conflicting(answer Answer, known uint64) error {
	if answer.Status != http.StatusConflict || answer.Body != strconv.FormatUint(known, 10)+"\n" ||
		!slices.Equal(answer.Header.Values("Content-Type"), []string{"text/x.tlog.size"}) {
		return fmt.Errorf("want 409 with %q and Content-Type text/x.tlog.size, got %v", fmt.Sprintln(known), answer)
	}
	return nil
}

// holds returns an error unless the size that the witness knows, not 0, is this one.
func (s *session) holds(size uint64) error {
	if err := s.conflict(s.log.Request(0, size), size); err != nil {
		return fmt.Errorf("afterwards: %w", err)
	}
	return nil
}

// forked submits another root for the size that the witness knows, which is refused. It is the
// last thing to do with the log, unless it is done again.
func (s *session) forked(size uint64, statuses ...int) error {
	for i := range 3 { // what was refused is not known better the next time
		if s.target.Quarantines && i > 0 {
			statuses = []int{403}
		}
		if err := s.refuse(s.log.Fork().Request(size, size).String(), statuses...); err != nil {
			return err
		}
	}
	if s.target.Quarantines {
		return s.refuse(s.log.Request(size, size+1).String(), 403)
	}
	return s.holds(size)
}

// refuseEach has the witness cosign size 5 and then refuse every body; none may have an effect,
// and after one that has, no more is asked.
func (s *session) refuseEach(bodies map[string]string, statuses ...int) error {
	if err := s.reach(5); err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(bodies)) {
		if err := s.refuse(bodies[name], statuses...); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		if err := s.holds(5); err != nil {
			return errors.Join(append(errs, fmt.Errorf("%s: %w", name, err))...)
		}
	}
	return errors.Join(errs...)
}
