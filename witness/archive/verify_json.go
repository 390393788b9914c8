package archive

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds how deep JSON may be nested.
const maxDepth = 100

// decoder reads JSON as docs/evidence.md wants it: a name that appears twice in an object, a
// member that is missing or has another type, a number that is no integer from 0 to 2^63-1, and
// text that is no UTF-8 are errors; members that the Go type does not have are ignored.
// (encoding/json takes the last of two names, any case of a name, null for everything, and
// what is missing for zero.)
type decoder struct {
	data  []byte
	at    int
	depth int
	types map[reflect.Type][]member
}

// member is a field of a struct.
type member struct {
	name     string
	index    int
	optional bool
}

// decode reads the one JSON value in data into what v points to.
func (d *decoder) decode(data []byte, v any) error {
	d.data, d.at, d.depth = data, 0, 0
	if err := d.value(reflect.ValueOf(v).Elem()); err != nil {
		return err
	}
	if d.space(); d.at < len(data) {
		return errors.New("something follows the JSON")
	}
	return nil
}

// pathError says where in a value something is wrong.
type pathError struct {
	path string
	err  error
}

func (e *pathError) Error() string {
	return fmt.Sprintf("%s: %v", strings.TrimPrefix(e.path, "."), e.err)
}

func (e *pathError) Unwrap() error { return e.err }

func within(path string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*pathError); ok {
		e.path = path + e.path
		return e
	}
	return &pathError{path, err}
}

var errJSON = errors.New("not JSON")

func (d *decoder) space() {
	for d.at < len(d.data) {
		switch d.data[d.at] {
		case ' ', '\t', '\n', '\r':
			d.at++
		default:
			return
		}
	}
}

// peek returns the first byte of what comes next; 0 at the end.
func (d *decoder) peek() byte {
	if d.space(); d.at < len(d.data) {
		return d.data[d.at]
	}
	return 0
}

func (d *decoder) take(c byte) bool {
	if d.peek() != c {
		return false
	}
	d.at++
	return true
}

func (d *decoder) word(w string) bool {
	d.space()
	if !strings.HasPrefix(string(d.data[d.at:min(d.at+len(w), len(d.data))]), w) {
		return false
	}
	d.at += len(w)
	return true
}

// value reads what comes next into v.
func (d *decoder) value(v reflect.Value) error {
	if p, ok := v.Addr().Interface().(interface{ parse(text string) error }); ok {
		text, err := d.text()
		if err != nil {
			return err
		}
		return p.parse(text)
	}
	switch v.Kind() {
	case reflect.Pointer:
		if d.peek() == 'n' && d.word("null") {
			v.SetZero()
			return nil
		}
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem())
	case reflect.Struct:
		return d.object(v)
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[rawJSON]() {
			d.space()
			from := d.at
			err := d.skip()
			v.SetBytes(bytes.Clone(d.data[from:d.at]))
			return err
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return d.bytes(v)
		}
		return d.array(v)
	case reflect.String:
		text, err := d.text()
		v.SetString(text)
		return err
	case reflect.Bool:
		switch {
		case d.word("true"):
			v.SetBool(true)
		case d.word("false"):
			v.SetBool(false)
		default:
			return errors.New("is not true or false")
		}
		return nil
	case reflect.Int64:
		n, err := d.integer()
		v.SetInt(int64(n))
		return err
	case reflect.Uint64:
		n, err := d.integer()
		v.SetUint(n)
		return err
	}
	panic("a pack has no " + v.Kind().String())
}

func (d *decoder) enter() error {
	if d.depth++; d.depth > maxDepth {
		return fmt.Errorf("is nested more than %d times", maxDepth)
	}
	return nil
}

// names calls member for each name of an object, which has to read its value.
func (d *decoder) names(member func(name string) error) error {
	if !d.take('{') {
		return errors.New("is not an object")
	}
	if err := d.enter(); err != nil {
		return err
	}
	if !d.take('}') {
		for {
			name, err := d.text()
			if err != nil || !d.take(':') {
				return errJSON
			}
			if err := member(name); err != nil {
				return within("."+quoted(name), err)
			}
			if d.take('}') {
				break
			}
			if !d.take(',') {
				return errJSON
			}
		}
	}
	d.depth--
	return nil
}

// quoted keeps a name that is not a plain word apart from what stands around it.
func quoted(name string) string {
	if len(name) < 64 && !strings.ContainsFunc(name, func(r rune) bool { return r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') }) {
		return name
	}
	return fmt.Sprintf("%.64q", name)
}

func (d *decoder) object(v reflect.Value) error {
	members := d.members(v.Type())
	var seen uint64
	others := map[string]bool(nil)
	err := d.names(func(name string) error {
		for i, m := range members {
			if m.name != name {
				continue
			}
			if seen&(1<<i) != 0 {
				return errors.New("is there twice")
			}
			seen |= 1 << i
			field := v.Field(m.index)
			if m.optional && field.Kind() == reflect.Pointer { // it may be missing, and not be null
				field.Set(reflect.New(field.Type().Elem()))
				field = field.Elem()
			}
			return d.value(field)
		}
		if others[name] {
			return errors.New("is there twice")
		}
		if others == nil {
			others = map[string]bool{}
		}
		others[name] = true
		return d.skip()
	})
	if err != nil {
		return err
	}
	for i, m := range members {
		if seen&(1<<i) == 0 && !m.optional {
			return within("."+m.name, errors.New("is missing"))
		}
	}
	return nil
}

// members returns the fields of a struct, as their tags name them.
func (d *decoder) members(t reflect.Type) []member {
	if list, ok := d.types[t]; ok {
		return list
	}
	list := make([]member, t.NumField())
	for i := range list {
		name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		list[i] = member{name, i, options == "omitempty"}
	}
	if d.types == nil {
		d.types = map[reflect.Type][]member{}
	}
	d.types[t] = list
	return list
}

// items calls item for each value of an array, which has to read it.
func (d *decoder) items(item func(i int) error) error {
	if !d.take('[') {
		return errors.New("is not a list")
	}
	if err := d.enter(); err != nil {
		return err
	}
	if !d.take(']') {
		for i := 0; ; i++ {
			if err := item(i); err != nil {
				return within("["+strconv.Itoa(i)+"]", err)
			}
			if d.take(']') {
				break
			}
			if !d.take(',') {
				return errJSON
			}
		}
	}
	d.depth--
	return nil
}

func (d *decoder) array(v reflect.Value) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return d.items(func(i int) error {
		if i == v.Cap() {
			v.Grow(1)
		}
		v.SetLen(i + 1)
		return d.value(v.Index(i))
	})
}

// bytes reads base64.
func (d *decoder) bytes(v reflect.Value) error {
	text, err := d.text()
	if err != nil {
		return err
	}
	raw, err := decodeBase64(text)
	v.SetBytes(raw)
	return err
}

// decodeBase64 reads base64 (RFC 4648, section 4) in its one form.
func decodeBase64(text string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || strings.ContainsAny(text, "\r\n") {
		return nil, fmt.Errorf("%.80q is not base64", text)
	}
	return raw, nil
}

// skip reads a value that nothing is known of.
func (d *decoder) skip() error {
	switch d.peek() {
	case '{':
		seen := map[string]bool{}
		return d.names(func(name string) error {
			if seen[name] {
				return errors.New("is there twice")
			}
			seen[name] = true
			return d.skip()
		})
	case '[':
		return d.items(func(int) error { return d.skip() })
	case '"':
		_, err := d.text()
		return err
	case 't', 'f', 'n':
		if d.word("true") || d.word("false") || d.word("null") {
			return nil
		}
		return errJSON
	}
	_, err := d.number()
	return err
}

// number reads a number, and returns how it is written.
func (d *decoder) number() (string, error) {
	d.space()
	start := d.at
	digits := func() bool {
		from := d.at
		for d.at < len(d.data) && d.data[d.at] >= '0' && d.data[d.at] <= '9' {
			d.at++
		}
		return d.at > from
	}
	one := func(set string) bool {
		if d.at < len(d.data) && strings.IndexByte(set, d.data[d.at]) >= 0 {
			d.at++
			return true
		}
		return false
	}
	one("-")
	if !one("0") && !digits() {
		return "", errors.New("is not a number")
	}
	if one(".") && !digits() {
		return "", errJSON
	}
	if one("eE") {
		if one("+-"); !digits() {
			return "", errJSON
		}
	}
	return string(d.data[start:d.at]), nil
}

func (d *decoder) integer() (uint64, error) {
	text, err := d.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n > math.MaxInt64 {
		return 0, fmt.Errorf("%.40s is not an integer from 0 to 2^63-1", text)
	}
	return n, nil
}

// text reads a string.
func (d *decoder) text() (string, error) {
	if !d.take('"') {
		return "", errors.New("is not text")
	}
	start := d.at
	for d.at < len(d.data) {
		switch c := d.data[d.at]; {
		case c == '"':
			raw := d.data[start:d.at]
			d.at++
			if !utf8.Valid(raw) {
				return "", errors.New("is not UTF-8")
			}
			return string(raw), nil
		case c == '\\':
			return d.escaped(start)
		case c < ' ':
			return "", errJSON
		}
		d.at++
	}
	return "", errJSON
}

// escaped reads the string from start on, in which the first backslash comes next.
func (d *decoder) escaped(start int) (string, error) {
	b := append([]byte(nil), d.data[start:d.at]...)
	for d.at < len(d.data) {
		c := d.data[d.at]
		d.at++
		switch {
		case c == '"':
			if !utf8.Valid(b) {
				return "", errors.New("is not UTF-8")
			}
			return string(b), nil
		case c < ' ':
			return "", errJSON
		case c != '\\':
			b = append(b, c)
			continue
		case d.at == len(d.data):
			return "", errJSON
		}
		c = d.data[d.at]
		d.at++
		if c == 'u' {
			r, err := d.codePoint()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
			continue
		}
		i := strings.IndexByte(`"\/bfnrt`, c)
		if i < 0 {
			return "", errJSON
		}
		b = append(b, "\"\\/\b\f\n\r\t"[i])
	}
	return "", errJSON
}

// codePoint reads what follows a \u; of a pair of surrogates both.
func (d *decoder) codePoint() (rune, error) {
	unit := func() (rune, bool) {
		if len(d.data)-d.at < 4 {
			return 0, false
		}
		n, err := strconv.ParseUint(string(d.data[d.at:d.at+4]), 16, 32)
		d.at += 4
		return rune(n), err == nil
	}
	r, ok := unit()
	if !ok {
		return 0, errJSON
	}
	if !utf16.IsSurrogate(r) {
		return r, nil
	}
	if len(d.data)-d.at >= 6 && d.data[d.at] == '\\' && d.data[d.at+1] == 'u' {
		d.at += 2
		if second, ok := unit(); ok {
			if r = utf16.DecodeRune(r, second); r != utf8.RuneError {
				return r, nil
			}
		}
	}
	return 0, errors.New("has half of a surrogate pair")
}
