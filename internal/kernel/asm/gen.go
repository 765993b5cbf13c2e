package main

import (
	"fmt"
	"math"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/gotypes"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

// Vec is a vector register of the instruction set's width, GP a 64-bit one.
type (
	Vec = reg.VecVirtual
	GP  = reg.GPVirtual
	Mem = operand.Mem
)

// gen emits one file of one instruction set.
type gen struct {
	*build.Context
	wide   bool // AVX-512, else AVX2
	consts map[uint32]Mem
	// matrices are panelGFNI's constants.
	matrices map[string]Mem
	first    Mem // see firsts
	table    Mem // see maskTable
	labels   int
}

const roData = attr.RODATA | attr.NOPTR

func newGen(wide bool) *gen {
	g := &gen{Context: build.NewContext(), wide: wide, consts: map[uint32]Mem{}, matrices: map[string]Mem{}}
	g.ConstraintExpr("!purego")
	return g
}

// lanes is the number of float32 in a register, regs how many hold 16.
func (g *gen) lanes() int {
	if g.wide {
		return 16
	}
	return 8
}
func (g *gen) regs() int { return 16 / g.lanes() }

func (g *gen) vec() Vec {
	if g.wide {
		return g.ZMM()
	}
	return g.YMM()
}

// vecs returns n registers.
func (g *gen) vecs(n int) []Vec {
	v := make([]Vec, n)
	for i := range v {
		v[i] = g.vec()
	}
	return v
}

// fn starts a function that the scalar function of doc defines.
func (g *gen) fn(name, signature, doc string) {
	if g.wide {
		name += "AVX512"
	} else {
		name += "AVX2"
	}
	g.Function(name)
	g.Attributes(attr.NOSPLIT)
	g.SignatureExpr(signature)
	g.Pragma("noescape")
	g.Doc(name + " " + doc)
	g.labels = 0
}

func (g *gen) ret() {
	g.VZEROUPPER()
	g.RET()
}

// label returns a name that is new in the function.
func (g *gen) label(name string) string {
	g.labels++
	return fmt.Sprintf("%s%d", name, g.labels)
}

// arg loads an integer or pointer parameter; slice parameters give base or len.
func (g *gen) arg(name string) GP  { return g.Load(g.Param(name), g.GP64()).(GP) }
func (g *gen) base(name string) GP { return g.Load(g.Param(name).Base(), g.GP64()).(GP) }
func (g *gen) len(name string) GP  { return g.Load(g.Param(name).Len(), g.GP64()).(GP) }

// argMem is the place of a parameter on the stack, which belongs to the callee:
// loop counters live there when registers are short.
func (g *gen) argMem(name string) Mem { return g.place(g.Param(name)) }

func (g *gen) place(c gotypes.Component) Mem {
	b, err := c.Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

// copyOf returns a new register with the value of r.
func (g *gen) copyOf(r operand.Op) GP {
	c := g.GP64()
	g.MOVQ(r, c)
	return c
}

// zero clears registers.
func (g *gen) zero(vs ...Vec) {
	for _, v := range vs {
		if !g.wide {
			g.VPXOR(v, v, v)
			continue
		}
		i, err := x86.VPXORD(v, v, v)
		if err != nil {
			panic(err)
		}
		i.CancellingInputs = true // avo's table lacks this for the EVEX form
		g.Instruction(i)
	}
}

func imm(i int) operand.Constant { return operand.I32(i) }

// at is base+disp.
func at(base reg.Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// idx is base+index*scale+disp.
func idx(base, index reg.Register, scale uint8, disp int) Mem {
	return Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}

// bits returns a constant in memory: one element for AVX-512, whose
// instructions broadcast it, a whole register for AVX2.
func (g *gen) bits(b uint32) Mem {
	if m, ok := g.consts[b]; ok {
		return m
	}
	m := g.StaticGlobal(fmt.Sprintf("c%08x", b))
	g.DataAttributes(roData)
	g.AppendDatum(operand.U32(b))
	if !g.wide {
		for range g.lanes() - 1 {
			g.AppendDatum(operand.U32(b))
		}
	}
	g.consts[b] = m
	return m
}

func (g *gen) f32(f float64) Mem { return g.bits(math.Float32bits(float32(f))) }

// broadcast fills v with a constant.
func (g *gen) broadcast(b uint32, v Vec) Vec {
	if g.wide {
		g.VBROADCASTSS(g.bits(b), v)
	} else {
		g.VMOVUPS(g.bits(b), v)
	}
	return v
}

// constant returns a register full of f.
func (g *gen) constant(f float64) Vec {
	return g.broadcast(math.Float32bits(float32(f)), g.vec())
}

// The operations with a constant c: d = a+c, a-c, a*c, and d = d*a+c.

func (g *gen) addC(c Mem, a, d Vec) {
	if g.wide {
		g.VADDPS_BCST(c, a, d)
	} else {
		g.VADDPS(c, a, d)
	}
}

func (g *gen) subC(c Mem, a, d Vec) {
	if g.wide {
		g.VSUBPS_BCST(c, a, d)
	} else {
		g.VSUBPS(c, a, d)
	}
}

func (g *gen) mulC(c Mem, a, d Vec) {
	if g.wide {
		g.VMULPS_BCST(c, a, d)
	} else {
		g.VMULPS(c, a, d)
	}
}

func (g *gen) fmaC(c Mem, a, d Vec) {
	if g.wide {
		g.VFMADD213PS_BCST(c, a, d)
	} else {
		g.VFMADD213PS(c, a, d)
	}
}

// fmaMulC is d = a*c+d.
func (g *gen) fmaMulC(c Mem, a, d Vec) {
	if g.wide {
		g.VFMADD231PS_BCST(c, a, d)
	} else {
		g.VFMADD231PS(c, a, d)
	}
}

func (g *gen) andC(b uint32, a, d Vec) {
	if g.wide {
		g.VPANDD_BCST(g.bits(b), a, d)
	} else {
		g.VPAND(g.bits(b), a, d)
	}
}

func (g *gen) xorC(b uint32, a, d Vec) {
	if g.wide {
		g.VPXORD_BCST(g.bits(b), a, d)
	} else {
		g.VPXOR(g.bits(b), a, d)
	}
}

// tree joins 16 lane accumulators as tree16 does; the sum is element 0 of the
// returned 128-bit register. It overwrites lanes.
func (g *gen) tree(lanes []Vec) reg.Register {
	y, x := lanes[0].AsY(), lanes[0].AsX()
	if g.wide {
		t := g.YMM()
		g.VEXTRACTF64X4(operand.U8(1), lanes[0], t)
		g.VADDPS(t, y, y)
	} else {
		g.VADDPS(lanes[1], y, y)
	}
	t := g.XMM()
	g.VEXTRACTF128(operand.U8(1), y, t)
	g.VADDPS(t, x, x)
	g.VPERMILPS(operand.U8(0x4e), x, t)
	g.VADDPS(t, x, x)
	g.VPERMILPS(operand.U8(0xb1), x, t)
	g.VADDPS(t, x, x)
	return x
}
