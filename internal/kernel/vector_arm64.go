//go:build !purego

package kernel

import "math"

// Wrappers of the elementwise loops and reductions. The assembly takes whole
// steps; what is left of a slice runs through a padded copy where exp or tanh
// is involved, and through the scalar function elsewhere.

// step is the number of elements that the assembly takes at once.
const step = 16

// expTable holds the constants of math.go, each four times; vector_arm64.s
// names its rows.
//
//lint:ignore U1000 read by assembly
var expTable = rows(expLog2e, -expLn2Hi, -expLn2Lo, expC0, expC1, expC2, expC3, expC4, expC5,
	1, expMax, expMin, float32(math.Inf(1)),
	tanhSmall, tanhC0, tanhC1, tanhC2, tanhC3, tanhC4, 2, math.Float32frombits(1<<31),
	geluA, geluB, 0.5)

func rows(c ...float32) (t [24][4]float32) {
	for i, v := range c {
		t[i] = [4]float32{v, v, v, v}
	}
	return t
}

func rmsNormArm(dst, x, w []float32, eps float32) {
	var l [16]float32
	n := len(x) &^ (step - 1)
	if n > 0 {
		squares(&x[0], n, &l)
	}
	for i, v := range x[n:] {
		l[i] = FMA32(v, v, l[i])
	}
	mean := tree16(&l) / float32(len(x))
	inv := 1 / sqrt(float32(mean+eps))
	if n > 0 {
		normSteps(&dst[0], &x[0], &w[0], n, inv)
	}
	for i := n; i < len(x); i++ {
		dst[i] = float32(x[i]*inv) * w[i]
	}
}

func softmaxArm(x []float32, t0 int) float32 {
	n := len(x) &^ (step - 1)
	m := x[0]
	if n > 0 {
		m = max(m, maximum(&x[0], n))
	}
	for _, v := range x[n:] {
		m = max(m, v)
	}
	var lanes, l [16]float32
	if n > 0 {
		expSum(&x[0], n, m, &lanes)
	}
	if n < len(x) { // exp(-Inf) = 0 leaves a lane as it is
		var rest [step]float32
		for i := range rest {
			rest[i] = float32(math.Inf(-1))
		}
		copy(rest[:], x[n:])
		expSum(&rest[0], step, m, &lanes)
		copy(x[n:], rest[:])
	}
	for i, v := range lanes {
		l[(t0+i)%16] = v
	}
	return tree16(&l)
}

func siluMulArm(dst, gate, up []float32) {
	n := len(gate) &^ (step - 1)
	if n > 0 {
		siluSteps(&dst[0], &gate[0], &up[0], n)
	}
	if n < len(gate) {
		var g, u [step]float32
		copy(u[:], up[n:])
		copy(g[:], gate[n:])
		siluSteps(&g[0], &g[0], &u[0], step)
		copy(dst[n:len(gate)], g[:])
	}
}

func geluMulArm(dst, gate, up []float32) {
	n := len(gate) &^ (step - 1)
	if n > 0 {
		geluSteps(&dst[0], &gate[0], &up[0], n)
	}
	if n < len(gate) {
		var g, u [step]float32
		copy(u[:], up[n:])
		copy(g[:], gate[n:])
		geluSteps(&g[0], &g[0], &u[0], step)
		copy(dst[n:len(gate)], g[:])
	}
}

func softCapArm(x []float32, limit float32) {
	n := len(x) &^ (step - 1)
	if n > 0 {
		capSteps(&x[0], n, limit)
	}
	if n < len(x) {
		var rest [step]float32
		copy(rest[:], x[n:])
		capSteps(&rest[0], step, limit)
		copy(x[n:], rest[:])
	}
}

func ropeArm(x, cos, sin []float32) {
	h := len(x) / 2
	n := h &^ 3
	if n > 0 {
		ropeSteps(&x[0], &x[h], &cos[0], &sin[0], n)
	}
	for i := n; i < h; i++ {
		a, b := x[i], x[i+h]
		x[i] = FMA32(a, cos[i], -float32(b*sin[i]))
		x[i+h] = FMA32(b, cos[i], float32(a*sin[i]))
	}
}

func addArm(dst, x []float32) {
	n := len(x) &^ (step - 1)
	if n > 0 {
		addSteps(&dst[0], &x[0], n)
	}
	add(dst[n:], x[n:])
}

func quantizeA8Arm(codes []int8, scales []float32, sums []int32, x []float32) bool {
	n := len(x) / Sub
	if n > 0 && !quantizeSubs(&codes[0], &scales[0], &sums[0], &x[0], n) {
		return false
	}
	return quantizeA8(codes[n*Sub:], scales[n:], sums[n:], x[n*Sub:])
}

func quantizeKV8Arm(codes []int8, x []float32, scale float32) {
	n := len(x) &^ (step - 1)
	if n > 0 && scale != 0 {
		roundSteps(&codes[0], &x[0], n, 1/scale)
		codes, x = codes[n:], x[n:]
	}
	quantizeKV8(codes, x, scale)
}

func absMaxArm(x []float32) float32 {
	n := len(x) &^ (step - 1)
	m := math.Float32bits(absMax(x[n:]))
	if n > 0 {
		m = max(m, magnitude(&x[0], n))
	}
	return math.Float32frombits(m)
}

//go:noescape
func squares(x *float32, n int, lanes *[16]float32)

//go:noescape
func normSteps(dst, x, w *float32, n int, inv float32)

//go:noescape
func maximum(x *float32, n int) float32

//go:noescape
func expSum(x *float32, n int, m float32, lanes *[16]float32)

//go:noescape
func siluSteps(dst, gate, up *float32, n int)

//go:noescape
func geluSteps(dst, gate, up *float32, n int)

//go:noescape
func capSteps(x *float32, n int, limit float32)

//go:noescape
func ropeSteps(a, b, cos, sin *float32, n int)

//go:noescape
func addSteps(dst, x *float32, n int)

//go:noescape
func quantizeSubs(codes *int8, scales *float32, sums *int32, x *float32, n int) bool

//go:noescape
func roundSteps(codes *int8, x *float32, n int, inv float32)

//go:noescape
func magnitude(x *float32, n int) uint32
