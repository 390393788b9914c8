package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/understudy-log/understudy/cmd/internal/rest"
	"github.com/understudy-log/understudy/log"
	"github.com/understudy-log/understudy/storage"
)

// privateText is the status of one generation of the private log, at a time.
func privateText(s rest.PrivateStatus, running bool, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nprivate log, Rekor %s (%s)\n", s.Name, s.Origin)
	if s.URL != "" {
		fmt.Fprintf(&b, "  url       %s\n", s.URL)
	}
	fmt.Fprintf(&b, "  entries   %d\n", s.Size)
	switch {
	case s.PublishedAt != nil:
		fmt.Fprintf(&b, "  published %s, %s ago\n", count(s.Published, "entry", "entries"), seconds(now.Sub(*s.PublishedAt).Seconds()))
	case s.Published > 0 && !running:
		fmt.Fprintf(&b, "  published %s\n", count(s.Published, "entry", "entries"))
	case s.Published > 0:
		fmt.Fprintf(&b, "  published %s, before the start\n", count(s.Published, "entry", "entries"))
	default:
		fmt.Fprintf(&b, "  published nothing\n")
	}
	for _, w := range s.Witnesses {
		state := fmt.Sprintf("cosigned %d", w.Size)
		if w.Failure != "" {
			state = oneLine(fmt.Errorf("%s", w.Failure))
		} else if w.URL == "" {
			state = "is not asked: the policy has no address of it"
		}
		fmt.Fprintf(&b, "  witness   %s: %s\n", w.Name, state)
	}
	if s.Problem != nil {
		fmt.Fprintf(&b, "  problem   for %s: %s\n", seconds(now.Sub(s.Problem.Since).Seconds()), strings.Join(strings.Fields(s.Problem.Text), " "))
	}
	return b.String()
}

// privateLine is the same in one line.
func privateLine(s rest.PrivateStatus, now time.Time) string {
	problem := "none"
	if s.Problem != nil {
		problem = strings.Join(strings.Fields(s.Problem.Text), " ")
	}
	return fmt.Sprintf("%s private log %s: %d entries, %d published, problem %s\n", now.UTC().Format(time.RFC3339), s.Name, s.Size, s.Published, problem)
}

// heldPrivate describes what is held of a generation of the private log.
func (c *Config) heldPrivate(db *storage.DB, origin string) rest.PrivateStatus {
	s := rest.PrivateStatus{Name: "v2", Origin: origin}
	if v := c.Private.V1; v != nil && v.origin() == origin {
		s.Name, s.URL = "v1", v.URL
	} else {
		s.URL = c.Private.V2.URL
	}
	tree, err := db.OpenTree(origin)
	if errors.Is(err, storage.ErrNotExist) {
		err = errors.New(c.notMade(origin))
	}
	if err != nil {
		s.Problem = &log.Problem{Text: err.Error(), Since: time.Now()}
		return s
	}
	s.Since, s.Size = sinceOf(tree), tree.State().Head.Size
	published, err := log.LastPublished(db, tree)
	if err != nil {
		s.Problem = &log.Problem{Text: err.Error(), Since: time.Now()}
		return s
	}
	s.Published, s.Root = published.Size, published.Root.String()
	return s
}
