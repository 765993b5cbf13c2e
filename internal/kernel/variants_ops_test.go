package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// lengths are every tail of a vector, and some widths of models.
var lengths = func() []int {
	var n []int
	for i := 1; i <= 49; i++ {
		n = append(n, i)
	}
	return append(n, 64, 68, 80, 96, 127, 172, 176, 352, 576, 960, 1025)
}()

// contents makes a vector of a kind: ordinary, all magnitudes, and with what a
// damaged model may hold: Inf, NaN, -0, subnormals.
func contents(t testing.TB, r *rand.Rand, n, kind int) []float32 {
	x := guarded[float32](t, n)
	special := []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()),
		float32(math.Copysign(0, -1)), 0, 0x1p-140, -0x1p-130, 88.722839, -87.33655, 0.625, math.MaxFloat32}
	for i := range x {
		switch kind {
		case 0:
			x[i] = float32(r.NormFloat64())
		case 1:
			x[i] = float32(r.NormFloat64() * 40)
		case 2:
			x[i] = randomFloat(r)
		case 3:
			x[i] = float32(r.NormFloat64())
			if r.IntN(8) == 0 {
				x[i] = special[r.IntN(len(special))]
			}
		case 4:
			x[i] = float32(math.Copysign(0, float64(r.IntN(3)-1)))
		}
	}
	return x
}

const contentKinds = 5

// eachContent runs test over lengths and kinds.
func eachContent(t *testing.T, test func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string)) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, n := range lengths {
			for kind := range contentKinds {
				test(t, f, r, n, kind, fmt.Sprintf("n=%d kind=%d", n, kind))
			}
		}
	})
}

func TestGated(t *testing.T) {
	eachContent(t, func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string) {
		gate, up := contents(t, r, n, kind), contents(t, r, n, kind)
		got, want := output(t, n), output(t, n)
		f.SiluMul(got, gate, up)
		siluMul(want, gate, up)
		compare(t, "SiluMul "+what, got, want)
		f.GeluMul(got, gate, up)
		geluMul(want, gate, up)
		compare(t, "GeluMul "+what, got, want)
		inPlace := clone(t, gate)
		f.GeluMul(inPlace, inPlace, up)
		compare(t, "GeluMul in place "+what, inPlace, want)
	})
}

func TestVectors(t *testing.T) {
	eachContent(t, func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string) {
		x, y, w := contents(t, r, n, kind), contents(t, r, n, kind), contents(t, r, n, 0)
		got, want := output(t, n), output(t, n)
		f.RMSNorm(got, x, w, 1e-5)
		rmsNorm(want, x, w, 1e-5)
		compare(t, "RMSNorm "+what, got, want)

		a, b := clone(t, x), clone(t, x)
		f.Divide(a, y[0])
		divide(b, y[0])
		compare(t, "Divide "+what, a, b)
		f.Add(a, y)
		add(b, y)
		compare(t, "Add "+what, a, b)
		f.SoftCap(a, 30)
		softCap(b, 30)
		compare(t, "SoftCap "+what, a, b)
		if g, w := f.AbsMax(x), absMax(x); !sameBits(g, w) {
			t.Errorf("AbsMax %s: got %g, scalar %g", what, g, w)
		}

		head, pair := contents(t, r, 2*n, kind), contents(t, r, n, 0)
		a, b = clone(t, head), clone(t, head)
		f.Rope(a, y, pair)
		rope(b, y, pair)
		compare(t, "Rope "+what, a, b)
	})
}

func TestSoftmax(t *testing.T) {
	eachContent(t, func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string) {
		x := contents(t, r, n, kind)
		if r.IntN(4) == 0 {
			x[r.IntN(n)] = float32(math.Inf(-1))
		}
		t0 := r.IntN(100)
		got, want := clone(t, x), clone(t, x)
		g, w := f.Softmax(got, t0), softmax(want, t0)
		compare(t, fmt.Sprintf("Softmax %s t0=%d", what, t0), got, want)
		if !sameBits(g, w) {
			t.Fatalf("Softmax %s t0=%d: sum %b, scalar %b", what, t0, g, w)
		}
	})
}

func TestQuantizeA8(t *testing.T) {
	eachContent(t, func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string) {
		x := contents(t, r, n, kind)
		if kind == 2 && r.IntN(2) == 0 { // around the threshold of zero
			for i := range x {
				x[i] = 0x1p-100 * (1 - float32(r.IntN(2))*0x1p-24)
			}
		}
		subs := (n + Sub - 1) / Sub
		codes, scales, sums := guarded[int8](t, subs*Sub), output(t, subs), guarded[int32](t, subs)
		for i := range codes {
			codes[i] = 77
		}
		wantCodes, wantScales, wantSums := clone(t, codes), clone(t, scales), clone(t, sums)
		got, want := f.QuantizeA8(codes, scales, sums, x), quantizeA8(wantCodes, wantScales, wantSums, x)
		if got != want {
			t.Fatalf("QuantizeA8 %s: got %v, scalar %v", what, got, want)
		}
		if !want {
			return
		}
		compare(t, "QuantizeA8 scales "+what, scales, wantScales)
		compareInts(t, "QuantizeA8 codes "+what, codes, wantCodes)
		compareInts(t, "QuantizeA8 sums "+what, sums, wantSums)
	})
}

func compareInts[E int8 | int32](t *testing.T, what string, got, want []E) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: element %d of %d is %d, scalar %d", what, i, len(want), got[i], want[i])
		}
	}
}

func TestQuantizeKV8(t *testing.T) {
	eachContent(t, func(t *testing.T, f *Funcs, r *rand.Rand, n, kind int, what string) {
		x := contents(t, r, n, kind)
		for i, v := range x {
			if !Finite([]float32{v}) {
				x[i] = 0
			}
		}
		for _, scale := range []float32{0, half(1), 0.01, absMax(x) / 127, absMax(x) / 300, 65504} {
			if scale != 0 && scale < 0x1p-24 {
				scale = 0x1p-24 // as float16 scales are
			}
			got, want := guarded[int8](t, n), make([]int8, n)
			f.QuantizeKV8(got, x, scale)
			quantizeKV8(want, x, scale)
			compareInts(t, fmt.Sprintf("QuantizeKV8 %s scale=%g", what, scale), got, want)
		}
	})
}

// cache is keys or values of n positions of E elements in every form.
type cache struct {
	f32    []float32
	f16    []uint16
	kv8    []int8
	scales []uint16
}

func randomCache(t testing.TB, r *rand.Rand, n, E, kind int) cache {
	c := cache{guarded[float32](t, n*E), guarded[uint16](t, n*E), guarded[int8](t, n*E), guarded[uint16](t, n)}
	for i := range c.f32 {
		c.f32[i] = randomValue(r, kind)
		c.f16[i] = uint16(r.Uint32()) &^ (1 << 14)
		c.kv8[i] = int8(r.IntN(255) - 127)
		if kind%3 == 2 {
			c.kv8[i] = int8(r.IntN(2)*254 - 127)
		}
	}
	for i := range c.scales {
		c.scales[i] = randomScale(r, kind%kinds, i)
	}
	return c
}

func TestAttention(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(11, 12))
		kind := 0
		for _, E := range []int{1, 4, 8, 12, 16, 24, 32, 40, 64, 72, 80, 96, 128, 256, 260} {
			for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 33} {
				kind++
				what := fmt.Sprintf("E=%d positions=%d kind=%d", E, n, kind)
				c := randomCache(t, r, n, E, kind)
				q, p := guarded[float32](t, E), guarded[float32](t, n)
				for i := range q {
					q[i] = randomValue(r, kind)
				}
				for i := range p {
					p[i] = randomValue(r, kind)
				}
				mul := float32(0.125)
				got, want := output(t, n), output(t, n)
				f.ScoresF32(got, q, c.f32, mul)
				scoresF32(want, q, c.f32, mul)
				compare(t, "ScoresF32 "+what, got, want)
				f.ScoresF16(got, q, c.f16, mul)
				scoresF16(want, q, c.f16, mul)
				compare(t, "ScoresF16 "+what, got, want)
				f.ScoresKV8(got, q, c.kv8, c.scales, mul)
				scoresKV8(want, q, c.kv8, c.scales, mul)
				compare(t, "ScoresKV8 "+what, got, want)

				got, want = output(t, E), output(t, E)
				f.MixF32(got, p, c.f32)
				mixF32(want, p, c.f32)
				compare(t, "MixF32 "+what, got, want)
				f.MixF16(got, p, c.f16)
				mixF16(want, p, c.f16)
				compare(t, "MixF16 "+what, got, want)
				f.MixKV8(got, p, c.kv8, c.scales)
				mixKV8(want, p, c.kv8, c.scales)
				compare(t, "MixKV8 "+what, got, want)
			}
		}
	})
}

// TestScoresNegativeZero holds that lanes beyond E are left alone: with all
// products -2^-200, every lane is -0, and so is their sum.
func TestScoresNegativeZero(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		for _, E := range []int{16, 17, 24, 31, 40, 64} {
			q, k := make([]float32, E), make([]float32, 5*E)
			for i := range q {
				q[i] = -0x1p-100
			}
			for i := range k {
				k[i] = 0x1p-100
			}
			got, want := make([]float32, 5), make([]float32, 5)
			f.ScoresF32(got, q, k, 1)
			scoresF32(want, q, k, 1)
			compare(t, fmt.Sprintf("ScoresF32 E=%d", E), got, want)
			if math.Float32bits(want[0]) != 1<<31 {
				t.Fatalf("E=%d: the definition gives %g, want -0", E, want[0])
			}
		}
	})
}

// TestCallersBugPanics holds that lengths are checked before assembly runs.
func TestCallersBugPanics(t *testing.T) {
	x := make([]float32, 32)
	a := &Acts{T: 1, K: 32, Stride: 32, Codes: make([]int8, 32), Scales: x[:1], Sums: make([]int32, 1),
		Meta: make([]uint32, MetaWords(1, 32)), Zero: ZeroW8}
	w := make([]byte, PanelBytes(32, 32, 4))
	eachVariant(t, func(t *testing.T, f *Funcs) {
		for name, call := range map[string]func(){
			"MatW8":        func() { f.MatW8(x[:16], 16, w[:len(w)-1], a, 32, 0, 1) },
			"MatW8 dst":    func() { f.MatW8(x[:15], 16, w, a, 32, 0, 1) },
			"MatW8 ld":     func() { f.MatW8(x, 8, w, a, 32, 0, 1) },
			"MatW8 panels": func() { f.MatW8(x, 32, w, a, 32, 1, 2) },
			"MatW8 group":  func() { f.MatW8(x, 16, w, a, 16, 0, 1) },
			"MatW4 zero":   func() { f.MatW4(x[:16], 16, w, a, 32, 0, 1) },
			"MatF32":       func() { f.MatF32(x, 16, w[:64], x, 32, 1, 2, 0, 1) },
			"RMSNorm":      func() { f.RMSNorm(x, x, x[:31], 0) },
			"Softmax":      func() { f.Softmax(nil, 0) },
			"SiluMul":      func() { f.SiluMul(x[:31], x, x) },
			"GeluMul":      func() { f.GeluMul(x, x, x[:3]) },
			"Rope":         func() { f.Rope(x, x[:15], x) },
			"Add":          func() { f.Add(x[:1], x) },
			"QuantizeA8":   func() { f.QuantizeA8(make([]int8, 33), x[:2], a.Sums[:1:1], x) },
			"QuantizeKV8":  func() { f.QuantizeKV8(make([]int8, 31), x, 1) },
			"ScoresF32":    func() { f.ScoresF32(x[:2], x, x, 1) },
			"ScoresKV8":    func() { f.ScoresKV8(x[:1], x, make([]int8, 32), nil, 1) },
			"Halves":       func() { f.Halves(make([]uint16, 31), x) },
			"MixF16":       func() { f.MixF16(x, x[:2], make([]uint16, 63)) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				call()
			}()
		}
	})
}
