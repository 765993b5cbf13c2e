package jinja

func (p *parser) parsePostfix(n *node) (*node, error) {
	var err error
	for err == nil {
		switch {
		case p.isOp("."), p.isOp("["):
			n, err = p.parseSubscript(n)
		case p.isOp("("):
			n, err = p.parseCall(n)
		default:
			return n, nil
		}
	}
	return n, err
}

func (p *parser) parseSubscript(obj *node) (*node, error) {
	open := p.next()
	if open.s == "." {
		t := p.next()
		switch t.kind {
		case tokName:
			return &node{kind: nAttr, pos: t.pos, str: t.s, a: obj}, nil
		case tokInt:
			return &node{kind: nIndex, pos: t.pos, a: obj, b: &node{kind: nConst, pos: t.pos, val: t.i}}, nil
		}
		return nil, failAt(t.pos, ErrSyntax, "found %s, want a name or a number behind the dot", t.describe())
	}
	n, err := p.parseIndex(obj, open.pos)
	if err != nil {
		return nil, err
	}
	if p.isOp(",") {
		return nil, failAt(p.cur().pos, ErrUnsupported, "subscript of several parts")
	}
	return n, p.expectOp("]")
}

// parseIndex reads what stands between the brackets of a subscript: an expression or a slice.
func (p *parser) parseIndex(obj *node, pos int) (*node, error) {
	var parts [3]*node
	colons := 0
	for !p.isOp("]") && !p.isOp(",") {
		if p.isOp(":") && colons < 2 {
			p.next()
			colons++
			continue
		}
		if parts[colons] != nil {
			return nil, p.unexpected("']'")
		}
		e, err := p.parseExpr()
		if err != nil {
			return nil, err
		}
		parts[colons] = e
	}
	if colons > 0 {
		return &node{kind: nSlice, pos: pos, a: obj, kids: parts[:]}, nil
	}
	if parts[0] == nil {
		return nil, p.unexpected("an expression")
	}
	return &node{kind: nIndex, pos: pos, a: obj, b: parts[0]}, nil
}

func (p *parser) parseCall(fn *node) (*node, error) {
	n := &node{kind: nCall, pos: p.cur().pos, a: fn}
	var err error
	n.args, err = p.parseArgs()
	return n, err
}

func (p *parser) parseArgs() (*arguments, error) {
	open := p.next()
	args := &arguments{}
	misplaced := func(bad bool) error {
		if bad {
			return failAt(open.pos, ErrSyntax, "arguments in the wrong order")
		}
		return nil
	}
	for first := true; !p.isOp(")"); first = false {
		if !first {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.isOp(")") {
				break
			}
		}
		var err error
		after := p.look()
		switch {
		case p.isOp("*"):
			p.next()
			if err = misplaced(args.star != nil || args.starStar != nil); err == nil {
				args.star, err = p.parseExpr()
			}
		case p.isOp("**"):
			p.next()
			if err = misplaced(args.starStar != nil); err == nil {
				args.starStar, err = p.parseExpr()
			}
		case p.cur().kind == tokName && after.kind == tokOp && after.s == "=":
			name := p.next().s
			p.next()
			var val *node
			if err = misplaced(args.starStar != nil); err == nil {
				val, err = p.parseExpr()
				args.kw = append(args.kw, keyword{name, val})
			}
		default:
			var val *node
			if err = misplaced(args.star != nil || args.starStar != nil || len(args.kw) > 0); err == nil {
				val, err = p.parseExpr()
				args.pos = append(args.pos, val)
			}
		}
		if err != nil {
			return nil, err
		}
	}
	p.next()
	return args, nil
}

// parseFilters reads "|name(args)" as often as it stands there.
func (p *parser) parseFilters(n *node) (*node, error) {
	var err error
	for err == nil && p.skipOp("|") {
		n, err = p.parseFilterName(n)
	}
	return n, err
}

func (p *parser) parseFilterName(in *node) (*node, error) {
	n := &node{kind: nFilter, pos: p.cur().pos, a: in, args: &arguments{}}
	var err error
	if n.str, err = p.dottedName(); err != nil {
		return nil, err
	}
	if p.isOp("(") {
		n.args, err = p.parseArgs()
	}
	return n, err
}

func (p *parser) dottedName() (string, error) {
	name, err := p.expectName()
	for err == nil && p.skipOp(".") {
		var part string
		part, err = p.expectName()
		name += "." + part
	}
	return name, err
}

func (p *parser) parseTest(in *node) (*node, error) {
	p.next()
	negated := p.skipName("not")
	n := &node{kind: nTest, pos: p.cur().pos, a: in, args: &arguments{}}
	var err error
	if n.str, err = p.dottedName(); err != nil {
		return nil, err
	}
	t := p.cur()
	switch {
	case p.isOp("("):
		n.args, err = p.parseArgs()
	case p.isName("is"):
		return nil, failAt(t.pos, ErrSyntax, "tests cannot be chained with is")
	case t.kind == tokName && t.s != "else" && t.s != "or" && t.s != "and",
		t.kind == tokString, t.kind == tokInt, t.kind == tokFloat, p.isOp("["), p.isOp("{"):
		var arg *node
		if arg, err = p.parsePrimary(); err == nil {
			arg, err = p.parsePostfix(arg)
		}
		n.args.pos = []*node{arg}
	}
	if err != nil {
		return nil, err
	}
	if negated {
		return &node{kind: nNot, pos: n.pos, a: n}, nil
	}
	return n, nil
}
