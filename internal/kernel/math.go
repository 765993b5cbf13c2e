package kernel

import "math"

// FMA32 returns x*y+z rounded once to float32, as the hardware's fused
// multiply-add does. The exact product of two float32 fits a float64; TwoSum
// gives the sum with its error, rounding to odd keeps the error's direction
// through the second rounding (Boldo and Melquiond, "Emulation of FMA and
// correctly rounded sums: proved algorithms using rounding to odd", 2008).
// float32(math.FMA(...)) would round twice.
//
// Only a float64 sum that lies half-way between two float32 can round wrongly:
// rounding is monotone, and the half-way points of normal float32 are the
// float64 whose low 29 bits are 1 and 28 zeros. All others skip the error.
func FMA32(x, y, z float32) float32 {
	p := float64(float64(x) * float64(y))
	s := p + float64(z)
	if roundsOnce(s) {
		return float32(s)
	}
	return fmaOdd(p, float64(z))
}

// roundsOnce reports whether float32(s) is sure to be right for a rounded sum
// s, because it is no half-way point and no subnormal float32.
func roundsOnce(s float64) bool {
	u := math.Float64bits(s)
	return u&(1<<29-1) != 1<<28 && u>>52&0x7ff >= 897
}

// fmaOdd returns p+c rounded once to float32 by way of rounding to odd.
func fmaOdd(p, c float64) float32 {
	s := p + c
	b := s - p
	e := (p - (s - b)) + (c - b)
	if e > 0 || e < 0 { // false for NaN: s is then Inf or NaN already
		if u := math.Float64bits(s); u&1 == 0 {
			if (e > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return float32(s)
}

// half returns the value of a finite binary16. Scales and cached keys are
// never Inf or NaN: their writers refuse those.
func half(h uint16) float32 {
	return math.Float32frombits(uint32(h&0x8000)<<16|uint32(h&0x7fff)<<13) * 0x1p112
}

// sqrt is the correctly rounded float32 square root.
func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }

// RoundEven rounds |x| < 2^22 to the nearest integer, ties to even.
func RoundEven(x float32) float32 {
	const magic = 3 << 22
	return float32(x+magic) - magic
}

// Constants of Exp: the range in which the result is a normal float32, log2(e),
// ln(2) split in two so that n*expLn2Hi is exact for |n| < 2^15, and the
// coefficients of Cephes expf (Moshier, netlib), relative error below 2e-7.
const (
	expMax   = 88.72283
	expMin   = -87.33654
	expLog2e = 1.44269504088896341
	expLn2Hi = 0.693359375
	expLn2Lo = -2.12194440e-4
	expC0    = 1.9875691500e-4
	expC1    = 1.3981999507e-3
	expC2    = 8.3334519073e-3
	expC3    = 4.1665795894e-2
	expC4    = 1.6666665459e-1
	expC5    = 5.0000001201e-1
)

// Exp returns e^x: 0 below expMin, +Inf above expMax, NaN for NaN.
func Exp(x float32) float32 {
	switch {
	case x > expMax:
		return float32(math.Float32frombits(0x7f800000))
	case x < expMin:
		return 0
	case x != x:
		return x
	}
	n := RoundEven(float32(x * expLog2e))
	r := FMA32(n, -expLn2Hi, x)
	r = FMA32(n, -expLn2Lo, r)
	y := float32(expC0)
	y = FMA32(y, r, expC1)
	y = FMA32(y, r, expC2)
	y = FMA32(y, r, expC3)
	y = FMA32(y, r, expC4)
	y = FMA32(y, r, expC5)
	y = FMA32(y, float32(r*r), r)
	y = float32(y + 1)
	// Two factors, because 2^128 is no float32: |i| <= 128.
	i := int32(n)
	h := i >> 1
	y = float32(y * math.Float32frombits(uint32(h+127)<<23))
	return float32(y * math.Float32frombits(uint32(i-h+127)<<23))
}

// Coefficients of Cephes tanhf (Moshier, netlib) for |x| < tanhSmall.
const (
	tanhSmall = 0.625
	tanhC0    = -5.70498872745e-3
	tanhC1    = 2.06390887954e-2
	tanhC2    = -5.37397155531e-2
	tanhC3    = 1.33314422036e-1
	tanhC4    = -3.33332819422e-1
)

// Tanh returns the hyperbolic tangent of x, relative error below 3e-7.
func Tanh(x float32) float32 {
	a := math.Float32frombits(math.Float32bits(x) &^ (1 << 31))
	if a < tanhSmall {
		z := float32(x * x)
		y := float32(tanhC0)
		y = FMA32(y, z, tanhC1)
		y = FMA32(y, z, tanhC2)
		y = FMA32(y, z, tanhC3)
		y = FMA32(y, z, tanhC4)
		y = float32(y * z)
		return FMA32(y, x, x)
	}
	y := float32(1 - float32(2/float32(Exp(float32(a+a))+1)))
	return math.Float32frombits(math.Float32bits(y) | math.Float32bits(x)&(1<<31))
}

// Coefficients of Cephes logf (Moshier, netlib).
var logC = [...]float32{7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1,
	1.4249322787e-1, -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1}

// Log returns the natural logarithm of a positive normal float32; NaN for
// anything else but +Inf, which it returns. Relative error below 2e-7.
func Log(x float32) float32 {
	switch {
	case !(x >= 0x1p-126):
		return math.Float32frombits(0x7fc00000)
	case x > math.MaxFloat32:
		return x
	}
	b := math.Float32bits(x)
	e := float32(int32(b>>23) - 126)
	m := math.Float32frombits(b&0x7fffff | 0x3f000000) // [0.5, 1)
	if m < 0.70710678118654752 {
		e--
		m = float32(m + m)
	}
	m--
	z := float32(m * m)
	y := logC[0]
	for _, c := range logC[1:] {
		y = FMA32(y, m, c)
	}
	y = float32(float32(y*m) * z)
	y = FMA32(e, expLn2Lo, y)
	y = FMA32(-0.5, z, y)
	return FMA32(e, expLn2Hi, float32(m+y))
}

// tree16 joins 16 lane accumulators: halves are added until one is left.
func tree16(l *[16]float32) float32 {
	for s := 8; s > 0; s >>= 1 {
		for i := 0; i < s; i++ {
			l[i] += l[i+s]
		}
	}
	return l[0]
}
