package exec

import (
	"errors"
	"fmt"
	"sync/atomic"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// ErrNotFinite is returned when an activation is NaN or Inf: the model, or
// what was done to it, is broken.
var ErrNotFinite = errors.New("activation is not finite")

// Plain runs the operations on the kernels: float or packed weights, a cache,
// no gradients. It is not safe for concurrent use.
type Plain struct {
	// See, if not nil, looks at the residual stream [R D] that enters each block,
	// and the head as block L; it must not change or keep it.
	See func(block int, x *tensor.Mat)

	g     *model.Graph
	p     *Params
	f     *kernel.Funcs
	pool  *Pool
	cache *Cache

	pos, rows int // of the running batch
	block     int
	err       error

	// buf and mats are handed out from the front; what lies before keep lives
	// on.
	buf                []float32
	used, keep         int
	mats               []*tensor.Mat
	matsUsed, matsKeep int

	acts     *kernel.Acts // x quantized, for the matrices that read it
	actsOf   *tensor.Mat
	nextActs *kernel.Acts // of a loop that reads acts
	row      []byte       // one embedding row
	scratch  scratch
	chunks   []float32 // chunkRoom for each slot of scratch

	op    operands // of the loop under way
	loops loops
	bad   atomic.Bool // a part of the loop met what is not finite
}

// operands are what the parts of a loop read and write.
type operands struct {
	x, y, z *tensor.Mat
	w       Matrix
	all     [3]product
	vec     []float32
	width   int
	rows    int // of a block of attention
	cos     []float32
	sin     []float32
	block   *model.Block
	mul     func(dst, gate, up []float32)
}

// loops are Plain's methods as values, made once: a function made for each
// loop would be garbage a thousand times a token.
type loops struct {
	norm, linear, quantize, rope, put, attend, gate, add func(lo, hi int)
	attendBlocks, normFor, project, gated, addTo         func(lo, hi int)
}

// NewPlain returns the operations for g with parameters p and an own cache.
func NewPlain(g *model.Graph, p *Params, f *kernel.Funcs, pool *Pool, cache *Cache) *Plain {
	p.check(g)
	o := &Plain{g: g, p: p, f: f, pool: pool, cache: cache, acts: new(kernel.Acts), nextActs: new(kernel.Acts)}
	o.scratch.make(g, pool.Threads(), cache.Capacity)
	o.loops = loops{norm: o.normRows, linear: o.panels, quantize: o.quantizeRows, rope: o.ropeRows,
		put: o.putRows, attend: o.attendHeads, gate: o.gateRows, add: o.addRows,
		attendBlocks: o.attendBlocks, normFor: o.normForRows, project: o.projectPanels, gated: o.gatedPanels, addTo: o.addPanels}
	return o
}

// WorkBytes bounds the memory that a Plain allocates for batches of up to T
// tokens with logits for rows of them, beside parameters and cache. formats
// tells the number format of a weight.
func WorkBytes(g *model.Graph, formats func(w int) quant.Format, T, rows, capacity, threads int) int {
	K := g.Hidden
	for _, b := range g.Blocks {
		K = max(K, b.FFN, b.Heads*b.HeadDim)
	}
	chunks := threads * chunkRoom(T)
	return 4*(workFloats(g, formats, T, rows)+chunks) + 2*actsBytes(T, K) + threads*scratchBytes(g, capacity) + 4*pad(g.Hidden)
}

// actsBytes is the size of T rows of K quantized activations.
func actsBytes(T, K int) int {
	return T*(pad32(K)+8*pad32(K)/kernel.Sub) + 4*kernel.MetaWords(T, K)
}

// workFloats is what Forward has mat hand out for a batch of T tokens with
// logits for rows of them: the residual stream, and the most of a block or the
// head.
func workFloats(g *model.Graph, formats func(w int) quant.Format, T, rows int) int {
	D, widest := pad(g.Hidden), 0
	sum := func(l model.Linear, post int) int { // of addLinear
		switch {
		case post != model.None:
			return 2 * D
		case join(formats, l):
			return 0
		}
		return D
	}
	for i := range g.Blocks {
		b := &g.Blocks[i]
		q, kv := pad(b.Heads*b.HeadDim), pad(b.KVHeads*b.HeadDim)
		n := D + 2*q + sum(b.O, b.PostAttnNorm) + D + sum(b.Down, b.PostFFNNorm)
		if b.QNorm != model.None {
			n += q
		}
		if b.KVFrom == i {
			n += 2 * kv
			if b.KNorm != model.None {
				n += kv
			}
		}
		if !joinsFFN(formats, b) {
			n += 3 * pad(b.FFN)
		}
		widest = max(widest, n)
	}
	return T*D + max(T*widest, rows*(D+pad(g.Vocab)))
}

// reserve makes room for a batch of T tokens at once: a buffer that grew step by
// step would leave its smaller selves behind.
func (o *Plain) reserve(T int) {
	if n := workFloats(o.g, o.p.Format, T, 1); n > len(o.buf) {
		o.buf = make([]float32, n)
	}
	if n := o.pool.Threads() * chunkRoom(T); n > len(o.chunks) {
		o.chunks = make([]float32, n)
	}
}

func pad(n int) int   { return (n + kernel.Rows - 1) / kernel.Rows * kernel.Rows }
func pad32(n int) int { return (n + kernel.Sub - 1) / kernel.Sub * kernel.Sub }

// header hands out an [R C] matrix without elements, of rows padded to whole
// panels.
func (o *Plain) header(R, C int) *tensor.Mat {
	if o.matsUsed == len(o.mats) {
		o.mats = append(o.mats, new(tensor.Mat))
	}
	m := o.mats[o.matsUsed]
	o.matsUsed++
	*m = tensor.Mat{R: R, C: C, Stride: pad(C)}
	return m
}

// mat hands out an [R C] matrix with rows padded to whole panels.
func (o *Plain) mat(R, C int) *tensor.Mat {
	m := o.header(R, C)
	n := R * m.Stride
	if o.used+n > len(o.buf) {
		// What was handed out stays valid in the old array.
		o.buf = make([]float32, max(len(o.buf), n))
		o.used, o.keep = 0, 0
	}
	m.X = o.buf[o.used : o.used+n : o.used+n]
	o.used += n
	return m
}

// Begin implements Ops: everything handed out since the residual stream was
// allocated is free again.
func (o *Plain) Begin(block int, x *tensor.Mat) *tensor.Mat {
	o.block, o.actsOf = block, nil
	if block < 0 {
		o.used, o.keep, o.matsUsed, o.matsKeep, o.err = 0, 0, 0, 0, nil
	}
	o.used, o.matsUsed = o.keep, o.matsKeep
	if x != nil && o.See != nil {
		o.See(block, x)
	}
	return x
}

// Err implements Ops.
func (o *Plain) Err() error { return o.err }

// fail keeps the first error.
func (o *Plain) fail(what string) {
	if o.err == nil {
		o.err = fmt.Errorf("block %d, position %d to %d, %s: %w", o.block, o.pos, o.pos+o.rows-1, what, ErrNotFinite)
	}
}

// Embed implements Ops.
func (o *Plain) Embed(ids []int32, pos int) *tensor.Mat {
	o.pos, o.rows = pos, len(ids)
	o.reserve(len(ids))
	x := o.mat(len(ids), o.g.Hidden)
	o.keep, o.matsKeep = o.used, o.matsUsed
	w := o.p.Mats[o.g.Embed]
	size := w.Format.PanelBytes(w.Cols)
	if n := w.Format.RowBytes(w.Cols); len(o.row) < n {
		o.row = make([]byte, n)
	}
	for t, id := range ids {
		r := int(id)
		row := o.row[:w.Format.RowBytes(w.Cols)]
		w.Format.Unpack(row, w.Panels[r/kernel.Rows*size:][:size], r%kernel.Rows, w.Cols)
		dst := x.Row(t)
		w.Format.Decode(dst, row)
		if s := o.g.EmbedScale; s != 1 {
			for i := range dst {
				dst[i] *= s
			}
		}
	}
	return x
}

// grain is the number of rows of C elements below which a thread is not worth
// waking.
func grain(C int) int { return 1 + 4096/C }

// Norm implements Ops.
func (o *Plain) Norm(x *tensor.Mat, w, width int) *tensor.Mat {
	y := o.mat(x.R, x.C)
	o.op = operands{x: x, y: y, vec: o.p.Vecs[w], width: width}
	o.pool.Run(x.R, grain(x.C), o.loops.norm)
	return y
}

func (o *Plain) normRows(lo, hi int) {
	x, y, width := o.op.x, o.op.y, o.op.width
	for r := lo; r < hi; r++ {
		for c := 0; c < x.C; c += width {
			o.f.RMSNorm(y.Row(r)[c:c+width], x.Row(r)[c:c+width], o.op.vec, o.g.NormEps)
		}
	}
}

// Linear implements Ops.
func (o *Plain) Linear(x *tensor.Mat, l model.Linear) *tensor.Mat {
	w := o.p.Mats[l.W]
	y := o.mat(x.R, w.Rows)
	if w.Format.Group() != 0 {
		o.quantize(x, zero(w.Format))
	}
	o.op = operands{x: x, y: y, w: w}
	o.pool.Run(quant.Panels(w.Rows), panelGrain(x), o.loops.linear)
	if l.B != model.None {
		for r := range y.R {
			o.f.Add(y.Row(r), o.p.Vecs[l.B])
		}
	}
	return y
}

func (o *Plain) panels(lo, hi int) { o.multiply(o.op.y, o.op.x, o.op.w, lo, hi) }

func (o *Plain) multiply(y, x *tensor.Mat, w Matrix, p0, p1 int) {
	switch f := w.Format.(type) {
	case quant.W8:
		o.f.MatW8(y.X, y.Stride, w.Panels, o.acts, f.GroupSize, p0, p1)
	case quant.W4:
		o.f.MatW4(y.X, y.Stride, w.Panels, o.acts, f.GroupSize, p0, p1)
	case quant.W2:
		o.f.MatW2(y.X, y.Stride, w.Panels, o.acts, f.GroupSize, p0, p1)
	default:
		mat := o.f.MatF32
		switch f {
		case quant.F16:
			mat = o.f.MatF16
		case quant.BF16:
			mat = o.f.MatBF16
		}
		mat(y.X, y.Stride, w.Panels, x.X, x.Stride, x.R, x.C, p0, p1)
	}
}

// zero is the zero point of a quantized format's codes.
func zero(f quant.Format) kernel.Zero {
	switch f.(type) {
	case quant.W8:
		return kernel.ZeroW8
	case quant.W4:
		return kernel.ZeroW4
	}
	return kernel.ZeroW2
}

// quantize rounds x to 8 bits, once for all the matrices that read it, and
// prepares it for those of one zero point.
func (o *Plain) quantize(x *tensor.Mat, zero kernel.Zero) {
	switch {
	case o.actsOf != x:
		o.op = operands{x: x}
		o.shape(o.acts, x, zero)
	case o.acts.Zero != zero:
		o.op = operands{} // the codes are there
		o.acts.Zero = zero
	default:
		return
	}
	o.actsOf = x
	o.pool.Run(x.R, grain(x.C), o.loops.quantize)
	if o.bad.Swap(false) {
		o.fail("input of a matrix")
	}
}

// shape makes room in a for x.
func (o *Plain) shape(a *kernel.Acts, x *tensor.Mat, zero kernel.Zero) {
	a.T, a.K, a.Stride, a.Zero = x.R, x.C, pad32(x.C), zero
	n, meta := x.R*a.Stride, kernel.MetaWords(x.R, x.C)
	if n > cap(a.Codes) {
		a.Codes = make([]int8, n)
		a.Scales = make([]float32, n/kernel.Sub)
		a.Sums = make([]int32, n/kernel.Sub)
	}
	if meta > cap(a.Meta) {
		a.Meta = make([]uint32, meta)
	}
	a.Codes, a.Scales, a.Sums, a.Meta = a.Codes[:n], a.Scales[:n/kernel.Sub], a.Sums[:n/kernel.Sub], a.Meta[:meta]
}

func (o *Plain) quantizeRows(lo, hi int) {
	for r := lo; r < hi && o.op.x != nil; r++ {
		o.quantizeRow(r, o.op.x.Row(r))
	}
	o.prepareRows(lo, hi)
}

func (o *Plain) quantizeRow(r int, x []float32) {
	a := o.acts
	n := a.Stride / kernel.Sub
	if !o.f.QuantizeA8(a.Codes[r*a.Stride:(r+1)*a.Stride], a.Scales[r*n:(r+1)*n], a.Sums[r*n:(r+1)*n], x) {
		o.bad.Store(true)
	}
}

func (o *Plain) prepareRows(lo, hi int) {
	o.f.Prepare(o.acts, lo, hi, 0, (o.acts.K+kernel.Sub-1)/kernel.Sub)
}

// Rope implements Ops, in place.
func (o *Plain) Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat {
	o.op = operands{x: x, width: headDim, cos: o.p.Cos[rope], sin: o.p.Sin[rope]}
	o.pool.Run(x.R, grain(x.C), o.loops.rope)
	return x
}

func (o *Plain) ropeRows(lo, hi int) {
	x, width := o.op.x, o.op.width
	half := width / 2
	for r := lo; r < hi; r++ {
		row := x.Row(r)
		at := (o.first(x) + r) * half
		cos, sin := o.op.cos[at:at+half], o.op.sin[at:at+half]
		for c := 0; c < x.C; c += width {
			o.f.Rope(row[c:c+width], cos, sin)
		}
	}
}

// first is the position of x's first row: its last is the batch's last token.
func (o *Plain) first(x *tensor.Mat) int { return o.pos + o.rows - x.R }

// Attend implements Ops.
func (o *Plain) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	b := &o.g.Blocks[block]
	if k != nil {
		o.op = operands{x: k, z: v, block: b}
		o.pool.Run(k.R, grain(k.C), o.loops.put)
		if o.bad.Swap(false) {
			o.fail("cached key or value")
		}
	}
	y := o.mat(q.R, q.C)
	space := o.chunks // idle, as the rest of the buffer is, which may be larger
	if rest := o.buf[o.used:]; len(rest) > len(space) {
		space = rest
	}
	room := len(space) / o.pool.Threads() &^ 15
	o.op = operands{x: q, y: y, block: b, vec: space, width: room}
	if R := blockRows(o.f, b, q.R, o.pos+o.rows, o.pool.Threads(), o.op.vec[:room]); R > 1 {
		o.op.rows = R
		o.pool.Run((q.R+R-1)/R*b.KVHeads, 1, o.loops.attendBlocks)
		return y
	}
	// A thread takes the queries of one KV head and row at least, and enough
	// to be worth waking.
	const least = 1 << 14
	work := b.Heads / b.KVHeads * b.HeadDim * (o.pos + o.rows)
	o.pool.Run(q.R*b.KVHeads, 1+least/(work+1), o.loops.attend)
	return y
}

// putRows caches the keys and values of some rows.
func (o *Plain) putRows(lo, hi int) {
	k, v, b := o.op.x, o.op.z, o.op.block
	s := &o.cache.slots[b.KVFrom]
	for r := lo; r < hi; r++ {
		for h := range b.KVHeads {
			at := h*o.cache.Capacity + o.pos + r
			kv := h * b.HeadDim
			if !s.k.put(o.f, at, k.Row(r)[kv:kv+b.HeadDim]) || !s.v.put(o.f, at, v.Row(r)[kv:kv+b.HeadDim]) {
				o.bad.Store(true)
			}
		}
	}
}

// attendHeads is the attention of items lo to hi: KV head after KV head of the
// last row, then of the row before, so that the largest come first and threads
// end together.
func (o *Plain) attendHeads(lo, hi int) {
	q, y, b := o.op.x, o.op.y, o.op.block
	slot := o.scratch.take()
	defer o.scratch.give(slot)
	n := b.Heads / b.KVHeads * b.HeadDim
	for i := lo; i < hi; i++ {
		r, h := q.R-1-i/b.KVHeads, i%b.KVHeads
		o.cache.attend(o.f, b, y.Row(r)[h*n:][:n], q.Row(r)[h*n:][:n], h, o.first(q)+r, o.scratch.of(slot))
	}
}

// attendBlocks is attendHeads for blocks of rows. Threads have width elements of
// vec each to work in.
func (o *Plain) attendBlocks(lo, hi int) {
	q, b, R := o.op.x, o.op.block, o.op.rows
	slot := o.scratch.take()
	defer o.scratch.give(slot)
	w, _ := cutTiles(b, R, o.pos+o.rows, o.op.vec[slot*o.op.width:][:o.op.width])
	blocks := (q.R + R - 1) / R
	for i := lo; i < hi; i++ {
		r0, kv := (blocks-1-i/b.KVHeads)*R, i%b.KVHeads
		o.cache.attendBlock(o.f, b, o.op.y, q, kv, r0, min(r0+R, q.R), o.first(q)+r0, &w)
	}
}

// Gate implements Ops.
func (o *Plain) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	y := o.mat(gate.R, gate.C)
	o.op = operands{x: gate, y: y, z: up, mul: o.f.SiluMul}
	if act == model.GELUTanh {
		o.op.mul = o.f.GeluMul
	}
	o.pool.Run(y.R, grain(y.C), o.loops.gate)
	return y
}

func (o *Plain) gateRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		o.op.mul(o.op.y.Row(r), o.op.x.Row(r), o.op.z.Row(r))
	}
}

// Add implements Ops, in place.
func (o *Plain) Add(x, y *tensor.Mat) *tensor.Mat {
	o.op = operands{x: x, y: y}
	o.pool.Run(x.R, grain(x.C), o.loops.add)
	return x
}

func (o *Plain) addRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		o.f.Add(o.op.x.Row(r), o.op.y.Row(r))
	}
}

// SoftCap implements Ops, in place.
func (o *Plain) SoftCap(x *tensor.Mat, limit float32) *tensor.Mat {
	for r := range x.R {
		o.f.SoftCap(x.Row(r), limit)
	}
	return x
}

// Rows implements Ops. The view outlives blocks, so it is not one of mats.
func (o *Plain) Rows(x *tensor.Mat, r int) *tensor.Mat { return x.From(r) }
