package jinja

import (
	"strings"
	"unicode"
)

type strFunc = func(in *interp, t text, a []any) (any, error)

// strMethodTable lists Python's methods of str; those of no use in a template are refused by name.
func strMethodTable() map[string]*methodDef {
	table := map[string]*methodDef{}
	add := func(name, spec string, call strFunc) {
		table[name] = &methodDef{sig: sig(spec), call: func(in *interp, recv any, a []any, _ *rest) (any, error) {
			t := recv.(text)
			if err := in.scan(len(t.s)); err != nil {
				return nil, err
			}
			return call(in, t, a)
		}}
	}
	simple := func(name string, f func(*interp, text) (any, error)) {
		add(name, "", func(in *interp, t text, _ []any) (any, error) { return f(in, t) })
	}
	is := func(name string, ok func(rune) bool) {
		add(name, "", func(_ *interp, t text, _ []any) (any, error) {
			return t.s != "" && strings.IndexFunc(t.s, func(r rune) bool { return !ok(r) }) < 0, nil
		})
	}
	simple("upper", strUpper)
	simple("lower", strLower)
	simple("title", strTitle)
	simple("capitalize", strCapitalize)
	simple("swapcase", strSwapcase)
	add("strip", "chars=None", func(in *interp, t text, a []any) (any, error) { return stripText(in, t, a[0], true, true) })
	add("lstrip", "chars=None", func(in *interp, t text, a []any) (any, error) { return stripText(in, t, a[0], true, false) })
	add("rstrip", "chars=None", func(in *interp, t text, a []any) (any, error) { return stripText(in, t, a[0], false, true) })
	add("split", "sep=None maxsplit=-1", func(in *interp, t text, a []any) (any, error) { return splitText(in, t, a, false) })
	add("rsplit", "sep=None maxsplit=-1", func(in *interp, t text, a []any) (any, error) { return splitText(in, t, a, true) })
	add("splitlines", "keepends=False", func(in *interp, t text, a []any) (any, error) {
		return textList(in, splitLines(t, truth(a[0])))
	})
	add("partition", "sep", func(_ *interp, t text, a []any) (any, error) { return partition(t, a[0], strings.Index, false) })
	add("rpartition", "sep", func(_ *interp, t text, a []any) (any, error) { return partition(t, a[0], strings.LastIndex, true) })
	add("startswith", "prefix start=None end=None", func(_ *interp, t text, a []any) (any, error) { return affix(t, a, strings.HasPrefix) })
	add("endswith", "suffix start=None end=None", func(_ *interp, t text, a []any) (any, error) { return affix(t, a, strings.HasSuffix) })
	add("removeprefix", "prefix", func(_ *interp, t text, a []any) (any, error) {
		p, err := wantText(a[0])
		if err == nil && strings.HasPrefix(t.s, p.s) {
			t = t.slice(len(p.s), len(t.s))
		}
		return t, err
	})
	add("removesuffix", "suffix", func(_ *interp, t text, a []any) (any, error) {
		p, err := wantText(a[0])
		if err == nil && strings.HasSuffix(t.s, p.s) {
			t = t.slice(0, len(t.s)-len(p.s))
		}
		return t, err
	})
	add("replace", "old new count=-1", func(in *interp, t text, a []any) (any, error) {
		if err := plainOnly(t, "replace"); err != nil {
			return nil, err
		}
		old, err := wantText(a[0])
		if err != nil {
			return nil, err
		}
		repl, err := wantText(a[1])
		if err != nil {
			return nil, err
		}
		n, err := toInt(a[2])
		if err != nil {
			return nil, err
		}
		return replaceText(in, t, old, repl, n)
	})
	add("join", "iterable", joinMethod)
	add("find", "sub start=None end=None", func(_ *interp, t text, a []any) (any, error) { return find(t, a, strings.Index) })
	add("rfind", "sub start=None end=None", func(_ *interp, t text, a []any) (any, error) { return find(t, a, strings.LastIndex) })
	add("index", "sub start=None end=None", func(_ *interp, t text, a []any) (any, error) { return found(find(t, a, strings.Index)) })
	add("rindex", "sub start=None end=None", func(_ *interp, t text, a []any) (any, error) { return found(find(t, a, strings.LastIndex)) })
	add("count", "sub start=None end=None", func(_ *interp, t text, a []any) (any, error) {
		sub, part, _, err := window(t, a)
		return int64(strings.Count(part, sub)), err
	})
	add("center", "width fillchar='_'", func(in *interp, t text, a []any) (any, error) { return pad(in, t, a[0], a[1], 0) })
	add("ljust", "width fillchar='_'", func(in *interp, t text, a []any) (any, error) { return pad(in, t, a[0], a[1], -1) })
	add("rjust", "width fillchar='_'", func(in *interp, t text, a []any) (any, error) { return pad(in, t, a[0], a[1], 1) })
	add("zfill", "width", zfill)
	is("isspace", isSpace)
	is("isalpha", unicode.IsLetter)
	is("isdecimal", unicode.IsDigit)
	is("isprintable", unicode.IsPrint)
	table["isprintable"].call = func(_ *interp, recv any, _ []any, _ *rest) (any, error) {
		return strings.IndexFunc(recv.(text).s, func(r rune) bool { return !unicode.IsPrint(r) }) < 0, nil
	}
	add("isascii", "", func(_ *interp, t text, _ []any) (any, error) {
		return strings.IndexFunc(t.s, func(r rune) bool { return r > unicode.MaxASCII }) < 0, nil
	})
	add("islower", "", func(in *interp, t text, _ []any) (any, error) {
		return testCase(in, t, unicode.IsLower, unicode.IsUpper)
	})
	add("isupper", "", func(in *interp, t text, _ []any) (any, error) {
		return testCase(in, t, unicode.IsUpper, unicode.IsLower)
	})
	digit := func(r rune) bool {
		return unicode.IsDigit(r) || strings.ContainsRune("²³¹⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉", r)
	}
	is("isdigit", digit)
	is("isnumeric", func(r rune) bool { return digit(r) || unicode.IsNumber(r) })
	is("isalnum", func(r rune) bool { return unicode.IsLetter(r) || digit(r) || unicode.IsNumber(r) })
	table["format"] = &methodDef{sig: sig("* **"), call: formatMethod}
	for _, name := range []string{"casefold", "encode", "expandtabs", "format_map", "isidentifier", "istitle", "maketrans", "translate"} {
		table[name] = &methodDef{refused: "no use in a chat template"}
	}
	return table
}

// plainOnly refuses what would escape its arguments on a string marked safe.
func plainOnly(t text, name string) error {
	if t.markup {
		return failure(ErrUnsupported, "%s of a string marked safe", name)
	}
	return nil
}

func wantText(v any) (text, error) {
	if err := firstUndefined(v); err != nil {
		return text{}, err
	}
	t, ok := v.(text)
	if !ok {
		return text{}, failure(ErrType, "found a %s, want a string", typeName(v))
	}
	return t, nil
}

// stripText cuts blanks, or the characters of chars, off one or both ends.
func stripText(in *interp, t text, chars any, left, right bool) (any, error) {
	if chars == nil {
		return t.trim(left, right, isSpace), nil
	}
	set, err := wantText(chars)
	if err != nil {
		return nil, err
	}
	if err := in.scan(len(t.s) * max(1, len(set.s)/8)); err != nil {
		return nil, err
	}
	return t.trim(left, right, func(r rune) bool { return strings.ContainsRune(set.s, r) }), nil
}

func textList(in *interp, parts []text) (any, error) {
	l := &list{items: make([]any, len(parts)), own: true}
	for i, p := range parts {
		l.items[i] = p
	}
	return l, in.alloc(textSize * len(parts))
}

// splitText is str.split and, from the right, str.rsplit.
func splitText(in *interp, t text, a []any, fromRight bool) (any, error) {
	limit, err := toInt(a[1])
	if err != nil {
		return nil, err
	}
	if limit < 0 {
		limit = int64(len(t.s)) + 1
	}
	next := cutBlank
	if fromRight {
		next = cutBlankRight
	}
	if a[0] != nil {
		sep, err := wantText(a[0])
		if err != nil {
			return nil, err
		}
		if sep.s == "" {
			return nil, failure(ErrType, "empty separator")
		}
		next = func(t text, last bool) (part, rest text, more bool) { return cutSep(t, sep.s, fromRight, last) }
	}
	var parts []text
	for more := true; more; limit-- {
		var part text
		if err := in.spend(1); err != nil {
			return nil, err
		}
		if part, t, more = next(t, limit == 0); part.s != "" || a[0] != nil {
			parts = append(parts, part)
		}
	}
	if fromRight {
		for i, j := 0, len(parts)-1; i < j; i, j = i+1, j-1 {
			parts[i], parts[j] = parts[j], parts[i]
		}
	}
	return textList(in, parts)
}

// cutSep cuts t at the first (or last) sep; last says that no more cuts are allowed.
func cutSep(t text, sep string, fromRight, last bool) (part, rest text, more bool) {
	find := strings.Index
	if fromRight {
		find = strings.LastIndex
	}
	i := find(t.s, sep)
	if last || i < 0 {
		return t, text{}, false
	}
	head, tail := t.slice(0, i), t.slice(i+len(sep), len(t.s))
	if fromRight {
		return tail, head, true
	}
	return head, tail, true
}

// cutBlank cuts the first word off t; no more cuts leave the rest as it is, save leading blanks.
func cutBlank(t text, last bool) (part, rest text, more bool) {
	t = t.trim(true, false, isSpace)
	i := strings.IndexFunc(t.s, isSpace)
	if last || i < 0 {
		return t, text{}, false
	}
	return t.slice(0, i), t.slice(i, len(t.s)), true
}

func cutBlankRight(t text, last bool) (part, rest text, more bool) {
	t = t.trim(false, true, isSpace)
	if last {
		return t, text{}, false
	}
	word := strings.TrimRightFunc(t.s, func(r rune) bool { return !isSpace(r) })
	if word == "" {
		return t, text{}, false
	}
	return t.slice(len(word), len(t.s)), t.slice(0, len(word)), true
}

// isLineEnd lists what str.splitlines splits at, besides "\r\n".
func isLineEnd(r rune) bool {
	return r >= '\n' && r <= '\r' || r >= 0x1c && r <= 0x1e || r == 0x85 || r == 0x2028 || r == 0x2029
}

func splitLines(t text, keep bool) []text {
	var lines []text
	for t.s != "" {
		i := strings.IndexFunc(t.s, isLineEnd)
		if i < 0 {
			return append(lines, t)
		}
		end := i + byteOffset(t.s[i:], 1)
		if strings.HasPrefix(t.s[i:], "\r\n") {
			end = i + 2
		}
		if keep {
			i = end
		}
		lines = append(lines, t.slice(0, i))
		t = t.slice(end, len(t.s))
	}
	return lines
}
