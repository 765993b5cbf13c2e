package jinja

type nodeKind uint8

// Statements.
const (
	nText        nodeKind = iota // str
	nPrint                       // kids: the printed expressions
	nIf                          // kids: conditions; bodies: one per condition, then perhaps the else
	nFor                         // a target, b iterable, c filter or nil; bodies: loop, else or nil
	nSet                         // a target, b value
	nSetBlock                    // a target, kids[0] filter chain or nil; bodies[0]
	nMacro                       // str name, params; bodies[0]
	nCallBlock                   // a the call, params; bodies[0]
	nFilterBlock                 // a filter chain; bodies[0]
	nWith                        // kids: target, value, target, value ...; bodies[0]
	nGeneration                  // bodies[0]
	nBreak
	nContinue
)

// Expressions.
const (
	nConst   nodeKind = iota + 64 // val
	nName                         // str
	nAttr                         // a.str
	nIndex                        // a[b]
	nSlice                        // a[kids[0]:kids[1]:kids[2]], each may be nil
	nCall                         // a(args)
	nFilter                       // a|str(args); a is nil at the head of a block's chain
	nTest                         // a is str(args)
	nNot                          // not a
	nNeg                          // -a
	nPos                          // +a
	nBinary                       // a str b, for + - * / // % **
	nConcat                       // kids joined by ~
	nCompare                      // kids compared in a chain by ops
	nAnd                          // a and b
	nOr                           // a or b
	nCond                         // b if a else c (c may be nil)
	nList                         // kids
	nTuple                        // kids
	nDict                         // kids: key, value, key, value ...
)

// node is a statement or an expression; the kind says which fields are in use.
type node struct {
	kind    nodeKind
	pos     int
	str     string
	val     any
	a, b, c *node
	kids    []*node
	bodies  [][]*node
	args    *arguments
	params  []param
	ops     []string
	uses    map[string]bool // of a macro: which of caller, varargs and kwargs its body reads
}

type param struct {
	name string
	def  *node // nil if the parameter has no default
}

type keyword struct {
	name string
	val  *node
}

type arguments struct {
	pos            []*node
	kw             []keyword
	star, starStar *node
}

// children calls f for every direct part of n, in the reference's order of evaluation where that matters.
func (n *node) children(f func(*node)) {
	visit := func(list ...*node) {
		for _, k := range list {
			if k != nil {
				f(k)
			}
		}
	}
	visit(n.a, n.b, n.c)
	visit(n.kids...)
	for _, p := range n.params {
		visit(p.def)
	}
	if n.args != nil {
		visit(n.args.pos...)
		for _, k := range n.args.kw {
			visit(k.val)
		}
		visit(n.args.star, n.args.starStar)
	}
	for _, b := range n.bodies {
		visit(b...)
	}
}
