package jinja

import (
	"fmt"
	"math"
	"sort"
	"strconv"
	"strings"
	"unicode/utf16"
)

// jsonStyle holds the options of the tojson filter, which are those of Python's json.dumps.
type jsonStyle struct {
	in        *interp
	ascii     bool
	pretty    bool // one item a line, indented by indent
	indent    text
	item, key text // separators
	sortKeys  bool
}

// maxIndent bounds the indent, which every level of every line repeats.
const maxIndent = 256

// filterToJSON has transformers' signature: tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False).
func filterToJSON(in *interp, a []any, _ *rest) (any, error) {
	st := jsonStyle{in: in, ascii: truth(a[1]), sortKeys: truth(a[4]), item: text{s: ", ", data: true}, key: text{s: ": ", data: true}}
	switch w := a[2].(type) {
	case nil:
	case text:
		st.pretty, st.indent = true, w
	default:
		n, err := toInt(w)
		if err != nil {
			return nil, err
		}
		st.pretty = true
		if st.indent, err = in.repeat(text{s: " ", data: true}, n); err != nil {
			return nil, err
		}
	}
	if len(st.indent.s) > maxIndent {
		return nil, failure(ErrMemory, "indent of %d bytes", len(st.indent.s))
	}
	if st.pretty {
		st.item = text{s: ",", data: true}
	}
	if a[3] != nil {
		seps, err := in.iterate(a[3])
		if err != nil {
			return nil, err
		}
		if len(seps) != 2 {
			return nil, failure(ErrType, "separators need two strings, not %d values", len(seps))
		}
		var ok [2]bool
		st.item, ok[0] = seps[0].(text)
		st.key, ok[1] = seps[1].(text)
		if !ok[0] || !ok[1] {
			return nil, failure(ErrType, "separators are not strings")
		}
	}
	var b builder
	if err := st.write(&b, a[0], 0); err != nil {
		return nil, err
	}
	return b.text(), in.alloc(b.len())
}

func (st *jsonStyle) write(b *builder, v any, depth int) error {
	if depth > maxValueDepth {
		return failure(ErrDepth, "value nested deeper than %d", maxValueDepth)
	}
	if err := st.in.spend(1); err != nil {
		return err
	}
	if b.len() > st.in.lim.Memory {
		return st.in.alloc(b.len())
	}
	switch v := v.(type) {
	case text:
		st.writeText(b, v)
		return nil
	case *list:
		return st.writeItems(b, "[", "]", len(v.items), depth, func(i int) error { return st.write(b, v.items[i], depth+1) })
	case *dict:
		return st.writeDict(b, v, depth)
	}
	s, ok := jsonScalar(v)
	if !ok {
		return failure(ErrType, "a %s has no JSON form", typeName(v))
	}
	b.str(s, true)
	return nil
}

func jsonScalar(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "null", true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case bigInt:
		return string(v), true
	case float64:
		switch {
		case math.IsNaN(v):
			return "NaN", true
		case math.IsInf(v, 1):
			return "Infinity", true
		case math.IsInf(v, -1):
			return "-Infinity", true
		}
		return formatFloat(v), true
	}
	return "", false
}

func (st *jsonStyle) writeItems(b *builder, open, end string, n, depth int, item func(int) error) error {
	b.str(open, true)
	for i := range n {
		if i > 0 {
			b.add(st.item)
		}
		st.newline(b, depth+1)
		if err := item(i); err != nil {
			return err
		}
	}
	if n > 0 {
		st.newline(b, depth)
	}
	b.str(end, true)
	return nil
}

func (st *jsonStyle) newline(b *builder, depth int) {
	if st.pretty {
		b.str("\n", true)
		for range depth {
			b.add(st.indent)
		}
	}
}

func (st *jsonStyle) writeDict(b *builder, d *dict, depth int) error {
	order := make([]int, len(d.keys))
	for i := range order {
		order[i] = i
	}
	if st.sortKeys {
		var failed error
		sort.SliceStable(order, func(i, j int) bool {
			c, err := st.in.order(d.keys[order[i]], d.keys[order[j]], 0)
			if err != nil {
				failed = err
			}
			return c < 0
		})
		if failed != nil {
			return failed
		}
	}
	return st.writeItems(b, "{", "}", len(order), depth, func(i int) error {
		key := d.keys[order[i]]
		if t, ok := key.(text); ok {
			st.writeText(b, t)
		} else if s, ok := jsonScalar(key); ok {
			b.str(`"`+s+`"`, true)
		} else {
			return failure(ErrType, "a %s cannot be a JSON key", typeName(key))
		}
		b.add(st.key)
		return st.write(b, d.vals[order[i]], depth+1)
	})
}

var jsonEscapes = map[rune]string{'"': `\"`, '\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`, '\b': `\b`, '\f': `\f`}

func (st *jsonStyle) writeText(b *builder, t text) {
	b.str(`"`, true)
	if !strings.ContainsFunc(t.s, func(r rune) bool { return r < ' ' || r == '"' || r == '\\' || st.ascii && r > '~' }) {
		b.add(t)
	} else {
		b.add(t.mapRunes(func(_ int, r rune) string {
			if e, ok := jsonEscapes[r]; ok {
				return e
			}
			switch {
			case r < ' ' || st.ascii && r > '~' && r < 0x10000:
				return fmt.Sprintf(`\u%04x`, r)
			case st.ascii && r >= 0x10000:
				hi, lo := utf16.EncodeRune(r)
				return fmt.Sprintf(`\u%04x\u%04x`, hi, lo)
			}
			return string(r)
		}))
	}
	b.str(`"`, true)
}
