//go:build !purego

package kernel

import "math"

// The drivers of the matrix kernels: they check, prepare what the assembly
// wants beside its activations, and call it for whole ranges of panels. The
// calls are direct, because pointers that pass through a function value would
// put the buffers here on the heap.

// isa is an instruction set with assembly of its own.
type isa int

const (
	gfni isa = iota // AVX-512 with GFNI, which W4 and W2 gain from
	avx512
	avx2
)

func (i isa) wide() bool { return i != avx2 }

// slots is the number of tokens in a block of the quantized kernels.
func (i isa) slots() int {
	if i.wide() {
		return 8
	}
	return 4
}

// panelArgs are the arguments of the panelW8, panelW4 and panelW2 routines.
// Strides and steps are in bytes, ld in bytes too.
//
// meta holds, for each block of slots tokens and each sub-group, the slots'
// int32 -zero*sum and then the slots' float32 scales. A group is subs
// sub-groups of 32 in codeBytes bytes and 32 bytes of scales; the short last
// one is tailSubs sub-groups and tailBlocks blocks of 64 bytes in tailCode
// bytes, which is 0 if there is none.
type panelArgs struct {
	dst        *float32
	ld         int
	w          *byte
	size       int // of a panel
	codes      *int8
	stride     int // of codes, from token to token
	metaStep   int // from block to block
	T, panels  int
	full       int // whole groups
	subs       int
	codeBytes  int
	tailSubs   int
	tailBlocks int
	tailCode   int
}

// matQ is MatQ on an instruction set; f is the scalar definition's format.
func (i isa) matQ(name string, f *format, dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	checkQ(name, dst, ld, w, x, group, p0, p1, f.per)
	if p0 == p1 || x.T == 0 {
		return
	}
	if x.K == 0 {
		f.matQ(dst, ld, w, x, group, p0, p1)
		return
	}
	n, slots := (x.K+Sub-1)/Sub, i.slots()
	check(len(x.Meta) >= (x.T+slots-1)/slots*n*2*slots, name)
	size := PanelBytes(x.K, group, f.per)
	rest := x.K % group
	a := panelArgs{
		dst: &dst[p0*Rows], ld: ld * 4, w: &w[p0*size], size: size, codes: &x.Codes[0], stride: x.Stride, metaStep: n * slots * 8,
		T: x.T, panels: p1 - p0,
		full: x.K / group, subs: group / Sub, codeBytes: group / f.per * 64,
		tailSubs: rest / Sub, tailBlocks: (rest%Sub + f.per - 1) / f.per, tailCode: (rest + f.per - 1) / f.per * 64,
	}
	if i.wide() && a.T >= slots && a.panels >= 2 {
		a.callPairs(i, f.bits, dst, w, x, p0, p1)
	} else {
		a.call(i, f.bits, &x.Meta[0])
	}
}

// callPairs takes whole blocks of tokens two panels at a time. The tokens that
// are left follow while the two panels are in the cache.
func (a panelArgs) callPairs(i isa, bits uint, dst []float32, w []byte, x *Acts, p0, p1 int) {
	T, slots := x.T, i.slots()
	whole := T / slots * slots
	for p := p0; p < p1; p += 2 {
		a.panels = min(2, p1-p)
		a.w, a.dst, a.codes, a.T = &w[p*a.size], &dst[p*Rows], &x.Codes[0], whole
		if a.panels == 1 {
			a.T = T
			a.call(i, bits, &x.Meta[0])
			return
		}
		a.callPair(i, bits, &x.Meta[0])
		if whole < T {
			a.T, a.dst, a.codes = T-whole, &dst[whole*a.ld/4+p*Rows], &x.Codes[whole*a.stride]
			a.call(i, bits, &x.Meta[whole*a.metaStep/(4*slots)])
		}
	}
}

func (a *panelArgs) callPair(i isa, bits uint, meta *uint32) {
	switch {
	case bits == 8:
		pairW8AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == gfni && bits == 4:
		pairW4GFNIAVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == gfni:
		pairW2GFNIAVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case bits == 4:
		pairW4AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	default:
		pairW2AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	}
}

func (a *panelArgs) call(i isa, bits uint, meta *uint32) {
	switch {
	case i.wide() && bits == 8:
		panelW8AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == gfni && bits == 4:
		panelW4GFNIAVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == gfni:
		panelW2GFNIAVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == avx512 && bits == 4:
		panelW4AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case i == avx512:
		panelW2AVX512(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case bits == 8:
		panelW8AVX2(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	case bits == 4:
		panelW4AVX2(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	default:
		panelW2AVX2(a.dst, a.ld, a.w, a.size, a.codes, a.stride, meta, a.metaStep, a.T, a.panels, a.full, a.subs, a.codeBytes, a.tailSubs, a.tailBlocks, a.tailCode)
	}
}

// prepare is Prepare on an instruction set.
func (i isa) prepare(x *Acts, t0, t1, s0, s1 int) {
	n, slots := (x.K+Sub-1)/Sub, i.slots()
	check(0 <= t0 && t0 <= t1 && t1 <= x.T && 0 <= s0 && s0 <= s1 && s1 <= n &&
		len(x.Meta) >= (x.T+slots-1)/slots*n*2*slots, "Prepare")
	for t := t0; t < t1; t++ {
		at := (t/slots*n+s0)*2*slots + t%slots
		row := t * (x.Stride / Sub)
		sums, scales := x.Sums[row+s0:row+s1], x.Scales[row+s0:row+s1]
		for s, sum := range sums {
			x.Meta[at] = uint32(-int32(x.Zero) * sum)
			x.Meta[at+slots] = math.Float32bits(scales[s])
			at += 2 * slots
		}
	}
}

// matF is MatF on an instruction set; size is that of an element.
func (i isa) matF(name string, kind elementKind, dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
	checkF(name, dst, ld, w, x, ldx, T, K, p0, p1, kind.size())
	if T == 0 || p0 == p1 {
		return
	}
	if K == 0 {
		for t := range T {
			clear(dst[t*ld+p0*Rows : t*ld+p1*Rows])
		}
		return
	}
	size := K * Rows * kind.size()
	d, b, n := &dst[p0*Rows], &w[p0*size], p1-p0
	switch {
	case i.wide() && kind == f32:
		panelF32AVX512(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	case i.wide() && kind == f16:
		panelF16AVX512(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	case i.wide():
		panelBF16AVX512(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	case kind == f32:
		panelF32AVX2(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	case kind == f16:
		panelF16AVX2(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	default:
		panelBF16AVX2(d, ld*4, b, size, &x[0], ldx*4, T, K, n)
	}
}

// elementKind is the element type of a float panel.
type elementKind int

const (
	f32 elementKind = iota
	f16
	bf16
)

func (k elementKind) size() int {
	if k == f32 {
		return 4
	}
	return 2
}
