package exec

import (
	"errors"
	"fmt"

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
	g     *model.Graph
	p     *Params
	f     *kernel.Funcs
	pool  *Pool
	cache *Cache

	pos, rows int // of the running batch
	block     int
	err       error

	// buf is handed out from the front; what lies before keep lives on.
	buf        []float32
	used, keep int

	acts    kernel.Acts // x quantized, for the matrices that read it
	actsOf  *tensor.Mat
	row     []byte    // one embedding row
	scratch []float32 // scores, Capacity for each thread
}

// NewPlain returns the operations for g with parameters p and an own cache.
func NewPlain(g *model.Graph, p *Params, f *kernel.Funcs, pool *Pool, cache *Cache) *Plain {
	p.check(g)
	return &Plain{g: g, p: p, f: f, pool: pool, cache: cache, scratch: make([]float32, pool.Threads()*cache.Capacity)}
}

// WorkBytes bounds the memory that a Plain allocates for batches of up to T
// tokens with logits for rows of them, beside parameters and cache.
func WorkBytes(g *model.Graph, T, rows, capacity, threads int) int {
	widest := 0
	for _, b := range g.Blocks {
		qkv := pad(b.Heads*b.HeadDim) + 2*pad(b.KVHeads*b.HeadDim)
		ffn := 3 * pad(b.FFN)
		widest = max(widest, 3*qkv+ffn+8*pad(g.Hidden))
	}
	K := g.Hidden
	for _, b := range g.Blocks {
		K = max(K, b.FFN, b.Heads*b.HeadDim)
	}
	floats := T*(widest+2*pad(g.Hidden)) + rows*2*pad(g.Vocab)
	return 4*floats + T*(pad32(K)+8*pad32(K)/kernel.Sub) + 4*threads*capacity + 4*pad(g.Hidden)
}

func pad(n int) int   { return (n + kernel.Rows - 1) / kernel.Rows * kernel.Rows }
func pad32(n int) int { return (n + kernel.Sub - 1) / kernel.Sub * kernel.Sub }

// mat hands out an [R C] matrix with rows padded to whole panels.
func (o *Plain) mat(R, C int) *tensor.Mat {
	m := &tensor.Mat{R: R, C: C, Stride: pad(C)}
	n := R * m.Stride
	if o.used+n > len(o.buf) {
		// What was handed out stays valid in the old array.
		o.buf = make([]float32, max(2*len(o.buf), o.used+n))
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
		o.used, o.keep, o.err = 0, 0, nil
	}
	o.used = o.keep
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
	x := o.mat(len(ids), o.g.Hidden)
	o.keep = o.used
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

// Norm implements Ops.
func (o *Plain) Norm(x *tensor.Mat, w, width int) *tensor.Mat {
	y := o.mat(x.R, x.C)
	o.pool.Run(x.R, 1+4096/x.C, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for c := 0; c < x.C; c += width {
				o.f.RMSNorm(y.Row(r)[c:c+width], x.Row(r)[c:c+width], o.p.Vecs[w], o.g.NormEps)
			}
		}
	})
	return y
}

// Linear implements Ops.
func (o *Plain) Linear(x *tensor.Mat, l model.Linear) *tensor.Mat {
	w := o.p.Mats[l.W]
	y := o.mat(x.R, w.Rows)
	work := func(p0, p1 int) { o.multiply(y, x, w, p0, p1) }
	if w.Format.Group() != 0 {
		o.quantize(x)
	}
	const grain = 1 << 16 // multiply-adds below which a thread is not worth waking
	o.pool.Run(quant.Panels(w.Rows), 1+grain/(kernel.Rows*x.C*x.R+1), work)
	if l.B != model.None {
		for r := range y.R {
			o.f.Add(y.Row(r), o.p.Vecs[l.B])
		}
	}
	return y
}

func (o *Plain) multiply(y, x *tensor.Mat, w Matrix, p0, p1 int) {
	switch f := w.Format.(type) {
	case quant.W8:
		o.f.MatW8(y.X, y.Stride, w.Panels, &o.acts, f.GroupSize, p0, p1)
	case quant.W4:
		o.f.MatW4(y.X, y.Stride, w.Panels, &o.acts, f.GroupSize, p0, p1)
	case quant.W2:
		o.f.MatW2(y.X, y.Stride, w.Panels, &o.acts, f.GroupSize, p0, p1)
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

// quantize rounds x to 8 bits, once for all the matrices that read it.
func (o *Plain) quantize(x *tensor.Mat) {
	if o.actsOf == x {
		return
	}
	o.actsOf = x
	a := &o.acts
	stride := pad32(x.C)
	a.T, a.K, a.Stride = x.R, x.C, stride
	if n := x.R * stride; n > cap(a.Codes) {
		a.Codes = make([]int8, n)
		a.Scales = make([]float32, n/kernel.Sub)
		a.Sums = make([]int32, n/kernel.Sub)
	}
	n := x.R * stride
	a.Codes, a.Scales, a.Sums = a.Codes[:n], a.Scales[:n/kernel.Sub], a.Sums[:n/kernel.Sub]
	for r := range x.R {
		s := stride / kernel.Sub
		if !o.f.QuantizeA8(a.Codes[r*stride:(r+1)*stride], a.Scales[r*s:(r+1)*s], a.Sums[r*s:(r+1)*s], x.Row(r)) {
			o.fail("input of a matrix")
		}
	}
}

// Rope implements Ops, in place.
func (o *Plain) Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat {
	half := headDim / 2
	first := o.pos + o.rows - x.R
	for r := range x.R {
		row := x.Row(r)
		at := (first + r) * half
		cos, sin := o.p.Cos[rope][at:at+half], o.p.Sin[rope][at:at+half]
		for c := 0; c < x.C; c += headDim {
			o.f.Rope(row[c:c+headDim], cos, sin)
		}
	}
	return x
}

// Attend implements Ops.
func (o *Plain) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	b := &o.g.Blocks[block]
	if k != nil {
		s := &o.cache.slots[block]
		for r := range k.R {
			for h := range b.KVHeads {
				at := h*o.cache.Capacity + o.pos + r
				kv := h * b.HeadDim
				if !s.k.put(o.f, at, k.Row(r)[kv:kv+b.HeadDim]) || !s.v.put(o.f, at, v.Row(r)[kv:kv+b.HeadDim]) {
					o.fail("cached key or value")
				}
			}
		}
	}
	y := o.mat(q.R, q.C)
	first := o.pos + o.rows - q.R
	n := o.pool.Threads()
	heads := q.R * b.Heads
	// Part i of n takes every n-th head of every n-th row, so that the long
	// rows at the end are shared evenly; scratch is its own.
	o.pool.Run(n, n*1024/(1+heads*(o.pos+o.rows)*b.HeadDim/64), func(lo, hi int) {
		scratch := o.scratch[lo*o.cache.Capacity:][:o.cache.Capacity]
		for part := lo; part < hi; part++ {
			for j := part; j < heads; j += n {
				r, h := j/b.Heads, j%b.Heads
				e := h * b.HeadDim
				o.cache.attend(o.f, b, y.Row(r)[e:e+b.HeadDim], q.Row(r)[e:e+b.HeadDim], h, first+r, scratch)
			}
		}
	})
	return y
}

// Gate implements Ops.
func (o *Plain) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	y := o.mat(gate.R, gate.C)
	mul := o.f.SiluMul
	if act == model.GELUTanh {
		mul = o.f.GeluMul
	}
	o.pool.Run(y.R, 1+4096/y.C, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			mul(y.Row(r), gate.Row(r), up.Row(r))
		}
	})
	return y
}

// Add implements Ops, in place.
func (o *Plain) Add(x, y *tensor.Mat) *tensor.Mat {
	for r := range x.R {
		o.f.Add(x.Row(r), y.Row(r))
	}
	return x
}

// SoftCap implements Ops, in place.
func (o *Plain) SoftCap(x *tensor.Mat, limit float32) *tensor.Mat {
	for r := range x.R {
		o.f.SoftCap(x.Row(r), limit)
	}
	return x
}

// Rows implements Ops.
func (o *Plain) Rows(x *tensor.Mat, r int) *tensor.Mat { return x.From(r) }
