package jinja

import (
	"strings"
	"unicode"
)

func testTable() map[string]*function {
	table := map[string]*function{}
	add := func(names, spec string, call func(in *interp, a []any) (bool, error)) {
		f := &function{sig: sig(spec), call: func(in *interp, a []any, _ *rest) (any, error) { return call(in, a) }}
		for _, name := range strings.Fields(names) {
			table[name] = f
		}
	}
	is := func(name string, ok func(v any) bool) {
		add(name, "value", func(_ *interp, a []any) (bool, error) { return ok(a[0]), nil })
	}
	is("defined", func(v any) bool { _, u := v.(*undefined); return !u })
	is("undefined", func(v any) bool { _, u := v.(*undefined); return u })
	is("none", func(v any) bool { return v == nil })
	is("boolean", func(v any) bool { _, ok := v.(bool); return ok })
	is("true", func(v any) bool { return v == true })
	is("false", func(v any) bool { return v == false })
	is("integer", isInteger)
	is("float", func(v any) bool { _, ok := v.(float64); return ok })
	is("string", func(v any) bool { _, ok := v.(text); return ok })
	is("mapping", func(v any) bool { _, ok := v.(*dict); return ok })
	is("number", func(v any) bool { _, _, _, ok := number(v); _, big := v.(bigInt); return ok || big })
	is("iterable", isIterable)
	is("sequence", isSequence)
	is("callable", isCallable)
	is("escaped", func(v any) bool { t, ok := v.(text); return ok && t.markup })
	add("filter", "value", func(_ *interp, a []any) (bool, error) { return isName(a[0], filters, refusedFilters) })
	add("test", "value", func(_ *interp, a []any) (bool, error) { return isName(a[0], tests, nil) })
	add("lower", "value", func(in *interp, a []any) (bool, error) { return testCase(in, a[0], unicode.IsLower, unicode.IsUpper) })
	add("upper", "value", func(in *interp, a []any) (bool, error) { return testCase(in, a[0], unicode.IsUpper, unicode.IsLower) })
	add("sameas", "value other", func(_ *interp, a []any) (bool, error) { return sameAs(a[0], a[1]) })
	add("odd", "value", func(in *interp, a []any) (bool, error) { return testMod(in, a[0], 2, 1) })
	add("even", "value", func(in *interp, a []any) (bool, error) { return testMod(in, a[0], 2, 0) })
	add("divisibleby", "value num", func(in *interp, a []any) (bool, error) { return testMod(in, a[0], a[1], 0) })
	add("in", "value seq", func(in *interp, a []any) (bool, error) { return in.has(a[1], a[0]) })
	for op, names := range map[string]string{"==": "eq equalto", "!=": "ne", ">": "gt greaterthan", ">=": "ge", "<": "lt lessthan", "<=": "le"} {
		add(names+" "+op, "a b", func(in *interp, a []any) (bool, error) { return in.compare(op, a[0], a[1]) })
	}
	return table
}

func isInteger(v any) bool {
	switch v.(type) {
	case int64, bigInt:
		return true
	}
	return false
}

func isIterable(v any) bool {
	switch v.(type) {
	case text, *list, *dict, *view, *stream, *span, *undefined, *loop:
		return true
	}
	return false
}

// isSequence: what has a length and subscripts; the reference counts dictionaries and undefined.
func isSequence(v any) bool {
	switch v.(type) {
	case text, *list, *dict, *span, *undefined:
		return true
	}
	return false
}

func isCallable(v any) bool {
	switch v.(type) {
	case *macro, *builtin, *method, *joiner, *loop, *undefined:
		return true
	}
	return false
}

func isName(v any, table map[string]*function, refused map[string]string) (bool, error) {
	t, ok := v.(text)
	return ok && (table[t.s] != nil || refused[t.s] != ""), nil
}

// testCase is str.islower or str.isupper: no cased character of the other case, and one of this.
func testCase(in *interp, v any, want, other func(rune) bool) (bool, error) {
	t, err := in.str(v)
	if err != nil {
		return false, err
	}
	found := false
	for _, r := range t.s {
		if other(r) || unicode.IsTitle(r) {
			return false, nil
		}
		found = found || want(r)
	}
	return found, in.scan(len(t.s))
}

// sameAs is Python's "is", where it does not depend on how the interpreter stores strings and numbers.
func sameAs(a, b any) (bool, error) {
	switch a.(type) {
	case text, float64, bigInt:
		if typeName(a) == typeName(b) {
			return false, failure(ErrUnsupported, "sameas of two values of type %s", typeName(a))
		}
		return false, nil
	}
	return a == b, nil
}

func testMod(in *interp, v, by any, want int64) (bool, error) {
	if n, ok := by.(int); ok {
		by = int64(n)
	}
	r, err := in.binary("%", v, by)
	if err != nil {
		return false, err
	}
	return in.equal(r, want, 0)
}
