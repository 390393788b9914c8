package access

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

type contextKey struct{}

// session is what Guard leaves in the context of a request.
type session struct {
	member *member
	refuse Refuse
}

// FromContext returns the identity that a request was named by. Its TokenSHA256 is nil.
func FromContext(ctx context.Context) (Identity, bool) {
	s, ok := ctx.Value(contextKey{}).(session)
	if !ok {
		return Identity{}, false
	}
	return s.member.Identity, true
}

// Guard hands to next the requests that name an identity which has room for one more, and
// refuses all others. The request that next gets has neither its Authorization header nor
// its /token/TOKEN any more, in Path, RequestURI or anywhere else: whatever logs, counts or
// routes requests must be inside. So must [Control.Require], for each route: Guard by
// itself asks for no role. refuse may be nil: then refusals are plain text.
//
// It answers
//
//	401  nobody is named, or two at once; with WWW-Authenticate
//	403  a web page on another site sent it; or it is not from this machine, and must be
//	429  too many at once, or too many failed attempts from one client; with Retry-After
//
// and to gRPC the status codes that [RefuseGRPC] has for them.
func (c *Control) Guard(refuse Refuse, next http.Handler) http.Handler {
	if refuse == nil {
		refuse = refuseText
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r, shown := strip(r)
		m, status, why := c.identify(r, shown)
		if m == nil {
			c.refuseStranger(w, r, refuse, status, why)
			return
		}
		// A browser adds certificates and passwords that it knows to what any site makes it
		// send, and reaches a log on the loopback interface from there.
		if err := c.browser.Check(r); err != nil {
			c.metrics.count(m.Name, forbidden)
			respond(w, r, refuse, http.StatusForbidden, "a web page of another site must not write here")
			return
		}
		if !m.enter() {
			c.metrics.count(m.Name, busy)
			later(w, time.Second)
			respond(w, r, refuse, http.StatusTooManyRequests, fmt.Sprintf("identity %s has %d requests under way: wait for answers before you ask again", m.Name, m.atOnce))
			return
		}
		defer m.leave()
		ctx := context.WithValue(r.Context(), contextKey{}, session{m, refuse})
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

func (c *Control) refuseStranger(w http.ResponseWriter, r *http.Request, refuse Refuse, status int, why string) {
	if !c.strangers.fail(r.RemoteAddr) {
		c.metrics.count(nobody, limited)
		later(w, time.Second)
		respond(w, r, refuse, http.StatusTooManyRequests, "too many failed attempts from your address: correct what you send, then try again")
		return
	}
	outcome := forbidden
	if status == http.StatusUnauthorized {
		outcome = unauthenticated
		w.Header()["Www-Authenticate"] = []string{`Bearer realm="understudy"`, `Basic realm="understudy", charset="UTF-8"`}
	}
	c.metrics.count(nobody, outcome)
	c.logger.DebugContext(r.Context(), "request refused", "client", r.RemoteAddr, "status", status, "reason", why)
	respond(w, r, refuse, status, why)
}

// Require hands to next the requests of identities that have a role, and answers 403 to
// others. [Append] takes one of the identity's entries; when there is none left it answers
// 429 with Retry-After. It stands inside of [Control.Guard]; outside it answers 401 to all.
func (c *Control) Require(role Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := r.Context().Value(contextKey{}).(session)
		if !ok {
			c.refuseStranger(w, r, refuseText, http.StatusUnauthorized, noName)
			return
		}
		m := s.member
		if !m.Has(role) {
			c.metrics.count(m.Name, forbidden)
			respond(w, r, s.refuse, http.StatusForbidden, fmt.Sprintf("identity %s does not have the role %s: its operator can give it", m.Name, role))
			return
		}
		if role == Append {
			if wait, ok := m.take(); !ok {
				c.metrics.count(m.Name, limited)
				later(w, wait)
				respond(w, r, s.refuse, http.StatusTooManyRequests, fmt.Sprintf("identity %s may append %v entries a second: slow down, or ask its operator for more", m.Name, m.EntriesPerSecond))
				return
			}
		}
		c.metrics.count(m.Name, admitted)
		next.ServeHTTP(w, r)
	})
}

// later sets Retry-After, in whole seconds and at least one.
func later(w http.ResponseWriter, wait time.Duration) {
	w.Header().Set("Retry-After", strconv.Itoa(max(1, int(math.Ceil(wait.Seconds())))))
}
