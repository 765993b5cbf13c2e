package jinja

import (
	"math"
	"strings"
)

// firstUndefined fails if an operand is undefined, as every operator on it does.
func firstUndefined(vals ...any) error {
	for _, v := range vals {
		if u, ok := v.(*undefined); ok {
			return u.fail()
		}
	}
	return nil
}

func negate(v any, neg bool) (any, error) {
	if err := firstUndefined(v); err != nil {
		return nil, err
	}
	i, f, isInt, ok := number(v)
	switch {
	case !ok:
		return nil, failure(ErrType, "bad operand of unary operator: %s", typeName(v))
	case !neg && isInt:
		return i, nil
	case !neg:
		return f, nil
	case !isInt:
		return -f, nil
	case i == math.MinInt64:
		return nil, overflow()
	}
	return -i, nil
}

func overflow() error { return failure(ErrUnsupported, "integer beyond 64 bits") }

// binary evaluates + - * / // % ** on a and b.
func (in *interp) binary(op string, a, b any) (any, error) {
	if t, ok := a.(text); ok && op == "%" {
		return in.printf(t, b)
	}
	if err := firstUndefined(a, b); err != nil {
		return nil, err
	}
	ai, af, aInt, aNum := number(a)
	bi, bf, bInt, bNum := number(b)
	switch {
	case aNum && bNum && aInt && bInt:
		return intOp(op, ai, bi)
	case aNum && bNum:
		return floatOp(op, af, bf)
	case op == "*" && bNum && bInt:
		return in.repeatValue(a, bi)
	case op == "*" && aNum && aInt:
		return in.repeatValue(b, ai)
	case op == "+":
		switch x := a.(type) {
		case text:
			if y, ok := b.(text); ok {
				return in.join2(x, y)
			}
		case *list:
			if y, ok := b.(*list); ok && x.tuple == y.tuple {
				if err := in.slots(len(x.items) + len(y.items)); err != nil {
					return nil, err
				}
				items := append(append(make([]any, 0, len(x.items)+len(y.items)), x.items...), y.items...)
				return &list{items: items, tuple: x.tuple, own: !x.tuple}, nil
			}
		}
	}
	return nil, failure(ErrType, "%s %s %s", typeName(a), op, typeName(b))
}

// join2 concatenates. A string marked safe escapes the other, as the reference's Markup does.
func (in *interp) join2(x, y text) (any, error) {
	if x.markup != y.markup {
		if x.markup {
			y = escapeHTML(y)
		} else {
			x = escapeHTML(x)
		}
	}
	if err := in.alloc(len(x.s) + len(y.s)); err != nil {
		return nil, err
	}
	out := concat(x, y)
	out.markup = x.markup || y.markup
	return out, nil
}

var htmlEscapes = map[rune]string{'&': "&amp;", '<': "&lt;", '>': "&gt;", '"': "&#34;", '\'': "&#39;"}

func escapeHTML(t text) text {
	if !strings.ContainsAny(t.s, `&<>"'`) {
		return t
	}
	return t.mapRunes(func(_ int, r rune) string {
		if e, ok := htmlEscapes[r]; ok {
			return e
		}
		return string(r)
	})
}

// copies is how often something of size bytes is repeated by "* n", paid for.
func (in *interp) copies(size int, n int64) (int, error) {
	if n <= 0 || size == 0 {
		return 0, nil
	}
	if n > int64(in.lim.Memory/size) {
		return 0, failure(ErrMemory, "repeating %d bytes %d times", size, n)
	}
	return int(n), in.alloc(size * int(n))
}

func (in *interp) repeatValue(v any, n int64) (any, error) {
	switch v := v.(type) {
	case text:
		return in.repeat(v, n)
	case *list:
		count, err := in.copies(16*len(v.items), n)
		if err != nil {
			return nil, err
		}
		out := &list{tuple: v.tuple, own: !v.tuple}
		for range count {
			out.items = append(out.items, v.items...)
		}
		return out, nil
	}
	return nil, failure(ErrType, "%s cannot be repeated", typeName(v))
}

func (in *interp) repeat(t text, n int64) (text, error) {
	count, err := in.copies(len(t.s), n)
	if err != nil {
		return text{}, err
	}
	if t.runs == nil {
		t.s = strings.Repeat(t.s, count)
		return t, nil
	}
	var b builder
	for range count {
		b.add(t)
	}
	return b.text(), nil
}

func intOp(op string, a, b int64) (any, error) {
	switch op {
	case "+":
		if s := a + b; (s > a) == (b > 0) {
			return s, nil
		}
		return nil, overflow()
	case "-":
		if s := a - b; (s < a) == (b > 0) {
			return s, nil
		}
		return nil, overflow()
	case "*":
		return mulInt(a, b)
	case "**":
		return powInt(a, b)
	}
	if b == 0 {
		return nil, failure(ErrType, "division by zero")
	}
	switch op {
	case "/":
		return float64(a) / float64(b), nil
	case "//":
		if a == math.MinInt64 && b == -1 {
			return nil, overflow()
		}
		q := a / b
		if a%b != 0 && (a < 0) != (b < 0) {
			q--
		}
		return q, nil
	}
	if b == -1 {
		return int64(0), nil
	}
	r := a % b
	if r != 0 && (r < 0) != (b < 0) {
		r += b
	}
	return r, nil
}

func mulInt(a, b int64) (any, error) {
	if a == 0 || b == 0 {
		return int64(0), nil
	}
	p := a * b
	if p/b != a || a == -1 && b == math.MinInt64 || b == -1 && a == math.MinInt64 {
		return nil, overflow()
	}
	return p, nil
}

func powInt(a, b int64) (any, error) {
	if b < 0 {
		if a == 0 {
			return nil, failure(ErrType, "zero to a negative power")
		}
		return math.Pow(float64(a), float64(b)), nil
	}
	switch {
	case a == 0 && b > 0, a == 1:
		return a, nil
	case a == -1:
		return 1 - 2*(b%2), nil
	case b > 63:
		return nil, overflow()
	}
	var out any = int64(1)
	var err error
	for range b {
		if out, err = mulInt(out.(int64), a); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func floatOp(op string, a, b float64) (any, error) {
	switch op {
	case "+":
		return a + b, nil
	case "-":
		return a - b, nil
	case "*":
		return a * b, nil
	case "**":
		p := math.Pow(a, b)
		if a == 0 && b < 0 {
			return nil, failure(ErrType, "zero to a negative power")
		}
		if math.IsNaN(p) && !math.IsNaN(a) && !math.IsNaN(b) {
			return nil, failure(ErrUnsupported, "complex number")
		}
		if math.IsInf(p, 0) && !math.IsInf(a, 0) && !math.IsInf(b, 0) {
			return nil, failure(ErrType, "result too large")
		}
		return p, nil
	}
	if b == 0 {
		return nil, failure(ErrType, "division by zero")
	}
	if op == "/" {
		return a / b, nil
	}
	// Python's float divmod: the remainder takes the divisor's sign.
	mod := math.Mod(a, b)
	div := (a - mod) / b
	if mod != 0 {
		if (b < 0) != (mod < 0) {
			mod += b
			div--
		}
	} else {
		mod = math.Copysign(0, b)
	}
	if op == "%" {
		return mod, nil
	}
	if div == 0 {
		return math.Copysign(0, a/b), nil
	}
	floor := math.Floor(div)
	if div-floor > 0.5 {
		floor++
	}
	return floor, nil
}
