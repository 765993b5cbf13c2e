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
