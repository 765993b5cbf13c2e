package jinja

import (
	"cmp"
	"math"
	"strings"
)

// number returns v as int or float; bools are ints as in Python.
func number(v any) (i int64, f float64, isInt, ok bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, 1, true, true
		}
		return 0, 0, true, true
	case int64:
		return v, float64(v), true, true
	case float64:
		return 0, v, false, true
	}
	return 0, 0, false, false
}

// equal is Python's ==. Origins do not matter.
func (in *interp) equal(a, b any, depth int) (bool, error) {
	if depth > maxValueDepth {
		return false, failure(ErrDepth, "value nested deeper than %d", maxValueDepth)
	}
	if err := in.spend(1); err != nil {
		return false, err
	}
	if _, _, _, ok := number(a); ok {
		if _, _, _, ok := number(b); ok {
			return compareNumbers(a, b) == 0, nil
		}
		return false, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case text:
		t, ok := b.(text)
		return ok && a.s == t.s, in.scan(min(len(a.s), len(t.s)))
	case bigInt:
		return a == b, nil
	case *undefined:
		_, ok := b.(*undefined)
		return ok, nil
	case *list:
		l, ok := b.(*list)
		if !ok || a.tuple != l.tuple || len(a.items) != len(l.items) {
			return false, nil
		}
		for i := range a.items {
			if eq, err := in.equal(a.items[i], l.items[i], depth+1); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	case *dict:
		d, ok := b.(*dict)
		if !ok || len(a.keys) != len(d.keys) {
			return false, nil
		}
		for i, k := range a.keys {
			other, found, err := d.get(k)
			if !found || err != nil {
				return false, err
			}
			if eq, err := in.equal(a.vals[i], other, depth+1); !eq || err != nil {
				return false, err
			}
		}
		return true, nil
	case *span:
		s, ok := b.(*span)
		return ok && a.n == s.n && (a.n == 0 || a.start == s.start && (a.n == 1 || a.step == s.step)), nil
	case *view:
		if _, ok := b.(*view); ok && a != b {
			return false, failure(ErrUnsupported, "comparison of dictionary views")
		}
	}
	return a == b, nil
}

// compareNumbers orders two numbers exactly, an int against a float included. A NaN is unordered: 2.
func compareNumbers(a, b any) int {
	ai, af, aInt, _ := number(a)
	bi, bf, bInt, _ := number(b)
	if aInt && bInt {
		switch {
		case ai < bi:
			return -1
		case ai > bi:
			return 1
		}
		return 0
	}
	if af != af || bf != bf {
		return 2
	}
	if aInt {
		return compareIntFloat(ai, bf)
	}
	if bInt {
		return -compareIntFloat(bi, af)
	}
	switch {
	case af < bf:
		return -1
	case af > bf:
		return 1
	}
	return 0
}

// compareIntFloat orders i against f without rounding i.
func compareIntFloat(i int64, f float64) int {
	whole := math.Trunc(f)
	switch {
	case f >= 1<<63:
		return -1
	case f < -(1 << 63):
		return 1
	case i != int64(whole):
		return cmp.Compare(i, int64(whole))
	}
	return cmp.Compare(whole, f)
}

// order is Python's < and >: negative, zero or positive, 2 where nothing holds (NaN).
func (in *interp) order(a, b any, depth int) (int, error) {
	if depth > maxValueDepth {
		return 0, failure(ErrDepth, "value nested deeper than %d", maxValueDepth)
	}
	if err := in.spend(1); err != nil {
		return 0, err
	}
	for _, v := range [...]any{a, b} {
		if u, ok := v.(*undefined); ok {
			return 0, u.fail()
		}
	}
	if _, _, _, ok := number(a); ok {
		if _, _, _, ok := number(b); ok {
			return compareNumbers(a, b), nil
		}
	}
	switch x := a.(type) {
	case text:
		if y, ok := b.(text); ok {
			return strings.Compare(x.s, y.s), in.scan(min(len(x.s), len(y.s)))
		}
	case *list:
		y, ok := b.(*list)
		if !ok || x.tuple != y.tuple {
			break
		}
		for i := range min(len(x.items), len(y.items)) {
			eq, err := in.equal(x.items[i], y.items[i], depth+1)
			if err != nil {
				return 0, err
			}
			if !eq {
				return in.order(x.items[i], y.items[i], depth+1)
			}
		}
		return len(x.items) - len(y.items), nil
	}
	return 0, failure(ErrType, "%s and %s cannot be ordered", typeName(a), typeName(b))
}

// has is Python's "item in container".
func (in *interp) has(container, item any) (bool, error) {
	switch c := container.(type) {
	case text:
		t, ok := item.(text)
		if !ok {
			return false, failure(ErrType, "a string contains strings only, not %s", typeName(item))
		}
		return strings.Contains(c.s, t.s), in.scan(len(c.s))
	case *dict:
		_, ok, err := c.get(item)
		return ok, err
	case *namespace:
		return false, failure(ErrType, "namespace is not iterable")
	}
	items, err := in.iterate(container)
	if err != nil {
		return false, err
	}
	for _, it := range items {
		if eq, err := in.equal(it, item, 0); eq || err != nil {
			return eq, err
		}
	}
	return false, nil
}

// compare evaluates one comparison operator.
func (in *interp) compare(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return in.equal(a, b, 0)
	case "!=":
		eq, err := in.equal(a, b, 0)
		return !eq, err
	case "in":
		return in.has(b, a)
	case "not in":
		ok, err := in.has(b, a)
		return !ok, err
	}
	c, err := in.order(a, b, 0)
	if err != nil || c == 2 && isFloatPair(a, b) {
		return false, err
	}
	switch op {
	case "<":
		return c < 0, nil
	case "<=":
		return c <= 0, nil
	case ">":
		return c > 0, nil
	}
	return c >= 0, nil
}

func isFloatPair(a, b any) bool {
	_, _, _, x := number(a)
	_, _, _, y := number(b)
	return x && y
}
