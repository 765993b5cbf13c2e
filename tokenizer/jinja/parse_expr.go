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
