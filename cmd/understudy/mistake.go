package main

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// mistake is something wrong in a configuration file, with its place.
type mistake struct {
	file  string
	token *token.Token // nil: the file as a whole
	text  string
}

func (m *mistake) Error() string {
	if m.token == nil {
		return fmt.Sprintf("%s: %s", m.file, m.text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", m.file, m.token.Position.Line, m.token.Position.Column, m.text)
}

// mistake reports text at the value that path leads to: keys and list indexes. Of
// a path that the file does not have, the longest part that it has is the place.
func (c *Config) mistake(text string, path ...any) error {
	for ; len(path) > 0 && c.file != nil; path = path[:len(path)-1] {
		b := new(yaml.PathBuilder).Root()
		for _, step := range path {
			switch step := step.(type) {
			case string:
				b = b.Child(step)
			case int:
				b = b.Index(uint(step))
			}
		}
		if node, err := b.Build().FilterFile(c.file); err == nil && node != nil {
			return c.mistakeAt(node, text)
		}
	}
	return &mistake{file: c.name, text: text}
}

func (c *Config) mistakeAt(node ast.Node, text string) error {
	return &mistake{file: c.name, token: firstToken(node), text: text}
}

// firstToken is where node begins; the token that the parser calls a mapping's own
// is the colon after its first key.
func firstToken(node ast.Node) *token.Token {
	switch node := node.(type) {
	case *ast.MappingNode:
		if !node.IsFlowStyle && len(node.Values) > 0 {
			return node.Values[0].Key.GetToken()
		}
	case *ast.MappingValueNode:
		return node.Key.GetToken()
	}
	return node.GetToken()
}

// explain rewords an error of the YAML parser for an operator.
func (c *Config) explain(err error) error {
	if m, ok := errors.AsType[*mistake](err); ok {
		m.file = c.name
		return m
	}
	place, ok := errors.AsType[yaml.Error](err)
	if !ok {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	m := &mistake{file: c.name, token: place.GetToken(), text: place.GetMessage()}
	switch e := place.(type) {
	case *yaml.UnknownFieldError:
		m.text = c.unknownKey(e.Token)
	case *yaml.OverflowError:
		m.text = e.SrcNum + " is out of range here"
	case *yaml.TypeError:
		m.text = fmt.Sprintf("%s belongs here, not %s", kindName(e.DstType.Kind().String()), kindName(e.SrcType.Kind().String()))
	case *yaml.UnexpectedNodeTypeError:
		m.text = fmt.Sprintf("%s belongs here, not %s", kindName(e.Expected.YAMLName()), kindName(e.Actual.YAMLName()))
	}
	return m
}

// kindName is an operator's word for a kind of Go value or YAML node.
func kindName(kind string) string {
	switch kind {
	case "string", "scalar":
		return "a text"
	case "map", "struct", "mapping":
		return "a mapping"
	case "slice", "sequence":
		return "a list"
	case "bool", "boolean":
		return "true or false"
	}
	return "a number"
}

// unknownKey is what to say about a key that its mapping does not know.
func (c *Config) unknownKey(key *token.Token) string {
	section := reflect.TypeFor[Config]()
	ast.Walk(visitFunc(func(node ast.Node) {
		value, ok := node.(*ast.MappingValueNode)
		if !ok || value.Key.GetToken() != key {
			return
		}
		for part := range strings.SplitSeq(value.GetPath(), ".") {
			name, _, _ := strings.Cut(part, "[")
			for _, field := range reflect.VisibleFields(section) {
				if inner := structOf(field.Type); field.Tag.Get("yaml") == name && inner != nil {
					section = inner
					break
				}
			}
		}
	}), c.file.Docs[0].Body)
	var known []string
	for _, field := range reflect.VisibleFields(section) {
		if name := field.Tag.Get("yaml"); name != "" {
			known = append(known, name)
		}
	}
	return fmt.Sprintf("unknown key %q; %s", key.Value, suggest(key.Value, known))
}

// structOf returns the struct that a field is, or points to, or is a list of; nil for others.
func structOf(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	return t
}

type visitFunc func(ast.Node)

func (f visitFunc) Visit(node ast.Node) ast.Visitor { f(node); return f }

// oneOf is what to say about a value that is none of the known ones.
func (c *Config) oneOf(got string, known ...string) string {
	return fmt.Sprintf("unknown value %q; %s", got, suggest(got, known))
}

// suggest names the known word nearest to got, or all of them when none is near.
func suggest(got string, known []string) string {
	near := slices.MinFunc(known, func(a, b string) int { return distance(got, a) - distance(got, b) })
	if distance(got, near) <= max(2, len(near)/2) {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Sprintf("known here: %s", strings.Join(known, ", "))
}

// distance is the Levenshtein distance of two words, letter case aside.
func distance(a, b string) int {
	a, b = strings.ToLower(a), strings.ToLower(b)
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
