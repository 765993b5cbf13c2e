package main

import "github.com/mmcloughlin/avo/operand"

// element is the type of a float panel: size bytes.
type element struct {
	name string
	size int
}

// tile is a register block of the float kernels.
type tile struct{ panels, tokens int }

// panelF emits the kernels of MatF32, MatF16 and MatBF16. A tile of panels by
// tokens is kept in registers over all of k, one multiply-add a step, so the
// order of sums is that of the definition whatever the tile. Tiles are as
// large as the registers allow: 2x12 (AVX-512), 1x6 (AVX2); a single token
// takes four panels, for as many independent chains of additions.
func (g *gen) panelF() {
	tiles := []tile{{2, 12}, {2, 8}, {2, 4}, {2, 2}, {4, 1}, {2, 1}, {1, 12}, {1, 8}, {1, 4}, {1, 2}, {1, 1}}
	if !g.wide {
		tiles = []tile{{4, 1}, {2, 2}, {2, 1}, {1, 6}, {1, 4}, {1, 2}, {1, 1}}
	}
	for _, e := range []element{{"F32", 4}, {"F16", 2}, {"BF16", 2}} {
		g.panelFloat(e, tiles)
	}
}

const panelFSignature = "func(dst *float32, ld int, w *byte, size int, x *float32, ldx, T, K, panels int)"

func (g *gen) panelFloat(e element, tiles []tile) {
	g.fn("panel"+e.name, panelFSignature,
		"computes whole panels of size bytes for T tokens and K > 0; ld and ldx are in bytes. Defined by mat"+e.name+".")
	f := &float{gen: g, element: e, size: g.arg("size"), ldx: g.arg("ldx"), left: g.AllocLocal(8)}
	f.strides = []GP{f.ldx}
	for range 2 {
		s := g.copyOf(f.strides[len(f.strides)-1])
		g.ADDQ(f.ldx, s)
		g.ADDQ(f.ldx, s)
		f.strides = append(f.strides, s)
	}
	// Panels outermost, in fours if a single token asks for it, else in twos.
	top, done := g.label("panels"), g.label("done")
	g.Label(top)
	for _, n := range []int{4, 2, 1} {
		next := g.label("fewer")
		g.CMPQ(g.argMem("panels"), imm(n))
		g.JLT(operand.LabelRef(next))
		switch {
		case n == 4:
			g.CMPQ(g.argMem("T"), imm(1))
			g.JNE(operand.LabelRef(next))
		case n == 2 && !g.wide: // two panels have tiles of one and two tokens
			g.CMPQ(g.argMem("T"), imm(2))
			g.JGT(operand.LabelRef(next))
		}
		f.tokens(n, tiles)
		w := g.arg("w")
		for range n {
			g.ADDQ(f.size, w)
		}
		g.MOVQ(w, g.argMem("w"))
		g.ADDQ(imm(64*n), g.argMem("dst"))
		g.SUBQ(imm(n), g.argMem("panels"))
		g.JNE(operand.LabelRef(top))
		g.JMP(operand.LabelRef(done))
		g.Label(next)
	}
	g.Label(done)
	g.ret()
}

// float is the state of one float panel function.
type float struct {
	*gen
	element
	size, ldx GP
	strides   []GP // 1, 3 and 5 times ldx
	w, x, x6  GP   // x6 is the place of token 6
	left      Mem  // tokens to go
}

// tokens computes n panels for all tokens, in tiles as large as possible.
func (f *float) tokens(n int, tiles []tile) {
	g := f.gen
	x, dst := g.arg("x"), g.arg("dst")
	left := f.left
	count := g.arg("T")
	g.MOVQ(count, left)
	var mine []tile
	for _, t := range tiles {
		if t.panels == n {
			mine = append(mine, t)
		}
	}
	end := g.label("end")
	for i, t := range mine {
		loop, next := g.label("tile"), g.label("smaller")
		g.Label(loop)
		g.CMPQ(left, imm(t.tokens))
		g.JLT(operand.LabelRef(next))
		f.tile(t, x, dst)
		switch t.tokens {
		case 12, 6:
			g.LEAQ(idx(x, f.strides[1], uint8(t.tokens/3), 0), x)
		default:
			g.LEAQ(idx(x, f.ldx, uint8(t.tokens), 0), x)
		}
		g.SUBQ(imm(t.tokens), left)
		g.JE(operand.LabelRef(end))
		if i == 0 {
			g.JMP(operand.LabelRef(loop))
		}
		g.Label(next)
	}
	g.Label(end)
}

// row is the place disp bytes on in the row of token t of the tile.
func (f *float) row(t, disp int) Mem {
	x := f.x
	if t >= 6 {
		x, t = f.x6, t-6
	}
	switch t {
	case 0:
		return at(x, disp)
	case 2, 4:
		return idx(x, f.strides[0], uint8(t), disp)
	}
	return idx(x, f.strides[t/2], 1, disp)
}

// tile computes t and stores it at dst, which it leaves at the next token.
func (f *float) tile(t tile, x, dst GP) {
	g := f.gen
	f.w, f.x = g.arg("w"), g.copyOf(x)
	acc := make([][]Vec, t.tokens)
	for i := range acc {
		acc[i] = g.vecs(t.panels * g.regs())
		g.zero(acc[i]...)
	}
	if t.tokens > 6 {
		f.x6 = g.GP64()
		g.LEAQ(idx(x, f.strides[1], 2, 0), f.x6)
	}
	third := g.GP64()
	if t.panels == 4 {
		g.LEAQ(idx(f.size, f.size, 2, 0), third)
	}
	k := g.arg("K")
	if t.tokens == 1 {
		f.unrolled(t, acc, third, k)
	}
	loop, done := g.label("k"), g.label("stored")
	g.TESTQ(k, k)
	g.JE(operand.LabelRef(done))
	g.Label(loop)
	f.step(t, acc, third, 0)
	g.ADDQ(imm(16*f.element.size), f.w)
	g.ADDQ(imm(4), f.x)
	if t.tokens > 6 {
		g.ADDQ(imm(4), f.x6)
	}
	g.DECQ(k)
	g.JNE(operand.LabelRef(loop))
	g.Label(done)
	ld := g.argMem("ld")
	for _, row := range acc {
		for i, v := range row {
			g.VMOVUPS(v, at(dst, i*g.lanes()*4))
		}
		g.ADDQ(ld, dst)
	}
}

// unrolled takes four k at a time, fetching ahead.
func (f *float) unrolled(t tile, acc [][]Vec, third, k GP) {
	loop, done := f.label("k4x"), f.label("k4done")
	f.Label(loop)
	f.CMPQ(k, imm(4))
	f.JLT(operand.LabelRef(done))
	for i := range 4 {
		f.step(t, acc, third, i)
	}
	for p := range t.panels {
		for i := 0; i < 64*f.element.size; i += 64 {
			f.PREFETCHT0(f.weights(p, third, i+1024))
		}
	}
	f.ADDQ(imm(64*f.element.size), f.w)
	f.ADDQ(imm(16), f.x)
	f.SUBQ(imm(4), k)
	f.JMP(operand.LabelRef(loop))
	f.Label(done)
}

// weights is the place of panel p, disp bytes on.
func (f *float) weights(p int, third GP, disp int) Mem {
	switch p {
	case 0:
		return at(f.w, disp)
	case 3:
		return idx(f.w, third, 1, disp)
	}
	return idx(f.w, f.size, uint8(p), disp)
}

// step is the multiply-adds of the i-th k from here.
func (f *float) step(t tile, acc [][]Vec, third GP, i int) {
	g := f.gen
	n := t.panels * g.regs()
	if t.tokens == 1 {
		x := g.vec()
		g.VBROADCASTSS(at(f.x, 4*i), x)
		for j := range n {
			g.VFMADD231PS(f.load(f.place(j, third, i)), x, acc[0][j])
		}
		return
	}
	w := make([]Vec, n)
	for j := range w {
		w[j] = f.load(f.place(j, third, i))
	}
	for token, row := range acc {
		if n == 1 {
			g.VFMADD231PS_BCST(f.row(token, 4*i), w[0], row[0])
			continue
		}
		x := g.vec()
		g.VBROADCASTSS(f.row(token, 4*i), x)
		for j, a := range row {
			g.VFMADD231PS(w[j], x, a)
		}
	}
}

// place is register j's weights of the i-th k.
func (f *float) place(j int, third GP, i int) Mem {
	r := f.regs()
	return f.weights(j/r, third, (16*i+j%r*f.lanes())*f.element.size)
}

// load returns weights as floats.
func (f *float) load(m Mem) Vec {
	v := f.vec()
	switch f.name {
	case "F32":
		f.VMOVUPS(m, v)
	case "F16":
		f.VCVTPH2PS(m, v)
	case "BF16":
		f.VPMOVZXWD(m, v)
		f.VPSLLD(operand.U8(16), v, v)
	}
	return v
}
