package train

import "slmc/internal/kernel"

// siluBack writes the gradient dg of gate in y = a*up, a = silu(gate). With
// s = 1/(1+exp(-gate)) the derivative of a is s + a*(1-s). The sigmoid comes
// from a/gate, so no exponential is computed again.
func siluBack(dg, dy, gate, up, a []float32) {
	const small = 1e-6 // below it a/gate has no digits left, and s is 1/2
	n := len(dy)
	dg, gate, up, a = dg[:n], gate[:n], up[:n], a[:n]
	for i, d := range dy {
		x, y, s := gate[i], a[i], float32(0.5)
		if x > small || x < -small {
			s = y / x
		}
		dg[i] = float32(float32(d*up[i]) * float32(s+float32(y*float32(1-s))))
	}
}

// Constants of the tanh form of GELU (arXiv 1606.08415, section 2).
const (
	geluA = 0.79788456080286536 // sqrt(2/pi)
	geluB = 0.044715
)

// geluBack is siluBack for a = gate/2*(1+tanh(u)), u = geluA*(gate +
// geluB*gate^3).
func geluBack(dg, dy, gate, up, _ []float32) {
	n := len(dy)
	dg, gate, up = dg[:n], gate[:n], up[:n]
	for i, d := range dy {
		v := gate[i]
		v2 := float32(v * v)
		th := kernel.Tanh(float32(geluA * float32(v*float32(1+float32(geluB*v2)))))
		inner := float32(geluA * float32(1+float32(3*geluB*v2)))
		slope := float32(0.5*float32(1+th)) + float32(float32(0.5*v)*float32(float32(1-float32(th*th))*inner))
		dg[i] = float32(float32(d*up[i]) * slope)
	}
}
