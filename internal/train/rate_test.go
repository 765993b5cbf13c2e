package train

import (
	"math"
	"testing"
)

func TestHalfCosineAndPower(t *testing.T) {
	for i := range 1001 {
		x := float64(i) / 1000
		if got, want := halfCosine(x), (1+math.Cos(math.Pi*x))/2; math.Abs(got-want) > 1e-15 {
			t.Errorf("halfCosine(%g) = %g, want %g", x, got, want)
		}
	}
	for _, n := range []int{0, 1, 2, 7, 100, 5000} {
		if got, want := power(0.95, n), math.Pow(0.95, float64(n)); math.Abs(got-want) > 1e-12*want {
			t.Errorf("0.95^%d = %g, want %g", n, got, want)
		}
	}
}
