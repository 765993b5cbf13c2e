package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// halfEdges are float32 at and beside every number that can change a float16:
// each float16, and each half-way point between two, of either sign.
func halfEdges() []float32 {
	var x []float32
	for h := range uint16(0x7c00) {
		low, high := half(h), half(h+1)
		if h == 0x7bff {
			high = 0x1p16
		}
		for _, v := range []float32{low, float32(low+high) / 2} {
			b := math.Float32bits(v)
			for d := range uint32(5) {
				if v := math.Float32frombits(b + d - 2); v < HalfLimit { // not below 0: that would be NaN
					x = append(x, v, -v)
				}
			}
		}
	}
	return append(x, math.Float32frombits(1), math.Float32frombits(math.Float32bits(HalfLimit)-1), 0x1p-126, 0x1p-127)
}

// halfNearest is the definition by real numbers: of the two neighbours the
// nearer, and of equally near ones the even.
func halfNearest(x float32) uint16 {
	m := float32(math.Abs(float64(x)))
	lo, hi := uint16(0), uint16(0x7c00)
	for hi-lo > 1 {
		if mid := lo + (hi-lo)/2; half(mid) <= m {
			lo = mid
		} else {
			hi = mid
		}
	}
	top := float64(0x1p16)
	if hi < 0x7c00 {
		top = float64(half(hi))
	}
	below := new(big.Float).Sub(big.NewFloat(float64(m)), big.NewFloat(float64(half(lo))))
	above := new(big.Float).Sub(big.NewFloat(top), big.NewFloat(float64(m)))
	h := lo
	if c := below.Cmp(above); c > 0 || c == 0 && lo%2 == 1 {
		h = hi
	}
	return h | uint16(math.Float32bits(x)>>16&0x8000)
}

func TestHalfFrom(t *testing.T) {
	for _, x := range halfEdges() {
		if got, want := halfFrom(x), halfNearest(x); got != want {
			t.Fatalf("halfFrom(%b) = %#04x, the nearest is %#04x", x, got, want)
		}
	}
}

func TestHalves(t *testing.T) {
	edges := halfEdges()
	eachVariant(t, func(t *testing.T, f *Funcs) {
		got, want := make([]uint16, len(edges)), make([]uint16, len(edges))
		f.Halves(got, edges)
		halves(want, edges)
		for i := range want {
			if got[i] != want[i] {
				t.Fatalf("Halves(%b) = %#04x, scalar %#04x", edges[i], got[i], want[i])
			}
		}
		r := rand.New(rand.NewPCG(3, 5))
		for n := range 70 {
			x, dst := guarded[float32](t, n), guarded[uint16](t, n)
			for i := range x {
				x[i] = edges[r.IntN(len(edges))]
			}
			f.Halves(dst, x)
			for i, h := range dst {
				if h != halfFrom(x[i]) {
					t.Fatalf("Halves of %d: element %d is %#04x, scalar %#04x", n, i, h, halfFrom(x[i]))
				}
			}
		}
	})
}
