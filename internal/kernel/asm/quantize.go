package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// quantize emits the kernels of quantize.go. VCVTPS2DQ rounds to nearest, ties
// to even, under the mode that Go runs in.
func (g *gen) quantize() {
	g.quantizeA8()
	g.quantizeKV8()
}

func (g *gen) quantizeA8() {
	g.fn("quantizeA8", "func(codes *int8, scales *float32, sums *int32, x *float32, n int) bool",
		"quantizes n > 0 whole sub-groups. Defined by quantizeA8; its clamp is idle here, since |x*(127/max)| rounds to 127 at most.")
	codes, scales, sums, x, n := g.arg("codes"), g.arg("scales"), g.arg("sums"), g.arg("x"), g.arg("n")
	loop, zero, next, bad := g.label("sub"), g.label("zero"), g.label("next"), g.label("bad")
	result := g.place(g.ReturnIndex(0))
	top := g.XMM()
	g.VMOVSS(g.f32(127), top)
	g.Label(loop)
	v := g.vecs(2 * g.regs())
	m := g.vecs(1)[0]
	for i := range v {
		g.VMOVUPS(at(x, i*g.lanes()*4), v[i])
		if i == 0 {
			g.andC(1<<31-1, v[i], m)
			continue
		}
		a := g.vec()
		g.andC(1<<31-1, v[i], a)
		g.VPMAXSD(a, m, m)
	}
	largest := g.reduce([]Vec{m}, func(a, b, d reg.Register) { g.VPMAXSD(a, b, d) })
	bits := g.GP32()
	g.VMOVD(largest, bits)
	g.CMPL(bits, imm(0x7f7fffff))
	g.JHI(operand.LabelRef(bad))
	g.CMPL(bits, imm(0x0d800000)) // 2^-100
	g.JCS(operand.LabelRef(zero))
	scale, inv := g.XMM(), g.vec()
	g.VDIVSS(top, largest, scale)
	g.VMOVSS(scale, at(scales, 0))
	g.VDIVSS(largest, top, scale)
	g.VBROADCASTSS(scale, inv)
	for _, r := range v {
		g.VMULPS(inv, r, r)
		g.VCVTPS2DQ(r, r)
	}
	sum := g.vec()
	g.VPADDD(v[0], v[1], sum)
	for _, r := range v[2:] {
		g.VPADDD(r, sum, sum)
	}
	g.VMOVD(g.reduce([]Vec{sum}, func(a, b, d reg.Register) { g.VPADDD(a, b, d) }), at(sums, 0))
	if g.wide {
		g.VPMOVDB(v[0], at(codes, 0))
		g.VPMOVDB(v[1], at(codes, 16))
	} else {
		// Packing works on 128-bit halves; the permutation puts them in order.
		order := g.vec()
		g.VMOVDQU(g.packOrder(), order)
		g.VPACKSSDW(v[1], v[0], v[0])
		g.VPACKSSDW(v[3], v[2], v[2])
		g.VPACKSSWB(v[2], v[0], v[0])
		g.VPERMD(v[0], order, v[0])
		g.VMOVDQU(v[0], at(codes, 0))
	}
	g.Label(next)
	g.ADDQ(imm(32), codes)
	g.ADDQ(imm(4), scales)
	g.ADDQ(imm(4), sums)
	g.ADDQ(imm(128), x)
	g.DECQ(n)
	g.JNE(operand.LabelRef(loop))
	g.MOVB(operand.U8(1), result)
	g.ret()

	g.Label(zero)
	z := g.YMM()
	g.VPXOR(z, z, z)
	g.VMOVDQU(z, at(codes, 0))
	g.MOVL(imm(0), at(scales, 0))
	g.MOVL(imm(0), at(sums, 0))
	g.JMP(operand.LabelRef(next))
	g.Label(bad)
	g.MOVB(operand.U8(0), result)
	g.ret()
}

func (g *gen) packOrder() Mem {
	m := g.StaticGlobal("order")
	g.DataAttributes(roData)
	for _, i := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		g.AppendDatum(operand.U32(i))
	}
	return m
}

func (g *gen) quantizeKV8() {
	g.fn("quantizeKV8", "func(codes *int8, x *float32, inv float32, n int)",
		"is round8 without the sum. AVX2 wants n to be a multiple of 8.")
	codes, x, n := g.arg("codes"), g.arg("x"), g.arg("n")
	inv, lo, hi := g.vec(), g.constant(-127), g.constant(127)
	g.VBROADCASTSS(g.argMem("inv"), inv)
	round := func(v Vec) {
		g.VMULPS(inv, v, v)
		g.VMAXPS(lo, v, v)
		g.VMINPS(hi, v, v)
		g.VCVTPS2DQ(v, v)
	}
	if g.wide {
		g.each16(n, []GP{x}, func(l lanes) {
			v := l.load(x)
			round(v)
			if l.mask == nil {
				g.VPMOVDB(v, at(codes, 0))
				g.ADDQ(imm(16), codes)
			} else {
				g.VPMOVDB(v, l.mask, at(codes, 0))
			}
		})
		g.ret()
		return
	}
	loop, done := g.label("eight"), g.label("done")
	g.Label(loop)
	g.SUBQ(imm(8), n)
	g.JLT(operand.LabelRef(done))
	v, h := g.vec(), g.XMM()
	g.VMOVUPS(at(x, 0), v)
	round(v)
	g.VEXTRACTI128(operand.U8(1), v, h)
	g.VPACKSSDW(h, v.AsX(), h)
	g.VPACKSSWB(h, h, h)
	g.VMOVQ(h, at(codes, 0))
	g.ADDQ(imm(32), x)
	g.ADDQ(imm(8), codes)
	g.JMP(operand.LabelRef(loop))
	g.Label(done)
	g.ret()
}
