package deploy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// metric is what is known of one: by the code, or by docs/metrics.md.
type metric struct {
	histogram bool
	labels    []string // of the code, none may also be that they were not found
}

// registered are the metrics that the code has, by name.
//
// They are found in the sources: string literals in files called metrics.go, and in those of cmd. A name that
// is put together, prefix and suffix, in a function that gets the other half is followed to its callers.
func registered(root string) (map[string]metric, error) {
	names := map[string]metric{}
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside := filepath.ToSlash(strings.TrimPrefix(name, root+string(filepath.Separator)))
		switch {
		case entry.IsDir() && (strings.HasPrefix(entry.Name(), ".") && name != root || inside == "test"):
			return filepath.SkipDir
		case entry.IsDir(), path.Ext(inside) != ".go", strings.HasSuffix(inside, "_test.go"):
			return nil
		case path.Base(inside) != "metrics.go" && !strings.HasPrefix(inside, "cmd/"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		metricsOf(file, names)
		return nil
	})
	return names, err
}

var metricName = regexp.MustCompile(`^understudy_[a-z0-9_]*[a-z0-9]$`)

// half is a function that makes a name of a parameter.
type half struct {
	parameter      int
	prefix, suffix string
	histogram      bool
}

// metricsOf adds the metrics of one file.
func metricsOf(file *ast.File, names map[string]metric) {
	functions, halves := map[string]*ast.FuncType{}, map[string][]half{}
	eachNode(file, func(n ast.Node, above []ast.Node) {
		switch n := n.(type) {
		case *ast.FuncDecl:
			functions[n.Name.Name] = n.Type
		case *ast.AssignStmt:
			f, isFunc := n.Rhs[0].(*ast.FuncLit)
			if name, ok := n.Lhs[0].(*ast.Ident); ok && isFunc {
				functions[name.Name] = f.Type
			}
		}
	})
	taken := map[ast.Node]bool{} // literals that are half a name
	eachNode(file, func(n ast.Node, above []ast.Node) {
		sum, ok := n.(*ast.BinaryExpr)
		if !ok || sum.Op != token.ADD {
			return
		}
		h := half{parameter: -1, histogram: inHistogram(above)}
		var parameter string
		for i, side := range []ast.Expr{sum.X, sum.Y} {
			if ident, ok := side.(*ast.Ident); ok {
				parameter = ident.Name
			} else if text, ok := literal(side); ok {
				taken[side] = true
				if i == 0 {
					h.prefix = text
				} else {
					h.suffix = text
				}
			}
		}
		for name, f := range functions {
			if i := parameterOf(f, parameter); i >= 0 && within(f, above) {
				h.parameter = i
				halves[name] = append(halves[name], h)
			}
		}
	})
	eachNode(file, func(n ast.Node, above []ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		called, ok := call.Fun.(*ast.Ident)
		if !ok {
			return
		}
		for _, h := range halves[called.Name] {
			if h.parameter >= len(call.Args) {
				continue
			}
			if text, ok := literal(call.Args[h.parameter]); ok {
				taken[call.Args[h.parameter]] = true
				if name := h.prefix + text + h.suffix; metricName.MatchString(name) {
					names[name] = metric{histogram: h.histogram}
				}
			}
		}
	})
	eachNode(file, func(n ast.Node, above []ast.Node) {
		if e, ok := n.(ast.Expr); ok && !taken[n] {
			if text, ok := literal(e); ok && metricName.MatchString(text) {
				names[text] = metric{inHistogram(above), labelsIn(above)}
			}
		}
	})
}

// eachNode calls f with every node of a file and those above it, the nearest last.
func eachNode(file *ast.File, f func(n ast.Node, above []ast.Node)) {
	var above []ast.Node
	ast.Inspect(file, func(n ast.Node) bool {
		if n == nil {
			above = above[:len(above)-1]
			return true
		}
		f(n, above)
		above = append(above, n)
		return true
	})
}

func literal(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// parameterOf is the place of a parameter; -1 if there is none of that name.
func parameterOf(f *ast.FuncType, name string) int {
	i := 0
	for _, field := range f.Params.List {
		for _, ident := range field.Names {
			if ident.Name == name {
				return i
			}
			i++
		}
	}
	return -1
}

// within says whether the nodes above are in the function of a type.
func within(f *ast.FuncType, above []ast.Node) bool {
	for _, n := range above {
		switch n := n.(type) {
		case *ast.FuncDecl:
			if n.Type == f {
				return true
			}
		case *ast.FuncLit:
			if n.Type == f {
				return true
			}
		}
	}
	return false
}

// inHistogram says whether the nodes above are the options of a histogram.
func inHistogram(above []ast.Node) bool {
	for _, n := range above {
		if lit, ok := n.(*ast.CompositeLit); ok {
			if s, ok := lit.Type.(*ast.SelectorExpr); ok && s.Sel.Name == "HistogramOpts" {
				return true
			}
		}
	}
	return false
}

// labelsIn are the labels in the call around a name: of a list of strings, or the keys of prometheus.Labels.
func labelsIn(above []ast.Node) (labels []string) {
	for i := len(above) - 1; i >= 0; i-- {
		call, ok := above[i].(*ast.CallExpr)
		if !ok {
			continue
		}
		ast.Inspect(call, func(n ast.Node) bool {
			list, ok := n.(*ast.CompositeLit)
			if !ok {
				return true
			}
			for _, element := range list.Elts {
				switch of := list.Type.(type) {
				case *ast.ArrayType:
					if text, ok := literal(element); ok {
						labels = append(labels, text)
					}
				case *ast.SelectorExpr:
					if pair, ok := element.(*ast.KeyValueExpr); ok && of.Sel.Name == "Labels" {
						if text, ok := literal(pair.Key); ok {
							labels = append(labels, text)
						}
					}
				}
			}
			return true
		})
		break
	}
	return labels
}
