package jinja

func (in *interp) eval(n *node, sc *scope) (any, error) {
	if err := in.spend(1); err != nil {
		return nil, at(n.pos, err)
	}
	v, err := in.evalOne(n, sc)
	return v, at(n.pos, err)
}

func (in *interp) evalOne(n *node, sc *scope) (any, error) {
	switch n.kind {
	case nConst:
		return n.val, nil
	case nName:
		return in.lookup(n.str, sc), nil
	case nAttr:
		obj, err := in.eval(n.a, sc)
		if err != nil {
			return nil, err
		}
		return in.getAttr(obj, n.str)
	case nIndex:
		obj, key, err := in.eval2(n.a, n.b, sc)
		if err != nil {
			return nil, err
		}
		return in.getItem(obj, key)
	case nSlice:
		return in.evalSlice(n, sc)
	case nCall:
		return in.callNode(n, sc, nil)
	case nFilter:
		return in.evalFilter(n, sc, nil)
	case nTest:
		return in.evalTest(n, sc)
	case nList, nTuple:
		items, err := in.evalAll(n.kids, sc)
		if err != nil {
			return nil, err
		}
		return &list{items: items, tuple: n.kind == nTuple, own: n.kind == nList}, in.slots(len(items))
	case nDict:
		return in.evalDict(n, sc)
	}
	return in.evalOperator(n, sc)
}

func (in *interp) eval2(a, b *node, sc *scope) (x, y any, err error) {
	if x, err = in.eval(a, sc); err != nil {
		return nil, nil, err
	}
	y, err = in.eval(b, sc)
	return x, y, err
}

func (in *interp) evalAll(kids []*node, sc *scope) ([]any, error) {
	vals := make([]any, len(kids))
	for i, k := range kids {
		v, err := in.eval(k, sc)
		if err != nil {
			return nil, err
		}
		vals[i] = v
	}
	return vals, nil
}

func (in *interp) evalDict(n *node, sc *scope) (any, error) {
	d := newDict()
	for i := 0; i < len(n.kids); i += 2 {
		k, v, err := in.eval2(n.kids[i], n.kids[i+1], sc)
		if err != nil {
			return nil, err
		}
		if err := d.set(k, v); err != nil {
			return nil, at(n.kids[i].pos, err)
		}
	}
	return d, in.slots(len(n.kids))
}

func (in *interp) evalOperator(n *node, sc *scope) (any, error) {
	switch n.kind {
	case nCompare:
		return in.evalCompare(n, sc)
	case nConcat:
		return in.evalConcat(n, sc)
	case nBinary:
		a, b, err := in.eval2(n.a, n.b, sc)
		if err != nil {
			return nil, err
		}
		return in.binary(n.str, a, b)
	case nCond:
		return in.evalCond(n, sc)
	}
	a, err := in.eval(n.a, sc)
	if err != nil {
		return nil, err
	}
	switch n.kind {
	case nNot:
		return !truth(a), nil
	case nAnd, nOr:
		if truth(a) == (n.kind == nOr) {
			return a, nil
		}
		return in.eval(n.b, sc)
	case nPos, nNeg:
		return negate(a, n.kind == nNeg)
	}
	return nil, failure(ErrUnsupported, "expression")
}

func (in *interp) evalCond(n *node, sc *scope) (any, error) {
	c, err := in.eval(n.a, sc)
	if err != nil {
		return nil, err
	}
	switch {
	case truth(c):
		return in.eval(n.b, sc)
	case n.c != nil:
		return in.eval(n.c, sc)
	}
	return undef("the inline if-expression evaluated to false and no else section was defined"), nil
}

func (in *interp) evalCompare(n *node, sc *scope) (any, error) {
	left, err := in.eval(n.kids[0], sc)
	if err != nil {
		return nil, err
	}
	for i, op := range n.ops {
		right, err := in.eval(n.kids[i+1], sc)
		if err != nil {
			return nil, err
		}
		ok, err := in.compare(op, left, right)
		if err != nil || !ok {
			return false, err
		}
		left = right
	}
	return true, nil
}

func (in *interp) evalConcat(n *node, sc *scope) (any, error) {
	var b builder
	for _, k := range n.kids {
		v, err := in.eval(k, sc)
		if err != nil {
			return nil, err
		}
		t, err := in.str(v)
		if err != nil {
			return nil, at(k.pos, err)
		}
		b.add(t)
		if err := in.alloc(len(t.s)); err != nil {
			return nil, err
		}
	}
	return b.text(), nil
}
