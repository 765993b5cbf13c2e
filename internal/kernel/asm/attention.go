package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// cached is the form of a cached key or value: size bytes an element.
type cached struct {
	name, elem string
	size       int
}

var cacheForms = []cached{{"F32", "float32", 4}, {"F16", "uint16", 2}, {"KV8", "int8", 1}}

// attention emits the kernels of the Scores and Mix functions. AVX-512 takes
// any E, the last lanes under a mask; AVX2 a multiple of 8.
func (g *gen) attention() {
	for _, c := range cacheForms {
		g.scores(c)
	}
	for _, c := range cacheForms {
		g.mix(c)
	}
	g.divide()
	g.halves()
}

func (g *gen) divide() {
	g.fn("divide", "func(x []float32, by float32)", "is defined by divide.")
	x, n := g.base("x"), g.len("x")
	by := g.vec()
	g.VBROADCASTSS(g.argMem("by"), by)
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x)
		g.VDIVPS(by, v, v)
		l.store(v, x)
	})
	g.ret()
}

// halves takes whole registers, and with AVX-512 what is left under a mask.
func (g *gen) halves() {
	g.fn("halves", "func(dst []uint16, x []float32)", "is defined by halves. AVX2 wants a multiple of 8.")
	dst, x, n := g.base("dst"), g.base("x"), g.len("x")
	const nearest = 0
	loop, tail, done := g.label("loop"), g.label("tail"), g.label("done")
	g.Label(loop)
	g.SUBQ(imm(g.lanes()), n)
	g.JLT(operand.LabelRef(tail))
	v := g.vec()
	g.VMOVUPS(at(x, 0), v)
	g.VCVTPS2PH(operand.U8(nearest), v, at(dst, 0))
	g.ADDQ(imm(4*g.lanes()), x)
	g.ADDQ(imm(2*g.lanes()), dst)
	g.JMP(operand.LabelRef(loop))
	g.Label(tail)
	if g.wide {
		g.ADDQ(imm(16), n)
		g.JE(operand.LabelRef(done))
		mask := g.rowMask(n)
		v := g.vec()
		g.VMOVUPS_Z(at(x, 0), mask, v)
		g.VCVTPS2PH(operand.U8(nearest), v, mask, at(dst, 0))
	}
	g.Label(done)
	g.ret()
}

func (c cached) params(list, names string) string {
	s := "func(dst, " + list + " []float32, " + names + " []" + c.elem
	if c.name == "KV8" {
		s += ", scales []uint16"
	}
	return s
}

// rowMask returns the mask of the last e%16 lanes, for AVX-512.
func (g *gen) rowMask(e GP) reg.OpmaskVirtual {
	n, bit, k := g.GP64(), g.GP64(), g.K()
	g.MOVQ(e, n)
	g.ANDQ(imm(15), n)
	g.MOVL(imm(1), bit.As32())
	g.SHLXQ(n, bit, bit)
	g.DECQ(bit)
	g.KMOVW(bit.As32(), k)
	return k
}

// loadCached returns elements as floats; under mask k unless it is nil.
func (g *gen) loadCached(c cached, m Mem, k reg.Register) Vec {
	v := g.vec()
	switch {
	case c.size == 4 && k != nil:
		g.VMOVUPS_Z(m, k, v)
	case c.size == 4:
		g.VMOVUPS(m, v)
	case c.size == 2 && k != nil:
		g.VCVTPH2PS_Z(m, k, v)
	case c.size == 2:
		g.VCVTPH2PS(m, v)
	case k != nil:
		g.VPMOVSXBD_Z(m, k, v)
	default:
		g.VPMOVSXBD(m, v)
	}
	if c.size == 1 {
		g.VCVTDQ2PS(v, v)
	}
	return v
}

// scores takes four positions at a time, so that their trees can share
// registers, and the last ones singly.
func (g *gen) scores(c cached) {
	sig := "func(dst, q, k []float32, mul float32)"
	if c.size != 4 {
		sig = c.params("q", "k") + ", mul float32)"
	}
	g.fn("scores"+c.name, sig, "is defined by scores"+c.name+". AVX2 wants E to be a multiple of 8.")
	dst, n, q, e, k := g.base("dst"), g.len("dst"), g.base("q"), g.len("q"), g.base("k")
	s := &scorer{gen: g, cached: c, dst: dst, q: q, e: e, mul: g.XMM()}
	g.Load(g.Param("mul"), s.mul)
	g.VBROADCASTSS(s.mul, s.mul)
	if c.size == 1 {
		s.scales = g.base("scales")
	}
	if g.wide {
		s.mask = g.rowMask(e)
	}
	for _, positions := range []int{4, 1} {
		loop, next := g.label("positions"), g.label("rest")
		g.Label(loop)
		g.CMPQ(n, imm(positions))
		g.JLT(operand.LabelRef(next))
		s.positions(positions, k)
		g.SUBQ(imm(positions), n)
		g.JMP(operand.LabelRef(loop))
		g.Label(next)
	}
	g.ret()
}

type scorer struct {
	*gen
	cached
	dst, q, e, scales GP
	mul               reg.VecVirtual
	mask              reg.Register
}

// positions computes n scores for keys at k, and moves k and dst behind them.
func (s *scorer) positions(n int, k GP) {
	g := s.gen
	row := g.copyOf(s.e)
	if s.size > 1 {
		g.SHLQ(operand.U8(s.size/2), row)
	}
	keys := []GP{k}
	for range n - 1 {
		next := g.copyOf(keys[len(keys)-1])
		g.ADDQ(row, next)
		keys = append(keys, next)
	}
	acc := make([][]Vec, n)
	for i := range acc {
		acc[i] = g.vecs(g.regs())
		g.zero(acc[i]...)
	}
	at, left := g.GP64(), g.copyOf(s.e)
	g.XORQ(at, at)
	loop, tail, done := g.label("e"), g.label("tail"), g.label("sum")
	g.Label(loop)
	g.SUBQ(imm(16), left)
	g.JLT(operand.LabelRef(tail))
	s.chunk(keys, acc, at, g.regs(), nil)
	g.ADDQ(imm(16), at)
	g.JMP(operand.LabelRef(loop))
	g.Label(tail)
	g.ADDQ(imm(16), left)
	g.JE(operand.LabelRef(done))
	s.chunk(keys, acc, at, 1, s.mask)
	g.Label(done)
	sum := s.trees(acc)
	if s.size == 1 {
		s.scale(sum, n)
	}
	g.VMULPS(s.mul, sum, sum)
	if n == 4 {
		g.VMOVUPS(sum, Mem{Base: s.dst})
	} else {
		g.VMOVSS(sum, Mem{Base: s.dst})
	}
	g.ADDQ(imm(4*n), s.dst)
	g.LEAQ(idx(keys[n-1], row, 1, 0), k)
}

// chunk adds the products of halves registers of each key.
func (s *scorer) chunk(keys []GP, acc [][]Vec, at GP, halves int, mask reg.Register) {
	g := s.gen
	for h := range halves {
		q := g.vec()
		m := idx(s.q, at, 4, h*g.lanes()*4)
		if mask != nil {
			g.VMOVUPS_Z(m, mask, q)
		} else {
			g.VMOVUPS(m, q)
		}
		for i, k := range keys {
			v := s.loadCached(s.cached, idx(k, at, uint8(s.size), h*g.lanes()*s.size), mask)
			if mask != nil {
				// Merging: a lane beyond E keeps even a -0.
				g.VFMADD231PS(v, q, mask, acc[i][h])
			} else {
				g.VFMADD231PS(v, q, acc[i][h])
			}
		}
	}
}

// scale multiplies by the positions' float16 scales.
func (s *scorer) scale(sum reg.VecVirtual, n int) {
	v := s.XMM()
	if n == 4 {
		s.VCVTPH2PS(at(s.scales, 0), v)
	} else {
		w := s.GP32()
		s.MOVWLZX(at(s.scales, 0), w)
		s.VMOVD(w, v)
		s.VCVTPH2PS(v, v)
	}
	s.VMULPS(v, sum, sum)
	s.ADDQ(imm(2*n), s.scales)
}

// trees joins each position's 16 lanes as tree16 does and returns the sums
// side by side.
func (s *scorer) trees(acc [][]Vec) reg.VecVirtual {
	g := s.gen
	if len(acc) == 1 {
		return g.tree(acc[0]).(reg.VecVirtual)
	}
	if g.wide {
		return s.treesWide(acc)
	}
	// Two positions to a register from the second addition on.
	sums := make([]reg.VecVirtual, 2)
	for i := range sums {
		a, b := acc[2*i], acc[2*i+1]
		g.VADDPS(a[1], a[0], a[0])
		g.VADDPS(b[1], b[0], b[0])
		lo, hi := g.YMM(), g.YMM()
		g.VPERM2F128(operand.U8(0x20), b[0], a[0], lo)
		g.VPERM2F128(operand.U8(0x31), b[0], a[0], hi)
		g.VADDPS(hi, lo, lo)
		sums[i] = lo
	}
	// Lanes of 128 bits: position 0|1 and 2|3. Join 0|2 and 1|3 below: sums of
	// two are in elements 0,1 (first register) and 2,3 (second).
	lo, hi := g.YMM(), g.YMM()
	g.VSHUFPS(operand.U8(0x44), sums[1], sums[0], lo)
	g.VSHUFPS(operand.U8(0xee), sums[1], sums[0], hi)
	g.VADDPS(hi, lo, lo)
	g.VPERMILPS(operand.U8(0xb1), lo, hi)
	g.VADDPS(hi, lo, lo) // 0 0 2 2 | 1 1 3 3
	x := g.XMM()
	g.VEXTRACTF128(operand.U8(1), lo, x)
	out := g.XMM()
	g.VUNPCKLPS(x, lo.AsX(), out) // 0 1 0 1
	g.VUNPCKHPS(x, lo.AsX(), x)   // 2 3 2 3
	g.VMOVLHPS(x, out, out)
	return out
}

func (s *scorer) treesWide(acc [][]Vec) reg.VecVirtual {
	g := s.gen
	// 8+8 lanes of positions 0|1 and 2|3, then 4 lanes of all four.
	pair := make([]Vec, 2)
	for i := range pair {
		a, b := acc[2*i][0], acc[2*i+1][0]
		lo, hi := g.ZMM(), g.ZMM()
		g.VSHUFF32X4(operand.U8(0x44), b, a, lo)
		g.VSHUFF32X4(operand.U8(0xee), b, a, hi)
		g.VADDPS(hi, lo, lo)
		pair[i] = lo
	}
	lo, hi := g.ZMM(), g.ZMM()
	g.VSHUFF32X4(operand.U8(0x88), pair[1], pair[0], lo)
	g.VSHUFF32X4(operand.U8(0xdd), pair[1], pair[0], hi)
	g.VADDPS(hi, lo, lo)
	g.VPERMILPS(operand.U8(0x4e), lo, hi)
	g.VADDPS(hi, lo, lo)
	g.VPERMILPS(operand.U8(0xb1), lo, hi)
	g.VADDPS(hi, lo, lo)
	// Element 0 of each 128 bits, side by side.
	index, out := g.ZMM(), g.ZMM()
	g.VMOVDQU32(g.firsts(), index.AsX())
	g.VPERMPS(lo, index, out)
	return out.AsX().(reg.VecVirtual)
}

// firsts is the index 0, 4, 8, 12.
func (g *gen) firsts() Mem {
	if g.first.Base == nil && g.first.Symbol.Name == "" {
		g.first = g.StaticGlobal("firsts")
		g.DataAttributes(roData)
		for i := range 4 {
			g.AppendDatum(operand.U32(4 * i))
		}
	}
	return g.first
}

// mix emits dst = sum over t of p[t]*v[t], 64 elements of dst at a time in
// registers, then 16, then the rest.
func (g *gen) mix(c cached) {
	sig := "func(dst, p, v []float32)"
	if c.size != 4 {
		sig = c.params("p", "v") + ")"
	}
	g.fn("mix"+c.name, sig, "is defined by mix"+c.name+". AVX2 wants E to be a multiple of 8.")
	m := &mixer{gen: g, cached: c, dst: g.base("dst"), v: g.base("v"), row: g.len("dst")}
	left := g.copyOf(m.row)
	if g.wide {
		m.mask = g.rowMask(left)
	}
	if c.size > 1 {
		g.SHLQ(operand.U8(c.size/2), m.row)
	}
	for _, regs := range []int{4 * g.regs(), g.regs()} {
		n := regs * g.lanes()
		loop, next := g.label("elements"), g.label("fewer")
		g.Label(loop)
		g.CMPQ(left, imm(n))
		g.JLT(operand.LabelRef(next))
		m.columns(regs, nil)
		g.SUBQ(imm(n), left)
		g.JMP(operand.LabelRef(loop))
		g.Label(next)
	}
	done := g.label("done")
	g.TESTQ(left, left)
	g.JE(operand.LabelRef(done))
	m.columns(1, m.mask)
	g.Label(done)
	g.ret()
}

type mixer struct {
	*gen
	cached
	dst, v, row GP // row is the bytes of a position
	mask        reg.Register
}

// columns computes regs registers of dst over all positions, and moves dst and
// v behind them.
func (m *mixer) columns(regs int, mask reg.Register) {
	g := m.gen
	acc := g.vecs(regs)
	g.zero(acc...)
	v, p, n := g.copyOf(m.v), g.base("p"), g.len("p")
	var scales GP
	if m.size == 1 {
		scales = g.base("scales")
	}
	loop, done := g.label("t"), g.label("store")
	g.TESTQ(n, n)
	g.JE(operand.LabelRef(done))
	g.Label(loop)
	w := g.vec()
	if m.size == 1 {
		s, f := g.GP32(), g.XMM()
		g.MOVWLZX(at(scales, 0), s)
		g.VMOVD(s, f)
		g.VCVTPH2PS(f, f)
		g.VMULSS(at(p, 0), f, f)
		g.VBROADCASTSS(f, w)
		g.ADDQ(imm(2), scales)
	} else {
		g.VBROADCASTSS(at(p, 0), w)
	}
	for i, a := range acc {
		x := m.loadCached(m.cached, at(v, i*g.lanes()*m.size), mask)
		g.VFMADD231PS(x, w, a)
	}
	g.ADDQ(imm(4), p)
	g.ADDQ(m.row, v)
	g.DECQ(n)
	g.JNE(operand.LabelRef(loop))
	g.Label(done)
	for i, a := range acc {
		d := at(m.dst, i*g.lanes()*4)
		if mask != nil {
			g.VMOVUPS(a, mask, d)
		} else {
			g.VMOVUPS(a, d)
		}
	}
	g.ADDQ(imm(regs*g.lanes()*4), m.dst)
	g.ADDQ(imm(regs*g.lanes()*m.size), m.v)
}
