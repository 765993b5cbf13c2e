package jinja

import "strings"

func partition(t text, sep any, find func(s, sub string) int, fromRight bool) (any, error) {
	p, err := wantText(sep)
	if err != nil {
		return nil, err
	}
	if p.s == "" {
		return nil, failure(ErrType, "empty separator")
	}
	i := find(t.s, p.s)
	items := []any{t, text{}, text{}}
	if i >= 0 {
		items = []any{t.slice(0, i), p, t.slice(i+len(p.s), len(t.s))}
	} else if fromRight {
		items = []any{text{}, text{}, t}
	}
	return &list{items: items, tuple: true}, nil
}

// window returns the string searched for, the part of t between the optional start and end, and where it begins in characters.
func window(t text, a []any) (sub, part string, from int, err error) {
	s, err := wantText(a[0])
	if err != nil {
		return "", "", 0, err
	}
	size := t.runeLen()
	at, err := sliceBounds([3]any{a[1], a[2], nil}, size)
	if err != nil {
		return "", "", 0, err
	}
	begin := byteOffset(t.s, at.start)
	return s.s, t.s[begin : begin+byteOffset(t.s[begin:], at.count)], at.start, nil
}

func find(t text, a []any, search func(s, sub string) int) (int64, error) {
	sub, part, from, err := window(t, a)
	if err != nil {
		return 0, err
	}
	i := search(part, sub)
	if i < 0 {
		return -1, nil
	}
	if start, ok := a[1].(int64); ok && sub == "" && start > int64(t.runeLen()) {
		return -1, nil
	}
	return int64(from + len([]rune(part[:i]))), nil
}

func found(i int64, err error) (any, error) {
	if err == nil && i < 0 {
		err = failure(ErrType, "substring not found")
	}
	return i, err
}

// affix is str.startswith and endswith; the affix may be a tuple of several.
func affix(t text, a []any, has func(s, affix string) bool) (any, error) {
	choices := []any{a[0]}
	if l, ok := a[0].(*list); ok && l.tuple {
		choices = l.items
	}
	for _, c := range choices {
		sub, part, _, err := window(t, []any{c, a[1], a[2]})
		if err != nil {
			return nil, err
		}
		if has(part, sub) {
			return true, nil
		}
	}
	return false, nil
}

// replaceText replaces old by repl, at most n times unless n is negative. An empty old stands between any two characters.
func replaceText(in *interp, t, old, repl text, n int64) (any, error) {
	count := strings.Count(t.s, old.s)
	if n >= 0 && int64(count) > n {
		count = int(n)
	}
	if count == 0 {
		return t, nil
	}
	if len(repl.s) > 0 && count > in.lim.Memory/len(repl.s) {
		return nil, in.alloc(in.lim.Memory + 1)
	}
	if err := in.alloc(len(t.s) + count*len(repl.s)); err != nil {
		return nil, err
	}
	var b builder
	at := 0
	for k := range count {
		i := at
		if old.s != "" {
			i += strings.Index(t.s[at:], old.s)
		} else if k > 0 {
			i += byteOffset(t.s[at:], 1)
		}
		b.add(t.slice(at, i))
		b.add(repl)
		at = i + len(old.s)
	}
	b.add(t.slice(at, len(t.s)))
	return b.text(), nil
}

func joinMethod(in *interp, t text, a []any) (any, error) {
	if err := plainOnly(t, "join"); err != nil {
		return nil, err
	}
	items, err := in.iterate(a[0])
	if err != nil {
		return nil, err
	}
	var b builder
	for i, it := range items {
		s, ok := it.(text)
		if !ok {
			return nil, failure(ErrType, "item %d of join is a %s, not a string", i, typeName(it))
		}
		if i > 0 {
			b.add(t)
		}
		b.add(s)
		if err := in.alloc(len(s.s) + len(t.s)); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

// pad fills t up to a width; side is where the filling goes: left of t (1), right (-1), or both (0).
func pad(in *interp, t text, width, fill any, side int) (any, error) {
	w, err := toInt(width)
	if err != nil {
		return nil, err
	}
	f, err := wantText(fill)
	if err != nil {
		return nil, err
	}
	if f.runeLen() != 1 {
		return nil, failure(ErrType, "the fill character must be one character")
	}
	n := w - int64(t.runeLen())
	if n <= 0 {
		return t, nil
	}
	left := n
	switch side {
	case -1:
		left = 0
	case 0:
		left = n/2 + n&w&1
	}
	l, err := in.repeat(f, left)
	if err != nil {
		return nil, err
	}
	r, err := in.repeat(f, n-left)
	if err != nil {
		return nil, err
	}
	out := concat(l, t, r)
	out.markup = t.markup
	return out, nil
}

func zfill(in *interp, t text, a []any) (any, error) {
	sign := 0
	if t.s != "" && (t.s[0] == '-' || t.s[0] == '+') {
		sign = 1
	}
	w, err := toInt(a[0])
	if err != nil {
		return nil, err
	}
	zeros, err := in.repeat(text{s: "0"}, w-int64(t.runeLen()))
	return concat(t.slice(0, sign), zeros, t.slice(sign, len(t.s))), err
}
