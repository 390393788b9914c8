package deploy

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// dashboard is what is looked at of a dashboard of Grafana.
type dashboard struct {
	SchemaVersion int
	Panels        []panel
	Annotations   struct{ List []annotation }
	Templating    struct{ List []variable }
}

type panel struct {
	ID                       int
	Type, Title, Description string
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []target
}

type target struct{ Expr, LegendFormat string }

type annotation struct{ Expr string }

type variable struct{ Type, Name, Definition string }

// rows are those that the dashboard must have.
var rows = []string{
	"Outage at a glance", "Error budgets", "Verification", "Signer failures", "Cache hits: what was answered from what is held",
	"Reconciliation", "Drills", "Exceptions", "Freshness",
}

// query is one of the dashboard.
type query struct {
	where, expr string
	labels      bool // it is not PromQL, but asks for the values of a label
}

var (
	grafanaVariable = strings.NewReplacer("$__rate_interval", "5m", "$__range", "1h", "$job", "j", "$instance", "i")
	labelValues     = regexp.MustCompile(`^label_values\((.*), (\w+)\)$`)
)

// queries are all of the dashboard, with something in the place of its variables; none if it cannot be read.
func (s *site) queries() (all []query) {
	var d dashboard
	if err := json.Unmarshal([]byte(s.files[dashboardFile]), &d); err != nil {
		return nil
	}
	for _, p := range d.Panels {
		for _, t := range p.Targets {
			all = append(all, query{where: fmt.Sprintf("the panel %q", p.Title), expr: grafanaVariable.Replace(t.Expr)})
		}
	}
	for _, a := range d.Annotations.List {
		if a.Expr != "" {
			all = append(all, query{where: "an annotation", expr: grafanaVariable.Replace(a.Expr)})
		}
	}
	for _, v := range d.Templating.List {
		if m := labelValues.FindStringSubmatch(grafanaVariable.Replace(v.Definition)); m != nil {
			all = append(all, query{where: fmt.Sprintf("the variable %q", v.Name), expr: m[1], labels: true})
		}
	}
	return all
}

// dashboard checks the dashboard.
func (s *site) dashboard(page map[string]metric, recorded map[string]bool, wrong func(string, ...any)) {
	var d dashboard
	if err := json.Unmarshal([]byte(s.files[dashboardFile]), &d); err != nil {
		wrong("%s: %v", dashboardFile, err)
		return
	}
	if d.SchemaVersion < 39 {
		wrong("%s is of an old Grafana: schemaVersion %d", dashboardFile, d.SchemaVersion)
	}
	if !slices.ContainsFunc(d.Templating.List, func(v variable) bool { return v.Type == "datasource" && v.Name == "datasource" }) {
		wrong("%s has no variable for its data source", dashboardFile)
	}
	var all any
	_ = json.Unmarshal([]byte(s.files[dashboardFile]), &all) // it was read above
	if !sourcesAreVariable(all) {
		wrong("%s names a data source: ${datasource} lets who uses it choose", dashboardFile)
	}
	var titles []string
	ids := map[int]bool{}
	for i, p := range d.Panels {
		if ids[p.ID] {
			wrong("%s: two panels have the number %d", dashboardFile, p.ID)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			titles = append(titles, p.Title)
			continue
		}
		if p.Title == "" || p.Description == "" || len(p.Targets) == 0 {
			wrong("the panel %q does not say what it shows, or shows nothing", p.Title)
		}
		for _, q := range d.Panels[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				wrong("the panels %q and %q overlap", q.Title, p.Title)
			}
		}
		if p.GridPos.X+p.GridPos.W > 24 {
			wrong("the panel %q is wider than the dashboard", p.Title)
		}
	}
	for _, title := range rows {
		if !slices.Contains(titles, title) {
			wrong("%s has no row %q", dashboardFile, title)
		}
	}
	for _, q := range s.queries() {
		s.query(q.where, q.expr, page, recorded, wrong)
	}
}

// sourcesAreVariable says whether every data source in a JSON value is the variable, or Grafana itself.
func sourcesAreVariable(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		for key, v := range value {
			if source, ok := v.(map[string]any); key == "datasource" && (!ok || source["uid"] != "${datasource}" && source["uid"] != "-- Grafana --") {
				return false
			}
			if !sourcesAreVariable(v) {
				return false
			}
		}
	case []any:
		for _, v := range value {
			if !sourcesAreVariable(v) {
				return false
			}
		}
	}
	return true
}
