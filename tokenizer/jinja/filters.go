package jinja

import (
	"math"
	"strconv"
	"strings"
	"unicode"
)

// refusedFilters exist in the reference; chat templates have no use for them.
var refusedFilters = map[string]string{
	"escape": "chat templates are not escaped", "e": "chat templates are not escaped", "forceescape": "chat templates are not escaped",
	"xmlattr": "chat templates are not escaped", "striptags": "no HTML here", "urlize": "no HTML here", "urlencode": "no URLs here",
	"filesizeformat": "no use in a chat", "pprint": "no use in a chat", "random": "rendering is deterministic", "wordwrap": "no use in a chat",
	"groupby": "no use in a chat",
}

type filterFunc = func(in *interp, a []any, r *rest) (any, error)

// filterTable lists the filters; the first parameter of each is the value filtered.
func filterTable() map[string]*function {
	table := map[string]*function{}
	add := func(names, spec string, call filterFunc) {
		for _, name := range strings.Fields(names) {
			table[name] = &function{sig: sig(spec), call: call}
		}
	}
	add("tojson", "value ensure_ascii=False indent=None separators=None sort_keys=False", filterToJSON)
	add("length count", "obj", func(in *interp, a []any, _ *rest) (any, error) {
		n, err := length(a[0])
		return int64(n), join(err, in.scan(n))
	})
	add("default d", "value default_value='' boolean=False", func(_ *interp, a []any, _ *rest) (any, error) {
		if _, u := a[0].(*undefined); u || truth(a[2]) && !truth(a[0]) {
			return a[1], nil
		}
		return a[0], nil
	})
	add("string", "object", func(in *interp, a []any, _ *rest) (any, error) { return in.soft(a[0]) })
	add("safe", "value", filterSafe)
	add("upper", "s", onText(strUpper))
	add("lower", "s", onText(strLower))
	add("capitalize", "s", onText(strCapitalize))
	add("title", "s", onText(filterTitle))
	add("trim", "value chars=None", func(in *interp, a []any, _ *rest) (any, error) {
		t, err := in.soft(a[0])
		if err != nil {
			return nil, err
		}
		return stripText(in, t, a[1], true, true)
	})
	add("replace", "s old new count=None", filterReplace)
	add("indent", "s width=4 first=False blank=False", filterIndent)
	add("center", "value width=80", func(in *interp, a []any, _ *rest) (any, error) {
		t, err := in.soft(a[0])
		if err != nil {
			return nil, err
		}
		return pad(in, t, a[1], text{s: " "}, 0)
	})
	add("truncate", "s length=255 killwords=False end='...' leeway=5", filterTruncate)
	add("wordcount", "s", func(in *interp, a []any, _ *rest) (any, error) {
		t, err := in.soft(a[0])
		word := func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsNumber(r) }
		return int64(len(strings.FieldsFunc(t.s, word))), err
	})
	add("format", "value * **", func(in *interp, a []any, r *rest) (any, error) {
		t, err := in.soft(a[0])
		if err != nil {
			return nil, err
		}
		if len(r.kw) == 0 {
			return in.printf(t, &list{items: r.args, tuple: true})
		}
		if len(r.args) > 0 {
			return nil, failure(ErrType, "positional and named values at the same time")
		}
		d := newDict()
		for _, k := range r.kw {
			_ = d.set(text{s: k.name}, k.val) // a string is always hashable
		}
		return in.printf(t, d)
	})
	add("int", "value default=0 base=10", filterInt)
	add("float", "value default=None", filterFloat)
	add("abs", "x", filterAbs)
	add("round", "value precision=0 method='common'", filterRound)
	add("attr", "obj name", func(in *interp, a []any, _ *rest) (any, error) {
		name, ok := a[1].(text)
		if !ok {
			return nil, failure(ErrType, "name of an attribute is a %s", typeName(a[1]))
		}
		if v, ok, err := in.pyAttr(a[0], name.s); ok || err != nil {
			return v, err
		}
		return undef("'%s object' has no attribute '%s'", typeName(a[0]), name.s), nil
	})
	addListFilters(add)
	return table
}

// soft is the reference's soft_str: strings as they are, str() of anything else.
func (in *interp) soft(v any) (text, error) {
	if t, ok := v.(text); ok {
		return t, in.scan(len(t.s))
	}
	return in.str(v)
}

// onText makes a filter of a function on strings; anything else is turned into one first.
func onText(f func(in *interp, t text) (any, error)) filterFunc {
	return func(in *interp, a []any, _ *rest) (any, error) {
		t, err := in.soft(a[0])
		if err != nil {
			return nil, err
		}
		return f(in, t)
	}
}

func filterSafe(in *interp, a []any, _ *rest) (any, error) {
	t, err := in.soft(a[0])
	t.markup = true
	return t, err
}

func filterReplace(in *interp, a []any, _ *rest) (any, error) {
	var t [3]text
	for i := range t {
		var err error
		if t[i], err = in.str(a[i]); err != nil {
			return nil, err
		}
	}
	n := int64(-1)
	if a[3] != nil {
		var err error
		if n, err = toInt(a[3]); err != nil {
			return nil, err
		}
	}
	return replaceText(in, t[0], t[1], t[2], n)
}

func filterIndent(in *interp, a []any, _ *rest) (any, error) {
	t, ok := a[0].(text)
	if !ok {
		if err := firstUndefined(a[0]); err != nil {
			return nil, err
		}
		return nil, failure(ErrType, "indent of a %s", typeName(a[0]))
	}
	prefix, ok := a[1].(text)
	if !ok {
		n, err := toInt(a[1])
		if err != nil {
			return nil, err
		}
		if prefix, err = in.repeat(text{s: " "}, n); err != nil {
			return nil, err
		}
	}
	var b builder
	if truth(a[2]) {
		b.add(prefix)
	}
	lines := splitLines(concat(t, text{s: "\n"}), false)
	if err := in.alloc((len(prefix.s)+1)*len(lines) + len(t.s)); err != nil {
		return nil, err
	}
	for i, line := range lines {
		if i > 0 {
			b.str("\n", false)
			if line.s != "" || truth(a[3]) {
				b.add(prefix)
			}
		}
		b.add(line)
	}
	out := b.text()
	out.markup = t.markup
	return out, nil
}

func filterTruncate(in *interp, a []any, _ *rest) (any, error) {
	t, isText := a[0].(text)
	end, endText := a[3].(text)
	if !isText || !endText {
		return nil, failure(ErrType, "truncate of a %s", typeName(a[0]))
	}
	size, err := toInt(a[1])
	if err != nil {
		return nil, err
	}
	leeway, err := toInt(a[4])
	if err != nil {
		return nil, err
	}
	n := int64(t.runeLen())
	if err := in.scan(len(t.s)); err != nil {
		return nil, err
	}
	keep := size - int64(end.runeLen())
	if keep < 0 || leeway < 0 {
		return nil, failure(ErrType, "truncate to %d characters, leeway %d", size, leeway)
	}
	if n <= size+leeway {
		return t, nil
	}
	t = t.slice(0, byteOffset(t.s, int(min(keep, n))))
	if !truth(a[2]) {
		if i := strings.LastIndexByte(t.s, ' '); i >= 0 {
			t = t.slice(0, i)
		}
	}
	return in.join2(t, end)
}

// toInt accepts what Python accepts as an index.
func toInt(v any) (int64, error) {
	if err := firstUndefined(v); err != nil {
		return 0, err
	}
	i, _, isInt, ok := number(v)
	if !ok || !isInt {
		return 0, failure(ErrType, "found a %s, want an int", typeName(v))
	}
	return i, nil
}

func filterInt(_ *interp, a []any, _ *rest) (any, error) {
	base, err := toInt(a[2])
	if err != nil {
		return nil, err
	}
	switch v := a[0].(type) {
	case *undefined:
		return nil, v.fail()
	case bigInt:
		return v, nil
	case text:
		i, ok, err := parseInt(v.s, base)
		if ok || err != nil {
			return i, err
		}
		if f, ok := parseFloat(v.s); ok {
			return floatToInt(f, a[1])
		}
		return a[1], nil
	}
	i, f, isInt, ok := number(a[0])
	switch {
	case !ok:
		return a[1], nil
	case isInt:
		return i, nil
	}
	return floatToInt(f, a[1])
}

func floatToInt(f float64, def any) (any, error) {
	switch {
	case math.IsNaN(f):
		return def, nil
	case math.IsInf(f, 0):
		return nil, failure(ErrType, "infinity has no integer")
	case math.Abs(f) >= 1<<63:
		return nil, overflow()
	}
	return int64(f), nil
}

// parseInt is Python's int(s, base): surrounding blanks, a sign, underscores between digits, a prefix where base allows it.
func parseInt(s string, base int64) (int64, bool, error) {
	s = strings.TrimFunc(s, isSpace)
	digits := strings.TrimLeft(s, "+-")
	if len(s)-len(digits) > 1 || digits == "" || strings.HasPrefix(digits, "_") || strings.HasSuffix(digits, "_") || strings.Contains(digits, "__") {
		return 0, false, nil
	}
	if base != 0 && (base < 2 || base > 36) {
		return 0, false, nil
	}
	if lower := strings.ToLower(digits); len(digits) > 2 && (base == 16 && strings.HasPrefix(lower, "0x") ||
		base == 8 && strings.HasPrefix(lower, "0o") || base == 2 && strings.HasPrefix(lower, "0b")) {
		digits = strings.TrimPrefix(digits[2:], "_")
	}
	if base == 0 && len(digits) > 1 && digits[0] == '0' && isDigit(digits[1]) {
		return 0, false, nil
	}
	if base != 0 {
		digits = strings.ReplaceAll(digits, "_", "")
	}
	if s[0] == '-' {
		digits = "-" + digits
	}
	i, err := strconv.ParseInt(digits, int(base), 64)
	if err != nil {
		if e := err.(*strconv.NumError); e.Err == strconv.ErrRange {
			return 0, false, overflow()
		}
		return 0, false, nil
	}
	return i, true, nil
}

func parseFloat(s string) (float64, bool) {
	s = strings.TrimFunc(s, isSpace)
	if strings.ContainsAny(s, "xXpP") {
		return 0, false
	}
	if strings.Contains(s, "_") {
		for i := range len(s) {
			if s[i] == '_' && (i == 0 || i == len(s)-1 || !isDigit(s[i-1]) || !isDigit(s[i+1])) {
				return 0, false
			}
		}
		s = strings.ReplaceAll(s, "_", "")
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !math.IsInf(f, 0) {
		return 0, false
	}
	return f, true
}

func filterFloat(_ *interp, a []any, _ *rest) (any, error) {
	if a[1] == nil {
		a[1] = 0.0
	}
	switch v := a[0].(type) {
	case *undefined:
		return nil, v.fail()
	case text:
		if f, ok := parseFloat(v.s); ok {
			return f, nil
		}
		return a[1], nil
	case bigInt:
		f, _ := parseFloat(string(v))
		return f, nil
	}
	if _, f, isInt, ok := number(a[0]); ok {
		if i, _, _, _ := number(a[0]); isInt {
			return float64(i), nil
		}
		return f, nil
	}
	return a[1], nil
}

func filterAbs(_ *interp, a []any, _ *rest) (any, error) {
	if err := firstUndefined(a[0]); err != nil {
		return nil, err
	}
	i, f, isInt, ok := number(a[0])
	switch {
	case !ok:
		return nil, failure(ErrType, "abs of a %s", typeName(a[0]))
	case !isInt:
		return math.Abs(f), nil
	case i < 0:
		return negate(i, true)
	}
	return i, nil
}

func filterRound(_ *interp, a []any, _ *rest) (any, error) {
	prec, err := toInt(a[1])
	if err != nil {
		return nil, err
	}
	how, _ := a[2].(text)
	if how.s != "common" && how.s != "ceil" && how.s != "floor" {
		return nil, failure(ErrType, "round method must be common, ceil or floor")
	}
	if prec < -18 || prec > 300 {
		return nil, failure(ErrUnsupported, "round to %d digits", prec)
	}
	if err := firstUndefined(a[0]); err != nil {
		return nil, err
	}
	i, f, isInt, ok := number(a[0])
	if !ok {
		return nil, failure(ErrType, "round of a %s", typeName(a[0]))
	}
	if how.s != "common" {
		scaled := f * math.Pow(10, float64(prec))
		if how.s == "ceil" {
			scaled = math.Ceil(scaled)
		} else {
			scaled = math.Floor(scaled)
		}
		return scaled / math.Pow(10, float64(prec)), nil
	}
	if isInt {
		if prec >= 0 {
			return i, nil
		}
		unit := int64(math.Pow(10, float64(-prec)))
		q := math.RoundToEven(float64(i) / float64(unit))
		return int64(q) * unit, nil
	}
	if prec >= 0 {
		r, err := strconv.ParseFloat(strconv.FormatFloat(f, 'f', int(prec), 64), 64) // exact decimal digits, ties to even, as Python
		if err != nil {
			return f, nil
		}
		return r, nil
	}
	unit := math.Pow(10, float64(-prec))
	return math.RoundToEven(f/unit) * unit, nil
}
