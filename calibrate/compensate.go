package calibrate

import (
	"slmc/internal/kernel"
	"slmc/tensor"
)

// Compensation: a matrix of a quantized model does not see the inputs x that the
// float model gives it, f, nor does what it adds to the residual stream meet the
// float model's. So the weights that its codes approximate should not be W but
// those that do best with x what W does with f,
//
//	min_V sum |W f + (p - r) - V x|^2 + d |V - W|^2
//	V = W + (W (F - H) + L) (H + d I)^-1,  F = sum f x^T, L = sum (p - r) x^T
//
// where p - r is by how much the residual stream lags behind the float model's,
// for the matrices whose output is added to it, and 0 for the others. Q is then
// found for V on H, by any algorithm. The first term is that of GPTAQ (arXiv
// 2504.02692, section 3), which folds it into GPTQ's recursion; solved beforehand
// it serves all algorithms. The lag is ours: without it what a block failed to
// add is lost for good.

// compensationDamp is d over the mean of diag H: more than GPTQ's, since few
// tokens let V fit their noise. docs/experiments.md ("Answering for the matrices
// before") has the choice.
const compensationDamp = 0.1

// beside sums products of the float model's rows with the accumulator's.
type beside struct {
	C       int
	minus   bool // take the accumulator's own row off
	queue   []float32
	at      int       // row of the queue that comes next
	rows    []float32 // [chunk C]
	cols    []float32 // [C n]
	part    []float32 // [C P*16]
	product []float64 // [C K]
}

func newBeside(C, K int, minus bool) *beside {
	return &beside{C: C, minus: minus, rows: make([]float32, chunk*C), cols: make([]float32, C*chunk),
		part: make([]float32, C*panels(K)*kernel.Rows), product: make([]float64, C*K)}
}

// compare makes a compare its input with the float model's and, where lag is
// not 0, the residual stream of that many columns.
func (a *accumulator) compare(lag int) {
	a.beside[0] = newBeside(a.in.K, a.in.K, false)
	a.in.Float = a.beside[0].product
	if lag > 0 {
		a.beside[1] = newBeside(lag, a.in.K, true)
		a.in.Lag = a.beside[1].product
	}
}

// expect takes what the float model has for the rows that add gets next.
func (a *accumulator) expect(x, residual *tensor.Mat) {
	for i, m := range []*tensor.Mat{x, residual} {
		if b := a.beside[i]; b != nil {
			for r := range m.R {
				b.queue = append(b.queue, m.Row(r)...)
			}
		}
	}
}

// next takes the next row off the queue, as row n of the chunk.
func (b *beside) next(n int, own []float32) {
	row := b.rows[n*b.C : (n+1)*b.C]
	copy(row, b.queue[b.at*b.C:])
	if b.minus {
		for i, x := range own {
			row[i] -= x
		}
	}
	if b.at++; b.at*b.C == len(b.queue) {
		b.queue, b.at = b.queue[:0], 0
	}
}

// lay transposes the n rows of the chunk.
func (b *beside) lay(n int) {
	for t := range n {
		for c, x := range b.rows[t*b.C : (t+1)*b.C] {
			b.cols[c*n+t] = x
		}
	}
}

// multiply adds panel p's columns.
func (b *beside) multiply(a *accumulator, p int) {
	K, n, c0 := a.in.K, a.n, p*kernel.Rows
	ld := panels(K) * kernel.Rows
	a.env.Kernel.MatF32(b.part, ld, a.panels[:4*ld*n], b.cols, n, b.C, n, p, p+1)
	for i := range b.C {
		sum := b.product[i*K+c0:]
		for j, x := range b.part[i*ld+c0:][:min(kernel.Rows, K-c0)] {
			sum[j] += float64(x)
		}
	}
}

// compensated returns V for the rows of m from r0 on; lag says that what they
// give is added to the residual stream. u is inverseFactor's for H, columns in
// their own order.
func compensated(env Env, m Matrix, r0 int, lag bool, u []float32) []float32 {
	K, in := m.K, m.Input
	d := make([]float32, K*K)
	for i := range d {
		d[i] = float32(in.Float[i] - in.H[i])
	}
	g := env.product(m.W, m.Rows, K, d)
	if lag && in.Lag != nil {
		for i := range g {
			g[i] += float32(in.Lag[r0*K+i])
		}
	}
	// (H + d I)^-1 = U^T U.
	for i := range K {
		for j := range K {
			d[i*K+j] = u[j*K+i]
		}
	}
	v := env.product(env.product(g, m.Rows, K, d), m.Rows, K, u)
	for i, w := range m.W {
		v[i] += w
	}
	return v
}

// product returns x b, for x [R K] and b [K K], both row-major.
func (e Env) product(x []float32, R, K int, b []float32) []float32 {
	P := panels(K)
	ld := P * kernel.Rows
	w, padded := make([]byte, 4*ld*K), make([]float32, R*ld)
	e.Pool.Run(P, 1, func(lo, hi int) {
		for p := lo; p < hi; p++ {
			c0 := p * kernel.Rows
			for k := range K {
				putFloats(w[4*(c0*K+k*kernel.Rows):], b[k*K+c0:][:min(kernel.Rows, K-c0)])
			}
		}
		e.Kernel.MatF32(padded, ld, w, x, K, R, K, lo, hi)
	})
	out := make([]float32, R*K)
	for r := range R {
		copy(out[r*K:(r+1)*K], padded[r*ld:])
	}
	return out
}

// identity is the order of columns as they are.
func identity(K int) []int {
	out := make([]int, K)
	for i := range out {
		out[i] = i
	}
	return out
}
