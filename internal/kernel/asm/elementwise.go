package main

import (
	"math"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// lanes is one step over float32 slices: 16 elements, in AVX2 the half h of
// them. In the last, short step mask is set (an opmask, or a register of all
// ones where elements are), loads give 0 beyond the end and stores stop there.
type lanes struct {
	*gen
	h    int
	mask reg.Register
}

// each16 emits body for n elements at ptrs, which it moves on; n is consumed.
func (g *gen) each16(n GP, ptrs []GP, body func(l lanes)) {
	loop, tail, done := g.label("loop"), g.label("tail"), g.label("done")
	g.Label(loop)
	g.SUBQ(imm(16), n)
	g.JLT(operand.LabelRef(tail))
	for h := range g.regs() {
		body(lanes{gen: g, h: h})
	}
	for _, p := range ptrs {
		g.ADDQ(imm(64), p)
	}
	g.JMP(operand.LabelRef(loop))
	g.Label(tail)
	g.ADDQ(imm(16), n)
	g.JE(operand.LabelRef(done))
	if g.wide {
		body(lanes{gen: g, mask: g.rowMask(n)})
	} else {
		table := g.GP64()
		g.LEAQ(g.maskTable(), table)
		g.SHLQ(operand.U8(2), n)
		g.SUBQ(n, table)
		for h := range g.regs() {
			m := g.vec()
			g.VMOVUPS(at(table, 64+32*h), m)
			body(lanes{gen: g, h: h, mask: m})
		}
	}
	g.Label(done)
}

// maskTable is 16 elements of ones and 16 of zeros.
func (g *gen) maskTable() Mem {
	if g.table.Symbol.Name == "" {
		g.table = g.StaticGlobal("masks")
		g.DataAttributes(roData)
		for i := range 32 {
			g.AppendDatum(operand.U32(uint32(i/16) - 1))
		}
	}
	return g.table
}

// load returns the elements at p.
func (l lanes) load(p GP) Vec {
	v, m := l.vec(), at(p, 32*l.h)
	switch {
	case l.mask == nil:
		l.VMOVUPS(m, v)
	case l.wide:
		l.VMOVUPS_Z(m, l.mask, v)
	default:
		l.VMASKMOVPS(m, l.mask, v)
	}
	return v
}

// store writes v to p.
func (l lanes) store(v Vec, p GP) {
	m := at(p, 32*l.h)
	switch {
	case l.mask == nil:
		l.VMOVUPS(v, m)
	case l.wide:
		l.VMOVUPS(v, l.mask, m)
	default:
		l.VMASKMOVPS(v, l.mask, m)
	}
}

// exp returns Exp(x); x stays.
func (g *gen) exp(x Vec) Vec {
	n, r, y, r2 := g.vec(), g.vec(), g.vec(), g.vec()
	magic := g.f32(3 << 22)
	g.mulC(g.f32(expLog2e), x, n)
	g.addC(magic, n, n)
	g.subC(magic, n, n)
	g.VMOVAPS(x, r)
	g.fmaMulC(g.f32(-expLn2Hi), n, r)
	g.fmaMulC(g.f32(-expLn2Lo), n, r)
	g.broadcast(math.Float32bits(float32(expC[0])), y)
	for _, c := range expC[1:] {
		g.fmaC(g.f32(c), r, y)
	}
	g.VMULPS(r, r, r2)
	g.VFMADD213PS(r, r2, y)
	g.addC(g.f32(1), y, y)
	if g.wide {
		// One rounding at most, as in the two exact factors of Exp.
		g.VSCALEFPS(n, y, y)
		over, kept := g.K(), g.K()
		g.VCMPPS_BCST(operand.U8(cmpGT), g.f32(expMax), x, over)
		g.VBROADCASTSS(g.bits(infinity), over, y)
		g.VCMPPS_BCST(operand.U8(cmpNLT), g.f32(expMin), x, kept)
		g.VMOVAPS_Z(y, kept, y)
		return y
	}
	h := g.vec()
	g.VCVTPS2DQ(n, n)
	g.VPSRAD(operand.U8(1), n, h)
	g.VPSUBD(h, n, n)
	for _, i := range []Vec{h, n} {
		g.VPADDD(g.bits(127), i, i)
		g.VPSLLD(operand.U8(23), i, i)
		g.VMULPS(i, y, y)
	}
	g.VCMPPS(operand.U8(cmpGT), g.f32(expMax), x, h)
	g.VBLENDVPS(h, g.bits(infinity), y, y)
	g.VCMPPS(operand.U8(cmpLT), g.f32(expMin), x, h)
	g.VANDNPS(y, h, y)
	return y
}

// tanh returns Tanh(x); x stays.
func (g *gen) tanh(x Vec) Vec {
	a, e := g.vec(), g.vec()
	g.andC(1<<31-1, x, a)
	g.VADDPS(a, a, e)
	e = g.exp(e)
	g.addC(g.f32(1), e, e)
	y := g.constant(2)
	g.VDIVPS(e, y, e)
	y = g.constant(1)
	g.VSUBPS(e, y, y)
	g.andC(1<<31, x, e)
	if g.wide {
		g.VPORD(e, y, y)
	} else {
		g.VPOR(e, y, y)
	}
	z, p := g.vec(), g.constant(tanhC[0])
	g.VMULPS(x, x, z)
	for _, c := range tanhC[1:] {
		g.fmaC(g.f32(c), z, p)
	}
	g.VMULPS(z, p, p)
	g.VFMADD213PS(x, x, p)
	if g.wide {
		small := g.K()
		g.VCMPPS_BCST(operand.U8(cmpLT), g.f32(tanhSmall), a, small)
		g.VMOVAPS(p, small, y)
	} else {
		g.VCMPPS(operand.U8(cmpLT), g.f32(tanhSmall), a, a)
		g.VBLENDVPS(a, p, y, y)
	}
	return y
}

// The constants of math.go.
const (
	expMax   = 88.72283
	expMin   = -87.33654
	expLog2e = 1.44269504088896341
	expLn2Hi = 0.693359375
	expLn2Lo = -2.12194440e-4

	tanhSmall = 0.625
	infinity  = 0x7f800000

	// Predicates of VCMPPS, quiet; NLT holds for NaN.
	cmpGT, cmpLT, cmpNLT, cmpUnordered = 0x1e, 0x11, 0x15, 3
)

var (
	expC  = []float64{1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1}
	tanhC = []float64{-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1}
)
