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
	w := t.w.Value(g.Embed)
	y := t.mat(len(ids), D)
	for r, id := range ids {
		copy(y.Row(r), w[int(id)*D:][:D])
		scale(y.Row(r), g.EmbedScale)
	}
	t.then(func() { t.EmbedBack(ids, t.Grad(y)) })
	return y
}

// EmbedBack adds the gradient dy [T D] of the embeddings of ids to the weight's
// gradient.
func (t *Tape) EmbedBack(ids []int32, dy *tensor.Mat) {
	D := t.g.Hidden
	dw := t.w.Grad(t.g.Embed)
	if dw == nil {
		return
	}
	for r, id := range ids {
		axpy(dw[int(id)*D:][:D], t.g.EmbedScale, dy.Row(r))
	}
}

// Norm implements exec.Ops. With n = width and s = 1/sqrt(mean(x^2)+eps):
// dx = s*(dy*w) - x * s^3/n * sum(dy*w*x), dw = sum over rows of dy*x*s.
func (t *Tape) Norm(x *tensor.Mat, w, width int) *tensor.Mat {
	weight := t.w.Value(w)
	y := t.mat(x.R, x.C)
	t.rows(x.R, x.C, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for c := 0; c < x.C; c += width {
				t.f.RMSNorm(y.Row(r)[c:c+width], x.Row(r)[c:c+width], weight, t.g.NormEps)
			}
		}
	})
	t.then(func() {
		dy := t.Grad(y)
		dx, fresh := t.into(x)
		inv := t.pool.take(x.R * x.C / width)
		t.rows(x.R, x.C, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				for c := 0; c < x.C; c += width {
					to := dx.Row(r)[c : c+width]
					if fresh {
						clear(to)
					}
					inv[(r*x.C+c)/width] = normBack(to, dy.Row(r)[c:c+width], x.Row(r)[c:c+width], weight, t.g.NormEps)
				}
			}
		})
		if dw := t.w.Grad(w); dw != nil {
			t.normWeight(dw, dy, x, inv)
		}
	})
	return y
}

// normWeight adds the gradient of a norm's weight, split by its elements.
func (t *Tape) normWeight(dw []float32, dy, x *tensor.Mat, inv []float32) {
	width := len(dw)
	t.split(width, 1+(1<<13)/(x.R*x.C/width+1), func(lo, hi int) {
		to := dw[lo:hi]
		for i, s := range inv {
			d, v := dy.X[i*width+lo:][:len(to)], x.X[i*width+lo:][:len(to)]
			for k := range to {
				to[k] += float32(float32(d[k]*v[k]) * s)
			}
		}
	})
}

// normBack adds the gradient of one normed vector to dx and returns s.
func normBack(dx, dy, x, w []float32, eps float32) float32 {
	dx, dy, w = dx[:len(x)], dy[:len(x)], w[:len(x)]
	var sum, dot float64
	for i, v := range x {
		sum += float64(v) * float64(v)
		dot += float64(float32(dy[i]*w[i])) * float64(v)
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
	in, out := x.C, t.g.Weights[l.W].Shape[0]
	xq := t.input(x, l.W)
	y := t.mat(x.R, out)
	w := &t.panels[l.W]
	if !w.forward.fresh {
		t.product.pack(&w.forward, t.w.Value(l.W), out, in, true)
	}
	t.product.mul(y.X, xq.X, &w.forward, x.R, out, in, false)
	if l.B != model.None {
		b := t.w.Value(l.B)
		t.rows(y.R, out, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				t.f.Add(y.Row(r), b)
			}
		})
	}
	t.then(func() {
		dy := t.Grad(y)
		dx, fresh := t.into(x)
		if !w.back.fresh {
			t.product.pack(&w.back, t.w.Value(l.W), in, out, false)
		}
		t.product.mul(dx.X, dy.X, &w.back, x.R, in, out, !fresh)
		if dw := t.w.Grad(l.W); dw != nil {
			t.product.outer(dw, dy.X, xq.X, out, in, x.R)
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

// input returns x as matrix w reads it, rounded once for all matrices that do.
func (t *Tape) input(x *tensor.Mat, w int) *tensor.Mat {
	if t.round.Rounds == nil || !t.round.Rounds(w) {
		return x
	}
	if y := t.rounded[x]; y != nil {
		return y
	}
	y := t.mat(x.R, x.C)
	t.rows(x.R, x.C, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			t.round.Input(y.Row(r), x.Row(r))
		}
	})
	t.rounded[x] = y
	return y
}

// Rope implements exec.Ops: a rotation in place, undone on the way back. What
// made x does not need its values for its own gradient.
func (t *Tape) Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat {
	t.rotate(x, rope, headDim, false)
	t.then(func() { t.rotate(t.Grad(x), rope, headDim, true) })
	return x
}

func (t *Tape) rotate(x *tensor.Mat, rope, headDim int, back bool) {
	half := headDim / 2
	pos := make([]int32, 0, x.R)
	for _, n := range t.seqs {
		for p := range n {
			pos = append(pos, int32(p))
		}
	}
	t.rows(x.R, x.C, func(lo, hi int) {
		minus := make([]float32, half)
		for r := lo; r < hi; r++ {
			at := int(pos[r]) * half
			cos, sin := t.cos[rope][at:at+half], t.sin[rope][at:at+half]
			if back {
				for i, s := range sin {
					minus[i] = -s
				}
				sin = minus
			}
			for c := 0; c < x.C; c += headDim {
				t.f.Rope(x.Row(r)[c:c+headDim], cos, sin)
			}
		}
	})
}

// Gate implements exec.Ops. act(gate) is computed again on the way back, which
// costs less than to keep it.
func (t *Tape) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	y := t.mat(gate.R, gate.C)
	mul, back := t.f.SiluMul, siluBack
	if act == model.GELUTanh {
		mul, back = t.f.GeluMul, geluBack
	}
	t.rows(y.R, y.C, func(lo, hi int) { mul(y.X[lo*y.C:hi*y.C], gate.X[lo*y.C:hi*y.C], up.X[lo*y.C:hi*y.C]) })
	t.then(func() {
		dy := t.Grad(y)
		dg, _ := t.into(gate) // nobody else reads gate and up
		du, _ := t.into(up)
		t.rows(y.R, y.C, func(lo, hi int) {
			ones, a := make([]float32, y.C), make([]float32, y.C)
			for i := range ones {
				ones[i] = 1
			}
			for r := lo; r < hi; r++ {
				mul(du.Row(r), gate.Row(r), dy.Row(r))
				mul(a, gate.Row(r), ones)
				back(dg.Row(r), dy.Row(r), gate.Row(r), up.Row(r), a)
			}
		})
	})
	return y
}

// Add implements exec.Ops, in y's place: what made y does not need its values.
func (t *Tape) Add(x, y *tensor.Mat) *tensor.Mat {
	t.add(y, x)
	t.then(func() { t.pass(x, t.Grad(y)) })
	return y
}

// SoftCap implements exec.Ops: d/dx of c*tanh(x/c) is 1 - (y/c)^2.
func (t *Tape) SoftCap(x *tensor.Mat, limit float32) *tensor.Mat {
	y := t.mat(x.R, x.C)
	copy(y.X, x.X)
	t.rows(y.R, y.C, func(lo, hi int) { t.f.SoftCap(y.X[lo*y.C:hi*y.C], limit) })
	t.then(func() {
		dx, dy := t.Grad(x), t.Grad(y)
		t.rows(y.R, y.C, func(lo, hi int) {
			d, from := dx.X[lo*y.C:hi*y.C], dy.X[lo*y.C:hi*y.C]
			for i, v := range y.X[lo*y.C : hi*y.C] {
				q := v / limit
				d[i] += float32(from[i] * float32(1-float32(q*q)))
			}
		})
	})
	return y
}

// Rows implements exec.Ops.
func (t *Tape) Rows(x *tensor.Mat, r int) *tensor.Mat {
	y := x.From(r)
	t.then(func() {
		dx, dy := t.Grad(x), t.Grad(y)
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
	dst = dst[:len(x)]
	for i, v := range x {
		dst[i] += float32(a * v)
	}
}
