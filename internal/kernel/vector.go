package kernel

import "math"

// rmsNorm writes dst = x/sqrt(mean(x^2)+eps)*w, elementwise over len(x) (Zhang
// and Sennrich, arXiv 1910.07467). The sum of squares runs in 16 lanes.
func rmsNorm(dst, x, w []float32, eps float32) {
	var l [16]float32
	for i, v := range x {
		l[i%16] = FMA32(v, v, l[i%16])
	}
	mean := tree16(&l) / float32(len(x))
	inv := 1 / sqrt(float32(mean+eps))
	for i, v := range x {
		dst[i] = float32(v*inv) * w[i]
	}
}

// softmax replaces x by exp(x-max x) and returns the sum. The element x[i] is
// that of absolute position t0+i, whose remainder by 16 chooses its lane: a
// window that starts later gives the same bits as one whose first scores are
// -Inf. x must not be empty; division is left to the caller.
func softmax(x []float32, t0 int) float32 {
	m := x[0]
	for _, v := range x[1:] {
		m = max(m, v)
	}
	var l [16]float32
	for i, v := range x {
		e := Exp(v - m)
		x[i] = e
		l[(t0+i)%16] += e
	}
	return tree16(&l)
}

// siluMul writes dst = gate/(1+exp(-gate))*up (SwiGLU, arXiv 2002.05202).
func siluMul(dst, gate, up []float32) {
	for i, g := range gate {
		dst[i] = float32(g/float32(1+Exp(-g))) * up[i]
	}
}

// Constants of the tanh form of GELU (arXiv 1606.08415, section 2).
const (
	geluA = 0.79788456080286536 // sqrt(2/pi)
	geluB = 0.044715
)

// geluMul writes dst = gelu(gate)*up in the tanh approximation.
func geluMul(dst, gate, up []float32) {
	for i, g := range gate {
		inner := float32(geluA * float32(g*FMA32(float32(geluB*g), g, 1)))
		dst[i] = float32(float32(0.5*g)*float32(1+Tanh(inner))) * up[i]
	}
}

// softCap replaces x by limit*tanh(x/limit) (Gemma 2, arXiv 2408.00118).
func softCap(x []float32, limit float32) {
	for i, v := range x {
		x[i] = limit * Tanh(v/limit)
	}
}

// rope rotates one head of E values by the position's table of E/2 cosines and
// sines, in the half-split order of the Hugging Face checkpoints: element i is
// paired with i+E/2 (arXiv 2104.09864).
func rope(x, cos, sin []float32) {
	h := len(x) / 2
	for i := range h {
		a, b := x[i], x[i+h]
		x[i] = FMA32(a, cos[i], -float32(b*sin[i]))
		x[i+h] = FMA32(b, cos[i], float32(a*sin[i]))
	}
}

// add adds x to dst, elementwise over len(x).
func add(dst, x []float32) {
	for i, v := range x {
		dst[i] += v
	}
}

// ArgMax returns the index of the largest element, the first of equals; a NaN
// never wins. x must not be empty.
func ArgMax(x []float32) int {
	first := 0
	for first < len(x)-1 && x[first] != x[first] {
		first++
	}
	best, most := first, x[first]
	for i, v := range x[first:] {
		if v > most {
			best, most = first+i, v
		}
	}
	return best
}

// LogSumExp returns log(sum(exp(x))) in float32, with softmax's lanes.
// scratch has len(x) elements and is overwritten.
func (f *Funcs) LogSumExp(x, scratch []float32) float32 {
	m := x[ArgMax(x)]
	copy(scratch, x)
	return float32(m + Log(f.Softmax(scratch[:len(x)], 0)))
}

// Finite reports whether every element of x is finite.
func Finite(x []float32) bool {
	for _, v := range x {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return false
		}
	}
	return true
}
