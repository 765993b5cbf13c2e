package jinja

import (
	"strings"
)

func addListFilters(add func(names, spec string, call filterFunc)) {
	add("list", "value", func(in *interp, a []any, _ *rest) (any, error) {
		items, err := in.iterate(a[0])
		return &list{items: append([]any(nil), items...), own: true}, join(err, in.slots(len(items)))
	})
	add("first", "seq", func(in *interp, a []any, _ *rest) (any, error) {
		if s, ok := a[0].(*stream); ok && s.at < len(s.items) {
			s.at++
			return s.items[s.at-1], nil
		}
		items, err := in.iterate(a[0])
		if err == nil && len(items) == 0 {
			return undef("no first item, sequence was empty"), nil
		}
		if err != nil {
			return nil, err
		}
		return items[0], nil
	})
	add("last", "seq", func(in *interp, a []any, _ *rest) (any, error) {
		if _, ok := a[0].(*stream); ok {
			return nil, failure(ErrType, "last of a generator: make it a list first")
		}
		items, err := in.iterate(a[0])
		if err == nil && len(items) == 0 {
			return undef("no last item, sequence was empty"), nil
		}
		if err != nil {
			return nil, err
		}
		return items[len(items)-1], nil
	})
	add("reverse", "value", filterReverse)
	add("join", "value d='' attribute=None", filterJoin)
	add("items", "value", func(in *interp, a []any, _ *rest) (any, error) {
		switch v := a[0].(type) {
		case *undefined:
			return &stream{}, nil
		case *dict:
			return &stream{items: v.items()}, in.slots(3 * len(v.keys))
		}
		return nil, failure(ErrType, "items of a %s", typeName(a[0]))
	})
	add("dictsort", "value case_sensitive=False by='key' reverse=False", filterDictSort)
	add("sort", "value reverse=False case_sensitive=False attribute=None", filterSort)
	add("unique", "value case_sensitive=False attribute=None", filterUnique)
	add("min", "value case_sensitive=False attribute=None", func(in *interp, a []any, _ *rest) (any, error) { return extreme(in, a, -1) })
	add("max", "value case_sensitive=False attribute=None", func(in *interp, a []any, _ *rest) (any, error) { return extreme(in, a, 1) })
	add("sum", "iterable attribute=None start=0", filterSum)
	add("map", "value * **", filterMap)
	add("select", "value * **", func(in *interp, a []any, r *rest) (any, error) { return selectItems(in, a[0], r, false, true) })
	add("reject", "value * **", func(in *interp, a []any, r *rest) (any, error) { return selectItems(in, a[0], r, false, false) })
	add("selectattr", "value * **", func(in *interp, a []any, r *rest) (any, error) { return selectItems(in, a[0], r, true, true) })
	add("rejectattr", "value * **", func(in *interp, a []any, r *rest) (any, error) { return selectItems(in, a[0], r, true, false) })
	add("batch", "value linecount fill_with=None", filterBatch)
	add("slice", "value slices fill_with=None", filterSlice)
}

func join(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// each iterates over a copy of v's items, paid for.
func (in *interp) each(v any) ([]any, error) {
	items, err := in.iterate(v)
	if err != nil {
		return nil, err
	}
	return append([]any(nil), items...), in.slots(len(items))
}

// attrGetter looks up a path such as "function.name" or "0.text", or one key that is not a string.
func (in *interp) attrGetter(path, def any) (func(any) (any, error), error) {
	var parts []any
	switch p := path.(type) {
	case nil:
	case text:
		for _, s := range strings.Split(p.s, ".") {
			if n, ok, _ := parseInt(s, 10); ok && isDigits(s) {
				parts = append(parts, n)
			} else {
				parts = append(parts, text{s: s})
			}
		}
	default:
		parts = []any{path}
	}
	return func(v any) (any, error) {
		var err error
		for _, p := range parts {
			if v, err = in.getItem(v, p); err != nil {
				return nil, err
			}
			if _, u := v.(*undefined); u && def != nil {
				v = def
			}
		}
		return v, nil
	}, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func filterReverse(in *interp, a []any, _ *rest) (any, error) {
	if t, ok := a[0].(text); ok {
		n := t.runeLen()
		return in.sliceText(t, bounds{start: n - 1, stop: -1, step: -1, count: n})
	}
	_, isStream := a[0].(*stream)
	items, err := in.each(a[0])
	for i, j := 0, len(items)-1; i < j; i, j = i+1, j-1 {
		items[i], items[j] = items[j], items[i]
	}
	if isStream {
		return &list{items: items, own: true}, err
	}
	return &stream{items: items}, err
}

func filterJoin(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	sep, err := in.str(a[1])
	if err != nil {
		return nil, err
	}
	get, err := in.attrGetter(a[2], nil)
	if err != nil {
		return nil, err
	}
	var b builder
	for i, it := range items {
		if i > 0 {
			b.add(sep)
		}
		v, err := get(it)
		if err != nil {
			return nil, err
		}
		t, err := in.str(v)
		if err != nil {
			return nil, err
		}
		b.add(t)
		if err := in.alloc(len(t.s) + len(sep.s)); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}

func filterMap(in *interp, a []any, r *rest) (any, error) {
	if !truth(a[0]) {
		return &stream{}, nil
	}
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	var f func(any) (any, error)
	if path, ok := r.take("attribute"); ok && len(r.args) == 0 {
		def, _ := r.take("default")
		if len(r.kw) > 0 {
			return nil, failure(ErrType, "map has no parameter %q", r.kw[0].name)
		}
		if f, err = in.attrGetter(path, def); err != nil {
			return nil, err
		}
	} else {
		if ok {
			r.kw = append(r.kw, named{"attribute", path})
		}
		if f, err = in.named("filter", filters, r.args, r.kw); err != nil {
			return nil, err
		}
	}
	out := &stream{items: items}
	for i, it := range items {
		if items[i], err = f(it); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// named returns the filter or test that args[0] names, to be applied with the other arguments.
func (in *interp) named(kind string, table map[string]*function, args []any, kw []named) (func(any) (any, error), error) {
	if len(args) == 0 {
		return nil, failure(ErrType, "the name of a %s is missing", kind)
	}
	name, _ := args[0].(text)
	f, ok := table[name.s]
	if !ok {
		return nil, failure(ErrUnsupported, "unknown %s %q", kind, name.s)
	}
	return func(v any) (any, error) {
		return in.apply(kind, name.s, f, append([]any{v}, args[1:]...), append([]named(nil), kw...))
	}, nil
}

// selectItems keeps the items for which a test, of the item or of one of its attributes, gives want.
func selectItems(in *interp, v any, r *rest, attr, want bool) (any, error) {
	if !truth(v) {
		return &stream{}, nil
	}
	items, err := in.each(v)
	if err != nil {
		return nil, err
	}
	args := r.args
	get := func(v any) (any, error) { return v, nil }
	if attr {
		if len(args) == 0 {
			return nil, failure(ErrType, "the name of an attribute is missing")
		}
		if get, err = in.attrGetter(args[0], nil); err != nil {
			return nil, err
		}
		args = args[1:]
	}
	test := func(v any) (any, error) { return v, nil }
	if len(args) > 0 {
		if test, err = in.named("test", tests, args, r.kw); err != nil {
			return nil, err
		}
	}
	out := &stream{}
	for _, it := range items {
		x, err := get(it)
		if err != nil {
			return nil, err
		}
		ok, err := test(x)
		if err != nil {
			return nil, err
		}
		if truth(ok) == want {
			out.items = append(out.items, it)
		}
	}
	return out, nil
}

func filterBatch(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	n, err := toInt(a[1])
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(in.lim.Range) {
		return nil, failure(ErrUnsupported, "batches of %d", n)
	}
	out := &stream{}
	for len(items) > 0 {
		k := min(int(n), len(items))
		row := append([]any(nil), items[:k]...)
		items = items[k:]
		for a[2] != nil && len(row) < int(n) {
			row = append(row, a[2])
		}
		out.items = append(out.items, &list{items: row, own: true})
	}
	return out, in.slots(int(n))
}

func filterSlice(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	n, err := toInt(a[1])
	if err != nil {
		return nil, err
	}
	if n < 1 || n > int64(in.lim.Range) {
		return nil, failure(ErrUnsupported, "%d slices", n)
	}
	out := &stream{}
	each, extra := len(items)/int(n), len(items)%int(n)
	for i := range int(n) {
		k := each
		if i < extra {
			k++
		}
		row := append([]any(nil), items[:k]...)
		items = items[k:]
		if a[2] != nil && i >= extra {
			row = append(row, a[2])
		}
		out.items = append(out.items, &list{items: row, own: true})
	}
	return out, in.slots(2 * int(n))
}
