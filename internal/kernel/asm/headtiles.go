package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The shape of Tiles: the positions of a tile, and the queries that Scores takes
// at once. Two registers of positions by four queries are 8 sums under way, what
// two units with a latency of 4 need, from 6 loads to 8 multiply-adds. 16 scores
// of E 64 are 64 multiply-adds, 15 additions and 2 products on these units, so
// 64/81 = 79 % of their peak is the most.
const (
	tilePositions = 32
	tileQueries   = 4
	tileRow       = 4 * tilePositions // bytes of an element of E
)

// headTiles emits the kernels of Tiles. AVX-512 only.
func (g *gen) headTiles() {
	g.floats(cacheForms[1])
	g.floats(cacheForms[2])
	g.weigh()
	g.transpose()
	g.tileScores()
	for n := 1; n <= 4; n++ {
		g.tileMix(n)
	}
}

// eachMasked emits body for 16 of n elements at a time, the last under a mask;
// body moves its pointers on.
func (g *gen) eachMasked(n GP, body func(mask reg.Register)) {
	loop, tail, done := g.label("loop"), g.label("tail"), g.label("done")
	g.Label(loop)
	g.SUBQ(imm(16), n)
	g.JLT(operand.LabelRef(tail))
	body(nil)
	g.JMP(operand.LabelRef(loop))
	g.Label(tail)
	g.ADDQ(imm(16), n)
	g.JE(operand.LabelRef(done))
	body(g.rowMask(n))
	g.Label(done)
}

func (g *gen) floats(c cached) {
	g.fn("floats"+c.name, fmt.Sprintf("func(dst []float32, x []%s)", c.elem), "is defined by floats"+c.name+".")
	dst, x, n := g.base("dst"), g.base("x"), g.len("x")
	g.eachMasked(n, func(mask reg.Register) {
		v := g.loadCached(c, at(x, 0), mask)
		l := lanes{gen: g, mask: mask}
		l.store(v, dst)
		g.ADDQ(imm(16*c.size), x)
		g.ADDQ(imm(64), dst)
	})
	g.ret()
}

func (g *gen) weigh() {
	g.fn("weigh", "func(p []float32, scales []uint16)", "is defined by weigh.")
	p, scales, n := g.base("p"), g.base("scales"), g.len("p")
	g.eachMasked(n, func(mask reg.Register) {
		l := lanes{gen: g, mask: mask}
		w := l.load(p)
		g.VMULPS(g.loadCached(cacheForms[1], at(scales, 0), mask), w, w)
		l.store(w, p)
		g.ADDQ(imm(64), p)
		g.ADDQ(imm(32), scales)
	})
	g.ret()
}

// transpose takes 16 positions by 16 elements at a time: loads gather positions
// i, 4+i, 8+i and 12+i in the 128-bit lanes of a register, four elements each,
// so that transposing within lanes is all that is left.
func (g *gen) transpose() {
	g.fn("transpose", "func(tile, keys *float32, E int)", "is defined by transpose.")
	tile, row := g.arg("tile"), g.arg("E")
	keys := []GP{g.arg("keys")} // of positions 0, 4, 8 and 12
	g.SHLQ(operand.U8(2), row)
	row3 := g.GP64()
	g.LEAQ(idx(row, row, 2, 0), row3)
	for i := range 3 {
		next := g.GP64()
		g.LEAQ(idx(keys[i], row, 4, 0), next)
		keys = append(keys, next)
	}
	half, chunks := g.label("half"), g.label("chunks")
	halves, n, out, back := g.GP64(), g.GP64(), g.GP64(), g.GP64()
	g.MOVQ(imm(tilePositions/16), halves)
	g.Label(half)
	g.MOVQ(tile, out)
	g.MOVQ(row, n)
	g.Label(chunks)
	for j := range 4 {
		z := g.vecs(4)
		for i, v := range z {
			from := func(k GP) Mem {
				switch i {
				case 0:
					return at(k, 16*j)
				case 3:
					return idx(k, row3, 1, 16*j)
				}
				return idx(k, row, uint8(i), 16*j)
			}
			g.VMOVUPS(from(keys[0]), v.AsX())
			for m := 1; m < 4; m++ {
				g.VINSERTF32X4(operand.U8(m), from(keys[m]), v, v)
			}
		}
		lo, hi := g.vecs(2), g.vecs(2)
		for i := range 2 {
			g.VUNPCKLPS(z[2*i+1], z[2*i], lo[i])
			g.VUNPCKHPS(z[2*i+1], z[2*i], hi[i])
		}
		for i, pair := range [][]Vec{lo, hi} {
			a, b := g.vec(), g.vec()
			g.VUNPCKLPD(pair[1], pair[0], a)
			g.VUNPCKHPD(pair[1], pair[0], b)
			g.VMOVUPS(a, at(out, (4*j+2*i)*tileRow))
			g.VMOVUPS(b, at(out, (4*j+2*i+1)*tileRow))
		}
	}
	for _, k := range keys {
		g.ADDQ(imm(64), k)
	}
	g.ADDQ(imm(16*tileRow), out)
	g.SUBQ(imm(64), n)
	g.JNE(operand.LabelRef(chunks))
	// From the end of 4 rows to the same of 16 rows on, less the way through one.
	g.MOVQ(row, back)
	g.SHLQ(operand.U8(4), back)
	g.SUBQ(row, back)
	for _, k := range keys {
		g.ADDQ(back, k)
	}
	g.ADDQ(imm(64), tile)
	g.DECQ(halves)
	g.JNE(operand.LabelRef(half))
	g.ret()
}

// tileScores computes one lane accumulator after the other, in the order in
// which the tree joins them, for 32 positions by 4 queries.
func (g *gen) tileScores() {
	g.fn("tileScores", "func(dst *float32, ld int, q *float32, E, groups int, tile, scales *float32, mul float32)",
		"is tileScores for groups of 4 queries.")
	dst, ld, e, tile := g.arg("dst"), g.arg("ld"), g.arg("E"), g.arg("tile")
	g.SHLQ(operand.U8(2), ld)
	g.SHLQ(operand.U8(2), e)
	q := []GP{g.arg("q")}
	for i := 1; i < tileQueries; i++ {
		next := g.GP64()
		g.LEAQ(idx(q[i-1], e, 1, 0), next)
		q = append(q, next)
	}
	// Sums that wait for their partner in the tree: those of the upper two
	// levels in memory, the others in registers.
	frame := g.AllocLocal(2*2*tileQueries*64 + 64)
	g.Attributes(0)
	stack := g.GP64()
	g.LEAQ(frame, stack)
	g.ADDQ(imm(63), stack)
	g.ANDQ(imm(-64), stack)
	wait := func(level, i int) Mem { return at(stack, ((level-2)*2*tileQueries+i)*64) }

	group := g.label("queries")
	g.Label(group)
	var held [4][]Vec
	var sums []Vec
	for i, lane := range treeOrder(16) {
		sums = g.laneSums(q, tile, e, lane)
		level := 0
		for ; i>>level&1 == 1; level++ {
			for j, v := range sums {
				if level < 2 {
					g.VADDPS(v, held[level][j], v)
				} else {
					g.VADDPS(wait(level, j), v, v)
				}
			}
		}
		switch {
		case level == 2 || level == 3:
			for j, v := range sums {
				g.VMOVAPS(v, wait(level, j))
			}
		case level < 2:
			held[level] = sums
		}
	}
	scales, mul := g.arg("scales"), g.vec()
	g.VBROADCASTSS(g.argMem("mul"), mul)
	for i := range tileQueries {
		for h := range 2 {
			sum := sums[2*i+h]
			g.VMULPS(at(scales, 64*h), sum, sum)
			g.VMULPS(mul, sum, sum)
			g.VMOVUPS(sum, at(dst, 64*h))
		}
		g.ADDQ(ld, dst)
		if i < tileQueries-1 {
			continue
		}
		for _, p := range q {
			g.LEAQ(idx(p, e, tileQueries, 0), p)
		}
	}
	g.DECQ(g.argMem("groups"))
	g.JNE(operand.LabelRef(group))
	g.ret()
}

// treeOrder is the order in which a tree over n lanes, joined by halves, needs
// them when it is walked depth first.
func treeOrder(n int) []int {
	order := []int{0}
	for s := 1; s < n; s *= 2 {
		var next []int
		for _, l := range order {
			next = append(next, l, l+s)
		}
		order = next
	}
	return order
}

// laneSums returns a lane accumulator of 4 queries by 2 registers of positions,
// query by query.
func (g *gen) laneSums(q []GP, tile, e GP, lane int) []Vec {
	sums := g.vecs(2 * len(q))
	g.zero(sums...)
	x, k, loop := g.GP64(), g.GP64(), g.label("lane")
	g.XORQ(x, x)
	g.MOVQ(tile, k)
	g.Label(loop)
	keys := g.vecs(2)
	for h, v := range keys {
		g.VMOVUPS(at(k, lane*tileRow+64*h), v)
	}
	for i, p := range q {
		b := g.vec()
		g.VBROADCASTSS(idx(p, x, 1, 4*lane), b)
		for h, v := range keys {
			g.VFMADD231PS(v, b, sums[2*i+h])
		}
	}
	g.ADDQ(imm(16*tileRow), k)
	g.ADDQ(imm(64), x)
	g.CMPQ(x, e)
	g.JNE(operand.LabelRef(loop))
	return sums
}

// tileMix emits tileMix for n heads, 64 elements at a time, then 16.
func (g *gen) tileMix(n int) {
	g.fn(fmt.Sprintf("tileMix%d", n), "func(dst *float32, E int, p *float32, ld, count int, v *float32)", fmt.Sprintf("is tileMix for %d heads.", n))
	dst, v, e, ld := g.arg("dst"), g.arg("v"), g.arg("E"), g.arg("ld")
	g.SHLQ(operand.U8(2), ld)
	left := g.copyOf(e)
	for _, regs := range []int{4, 1} {
		loop, next := g.label("elements"), g.label("fewer")
		g.Label(loop)
		g.CMPQ(left, imm(16*regs))
		g.JLT(operand.LabelRef(next))
		acc := make([][]Vec, n)
		out := g.copyOf(dst)
		for i := range acc {
			acc[i] = g.vecs(regs)
			for r, a := range acc[i] {
				g.VMOVUPS(at(out, r*64), a)
			}
			g.LEAQ(idx(out, e, 4, 0), out)
		}
		p := []GP{g.arg("p")}
		for i := range n - 1 {
			next := g.GP64()
			g.LEAQ(idx(p[i], ld, 1, 0), next)
			p = append(p, next)
		}
		x, t, count, position := g.copyOf(v), g.GP64(), g.arg("count"), g.label("t")
		g.XORQ(t, t)
		g.Label(position)
		w := g.vecs(n)
		for i := range w {
			g.VBROADCASTSS(idx(p[i], t, 4, 0), w[i])
		}
		for r := range regs {
			y := g.vec()
			g.VMOVUPS(at(x, r*64), y)
			for i := range acc {
				g.VFMADD231PS(y, w[i], acc[i][r])
			}
		}
		g.LEAQ(idx(x, e, 4, 0), x)
		g.INCQ(t)
		g.CMPQ(t, count)
		g.JNE(operand.LabelRef(position))
		g.MOVQ(dst, out)
		for i := range acc {
			for r, a := range acc[i] {
				g.VMOVUPS(a, at(out, r*64))
			}
			g.LEAQ(idx(out, e, 4, 0), out)
		}
		g.ADDQ(imm(64*regs), dst)
		g.ADDQ(imm(64*regs), v)
		g.SUBQ(imm(16*regs), left)
		g.JMP(operand.LabelRef(loop))
		g.Label(next)
	}
	g.ret()
}
