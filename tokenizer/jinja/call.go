package jinja

import "strings"

// signature is the parameter list of a built-in, as Python writes it.
type signature struct {
	params   []sigParam
	varArgs  bool
	varNames bool
}

type sigParam struct {
	name     string
	def      any
	required bool
}

// sig reads a list such as "value width=4 first=False *": names, defaults (None, True, False, an integer or ” strings), "*" for further
// arguments and "**" for further names.
func sig(spec string) signature {
	var s signature
	for _, f := range strings.Fields(spec) {
		name, def, has := strings.Cut(f, "=")
		switch {
		case f == "*":
			s.varArgs = true
		case f == "**":
			s.varNames = true
		case !has:
			s.params = append(s.params, sigParam{name: name, required: true})
		default:
			s.params = append(s.params, sigParam{name: name, def: sigDefault(def)})
		}
	}
	return s
}

func sigDefault(s string) any {
	switch s {
	case "None":
		return nil
	case "True":
		return true
	case "False":
		return false
	}
	if strings.HasPrefix(s, "'") {
		return text{s: strings.ReplaceAll(strings.Trim(s, "'"), "_", " ")}
	}
	n := int64(0)
	for _, c := range strings.TrimPrefix(s, "-") {
		n = n*10 + int64(c-'0')
	}
	if strings.HasPrefix(s, "-") {
		n = -n
	}
	return n
}

func (s *signature) accepts(name string) bool {
	for _, p := range s.params {
		if p.name == name {
			return true
		}
	}
	return s.varNames
}

type named struct {
	name string
	val  any
}

// rest holds the arguments beyond the named parameters.
type rest struct {
	args []any
	kw   []named
}

// take removes and returns a named argument.
func (r *rest) take(name string) (any, bool) {
	for i, k := range r.kw {
		if k.name == name {
			r.kw = append(r.kw[:i:i], r.kw[i+1:]...)
			return k.val, true
		}
	}
	return nil, false
}

// bind matches arguments to parameters as Python does.
func (s *signature) bind(fn string, args []any, kw []named) ([]any, *rest, error) {
	vals := make([]any, len(s.params))
	given := make([]bool, len(s.params))
	r := &rest{}
	for i, a := range args {
		if i < len(vals) {
			vals[i], given[i] = a, true
		} else if s.varArgs {
			r.args = append(r.args, a)
		} else {
			return nil, nil, failure(ErrType, "%s takes %d arguments, %d given", fn, len(s.params), len(args))
		}
	}
next:
	for _, k := range kw {
		for i, p := range s.params {
			if p.name != k.name {
				continue
			}
			if given[i] {
				return nil, nil, failure(ErrType, "%s got two values for %q", fn, k.name)
			}
			vals[i], given[i] = k.val, true
			continue next
		}
		if !s.varNames {
			return nil, nil, failure(ErrType, "%s has no parameter %q", fn, k.name)
		}
		r.kw = append(r.kw, k)
	}
	for i, p := range s.params {
		if given[i] {
			continue
		}
		if p.required {
			return nil, nil, failure(ErrType, "%s needs a value for %q", fn, p.name)
		}
		vals[i] = p.def
	}
	return vals, r, nil
}

// evalArgs evaluates the arguments of a call; in reads first, if there is one, as the first.
func (in *interp) evalArgs(a *arguments, sc *scope, first ...any) ([]any, []named, error) {
	pos, err := in.evalAll(a.pos, sc)
	if err != nil {
		return nil, nil, err
	}
	pos = append(append(make([]any, 0, len(first)+len(pos)), first...), pos...)
	var kw []named
	for _, k := range a.kw {
		v, err := in.eval(k.val, sc)
		if err != nil {
			return nil, nil, err
		}
		kw = append(kw, named{k.name, v})
	}
	if a.star != nil {
		v, err := in.eval(a.star, sc)
		if err != nil {
			return nil, nil, err
		}
		items, err := in.iterate(v)
		if err != nil {
			return nil, nil, at(a.star.pos, err)
		}
		if err := in.slots(len(items)); err != nil {
			return nil, nil, err
		}
		pos = append(pos, items...)
	}
	if a.starStar != nil {
		v, err := in.eval(a.starStar, sc)
		if err != nil {
			return nil, nil, err
		}
		d, ok := v.(*dict)
		if !ok {
			return nil, nil, failAt(a.starStar.pos, ErrType, "argument behind ** is a %s, not a mapping", typeName(v))
		}
		for i, k := range d.keys {
			name, ok := k.(text)
			if !ok {
				return nil, nil, failAt(a.starStar.pos, ErrType, "a key behind ** is a %s, not a string", typeName(k))
			}
			for _, other := range kw {
				if other.name == name.s {
					return nil, nil, failAt(a.starStar.pos, ErrType, "two values for %q", name.s)
				}
			}
			kw = append(kw, named{name.s, d.vals[i]})
		}
	}
	return pos, kw, nil
}

// callNode evaluates a call; caller, if not nil, is passed as the macro of a {% call %} block.
func (in *interp) callNode(n *node, sc *scope, caller *macro) (any, error) {
	fn, err := in.eval(n.a, sc)
	if err != nil {
		return nil, err
	}
	args, kw, err := in.evalArgs(n.args, sc)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		kw = append(kw, named{"caller", caller})
	}
	return in.call(fn, args, kw)
}

func (in *interp) call(fn any, args []any, kw []named) (any, error) {
	switch fn := fn.(type) {
	case *macro:
		return in.callMacro(fn, args, kw)
	case *builtin:
		a, r, err := fn.sig.bind(fn.name, args, kw)
		if err != nil {
			return nil, err
		}
		return fn.call(in, a, r)
	case *method:
		a, r, err := fn.sig.bind(fn.name, args, kw)
		if err != nil {
			return nil, err
		}
		return fn.call(in, fn.recv, a, r)
	case *joiner:
		if len(args)+len(kw) > 0 {
			return nil, failure(ErrType, "a joiner takes no arguments")
		}
		if fn.used {
			return fn.sep, nil
		}
		fn.used = true
		return text{}, nil
	case *undefined:
		return nil, fn.fail()
	}
	return nil, failure(ErrType, "a %s cannot be called", typeName(fn))
}

// macro is a {% macro %}, or the body of a {% call %}, with the scope it was defined in.
type macro struct {
	n  *node
	sc *scope
}

func (in *interp) callMacro(m *macro, args []any, kw []named) (any, error) {
	if in.depth++; in.depth > in.lim.Depth {
		return nil, failure(ErrDepth, "more than %d macro calls inside one another", in.lim.Depth)
	}
	defer func() { in.depth-- }()
	sc := &scope{parent: m.sc}
	r := &rest{kw: kw}
	for i, p := range m.n.params {
		if i < len(args) {
			sc.set(p.name, args[i])
		} else if v, ok := r.take(p.name); ok {
			sc.set(p.name, v)
		} else if p.def != nil {
			v, err := in.eval(p.def, sc)
			if err != nil {
				return nil, err
			}
			sc.set(p.name, v)
		} else {
			sc.set(p.name, undef("parameter '%s' was not provided", p.name))
		}
	}
	if len(args) > len(m.n.params) {
		r.args = args[len(m.n.params):]
	}
	if err := m.bindSpecial(sc, r); err != nil {
		return nil, err
	}
	t, _, err := in.capture(m.n.bodies[0], sc)
	return t, err
}

// bindSpecial defines caller, varargs and kwargs where the macro reads them, and refuses arguments that nothing takes.
func (m *macro) bindSpecial(sc *scope, r *rest) error {
	if m.n.uses["caller"] {
		v, ok := r.take("caller")
		if !ok || v == nil {
			v = undef("no caller defined")
		}
		sc.set("caller", v)
	}
	if m.n.uses["kwargs"] {
		d := newDict()
		for _, k := range r.kw {
			_ = d.set(text{s: k.name}, k.val) // a string is always hashable
		}
		sc.set("kwargs", d)
	} else if len(r.kw) > 0 {
		return failure(ErrType, "macro %q has no parameter %q", m.n.str, r.kw[0].name)
	}
	if m.n.uses["varargs"] {
		sc.set("varargs", &list{items: r.args, tuple: true})
	} else if len(r.args) > 0 {
		return failure(ErrType, "macro %q takes %d arguments, %d given", m.n.str, len(m.n.params), len(m.n.params)+len(r.args))
	}
	return nil
}

// function is a filter or a test: its first parameter is the value it is applied to.
type function struct {
	sig  signature
	call func(in *interp, a []any, r *rest) (any, error)
}

func (in *interp) apply(kind, name string, f *function, args []any, kw []named) (any, error) {
	a, r, err := f.sig.bind(kind+" "+name, args, kw)
	if err != nil {
		return nil, err
	}
	return f.call(in, a, r)
}

// evalFilter applies a filter. The head of a block's filter chain has no operand of its own: it takes *input.
func (in *interp) evalFilter(n *node, sc *scope, input *any) (any, error) {
	var v any
	var err error
	switch {
	case n.a == nil:
		v = *input
	case n.a.kind == nFilter && input != nil:
		v, err = in.evalFilter(n.a, sc, input)
	default:
		v, err = in.eval(n.a, sc)
	}
	if err != nil {
		return nil, err
	}
	args, kw, err := in.evalArgs(n.args, sc, v)
	if err != nil {
		return nil, err
	}
	out, err := in.apply("filter", n.str, filters[n.str], args, kw)
	return out, at(n.pos, err)
}

func (in *interp) evalTest(n *node, sc *scope) (any, error) {
	v, err := in.eval(n.a, sc)
	if err != nil {
		return nil, err
	}
	args, kw, err := in.evalArgs(n.args, sc, v)
	if err != nil {
		return nil, err
	}
	return in.apply("test", n.str, tests[n.str], args, kw)
}
