package e2etrust

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/goccy/go-yaml"
)

// object is a Kubernetes object, or a part of one, as YAML gives it.
type object = map[string]any

// crd is a CustomResourceDefinition. A Kubernetes API server holds objects against it.
type crd struct {
	Spec struct {
		Group    string
		Names    struct{ Kind string }
		Versions []struct {
			Name   string
			Served bool
			Schema struct {
				OpenAPIV3Schema schema `yaml:"openAPIV3Schema"`
			}
		}
	}
}

func readCRD(file string) (*crd, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	d := &crd{}
	return d, yaml.Unmarshal(text, d)
}

// check says why an API server would refuse an object. A key that the definition does not have is
// refused, too: kubectl does so, while the server drops it.
func (d *crd) check(o object) error {
	if o["kind"] != d.Spec.Names.Kind {
		return fmt.Errorf("kind %v, want %s", o["kind"], d.Spec.Names.Kind)
	}
	meta, _ := o["metadata"].(object)
	if name, _ := meta["name"].(string); name == "" || len(meta) != 1 {
		return fmt.Errorf("metadata %v, want a name alone", o["metadata"])
	}
	for _, v := range d.Spec.Versions {
		if v.Served && o["apiVersion"] == d.Spec.Group+"/"+v.Name {
			o = maps.Clone(o)
			for _, key := range []string{"apiVersion", "kind", "metadata"} { // the server knows them by itself
				delete(o, key)
			}
			return v.Schema.OpenAPIV3Schema.check(o, "")
		}
	}
	return fmt.Errorf("apiVersion %v is not served", o["apiVersion"])
}

// schema is an OpenAPI schema, as far as CustomResourceDefinitions have it.
type schema map[string]any

// keywords are what check understands, and what says nothing about whether a value is valid. Another one
// is an error, where it is met, lest it go unchecked.
var keywords = []string{"type", "enum", "oneOf", "required", "properties", "additionalProperties", "items",
	"description", "x-kubernetes-list-type", "x-kubernetes-map-type"}

func (s schema) check(value any, at string) error {
	for keyword := range s {
		if !slices.Contains(keywords, keyword) {
			return fmt.Errorf("%s: the schema has %s, which the test does not understand", at, keyword)
		}
	}
	kind, typed := s["type"]
	if typed && typeOf(value) != kind {
		return fmt.Errorf("%s: %v is of type %s, want %s", at, value, typeOf(value), kind)
	}
	if enum, ok := s["enum"].([]any); ok && !slices.Contains(enum, value) {
		return fmt.Errorf("%s: %v is none of %v", at, value, enum)
	}
	if list, ok := s["oneOf"].([]any); ok {
		n := 0
		for _, one := range list {
			if schema(one.(object)).check(value, at) == nil {
				n++
			}
		}
		if n != 1 {
			return fmt.Errorf("%s: it conforms to %d of %v, want one", at, n, list)
		}
	}
	switch value := value.(type) {
	case object:
		required, _ := s["required"].([]any)
		for _, key := range required {
			if _, ok := value[key.(string)]; !ok {
				return fmt.Errorf("%s.%s is missing", at, key)
			}
		}
		if !typed { // an alternative, which has nothing to say about other keys
			return nil
		}
		properties, _ := s["properties"].(object)
		for _, key := range slices.Sorted(maps.Keys(value)) {
			of, ok := properties[key].(object)
			if !ok {
				if of, ok = s["additionalProperties"].(object); !ok {
					return fmt.Errorf("%s.%s is unknown", at, key)
				}
			}
			if err := schema(of).check(value[key], at+"."+key); err != nil {
				return err
			}
		}
	case []any:
		of, ok := s["items"].(object)
		if !ok {
			return errors.New(at + ": the schema does not say of what the list is")
		}
		for i, element := range value {
			if err := schema(of).check(element, fmt.Sprintf("%s[%d]", at, i)); err != nil {
				return err
			}
		}
	}
	return nil
}

// typeOf is OpenAPI's word for the type of a value.
func typeOf(value any) string {
	switch value.(type) {
	case object:
		return "object"
	case []any:
		return "array"
	case string:
		return "string"
	case bool:
		return "boolean"
	case int64, uint64:
		return "integer"
	case float64:
		return "number"
	}
	return fmt.Sprintf("%T", value)
}
