package jinja

import "strings"

// maxTree bounds the height of the syntax tree, which evaluation walks recursively.
const maxTree = 500

// checker walks the whole tree of a template, branches that never run included, and refuses what rendering could not do.
type checker struct {
	set    map[string]bool // names that the template assigns anywhere
	reads  map[string]bool
	called []*node // names called as functions
}

func newChecker() *checker {
	return &checker{set: map[string]bool{}, reads: map[string]bool{}}
}

func (c *checker) check(body []*node) error {
	for _, n := range body {
		if err := c.node(n, 1); err != nil {
			return err
		}
	}
	for _, n := range c.called {
		if _, known := globals[n.str]; !known && !c.set[n.str] {
			return failAt(n.pos, ErrUnsupported, "unknown function %q", n.str)
		}
	}
	return nil
}

// free lists the names read and never set.
func (c *checker) free() []string {
	for name := range c.reads {
		if _, isGlobal := globals[name]; isGlobal || c.set[name] {
			delete(c.reads, name)
		}
	}
	return sortedKeys(c.reads)
}

func (c *checker) node(n *node, height int) error {
	if height > maxTree {
		return failAt(n.pos, ErrDepth, "expression or statement nested deeper than %d", maxTree)
	}
	if err := c.one(n); err != nil {
		return err
	}
	var err error
	n.children(func(k *node) {
		if err == nil {
			err = c.node(k, height+1)
		}
	})
	if err == nil && (n.kind == nMacro || n.kind == nCallBlock) {
		n.uses = map[string]bool{}
		for _, st := range n.bodies[0] {
			noteUses(st, n.uses)
		}
		for _, p := range n.params {
			delete(n.uses, p.name)
		}
	}
	return err
}

// noteUses collects the special names of macros that n reads; a macro inside has its own.
func noteUses(n *node, uses map[string]bool) {
	if n.kind == nName && (n.str == "caller" || n.str == "varargs" || n.str == "kwargs") {
		uses[n.str] = true
	}
	if n.kind != nMacro {
		n.children(func(k *node) { noteUses(k, uses) })
	}
}

func (c *checker) one(n *node) error {
	switch n.kind {
	case nFor:
		c.target(n.a)
		c.set["loop"] = true
	case nSet, nSetBlock:
		c.target(n.a)
	case nWith:
		for i := 0; i < len(n.kids); i += 2 {
			c.target(n.kids[i])
		}
	case nMacro, nCallBlock:
		c.macro(n)
	case nName:
		c.reads[n.str] = true
		if n.str == "lipsum" {
			return failAt(n.pos, ErrUnsupported, "function \"lipsum\"")
		}
	case nAttr:
		if strings.HasPrefix(n.str, "__") {
			return failAt(n.pos, ErrUnsupported, "attribute %q", n.str)
		}
	case nCall:
		return c.call(n)
	case nFilter:
		return c.function(n, "filter", filters, refusedFilters)
	case nTest:
		return c.function(n, "test", tests, nil)
	}
	return nil
}

func (c *checker) target(n *node) {
	switch n.kind {
	case nName:
		c.set[n.str] = true
	case nTuple:
		for _, k := range n.kids {
			c.target(k)
		}
	}
}

func (c *checker) macro(n *node) {
	c.set[n.str] = true
	for _, p := range n.params {
		c.set[p.name] = true
	}
	for _, name := range []string{"caller", "varargs", "kwargs"} {
		c.set[name] = true
	}
}

func (c *checker) call(n *node) error {
	if err := checkArgs(n.args, n.pos); err != nil {
		return err
	}
	switch fn := n.a; fn.kind {
	case nName:
		c.called = append(c.called, fn)
		if g, ok := globals[fn.str]; ok && !c.set[fn.str] {
			if err := checkNames(n.args, "function "+fn.str, &g.sig); err != nil {
				return err
			}
			if fn.str == "strftime_now" && len(n.args.pos) == 1 {
				if t, ok := n.args.pos[0].val.(text); ok {
					return at(n.args.pos[0].pos, checkStrftime(t.s))
				}
			}
		}
	case nAttr:
		return checkMethod(fn)
	case nIndex:
		if name, ok := fn.b.val.(text); ok {
			return checkMethod(&node{pos: fn.pos, str: name.s})
		}
	}
	return nil
}

// checkMethod refuses a method that no value has, or that every value refuses.
func checkMethod(n *node) error {
	if objectMethods[n.str] {
		return nil
	}
	why := ""
	for _, table := range []map[string]*methodDef{strMethods, listMethods, dictMethods} {
		def, ok := table[n.str]
		switch {
		case ok && def.call != nil:
			return nil
		case ok && def.refused != "":
			why = def.refused
		case ok:
			why = "the sandbox keeps values from being changed"
		}
	}
	if why != "" {
		return failAt(n.pos, ErrUnsupported, "method %q: %s", n.str, why)
	}
	return failAt(n.pos, ErrUnsupported, "unknown method %q", n.str)
}

// function checks a filter or test, and the one that map, select and their like name by a literal.
func (c *checker) function(n *node, kind string, table map[string]*function, refused map[string]string) error {
	f, ok := table[n.str]
	if !ok {
		if why := refused[n.str]; why != "" {
			return failAt(n.pos, ErrUnsupported, "%s %q: %s", kind, n.str, why)
		}
		return failAt(n.pos, ErrUnsupported, "unknown %s %q", kind, n.str)
	}
	if err := checkArgs(n.args, n.pos); err != nil {
		return err
	}
	if err := checkNames(n.args, kind+" "+n.str, &f.sig); err != nil {
		return err
	}
	if kind == "test" {
		return nil
	}
	switch n.str {
	case "map":
		return checkNamed(n.args, 0, "filter", filters, refusedFilters)
	case "select", "reject":
		return checkNamed(n.args, 0, "test", tests, nil)
	case "selectattr", "rejectattr":
		return checkNamed(n.args, 1, "test", tests, nil)
	}
	return nil
}

func checkNamed(args *arguments, i int, kind string, table map[string]*function, refused map[string]string) error {
	if i >= len(args.pos) {
		return nil
	}
	name, ok := args.pos[i].val.(text)
	if !ok || table[name.s] != nil {
		return nil
	}
	if why := refused[name.s]; why != "" {
		return failAt(args.pos[i].pos, ErrUnsupported, "%s %q: %s", kind, name.s, why)
	}
	return failAt(args.pos[i].pos, ErrUnsupported, "unknown %s %q", kind, name.s)
}

func checkArgs(args *arguments, pos int) error {
	seen := map[string]bool{}
	for _, k := range args.kw {
		if seen[k.name] {
			return failAt(pos, ErrSyntax, "argument %q twice", k.name)
		}
		seen[k.name] = true
	}
	return nil
}

func checkNames(args *arguments, what string, s *signature) error {
	for _, k := range args.kw {
		if !s.accepts(k.name) {
			return failAt(k.val.pos, ErrUnsupported, "%s has no parameter %q", what, k.name)
		}
	}
	return nil
}
