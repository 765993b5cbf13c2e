package kernel

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

// exactFMA is x*y+z in unlimited precision, rounded once.
func exactFMA(x, y, z float32) float32 {
	var p, s big.Float
	p.SetPrec(0).Mul(big.NewFloat(float64(x)).SetPrec(2048), big.NewFloat(float64(y)).SetPrec(2048))
	s.SetPrec(2048).Add(&p, big.NewFloat(float64(z)).SetPrec(2048))
	f, _ := s.Float32()
	return f
}

func TestFMA32Counterexample(t *testing.T) {
	x, y, z := float32(0x1p-12*(1+0x1p-23)), float32(0x1p-12*(1-0x1p-23)), float32(1+0x1p-23)
	if got := FMA32(x, y, z); got != z {
		t.Errorf("FMA32 = %b, want %b", got, z)
	}
	if twice := float32(math.FMA(float64(x), float64(y), float64(z))); twice == z {
		t.Error("the counterexample does not tell one rounding from two")
	}
}

func TestFMA32(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 200000 {
		x, y, z := randomFloat(r), randomFloat(r), randomFloat(r)
		if r.IntN(2) == 0 { // near cancellation and near ties
			z = -float32(x*y) * (1 + float32(r.IntN(5)-2)*0x1p-23)
		}
		if !Finite([]float32{x, y, z}) {
			continue
		}
		if got, want := FMA32(x, y, z), exactFMA(x, y, z); got != want {
			t.Fatalf("FMA32(%b, %b, %b) = %b, want %b", x, y, z, got, want)
		}
	}
}

// randomFloat draws over all exponents that a forward pass can meet, with
// sparse significands now and then so that ties happen.
func randomFloat(r *rand.Rand) float32 {
	m := r.Uint32() & 0x7fffff
	if r.IntN(3) == 0 {
		m &= 0x7ff << r.IntN(12)
	}
	return math.Float32frombits(r.Uint32()&(1<<31) | uint32(r.IntN(254))<<23 | m)
}

func TestMathAccuracy(t *testing.T) {
	for _, c := range []struct {
		name   string
		f      func(float32) float32
		want   func(float64) float64
		lo, hi float32
		bound  float64
	}{
		{"exp", Exp, math.Exp, -87.3, 88.7, 2e-7},
		{"tanh", Tanh, math.Tanh, -12, 12, 3e-7},
		{"tanh near zero", Tanh, math.Tanh, -1e-3, 1e-3, 3e-7},
		{"log", Log, math.Log, 1e-30, 1e30, 2e-7},
		{"log near one", Log, math.Log, 0.5, 2, 2e-7},
	} {
		worst := 0.0
		for i := range 200000 {
			x := c.lo + (c.hi-c.lo)*float32(i)/200000
			want := c.want(float64(x))
			if e := math.Abs(float64(c.f(x))-want) / max(math.Abs(want), 1e-30); e > worst && want != 0 {
				worst = e
			}
		}
		if worst > c.bound {
			t.Errorf("%s: relative error %.2g, bound %.2g", c.name, worst, c.bound)
		}
	}
}

func TestMathEdges(t *testing.T) {
	inf := float32(math.Inf(1))
	nan := float32(math.NaN())
	for _, c := range []struct{ got, want float32 }{
		{Exp(0), 1}, {Exp(-inf), 0}, {Exp(inf), inf}, {Exp(-100), 0}, {Exp(89), inf},
		{Tanh(inf), 1}, {Tanh(-inf), -1}, {Tanh(0), 0}, {Tanh(100), 1},
		{Log(1), 0}, {Log(inf), inf},
	} {
		if c.got != c.want {
			t.Errorf("got %g, want %g", c.got, c.want)
		}
	}
	for _, got := range []float32{Exp(nan), Tanh(nan), Log(nan), Log(-1), Log(0)} {
		if got == got {
			t.Errorf("got %g, want NaN", got)
		}
	}
}
