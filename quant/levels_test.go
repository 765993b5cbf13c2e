package quant

import (
	"math"
	"math/rand/v2"
	"testing"

	"slmc/tensor"
)

// A level times the scale is, bit for bit, what Encode and Decode give.
func TestRoundLevelsIsEncode(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 9))
	for _, f := range all() {
		l, ok := f.(Leveled)
		if !ok {
			continue
		}
		for range 300 {
			group := randomRow(r, 1+r.IntN(f.Group()))
			scale := tensor.HalfFrom(float32(r.NormFloat64()) * 0.3)
			if r.IntN(10) == 0 {
				scale = 0
			}
			levels := make([]float32, len(group))
			l.RoundLevels(levels, group, scale)
			enc, err := f.Encode(nil, group, []tensor.Half{scale})
			if err != nil {
				t.Fatal(err)
			}
			want := make([]float32, len(group))
			f.Decode(want, enc)
			for i := range want {
				if got := levels[i] * scale.Float32(); math.Float32bits(got) != math.Float32bits(want[i]) {
					t.Fatalf("%s: weight %g under %g: level %g gives %g, Decode %g", f.Name(), group[i], scale.Float32(), levels[i], got, want[i])
				}
			}
		}
	}
}
