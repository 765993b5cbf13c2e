package main

import (
	"fmt"

	"github.com/mmcloughlin/avo/operand"
)

// layout is a quantized panel: a block of 64 bytes holds per columns.
type layout struct {
	name      string
	per, bits int
}

// panelQ emits the kernels of MatW8, MatW4 and MatW2. A block of tokens times
// one panel of 16 rows is kept in registers: the integer dots of a sub-group,
// started at -zero*sum, and the float accumulators.
//
// AVX-512 multiplies with VPDPBUSD. AVX2 has VPMADDUBSW, which adds two
// products in 16 bits and saturates. 4-bit codes give at most 15*127*2 = 3810
// and 2-bit ones (doubled, to count in half levels) 6*127*2 = 1524, so all
// eight steps of a sub-group add up in 16 bits (8*3810 = 30480). For 8-bit
// codes it takes |code-128| <= 128 as the unsigned factor and moves the sign
// to the activation: 128*127*2 = 32512 fits, and each step widens to 32 bits.
// The zero point is in the levels then, and the driver's -zero*sum is 0.
//
// With AVX-512 a whole block of 8 tokens takes two panels at a time: each
// activation is then broadcast into a register once for both, and the
// arithmetic ports are the limit instead of the loads.
func (g *gen) panelQ() {
	for _, l := range layouts {
		g.panelQuant(l, 1, false)
		if g.wide {
			g.panelQuant(l, 2, false)
		}
	}
}

var layouts = []layout{{"W8", 4, 8}, {"W4", 8, 4}, {"W2", 16, 2}}

// panelGFNI emits the kernels of MatW4 and MatW2 for CPUs that also have GFNI,
// whose product of a bit matrix with each byte moves and masks codes at once:
// 4 instructions instead of 8 for the 64 bytes of W2 that 4 VPDPBUSD multiply,
// 2 instead of 3 for those of W4 with 2.
func (g *gen) panelGFNI() {
	for _, l := range layouts[1:] {
		g.panelQuant(l, 1, true)
		g.panelQuant(l, 2, true)
	}
}

// quant is the state of one panel function.
type quant struct {
	*gen
	layout
	slots int // tokens of the largest block, and of a block in meta
	parts int // registers of 32-bit lanes to a token: panels, or AVX2's halves of one

	// Pointers that move along k: codes of the panel, activation codes of the
	// block's first token, meta; the scales of the current group.
	q, x, m, scales GP
	size            GP    // bytes to the second panel
	strides         []GP  // 1, 3, 5 and 7 times the bytes from token to token
	mask            Vec   // of a code, AVX-512
	matrices        []Vec // GFNI: the bit matrix of each step's codes

	acc   [][]Vec // [token][part] float accumulators
	frame GP      // where they are when acc is nil
	dots  [][]Vec // [token][part] integer dots
	sw    []Vec   // [part] the group's scales, or nil where finish loads them
}

const panelQSignature = "func(dst *float32, ld int, w *byte, size int, codes *int8, stride int, meta *uint32, metaStep, T, panels, full, subs, codeBytes, tailSubs, tailBlocks, tailCode int)"

// panelQuant emits a function for any number of single panels and tokens, or
// one for one pair of panels and whole blocks of tokens.
func (g *gen) panelQuant(l layout, panels int, gfni bool) {
	name := l.name
	if gfni {
		name += "GFNI"
	}
	if panels == 2 {
		g.fn("pair"+name, panelQSignature,
			"computes two panels for T tokens, a multiple of 8; see panelArgs. Defined by mat"+l.name+".")
	} else {
		g.fn("panel"+name, panelQSignature,
			"computes whole panels for T tokens; see panelArgs. Defined by mat"+l.name+".")
	}
	b := &quant{gen: g, layout: l, slots: 4, parts: 2}
	if g.wide {
		b.slots, b.parts = 8, panels
	}
	if b.parts == 2 {
		local, bytes := g.GP64(), b.slots*2*g.lanes()*4
		// A store that crosses a cache line costs two, and Go's stack is aligned
		// to 8 bytes only.
		g.LEAQ(g.AllocLocal(bytes+64), local)
		g.ADDQ(imm(63), local)
		g.ANDQ(imm(-64), local)
		b.frame = local
		g.Attributes(0) // too large a frame for NOSPLIT
	}
	stride := g.arg("stride")
	b.strides = []GP{stride}
	for range b.slots/2 - 1 {
		s := g.copyOf(b.strides[len(b.strides)-1])
		g.ADDQ(stride, s)
		g.ADDQ(stride, s)
		b.strides = append(b.strides, s)
	}
	if gfni {
		for i := range l.per / 4 {
			m := g.vec()
			g.VPBROADCASTQ(g.bitMatrix(l, i), m)
			b.matrices = append(b.matrices, m)
		}
	} else if g.wide && l.bits < 8 {
		b.mask = g.vec()
		g.VPBROADCASTD(g.bits(codeMask(l)), b.mask)
	}
	if panels == 2 {
		b.size = g.arg("size")
		codes, meta, dst := g.arg("codes"), g.arg("meta"), g.arg("dst")
		block := g.label("tokens")
		g.Label(block)
		b.block(8, codes, meta, dst)
		g.LEAQ(idx(codes, stride, 8, 0), codes)
		g.ADDQ(g.argMem("metaStep"), meta)
		g.SUBQ(imm(8), g.argMem("T"))
		g.JNE(operand.LabelRef(block))
		g.ret()
		return
	}
	b.panelLoop()
	g.ret()
}

// panelLoop runs over panels and, in blocks as large as possible, tokens.
func (b *quant) panelLoop() {
	g := b.gen
	panels := g.label("panel")
	g.Label(panels)
	codes, meta, dst, tokens := g.arg("codes"), g.arg("meta"), g.arg("dst"), g.arg("T")
	for n := b.slots; n >= 1; n /= 2 {
		block, next := g.label("tokens"), g.label("fewer")
		g.Label(block)
		g.CMPQ(tokens, imm(n))
		g.JLT(operand.LabelRef(next))
		b.block(n, codes, meta, dst)
		g.SUBQ(imm(n), tokens)
		g.LEAQ(idx(codes, b.strides[0], uint8(n), 0), codes)
		if n == b.slots {
			g.ADDQ(g.argMem("metaStep"), meta)
			g.JMP(operand.LabelRef(block))
		} else {
			g.ADDQ(imm(4*n), meta)
		}
		g.Label(next)
	}
	g.MOVQ(g.argMem("size"), tokens)
	g.ADDQ(tokens, g.argMem("w"))
	g.ADDQ(imm(64), g.argMem("dst"))
	g.DECQ(g.argMem("panels"))
	g.JNE(operand.LabelRef(panels))
}

// codeMask has one bit pattern per byte; W2's codes are kept doubled.
func codeMask(l layout) uint32 {
	if l.bits == 2 {
		return 0x06060606
	}
	return 0x0f0f0f0f
}

// block computes n tokens of one panel over all of k and stores them at dst,
// which it leaves at the row of the token after.
func (b *quant) block(n int, codes, meta, dst GP) {
	g := b.gen
	b.q, b.x, b.m, b.scales = g.arg("w"), g.copyOf(codes), g.copyOf(meta), g.GP64()
	b.acc, b.dots = nil, make([][]Vec, n)
	for t := range b.dots {
		b.dots[t] = g.vecs(b.parts)
	}
	if b.parts == 1 || n <= 2 {
		b.acc = make([][]Vec, n)
		for t := range b.acc {
			b.acc[t] = g.vecs(b.parts)
			g.zero(b.acc[t]...)
		}
	} else {
		z := g.vec()
		g.zero(z)
		for t := range n {
			for p := range b.parts {
				g.VMOVUPS(z, b.spill(t, p))
			}
		}
	}
	groups, count := g.arg("full"), g.GP64()
	group, tail, short, done := g.label("group"), g.label("tail"), g.label("short"), g.label("done")
	g.TESTQ(groups, groups)
	g.JE(operand.LabelRef(tail))
	g.Label(group)
	g.MOVQ(g.argMem("subs"), count)
	b.loadScales("codeBytes")
	b.whole(n, count)
	if n < b.slots {
		// Groups are no multiple of a line: without this one line in nine of
		// W2 and W4 would be waited for.
		g.PREFETCHT0(at(b.q, prefetch))
	}
	g.ADDQ(imm(32), b.q)
	g.DECQ(groups)
	g.JNE(operand.LabelRef(group))

	g.Label(tail)
	g.CMPQ(g.argMem("tailCode"), imm(0))
	g.JE(operand.LabelRef(done))
	b.loadScales("tailCode")
	g.MOVQ(g.argMem("tailSubs"), count)
	g.TESTQ(count, count)
	g.JE(operand.LabelRef(short))
	b.whole(n, count)
	g.Label(short)
	g.MOVQ(g.argMem("tailBlocks"), count)
	g.TESTQ(count, count)
	g.JE(operand.LabelRef(done))
	b.start()
	loop := g.label("block")
	g.Label(loop)
	b.step64(0, 0)
	g.ADDQ(imm(64), b.q)
	g.ADDQ(imm(b.per), b.x)
	g.DECQ(count)
	g.JNE(operand.LabelRef(loop))
	b.finish()

	g.Label(done)
	ld := g.argMem("ld")
	for t := range n {
		for p := range b.parts {
			v := g.vec()
			if b.acc != nil {
				v = b.acc[t][p]
			} else {
				g.VMOVUPS(b.spill(t, p), v)
			}
			g.VMOVUPS(v, at(dst, p*g.lanes()*4))
		}
		g.ADDQ(ld, dst)
	}
}

// spill is where the accumulators of token t, part p are when not in registers.
func (b *quant) spill(t, p int) Mem { return at(b.frame, (t*b.parts+p)*b.lanes()*4) }

// part is the place of part p, disp bytes on from r in the first panel, where
// half is the distance of AVX2's halves.
func (b *quant) part(r GP, p, disp, half int) Mem {
	if p == 1 && b.wide {
		return idx(r, b.size, 1, disp)
	}
	return at(r, disp+p*half)
}

// loadScales finds the scales behind the group's bytes of codes.
func (b *quant) loadScales(codeBytes string) {
	b.MOVQ(b.argMem(codeBytes), b.scales)
	b.ADDQ(b.q, b.scales)
	b.sw = nil
	if b.parts == 1 {
		b.sw = b.scaleVecs()
	}
}

// scaleVecs returns the group's scales as floats.
func (b *quant) scaleVecs() []Vec {
	sw := b.vecs(b.parts)
	for p := range sw {
		b.VCVTPH2PS(b.part(b.scales, p, 0, 16), sw[p])
		if b.bits2() {
			b.mulC(b.f32(0.5), sw[p], sw[p])
		}
	}
	return sw
}

func (b *quant) bits2() bool { return b.layout.bits == 2 }

// whole computes count sub-groups of 32.
func (b *quant) whole(n int, count GP) {
	loop := b.label("sub")
	b.Label(loop)
	b.start()
	for i := range 32 / b.per {
		b.step64(i*64, i*b.per)
	}
	if n < b.slots {
		for i := 0; i < 32/b.per*64; i += 64 {
			b.PREFETCHT0(at(b.q, i+prefetch))
		}
	}
	b.ADDQ(imm(32/b.per*64), b.q)
	b.ADDQ(imm(32), b.x)
	b.finish()
	b.ADDQ(imm(b.slots*8), b.m)
	b.DECQ(count)
	b.JNE(operand.LabelRef(loop))
}

// prefetch is how far ahead of the codes the pass of a few tokens asks for
// memory, in bytes: of 0, 1, 2 and 4 KiB, and into either cache, the best for
// W2 and never the worst for W8 and W4 (bench/kernels.md).
const prefetch = 4096

// start sets the dots to meta's -zero*sum, or to 0 where finish adds it.
func (b *quant) start() {
	for t, d := range b.dots {
		if !b.wide {
			b.zero(d...)
			continue
		}
		b.VPBROADCASTD(at(b.m, 4*t), d[0])
		for _, v := range d[1:] {
			b.VMOVDQA64(d[0], v)
		}
	}
}

// finish joins the dots: acc = FMA(float(d), sw*sx, acc).
func (b *quant) finish() {
	sw := b.sw
	if sw == nil {
		sw = b.scaleVecs()
	}
	for t, d := range b.dots {
		if !b.wide && b.per != 4 {
			sum := b.vec()
			b.VPBROADCASTD(at(b.m, 4*t), sum)
			for _, d := range d {
				b.VPMADDWD(b.gen.bits(0x00010001), d, d)
				b.VPADDD(sum, d, d)
			}
		}
		scale := at(b.m, 4*(b.slots+t))
		if b.parts == 1 {
			s := b.vec()
			b.VCVTDQ2PS(d[0], d[0])
			b.VMULPS_BCST(scale, sw[0], s)
			b.VFMADD231PS(d[0], s, b.acc[t][0])
			continue
		}
		sx := b.vec()
		b.VBROADCASTSS(scale, sx)
		for p, d := range d {
			s := b.vec()
			b.VCVTDQ2PS(d, d)
			b.VMULPS(sw[p], sx, s)
			if b.acc != nil {
				b.VFMADD231PS(d, s, b.acc[t][p])
			} else {
				b.VFMADD213PS(b.spill(t, p), d, s)
				b.VMOVUPS(s, b.spill(t, p))
			}
		}
	}
}

// act is where token t's activation codes are, disp bytes on.
func (b *quant) act(t, disp int) Mem {
	switch t {
	case 0:
		return at(b.x, disp)
	case 1, 3, 5, 7:
		return idx(b.x, b.strides[t/2], 1, disp)
	case 2, 4:
		return idx(b.x, b.strides[0], uint8(t), disp)
	}
	return idx(b.x, b.strides[1], 2, disp)
}

// step64 multiplies the block of codes at q+disp with the activations at
// x+disp.
func (b *quant) step64(disp, xdisp int) {
	if !b.wide && b.per == 4 {
		b.stepW8(disp, xdisp)
		return
	}
	raw := b.vecs(b.parts)
	for p := range raw {
		if b.wide {
			b.VMOVDQU64(b.part(b.q, p, disp, 0), raw[p])
		} else {
			b.VMOVDQU(b.part(b.q, p, disp, 32), raw[p])
		}
	}
	for i := range b.per / 4 {
		v := make([]Vec, b.parts)
		for p := range v {
			v[p] = b.codes(i, raw[p])
		}
		for t, d := range b.dots {
			if b.parts == 1 {
				b.VPDPBUSD_BCST(b.act(t, xdisp+4*i), v[0], d[0])
				continue
			}
			x := b.vec()
			b.VPBROADCASTD(b.act(t, xdisp+4*i), x)
			for p := range d {
				if b.wide {
					b.VPDPBUSD(x, v[p], d[p])
					continue
				}
				y := b.vec()
				b.VPMADDUBSW(x, v[p], y)
				b.VPADDW(y, d[p], d[p])
			}
		}
	}
}

// codes returns step i's codes of a block.
func (b *quant) codes(i int, raw Vec) Vec {
	if b.per == 4 {
		return raw
	}
	v := b.vec()
	if b.matrices != nil {
		b.VGF2P8AFFINEQB(operand.U8(0), b.matrices[i], raw, v)
		return v
	}
	switch shift := b.shift(i); {
	case shift < 0:
		b.VPSLLW(operand.U8(-shift), raw, v)
		raw = v
	case shift > 0:
		b.VPSRLW(operand.U8(shift), raw, v)
		raw = v
	}
	if b.wide {
		b.VPANDD(b.mask, raw, v)
	} else {
		b.VPAND(b.gen.bits(codeMask(b.layout)), raw, v)
	}
	return v
}

// shift is how far right step i's codes move: to the low bits of their byte,
// one higher for W2.
func (b *quant) shift(i int) int {
	if b.bits2() {
		return 2*i - 1
	}
	return b.layout.bits * i
}

// bitMatrix returns the matrix that takes step i's codes out of each byte to
// where shift and codeMask would leave them: byte 7-d is the input bit of output
// bit d.
func (g *gen) bitMatrix(l layout, i int) Mem {
	m := uint64(0)
	for bit := range l.bits {
		to := bit
		if l.bits == 2 {
			to++
		}
		m |= 1 << (l.bits*i + bit) << (8 * (7 - to))
	}
	name := fmt.Sprintf("matrix%sx%d", l.name, i)
	if at, ok := g.matrices[name]; ok {
		return at
	}
	at := g.StaticGlobal(name)
	g.DataAttributes(roData)
	g.AppendDatum(operand.U64(m))
	g.matrices[name] = at
	return at
}

// stepW8 is AVX2's step of four 8-bit codes: |level| times the activation
// under the level's sign.
func (b *quant) stepW8(disp, xdisp int) {
	level, abs := b.vecs(2), b.vecs(2)
	for h := range level {
		b.VMOVDQU(at(b.q, disp+32*h), level[h])
		b.xorC(0x80808080, level[h], level[h])
		b.VPABSB(level[h], abs[h])
	}
	for t, d := range b.dots {
		x := b.vec()
		b.VPBROADCASTD(b.act(t, xdisp), x)
		for h := range d {
			p := b.vec()
			b.VPSIGNB(level[h], x, p)
			b.VPMADDUBSW(p, abs[h], p)
			b.VPMADDWD(b.gen.bits(0x00010001), p, p)
			b.VPADDD(p, d[h], d[h])
		}
	}
}
