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

// subMeta is the words of one sub-group of one block in meta; AVX2 uses half.
const subMeta = 16

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
	n := (x.K + Sub - 1) / Sub
	blocks := (x.T + i.slots() - 1) / i.slots()
	// Two sizes, because the buffer is cleared on each call and a decode step
	// of a small matrix takes less time than clearing the large one.
	// What does not fit takes several passes over the panels, in the cache.
	switch {
	case n*blocks <= 64:
		var meta [64 * subMeta]uint32
		i.panels(f, meta[:], dst, ld, w, x, group, p0, p1)
	case n <= 512:
		var meta [512 * subMeta]uint32
		i.panels(f, meta[:], dst, ld, w, x, group, p0, p1)
	default:
		i.panels(f, make([]uint32, n*subMeta), dst, ld, w, x, group, p0, p1)
	}
}

// panels runs the kernel over as many tokens at a time as meta has room for.
func (i isa) panels(f *format, meta []uint32, dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	n, slots := (x.K+Sub-1)/Sub, i.slots()
	size := PanelBytes(x.K, group, f.per)
	rest := x.K % group
	a := panelArgs{
		ld: ld * 4, w: &w[p0*size], size: size, stride: x.Stride, metaStep: n * slots * 8, panels: p1 - p0,
		full: x.K / group, subs: group / Sub, codeBytes: group / f.per * 64,
		tailSubs: rest / Sub, tailBlocks: (rest%Sub + f.per - 1) / f.per, tailCode: (rest + f.per - 1) / f.per * 64,
	}
	step := len(meta) / (n * subMeta) * slots
	for t := 0; t < x.T; t += step {
		a.T = min(step, x.T-t)
		fillMeta(meta, slots, n, f.zero, x, t, a.T)
		a.dst, a.codes = &dst[t*ld+p0*Rows], &x.Codes[t*x.Stride]
		if i.wide() && a.T >= slots && a.panels >= 2 {
			a.callPairs(i, f.bits, dst[t*ld:], w, x.Codes[t*x.Stride:], meta, p0, p1)
		} else {
			a.call(i, f.bits, &meta[0])
		}
	}
}

// callPairs takes whole blocks of tokens two panels at a time. The tokens that
// are left follow while the two panels are in the cache.
func (a panelArgs) callPairs(i isa, bits uint, dst []float32, w []byte, codes []int8, meta []uint32, p0, p1 int) {
	T, slots := a.T, i.slots()
	whole := T / slots * slots
	for p := p0; p < p1; p += 2 {
		a.panels = min(2, p1-p)
		a.w, a.dst, a.codes, a.T = &w[p*a.size], &dst[p*Rows], &codes[0], whole
		if a.panels == 1 {
			a.T = T
			a.call(i, bits, &meta[0])
			return
		}
		a.callPair(i, bits, &meta[0])
		if whole < T {
			a.T, a.dst, a.codes = T-whole, &dst[whole*a.ld/4+p*Rows], &codes[whole*a.stride]
			a.call(i, bits, &meta[whole*a.metaStep/(4*slots)])
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

// fillMeta writes meta for the tokens t0 <= t < t0+T, n sub-groups each.
func fillMeta(meta []uint32, slots, n int, zero int32, x *Acts, t0, T int) {
	for t := range T {
		at := t/slots*n*2*slots + t%slots
		row := (t0 + t) * (x.Stride / Sub)
		sums, scales := x.Sums[row:][:n], x.Scales[row:][:n]
		for s, sum := range sums {
			meta[at] = uint32(-zero * sum)
			meta[at+slots] = math.Float32bits(scales[s])
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
