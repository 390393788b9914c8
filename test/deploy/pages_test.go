package deploy

import (
	"regexp"
	"strings"
)

var (
	tableRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| ([^|]*)\\| (.*) \\|$")
	code     = regexp.MustCompile("`([^`]+)`")
)

// metricsPage reads docs/metrics.md.
func metricsPage(page string) map[string]metric {
	all := map[string]metric{}
	for _, row := range tableRow.FindAllStringSubmatch(page, -1) {
		m := metric{histogram: strings.HasPrefix(row[3], "histogram: ")}
		for _, label := range code.FindAllStringSubmatch(row[2], -1) {
			m.labels = append(m.labels, label[1])
		}
		all[row[1]] = m
	}
	return all
}

// sections are the headings of the third level of a page, each with its text.
func sections(page string) map[string]string {
	all := map[string]string{}
	for _, part := range regexp.MustCompile(`(?m)^### `).Split(page, -1)[1:] {
		title, text, _ := strings.Cut(part, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		all[strings.TrimSpace(title)] = text
	}
	return all
}

var (
	block   = regexp.MustCompile(`(?m)^    +(.*)$`)
	comment = regexp.MustCompile(`\s+#.*`)
)

// commands are the commands of ours that a page tells the reader to run: in code, or set off by four spaces.
func commands(page string) (all []string) {
	for _, m := range code.FindAllStringSubmatch(page, -1) {
		all = append(all, m[1])
	}
	for _, m := range block.FindAllStringSubmatch(page, -1) {
		all = append(all, comment.ReplaceAllString(m[1], ""))
	}
	for _, m := range regexp.MustCompile(`"(understudy [^"]+)"`).FindAllStringSubmatch(page, -1) {
		all = append(all, m[1])
	}
	ours := all[:0]
	for _, c := range all {
		if strings.HasPrefix(c, "understudy ") {
			ours = append(ours, c)
		}
	}
	return ours
}
