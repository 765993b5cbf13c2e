package quant

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// all lists every format at every GroupSize.
func all() []Format {
	out := []Format{F32, F16, BF16}
	for _, g := range []int{32, 64, 128} {
		out = append(out, W8{g}, W4{g}, W2{g})
	}
	return out
}

var widths = []int{1, 4, 31, 32, 44, 64, 172, 176, 352, 576, 960}

func randomRow(r *rand.Rand, K int) []float32 {
	row := make([]float32, K)
	for i := range row {
		row[i] = float32(r.NormFloat64())
	}
	return row
}

// scalesOf gives each group a scale that reaches its largest weight, or a
// random one of either sign.
func scalesOf(r *rand.Rand, f Format, row []float32) []tensor.Half {
	s := make([]tensor.Half, Groups(f, len(row)))
	_, hi := f.Levels()
	for g := range s {
		m := float32(0)
		for _, x := range row[g*f.Group() : min((g+1)*f.Group(), len(row))] {
			m = max(m, float32(math.Abs(float64(x))))
		}
		s[g] = tensor.HalfFrom(m / hi)
		if _, ok := f.(W8); !ok && r.IntN(4) == 0 {
			s[g] ^= 0x8000
		}
	}
	return s
}

// Encode picks the nearest level: checked against a search over all levels.
func TestEncodeNearest(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, f := range all() {
		if f.Group() == 0 {
			continue
		}
		lo, hi := f.Levels()
		for _, K := range widths {
			row := randomRow(r, K)
			scales := scalesOf(r, f, row)
			enc, err := f.Encode(nil, row, scales)
			if err != nil {
				t.Fatal(f.Name(), K, err)
			}
			if len(enc) != f.RowBytes(K) {
				t.Fatalf("%s K=%d: row form is %d bytes, RowBytes says %d", f.Name(), K, len(enc), f.RowBytes(K))
			}
			got := make([]float32, K)
			f.Decode(got, enc)
			for i, x := range row {
				s := float64(scales[i/f.Group()].Float32())
				best := math.Inf(1)
				for l := float64(lo); l <= float64(hi); l++ {
					best = min(best, math.Abs(float64(x)-l*s))
				}
				if e := math.Abs(float64(x) - float64(got[i])); e > best+1e-6*math.Abs(s) {
					t.Fatalf("%s K=%d index %d: %g became %g, error %g, best possible %g", f.Name(), K, i, x, got[i], e, best)
				}
			}
		}
	}
}

// Packing 16 rows, or fewer, and unpacking them gives the same bytes, and the
// panel means to the kernels what the rows mean to Decode.
func TestPackMatchesKernel(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	k, err := kernel.Select("scalar")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all() {
		for _, K := range widths {
			for _, n := range []int{1, 7, 16} {
				rows, vals := make([][]byte, n), make([][]float32, n)
				for i := range rows {
					row := randomRow(r, K)
					enc, err := f.Encode(nil, row, scalesOf(r, f, row))
					if err != nil {
						t.Fatal(err)
					}
					rows[i], vals[i] = enc, make([]float32, K)
					f.Decode(vals[i], enc)
				}
				panel := bytes.Repeat([]byte{0xaa}, f.PanelBytes(K))
				f.Pack(panel, rows, K)
				back := bytes.Repeat([]byte{0x55}, f.RowBytes(K))
				for i := range rows {
					f.Unpack(back, panel, i, K)
					if !bytes.Equal(back, rows[i]) {
						t.Fatalf("%s K=%d row %d of %d: unpacked bytes differ", f.Name(), K, i, n)
					}
				}
				x := randomRow(r, K)
				dst := make([]float32, 16)
				xq := multiply(k, f, dst, panel, x)
				for i := range 16 {
					want, size := 0.0, 0.0
					for c := range K {
						if i < n {
							want += float64(vals[i][c]) * float64(xq[c])
							size += math.Abs(float64(vals[i][c]) * float64(xq[c]))
						}
					}
					if e := math.Abs(float64(dst[i]) - want); e > 1e-5*size {
						t.Fatalf("%s K=%d row %d of %d: kernel %g, decoded row %g", f.Name(), K, i, n, dst[i], want)
					}
				}
			}
		}
	}
}

// multiply runs the kernel of f on one panel and returns the activations as
// the kernel saw them.
func multiply(k *kernel.Funcs, f Format, dst []float32, panel []byte, x []float32) []float32 {
	K := len(x)
	if f.Group() == 0 {
		map[string]kernel.MatF{"f32": k.MatF32, "f16": k.MatF16, "bf16": k.MatBF16}[f.Name()](dst, 16, panel, x, K, 1, K, 0, 1)
		return x
	}
	n := ceil(K, kernel.Sub)
	a := kernel.Acts{T: 1, K: K, Stride: n * kernel.Sub, Codes: make([]int8, n*kernel.Sub), Scales: make([]float32, n), Sums: make([]int32, n),
		Meta: make([]uint32, kernel.MetaWords(1, K)), Zero: map[int]kernel.Zero{8: kernel.ZeroW8, 4: kernel.ZeroW4, 2: kernel.ZeroW2}[int(f.Name()[1]-'0')]}
	k.QuantizeA8(a.Codes, a.Scales, a.Sums, x)
	k.Prepare(&a, 0, 1, 0, n)
	seen := make([]float32, K)
	for i := range seen {
		seen[i] = float32(a.Codes[i]) * a.Scales[i/kernel.Sub]
	}
	switch f := f.(type) {
	case W8:
		k.MatW8(dst, 16, panel, &a, f.GroupSize, 0, 1)
	case W4:
		k.MatW4(dst, 16, panel, &a, f.GroupSize, 0, 1)
	case W2:
		k.MatW2(dst, 16, panel, &a, f.GroupSize, 0, 1)
	}
	return seen
}

func TestEncodeRefusesNaN(t *testing.T) {
	for _, f := range all() {
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
			row := make([]float32, 40)
			row[37] = bad
			scales := make([]tensor.Half, Groups(f, 40))
			if _, err := f.Encode(nil, row, scales); !errors.Is(err, ErrNotFinite) {
				t.Errorf("%s: %g gave %v", f.Name(), bad, err)
			}
			if f.Group() != 0 {
				row[37] = 0
				scales[0] = tensor.HalfFrom(bad)
				if _, err := f.Encode(nil, row, scales); !errors.Is(err, ErrNotFinite) {
					t.Errorf("%s: scale %g gave %v", f.Name(), bad, err)
				}
			}
		}
	}
}

// Zero, denormal and huge groups stay finite and decode near their source.
func TestEncodeExtremes(t *testing.T) {
	for _, f := range all() {
		for _, c := range []float32{0, 1e-40, 6e-8, 6e4} {
			row := make([]float32, 33)
			for i := range row {
				row[i] = c * float32(1-2*(i%2))
			}
			_, hi := f.Levels()
			scales := make([]tensor.Half, Groups(f, 33))
			for i := range scales {
				scales[i] = tensor.HalfFrom(c / hi)
			}
			enc, err := f.Encode(nil, row, scales)
			if err != nil {
				t.Fatalf("%s %g: %v", f.Name(), c, err)
			}
			got := make([]float32, 33)
			f.Decode(got, enc)
			for i := range got {
				if e := math.Abs(float64(got[i] - row[i])); !(e <= 0.01*float64(c)+6e-8*128) {
					t.Errorf("%s: %g became %g", f.Name(), row[i], got[i])
				}
			}
		}
	}
}

func TestParse(t *testing.T) {
	for _, f := range all() {
		if g, err := Parse(f.Name()); err != nil || g != f {
			t.Errorf("Parse(%q) = %v, %v", f.Name(), g, err)
		}
	}
	if f, _ := Parse("w2"); f != (W2{64}) {
		t.Errorf("w2 is %v", f)
	}
	for _, bad := range []string{"", "w3", "w8g31", "w8g", "w8g032", "f16g32", "w2g256"} {
		if f, err := Parse(bad); err == nil {
			t.Errorf("Parse(%q) = %v", bad, f)
		}
	}
}
