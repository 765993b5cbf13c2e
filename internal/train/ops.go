package train

import (
	"math"

	"slmc/model"
	"slmc/tensor"
)

// Begin implements exec.Ops: a tape keeps everything until Start.
func (t *Tape) Begin(_ int, x *tensor.Mat) *tensor.Mat { return x }

// Err implements exec.Ops: not finite values show in the loss, which the
// trainer watches.
func (t *Tape) Err() error { return nil }

// Embed implements exec.Ops; pos must be 0, each sequence starts anew.
func (t *Tape) Embed(ids []int32, pos int) *tensor.Mat {
	if pos != 0 {
		panic("train.Embed: a tape's sequences start at position 0")
	}
	g, D := t.g, t.g.Hidden
	t.ids = ids
	w := t.w.Value(g.Embed)
	y := t.mat(len(ids), D)
	for r, id := range ids {
		copy(y.Row(r), w[int(id)*D:][:D])
		scale(y.Row(r), g.EmbedScale)
	}
	t.then(func() {
		dw := t.w.Grad(g.Embed)
		if dw == nil {
			return
		}
		dy := t.grad(y)
		for r, id := range ids {
			axpy(dw[int(id)*D:][:D], g.EmbedScale, dy.Row(r))
		}
	})
	return y
}

// Norm implements exec.Ops. With n = width and s = 1/sqrt(mean(x^2)+eps):
// dx = s*(dy*w) - x * s^3/n * sum(dy*w*x), dw = sum over rows of dy*x*s.
func (t *Tape) Norm(x *tensor.Mat, w, width int) *tensor.Mat {
	weight := t.w.Value(w)
	y := t.mat(x.R, x.C)
	t.split(x.R, 8, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for c := 0; c < x.C; c += width {
				t.f.RMSNorm(y.Row(r)[c:c+width], x.Row(r)[c:c+width], weight, t.g.NormEps)
			}
		}
	})
	t.then(func() {
		dx, dy := t.grad(x), t.grad(y)
		inv := t.pool.take(x.R * x.C / width)
		t.split(x.R, 8, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				for c := 0; c < x.C; c += width {
					inv[(r*x.C+c)/width] = normBack(dx.Row(r)[c:c+width], dy.Row(r)[c:c+width], x.Row(r)[c:c+width], weight, t.g.NormEps)
				}
			}
		})
		dw := t.w.Grad(w)
		if dw == nil {
			return
		}
		for r := range x.R {
			for c := 0; c < x.C; c += width {
				s := inv[(r*x.C+c)/width]
				dr, xr := dy.Row(r)[c:c+width], x.Row(r)[c:c+width]
				for i := range dw {
					dw[i] += float32(float32(dr[i]*xr[i]) * s)
				}
			}
		}
	})
	return y
}

// normBack adds the gradient of one normed vector to dx and returns s.
func normBack(dx, dy, x, w []float32, eps float32) float32 {
	var sum, dot float64
	for i, v := range x {
		sum += float64(v) * float64(v)
		dot += float64(dy[i]) * float64(w[i]) * float64(v)
	}
	n := float64(len(x))
	s := 1 / math.Sqrt(sum/n+float64(eps))
	back := float32(s * s * s / n * dot)
	s32 := float32(s)
	for i, v := range x {
		dx[i] += float32(s32*float32(dy[i]*w[i])) - float32(v*back)
	}
	return s32
}

// Linear implements exec.Ops: y = x W^T + b, dx = dy W, dW = dy^T x, db = the
// sum of dy's rows. x is rounded first, as the runtime would round it.
func (t *Tape) Linear(x *tensor.Mat, l model.Linear) *tensor.Mat {
	w := t.w.Value(l.W)
	in, out := x.C, t.g.Weights[l.W].Shape[0]
	xq := x
	if t.round.Input != nil {
		xq = t.mat(x.R, in)
		t.split(x.R, 8, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				copy(xq.Row(r), x.Row(r))
				t.round.Input(l.W, xq.Row(r))
			}
		})
	}
	y := t.mat(x.R, out)
	t.product.mul(y.X, xq.X, w, x.R, out, in, false, true, false)
	if l.B != model.None {
		b := t.w.Value(l.B)
		for r := range y.R {
			t.f.Add(y.Row(r), b)
		}
	}
	t.then(func() {
		dy := t.grad(y)
		t.product.mul(t.grad(x).X, dy.X, w, x.R, in, out, false, false, true)
		if dw := t.w.Grad(l.W); dw != nil {
			t.product.mul(dw, dy.X, xq.X, out, in, x.R, true, false, true)
		}
		if l.B == model.None {
			return
		}
		if db := t.w.Grad(l.B); db != nil {
			for r := range y.R {
				t.f.Add(db, dy.Row(r))
			}
		}
	})
	return y
}

// Rope implements exec.Ops: a rotation, undone on the way back.
func (t *Tape) Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat {
	y := t.mat(x.R, x.C)
	copy(y.X, x.X)
	t.rotate(y, rope, headDim, false)
	t.then(func() {
		dy := t.grad(y)
		t.rotate(dy, rope, headDim, true)
		t.f.Add(t.grad(x).X, dy.X)
	})
	return y
}

func (t *Tape) rotate(x *tensor.Mat, rope, headDim int, back bool) {
	half := headDim / 2
	minus := make([]float32, half)
	r := 0
	for _, n := range t.seqs {
		for pos := range n {
			cos, sin := t.cos[rope][pos*half:][:half], t.sin[rope][pos*half:][:half]
			if back {
				for i, s := range sin {
					minus[i] = -s
				}
				sin = minus
			}
			for c := 0; c < x.C; c += headDim {
				t.f.Rope(x.Row(r)[c:c+headDim], cos, sin)
			}
			r++
		}
	}
}

// Gate implements exec.Ops.
func (t *Tape) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	y := t.mat(gate.R, gate.C)
	mul, slopes := t.f.SiluMul, siluSlopes
	if act == model.GELUTanh {
		mul, slopes = t.f.GeluMul, geluSlopes
	}
	ones := t.pool.take(gate.C)
	for i := range ones {
		ones[i] = 1
	}
	a := t.mat(gate.R, gate.C) // act(gate)
	t.split(y.R, 4, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			mul(a.Row(r), gate.Row(r), ones)
			for i, u := range up.Row(r) {
				y.Row(r)[i] = a.Row(r)[i] * u
			}
		}
	})
	t.then(func() {
		dy, dg, du := t.grad(y), t.grad(gate), t.grad(up)
		t.split(y.R, 4, func(lo, hi int) {
			slope := make([]float32, gate.C)
			for r := lo; r < hi; r++ {
				slopes(slope, gate.Row(r), a.Row(r))
				d, u, f, to, tu := dy.Row(r), up.Row(r), a.Row(r), dg.Row(r), du.Row(r)
				for i, v := range d {
					to[i] += float32(float32(v*u[i]) * slope[i])
					tu[i] += float32(v * f[i])
				}
			}
		})
	})
	return y
}

// Add implements exec.Ops.
func (t *Tape) Add(x, y *tensor.Mat) *tensor.Mat {
	z := t.mat(x.R, x.C)
	copy(z.X, x.X)
	t.f.Add(z.X, y.X)
	t.then(func() {
		dz := t.grad(z)
		t.f.Add(t.grad(x).X, dz.X)
		t.f.Add(t.grad(y).X, dz.X)
	})
	return z
}

// SoftCap implements exec.Ops: d/dx of c*tanh(x/c) is 1 - (y/c)^2.
func (t *Tape) SoftCap(x *tensor.Mat, limit float32) *tensor.Mat {
	y := t.mat(x.R, x.C)
	copy(y.X, x.X)
	t.f.SoftCap(y.X, limit)
	t.then(func() {
		dx, dy := t.grad(x), t.grad(y)
		for i, v := range y.X {
			q := v / limit
			dx.X[i] += float32(dy.X[i] * float32(1-float32(q*q)))
		}
	})
	return y
}

// Rows implements exec.Ops.
func (t *Tape) Rows(x *tensor.Mat, r int) *tensor.Mat {
	y := x.From(r)
	t.then(func() {
		dx, dy := t.grad(x), t.grad(y)
		for i := range y.R {
			t.f.Add(dx.Row(r+i), dy.Row(i))
		}
	})
	return y
}

// scale multiplies x by s.
func scale(x []float32, s float32) {
	if s == 1 {
		return
	}
	for i := range x {
		x[i] *= s
	}
}

// axpy adds a*x to dst.
func axpy(dst []float32, a float32, x []float32) {
	for i, v := range x {
		dst[i] += float32(a * v)
	}
}
