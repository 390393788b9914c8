// Package deploy holds what is deployed against the code and the pages: rules and dashboards use metrics that exist,
// every alert has its section in the runbook, and the tables of metrics and codes are complete.
package deploy

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

const root = "../.."

// site is everything that is held together.
type site struct {
	files   map[string]string // by path: deploy/prometheus, deploy/grafana and pages
	metrics map[string]metric // that the code has
	codes   map[string]string // that the code gives, with the package
	verbs   []string          // of the program

	decoded map[string]any // by content: files that were read before
}

const (
	metricsFile   = "docs/metrics.md"
	runbookFile   = "docs/runbook.md"
	outageFile    = "docs/outage.md"
	noteFile      = "deploy/status-note.md"
	dashboardFile = "deploy/grafana/understudy.json"
)

func read(t *testing.T) *site {
	t.Helper()
	s := &site{files: map[string]string{}, decoded: map[string]any{}}
	paths := []string{"README.md", metricsFile, runbookFile, outageFile, noteFile, dashboardFile}
	found, err := filepath.Glob(filepath.Join(root, "deploy/prometheus/*.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range found {
		paths = append(paths, filepath.ToSlash(strings.TrimPrefix(name, filepath.Clean(root)+string(filepath.Separator))))
	}
	for _, name := range paths {
		data, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		s.files[name] = string(data)
	}
	if s.metrics, err = registered(root); err != nil {
		t.Fatal(err)
	}
	if s.codes, err = codes(root); err != nil {
		t.Fatal(err)
	}
	if s.verbs, err = verbs(root); err != nil {
		t.Fatal(err)
	}
	if len(s.metrics) < 40 || len(s.verbs) < 20 {
		t.Fatalf("the sources were not understood: %d metrics, %d verbs", len(s.metrics), len(s.verbs))
	}
	return s
}

// codesIn are the packages, and files, whose codes docs/outage.md lists.
var codesIn = []string{"mirror/outage", "mirror/verdict", "mirror/reconcile", "mirror/drill", "mirror/trust/publish", "cmd/internal/rest/order_codes.go"}

var (
	codeName = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)
	noCodes  = []string{"CERTIFICATE", "UUID"}
)

// codes are those that the packages of codesIn give to scripts.
func codes(root string) (map[string]string, error) {
	all := map[string]string{}
	for _, dir := range codesIn {
		pattern := filepath.Join(root, dir)
		if !strings.HasSuffix(dir, ".go") {
			pattern = filepath.Join(pattern, "*.go")
		}
		names, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return nil, err
			}
			eachNode(file, func(n ast.Node, _ []ast.Node) {
				e, ok := n.(ast.Expr)
				if !ok {
					return
				}
				if text, ok := literal(e); ok && len(text) > 1 && codeName.MatchString(text) && !slices.Contains(noCodes, text) {
					all[text] = dir
				}
			})
		}
	}
	return all, nil
}

// verbs are the names of all commands of the program.
func verbs(root string) (all []string, err error) {
	names, err := filepath.Glob(filepath.Join(root, "cmd/understudy/*.go"))
	for _, name := range names {
		data, readErr := os.ReadFile(name)
		if readErr != nil {
			return nil, readErr
		}
		for _, m := range regexp.MustCompile(`Use:\s+"([a-z]+)`).FindAllStringSubmatch(string(data), -1) {
			all = append(all, m[1])
		}
	}
	return all, err
}

// rules is what a file of rules has.
type rules struct {
	Groups []struct {
		Name  string
		Rules []rule
	}
}

type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

// ruleTests is what a file of tests has.
type ruleTests struct {
	Tests []struct {
		Alerts []struct {
			Name string `yaml:"alertname"`
			Exp  []any  `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
		Exprs []struct {
			Expr string
			Exp  []any `yaml:"exp_samples"`
		} `yaml:"promql_expr_test"`
	}
}

// decode reads a file of YAML, once: TestGuards spoils one of many, again and again.
func decode[T any](s *site, name string) (*T, error) {
	text := s.files[name]
	if file, ok := s.decoded[text]; ok {
		return file.(*T), nil
	}
	file := new(T)
	if err := yaml.Unmarshal([]byte(text), file); err != nil {
		return nil, err
	}
	s.decoded[text] = file
	return file, nil
}

// problems is everything that does not fit, a sentence each.
func (s *site) problems() (all []string) {
	wrong := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	page := metricsPage(s.files[metricsFile])
	for name, m := range s.metrics {
		row, ok := page[name]
		if !ok {
			wrong("%s does not have %s", metricsFile, name)
			continue
		}
		if row.histogram != m.histogram {
			wrong("%s: whether %s is a histogram is not what the code says", metricsFile, name)
		}
		slices.Sort(m.labels)
		slices.Sort(row.labels)
		if len(m.labels) > 0 && !slices.Equal(m.labels, row.labels) {
			wrong("%s: the labels of %s are %v, and the code has %v", metricsFile, name, row.labels, m.labels)
		}
	}
	for name := range page {
		if _, ok := s.metrics[name]; !ok {
			wrong("%s has %s, which no code registers", metricsFile, name)
		}
	}

	runbook := sections(s.files[runbookFile])
	alerts, recorded := map[string]bool{}, map[string]bool{}
	var parsed []rule
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		if !strings.HasSuffix(name, ".rules.yml") {
			continue
		}
		file, err := decode[rules](s, name)
		if err != nil {
			wrong("%s: %v", name, err)
			continue
		}
		for _, group := range file.Groups {
			parsed = append(parsed, group.Rules...)
		}
	}
	for _, r := range parsed {
		if r.Record != "" {
			recorded[r.Record] = true
		}
	}
	fires, quiet, evaluated := s.tested(wrong)
	for _, r := range parsed {
		s.query(r.Alert+r.Record, r.Expr, page, recorded, wrong)
		if r.Record != "" {
			if !evaluated[r.Record] {
				wrong("no test evaluates %s", r.Record)
			}
			continue
		}
		if alerts[r.Alert] {
			wrong("two alerts are called %s", r.Alert)
		}
		alerts[r.Alert] = true
		if severity := r.Labels["severity"]; severity != "page" && severity != "ticket" {
			wrong("%s: severity %q is neither page nor ticket", r.Alert, severity)
		}
		if summary := r.Annotations["summary"]; summary == "" || strings.Contains(summary, ". ") {
			wrong("%s: its summary is not one sentence", r.Alert)
		}
		if r.Annotations["description"] == "" {
			wrong("%s does not say what to do first", r.Alert)
		}
		_, anchor, _ := strings.Cut(r.Annotations["runbook"], runbookFile+"#")
		if anchor != strings.ToLower(r.Alert) {
			wrong("%s: its runbook %q is not its section of %s", r.Alert, r.Annotations["runbook"], runbookFile)
		}
		text, ok := runbook[r.Alert]
		if !ok {
			wrong("%s has no section on %s", runbookFile, r.Alert)
			continue
		}
		for _, part := range []string{"**Means**", "**Urgent**", "**Look**", "**Do**", "**Never**", "**Over**"} {
			if !strings.Contains(text, part) {
				wrong("%s: the section on %s does not have %s", runbookFile, r.Alert, part)
			}
		}
		if !fires[r.Alert] || !quiet[r.Alert] {
			wrong("%s is not tested both to fire and to be quiet", r.Alert)
		}
	}
	for title := range runbook {
		if !alerts[title] {
			wrong("%s: %q is no alert", runbookFile, title)
		}
	}
	s.dashboard(page, recorded, wrong)
	s.words(wrong)
	s.links(wrong)
	slices.Sort(all)
	return all
}

// tested says which alerts the tests of rules have fire, and be quiet, and which figures they evaluate.
func (s *site) tested(wrong func(string, ...any)) (fires, quiet, evaluated map[string]bool) {
	fires, quiet, evaluated = map[string]bool{}, map[string]bool{}, map[string]bool{}
	for name := range s.files {
		if !strings.HasSuffix(name, "_test.yml") {
			continue
		}
		file, err := decode[ruleTests](s, name)
		if err != nil {
			wrong("%s: %v", name, err)
			continue
		}
		for _, test := range file.Tests {
			for _, a := range test.Alerts {
				if len(a.Exp) > 0 {
					fires[a.Name] = true
				} else {
					quiet[a.Name] = true
				}
			}
			for _, e := range test.Exprs {
				for _, u := range uses(e.Expr) {
					evaluated[u.metric] = evaluated[u.metric] || len(e.Exp) > 0
				}
			}
		}
	}
	return fires, quiet, evaluated
}

// external are metrics of others that rules may use.
var external = []string{"up", "process_start_time_seconds", "node_filesystem_avail_bytes", "node_filesystem_size_bytes"}

// query checks the metrics and labels of one query.
func (s *site) query(where, expr string, page map[string]metric, recorded map[string]bool, wrong func(string, ...any)) {
	found := uses(expr)
	if len(found) == 0 {
		wrong("%s uses no metric: %s", where, expr)
	}
	for _, u := range found {
		if recorded[u.metric] || slices.Contains(external, u.metric) {
			continue
		}
		name := u.metric
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); base != name && s.metrics[base].histogram {
				name = base
			}
		}
		m, ok := s.metrics[name]
		if !ok || m.histogram && name == u.metric {
			wrong("%s uses %s, which no code registers", where, u.metric)
			continue
		}
		for _, label := range u.labels {
			if !slices.Contains(page[name].labels, label) && !slices.Contains([]string{"job", "instance", "le"}, label) {
				wrong("%s selects %s by the label %s, which %s does not give it", where, u.metric, label, metricsFile)
			}
		}
	}
}

// words checks codes and commands in pages.
func (s *site) words(wrong func(string, ...any)) {
	page, listed := s.files[outageFile], map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Z0-9_]+)`").FindAllStringSubmatch(page, -1) {
		listed[m[1]] = true
	}
	for c, dir := range s.codes {
		if !listed[c] {
			wrong("%s has no row for %s of %s", outageFile, c, dir)
		}
	}
	for name, text := range s.files {
		if name == dashboardFile || strings.HasSuffix(name, "_test.yml") {
			continue // what these say is said elsewhere, too
		}
		for _, command := range commands(strings.ReplaceAll(text, `\"`, `"`)) {
			if words := strings.Fields(command); !slices.Contains(s.verbs, words[1]) {
				wrong("%s: there is no %q", name, command)
			}
		}
	}
}

// TestDeployed holds everything together.
func TestDeployed(t *testing.T) {
	for _, problem := range read(t).problems() {
		t.Error(problem)
	}
}

// TestCodesExist holds that the tables of codes have none that the code does not give.
func TestCodesExist(t *testing.T) {
	s := read(t)
	for _, m := range regexp.MustCompile("(?m)^\\| `([A-Z][A-Z0-9_]+)`").FindAllStringSubmatch(s.files[outageFile], -1) {
		if s.codes[m[1]] == "" {
			t.Errorf("%s has the code %s, which no code gives", outageFile, m[1])
		}
	}
}

// TestGuards holds that each of the checks can fail: something is spoilt, and a sentence must say so.
func TestGuards(t *testing.T) {
	whole := read(t)
	for name, test := range map[string]struct{ file, old, new, says string }{
		"a metric that is not there":  {"deploy/prometheus/outage.rules.yml", "understudy_outage_forced == 1", "understudy_outage_frced == 1", "understudy_outage_frced, which no code registers"},
		"a label that is not there":   {"deploy/prometheus/outage.rules.yml", `understudy_outage_state{state="degraded"}`, `understudy_outage_state{stat="degraded"}`, "by the label stat"},
		"a histogram without suffix":  {dashboardFile, "understudy_outage_probe_duration_seconds_bucket", "understudy_outage_probe_duration_seconds", "which no code registers"},
		"a figure that is not there":  {dashboardFile, "component:understudy_outage_burn_rate:fast", "component:understudy_outage_burn_rate:quick", "component:understudy_outage_burn_rate:quick, which"},
		"a page without a metric":     {metricsFile, "| `understudy_outage_forced` |", "| `understudy_outage_force` |", "does not have understudy_outage_forced"},
		"a page with another label":   {metricsFile, "| `component`, `to` |", "| `component`, `from` |", "the labels of understudy_outage_transitions_total"},
		"a page with another":         {metricsFile, "| `understudy_outage_forced` |", "| `understudy_outage_force` |", "has understudy_outage_force, which"},
		"a histogram that is none":    {metricsFile, "histogram: time until a probe", "time until a probe", "is a histogram"},
		"an alert without a section":  {runbookFile, "### UnderstudyStateForced", "#### UnderstudyStateForced", "no section on UnderstudyStateForced"},
		"a section without an alert":  {"deploy/prometheus/outage.rules.yml", "- alert: UnderstudyStateForced", "- alert: UnderstudyForced", `"UnderstudyStateForced" is no alert`},
		"a section without a part":    {runbookFile, "**Never**", "**Not**", "does not have **Never**"},
		"a link to another section":   {"deploy/prometheus/understudy.rules.yml", "#understudydown", "#understudyup", "is not its section"},
		"a severity of nobody":        {"deploy/prometheus/understudy.rules.yml", "severity: page", "severity: warning", "neither page nor ticket"},
		"a story for a summary":       {"deploy/prometheus/understudy.rules.yml", "does not answer\"", "is down. Hurry\"", "not one sentence"},
		"an alert that is not tested": {"deploy/prometheus/outage.rules_test.yml", "alertname: UnderstudyStateForced", "alertname: UnderstudyDown", "UnderstudyStateForced is not tested"},
		"a figure without a test":     {"deploy/prometheus/outage_figures.rules_test.yml", "expr: policy:understudy_verification_audit:ratio30d", "expr: up", "no test evaluates policy:understudy_verification_audit:ratio30d"},
		"a source by its name":        {dashboardFile, `"uid": "${datasource}"`, `"uid": "P123"`, "data source"},
		"a row that is gone":          {dashboardFile, `"title": "Signer failures"`, `"title": "Others"`, "no row"},
		"two panels in one place":     {dashboardFile, `"x": 8`, `"x": 0`, "overlap"},
		"a code without a row":        {outageFile, "| `LOST_TAIL` |", "| `LOST` |", "no row for LOST_TAIL"},
		"a link to nothing":           {runbookFile, "outage.md#rollback-bundles", "outage.md#rollbacks", "points at docs/outage.md#rollbacks"},
		"a verb that is not there":    {runbookFile, "`understudy check", "`understudy chek", "there is no"},
	} {
		t.Run(name, func(t *testing.T) {
			s := *whole
			s.files = maps.Clone(whole.files)
			spoilt := strings.ReplaceAll(s.files[test.file], test.old, test.new)
			if spoilt == s.files[test.file] {
				t.Fatalf("%s does not have %q, so nothing was spoilt", test.file, test.old)
			}
			s.files[test.file] = spoilt
			if found := s.problems(); !slices.ContainsFunc(found, func(p string) bool { return strings.Contains(p, test.says) }) {
				t.Errorf("nobody says %q, but:\n%s", test.says, strings.Join(found, "\n"))
			}
		})
	}
}

// TestUses holds the reader of queries against some.
func TestUses(t *testing.T) {
	for query, want := range map[string]string{
		`a`: "a",
		`sum by (x, y) (rate(a{b="c", d!~"e f"}[5m])) / on (x) group_left () g:h:i > 14.4`: "a(b d) g:h:i",
		`1 - clamp_max(a offset 1h, 1e3) unless on (job) b == 1`:                           "a b",
		`histogram_quantile(0.5, a_bucket) and time() - (b > 0) < 35 * 86400`:              "a_bucket b",
	} {
		var got []string
		for _, u := range uses(query) {
			text := u.metric
			if len(u.labels) > 0 {
				text += "(" + strings.Join(u.labels, " ") + ")"
			}
			got = append(got, text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s uses %q, want %q", query, got, want)
		}
	}
}

// TestRegistered holds the reader of sources against the ways in which names are made here.
func TestRegistered(t *testing.T) {
	names, err := registered(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, histogram := range map[string]bool{
		"understudy_build_info":                                false, // in cmd
		"understudy_trust_behind":                              false, // an argument
		"understudy_log_frozen":                                false, // prefix and parameter
		"understudy_http_requests_total":                       false, // parameter and suffix
		"understudy_private_log_http_request_duration_seconds": true,
		"understudy_outage_probe_duration_seconds":             true,
	} {
		if got, ok := names[name]; !ok || got.histogram != histogram {
			t.Errorf("%s: got %t, %t; want true, %t", name, ok, got.histogram, histogram)
		}
	}
	for _, half := range []string{"understudy_http", "understudy_log", "understudy_private_log_http"} {
		if _, ok := names[half]; ok {
			t.Errorf("%s is no metric", half)
		}
	}
}

// TestQueriesParse has promtool read every query of the dashboard.
func TestQueriesParse(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("there is no promtool")
	}
	var rules strings.Builder
	rules.WriteString("groups:\n  - name: dashboard\n    rules:\n")
	n := 0
	for _, q := range read(t).queries() {
		if !q.labels {
			n++
			fmt.Fprintf(&rules, "      - {record: \"q:%d\", expr: %q}\n", n, q.expr)
		}
	}
	file := filepath.Join(t.TempDir(), "q.rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), fs.FileMode(0o600)); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", "--lint=none", file).CombinedOutput(); err != nil || n < 50 {
		t.Errorf("%d queries: %v\n%s", n, err, out)
	}
}
