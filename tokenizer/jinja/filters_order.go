package jinja

import (
	"sort"
	"strings"
)

// foldCase is the reference's ignore_case.
func foldCase(in *interp, v any, sensitive bool) (any, error) {
	if t, ok := v.(text); ok && !sensitive {
		return strLower(in, t)
	}
	return v, nil
}

// keys computes the sort key of every item.
func (in *interp) keys(items []any, path, def any, sensitive bool) ([]any, error) {
	get, err := in.attrGetter(path, def)
	if err != nil {
		return nil, err
	}
	keys := make([]any, len(items))
	for i, it := range items {
		k, err := get(it)
		if err != nil {
			return nil, err
		}
		if keys[i], err = foldCase(in, k, sensitive); err != nil {
			return nil, err
		}
	}
	return keys, nil
}

// sorted orders items by keys, stably, descending if reverse.
func (in *interp) sorted(items, keys []any, reverse bool) ([]any, error) {
	order := make([]int, len(items))
	for i := range order {
		order[i] = i
	}
	var failed error
	sort.SliceStable(order, func(i, j int) bool {
		if failed != nil {
			return false
		}
		c, err := in.order(keys[order[i]], keys[order[j]], 0)
		failed = err
		if reverse {
			return c > 0 && err == nil
		}
		return c < 0
	})
	out := make([]any, len(items))
	for i, k := range order {
		out[i] = items[k]
	}
	return out, failed
}

func filterSort(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	paths := []any{a[3]}
	if t, ok := a[3].(text); ok && strings.Contains(t.s, ",") {
		paths = nil
		for _, p := range strings.Split(t.s, ",") {
			paths = append(paths, text{s: p})
		}
	}
	keys := make([]any, len(items))
	for _, p := range paths {
		part, err := in.keys(items, p, nil, truth(a[2]))
		if err != nil {
			return nil, err
		}
		for i, k := range part {
			if keys[i] == nil {
				keys[i] = &list{}
			}
			l := keys[i].(*list)
			l.items = append(l.items, k)
		}
	}
	out, err := in.sorted(items, keys, truth(a[1]))
	return &list{items: out, own: true}, err
}

func filterDictSort(in *interp, a []any, _ *rest) (any, error) {
	d, ok := a[0].(*dict)
	if !ok {
		if err := firstUndefined(a[0]); err != nil {
			return nil, err
		}
		return nil, failure(ErrType, "dictsort of a %s", typeName(a[0]))
	}
	by, _ := a[2].(text)
	var at int64
	switch by.s {
	case "key":
	case "value":
		at = 1
	default:
		return nil, failure(ErrType, "dictsort sorts by key or value only")
	}
	items := d.items()
	keys, err := in.keys(items, at, nil, truth(a[1]))
	if err != nil {
		return nil, err
	}
	out, err := in.sorted(items, keys, truth(a[3]))
	return &list{items: out, own: true}, join(err, in.slots(4*len(items)))
}

func filterUnique(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	keys, err := in.keys(items, a[2], nil, truth(a[1]))
	if err != nil {
		return nil, err
	}
	seen := map[any]bool{}
	out := &stream{}
	for i, it := range items {
		k, err := hashKey(keys[i])
		if err != nil {
			return nil, err
		}
		if !seen[k] {
			seen[k] = true
			out.items = append(out.items, it)
		}
	}
	return out, nil
}

func extreme(in *interp, a []any, sign int) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return undef("no aggregated item, sequence was empty"), nil
	}
	keys, err := in.keys(items, a[2], nil, truth(a[1]))
	if err != nil {
		return nil, err
	}
	best := 0
	for i := 1; i < len(items); i++ {
		c, err := in.order(keys[i], keys[best], 0)
		if err != nil {
			return nil, err
		}
		if c == sign || c*sign > 0 && c != 2 {
			best = i
		}
	}
	return items[best], nil
}

func filterSum(in *interp, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	get, err := in.attrGetter(a[1], nil)
	if err != nil {
		return nil, err
	}
	total := a[2]
	if _, ok := total.(text); ok {
		return nil, failure(ErrType, "sum of strings")
	}
	for _, it := range items {
		v, err := get(it)
		if err != nil {
			return nil, err
		}
		if total, err = in.binary("+", total, v); err != nil {
			return nil, err
		}
	}
	return total, nil
}
