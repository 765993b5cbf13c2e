package calibrate

import (
	"errors"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

func rtn(t testing.TB) RTN {
	t.Helper()
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	return RTN{k}
}

// encoded returns the squared error of a row through Encode and Decode.
func encoded(t *testing.T, f quant.Format, row []float32, scales []tensor.Half) float64 {
	t.Helper()
	enc, err := f.Encode(nil, row, scales)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]float32, len(row))
	f.Decode(got, enc)
	sum := 0.0
	for i, x := range row {
		sum += float64(x-got[i]) * float64(x-got[i])
	}
	return sum
}

// levels lists the levels of a format.
func levels(f quant.Format) (out []float64) {
	lo, hi := f.Levels()
	for l := float64(lo); l <= float64(hi); l++ {
		out = append(out, l)
	}
	return out
}

// nearest is the squared error of a group whose weights each take the nearest
// level under a scale, in float64.
func nearest(levels []float64, group []float32, s float64) float64 {
	sum := 0.0
	for _, w := range group {
		best := math.Inf(1)
		for _, l := range levels {
			best = min(best, (float64(w)-l*s)*(float64(w)-l*s))
		}
		sum += best
	}
	return sum
}

// The scale found is nearly the best of a brute-force search over scales, 1,000
// of each sign, on groups of normal and of heavy-tailed weights.
func TestRTNNearOptimal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	a := rtn(t)
	for _, c := range []struct {
		f     quant.Format
		bound float64
	}{{quant.W4{GroupSize: 32}, 1.01}, {quant.W4{GroupSize: 128}, 1.01}, {quant.W2{GroupSize: 64}, 1.001}, {quant.W2{GroupSize: 32}, 1.001}} {
		found, best, ls := 0.0, 0.0, levels(c.f)
		for n := range 24 {
			row := make([]float32, c.f.Group()-n%3)
			m := 0.0
			for i := range row {
				x := r.NormFloat64()
				if n%2 == 1 {
					x *= math.Exp(r.NormFloat64() / 2)
				}
				row[i], m = float32(x), max(m, math.Abs(x))
			}
			var s [1]tensor.Half
			if err := a.Scales(s[:], c.f, row); err != nil {
				t.Fatal(err)
			}
			found += encoded(t, c.f, row, s[:])
			least := math.Inf(1)
			for i := 1; i <= 1000; i++ {
				x := 1.5 * m / ls[len(ls)-1] * float64(i) / 1000
				least = min(least, nearest(ls, row, x), nearest(ls, row, -x))
			}
			best += least
		}
		t.Logf("%s: squared error %.5f of the best", c.f.Name(), found/best)
		if found > c.bound*best {
			t.Errorf("%s: squared error %g, the best scales give %g", c.f.Name(), found, best)
		}
	}
}

// 8-bit codes reach 127 exactly where the largest weight is, and no error is
// beyond half a step, up to the rounding of the scale itself.
func TestRTNW8(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	f := quant.W8{GroupSize: 32}
	a := rtn(t)
	for range 200 {
		row := make([]float32, 172)
		for i := range row {
			row[i] = float32(r.NormFloat64() * math.Exp(r.NormFloat64()))
		}
		s := make([]tensor.Half, quant.Groups(f, len(row)))
		if err := a.Scales(s, f, row); err != nil {
			t.Fatal(err)
		}
		enc, err := f.Encode(nil, row, s)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, len(row))
		f.Decode(got, enc)
		for i := range row {
			step := float64(s[i/32].Float32())
			if e := math.Abs(float64(row[i] - got[i])); e > step*(0.5+127*0x1p-11) {
				t.Fatalf("weight %d: %g became %g at scale %g", i, row[i], got[i], step)
			}
		}
	}
}

func TestRTNEdges(t *testing.T) {
	a := rtn(t)
	for _, f := range []quant.Format{quant.W8{GroupSize: 32}, quant.W4{GroupSize: 32}, quant.W2{GroupSize: 32}} {
		s := make([]tensor.Half, 2)
		row := make([]float32, 40)
		if err := a.Scales(s, f, row); err != nil || s[0] != 0 || s[1] != 0 {
			t.Errorf("%s: zero group has scales %v, %v", f.Name(), s, err)
		}
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(-1)), 3e38} {
			row[39] = bad
			if err := a.Scales(s, f, row); !errors.Is(err, quant.ErrNotFinite) {
				t.Errorf("%s: %g gave %v", f.Name(), bad, err)
			}
		}
		row[39] = 1e-30 // below every float16: rounds to a zero group
		if err := a.Scales(s, f, row); err != nil || s[1] != 0 {
			t.Errorf("%s: denormal group has scales %v, %v", f.Name(), s, err)
		}
	}
}

func BenchmarkRTN(b *testing.B) {
	a := rtn(b)
	r := rand.New(rand.NewPCG(1, 2))
	row := make([]float32, 2048)
	for i := range row {
		row[i] = float32(r.NormFloat64())
	}
	for _, f := range []quant.Format{quant.W8{GroupSize: 32}, quant.W4{GroupSize: 32}, quant.W2{GroupSize: 64}} {
		b.Run(f.Name(), func(b *testing.B) {
			dst := make([]tensor.Half, quant.Groups(f, len(row)))
			for b.Loop() {
				if err := a.Scales(dst, f, row); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(row)), "ns/weight")
		})
	}
}

// The bits of the scales, to be the same on every CPU.
func TestRTNBits(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	row := make([]float32, 1000)
	for i := range row {
		row[i] = float32(r.Uint32()>>8)*0x1p-24 - float32(r.Uint32()>>8)*0x1p-24
	}
	h := fnv.New64a()
	for _, f := range []quant.Format{quant.W8{GroupSize: 32}, quant.W4{GroupSize: 32}, quant.W2{GroupSize: 64}} {
		s := make([]tensor.Half, quant.Groups(f, len(row)))
		if err := rtn(t).Scales(s, f, row); err != nil {
			t.Fatal(err)
		}
		for _, v := range s {
			h.Write([]byte{byte(v), byte(v >> 8)})
		}
	}
	if got, want := h.Sum64(), uint64(0x63f2192d80844b75); got != want {
		t.Errorf("digest %#x, want %#x", got, want)
	}
}
