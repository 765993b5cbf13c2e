package jinja

// The grammar of expressions, one function per level from the loosest to the tightest binding. As in the reference, "~" binds tighter
// than "+", unary minus tighter than "**", and filters and tests tighter than any operator.

func (p *parser) parseExpr() (*node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	n, err := p.parseOr()
	for err == nil && p.isName("if") {
		pos := p.next().pos
		cond := &node{kind: nCond, pos: pos, b: n}
		if cond.a, err = p.parseOr(); err != nil {
			return nil, err
		}
		if p.skipName("else") {
			cond.c, err = p.parseExpr()
		}
		n = cond
	}
	return n, err
}

// parseTuple reads an expression, or several with commas between as a tuple. cond allows "a if b else c"; paren allows nothing at all.
func (p *parser) parseTuple(cond, paren bool, ends ...string) (*node, error) {
	parse := p.parseOr
	if cond {
		parse = p.parseExpr
	}
	return p.parseTupleOf(parse, paren, ends...)
}

func (p *parser) parseTupleOf(parse func() (*node, error), paren bool, ends ...string) (*node, error) {
	start := p.cur().pos
	var items []*node
	tuple := false
	for {
		if len(items) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
		}
		if p.tupleEnd(ends) {
			break
		}
		e, err := parse()
		if err != nil {
			return nil, err
		}
		items = append(items, e)
		if !p.isOp(",") {
			break
		}
		tuple = true
	}
	if !tuple && len(items) == 1 {
		return items[0], nil
	}
	if !tuple && !paren {
		return nil, p.unexpected("an expression")
	}
	return &node{kind: nTuple, pos: start, kids: items}, nil
}

func (p *parser) tupleEnd(ends []string) bool {
	switch t := p.cur(); t.kind {
	case tokVarEnd, tokBlockEnd, tokEOF:
		return true
	case tokOp:
		return t.s == ")"
	case tokName:
		for _, e := range ends {
			if t.s == e {
				return true
			}
		}
	}
	return false
}

func (p *parser) parseOr() (*node, error) {
	n, err := p.parseAnd()
	for err == nil && p.isName("or") {
		or := &node{kind: nOr, pos: p.next().pos, a: n}
		or.b, err = p.parseAnd()
		n = or
	}
	return n, err
}

func (p *parser) parseAnd() (*node, error) {
	n, err := p.parseNot()
	for err == nil && p.isName("and") {
		and := &node{kind: nAnd, pos: p.next().pos, a: n}
		and.b, err = p.parseNot()
		n = and
	}
	return n, err
}

func (p *parser) parseNot() (*node, error) {
	if !p.isName("not") {
		return p.parseCompare()
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	n := &node{kind: nNot, pos: p.next().pos}
	var err error
	n.a, err = p.parseNot()
	return n, err
}

var comparisons = map[string]bool{"==": true, "!=": true, "<": true, "<=": true, ">": true, ">=": true}

func (p *parser) compareOp() string {
	t, after := p.cur(), p.look()
	switch {
	case t.kind == tokOp && comparisons[t.s]:
		return p.next().s
	case p.skipName("in"):
		return "in"
	case p.isName("not") && after.kind == tokName && after.s == "in":
		p.next()
		p.next()
		return "not in"
	}
	return ""
}

func (p *parser) parseCompare() (*node, error) {
	n, err := p.parseSum()
	if err != nil {
		return nil, err
	}
	pos := p.cur().pos
	op := p.compareOp()
	if op == "" {
		return n, nil
	}
	cmp := &node{kind: nCompare, pos: pos, kids: []*node{n}}
	for ; op != ""; op = p.compareOp() {
		rhs, err := p.parseSum()
		if err != nil {
			return nil, err
		}
		cmp.ops, cmp.kids = append(cmp.ops, op), append(cmp.kids, rhs)
	}
	return cmp, nil
}

// binary reads operands of one level joined by ops, to the left.
func (p *parser) binary(operand func() (*node, error), ops ...string) (*node, error) {
	n, err := operand()
	for err == nil {
		t := p.cur()
		if t.kind != tokOp || !contains(ops, t.s) {
			break
		}
		bin := &node{kind: nBinary, pos: p.next().pos, str: t.s, a: n}
		bin.b, err = operand()
		n = bin
	}
	return n, err
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func (p *parser) parseSum() (*node, error) { return p.binary(p.parseConcat, "+", "-") }

func (p *parser) parseConcat() (*node, error) {
	n, err := p.parseProduct()
	if err != nil || !p.isOp("~") {
		return n, err
	}
	cat := &node{kind: nConcat, pos: p.cur().pos, kids: []*node{n}}
	for p.skipOp("~") {
		if n, err = p.parseProduct(); err != nil {
			return nil, err
		}
		cat.kids = append(cat.kids, n)
	}
	return cat, nil
}

func (p *parser) parseProduct() (*node, error) { return p.binary(p.parsePower, "*", "/", "//", "%") }

func (p *parser) parsePower() (*node, error) {
	return p.binary(func() (*node, error) { return p.parseUnary(true) }, "**")
}

func (p *parser) parseUnary(filters bool) (*node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	var n *node
	var err error
	pos := p.cur().pos
	switch {
	case p.skipOp("-"):
		n = &node{kind: nNeg, pos: pos}
		n.a, err = p.parseUnary(false)
	case p.skipOp("+"):
		n = &node{kind: nPos, pos: pos}
		n.a, err = p.parseUnary(false)
	default:
		n, err = p.parsePrimary()
	}
	if err == nil {
		n, err = p.parsePostfix(n)
	}
	for err == nil && filters {
		switch {
		case p.isOp("|"):
			n, err = p.parseFilters(n)
		case p.isName("is"):
			n, err = p.parseTest(n)
		case p.isOp("("):
			n, err = p.parseCall(n)
		default:
			return n, nil
		}
	}
	return n, err
}

func (p *parser) parsePrimary() (*node, error) {
	t := p.cur()
	n := &node{kind: nConst, pos: t.pos}
	switch t.kind {
	case tokName:
		p.next()
		switch t.s {
		case "true", "True":
			n.val = true
		case "false", "False":
			n.val = false
		case "none", "None":
		default:
			n.kind, n.str = nName, t.s
		}
		return n, nil
	case tokString:
		s := ""
		for p.cur().kind == tokString {
			s += p.next().s
		}
		n.val = text{s: s}
		return n, nil
	case tokInt:
		n.val = p.next().i
		return n, nil
	case tokFloat:
		n.val = p.next().f
		return n, nil
	case tokOp:
		if err := p.enter(); err != nil {
			return nil, err
		}
		defer p.leave()
		switch t.s {
		case "(":
			p.next()
			n, err := p.parseTuple(true, true)
			if err == nil {
				err = p.expectOp(")")
			}
			return n, err
		case "[":
			return p.parseList()
		case "{":
			return p.parseDict()
		}
	}
	return nil, p.unexpected("an expression")
}

func (p *parser) parseList() (*node, error) {
	n := &node{kind: nList, pos: p.next().pos}
	for !p.isOp("]") {
		if len(n.kids) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.isOp("]") {
				break
			}
		}
		e, err := p.parseExpr()
		if err != nil {
			return nil, err
		}
		n.kids = append(n.kids, e)
	}
	p.next()
	return n, nil
}

func (p *parser) parseDict() (*node, error) {
	n := &node{kind: nDict, pos: p.next().pos}
	for !p.isOp("}") {
		if len(n.kids) > 0 {
			if err := p.expectOp(","); err != nil {
				return nil, err
			}
			if p.isOp("}") {
				break
			}
		}
		key, err := p.parseExpr()
		if err != nil {
			return nil, err
		}
		if err := p.expectOp(":"); err != nil {
			return nil, err
		}
		val, err := p.parseExpr()
		if err != nil {
			return nil, err
		}
		n.kids = append(n.kids, key, val)
	}
	p.next()
	return n, nil
}
