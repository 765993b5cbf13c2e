package jinja

import "time"

// interp is one rendering.
type interp struct {
	lim    Limits
	steps  int
	memory int
	depth  int
	vars   map[string]any // of the Context
	now    time.Time
}

// scope holds the variables of a block; loops, macros, with and block forms of set, call and filter open a new one, if does not.
type scope struct {
	vars   map[string]any
	parent *scope
}

func (s *scope) set(name string, v any) {
	if s.vars == nil {
		s.vars = map[string]any{}
	}
	s.vars[name] = v
}

// sink collects text: a captured one pays for memory, the rendered one is bounded by Limits.Output.
type sink struct {
	builder
	captured bool
}

// control is how a statement ended.
type control uint8

const (
	ctlNone control = iota
	ctlBreak
	ctlContinue
)

// Render runs the template. Errors match ErrType, ErrUndefined, ErrSandbox, ErrRaised, ErrUnsupported or ErrLimit (and which limit) and
// start with line:column. The segments alternate in origin; none is empty.
func (t *Template) Render(ctx Context, lim Limits) ([]Segment, error) {
	in := &interp{lim: lim.orDefault(), vars: ctx.names(), now: ctx.Now}
	out := &sink{}
	if _, err := in.exec(t.body, &scope{}, out); err != nil {
		return nil, locate(t.src, err)
	}
	return out.segments(), nil
}

func (in *interp) write(out *sink, t text) error {
	out.add(t)
	if out.captured {
		return in.alloc(len(t.s))
	}
	if out.len() > in.lim.Output {
		return failure(ErrOutput, "more than %d bytes", in.lim.Output)
	}
	return in.scan(len(t.s))
}

// capture runs body and returns what it writes.
func (in *interp) capture(body []*node, sc *scope) (text, control, error) {
	out := &sink{captured: true}
	ctl, err := in.exec(body, sc, out)
	return out.text(), ctl, err
}

func (in *interp) exec(body []*node, sc *scope, out *sink) (control, error) {
	for _, n := range body {
		ctl, err := in.execOne(n, sc, out)
		if err != nil {
			return 0, at(n.pos, err)
		}
		if ctl != ctlNone {
			return ctl, nil
		}
	}
	return ctlNone, nil
}

func (in *interp) execOne(n *node, sc *scope, out *sink) (control, error) {
	if err := in.spend(1); err != nil {
		return 0, err
	}
	switch n.kind {
	case nText:
		return 0, in.write(out, text{s: n.str})
	case nPrint:
		for _, e := range n.kids {
			v, err := in.eval(e, sc)
			if err != nil {
				return 0, err
			}
			t, err := in.str(v)
			if err != nil {
				return 0, at(e.pos, err)
			}
			if err := in.write(out, t); err != nil {
				return 0, err
			}
		}
		return 0, nil
	case nIf:
		for i, cond := range n.kids {
			v, err := in.eval(cond, sc)
			if err != nil {
				return 0, err
			}
			if truth(v) {
				return in.exec(n.bodies[i], sc, out)
			}
		}
		if len(n.bodies) > len(n.kids) {
			return in.exec(n.bodies[len(n.kids)], sc, out)
		}
		return 0, nil
	case nFor:
		return in.execFor(n, sc, out)
	case nSet:
		v, err := in.eval(n.b, sc)
		if err != nil {
			return 0, err
		}
		return 0, in.assign(n.a, v, sc)
	case nMacro:
		sc.set(n.str, &macro{n: n, sc: sc})
		return 0, nil
	case nCallBlock:
		call := *n.a
		v, err := in.callNode(&call, sc, &macro{n: n, sc: sc})
		if err != nil {
			return 0, err
		}
		t, err := in.str(v)
		if err != nil {
			return 0, err
		}
		return 0, in.write(out, t)
	case nBreak:
		return ctlBreak, nil
	case nContinue:
		return ctlContinue, nil
	}
	return in.execBlock(n, sc, out)
}

// execBlock runs the statements whose body has a scope of its own.
func (in *interp) execBlock(n *node, sc *scope, out *sink) (control, error) {
	inner := &scope{parent: sc}
	switch n.kind {
	case nWith:
		for i := 0; i < len(n.kids); i += 2 {
			v, err := in.eval(n.kids[i+1], sc)
			if err != nil {
				return 0, err
			}
			if err := in.assign(n.kids[i], v, inner); err != nil {
				return 0, err
			}
		}
		return in.exec(n.bodies[0], inner, out)
	case nGeneration:
		return in.exec(n.bodies[0], inner, out)
	}
	t, ctl, err := in.capture(n.bodies[0], inner)
	if err != nil || ctl != ctlNone {
		return ctl, err
	}
	chain := n.a
	if n.kind == nSetBlock {
		chain = n.kids[0]
	}
	var v any = t
	if chain != nil {
		if v, err = in.evalFilter(chain, sc, &v); err != nil {
			return 0, err
		}
	}
	if n.kind == nSetBlock {
		return 0, in.assign(n.a, v, sc)
	}
	s, err := in.str(v)
	if err != nil {
		return 0, err
	}
	return 0, in.write(out, s)
}

// assign binds v to a target: a name, a tuple of targets, or an attribute of a namespace.
func (in *interp) assign(target *node, v any, sc *scope) error {
	switch target.kind {
	case nName:
		sc.set(target.str, v)
		return nil
	case nAttr:
		obj, err := in.eval(target.a, sc)
		if err != nil {
			return err
		}
		ns, ok := obj.(*namespace)
		if !ok {
			return failAt(target.pos, ErrType, "cannot assign an attribute of a %s, only of a namespace", typeName(obj))
		}
		if err := in.slots(1); err != nil {
			return err
		}
		return ns.attrs.set(text{s: target.str}, v)
	}
	items, err := in.iterate(v)
	if err != nil {
		return at(target.pos, err)
	}
	if len(items) != len(target.kids) {
		return failAt(target.pos, ErrType, "%d values for %d names", len(items), len(target.kids))
	}
	for i, k := range target.kids {
		if err := in.assign(k, items[i], sc); err != nil {
			return err
		}
	}
	return nil
}

func (in *interp) lookup(name string, sc *scope) any {
	for s := sc; s != nil; s = s.parent {
		if v, ok := s.vars[name]; ok {
			return v
		}
	}
	if v, ok := in.vars[name]; ok {
		return v
	}
	if f, ok := globals[name]; ok {
		return f
	}
	return undef("'%s' is undefined", name)
}
