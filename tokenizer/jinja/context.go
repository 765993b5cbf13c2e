package jinja

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Context is what a template renders. The names it defines are those transformers defines: messages, tools, documents (None without
// any), add_generation_prompt, the special tokens, and Vars.
type Context struct {
	Messages            []Value // each an object with role and content, as an OpenAI request has them
	Tools               []Value // JSON schemas of functions
	Documents           []Value
	AddGenerationPrompt bool
	Special             map[string]string // bos_token, eos_token ...; a token the tokenizer lacks is absent, not empty. Trusted
	Vars                map[string]Value  // further variables such as enable_thinking; they override the names above
	Now                 time.Time         // what strftime_now prints; the zero time makes it an error
}

// Value is a value of a Context. Its zero value is None. Strings in it are data unless made by Trusted. A Value unmarshals from JSON,
// keeping the order of keys; encoding/json may fill a []Value from a request's "messages".
type Value struct{ v any }

// Field is one entry of an Object.
type Field struct {
	Name  string
	Value Value
}

// Data returns a string from outside: control tokens in it do not count.
func Data(s string) Value { return Value{text{s: validUTF8(s), data: true}} }

// Trusted returns a string that counts as the template's own text.
func Trusted(s string) Value { return Value{text{s: validUTF8(s)}} }

// Bool returns a boolean.
func Bool(b bool) Value { return Value{b} }

// Int returns an integer.
func Int(i int64) Value { return Value{i} }

// Float returns a floating-point number.
func Float(f float64) Value { return Value{f} }

// Array returns a list.
func Array(items ...Value) Value {
	l := &list{items: make([]any, len(items))}
	for i, it := range items {
		l.items[i] = it.v
	}
	return Value{l}
}

// Object returns a dictionary with the given order of keys.
func Object(fields ...Field) Value {
	d := newDict()
	for _, f := range fields {
		_ = d.set(text{s: validUTF8(f.Name), data: true}, f.Value.v) // a string is always hashable
	}
	return Value{d}
}

// Text returns the message {role, content}.
func Text(role, content string) Value {
	return Object(Field{"role", Data(role)}, Field{"content", Data(content)})
}

func validUTF8(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// maxJSONDepth bounds how deep a Context's JSON nests.
const maxJSONDepth = 100

// UnmarshalJSON reads any JSON value. Numbers with a point or an exponent are floats, others integers of any size.
func (v *Value) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	val, err := decodeJSON(dec, 0)
	if err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return fmt.Errorf("at byte %d: more than one JSON value", dec.InputOffset())
	}
	v.v = val
	return nil
}

func decodeJSON(dec *json.Decoder, depth int) (any, error) {
	if depth > maxJSONDepth {
		return nil, fmt.Errorf("at byte %d: JSON nested deeper than %d", dec.InputOffset(), maxJSONDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch tok := tok.(type) {
	case json.Number:
		return decodeNumber(string(tok))
	case string:
		return text{s: tok, data: true}, nil
	case bool:
		return tok, nil
	case json.Delim:
		if tok == '[' {
			return decodeArray(dec, depth)
		}
		return decodeObject(dec, depth)
	}
	return nil, nil
}

func decodeArray(dec *json.Decoder, depth int) (any, error) {
	l := &list{}
	for dec.More() {
		it, err := decodeJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		l.items = append(l.items, it)
	}
	_, err := dec.Token()
	return l, err
}

func decodeObject(dec *json.Decoder, depth int) (any, error) {
	d := newDict()
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return nil, err
		}
		val, err := decodeJSON(dec, depth+1)
		if err != nil {
			return nil, err
		}
		if err := d.set(text{s: key.(string), data: true}, val); err != nil {
			return nil, err
		}
	}
	_, err := dec.Token()
	return d, err
}

func decodeNumber(s string) (any, error) {
	if strings.ContainsAny(s, ".eE") {
		f, err := strconv.ParseFloat(s, 64)
		if err != nil && f == 0 {
			return nil, err
		}
		return f, nil
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return bigInt(s), nil
	}
	return i, nil
}

// plainRoles are the role names whose text counts as the template's: some templates write a control token around the role
// ("<|" + role + "|>"), and none of these names is a token that ends or opens anything else. Any other role is data.
var plainRoles = map[string]bool{
	"system": true, "developer": true, "user": true, "assistant": true, "model": true, "tool": true, "function": true,
	"ipython": true, "environment": true, "observation": true,
}

// names builds the variables that c defines. Messages are shared, never changed, save that a plain role is copied as trusted.
func (c *Context) names() map[string]any {
	vars := map[string]any{
		"messages":              trustRoles(c.Messages),
		"tools":                 valuesOrNone(c.Tools),
		"documents":             valuesOrNone(c.Documents),
		"add_generation_prompt": c.AddGenerationPrompt,
	}
	for name, s := range c.Special {
		vars[name] = text{s: validUTF8(s)}
	}
	for name, v := range c.Vars {
		vars[name] = v.v
	}
	return vars
}

func valuesOrNone(vals []Value) any {
	if vals == nil {
		return nil
	}
	return Array(vals...).v
}

func trustRoles(messages []Value) any {
	out := &list{items: make([]any, len(messages))}
	for i, m := range messages {
		out.items[i] = m.v
		d, ok := m.v.(*dict)
		if !ok {
			continue
		}
		role, _ := d.getStr("role")
		if t, ok := role.(text); ok && t.data && plainRoles[t.s] {
			c := &dict{keys: d.keys, vals: append([]any(nil), d.vals...), index: d.index}
			c.vals[d.index[strKey("role")]] = text{s: t.s}
			out.items[i] = c
		}
	}
	return out
}
