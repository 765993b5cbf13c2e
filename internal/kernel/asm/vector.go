package main

import (
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// vector emits the kernels of vector.go, and AbsMax.
func (g *gen) vector() {
	g.gated("siluMul", g.silu)
	g.gated("geluMul", g.gelu)
	g.softCap()
	g.rope()
	g.add()
	g.rmsNorm()
	g.softmax()
	g.absMax()
}

// gated emits dst = act(gate)*up.
func (g *gen) gated(name string, act func(v Vec) Vec) {
	g.fn(name, "func(dst, gate, up []float32)", "is defined by "+name+".")
	dst, gate, up, n := g.base("dst"), g.base("gate"), g.base("up"), g.len("gate")
	g.each16(n, []GP{dst, gate, up}, func(l lanes) {
		y := act(l.load(gate))
		g.VMULPS(l.load(up), y, y)
		l.store(y, dst)
	})
	g.ret()
}

func (g *gen) silu(v Vec) Vec {
	x := g.vec()
	g.xorC(1<<31, v, x)
	e := g.exp(x)
	g.addC(g.f32(1), e, e)
	g.VDIVPS(e, v, e)
	return e
}

// The constants of GELU in vector.go.
const (
	geluA = 0.79788456080286536
	geluB = 0.044715
)

func (g *gen) gelu(v Vec) Vec {
	u := g.vec()
	g.mulC(g.f32(geluB), v, u)
	g.fmaC(g.f32(1), v, u)
	g.VMULPS(u, v, u)
	g.mulC(g.f32(geluA), u, u)
	y := g.tanh(u)
	g.addC(g.f32(1), y, y)
	g.mulC(g.f32(0.5), v, u)
	g.VMULPS(y, u, u)
	return u
}

func (g *gen) softCap() {
	g.fn("softCap", "func(x []float32, limit float32)", "is defined by softCap.")
	x, n := g.base("x"), g.len("x")
	limit := g.vec()
	g.VBROADCASTSS(g.argMem("limit"), limit)
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x)
		g.VDIVPS(limit, v, v)
		y := g.tanh(v)
		g.VMULPS(y, limit, y)
		l.store(y, x)
	})
	g.ret()
}

func (g *gen) rope() {
	g.fn("rope", "func(x, cos, sin []float32)", "is defined by rope.")
	x, cos, sin, n := g.base("x"), g.base("cos"), g.base("sin"), g.len("x")
	g.SHRQ(operand.U8(1), n)
	y := g.GP64()
	g.LEAQ(idx(x, n, 4, 0), y)
	g.each16(n, []GP{x, y, cos, sin}, func(l lanes) {
		a, b, c, s := l.load(x), l.load(y), l.load(cos), l.load(sin)
		t := g.vec()
		g.VMULPS(s, b, t)
		g.VMULPS(s, a, s)
		g.VFMSUB213PS(t, c, a) // a*c - b*s
		g.VFMADD213PS(s, c, b) // b*c + a*s
		l.store(a, x)
		l.store(b, y)
	})
	g.ret()
}

func (g *gen) add() {
	g.fn("add", "func(dst, x []float32)", "is defined by add.")
	dst, x, n := g.base("dst"), g.base("x"), g.len("x")
	g.each16(n, []GP{dst, x}, func(l lanes) {
		v := l.load(dst)
		g.VADDPS(l.load(x), v, v)
		l.store(v, dst)
	})
	g.ret()
}

func (g *gen) rmsNorm() {
	g.fn("rmsNorm", "func(dst, x, w []float32, eps float32)", "is defined by rmsNorm.")
	x, n := g.base("x"), g.len("x")
	acc := g.vecs(g.regs())
	g.zero(acc...)
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x) // zeros beyond the end leave the lanes, which are never -0
		g.VFMADD231PS(v, v, acc[l.h])
	})
	sum, count := g.tree(acc), g.XMM()
	n = g.len("x")
	g.VXORPS(count, count, count)
	g.VCVTSI2SSQ(n, count, count)
	g.VDIVSS(count, sum, sum)
	g.VADDSS(g.argMem("eps"), sum, sum)
	g.VSQRTSS(sum, sum, sum)
	one := g.XMM()
	g.VMOVSS(g.f32(1), one)
	g.VDIVSS(sum, one, sum)
	inv := g.vec()
	g.VBROADCASTSS(sum, inv)
	dst, w := g.base("dst"), g.base("w")
	x = g.base("x")
	g.each16(n, []GP{dst, x, w}, func(l lanes) {
		v := l.load(x)
		g.VMULPS(inv, v, v)
		g.VMULPS(l.load(w), v, v)
		l.store(v, dst)
	})
	g.ret()
}

// softmax finds the maximum, noting NaNs, which VMAXPS would lose; then the
// exponentials and their sum.
func (g *gen) softmax() {
	g.fn("softmax", "func(x []float32, t0 int) float32", "is defined by softmax.")
	m := g.maximum()
	x, n := g.base("x"), g.len("x")
	acc := g.vecs(g.regs())
	g.zero(acc...)
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x)
		g.VSUBPS(m, v, v)
		e := g.exp(v)
		l.store(e, x)
		switch {
		case l.mask == nil:
			g.VADDPS(e, acc[l.h], acc[l.h])
		case g.wide:
			g.VADDPS(e, acc[l.h], l.mask, acc[l.h])
		default: // sums of exponentials are never -0, so adding 0 keeps them
			g.VANDPS(l.mask, e, e)
			g.VADDPS(e, acc[l.h], acc[l.h])
		}
	})
	// Element j of acc belongs to lane (t0+j)%16. It can stay where it is:
	// tree16 joins lanes that agree modulo 8, then 4, 2 and 1, so it gives the
	// same bits for lanes turned by any t0.
	sum := g.tree(acc)
	g.Store(sum, g.ReturnIndex(0))
	g.ret()
}

// maximum returns max(x) in all lanes, NaN if x holds one.
func (g *gen) maximum() Vec {
	x, n := g.base("x"), g.len("x")
	acc := g.vecs(g.regs())
	for _, a := range acc {
		g.VBROADCASTSS(at(x, 0), a)
	}
	nan, seen := g.vec(), g.K()
	if g.wide {
		g.KXORW(seen, seen, seen)
	} else {
		g.zero(nan)
	}
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x)
		switch {
		case g.wide:
			k := g.K()
			g.VCMPPS(operand.U8(cmpUnordered), v, v, k)
			g.KORW(k, seen, seen)
			if l.mask == nil {
				g.VMAXPS(v, acc[0], acc[0])
			} else {
				g.VMAXPS(v, acc[0], l.mask, acc[0])
			}
			return
		case l.mask != nil:
			g.VBLENDVPS(l.mask, v, acc[l.h], v)
		}
		t := g.vec()
		g.VCMPPS(operand.U8(cmpUnordered), v, v, t)
		g.VPOR(t, nan, nan)
		g.VMAXPS(v, acc[l.h], acc[l.h])
	})
	m := g.reduce(acc, func(a, b, d reg.Register) { g.VMAXPS(a, b, d) })
	flags, out, ordered := g.GP64(), g.vec(), g.label("ordered")
	if g.wide {
		g.KMOVW(seen, flags.As32())
	} else {
		g.VMOVMSKPS(nan, flags.As32())
	}
	g.VBROADCASTSS(m, out)
	g.TESTL(flags.As32(), flags.As32())
	g.JE(operand.LabelRef(ordered))
	g.broadcast(0x7fc00000, out)
	g.Label(ordered)
	return out
}

// reduce joins all lanes by an operation that may join them in any order; the
// result is element 0.
func (g *gen) reduce(v []Vec, op func(a, b, d reg.Register)) reg.Register {
	y, x := v[0].AsY(), v[0].AsX()
	if g.wide {
		t := g.YMM()
		g.VEXTRACTI64X4(operand.U8(1), v[0], t)
		op(t, y, y)
	} else if len(v) > 1 {
		op(v[1], y, y)
	}
	t := g.XMM()
	g.VEXTRACTI128(operand.U8(1), y, t)
	op(t, x, x)
	g.VPSHUFD(operand.U8(0x4e), x, t)
	op(t, x, x)
	g.VPSHUFD(operand.U8(0xb1), x, t)
	op(t, x, x)
	return x
}

func (g *gen) absMax() {
	g.fn("absMax", "func(x []float32) float32", "is defined by absMax.")
	x, n := g.base("x"), g.len("x")
	acc := g.vecs(g.regs())
	g.zero(acc...)
	g.each16(n, []GP{x}, func(l lanes) {
		v := l.load(x)
		g.andC(1<<31-1, v, v)
		g.VPMAXSD(v, acc[l.h], acc[l.h])
	})
	m := g.reduce(acc, func(a, b, d reg.Register) { g.VPMAXSD(a, b, d) })
	g.Store(m, g.ReturnIndex(0))
	g.ret()
}
