package jinja

// loop is the variable of that name inside {% for %}. It reads its iterable one item at a time and looks ahead only when asked, as the
// reference does: a filter of the loop may depend on what the body has done before.
type loop struct {
	next    func() (any, bool, error)
	sized   int // number of items where that is known without reading them, else -1
	index0  int
	before  any // items around the current one; noItem where there is none
	current any
	after   any
	peeked  bool
	changed any // arguments of the last call of loop.changed
}

type noItemType struct{}

var noItem any = noItemType{}

func (lp *loop) advance() (bool, error) {
	after, err := lp.peek()
	if err != nil || after == noItem {
		return false, err
	}
	lp.peeked = false
	lp.index0++
	lp.before, lp.current = lp.current, after
	return true, nil
}

func (lp *loop) peek() (any, error) {
	if !lp.peeked {
		v, ok, err := lp.next()
		if err != nil {
			return nil, err
		}
		if !ok {
			v = noItem
		}
		lp.after, lp.peeked = v, true
	}
	return lp.after, nil
}

// size counts the items, reading the rest of the iterable where its length is not known.
func (lp *loop) size() (int, error) {
	if lp.sized >= 0 {
		return lp.sized, nil
	}
	if _, err := lp.peek(); err != nil {
		return 0, err
	}
	var rest []any
	if lp.after != noItem {
		for {
			v, ok, err := lp.next()
			if err != nil {
				return 0, err
			}
			if !ok {
				break
			}
			rest = append(rest, v)
		}
		lp.next = iterSlice(&rest)
		lp.sized = lp.index0 + 1 + 1 + len(rest)
	} else {
		lp.sized = lp.index0 + 1
	}
	return lp.sized, nil
}

// iterSlice walks a slice that may grow while it is walked.
func iterSlice(items *[]any) func() (any, bool, error) {
	i := 0
	return func() (any, bool, error) {
		if i >= len(*items) {
			return nil, false, nil
		}
		i++
		return (*items)[i-1], true, nil
	}
}

// newLoop starts a loop over v.
func (in *interp) newLoop(v any) (*loop, error) {
	lp := &loop{index0: -1, sized: -1, before: noItem, current: noItem, changed: noItem}
	switch v := v.(type) {
	case *list:
		lp.sized, lp.next = len(v.items), iterSlice(&v.items)
	case *stream:
		lp.next = func() (any, bool, error) {
			if v.at >= len(v.items) {
				return nil, false, nil
			}
			v.at++
			return v.items[v.at-1], true, nil
		}
	case *span:
		i := int64(-1)
		lp.sized = int(v.n)
		lp.next = func() (any, bool, error) { i++; return v.item(i), i < v.n, nil }
	default:
		items, err := in.iterate(v)
		if err != nil {
			return nil, err
		}
		lp.sized, lp.next = len(items), iterSlice(&items)
	}
	return lp, nil
}

func (in *interp) execFor(n *node, sc *scope, out *sink) (control, error) {
	v, err := in.eval(n.b, sc)
	if err != nil {
		return 0, err
	}
	lp, err := in.newLoop(v)
	if err != nil {
		return 0, at(n.b.pos, err)
	}
	if n.c != nil {
		in.filterLoop(lp, n, sc)
	}
	// The reference runs the else branch unless an iteration reached its end: after break or continue alone it runs.
	finished := false
	for {
		ok, err := lp.advance()
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		if err := in.spend(1); err != nil {
			return 0, err
		}
		inner := &scope{parent: sc}
		if err := in.assign(n.a, lp.current, inner); err != nil {
			return 0, err
		}
		inner.set("loop", lp)
		ctl, err := in.exec(n.bodies[0], inner, out)
		if err != nil {
			return 0, err
		}
		if ctl == ctlBreak {
			break
		}
		if ctl == ctlNone {
			finished = true
		}
	}
	if n.bodies[1] != nil && !finished {
		return in.exec(n.bodies[1], &scope{parent: sc}, out)
	}
	return 0, nil
}

// filterLoop makes lp skip the items for which the loop's "if" does not hold.
func (in *interp) filterLoop(lp *loop, n *node, sc *scope) {
	next := lp.next
	lp.sized = -1
	lp.next = func() (any, bool, error) {
		for {
			v, ok, err := next()
			if err != nil || !ok {
				return nil, false, err
			}
			if err := in.spend(1); err != nil {
				return nil, false, err
			}
			inner := &scope{parent: sc}
			if err := in.assign(n.a, v, inner); err != nil {
				return nil, false, err
			}
			keep, err := in.eval(n.c, inner)
			if err != nil {
				return nil, false, err
			}
			if truth(keep) {
				return v, true, nil
			}
		}
	}
}

// attr is an attribute of the loop variable.
func (lp *loop) attr(name string) (any, error) {
	switch name {
	case "index":
		return int64(lp.index0 + 1), nil
	case "index0":
		return int64(lp.index0), nil
	case "first":
		return lp.index0 == 0, nil
	case "last":
		after, err := lp.peek()
		return after == noItem, err
	case "depth", "depth0":
		return int64(1 - len(name)/6), nil
	case "length", "revindex", "revindex0":
		n, err := lp.size()
		if err != nil {
			return nil, err
		}
		switch name {
		case "revindex":
			n -= lp.index0
		case "revindex0":
			n -= lp.index0 + 1
		}
		return int64(n), nil
	case "previtem":
		if lp.before == noItem {
			return undef("there is no previous item"), nil
		}
		return lp.before, nil
	case "nextitem":
		after, err := lp.peek()
		if err == nil && after == noItem {
			return undef("there is no next item"), nil
		}
		return after, err
	case "cycle":
		return &method{recv: lp, name: name, sig: sig("*"), call: loopCycle}, nil
	case "changed":
		return &method{recv: lp, name: name, sig: sig("*"), call: loopChanged}, nil
	}
	return undef("'loop' has no attribute '%s'", name), nil
}

func loopCycle(_ *interp, recv any, _ []any, r *rest) (any, error) {
	if len(r.args) == 0 {
		return nil, failure(ErrType, "no items for cycling given")
	}
	return r.args[recv.(*loop).index0%len(r.args)], nil
}

func loopChanged(in *interp, recv any, _ []any, r *rest) (any, error) {
	lp := recv.(*loop)
	now := &list{items: r.args, tuple: true}
	if lp.changed != noItem {
		if eq, err := in.equal(lp.changed, now, 0); eq || err != nil {
			return false, err
		}
	}
	lp.changed = now
	return true, nil
}
