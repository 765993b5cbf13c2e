package jinja

// The tables of built-ins are filled before main runs and never change: they are set here, not at their declaration, because map and
// select look filters and tests up by name, which Go would call an initialisation cycle.
var (
	globals    map[string]*builtin
	filters    map[string]*function
	tests      map[string]*function
	strMethods map[string]*methodDef
)

func init() {
	globals, filters, tests, strMethods = globalTable(), filterTable(), testTable(), strMethodTable()
}

func globalTable() map[string]*builtin {
	table := map[string]*builtin{}
	add := func(name, spec string, call func(*interp, []any, *rest) (any, error)) {
		table[name] = &builtin{name: name, sig: sig(spec), call: call}
	}
	add("range", "*", globalRange)
	add("dict", "* **", globalDict)
	add("namespace", "* **", func(in *interp, _ []any, r *rest) (any, error) {
		d, err := globalDict(in, nil, r)
		if err != nil {
			return nil, err
		}
		return &namespace{attrs: *d.(*dict)}, nil
	})
	add("raise_exception", "message", func(in *interp, a []any, _ *rest) (any, error) {
		msg, err := in.str(a[0])
		if err != nil {
			return nil, err
		}
		return nil, failure(ErrRaised, "%s", msg.s)
	})
	add("strftime_now", "format", func(in *interp, a []any, _ *rest) (any, error) {
		f, ok := a[0].(text)
		if !ok {
			return nil, failure(ErrType, "format is a %s, not a string", typeName(a[0]))
		}
		if in.now.IsZero() {
			return nil, failure(ErrUndefined, "strftime_now: the context has no time")
		}
		s, err := strftime(in.now, f.s)
		return text{s: s, data: f.data || f.runs != nil}, err
	})
	add("cycler", "*", func(_ *interp, _ []any, r *rest) (any, error) {
		if len(r.args) == 0 {
			return nil, failure(ErrType, "at least one item has to be provided")
		}
		return &cycler{items: r.args}, nil
	})
	add("joiner", "sep=',_'", func(_ *interp, a []any, _ *rest) (any, error) { return &joiner{sep: a[0]}, nil })
	return table
}

func globalRange(in *interp, _ []any, r *rest) (any, error) {
	if len(r.args) < 1 || len(r.args) > 3 {
		return nil, failure(ErrType, "range takes 1 to 3 arguments, %d given", len(r.args))
	}
	v := [3]int64{0, 0, 1}
	for i, a := range r.args {
		n, _, isInt, ok := number(a)
		if !ok || !isInt {
			return nil, failure(ErrType, "range of a %s", typeName(a))
		}
		if n > 1<<40 || n < -(1<<40) {
			return nil, failure(ErrMemory, "range to %d", n)
		}
		v[i] = n
	}
	s := &span{start: v[0], stop: v[1], step: v[2]}
	if len(r.args) == 1 {
		s.start, s.stop = 0, v[0]
	}
	switch {
	case s.step == 0:
		return nil, failure(ErrType, "range with step zero")
	case s.step > 0 && s.stop > s.start:
		s.n = (s.stop - s.start + s.step - 1) / s.step
	case s.step < 0 && s.stop < s.start:
		s.n = (s.start - s.stop - s.step - 1) / -s.step
	}
	if s.n > int64(in.lim.Range) {
		return nil, failure(ErrMemory, "range of %d items, at most %d", s.n, in.lim.Range)
	}
	return s, in.slots(int(s.n))
}

// globalDict is Python's dict(mapping or pairs, name=value ...).
func globalDict(in *interp, _ []any, r *rest) (any, error) {
	d := newDict()
	if len(r.args) > 1 {
		return nil, failure(ErrType, "dict takes one argument, %d given", len(r.args))
	}
	if len(r.args) == 1 {
		if src, ok := r.args[0].(*dict); ok {
			for i, k := range src.keys {
				if err := d.set(k, src.vals[i]); err != nil {
					return nil, err
				}
			}
		} else {
			items, err := in.iterate(r.args[0])
			if err != nil {
				return nil, err
			}
			for _, it := range items {
				pair, err := in.iterate(it)
				if err != nil {
					return nil, err
				}
				if len(pair) != 2 {
					return nil, failure(ErrType, "dict needs pairs, found %d values", len(pair))
				}
				if err := d.set(pair[0], pair[1]); err != nil {
					return nil, err
				}
			}
		}
	}
	for _, k := range r.kw {
		_ = d.set(text{s: k.name}, k.val) // a string is always hashable
	}
	return d, in.slots(2 * len(d.keys))
}

func (c *cycler) attr(name string) (any, bool) {
	switch name {
	case "current":
		return c.items[c.at], true
	case "next":
		return &method{recv: c, name: name, call: func(_ *interp, recv any, _ []any, _ *rest) (any, error) {
			c := recv.(*cycler)
			v := c.items[c.at]
			c.at = (c.at + 1) % len(c.items)
			return v, nil
		}}, true
	case "reset":
		return &method{recv: c, name: name, call: func(_ *interp, recv any, _ []any, _ *rest) (any, error) {
			recv.(*cycler).at = 0
			return nil, nil
		}}, true
	}
	return nil, false
}
