package archive

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

type jsonSample struct {
	Text  string   `json:"text"`
	N     uint64   `json:"n"`
	I     int64    `json:"i"`
	B     bool     `json:"b"`
	Raw   []byte   `json:"raw"`
	List  []string `json:"list"`
	Maybe *uint64  `json:"maybe"`
	Other string   `json:"other,omitempty"`
}

func TestJSON(t *testing.T) {
	const good = `{"text":"t","n":1,"i":2,"b":true,"raw":"AA==","list":["a"],"maybe":null}`
	replaced := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatal(old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, text := range []string{
		good,
		" \t\r\n" + replaced(`"n":1`, ` "n" : 1 `) + " ",
		replaced(`"t"`, `"ä€\u20ac\ud83d\ude00\"\\\/\b\f\n\r\t"`),
		replaced(`"t"`, `""`),
		replaced(`1`, `9223372036854775807`),
		replaced(`1`, `0`),
		replaced(`["a"]`, `[]`),
		replaced(`null`, `3`),
		replaced(`true`, `false`),
		replaced(`}`, `,"other":"o"}`),
		replaced(`}`, `,"Text":-1.5e+9,"x":[{"a":{"b":[]}},null,true,false,"\u00e4",0,-0.0,1E5],"y":{}}`),
		replaced(`}`, `,"x":`+strings.Repeat("[", 90)+strings.Repeat("]", 90)+`}`),
	} {
		var got, want jsonSample
		if err := new(decoder).decode([]byte(text), &got); err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if err := json.Unmarshal([]byte(strings.Replace(text, `"Text"`, `"more"`, 1)), &want); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v (%v)", text, got, want, err)
		}
	}
	for text, reason := range map[string]string{
		``:                                          "is not an object",
		`[]`:                                        "is not an object",
		`null`:                                      "is not an object",
		`{}`:                                        "text: is missing",
		good + "x":                                  "something follows",
		good[:len(good)-1]:                          "not JSON",
		replaced(`"text"`, `"Text"`):                "text: is missing",
		replaced(`"text":"t",`, ""):                 "text: is missing",
		replaced(`}`, `,"n":1}`):                    "n: is there twice",
		replaced(`}`, `,"x":1,"x":1}`):              "x: is there twice",
		replaced(`}`, `,"x":1,"\u0078":1}`):         "x: is there twice",
		replaced(`}`, `,"x":{"y":1,"y":2}}`):        "x.y: is there twice",
		replaced(`}`, `,}`):                         "not JSON",
		replaced(`}`, `,"x"}`):                      "not JSON",
		replaced(`}`, `,"x":}`):                     "x: is not a number",
		replaced(`}`, `,"x":tru}`):                  "x: not JSON",
		replaced(`}`, `,"x":01}`):                   "not JSON",
		replaced(`}`, `,"x":1.}`):                   "x: not JSON",
		replaced(`}`, `,"x":1e}`):                   "x: not JSON",
		replaced(`}`, `,"x":[1,]}`):                 "x[1]: is not a number",
		replaced(`}`, `,"x":[1 2]}`):                "x: not JSON",
		replaced(`}`, `,x:1}`):                      "not JSON",
		replaced(`,`, ` `):                          "not JSON",
		replaced(`"t"`, `1`):                        "text: is not text",
		replaced(`"t"`, `null`):                     "text: is not text",
		replaced(`"t"`, "\"\xff\""):                 "text: is not UTF-8",
		replaced(`"t"`, "\"\\n\xff\""):              "text: is not UTF-8",
		replaced(`"t"`, "\"\n\""):                   "text: not JSON",
		replaced(`"t"`, "\"\\n\n\""):                "text: not JSON",
		replaced(`"t"`, `"\x"`):                     "text: not JSON",
		replaced(`"t"`, `"\u12"`):                   "text: not JSON",
		replaced(`"t"`, `"\u+123"`):                 "text: not JSON",
		replaced(`"t"`, `"\ud83d"`):                 "text: has half",
		replaced(`"t"`, `"\ude00\ud83d"`):           "text: has half",
		replaced(`"t"`, `"\ud83dxude00"`):           "text: has half",
		`{"text":"\`:                                "text: not JSON",
		`{"text":"\n`:                               "text: not JSON",
		`{"text":"`:                                 "text: not JSON",
		`{"text":"\u1`:                              "text: not JSON",
		replaced(`1`, `-1`):                         "n: -1 is not an integer",
		replaced(`1`, `-0`):                         "n: -0 is not an integer",
		replaced(`1`, `1.0`):                        "n: 1.0 is not an integer",
		replaced(`1`, `1e0`):                        "n: 1e0 is not an integer",
		replaced(`1`, `9223372036854775808`):        "n: 9223372036854775808 is not",
		replaced(`1`, `99999999999999999999999999`): "is not an integer",
		replaced(`1`, `"1"`):                        "n: is not a number",
		replaced(`2`, `-2`):                         "i: -2 is not",
		replaced(`true`, `1`):                       "b: is not true or false",
		replaced(`["a"]`, `null`):                   "list: is not a list",
		replaced(`["a"]`, `["a",1]`):                "list[1]: is not text",
		replaced(`"AA=="`, `"AB=="`):                "raw: ",
		replaced(`"AA=="`, `"AA"`):                  "raw: ",
		replaced(`"AA=="`, `"AA==\n"`):              "raw: ",
		replaced(`null`, `"x"`):                     "maybe: is not a number",
		replaced(`null`, `nul`):                     "maybe: is not a number",
		replaced(`}`, `,"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}`):         "is nested more than",
		replaced(`}`, `,"x":`+strings.Repeat(`{"a":`, 200)+`1`+strings.Repeat("}", 200)+`}`): "is nested more than",
	} {
		if err := new(decoder).decode([]byte(text), new(jsonSample)); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: want %q, got %v", text, reason, err)
		}
	}
}

// FuzzJSON holds that what is read is JSON, and read again when it is written.
func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"text":"t","n":1,"i":2,"b":true,"raw":"AA==","list":["a"],"maybe":null,"x":[{"\u0061":1.5e3}]}`))
	f.Add([]byte(`{"text":"\ud83d\ude00","n":01,"i":-2,"b":true,"raw":"","list":[],"maybe":1}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got, again jsonSample
		err := new(decoder).decode(raw, &got)
		if err != nil {
			return
		}
		if !json.Valid(raw) {
			t.Fatalf("%q was read, and is no JSON", raw)
		}
		encoded, err := json.Marshal(got)
		if err != nil {
			t.Fatal(err)
		}
		if err := new(decoder).decode(encoded, &again); err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%q is written as %s: %v", raw, encoded, err)
		}
	})
}
