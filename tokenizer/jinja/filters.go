package jinja

import (
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
