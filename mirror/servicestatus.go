package mirror

import (
	"fmt"
	"strconv"
	"time"

	"github.com/understudy-log/understudy/storage"
)

// unfollowed counts why a shard is not known, keeps it for the status, and logs it once; nil
// says that all are.
func (s *Service) unfollowed(err error, text string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.problem = nil
		return
	}
	p := &Problem{Reason: problemReason(err), Text: err.Error(), Since: time.Now()}
	s.cfg.Metrics.log(s.cfg.Name).problem(p.Reason)
	if s.problem == nil || s.problem.Reason != p.Reason {
		s.logger.Warn(text, append(args, "reason", p.Reason, "error", p.Text)...)
	} else {
		p.Since = s.problem.Since
	}
	s.problem = p
}

// Statuses returns the state of every shard that is known, oldest first; as long as none is,
// that of the service, without an origin.
func (s *Service) Statuses() []Status {
	var statuses []Status
	for _, m := range s.Mirrors() {
		statuses = append(statuses, m.Status())
	}
	for _, lost := range s.lost {
		start := lost.Start
		statuses = append(statuses, Status{
			Name: fmt.Sprintf("%s/%d", s.cfg.Name, lost.TreeID), Origin: lost.Origin, OriginHash: OriginHash(lost.Origin), URL: s.cfg.URL, Coverage: string(s.cfg.Coverage),
			TreeID: strconv.FormatUint(lost.TreeID, 10), VirtualIndex: &start, Pins: &PinStatus{}, Source: SourceStale, UpstreamState: UpstreamUnreachable,
			Problem: &Problem{Reason: ProblemStorage, Text: lost.err.Error()},
		})
	}
	if len(statuses) == 0 {
		s.mu.RLock()
		defer s.mu.RUnlock()
		return []Status{{Name: s.cfg.Name, URL: s.cfg.URL, Coverage: string(s.cfg.Coverage), Source: SourceStale, UpstreamState: UpstreamUnreachable, Problem: clone(s.problem)}}
	}
	return statuses
}

// Held returns the state of every shard by what is stored, for a service that does not run.
func (s *Service) Held() ([]Status, error) {
	var statuses []Status
	for _, sh := range s.known() {
		st := Describe(sh.mirror.cfg.Name, s.cfg.URL, sh.mirror.tree.State(), sh.origin)
		sh.describe(&st)
		if _, err := sh.eachPin(func(p storage.Pin) {
			st.Pins.Count++
			st.Pins.Bytes += uint64(pinBytes(&p))
			if p.Reasons&^storage.PinRead != 0 {
				st.Pins.Kept++
			}
			if p.Anchor == (storage.Head{}) {
				st.Pins.Unlinked++
			}
		}); err != nil {
			return nil, err
		}
		statuses = append(statuses, st)
	}
	return statuses, nil
}

// Unkeyed tells the status that the service is not followed, because none of its keys is known.
func (s *Service) Unkeyed(err error) {
	for _, sh := range s.known() {
		sh.mirror.Unkeyed(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = &Problem{Reason: ProblemKey, Text: err.Error(), Since: time.Now()}
}
