package jinja

import (
	"math"
	"strconv"
	"strings"
)

// spec is how one value is laid out, by "%05.1f" or by "{:>10}".
type spec struct {
	fill      string
	align     byte // '<' '>' '^' '=' or 0 for the type's own
	sign      byte // '+', ' ' or 0
	alt       bool
	comma     string
	width     int
	prec      int // -1 if none is given
	verb      byte
	precGiven bool
}

// maxWidth bounds widths and precisions in formats.
const maxWidth = 4096

// readInt reads digits at the head of s.
func readInt(s string) (n int, rest string, err error) {
	k := 0
	for k < len(s) && isDigit(s[k]) {
		k++
	}
	if k == 0 {
		return 0, s, nil
	}
	n, e := strconv.Atoi(s[:k])
	if e != nil || n > maxWidth {
		return 0, "", failure(ErrUnsupported, "format: width %s", s[:k])
	}
	return n, s[k:], nil
}

// printf is Python's "format % values".
func (in *interp) printf(t text, values any) (any, error) {
	if err := plainOnly(t, "%"); err != nil {
		return nil, err
	}
	args := []any{values}
	l, isList := values.(*list)
	if isList && l.tuple {
		args = l.items
	}
	d, isDict := values.(*dict)
	used := 0
	var b builder
	s := t.s
	for {
		i := strings.IndexByte(s, '%')
		if i < 0 {
			break
		}
		at := len(t.s) - len(s)
		b.add(t.slice(at, at+i))
		s = s[i+1:]
		sp, key, rest, err := parsePrintf(s)
		if err != nil {
			return nil, err
		}
		s = rest
		if sp.verb == '%' {
			b.str("%", t.originAt(len(t.s)-len(s)-1))
			continue
		}
		var v any
		if key != nil {
			if !isDict {
				return nil, failure(ErrType, "format needs a mapping, found a %s", typeName(values))
			}
			var ok bool
			if v, ok = d.getStr(*key); !ok {
				return nil, failure(ErrType, "format: no key %q", *key)
			}
		} else {
			if used >= len(args) {
				return nil, failure(ErrType, "not enough values for the format")
			}
			v = args[used]
			used++
		}
		out, err := in.formatVerb(sp, v)
		if err != nil {
			return nil, err
		}
		b.add(out)
		if err := in.alloc(len(out.s)); err != nil {
			return nil, err
		}
	}
	b.add(t.slice(len(t.s)-len(s), len(t.s)))
	_, isUndefined := values.(*undefined)
	mapping := isDict || isUndefined || isList && !l.tuple // what Python takes for one need not be used
	if used < len(args) && !mapping {
		return nil, failure(ErrType, "not all values were used by the format")
	}
	return b.text(), in.alloc(len(t.s))
}

// parsePrintf reads what follows a percent sign.
func parsePrintf(s string) (sp spec, key *string, rest string, err error) {
	sp = spec{fill: " ", align: '>', prec: -1}
	if strings.HasPrefix(s, "(") {
		name, after, ok := strings.Cut(s[1:], ")")
		if !ok {
			return sp, nil, "", failure(ErrType, "format: key is not closed")
		}
		key, s = &name, after
	}
	for ; s != ""; s = s[1:] {
		switch c := s[0]; c {
		case '-':
			sp.align = '<'
		case '+':
			sp.sign = c
		case ' ':
			if sp.sign == 0 {
				sp.sign = c
			}
		case '#':
			sp.alt = true
		case '0':
			if sp.align == '>' {
				sp.align = '='
			}
		default:
			goto width
		}
	}
width:
	if sp.width, s, err = readInt(s); err != nil {
		return sp, nil, "", err
	}
	if strings.HasPrefix(s, ".") {
		sp.precGiven = true
		if sp.prec, s, err = readInt(s[1:]); err != nil {
			return sp, nil, "", err
		}
	}
	if s == "" {
		return sp, nil, "", failure(ErrType, "format is not complete")
	}
	sp.verb = s[0]
	if sp.alt {
		return sp, nil, "", failure(ErrUnsupported, "format: flag #")
	}
	if sp.align == '=' {
		sp.fill = "0"
	}
	return sp, key, s[1:], nil
}

func (in *interp) formatVerb(sp spec, v any) (text, error) {
	var t text
	var err error
	switch sp.verb {
	case 's':
		t, err = in.str(v)
	case 'r':
		var b builder
		err = in.repr(&b, v, 0)
		t = b.text()
	case 'd', 'i', 'u':
		if u := firstUndefined(v); u != nil {
			return text{}, u
		}
		i, f, isInt, ok := number(v)
		if !ok {
			return text{}, failure(ErrType, "format %%d of a %s", typeName(v))
		}
		if !isInt {
			n, err := floatToInt(f, nil)
			if err != nil || n == nil {
				return text{}, join(err, failure(ErrType, "format %%d of nan"))
			}
			i = n.(int64)
		}
		sp.verb = 'd'
		if sp.precGiven {
			return text{}, failure(ErrUnsupported, "format: precision of an integer")
		}
		return in.layoutNumber(sp, float64(i), i, true)
	case 'x', 'X', 'o':
		i, err := toInt(v)
		if err != nil {
			return text{}, err
		}
		return in.layoutNumber(sp, 0, i, true)
	case 'f', 'F', 'e', 'E', 'g', 'G':
		if u := firstUndefined(v); u != nil {
			return text{}, u
		}
		_, f, _, ok := number(v)
		if !ok {
			return text{}, failure(ErrType, "format %%%c of a %s", sp.verb, typeName(v))
		}
		return in.layoutNumber(sp, f, 0, false)
	default:
		return text{}, failure(ErrUnsupported, "format %%%c", sp.verb)
	}
	if err != nil {
		return text{}, err
	}
	if sp.align == '=' {
		sp.align, sp.fill = '>', " " // strings know no zero padding
	}
	return in.layoutText(sp, t)
}

// layoutText cuts t to the precision and pads it to the width.
func (in *interp) layoutText(sp spec, t text) (text, error) {
	if sp.prec >= 0 && sp.prec < t.runeLen() {
		t = t.slice(0, byteOffset(t.s, sp.prec))
	}
	n := int64(sp.width - t.runeLen())
	if n <= 0 {
		return t, nil
	}
	left := int64(0)
	switch sp.align {
	case '>':
		left = n
	case '^':
		left = n / 2
	}
	return concat(text{s: strings.Repeat(sp.fill, int(left))}, t, text{s: strings.Repeat(sp.fill, int(n-left))}), in.alloc(sp.width)
}

// layoutNumber writes a number by sp.verb, with sign and grouping, and pads it to the width.
func (in *interp) layoutNumber(sp spec, f float64, i int64, isInt bool) (text, error) {
	neg := f < 0 || math.Signbit(f) && !math.IsNaN(f)
	var digits string
	if isInt {
		neg = i < 0
		base := map[byte]int{'d': 10, 'x': 16, 'X': 16, 'o': 8, 'b': 2}[sp.verb]
		digits = strings.TrimPrefix(strconv.FormatInt(i, base), "-")
	} else {
		digits = formatDigits(math.Abs(f), sp)
	}
	if sp.verb >= 'A' && sp.verb <= 'Z' {
		digits = strings.ToUpper(digits)
	}
	if sp.comma != "" {
		digits = group(digits, sp.comma)
	}
	sign := ""
	if neg {
		sign = "-"
	} else if sp.sign != 0 {
		sign = string(sp.sign)
	}
	if sp.align == '=' {
		if n := sp.width - len(sign) - len(digits); n > 0 {
			if sp.comma != "" {
				return text{}, failure(ErrUnsupported, "format: zero padding with grouping")
			}
			digits = strings.Repeat(sp.fill, n) + digits
		}
	}
	sp.prec = -1
	return in.layoutText(sp, text{s: sign + digits})
}

func formatDigits(f float64, sp spec) string {
	if math.IsInf(f, 0) {
		return "inf"
	}
	if math.IsNaN(f) {
		return "nan"
	}
	prec := sp.prec
	if prec < 0 {
		prec = 6
	}
	switch sp.verb {
	case 'f', 'F':
		return strconv.FormatFloat(f, 'f', prec, 64)
	case 'e', 'E':
		return strconv.FormatFloat(f, 'e', prec, 64)
	case '%':
		return strconv.FormatFloat(f*100, 'f', prec, 64) + "%"
	}
	return formatG(f, max(1, prec))
}

// formatG is C's %g: the shorter of fixed and exponent form at prec significant digits, without trailing zeros.
func formatG(f float64, prec int) string {
	e := strconv.FormatFloat(f, 'e', prec-1, 64)
	mant, exp, _ := strings.Cut(e, "e")
	x, _ := strconv.Atoi(exp)
	if x < -4 || x >= prec {
		if strings.Contains(mant, ".") {
			mant = strings.TrimRight(strings.TrimRight(mant, "0"), ".")
		}
		return mant + "e" + exp
	}
	s := strconv.FormatFloat(f, 'f', prec-1-x, 64)
	if strings.Contains(s, ".") {
		s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
	}
	return s
}

// group puts sep between groups of three digits of the whole part.
func group(digits, sep string) string {
	whole := digits
	tail := ""
	if i := strings.IndexFunc(digits, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
		whole, tail = digits[:i], digits[i:]
	}
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + sep + whole[i:]
	}
	return whole + tail
}

// formatMethod is str.format.
func formatMethod(in *interp, recv any, _ []any, r *rest) (any, error) {
	t := recv.(text)
	if err := plainOnly(t, "format"); err != nil {
		return nil, err
	}
	var b builder
	auto := 0
	for i := 0; i < len(t.s); {
		c := t.s[i]
		if c != '{' && c != '}' {
			j := i + strings.IndexAny(t.s[i:], "{}")
			if j < i {
				j = len(t.s)
			}
			b.add(t.slice(i, j))
			i = j
			continue
		}
		if i+1 < len(t.s) && t.s[i+1] == c {
			b.add(t.slice(i, i+1))
			i += 2
			continue
		}
		end := strings.IndexByte(t.s[i:], '}')
		if c == '}' || end < 0 {
			return nil, failure(ErrType, "format: single %q", string(c))
		}
		field := t.s[i+1 : i+end]
		if strings.Contains(field, "{") {
			return nil, failure(ErrUnsupported, "format: nested field")
		}
		out, err := in.formatField(field, r, &auto)
		if err != nil {
			return nil, err
		}
		b.add(out)
		if err := in.alloc(len(out.s)); err != nil {
			return nil, err
		}
		i += end + 1
	}
	return b.text(), in.alloc(len(t.s))
}

// formatField lays out one "{name!r:spec}".
func (in *interp) formatField(field string, r *rest, auto *int) (text, error) {
	name, layout, _ := strings.Cut(field, ":")
	name, conv, hasConv := strings.Cut(name, "!")
	v, err := in.formatValue(name, r, auto)
	if err != nil {
		return text{}, err
	}
	if hasConv {
		switch conv {
		case "s":
			v, err = in.str(v)
		case "r":
			var b builder
			err = in.repr(&b, v, 0)
			v = b.text()
		default:
			return text{}, failure(ErrUnsupported, "format: conversion %q", conv)
		}
		if err != nil {
			return text{}, err
		}
	}
	if layout == "" {
		return in.str(v)
	}
	sp, err := parseLayout(layout)
	if err != nil {
		return text{}, err
	}
	return in.formatLayout(sp, v)
}

func (in *interp) formatValue(name string, r *rest, auto *int) (any, error) {
	head := name
	if i := strings.IndexAny(name, ".["); i >= 0 {
		head = name[:i]
	}
	var v any
	n := *auto
	switch {
	case head == "" && *auto < 0 || isDigits(head) && *auto > 0:
		return nil, failure(ErrType, "format: numbered and unnumbered fields mixed")
	case head == "":
		*auto++
	case isDigits(head):
		var err error
		if n, _, err = readInt(head); err != nil {
			return nil, err
		}
		*auto = -1
	default:
		n = -1
	}
	if n >= 0 {
		if n >= len(r.args) {
			return nil, failure(ErrType, "format: no value %d", n)
		}
		v = r.args[n]
	} else {
		found := false
		for _, k := range r.kw {
			if k.name == head {
				v, found = k.val, true
			}
		}
		if !found {
			return nil, failure(ErrType, "format: no value %q", head)
		}
	}
	return in.formatPath(v, name[len(head):])
}

// formatPath follows ".name" and "[key]" behind a field's name.
func (in *interp) formatPath(v any, path string) (any, error) {
	var err error
	for path != "" && err == nil {
		if path[0] == '.' {
			end := strings.IndexAny(path[1:], ".[") + 1
			if end == 0 {
				end = len(path)
			}
			if strings.HasPrefix(path[1:end], "_") {
				return nil, failure(ErrSandbox, "format: attribute %q", path[1:end])
			}
			v, err = in.getAttr(v, path[1:end])
			path = path[end:]
			continue
		}
		end := strings.IndexByte(path, ']')
		if path[0] != '[' || end < 2 {
			return nil, failure(ErrType, "format: bad field %q", path)
		}
		var key any = text{s: path[1:end]}
		if isDigits(path[1:end]) {
			n, _, err := readInt(path[1:end])
			if err != nil {
				return nil, err
			}
			key = int64(n)
		}
		v, err = in.getItem(v, key)
		path = path[end+1:]
	}
	return v, err
}

// parseLayout reads "[[fill]align][sign][0][width][,][.precision][type]".
func parseLayout(s string) (spec, error) {
	full := s
	sp := spec{fill: " ", prec: -1}
	isAlign := func(s string) bool { return s != "" && strings.IndexByte("<>^=", s[0]) >= 0 }
	first := byteOffset(s, 1)
	if isAlign(s[first:]) {
		sp.fill, sp.align, s = s[:first], s[first], s[first+1:]
	} else if isAlign(s) {
		sp.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		if s[0] != '-' {
			sp.sign = s[0]
		}
		s = s[1:]
	}
	if strings.HasPrefix(s, "0") {
		if sp.align == 0 {
			sp.fill, sp.align = "0", '='
		}
		s = s[1:]
	}
	var err error
	if sp.width, s, err = readInt(s); err != nil {
		return sp, err
	}
	if s != "" && (s[0] == ',' || s[0] == '_') {
		sp.comma, s = s[:1], s[1:]
	}
	if strings.HasPrefix(s, ".") {
		if len(s) < 2 || !isDigit(s[1]) {
			return sp, failure(ErrType, "format: layout %q has no precision behind the point", full)
		}
		if sp.prec, s, err = readInt(s[1:]); err != nil {
			return sp, err
		}
	}
	if len(s) == 1 {
		sp.verb, s = s[0], ""
	}
	if s != "" {
		return sp, failure(ErrUnsupported, "format: layout %q", full)
	}
	return sp, nil
}

// formatLayout is Python's format(v, spec) for strings and numbers.
func (in *interp) formatLayout(sp spec, v any) (text, error) {
	if err := firstUndefined(v); err != nil {
		return text{}, failure(ErrType, "format of an undefined value with a layout")
	}
	if t, ok := v.(text); ok {
		if sp.verb != 0 && sp.verb != 's' || sp.align == '=' && sp.fill != "0" || sp.sign != 0 || sp.comma != "" {
			return text{}, failure(ErrType, "format: layout is not one of strings")
		}
		if sp.align == 0 || sp.align == '=' {
			sp.align = '<'
		}
		return in.layoutText(sp, t)
	}
	i, f, isInt, ok := number(v)
	if _, isBool := v.(bool); !ok || isBool {
		return text{}, failure(ErrUnsupported, "format of a %s with a layout", typeName(v))
	}
	if sp.align == 0 {
		sp.align = '>'
	}
	switch {
	case strings.IndexByte("feFEgG%", sp.verb) >= 0 && sp.verb != 0:
		return in.layoutNumber(sp, f, 0, false)
	case isInt && sp.prec < 0 && (sp.verb == 0 || strings.IndexByte("dxXob", sp.verb) >= 0):
		if sp.verb == 0 {
			sp.verb = 'd'
		}
		return in.layoutNumber(sp, 0, i, true)
	case isInt && sp.prec >= 0:
		return text{}, failure(ErrType, "format: precision of an integer")
	}
	return text{}, failure(ErrUnsupported, "format: layout of a float without type")
}
