package train

import "slmc/internal/kernel"

// siluSlope returns x*sigmoid(x) and its derivative, sigmoid(x)*(1 +
// x*(1-sigmoid(x))).
func siluSlope(x float32) (y, dy float32) {
	s := 1 / float32(1+kernel.Exp(-x))
	return float32(x * s), float32(s * float32(1+float32(x*float32(1-s))))
}

// Constants of the tanh form of GELU (arXiv 1606.08415, section 2).
const (
	geluA = 0.79788456080286536 // sqrt(2/pi)
	geluB = 0.044715
)

// geluSlope returns x/2*(1+tanh(u)), u = geluA*(x + geluB*x^3), and its
// derivative.
func geluSlope(x float32) (y, dy float32) {
	x2 := float32(x * x)
	u := float32(geluA * float32(x*float32(1+float32(geluB*x2))))
	th := kernel.Tanh(u)
	du := float32(geluA * float32(1+float32(3*geluB*x2)))
	half := float32(0.5 * float32(1+th))
	return float32(x * half), half + float32(float32(0.5*x)*float32(float32(1-float32(th*th))*du))
}
