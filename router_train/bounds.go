package routertrain

import (
	"fmt"
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// clopperPearson is the exact upper confidence limit, at level 1-delta, of a
// probability of which k of n trials came true (Clopper and Pearson 1934).
func clopperPearson(k, n int, delta float64) float64 {
	if k >= n {
		return 1
	}
	return distuv.Beta{Alpha: float64(k + 1), Beta: float64(n - k)}.Quantile(1 - delta)
}

// clopperPearsonLow is the lower limit at level 1-delta.
func clopperPearsonLow(k, n int, delta float64) float64 {
	if k <= 0 {
		return 0
	}
	return distuv.Beta{Alpha: float64(k), Beta: float64(n - k + 1)}.Quantile(delta)
}

// empiricalBernstein is an upper confidence limit, at level 1-delta, of the mean
// of a quantity in 0..1 with that sample mean and variance (Maurer and Pontil,
// arXiv 0907.3740, theorem 4).
func empiricalBernstein(mean, variance float64, n int, delta float64) float64 {
	return min(1, mean+bernsteinWidth(variance, n, delta))
}

// bernsteinWidth is the distance of that limit from the mean, above and, as the
// theorem holds for 1 minus the quantity too, below.
func bernsteinWidth(variance float64, n int, delta float64) float64 {
	if n < 2 {
		return 1
	}
	l := math.Log(2 / delta)
	return math.Sqrt(2*variance*l/float64(n)) + 7*l/(3*float64(n-1))
}

// Limit is the rule that bounds a mean loss from a sample. Which one holds for a
// certificate is fixed before its sample is looked at: the better of the two, chosen
// afterwards, would fail with a probability of up to 2*delta.
type Limit string

// The rules.
const (
	// LimitExact counts the losses above 0 as 1 (Clopper and Pearson): exact for
	// scores of 0 and 1, and for graded ones valid but wide. The zero Limit is it.
	LimitExact Limit = "clopper_pearson"
	// LimitGraded is that of empirical Bernstein, for scores between 0 and 1.
	LimitGraded Limit = "empirical_bernstein"
)

// Check reports an unknown rule.
func (l Limit) Check() error {
	if l != "" && l != LimitExact && l != LimitGraded {
		return fmt.Errorf("limit %q, want %s or %s", l, LimitExact, LimitGraded)
	}
	return nil
}

// String names the rule in full.
func (l Limit) String() string {
	if l == LimitGraded {
		return "empirical Bernstein"
	}
	return "Clopper-Pearson"
}

// limitFor is the rule for scores like those of these labels, which a certificate
// must have no share in.
func limitFor(l *Labels) Limit {
	if l.binary() {
		return LimitExact
	}
	return LimitGraded
}

// Upper is the upper limit, at level 1-delta, of the mean of which these losses in
// 0..1 are a sample. It is rounded up to a millionth, so that it reads the same
// everywhere.
func (l Limit) Upper(loss []float64, delta float64) float64 {
	n := len(loss)
	switch {
	case n == 0:
		return 1
	case l == LimitGraded:
		mean, variance := meanAndVariance(loss)
		return roundUp(empiricalBernstein(mean, variance, n, delta))
	}
	return roundUp(clopperPearson(count(loss, func(x float64) bool { return x > 0 }), n, delta))
}

// Lower is the lower limit: for LimitExact losses below 1 count as 0.
func (l Limit) Lower(loss []float64, delta float64) float64 {
	n := len(loss)
	switch {
	case n == 0:
		return 0
	case l == LimitGraded:
		mean, variance := meanAndVariance(loss)
		return max(0, mean-bernsteinWidth(variance, n, delta))
	}
	return clopperPearsonLow(count(loss, func(x float64) bool { return x >= 1 }), n, delta)
}

func count(loss []float64, is func(x float64) bool) (k int) {
	for _, x := range loss {
		if is(x) {
			k++
		}
	}
	return k
}

func meanAndVariance(x []float64) (mean, variance float64) {
	sum, square, n := 0.0, 0.0, float64(len(x))
	for _, v := range x {
		sum += v
		square += v * v
	}
	mean = sum / n
	return mean, max(0, (square-n*mean*mean)/max(1, n-1))
}

func roundUp(x float64) float64 { return min(1, math.Ceil(x*1e6-1e-6)/1e6) }
