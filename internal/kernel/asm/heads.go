package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
)

// aheadOwn is how many bytes ahead of the reading the cache is fetched.
const aheadOwn = 1024

// heads emits Scores and Mix for 2, 3 and 4 query heads that share the keys and
// values of one KV head: each element of the cache is loaded and converted
// once for all of them, which is two of three instructions for one head. E is a
// multiple of 16, and there is a position at least. AVX-512 only.
func (g *gen) heads() {
	for _, c := range cacheForms {
		for n := 2; n <= 4; n++ {
			g.headScores(c, n)
		}
	}
	for _, c := range cacheForms {
		for n := 2; n <= 4; n++ {
			g.headMix(c, n)
		}
	}
}

// headScores emits dst[i*ld+t] = (q[i] . k[t]) * scale[t] * mul for count
// positions. The lanes of 16 positions are kept in memory until their trees are
// computed together, a lane a position.
func (g *gen) headScores(c cached, n int) {
	scales := ""
	if c.size == 1 {
		scales = ", scales *uint16"
	}
	g.fn(fmt.Sprintf("scores%dx%s", n, c.name), fmt.Sprintf("func(dst *float32, ld int, q *float32, E, count int, k *%s%s, mul float32, next *%s)", c.elem, scales, c.elem),
		fmt.Sprintf("is scores%s for %d heads; it fetches as much from next as it reads of k.", c.name, n))
	frame := g.AllocLocal(n*1024 + 64)
	g.Attributes(0)
	tmp := g.GP64()
	g.LEAQ(frame, tmp)
	g.ADDQ(imm(63), tmp)
	g.ANDQ(imm(-64), tmp)
	e, k, dst, ld := g.arg("E"), g.arg("k"), g.arg("dst"), g.arg("ld")
	g.SHLQ(operand.U8(2), ld)
	q := []GP{g.arg("q")}
	for range n - 1 {
		next := g.GP64()
		g.LEAQ(idx(q[len(q)-1], e, 4, 0), next)
		q = append(q, next)
	}
	mul := g.ZMM()
	g.VBROADCASTSS(g.argMem("mul"), mul)
	ahead := g.arg("next")

	block, full, position, done := g.label("block"), g.label("full"), g.label("position"), g.label("done")
	g.Label(block)
	m, mask := g.GP64(), g.K()
	g.MOVQ(imm(16), m)
	g.CMPQ(g.argMem("count"), imm(16))
	g.JGE(operand.LabelRef(full))
	g.MOVQ(g.argMem("count"), m)
	g.Label(full)
	bits := g.GP64()
	g.MOVL(imm(1), bits.As32())
	g.SHLXQ(m, bits, bits)
	g.DECQ(bits)
	g.KMOVW(bits.As32(), mask)

	lanes := g.copyOf(tmp)
	g.Label(position)
	acc := g.vecs(n)
	g.zero(acc...)
	x := g.GP64()
	g.XORQ(x, x)
	for _, step := range []int{64, 16} {
		loop, next, end := g.label("e"), g.label("fewer"), g.GP64()
		g.MOVQ(e, end)
		g.SUBQ(imm(step), end)
		g.CMPQ(x, end)
		g.JG(operand.LabelRef(next))
		g.Label(loop)
		for o := 0; o < step; o += 16 {
			v := g.loadCached(c, idx(k, x, uint8(c.size), o*c.size), nil)
			for i := range acc {
				g.VFMADD231PS(idx(q[i], x, 4, o*4), v, acc[i])
			}
		}
		for o := 0; o < step*c.size; o += 64 {
			g.PREFETCHT0(idx(k, x, uint8(c.size), o+aheadOwn))
			g.PREFETCHT0(idx(ahead, x, uint8(c.size), o))
		}
		g.ADDQ(imm(step), x)
		g.CMPQ(x, end)
		g.JLE(operand.LabelRef(loop))
		g.Label(next)
	}
	for i := range acc {
		g.VMOVAPS(acc[i], at(lanes, i*1024))
	}
	g.ADDQ(imm(64), lanes)
	g.LEAQ(idx(k, e, uint8(c.size), 0), k)
	g.LEAQ(idx(ahead, e, uint8(c.size), 0), ahead)
	g.DECQ(m)
	g.JNE(operand.LabelRef(position))

	var scale Vec
	if c.size == 1 {
		s := g.arg("scales")
		scale = g.vec()
		g.VCVTPH2PS_Z(at(s, 0), mask, scale)
		g.ADDQ(imm(32), g.argMem("scales"))
	}
	out := g.copyOf(dst)
	for i := range n {
		sum := g.trees16(tmp, i*1024)
		if c.size == 1 {
			g.VMULPS(scale, sum, sum)
		}
		g.VMULPS(mul, sum, sum)
		g.VMOVUPS(sum, mask, at(out, 0))
		g.ADDQ(ld, out)
	}
	g.ADDQ(imm(64), dst)
	g.SUBQ(imm(16), g.argMem("count"))
	g.JLE(operand.LabelRef(done))
	g.JMP(operand.LabelRef(block))
	g.Label(done)
	g.ret()
}

// trees16 joins the 16 lanes of each of 16 positions, 64 bytes each from
// base+disp on, as tree16 does, and returns the sums by position.
func (g *gen) trees16(base GP, disp int) Vec {
	lanes := func(i int) Mem { return at(base, disp+64*i) }
	// 8+8: positions a and b side by side.
	eight := func(a, b int) Vec {
		lo, hi := g.ZMM(), g.ZMM()
		g.VMOVAPS(lanes(a), lo)
		g.VINSERTF64X4(operand.U8(1), lanes(b), lo, lo)
		g.VMOVAPS(lanes(b), hi)
		g.VINSERTF64X4(operand.U8(0), lanes(a).Offset(32), hi, hi)
		g.VADDPS(hi, lo, lo)
		return lo
	}
	join := func(a, b Vec, shuffle func(pick uint8, b, a, dst Vec), first, second uint8) Vec {
		lo, hi := g.ZMM(), g.ZMM()
		shuffle(first, b, a, lo)
		shuffle(second, b, a, hi)
		g.VADDPS(hi, lo, lo)
		return lo
	}
	blocks := func(pick uint8, b, a, dst Vec) { g.VSHUFF32X4(operand.U8(pick), b, a, dst) }
	elements := func(pick uint8, b, a, dst Vec) { g.VSHUFPS(operand.U8(pick), b, a, dst) }
	// 4+4, positions l, 4+l, 8+l and 12+l in the 128-bit blocks; so that after
	// 2+2 and 1+1 within the blocks position p is element p.
	four := func(l int) Vec {
		return join(eight(l, 4+l), eight(8+l, 12+l), blocks, 0x88, 0xdd)
	}
	two := func(l int) Vec { return join(four(l), four(l+1), elements, 0x44, 0xee) }
	return join(two(0), two(2), elements, 0x88, 0xdd)
}

// headMix emits dst[i] = sum over t of p[i*ld+t]*v[t], 64 elements at a time,
// then 16. p is multiplied by the scales first, in place.
func (g *gen) headMix(c cached, n int) {
	scales := ""
	if c.size == 1 {
		scales = ", scales *uint16"
	}
	g.fn(fmt.Sprintf("mix%dx%s", n, c.name), fmt.Sprintf("func(dst *float32, E int, p *float32, ld, count int, v *%s%s, next *%s)", c.elem, scales, c.elem),
		fmt.Sprintf("is mix%s for %d heads; it overwrites p, and fetches as much from next as it reads of v.", c.name, n))
	ld := g.arg("ld")
	g.SHLQ(operand.U8(2), ld)
	if c.size == 1 {
		g.scaleWeights(n, ld)
	}
	dst, v, e := g.arg("dst"), g.arg("v"), g.arg("E")
	left := g.copyOf(e)
	for _, regs := range []int{4, 1} {
		loop, next := g.label("elements"), g.label("fewer")
		g.Label(loop)
		g.CMPQ(left, imm(16*regs))
		g.JLT(operand.LabelRef(next))
		acc := make([][]Vec, n)
		for i := range acc {
			acc[i] = g.vecs(regs)
			g.zero(acc[i]...)
		}
		p := []GP{g.arg("p")}
		for range n - 1 {
			next := g.GP64()
			g.LEAQ(idx(p[len(p)-1], ld, 1, 0), next)
			p = append(p, next)
		}
		x, t, ahead := g.copyOf(v), g.GP64(), g.arg("next")
		g.XORQ(t, t)
		position := g.label("t")
		g.Label(position)
		w := g.vecs(n)
		for i := range w {
			g.VBROADCASTSS(idx(p[i], t, 4, 0), w[i])
		}
		for r := range regs {
			y := g.loadCached(c, at(x, r*16*c.size), nil)
			for i := range acc {
				g.VFMADD231PS(y, w[i], acc[i][r])
			}
		}
		for o := 0; o < regs*16*c.size; o += 64 {
			g.PREFETCHT0(at(x, o+aheadOwn))
			g.PREFETCHT0(at(ahead, o))
		}
		g.LEAQ(idx(x, e, uint8(c.size), 0), x)
		g.LEAQ(idx(ahead, e, uint8(c.size), 0), ahead)
		g.INCQ(t)
		g.CMPQ(t, g.argMem("count"))
		g.JNE(operand.LabelRef(position))
		out := g.copyOf(dst)
		for i := range acc {
			for r, a := range acc[i] {
				g.VMOVUPS(a, at(out, r*64))
			}
			g.LEAQ(idx(out, e, 4, 0), out)
		}
		g.ADDQ(imm(64*regs), dst)
		g.ADDQ(imm(16*regs*c.size), v)
		g.ADDQ(imm(16*regs*c.size), g.argMem("next"))
		g.SUBQ(imm(16*regs), left)
		g.JMP(operand.LabelRef(loop))
		g.Label(next)
	}
	g.ret()
}

// scaleWeights multiplies the weights of n heads by the float16 scales of their
// positions.
func (g *gen) scaleWeights(n int, ld GP) {
	p, s, left := g.arg("p"), g.arg("scales"), g.arg("count")
	mask, bits := g.K(), g.GP64()
	g.MOVQ(imm(-1), bits)
	g.KMOVW(bits.As32(), mask)
	loop, full := g.label("scales"), g.label("whole")
	g.Label(loop)
	g.CMPQ(left, imm(16))
	g.JGE(operand.LabelRef(full))
	g.MOVL(imm(1), bits.As32())
	g.SHLXQ(left, bits, bits)
	g.DECQ(bits)
	g.KMOVW(bits.As32(), mask)
	g.Label(full)
	scale := g.vec()
	g.VCVTPH2PS_Z(at(s, 0), mask, scale)
	row := g.copyOf(p)
	for range n {
		w := g.vec()
		g.VMOVUPS_Z(at(row, 0), mask, w)
		g.VMULPS(scale, w, w)
		g.VMOVUPS(w, mask, at(row, 0))
		g.ADDQ(ld, row)
	}
	g.ADDQ(imm(64), p)
	g.ADDQ(imm(32), s)
	g.SUBQ(imm(16), left)
	g.JG(operand.LabelRef(loop))
}
