package train

import "math"

// AdamW is the optimizer of Loshchilov and Hutter (arXiv 1711.05101, algorithm
// 2), with bias correction and decoupled weight decay.
type AdamW struct {
	Beta1, Beta2, Eps, Decay float32
	steps                    int
	m, v                     [][]float32
}

// NewAdamW returns an optimizer for parameters of these lengths.
func NewAdamW(lengths []int) *AdamW {
	a := &AdamW{Beta1: 0.9, Beta2: 0.95, Eps: 1e-8}
	for _, n := range lengths {
		a.m, a.v = append(a.m, make([]float32, n)), append(a.v, make([]float32, n))
	}
	return a
}

// Step begins an update: Update is then called once for each parameter.
func (a *AdamW) Step() { a.steps++ }

// Update moves parameter i by its gradient at the learning rate lr.
func (a *AdamW) Update(i int, w, grad []float32, lr float32, split Split) {
	c1 := 1 - float32(power(float64(a.Beta1), a.steps))
	c2 := 1 - float32(power(float64(a.Beta2), a.steps))
	m, v := a.m[i], a.v[i]
	split(len(w), 1<<14, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			g := grad[k]
			m[k] = float32(a.Beta1*m[k]) + float32(float32(1-a.Beta1)*g)
			v[k] = float32(a.Beta2*v[k]) + float32(float32(1-a.Beta2)*float32(g*g))
			d := float32(m[k]/c1) / (float32(math.Sqrt(float64(v[k]/c2))) + a.Eps)
			w[k] -= float32(lr * float32(d+float32(a.Decay*w[k])))
		}
	})
}

// State is the optimizer's memory, to be stored in a checkpoint of a training
// run and given back with Restore.
func (a *AdamW) State() (steps int, m, v [][]float32) { return a.steps, a.m, a.v }

// Restore continues from a State of the same lengths.
func (a *AdamW) Restore(steps int, m, v [][]float32) {
	a.steps = steps
	for i := range m {
		copy(a.m[i], m[i])
		copy(a.v[i], v[i])
	}
}

// ClipNorm scales the gradients so that their joint norm is at most limit, and
// returns the norm before.
func ClipNorm(grads [][]float32, limit float64) float64 {
	sum := 0.0
	for _, g := range grads {
		for _, x := range g {
			sum += float64(x) * float64(x)
		}
	}
	norm := math.Sqrt(sum)
	if norm > limit {
		s := float32(limit / norm)
		for _, g := range grads {
			scale(g, s)
		}
	}
	return norm
}

// Cosine is the learning rate of a step: a linear rise over warm steps, then a
// half cosine from peak to last*peak at the final step.
func Cosine(step, warm, total int, peak, last float64) float64 {
	if step < warm {
		return peak * float64(step+1) / float64(warm)
	}
	x := float64(step-warm) / float64(max(1, total-warm))
	return peak * (last + float64((1-last)*halfCosine(min(1, x))))
}

// halfCosine is (1+cos(pi*x))/2 for x in [0, 1], as the square of cos(pi*x/2)'s
// series: package math may round otherwise on another CPU, and a rate decides
// every bit of a training run.
func halfCosine(x float64) float64 {
	z := float64(x * (math.Pi / 2))
	z = -float64(z * z)
	sum, term := 1.0, 1.0
	for n := 1; n <= 12; n++ {
		term = float64(term*z) / float64((2*n-1)*2*n)
		sum += term
	}
	return float64(sum * sum)
}

// power is b^n by squaring, for the reason that halfCosine has.
func power(b float64, n int) float64 {
	out := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			out *= b
		}
		b *= b
	}
	return out
}

// Average moves the moving average a of x on by one step: a = decay*a +
// (1-decay)*x.
func Average(a, x []float32, decay float32, split Split) {
	split(len(x), 1<<14, func(lo, hi int) {
		for i, v := range x[lo:hi] {
			a[lo+i] += float32((1 - decay) * (v - a[lo+i]))
		}
	})
}
