package deploy

import (
	"regexp"
	"slices"
	"strings"
)

// use is a metric that a query uses, with the labels that it selects by.
type use struct {
	metric string
	labels []string
}

var (
	promString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'`)
	// promGroup is a list of labels, which look like metrics.
	promGroup = regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right)\s*\([^()]*\)`)
	promRange = regexp.MustCompile(`\[[^\]]*\]|\boffset\s+\w+`)
	promName  = regexp.MustCompile(`([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(\{[^}]*\}|\()?`)
	promLabel = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)\s*(?:=~|!~|!=|=)`)
	promTime  = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)?(e[0-9]+|[smhdwy])?\b`)
)

var promKeywords = []string{"and", "or", "unless", "bool", "by", "without", "on", "ignoring", "group_left", "group_right", "offset", "inf", "nan"}

// uses are the metrics in a query of PromQL. It knows as much of the language as our queries need: whether they are
// right altogether is promtool's matter.
func uses(query string) (found []use) {
	query = promString.ReplaceAllString(query, `""`)
	query = promGroup.ReplaceAllString(query, "")
	query = promRange.ReplaceAllString(query, "")
	query = promTime.ReplaceAllString(query, "")
	for _, m := range promName.FindAllStringSubmatch(query, -1) {
		if m[2] == "(" || slices.Contains(promKeywords, strings.ToLower(m[1])) {
			continue // a function
		}
		u := use{metric: m[1]}
		for _, label := range promLabel.FindAllStringSubmatch(m[2], -1) {
			u.labels = append(u.labels, label[1])
		}
		found = append(found, u)
	}
	return found
}
