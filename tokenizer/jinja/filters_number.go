package jinja

import (
	"math"
	"strconv"
	"strings"
)

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
