package jinja

import "strings"

// maxNesting bounds how deep statements and expressions nest, so that neither the parser nor a walk of the tree exhausts the stack.
const maxNesting = 200

type parser struct {
	toks  []token
	i     int
	depth int
	loops int // enclosing loops that a break may leave
}

func (p *parser) cur() token { return p.toks[p.i] }

func (p *parser) look() token { return p.toks[min(p.i+1, len(p.toks)-1)] }

func (p *parser) next() token {
	t := p.toks[p.i]
	if p.i+1 < len(p.toks) {
		p.i++
	}
	return t
}

func (p *parser) isOp(s string) bool   { t := p.cur(); return t.kind == tokOp && t.s == s }
func (p *parser) isName(s string) bool { t := p.cur(); return t.kind == tokName && t.s == s }

func (p *parser) skipOp(s string) bool {
	if p.isOp(s) {
		p.next()
		return true
	}
	return false
}

func (p *parser) skipName(s string) bool {
	if p.isName(s) {
		p.next()
		return true
	}
	return false
}

func (p *parser) expectOp(s string) error {
	if !p.skipOp(s) {
		return p.unexpected("'" + s + "'")
	}
	return nil
}

func (p *parser) expectName() (string, error) {
	if p.cur().kind != tokName {
		return "", p.unexpected("a name")
	}
	return p.next().s, nil
}

func (p *parser) unexpected(want string) error {
	t := p.cur()
	return failAt(t.pos, ErrSyntax, "found %s, want %s", t.describe(), want)
}

func (p *parser) enter() error {
	if p.depth++; p.depth > maxNesting {
		return failAt(p.cur().pos, ErrDepth, "nested deeper than %d", maxNesting)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) parseTemplate() ([]*node, error) {
	body, _, err := p.parseBody(nil)
	return body, err
}

// parseBody reads statements up to a tag named in ends (none: the end of the template), consumes "{%" and that name, and returns it.
func (p *parser) parseBody(ends []string) (body []*node, end string, err error) {
	if err := p.enter(); err != nil {
		return nil, "", err
	}
	defer p.leave()
	for {
		t := p.next()
		switch t.kind {
		case tokData:
			body = append(body, &node{kind: nText, pos: t.pos, str: t.s})
		case tokVarBegin:
			e, err := p.parseTuple(true, false)
			if err != nil {
				return nil, "", err
			}
			if p.cur().kind != tokVarEnd {
				return nil, "", p.unexpected("'}}'")
			}
			p.next()
			body = append(body, &node{kind: nPrint, pos: t.pos, kids: []*node{e}})
		case tokBlockBegin:
			for _, e := range ends {
				if p.isName(e) {
					p.next()
					return body, e, nil
				}
			}
			st, err := p.parseStatement()
			if err != nil {
				return nil, "", err
			}
			if st != nil {
				body = append(body, st)
			}
			if err := p.blockEnd(); err != nil {
				return nil, "", err
			}
		case tokEOF:
			if ends != nil {
				return nil, "", failAt(t.pos, ErrSyntax, "found the end of the template, want {%% %s %%}", strings.Join(ends, " %} or {% "))
			}
			return body, "", nil
		default:
			return nil, "", failAt(t.pos, ErrSyntax, "unexpected %s", t.describe())
		}
	}
}

func (p *parser) blockEnd() error {
	if p.cur().kind != tokBlockEnd {
		return p.unexpected("'%}'")
	}
	p.next()
	return nil
}

// parseBlock reads "%}", a body, and the end tag's name; a colon before "%}" is allowed as in Python.
func (p *parser) parseBlock(ends ...string) ([]*node, string, error) {
	p.skipOp(":")
	if err := p.blockEnd(); err != nil {
		return nil, "", err
	}
	return p.parseBody(ends)
}

// parseClosed reads a body whose loops cannot be left by break: the reference compiles it to a function of its own.
func (p *parser) parseClosed(end string) ([]*node, error) {
	outer := p.loops
	p.loops = 0
	body, _, err := p.parseBlock(end)
	p.loops = outer
	return body, err
}

var refusedTags = map[string]string{
	"include": "a template cannot load another", "import": "a template cannot load another", "from": "a template cannot load another",
	"extends": "templates do not inherit", "block": "templates do not inherit", "autoescape": "chat templates are not escaped",
	"do": "the reference has no such extension", "trans": "the reference has no such extension", "debug": "the reference has no such extension",
}

func (p *parser) parseStatement() (*node, error) {
	t := p.cur()
	if t.kind != tokName {
		return nil, p.unexpected("the name of a tag")
	}
	p.next()
	n := &node{pos: t.pos}
	switch t.s {
	case "if":
		return n, p.parseIf(n)
	case "for":
		return n, p.parseFor(n)
	case "set":
		return n, p.parseSet(n)
	case "macro":
		return n, p.parseMacro(n)
	case "call":
		return n, p.parseCallBlock(n)
	case "filter":
		return n, p.parseFilterBlock(n)
	case "with":
		return n, p.parseWith(n)
	case "print":
		return n, p.parsePrint(n)
	case "generation":
		n.kind = nGeneration
		body, err := p.parseClosed("endgeneration")
		n.bodies = [][]*node{body}
		return n, err
	case "break", "continue":
		n.kind = nBreak
		if t.s == "continue" {
			n.kind = nContinue
		}
		if p.loops == 0 {
			return nil, failAt(t.pos, ErrSyntax, "{%% %s %%} outside of a loop", t.s)
		}
		return n, nil
	}
	if why := refusedTags[t.s]; why != "" {
		return nil, failAt(t.pos, ErrUnsupported, "tag %q: %s", t.s, why)
	}
	if strings.HasPrefix(t.s, "end") || t.s == "else" || t.s == "elif" {
		return nil, failAt(t.pos, ErrSyntax, "tag %q closes nothing here", t.s)
	}
	return nil, failAt(t.pos, ErrUnsupported, "unknown tag %q", t.s)
}

func (p *parser) parseIf(n *node) error {
	n.kind = nIf
	for {
		cond, err := p.parseTuple(false, false)
		if err != nil {
			return err
		}
		body, end, err := p.parseBlock("elif", "else", "endif")
		if err != nil {
			return err
		}
		n.kids, n.bodies = append(n.kids, cond), append(n.bodies, body)
		switch end {
		case "elif":
			continue
		case "else":
			body, _, err := p.parseBlock("endif")
			n.bodies = append(n.bodies, body)
			return err
		}
		return nil
	}
}

func (p *parser) parseFor(n *node) (err error) {
	n.kind = nFor
	if n.a, err = p.parseTarget("in", false); err != nil {
		return err
	}
	if !p.skipName("in") {
		return p.unexpected("'in'")
	}
	if n.b, err = p.parseTuple(false, false, "recursive"); err != nil {
		return err
	}
	if p.skipName("if") {
		if n.c, err = p.parseExpr(); err != nil {
			return err
		}
	}
	if p.isName("recursive") {
		return failAt(p.cur().pos, ErrUnsupported, "recursive loop")
	}
	p.loops++
	body, end, err := p.parseBlock("endfor", "else")
	p.loops--
	if err != nil {
		return err
	}
	n.bodies = [][]*node{body, nil}
	if end == "else" {
		n.bodies[1], _, err = p.parseBlock("endfor")
		if n.bodies[1] == nil {
			n.bodies[1] = []*node{}
		}
	}
	return err
}

func (p *parser) parseSet(n *node) (err error) {
	n.kind = nSet
	if n.a, err = p.parseTarget("", true); err != nil {
		return err
	}
	if p.skipOp("=") {
		n.b, err = p.parseTuple(true, false)
		return err
	}
	n.kind = nSetBlock
	chain, err := p.parseFilters(nil)
	if err != nil {
		return err
	}
	n.kids = []*node{chain}
	body, _, err := p.parseBlock("endset")
	n.bodies = [][]*node{body}
	return err
}

func (p *parser) parseMacro(n *node) (err error) {
	n.kind = nMacro
	pos := p.cur().pos
	if n.str, err = p.expectName(); err != nil {
		return err
	}
	if reserved[n.str] {
		return failAt(pos, ErrSyntax, "cannot assign to %q", n.str)
	}
	if err = p.parseSignature(n); err != nil {
		return err
	}
	return p.finishMacro(n, "endmacro")
}

func (p *parser) finishMacro(n *node, end string) error {
	body, err := p.parseClosed(end)
	n.bodies = [][]*node{body}
	return err
}

func (p *parser) parseSignature(n *node) error {
	if err := p.expectOp("("); err != nil {
		return err
	}
	for !p.isOp(")") {
		if len(n.params) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		pos := p.cur().pos
		name, err := p.expectName()
		if err != nil {
			return err
		}
		if reserved[name] {
			return failAt(pos, ErrSyntax, "cannot assign to %q", name)
		}
		prm := param{name: name}
		if p.skipOp("=") {
			if prm.def, err = p.parseExpr(); err != nil {
				return err
			}
		} else if k := len(n.params); k > 0 && n.params[k-1].def != nil {
			return failAt(pos, ErrSyntax, "parameter %q without default follows one with a default", name)
		}
		for _, q := range n.params {
			if q.name == name {
				return failAt(pos, ErrSyntax, "parameter %q twice", name)
			}
		}
		n.params = append(n.params, prm)
	}
	return p.expectOp(")")
}

func (p *parser) parseCallBlock(n *node) (err error) {
	n.kind, n.str = nCallBlock, "caller"
	if p.isOp("(") {
		if err = p.parseSignature(n); err != nil {
			return err
		}
	}
	pos := p.cur().pos
	if n.a, err = p.parseExpr(); err != nil {
		return err
	}
	if n.a.kind != nCall {
		return failAt(pos, ErrSyntax, "{%% call %%} needs a call")
	}
	return p.finishMacro(n, "endcall")
}

func (p *parser) parseFilterBlock(n *node) (err error) {
	n.kind = nFilterBlock
	if n.a, err = p.parseFilterName(nil); err != nil {
		return err
	}
	if n.a, err = p.parseFilters(n.a); err != nil {
		return err
	}
	body, _, err := p.parseBlock("endfilter")
	n.bodies = [][]*node{body}
	return err
}

func (p *parser) parseWith(n *node) error {
	n.kind = nWith
	for p.cur().kind != tokBlockEnd {
		if len(n.kids) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		target, err := p.parseTarget("", false)
		if err != nil {
			return err
		}
		if err := p.expectOp("="); err != nil {
			return err
		}
		val, err := p.parseExpr()
		if err != nil {
			return err
		}
		n.kids = append(n.kids, target, val)
	}
	body, _, err := p.parseBlock("endwith")
	n.bodies = [][]*node{body}
	return err
}

func (p *parser) parsePrint(n *node) error {
	n.kind = nPrint
	for p.cur().kind != tokBlockEnd {
		if len(n.kids) > 0 {
			if err := p.expectOp(","); err != nil {
				return err
			}
		}
		e, err := p.parseExpr()
		if err != nil {
			return err
		}
		n.kids = append(n.kids, e)
	}
	return nil
}

// reserved names are constants; the reference refuses to assign them.
var reserved = map[string]bool{"true": true, "false": true, "none": true, "True": true, "False": true, "None": true}

// parseTarget reads what a value is assigned to: a name, a tuple of targets, or (ns) an attribute of a namespace.
func (p *parser) parseTarget(end string, ns bool) (*node, error) {
	if t := p.look(); ns && p.cur().kind == tokName && t.kind == tokOp && t.s == "." {
		name := p.next()
		p.next()
		attr, err := p.expectName()
		return &node{kind: nAttr, pos: name.pos, str: attr, a: &node{kind: nName, pos: name.pos, str: name.s}}, err
	}
	n, err := p.parseTupleOf(p.parsePrimary, false, end)
	if err != nil {
		return nil, err
	}
	return n, checkTarget(n)
}

func checkTarget(n *node) error {
	switch n.kind {
	case nName:
		return nil
	case nTuple:
		for _, k := range n.kids {
			if err := checkTarget(k); err != nil {
				return err
			}
		}
		return nil
	}
	return failAt(n.pos, ErrSyntax, "cannot assign to this expression")
}
