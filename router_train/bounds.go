package routertrain

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// ClopperPearson is the exact upper confidence limit, at level 1-delta, of a
// probability of which k of n trials came true (Clopper and Pearson 1934).
func ClopperPearson(k, n int, delta float64) float64 {
	if k >= n {
		return 1
	}
	return distuv.Beta{Alpha: float64(k + 1), Beta: float64(n - k)}.Quantile(1 - delta)
}

// ClopperPearsonLow is the lower limit at level 1-delta.
func ClopperPearsonLow(k, n int, delta float64) float64 {
	if k <= 0 {
		return 0
	}
	return distuv.Beta{Alpha: float64(k), Beta: float64(n - k + 1)}.Quantile(delta)
}

// EmpiricalBernstein is an upper confidence limit, at level 1-delta, of the mean
// of a quantity in 0..1 with that sample mean and variance (Maurer and Pontil,
// arXiv 0907.3740, theorem 4).
func EmpiricalBernstein(mean, variance float64, n int, delta float64) float64 {
	if n < 2 {
		return 1
	}
	l := math.Log(2 / delta)
	return min(1, mean+math.Sqrt(2*variance*l/float64(n))+7*l/(3*float64(n-1)))
}

// Upper is the limit for a sample of losses in 0..1: Clopper-Pearson when they
// are all 0 or 1, else empirical Bernstein. It is rounded up to a millionth, so
// that it reads the same everywhere.
func Upper(loss []float64, delta float64) float64 {
	sum, square, binary := 0.0, 0.0, true
	for _, x := range loss {
		sum += x
		square += x * x
		binary = binary && (x == 0 || x == 1)
	}
	n := len(loss)
	if n == 0 {
		return 1
	}
	if binary {
		return roundUp(ClopperPearson(int(sum), n, delta))
	}
	mean := sum / float64(n)
	variance := max(0, (square-float64(n)*mean*mean)/float64(max(1, n-1)))
	return roundUp(EmpiricalBernstein(mean, variance, n, delta))
}

func roundUp(x float64) float64 { return min(1, math.Ceil(x*1e6-1e-6)/1e6) }
