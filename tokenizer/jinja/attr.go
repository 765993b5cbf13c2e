package jinja

import (
	"math"
	"strconv"
)

// getAttr is "obj.name": a Python attribute first, then the item of that name.
func (in *interp) getAttr(obj any, name string) (any, error) {
	if v, ok, err := in.pyAttr(obj, name); ok || err != nil {
		return v, err
	}
	if d, ok := obj.(*dict); ok {
		if v, ok := d.getStr(name); ok {
			return v, nil
		}
	}
	return undef("'%s object' has no attribute '%s'", typeName(obj), name), nil
}

// getItem is "obj[key]": the item first, then the Python attribute of that name.
func (in *interp) getItem(obj, key any) (any, error) {
	if u, ok := obj.(*undefined); ok {
		return nil, u.fail()
	}
	if v, ok, err := in.item(obj, key); ok || err != nil {
		return v, err
	}
	name, isText := key.(text)
	if isText {
		if v, ok, err := in.pyAttr(obj, name.s); ok || err != nil {
			return v, err
		}
		return undef("'%s object' has no attribute '%s'", typeName(obj), name.s), nil
	}
	if i, ok := key.(int64); ok {
		return undef("%s object has no element %s", typeName(obj), strconv.FormatInt(i, 10)), nil
	}
	return undef("%s object has no element of type %s", typeName(obj), typeName(key)), nil
}

// item is Python's obj[key]; ok is false where Python raises LookupError or TypeError.
func (in *interp) item(obj, key any) (v any, ok bool, err error) {
	if d, isDict := obj.(*dict); isDict {
		v, ok, err := d.get(key)
		return v, ok && err == nil, nil
	}
	i, _, isInt, ok := number(key)
	if !ok || !isInt {
		return nil, false, nil
	}
	switch o := obj.(type) {
	case *list:
		if at, ok := index(i, len(o.items)); ok {
			return o.items[at], true, nil
		}
	case *span:
		if at, ok := index(i, int(o.n)); ok {
			return o.item(int64(at)), true, nil
		}
	case text:
		if err := in.scan(len(o.s)); err != nil {
			return nil, false, err
		}
		if at, ok := index(i, o.runeLen()); ok {
			from := byteOffset(o.s, at)
			return o.slice(from, from+byteOffset(o.s[from:], 1)), true, nil
		}
	}
	return nil, false, nil
}

// index turns a Python index, which may count from the end, into one of n items.
func index(i int64, n int) (int, bool) {
	if i < 0 {
		i += int64(n)
	}
	return int(i), i >= 0 && i < int64(n)
}

// pyAttr is what Python's getattr finds on obj.
func (in *interp) pyAttr(obj any, name string) (v any, ok bool, err error) {
	switch o := obj.(type) {
	case *undefined:
		return nil, false, o.fail()
	case *namespace:
		v, ok := o.attrs.getStr(name)
		return v, ok, nil
	case *loop:
		v, err := o.attr(name)
		return v, true, err
	case *cycler:
		v, ok := o.attr(name)
		return v, ok, nil
	case *dict:
		return boundMethod(o, name, dictMethods)
	case *list:
		if o.tuple && !tupleMethods[name] {
			return nil, false, nil
		}
		return boundMethod(o, name, listMethods)
	case text:
		return boundMethod(o, name, strMethods)
	case int64, float64, bool, bigInt, *span, *macro, *stream, *view:
		if pyMembers[name] {
			return nil, false, failure(ErrUnsupported, "attribute %q of a %s", name, typeName(obj))
		}
	}
	return nil, false, nil
}

// pyMembers are attributes of Python's numbers, ranges, views, generators and macros, which have no use in a template but exist there.
var pyMembers = map[string]bool{
	"real": true, "imag": true, "numerator": true, "denominator": true, "conjugate": true, "bit_length": true, "bit_count": true,
	"to_bytes": true, "from_bytes": true, "as_integer_ratio": true, "is_integer": true, "hex": true, "fromhex": true,
	"start": true, "stop": true, "step": true, "index": true, "count": true, "isdisjoint": true, "mapping": true, "send": true,
	"throw": true, "close": true, "name": true, "arguments": true, "catch_kwargs": true, "catch_varargs": true, "caller": true,
	"explicit_caller": true,
}

func boundMethod(recv any, name string, table map[string]*methodDef) (any, bool, error) {
	def, ok := table[name]
	switch {
	case !ok:
		return nil, false, nil
	case def.call == nil && def.refused == "":
		return &undefined{msg: "access to '" + name + "' of a " + typeName(recv) + " is unsafe", kind: ErrSandbox}, true, nil
	case def.call == nil:
		return nil, false, failure(ErrUnsupported, "method %q: %s", name, def.refused)
	}
	if l, ok := recv.(*list); ok && def.mutates && !l.own {
		return &undefined{msg: "'" + name + "' of a list that came from outside or is a constant", kind: ErrSandbox}, true, nil
	}
	return &method{recv: recv, name: name, sig: def.sig, call: def.call}, true, nil
}

// methodDef is a built-in method. Without call it is one that the reference has but that is refused: by its sandbox, or (refused) by us.
type methodDef struct {
	sig     signature
	call    func(in *interp, recv any, a []any, r *rest) (any, error)
	mutates bool
	refused string
}

// evalSlice is obj[a:b:c]. The reference does not soften its errors: a slice of None or of a dictionary fails.
func (in *interp) evalSlice(n *node, sc *scope) (any, error) {
	obj, err := in.eval(n.a, sc)
	if err != nil {
		return nil, err
	}
	var parts [3]any
	for i, k := range n.kids {
		if k == nil {
			continue
		}
		if parts[i], err = in.eval(k, sc); err != nil {
			return nil, err
		}
	}
	if err := firstUndefined(obj); err != nil {
		return nil, err
	}
	size, err := length(obj)
	if err != nil {
		return nil, err
	}
	at, err := sliceBounds(parts, size)
	if err != nil {
		return nil, err
	}
	switch o := obj.(type) {
	case text:
		return in.sliceText(o, at)
	case *list:
		out := &list{items: make([]any, at.count), tuple: o.tuple, own: !o.tuple}
		for i := range out.items {
			out.items[i] = o.items[at.start+i*at.step]
		}
		return out, in.slots(at.count)
	case *span:
		return &span{start: o.start + int64(at.start)*o.step, stop: o.start + int64(at.stop)*o.step, step: o.step * int64(at.step),
			n: int64(at.count)}, nil
	}
	return nil, failure(ErrType, "a %s cannot be sliced", typeName(obj))
}

// bounds is a slice of a sequence of known length: the indices start, start+step ... before stop, count of them.
type bounds struct{ start, stop, step, count int }

// sliceBounds is Python's slice.indices.
func sliceBounds(parts [3]any, size int) (bounds, error) {
	var given [3]int64
	for i, p := range parts {
		if p == nil {
			continue
		}
		v, _, isInt, ok := number(p)
		if !ok || !isInt {
			return bounds{}, failure(ErrType, "slice index is a %s, not an int", typeName(p))
		}
		given[i] = min(max(v, -math.MaxInt32), math.MaxInt32)
	}
	at := bounds{step: 1}
	if parts[2] != nil {
		at.step = int(given[2])
	}
	if at.step == 0 {
		return bounds{}, failure(ErrType, "slice step is zero")
	}
	low, high := 0, size
	if at.step < 0 {
		low, high = -1, size-1
	}
	clamp := func(i int, def int) int {
		if parts[i] == nil {
			return def
		}
		v := int(given[i])
		if v < 0 {
			v += size
		}
		return min(max(v, low), high)
	}
	if at.step > 0 {
		at.start, at.stop = clamp(0, low), clamp(1, high)
		at.count = max(0, (at.stop-at.start+at.step-1)/at.step)
	} else {
		at.start, at.stop = clamp(0, high), clamp(1, low)
		at.count = max(0, (at.start-at.stop-at.step-1)/-at.step)
	}
	return at, nil
}

func (in *interp) sliceText(t text, at bounds) (any, error) {
	if err := in.scan(len(t.s)); err != nil {
		return nil, err
	}
	if at.count == 0 {
		return text{data: t.data}, nil
	}
	if at.step == 1 {
		from := byteOffset(t.s, at.start)
		return t.slice(from, from+byteOffset(t.s[from:], at.count)), nil
	}
	runes := t.runes()
	var b builder
	for i := range at.count {
		b.add(runes[at.start+i*at.step])
	}
	out := b.text()
	out.markup = t.markup
	return out, in.alloc(textSize * len(runes))
}
