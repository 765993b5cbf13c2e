package calibrate

import (
	"errors"
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

// The scale found is nearly the best of all float16 scales, which a group of a
// few weights lets us try one by one; and what SquaredError promised is what
// Encode gives.
func TestRTNNearOptimal(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	a := rtn(t)
	for _, f := range []quant.Searched{quant.W4{GroupSize: 32}, quant.W2{GroupSize: 64}} {
		found, best := 0.0, 0.0
		for range 30 {
			row := make([]float32, f.Group())
			for i := range row {
				row[i] = float32(r.NormFloat64())
			}
			var s [1]tensor.Half
			if err := a.Scales(s[:], f, row); err != nil {
				t.Fatal(err)
			}
			e := encoded(t, f, row, s[:])
			if promised := f.SquaredError(row, s[0]); math.Abs(promised-e) > 1e-9*e {
				t.Fatalf("%s: error %g, SquaredError says %g", f.Name(), e, promised)
			}
			least := math.Inf(1)
			for h := tensor.HalfFrom(0.02); h < tensor.HalfFrom(3); h++ {
				least = min(least, f.SquaredError(row, h), f.SquaredError(row, h|0x8000))
			}
			found, best = found+e, best+least
		}
		if found > 1.02*best {
			t.Errorf("%s: squared error %g, the best scales give %g", f.Name(), found, best)
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
