package exec

import (
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// Joined loops: where Block asks for several operations in a row, Plain runs
// one loop over the panels of quantized matrices. A decode step is full of
// handoffs to the threads, of which these save three in eight; in a prompt, the FFN's
// three activations of T*F floats never leave the caches. The bits are those of
// the operations one by one, which other Ops and other formats get: Block asks
// for Plain itself, since what wraps it wants to see each operation.

// product is a matrix of a loop and where its product goes.
type product struct {
	y *tensor.Mat
	w Matrix
}

// join reports whether one loop can multiply by all the linears: they read the
// activations in the same form, and nothing is added.
func join(formats func(w int) quant.Format, ls ...model.Linear) bool {
	first := formats(ls[0].W)
	for _, l := range ls {
		f := formats(l.W)
		if f.Group() == 0 || zero(f) != zero(first) || l.B != model.None {
			return false
		}
	}
	return true
}

// joinsFFN reports whether gated joins its loops.
func joinsFFN(formats func(w int) quant.Format, b *model.Block) bool {
	return join(formats, b.Gate, b.Up) && formats(b.Down.W).Group() != 0
}

// normFor returns Norm of x, rounded to the codes that l reads in the same loop.
func (o *Plain) normFor(x *tensor.Mat, w int, l model.Linear) *tensor.Mat {
	f := o.p.Format(l.W)
	if f.Group() == 0 {
		return o.Norm(x, w, o.g.Hidden)
	}
	y := o.mat(x.R, x.C)
	o.shape(o.acts, y, zero(f))
	o.actsOf = y
	o.op = operands{x: x, y: y, vec: o.p.Vecs[w]}
	o.pool.Run(x.R, grain(x.C), o.loops.normFor)
	if o.bad.Swap(false) {
		o.fail("input of a matrix")
	}
	return y
}

func (o *Plain) normForRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		y := o.op.y.Row(r)
		o.f.RMSNorm(y, o.op.x.Row(r), o.op.vec, o.g.NormEps)
		o.quantizeRow(r, y)
	}
	o.prepareRows(lo, hi)
}

// project returns Linear of h with Q, K and V.
func (o *Plain) project(h *tensor.Mat, b *model.Block) (q, k, v *tensor.Mat) {
	if !join(o.p.Format, b.Q, b.K, b.V) {
		return o.Linear(h, b.Q), o.Linear(h, b.K), o.Linear(h, b.V)
	}
	o.quantize(h, zero(o.p.Format(b.Q.W)))
	var all [3]product
	panels := 0
	for i, l := range [3]model.Linear{b.Q, b.K, b.V} {
		w := o.p.Mats[l.W]
		all[i] = product{o.mat(h.R, w.Rows), w}
		panels += quant.Panels(w.Rows)
	}
	o.op = operands{x: h, all: all}
	o.pool.Run(panels, panelGrain(h), o.loops.project)
	return all[0].y, all[1].y, all[2].y
}

func (o *Plain) projectPanels(lo, hi int) {
	for i := range o.op.all {
		part := &o.op.all[i]
		n := quant.Panels(part.w.Rows)
		if from, to := max(lo, 0), min(hi, n); from < to {
			o.multiply(part.y, o.op.x, part.w, from, to)
		}
		lo, hi = lo-n, hi-n
	}
}

// gated returns Gate(Linear(h, Gate), Linear(h, Up)), for Linear with Down only:
// it may have no elements but the codes that that reads.
func (o *Plain) gated(h *tensor.Mat, b *model.Block) *tensor.Mat {
	if !joinsFFN(o.p.Format, b) {
		return o.Gate(b.Act, o.Linear(h, b.Gate), o.Linear(h, b.Up))
	}
	o.quantize(h, zero(o.p.Format(b.Gate.W)))
	// What Down reads goes from the chunks straight into codes: y has no floats.
	y := o.header(h.R, b.FFN)
	o.shape(o.nextActs, y, zero(o.p.Format(b.Down.W)))
	o.op = operands{x: h, mul: o.f.SiluMul, all: [3]product{{nil, o.p.Mats[b.Gate.W]}, {nil, o.p.Mats[b.Up.W]}}}
	if b.Act == model.GELUTanh {
		o.op.mul = o.f.GeluMul
	}
	o.pool.Run(quant.Panels(b.FFN), panelGrain(h), o.loops.gated)
	if o.bad.Swap(false) {
		o.fail("input of a matrix")
	}
	o.acts, o.nextActs, o.actsOf = o.nextActs, o.acts, y
	return y
}

// gatedPanels computes the gated product of whole sub-groups, panels in pairs:
// lo is even.
func (o *Plain) gatedPanels(lo, hi int) {
	slot := o.scratch.take()
	defer o.scratch.give(slot)
	a, T := o.nextActs, o.op.x.R
	step := chunkPanels(T)
	gate := o.chunks[slot*chunkRoom(T):]
	up := gate[chunkFloats(T):]
	for p := lo; p < hi; p += step {
		n := min(step, hi-p)
		o.chunk(gate, o.op.all[0].w, p, n)
		o.chunk(up, o.op.all[1].w, p, n)
		first, width := p*kernel.Rows, min(n*kernel.Rows, a.K-p*kernel.Rows)
		s, subs := first/kernel.Sub, pad32(width)/kernel.Sub
		for t := range T {
			y, z := gate[t*n*kernel.Rows:][:width], up[t*n*kernel.Rows:][:width]
			o.op.mul(y, y, z)
			at := t*(a.Stride/kernel.Sub) + s
			if !o.f.QuantizeA8(a.Codes[t*a.Stride+first:][:subs*kernel.Sub], a.Scales[at:][:subs], a.Sums[at:][:subs], y) {
				o.bad.Store(true)
			}
		}
		o.f.Prepare(a, 0, T, s, s+subs)
	}
}

// linearAdd returns Add(x, Linear(h, l)).
func (o *Plain) linearAdd(x, h *tensor.Mat, l model.Linear) *tensor.Mat {
	if !join(o.p.Format, l) {
		return o.Add(x, o.Linear(h, l))
	}
	w := o.p.Mats[l.W]
	o.quantize(h, zero(w.Format))
	o.op = operands{x: h, y: x, w: w}
	o.pool.Run(quant.Panels(w.Rows), panelGrain(h), o.loops.addTo)
	return x
}

// addPanels adds products to the residual stream.
func (o *Plain) addPanels(lo, hi int) {
	slot := o.scratch.take()
	defer o.scratch.give(slot)
	x, T := o.op.y, o.op.y.R
	step, buf := chunkPanels(T), o.chunks[slot*chunkRoom(T):]
	for p := lo; p < hi; p += step {
		n := min(step, hi-p)
		o.chunk(buf, o.op.w, p, n)
		first, width := p*kernel.Rows, min(n*kernel.Rows, x.C-p*kernel.Rows)
		for t := range T {
			o.f.Add(x.Row(t)[first:first+width], buf[t*n*kernel.Rows:][:width])
		}
	}
}

// chunk multiplies by n panels from p on, into rows of n panels.
func (o *Plain) chunk(dst []float32, w Matrix, p, n int) {
	w.Panels = w.Panels[p*w.Format.PanelBytes(w.Cols):]
	o.multiply(&tensor.Mat{R: o.op.x.R, Stride: n * kernel.Rows, X: dst}, o.op.x, w, 0, n)
}

// A chunk is as many pairs of panels as give 2^15 products, one pair at least:
// 128 KiB, of which two and the weights stay in a second-level cache.

func chunkPanels(T int) int { return max(2, 1<<15/kernel.Rows/T&^1) }
func chunkFloats(T int) int { return chunkPanels(T) * kernel.Rows * T }

// chunkRoom is what a thread has for two chunks or, in a prompt, to attend a
// block of 96 queries over some 800 positions.
func chunkRoom(T int) int {
	if T == 1 {
		return 2 * chunkFloats(T)
	}
	return max(2*chunkFloats(T), 96<<10)
}

// panelGrain is the number of panels below which a thread is not worth waking
// for the rows of x, an even one: the kernels take two panels at a time.
func panelGrain(x *tensor.Mat) int {
	const least = 1 << 15 // multiply-adds
	return 2 + least/(kernel.Rows*x.C*x.R+1)&^1
}
