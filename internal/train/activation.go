package train

import "slmc/internal/kernel"

// siluSlopes writes the derivative of y = x*s, s = 1/(1+exp(-x)), for each x:
// s + y*(1-s). The sigmoid comes from y/x, so no exponential is computed again.
func siluSlopes(dst, x, y []float32) {
	const small = 1e-6 // below it y/x has no digits left, and s is 1/2
	for i, v := range x {
		s := float32(0.5)
		if v > small || v < -small {
			s = y[i] / v
		}
		dst[i] = s + float32(y[i]*float32(1-s))
	}
}

// Constants of the tanh form of GELU (arXiv 1606.08415, section 2).
const (
	geluA = 0.79788456080286536 // sqrt(2/pi)
	geluB = 0.044715
)

// geluSlopes writes the derivative of x/2*(1+tanh(u)), u = geluA*(x +
// geluB*x^3), for each x.
func geluSlopes(dst, x, _ []float32) {
	for i, v := range x {
		x2 := float32(v * v)
		th := kernel.Tanh(float32(geluA * float32(v*float32(1+float32(geluB*x2)))))
		du := float32(geluA * float32(1+float32(3*geluB*x2)))
		dst[i] = float32(0.5*float32(1+th)) + float32(float32(0.5*v)*float32(float32(1-float32(th*th))*du))
	}
}
