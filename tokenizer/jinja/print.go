package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

// formatFloat is Python's repr of a float: the shortest digits that read back, an exponent below 1e-4 and from 1e16 on.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// maxValueDepth bounds how deep containers nest when they are printed or compared.
const maxValueDepth = 200

// str is Python's str(v).
func (in *interp) str(v any) (text, error) {
	switch v := v.(type) {
	case text:
		v.markup = false
		return v, nil
	case *undefined:
		return text{}, nil
	case nil:
		return text{s: "None"}, nil
	case bool:
		if v {
			return text{s: "True"}, nil
		}
		return text{s: "False"}, nil
	case int64:
		return text{s: strconv.FormatInt(v, 10)}, nil
	case bigInt:
		return text{s: string(v)}, nil
	case float64:
		return text{s: formatFloat(v)}, nil
	}
	var b builder
	if err := in.repr(&b, v, 0); err != nil {
		return text{}, err
	}
	return b.text(), in.alloc(b.len())
}

// repr writes Python's repr(v). What it adds around strings counts as data: it is not the template's own text.
func (in *interp) repr(b *builder, v any, depth int) error {
	if depth > maxValueDepth {
		return failure(ErrDepth, "value nested deeper than %d", maxValueDepth)
	}
	if err := in.spend(1); err != nil {
		return err
	}
	if b.len() > in.lim.Memory {
		return in.alloc(b.len())
	}
	switch v := v.(type) {
	case text:
		if v.markup {
			b.str("Markup(", true)
		}
		reprText(b, v)
		if v.markup {
			b.str(")", true)
		}
		return nil
	case *undefined:
		b.str("Undefined", true)
		return nil
	case *list:
		open, end := "[", "]"
		if v.tuple {
			open, end = "(", ")"
			if len(v.items) == 1 {
				end = ",)"
			}
		}
		return in.reprItems(b, open, v.items, end, depth)
	case *dict:
		b.str("{", true)
		for i := range v.keys {
			if i > 0 {
				b.str(", ", true)
			}
			if err := in.repr(b, v.keys[i], depth+1); err != nil {
				return err
			}
			b.str(": ", true)
			if err := in.repr(b, v.vals[i], depth+1); err != nil {
				return err
			}
		}
		b.str("}", true)
		return nil
	case *view:
		return in.reprItems(b, "dict_"+v.kind+"([", v.items, "])", depth)
	case *span:
		b.str("range("+strconv.FormatInt(v.start, 10)+", "+strconv.FormatInt(v.stop, 10), true)
		if v.step != 1 {
			b.str(", "+strconv.FormatInt(v.step, 10), true)
		}
		b.str(")", true)
		return nil
	case nil, bool, int64, bigInt, float64:
		t, err := in.str(v)
		b.str(t.s, true)
		return err
	}
	return failure(ErrUnsupported, "a %s cannot be printed", typeName(v))
}

func (in *interp) reprItems(b *builder, open string, items []any, end string, depth int) error {
	b.str(open, true)
	for i, it := range items {
		if i > 0 {
			b.str(", ", true)
		}
		if err := in.repr(b, it, depth+1); err != nil {
			return err
		}
	}
	b.str(end, true)
	return nil
}

var reprEscapes = map[rune]string{'\\': `\\`, '\n': `\n`, '\r': `\r`, '\t': `\t`}

func reprText(b *builder, t text) {
	quote := "'"
	if strings.Contains(t.s, "'") && !strings.Contains(t.s, `"`) {
		quote = `"`
	}
	b.str(quote, true)
	b.add(t.mapRunes(func(_ int, r rune) string {
		if e, ok := reprEscapes[r]; ok {
			return e
		}
		if string(r) == quote {
			return `\` + quote
		}
		if !unicode.IsPrint(r) {
			return backslashReplace(r)
		}
		return string(r)
	}))
	b.str(quote, true)
}
