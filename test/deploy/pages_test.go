package deploy

import (
	"path"
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
	heading = regexp.MustCompile(`(?m)^#+ (.*)$`)
	link    = regexp.MustCompile(`\]\(([^)#:]*)#([^)]+)\)`)
	dropped = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are those that GitHub gives the headings of a page.
func anchors(page string) map[string]bool {
	all := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		all[strings.ReplaceAll(dropped.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return all
}

// links checks that what pages point at, within pages, is there.
func (s *site) links(wrong func(string, ...any)) {
	for _, name := range []string{metricsFile, runbookFile, outageFile} {
		for _, m := range link.FindAllStringSubmatch(s.files[name], -1) {
			target := name
			if m[1] != "" {
				target = path.Join(path.Dir(name), m[1])
			}
			if !anchors(s.files[target])[m[2]] {
				wrong("%s points at %s#%s, which is not there", name, target, m[2])
			}
		}
	}
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
