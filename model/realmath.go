// Elementary functions in float64 that give the same bits on every CPU, for the
// rotary tables: the math package uses assembly on some architectures. Series
// are Taylor's after range reduction; every product is converted explicitly, so
// that the compiler fuses nothing. Errors are below 2e-15 relative, which makes
// results that are then rounded to float32 right but for rare near-ties.

package model

import "math"

const (
	ln2Hi = 0x1.62e42fee00000p-1 // 33 bits: n*ln2Hi is exact for |n| < 2^20
	ln2Lo = 0x1.a39ef35793c76p-33

	// halfPi1 and halfPi2 have 33 bits each, halfPi3 the 53 that follow.
	halfPi1   = 0x1.921fb544p+0
	halfPi2   = 0x1.0b4611a6p-34
	halfPi3   = 0x1.3198a2e037073p-69
	twoOverPi = 0x1.45f306dc9c883p-1

	// maxAngle is where the reduction by three parts of pi/2 ends.
	maxAngle = 1 << 20
)

// ln returns the natural logarithm of a positive, normal x:
// 2 artanh((m-1)/(m+1)) + e ln 2 for x = m 2^e and m near 1.
func ln(x float64) float64 {
	b := math.Float64bits(x)
	e := float64(int(b>>52) - 1023)
	m := math.Float64frombits(b&(1<<52-1) | 1023<<52)
	if m > math.Sqrt2 {
		m, e = m/2, e+1
	}
	s := (m - 1) / (m + 1)
	z := float64(s * s)
	sum := 0.0
	for k := 23.0; k >= 3; k -= 2 {
		sum = float64((1/k + sum) * z)
	}
	return float64(e*ln2Hi) + (2*s + (float64(2*float64(s*sum)) + float64(e*ln2Lo)))
}

// exp returns e^x for |x| < 700.
func exp(x float64) float64 {
	n := int(x/math.Ln2 + 1000.5) // rounds to nearest, as x/ln 2 > -1000
	n -= 1000
	r := x - float64(float64(n)*ln2Hi)
	r -= float64(float64(n) * ln2Lo)
	sum := 1.0
	for k := 15.0; k >= 1; k-- {
		sum = 1 + float64(float64(r*sum)/k)
	}
	return float64(sum * math.Float64frombits(uint64(n+1023)<<52))
}

// pow returns x^y for a positive, normal x and |y ln x| < 700.
func pow(x, y float64) float64 { return exp(float64(y * ln(x))) }

// sinCos returns the sine and cosine of 0 <= x < maxAngle.
func sinCos(x float64) (sin, cos float64) {
	n := int(float64(x*twoOverPi) + 0.5)
	q := float64(n)
	r := x - float64(q*halfPi1)
	r -= float64(q * halfPi2)
	r -= float64(q * halfPi3)
	z := float64(r * r)
	s, c := 1.0, 1.0
	for k := 18.0; k >= 2; k -= 2 {
		s = 1 - float64(float64(z*s)/float64(k*(k+1)))
		c = 1 - float64(float64(z*c)/float64(k*(k-1)))
	}
	s = float64(s * r)
	switch n & 3 {
	case 1:
		s, c = c, -s
	case 2:
		s, c = -s, -c
	case 3:
		s, c = -c, s
	}
	return s, c
}
